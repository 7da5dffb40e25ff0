//! What a call's rows are held against: labels, second labels, row weights and a divisor; and what
//! the documentation makes of them.

use ala_loss::{Divisor, Error, Label, Lambda, Loss, Options, Real, Reduction};
use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};

use crate::numbers::{self, float, many, part, rarely, row_count};

pub struct Held<'a, L, R> {
    loss: &'a Loss,
    labels: &'a [L],
    second: Option<Second<L>>,
    lambda: Lambda<f64, Vec<R>>,
    weights: Option<Vec<R>>,
    divisor: Divisor,
}

/// Second labels, of the first ones' type or of another.
enum Second<L> {
    Same(Vec<L>),
    Other(Vec<i32>),
}

impl<'a, L: Label + TryFrom<i128> + for<'b> Arbitrary<'b>, R: Real> Held<'a, L, R> {
    pub fn any(input: &mut Unstructured<'_>, loss: &'a Loss, labels: &'a [L]) -> Result<Self> {
        let rows = labels.len();
        let mut held = Self {
            loss,
            labels,
            second: None,
            lambda: Lambda::Scalar(1.0),
            weights: None,
            divisor: Divisor::Weights,
        };
        let given: u8 = input.arbitrary()?;
        if given & 1 != 0 {
            let count = row_count(input, rows)?;
            held.second = Some(match given & 2 {
                0 => Second::Same(numbers::labels(input, loss, count)?),
                _ => Second::Other(numbers::labels(input, loss, count)?),
            });
            let wild = rarely(input, 8)?;
            held.lambda = match given & 4 {
                0 => Lambda::Scalar(part(input, wild)?),
                _ => {
                    let count = row_count(input, rows)?;
                    let one = |input: &mut Unstructured<'_>| Ok(R::from_f64(part(input, wild)?));
                    Lambda::PerRow(many(input, count, one)?)
                }
            };
        }
        if given & 8 != 0 {
            let count = row_count(input, rows)?;
            let wild = rarely(input, 8)?;
            let one = |input: &mut Unstructured<'_>| {
                Ok(R::from_f64(match wild {
                    true => float(input)?,
                    false => f64::from(input.arbitrary::<u8>()?) / 16.0,
                }))
            };
            held.weights = Some(many(input, count, one)?);
        }
        // Where nothing is averaged all of them are refused.
        if given & 16 != 0 && (loss.reduction() == Reduction::Mean || given & 0xc0 == 0) {
            held.divisor = match given & 32 {
                0 => Divisor::Rows,
                _ => Divisor::Given(float(input)?),
            };
        }
        Ok(held)
    }
}

impl<L: Label, R: Real> Held<'_, L, R> {
    /// All of it as options.
    pub fn onto<'b>(&'b self, options: Options<'b, R>) -> Options<'b, R> {
        self.mixed_onto(
            self.single_onto(options),
            match &self.lambda {
                Lambda::Scalar(lambda) => Lambda::Scalar(*lambda),
                Lambda::PerRow(lambda) => Lambda::PerRow(lambda),
            },
        )
    }

    /// All but the second labels.
    pub fn single_onto<'b>(&'b self, mut options: Options<'b, R>) -> Options<'b, R> {
        if let Some(weights) = &self.weights {
            options = options.row_weights(weights);
        }
        options.divisor(self.divisor)
    }

    fn mixed_onto<'b>(
        &'b self,
        options: Options<'b, R>,
        lambda: Lambda<f64, &'b [R]>,
    ) -> Options<'b, R> {
        match &self.second {
            None => options,
            Some(Second::Same(labels)) => options.mixed_with(labels, lambda),
            Some(Second::Other(labels)) => options.mixed_with(labels, lambda),
        }
    }

    /// Other options, beside those that [`single_onto`](Self::single_onto) has, that leave the
    /// first labels alone: what all of each row is, and what is mixed with itself.
    pub fn alike<'b>(&'b self, single: Options<'b, R>) -> Vec<Options<'b, R>> {
        if self.second.is_none() {
            return vec![];
        }
        vec![
            self.mixed_onto(single, Lambda::Scalar(1.0)),
            single.mixed_with(self.labels, Lambda::Scalar(0.3)),
        ]
    }

    pub fn rows(&self) -> usize {
        self.labels.len()
    }

    fn second(&self, row: usize) -> Option<i128> {
        self.second.as_ref().map(|second| match second {
            Second::Same(labels) => labels[row].value(),
            Second::Other(labels) => labels[row].value(),
        })
    }

    fn lambda(&self, row: usize) -> f64 {
        match &self.lambda {
            Lambda::Scalar(lambda) => *lambda,
            Lambda::PerRow(lambda) => lambda[row].to_f64(),
        }
    }

    fn weight(&self, row: usize) -> f64 {
        let weights = self.weights.as_ref();
        weights.map_or(1.0, |weights| weights[row].to_f64())
    }

    fn is_ignored(&self, label: i128) -> bool {
        self.loss.ignore_label().map(i128::from) == Some(label)
    }

    fn class(&self, label: i128) -> Option<usize> {
        let class = usize::try_from(label).ok()?;
        (class < self.loss.classes() && !self.is_ignored(label)).then_some(class)
    }

    /// The class that a row's hit is of.
    pub fn first_class(&self, row: usize) -> Option<usize> {
        self.class(self.labels[row].value())
    }

    /// The classes that a row is held against, and what multiplies the loss of each. None for a row
    /// that does not count.
    pub fn terms(&self, row: usize) -> Vec<(usize, f64)> {
        let (lambda, weight) = (self.lambda(row), self.weight(row));
        let first = self.first_class(row).filter(|_| lambda != 0.0);
        let second = self.second(row).and_then(|label| self.class(label));
        let second = second.filter(|_| lambda != 1.0);
        if first == second {
            // Of two parts that are the same label's nothing is left to round.
            return first.map(|class| (class, weight)).into_iter().collect();
        }
        let first = first.map(|class| (class, lambda * weight));
        let second = second.map(|class| (class, (1.0 - lambda) * weight));
        first.into_iter().chain(second).collect()
    }

    pub fn counted_rows(&self) -> usize {
        let counts = |row: &usize| !self.terms(*row).is_empty();
        (0..self.rows()).filter(counts).count()
    }

    pub fn total_weight(&self) -> f64 {
        let targets = self.loss.table().targets();
        let of_row = |row| {
            let of_term = |(class, share): (usize, f64)| targets[class].weight * share;
            self.terms(row).into_iter().map(of_term).sum::<f64>()
        };
        (0..self.rows())
            .map(of_row)
            .fold(0.0, |sum, weight| sum + weight)
    }

    /// What a mean divides by, 0 where nothing counts. None where it is refused.
    fn mean_divisor(&self) -> Option<f64> {
        match self.divisor {
            Divisor::Weights => Some(self.total_weight()),
            Divisor::Rows => Some(self.counted_rows() as f64),
            Divisor::Given(divisor) => {
                let nothing_counts = self.counted_rows() == 0;
                let fits = divisor > 0.0 || (divisor == 0.0 && nothing_counts);
                (fits && divisor.is_finite()).then_some(divisor)
            }
        }
    }

    /// What the rows' losses are divided by. None where it is refused.
    pub fn divisor(&self) -> Option<f64> {
        match self.loss.reduction() {
            Reduction::Mean => self.mean_divisor().map(|divisor| match divisor {
                0.0 => 1.0,
                divisor => divisor,
            }),
            _ => (self.divisor == Divisor::Weights).then_some(1.0),
        }
    }

    pub fn lengths_fit(&self) -> bool {
        let rows = Some(self.rows());
        let second = self.second.as_ref().map(|second| match second {
            Second::Same(labels) => labels.len(),
            Second::Other(labels) => labels.len(),
        });
        let lambda = match &self.lambda {
            Lambda::Scalar(_) => None,
            Lambda::PerRow(lambda) => Some(lambda.len()),
        };
        let weights = self.weights.as_ref().map(Vec::len);
        [second, lambda, weights]
            .iter()
            .all(|&got| got.is_none() || got == rows)
    }

    /// The first bad row, and what is wrong with it, as an error says it. The lengths fit.
    fn bad_row(&self) -> Option<(usize, Vec<String>)> {
        let faults = |row| (row, self.faults(row));
        (0..self.rows())
            .map(faults)
            .find(|(_, faults)| !faults.is_empty())
    }

    fn faults(&self, row: usize) -> Vec<String> {
        const MOST_WEIGHT: f64 = 1e280;
        let mut faults = vec![];
        let is_bad = |label: i128| self.class(label).is_none() && !self.is_ignored(label);
        let (label, second) = (self.labels[row].value(), self.second(row));
        if is_bad(label) {
            faults.push(format!("label {label}"));
        }
        if let Some(label) = second.filter(|&label| is_bad(label)) {
            faults.push(format!("second label {label}"));
        }
        let (lambda, weight) = (self.lambda(row), self.weight(row));
        if !(0.0..=1.0).contains(&lambda) {
            faults.push(format!("lambda {lambda}"));
        }
        let targets = self.loss.table().targets();
        let terms = self.terms(row).into_iter();
        let heaviest = terms.fold(1.0, |most, (class, _)| targets[class].weight.max(most));
        if !(weight >= 0.0 && weight * heaviest <= MOST_WEIGHT) {
            faults.push(format!("weight {weight}"));
        }
        faults
    }

    /// Whether a call is right of which all else is.
    pub fn fits(&self) -> bool {
        self.lengths_fit() && self.bad_row().is_none() && self.divisor().is_some()
    }

    /// Whether the error of a call of which all else is right says what is wrong.
    pub fn is_named_by(&self, error: &Error) -> bool {
        if !self.lengths_fit() {
            return matches!(error, Error::Length { .. });
        }
        let is_divisor = matches!(error, Error::Misplaced { .. } | Error::Parameter { .. });
        let says = |(row, faults): (usize, Vec<String>)| {
            let message = error.to_string();
            let mut faults = faults.iter();
            faults.any(|fault| message.starts_with(&format!("row {row} has {fault}:")))
        };
        (is_divisor && self.divisor().is_none()) || self.bad_row().is_some_and(says)
    }

    /// Holds what the loss says a mean divides by, whatever its own reduction is.
    pub fn hold_divisor(&self, options: &Options<'_, R>) {
        let fits = self.lengths_fit() && self.bad_row().is_none();
        let expected = if fits { self.mean_divisor() } else { None };
        assert_eq!(self.loss.divisor(self.labels, options).ok(), expected);
    }
}
