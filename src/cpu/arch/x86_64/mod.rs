//! The instances of x86-64, from intrinsics: compilers differ too much in what they make of loops
//! over lanes, and take long. Each has modules of its own, so that they are compiled side by side.

mod avx2;
mod avx512;
mod intrinsics;
mod sse2;

pub(super) use avx2::Avx2;
pub(super) use avx512::Avx512;
pub(super) use sse2::Sse2;
