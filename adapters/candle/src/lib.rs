#![doc = include_str!("../README.md")]

mod cosine_head;
mod loss_op;

pub use cosine_head::CosineHead;
pub use loss_op::{CandleLoss, RowOutput};
