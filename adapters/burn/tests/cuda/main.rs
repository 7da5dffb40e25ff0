//! The loss on burn's CUDA device against the reference in `f64`, on a GPU or in software
//! (`scripts/burn_cuda`).
#![cfg(feature = "cuda")]

mod backward;
mod cases;
mod forward;
mod step;
