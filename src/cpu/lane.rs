//! The numbers in a lane: what each element type is computed in, and its arithmetic.

use std::cell::RefCell;

use half::{bf16, f16};

use super::arch::{Isa, Vector};
use super::map::{Columns, LaneTable};
use super::sweep::REACH;
use super::{Rows, Walk};
use crate::element::Element;

/// The bytes of a line of the cache.
pub(super) const LINE: usize = 64;

/// What a row is computed in: `f32`, or `f64` for `f64` logits.
pub trait Float:
    Copy + Default + PartialOrd + Send + Sync + std::ops::Neg<Output = Self> + 'static
{
    const NEG_INFINITY: Self;
    const ONE: Self;
    /// Of powers of 2: that which is taken for 0, and the highest.
    const EXPONENTS: [Self; 2];
    /// The lowest finite number.
    const LOWEST: Self;
    /// The least normal number times [`REACH`](super::sweep::REACH).
    const LEAST_GIVEN: f64;
    /// [`exp2`](Self::exp2) takes whole exponents off up to this: a sixteenth of what has a spacing of 1.
    const MOST_WHOLE: Self;
    /// Up to here numbers are a sixteenth apart at most.
    const FINE: f64;

    fn widen(self) -> f64;
    fn round(value: f64) -> Self;

    type Vector<I: Isa>: Vector<I, Self>;

    fn columns(table: &LaneTable) -> &Columns<Self>;

    /// Hands out this thread's own `len` numbers, which hold anything and begin a line of the cache. They are allocated
    /// when a thread first asks for so many; `None`, without a call, where there is no memory for them.
    fn with_kept<A>(len: usize, call: impl FnOnce(&mut [Self]) -> A) -> Option<A>;

    /// `2^(slope x - whole)` for `x` between the `ends`; see [`exp2`](super::exp2).
    fn exp2<I: Isa>(
        isa: I,
        x: Self::Vector<I>,
        slope: Self,
        ends: [Self; 2],
        whole: Self,
    ) -> Self::Vector<I>;
}

/// An element type in lanes.
pub trait Lane: Copy + Send + Sync + 'static {
    type Wide: Float + Lane<Wide = Self::Wide>;

    /// [`Walk::rows`], compiled with this crate: not once more by each that calls it.
    fn sum_rows(walk: &Walk<'_>, rows: Rows<'_, Self>) -> f64
    where
        Self: Element;

    fn widen_lanes<I: Isa, const L: usize>(isa: I, x: [Self; L]) -> VectorOf<I, Self>;
    /// Rounds to nearest, ties to even. The low half of a NaN must be 0.
    fn narrow_lanes<I: Isa, const L: usize>(isa: I, x: VectorOf<I, Self>) -> [Self; L];
}

/// What the lanes of an element type are computed in.
pub(super) type VectorOf<I, T> = <<T as Lane>::Wide as Float>::Vector<I>;

macro_rules! float {
    ($type:ident, $vector:ident, $columns:ident) => {
        impl Float for $type {
            type Vector<I: Isa> = I::$vector;
            const NEG_INFINITY: Self = $type::NEG_INFINITY;
            const ONE: Self = 1.0;
            const EXPONENTS: [Self; 2] =
                [1.0 - $type::MAX_EXP as $type, $type::MAX_EXP as $type - 1.0];
            const LOWEST: Self = $type::MIN;
            const LEAST_GIVEN: f64 = $type::MIN_POSITIVE as f64 * REACH;
            const MOST_WHOLE: Self = (1u64 << ($type::MANTISSA_DIGITS - 4)) as $type;
            const FINE: f64 = (1u64 << ($type::MANTISSA_DIGITS - 4)) as f64;

            #[inline(always)]
            fn widen(self) -> f64 {
                self.into()
            }

            #[inline(always)]
            fn round(value: f64) -> Self {
                value as $type
            }

            fn columns(table: &LaneTable) -> &Columns<Self> {
                &table.$columns
            }

            fn with_kept<A>(len: usize, call: impl FnOnce(&mut [Self]) -> A) -> Option<A> {
                thread_local! {
                    static KEPT: RefCell<Vec<$type>> = const { RefCell::new(Vec::new()) };
                }
                let most = len + LINE / size_of::<$type>();
                let call = |kept: &RefCell<Vec<$type>>| {
                    let mut kept = kept.try_borrow_mut().ok()?;
                    let had = kept.len();
                    kept.try_reserve_exact(most.saturating_sub(had)).ok()?;
                    kept.resize(had.max(most), 0.0);
                    let start = kept.as_ptr().align_offset(LINE).min(most - len);
                    Some(call(&mut kept[start..][..len]))
                };
                KEPT.try_with(call).ok().flatten()
            }

            #[inline(always)]
            fn exp2<I: Isa>(
                isa: I,
                x: I::$vector,
                slope: Self,
                ends: [Self; 2],
                whole: Self,
            ) -> I::$vector {
                super::exp2::$type(isa, x, slope, ends, whole)
            }
        }

        impl Lane for $type {
            type Wide = $type;

            fn sum_rows(walk: &Walk<'_>, rows: Rows<'_, Self>) -> f64 {
                walk.rows(rows)
            }

            #[inline(always)]
            fn widen_lanes<I: Isa, const L: usize>(isa: I, x: [Self; L]) -> I::$vector {
                I::$vector::load(isa, x)
            }

            #[inline(always)]
            fn narrow_lanes<I: Isa, const L: usize>(_: I, x: I::$vector) -> [Self; L] {
                x.store()
            }
        }
    };
}
float!(f32, Single, single);
float!(f64, Double, double);

macro_rules! half {
    ($type:ident, $widen:ident, $narrow:ident) => {
        impl Lane for $type {
            type Wide = f32;

            fn sum_rows(walk: &Walk<'_>, rows: Rows<'_, Self>) -> f64 {
                walk.rows(rows)
            }

            #[inline(always)]
            fn widen_lanes<I: Isa, const L: usize>(isa: I, x: [Self; L]) -> I::Single {
                isa.$widen(x)
            }

            #[inline(always)]
            fn narrow_lanes<I: Isa, const L: usize>(isa: I, x: I::Single) -> [Self; L] {
                isa.$narrow(x)
            }
        }
    };
}
half!(f16, widen_f16, narrow_f16);
half!(bf16, widen_bf16, narrow_bf16);
