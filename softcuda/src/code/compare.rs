//! Comparisons: `setp`.
use super::float::Half;
use super::row::{CompareFn, Row};
use crate::ptx::Ty;

macro_rules! compare {
    (|$x:ident| $e:expr) => {{
        fn run(rows: &[Row], a: u32, b: u32) -> [u32; 3] {
            let [mut less, mut equal, mut neither] = [0; 3];
            for (lane, (&a, &b)) in rows[a as usize].iter().zip(&rows[b as usize]).enumerate() {
                let value = |$x: u64| $e;
                let (a, b) = (value(a), value(b));
                less |= u32::from(a < b) << lane;
                equal |= u32::from(a == b) << lane;
                neither |= u32::from(a.partial_cmp(&b).is_none()) << lane;
            }
            [less, equal, neither]
        }
        run
    }};
}

/// The function that compares two registers of a type.
pub(super) fn lookup(ty: Ty) -> Option<CompareFn> {
    Some(match ty {
        Ty::U16 | Ty::B16 => compare!(|x| x as u16),
        Ty::S16 => compare!(|x| x as i16),
        Ty::U32 | Ty::B32 => compare!(|x| x as u32),
        Ty::S32 => compare!(|x| x as i32),
        Ty::U64 | Ty::B64 => compare!(|x| x),
        Ty::S64 => compare!(|x| x as i64),
        Ty::F16 => compare!(|x| <half::f16 as Half>::value(x)),
        Ty::F32 => compare!(|x| f32::from_bits(x as u32)),
        Ty::F64 => compare!(|x| f64::from_bits(x)),
        _ => return None,
    })
}

const LESS: u8 = 1;
const EQUAL: u8 = 2;
const GREATER: u8 = 4;
const UNORDERED: u8 = 8;

/// Which outcomes a comparison's name accepts, a bit each.
pub(super) fn accepted(name: &str) -> Option<u8> {
    Some(match name {
        "eq" => EQUAL,
        "ne" => LESS | GREATER,
        "lt" => LESS,
        "le" => LESS | EQUAL,
        "gt" => GREATER,
        "ge" => GREATER | EQUAL,
        "equ" => EQUAL | UNORDERED,
        "ltu" => LESS | UNORDERED,
        "neu" => LESS | GREATER | UNORDERED,
        "leu" => LESS | EQUAL | UNORDERED,
        "gtu" => GREATER | UNORDERED,
        "geu" => GREATER | EQUAL | UNORDERED,
        "num" => LESS | EQUAL | GREATER,
        "nan" => UNORDERED,
        _ => return None,
    })
}
