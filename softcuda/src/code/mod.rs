//! Kernels as the interpreter runs them: PTX text decoded to operations on rows of registers.
//!
//! Only what the kernels of this repository, those of candle's CUDA device and softcuda's own tests
//! contain is decoded; all else is [`Op::Unsupported`](operation::Op::Unsupported), at which a
//! launch stops with the instruction's text.

mod arithmetic;
mod atomic;
mod build;
mod compare;
mod convert;
pub(crate) mod decode;
mod float;
mod lanes;
mod names;
pub(crate) mod operands;
pub(crate) mod operation;
mod rank;
pub(crate) mod row;
mod semantics;
pub(crate) mod special;
