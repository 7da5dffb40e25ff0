//! NEON: part of every AArch64 target, so nothing is asked at run time.

use super::{Isa, Kernel};

#[derive(Clone, Copy)]
struct Neon;

impl Isa for Neon {
    const FUSED: bool = true;
}

#[inline(never)]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<_, 8>(Neon)
}
