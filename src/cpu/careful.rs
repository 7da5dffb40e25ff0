//! Rows whose exponents are too large for vectors: one logit after the other in `f64`, by
//! differences of logits.
//!
//! A row comes here where its exponents are so large that the spacing of floating-point numbers
//! there is no longer small against 1, where a sum was no number, and where what scales its
//! gradient is too large or too small for the lanes' type. Then `z_j - z_m` is not the difference
//! of two rounded numbers but
//!
//! ```text
//! a_j (x_j - x_m) + ((a_j - a_m) x_m + (b_j - b_m))
//! ```
//!
//! which is exact to rounding where the slopes are equal, whatever the logits' size, and keeps its
//! sign's sense where they are not.

use super::batch::{Batch, Outside};
use super::plan::Plan;
use super::product::Product;
use super::solution::{RowSolution, SmoothedTarget};
use super::targets::{Term, Terms};
use crate::element::Element;
use crate::table::smoothing::Smoothing;
use crate::table::{Affine, RowTable};

/// Solves a row of a batch, all of it. Its loss.
#[cold]
#[inline(never)]
pub(super) fn solve<T: Element>(
    plan: &Plan<'_>,
    batch: &mut Batch<'_, T>,
    row: usize,
    terms: Terms,
) -> f64 {
    let classes = plan.table.classes();
    let outside = batch.upstream.at(row);
    let x = batch.matrix.row(row, classes);
    let of = |term: Term| Part::new(plan, x, term, outside);
    let (first, second) = (of(terms.first), terms.second.map(of));
    if let Some((x, gradient)) = batch.matrix.gradient(row, classes) {
        for class in 0..classes {
            // In place a class's gradient needs its own logit alone.
            let x = x.map_or(gradient[class], |x| x[class]);
            let mut sum = first.gradient(class, x);
            if let Some(second) = &second {
                sum = sum.plus(second.gradient(class, x));
            }
            gradient[class] = T::from_f64(sum.value());
        }
    }
    let loss = first.loss + second.map_or(0.0, |part| part.loss);
    batch.note_loss(row, loss);
    loss
}

/// A row as it is held against one class.
struct Part<'a> {
    careful: Careful<'a>,
    loss: f64,
    at_target: Product,
    /// What an exponential times its class's slope is multiplied by; where labels are smoothed,
    /// what `dL/dz` times it is.
    scale: Product,
    smoothed: Option<SmoothedTarget>,
}

impl<'a> Part<'a> {
    fn new<T: Element>(plan: &'a Plan<'_>, x: &[T], term: Term, outside: Outside) -> Self {
        let careful = Careful::new(plan.table, x, term);
        if let Some(smoothing) = plan.smoothing {
            return Self::smoothed(smoothing, careful, x, term, (outside, plan.divisor));
        }
        let (at_target, scale) = careful.solution.careful_gradient(outside, plan.divisor);
        Self {
            loss: careful.solution.loss(),
            careful,
            at_target,
            scale,
            smoothed: None,
        }
    }

    fn smoothed<T: Element>(
        smoothing: &Smoothing,
        careful: Careful<'a>,
        x: &[T],
        term: Term,
        (outside, divisor): (Outside, f64),
    ) -> Self {
        let table = careful.table;
        let target = table.targets[term.class];
        let smoothed = SmoothedTarget::new(smoothing, target.weight, table.classes());
        let mut part = Self {
            loss: f64::NAN,
            at_target: Product::of(f64::NAN),
            scale: Product::of(f64::NAN),
            smoothed: Some(smoothed),
            careful,
        };
        let Careful {
            solution, log_sum, ..
        } = &part.careful;
        if solution.is_nan() {
            return part;
        }
        // It counts for nothing.
        if term.share == 0.0 || smoothing.total == 0.0 {
            (part.loss, part.at_target, part.scale) = (0.0, Product::of(0.0), Product::of(0.0));
            return part;
        }
        // lse(z) - z_j, each from its own difference. Nothing times an infinite one is nothing.
        let spread = (table.targets.iter().zip(x).enumerate())
            .filter(|(_, (target, _))| target.weight > 0.0)
            .map(|(class, (target, &x))| {
                target.weight * (log_sum - part.careful.below_top(class, x))
            })
            .sum();
        let scale = Product::of(term.share)
            .over(divisor)
            .times(outside.upstream)
            .times(outside.scale);
        let at_target = scale
            .times(target.gradient_slope)
            .times(smoothed.at_target(solution));
        part.loss = term.share * smoothed.loss(solution, spread);
        (part.at_target, part.scale) = (at_target, scale);
        part
    }

    /// Of a class with logit `x`. Two parts that are each beyond `f64` may have a sum that is not.
    fn gradient<T: Element>(&self, class: usize, x: T) -> Product {
        let Self { careful, scale, .. } = self;
        let solution = &careful.solution;
        if solution.is_nan() {
            return Product::of(f64::NAN);
        }
        if class == careful.target {
            return self.at_target;
        }
        let exponential = careful.exponential(class, x);
        let of_class = match self.smoothed {
            None => exponential,
            Some(smoothed) => {
                let weight = careful.table.targets[class].weight;
                smoothed.off_target(exponential * solution.normaliser(), weight)
            }
        };
        let slope = careful.table.affine(class).slope;
        scale.times(slope).times(of_class)
    }
}

/// Differences are taken of logits this much smaller, so that none leaves `f64`.
const SMALLER: f64 = 1.0 / LARGER;
const LARGER: f64 = (1u128 << 64) as f64;

/// A row relative to its largest exponent.
struct Careful<'a> {
    table: &'a RowTable,
    target: usize,
    /// Of the class that holds the largest exponent, and its logit, smaller.
    map: Affine,
    logit: f64,
    /// What the row's gradient is made from.
    solution: RowSolution,
    /// `lse(z) - z_m`.
    log_sum: f64,
}

/// `z - z_m` for a logit and the largest, both smaller; 0 at most, since `z_m` is the largest.
fn below(map: Affine, logit: f64, top: Affine, top_logit: f64) -> f64 {
    let slopes = (map.slope - top.slope) * top_logit + (map.bias - top.bias) * SMALLER;
    // An infinite logit off the top stays so, whatever the slopes make of the top.
    let smaller = map.slope * (logit - top_logit) + slopes;
    smaller * LARGER
}

/// `a x + b` from the exponent of `pivot` under `slope` on.
pub(super) fn from_pivot(map: Affine, x: f64, slope: f64, pivot: f64) -> f64 {
    let top = Affine { slope, bias: 0.0 };
    below(map, x * SMALLER, top, pivot * SMALLER)
}

fn map_of(table: &RowTable, target: usize, class: usize) -> Affine {
    let own = table.targets[target];
    if class == target {
        Affine {
            slope: own.slope,
            bias: own.bias,
        }
    } else {
        table.affine(class)
    }
}

impl<'a> Careful<'a> {
    /// Solves a row of at least one logit.
    fn new<T: Element>(table: &'a RowTable, x: &[T], term: Term) -> Self {
        let target = term.class;
        let logit = |class: usize| x[class].to_f64() * SMALLER;
        let mut highest = 0;
        for class in 1..x.len() {
            let (map, top) = (map_of(table, target, class), map_of(table, target, highest));
            // From -infinity every logit is up, and that difference alone is no number.
            let above = logit(highest) == f64::NEG_INFINITY
                || below(map, logit(class), top, logit(highest)) > 0.0;
            if above {
                highest = class;
            }
        }
        let (map, top_logit) = (map_of(table, target, highest), logit(highest));
        let defined = top_logit.is_finite() && x.iter().all(|x| x.to_f64() < f64::INFINITY);
        let mut careful = Self {
            table,
            target,
            map,
            logit: top_logit,
            solution: RowSolution::undefined(table, term),
            log_sum: f64::NAN,
        };
        if defined {
            let others: f64 = (0..x.len())
                .filter(|&class| class != target)
                .map(|class| careful.exponential(class, x[class]))
                .sum();
            let target_offset = careful.below_top(target, x[target]);
            careful.log_sum = (others + target_offset.exp()).ln();
            careful.solution = RowSolution::of(table, term, target_offset, others);
        }
        careful
    }

    fn below_top<T: Element>(&self, class: usize, x: T) -> f64 {
        let map = map_of(self.table, self.target, class);
        below(map, x.to_f64() * SMALLER, self.map, self.logit).min(0.0)
    }

    /// `exp(z_j - z_m)`.
    fn exponential<T: Element>(&self, class: usize, x: T) -> f64 {
        self.below_top(class, x).exp()
    }
}
