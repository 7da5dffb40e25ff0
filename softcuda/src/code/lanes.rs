//! Functions of one value a lane, made to functions of a whole warp: an instruction is resolved
//! once, to a loop.
use super::float::NAN_F32;

/// A value that lives in a register.
pub(super) trait Lane: Copy {
    fn get(bits: u64) -> Self;
    fn put(self) -> u64;
}

macro_rules! integer_lanes {
    ($($ty:ty as $bits:ty),+) => {$(
        impl Lane for $ty {
            #[inline(always)]
            fn get(bits: u64) -> Self { bits as $ty }
            #[inline(always)]
            fn put(self) -> u64 { self as $bits as u64 }
        }
    )+};
}
integer_lanes!(u8 as u8, u16 as u16, i16 as u16, u32 as u32, i32 as u32, u64 as u64, i64 as u64);

/// Single-precision instructions give one NaN.
impl Lane for f32 {
    #[inline(always)]
    fn get(bits: u64) -> Self {
        f32::from_bits(bits as u32)
    }
    #[inline(always)]
    fn put(self) -> u64 {
        u64::from(if self.is_nan() { NAN_F32 } else { self.to_bits() })
    }
}

impl Lane for f64 {
    #[inline(always)]
    fn get(bits: u64) -> Self {
        f64::from_bits(bits)
    }
    #[inline(always)]
    fn put(self) -> u64 {
        self.to_bits()
    }
}

/// A warp function and the number of its operands, from an expression on operands of one type.
macro_rules! lanes {
    ($ty:ty, |$($x:ident),+| $e:expr) => {{
        fn run(rows: &mut [Row], dst: u32, src: &[u32; 4], mask: u32) {
            let mut operands = src.iter().map(|&row| row as usize);
            $(let $x = rows[operands.next().unwrap_or(0)];)+
            let out = &mut rows[dst as usize];
            for lane in 0..32 {
                if mask >> lane & 1 != 0 {
                    $(let $x = <$ty as Lane>::get($x[lane]);)+
                    out[lane] = Lane::put($e);
                }
            }
        }
        (run as WarpFn, [$(stringify!($x)),+].len())
    }};
}
pub(super) use lanes;
