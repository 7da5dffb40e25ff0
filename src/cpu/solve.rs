//! From a row's sum to its loss and to what its gradient is written with.

use super::batch::{Batch, Outside};
use super::careful;
use super::lane::{Float, Lane};
use super::map::Map;
use super::plan::Plan;
use super::solution::RowSolution;
use super::sum::{MOST_BLOCK_SUM, Partial};
use super::targets::{Term, Terms};

/// What a row's gradient is written with.
#[derive(Clone, Copy)]
pub(super) struct Writing<T: Lane> {
    pub(super) target: usize,
    pub(super) at_target: T,
    /// What an exponential times its class's slope is multiplied by.
    pub(super) factor: T::Real,
    /// What is taken off that product before its class's slope; of smoothed labels alone.
    pub(super) less: T::Real,
}

/// Solves a row whose logit at its only target is `logit`. Its loss, and how its gradient is to be
/// written; nothing where it is written already.
#[inline(always)]
pub(super) fn solve<T: Lane, M: Map<T::Real>>(
    plan: &Plan<'_>,
    batch: &mut Batch<'_, T>,
    map: M,
    (row, term, logit): (usize, Term, T),
    partial: Partial<T::Real>,
) -> (f64, Option<Writing<T>>) {
    let shift = map.shift(partial.pivot);
    let solution = RowSolution::new(plan.table, term, logit.to_f64(), shift, partial.sum);
    let outside = batch.upstream.at(row);
    let outer_factor = solution.outer_factor(outside, plan.divisor);
    let gradient = solution.gradient(outer_factor);
    let slope = map.common_slope();
    let scales = Scales {
        outer: (outer_factor * slope).abs(),
        factor: (gradient.scale * slope).abs(),
        at_target: gradient.at_target,
    };
    if map.needs_care(partial.pivot)
        || (!scales.fit::<T::Real>() && needs_care::<T::Real>(&solution, outside, scales))
    {
        let terms = Terms::single(term.class, term.share);
        return (careful::solve(plan, batch, row, terms), None);
    }
    let loss = solution.loss();
    batch.note_loss(row, loss);
    let writing = Writing {
        target: term.class,
        at_target: T::from_f64(gradient.at_target),
        factor: rounded(gradient.scale * slope),
        less: T::Real::default(),
    };
    (loss, Some(writing))
}

/// What scales a row: its outer factor and all of it, without signs, and the target's gradient.
#[derive(Clone, Copy)]
pub(super) struct Scales {
    pub(super) outer: f64,
    pub(super) factor: f64,
    pub(super) at_target: f64,
}

impl Scales {
    /// Whether they are numbers of the lanes' type, as nearly all rows' are: not too large, and not
    /// so small that the least normal number, by which rounding may change the highest term's
    /// gradient, is not small against the outer factor. NaNs are not.
    #[inline(always)]
    pub(super) fn fit<R: Float>(self) -> bool {
        self.outer >= R::LEAST * MOST_BLOCK_SUM
            && self.factor <= -R::LOWEST.to_f64()
            && self.at_target.is_finite()
    }
}

/// Whether a row whose scales do not fit has to be solved by care: where it is no number, or where
/// what comes from outside are numbers but not 0, and the product with the row's own does not fit.
#[cold]
#[inline(never)]
pub(super) fn needs_care<R: Float>(
    solution: &RowSolution,
    outside: Outside,
    scales: Scales,
) -> bool {
    // A NaN does not fit.
    let fits = scales.factor <= -R::LOWEST.to_f64() && scales.at_target.is_finite();
    let small = scales.outer < R::LEAST * MOST_BLOCK_SUM;
    let scaled_far = (!fits && outside.is_finite()) || (small && !outside.is_zero());
    solution.is_nan() || (scaled_far && !solution.counts_for_nothing())
}

/// A factor in the lanes' type, of which what is finite stays so. A NaN becomes the plain one,
/// which survives being cut to 16 bits.
pub(super) fn rounded<R: Float>(factor: f64) -> R {
    if factor.is_finite() {
        R::from_f64(factor.clamp(R::LOWEST.to_f64(), -R::LOWEST.to_f64()))
    } else if factor.is_nan() {
        R::from_f64(f64::NAN)
    } else {
        R::from_f64(factor)
    }
}
