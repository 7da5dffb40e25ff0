#![doc = include_str!("../README.md")]

mod config;
mod cosine_head;
#[cfg(feature = "cuda")]
mod cuda;
mod error;
mod flex;
#[cfg(feature = "cuda")]
mod fusion;
mod loss;
mod op;
mod options;
mod step;

pub use config::AlaLossConfig;
pub use cosine_head::{CosineHead, CosineHeadConfig};
pub use error::Error;
pub use loss::{AlaLoss, LossOutput};
pub use options::StepOptions;
