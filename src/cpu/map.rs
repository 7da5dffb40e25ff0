//! How logits off the target become exponents and exponentials.
//!
//! Every exponential of a row is relative to its *pivot*, so that none overflows: `exp(z_j - m)`,
//! where `m` is the shift at the pivot. A pivot is chosen by *order*: what grows with the exponent
//! and is cheap to compare.

use std::f64::consts::{LN_2, LOG2_E};

use super::arch::isa::Isa;
use super::arch::vector::Vector;
use super::lane::Float;
use crate::table::log2::{Log2Maps, Log2Table};

/// Exponents beyond this are taken with care: so far out the spacing of `f64` alone costs a loss
/// 2.4e-7.
const FAR_OUT: f64 = (1u64 << 30) as f64;

/// What logits have in common may be so much where they are added up as they are: the exponents of
/// cosines under the usual scales are as large.
pub(super) const MOST_GATHERED: f64 = 64.0;

/// What exponentials are relative to: an order near the row's highest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pivot<R> {
    pub(super) order: R,
    /// What is taken off the exponent.
    whole_exponent: R,
    /// What the lowest and the highest exponents belong to: logits, or distances from the pivot.
    clamp: [R; 2],
    /// Whether the pivot is taken off first instead, as a number.
    pub(super) subtract_first: bool,
}

impl<R: Float> Pivot<R> {
    fn new(order: R) -> Self {
        Self {
            order,
            whole_exponent: R::default(),
            clamp: R::EXPONENTS,
            subtract_first: true,
        }
    }

    /// With nothing above `-infinity`, every distance from it would be a NaN; from any number the
    /// exponentials are 0.
    #[inline(always)]
    fn finite(self) -> R {
        if self.order == R::NEG_INFINITY {
            R::default()
        } else {
            self.order
        }
    }
}

/// The maps of a row's logits off the target. `class` is that of the first lane.
pub(super) trait Map<R: Float>: Copy + Send + Sync {
    /// Whether a pivot may be one that is not taken off first.
    const WHOLE_EXPONENTS: bool;

    fn order<I: Isa>(self, isa: I, class: usize, x: R::Vector<I>) -> R::Vector<I>;

    fn pivot<I: Isa>(self, order: R) -> Pivot<R>;

    /// `exp(z - m)` for logits `x`, where `m` is the shift at `pivot`, which is taken off first or
    /// not; 0 for `-infinity`.
    #[inline(always)]
    fn exponentials<I: Isa, const SUBTRACT_FIRST: bool>(
        self,
        isa: I,
        class: usize,
        x: R::Vector<I>,
        pivot: Pivot<R>,
    ) -> R::Vector<I> {
        self.exponentials_and_measures::<I, SUBTRACT_FIRST>(isa, class, x, pivot)
            .0
    }

    /// The same, and of each logit the measure: what may be added up, for
    /// [`gathered`](Self::gathered) to make the sum of `z - m` of.
    fn exponentials_and_measures<I: Isa, const SUBTRACT_FIRST: bool>(
        self,
        isa: I,
        class: usize,
        x: R::Vector<I>,
        pivot: Pivot<R>,
    ) -> (R::Vector<I>, R::Vector<I>);

    /// `sum_j (z_j - m)` of so many logits whose measures add up to `sum`; `None` where rounding
    /// would cost it digits. No number where a logit is none.
    fn gathered(self, sum: f64, count: usize, pivot: Pivot<R>) -> Option<f64>;

    /// `z - m` for logits `x` in units of log2, as [`exponentials`](Self::exponentials) has them.
    fn exponents<I: Isa>(
        self,
        isa: I,
        class: usize,
        x: R::Vector<I>,
        pivot: Pivot<R>,
    ) -> R::Vector<I>;

    /// `e` times what of the slope differs between classes.
    fn times_class_slope<I: Isa>(self, isa: I, class: usize, e: R::Vector<I>) -> R::Vector<I>;

    /// What of the slope is the same for all classes.
    fn common_slope(self) -> f64;

    /// `m` of the row's formulas at `pivot`.
    fn shift(self, pivot: Pivot<R>) -> f64;

    /// The pivot that counts from the exponent of this logit under `slope` on, or nearly so.
    fn pivot_at<I: Isa>(self, logit: f64, slope: f64) -> Pivot<R>;

    /// The inverse: a logit that has nearly the exponent at `pivot`.
    fn logit_at(self, pivot: Pivot<R>, slope: f64) -> f64;

    /// An order, or `-infinity` for one so low that it may only be a mask: a row has no pivot
    /// before there is a higher one.
    fn unmasked(self, order: R) -> R {
        order
    }

    /// Whether exponents so far out are too coarse for vectors; with nothing above `-infinity` too.
    fn needs_care(self, pivot: Pivot<R>) -> bool;
}

/// One slope for all and no offsets: the order is the logit itself.
///
/// With fused multiply-adds the pivot is a whole exponent, taken off within the exponent's own
/// rounding, as long as it is not too large. Else the logit at the pivot is taken off the others
/// before the slope is applied: exact near the pivot, whatever the logits' common offset and though
/// the slope be rounded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Uniform<R> {
    slope: f64,
    slope_log2: R,
    /// Of [`slope_log2`](Self::slope_log2).
    inverse: f64,
}

impl<R: Float> Uniform<R> {
    pub(super) fn new(slope: f64) -> Self {
        let slope_log2 = R::from_f64(slope * LOG2_E);
        Self {
            slope,
            slope_log2,
            inverse: slope_log2.to_f64().recip(),
        }
    }
}

impl<R: Float> Map<R> for Uniform<R> {
    const WHOLE_EXPONENTS: bool = true;

    #[inline(always)]
    fn order<I: Isa>(self, _: I, _: usize, x: R::Vector<I>) -> R::Vector<I> {
        x
    }

    #[inline(always)]
    fn pivot<I: Isa>(self, order: R) -> Pivot<R> {
        let exponent = self.slope_log2.to_f64() * order.to_f64();
        let clamp =
            |whole| R::EXPONENTS.map(|end| R::from_f64((end.to_f64() + whole) * self.inverse));
        if I::FUSED && exponent.abs() <= R::FINE {
            let whole = exponent.round_ties_even();
            Pivot {
                whole_exponent: R::from_f64(whole),
                clamp: clamp(whole),
                subtract_first: false,
                ..Pivot::new(order)
            }
        } else {
            Pivot {
                clamp: clamp(0.0),
                ..Pivot::new(order)
            }
        }
    }

    /// The logit itself is the measure.
    #[inline(always)]
    fn exponentials_and_measures<I: Isa, const SUBTRACT_FIRST: bool>(
        self,
        isa: I,
        _: usize,
        x: R::Vector<I>,
        pivot: Pivot<R>,
    ) -> (R::Vector<I>, R::Vector<I>) {
        let from_pivot = if SUBTRACT_FIRST {
            x.minus(R::Vector::splat(isa, pivot.finite()))
        } else {
            x
        };
        let e = R::exp2(
            isa,
            from_pivot,
            self.slope_log2,
            pivot.clamp,
            pivot.whole_exponent,
        );
        (e, x)
    }

    /// What all logits have in common is in the sum, and is to be no more than what they differ by.
    #[inline(always)]
    fn gathered(self, sum: f64, count: usize, pivot: Pivot<R>) -> Option<f64> {
        let shift = self.shift(pivot);
        (shift.abs() <= MOST_GATHERED).then_some(self.slope * sum - count as f64 * shift)
    }

    #[inline(always)]
    fn exponents<I: Isa>(self, isa: I, _: usize, x: R::Vector<I>, pivot: Pivot<R>) -> R::Vector<I> {
        let slope = R::Vector::splat(isa, self.slope_log2);
        if pivot.subtract_first {
            x.minus(R::Vector::splat(isa, pivot.finite())).times(slope)
        } else {
            x.times_plus(slope, R::Vector::splat(isa, -pivot.whole_exponent))
        }
    }

    #[inline(always)]
    fn times_class_slope<I: Isa>(self, _: I, _: usize, e: R::Vector<I>) -> R::Vector<I> {
        e
    }

    #[inline(always)]
    fn common_slope(self) -> f64 {
        self.slope
    }

    #[inline(always)]
    fn shift(self, pivot: Pivot<R>) -> f64 {
        let logit = pivot.order.to_f64();
        let at_pivot = self.slope * logit;
        if pivot.subtract_first {
            return at_pivot;
        }
        // The slope's rounding counts from the pivot on, not from 0 on: else a common offset would
        // matter.
        let slope = self.slope_log2.to_f64();
        let rest = slope.mul_add(logit, -pivot.whole_exponent.to_f64());
        at_pivot - rest * LN_2
    }

    #[inline(always)]
    fn pivot_at<I: Isa>(self, logit: f64, _: f64) -> Pivot<R> {
        self.pivot::<I>(R::from_f64(logit))
    }

    #[inline(always)]
    fn logit_at(self, pivot: Pivot<R>, _: f64) -> f64 {
        pivot.order.to_f64()
    }

    /// The logit at the pivot is taken off first, so the scalars alone are too coarse.
    #[inline(always)]
    fn needs_care(self, pivot: Pivot<R>) -> bool {
        let size = self.shift(pivot).abs();
        size > FAR_OUT || size.is_nan()
    }
}

/// A slope and an offset for each class, and the largest offset, which the maps' offsets count
/// from.
#[derive(Clone, Copy)]
pub(super) struct PerClass<'a, R> {
    slopes: &'a [R],
    slope_rests: &'a [R],
    biases: &'a [R],
    largest_bias: f64,
}

impl<'a, R: Float> PerClass<'a, R> {
    pub(super) fn new(table: &'a Log2Table) -> Self {
        let Log2Maps {
            slopes,
            slope_rests,
            biases,
        } = R::maps(table);
        Self {
            slopes,
            slope_rests,
            biases,
            largest_bias: table.largest_bias,
        }
    }
}

impl<R: Float> PerClass<'_, R> {
    /// The highest pivot that vectors take.
    const MOST: f64 = if R::FINE < FAR_OUT { R::FINE } else { FAR_OUT };
}

impl<R: Float> Map<R> for PerClass<'_, R> {
    const WHOLE_EXPONENTS: bool = false;

    #[inline(always)]
    fn order<I: Isa>(self, isa: I, class: usize, x: R::Vector<I>) -> R::Vector<I> {
        let Self { slopes, biases, .. } = self;
        x.times_plus(from(isa, slopes, class), from(isa, biases, class))
    }

    #[inline(always)]
    fn pivot<I: Isa>(self, order: R) -> Pivot<R> {
        Pivot::new(order)
    }

    /// The exponent is the measure; of `-infinity` one so low that no sum with it is taken.
    #[inline(always)]
    fn exponentials_and_measures<I: Isa, const SUBTRACT_FIRST: bool>(
        self,
        isa: I,
        class: usize,
        x: R::Vector<I>,
        pivot: Pivot<R>,
    ) -> (R::Vector<I>, R::Vector<I>) {
        // A rest may be negative or 0, and must not turn -infinity over. A NaN passes.
        let x = R::Vector::splat(isa, R::LOWEST).or_higher(x);
        let below_top = self.exponents(isa, class, x, pivot);
        let e = R::exp2(isa, below_top, R::ONE, pivot.clamp, pivot.whole_exponent);
        (e, below_top)
    }

    #[inline(always)]
    fn gathered(self, sum: f64, _: usize, _: Pivot<R>) -> Option<f64> {
        Some(sum * LN_2)
    }

    /// Of `-infinity` it may be no number.
    #[inline(always)]
    fn exponents<I: Isa>(
        self,
        isa: I,
        class: usize,
        x: R::Vector<I>,
        pivot: Pivot<R>,
    ) -> R::Vector<I> {
        let top = pivot.finite();
        let all = |x| R::Vector::splat(isa, x);
        let Self {
            slopes,
            slope_rests,
            biases,
            ..
        } = self;
        if I::FUSED {
            let rest = x.times_plus(from(isa, slope_rests, class), from(isa, biases, class));
            let below_top = x.times_plus(from(isa, slopes, class), all(-top));
            below_top.plus(rest)
        } else {
            // A product of f32 is exact only in f64, and the difference is small where it counts.
            let mut lanes = [R::default(); super::arch::vector::MOST_LANES];
            x.store(&mut lanes);
            for (j, x) in (class..).zip(&mut lanes[..I::LANES]) {
                let slope = slopes[j].to_f64() + slope_rests[j].to_f64();
                *x = R::from_f64(slope * x.to_f64() - top.to_f64() + biases[j].to_f64());
            }
            R::Vector::load(isa, &lanes)
        }
    }

    #[inline(always)]
    fn times_class_slope<I: Isa>(self, isa: I, class: usize, e: R::Vector<I>) -> R::Vector<I> {
        e.times(from(isa, self.slopes, class))
    }

    #[inline(always)]
    fn common_slope(self) -> f64 {
        LN_2
    }

    #[inline(always)]
    fn shift(self, pivot: Pivot<R>) -> f64 {
        pivot.order.to_f64() * LN_2 + self.largest_bias
    }

    #[inline(always)]
    fn pivot_at<I: Isa>(self, logit: f64, slope: f64) -> Pivot<R> {
        self.pivot::<I>(R::from_f64((slope * logit - self.largest_bias) * LOG2_E))
    }

    #[inline(always)]
    fn logit_at(self, pivot: Pivot<R>, slope: f64) -> f64 {
        self.shift(pivot) / slope
    }

    /// Where every order is this low the row needs care, and where one is not, what lies twice as
    /// low adds nothing to it.
    #[inline(always)]
    fn unmasked(self, order: R) -> R {
        if order.to_f64() < -2.0 * Self::MOST {
            R::NEG_INFINITY
        } else {
            order
        }
    }

    /// The pivot is taken off in one rounding, and alike from all, so that it may be as coarse as a
    /// sixteenth.
    #[inline(always)]
    fn needs_care(self, pivot: Pivot<R>) -> bool {
        pivot.order.to_f64().abs() > Self::MOST
    }
}

/// The column's numbers for the lanes from `class` on.
#[inline(always)]
fn from<I: Isa, R: Float>(isa: I, column: &[R], class: usize) -> R::Vector<I> {
    R::Vector::load(isa, &column[class..class + I::LANES])
}
