//! Arithmetic: what each instruction computes in a lane.
use half::{bf16, f16};

use super::float::{add_odd, flush, maxima, maximum, up};
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
        _ => None,
    }
}

/// Approximations are the exact function rounded to the type, well within the error that the
/// hardware may have.
fn single(op: &Opcode) -> Option<(WarpFn, usize)> {
    Some(match (op.base, op.flags.as_slice()) {
        ("add", []) => lanes!(f32, |a, b| a + b),
        ("sub", []) => lanes!(f32, |a, b| a - b),
        ("mul", []) => lanes!(f32, |a, b| a * b),
        ("mul", ["rp"]) => lanes!(f32, |a, b| up(f64::from(a) * f64::from(b))),
        ("fma", ["rn"]) => lanes!(f32, |a, b, c| a.mul_add(b, c)),
        ("fma", ["rp"]) => lanes!(f32, |a, b, c| up(add_odd(f64::from(a) * f64::from(b), c.into()))),
        ("div", ["full"]) => lanes!(f32, |a, b| a / b),
        ("ex2", ["approx", "ftz"]) => lanes!(f32, |a| flush(f64::from(flush(a)).exp2() as f32)),
        ("lg2", ["approx", "ftz"]) => lanes!(f32, |a| flush(f64::from(flush(a)).log2() as f32)),
        ("max", []) => lanes!(f32, |a, b| maximum(a, b)),
        // Sign operations keep a NaN's payload.
        ("abs", []) => lanes!(u32, |a| a & 0x7fff_ffff),
        ("neg", []) => lanes!(u32, |a| a ^ 0x8000_0000),
        _ => return None,
    })
}

fn double(op: &Opcode) -> Option<(WarpFn, usize)> {
    Some(match (op.base, op.flags.as_slice()) {
        ("add", []) => lanes!(f64, |a, b| a + b),
        ("sub", []) => lanes!(f64, |a, b| a - b),
        ("fma", ["rn"]) => lanes!(f64, |a, b, c| a.mul_add(b, c)),
        ("div", ["rn"]) => lanes!(f64, |a, b| a / b),
        ("abs", []) => lanes!(u64, |a| a & !(1 << 63)),
        _ => return None,
    })
}

fn halves(op: &Opcode, ty: Ty) -> Option<(WarpFn, usize)> {
    Some(match (op.base, op.flags.as_slice(), ty) {
        ("max", [], Ty::F16x2) => lanes!(u64, |a, b| maxima::<f16>(a, b)),
        ("max", [], Ty::Bf16x2) => lanes!(u64, |a, b| maxima::<bf16>(a, b)),
        _ => return None,
    })
}

fn integer(op: &Opcode, ty: Ty) -> Option<(WarpFn, usize)> {
    Some(match (op.base, op.flags.as_slice()) {
        ("add", []) => ints!(ty, |a, b| a.wrapping_add(b)),
        ("sub", []) => ints!(ty, |a, b| a.wrapping_sub(b)),
        ("mul", ["lo"]) => ints!(ty, |a, b| a.wrapping_mul(b)),
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
            _ => return None,
        },
        ("rem", []) if ty == Ty::U32 => lanes!(u32, |a, b| a.checked_rem(b).unwrap_or(a)),
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
            Ty::S32 => lanes!(u64, |a, n| (a as i32) >> (n as u32).min(31)),
            _ => return None,
        },
        _ => return None,
    })
}
