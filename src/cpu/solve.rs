//! From a row's sum to its loss and to what its gradient is written with.

use super::batch::{Batch, Outside};
use super::careful;
use super::lane::{Float, Lane};
use super::map::Map;
use super::plan::Plan;
use super::solution::RowSolution;
use super::sum::{MOST_BLOCK_SUM, Partial};

/// What a row's gradient is written with.
#[derive(Clone, Copy)]
pub(super) struct Writing<T: Lane> {
    pub(super) at_target: T,
    /// What an exponential times its class's slope is multiplied by.
    pub(super) factor: T::Real,
}

/// Solves a row whose logit at the target is `logit`. Its loss, and how its gradient is to be
/// written; nothing where it is written already.
#[inline(always)]
pub(super) fn solve<T: Lane, M: Map<T::Real>>(
    plan: &Plan<'_>,
    batch: &mut Batch<'_, T>,
    map: M,
    (row, target, logit): (usize, usize, T),
    partial: Partial<T::Real>,
) -> (f64, Option<Writing<T>>) {
    let shift = map.shift(partial.pivot);
    let solution = RowSolution::new(plan.table, target, logit.to_f64(), shift, partial.sum);
    let outside = batch.upstream.at(row);
    let outer_factor = solution.outer_factor(outside, plan.divisor);
    let gradient = solution.gradient(outer_factor);
    let slope = map.common_slope();
    let scaled_far = (outside.is_finite() && !gradient.at_target.is_finite())
        || beyond::<T::Real>(outside, outer_factor * slope, gradient.scale * slope);
    if map.needs_care(partial.pivot)
        || solution.is_nan()
        || (scaled_far && !solution.counts_for_nothing())
    {
        return (careful::solve(plan, batch, row, target), None);
    }
    let loss = solution.loss();
    batch.note_loss(row, loss);
    let writing = Writing {
        at_target: T::from_f64(gradient.at_target),
        factor: rounded(gradient.scale * slope),
    };
    (loss, Some(writing))
}

/// Whether what scales a row is beyond the lanes' type: its factor is too large though its own
/// factors are numbers, or is so small that the least normal number, by which rounding may change
/// the highest term's gradient, is not small against the outer factor.
fn beyond<R: Float>(outside: Outside, outer_factor: f64, factor: f64) -> bool {
    let (outer, factor) = (outer_factor.abs(), factor.abs());
    // An infinite factor may have become a NaN.
    let fits = factor <= -R::LOWEST.to_f64();
    (!fits && outside.is_finite()) || (!outside.is_zero() && outer < R::LEAST * MOST_BLOCK_SUM)
}

/// A factor in the lanes' type, of which what is finite stays so. A NaN becomes the plain one,
/// which survives being cut to 16 bits.
fn rounded<R: Float>(factor: f64) -> R {
    if factor.is_finite() {
        R::from_f64(factor.clamp(R::LOWEST.to_f64(), -R::LOWEST.to_f64()))
    } else if factor.is_nan() {
        R::from_f64(f64::NAN)
    } else {
        R::from_f64(factor)
    }
}
