//! Label smoothing: a share of the label is spread over all classes.
//!
//! ```text
//! L       = (1 - eps) w_y (lse(z) - z_y) + (eps / C) (W lse(z) - sum_j w_j z_j)     W = sum_j w_j
//! dL/dz_j = K p_j - (eps / C) w_j    j != y                 K = (1 - eps) w_y + (eps / C) W
//! dL/dz_y = -(1 - eps) w_y (1 - p_y) + (eps / C) ((W - w_y) p_y - w_y (1 - p_y))
//! ```
//!
//! Where all classes weigh the same the row's pass adds up what `sum_j z_j` is made of, and what is
//! taken off each exponential is so where the gradient is written: no more is read than without
//! smoothing. Else `sum_j w_j z_j` is taken from the row's logits while they are in the cache, and
//! the exponentials that were kept become `e_j K / d - (eps / C) w_j` before they are written. A
//! mixed row is the sum of two such, which differ at their targets alone.

use std::ops::Range;

use super::arch::isa::{Isa, Kernel};
use super::arch::vector::{MOST_LANES, Vector};
use super::batch::{Batch, Outside};
use super::careful;
use super::lane::{Float, Lane, VectorOf};
use super::map::{MOST_GATHERED, Map, Pivot};
use super::pair::{Solved, WithoutBoth};
use super::pass::padded;
use super::plan::Plan;
use super::solution::{RowSolution, SmoothedTarget};
use super::solve::{Scales, Writing, rounded};
use super::sum::{BLOCK, MOST_BLOCK_SUM, Partial, total};
use super::targets::{Term, Terms};
use crate::element::{Element, Real};
use crate::table::RowTable;
use crate::table::smoothing::Smoothing;

/// `sum_j w_j (z_j - m)` off the targets over some columns of a row, the weights as parts of the
/// largest; `m` is the shift at the pivot. No number where a logit is infinite.
pub(super) struct WeightedExponents<'a, T: Lane, M> {
    pub(super) map: M,
    /// The row.
    pub(super) x: &'a [T],
    /// Some blocks of it.
    pub(super) columns: Range<usize>,
    /// Of the targets: a large one would cost the others their digits.
    pub(super) places: [usize; 2],
    pub(super) pivot: Pivot<T::Real>,
    /// Of all classes, as parts of the largest.
    pub(super) weights: &'a [T::Real],
}

impl<T: Lane, M: Map<T::Real>> Kernel for WeightedExponents<'_, T, M> {
    type Output = f64;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> f64 {
        let mut all = 0.0;
        let mut class = self.columns.start;
        for block in self.x[self.columns.clone()].chunks(BLOCK) {
            let mut sums = [VectorOf::<I, T>::splat(isa, T::Real::default()); SUMS];
            let groups = block.chunks_exact(SUMS * I::LANES);
            let vectors = groups.remainder().chunks_exact(I::LANES);
            let rest = vectors.remainder();
            let columns = class..class + block.len();
            if self.places.iter().any(|place| columns.contains(place)) {
                for group in groups {
                    for vector in group.chunks_exact(I::LANES) {
                        sums[0] = self.onto::<I, true>(isa, class, T::widen(isa, vector), sums[0]);
                        class += I::LANES;
                    }
                }
            } else {
                for group in groups {
                    for (i, sum) in sums.iter_mut().enumerate() {
                        let x = T::widen(isa, &group[i * I::LANES..][..I::LANES]);
                        *sum = self.onto::<I, false>(isa, class, x, *sum);
                        class += I::LANES;
                    }
                }
            }
            for vector in vectors {
                sums[0] = self.onto::<I, true>(isa, class, T::widen(isa, vector), sums[0]);
                class += I::LANES;
            }
            if !rest.is_empty() {
                // Behind the row's end weights are 0.
                let x = T::widen(isa, &padded(rest));
                sums[0] = self.onto::<I, true>(isa, class, x, sums[0]);
            }
            let [a, b, c, d] = sums;
            all += total::<I, T::Real>(a.plus(b).plus(c.plus(d)));
        }
        all * std::f64::consts::LN_2
    }
}

impl<T: Lane, M: Map<T::Real>> WeightedExponents<'_, T, M> {
    /// `sum` and the vector that begins at `class`, which may have a target where `LOOK`.
    #[inline(always)]
    fn onto<I: Isa, const LOOK: bool>(
        &self,
        isa: I,
        class: usize,
        x: VectorOf<I, T>,
        sum: VectorOf<I, T>,
    ) -> VectorOf<I, T> {
        let mut exponents = self.map.exponents(isa, class, x, self.pivot);
        let [first, second] = self.places.map(|place| place.wrapping_sub(class));
        if LOOK && first.min(second) < I::LANES {
            let mut lanes = [T::Real::default(); MOST_LANES];
            exponents.store(&mut lanes);
            for place in [first, second] {
                if place < I::LANES {
                    lanes[place] = T::Real::default();
                }
            }
            exponents = VectorOf::<I, T>::load(isa, &lanes);
        }
        let weights = VectorOf::<I, T>::load(isa, &self.weights[class..]);
        exponents.times_plus(weights, sum)
    }
}

/// Sums of their own, so that no addition waits for the one before.
const SUMS: usize = 4;

/// Makes of a row's exponentials, or of some columns', what is written as its gradient.
#[derive(Clone, Copy)]
pub(super) struct Fold<'a, R> {
    /// Of all classes, as parts of the largest.
    weights: &'a [R],
    /// What an exponential is multiplied by.
    keep: R,
    /// What a weight is multiplied by before it is taken off.
    less: R,
}

impl<R: Float> Fold<'_, R> {
    /// `len` columns from `first_class` on. There is room for a vector from any of them on.
    #[inline(always)]
    pub(super) fn fold<I: Isa>(
        self,
        isa: I,
        exponentials: &mut [R],
        first_class: usize,
        len: usize,
    ) {
        let keep = R::Vector::splat(isa, self.keep);
        let less = R::Vector::splat(isa, -self.less);
        for at in (0..len).step_by(I::LANES) {
            let to = &mut exponentials[at..at + I::LANES];
            let weights = R::Vector::load(isa, &self.weights[first_class + at..]);
            let kept = R::Vector::load(isa, to).times(keep);
            weights.times_plus(less, kept).store(to);
        }
    }
}

/// [`Fold::fold`] of a whole row, as a function of its own.
struct FoldRow<'a, R>(Fold<'a, R>, &'a mut [R], usize);

impl<R: Float> Kernel for FoldRow<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self(fold, kept, classes) = self;
        fold.fold(isa, kept, 0, classes);
    }
}

/// Finite masks are less than this, in any number; what stands for `-infinity` is more.
const MOST_SPREAD: f64 = 1e30;

/// A row to solve.
pub(super) struct Smoothed<'a> {
    smoothing: &'a Smoothing,
    row: usize,
    terms: Terms,
    /// Of the first term's class and of the second's.
    logits: [f64; 2],
}

/// Where the row's targets are; both the same where it has one.
pub(super) fn places(terms: Terms) -> [usize; 2] {
    let second = terms.second.unwrap_or(terms.first);
    [terms.first.class, second.class]
}

/// A solved row, and what its exponentials become before they are written.
pub(super) type SolvedAndFold<'a, T> = (Solved<T>, Option<Fold<'a, <T as Element>::Real>>);

impl<'a> Smoothed<'a> {
    pub(super) fn new<T: Element>(
        smoothing: &'a Smoothing,
        row: usize,
        terms: Terms,
        x: &[T],
    ) -> Self {
        let second = terms.second.unwrap_or(terms.first);
        Self {
            smoothing,
            row,
            terms,
            logits: [terms.first, second].map(|term| x[term.class].to_f64()),
        }
    }

    /// What [`WeightedExponents`] comes to, from the measures of all classes, which weigh the same;
    /// `None` where it is to be taken from the logits.
    #[inline(always)]
    pub(super) fn gathered<R: Float, M: Map<R>>(
        &self,
        plan: &Plan<'_>,
        map: M,
        pivot: Pivot<R>,
        measures: f64,
    ) -> Option<f64> {
        if measures.is_nan() {
            return None;
        }
        let all = map.gathered(measures, plan.table.classes(), pivot)?;
        let shift = map.shift(pivot);
        let offset = |term: Term, x: f64| {
            let map = plan.table.affine(term.class);
            map.slope * x + map.bias - shift
        };
        let [x_first, x_second] = self.logits;
        let first = offset(self.terms.first, x_first);
        let second = self.terms.second.map_or(0.0, |term| offset(term, x_second));
        // A large one has cost the others their digits; one of a mask is no sum.
        let fits = first.abs().max(second.abs()) <= 2.0 * MOST_GATHERED && all.abs() <= MOST_SPREAD;
        fits.then_some(all - first - second)
    }

    /// Solves a row whose exponentials were kept, and folds these. `partial` is off the first
    /// target, `spread` what [`WeightedExponents`] came to.
    #[inline(never)]
    pub(super) fn solve_kept<I: Isa, T: Lane, M: Map<T::Real>>(
        &self,
        isa: I,
        plan: &Plan<'_>,
        batch: &mut Batch<'_, T>,
        map: M,
        (mut partial, spread): (Partial<T::Real>, f64),
        kept: &mut [T::Real],
    ) -> Solved<T> {
        let classes = plan.table.classes();
        if let Some(second) = self.terms.second {
            partial.sum = isa.apart(WithoutBoth {
                kept: &mut kept[..classes],
                places: [self.terms.first.class, second.class],
                sum: partial.sum,
            });
        }
        let (solved, fold) = self.solve(plan, batch, map, partial, spread);
        if let Some(fold) = fold {
            isa.apart(FoldRow(fold, kept, classes));
        }
        solved
    }

    /// Solves a row. `partial` is off both targets.
    pub(super) fn solve<T: Lane, M: Map<T::Real>>(
        &self,
        plan: &Plan<'_>,
        batch: &mut Batch<'_, T>,
        map: M,
        partial: Partial<T::Real>,
        spread: f64,
    ) -> SolvedAndFold<'a, T> {
        let (row, first, [x_first, x_second]) = (self.row, self.terms.first, self.logits);
        let rest = Rest {
            table: plan.table,
            smoothing: self.smoothing,
            shift: map.shift(partial.pivot),
            sum: partial.sum,
            spread: spread * self.smoothing.largest,
        };
        let (one, other) = match self.terms.second {
            None => (rest.side((first, x_first), None), None),
            Some(second) => (
                rest.side((first, x_first), Some((second.class, x_second))),
                Some(rest.side((second, x_second), Some((first.class, x_first)))),
            ),
        };
        let of_other = |part: fn(&Side) -> f64| other.as_ref().map_or(0.0, part);
        let scale = one.scale + of_other(|side| side.scale);
        let each = (one.each + of_other(|side| side.each)) * self.smoothing.largest;
        // What both are parts of, so that the lanes' type holds them. Of classes that all have
        // weight 0 there is nothing to spread.
        let size = match self.smoothing.total {
            0.0 => 0.0,
            _ => scale.max(each),
        };
        let outside = batch.upstream.at(row);
        // A row that counts for nothing does so whatever scales it from outside; a NaN in it shows.
        let outer = match size {
            0.0 => 0.0,
            _ => outside.upstream * outside.scale / plan.divisor,
        };
        let factor = outer * size * map.common_slope();
        let at_first = outer * (one.at_target + of_other(|side| side.at_other));
        let at_second = outer * (one.at_other + of_other(|side| side.at_target));
        let loss = one.loss + of_other(|side| side.loss);
        let scales = Scales {
            outer: factor.abs(),
            factor: factor.abs(),
            at_target: at_first + at_second,
        };
        let unfit =
            size > 0.0 && !scales.fit::<T::Real>() && scaled_far::<T::Real>(scales, outside);
        // A NaN is in the loss too.
        if map.needs_care(partial.pivot) || !loss.is_finite() || !size.is_finite() || unfit {
            let solved = (careful::solve(plan, batch, row, self.terms), None, None);
            return (solved, None);
        }
        batch.note_loss(row, loss);
        let at_second = (self.terms.second).map(|term| (term.class, T::from_f64(at_second)));
        let writing = |factor: f64, less: f64| Writing {
            target: first.class,
            at_target: T::from_f64(at_first),
            factor: rounded(factor),
            less: rounded(less),
        };
        if self.smoothing.alike && factor.is_finite() {
            let common = outer * map.common_slope();
            let writing = writing(common * scale, common * each);
            return ((loss, Some(writing), at_second), None);
        }
        let part = |of: f64| T::Real::from_f64(if size > 0.0 { of / size } else { 0.0 });
        let fold = Fold {
            weights: T::Real::weights(self.smoothing),
            keep: part(scale),
            less: part(each),
        };
        let writing = writing(factor, 0.0);
        ((loss, Some(writing), at_second), Some(fold))
    }
}

/// Whether a product with numbers from outside is one that the lanes' type does not hold.
#[cold]
fn scaled_far<R: Float>(scales: Scales, outside: Outside) -> bool {
    let fits = scales.factor <= -R::LOWEST.to_f64() && scales.at_target.is_finite();
    let small = scales.outer < R::LEAST * MOST_BLOCK_SUM;
    (!fits && outside.is_finite()) || (small && !outside.is_zero())
}

/// What a row has off its targets.
#[derive(Clone, Copy)]
struct Rest<'a> {
    table: &'a RowTable,
    smoothing: &'a Smoothing,
    shift: f64,
    /// Of `exp(z_j - shift)`.
    sum: f64,
    /// Of `w_j (z_j - shift)`.
    spread: f64,
}

/// A row as it is held against one target, times the target's share. The gradient without what
/// comes from outside.
struct Side {
    loss: f64,
    /// What an exponential times its class's slope is multiplied by.
    scale: f64,
    /// What a class's weight times its slope is multiplied by and taken off.
    each: f64,
    at_target: f64,
    /// At the other target of a mixed row.
    at_other: f64,
}

impl Rest<'_> {
    /// `other` is the other target's class and its logit.
    fn side(self, (term, x): (Term, f64), other: Option<(usize, f64)>) -> Side {
        let Self { table, shift, .. } = self;
        let offset = |class: usize, x: f64| {
            let map = table.affine(class);
            map.slope * x + map.bias - shift
        };
        let target = table.targets[term.class];
        let target_offset = target.slope * x + target.bias - shift;
        let (mut own, mut spread) = (0.0, self.spread + target.weight * target_offset);
        if let Some((class, x)) = other {
            own = offset(class, x).exp();
            spread += table.targets[class].weight * offset(class, x);
        }
        let solution = RowSolution::new(table, term, x, shift, self.sum + own);
        let smoothed = SmoothedTarget::new(self.smoothing, target.weight, table.classes());
        let log_sum = solution.cross_entropy() + target_offset;
        let at_other = other.map_or(0.0, |(class, _)| {
            let weight = table.targets[class].weight;
            let slope = table.affine(class).slope;
            slope * smoothed.off_target(solution.normaliser() * own, weight)
        });
        Side {
            loss: term.share * smoothed.loss(&solution, self.smoothing.total * log_sum - spread),
            scale: term.share * smoothed.factor * solution.normaliser(),
            each: term.share * smoothed.each,
            at_target: term.share * target.gradient_slope * smoothed.at_target(&solution),
            at_other: term.share * at_other,
        }
    }
}
