//! Mixed rows, `L = lambda L(a) + (1 - lambda) L(b)`: two rows that differ at their targets alone.
//!
//! ```text
//! U   = sum of exp(z_j - m) off both targets          the row's pass, with both terms taken off
//! S_a = U + exp(z_b - m)    S_b = U + exp(z_a - m)    the other target is a class like any other
//! dL/dx_j = (f_a + f_b) a_j exp(z_j - m)              one exponential an element
//! ```
//!
//! Neither sum is a difference, so nothing cancels. At `a` and `b` the gradient is patched.

use super::arch::isa::{Isa, Kernel};
use super::batch::{Batch, Outside};
use super::careful;
use super::lane::{Float, Lane};
use super::map::Map;
use super::plan::Plan;
use super::solution::{RowGradient, RowSolution};
use super::solve::{Scales, Writing, needs_care, rounded};
use super::sum::{BLOCK, MOST_BLOCK_SUM, Partial, Resum};
use super::targets::{Term, Terms};
use crate::element::Real;

/// The sum of a row off both targets, from one off the first alone. What was kept at both places is
/// taken for nothing.
pub(super) struct WithoutBoth<'a, R> {
    /// The row's exponentials.
    pub(super) kept: &'a mut [R],
    /// The first target's and the second's.
    pub(super) places: [usize; 2],
    /// Off the first.
    pub(super) sum: f64,
}

impl<R: Float> Kernel for WithoutBoth<'_, R> {
    type Output = f64;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> f64 {
        let Self { kept, places, sum } = self;
        let own = kept[places[1]].to_f64();
        let rest = sum - own;
        if own <= rest {
            // It has no more than half of the sum, which it can be taken off again.
            return rest;
        }
        for place in places {
            kept[place] = R::default();
        }
        let mut sum = 0.0;
        for block in kept.chunks(BLOCK) {
            sum += isa.apart(Resum(block));
        }
        sum
    }
}

/// A mixed row to solve.
pub(super) struct Pair {
    row: usize,
    first: Term,
    second: Term,
    /// Of both classes.
    logits: [f64; 2],
}

/// A mixed row's loss, how its gradient is to be written, and where its second target is and the
/// gradient there; no gradient where it is written already.
pub(super) type Solved<T> = (f64, Option<Writing<T>>, Option<(usize, T)>);

impl Pair {
    pub(super) fn new(row: usize, (first, second): (Term, Term), logits: [f64; 2]) -> Self {
        Self {
            row,
            first,
            second,
            logits,
        }
    }

    /// Solves a row whose exponentials were kept. `partial` is off the first target.
    #[inline(never)]
    pub(super) fn solve_kept<I: Isa, T: Lane, M: Map<T::Real>>(
        &self,
        isa: I,
        plan: &Plan<'_>,
        batch: &mut Batch<'_, T>,
        map: M,
        partial: Partial<T::Real>,
        kept: &mut [T::Real],
    ) -> Solved<T> {
        let places = [self.first.class, self.second.class];
        let own = places.map(|place| kept[place].to_f64());
        let sum = isa.apart(WithoutBoth {
            kept,
            places,
            sum: partial.sum,
        });
        self.with(plan, batch, map, Partial { sum, ..partial }, own)
    }

    /// Solves a row of which nothing was kept. `partial` is off both targets.
    pub(super) fn solve<T: Lane, M: Map<T::Real>>(
        &self,
        plan: &Plan<'_>,
        batch: &mut Batch<'_, T>,
        map: M,
        partial: Partial<T::Real>,
    ) -> Solved<T> {
        self.with(plan, batch, map, partial, [0.0; 2])
    }

    /// `own` are the exponentials of both targets as classes like any other, 0 where they are not
    /// known.
    fn with<T: Lane, M: Map<T::Real>>(
        &self,
        plan: &Plan<'_>,
        batch: &mut Batch<'_, T>,
        map: M,
        partial: Partial<T::Real>,
        own: [f64; 2],
    ) -> Solved<T> {
        let (row, first, second) = (self.row, self.first, self.second);
        let [x_first, x_second] = self.logits;
        let rest = Rest {
            shift: map.shift(partial.pivot),
            sum: partial.sum,
            outside: batch.upstream.at(row),
        };
        let [own_first, own_second] = own;
        let known = |class, x, own| Other { class, x, own };
        let at_second = known(second.class, x_second, own_second);
        let at_first = known(first.class, x_first, own_first);
        let one = Side::new(plan, (first, x_first), at_second, rest);
        let other = Side::new(plan, (second, x_second), at_first, rest);
        let at_first = one.gradient.at_target + other.at_other;
        let at_second = other.gradient.at_target + one.at_other;
        let slope = map.common_slope();
        let factor = (one.gradient.scale + other.gradient.scale) * slope;
        let unfit = |side: &Side| {
            let scales = Scales {
                outer: (side.outer * slope).abs(),
                factor: (side.gradient.scale * slope).abs(),
                at_target: side.gradient.at_target + side.at_other,
            };
            !scales.fit::<T::Real>() && needs_care::<T::Real>(&side.solution, rest.outside, scales)
        };
        if map.needs_care(partial.pivot) || unfit(&one) || unfit(&other) {
            let terms = Terms {
                first,
                second: Some(second),
            };
            return (careful::solve(plan, batch, row, terms), None, None);
        }
        let loss = one.solution.loss() + other.solution.loss();
        batch.note_loss(row, loss);
        let writing = Writing {
            target: first.class,
            at_target: T::from_f64(at_first),
            factor: rounded(factor),
            less: T::Real::default(),
        };
        let second = (second.class, T::from_f64(at_second));
        (loss, Some(writing), Some(second))
    }
}

/// What a row has off both targets, and what scales it from outside.
#[derive(Clone, Copy)]
struct Rest {
    shift: f64,
    sum: f64,
    outside: Outside,
}

/// The target that a mixed row is not held against, as a class like any other.
#[derive(Clone, Copy)]
struct Other {
    class: usize,
    x: f64,
    /// Its exponential, 0 where it is not known.
    own: f64,
}

/// A mixed row as it is held against one of its targets.
struct Side {
    solution: RowSolution,
    outer: f64,
    gradient: RowGradient,
    /// The gradient at the other target.
    at_other: f64,
}

impl Side {
    fn new(plan: &Plan<'_>, (term, x): (Term, f64), other: Other, rest: Rest) -> Self {
        let map = plan.table.affine(other.class);
        // What was kept is as good, as long as it was not cut off above.
        let own = match other.own {
            known if known > 0.0 && known <= MOST_BLOCK_SUM => known,
            // Where it is infinite the row is taken with care.
            _ => (map.slope * other.x + map.bias - rest.shift).exp(),
        };
        let solution = RowSolution::new(plan.table, term, x, rest.shift, rest.sum + own);
        let outer = solution.outer_factor(rest.outside, plan.divisor);
        let gradient = solution.gradient(outer);
        Self {
            at_other: gradient.scale * own * map.slope,
            solution,
            outer,
            gradient,
        }
    }
}
