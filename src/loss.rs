//! A loss: what the calls of every path are made on.

use std::fmt;
use std::sync::Arc;

use crate::counts::ClassCounts;
use crate::error::{Error, check_parameter};
use crate::objective::Objective;
use crate::reduction::Reduction;
use crate::shape::check_length;
use crate::table::log2::Log2Table;
use crate::table::smoothing::Smoothing;
use crate::table::{HELD, RowTable};

/// What the logits are when they reach the loss.
///
/// ```
/// use ala_loss::{ClassCounts, Input, Loss, Objective};
/// let counts = ClassCounts::new([500, 5])?;
/// let loss = |input| Loss::builder(Objective::ala(), &counts).scale(30.0).input(input).build();
/// let cosines = [0.3f64, 0.2];
/// let unscaled = loss(Input::Cosine)?.evaluate(&cosines, &[1])?;
/// let scaled = loss(Input::PreScaled)?.evaluate(&cosines.map(|x| 30.0 * x), &[1])?;
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

/// Sets up a [`Loss`]; made by [`Loss::builder`] or [`Loss::from_table`].
///
/// ```
/// use ala_loss::{ClassCounts, Loss, Objective};
/// let counts = ClassCounts::new([9, 3])?;
/// let loss = Loss::builder(Objective::CrossEntropy, &counts)
///     .class_weights([1.0, 3.0])
///     .ignore_label(-1)
///     .build()?;
/// let outcome = loss.evaluate(&[0.0f32; 6], &[1, -1, 0])?;
/// assert_eq!(outcome.gradient, [0.375, -0.375, 0.0, 0.0, -0.125, 0.125]);
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct LossBuilder {
    source: Source,
    scale: Option<f64>,
    input: Option<Input>,
    reduction: Reduction,
    ignore_label: Option<i64>,
    class_weights: Option<Vec<f64>>,
    label_smoothing: f64,
}

/// What a loss is made from.
#[derive(Debug, Clone)]
enum Source {
    Objective(Objective, ClassCounts),
    Table(RowTable),
}

impl LossBuilder {
    fn new(source: Source) -> Self {
        Self {
            source,
            scale: None,
            input: None,
            reduction: Reduction::default(),
            ignore_label: None,
            class_weights: None,
            label_smoothing: 0.0,
        }
    }

    /// The logit scale `s > 0`; [`Objective::default_scale`] where not set.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective};
    /// let counts = ClassCounts::new([9, 3])?;
    /// let loss = Loss::builder(Objective::CrossEntropy, &counts).scale(16.0).build()?;
    /// assert_eq!(loss.evaluate(&[0.0f32, 0.0], &[0])?.gradient, [-8.0, 8.0]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn scale(mut self, scale: f64) -> Self {
        self.scale = Some(scale);
        self
    }

    /// Whether the logits come unscaled (the default) or as `s cos`. Scaling in the model *and*
    /// here is the most common mistake with margin losses.
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
        self.input = Some(input);
        self
    }

    /// How row losses are reduced; the mean by default.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective, Reduction};
    /// let counts = ClassCounts::new([9, 3])?;
    /// let builder = Loss::builder(Objective::CrossEntropy, &counts);
    /// let loss = builder.reduction(Reduction::Sum).build()?;
    /// assert_eq!(loss.evaluate(&[0.0f32; 4], &[0, 1])?.gradient, [-0.5, 0.5, 0.5, -0.5]);
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
    /// let outcome = loss.evaluate(&[0.0, 0.0, f32::NAN, 1.0], &[0u8, 255])?;
    /// assert_eq!(outcome.gradient, [-0.5, 0.5, 0.0, 0.0]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn ignore_label(mut self, label: i64) -> Self {
        self.ignore_label = Some(label);
        self
    }

    /// A weight for each class, `[C]`, finite and `>= 0`; multiplies the objective's own weights.
    /// The products must be at most `1e280`.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective};
    /// let counts = ClassCounts::new([9, 3])?;
    /// let builder = Loss::builder(Objective::CrossEntropy, &counts);
    /// let loss = builder.class_weights([1.0, 3.0]).build()?;
    /// // Summed weights 1 + 3 divide the mean.
    /// assert_eq!(loss.evaluate(&[0.0f32; 4], &[0, 1])?.gradient, [-0.125, 0.125, 0.375, -0.375]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn class_weights(mut self, weights: impl Into<Vec<f64>>) -> Self {
        self.class_weights = Some(weights.into());
        self
    }

    /// Label smoothing `epsilon` in `[0, 1]`; 0 where not set. The label keeps `1 - epsilon`, and
    /// all classes share the rest, as in PyTorch's `CrossEntropyLoss`, on the logits `z` with the
    /// margin at the target:
    ///
    /// ```text
    /// L = (1 - eps) w_y (lse(z) - z_y) + (eps / C) sum_j w_j (lse(z) - z_j)
    /// ```
    ///
    /// A mean divides by the same weights as without, and a row whose label has weight 0 keeps the
    /// share of all classes. A class that is masked (`-inf`) makes the loss infinite, unless its
    /// weight is 0. Focal loss has no smoothed form: an error.
    ///
    /// Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016,
    /// section 7.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective};
    /// let counts = ClassCounts::new([9, 3])?;
    /// let builder = Loss::builder(Objective::CrossEntropy, &counts);
    /// let loss = builder.label_smoothing(0.5).build()?;
    /// // The label is (0.75, 0.25).
    /// assert_eq!(loss.evaluate(&[0.0f64, 0.0], &[0])?.gradient, [-0.25, 0.25]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn label_smoothing(mut self, epsilon: f64) -> Self {
        self.label_smoothing = epsilon;
        self
    }

    /// Checks everything and lowers the objective to its table, once.
    ///
    /// # Errors
    /// [`Error::Parameter`] or [`Error::Length`] names what is out of range; [`Error::Misplaced`]
    /// where a table was given a scale or an input.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective};
    /// let counts = ClassCounts::new([500, 5])?;
    /// assert!(Loss::builder(Objective::ala(), &counts).scale(f64::NAN).build().is_err());
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn build(self) -> Result<Loss, Error> {
        let (mut table, origin) = match self.source {
            Source::Table(_) if self.scale.is_some() || self.input.is_some() => {
                return Err(Error::Misplaced {
                    given: "a scale or an input for a table",
                    instead: "a table's slopes say what the logits are multiplied by",
                });
            }
            Source::Table(table) => (table, None),
            Source::Objective(objective, counts) => {
                let scale = self.scale.unwrap_or(objective.default_scale());
                check_parameter("scale", scale, "above 0, from 1e-30 to 1e30", |s| {
                    HELD.contains(&s)
                })?;
                let input = self.input.unwrap_or_default();
                let slope = match input {
                    Input::Cosine => scale,
                    Input::PreScaled => 1.0,
                };
                let table = objective.lower(&counts, scale, slope)?;
                let origin = Origin {
                    objective,
                    counts,
                    scale,
                    input,
                    class_weights: self.class_weights.clone(),
                };
                (table, Some(origin))
            }
        };
        if let Some(weights) = &self.class_weights {
            weigh(&mut table, weights)?;
        }
        table.check()?;
        let allowed = match table.focal_gamma {
            None => "from 0 to 1",
            Some(_) => "0 for a focal loss, which has no smoothed form",
        };
        check_parameter("label smoothing", self.label_smoothing, allowed, |e| {
            (0.0..=1.0).contains(&e) && (e == 0.0 || table.focal_gamma.is_none())
        })?;
        Ok(Loss(Arc::new(Inner {
            smoothing: Smoothing::new(self.label_smoothing, &table),
            log2_table: Log2Table::new(&table.non_target),
            table,
            origin,
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

/// A validated loss: objective, scale, reduction, ignore label and weights. Cheap to clone,
/// `Send + Sync`.
///
/// **Logits of the margin losses are cosines not yet scaled**; see [`Input`].
///
/// ```
/// use ala_loss::{ClassCounts, Loss, Objective};
///
/// let counts = ClassCounts::new([500, 50, 5])?;
/// let loss = Loss::builder(Objective::ala(), &counts).scale(30.0).build()?;
/// let cosines = [0.8f32, 0.1, -0.3, /* row 1 */ 0.2, 0.4, 0.1]; // [N = 2, C = 3]
/// let outcome = loss.evaluate(&cosines, &[0, 2])?;
/// assert_eq!(outcome.gradient.len(), 6);
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Clone)]
pub struct Loss(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    table: RowTable,
    /// The part of `table` that is off the target, as the CPU path reads it.
    log2_table: Log2Table,
    origin: Option<Origin>,
    reduction: Reduction,
    ignore_label: Option<i64>,
    /// Of `table`'s weights.
    smoothing: Option<Smoothing>,
}

/// Without the tables, which grow with the classes: models print their losses.
impl fmt::Debug for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loss")
            .field("objective", &self.objective())
            .field("scale", &self.scale())
            .field("input", &self.input())
            .field("classes", &self.classes())
            .field("reduction", &self.reduction())
            .field("ignore_label", &self.ignore_label())
            .field("label_smoothing", &self.label_smoothing())
            .finish_non_exhaustive()
    }
}

/// What the table was lowered from.
#[derive(Debug, Clone)]
struct Origin {
    objective: Objective,
    counts: ClassCounts,
    scale: f64,
    input: Input,
    /// Those that were given, multiplied.
    class_weights: Option<Vec<f64>>,
}

impl Loss {
    /// The loss of an objective with its default scale, unscaled logits and the mean over rows, all
    /// rows alike.
    ///
    /// # Errors
    /// [`Error::Parameter`] names what is out of range.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective};
    /// let loss = Loss::new(Objective::ala(), &ClassCounts::new([500, 50, 5])?)?;
    /// assert_eq!((loss.classes(), loss.scale()), (3, Some(30.0)));
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn new(objective: Objective, counts: &ClassCounts) -> Result<Self, Error> {
        Self::builder(objective, counts).build()
    }

    /// Starts from an objective and the training set's class counts.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective};
    /// let counts = ClassCounts::new([500, 50, 5])?;
    /// let loss = Loss::builder(Objective::CosFace { margin: 0.35 }, &counts).scale(64.0).build()?;
    /// assert_eq!((loss.classes(), loss.scale()), (3, Some(64.0)));
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn builder(objective: Objective, counts: &ClassCounts) -> LossBuilder {
        LossBuilder::new(Source::Objective(objective, counts.clone()))
    }

    /// Starts from a table: an objective of your own, lowered by yourself.
    ///
    /// ```
    /// use ala_loss::{Loss, NonTarget, RowTable, Target};
    /// // A margin of 0.2 for every class, at a scale of 16.
    /// let target = Target { slope: 16.0, bias: -0.2 * 16.0, gradient_slope: 16.0, weight: 1.0 };
    /// let table = RowTable::new([target; 3], NonTarget::Uniform { slope: 16.0 }, None)?;
    /// let loss = Loss::from_table(table).ignore_label(-1).build()?;
    /// let outcome = loss.evaluate(&[0.5f64, 0.3, 0.3], &[0])?;
    /// assert!((outcome.loss - 3f64.ln()).abs() < 1e-12);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn from_table(table: RowTable) -> LossBuilder {
        LossBuilder::new(Source::Table(table))
    }

    /// The objective; `None` for a loss [from a table](Self::from_table).
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # let counts = ClassCounts::new([500, 50, 5])?;
    /// let loss = Loss::new(Objective::Focal { gamma: 2.0 }, &counts)?;
    /// assert_eq!(loss.objective(), Some(Objective::Focal { gamma: 2.0 }));
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn objective(&self) -> Option<Objective> {
        self.0.origin.as_ref().map(|origin| origin.objective)
    }

    /// The class counts; `None` for a loss [from a table](Self::from_table).
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # let counts = ClassCounts::new([500, 50, 5])?;
    /// let loss = Loss::new(Objective::ala(), &counts)?;
    /// assert_eq!(loss.counts(), Some(&counts));
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn counts(&self) -> Option<&ClassCounts> {
        self.0.origin.as_ref().map(|origin| &origin.counts)
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

    /// The logit scale `s`; `None` for a loss [from a table](Self::from_table).
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # let counts = ClassCounts::new([500, 50, 5])?;
    /// let loss = Loss::builder(Objective::ala(), &counts).scale(16.0).build()?;
    /// assert_eq!(loss.scale(), Some(16.0));
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn scale(&self) -> Option<f64> {
        self.0.origin.as_ref().map(|origin| origin.scale)
    }

    /// What the logits are when they reach the loss; `None` for a loss [from a
    /// table](Self::from_table).
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Input, Loss, Objective};
    /// # let counts = ClassCounts::new([500, 50, 5])?;
    /// let loss = Loss::builder(Objective::ala(), &counts).input(Input::PreScaled).build()?;
    /// assert_eq!(loss.input(), Some(Input::PreScaled));
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn input(&self) -> Option<Input> {
        self.0.origin.as_ref().map(|origin| origin.input)
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

    /// Label smoothing `epsilon`; 0 for none.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # let counts = ClassCounts::new([500, 50, 5])?;
    /// let loss = Loss::builder(Objective::ala(), &counts).label_smoothing(0.1).build()?;
    /// assert_eq!(loss.label_smoothing(), 0.1);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn label_smoothing(&self) -> f64 {
        self.smoothing().map_or(0.0, |smoothing| smoothing.epsilon)
    }

    pub(crate) fn smoothing(&self) -> Option<&Smoothing> {
        self.0.smoothing.as_ref()
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

    pub(crate) fn log2_table(&self) -> &Log2Table {
        &self.0.log2_table
    }

    /// The same loss of other classes, which no objective is known of.
    pub(crate) fn of_part(&self, table: RowTable) -> Self {
        Self(Arc::new(Inner {
            smoothing: Smoothing::new(self.label_smoothing(), &table),
            log2_table: Log2Table::new(&table.non_target),
            table,
            origin: None,
            reduction: self.reduction(),
            ignore_label: self.ignore_label(),
        }))
    }

    /// The same loss, its rows reduced in another way.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective, Reduction};
    /// let loss = Loss::new(Objective::CrossEntropy, &ClassCounts::new([9, 3])?)?;
    /// let sum = loss.with_reduction(Reduction::Sum);
    /// assert_eq!(sum.evaluate(&[0.0f32; 4], &[0, 1])?.gradient, [-0.5, 0.5, 0.5, -0.5]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn with_reduction(&self, reduction: Reduction) -> Self {
        Self(Arc::new(Inner {
            reduction,
            ..Inner::clone(&self.0)
        }))
    }

    /// The same loss with its weights multiplied by `weights`, `[C]`: the step of a re-weighting
    /// schedule.
    ///
    /// # Errors
    /// [`Error::Length`], or [`Error::Parameter`] for a weight that is negative or not finite, or
    /// where the product with the weight that was there is above `1e280`.
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
        inner.smoothing = Smoothing::new(self.label_smoothing(), &inner.table);
        if let Some(origin) = &mut inner.origin {
            origin.class_weights = Some(match &origin.class_weights {
                Some(before) => before.iter().zip(weights).map(|(a, b)| a * b).collect(),
                None => weights.to_vec(),
            });
        }
        Ok(Self(Arc::new(inner)))
    }

    /// The same loss for other class counts, such as those that an online learner has seen so far:
    /// what [`builder`](Self::builder) makes of the same objective and settings, to the bit. All
    /// that the objective takes from the counts is computed anew: margins, priors, its own weights.
    /// Class weights that were given stay as they are, also where they were computed from counts.
    ///
    /// It costs what building a loss does; for a GPU it is to be bound anew.
    ///
    /// # Errors
    /// [`Error::Length`] where the number of classes is another; [`Error::Misplaced`] for a loss
    /// [from a table](Self::from_table), which knows no objective; and as
    /// [`build`](LossBuilder::build).
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective};
    /// let mut seen = [500, 5];
    /// let loss = Loss::builder(Objective::ala(), &ClassCounts::new(seen)?).scale(16.0).build()?;
    /// seen[1] += 495; // the rare class has caught up
    /// let loss = loss.with_counts(&ClassCounts::new(seen)?)?;
    /// let targets = loss.table().targets();
    /// assert_eq!(targets[0], targets[1]);
    /// assert_eq!(loss.scale(), Some(16.0));
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn with_counts(&self, counts: &ClassCounts) -> Result<Self, Error> {
        let Some(origin) = &self.0.origin else {
            return Err(Error::Misplaced {
                given: "class counts for a loss from a table",
                instead: "lower your objective for them, and build a loss from that table",
            });
        };
        let name = "class counts";
        check_length(name, Some(counts.classes()), self.classes())?;
        let builder = LossBuilder {
            source: Source::Objective(origin.objective, counts.clone()),
            scale: Some(origin.scale),
            input: Some(origin.input),
            reduction: self.reduction(),
            ignore_label: self.ignore_label(),
            class_weights: origin.class_weights.clone(),
            label_smoothing: self.label_smoothing(),
        };
        builder.build()
    }

    /// Whether new class counts may make other class weights.
    #[cfg(feature = "cuda")]
    pub(crate) fn weights_follow_counts(&self) -> bool {
        matches!(self.objective(), Some(Objective::ClassBalanced { .. }))
    }
}
