//! What each element type is in lanes, and the arithmetic of what it is computed in.

use std::ops::Neg;

use half::{bf16, f16};

use super::arch::isa::Isa;
use super::arch::vector::Vector;
use super::row_buffer::{self, RowBuffer};
use crate::element::{Element, Real};
use crate::table::log2::{Log2Maps, Log2Table};
use crate::table::smoothing::Smoothing;

/// What a row is computed in: `f32`, or `f64` for `f64` logits.
pub(super) trait Float: Real + Default + PartialOrd + Neg<Output = Self> {
    const NEG_INFINITY: Self;
    const ONE: Self;
    /// Of powers of 2: that which is taken for 0, and the highest.
    const EXPONENTS: [Self; 2];
    /// The lowest finite number.
    const LOWEST: Self;
    /// The least normal number above 0.
    const LEAST: f64;
    /// Up to here numbers are a sixteenth apart at most. [`exp2`](Self::exp2) takes whole exponents
    /// off up to this.
    const FINE: f64;
    const ROW_BUFFER: &'static RowBuffer<Self>;

    type Vector<I: Isa>: Vector<I, Self>;

    fn maps(table: &Log2Table) -> &Log2Maps<Self>;

    /// The classes' weights, as parts of the largest.
    fn weights(smoothing: &Smoothing) -> &[Self];

    /// `2^(slope x - whole)` for `x` within `clamp`; see [`exp2`](super::exp2).
    fn exp2<I: Isa>(
        isa: I,
        x: Self::Vector<I>,
        slope: Self,
        clamp: [Self; 2],
        whole: Self,
    ) -> Self::Vector<I>;

    /// This thread's room for the exponentials of a row; see [`row_buffer::with`].
    fn with_row_buffer<A>(len: usize, call: impl FnOnce(&mut [Self]) -> A) -> Option<A> {
        row_buffer::with(Self::ROW_BUFFER, len, call)
    }
}

/// An element type in lanes. Slices must hold a vector.
pub(super) trait Lane: Element<Real: Float> {
    fn widen<I: Isa>(isa: I, from: &[Self]) -> VectorOf<I, Self>;
    /// Rounds to nearest, ties to even. The low half of a NaN must be 0.
    fn narrow<I: Isa>(isa: I, x: VectorOf<I, Self>, to: &mut [Self]);
}

/// What the lanes of an element type are computed in.
pub(super) type VectorOf<I, T> = <<T as Element>::Real as Float>::Vector<I>;

macro_rules! float {
    ($type:ident, $vector:ident, $maps:ident, $row_buffer:ident) => {
        impl Float for $type {
            const NEG_INFINITY: Self = $type::NEG_INFINITY;
            const ONE: Self = 1.0;
            const EXPONENTS: [Self; 2] =
                [1.0 - $type::MAX_EXP as $type, $type::MAX_EXP as $type - 1.0];
            const LOWEST: Self = $type::MIN;
            const LEAST: f64 = $type::MIN_POSITIVE as f64;
            const FINE: f64 = (1u64 << ($type::MANTISSA_DIGITS - 4)) as f64;
            const ROW_BUFFER: &'static RowBuffer<Self> = &row_buffer::$row_buffer;
            type Vector<I: Isa> = I::$vector;

            fn maps(table: &Log2Table) -> &Log2Maps<Self> {
                &table.$maps
            }

            fn weights(smoothing: &Smoothing) -> &[Self] {
                &smoothing.$maps
            }

            #[inline(always)]
            fn exp2<I: Isa>(
                isa: I,
                x: I::$vector,
                slope: Self,
                clamp: [Self; 2],
                whole: Self,
            ) -> I::$vector {
                super::exp2::$type(isa, x, slope, clamp, whole)
            }
        }

        impl Lane for $type {
            #[inline(always)]
            fn widen<I: Isa>(isa: I, from: &[Self]) -> I::$vector {
                I::$vector::load(isa, from)
            }

            #[inline(always)]
            fn narrow<I: Isa>(_: I, x: I::$vector, to: &mut [Self]) {
                x.store(to);
            }
        }
    };
}
float!(f32, Single, single, SINGLE);
float!(f64, Double, double, DOUBLE);

macro_rules! half {
    ($type:ident, $widen:ident, $narrow:ident) => {
        impl Lane for $type {
            #[inline(always)]
            fn widen<I: Isa>(isa: I, from: &[Self]) -> I::Single {
                isa.$widen(from)
            }

            #[inline(always)]
            fn narrow<I: Isa>(isa: I, x: I::Single, to: &mut [Self]) {
                isa.$narrow(x, to);
            }
        }
    };
}
half!(f16, widen_f16, narrow_f16);
half!(bf16, widen_bf16, narrow_bf16);
