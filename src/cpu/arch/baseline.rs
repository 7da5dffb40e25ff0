//! What every processor of the target has.

use super::isa::{Isa, Kernel};
use super::portable::portable_vectors;

#[derive(Clone, Copy)]
struct Baseline;

impl Isa for Baseline {
    const FUSED: bool = false;
    portable_vectors!(8);
}

#[inline(never)]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Baseline)
}
