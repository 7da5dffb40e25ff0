//! What every processor of the target has.

use super::{Isa, Kernel};

#[derive(Clone, Copy)]
struct Baseline;

impl Isa for Baseline {
    const FUSED: bool = false;
}

#[inline(never)]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<_, 4>(Baseline)
}
