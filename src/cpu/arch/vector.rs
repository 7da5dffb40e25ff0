//! Lanes of `f32` or `f64` in registers.

use std::ops::Range;

/// No instance has more lanes.
pub(crate) const MOST_LANES: usize = crate::table::log2::PADDING;

/// A vector of `R` for the instruction set `I`, of [`I::LANES`](super::isa::Isa::LANES) lanes.
pub(crate) trait Vector<I, R>: Copy {
    fn splat(isa: I, x: R) -> Self;
    /// The first lanes of `from`, which must hold a vector.
    fn load(isa: I, from: &[R]) -> Self;
    /// Over the first lanes of `to`, which must hold a vector.
    fn store(self, to: &mut [R]);
    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    /// `self * a + b`, with one rounding where [`Isa::FUSED`](super::isa::Isa::FUSED).
    fn times_plus(self, a: Self, b: Self) -> Self;
    /// `self` where it is the higher, and so `other` where either is a NaN.
    fn or_higher(self, other: Self) -> Self;
    /// `self` where it is the lower, and so `other` where either is a NaN.
    fn or_lower(self, other: Self) -> Self;
    /// The bits of each lane shifted up by the width of the fraction: an exponent in the lowest
    /// bits becomes a power of 2.
    fn low_bits_to_exponent(self) -> Self;
    /// These lanes of `self`, the others of `other`.
    fn within(self, lanes: Range<usize>, other: Self) -> Self;
}

/// A slice that holds a vector, as one.
#[inline(always)]
pub(super) fn whole<T, const N: usize>(from: &[T]) -> &[T; N] {
    from.first_chunk().expect("a vector")
}

/// The same to write to.
#[inline(always)]
pub(super) fn whole_mut<T, const N: usize>(to: &mut [T]) -> &mut [T; N] {
    to.first_chunk_mut().expect("a vector")
}
