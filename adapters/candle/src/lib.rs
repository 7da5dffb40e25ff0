#![doc = include_str!("../README.md")]

mod cosine_head;
mod cosine_loss;
mod loss_op;

pub use cosine_head::CosineHead;
pub use cosine_loss::CosineLoss;
pub use loss_op::{CandleLoss, RowOutput};
