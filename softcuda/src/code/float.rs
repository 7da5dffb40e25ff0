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

/// `x` rounded downwards.
pub(super) fn down(x: f64) -> f32 {
    -up(-x)
}

/// `x` rounded towards zero.
pub(super) fn toward_zero(x: f64) -> f32 {
    if x.is_sign_negative() { up(x) } else { down(x) }
}

/// `x` rounded to odd, so that a second rounding, to at most 22 bits, is still that of `x`.
pub(super) fn odd(x: f64) -> f32 {
    let cut = toward_zero(x);
    if f64::from(cut) == x || x.is_nan() { cut } else { f32::from_bits(cut.to_bits() | 1) }
}

/// The sum rounded towards zero.
pub(super) fn add_toward_zero(a: f64, b: f64) -> f64 {
    let sum = a + b;
    if sum.is_infinite() && a.is_finite() && b.is_finite() {
        return f64::MAX.copysign(sum);
    }
    let part = sum - a;
    let error = (a - (sum - part)) + (b - part);
    let beyond = if sum > 0.0 { error < 0.0 } else { error > 0.0 };
    if beyond { f64::from_bits(sum.to_bits() - 1) } else { sum }
}

/// `a b + c` rounded downwards.
pub(super) fn fused_down(a: f32, b: f32, c: f32) -> f32 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = add_odd(product, c);
    // Terms that cancel give the lower of the two zeros.
    let negative = sum == 0.0 && (product.is_sign_negative() || c.is_sign_negative());
    if negative { -0.0 } else { down(sum) }
}

/// The first 32 bits of the reciprocal of `x` by its first 32 bits, as a step of Newton's begins
/// with; subnormal numbers are zeros to it.
pub(super) fn rough_reciprocal(x: f64) -> f64 {
    let cut = |x: f64| f64::from_bits(x.to_bits() >> 32 << 32);
    let flush = |x: f64| if x.is_subnormal() { 0.0f64.copysign(x) } else { x };
    cut(flush(1.0 / flush(cut(x))))
}

/// Subnormal to zero of its sign.
pub(super) fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0f32.copysign(x) } else { x }
}

/// Larger of two; a NaN gives way to a number, and `+0 > -0`.
pub(super) fn maximum(a: f32, b: f32) -> f32 {
    if a == b { if a.is_sign_negative() { b } else { a } } else { a.max(b) }
}

/// Smaller of two; a NaN gives way to a number, and `-0 < +0`.
pub(super) fn minimum(a: f32, b: f32) -> f32 {
    -maximum(-a, -b)
}

/// The same of wider ones.
pub(super) fn maximum_wide(a: f64, b: f64) -> f64 {
    if a == b { if a.is_sign_negative() { b } else { a } } else { a.max(b) }
}

/// The same of wider ones.
pub(super) fn minimum_wide(a: f64, b: f64) -> f64 {
    -maximum_wide(-a, -b)
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

/// The bits of `x`, rounded to nearest. (`half` looks at the upper half of a wide one only.)
pub(super) fn half<H: Half>(x: f64) -> u64 {
    H::bits(odd(x))
}

/// `a b + c` of halves, rounded once.
pub(super) fn fused<H: Half>(a: u64, b: u64, c: u64) -> u64 {
    let value = |bits| f64::from(H::value(bits));
    half::<H>(add_odd(value(a) * value(b), value(c)))
}

/// One of two halves, by an order; a NaN where one of them is one.
pub(super) fn either<H: Half>(a: u64, b: u64, choose: fn(f32, f32) -> f32) -> u64 {
    let (a, b) = (H::value(a), H::value(b));
    H::bits(if a.is_nan() || b.is_nan() { f32::NAN } else { choose(a, b) })
}

/// Two values in a register, the first in the upper half.
pub(super) fn pair<H: Half>(upper: f32, lower: f32) -> u64 {
    H::bits(upper) << 16 | H::bits(lower)
}

/// The larger ones of two pairs.
pub(super) fn maxima<H: Half>(a: u64, b: u64) -> u64 {
    pair::<H>(maximum(H::value(a >> 16), H::value(b >> 16)), maximum(H::value(a), H::value(b)))
}
