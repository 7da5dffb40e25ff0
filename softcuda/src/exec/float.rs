//! Float formats: exact values as `f64`, one rounding at the end.
use half::{bf16, f16};

use crate::ptx::opcode::{Rounding, Ty};

/// The NaN that single-precision instructions produce.
pub(super) const NAN_F32: u32 = 0x7fff_ffff;
const NAN_HALF: u64 = 0x7fff;

/// `x` rounded to an integer.
pub(super) fn to_integral(x: f64, mode: Rounding) -> f64 {
    match mode {
        Rounding::Nearest => x.round_ties_even(),
        Rounding::Zero => x.trunc(),
        Rounding::Down => x.floor(),
        Rounding::Up => x.ceil(),
    }
}

/// The exact sum rounded to odd, so that a second rounding, to at most 51 bits, is still the exact sum's.
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

/// An integer as `f64`, rounded to odd as above.
fn integer_odd(x: i128) -> f64 {
    let near = x as f64;
    let error = x - near as i128;
    if error == 0 || near.to_bits() & 1 == 1 {
        return near;
    }
    f64::from_bits(if (error > 0) == (x > 0) { near.to_bits() + 1 } else { near.to_bits() - 1 })
}

/// `x` rounded to a float type; the result is exact as `f64`.
pub(super) fn round_to(x: f64, ty: Ty, mode: Rounding) -> f64 {
    let (digits, least, most) = match ty {
        Ty::F16 => (11, -14, 15),
        Ty::Bf16 => (8, -126, 127),
        Ty::F32 => (24, -126, 127),
        _ => return x,
    };
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let power = |exponent: i32| f64::from_bits(((exponent + 1023) as u64) << 52);
    let exponent = (x.to_bits() >> 52 & 0x7ff) as i32 - 1023;
    let unit = exponent.max(least) - (digits - 1);
    let rounded = to_integral(x * power(-unit), mode) * power(unit);
    let largest = (2.0 - power(1 - digits)) * power(most);
    if rounded.abs() <= largest {
        return rounded;
    }
    let to_infinity = match mode {
        Rounding::Nearest => true,
        Rounding::Zero => false,
        Rounding::Down => x < 0.0,
        Rounding::Up => x > 0.0,
    };
    (if to_infinity { f64::INFINITY } else { largest }).copysign(x)
}

/// The value of a float register.
pub(super) fn value(bits: u64, ty: Ty) -> f64 {
    match ty {
        Ty::F16 => f16::from_bits(bits as u16).to_f64(),
        Ty::Bf16 => bf16::from_bits(bits as u16).to_f64(),
        Ty::F32 => f64::from(f32::from_bits(bits as u32)),
        _ => f64::from_bits(bits),
    }
}

/// The bits of a value that the type represents exactly; a NaN becomes the canonical one.
fn exact_bits(x: f64, ty: Ty) -> u64 {
    match ty {
        Ty::F16 | Ty::Bf16 if x.is_nan() => NAN_HALF,
        Ty::F16 => f16::from_f32(x as f32).to_bits().into(),
        Ty::Bf16 => bf16::from_f32(x as f32).to_bits().into(),
        Ty::F32 if x.is_nan() => NAN_F32.into(),
        Ty::F32 => (x as f32).to_bits().into(),
        _ => x.to_bits(),
    }
}

/// The bits of `x` rounded to a float type.
pub(super) fn bits(x: f64, ty: Ty, mode: Rounding) -> u64 {
    exact_bits(round_to(x, ty, mode), ty)
}

/// Subnormal to zero of its sign.
pub(super) fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0f32.copysign(x) } else { x }
}

/// Larger of two; a NaN gives way to a number, and `+0 > -0`.
pub(super) fn maximum(a: f64, b: f64) -> f64 {
    if a == b { if a.is_sign_negative() { b } else { a } } else { a.max(b) }
}

/// Smaller of two by the same rules.
pub(super) fn minimum(a: f64, b: f64) -> f64 {
    -maximum(-a, -b)
}

/// A `cvt`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conversion {
    pub(crate) from: Ty,
    pub(crate) to: Ty,
    pub(crate) mode: Rounding,
    pub(crate) integral: bool,
    pub(crate) saturate: bool,
    pub(crate) flush: bool,
    /// The bits of the destination register, which narrower integers are extended to.
    pub(crate) mask: u64,
}

impl Conversion {
    /// Converts the bits of one lane.
    pub(super) fn apply(&self, bits: u64) -> u64 {
        let flushed = |x: f64, ty: Ty| if self.flush && ty == Ty::F32 { flush(x as f32).into() } else { x };
        match (self.from.float(), self.to.float()) {
            (true, true) => {
                let mut x = flushed(value(bits, self.from), self.from);
                if self.integral {
                    x = to_integral(x, self.mode);
                }
                x = flushed(round_to(x, self.to, self.mode), self.to);
                if self.saturate {
                    x = if x > 0.0 { x.min(1.0) } else { 0.0 };
                }
                exact_bits(x, self.to)
            }
            (true, false) => {
                let x = to_integral(flushed(value(bits, self.from), self.from), self.mode);
                // `as` gives 0 for NaN and clamps, as the instruction does.
                self.integer(x as i128, true)
            }
            (false, true) => {
                let x = extend(bits, self.from);
                let x = if self.to == Ty::F64 { x as f64 } else { integer_odd(x) };
                exact_bits(round_to(x, self.to, self.mode), self.to)
            }
            (false, false) => self.integer(extend(bits, self.from), self.saturate),
        }
    }

    fn integer(&self, x: i128, clamp: bool) -> u64 {
        let bits = 8 * self.to.bytes() as u32;
        let (least, most) = match self.to.signed() {
            true => (-(1i128 << (bits - 1)), (1 << (bits - 1)) - 1),
            false => (0, (1 << bits) - 1),
        };
        let x = if clamp { x.clamp(least, most) } else { x };
        extend(x as u64, self.to) as u64 & self.mask
    }
}

/// The integer that a register's low bits stand for.
pub(super) fn extend(bits: u64, ty: Ty) -> i128 {
    let unused = 64 - 8 * ty.bytes();
    if ty.signed() { i128::from((bits << unused) as i64 >> unused) } else { i128::from(bits & ty.mask()) }
}
