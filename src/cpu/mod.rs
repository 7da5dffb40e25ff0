//! The CPU path: checks the whole batch, then walks its rows over rayon.
//!
//! Along a row's life: [`batch`] and [`plan`] say which rows and how, [`walk`] hands runs of rows
//! to threads, [`overlap`] or [`split_row`] takes a run. Of a row the [`sum`] is taken in
//! [passes](pass) over [vectors](arch), [`solve`] makes of it the loss and the factors of the
//! [`gradient`], which is then written.

mod arch;
mod batch;
mod careful;
mod checks;
mod exp2;
mod gradient;
mod half_bits;
mod lane;
mod map;
mod overlap;
mod pair;
mod pass;
mod plan;
mod product;
mod row_buffer;
mod shard;
mod sharded;
mod smoothed;
mod solution;
mod solve;
mod split_row;
mod sum;
mod targets;
mod top1;
mod walk;

pub use arch::CpuInstance;
use batch::{Batch, Matrix, Top1Outputs};
use checks::{
    apart, apart_in_place, check_top1, divisor_of, factors, reduction_divisor, row_targets,
};
use plan::Plan;
use targets::Targets;
pub use walk::CpuElement;

use crate::call::{NO_CLASS, Options, Outcome, Outputs, Summary};
use crate::element::{Label, Real};
use crate::error::Error;
use crate::loss::Loss;
use crate::shape::{check_length, check_rows};

impl Loss {
    /// Loss and gradient of `[N, C]` logits on the CPU; `N` is the number of labels. The result is
    /// owned.
    ///
    /// Allocates the gradient `[N, C]` and the row losses `[N]`.
    ///
    /// # Errors
    /// [`Error::LogitsShape`], or [`Error::Label`] naming the row.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective};
    /// let counts = ClassCounts::new([9, 3])?;
    /// let loss = Loss::builder(Objective::CrossEntropy, &counts).build()?;
    /// let outcome = loss.evaluate(&[0.0f64, 0.0], &[1])?;
    /// assert!((outcome.loss - 2f64.ln()).abs() < 1e-15);
    /// assert_eq!(outcome.gradient, [0.5, -0.5]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn evaluate<T: CpuElement, L: Label>(
        &self,
        logits: &[T],
        labels: &[L],
    ) -> Result<Outcome<T>, Error> {
        self.evaluate_with(logits, labels, &Options::new())
    }

    /// [`evaluate`](Self::evaluate) with what [`Options`] has: a row stride, an upstream gradient,
    /// row weights, second labels and more.
    ///
    /// # Errors
    /// As [`evaluate_into`](Self::evaluate_into).
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective, Options};
    /// let counts = ClassCounts::new([9, 3])?;
    /// let loss = Loss::builder(Objective::ala(), &counts).build()?;
    /// let padded = [0.9f32, 0.2, f32::NAN, 0.1, 0.3]; // two rows at stride 3
    /// let outcome = loss.evaluate_with(&padded, &[0, 0], &Options::new().stride(3).hits())?;
    /// assert_eq!(outcome.hits, Some(vec![true, false]));
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn evaluate_with<T: CpuElement, L: Label>(
        &self,
        logits: &[T],
        labels: &[L],
        options: &Options<'_, T::Real>,
    ) -> Result<Outcome<T>, Error> {
        owned(self, logits, labels, options)
    }

    /// Loss and gradient into the caller's buffers. Allocates nothing once each thread has its room
    /// for exponentials (at most 512 KB, 1 MB for `f64`). What `outputs` leaves out is not
    /// computed.
    ///
    /// # Errors
    /// [`Error::LogitsShape`], [`Error::StridedBuffer`], [`Error::Stride`], [`Error::Length`] for
    /// buffers of the wrong size, [`Error::Label`], [`Error::SecondLabel`] or
    /// [`Error::RowParameter`] naming the first bad row, [`Error::UpstreamNeedsNoReduction`],
    /// [`Error::Parameter`] for a divisor out of range and for more classes than
    /// [predictions](Outputs::predictions) can tell, [`Error::Misplaced`] for a divisor where
    /// nothing is averaged and for [`Options::hits`] or [`Options::predictions`] without a buffer.
    /// All are found before the first write.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective, Options, Outputs};
    /// let counts = ClassCounts::new([9, 3])?;
    /// let loss = Loss::builder(Objective::ala(), &counts).build()?;
    /// let (mut gradient, mut rows) = ([0.0f32; 2], [0.0f32; 1]);
    /// let outputs = Outputs::new().gradient(&mut gradient).row_losses(&mut rows);
    /// let summary = loss.evaluate_into(&[0.9f32, 0.2], &[0u8], &Options::new(), outputs)?;
    /// assert_eq!(summary.loss as f32, rows[0]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn evaluate_into<T: CpuElement, L: Label>(
        &self,
        logits: &[T],
        labels: &[L],
        options: &Options<'_, T::Real>,
        outputs: Outputs<'_, T>,
    ) -> Result<Summary, Error> {
        into(self, logits, labels, options, outputs)
    }

    /// Loss and gradient, the gradient written **over the logits**. Elements between rows (stride
    /// padding) are left as they are.
    ///
    /// # Errors
    /// As [`evaluate_into`](Self::evaluate_into), and [`Error::GradientBufferInPlace`] where
    /// `outputs` has a gradient buffer.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective, Options, Outputs};
    /// let counts = ClassCounts::new([9, 3])?;
    /// let loss = Loss::builder(Objective::CrossEntropy, &counts).build()?;
    /// let mut logits = [0.0f32, 0.0];
    /// loss.evaluate_in_place(&mut logits, &[1u8], &Options::new(), Outputs::new())?;
    /// assert_eq!(logits, [0.5, -0.5]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn evaluate_in_place<T: CpuElement, L: Label>(
        &self,
        logits: &mut [T],
        labels: &[L],
        options: &Options<'_, T::Real>,
        outputs: Outputs<'_, T>,
    ) -> Result<Summary, Error> {
        in_place(self, logits, labels, options, outputs)
    }

    /// What a mean over the rows with these labels divides by, as `options` say: their weights
    /// added up, or their number; 0 where none counts. Of the options only the divisor, the row
    /// weights and the second labels matter, and the loss's own reduction does not.
    ///
    /// Batches that are parts of a larger one divide by the sum of theirs:
    /// [`Divisor::Given`](crate::Divisor::Given).
    ///
    /// # Errors
    /// As [`evaluate_into`](Self::evaluate_into).
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Divisor, Loss, Objective, Options};
    /// let counts = ClassCounts::new([9, 3])?;
    /// let builder = Loss::builder(Objective::CrossEntropy, &counts).ignore_label(-1);
    /// let loss = builder.class_weights([1.0, 3.0]).build()?;
    /// let options = Options::<f32>::new();
    /// assert_eq!(loss.divisor(&[0, -1, 1, 1], &options)?, 7.0);
    /// assert_eq!(loss.divisor(&[0, -1, 1, 1], &options.divisor(Divisor::Rows))?, 3.0);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn divisor<L: Label, R: Real>(
        &self,
        labels: &[L],
        options: &Options<'_, R>,
    ) -> Result<f64, Error> {
        let targets = row_targets((self.classes(), self.ignore_label()), labels, options)?;
        let counted = targets.weigh(|class| self.table().targets[class].weight)?;
        divisor_of(&counted, options.divisor)
    }
}

fn owned<T: CpuElement, L: Label>(
    loss: &Loss,
    logits: &[T],
    labels: &[L],
    options: &Options<'_, T::Real>,
) -> Result<Outcome<T>, Error> {
    let (rows, classes) = (labels.len(), loss.classes());
    // Checked before anything is allocated for it.
    check_rows("logits", logits.len(), rows, classes, options.stride)?;
    let mut gradient = vec![T::ZERO; rows * classes];
    let mut row_losses = vec![T::Real::from_f64(0.0); rows];
    let mut hits = options.hits.then(|| vec![false; rows]);
    let mut predictions = options.predictions.then(|| vec![NO_CLASS; rows]);
    let mut outputs = Outputs::new()
        .gradient(&mut gradient)
        .row_losses(&mut row_losses);
    if let Some(hits) = &mut hits {
        outputs = outputs.hits(hits);
    }
    if let Some(predictions) = &mut predictions {
        outputs = outputs.predictions(predictions);
    }
    let summary = into(loss, logits, labels, options, outputs)?;
    Ok(Outcome {
        loss: summary.loss,
        row_losses,
        gradient,
        counted_rows: summary.counted_rows,
        hits,
        predictions,
    })
}

fn into<T: CpuElement, L: Label>(
    loss: &Loss,
    logits: &[T],
    labels: &[L],
    options: &Options<'_, T::Real>,
    outputs: Outputs<'_, T>,
) -> Result<Summary, Error> {
    let shape = (labels.len(), loss.classes());
    let (matrix, row_losses, top1) = apart(logits, shape, options, outputs)?;
    run(loss, matrix, labels, options, row_losses, top1)
}

fn in_place<T: CpuElement, L: Label>(
    loss: &Loss,
    logits: &mut [T],
    labels: &[L],
    options: &Options<'_, T::Real>,
    outputs: Outputs<'_, T>,
) -> Result<Summary, Error> {
    let shape = (labels.len(), loss.classes());
    let (matrix, row_losses, top1) = apart_in_place(logits, shape, options, outputs)?;
    run(loss, matrix, labels, options, row_losses, top1)
}

fn run<T: CpuElement, L: Label>(
    loss: &Loss,
    matrix: Matrix<'_, T>,
    labels: &[L],
    options: &Options<'_, T::Real>,
    row_losses: Option<&mut [T::Real]>,
    top1: Top1Outputs<'_>,
) -> Result<Summary, Error> {
    let rows = labels.len();
    check_length("row losses", row_losses.as_deref().map(<[_]>::len), rows)?;
    check_top1(&top1, options, rows, loss.classes())?;
    let upstream = factors(loss.reduction(), options, rows)?;
    let targets = row_targets((loss.classes(), loss.ignore_label()), labels, options)?;
    let counted = targets.weigh(|class| loss.table().targets[class].weight)?;
    let divisor = reduction_divisor(loss.reduction(), &counted, options.divisor)?;
    let plan = Plan::new(loss, rows, divisor, size_of::<T>());
    let batch = Batch {
        matrix,
        plain: targets.are_plain(),
        targets: &targets,
        first: 0,
        count: rows,
        upstream,
        row_losses,
        top1,
    };
    let sum = T::walk(&plan, batch);
    Ok(Summary {
        loss: sum / divisor,
        counted_rows: counted.rows,
        total_weight: counted.weight,
    })
}
