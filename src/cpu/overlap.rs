//! Rows whose exponentials are kept: the gradient of one is written while the next is summed up, so
//! that memory works while the processor does, and nothing waits for a row's scalars.
//!
//! ```text
//! for each row i, and once more:
//!     OneBlockRow    sum row i into one buffer, write row i-1 from the other
//!     ManyBlockRow   strip by strip: write row i-1 from the buffer, sum row i into it
//!     solve row i    its loss and its gradient's factors; of a mixed row as a pair
//! ```

use super::arch::isa::{Isa, Kernel};
use super::arch::vector::Vector;
use super::batch::Batch;
use super::gradient::Gradient;
use super::lane::{Float, Lane, VectorOf};
use super::map::{Map, Pivot};
use super::pair::Pair;
use super::plan::{Plan, kept_len};
use super::smoothed::{Smoothed, WeightedExponents, places};
use super::solve::{Writing, solve};
use super::sum::{BLOCK, Partial, RowSum, part_end, total};
use super::top1::{Argmax, Top1};
use crate::element::Element;

/// The gradient of one row and the exponentials of a later one alternate after a block, or after so
/// many columns where the gradient is streamed.
const STRIP: usize = 256;

/// A run of rows.
pub(super) struct Overlap<'a, T: Lane, M> {
    pub(super) plan: &'a Plan<'a>,
    pub(super) batch: Batch<'a, T>,
    pub(super) map: M,
    /// `[C]` and padding; where a row is one block, twice.
    pub(super) kept: &'a mut [T::Real],
}

/// A row whose gradient is still to be written.
#[derive(Clone, Copy)]
struct Waiting<T: Lane> {
    row: usize,
    writing: Writing<T>,
    /// Of a mixed row: where its second label is, and its gradient there.
    second: Option<(usize, T)>,
}

impl<T: Lane, M: Map<T::Real>> Kernel for Overlap<'_, T, M> {
    /// The rows' summed loss.
    type Output = f64;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> f64 {
        let Self {
            plan,
            mut batch,
            map,
            kept,
        } = self;
        let classes = plan.table.classes();
        let gather = plan.smoothing.is_some_and(|smoothing| smoothing.alike);
        let (mut kept, mut earlier) = kept.split_at_mut(kept_len(classes));
        let mut waiting: Option<Waiting<T>> = None;
        let mut loss = 0.0;
        // Once more, to write the last.
        for row in 0..=batch.count {
            let terms = if row < batch.count {
                batch.terms(row)
            } else {
                None
            };
            let hit_of = batch.hit_of(terms.map(|_| row));
            let old = waiting.take();
            let rows = (old.map(|old| old.row), terms.map(|_| row));
            let (gradient, x) = batch.matrix.overlap(rows, classes);
            let new = match (x, terms) {
                (Some(x), Some(terms)) => Some(RowSum {
                    map,
                    first_class: 0,
                    x,
                    target: terms.first.class,
                }),
                _ => None,
            };
            if let Some(RowSum { x, .. }) = new {
                let prediction = || isa.apart(Argmax { x }).map(|largest| largest.class);
                let hit = |target| isa.apart(Top1 { x, target });
                batch.top1.note(row, hit_of, prediction, hit);
            }
            let second = old.and_then(|old| Some((old.row, old.second?)));
            let old = match (gradient, old) {
                (Some(gradient), Some(old)) => Some(Gradient {
                    map,
                    first_class: 0,
                    gradient,
                    factor: old.writing.factor,
                    less: old.writing.less,
                    target: Some((old.writing.target, old.writing.at_target)),
                    stream: plan.stream,
                    written: 0,
                }),
                _ => None,
            };
            let mut measures = Measures::new(gather);
            let partial = if earlier.is_empty() {
                isa.apart(ManyBlockRow {
                    map,
                    classes,
                    measures: &mut measures,
                    new,
                    old,
                    kept: &mut *kept,
                })
            } else {
                std::mem::swap(&mut kept, &mut earlier);
                OneBlockRow {
                    map,
                    classes,
                    measures: &mut measures,
                    new,
                    old,
                    kept: &mut *kept,
                    earlier: &*earlier,
                }
                .run(isa)
            };
            let (Some(RowSum { x, .. }), Some(terms)) = (new, terms) else {
                if let Some(second) = second {
                    patch(isa, plan, &mut batch, second);
                }
                if row < batch.count {
                    batch.ignore(row, classes);
                }
                continue;
            };
            let (first, logit) = (terms.first, x[terms.first.class]);
            let mut next_second = None;
            let (row_loss, writing) = match (plan.smoothing, terms.second) {
                (None, None) => solve(plan, &mut batch, map, (row, first, logit), partial),
                (Some(smoothing), _) => {
                    let row = Smoothed::new(smoothing, row, terms, x);
                    let spread = match row.gathered(plan, map, partial.pivot, measures.sum) {
                        Some(spread) => spread,
                        None => isa.apart(WeightedExponents {
                            map,
                            x,
                            columns: 0..classes,
                            places: places(terms),
                            pivot: partial.pivot,
                            weights: T::Real::weights(smoothing),
                        }),
                    };
                    let partial = (partial, spread);
                    let (loss, writing, second) =
                        row.solve_kept(isa, plan, &mut batch, map, partial, kept);
                    next_second = second;
                    (loss, writing)
                }
                (None, Some(other)) => {
                    let logits = [logit, x[other.class]].map(Element::to_f64);
                    let pair = Pair::new(row, (first, other), logits);
                    let kept = &mut kept[..classes];
                    let (loss, writing, second) =
                        pair.solve_kept(isa, plan, &mut batch, map, partial, kept);
                    next_second = second;
                    (loss, writing)
                }
            };
            if let Some(second) = second {
                patch(isa, plan, &mut batch, second);
            }
            loss += row_loss;
            if let Some(writing) = writing
                && batch.matrix.gradient(row, classes).is_some()
            {
                waiting = Some(Waiting {
                    row,
                    writing,
                    second: next_second,
                });
            }
        }
        if plan.stream {
            isa.fence_streamed_stores();
        }
        loss
    }
}

/// Writes the gradient at a mixed row's second label, when all else of the row is written.
#[inline(never)]
fn patch<I: Isa, T: Lane>(
    isa: I,
    plan: &Plan<'_>,
    batch: &mut Batch<'_, T>,
    (row, (place, value)): (usize, (usize, T)),
) {
    if plan.stream {
        // What was streamed there must not come after it.
        isa.fence_streamed_stores();
    }
    if let Some((_, gradient)) = batch.matrix.gradient(row, plan.table.classes()) {
        gradient[place] = value;
    }
}

/// What [`Map::gathered`] takes of a row.
struct Measures {
    /// Whether they are wanted.
    gather: bool,
    /// A NaN where there is nothing to take.
    sum: f64,
}

impl Measures {
    fn new(gather: bool) -> Self {
        Self {
            gather,
            sum: if gather { 0.0 } else { f64::NAN },
        }
    }

    #[inline(always)]
    fn add(&mut self, more: f64) {
        self.sum += more;
    }

    /// They are of no use where the pivot was raised, which is rare.
    #[inline(always)]
    fn hold_for<R: Float>(&mut self, before: Pivot<R>, after: Pivot<R>) {
        if before.order != after.order {
            self.sum = f64::NAN;
        }
    }
}

/// A row of one block. The old row's exponentials are kept apart from the new one's, so that the
/// scalars of neither are waited for.
struct OneBlockRow<'a, T: Lane, M> {
    map: M,
    classes: usize,
    measures: &'a mut Measures,
    new: Option<RowSum<'a, T, M>>,
    old: Option<Gradient<'a, T, M>>,
    /// `[C]` and padding, for the new row and from the old.
    kept: &'a mut [T::Real],
    earlier: &'a [T::Real],
}

impl<T: Lane, M: Map<T::Real>> Kernel for OneBlockRow<'_, T, M> {
    type Output = Partial<T::Real>;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Self::Output {
        let Self {
            map,
            classes,
            measures,
            new,
            old,
            kept,
            earlier,
        } = self;
        let mut partial = Partial::none::<I>(map);
        if let Some(new) = new {
            new.begin(isa, 0..classes, &mut partial);
            let take = new.take(0..classes, partial.pivot, Some(&mut *kept));
            let sum = if measures.gather {
                let none = VectorOf::<I, T>::splat(isa, T::Real::default());
                let [sum, gathered] = take.gather(isa, none, none);
                measures.add(total::<I, T::Real>(gathered));
                sum
            } else {
                take.sum(isa)
            };
            let pivot = partial.pivot;
            let sum = new.without_target(isa, 0..classes, sum, kept);
            new.end(isa, 0..classes, sum, Some(kept), &mut partial);
            measures.hold_for(pivot, partial.pivot);
        }
        if let Some(mut old) = old {
            old.write_to(isa, earlier, classes);
        }
        partial
    }
}

/// A row of many blocks: its exponentials are kept over those of the old one, as the old one's
/// gradient goes along.
struct ManyBlockRow<'a, T: Lane, M> {
    map: M,
    classes: usize,
    measures: &'a mut Measures,
    new: Option<RowSum<'a, T, M>>,
    old: Option<Gradient<'a, T, M>>,
    /// `[C]` and padding.
    kept: &'a mut [T::Real],
}

impl<T: Lane, M: Map<T::Real>> Kernel for ManyBlockRow<'_, T, M> {
    type Output = Partial<T::Real>;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Self::Output {
        let Self {
            map,
            classes,
            measures,
            new,
            mut old,
            kept,
        } = self;
        let strip_len = match &old {
            Some(old) if old.stream => STRIP,
            _ => BLOCK,
        };
        let mut partial = Partial::none::<I>(map);
        let mut start = 0;
        while start < classes {
            let block = start..part_end(start, classes, BLOCK);
            if let Some(new) = new {
                new.begin(isa, block.clone(), &mut partial);
            }
            let none = VectorOf::<I, T>::splat(isa, T::Real::default());
            let [mut sum, mut gathered] = [none; 2];
            while start < block.end {
                let strip = start..part_end(start, block.end, strip_len);
                start = strip.end;
                if let Some(old) = &mut old {
                    old.write_to(isa, kept, strip.end);
                }
                if let Some(new) = new {
                    let take = new.take(strip, partial.pivot, Some(&mut *kept));
                    if measures.gather {
                        [sum, gathered] = take.gather(isa, sum, gathered);
                    } else {
                        sum = take.onto(isa, sum);
                    }
                }
            }
            if let Some(new) = new {
                if measures.gather {
                    measures.add(total::<I, T::Real>(gathered));
                }
                let pivot = partial.pivot;
                let sum = new.without_target(isa, block.clone(), sum, kept);
                new.end(isa, block, sum, Some(&mut *kept), &mut partial);
                measures.hold_for(pivot, partial.pivot);
            }
        }
        partial
    }
}
