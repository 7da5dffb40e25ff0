//! What an instruction set is to the row routine.

use half::{bf16, f16};

use super::vector::{MOST_LANES, Vector};
use crate::cpu::half_bits;

/// The right to use an instruction set: holding a value means that the machine has it.
pub(crate) trait Isa: Copy {
    /// Lanes of a vector of either type: a vector of `f64` may be several registers.
    const LANES: usize;
    /// Whether a fused multiply-add is an instruction. As a call into a library it would cost a
    /// hundredfold.
    const FUSED: bool;
    type Single: Vector<Self, f32>;
    type Double: Vector<Self, f64>;

    // By integer arithmetic, where an instruction set has no conversions.

    #[inline(always)]
    fn widen_f16(self, from: &[f16]) -> Self::Single {
        widened(self, from, half_bits::widen_f16)
    }

    #[inline(always)]
    fn narrow_f16(self, x: Self::Single, to: &mut [f16]) {
        narrowed(self, x, to, half_bits::narrow_f16);
    }

    #[inline(always)]
    fn widen_bf16(self, from: &[bf16]) -> Self::Single {
        widened(self, from, half_bits::widen_bf16)
    }

    /// A NaN whose low 16 bits are not 0 may become a number.
    #[inline(always)]
    fn narrow_bf16(self, x: Self::Single, to: &mut [bf16]) {
        narrowed(self, x, to, half_bits::narrow_bf16);
    }

    /// Copies a vector past the cache where the instruction set can and `to` is aligned for it.
    #[inline(always)]
    fn stream<T: Copy>(self, from: &[T], to: &mut [T]) {
        to.copy_from_slice(from);
    }

    /// Orders earlier [`stream`](Self::stream)s before what other threads are told.
    #[inline(always)]
    fn fence_streamed_stores(self) {}

    /// Runs a kernel as a function of its own: what is seldom needed, so that the rest has the
    /// registers.
    fn apart<K: Kernel>(self, kernel: K) -> K::Output;

    /// Asks for a line of memory that is needed soon; any address will do.
    #[inline(always)]
    fn prefetch<T>(self, _: *const T) {}
}

/// A part of the row routine, to be compiled for each instance.
pub(crate) trait Kernel {
    type Output;
    /// Must be `inline(always)`, and so must all that it calls in its loops: code takes the
    /// instance's instructions only where it is inlined into the instance. No closures but the
    /// plainest: they may be compiled without them.
    fn run<I: Isa>(self, isa: I) -> Self::Output;
}

/// A vector of what is widened one by one.
#[inline(always)]
fn widened<I: Isa, T: Copy>(isa: I, from: &[T], widen: impl Fn(T) -> f32) -> I::Single {
    let mut lanes = [0.0; MOST_LANES];
    for (to, &from) in lanes.iter_mut().zip(&from[..I::LANES]) {
        *to = widen(from);
    }
    I::Single::load(isa, &lanes)
}

/// The same the other way round.
#[inline(always)]
fn narrowed<I: Isa, T>(_: I, x: I::Single, to: &mut [T], narrow: impl Fn(f32) -> T) {
    let mut lanes = [0.0; MOST_LANES];
    x.store(&mut lanes);
    for (to, from) in to[..I::LANES].iter_mut().zip(lanes) {
        *to = narrow(from);
    }
}
