//! What each row of a batch is held against: a label or two, each with its share of the row.

use crate::call::{Lambda, Mixed};
use crate::element::{Label, Real};
use crate::error::Error;
use crate::table::MOST_WEIGHT;

/// A class that a row is held against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Term {
    pub(super) class: usize,
    /// What the class's weight is multiplied by: the label's part of the row times the row's
    /// weight.
    pub(super) share: f64,
}

/// What a row that counts is held against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Terms {
    pub(super) first: Term,
    /// Of another class.
    pub(super) second: Option<Term>,
}

impl Terms {
    #[inline(always)]
    pub(super) fn single(class: usize, share: f64) -> Self {
        Self {
            first: Term { class, share },
            second: None,
        }
    }

    /// The row's weight in a mean's divisor, where classes have these weights.
    fn weight(self, weight_of: impl Fn(usize) -> f64) -> f64 {
        let of = |term: Term| weight_of(term.class) * term.share;
        of(self.first) + self.second.map_or(0.0, of)
    }
}

/// Labels of any type, so that what walks the rows is compiled for the logits' types only.
pub(super) trait Targets: Sync {
    /// Whether every row is held against its first label alone, with a share of 1.
    fn are_plain(&self) -> bool;

    /// `None` for a row that does not count.
    fn terms(&self, row: usize) -> Option<Terms>;

    /// The class of the row's first label, where it is one. Hits are of it.
    fn first_class(&self, row: usize) -> Option<usize>;
}

/// All that says what rows are held against.
pub(super) struct RowTargets<'a, L, R> {
    pub(super) labels: &'a [L],
    pub(super) mixed: Option<Mixed<'a, R>>,
    pub(super) weights: Option<&'a [R]>,
    pub(super) classes: usize,
    pub(super) ignore: Option<i128>,
}

impl<L: Label, R: Real> Targets for RowTargets<'_, L, R> {
    fn are_plain(&self) -> bool {
        self.mixed.is_none() && self.weights.is_none()
    }

    fn terms(&self, row: usize) -> Option<Terms> {
        let first = self.first_class(row);
        let weight = self.weights.map_or(1.0, |weights| weights[row].to_f64());
        let Some(mixed) = self.mixed else {
            return first.map(|class| Terms::single(class, weight));
        };
        let lambda = mixed.lambda.at(row);
        let term = |class: Option<usize>, part: f64| {
            let class = class.filter(|_| part != 0.0)?;
            let share = part * weight;
            Some(Term { class, share })
        };
        let second = self.class(mixed.labels.value(row));
        match (term(first, lambda), term(second, 1.0 - lambda)) {
            (Some(a), Some(b)) if a.class == b.class => Some(Terms::single(a.class, weight)),
            (Some(first), second) => Some(Terms { first, second }),
            (None, second) => second.map(|first| Terms {
                first,
                second: None,
            }),
        }
    }

    fn first_class(&self, row: usize) -> Option<usize> {
        let label = self.labels[row];
        let counts = Some(label.value()) != self.ignore;
        label.class(self.classes).filter(|_| counts)
    }
}

impl<R: Real> Lambda<f64, &[R]> {
    fn at(self, row: usize) -> f64 {
        match self {
            Self::Scalar(lambda) => lambda,
            Self::PerRow(lambda) => lambda[row].to_f64(),
        }
    }
}

impl<L: Label, R: Real> RowTargets<'_, L, R> {
    fn class(&self, label: i128) -> Option<usize> {
        let class = usize::try_from(label).ok()?;
        (class < self.classes && Some(label) != self.ignore).then_some(class)
    }

    fn is_label(&self, label: i128) -> bool {
        Some(label) == self.ignore || self.class(label).is_some()
    }

    /// Checks every row, and adds up what counts, in row order.
    pub(super) fn weigh(&self, weight_of: impl Fn(usize) -> f64) -> Result<Counted, Error> {
        let mut counted = Counted {
            rows: 0,
            weight: 0.0,
        };
        if self.are_plain() {
            for (row, &label) in self.labels.iter().enumerate() {
                match label.class(self.classes) {
                    _ if Some(label.value()) == self.ignore => {}
                    Some(class) => counted.add(weight_of(class)),
                    None => return Err(self.bad_label(row)),
                }
            }
            return Ok(counted);
        }
        for row in 0..self.labels.len() {
            self.check(row, &weight_of)?;
            if let Some(terms) = self.terms(row) {
                counted.add(terms.weight(&weight_of));
            }
        }
        Ok(counted)
    }

    fn bad_label(&self, row: usize) -> Error {
        Error::Label {
            row,
            label: self.labels[row].value(),
            classes: self.classes,
        }
    }

    fn check(&self, row: usize, weight_of: impl Fn(usize) -> f64) -> Result<(), Error> {
        let classes = self.classes;
        if !self.is_label(self.labels[row].value()) {
            return Err(self.bad_label(row));
        }
        if let Some(mixed) = self.mixed {
            let label = mixed.labels.value(row);
            if !self.is_label(label) {
                return Err(Error::SecondLabel {
                    row,
                    label,
                    classes,
                });
            }
            check_number(row, "lambda", mixed.lambda.at(row), "from 0 to 1", |l| {
                (0.0..=1.0).contains(&l)
            })?;
        }
        if let Some(weights) = self.weights {
            const ALLOWED: &str =
                "at least 0, and at most 1e280 when multiplied by its class's weight";
            let heaviest = match self.terms(row) {
                Some(Terms { first, second }) => {
                    let of = |term: Term| weight_of(term.class).max(1.0);
                    of(first).max(second.map_or(1.0, of))
                }
                None => 1.0,
            };
            check_number(row, "weight", weights[row].to_f64(), ALLOWED, |w| {
                w >= 0.0 && w * heaviest <= MOST_WEIGHT
            })?;
        }
        Ok(())
    }
}

/// What the rows that count come to.
pub(super) struct Counted {
    pub(super) rows: usize,
    pub(super) weight: f64,
}

impl Counted {
    pub(super) fn add(&mut self, weight: f64) {
        self.rows += 1;
        self.weight += weight;
    }
}

fn check_number(
    row: usize,
    name: &'static str,
    value: f64,
    allowed: &'static str,
    accept: impl Fn(f64) -> bool,
) -> Result<(), Error> {
    match accept(value) {
        true => Ok(()),
        false => Err(Error::RowParameter {
            row,
            name,
            value,
            allowed,
        }),
    }
}
