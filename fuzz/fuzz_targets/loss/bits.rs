//! Elements by their bits, which tell a NaN from another and `-0` from `0`.

use ala_loss::{CpuElement, Element};
use half::{bf16, f16};

/// What a buffer holds.
pub trait Bits: Copy {
    /// All of its bits.
    fn bits(self) -> u64;
}

macro_rules! plain {
    ($($type:ty),*) => {$(
        impl Bits for $type {
            fn bits(self) -> u64 {
                self.into()
            }
        }
    )*};
}
plain! { bool, u32 }

/// A type of logits.
pub trait LogitBits: CpuElement<Real: Bits + Element> + Bits {
    /// The element of these bits, as far as it has so many.
    fn from_bits(bits: u64) -> Self;
    /// Half the distance to the next number, of numbers of about this size.
    fn half_ulp(size: f64) -> f64;
    /// Largest finite number.
    const MOST: f64;
}

macro_rules! logits {
    ($($type:ty as $bits:ty, digits $digits:literal, least $least:literal, most $most:expr;)*) => {$(
        impl Bits for $type {
            fn bits(self) -> u64 {
                self.to_bits().into()
            }
        }
        impl LogitBits for $type {
            fn from_bits(bits: u64) -> Self {
                Self::from_bits(bits as $bits)
            }
            fn half_ulp(size: f64) -> f64 {
                f64::max(size.abs() * 2f64.powi(-$digits), 2f64.powi($least))
            }
            const MOST: f64 = $most;
        }
    )*};
}
// The significand's digits, and the exponent of half the least subnormal.
logits! {
    f32 as u32, digits 24, least -150, most f32::MAX as f64;
    f64 as u64, digits 53, least -1074, most f64::MAX;
    f16 as u16, digits 11, least -25, most 65504.0;
    bf16 as u16, digits 8, least -134, most 3.3895313892515355e38;
}

/// The bits of many.
pub fn all<T: Bits>(values: &[T]) -> Vec<u64> {
    values.iter().map(|value| value.bits()).collect()
}
