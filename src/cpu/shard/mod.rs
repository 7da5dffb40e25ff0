//! The rows of a step over some of the classes.
//!
//! ```text
//! partial    a row's sum of exponentials, as where a row is split over threads, and its record
//! combine    the records of all shards, in their order
//! finish     the row solved; its gradient from the logits, which are read a second time
//! ```

mod combine;
mod finish;
mod partial;
mod share;

pub(super) use combine::Records;
pub(super) use finish::{Finish, finish};
pub(super) use partial::{PartialBatch, partial};
pub(super) use share::Share;
