//! NEON: part of every AArch64 target, so nothing is asked at run time.

use super::isa::{Isa, Kernel};
use super::portable::portable_vectors;

#[derive(Clone, Copy)]
struct Neon;

impl Isa for Neon {
    const FUSED: bool = true;
    portable_vectors!(8);
}

#[inline(never)]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Neon)
}
