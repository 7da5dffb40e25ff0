//! Float formats: what is computed in a wider one and rounded once.
use half::{bf16, f16};

/// The NaN that single-precision instructions produce.
pub(super) const NAN_F32: u32 = 0x7fff_ffff;
const NAN_HALF: u16 = 0x7fff;

/// The exact sum rounded to odd, so that a second rounding, to at most 51 bits, is still the exact
/// sum's.
pub(super) fn add_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let part = sum - a;
    let error = (a - (sum - part)) + (b - part);
    let bits = sum.to_bits();
    if error == 0.0 || !sum.is_finite() || bits & 1 == 1 {
        return sum;
    }
    f64::from_bits(if (error > 0.0) == (sum > 0.0) { bits + 1 } else { bits - 1 })
}

/// `x` rounded upwards.
pub(super) fn up(x: f64) -> f32 {
    let near = x as f32;
    if f64::from(near) < x { near.next_up() } else { near }
}

/// Subnormal to zero of its sign.
pub(super) fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0f32.copysign(x) } else { x }
}

/// Larger of two; a NaN gives way to a number, and `+0 > -0`.
pub(super) fn maximum(a: f32, b: f32) -> f32 {
    if a == b { if a.is_sign_negative() { b } else { a } } else { a.max(b) }
}

/// A 16-bit format. It gives one NaN.
pub(super) trait Half {
    /// The value of a register's low 16 bits.
    fn value(bits: u64) -> f32;
    /// The bits of `x`, rounded to nearest.
    fn bits(x: f32) -> u64;
}

macro_rules! halves {
    ($($ty:ty),+) => {$(
        impl Half for $ty {
            fn value(bits: u64) -> f32 {
                <$ty>::from_bits(bits as u16).to_f32()
            }
            fn bits(x: f32) -> u64 {
                if x.is_nan() { NAN_HALF.into() } else { <$ty>::from_f32(x).to_bits().into() }
            }
        }
    )+};
}
halves!(f16, bf16);

/// Two values in a register, the first in the upper half.
pub(super) fn pair<H: Half>(upper: f32, lower: f32) -> u64 {
    H::bits(upper) << 16 | H::bits(lower)
}

/// The larger ones of two pairs.
pub(super) fn maxima<H: Half>(a: u64, b: u64) -> u64 {
    pair::<H>(maximum(H::value(a >> 16), H::value(b >> 16)), maximum(H::value(a), H::value(b)))
}
