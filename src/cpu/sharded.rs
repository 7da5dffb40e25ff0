//! The calls of a step over some of the classes; see [`crate::LossShard`]. What lies between them
//! is no matter of this crate: the records are numbers in the caller's buffers.

use super::batch::Batch;
use super::checks::{
    Parts, apart, apart_in_place, check_top1_lengths, factors, reduction_divisor, row_targets,
};
use super::plan::Plan;
use super::shard::{Finish, PartialBatch, Records, Share};
use super::targets::{Counted, RowTargets, Targets};
use super::walk::CpuElement;
use crate::call::{Options, Outputs, Summary};
use crate::element::{Label, Real};
use crate::error::Error;
use crate::shape::{check_length, check_rows};
use crate::shard::LossShard;

impl LossShard {
    /// The first half of a step: what this shard's classes come to, for the others.
    ///
    /// `logits` are `[N, K]` for its `K` classes, contiguous or with the options' stride; `labels`
    /// are of all classes, `[N]`. The `records` are `[N, R]` with `R` of
    /// [`record_len`](Self::record_len): to be read by [`finish`](Self::finish), on every shard,
    /// and by nobody else.
    ///
    /// Of the options those that are of the gradient alone matter in the second half.
    ///
    /// # Errors
    /// [`Error::LogitsShape`], [`Error::StridedBuffer`], [`Error::Stride`], [`Error::Length`],
    /// [`Error::Label`], [`Error::SecondLabel`] or [`Error::RowParameter`] naming the first bad
    /// row. All are found before the first write.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective, Options};
    /// let loss = Loss::new(Objective::CrossEntropy, &ClassCounts::new([9, 3, 3])?)?;
    /// let shard = loss.shard(1..3)?;
    /// let mut record = [0.0; 3];
    /// shard.partial(&[0.5f64, 0.5], &[2], &Options::new(), &mut record)?;
    /// assert_eq!(record, [0.5, 1.0, 0.0]); // one logit besides the target's, as large as that
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn partial<T: CpuElement, L: Label>(
        &self,
        logits: &[T],
        labels: &[L],
        options: &Options<'_, T::Real>,
        records: &mut [f64],
    ) -> Result<(), Error> {
        let (rows, classes) = (labels.len(), self.part().classes());
        let stride = check_rows("logits", logits.len(), rows, classes, options.stride)?;
        let share = Share::new(self, options);
        let expected = rows.saturating_mul(share.layout.len());
        check_length("records", Some(records.len()), expected)?;
        let targets = self.targets(labels, options)?;
        self.check(&targets)?;
        let batch = PartialBatch {
            logits,
            stride,
            targets: &targets,
            first: 0,
            count: rows,
            records,
            share,
        };
        T::partial(&Plan::new(self.part(), rows, 1.0, size_of::<T>()), batch);
        Ok(())
    }

    /// The second half of a step: from what all shards have told the loss, and the gradient of this
    /// one's classes.
    ///
    /// Logits, labels and options are those of [`partial`](Self::partial). The `records` are
    /// `[S, N, R]`: those of all `S` shards one after the other, this one's among them, in the same
    /// order on every shard. What `outputs` leaves out is not computed; hits and predictions, which
    /// are of all classes, must have been asked for in the options of both halves.
    ///
    /// # Errors
    /// As [`Loss::evaluate_into`](crate::Loss::evaluate_into), and [`Error::ShardsOfLabel`] where
    /// a row's label is of no shard's classes, or of two shards'. All are found before the first
    /// write.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective, Options, Outputs};
    /// let loss = Loss::new(Objective::CrossEntropy, &ClassCounts::new([9, 3])?)?;
    /// let shard = loss.shard(1..2)?;
    /// let (options, mut records) = (Options::new(), [0.0; 6]);
    /// let (own, other) = records.split_at_mut(3);
    /// shard.partial(&[0.5f64], &[0], &options, own)?;
    /// loss.shard(0..1)?.partial(&[0.5f64], &[0], &options, other)?;
    /// let mut gradient = [0.0];
    /// let outputs = Outputs::new().gradient(&mut gradient);
    /// shard.finish(&[0.5], &[0], &options, &records, outputs)?;
    /// assert_eq!(gradient, [0.5]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn finish<T: CpuElement, L: Label>(
        &self,
        logits: &[T],
        labels: &[L],
        options: &Options<'_, T::Real>,
        records: &[f64],
        outputs: Outputs<'_, T>,
    ) -> Result<Summary, Error> {
        let shape = (labels.len(), self.part().classes());
        let parts = apart(logits, shape, options, outputs)?;
        self.finish_parts(parts, labels, options, records)
    }

    /// [`finish`](Self::finish), the gradient written **over the logits**. Elements between rows
    /// are left as they are.
    ///
    /// # Errors
    /// As [`finish`](Self::finish), and [`Error::GradientBufferInPlace`] where `outputs` has a
    /// gradient buffer.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective, Options, Outputs};
    /// let loss = Loss::new(Objective::CrossEntropy, &ClassCounts::new([9, 3])?)?;
    /// let all = loss.shard(0..2)?; // one shard has all classes
    /// let (mut logits, mut records) = ([0.5f64, 0.5], [0.0; 3]);
    /// all.partial(&logits, &[0], &Options::new(), &mut records)?;
    /// all.finish_in_place(&mut logits, &[0], &Options::new(), &records, Outputs::new())?;
    /// assert_eq!(logits, [-0.5, 0.5]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn finish_in_place<T: CpuElement, L: Label>(
        &self,
        logits: &mut [T],
        labels: &[L],
        options: &Options<'_, T::Real>,
        records: &[f64],
        outputs: Outputs<'_, T>,
    ) -> Result<Summary, Error> {
        let shape = (labels.len(), self.part().classes());
        let parts = apart_in_place(logits, shape, options, outputs)?;
        self.finish_parts(parts, labels, options, records)
    }

    fn finish_parts<T: CpuElement, L: Label>(
        &self,
        (matrix, row_losses, top1): Parts<'_, T>,
        labels: &[L],
        options: &Options<'_, T::Real>,
        records: &[f64],
    ) -> Result<Summary, Error> {
        let rows = labels.len();
        check_length("row losses", row_losses.as_deref().map(<[_]>::len), rows)?;
        check_top1_lengths(&top1, rows, self.all_classes())?;
        if !options.hits && top1.hits.is_some()
            || !options.predictions && top1.predictions.is_some()
        {
            return Err(Error::Misplaced {
                given: "a buffer for hits or predictions",
                instead: "ask for them in the options of both halves of a shard's step too",
            });
        }
        let upstream = factors(self.reduction(), options, rows)?;
        let targets = self.targets(labels, options)?;
        let checked = self.check(&targets)?;
        let share = Share::new(self, options);
        let records = Records::new(records, rows, share)?;
        let counted = match self.common_weight() {
            Some(_) => checked,
            None => records.weigh(&targets)?,
        };
        records.check_labels(&targets)?;
        let divisor = reduction_divisor(self.reduction(), &counted, options.divisor)?;
        let plan = Plan::new(self.part(), rows, divisor, size_of::<T>());
        let finish = Finish {
            batch: Batch {
                matrix,
                plain: targets.are_plain(),
                targets: &targets,
                first: 0,
                count: rows,
                upstream,
                row_losses,
                top1,
            },
            records,
            share,
            common_weight: self.common_weight(),
        };
        let sum = T::finish(&plan, finish);
        Ok(Summary {
            loss: sum / divisor,
            counted_rows: counted.rows,
            total_weight: counted.weight,
        })
    }

    fn targets<'a, L: Label, R: Real>(
        &self,
        labels: &'a [L],
        options: &Options<'a, R>,
    ) -> Result<RowTargets<'a, L, R>, Error> {
        let ignore = self.part().ignore_label();
        row_targets((self.all_classes(), ignore), labels, options)
    }

    /// Checks every row. What it counts is right where all classes have one weight.
    fn check<L: Label, R: Real>(&self, targets: &RowTargets<'_, L, R>) -> Result<Counted, Error> {
        let weight = self.common_weight().unwrap_or(self.heaviest());
        targets.weigh(|_| weight)
    }
}
