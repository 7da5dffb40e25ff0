//! Stands in for the libraries that candle's CUDA device links: cuBLAS, cuBLASLt, cuRAND, NVRTC and
//! the CUDA runtime.
//!
//! The crate builds one shared library that exports what candle calls of them, under its C names.
//! `scripts/candle_cuda` links the five names to it. It asks a CUDA driver for its work: matrix
//! products are a kernel, random numbers are drawn on the host and copied, both in the caller's
//! stream. A call that it does not have is missing when a program is linked; of those that it has,
//! what it cannot do is refused.
#![warn(missing_docs)]

pub mod blas;
mod driver;
pub mod rand;
mod table;
