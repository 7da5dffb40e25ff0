//! The records of all shards, and what a row of them comes to.

use super::partial::FAR_ABOVE;
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

/// What the shards' records of a row come to, as it is held against one of its labels.
#[derive(Clone, Copy)]
pub(super) struct Combined {
    /// What exponents count from is this times the reference slope.
    pub(super) pivot: f64,
    /// Of the exponentials off the target.
    pub(super) sum: f64,
    /// Of the target.
    offset: f64,
    /// The class's, where weights differ.
    pub(super) weight: f64,
}

impl Combined {
    /// The target's offset and the sum off it; nothing where the row has no softmax.
    pub(super) fn sums(&self) -> Option<(f64, f64)> {
        let defined = self.pivot.is_finite() && !self.offset.is_nan() && self.sum.is_finite();
        defined.then_some((self.offset, self.sum))
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

    /// The lines of a row's label, in the shards' order.
    fn of_term(self, row: usize, term: usize) -> impl Iterator<Item = &'a [f64]> {
        let line = self.layout.term(term);
        self.of_row(row).map(move |record| &record[line.clone()])
    }

    /// The line of the shard that has the label's class.
    fn owner(self, row: usize, term: usize) -> Option<&'a [f64]> {
        self.of_term(row, term)
            .find(|line| line[RecordLayout::OFFSET] != NOT_HERE)
    }

    /// Fails where a target is not among the classes of one shard.
    pub(in crate::cpu) fn check_labels(self, targets: &dyn Targets) -> Result<(), Error> {
        for row in 0..self.rows {
            let Some(Terms { first, second }) = targets.terms(row) else {
                continue;
            };
            for (i, term) in [Some(first), second].into_iter().flatten().enumerate() {
                let has_class = |line: &&[f64]| line[RecordLayout::OFFSET] != NOT_HERE;
                let shards = self.of_term(row, i).filter(has_class).count();
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
        owner.map_or(f64::NAN, |line| line[RecordLayout::WEIGHT])
    }

    /// A row as it is held against one of its labels.
    pub(super) fn combine(self, row: usize, term: usize) -> Combined {
        let highest = |lines: &mut dyn Iterator<Item = &'a [f64]>| {
            let pivots = lines.map(|line| line[RecordLayout::PIVOT]);
            // A NaN stays.
            pivots.fold(f64::NEG_INFINITY, |highest, pivot| match highest < pivot {
                true => pivot,
                false if pivot.is_nan() => pivot,
                false => highest,
            })
        };
        let of_all = highest(&mut self.of_term(row, term));
        let has_sum = |line: &&[f64]| line[RecordLayout::SUM] != 0.0;
        let of_sums = highest(&mut self.of_term(row, term).filter(has_sum));
        if of_all.is_finite() && of_sums.is_finite() {
            // One that a target alone has would leave the others' exponentials no digits.
            let combined = self.combined(row, term, of_sums);
            // Unless they are nothing beside it.
            let leads_far = combined.offset > FAR_ABOVE;
            if !leads_far {
                return combined;
            }
        }
        self.combined(row, term, of_all)
    }

    fn combined(self, row: usize, term: usize, pivot: f64) -> Combined {
        let from_pivot = |line: &[f64]| match line[RecordLayout::PIVOT] {
            // Also where that is -infinity.
            own if own == pivot => 0.0,
            own => self.reference_slope * (own - pivot),
        };
        let mut all = 0.0;
        for line in self.of_term(row, term) {
            let sum = line[RecordLayout::SUM];
            all += match from_pivot(line) {
                // Of a pivot far above it there is nothing.
                _ if sum == 0.0 => 0.0,
                0.0 => sum,
                below => sum * below.exp(),
            };
        }
        let owner = self.owner(row, term);
        let offset = owner.map_or(f64::NAN, |line| {
            line[RecordLayout::OFFSET] + from_pivot(line)
        });
        let weight = owner.filter(|_| self.layout.weights);
        Combined {
            pivot,
            sum: all,
            offset,
            weight: weight.map_or(f64::NAN, |line| line[RecordLayout::WEIGHT]),
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
