#![doc = include_str!("../README.md")]

mod cosine_head;
mod cosine_loss;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod loss_op;
mod step;

pub use cosine_head::CosineHead;
pub use cosine_loss::CosineLoss;
pub use loss_op::{CandleLoss, RowOutput};
pub use step::StepOptions;
