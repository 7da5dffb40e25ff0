//! The records of all shards, and what a row of them comes to.

use super::share::Share;
use crate::cpu::targets::{Counted, Targets, Terms};
use crate::error::Error;
use crate::shard::{NOT_HERE, RecordLayout};

/// The records of all shards, one after the other.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Records<'a> {
    numbers: &'a [f64],
    rows: usize,
    shards: usize,
    reference_slope: f64,
    layout: RecordLayout,
}

/// What the shards' records of a row come to.
pub(super) struct Combined {
    /// What exponents count from is this times the reference slope.
    pub(super) pivot: f64,
    /// Of the exponentials off all targets.
    pub(super) sum: f64,
    pub(super) terms: [CombinedTerm; 2],
}

#[derive(Clone, Copy)]
pub(super) struct CombinedTerm {
    /// `z_y` from the pivot on.
    pub(super) offset: f64,
    /// The class's weight, where weights differ.
    pub(super) weight: f64,
    /// The target's exponent as that of a class like any other, from the pivot on; of mixed rows.
    pub(super) as_other: f64,
}

impl Combined {
    /// The sum off one of the targets.
    pub(super) fn others(&self, term: usize, count: usize) -> f64 {
        match count {
            2 => self.sum + self.terms[1 - term].as_other.exp(),
            _ => self.sum,
        }
    }

    /// The target's offset and the sum off it; nothing where the row has no softmax.
    pub(super) fn sums(&self, term: usize, count: usize) -> Option<(f64, f64)> {
        let (offset, others) = (self.terms[term].offset, self.others(term, count));
        let defined = self.pivot.is_finite() && !offset.is_nan() && others.is_finite();
        defined.then_some((offset, others))
    }
}

impl<'a> Records<'a> {
    pub(in crate::cpu) fn new(
        numbers: &'a [f64],
        rows: usize,
        share: Share,
    ) -> Result<Self, Error> {
        let layout = share.layout;
        let of_shard = rows.saturating_mul(layout.len());
        let shards = numbers.len().checked_div(of_shard).unwrap_or(1);
        if numbers.len() != shards * of_shard || shards == 0 {
            return Err(Error::Length {
                name: "the shards' records",
                got: numbers.len(),
                expected: shards.max(1).saturating_mul(of_shard),
            });
        }
        Ok(Self {
            numbers,
            rows,
            shards,
            reference_slope: share.reference_slope,
            layout,
        })
    }

    /// The records of a row, in the shards' order.
    fn of_row(self, row: usize) -> impl Iterator<Item = &'a [f64]> {
        let len = self.layout.len();
        (0..self.shards).map(move |shard| &self.numbers[(shard * self.rows + row) * len..][..len])
    }

    /// The record that has a row's target.
    fn owner(self, row: usize, term: usize) -> Option<&'a [f64]> {
        let offset = self.layout.offset(term);
        self.of_row(row).find(|record| record[offset] != NOT_HERE)
    }

    /// Fails where a target is not among the classes of one shard.
    pub(in crate::cpu) fn check_labels(self, targets: &dyn Targets) -> Result<(), Error> {
        for row in 0..self.rows {
            let Some(Terms { first, second }) = targets.terms(row) else {
                continue;
            };
            for (i, term) in [Some(first), second].into_iter().flatten().enumerate() {
                let offset = self.layout.offset(i);
                let of_row = self.of_row(row);
                let shards = of_row.filter(|record| record[offset] != NOT_HERE).count();
                if shards != 1 {
                    return Err(Error::ShardsOfLabel {
                        row,
                        label: term.class as i128,
                        shards,
                    });
                }
            }
        }
        Ok(())
    }

    /// Adds up what counts, in row order, where classes have different weights.
    pub(in crate::cpu) fn weigh(self, targets: &dyn Targets) -> Result<Counted, Error> {
        self.check_labels(targets)?;
        let mut counted = Counted {
            rows: 0,
            weight: 0.0,
        };
        for row in 0..self.rows {
            if let Some(Terms { first, second }) = targets.terms(row) {
                let terms = [Some(first), second].into_iter().flatten().enumerate();
                counted.add(
                    terms
                        .map(|(i, term)| self.weight(row, i) * term.share)
                        .sum(),
                );
            }
        }
        Ok(counted)
    }

    fn weight(self, row: usize, term: usize) -> f64 {
        let owner = self.owner(row, term);
        owner.map_or(f64::NAN, |record| record[self.layout.weight(term)])
    }

    /// A row with `count` targets.
    pub(super) fn combine(self, row: usize, count: usize) -> Combined {
        let layout = self.layout;
        let highest = |records: &mut dyn Iterator<Item = &'a [f64]>| {
            let pivots = records.map(|record| record[RecordLayout::PIVOT]);
            // A NaN stays.
            pivots.fold(f64::NEG_INFINITY, |highest, pivot| match highest < pivot {
                true => pivot,
                false if pivot.is_nan() => pivot,
                false => highest,
            })
        };
        let mut pivot = highest(&mut self.of_row(row));
        if count == 1 && pivot.is_finite() {
            // One that a target alone has would leave the others' exponentials no digits.
            let has_sum = |record: &&[f64]| record[RecordLayout::SUM] != 0.0;
            let of_sums = highest(&mut self.of_row(row).filter(has_sum));
            if of_sums > f64::NEG_INFINITY {
                pivot = of_sums;
            }
        }
        let from_pivot = |record: &[f64]| match record[RecordLayout::PIVOT] {
            // Also where that is -infinity.
            own if own == pivot => 0.0,
            own => self.reference_slope * (own - pivot),
        };
        let mut all = 0.0;
        for record in self.of_row(row) {
            let sum = record[RecordLayout::SUM];
            all += match from_pivot(record) {
                // Of a pivot far above it there is nothing.
                _ if sum == 0.0 => 0.0,
                0.0 => sum,
                below => sum * below.exp(),
            };
        }
        let term = |term: usize| {
            let record = self.owner(row, term).filter(|_| term < count);
            let at = |at: usize| record.map_or(f64::NAN, |record| record[at] + from_pivot(record));
            CombinedTerm {
                offset: at(layout.offset(term)),
                weight: match (layout.weights, record) {
                    (true, Some(record)) => record[layout.weight(term)],
                    _ => f64::NAN,
                },
                as_other: match layout.mixed {
                    true => at(layout.as_other(term)),
                    false => f64::NAN,
                },
            }
        };
        Combined {
            pivot,
            sum: all,
            terms: [term(0), if count == 2 { term(1) } else { term(0) }],
        }
    }

    /// The class of the row's largest logit, the lowest of those that have it; none with a NaN.
    pub(super) fn prediction(self, row: usize) -> Option<usize> {
        let mut best: Option<[f64; 2]> = None;
        for record in self.of_row(row) {
            let [logit, class] =
                [self.layout.largest(), self.layout.largest_class()].map(|at| record[at]);
            if logit.is_nan() {
                return None;
            }
            let is_better = best.is_none_or(|[largest, lowest]| {
                logit > largest || (logit == largest && class < lowest)
            });
            if is_better {
                best = Some([logit, class]);
            }
        }
        best.map(|[_, class]| class as usize)
    }
}
