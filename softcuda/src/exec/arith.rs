//! Arithmetic, a whole warp at a time: each instruction is resolved once to a function that loops over the lanes.
use crate::exec::float::{self, Conversion, NAN_F32, add_odd, bits, flush, maximum, minimum, round_to};
use crate::ptx::opcode::{Opcode, Rounding, Ty};

/// One register of the 32 lanes of a warp. Values of fewer than 64 bits are zero-extended.
pub(crate) type Row = [u64; 32];
/// Computes `dst` from `src` in the lanes of a mask.
pub(crate) type WarpFn = fn(rows: &mut [Row], dst: u32, src: &[u32; 4], mask: u32);
/// The lanes in which `a < b`, `a == b`, and neither is defined.
pub(crate) type CompareFn = fn(rows: &[Row], a: u32, b: u32) -> [u32; 3];

/// A value that lives in a register.
trait Lane: Copy {
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
integer_lanes!(u16 as u16, i16 as u16, u32 as u32, i32 as u32, u64 as u64, i64 as u64);

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

/// The same for each integer type.
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

/// Signed and unsigned types, where the body differs.
macro_rules! by_sign {
    ($ty:expr, $T:ident => |$($x:ident),+| $signed:expr, $unsigned:expr) => {
        match $ty {
            Ty::U16 | Ty::B16 => { #[allow(dead_code)] type $T = u16; lanes!($T, |$($x),+| $unsigned) }
            Ty::S16 => { #[allow(dead_code)] type $T = i16; lanes!($T, |$($x),+| $signed) }
            Ty::U32 | Ty::B32 => { #[allow(dead_code)] type $T = u32; lanes!($T, |$($x),+| $unsigned) }
            Ty::S32 => { #[allow(dead_code)] type $T = i32; lanes!($T, |$($x),+| $signed) }
            Ty::U64 | Ty::B64 => { #[allow(dead_code)] type $T = u64; lanes!($T, |$($x),+| $unsigned) }
            Ty::S64 => { #[allow(dead_code)] type $T = i64; lanes!($T, |$($x),+| $signed) }
            _ => return None,
        }
    };
}

/// An expression on `f32`, with `.ftz` and `.sat` where the instruction has them.
macro_rules! single {
    ($op:expr, |$($x:ident),+| $e:expr) => {
        match ($op.has("ftz"), $op.has("sat")) {
            (false, false) => lanes!(f32, |$($x),+| $e),
            (true, false) => lanes!(f32, |$($x),+| { $(let $x = flush($x);)+ flush($e) }),
            (false, true) => lanes!(f32, |$($x),+| saturate($e)),
            (true, true) => lanes!(f32, |$($x),+| { $(let $x = flush($x);)+ flush(saturate($e)) }),
        }
    };
}

/// An expression on `f64`, exact or rounded to odd, that is rounded to `f32` as the instruction says.
macro_rules! directed {
    ($op:expr, |$($x:ident),+| $e:expr) => {
        match $op.rounding() {
            Rounding::Nearest => directed!($op, Nearest, |$($x),+| $e),
            Rounding::Zero => directed!($op, Zero, |$($x),+| $e),
            Rounding::Down => directed!($op, Down, |$($x),+| $e),
            Rounding::Up => directed!($op, Up, |$($x),+| $e),
        }
    };
    ($op:expr, $mode:ident, |$($x:ident),+| $e:expr) => {
        single!($op, |$($x),+| {
            $(let $x = f64::from($x);)+
            round_to($e, Ty::F32, Rounding::$mode) as f32
        })
    };
}

/// An expression on `f64`, exact or rounded to odd, that is rounded to `f16` or `bf16`, alone or in pairs.
macro_rules! halves {
    ($ty:expr, |$($x:ident),+| $e:expr) => {
        match $ty {
            Ty::F16 => halves!(one F16, |$($x),+| $e),
            Ty::Bf16 => halves!(one Bf16, |$($x),+| $e),
            Ty::F16x2 => halves!(two F16, |$($x),+| $e),
            Ty::Bf16x2 => halves!(two Bf16, |$($x),+| $e),
            _ => return None,
        }
    };
    (one $ty:ident, |$($x:ident),+| $e:expr) => {
        lanes!(u64, |$($x),+| {
            $(let $x = float::value($x, Ty::$ty);)+
            bits($e, Ty::$ty, Rounding::Nearest)
        })
    };
    (two $ty:ident, |$($x:ident),+| $e:expr) => {
        lanes!(u64, |$($x),+| {
            let half = |$($x: u64),+| {
                $(let $x = float::value($x, Ty::$ty);)+
                bits($e, Ty::$ty, Rounding::Nearest)
            };
            half($($x),+) | half($($x >> 16),+) << 16
        })
    };
}

fn saturate(x: f32) -> f32 {
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

fn any_nan(a: f64, b: f64) -> bool {
    a.is_nan() || b.is_nan()
}

const FLAGS: &str = "rn rz rm rp ftz sat approx full lo hi wide NaN wrap clamp l r shiftamt";

/// The function of an arithmetic instruction and its number of operands.
pub(crate) fn lookup(op: &Opcode) -> Option<(WarpFn, usize)> {
    let ty = op.ty()?;
    if !op.only(FLAGS) || op.types.len() > 2 {
        return None;
    }
    let single = ty == Ty::F32;
    // Only the single-precision functions below look at these.
    let coarse = ty == Ty::F64 && op.has("approx") && op.has("ftz");
    if (op.has("ftz") || op.has("sat")) && !single && !coarse && op.base != "ex2" {
        return None;
    }
    if op.rounding() != Rounding::Nearest && !(single && ["add", "sub", "mul", "fma", "mad"].contains(&op.base)) {
        return None;
    }
    if op.base == "slct" {
        return Some(match *op.types.get(1)? {
            Ty::S32 => lanes!(u64, |a, b, c| if c as i32 >= 0 { a } else { b }),
            Ty::F32 => lanes!(u64, |a, b, c| if f32::from_bits(c as u32) >= 0.0 { a } else { b }),
            _ => return None,
        });
    }
    if single {
        return singles(op);
    }
    if ty == Ty::F64 {
        return doubles(op);
    }
    Some(match op.base {
        "mul" | "mad" | "mul24" | "mad24" => return products(op, ty),
        "add" if halfs(ty) => halves!(ty, |a, b| add_odd(a, b)),
        "sub" if halfs(ty) => halves!(ty, |a, b| add_odd(a, -b)),
        "fma" => halves!(ty, |a, b, c| add_odd(a * b, c)),
        "max" if halfs(ty) && op.has("NaN") => {
            halves!(ty, |a, b| if any_nan(a, b) { f64::NAN } else { maximum(a, b) })
        }
        "min" if halfs(ty) && op.has("NaN") => {
            halves!(ty, |a, b| if any_nan(a, b) { f64::NAN } else { minimum(a, b) })
        }
        "max" if halfs(ty) => halves!(ty, |a, b| maximum(a, b)),
        "min" if halfs(ty) => halves!(ty, |a, b| minimum(a, b)),
        "abs" if matches!(ty, Ty::F16 | Ty::Bf16) => lanes!(u64, |a| a & 0x7fff),
        "abs" if halfs(ty) => lanes!(u64, |a| a & 0x7fff_7fff),
        "neg" if matches!(ty, Ty::F16 | Ty::Bf16) => lanes!(u64, |a| a ^ 0x8000),
        "neg" if halfs(ty) => lanes!(u64, |a| a ^ 0x8000_8000),
        "ex2" if op.has("ftz") => {
            halves!(ty, |a| if a.exp2() < f32::MIN_POSITIVE.into() { 0.0 } else { a.exp2() })
        }
        "ex2" => halves!(ty, |a| a.exp2()),
        "tanh" => halves!(ty, |a| a.tanh()),
        "add" => ints!(ty, |a, b| a.wrapping_add(b)),
        "sub" => ints!(ty, |a, b| a.wrapping_sub(b)),
        // Division by zero gives what the hardware's sequence gives; the instruction set leaves it open.
        "div" => {
            by_sign!(ty, T => |a, b| if b == 0 { !0 } else { T::wrapping_div(a, b) }, a.checked_div(b).unwrap_or(!0))
        }
        "rem" => {
            by_sign!(ty, T => |a, b| if b == 0 { a } else { T::wrapping_rem(a, b) }, a.checked_rem(b).unwrap_or(a))
        }
        "min" => ints!(ty, |a, b| a.min(b)),
        "max" => ints!(ty, |a, b| a.max(b)),
        "neg" if ty.signed() => by_sign!(ty, T => |a| T::wrapping_neg(a), a),
        "abs" if ty.signed() => by_sign!(ty, T => |a| T::wrapping_abs(a), a),
        "and" => lanes!(u64, |a, b| a & b),
        "or" => lanes!(u64, |a, b| a | b),
        "xor" => lanes!(u64, |a, b| a ^ b),
        "not" => ints!(ty, |a| !a),
        // Amounts are u32 whatever the type, and clamp at its width.
        "shl" => match ty.bytes() {
            2 => lanes!(u64, |a, n| if n as u32 > 15 { 0 } else { a << (n as u32) & 0xffff }),
            4 => lanes!(u64, |a, n| if n as u32 > 31 { 0 } else { a << (n as u32) & 0xffff_ffff }),
            _ => lanes!(u64, |a, n| if n as u32 > 63 { 0 } else { a << (n as u32) }),
        },
        "shr" => match ty {
            Ty::U16 | Ty::B16 => lanes!(u64, |a, n| (a & 0xffff).checked_shr(n as u32).unwrap_or(0)),
            Ty::U32 | Ty::B32 => lanes!(u64, |a, n| (a & 0xffff_ffff).checked_shr(n as u32).unwrap_or(0)),
            Ty::U64 | Ty::B64 => lanes!(u64, |a, n| a.checked_shr(n as u32).unwrap_or(0)),
            Ty::S16 => lanes!(u64, |a, n| (a as i16) >> (n as u32).min(15)),
            Ty::S32 => lanes!(u64, |a, n| (a as i32) >> (n as u32).min(31)),
            Ty::S64 => lanes!(u64, |a, n| (a as i64) >> (n as u32).min(63)),
            _ => return None,
        },
        "shf" => match (op.has("l"), op.has("wrap")) {
            (true, true) => lanes!(u64, |a, b, n| ((b << 32 | a & 0xffff_ffff) << (n & 31) >> 32) as u32),
            (true, false) => {
                lanes!(u64, |a, b, n| ((b << 32 | a & 0xffff_ffff) << (n as u32).min(32) >> 32) as u32)
            }
            (false, true) => lanes!(u64, |a, b, n| ((b << 32 | a & 0xffff_ffff) >> (n & 31)) as u32),
            (false, false) => lanes!(u64, |a, b, n| ((b << 32 | a & 0xffff_ffff) >> (n as u32).min(32)) as u32),
        },
        "bfe" => match ty {
            Ty::U32 => lanes!(u64, |a, at, n| bit_field(a & 0xffff_ffff, at, n) as u32),
            Ty::U64 => lanes!(u64, |a, at, n| bit_field(a, at, n)),
            Ty::S32 => lanes!(u64, |a, at, n| signed_bit_field(a as i32 as i64, at, n, 31) as i32),
            Ty::S64 => lanes!(u64, |a, at, n| signed_bit_field(a as i64, at, n, 63)),
            _ => return None,
        },
        "bfi" => match ty.bytes() {
            4 => lanes!(u64, |a, b, at, n| insert_bits(a, b, at, n) as u32),
            _ => lanes!(u64, |a, b, at, n| insert_bits(a, b, at, n)),
        },
        "popc" => ints!(ty, |a| a.count_ones()),
        "clz" => ints!(ty, |a| a.leading_zeros()),
        "brev" => ints!(ty, |a| a.reverse_bits()),
        "bfind" => match (ty, op.has("shiftamt")) {
            (Ty::U32, false) => lanes!(u32, |a| 31u32.wrapping_sub(a.leading_zeros())),
            (Ty::S32, false) => lanes!(i32, |a| 31u32.wrapping_sub((a ^ (a >> 31)).leading_zeros())),
            (Ty::U64, false) => lanes!(u64, |a| 63u32.wrapping_sub(a.leading_zeros())),
            (Ty::S64, false) => lanes!(i64, |a| 63u32.wrapping_sub((a ^ (a >> 63)).leading_zeros())),
            (Ty::U32, true) => lanes!(u32, |a| if a == 0 { !0 } else { a.leading_zeros() }),
            (Ty::U64, true) => lanes!(u64, |a| if a == 0 { !0 } else { a.leading_zeros() }),
            _ => return None,
        },
        "prmt" => lanes!(u64, |a, b, selector| permute(b << 32 | a & 0xffff_ffff, selector)),
        "lop3" => lanes!(u64, |a, b, c, table| (0..8).filter(|index| table >> index & 1 != 0).fold(0, |out, index| {
            let pick = |x: u64, bit: u64| if index & bit != 0 { x } else { !x };
            out | pick(a, 4) & pick(b, 2) & pick(c, 1)
        }) as u32),
        _ => return None,
    })
}

fn halfs(ty: Ty) -> bool {
    matches!(ty, Ty::F16 | Ty::Bf16 | Ty::F16x2 | Ty::Bf16x2)
}

/// Integer products; the float ones of the narrow types too.
fn products(op: &Opcode, ty: Ty) -> Option<(WarpFn, usize)> {
    if halfs(ty) {
        return Some(if op.base == "mul" { halves!(ty, |a, b| a * b) } else { return None });
    }
    Some(match (op.base, op.has("wide"), op.has("hi")) {
        ("mul", true, _) => match ty {
            Ty::U16 => lanes!(u16, |a, b| u32::from(a) * u32::from(b)),
            Ty::S16 => lanes!(i16, |a, b| i32::from(a) * i32::from(b)),
            Ty::U32 => lanes!(u32, |a, b| u64::from(a) * u64::from(b)),
            Ty::S32 => lanes!(i32, |a, b| i64::from(a) * i64::from(b)),
            _ => return None,
        },
        ("mad", true, _) => match ty {
            Ty::U16 => lanes!(u64, |a, b, c| (u32::from(a as u16) * u32::from(b as u16)).wrapping_add(c as u32)),
            Ty::S16 => lanes!(u64, |a, b, c| (i32::from(a as i16) * i32::from(b as i16)).wrapping_add(c as i32)),
            Ty::U32 => lanes!(u64, |a, b, c| (u64::from(a as u32) * u64::from(b as u32)).wrapping_add(c)),
            Ty::S32 => lanes!(u64, |a, b, c| (i64::from(a as i32) * i64::from(b as i32)).wrapping_add(c as i64)),
            _ => return None,
        },
        ("mul", _, true) => {
            by_sign!(ty, T => |a, b| ((a as i128 * b as i128) >> T::BITS) as T, ((a as u128 * b as u128) >> T::BITS) as T)
        }
        ("mad", _, true) => by_sign!(ty, T => |a, b, c| (((a as i128 * b as i128) >> T::BITS) as T).wrapping_add(c),
            (((a as u128 * b as u128) >> T::BITS) as T).wrapping_add(c)),
        ("mul", ..) if op.has("lo") => ints!(ty, |a, b| a.wrapping_mul(b)),
        ("mad", ..) if op.has("lo") => ints!(ty, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        _ => return None,
    })
}

/// Approximations are the exact function rounded to the type, well within the error that the hardware may have.
fn singles(op: &Opcode) -> Option<(WarpFn, usize)> {
    Some(match op.base {
        "add" if op.rounding() == Rounding::Nearest => single!(op, |a, b| a + b),
        "sub" if op.rounding() == Rounding::Nearest => single!(op, |a, b| a - b),
        "mul" if op.rounding() == Rounding::Nearest => single!(op, |a, b| a * b),
        "fma" | "mad" if op.rounding() == Rounding::Nearest => single!(op, |a, b, c| a.mul_add(b, c)),
        "add" => directed!(op, |a, b| add_odd(a, b)),
        "sub" => directed!(op, |a, b| add_odd(a, -b)),
        "mul" => directed!(op, |a, b| a * b),
        "fma" | "mad" => directed!(op, |a, b, c| add_odd(a * b, c)),
        "div" => single!(op, |a, b| a / b),
        "rcp" => single!(op, |a| 1.0 / a),
        "sqrt" => single!(op, |a| a.sqrt()),
        "rsqrt" => single!(op, |a| (1.0 / f64::from(a).sqrt()) as f32),
        "ex2" => single!(op, |a| f64::from(a).exp2() as f32),
        "lg2" => single!(op, |a| f64::from(a).log2() as f32),
        "sin" => single!(op, |a| f64::from(a).sin() as f32),
        "cos" => single!(op, |a| f64::from(a).cos() as f32),
        "tanh" => single!(op, |a| f64::from(a).tanh() as f32),
        "max" if op.has("NaN") => {
            single!(op, |a, b| if a.is_nan() || b.is_nan() { f32::NAN } else { maximum(a.into(), b.into()) as f32 })
        }
        "min" if op.has("NaN") => {
            single!(op, |a, b| if a.is_nan() || b.is_nan() { f32::NAN } else { minimum(a.into(), b.into()) as f32 })
        }
        "max" => single!(op, |a, b| if a == b && a.is_sign_negative() {
            b
        } else if a == b {
            a
        } else {
            a.max(b)
        }),
        "min" => single!(op, |a, b| if a == b && a.is_sign_negative() {
            a
        } else if a == b {
            b
        } else {
            a.min(b)
        }),
        // Sign operations keep a NaN's payload.
        "abs" if op.has("ftz") => lanes!(u32, |a| flush(f32::from_bits(a & 0x7fff_ffff)).to_bits()),
        "abs" => lanes!(u32, |a| a & 0x7fff_ffff),
        "neg" if op.has("ftz") => lanes!(u32, |a| flush(f32::from_bits(a ^ 0x8000_0000)).to_bits()),
        "neg" => lanes!(u32, |a| a ^ 0x8000_0000),
        "copysign" => lanes!(u32, |a, b| a & 0x8000_0000 | b & 0x7fff_ffff),
        _ => return None,
    })
}

fn doubles(op: &Opcode) -> Option<(WarpFn, usize)> {
    Some(match op.base {
        "add" => lanes!(f64, |a, b| a + b),
        "sub" => lanes!(f64, |a, b| a - b),
        "mul" => lanes!(f64, |a, b| a * b),
        "fma" | "mad" => lanes!(f64, |a, b, c| a.mul_add(b, c)),
        "div" => lanes!(f64, |a, b| a / b),
        // The coarse reciprocals give the upper word only.
        "rcp" if op.has("approx") => lanes!(f64, |a| (1.0 / a).to_bits() & !0xffff_ffff),
        "rsqrt" if op.has("approx") => lanes!(f64, |a| (1.0 / a.sqrt()).to_bits() & !0xffff_ffff),
        "rcp" => lanes!(f64, |a| 1.0 / a),
        "sqrt" => lanes!(f64, |a| a.sqrt()),
        "max" => lanes!(f64, |a, b| maximum(a, b)),
        "min" => lanes!(f64, |a, b| minimum(a, b)),
        "abs" => lanes!(u64, |a| a & !(1 << 63)),
        "neg" => lanes!(u64, |a| a ^ 1 << 63),
        "copysign" => lanes!(u64, |a, b| a & 1 << 63 | b & !(1 << 63)),
        _ => return None,
    })
}

fn bit_field(a: u64, at: u64, n: u64) -> u64 {
    let (at, n) = (at & 0xff, n & 0xff);
    let low = a.checked_shr(at as u32).unwrap_or(0);
    if n > 63 { low } else { low & ((1 << n) - 1) }
}

fn signed_bit_field(a: i64, at: u64, n: u64, top: u64) -> i64 {
    let (at, n) = (at & 0xff, n & 0xff);
    if n == 0 {
        return 0;
    }
    // Beyond the top bit the field continues with the sign bit of its last existing bit.
    let sign = a >> (at + n - 1).min(top) & 1;
    (0..=top).fold(0, |out, bit| {
        let source = if bit < n && at + bit <= top { a >> (at + bit) & 1 } else { sign };
        out | source << bit
    })
}

fn insert_bits(a: u64, b: u64, at: u64, n: u64) -> u64 {
    let (at, n) = (at & 0xff, n & 0xff);
    let field = if n > 63 { u64::MAX } else { (1 << n) - 1 };
    let shift = |x: u64| x.checked_shl(at as u32).unwrap_or(0);
    b & !shift(field) | shift(a & field)
}

fn permute(bytes: u64, selector: u64) -> u32 {
    (0..4).fold(0, |out, at| {
        let pick = selector >> (4 * at) & 0xf;
        let byte = bytes >> (8 * (pick & 7)) & 0xff;
        // The fourth bit asks for the byte's sign instead.
        let byte = if pick & 8 == 0 { byte } else { (byte >> 7) * 0xff };
        out | (byte as u32) << (8 * at)
    })
}

/// The conversions that kernels are full of; the rest go through [`Conversion::apply`].
pub(crate) fn common_conversion(c: &Conversion) -> Option<WarpFn> {
    if c.integral || c.saturate || c.flush || c.mode != Rounding::Nearest {
        return None;
    }
    let (run, _) = match (c.to, c.from) {
        (Ty::F32, Ty::Bf16) => lanes!(u64, |a| f32::from_bits((a as u32) << 16)),
        (Ty::F32, Ty::F16) => lanes!(u64, |a| half::f16::from_bits(a as u16).to_f32()),
        (Ty::F64, Ty::F32) => lanes!(f32, |a| f64::from(a)),
        (Ty::F32, Ty::F64) => lanes!(f64, |a| a as f32),
        (Ty::U64 | Ty::S64, Ty::U32) | (Ty::U32 | Ty::S32, Ty::U64 | Ty::S64) => lanes!(u64, |a| a as u32),
        (Ty::U64 | Ty::S64, Ty::S32) => lanes!(i32, |a| i64::from(a)),
        _ => return None,
    };
    Some(run)
}

/// `cvt.rn.f16x2.f32 d, a, b`: `a` goes to the upper half.
pub(crate) fn packed_conversion(op: &Opcode) -> Option<WarpFn> {
    let (run, _) = match (op.types.as_slice(), op.rounding()) {
        ([Ty::F16x2, Ty::F32], Rounding::Nearest) => lanes!(f32, |a, b| pair(a, b, Ty::F16, Rounding::Nearest)),
        ([Ty::F16x2, Ty::F32], Rounding::Zero) => lanes!(f32, |a, b| pair(a, b, Ty::F16, Rounding::Zero)),
        ([Ty::Bf16x2, Ty::F32], Rounding::Nearest) => lanes!(f32, |a, b| pair(a, b, Ty::Bf16, Rounding::Nearest)),
        ([Ty::Bf16x2, Ty::F32], Rounding::Zero) => lanes!(f32, |a, b| pair(a, b, Ty::Bf16, Rounding::Zero)),
        _ => return None,
    };
    op.only("rn rz").then_some(run)
}

fn pair(upper: f32, lower: f32, ty: Ty, mode: Rounding) -> u64 {
    bits(upper.into(), ty, mode) << 16 | bits(lower.into(), ty, mode)
}

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
pub(crate) fn compare(ty: Ty, ftz: bool) -> Option<CompareFn> {
    Some(match ty {
        Ty::U16 | Ty::B16 => compare!(|x| x as u16),
        Ty::S16 => compare!(|x| x as i16),
        Ty::U32 | Ty::B32 => compare!(|x| x as u32),
        Ty::S32 => compare!(|x| x as i32),
        Ty::U64 | Ty::B64 => compare!(|x| x),
        Ty::S64 => compare!(|x| x as i64),
        Ty::F32 if ftz => compare!(|x| flush(f32::from_bits(x as u32))),
        Ty::F32 => compare!(|x| f32::from_bits(x as u32)),
        Ty::F64 => compare!(|x| f64::from_bits(x)),
        Ty::F16 => compare!(|x| half::f16::from_bits(x as u16)),
        Ty::Bf16 => compare!(|x| half::bf16::from_bits(x as u16)),
        _ => return None,
    })
}

/// `old, b, c` to the new value of an atomic operation.
pub(crate) type AtomicFn = fn(u64, u64, u64) -> u64;

/// The update of an atomic or reduction.
pub(crate) fn atomic(name: &str, ty: Ty) -> Option<AtomicFn> {
    use Ty::*;
    Some(match (name, ty) {
        ("add", U32 | S32) => |old, b, _| (old as u32).wrapping_add(b as u32).put(),
        ("add", U64 | S64) => |old, b, _| old.wrapping_add(b),
        ("add", F32) => |old, b, _| (f32::get(old) + f32::get(b)).put(),
        ("add", F64) => |old, b, _| (f64::get(old) + f64::get(b)).put(),
        ("add", F16) => |old, b, _| bits(float::value(old, F16) + float::value(b, F16), F16, Rounding::Nearest),
        ("min", U32) => |old, b, _| (old as u32).min(b as u32).put(),
        ("max", U32) => |old, b, _| (old as u32).max(b as u32).put(),
        ("min", S32) => |old, b, _| (old as i32).min(b as i32).put(),
        ("max", S32) => |old, b, _| (old as i32).max(b as i32).put(),
        ("min", U64) => |old, b, _| old.min(b),
        ("max", U64) => |old, b, _| old.max(b),
        ("min", S64) => |old, b, _| (old as i64).min(b as i64).put(),
        ("max", S64) => |old, b, _| (old as i64).max(b as i64).put(),
        ("and", B32 | U32 | S32 | B64) => |old, b, _| old & b,
        ("or", B32 | U32 | S32 | B64) => |old, b, _| old | b,
        ("xor", B32 | U32 | S32 | B64) => |old, b, _| old ^ b,
        ("inc", U32) => |old, b, _| if old as u32 >= b as u32 { 0 } else { old + 1 },
        ("dec", U32) => |old, b, _| if old as u32 == 0 || old as u32 > b as u32 { b as u32 as u64 } else { old - 1 },
        ("exch", B16 | B32 | B64 | U32 | U64 | S32 | F32) => |_, b, _| b,
        ("cas", B16) => |old, b, c| if old as u16 == b as u16 { c } else { old },
        ("cas", B32 | U32 | S32) => |old, b, c| if old as u32 == b as u32 { c } else { old },
        ("cas", B64 | U64 | S64) => |old, b, c| if old == b { c } else { old },
        _ => return None,
    })
}
