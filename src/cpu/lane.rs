//! The numbers in a lane: what each element type is computed in, and its arithmetic.

use std::ops::{Add, Mul, Sub};

use half::{bf16, f16};

use super::arch::{Isa, MOST_LANES, Scratch};
use super::half_bits;
use super::map::{Columns, LaneTable};

/// Rows of at most so many classes keep their exponentials between the sum and the gradient; they stay in the cache
/// nearest to the core, with the logits. Longer rows compute them again.
pub(super) const KEPT: usize = 8192;

/// The stack of a leaf: exponentials of one row, read in whole vectors.
pub type KeptExponentials<R> = Scratch<R, { KEPT + MOST_LANES }>;

/// What a row is computed in: `f32`, or `f64` for `f64` logits.
pub trait Float:
    Copy
    + Default
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + 'static
{
    const NEG_INFINITY: Self;
    /// The lowest finite number.
    const LOWEST: Self;

    fn widen(self) -> f64;
    fn round(value: f64) -> Self;

    /// `self * a + b`, with one rounding where that is an instruction.
    fn times_plus<I: Isa>(self, isa: I, a: Self, b: Self) -> Self;

    fn columns(table: &LaneTable) -> &Columns<Self>;

    /// `2^self`; see [`exp2`](super::exp2).
    fn exp2<I: Isa>(self, isa: I) -> Self;
}

/// An element type in lanes.
pub trait Lane: Copy + Send + Sync + 'static {
    type Wide: Float;

    fn widen_lanes<I: Isa, const L: usize>(isa: I, x: [Self; L]) -> [Self::Wide; L];
    /// Rounds to nearest, ties to even.
    fn narrow_lanes<I: Isa, const L: usize>(isa: I, x: [Self::Wide; L]) -> [Self; L];
}

macro_rules! float {
    ($type:ident, $columns:ident) => {
        impl Float for $type {
            const NEG_INFINITY: Self = $type::NEG_INFINITY;
            const LOWEST: Self = $type::MIN;

            #[inline(always)]
            fn widen(self) -> f64 {
                self.into()
            }

            #[inline(always)]
            fn round(value: f64) -> Self {
                value as $type
            }

            #[inline(always)]
            fn times_plus<I: Isa>(self, _: I, a: Self, b: Self) -> Self {
                if I::FUSED {
                    self.mul_add(a, b)
                } else {
                    self * a + b
                }
            }

            fn columns(table: &LaneTable) -> &Columns<Self> {
                &table.$columns
            }

            #[inline(always)]
            fn exp2<I: Isa>(self, isa: I) -> Self {
                super::exp2::$type(isa, self)
            }
        }

        impl Lane for $type {
            type Wide = $type;

            #[inline(always)]
            fn widen_lanes<I: Isa, const L: usize>(_: I, x: [Self; L]) -> [Self; L] {
                x
            }

            #[inline(always)]
            fn narrow_lanes<I: Isa, const L: usize>(_: I, x: [Self; L]) -> [Self; L] {
                x
            }
        }
    };
}
float!(f32, single);
float!(f64, double);

impl Lane for f16 {
    type Wide = f32;

    #[inline(always)]
    fn widen_lanes<I: Isa, const L: usize>(isa: I, x: [Self; L]) -> [f32; L] {
        isa.widen_f16(x)
    }

    #[inline(always)]
    fn narrow_lanes<I: Isa, const L: usize>(isa: I, x: [f32; L]) -> [Self; L] {
        isa.narrow_f16(x)
    }
}

impl Lane for bf16 {
    type Wide = f32;

    #[inline(always)]
    fn widen_lanes<I: Isa, const L: usize>(_: I, x: [Self; L]) -> [f32; L] {
        half_bits::widen_bf16(x)
    }

    #[inline(always)]
    fn narrow_lanes<I: Isa, const L: usize>(_: I, x: [f32; L]) -> [Self; L] {
        half_bits::narrow_bf16(x)
    }
}
