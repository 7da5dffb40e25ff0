//! Products in which nothing is lost on the way, however large or small the factors are.

/// Significand and exponent of a product, apart: `significand * 2^exponent`.
#[derive(Clone, Copy)]
pub(super) struct Product {
    /// In `[1, 2)` but for its sign; 0, infinite or NaN where a factor was.
    significand: f64,
    exponent: i32,
}

impl Product {
    pub(super) fn of(number: f64) -> Self {
        // A subnormal number has its first digit anywhere.
        const NORMAL: f64 = (1u64 << 54) as f64;
        const FRACTION: u32 = f64::MANTISSA_DIGITS - 1;
        const BIAS: i32 = f64::MAX_EXP - 1;
        if number == 0.0 || !number.is_finite() {
            return Self {
                significand: number,
                exponent: 0,
            };
        }
        let (number, less) = match number.is_subnormal() {
            true => (number * NORMAL, 54),
            false => (number, 0),
        };
        let bits = number.to_bits();
        let exponent = (bits >> FRACTION) as i32 & 0x7ff;
        let digits = bits & !(0x7ff << FRACTION);
        Self {
            significand: f64::from_bits(digits | (BIAS as u64) << FRACTION),
            exponent: exponent - BIAS - less,
        }
    }

    pub(super) fn times(self, factor: f64) -> Self {
        let factor = Self::of(factor);
        let product = Self::of(self.significand * factor.significand);
        Self {
            significand: product.significand,
            exponent: self.exponent + factor.exponent + product.exponent,
        }
    }

    pub(super) fn over(self, divisor: f64) -> Self {
        let divisor = Self::of(divisor);
        let quotient = Self::of(self.significand / divisor.significand);
        Self {
            significand: quotient.significand,
            exponent: self.exponent - divisor.exponent + quotient.exponent,
        }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        // 0 has no exponent that could be compared.
        if self.significand == 0.0 || other.significand == 0.0 {
            return if self.significand == 0.0 { other } else { self };
        }
        let (high, low) = match self.exponent >= other.exponent {
            true => (self, other),
            false => (other, self),
        };
        // Further below it is nothing beside the other, and infinity times 0 would be no number.
        let below = (low.exponent - high.exponent).max(-200);
        let sum = Self::of(high.significand + low.significand * 2f64.powi(below));
        Self {
            significand: sum.significand,
            exponent: high.exponent + sum.exponent,
        }
    }

    /// The product; infinite or 0 where it is itself beyond the type.
    pub(super) fn value(self) -> f64 {
        // Powers of two that are numbers. The last alone may round.
        const STEPS: std::ops::RangeInclusive<i32> = -900..=900;
        let mut value = self.significand;
        let mut left = self.exponent;
        while left != 0 && value != 0.0 && value.is_finite() {
            let step = left.clamp(*STEPS.start(), *STEPS.end());
            value *= 2f64.powi(step);
            left -= step;
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::Product;

    #[test]
    fn a_product_is_what_it_is_whatever_its_factors() {
        let of = |factors: &[f64]| {
            let product = factors.iter().fold(Product::of(1.0), |p, &f| p.times(f));
            product.value()
        };
        let (large, small) = (2f64.powi(1000), 2f64.powi(-1000));
        assert_eq!(of(&[large, large, small, -small, 3.0]), -3.0);
        assert_eq!(of(&[1e-300, -1e-300]), 0.0);
        assert_eq!(of(&[1e300, -1e300]), f64::NEG_INFINITY);
        assert_eq!(of(&[1e300, 1e300, 0.0]), 0.0);
        assert!(of(&[f64::INFINITY, 0.0]).is_nan() && of(&[f64::NAN]).is_nan());
        let least = f64::from_bits(1);
        assert_eq!(of(&[least]), least);
        assert_eq!(of(&[least, large, 2f64.powi(74)]), 1.0);
        assert_eq!(of(&[f64::MAX]), f64::MAX);
        assert_eq!(Product::of(least).over(least).value(), 1.0);
        assert_eq!(Product::of(6.0).over(-4.0).value(), -1.5);
    }

    #[test]
    fn a_sum_is_what_it_is_whatever_its_terms() {
        let (large, small) = (2f64.powi(1000), 2f64.powi(-1000));
        let of = |a: &[f64], b: &[f64]| {
            let product = |factors: &[f64]| {
                let factors = factors.iter();
                factors.fold(Product::of(1.0), |p, &factor| p.times(factor))
            };
            [product(a).plus(product(b)), product(b).plus(product(a))].map(Product::value)
        };
        assert_eq!(of(&[1.5], &[-0.25]), [1.25; 2]);
        assert_eq!(
            of(&[large, large], &[large, large, -0.5]),
            [f64::INFINITY; 2]
        );
        assert_eq!(of(&[large, large], &[large, -large]), [0.0; 2]);
        assert_eq!(of(&[large, -large], &[3.0]), [f64::NEG_INFINITY; 2]);
        assert_eq!(of(&[small, small], &[3.0]), [3.0; 2]);
        assert_eq!(of(&[small], &[0.0]), [small; 2]);
        assert_eq!(of(&[small, small], &[f64::INFINITY]), [f64::INFINITY; 2]);
        assert_eq!(of(&[large, large], &[f64::INFINITY]), [f64::INFINITY; 2]);
        assert!(of(&[f64::NAN], &[1.0]).iter().all(|sum| sum.is_nan()));
    }
}
