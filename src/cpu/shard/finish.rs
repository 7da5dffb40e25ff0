//! The second half: from the shards' records a row's loss, and the gradient of this shard's
//! classes.
//!
//! ```text
//! combine the row's records                the sum off its targets, and the targets' offsets
//! solve the row, once for each target
//! write its gradient from its logits       the exponentials are computed once more
//! ```

use std::marker::PhantomData;

use super::combine::Records;
use super::partial::MOST_REST;
use super::share::Share;
use crate::cpu::arch::isa::{Isa, Kernel};
use crate::cpu::batch::{Batch, Outside};
use crate::cpu::careful::from_pivot;
use crate::cpu::lane::{Float, Lane};
use crate::cpu::map::{Map, PerClass, Pivot, Uniform};
use crate::cpu::plan::Plan;
use crate::cpu::product::Product;
use crate::cpu::solution::RowSolution;
use crate::cpu::solve::{Scales, needs_care, rounded};
use crate::cpu::split_row::{self, WriteColumns};
use crate::cpu::targets::{Term, Terms};
use crate::element::{Element, Real};
use crate::table::NonTarget;

/// A run of rows with the records of all.
#[expect(missing_debug_implementations, reason = "nobody outside can name it")]
pub struct Finish<'a, T: Element> {
    pub(in crate::cpu) batch: Batch<'a, T>,
    pub(in crate::cpu) records: Records<'a>,
    pub(in crate::cpu) share: Share,
    pub(in crate::cpu) common_weight: Option<f64>,
}

/// The rows' summed loss.
pub(in crate::cpu) fn finish<T: Lane>(plan: &Plan<'_>, rows: Finish<'_, T>) -> f64 {
    let count = rows.batch.count;
    if count > plan.leaf_rows {
        let (a, b) = rows.batch.split_at(count / 2);
        let half = |batch| Finish { batch, ..rows };
        let (a, b) = (half(a), half(b));
        let (a, b) = plan.both(|| finish(plan, a), || finish(plan, b));
        return a + b;
    }
    match plan.table.non_target() {
        NonTarget::Uniform { slope } => leaf(plan, rows, Uniform::new(*slope)),
        NonTarget::PerClass(_) => leaf(plan, rows, PerClass::new(plan.log2_table)),
    }
}

fn leaf<T: Lane, M: Map<T::Real>>(plan: &Plan<'_>, rows: Finish<'_, T>, map: M) -> f64 {
    let mut leaf = Leaf { plan, map, rows };
    let all = leaf.rows.batch.count;
    leaf.run(0, all)
}

/// Rows of one thread.
struct Leaf<'a, 'b, T: Lane, M> {
    plan: &'a Plan<'a>,
    map: M,
    rows: Finish<'b, T>,
}

impl<T: Lane, M: Map<T::Real>> Leaf<'_, '_, T, M> {
    /// The summed loss of some rows, halved on as above: so that their sum is the same on every
    /// shard, however many classes each has.
    fn run(&mut self, first: usize, count: usize) -> f64 {
        match count {
            0 => 0.0,
            1 => self.row(first),
            _ => {
                let half = count / 2;
                self.run(first, half) + self.run(first + half, count - half)
            }
        }
    }

    fn row(&mut self, row: usize) -> f64 {
        let Finish {
            batch,
            records,
            share,
            common_weight,
        } = &mut self.rows;
        let Some(terms) = batch.terms(row) else {
            batch.ignore(row, share.classes);
            return 0.0;
        };
        let hit_of = batch.hit_of(Some(row));
        let number = batch.first + row;
        let prediction = || records.prediction(number);
        let hit = |target| prediction() == Some(target);
        batch.top1.note(row, hit_of, prediction, hit);
        let known = (*records, *share, *common_weight);
        let solved = Solved::new(self.plan, batch, known, row, terms);
        let loss = solved.loss();
        batch.note_loss(row, loss);
        solved.write(self.plan, batch, self.map, row);
        loss
    }
}

/// A row as it is held against one of its labels, solved.
struct SolvedTerm {
    solution: RowSolution,
    /// What its exponents count from is this times the reference slope.
    pivot: f64,
    /// Of the exponentials off the target: none is more.
    sum: f64,
    /// The label's place among this shard's classes.
    place: Option<usize>,
}

/// A row that is solved.
struct Solved {
    share: Share,
    terms: [Option<SolvedTerm>; 2],
    outside: Outside,
}

impl Solved {
    fn new<T: Element>(
        plan: &Plan<'_>,
        batch: &Batch<'_, T>,
        (records, share, common_weight): (Records<'_>, Share, Option<f64>),
        row: usize,
        Terms { first, second }: Terms,
    ) -> Self {
        let of = |i: usize, term: Term| {
            let combined = records.combine(batch.first + row, i);
            let place = share.place(term.class);
            let weight = common_weight.unwrap_or(combined.weight) * term.share;
            // Of another shard's class it is not looked at.
            let gradient_slope =
                place.map_or(1.0, |place| plan.table.targets[place].gradient_slope);
            SolvedTerm {
                solution: RowSolution::of_shards(
                    weight,
                    gradient_slope,
                    plan.table.focal_gamma,
                    combined.sums(),
                ),
                pivot: combined.pivot,
                sum: combined.sum,
                place,
            }
        };
        Self {
            share,
            terms: [Some(of(0, first)), second.map(|term| of(1, term))],
            outside: batch.upstream.at(row),
        }
    }

    fn terms(&self) -> impl Iterator<Item = &SolvedTerm> {
        self.terms.iter().flatten()
    }

    fn loss(&self) -> f64 {
        self.terms().map(|term| term.solution.loss()).sum()
    }

    fn write<T: Lane, M: Map<T::Real>>(
        &self,
        plan: &Plan<'_>,
        batch: &mut Batch<'_, T>,
        map: M,
        row: usize,
    ) {
        let Share {
            classes,
            reference_slope,
            ..
        } = self.share;
        let Some((x, gradient)) = batch.matrix.gradient(row, classes) else {
            return;
        };
        // The lower one: what both labels have in common is near it.
        let pivots = self.terms().map(|term| term.pivot);
        let logit = pivots.reduce(f64::min).unwrap_or_default();
        let sums = self.terms().filter(|term| term.pivot == logit);
        let most = sums.map(|term| term.sum).fold(0.0, f64::max);
        let pivot = plan.instance.run(PivotAt {
            map,
            logit,
            slope: reference_slope,
            of: PhantomData,
        });
        // A record's pivot may lie far below the exponents that count from it. Each exponential
        // times a slope in units of log2, a half more, has to be a number of the lanes' type.
        let fits = 2.0 * most * reference_slope <= -T::Real::LOWEST.to_f64();
        if map.needs_care(pivot)
            || !fits
            || self.terms().any(|term| self.needs_care(plan, map, term))
        {
            self.write_with_care(plan, x, gradient);
            return;
        }
        let scales = |term: &SolvedTerm| {
            let outer = term.solution.outer_factor(self.outside, plan.divisor);
            term.solution.gradient(outer)
        };
        // Where the row's exponents count from, as the lanes' type has it.
        let from_logit = reference_slope.mul_add(-logit, map.shift(pivot));
        let of_term = |term: &SolvedTerm| {
            let from_pivot = reference_slope * (logit - term.pivot) + from_logit;
            times(scales(term).scale, from_pivot)
        };
        let scale: f64 = self.terms().map(of_term).sum();
        let own = self.terms.each_ref().map(|term| {
            let term = term.as_ref()?;
            let place = term.place?;
            let (map, x) = (
                plan.table.affine(place),
                x.map_or(gradient[place], |x| x[place]),
            );
            // Of the other label it is a class like any other.
            let others = self.terms().filter(|other| other.place != term.place);
            let at_other = others.map(|other| {
                let exponent = from_pivot(map, x.to_f64(), reference_slope, other.pivot);
                times(scales(other).scale * map.slope, exponent)
            });
            let at = scales(term).at_target + at_other.sum::<f64>();
            Some((place, T::from_f64(at)))
        });
        let columns = WriteColumns {
            map,
            first_class: 0,
            x,
            pivot,
            gradient: &mut *gradient,
            factor: rounded(scale * map.common_slope()),
            less: T::Real::default(),
            fold: None,
            stream: plan.stream,
        };
        split_row::write(plan, columns);
        for (place, at) in own.into_iter().flatten() {
            gradient[place] = at;
        }
    }

    /// As where a row is not cut.
    fn needs_care<R: Float, M: Map<R>>(&self, plan: &Plan<'_>, map: M, term: &SolvedTerm) -> bool {
        let outer = term.solution.outer_factor(self.outside, plan.divisor);
        let gradient = term.solution.gradient(outer);
        let slope = map.common_slope();
        let scales = Scales {
            outer: (outer * slope).abs(),
            factor: (gradient.scale * slope).abs(),
            at_target: gradient.at_target,
        };
        !scales.fit::<R>() && needs_care::<R>(&term.solution, self.outside, scales)
    }

    /// One class after the other in `f64`, each from its own logit.
    #[cold]
    #[inline(never)]
    fn write_with_care<T: Element>(&self, plan: &Plan<'_>, x: Option<&[T]>, gradient: &mut [T]) {
        let scaled = |term: &SolvedTerm| term.solution.careful_gradient(self.outside, plan.divisor);
        for class in 0..gradient.len() {
            let x = x.map_or(gradient[class], |x| x[class]).to_f64();
            let map = plan.table.affine(class);
            let of = |term: &SolvedTerm| {
                if term.solution.is_nan() {
                    return Product::of(f64::NAN);
                }
                let (at_target, scale) = scaled(term);
                if term.place == Some(class) {
                    return at_target;
                }
                let exponent = from_pivot(map, x, self.share.reference_slope, term.pivot);
                // What is more is rounding: no more was added up either.
                let exponent = exponent.min(MOST_REST);
                scale.times(map.slope).times(exponent.exp())
            };
            let sum = self.terms().map(of).reduce(Product::plus);
            gradient[class] = T::from_f64(sum.map_or(0.0, Product::value));
        }
    }
}

/// A factor of an exponential; of nothing there is nothing, also where that is infinite.
fn times(factor: f64, exponent: f64) -> f64 {
    match factor {
        0.0 => 0.0,
        factor => factor * exponent.exp(),
    }
}

/// [`Map::pivot_at`] as an instance has it.
struct PivotAt<M, R> {
    map: M,
    logit: f64,
    slope: f64,
    of: PhantomData<R>,
}

impl<R: Float, M: Map<R>> Kernel for PivotAt<M, R> {
    type Output = Pivot<R>;

    #[inline(always)]
    fn run<I: Isa>(self, _: I) -> Pivot<R> {
        self.map.pivot_at::<I>(self.logit, self.slope)
    }
}
