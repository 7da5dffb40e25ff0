//! Rows too long to keep their exponentials, or too few for all threads: a row's columns are split
//! over threads, and its exponentials are computed once more for the gradient.
//!
//! ```text
//! sum by halves of columns      each run of 8192 by one thread; added up in the same order always
//! solve the row
//! write by halves of columns    block by block: exponentials into a buffer, the gradient from it
//! ```

use std::ops::Range;

use super::arch::isa::{Isa, Kernel};
use super::arch::vector::MOST_LANES;
use super::batch::Batch;
use super::gradient::Gradient;
use super::lane::{Float, Lane};
use super::map::{Map, Pivot};
use super::pair::Pair;
use super::plan::{Plan, column_cut};
use super::row_buffer::LINE;
use super::smoothed::{Fold, Smoothed, WeightedExponents, places};
use super::solve::solve;
use super::sum::{BLOCK, Partial, RowSum, SumColumns, part_end};
use super::top1::{Argmax, Largest, Top1};
use crate::element::Element;

/// The rows' summed loss.
pub(super) fn rows<T: Lane, M: Map<T::Real>>(
    plan: &Plan<'_>,
    mut batch: Batch<'_, T>,
    map: M,
) -> f64 {
    let classes = plan.table.classes();
    let mut loss = 0.0;
    for row in 0..batch.count {
        let Some(terms) = batch.terms(row) else {
            batch.ignore(row, classes);
            continue;
        };
        let hit_of = batch.hit_of(Some(row));
        let x = batch.matrix.row(row, classes);
        let prediction = || largest(plan, x).map(|largest| largest.class);
        let hit = |target| plan.instance.run(Top1 { x, target });
        batch.top1.note(row, hit_of, prediction, hit);
        let (first, logit) = (terms.first, x[terms.first.class]);
        let columns = RowSum {
            map,
            first_class: 0,
            x,
            target: first.class,
        };
        let (mut second, mut fold) = (None, None);
        let partial = match terms.second {
            None => sum(plan, columns, 0..classes),
            Some(other) => {
                let before = sum(plan, columns, 0..other.class);
                let after = sum(plan, columns, other.class + 1..classes);
                before.and(after, map)
            }
        };
        let (row_loss, writing) = match (plan.smoothing, terms.second) {
            (None, None) => solve(plan, &mut batch, map, (row, first, logit), partial),
            (Some(smoothing), _) => {
                let weights = T::Real::weights(smoothing);
                let all = WeightedExponents {
                    map,
                    x,
                    columns: 0..classes,
                    places: places(terms),
                    pivot: partial.pivot,
                    weights,
                };
                let spread = weighted(plan, all);
                let row = Smoothed::new(smoothing, row, terms, x);
                let (solved, folded) = row.solve(plan, &mut batch, map, partial, spread);
                let (loss, writing, at_second) = solved;
                (second, fold) = (at_second, folded);
                (loss, writing)
            }
            (None, Some(other)) => {
                let logits = [logit, x[other.class]].map(Element::to_f64);
                let pair = Pair::new(row, (first, other), logits);
                let (loss, writing, at_second) = pair.solve(plan, &mut batch, map, partial);
                second = at_second;
                (loss, writing)
            }
        };
        loss += row_loss;
        if let Some(writing) = writing
            && let Some((x, gradient)) = batch.matrix.gradient(row, classes)
        {
            let columns = WriteColumns {
                map,
                first_class: 0,
                x,
                pivot: partial.pivot,
                gradient,
                factor: writing.factor,
                less: writing.less,
                fold,
                stream: plan.stream,
            };
            write(plan, columns);
            gradient[writing.target] = writing.at_target;
            if let Some((place, value)) = second {
                gradient[place] = value;
            }
        }
    }
    loss
}

/// The sum of some columns off the row's target.
pub(super) fn sum<T: Lane, M: Map<T::Real>>(
    plan: &Plan<'_>,
    row: RowSum<'_, T, M>,
    columns: Range<usize>,
) -> Partial<T::Real> {
    let Some(cut) = column_cut(columns.len()) else {
        return plan.instance.run(SumColumns { row, columns });
    };
    let middle = columns.start + cut;
    let (low, high) = (columns.start..middle, middle..columns.end);
    let (a, b) = plan.both(|| sum(plan, row, low), || sum(plan, row, high));
    a.and(b, row.map)
}

pub(super) fn largest<T: Lane>(plan: &Plan<'_>, x: &[T]) -> Option<Largest<T::Real>> {
    let Some(cut) = column_cut(x.len()) else {
        return plan.instance.run(Argmax { x });
    };
    let (low, high) = x.split_at(cut);
    let (a, b) = plan.both(|| largest(plan, low), || largest(plan, high));
    Some(a?.or_of_columns_from(cut, b?))
}

fn weighted<T: Lane, M: Map<T::Real>>(plan: &Plan<'_>, all: WeightedExponents<'_, T, M>) -> f64 {
    let Some(cut) = column_cut(all.columns.len()) else {
        return plan.instance.run(all);
    };
    let middle = all.columns.start + cut;
    let (low, high) = (all.columns.start..middle, middle..all.columns.end);
    let part = |columns| WeightedExponents { columns, ..all };
    let (a, b) = plan.both(|| weighted(plan, part(low)), || weighted(plan, part(high)));
    a + b
}

pub(super) fn write<T: Lane, M: Map<T::Real>>(plan: &Plan<'_>, columns: WriteColumns<'_, T, M>) {
    let Some(cut) = column_cut(columns.gradient.len()) else {
        plan.instance.run(columns);
        return;
    };
    let (low, high) = columns.split_at(cut);
    plan.both(|| write(plan, low), || write(plan, high));
}

/// Writes some columns of a gradient from the logits, which are its own buffer where `x` is `None`.
/// The target's is patched afterwards.
pub(super) struct WriteColumns<'a, T: Lane, M> {
    pub(super) map: M,
    pub(super) first_class: usize,
    pub(super) x: Option<&'a [T]>,
    pub(super) pivot: Pivot<T::Real>,
    pub(super) gradient: &'a mut [T],
    pub(super) factor: T::Real,
    /// As in [`Gradient`].
    pub(super) less: T::Real,
    /// With smoothed labels.
    pub(super) fold: Option<Fold<'a, T::Real>>,
    pub(super) stream: bool,
}

impl<T: Lane, M: Map<T::Real>> WriteColumns<'_, T, M> {
    fn split_at(self, column: usize) -> (Self, Self) {
        let (low, high) = self.gradient.split_at_mut(column);
        let (x_low, x_high) = self.x.map(|x| x.split_at(column)).unzip();
        let part = |first_class, x, gradient| Self {
            first_class,
            x,
            gradient,
            ..self
        };
        (
            part(self.first_class, x_low, low),
            part(self.first_class + column, x_high, high),
        )
    }
}

impl<T: Lane, M: Map<T::Real>> Kernel for WriteColumns<'_, T, M> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self {
            map,
            first_class,
            x,
            pivot,
            gradient,
            factor,
            less,
            fold,
            stream,
        } = self;
        // Blocks after the first begin a line.
        let head = if stream {
            gradient.as_ptr().align_offset(LINE)
        } else {
            0
        };
        let mut exponentials = [T::Real::default(); MOST_BLOCK + MOST_LANES];
        let mut start = 0;
        while start < gradient.len() {
            let len = if start == 0 { BLOCK + head } else { BLOCK };
            let block = start..part_end(start, gradient.len(), len);
            start = block.end;
            let row = RowSum {
                map,
                first_class: first_class + block.start,
                x: match x {
                    Some(x) => &x[block.clone()],
                    None => &gradient[block.clone()],
                },
                target: usize::MAX,
            };
            row.take(0..block.len(), pivot, Some(&mut exponentials))
                .sum(isa);
            if let Some(fold) = fold {
                fold.fold(
                    isa,
                    &mut exponentials,
                    first_class + block.start,
                    block.len(),
                );
            }
            let mut part = Gradient {
                map,
                first_class: first_class + block.start,
                gradient: &mut gradient[block.clone()],
                factor,
                less,
                target: None,
                stream,
                written: 0,
            };
            part.write_to(isa, &exponentials, block.len());
        }
        if stream {
            isa.fence_streamed_stores();
        }
    }
}

/// The longest block: a first one with what is before its first line, and a quarter more at the
/// end.
const MOST_BLOCK: usize = (BLOCK + LINE) / 4 * 5;
