use std::sync::Arc;

use crate::counts::ClassCounts;
use crate::cpu::LaneTable;
use crate::element::{Element, Label};
use crate::error::{Error, check_parameter};
use crate::objective::Objective;
use crate::outcome::{Options, Outcome, Outputs, Summary};
use crate::table::{HELD, RowTable};

/// How row losses become one number.
///
/// ```
/// use ala_loss::{ClassCounts, Loss, Objective, Reduction};
/// let counts = ClassCounts::new([9, 3])?;
/// for (reduction, divisor) in [(Reduction::Mean, 4.0), (Reduction::Sum, 1.0), (Reduction::None, 1.0)] {
///     let loss = Loss::builder(Objective::CrossEntropy, &counts)
///         .class_weights([1.0, 3.0])
///         .reduction(reduction)
///         .build()?;
///     let outcome = loss.cpu(&[0.0f64; 4], &[0, 1])?;
///     assert!((outcome.loss - outcome.row_losses.iter().sum::<f64>() / divisor).abs() < 1e-12);
///     assert_eq!(outcome.gradient, [-0.5, 0.5, 1.5, -1.5].map(|g| g / divisor));
/// }
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reduction {
    /// Divided by the sum of the counted rows' weights (PyTorch's rule); ignored rows do not count.
    #[default]
    Mean,
    /// The sum over rows.
    Sum,
    /// Not reduced: the gradient is that of each row's own loss, and [`Outcome::loss`] is their sum, to watch.
    None,
}

impl Reduction {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mean => "Mean",
            Self::Sum => "Sum",
            Self::None => "None",
        }
    }
}

/// What the logits are when they reach the loss.
///
/// ```
/// use ala_loss::{ClassCounts, Input, Loss, Objective};
/// let counts = ClassCounts::new([500, 5])?;
/// let loss = |input| Loss::builder(Objective::ala(), &counts).scale(30.0).input(input).build();
/// let cosines = [0.3f64, 0.2];
/// let unscaled = loss(Input::Cosine)?.cpu(&cosines, &[1])?;
/// let scaled = loss(Input::PreScaled)?.cpu(&cosines.map(|x| 30.0 * x), &[1])?;
/// assert!((unscaled.loss - scaled.loss).abs() < 1e-12);
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Input {
    /// Not yet scaled (cosines in `[-1, 1]` for the margin losses): the loss multiplies by `s`.
    #[default]
    Cosine,
    /// Scaled already, `s cos`: the loss only adds the margin, which still needs `s`.
    PreScaled,
}

/// Sets up a [`Loss`]; made by [`Loss::builder`].
///
/// ```
/// use ala_loss::{ClassCounts, Loss, Objective};
/// let counts = ClassCounts::new([9, 3])?;
/// let loss = Loss::builder(Objective::CrossEntropy, &counts)
///     .class_weights([1.0, 3.0])
///     .ignore_label(-1)
///     .build()?;
/// let outcome = loss.cpu(&[0.0f32; 6], &[1, -1, 0])?;
/// assert_eq!(outcome.gradient, [0.375, -0.375, 0.0, 0.0, -0.125, 0.125]);
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct LossBuilder {
    objective: Objective,
    counts: ClassCounts,
    scale: f64,
    input: Input,
    reduction: Reduction,
    ignore_label: Option<i64>,
    class_weights: Option<Vec<f64>>,
}

impl LossBuilder {
    /// The logit scale `s > 0`; [`Objective::default_scale`] where not set.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective};
    /// let counts = ClassCounts::new([9, 3])?;
    /// let loss = Loss::builder(Objective::CrossEntropy, &counts).scale(16.0).build()?;
    /// assert_eq!(loss.cpu(&[0.0f32, 0.0], &[0])?.gradient, [-8.0, 8.0]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn scale(mut self, scale: f64) -> Self {
        self.scale = scale;
        self
    }

    /// Whether the logits come unscaled (the default) or as `s cos`. Scaling in the model *and* here is the most
    /// common mistake with margin losses.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Input, Loss, Objective};
    /// let counts = ClassCounts::new([9, 3])?;
    /// let cosface = Loss::builder(Objective::CosFace { margin: 0.5 }, &counts).scale(30.0);
    /// let target = cosface.input(Input::PreScaled).build()?.table().targets()[0];
    /// assert_eq!((target.slope, target.bias), (1.0, -15.0));
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn input(mut self, input: Input) -> Self {
        self.input = input;
        self
    }

    /// How row losses are reduced; the mean by default.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective, Reduction};
    /// let counts = ClassCounts::new([9, 3])?;
    /// let loss = Loss::builder(Objective::CrossEntropy, &counts).reduction(Reduction::Sum).build()?;
    /// assert_eq!(loss.cpu(&[0.0f32; 4], &[0, 1])?.gradient, [-0.5, 0.5, 0.5, -0.5]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn reduction(mut self, reduction: Reduction) -> Self {
        self.reduction = reduction;
        self
    }

    /// Rows with this label have loss and gradient 0 and are left out of the mean.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective};
    /// let counts = ClassCounts::new([9, 3])?;
    /// let loss = Loss::builder(Objective::CrossEntropy, &counts).ignore_label(255).build()?;
    /// let outcome = loss.cpu(&[0.0, 0.0, f32::NAN, 1.0], &[0u8, 255])?;
    /// assert_eq!(outcome.gradient, [-0.5, 0.5, 0.0, 0.0]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn ignore_label(mut self, label: i64) -> Self {
        self.ignore_label = Some(label);
        self
    }

    /// A weight for each class, `[C]`, finite and `>= 0`; multiplies the objective's own weights. The products must be at
    /// most `1e280`.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective};
    /// let counts = ClassCounts::new([9, 3])?;
    /// let loss = Loss::builder(Objective::CrossEntropy, &counts).class_weights([1.0, 3.0]).build()?;
    /// // Summed weights 1 + 3 divide the mean.
    /// assert_eq!(loss.cpu(&[0.0f32; 4], &[0, 1])?.gradient, [-0.125, 0.125, 0.375, -0.375]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn class_weights(mut self, weights: impl Into<Vec<f64>>) -> Self {
        self.class_weights = Some(weights.into());
        self
    }

    /// Checks everything and lowers the objective to its table, once.
    ///
    /// # Errors
    /// [`Error::Parameter`] or [`Error::Length`] names what is out of range.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective};
    /// let counts = ClassCounts::new([500, 5])?;
    /// assert!(Loss::builder(Objective::ala(), &counts).scale(f64::NAN).build().is_err());
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn build(self) -> Result<Loss, Error> {
        check_parameter("scale", self.scale, "above 0, from 1e-30 to 1e30", |s| {
            HELD.contains(&s)
        })?;
        let slope = match self.input {
            Input::Cosine => self.scale,
            Input::PreScaled => 1.0,
        };
        let mut table = self.objective.lower(&self.counts, self.scale, slope)?;
        if let Some(weights) = &self.class_weights {
            weigh(&mut table, weights)?;
        }
        table.check()?;
        Ok(Loss(Arc::new(Inner {
            lane_table: LaneTable::new(&table.others),
            table,
            objective: self.objective,
            counts: self.counts,
            scale: self.scale,
            input: self.input,
            reduction: self.reduction,
            ignore_label: self.ignore_label,
        })))
    }
}

fn weigh(table: &mut RowTable, weights: &[f64]) -> Result<(), Error> {
    if weights.len() != table.classes() {
        return Err(Error::Length {
            name: "class weights",
            got: weights.len(),
            expected: table.classes(),
        });
    }
    for (target, &weight) in table.targets.iter_mut().zip(weights) {
        check_parameter("class weight", weight, "finite and at least 0", |w| {
            w >= 0.0
        })?;
        target.weight *= weight;
    }
    Ok(())
}

/// A validated loss: objective, scale, reduction, ignore label and weights. Cheap to clone, `Send + Sync`.
///
/// **Logits of the margin losses are cosines not yet scaled**; see [`Input`].
///
/// ```
/// use ala_loss::{ClassCounts, Loss, Objective};
///
/// let counts = ClassCounts::new([500, 50, 5])?;
/// let loss = Loss::builder(Objective::ala(), &counts).scale(30.0).build()?;
/// let cosines = [0.8f32, 0.1, -0.3, /* row 1 */ 0.2, 0.4, 0.1]; // [N = 2, C = 3]
/// let outcome = loss.cpu(&cosines, &[0, 2])?;
/// assert_eq!(outcome.gradient.len(), 6);
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Loss(Arc<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    table: RowTable,
    /// The part of `table` that is off the target, as the CPU path reads it.
    lane_table: LaneTable,
    objective: Objective,
    counts: ClassCounts,
    scale: f64,
    input: Input,
    reduction: Reduction,
    ignore_label: Option<i64>,
}

impl Loss {
    /// Starts from an objective and the training set's class counts.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective};
    /// let counts = ClassCounts::new([500, 50, 5])?;
    /// let loss = Loss::builder(Objective::CosFace { margin: 0.35 }, &counts).build()?;
    /// assert_eq!((loss.classes(), loss.scale()), (3, 30.0));
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn builder(objective: Objective, counts: &ClassCounts) -> LossBuilder {
        LossBuilder {
            objective,
            counts: counts.clone(),
            scale: objective.default_scale(),
            input: Input::default(),
            reduction: Reduction::default(),
            ignore_label: None,
            class_weights: None,
        }
    }

    /// The objective.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # let counts = ClassCounts::new([500, 50, 5])?;
    /// let loss = Loss::builder(Objective::Focal { gamma: 2.0 }, &counts).build()?;
    /// assert_eq!(loss.objective(), Objective::Focal { gamma: 2.0 });
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn objective(&self) -> Objective {
        self.0.objective
    }

    /// The class counts.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # let counts = ClassCounts::new([500, 50, 5])?;
    /// let loss = Loss::builder(Objective::ala(), &counts).build()?;
    /// assert_eq!(loss.counts(), &counts);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn counts(&self) -> &ClassCounts {
        &self.0.counts
    }

    /// The number of classes `C`.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # let counts = ClassCounts::new([500, 50, 5])?;
    /// let loss = Loss::builder(Objective::ala(), &counts).build()?;
    /// assert_eq!(loss.classes(), 3);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn classes(&self) -> usize {
        self.0.table.classes()
    }

    /// The logit scale `s`.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # let counts = ClassCounts::new([500, 50, 5])?;
    /// let loss = Loss::builder(Objective::ala(), &counts).scale(16.0).build()?;
    /// assert_eq!(loss.scale(), 16.0);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn scale(&self) -> f64 {
        self.0.scale
    }

    /// What the logits are when they reach the loss.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Input, Loss, Objective};
    /// # let counts = ClassCounts::new([500, 50, 5])?;
    /// let loss = Loss::builder(Objective::ala(), &counts).input(Input::PreScaled).build()?;
    /// assert_eq!(loss.input(), Input::PreScaled);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn input(&self) -> Input {
        self.0.input
    }

    /// How row losses are reduced.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective, Reduction};
    /// # let counts = ClassCounts::new([500, 50, 5])?;
    /// let loss = Loss::builder(Objective::ala(), &counts).reduction(Reduction::Sum).build()?;
    /// assert_eq!(loss.reduction(), Reduction::Sum);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn reduction(&self) -> Reduction {
        self.0.reduction
    }

    /// The label of ignored rows.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # let counts = ClassCounts::new([500, 50, 5])?;
    /// let loss = Loss::builder(Objective::ala(), &counts).ignore_label(-100).build()?;
    /// assert_eq!(loss.ignore_label(), Some(-100));
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn ignore_label(&self) -> Option<i64> {
        self.0.ignore_label
    }

    /// The row problem that the objective lowers to.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # let counts = ClassCounts::new([500, 50, 5])?;
    /// let loss = Loss::builder(Objective::ala(), &counts).build()?;
    /// let rarest = loss.table().targets()[2]; // z_y = 30 (1.5 x_y - 0.5)
    /// assert_eq!((rarest.slope, rarest.bias), (45.0, -15.0));
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn table(&self) -> &RowTable {
        &self.0.table
    }

    pub(crate) fn lane_table(&self) -> &LaneTable {
        &self.0.lane_table
    }

    /// The same loss with its weights multiplied by `weights`, `[C]`: the step of a re-weighting schedule.
    ///
    /// # Errors
    /// [`Error::Length`], or [`Error::Parameter`] for a weight that is negative or not finite, or where the product with the
    /// weight that was there is above `1e280`.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective};
    /// let counts = ClassCounts::new([500, 5])?;
    /// let loss = Loss::builder(Objective::Ldam { max_margin: 0.5 }, &counts).build()?;
    /// let weighted = loss.with_class_weights(&counts.class_balanced_weights(0.9999)?)?;
    /// assert!(weighted.table().targets()[1].weight > 1.0);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn with_class_weights(&self, weights: &[f64]) -> Result<Self, Error> {
        let mut inner = Inner::clone(&self.0);
        weigh(&mut inner.table, weights)?;
        inner.table.check()?;
        Ok(Self(Arc::new(inner)))
    }

    /// Loss and gradient of `[N, C]` logits on the CPU; `N` is the number of labels. The result is owned.
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
    /// let outcome = loss.cpu(&[0.0f64, 0.0], &[1])?;
    /// assert!((outcome.loss - 2f64.ln()).abs() < 1e-15);
    /// assert_eq!(outcome.gradient, [0.5, -0.5]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn cpu<T: Element, L: Label>(
        &self,
        logits: &[T],
        labels: &[L],
    ) -> Result<Outcome<T>, Error> {
        self.cpu_with(logits, labels, &Options::new())
    }

    /// [`cpu`](Self::cpu) with a row stride, an upstream gradient, a gradient scale or top-1 hits.
    ///
    /// # Errors
    /// As [`cpu_into`](Self::cpu_into).
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective, Options};
    /// let counts = ClassCounts::new([9, 3])?;
    /// let loss = Loss::builder(Objective::ala(), &counts).build()?;
    /// let padded = [0.9f32, 0.2, f32::NAN, 0.1, 0.3]; // two rows at stride 3
    /// let outcome = loss.cpu_with(&padded, &[0, 0], &Options::new().stride(3).hits())?;
    /// assert_eq!(outcome.hits, Some(vec![true, false]));
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn cpu_with<T: Element, L: Label>(
        &self,
        logits: &[T],
        labels: &[L],
        options: &Options<'_, T::Real>,
    ) -> Result<Outcome<T>, Error> {
        crate::cpu::owned(self, logits, labels, options)
    }

    /// Loss and gradient into the caller's buffers. Allocates nothing once each thread has its room for exponentials (at most
    /// 512 KB, 1 MB for `f64`). What `outputs` leaves out is not computed.
    ///
    /// # Errors
    /// [`Error::LogitsShape`], [`Error::StridedBuffer`], [`Error::Stride`], [`Error::Length`] for buffers of the
    /// wrong size, [`Error::Label`] naming the first bad row, [`Error::UpstreamNeedsNoReduction`],
    /// [`Error::Misplaced`] for [`Options::hits`] without a buffer. All are found before the first write.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective, Options, Outputs};
    /// let counts = ClassCounts::new([9, 3])?;
    /// let loss = Loss::builder(Objective::ala(), &counts).build()?;
    /// let (mut gradient, mut rows) = ([0.0f32; 2], [0.0f32; 1]);
    /// let outputs = Outputs::new().gradient(&mut gradient).row_losses(&mut rows);
    /// let summary = loss.cpu_into(&[0.9f32, 0.2], &[0u8], &Options::new(), outputs)?;
    /// assert_eq!(summary.loss as f32, rows[0]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn cpu_into<T: Element, L: Label>(
        &self,
        logits: &[T],
        labels: &[L],
        options: &Options<'_, T::Real>,
        outputs: Outputs<'_, T>,
    ) -> Result<Summary, Error> {
        crate::cpu::into(self, logits, labels, options, outputs)
    }

    /// Loss and gradient, the gradient written **over the logits**. Elements between rows (stride padding) are
    /// left as they are.
    ///
    /// # Errors
    /// As [`cpu_into`](Self::cpu_into), and [`Error::GradientBufferInPlace`] where `outputs` has a gradient buffer.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective, Options, Outputs};
    /// let counts = ClassCounts::new([9, 3])?;
    /// let loss = Loss::builder(Objective::CrossEntropy, &counts).build()?;
    /// let mut logits = [0.0f32, 0.0];
    /// loss.cpu_in_place(&mut logits, &[1u8], &Options::new(), Outputs::new())?;
    /// assert_eq!(logits, [0.5, -0.5]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn cpu_in_place<T: Element, L: Label>(
        &self,
        logits: &mut [T],
        labels: &[L],
        options: &Options<'_, T::Real>,
        outputs: Outputs<'_, T>,
    ) -> Result<Summary, Error> {
        crate::cpu::in_place(self, logits, labels, options, outputs)
    }
}

/// Deferred re-weighting (DRW; Cao et al., NeurIPS 2019): class weights that switch on from a given epoch.
///
/// ```
/// use ala_loss::{ClassCounts, DeferredReweighting, Loss, Objective};
/// let counts = ClassCounts::new([500, 5])?;
/// let ldam = Loss::builder(Objective::Ldam { max_margin: 0.5 }, &counts).build()?;
/// let weights = counts.class_balanced_weights(0.9999)?;
/// let schedule = DeferredReweighting::new(ldam, &weights, 160)?;
/// assert_eq!(schedule.at(159).table().targets()[1].weight, 1.0);
/// assert_eq!(schedule.at(160).table().targets()[1].weight, weights[1]);
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct DeferredReweighting {
    before: Loss,
    after: Loss,
    from_epoch: usize,
}

impl DeferredReweighting {
    /// `loss` as it is before `from_epoch` (counted from 0), and with `weights`, `[C]`, from then on.
    ///
    /// # Errors
    /// As [`Loss::with_class_weights`].
    ///
    /// ```
    /// use ala_loss::{ClassCounts, DeferredReweighting, Error, Loss, Objective};
    /// let counts = ClassCounts::new([500, 5])?;
    /// let loss = Loss::builder(Objective::ala(), &counts).build()?;
    /// let short = DeferredReweighting::new(loss, &[1.0], 160).unwrap_err();
    /// assert_eq!(short, Error::Length { name: "class weights", got: 1, expected: 2 });
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn new(loss: Loss, weights: &[f64], from_epoch: usize) -> Result<Self, Error> {
        let after = loss.with_class_weights(weights)?;
        Ok(Self {
            before: loss,
            after,
            from_epoch,
        })
    }

    /// The loss to use in `epoch`.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, DeferredReweighting, Loss, Objective};
    /// # let counts = ClassCounts::new([500, 50, 5])?;
    /// # let loss = Loss::builder(Objective::ala(), &counts).build()?;
    /// let schedule = DeferredReweighting::new(loss, &[1.0, 2.0, 4.0], 2)?;
    /// let rarest = |epoch| schedule.at(epoch).table().targets()[2].weight;
    /// assert_eq!([0, 1, 2, 3].map(rarest), [1.0, 1.0, 4.0, 4.0]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn at(&self, epoch: usize) -> &Loss {
        if epoch < self.from_epoch {
            &self.before
        } else {
            &self.after
        }
    }
}
