#![doc = include_str!("../README.md")]

mod agreement;
mod data_parallel;
mod digest;
mod error;
mod exchange;
mod failure;
mod given;
mod header;
mod loss;
mod words;

pub use data_parallel::{global_counts, global_divisor};
pub use error::Error;
pub use loss::MpiLoss;
