//! Top-1 accuracy overall, for each class, and for many-, medium- and few-shot classes.

use crate::call::NO_CLASS;
use crate::counts::{ClassCounts, MAX_COUNT};
use crate::element::Label;
use crate::error::Error;
use crate::groups::{Group, GroupThresholds};
use crate::shape::check_length;

/// Accuracies, each a fraction in `[0, 1]` of the test rows it covers; `None` where it covers none.
///
/// ```
/// use ala_loss::{ClassCounts, GroupThresholds, metrics::Accuracy};
/// let counts = ClassCounts::new([500, 50, 5])?;
/// let (labels, predictions) = ([0, 0, 0, 1], [0, 0, 1, 1]);
/// let accuracy =
///     Accuracy::from_predictions(&labels, &predictions, &counts, GroupThresholds::default())?;
/// let expected = Accuracy {
///     overall: Some(0.75),
///     many: Some(2.0 / 3.0),
///     medium: Some(1.0),
///     few: None, // no row of class 2
///     per_class: vec![Some(2.0 / 3.0), Some(1.0), None],
/// };
/// assert_eq!(accuracy, expected);
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Accuracy {
    /// Over all rows; `None` where there were none.
    pub overall: Option<f64>,
    /// Over rows of many-shot classes.
    pub many: Option<f64>,
    /// Over rows of medium-shot classes.
    pub medium: Option<f64>,
    /// Over rows of few-shot classes.
    pub few: Option<f64>,
    /// For each class, `[C]`.
    pub per_class: Vec<Option<f64>>,
}

/// Adds up hits over the batches of a test set.
///
/// The groups come from the *training* counts. Rows with the ignore label are passed over.
///
/// ```
/// use ala_loss::{ClassCounts, GroupThresholds, metrics::Tally};
/// let counts = ClassCounts::new([500, 50, 5])?;
/// let mut tally = Tally::new(&counts, GroupThresholds::default());
/// tally.add_predictions(&[0, 1, 2, 2], &[0, 0, 2, 1])?; // labels, predictions
/// let accuracy = tally.accuracy();
/// assert_eq!(accuracy.overall, Some(0.5));
/// assert_eq!(accuracy.few, Some(0.5));
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Tally {
    groups: Vec<Group>,
    ignore_label: Option<i64>,
    rows: Vec<u64>,
    hits: Vec<u64>,
}

impl Tally {
    /// Starts at zero for the classes and groups of `counts`.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, GroupThresholds, metrics::Tally};
    /// # let counts = ClassCounts::new([500, 50, 5])?;
    /// let accuracy = Tally::new(&counts, GroupThresholds::default()).accuracy();
    /// assert_eq!((accuracy.overall, accuracy.per_class), (None, vec![None; 3]));
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn new(counts: &ClassCounts, thresholds: GroupThresholds) -> Self {
        Self {
            groups: counts.groups(thresholds),
            ignore_label: None,
            rows: vec![0; counts.classes()],
            hits: vec![0; counts.classes()],
        }
    }

    /// Rows with this label are passed over.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, GroupThresholds, metrics::Tally};
    /// # let counts = ClassCounts::new([500, 50, 5])?;
    /// let mut tally = Tally::new(&counts, GroupThresholds::default()).ignore_label(-1);
    /// tally.add_predictions(&[0, -1], &[0, 2])?;
    /// assert_eq!(tally.accuracy().overall, Some(1.0));
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    #[must_use]
    pub fn ignore_label(mut self, label: i64) -> Self {
        self.ignore_label = Some(label);
        self
    }

    /// Adds a batch by its predicted classes, those of
    /// [`Outcome::predictions`](crate::Outcome::predictions) or any others; both `[N]`. A row whose
    /// prediction is [`NO_CLASS`] is a miss.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Label`], [`Error::Prediction`]; nothing of the batch is added
    /// then.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Error, GroupThresholds, metrics::Tally};
    /// let counts = ClassCounts::new([500, 50, 5])?;
    /// let mut tally = Tally::new(&counts, GroupThresholds::default());
    /// tally.add_predictions(&[0, 1], &[0, 2])?;
    /// let outside = Error::Prediction { row: 1, prediction: 3, classes: 3 };
    /// assert_eq!(tally.add_predictions(&[0, 1], &[0, 3]), Err(outside));
    /// assert_eq!(tally.accuracy().overall, Some(0.5));
    /// tally.add_predictions(&[0, 1], &[ala_loss::NO_CLASS; 2])?; // rows with a NaN
    /// assert_eq!(tally.accuracy().overall, Some(0.25));
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn add_predictions<L: Label, P: Label>(
        &mut self,
        labels: &[L],
        predictions: &[P],
    ) -> Result<(), Error> {
        let classes = self.groups.len();
        check_length("predictions", Some(predictions.len()), labels.len())?;
        for (row, prediction) in predictions.iter().enumerate() {
            if self.ignored(labels[row]) || prediction.value() == i128::from(NO_CLASS) {
                continue;
            }
            prediction.class(classes).ok_or(Error::Prediction {
                row,
                prediction: prediction.value(),
                classes,
            })?;
        }
        self.add(labels, |row| {
            predictions[row].value() == labels[row].value()
        })
    }

    /// Adds a batch by the op's own top-1 hits ([`Outcome::hits`](crate::Outcome::hits)); both
    /// `[N]`.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Label`]; nothing of the batch is added then.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, GroupThresholds, Loss, Objective, Options, metrics::Tally};
    /// let counts = ClassCounts::new([500, 5])?;
    /// let loss = Loss::builder(Objective::ala(), &counts).build()?;
    /// let (cosines, labels) = ([0.9f32, 0.2, 0.3, 0.1], [0, 1]);
    /// let outcome = loss.evaluate_with(&cosines, &labels, &Options::new().hits())?;
    /// let mut tally = Tally::new(&counts, GroupThresholds::default());
    /// tally.add_hits(&labels, &outcome.hits.unwrap())?;
    /// assert_eq!(tally.accuracy().per_class, [Some(1.0), Some(0.0)]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn add_hits<L: Label>(&mut self, labels: &[L], hits: &[bool]) -> Result<(), Error> {
        check_length("hits", Some(hits.len()), labels.len())?;
        self.add(labels, |row| hits[row])
    }

    /// Adds what was counted elsewhere, on a device say: for each class its rows and how many of
    /// them were hits, `[C]` each.
    ///
    /// # Errors
    /// [`Error::Length`]; [`Error::Hits`] where a class has more hits than rows;
    /// [`Error::CountTooLarge`] where its rows so far come to more than `2^53`. Nothing is added
    /// then.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Error, GroupThresholds, metrics::Tally};
    /// let counts = ClassCounts::new([500, 50, 5])?;
    /// let mut tally = Tally::new(&counts, GroupThresholds::default());
    /// tally.add_counts(&[8, 0, 4], &[6, 0, 1])?; // rows, hits
    /// let more = Error::Hits { class: 1, hits: 1, rows: 0 };
    /// assert_eq!(tally.add_counts(&[8, 0, 4], &[6, 1, 1]), Err(more));
    /// assert_eq!(tally.accuracy().per_class, [Some(0.75), None, Some(0.25)]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn add_counts(&mut self, rows: &[u64], hits: &[u64]) -> Result<(), Error> {
        let classes = self.groups.len();
        check_length("rows of the classes", Some(rows.len()), classes)?;
        check_length("hits of the classes", Some(hits.len()), classes)?;
        for (class, (&rows, &hits)) in rows.iter().zip(hits).enumerate() {
            if hits > rows {
                return Err(Error::Hits { class, hits, rows });
            }
            let count = self.rows[class].saturating_add(rows);
            if count > MAX_COUNT {
                return Err(Error::CountTooLarge { class, count });
            }
        }
        let add = |to: &mut [u64], more: &[u64]| {
            for (sum, more) in to.iter_mut().zip(more) {
                *sum += more;
            }
        };
        add(&mut self.rows, rows);
        add(&mut self.hits, hits);
        Ok(())
    }

    fn ignored<L: Label>(&self, label: L) -> bool {
        self.ignore_label.map(i128::from) == Some(label.value())
    }

    fn add<L: Label>(&mut self, labels: &[L], hit: impl Fn(usize) -> bool) -> Result<(), Error> {
        let classes = self.groups.len();
        for (row, &label) in labels.iter().enumerate() {
            if !self.ignored(label) && label.class(classes).is_none() {
                return Err(Error::Label {
                    row,
                    label: label.value(),
                    classes,
                });
            }
        }
        for (row, &label) in labels.iter().enumerate() {
            if let Some(class) = label.class(classes).filter(|_| !self.ignored(label)) {
                self.rows[class] += 1;
                self.hits[class] += u64::from(hit(row));
            }
        }
        Ok(())
    }

    /// The accuracies so far.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, GroupThresholds, metrics::Tally};
    /// # let counts = ClassCounts::new([500, 50, 5])?;
    /// let mut tally = Tally::new(&counts, GroupThresholds::default());
    /// for hit in [true, true, false, true] {
    ///     tally.add_hits(&[1], &[hit])?;
    /// }
    /// assert_eq!(tally.accuracy().medium, Some(0.75));
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn accuracy(&self) -> Accuracy {
        let over = |within: &dyn Fn(usize) -> bool| {
            let classes = || (0..self.groups.len()).filter(|&class| within(class));
            // Of many classes they may not fit 64 bits.
            let rows: u128 = classes().map(|class| u128::from(self.rows[class])).sum();
            let hits: u128 = classes().map(|class| u128::from(self.hits[class])).sum();
            (rows > 0).then(|| hits as f64 / rows as f64)
        };
        let group = |group| over(&|class| self.groups[class] == group);
        Accuracy {
            overall: over(&|_| true),
            many: group(Group::Many),
            medium: group(Group::Medium),
            few: group(Group::Few),
            per_class: (0..self.groups.len())
                .map(|this| over(&|class| class == this))
                .collect(),
        }
    }
}

impl Accuracy {
    /// The accuracies of one test set by predicted classes; see [`Tally::add_predictions`].
    ///
    /// # Errors
    /// As [`Tally::add_predictions`].
    ///
    /// ```
    /// use ala_loss::{ClassCounts, GroupThresholds, metrics::Accuracy};
    /// let counts = ClassCounts::new([500, 5])?;
    /// let groups = GroupThresholds::default();
    /// let accuracy = Accuracy::from_predictions(&[0, 1], &[0, 0], &counts, groups)?;
    /// assert_eq!((accuracy.many, accuracy.few), (Some(1.0), Some(0.0)));
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn from_predictions<L: Label, P: Label>(
        labels: &[L],
        predictions: &[P],
        counts: &ClassCounts,
        thresholds: GroupThresholds,
    ) -> Result<Self, Error> {
        let mut tally = Tally::new(counts, thresholds);
        tally.add_predictions(labels, predictions)?;
        Ok(tally.accuracy())
    }

    /// The accuracies of one test set by the op's own top-1 hits; see [`Tally::add_hits`].
    ///
    /// # Errors
    /// As [`Tally::add_hits`].
    ///
    /// ```
    /// use ala_loss::{ClassCounts, GroupThresholds, metrics::Accuracy};
    /// let counts = ClassCounts::new([500, 5])?;
    /// let groups = GroupThresholds::default();
    /// let accuracy = Accuracy::from_hits(&[0, 1], &[true, false], &counts, groups)?;
    /// assert_eq!(accuracy.overall, Some(0.5));
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn from_hits<L: Label>(
        labels: &[L],
        hits: &[bool],
        counts: &ClassCounts,
        thresholds: GroupThresholds,
    ) -> Result<Self, Error> {
        let mut tally = Tally::new(counts, thresholds);
        tally.add_hits(labels, hits)?;
        Ok(tally.accuracy())
    }
}
