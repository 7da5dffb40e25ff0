//! The first half: a row's record, from its logits.
//!
//! ```text
//! sum the row off its targets, relative to a pivot of this shard's own
//! if that is no sum, or its exponents are too large for vectors:     logit by logit, in f64
//! if a target lies far above:                                        its exponent is the pivot's
//! ```
//!
//! Of a row with two labels that is done for each of them, the other label being a class like any
//! other.
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
pub(super) const FAR_ABOVE: f64 = (1u32 << 20) as f64;

/// The same of a class of which there is an exponential.
const ABOVE: f64 = 64.0;

/// The most that an exponent from an origin on may be where the origin was rounded by as much: its
/// exponential is a number, and so is that of its opposite.
pub(super) const MOST_REST: f64 = 600.0;

/// A target that is among the shard's classes.
#[derive(Clone, Copy)]
struct Own {
    place: usize,
    x: f64,
    /// As the target, and as a class like any other.
    maps: [Affine; 2],
}

impl Own {
    fn as_target(self) -> Exponent {
        let [map, _] = self.maps;
        Exponent { map, x: self.x }
    }

    fn as_other(self) -> Exponent {
        let [_, map] = self.maps;
        Exponent { map, x: self.x }
    }

    /// The target's exponent, from the origin on: a number but for a NaN, or `-infinity`.
    fn offset(self, origin: Option<Origin>) -> f64 {
        match (self.x, origin) {
            (f64::NEG_INFINITY, _) => f64::NEG_INFINITY,
            (f64::INFINITY, _) | (_, None) => f64::NAN,
            (_, Some(origin)) => match origin.to(self.as_target()) {
                // A larger one is as good, and NOT_HERE would be none. A NaN stays.
                offset if offset > f64::MAX => f64::MAX,
                offset => offset,
            },
        }
    }
}

struct Row<'a, T> {
    share: Share,
    x: &'a [T],
    targets: [Option<Own>; 2],
    table: &'a RowTable,
}

/// A logit under a map.
#[derive(Clone, Copy)]
struct Exponent {
    map: Affine,
    x: f64,
}

impl Exponent {
    /// What it is from another one on.
    fn above(self, other: Self) -> f64 {
        let map = Affine {
            slope: self.map.slope,
            bias: self.map.bias - other.map.bias,
        };
        from_pivot(map, self.x, other.map.slope, other.x)
    }
}

/// What the exponents of a record count from: `logit` under the reference slope.
#[derive(Clone, Copy)]
struct Origin {
    logit: f64,
    /// What it was made from, and what that is from the origin on: the distance of others from it
    /// has more digits than from the origin itself, where numbers are far apart.
    of: Exponent,
    rest: f64,
}

impl Origin {
    fn new(logit: f64, slope: f64) -> Self {
        let map = Affine { slope, bias: 0.0 };
        let of = Exponent { map, x: logit };
        Self {
            logit,
            of,
            rest: 0.0,
        }
    }

    /// One near an exponent.
    fn near(of: Exponent, slope: f64) -> Self {
        let Exponent { map, x } = of;
        let mut logit = match map.slope == slope {
            true if map.bias.abs() <= ABOVE => x,
            true => x + map.bias / slope,
            // The slopes may be so different that their difference is one of them.
            false => map.slope / slope * x + map.bias / slope,
        };
        logit = logit.clamp(f64::MIN, f64::MAX);
        let rest = |logit| from_pivot(map, x, slope, logit);
        // Beyond 2^56 rounding is more than an exponential takes. From an origin that lies too low
        // the second half finds what is left of it; from one too high it would find nothing.
        let mut step = f64::EPSILON;
        while rest(logit) < -MOST_REST && step < 1e-14 {
            logit = (logit - logit.abs() * step).max(f64::MIN);
            step *= 2.0;
        }
        Self {
            logit,
            of,
            rest: rest(logit).clamp(-MOST_REST, MOST_REST),
        }
    }

    /// An exponent from it on.
    fn to(self, exponent: Exponent) -> f64 {
        exponent.above(self.of) + self.rest
    }
}

/// A sum of exponentials; a NaN where the row is undefined.
#[derive(Clone, Copy)]
struct Sum {
    /// `None` where there is nothing to count from.
    origin: Option<Origin>,
    sum: f64,
}

impl Sum {
    const NONE: Self = Self {
        origin: None,
        sum: f64::NAN,
    };

    /// The same from an exponent on, where that lies more than so much above.
    fn raised(self, to: Exponent, most: f64, slope: f64) -> Self {
        let Some(before) = self.origin else {
            return Self {
                origin: Some(Origin::near(to, slope)),
                ..self
            };
        };
        if before.to(to) <= most {
            return self;
        }
        let origin = Origin::near(to, slope);
        let below = origin.to(before.of) - before.rest;
        Self {
            origin: Some(origin),
            sum: self.sum * below.exp(),
        }
    }
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
            let slope = share.reference_slope;
            let logit = map.logit_at(partial.pivot, slope);
            let rest = slope.mul_add(-logit, map.shift(partial.pivot));
            Sum {
                origin: Some(Origin::new(logit, slope)),
                sum: partial.sum * rest.exp(),
            }
        };
        for term in 0..layout.terms() {
            let line = &mut record[layout.term(term)];
            let own = self.targets[term];
            let Sum { origin, sum } = match (own, self.targets[1 - term]) {
                (None, None) => sum,
                (own, other) => {
                    // Of a row's labels the other one is a class like any other.
                    let sum = other.map_or(sum, |other| self.with_other(sum, other));
                    own.map_or(sum, |own| self.raised(sum, own))
                }
            };
            line[RecordLayout::PIVOT] = match origin {
                Some(origin) => origin.logit,
                None if sum.is_nan() => f64::NAN,
                None => f64::NEG_INFINITY,
            };
            line[RecordLayout::SUM] = sum;
            line[RecordLayout::OFFSET] = own.map_or(NOT_HERE, |own| own.offset(origin));
            if layout.weights {
                let weight = |own: Own| self.table.targets[own.place].weight;
                line[RecordLayout::WEIGHT] = own.map_or(0.0, weight);
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

    /// The sum with a class that was left out.
    fn with_other(&self, sum: Sum, other: Own) -> Sum {
        if sum.sum.is_nan() || other.x == f64::NEG_INFINITY {
            return sum;
        }
        if !other.x.is_finite() {
            return Sum::NONE;
        }
        let raised = sum.raised(other.as_other(), ABOVE, self.share.reference_slope);
        let own = raised
            .origin
            .map_or(0.0, |origin| origin.to(other.as_other()).exp());
        Sum {
            sum: raised.sum + own,
            ..raised
        }
    }

    /// The sum from the target's exponent on, where that lies far above.
    fn raised(&self, sum: Sum, own: Own) -> Sum {
        if sum.sum.is_nan() || !own.x.is_finite() {
            return sum;
        }
        sum.raised(own.as_target(), FAR_ABOVE, self.share.reference_slope)
    }

    /// One logit after the other, relative to the largest exponent.
    #[cold]
    #[inline(never)]
    fn careful_sum(&self) -> Sum {
        // A NaN is not less.
        if !self.x.iter().all(|x| x.to_f64() < f64::INFINITY) {
            return Sum::NONE;
        }
        let places = self.targets.map(|own| own.map(|own| own.place));
        let off_targets = || {
            let all = self.x.iter().map(|x| x.to_f64()).enumerate();
            all.filter(|(class, x)| !places.contains(&Some(*class)) && *x > f64::NEG_INFINITY)
                .map(|(class, x)| Exponent {
                    map: self.table.affine(class),
                    x,
                })
        };
        let top = off_targets().reduce(|top, next| match next.above(top) > 0.0 {
            true => next,
            false => top,
        });
        let Some(top) = top else {
            return Sum {
                origin: None,
                sum: 0.0,
            };
        };
        let sum: f64 = off_targets()
            .map(|next| next.above(top).min(0.0).exp())
            .sum();
        let origin = Origin::near(top, self.share.reference_slope);
        Sum {
            origin: Some(origin),
            sum: sum * origin.rest.exp(),
        }
    }
}
