//! `2^(slope x - whole)`, without branches: what the softmax needs. `whole` is an integer, up to
//! [`Float::MOST_WHOLE`] in magnitude; `clamp` are the `x` whose exponents are the lowest and the
//! highest of all: what lies beyond is taken for them.
//!
//! With fused multiply-adds the exponent itself is never rounded. `slope x - whole = n + f` with
//! `n` an integer and `|f| <= 1/2`. Adding a number whose spacing is 1 rounds to `n` and leaves `n`
//! plus the exponent's bias in the low bits, which are shifted up to make `2^n`; `2^f` is a
//! polynomial that is 1 at 0. Within 2 ulp with fused multiply-adds and 2.1 without, for every
//! `f32` from -126.5 to 127; below it is 0, at `-infinity` too, and above about `2^127`. A NaN
//! gives NaN.
//!
//! [`Float::MOST_WHOLE`]: super::lane::Float::MOST_WHOLE

use super::arch::isa::Isa;
use super::arch::vector::Vector;

macro_rules! exp2 {
    ($float:ident, $vector:ident, bias: $bias:literal, fraction_bits: $bits:literal, $polynomial:ident $coefficients:expr) => {
        #[inline(always)]
        pub(super) fn $float<I: Isa>(
            isa: I,
            x: I::$vector,
            slope: $float,
            clamp: [$float; 2],
            whole: $float,
        ) -> I::$vector {
            let all = |x| I::$vector::splat(isa, x);
            // Of spacing 1, and halfway to the next power, so that a negative n does not change the
            // spacing.
            let shifter = all((3u64 << ($bits - 1)) as $float + $bias - whole);
            // At the n of this the shifted bits are 0, and so is the power. In this order a NaN
            // passes.
            let [lowest, highest] = clamp.map(all);
            let x = highest.or_lower(lowest.or_higher(x));
            let slope = all(slope);
            let shifted = x.times_plus(slope, shifter);
            let f = x.times_plus(slope, shifter.minus(shifted));
            let polynomial = $polynomial(isa, f, $coefficients);
            polynomial.times(shifted.low_bits_to_exponent())
        }
    };
}

/// Horner's scheme: the fewest products, and other lanes fill the wait for each.
#[inline(always)]
fn horner<I: Isa, R: Copy, V: Vector<I, R>, const N: usize>(
    isa: I,
    x: V,
    coefficients: [R; N],
) -> V {
    let mut sum = V::splat(isa, coefficients[0]);
    for &coefficient in &coefficients[1..] {
        sum = sum.times_plus(x, V::splat(isa, coefficient));
    }
    sum
}

/// Horner's scheme over pairs: half the wait for one product more. That pays where the wait is
/// long.
#[inline(always)]
fn pairs<I: Isa, R: Copy, V: Vector<I, R>, const N: usize>(
    isa: I,
    x: V,
    coefficients: [R; N],
) -> V {
    const { assert!(N.is_multiple_of(2)) };
    let square = x.times(x);
    let (pairs, _) = coefficients.as_chunks::<2>();
    let [first, second] = pairs[0];
    let mut sum = V::splat(isa, first).times_plus(x, V::splat(isa, second));
    for &[first, second] in &pairs[1..] {
        let pair = V::splat(isa, first).times_plus(x, V::splat(isa, second));
        sum = sum.times_plus(square, pair);
    }
    sum
}

// Minimax on [-1/2, 1/2] in units of the last place, the constant held at 1 (Remez, then rounded).
exp2!(f32, Single, bias: 127.0, fraction_bits: 23, horner [
    0.001_322_570_7,
    0.009_671_763,
    0.055_508_92,
    0.240_222_36,
    0.693_146_8,
    1.0,
]);

// Interpolated at Chebyshev points: 8.5e-18 of the value.
exp2!(f64, Double, bias: 1023.0, fraction_bits: 52, pairs [
    4.454_960_598_186_518e-10,
    7.072_585_949_269_224e-9,
    1.017_806_244_584_577_4e-7,
    1.321_544_258_792_169e-6,
    1.525_273_382_983_611_8e-5,
    0.000_154_035_304_417_360_5,
    0.001_333_355_814_641_693_5,
    0.009_618_129_107_606_889,
    0.055_504_108_664_821_59,
    0.240_226_506_959_100_98,
    std::f64::consts::LN_2,
    1.0,
]);

#[cfg(test)]
mod tests {
    use super::super::arch::CpuInstance;
    use super::super::arch::isa::{Isa, Kernel};
    use super::super::arch::vector::Vector;
    use super::super::lane::Float;

    /// The power of each `x`, in place.
    struct Powers<'a, R>(&'a mut [R]);

    impl<R: Float> Kernel for Powers<'_, R> {
        type Output = ();

        #[inline(always)]
        fn run<I: Isa>(self, isa: I) {
            let mut vectors = self.0.chunks_exact_mut(I::LANES);
            for x in &mut vectors {
                let vector = R::Vector::load(isa, x);
                R::exp2(isa, vector, R::ONE, R::EXPONENTS, R::default()).store(x);
            }
            assert!(vectors.into_remainder().is_empty());
        }
    }

    fn power<R: Float>(instance: CpuInstance, x: R) -> R {
        let mut lanes = [x; 16];
        instance.run(Powers(&mut lanes));
        lanes[0]
    }

    /// Whether an instance fuses multiply-adds.
    struct IsFused;

    impl Kernel for IsFused {
        type Output = bool;

        #[inline(always)]
        fn run<I: Isa>(self, _: I) -> bool {
            I::FUSED
        }
    }

    /// 2.1 without a fused multiply-add: each product is rounded.
    fn bound(instance: CpuInstance) -> f64 {
        if instance.run(IsFused) { 2.0 } else { 2.1 }
    }

    /// Holds the powers of the `f32` whose bits are in `from..to` against those in `f64`, which
    /// another test holds against the standard library.
    fn check(instance: CpuInstance, from: u32, to: u32) {
        let bound = bound(instance);
        let best = CpuInstance::available().last().expect("the baseline");
        let (mut powers, mut exact) = ([0.0f32; 1024], [0.0f64; 1024]);
        for first in (from..to).step_by(powers.len()) {
            for ((bits, x), wide) in (first..).zip(&mut powers).zip(&mut exact) {
                *x = f32::from_bits(bits);
                *wide = f64::from(*x);
            }
            instance.run(Powers(&mut powers));
            best.run(Powers(&mut exact));
            for ((bits, &power), &exact) in (first..to).zip(&powers).zip(&exact) {
                // The spacing of f32 at the exact value; from -126.5 down the power is 0.
                let ulp =
                    f64::from_bits((exact.to_bits() >> 52 << 52).max(897 << 52)) * 2f64.powi(-23);
                let bound = bound * ulp;
                let error = (f64::from(power) - exact).abs();
                let x = f32::from_bits(bits);
                let zero = x <= -126.5 && power == 0.0;
                assert!(
                    error <= bound || zero,
                    "{instance}: 2^{x:e} is {power:e}, not {exact:e}"
                );
            }
        }
    }

    /// Every `f32` whose power is neither 0 nor next to 1; of the rest the ends and a sample.
    #[test]
    fn every_f32_power_is_within_2_ulp() {
        let least = 127.0f32.to_bits();
        let tiny = f32::EPSILON.to_bits() >> 1 & 0x7F80_0000;
        let negative = 1 << 31;
        for instance in CpuInstance::available() {
            // From 2^-24 or so up to 127 in magnitude, in parts for all threads.
            // Upwards from 1/2 only: below, the polynomial is what it is for some x further down.
            let half = 0.5f32.to_bits();
            let parts = (tiny..least)
                .map(|from| (negative | from, negative | least))
                .step_by(1 << 20)
                .chain((half..least).map(|from| (from, least)).step_by(1 << 20));
            let parts: Vec<(u32, u32)> = parts.collect();
            std::thread::scope(|scope| {
                let threads = std::thread::available_parallelism().map_or(1, usize::from);
                for thread in 0..threads {
                    let parts = &parts;
                    scope.spawn(move || {
                        for &(from, end) in parts.iter().skip(thread).step_by(threads) {
                            check(instance, from, end.min(from + (1 << 20)));
                        }
                    });
                }
            });
            // Nearer to 0, where the power rounds to 1: each power of 2 and its neighbours. The
            // function is a polynomial in x there, since n = 0.
            for exponent in 0..=tiny >> 23 {
                for x in [
                    exponent << 23,
                    (exponent << 23) + 1,
                    (exponent << 23) | 0x7F_FFFF,
                ] {
                    let power = power(instance, f32::from_bits(negative | x));
                    assert!(
                        (1.0 - f32::EPSILON..=1.0).contains(&power),
                        "{instance}: {x:#x}"
                    );
                }
            }
            // Beyond, all is 0.
            for bits in (least..=f32::INFINITY.to_bits()).step_by(1021) {
                let x = f32::from_bits(negative | bits);
                assert_eq!(power(instance, x).to_bits(), 0, "{instance}: {x:e}");
            }
        }
    }

    #[test]
    fn powers_at_the_edges() {
        for instance in CpuInstance::available() {
            assert_eq!(power(instance, 0.0f32), 1.0);
            assert_eq!(power(instance, -0.0f32), 1.0);
            assert_eq!(power(instance, f32::NEG_INFINITY).to_bits(), 0);
            for x in [127.0, 128.0, 1000.0, f32::MAX, f32::INFINITY] {
                assert_eq!(power(instance, x), 2f32.powi(127), "{instance}: {x:e}");
            }
            assert_eq!(power(instance, 0.0f64), 1.0);
            assert_eq!(power(instance, f64::NEG_INFINITY).to_bits(), 0);
            for x in [1023.0, 1e6, f64::INFINITY] {
                assert_eq!(power(instance, x), 2f64.powi(1023), "{instance}: {x:e}");
            }
            // Any payload: no bit of it may end up as an exponent.
            for payload in [1, 2, 0x1FF, 0x3F_FFFF, 0x40_0000, 0x7F_FFFF] {
                assert!(power(instance, f32::from_bits(0x7F80_0000 | payload)).is_nan());
                assert!(power(instance, f32::from_bits(0xFF80_0000 | payload)).is_nan());
            }
            assert!(power(instance, f64::NAN).is_nan());
        }
    }

    #[test]
    fn f64_powers_are_within_2_ulp() {
        let mut rng = fastrand::Rng::with_seed(41);
        for instance in CpuInstance::available() {
            for _ in 0..200_000 {
                let x = -rng.f64() * if rng.bool() { 1022.0 } else { 2.0 };
                let exact = x.exp2();
                let ulp = f64::from_bits(exact.to_bits() + 1) - exact;
                let error = (power(instance, x) - exact).abs();
                // Rust's own exp2 is within half of one.
                assert!(
                    error <= 2.5 * ulp,
                    "{instance}: 2^{x:e}, {} ulp",
                    error / ulp
                );
            }
        }
    }
}
