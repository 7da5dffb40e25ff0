//! Conversions between types.
use half::{bf16, f16};

use super::float::{Half, pair};
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
