//! A loss over some of its classes, for classifiers whose classes are cut over several devices.
//!
//! Of a row every shard tells the others a *record*, three numbers as a rule:
//!
//! ```text
//! pivot     p   a logit near the shard's largest
//! sum       S   of exp(z_j - a p) over its classes off the target
//! offset        z_y - a p, where the target is among its classes
//! ```
//!
//! with `a` the slope that all shards count pivots by. From the records of all shards, in their
//! order, each of them comes to the same row loss, and to the gradient of its own classes.

use std::ops::Range;

use crate::call::Options;
use crate::error::Error;
use crate::loss::Loss;
use crate::reduction::Reduction;
use crate::table::{NonTarget, RowTable};

/// What a record has in place of the offset of a target that is not among its classes.
pub(crate) const NOT_HERE: f64 = f64::INFINITY;

/// A loss over a range of its classes; made by [`Loss::shard`].
///
/// Classifiers of very many classes are cut by class: each device holds some columns of the logits
/// `[N, C]` and all labels. A step has two halves, and between them the shards tell one another
/// [a few numbers a row](Self::record_len), all of all, by whatever moves data between them:
///
/// ```
/// use ala_loss::{ClassCounts, Loss, Objective, Options, Outputs};
/// let loss = Loss::new(Objective::ala(), &ClassCounts::new([500, 50, 5])?)?;
/// let shards = [loss.shard(0..2)?, loss.shard(2..3)?];
/// let cosines = [[0.8f64, 0.1, 0.2, 0.4].as_slice(), &[-0.3, 0.1]]; // [N = 2, 2] and [N = 2, 1]
/// let (labels, options) = ([0, 2], Options::new());
///
/// // On each device: what its classes come to.
/// let len = labels.len() * shards[0].record_len(&options);
/// let mut records = vec![0.0; 2 * len]; // as an all-gather leaves them
/// for ((shard, cosines), records) in shards.iter().zip(cosines).zip(records.chunks_mut(len)) {
///     shard.partial(cosines, &labels, &options, records)?;
/// }
/// // And from what all have told, the loss and the gradient of its classes.
/// let whole = loss.evaluate(&[0.8, 0.1, -0.3, 0.2, 0.4, 0.1], &labels)?;
/// let mut gradient = [0.0; 2];
/// let outputs = Outputs::new().gradient(&mut gradient);
/// let summary = shards[1].finish(cosines[1], &labels, &options, &records, outputs)?;
/// assert!((summary.loss - whole.loss).abs() < 1e-12);
/// assert!((gradient[1] - whole.gradient[5]).abs() < 1e-12);
/// # Ok::<(), ala_loss::Error>(())
/// ```
///
/// Every shard is given the same labels and options, and the records in the same order: then all
/// come to the same loss, to the bit.
#[derive(Debug, Clone)]
pub struct LossShard {
    /// Of its classes alone.
    part: Loss,
    first_class: usize,
    all_classes: usize,
    reference_slope: f64,
    /// Of every class, where all have the same.
    common_weight: Option<f64>,
    heaviest: f64,
}

impl Loss {
    /// The loss over `classes`, a range of all `C` of them; see [`LossShard`]. It holds what is
    /// needed of its own classes alone, and `self` may be dropped.
    ///
    /// # Errors
    /// [`Error::ShardClasses`] for a range that is empty or goes beyond `C`, [`Error::Misplaced`]
    /// for a loss that smooths labels: its shards would have to tell one another more.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective};
    /// let loss = Loss::new(Objective::ala(), &ClassCounts::new([500, 50, 5])?)?;
    /// let shard = loss.shard(1..3)?;
    /// assert_eq!((shard.classes(), shard.all_classes()), (1..3, 3));
    /// assert!(loss.shard(1..4).is_err());
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn shard(&self, classes: Range<usize>) -> Result<LossShard, Error> {
        let Range { start, end } = classes;
        if start >= end || end > self.classes() {
            return Err(Error::ShardClasses {
                start,
                end,
                classes: self.classes(),
            });
        }
        if self.smoothing().is_some() {
            return Err(Error::Misplaced {
                given: "smoothed labels for shards",
                instead: "build the loss without label smoothing",
            });
        }
        let whole = self.table();
        let non_target = match whole.non_target() {
            NonTarget::Uniform { slope } => NonTarget::Uniform { slope: *slope },
            NonTarget::PerClass(maps) => NonTarget::PerClass(maps[start..end].to_vec()),
        };
        let slopes = (0..self.classes()).map(|class| whole.affine(class).slope);
        let reference_slope = match whole.non_target() {
            NonTarget::Uniform { slope } => *slope,
            NonTarget::PerClass(_) => slopes.fold(0.0, f64::max),
        };
        let weights = || whole.targets().iter().map(|target| target.weight);
        let first = whole.targets()[0].weight;
        Ok(LossShard {
            part: self.of_part(RowTable {
                targets: whole.targets()[start..end].to_vec(),
                non_target,
                focal_gamma: whole.focal_gamma(),
            }),
            first_class: start,
            all_classes: self.classes(),
            reference_slope,
            common_weight: weights().all(|weight| weight == first).then_some(first),
            heaviest: weights().fold(0.0, f64::max),
        })
    }
}

impl LossShard {
    /// Its classes, of all `C`.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # let loss = Loss::new(Objective::ala(), &ClassCounts::new([500, 50, 5])?)?;
    /// assert_eq!(loss.shard(1..3)?.classes(), 1..3);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn classes(&self) -> Range<usize> {
        self.first_class..self.first_class + self.part.classes()
    }

    /// The number of classes `C` of all shards: labels are below.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # let loss = Loss::new(Objective::ala(), &ClassCounts::new([500, 50, 5])?)?;
    /// assert_eq!(loss.shard(1..3)?.all_classes(), 3);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn all_classes(&self) -> usize {
        self.all_classes
    }

    /// How row losses are reduced.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective, Reduction};
    /// # let loss = Loss::new(Objective::ala(), &ClassCounts::new([500, 50, 5])?)?;
    /// assert_eq!(loss.shard(1..3)?.reduction(), Reduction::Mean);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn reduction(&self) -> Reduction {
        self.part.reduction()
    }

    /// The numbers of a row that the shards tell one another in a step with these options: 3 for
    /// each of the row's labels, or 4 where classes have different weights; two more for hits and
    /// predictions, which are asked for by [`Options::hits`] and [`Options::predictions`].
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective, Options};
    /// # let loss = Loss::new(Objective::ala(), &ClassCounts::new([500, 50, 5])?)?;
    /// let shard = loss.shard(1..3)?;
    /// assert_eq!(shard.record_len(&Options::<f32>::new()), 3);
    /// assert_eq!(shard.record_len(&Options::<f32>::new().hits()), 5);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn record_len<R>(&self, options: &Options<'_, R>) -> usize {
        self.layout(options).len()
    }

    pub(crate) fn layout<R>(&self, options: &Options<'_, R>) -> RecordLayout {
        RecordLayout {
            weights: self.common_weight.is_none(),
            mixed: options.mixed.is_some(),
            top1: options.hits || options.predictions,
        }
    }

    pub(crate) fn part(&self) -> &Loss {
        &self.part
    }

    /// What every shard counts pivots by.
    pub(crate) fn reference_slope(&self) -> f64 {
        self.reference_slope
    }

    pub(crate) fn common_weight(&self) -> Option<f64> {
        self.common_weight
    }

    /// The largest weight of a class.
    pub(crate) fn heaviest(&self) -> f64 {
        self.heaviest
    }
}

/// Where a row's record has what:
///
/// ```text
/// pivot, sum, offset, weight      of the row as it is held against its label
/// pivot, sum, offset, weight      and against its second one
/// the largest logit, its class
/// ```
///
/// A weight is there where weights differ, the second line where rows have two labels, the third
/// where hits or predictions are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordLayout {
    pub(crate) weights: bool,
    pub(crate) mixed: bool,
    pub(crate) top1: bool,
}

impl RecordLayout {
    /// Of a line for a label.
    pub(crate) const PIVOT: usize = 0;
    pub(crate) const SUM: usize = 1;
    pub(crate) const OFFSET: usize = 2;
    pub(crate) const WEIGHT: usize = 3;

    /// The most labels of a row.
    pub(crate) const fn terms(self) -> usize {
        1 + self.mixed as usize
    }

    const fn term_len(self) -> usize {
        3 + self.weights as usize
    }

    /// The line of a row's label, or of its second one.
    pub(crate) fn term(self, term: usize) -> Range<usize> {
        let start = term * self.term_len();
        start..start + self.term_len()
    }

    pub(crate) const fn largest(self) -> usize {
        self.terms() * self.term_len()
    }

    pub(crate) const fn largest_class(self) -> usize {
        self.largest() + 1
    }

    pub(crate) const fn len(self) -> usize {
        self.largest() + if self.top1 { 2 } else { 0 }
    }
}
