//! Every arithmetic instruction against references that share nothing with the interpreter: integer
//! arithmetic on mantissas for roundings, loops over bits for bit operations.
#![allow(clippy::unwrap_used)] // a test may panic

mod device;

use device::{Device, Random};

/// Runs `instruction d, a, b, c` on each row of operands (`instruction@, 7`: with a literal at the
/// end); `widths` are the register sizes of `d, a, b, c` in bits, 1 for a predicate result.
fn eval(instruction: &str, widths: &[u32], inputs: &[[u64; 3]]) -> Vec<u64> {
    let name = |width: u32, index: usize| match width {
        1 => "%p1".to_owned(),
        16 => format!("%h{}", 1 + index),
        32 => format!("%r{}", 10 + index),
        _ => format!("%d{}", 10 + index),
    };
    let operands: Vec<String> = widths.iter().enumerate().map(|(index, &width)| name(width, index)).collect();
    let finish = match widths[0] {
        1 => "selp.b64 %d3, 1, 0, %p1;".to_owned(),
        64 => "mov.b64 %d3, %d10;".to_owned(),
        width => format!("cvt.u64.u{width} %d3, {};", operands[0]),
    };
    let mut body = String::from(
        "ld.param.u64 %d0, [in]; ld.param.u64 %d1, [out]; mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x;\n\
         mad.lo.u32 %r0, %r1, %r2, %r0; mul.wide.u32 %d2, %r0, 24; add.u64 %d0, %d0, %d2;\n\
         mul.wide.u32 %d2, %r0, 8; add.u64 %d1, %d1, %d2;\n",
    );
    for (index, &width) in widths.iter().enumerate().skip(1) {
        body += &format!("ld.global.u{width} {}, [%d0+{}];\n", operands[index], 8 * (index - 1));
    }
    let (name, more) = instruction.split_once('@').unwrap_or((instruction, ""));
    body += &format!("{name} {}{more};\n{finish}\nst.global.u64 [%d1], %d3;", operands.join(", "));
    let mut device = Device::kernel(".param .u64 in, .param .u64 out", &body);
    let mut padded = inputs.to_vec();
    padded.resize(inputs.len().next_multiple_of(32), inputs[0]);
    let from = device.upload_u64(&padded.concat());
    let to = device.space(8 * padded.len() as u64);
    device.run("k", padded.len() as u32 / 32, 32, &[from, to]).unwrap_or_else(|fault| panic!("{fault}"));
    device.u64s(to, inputs.len())
}

/// Compares with a reference, operand for operand.
fn check(instruction: &str, widths: &[u32], inputs: &[[u64; 3]], reference: impl Fn(u64, u64, u64) -> u64) {
    for (got, &[a, b, c]) in eval(instruction, widths, inputs).into_iter().zip(inputs) {
        let want = reference(a, b, c);
        assert_eq!(got, want, "{instruction} of {a:#x}, {b:#x}, {c:#x}: {got:#x}, not {want:#x}");
    }
}

/// The same for steps that change `%r11` and `%r12` before a last instruction takes both.
fn check_steps(steps: &str, inputs: &[[u64; 3]], reference: impl Fn(u64, u64) -> u64) {
    for (got, &[a, b, _]) in eval(steps, &[32, 32, 32], inputs).into_iter().zip(inputs) {
        assert_eq!(got, reference(a, b), "{steps} of {a:#x}, {b:#x}");
    }
}

/// All triples of the edge values, and random ones.
fn triples(edges: &[u64], random: usize) -> Vec<[u64; 3]> {
    let mut rows = Vec::new();
    for &a in edges {
        for &b in edges {
            rows.extend(edges.iter().map(|&c| [a, b, c]));
        }
    }
    let mut source = Random(7);
    rows.extend((0..random).map(|_| [source.next(), source.next(), source.next()]));
    rows
}

const F32_EDGES: [u32; 15] = [
    0x0000_0000,
    0x8000_0000,
    0x0000_0001,
    0x807f_ffff,
    0x0080_0000,
    0x3f80_0000,
    0xbf80_0000,
    0x3f80_0001,
    0x4b80_0000,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0x3300_0000,
];

fn f32_inputs() -> Vec<[u64; 3]> {
    triples(&F32_EDGES.map(u64::from), 4000)
}

fn single(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

/// Single-precision instructions give one NaN.
fn canonical(x: f32) -> u64 {
    if x.is_nan() { 0x7fff_ffff } else { x.to_bits().into() }
}

fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}

/// A binary format: digits of the significand, exponent of the least normal number, largest
/// exponent.
#[derive(Clone, Copy)]
struct Format(u32, i32, i32);
const F16: Format = Format(11, -14, 15);
const BF16: Format = Format(8, -126, 127);
const F32: Format = Format(24, -126, 127);
const F64: Format = Format(53, -1022, 1023);

/// `.rn`, `.rp`, `.rm` and `.rz`.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Nearest,
    Up,
    Down,
    Zero,
}

/// The bits of `n * 2^e` rounded, by integer arithmetic; `n` is not 0.
fn round(n: i128, e: i32, Format(digits, least, most): Format, mode: Mode) -> u64 {
    let sign = n < 0;
    let n = n.unsigned_abs();
    let top = 127 - n.leading_zeros() as i32 + e;
    let unit = top.max(least) - (digits as i32 - 1);
    let (mut kept, rest, half) = match unit - e {
        shift if shift <= 0 => (n << -shift, 0, 1),
        shift if shift > 127 => (0, 1, 2),
        shift => (n >> shift, n & ((1 << shift) - 1), 1 << (shift - 1)),
    };
    let up = match mode {
        Mode::Nearest => rest > half || rest == half && kept & 1 == 1,
        Mode::Up => !sign && rest != 0,
        Mode::Down => sign && rest != 0,
        Mode::Zero => false,
    };
    kept += u128::from(up);
    // Adding the biased exponent to the significand with its hidden bit carries over where rounding
    // went up to a power of two.
    let exponent = (unit + digits as i32 - 1 - least) as u64;
    let mut magnitude = (exponent << (digits - 1)) + kept as u64;
    let infinity = ((most - least + 2) as u64) << (digits - 1);
    if magnitude >= infinity {
        let stays = mode == Mode::Zero || mode == Mode::Up && sign || mode == Mode::Down && !sign;
        magnitude = if stays { infinity - 1 } else { infinity };
    }
    let width = match infinity {
        0..=0xffff => 16,
        0x1_0000..=0xffff_ffff => 32,
        _ => 64,
    };
    magnitude | u64::from(sign) << (width - 1)
}

/// A finite number as `n * 2^e`.
fn exact(x: f64) -> (i128, i32) {
    let bits = x.to_bits();
    let (exponent, fraction) = ((bits >> 52 & 0x7ff) as i32, (bits & ((1 << 52) - 1)) as i128);
    let (n, e) = if exponent == 0 { (fraction, -1074) } else { (fraction | 1 << 52, exponent - 1075) };
    let shift = n.trailing_zeros().min(52);
    (if x < 0.0 { -(n >> shift) } else { n >> shift }, e + shift as i32)
}

/// The exact sum of two numbers, if 127 bits hold it.
fn exact_sum((n, e): (i128, i32), (m, f): (i128, i32)) -> Option<(i128, i32)> {
    if n == 0 || m == 0 {
        return Some(if n == 0 { (m, f) } else { (n, e) });
    }
    let low = e.min(f);
    let scale = |n: i128, e: i32| {
        let shift = (e - low) as u32;
        (n.unsigned_abs().leading_zeros() > shift + 2).then(|| n << shift)
    };
    Some((scale(n, e)? + scale(m, f)?, low))
}

/// The exact result of three operands' bits, as `n * 2^e`.
type Exactly<'a> = &'a dyn Fn(u64, u64, u64) -> Option<(i128, i32)>;

#[test]
fn single_precision_arithmetic_rounds_once_in_every_mode() {
    // Exponents near each other, so that a sum is exact in 127 bits; the last group makes subnormal
    // results.
    let mut source = Random(3);
    let mut rows = Vec::new();
    for (spread, base) in [(30, 112), (3, 126), (24, 52)] {
        rows.extend((0..6000).map(|_| {
            [0, 1, 2].map(|_| {
                let random = source.next();
                (random & 0x807f_ffff) | (base + (random >> 40) % (spread + 1)) << 23
            })
        }));
    }
    let value = |bits: u64| exact(single(bits).into());
    let product = |a, b| {
        let ((n, e), (m, f)) = (value(a), value(b));
        (n * m, e + f)
    };
    let sum: Exactly = &|a, b, _| exact_sum(value(a), value(b));
    let times: Exactly = &|a, b, _| Some(product(a, b));
    let fused: Exactly = &|a, b, c| exact_sum(product(a, b), value(c));
    let cases = [
        ("add.f32", 2, sum, Mode::Nearest),
        ("mul.f32", 2, times, Mode::Nearest),
        ("mul.rp.f32", 2, times, Mode::Up),
        ("fma.rn.f32", 3, fused, Mode::Nearest),
        ("fma.rp.f32", 3, fused, Mode::Up),
        ("add.rn.f32", 2, sum, Mode::Nearest),
        ("mul.rn.f32", 2, times, Mode::Nearest),
        ("add.rz.f32", 2, sum, Mode::Zero),
        ("fma.rm.f32", 3, fused, Mode::Down),
    ];
    for (name, operands, exactly, mode) in cases {
        let got = eval(name, &[32; 4][..operands + 1], &rows);
        let mut compared = 0;
        for (got, &[a, b, c]) in got.into_iter().zip(&rows) {
            if let Some((n, e)) = exactly(a, b, c).filter(|exact| exact.0 != 0) {
                assert_eq!(got, round(n, e, F32, mode), "{name} of {a:#x}, {b:#x}, {c:#x}");
                compared += 1;
            }
        }
        assert!(compared > rows.len() / 2, "{name}: only {compared} compared");
    }
}

#[test]
fn single_precision_edges_follow_ieee_and_give_one_nan() {
    let inputs = f32_inputs();
    let double = f64::from;
    let two = |name: &str, f: fn(f64, f64) -> f64| {
        // One rounding to f64 and one to f32 is one rounding for these operations.
        check(name, &[32, 32, 32], &inputs, |a, b, _| canonical(f(double(single(a)), double(single(b))) as f32));
    };
    two("add.f32", |a, b| a + b);
    two("sub.f32", |a, b| a - b);
    two("sub.rn.f32", |a, b| a - b);
    two("mul.f32", |a, b| a * b);
    // Well within the two units that the hardware may be off.
    two("div.full.f32", |a, b| a / b);
    two("div.approx.f32", |a, b| a / b);
    two("div.rn.f32", |a, b| a / b);
    let one = |name: &str, f: fn(f64) -> f64| {
        check(name, &[32, 32], &inputs, |a, _, _| canonical(f(double(single(a))) as f32));
    };
    one("rcp.rn.f32", |a| 1.0 / a);
    one("sqrt.rn.f32", f64::sqrt);
    one("sqrt.approx.f32", f64::sqrt);
    one("rsqrt.approx.f32", |a| 1.0 / a.sqrt());
    check("rcp.approx.ftz.f32", &[32, 32], &inputs, |a, _, _| {
        canonical(flush((1.0 / double(flush(single(a)))) as f32))
    });
    check("sqrt.approx.ftz.f32", &[32, 32], &inputs, |a, _, _| canonical(flush(single(a)).sqrt()));
    check("copysign.f32", &[32, 32, 32], &inputs, |a, b, _| (a & 0x8000_0000) | (b & 0x7fff_ffff));
    check("abs.f32", &[32, 32], &inputs, |a, _, _| a & 0x7fff_ffff);
    check("neg.f32", &[32, 32], &inputs, |a, _, _| (a ^ 0x8000_0000) & 0xffff_ffff);
}

#[test]
fn terms_that_cancel_give_the_zero_of_the_direction() {
    let one = 1.0f32.to_bits();
    let rows = [[one, one, one | 1 << 31], [0, one, 0], [1 << 31, one, 0], [0, one, 1 << 31]];
    let rows = rows.map(|row| row.map(u64::from));
    assert_eq!(eval("fma.rm.f32", &[32; 4], &rows), [1 << 31, 0, 1 << 31, 1 << 31]);
    assert_eq!(eval("fma.rp.f32", &[32; 4], &rows), [0; 4]);
}

#[test]
fn the_smallest_is_the_largest_of_what_is_negated() {
    let negated = |x: u64| x ^ 0x8000_0000;
    let inputs = f32_inputs();
    let flipped: Vec<[u64; 3]> = inputs.iter().map(|row| row.map(negated)).collect();
    let want = eval("max.f32", &[32; 3], &flipped);
    for ((got, want), row) in eval("min.f32", &[32; 3], &inputs).into_iter().zip(want).zip(&inputs) {
        let nan = single(want).is_nan();
        assert!(if nan { got == want } else { got == negated(want) }, "min.f32 of {row:x?}: {got:#x}");
    }
}

#[test]
fn the_largest_is_a_number_where_there_is_one_and_zeros_are_ordered() {
    let key = |x: f32| {
        if x.is_sign_negative() { -i64::from(x.to_bits() & 0x7fff_ffff) * 2 - 1 } else { 2 * i64::from(x.to_bits()) }
    };
    check("max.f32", &[32; 3], &f32_inputs(), |a, b, _| {
        let (x, y) = (single(a), single(b));
        match (x.is_nan(), y.is_nan()) {
            (true, true) => 0x7fff_ffff,
            (true, _) => b & 0xffff_ffff,
            (_, true) => a & 0xffff_ffff,
            _ if key(x) > key(y) => a & 0xffff_ffff,
            _ => b & 0xffff_ffff,
        }
    });
}

/// The value of a 16-bit float and its reference rounding.
fn half_value(bits: u64, format: Format) -> f64 {
    let digits = format.0 as i32;
    let (fraction, exponent) = (bits & ((1 << (digits - 1)) - 1), (bits & 0x7fff) as i32 >> (digits - 1));
    let value = match exponent {
        0 => fraction as f64 * 2f64.powi(format.1 - digits + 1),
        e if e == format.2 - format.1 + 2 => {
            if fraction == 0 {
                f64::INFINITY
            } else {
                f64::NAN
            }
        }
        e => (fraction as f64 + 2f64.powi(digits - 1)) * 2f64.powi(e - 1 + format.1 - digits + 1),
    };
    if bits & 0x8000 != 0 { -value } else { value }
}

fn half_bits(x: f64, format: Format) -> u64 {
    let infinity = if format.0 == 11 { 0x7c00 } else { 0x7f80 };
    let sign = u64::from(x.is_sign_negative()) << 15;
    match exact(if x.is_finite() { x } else { 0.0 }) {
        _ if x.is_nan() => 0x7fff,
        _ if x.is_infinite() => infinity | sign,
        (0, _) => sign,
        (n, e) => round(n, e, format, Mode::Nearest),
    }
}

#[test]
fn the_largest_of_two_halves_is_taken_in_each_half_alone() {
    let edges = [0, 0x8000, 1, 0x03ff, 0x0400, 0x3c00, 0x3f80, 0x7bff, 0x7c00, 0xfc00, 0x7e01, 0x7f7f, 0x7f80, 0xff80];
    let inputs = triples(&edges, 4000);
    for (ty, format) in [("f16", F16), ("bf16", BF16)] {
        let value = |x: u64| half_value(x & 0xffff, format);
        let one = |a: u64, b: u64| {
            let (x, y) = (value(a), value(b));
            let larger = if x.is_nan() || x < y || x == y && x.is_sign_negative() { b } else { a };
            match value(larger).is_nan() {
                true if x.is_nan() => 0x7fff,
                true => a & 0xffff,
                false => larger & 0xffff,
            }
        };
        check(&format!("max.{ty}x2"), &[32; 3], &inputs, |a, b, _| one(a, b) | one(a >> 16, b >> 16) << 16);
    }
}

#[test]
fn halves_are_added_multiplied_and_compared_with_one_rounding() {
    let edges = [0, 0x8000, 1, 0x03ff, 0x0400, 0x3c00, 0x3f80, 0x3c01, 0x7bff, 0x7c00, 0xfc00, 0x7e01, 0x7f7f, 0x7f80];
    let inputs = triples(&edges, 6000);
    for (ty, format) in [("f16", F16), ("bf16", BF16)] {
        let value = |bits: u64| half_value(bits & 0xffff, format);
        // Exactly, or as IEEE has it where a number is not finite or the sum is a zero.
        let of = |a: f64, b: f64, c: f64| {
            let ieee = a.mul_add(b, c);
            if ![a, b, c].iter().all(|x| x.is_finite()) || ieee == 0.0 && (a * b == 0.0 || a * b == -c) {
                return Some(half_bits(ieee, format));
            }
            let ((n, e), (m, f)) = (exact(a), exact(b));
            let (n, e) = exact_sum((n * m, e + f), exact(c))?;
            Some(round(n, e, format, Mode::Nearest))
        };
        let compare = |name: &str, widths: &[u32], want: &dyn Fn(u64, u64, u64) -> Option<u64>| {
            let mut compared = 0;
            for (got, &[a, b, c]) in eval(name, widths, &inputs).into_iter().zip(&inputs) {
                if let Some(want) = want(a, b, c) {
                    assert_eq!(got, want, "{name} of {a:#x}, {b:#x}, {c:#x}: {got:#x}, not {want:#x}");
                    compared += 1;
                }
            }
            assert!(compared > inputs.len() / 3, "{name}: only {compared} compared");
        };
        compare(&format!("fma.rn.{ty}"), &[16; 4], &|a, b, c| of(value(a), value(b), value(c)));
        if ty == "bf16" {
            compare("fma.rn.bf16x2", &[32; 4], &|a, b, c| {
                let upper = of(value(a >> 16), value(b >> 16), value(c >> 16))?;
                Some(upper << 16 | of(value(a), value(b), value(c))?)
            });
        } else {
            compare("add.f16", &[16; 3], &|a, b, _| of(value(a), 1.0, value(b)));
            compare("sub.f16", &[16; 3], &|a, b, _| of(value(b), -1.0, value(a)));
            compare("mul.f16", &[16; 3], &|a, b, _| {
                let (a, b) = (value(a), value(b));
                of(a, b, if (a * b).is_sign_negative() { -0.0 } else { 0.0 })
            });
        }
        for (name, larger) in [("max.NaN", true), ("min.NaN", false)] {
            compare(&format!("{name}.{ty}"), &[16; 3], &|a, b, _| {
                let (x, y) = (value(a), value(b));
                let less = x < y || x == y && x.is_sign_negative();
                let chosen = if less == larger { b } else { a };
                Some(if x.is_nan() || y.is_nan() { 0x7fff } else { chosen & 0xffff })
            });
        }
        compare(&format!("neg.{ty}"), &[16; 2], &|a, _, _| Some((a ^ 0x8000) & 0xffff));
        compare(&format!("abs.{ty}"), &[16; 2], &|a, _, _| Some(a & 0x7fff));
    }
    let value = |bits: u64| half_value(bits & 0xffff, F16);
    check("set.eq.f16.f16", &[16; 3], &inputs, |a, b, _| if value(a) == value(b) { 0x3c00 } else { 0 });
    check("setp.lt.f16", &[1, 16, 16], &inputs, |a, b, _| (value(a) < value(b)).into());
    check("setp.neu.f16", &[1, 16, 16], &inputs, |a, b, _| (value(a) != value(b)).into());
    let one = |holds| if holds { 1.0f32.to_bits().into() } else { 0 };
    let singles = f32_inputs();
    check("set.eq.f32.f32", &[32; 3], &singles, |a, b, _| one(single(a) == single(b)));
    check("set.neu.f32.f32", &[32; 3], &singles, |a, b, _| one(single(a) != single(b)));
    check("set.lt.f32.f32", &[32; 3], &singles, |a, b, _| one(single(a) < single(b)));
    check("set.le.f32.f32", &[32; 3], &singles, |a, b, _| one(single(a) <= single(b)));
    check("set.gt.f32.f32", &[32; 3], &singles, |a, b, _| one(single(a) > single(b)));
    check("set.ge.f32.f32", &[32; 3], &singles, |a, b, _| one(single(a) >= single(b)));
}

#[test]
fn conversions_between_floats_round_to_nearest() {
    let mut values: Vec<f64> = F32_EDGES.map(|bits| f64::from(f32::from_bits(bits))).to_vec();
    // Ties of the narrower formats, and their neighbours.
    for base in
        [1.0 + 2f64.powi(-8), 1.0 + 2f64.powi(-11), 1.0 + 3.0 * 2f64.powi(-11), 65519.99, 65520.0, 3e-8, 2.98e-8, 6e-5]
    {
        values.extend([base, -base, base * (1.0 + 1e-7), base * (1.0 - 1e-7)]);
    }
    let mut source = Random(5);
    values.extend((0..3000).map(|_| f64::from(f32::from_bits(source.next() as u32))));
    let rows: Vec<[u64; 3]> = values.iter().map(|&x| [(x as f32).to_bits().into(), 0, 0]).collect();
    let doubles: Vec<[u64; 3]> = values.iter().map(|&x| [(x * (1.0 + 1e-12)).to_bits(), 0, 0]).collect();
    for (ty, format) in [("f16", F16), ("bf16", BF16)] {
        let of = |a: u64| half_bits(single(a).into(), format);
        check(&format!("cvt.rn.{ty}.f32"), &[16, 32], &rows, |a, _, _| of(a));
        check(&format!("cvt.rn.{ty}x2.f32"), &[32, 32, 32], &rows, |a, b, _| of(a) << 16 | of(b));
    }
    // What only the lower half of a double tells from a tie.
    let near_ties = [1.0 + 2f64.powi(-11), 1.0 + 3.0 * 2f64.powi(-11), 65520.0, 1.5 * 2f64.powi(-24)];
    let beside = near_ties.iter().flat_map(|&x| [x.next_up(), x.next_down(), -x.next_up()]);
    let near_ties: Vec<[u64; 3]> = beside.map(|x| [x.to_bits(), 0, 0]).collect();
    for rows in [&doubles, &near_ties] {
        check("cvt.rn.f16.f64", &[16, 64], rows, |a, _, _| half_bits(f64::from_bits(a), F16));
    }
    check("cvt.f64.f32", &[64, 32], &rows, |a, _, _| f64::from(single(a)).to_bits());
    check("cvt.rn.f32.f64", &[32, 64], &doubles, |a, _, _| match f64::from_bits(a) {
        x if x.is_nan() => 0x7fff_ffff,
        x if x == 0.0 || x.is_infinite() => (x as f32).to_bits().into(),
        x => round(exact(x).0, exact(x).1, F32, Mode::Nearest),
    });
    for (ty, format) in [("f16", F16), ("bf16", BF16)] {
        let all: Vec<[u64; 3]> = (0..0x1_0000).map(|bits| [bits, 0, 0]).collect();
        for (got, [bits, ..]) in eval(&format!("cvt.f32.{ty}"), &[32, 16], &all).into_iter().zip(all) {
            let want = half_value(bits, format);
            assert!(single(got) as f64 == want || single(got).is_nan() && want.is_nan(), "{ty} {bits:#x}: {got:#x}");
        }
    }
}

#[test]
fn conversions_of_integers_cut_and_extend() {
    let integers = triples(
        &[0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0x7fff_ffff, 0x8000_0000, u64::MAX, 1 << 63, 0x1_0000_0080],
        500,
    );
    check("cvt.s32.s16", &[32, 16], &integers, |a, _, _| (a as i16 as i32 as u32).into());
    check("cvt.s64.s32", &[64, 32], &integers, |a, _, _| a as i32 as i64 as u64);
    check("cvt.u64.u32", &[64, 32], &integers, |a, _, _| a as u32 as u64);
    check("cvt.u32.u64", &[32, 64], &integers, |a, _, _| a as u32 as u64);
    check("cvt.s32.s8", &[32, 32], &integers, |a, _, _| (a as i8 as u32).into());
    check("cvt.u32.u8", &[32, 32], &integers, |a, _, _| (a as u8).into());
    check("cvt.u32.u16", &[32, 16], &integers, |a, _, _| (a as u16).into());
    check("cvt.u16.u32", &[16, 32], &integers, |a, _, _| a & 0xffff);
    check("cvt.rn.f64.u64", &[64, 64], &integers, |a, _, _| (a as f64).to_bits());
    check("cvt.rn.f64.u16", &[64, 16], &integers, |a, _, _| f64::from(a as u16).to_bits());
}

/// The bits of an integer rounded.
fn rounded(n: i128, format: Format, mode: Mode) -> u64 {
    if n == 0 { 0 } else { round(n, 0, format, mode) }
}

#[test]
fn integers_become_floats_with_one_rounding() {
    let edges = [0, 1, 0x7ff, 0x801, 0xfff_ffff, 0x1ff_ffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 63, u64::MAX];
    let rows = triples(&edges, 2000);
    for (flag, mode) in [("rn", Mode::Nearest), ("rp", Mode::Up), ("rm", Mode::Down), ("rz", Mode::Zero)] {
        check(&format!("cvt.{flag}.f32.s32"), &[32, 32], &rows, |a, _, _| rounded((a as i32).into(), F32, mode));
        check(&format!("cvt.{flag}.f32.u32"), &[32, 32], &rows, |a, _, _| rounded((a as u32).into(), F32, mode));
    }
    let near = |n: i128, format| rounded(n, format, Mode::Nearest);
    check("cvt.rn.f32.s64", &[32, 64], &rows, |a, _, _| near((a as i64).into(), F32));
    check("cvt.rn.f32.u16", &[32, 16], &rows, |a, _, _| near((a as u16).into(), F32));
    check("cvt.rn.f64.s64", &[64, 64], &rows, |a, _, _| near((a as i64).into(), F64));
    check("cvt.rn.f64.u32", &[64, 32], &rows, |a, _, _| near((a as u32).into(), F64));
    check("cvt.rn.f16.s32", &[16, 32], &rows, |a, _, _| near((a as i32).into(), F16));
    check("cvt.rn.f16.u32", &[16, 32], &rows, |a, _, _| near((a as u32).into(), F16));
}

/// The whole number at or below `x` in magnitude, and whether something was cut off.
fn cut(x: f64) -> (i128, bool) {
    let (n, e) = exact(x);
    match e {
        0.. if e < 70 => (n << e, false),
        0.. => (if n > 0 { i128::MAX } else { -i128::MAX }, false),
        -126..=-1 => (n / (1 << -e), n % (1 << -e) != 0),
        _ => (0, n != 0),
    }
}

#[test]
fn floats_are_cut_to_integers_and_clamped() {
    let mut values: Vec<f64> = F32_EDGES.map(|bits| f64::from(f32::from_bits(bits))).to_vec();
    values.extend([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.99, -0.99, 2.3e9, 4.4e9, -2.3e9, 1e19, -1e19, 1.9e19, 300.7]);
    let mut source = Random(9);
    values.extend((0..2000).map(|_| (source.next() as i32 as f64) / 2f64.powi((source.next() % 40) as i32)));
    let singles: Vec<[u64; 3]> = values.iter().map(|&x| [(x as f32).to_bits().into(), 0, 0]).collect();
    let doubles: Vec<[u64; 3]> = values.iter().map(|&x| [x.to_bits(), 0, 0]).collect();
    let halves: Vec<[u64; 3]> = (0..0x1_0000).map(|bits| [bits, 0, 0]).collect();
    let to = |x: f64, nan: i128, least: i128, most: i128| match x {
        x if x.is_nan() => nan,
        x if x.is_infinite() => {
            if x > 0.0 {
                most
            } else {
                least
            }
        }
        x => cut(x).0.clamp(least, most),
    };
    let (long, word) = (i128::from(i64::MIN), i128::from(u32::MAX));
    let wide = |a: u64| f64::from(single(a));
    check("cvt.rzi.s32.f32", &[32, 32], &singles, |a, _, _| {
        (to(wide(a), 0, i32::MIN.into(), i32::MAX.into()) as u32).into()
    });
    check("cvt.rzi.u32.f32", &[32, 32], &singles, |a, _, _| to(wide(a), 0, 0, word) as u64);
    check("cvt.rzi.s64.f32", &[64, 32], &singles, |a, _, _| to(wide(a), long, long, i64::MAX.into()) as u64);
    check("cvt.rzi.s64.f64", &[64, 64], &doubles, |a, _, _| to(f64::from_bits(a), long, long, i64::MAX.into()) as u64);
    check("cvt.rzi.u32.f64", &[32, 64], &doubles, |a, _, _| to(f64::from_bits(a), 1 << 31, 0, word) as u64);
    check("cvt.rzi.u32.f16", &[32, 16], &halves, |a, _, _| to(half_value(a, F16), 0, 0, word) as u64);
}

#[test]
fn floats_are_rounded_to_whole_numbers_and_saturated() {
    let mut values: Vec<f64> = F32_EDGES.map(|bits| f64::from(f32::from_bits(bits))).to_vec();
    values.extend([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.99, -0.99, 8_388_607.5, -8_388_607.5, 1e-30, 0.25]);
    let mut source = Random(13);
    values.extend((0..2000).map(|_| f64::from((source.next() as i32 as f32) / 2f32.powi((source.next() % 40) as i32))));
    let singles: Vec<[u64; 3]> = values.iter().map(|&x| [(x as f32).to_bits().into(), 0, 0]).collect();
    let doubles: Vec<[u64; 3]> = values.iter().map(|&x| [x.to_bits(), 0, 0]).collect();
    // The whole number beside what is cut off, by the direction; a zero keeps its sign.
    let whole = |x: f64, flag: &str| {
        if !x.is_finite() || x.abs() > 1e15 {
            return x;
        }
        let (n, inexact) = cut(x);
        let twice = cut(2.0 * x);
        let away = match flag {
            "rmi" => inexact && x < 0.0,
            "rpi" => inexact && x > 0.0,
            "rni" => inexact && twice.0 & 1 != 0 && (twice.1 || n & 1 != 0),
            _ => false,
        };
        let n = n + i128::from(away) * if x < 0.0 { -1 } else { 1 };
        (n as f64).abs().copysign(x)
    };
    for flag in ["rmi", "rpi", "rni", "rzi"] {
        check(&format!("cvt.{flag}.f32.f32"), &[32, 32], &singles, |a, _, _| {
            canonical(whole(single(a).into(), flag) as f32)
        });
        if flag == "rni" {
            continue;
        }
        for (got, [a, ..]) in eval(&format!("cvt.{flag}.f64.f64"), &[64, 64], &doubles).into_iter().zip(&doubles) {
            let (got, want) = (f64::from_bits(got), whole(f64::from_bits(*a), flag));
            assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{flag}: {got}, not {want}");
        }
    }
    check("cvt.sat.f32.f32", &[32, 32], &singles, |a, _, _| match single(a) {
        x if x >= 1.0 => 1.0f32.to_bits().into(),
        x if x > 0.0 => a,
        _ => 0,
    });
}

#[test]
fn double_precision_is_ieee() {
    let edges = [0.0f64, -0.0, 1.0, -1.0, 1e308, 5e-324, f64::INFINITY, f64::NEG_INFINITY, 0.1, 1.0 / 3.0];
    let inputs = triples(&edges.map(f64::to_bits), 0);
    let near = |name: &str, want: fn(f64, f64, f64) -> f64| {
        let widths = if name.starts_with("fma") { &[64; 4][..] } else { &[64; 3] };
        for (got, &[a, b, c]) in eval(name, widths, &inputs).into_iter().zip(&inputs) {
            let (got, want) = (f64::from_bits(got), want(f64::from_bits(a), f64::from_bits(b), f64::from_bits(c)));
            assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{name}: {got:e}, not {want:e}");
        }
    };
    near("add.f64", |a, b, _| a + b);
    near("sub.f64", |a, b, _| a - b);
    near("div.rn.f64", |a, b, _| a / b);
    near("fma.rn.f64", f64::mul_add);
    near("add.rn.f64", |a, b, _| a + b);
    near("mul.f64", |a, b, _| a * b);
    near("mul.rn.f64", |a, b, _| a * b);
    let ordered = |a: f64, b: f64| a < b || a == b && a.is_sign_negative();
    let pairs: Vec<[u64; 3]> = triples(&[edges.map(f64::to_bits).as_slice(), &[f64::NAN.to_bits()]].concat(), 0);
    for (name, larger) in [("max.f64", true), ("min.f64", false)] {
        for (got, &[a, b, _]) in eval(name, &[64; 3], &pairs).into_iter().zip(&pairs) {
            let (x, y) = (f64::from_bits(a), f64::from_bits(b));
            let second = x.is_nan() || !y.is_nan() && ordered(x, y) == larger;
            let want = if second { b } else { a };
            assert!(got == want || f64::from_bits(want).is_nan() && f64::from_bits(got).is_nan(), "{name} of {x}, {y}");
        }
    }
    for (name, want) in [("sqrt.rn.f64", f64::sqrt as fn(f64) -> f64), ("rcp.rn.f64", |a| 1.0 / a)] {
        for (got, [a, ..]) in eval(name, &[64, 64], &inputs).into_iter().zip(&inputs) {
            let (got, want) = (f64::from_bits(got), want(f64::from_bits(*a)));
            assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{name}: {got:e}, not {want:e}");
        }
    }
    // Exponents near each other, so that a sum is exact in 127 bits.
    let mut source = Random(17);
    let near_one = |x: u64| (x & !(0x7ff << 52)) | (1000 + (x >> 20) % 60) << 52;
    let close: Vec<[u64; 3]> = (0..4000).map(|_| [source.next(), source.next(), 0].map(near_one)).collect();
    for (got, &[a, b, _]) in eval("add.rz.f64", &[64; 3], &close).into_iter().zip(&close) {
        let sum = exact_sum(exact(f64::from_bits(a)), exact(f64::from_bits(b)));
        if let Some((n, e)) = sum.filter(|sum| sum.0 != 0) {
            assert_eq!(got, round(n, e, F64, Mode::Zero), "add.rz.f64 of {a:#x}, {b:#x}");
        }
    }
    let most = [[f64::MAX.to_bits(), 1e300f64.to_bits(), 0], [(-f64::MAX).to_bits(), (-1e300f64).to_bits(), 0]];
    assert_eq!(eval("add.rz.f64", &[64; 3], &most), [f64::MAX.to_bits(), (-f64::MAX).to_bits()]);
    check("neg.f64", &[64, 64], &inputs, |a, _, _| a ^ 1 << 63);
    check("copysign.f64", &[64; 3], &inputs, |a, b, _| (a & 1 << 63) | (b & !(1 << 63)));
    check("abs.f64", &[64, 64], &inputs, |a, _, _| a & !(1 << 63));
}

#[test]
fn approximations_are_within_two_units_and_exact_where_it_matters() {
    let mut source = Random(11);
    let rows: Vec<[u64; 3]> =
        (0..4000).map(|_| [u64::from(((source.next() as i32) as f32 / 2e7).to_bits()), 0, 0]).collect();
    type Reference = fn(f64) -> f64;
    let cases: [(&str, Reference); 4] = [
        ("ex2.approx.ftz.f32", f64::exp2),
        ("lg2.approx.ftz.f32", f64::log2),
        ("ex2.approx.f32", f64::exp2),
        ("lg2.approx.f32", f64::log2),
    ];
    for (name, reference) in cases {
        let flush = |x: f32| if name.contains("ftz") { flush(x) } else { x };
        for (got, [a, ..]) in eval(name, &[32, 32], &rows).into_iter().zip(&rows) {
            let (got, want) = (single(got), flush(reference(single(*a).into()) as f32));
            let distance = (i64::from(got.to_bits()) - i64::from(want.to_bits())).abs();
            assert!(got.is_nan() && want.is_nan() || distance <= 2, "{name} of {}: {got}, not {want}", single(*a));
        }
    }
    let special = |name: &str, pairs: &[(f32, f32)]| {
        let rows: Vec<[u64; 3]> = pairs.iter().map(|pair| [pair.0.to_bits().into(), 0, 0]).collect();
        for (got, (x, want)) in eval(name, &[32, 32], &rows).into_iter().zip(pairs) {
            assert_eq!(got, canonical(*want), "{name} of {x}");
        }
    };
    let infinity = f32::INFINITY;
    special(
        "ex2.approx.ftz.f32",
        &[
            (0.0, 1.0),
            (-infinity, 0.0),
            (infinity, infinity),
            (3.0, 8.0),
            (-130.0, 0.0),
            (f32::NAN, f32::NAN),
            (1e-40, 1.0),
        ],
    );
    special("ex2.approx.ftz.f32", &[(-126.0, f32::MIN_POSITIVE), (128.0, infinity)]);
    special("ex2.approx.f32", &[(-130.0, 2f32.powi(-130)), (128.0, infinity)]);
    special("lg2.approx.f32", &[(2f32.powi(-140), -140.0), (0.0, -infinity), (-1.0, f32::NAN)]);
    // A reciprocal to begin with: 20 bits of it, and zeros behind them.
    let mut source = Random(19);
    let normal = (0..2000).map(|_| [(source.next() & !(0x7ff << 52)) | (1023 - 300 + source.next() % 600) << 52, 0, 0]);
    let rows: Vec<[u64; 3]> = normal.collect();
    for (got, [a, ..]) in eval("rcp.approx.ftz.f64", &[64, 64], &rows).into_iter().zip(&rows) {
        let off = (f64::from_bits(got) * f64::from_bits(*a) - 1.0).abs();
        assert!(off < 2f64.powi(-19) && got as u32 == 0, "rcp.approx.ftz.f64 of {a:#x}: {got:#x}");
    }
    let edges = [(0.0, f64::INFINITY), (-0.0, -f64::INFINITY), (-f64::INFINITY, -0.0), (1e-310, f64::INFINITY)];
    for (x, want) in edges {
        let got = eval("rcp.approx.ftz.f64", &[64, 64], &[[x.to_bits(), 0, 0]]);
        assert_eq!(got, [want.to_bits()], "rcp.approx.ftz.f64 of {x}");
    }
    special(
        "lg2.approx.ftz.f32",
        &[(0.0, -infinity), (-1.0, f32::NAN), (8.0, 3.0), (infinity, infinity), (1e-40, -infinity)],
    );
}

#[test]
fn integer_products_quotients_and_extremes_are_exact() {
    let edges = [0, 1, 2, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 63, u64::MAX, 1 << 40];
    let rows = triples(&edges, 1000);
    check("mul.lo.s32", &[32; 3], &rows, |a, b, _| a.wrapping_mul(b) & 0xffff_ffff);
    check("mul.hi.u32", &[32; 3], &rows, |a, b, _| (a as u32 as u64 * b as u32 as u64) >> 32);
    check("mul.wide.s32", &[64, 32, 32], &rows, |a, b, _| (a as i32 as i64 * b as i32 as i64) as u64);
    check("mad.lo.s32", &[32; 4], &rows, |a, b, c| a.wrapping_mul(b).wrapping_add(c) & 0xffff_ffff);
    let nonzero: Vec<[u64; 3]> =
        rows.iter().copied().filter(|row| row[1] as u32 != 0 && row[1] & 0xffff != 0).collect();
    check("div.u32", &[32; 3], &nonzero, |a, b, _| (a as u32 / b as u32).into());
    check("div.u64", &[64; 3], &nonzero, |a, b, _| a / b);
    check("div.u16", &[16; 3], &nonzero, |a, b, _| (a as u16 / b as u16).into());
    check("div.s64", &[64; 3], &nonzero, |a, b, _| (a as i64).wrapping_div(b as i64) as u64);
    check("rem.u64", &[64; 3], &nonzero, |a, b, _| a % b);
    check("rem.u32", &[32; 3], &nonzero, |a, b, _| (a as u32 % b as u32).into());
    check("mul.wide.u32", &[64, 32, 32], &rows, |a, b, _| a as u32 as u64 * b as u32 as u64);
    check("sub.s16", &[16; 3], &rows, |a, b, _| a.wrapping_sub(b) & 0xffff);
    check("min.s32", &[32; 3], &rows, |a, b, _| ((a as i32).min(b as i32) as u32).into());
    check("max.u64", &[64; 3], &rows, |a, b, _| a.max(b));
    check("neg.s32", &[32; 2], &rows, |a, _, _| a.wrapping_neg() & 0xffff_ffff);
}

#[test]
fn shifts_clamp_and_bits_are_combined() {
    let edges = [0, 1, 5, 15, 16, 31, 32, 33, 63, 64, 0xff, 0x8000_0000, 0xdead_beef, 0x0123_4567_89ab_cdef, u64::MAX];
    let rows = triples(&edges, 1000);
    let amount = |n: u64| n as u32;
    check("shl.b32", &[32; 3], &rows, |a, n, _| if amount(n) > 31 { 0 } else { (a as u32) << amount(n) }.into());
    check("shl.b64", &[64, 64, 32], &rows, |a, n, _| if amount(n) > 63 { 0 } else { a << amount(n) });
    check("shr.u32", &[32; 3], &rows, |a, n, _| if amount(n) > 31 { 0 } else { (a as u32) >> amount(n) }.into());
    check("shr.u64", &[64, 64, 32], &rows, |a, n, _| if amount(n) > 63 { 0 } else { a >> amount(n) });
    check("shr.s32", &[32; 3], &rows, |a, n, _| (((a as i32) >> amount(n).min(31)) as u32).into());
    check("not.b16", &[16; 2], &rows, |a, _, _| !a & 0xffff);
    check("xor.b32", &[32; 3], &rows, |a, b, _| (a ^ b) & 0xffff_ffff);
    check("and.b32@, -16", &[32; 2], &rows, |a, _, _| a & 0xffff_fff0);
}

#[test]
fn comparisons_treat_nan_as_unordered_and_integers_by_sign() {
    type Holds = fn(Option<std::cmp::Ordering>) -> bool;
    use std::cmp::Ordering::*;
    let cases: [(&str, Holds); 14] = [
        ("equ", |o| matches!(o, None | Some(Equal))),
        ("ltu", |o| matches!(o, None | Some(Less))),
        ("eq", |o| o == Some(Equal)),
        ("ne", |o| matches!(o, Some(Less | Greater))),
        ("lt", |o| o == Some(Less)),
        ("le", |o| matches!(o, Some(Less | Equal))),
        ("gt", |o| o == Some(Greater)),
        ("ge", |o| matches!(o, Some(Greater | Equal))),
        ("neu", |o| o != Some(Equal)),
        ("leu", |o| o != Some(Greater)),
        ("gtu", |o| matches!(o, None | Some(Greater))),
        ("geu", |o| o != Some(Less)),
        ("num", |o| o.is_some()),
        ("nan", |o| o.is_none()),
    ];
    for (name, holds) in cases {
        let want = |a: u64, b: u64| holds(single(a).partial_cmp(&single(b))).into();
        check(&format!("setp.{name}.f32"), &[1, 32, 32], &f32_inputs(), |a, b, _| want(a, b));
    }
    let rows = triples(&[0, 1, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, u64::MAX], 200);
    check("setp.lt.s32", &[1, 32, 32], &rows, |a, b, _| ((a as i32) < b as i32).into());
    check("setp.lt.u32", &[1, 32, 32], &rows, |a, b, _| ((a as u32) < b as u32).into());
    check("setp.ge.s16", &[1, 16, 16], &rows, |a, b, _| (a as i16 >= b as i16).into());
    check("setp.gt.u64", &[1, 64, 64], &rows, |a, b, _| (a > b).into());
    check("setp.ne.b16", &[1, 16, 16], &rows, |a, b, _| (a as u16 != b as u16).into());
    // Combined with a predicate.
    let steps = "setp.eq.u32 %p4, %r11, 0; setp.ge.and.u32 %p5, %r11, %r12, !%p4;
        selp.b32 %r11, 1, 0, %p5; selp.b32 %r12, 2, 0, %p4; or.b32";
    check_steps(steps, &rows, |a, b| {
        let zero = a as u32 == 0;
        u64::from(a as u32 >= b as u32 && !zero) | u64::from(zero) << 1
    });
}
