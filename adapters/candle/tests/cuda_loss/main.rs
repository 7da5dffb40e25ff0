//! The losses on candle's CUDA device, against the reference in `f64` and the CPU's, on a GPU or in
//! software (`eval "$(scripts/candle_cuda)"`).
#![cfg(feature = "cuda")]

mod cases;
mod cosine_loss;
mod errors;
mod gradient;
mod step;
mod streams;
