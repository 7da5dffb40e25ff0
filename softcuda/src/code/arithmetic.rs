//! Arithmetic: what each instruction computes in a lane.
use half::{bf16, f16};

use super::float::{
    Half, add_odd, add_toward_zero, either, flush, fused, fused_down, half, maxima, maximum, maximum_wide, minimum,
    minimum_wide, rough_reciprocal, toward_zero, up,
};
use super::lanes::{Lane, lanes};
use super::row::{Row, WarpFn};
use crate::ptx::{Opcode, Ty};

/// The same expression for each integer type.
macro_rules! ints {
    ($ty:expr, |$($x:ident),+| $e:expr) => {
        match $ty {
            Ty::U16 | Ty::B16 => lanes!(u16, |$($x),+| $e),
            Ty::S16 => lanes!(i16, |$($x),+| $e),
            Ty::U32 | Ty::B32 => lanes!(u32, |$($x),+| $e),
            Ty::S32 => lanes!(i32, |$($x),+| $e),
            Ty::U64 | Ty::B64 => lanes!(u64, |$($x),+| $e),
            Ty::S64 => lanes!(i64, |$($x),+| $e),
            _ => return None,
        }
    };
}

/// The function of an arithmetic instruction and its number of operands.
pub(super) fn lookup(op: &Opcode) -> Option<(WarpFn, usize)> {
    match op.types.as_slice() {
        [Ty::F32] => single(op),
        [Ty::F64] => double(op),
        [ty] => integer(op, *ty).or_else(|| halves(op, *ty)),
        [Ty::F16, Ty::F16] if op.base == "set" => set_half(op),
        [Ty::F32, Ty::F32] if op.base == "set" => set_single(op),
        _ => None,
    }
}

/// Approximations are the exact function rounded to the type, well within the error that the
/// hardware may have.
fn single(op: &Opcode) -> Option<(WarpFn, usize)> {
    Some(match (op.base, op.flags.as_slice()) {
        // `.rn` keeps a compiler from fusing, and is how all round that say nothing.
        ("add", [] | ["rn"]) => lanes!(f32, |a, b| a + b),
        ("add", ["rz"]) => lanes!(f32, |a, b| toward_zero(add_odd(a.into(), b.into()))),
        ("sub", [] | ["rn"]) => lanes!(f32, |a, b| a - b),
        ("mul", [] | ["rn"]) => lanes!(f32, |a, b| a * b),
        ("mul", ["rp"]) => lanes!(f32, |a, b| up(f64::from(a) * f64::from(b))),
        ("fma", ["rn"]) => lanes!(f32, |a, b, c| a.mul_add(b, c)),
        ("fma", ["rp"]) => lanes!(f32, |a, b, c| up(add_odd(f64::from(a) * f64::from(b), c.into()))),
        ("fma", ["rm"]) => lanes!(f32, |a, b, c| fused_down(a, b, c)),
        ("div", ["full" | "approx" | "rn"]) => lanes!(f32, |a, b| a / b),
        ("rcp", ["rn"]) => lanes!(f32, |a| 1.0 / a),
        ("rcp", ["approx", "ftz"]) => lanes!(f32, |a| flush(1.0 / flush(a))),
        ("sqrt", ["approx" | "rn"]) => lanes!(f32, |a| a.sqrt()),
        ("sqrt", ["approx", "ftz"]) => lanes!(f32, |a| flush(a).sqrt()),
        ("rsqrt", ["approx"]) => lanes!(f32, |a| (1.0 / f64::from(a).sqrt()) as f32),
        ("ex2", ["approx"]) => lanes!(f32, |a| f64::from(a).exp2() as f32),
        ("lg2", ["approx"]) => lanes!(f32, |a| f64::from(a).log2() as f32),
        ("ex2", ["approx", "ftz"]) => lanes!(f32, |a| flush(f64::from(flush(a)).exp2() as f32)),
        ("lg2", ["approx", "ftz"]) => lanes!(f32, |a| flush(f64::from(flush(a)).log2() as f32)),
        ("max", []) => lanes!(f32, |a, b| maximum(a, b)),
        ("min", []) => lanes!(f32, |a, b| minimum(a, b)),
        // Sign operations keep a NaN's payload.
        ("abs", []) => lanes!(u32, |a| a & 0x7fff_ffff),
        ("neg", []) => lanes!(u32, |a| a ^ 0x8000_0000),
        ("copysign", []) => lanes!(u32, |a, b| (a & 0x8000_0000) | (b & 0x7fff_ffff)),
        _ => return None,
    })
}

fn double(op: &Opcode) -> Option<(WarpFn, usize)> {
    Some(match (op.base, op.flags.as_slice()) {
        ("add", [] | ["rn"]) => lanes!(f64, |a, b| a + b),
        ("add", ["rz"]) => lanes!(f64, |a, b| add_toward_zero(a, b)),
        ("sub", []) => lanes!(f64, |a, b| a - b),
        ("mul", [] | ["rn"]) => lanes!(f64, |a, b| a * b),
        ("fma", ["rn"]) => lanes!(f64, |a, b, c| a.mul_add(b, c)),
        ("div", ["rn"]) => lanes!(f64, |a, b| a / b),
        ("rcp", ["rn"]) => lanes!(f64, |a| 1.0 / a),
        ("rcp", ["approx", "ftz"]) => lanes!(f64, |a| rough_reciprocal(a)),
        ("sqrt", ["rn"]) => lanes!(f64, |a| a.sqrt()),
        ("max", []) => lanes!(f64, |a, b| maximum_wide(a, b)),
        ("min", []) => lanes!(f64, |a, b| minimum_wide(a, b)),
        ("abs", []) => lanes!(u64, |a| a & !(1 << 63)),
        ("neg", []) => lanes!(u64, |a| a ^ 1 << 63),
        ("copysign", []) => lanes!(u64, |a, b| (a & 1 << 63) | (b & !(1 << 63))),
        _ => return None,
    })
}

fn halves(op: &Opcode, ty: Ty) -> Option<(WarpFn, usize)> {
    Some(match (op.base, op.flags.as_slice(), ty) {
        ("add", [], Ty::F16) => lanes!(u64, |a, b| half::<f16>(wide::<f16>(a) + wide::<f16>(b))),
        ("sub", [], Ty::F16) => lanes!(u64, |a, b| half::<f16>(wide::<f16>(a) - wide::<f16>(b))),
        ("mul", [], Ty::F16) => lanes!(u64, |a, b| half::<f16>(wide::<f16>(a) * wide::<f16>(b))),
        ("fma", ["rn"], Ty::F16) => lanes!(u64, |a, b, c| fused::<f16>(a, b, c)),
        ("fma", ["rn"], Ty::Bf16) => lanes!(u64, |a, b, c| fused::<bf16>(a, b, c)),
        ("fma", ["rn"], Ty::Bf16x2) => {
            lanes!(u64, |a, b, c| fused::<bf16>(a >> 16, b >> 16, c >> 16) << 16 | fused::<bf16>(a, b, c))
        }
        ("max", ["NaN"], Ty::F16) => lanes!(u64, |a, b| either::<f16>(a, b, maximum)),
        ("max", ["NaN"], Ty::Bf16) => lanes!(u64, |a, b| either::<bf16>(a, b, maximum)),
        ("min", ["NaN"], Ty::F16) => lanes!(u64, |a, b| either::<f16>(a, b, minimum)),
        ("min", ["NaN"], Ty::Bf16) => lanes!(u64, |a, b| either::<bf16>(a, b, minimum)),
        ("abs", [], Ty::F16 | Ty::Bf16) => lanes!(u16, |a| a & 0x7fff),
        ("neg", [], Ty::F16 | Ty::Bf16) => lanes!(u16, |a| a ^ 0x8000),
        ("max", [], Ty::F16x2) => lanes!(u64, |a, b| maxima::<f16>(a, b)),
        ("max", [], Ty::Bf16x2) => lanes!(u64, |a, b| maxima::<bf16>(a, b)),
        _ => return None,
    })
}

/// The value of half a register, in a type that holds sums and products of two.
fn wide<H: Half>(bits: u64) -> f64 {
    H::value(bits).into()
}

/// Comparisons whose outcome is a number, 1 or 0.
fn set_single(op: &Opcode) -> Option<(WarpFn, usize)> {
    Some(match op.flags.as_slice() {
        ["eq"] => lanes!(f32, |a, b| f32::from(a == b)),
        ["neu"] => lanes!(f32, |a, b| f32::from(a != b)),
        ["lt"] => lanes!(f32, |a, b| f32::from(a < b)),
        ["le"] => lanes!(f32, |a, b| f32::from(a <= b)),
        ["gt"] => lanes!(f32, |a, b| f32::from(a > b)),
        ["ge"] => lanes!(f32, |a, b| f32::from(a >= b)),
        _ => return None,
    })
}

fn set_half(op: &Opcode) -> Option<(WarpFn, usize)> {
    Some(match op.flags.as_slice() {
        ["eq"] => lanes!(u64, |a, b| <f16 as Half>::bits((wide::<f16>(a) == wide::<f16>(b)).into())),
        _ => return None,
    })
}

fn integer(op: &Opcode, ty: Ty) -> Option<(WarpFn, usize)> {
    Some(match (op.base, op.flags.as_slice()) {
        ("add", []) => ints!(ty, |a, b| a.wrapping_add(b)),
        ("sub", []) => ints!(ty, |a, b| a.wrapping_sub(b)),
        ("mul", ["lo"]) => ints!(ty, |a, b| a.wrapping_mul(b)),
        ("mul", ["hi"]) if ty == Ty::U32 => lanes!(u32, |a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32),
        ("mad", ["lo"]) => ints!(ty, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        ("mul", ["wide"]) => match ty {
            Ty::U32 => lanes!(u32, |a, b| u64::from(a) * u64::from(b)),
            Ty::S32 => lanes!(i32, |a, b| i64::from(a) * i64::from(b)),
            _ => return None,
        },
        // Division by zero gives what the hardware's sequence gives; the instruction set leaves it
        // open.
        ("div", []) => match ty {
            Ty::U32 => lanes!(u32, |a, b| a.checked_div(b).unwrap_or(!0)),
            Ty::U64 => lanes!(u64, |a, b| a.checked_div(b).unwrap_or(!0)),
            Ty::U16 => lanes!(u16, |a, b| a.checked_div(b).unwrap_or(!0)),
            Ty::S64 => lanes!(i64, |a, b| if b == 0 { !0 } else { a.wrapping_div(b) }),
            _ => return None,
        },
        ("rem", []) => match ty {
            Ty::U32 => lanes!(u32, |a, b| a.checked_rem(b).unwrap_or(a)),
            Ty::U64 => lanes!(u64, |a, b| a.checked_rem(b).unwrap_or(a)),
            _ => return None,
        },
        ("min", []) => ints!(ty, |a, b| a.min(b)),
        ("max", []) => ints!(ty, |a, b| a.max(b)),
        ("neg", []) => ints!(ty, |a| a.wrapping_neg()),
        ("and", []) => ints!(ty, |a, b| a & b),
        ("or", []) => ints!(ty, |a, b| a | b),
        ("xor", []) => ints!(ty, |a, b| a ^ b),
        ("not", []) => ints!(ty, |a| !a),
        // Amounts are u32 whatever the type, and clamp at its width.
        ("shl", []) => match ty {
            Ty::B32 => lanes!(u64, |a, n| (a as u32).checked_shl(n as u32).unwrap_or(0)),
            Ty::B64 => lanes!(u64, |a, n| a.checked_shl(n as u32).unwrap_or(0)),
            _ => return None,
        },
        ("shr", []) => match ty {
            Ty::U32 => lanes!(u64, |a, n| (a as u32).checked_shr(n as u32).unwrap_or(0)),
            Ty::U64 => lanes!(u64, |a, n| a.checked_shr(n as u32).unwrap_or(0)),
            Ty::S32 => lanes!(u64, |a, n| (a as i32) >> (n as u32).min(31)),
            _ => return None,
        },
        _ => return None,
    })
}
