//! The first half: a row's record, from its logits.
//!
//! ```text
//! sum the row off its targets, relative to a pivot of this shard's own
//! if that is no sum, or its exponents are too large for vectors:     one logit after the other, in f64
//! if a target lies far above:                                        its logit is the pivot
//! ```
//!
//! A pivot that a target lies far above would cost the target's offset the digits that it has left
//! where another shard's pivot is as high.

use super::share::Share;
use crate::cpu::careful::from_pivot;
use crate::cpu::lane::Lane;
use crate::cpu::map::{Map, PerClass, Uniform};
use crate::cpu::plan::Plan;
use crate::cpu::split_row;
use crate::cpu::sum::{Partial, RowSum};
use crate::cpu::targets::{Targets, Terms};
use crate::element::Real;
use crate::shard::{NOT_HERE, RecordLayout};
use crate::table::{Affine, NonTarget, RowTable};

/// A run of rows with their records.
#[expect(missing_debug_implementations, reason = "nobody outside can name it")]
pub struct PartialBatch<'a, T> {
    pub(in crate::cpu) logits: &'a [T],
    pub(in crate::cpu) stride: usize,
    pub(in crate::cpu) targets: &'a dyn Targets,
    /// The first row's number among the targets.
    pub(in crate::cpu) first: usize,
    pub(in crate::cpu) count: usize,
    pub(in crate::cpu) records: &'a mut [f64],
    pub(in crate::cpu) share: Share,
}

pub(in crate::cpu) fn partial<T: Lane>(plan: &Plan<'_>, batch: PartialBatch<'_, T>) {
    if batch.count > plan.leaf_rows {
        let half = batch.count / 2;
        let (a, b) = batch.split_at(half);
        plan.both(|| partial(plan, a), || partial(plan, b));
        return;
    }
    match plan.table.non_target() {
        NonTarget::Uniform { slope } => leaf(plan, batch, Uniform::new(*slope)),
        NonTarget::PerClass(_) => leaf(plan, batch, PerClass::new(plan.log2_table)),
    }
}

fn leaf<T: Lane, M: Map<T::Real>>(plan: &Plan<'_>, batch: PartialBatch<'_, T>, map: M) {
    let share = batch.share;
    let records = batch.records.chunks_exact_mut(share.layout.len());
    for (row, record) in records.enumerate() {
        let x = &batch.logits[row * batch.stride..][..share.classes];
        match batch.targets.terms(batch.first + row) {
            Some(terms) => Row::new(plan, share, x, terms).write(plan, map, record),
            // Nobody reads it.
            None => record.fill(0.0),
        }
    }
}

impl<T> PartialBatch<'_, T> {
    fn split_at(self, row: usize) -> (Self, Self) {
        let (logits, rest) = self.logits.split_at(row * self.stride);
        let (records, later) = self.records.split_at_mut(row * self.share.layout.len());
        let part = |logits, first, count, records| Self {
            logits,
            first,
            count,
            records,
            ..self
        };
        (
            part(logits, self.first, row, records),
            part(rest, self.first + row, self.count - row, later),
        )
    }
}

/// A target is the pivot where it lies more than this above it: of a larger offset few digits are
/// left behind the point.
const FAR_ABOVE: f64 = (1u32 << 20) as f64;

/// The same of a target as a class like any other, of which there is an exponential.
pub(super) const ABOVE: f64 = 64.0;

/// A target that is among the shard's classes.
#[derive(Clone, Copy)]
struct Own {
    place: usize,
    x: f64,
    /// As the target, and as a class like any other.
    maps: [Affine; 2],
}

struct Row<'a, T> {
    share: Share,
    x: &'a [T],
    targets: [Option<Own>; 2],
    table: &'a RowTable,
}

/// What exponents count from is `logit` times the reference slope.
struct Sum {
    logit: f64,
    sum: f64,
    /// The target, and which of its maps, that the pivot is the exponent of.
    at: Option<(usize, usize)>,
}

/// What an exponent is from a pivot on that was made from it: but for rounding, nothing or a small
/// bias.
fn rest(offset: f64) -> f64 {
    offset.clamp(-ABOVE, ABOVE)
}

impl<'a, T: Lane> Row<'a, T> {
    fn new(plan: &Plan<'a>, share: Share, x: &'a [T], Terms { first, second }: Terms) -> Self {
        let own = |class: usize| {
            let place = share.place(class)?;
            let target = plan.table.targets[place];
            let as_target = Affine {
                slope: target.slope,
                bias: target.bias,
            };
            Some(Own {
                place,
                x: x[place].to_f64(),
                maps: [as_target, plan.table.affine(place)],
            })
        };
        Self {
            share,
            x,
            targets: [own(first.class), second.and_then(|term| own(term.class))],
            table: plan.table,
        }
    }

    fn write<M: Map<T::Real>>(&self, plan: &Plan<'_>, map: M, record: &mut [f64]) {
        let share = self.share;
        let layout = share.layout;
        let partial = self.sum(plan, map);
        let sum = if map.needs_care(partial.pivot) || !partial.sum.is_finite() {
            self.careful_sum()
        } else {
            let shift = map.shift(partial.pivot);
            let logit = map.logit_at(partial.pivot, share.reference_slope);
            let rest = share.reference_slope.mul_add(-logit, shift);
            Sum {
                logit,
                sum: partial.sum * rest.exp(),
                at: None,
            }
        };
        let sum = self.raised(sum);
        record[RecordLayout::PIVOT] = sum.logit;
        record[RecordLayout::SUM] = sum.sum;
        for (i, own) in self.targets.iter().enumerate() {
            if i == 1 && !layout.mixed {
                continue;
            }
            record[layout.offset(i)] = match own {
                Some(own) => self.offset_from(own, 0, &sum),
                None => NOT_HERE,
            };
            if layout.weights {
                let weight = |own: &Own| self.table.targets[own.place].weight;
                record[layout.weight(i)] = own.as_ref().map_or(0.0, weight);
            }
            if layout.mixed {
                record[layout.as_other(i)] = match own {
                    Some(own) => self.offset_from(own, 1, &sum),
                    None => NOT_HERE,
                };
            }
        }
        if layout.top1 {
            let (logit, class) = match split_row::largest(plan, self.x) {
                Some(largest) => (largest.logit.to_f64(), share.first_class + largest.class),
                None => (f64::NAN, 0),
            };
            record[layout.largest()] = logit;
            record[layout.largest_class()] = class as f64;
        }
    }

    /// Off the targets.
    fn sum<M: Map<T::Real>>(&self, plan: &Plan<'_>, map: M) -> Partial<T::Real> {
        let classes = self.share.classes;
        let places = self.targets.map(|own| own.map(|own| own.place));
        let row = |target| RowSum {
            map,
            first_class: 0,
            x: self.x,
            target,
        };
        match places {
            [Some(a), Some(b)] => {
                let (row, other) = (row(a), b);
                let before = split_row::sum(plan, row, 0..other);
                let after = split_row::sum(plan, row, other + 1..classes);
                before.and(after, map)
            }
            [place, None] | [None, place] => {
                split_row::sum(plan, row(place.unwrap_or(usize::MAX)), 0..classes)
            }
        }
    }

    /// A target's exponent under one of its maps, from the pivot on: a number but for a NaN, or
    /// `-infinity`.
    fn offset(&self, own: &Own, map: usize, pivot: f64) -> f64 {
        match own.x {
            f64::NEG_INFINITY => return f64::NEG_INFINITY,
            f64::INFINITY => return f64::NAN,
            _ => {}
        }
        let offset = from_pivot(own.maps[map], own.x, self.share.reference_slope, pivot);
        // A larger one is as good, and NOT_HERE would be none. A NaN stays.
        if offset > f64::MAX { f64::MAX } else { offset }
    }

    fn offset_from(&self, own: &Own, map: usize, sum: &Sum) -> f64 {
        let offset = self.offset(own, map, sum.logit);
        match sum.at == Some((own.place, map)) {
            true => rest(offset),
            false => offset,
        }
    }

    /// The same sum from the target's exponent on, where that lies far above the pivot.
    fn raised(&self, sum: Sum) -> Sum {
        if sum.logit.is_nan() {
            return sum;
        }
        let exponents = self.targets.iter().flatten().flat_map(|own| {
            let maps: &[usize] = if self.share.layout.mixed {
                &[1, 0]
            } else {
                &[0]
            };
            maps.iter().map(move |&map| (own, map))
        });
        let (mut logit, mut at) = (sum.logit, None);
        for (own, map) in exponents {
            let is_above = match logit {
                f64::NEG_INFINITY => own.x.is_finite(),
                logit => self.offset(own, map, logit) > [FAR_ABOVE, ABOVE][map],
            };
            if is_above {
                logit = self.logit_of(own.maps[map], own.x);
                at = Some((own.place, map));
            }
        }
        if at.is_none() {
            return sum;
        }
        let below = match sum.sum {
            0.0 => 0.0,
            _ => self.share.reference_slope * (sum.logit - logit),
        };
        Sum {
            logit,
            sum: sum.sum * below.exp(),
            at,
        }
    }

    /// A logit that has nearly this exponent under the reference slope.
    fn logit_of(&self, map: Affine, x: f64) -> f64 {
        let slope = self.share.reference_slope;
        if map.slope == slope && map.bias.abs() <= ABOVE {
            return x;
        }
        let logit = x + ((map.slope - slope) / slope * x + map.bias / slope);
        logit.clamp(f64::MIN, f64::MAX)
    }

    /// One logit after the other, relative to the largest exponent.
    #[cold]
    #[inline(never)]
    fn careful_sum(&self) -> Sum {
        const NONE: Sum = Sum {
            logit: f64::NAN,
            sum: f64::NAN,
            at: None,
        };
        // A NaN is not less.
        if !self.x.iter().all(|x| x.to_f64() < f64::INFINITY) {
            return NONE;
        }
        let places = self.targets.map(|own| own.map(|own| own.place));
        let slope = self.share.reference_slope;
        let off_targets = || {
            let all = self.x.iter().map(|x| x.to_f64()).enumerate();
            all.filter(|(class, x)| !places.contains(&Some(*class)) && *x > f64::NEG_INFINITY)
                .map(|(class, x)| (self.table.affine(class), x))
        };
        // The exponent of one from another's on.
        let above = |(map, x): (Affine, f64), (top, x_top): (Affine, f64)| {
            from_pivot(
                Affine {
                    slope: map.slope,
                    bias: map.bias - top.bias,
                },
                x,
                top.slope,
                x_top,
            )
        };
        let top = off_targets().reduce(|top, next| match above(next, top) > 0.0 {
            true => next,
            false => top,
        });
        let Some(top) = top else {
            return Sum {
                logit: f64::NEG_INFINITY,
                sum: 0.0,
                at: None,
            };
        };
        let sum: f64 = off_targets()
            .map(|next| above(next, top).min(0.0).exp())
            .sum();
        let mut logit = self.logit_of(top.0, top.1);
        let rest_at = |logit| from_pivot(top.0, top.1, slope, logit);
        if rest_at(logit) < -ABOVE {
            // Beyond 2^56 the neighbours of a pivot are far apart. The lower one is the second
            // half's for which the top is not nothing.
            logit = logit.next_down();
        }
        Sum {
            logit,
            sum: sum * rest(rest_at(logit)).exp(),
            at: None,
        }
    }
}
