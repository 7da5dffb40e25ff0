//! Conversions between types.
use half::{bf16, f16};

use super::float::{Half, down, half, pair, toward_zero, up};
use super::lanes::{Lane, lanes};
use super::row::{Row, WarpFn};
use crate::ptx::{Opcode, Ty};

/// The function of a `cvt` and its number of operands; `register` is the type of the register it
/// writes.
pub(super) fn lookup(op: &Opcode, register: Ty) -> Option<(WarpFn, usize)> {
    use Ty::*;
    let &[to, from] = op.types.as_slice() else { return None };
    Some(match (op.flags.as_slice(), to, from) {
        ([], F32, F16) => lanes!(u64, |a| f16::value(a)),
        ([], F32, Bf16) => lanes!(u64, |a| bf16::value(a)),
        ([], F64, F32) => lanes!(f32, |a| f64::from(a)),
        (["rn"], F32, F64) => lanes!(f64, |a| a as f32),
        (["rn"], F16, F32) => lanes!(f32, |a| f16::bits(a)),
        (["rn"], Bf16, F32) => lanes!(f32, |a| bf16::bits(a)),
        // The first operand goes to the upper half.
        (["rn"], F16x2, F32) => lanes!(f32, |a, b| pair::<f16>(a, b)),
        (["rn"], Bf16x2, F32) => lanes!(f32, |a, b| pair::<bf16>(a, b)),
        (["rn"], F16, F64) => lanes!(f64, |a| half::<f16>(a)),
        (["sat"], F32, F32) => lanes!(f32, |a| if a > 0.0 { a.min(1.0) } else { 0.0 }),
        // To a whole number of the same type.
        (["rmi"], F32, F32) => lanes!(f32, |a| a.floor()),
        (["rmi"], F64, F64) => lanes!(f64, |a| a.floor()),
        (["rpi"], F32, F32) => lanes!(f32, |a| a.ceil()),
        (["rpi"], F64, F64) => lanes!(f64, |a| a.ceil()),
        (["rni"], F32, F32) => lanes!(f32, |a| a.round_ties_even()),
        (["rzi"], F32, F32) => lanes!(f32, |a| a.trunc()),
        (["rzi"], F64, F64) => lanes!(f64, |a| a.trunc()),
        // To an integer: what does not fit becomes the nearest that does. A NaN is 0, or the upper
        // bit alone where one of the types has 64 bits.
        (["rzi"], S32, F32) if register.bytes() == 4 => lanes!(f32, |a| a as i32),
        (["rzi"], S64, F32) => lanes!(f32, |a| if a.is_nan() { i64::MIN } else { a as i64 }),
        (["rzi"], S64, F64) => lanes!(f64, |a| if a.is_nan() { i64::MIN } else { a as i64 }),
        (["rzi"], U32, F16) => lanes!(u64, |a| f16::value(a) as u32),
        (["rzi"], U32, F32) => lanes!(f32, |a| a as u32),
        (["rzi"], U32, F64) => lanes!(f64, |a| if a.is_nan() { 1 << 31 } else { a as u32 }),
        (["rn"], F16, S32) => lanes!(i32, |a| half::<f16>(a.into())),
        (["rn"], F16, U32) => lanes!(u32, |a| half::<f16>(a.into())),
        (["rn"], F32, S32) => lanes!(i32, |a| a as f32),
        (["rm"], F32, S32) => lanes!(i32, |a| down(a.into())),
        (["rp"], F32, S32) => lanes!(i32, |a| up(a.into())),
        (["rz"], F32, S32) => lanes!(i32, |a| toward_zero(a.into())),
        (["rn"], F32, U32) => lanes!(u32, |a| a as f32),
        (["rm" | "rz"], F32, U32) => lanes!(u32, |a| down(a.into())),
        (["rp"], F32, U32) => lanes!(u32, |a| up(a.into())),
        (["rn"], F32, U16) => lanes!(u16, |a| f32::from(a)),
        (["rn"], F32, S64) => lanes!(i64, |a| a as f32),
        (["rn"], F64, S64) => lanes!(i64, |a| a as f64),
        (["rn"], F64, U32) => lanes!(u32, |a| f64::from(a)),
        (["rn"], F64, U16) => lanes!(u16, |a| f64::from(a)),
        (["rn"], F64, U64) => lanes!(u64, |a| a as f64),
        // A signed result that its register is wider than would have to be extended to it.
        ([], ..) if to.integer() && from.integer() && (!to.signed() || to.bytes() == register.bytes()) => {
            integer(to, from)?
        }
        _ => return None,
    })
}

fn integer(to: Ty, from: Ty) -> Option<(WarpFn, usize)> {
    Some(match (from, to.bytes()) {
        (Ty::S8, 4) => lanes!(u64, |a| i32::from(a as i8)),
        (Ty::S16, 4) => lanes!(u64, |a| i32::from(a as i16)),
        (Ty::S32, 8) => lanes!(i32, |a| i64::from(a)),
        _ if from.signed() && to.bytes() > from.bytes() => return None,
        _ => match to.bytes().min(from.bytes()) {
            1 => lanes!(u8, |a| a),
            2 => lanes!(u16, |a| a),
            4 => lanes!(u32, |a| a),
            _ => lanes!(u64, |a| a),
        },
    })
}
