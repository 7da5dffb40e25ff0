//! What a call takes beside logits and labels, and what it gives.

mod options;
mod outputs;

pub(crate) use options::Mixed;
pub use options::{Divisor, Lambda, Options, Upstream};
pub use outputs::{NO_CLASS, Outcome, Outputs, Summary};
