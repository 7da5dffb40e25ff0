//! What a call takes beside logits and labels.

use crate::element::{Label, LabelSlice, Real};

/// The gradient that arrives from what was computed with the loss: on the CPU a number and a slice,
/// on CUDA device memory or addresses of it.
///
/// ```
/// use ala_loss::{ClassCounts, Loss, Objective, Options, Reduction, Upstream};
/// let counts = ClassCounts::new([9, 3])?;
/// let loss = Loss::builder(Objective::CrossEntropy, &counts).reduction(Reduction::None).build()?;
/// let gradient = |upstream| {
///     let outcome = loss.evaluate_with(&[0.0f32; 4], &[0, 1], &Options::new().upstream(upstream));
///     outcome.map(|outcome| outcome.gradient)
/// };
/// assert_eq!(gradient(Upstream::Scalar(2.0))?, [-1.0, 1.0, 1.0, -1.0]);
/// assert_eq!(gradient(Upstream::PerRow(&[2.0, -4.0]))?, [-1.0, 1.0, -2.0, 2.0]);
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Upstream<S, P = S> {
    /// 1: nothing but the loss was computed.
    #[default]
    One,
    /// One number: the gradient of the reduced loss (or of every row's loss, where it is not
    /// reduced).
    Scalar(S),
    /// A number for each row, `[N]`; only with [`Reduction::None`](crate::Reduction::None).
    PerRow(P),
}

/// What a mean divides the rows' summed losses by.
///
/// A batch that is taken in parts, one after the other or on several devices, has the gradient of
/// the whole where each part divides by what the whole is divided by:
/// [`Loss::divisor`](crate::Loss::divisor) of all its labels, or the sum of the parts' own.
///
/// ```
/// use ala_loss::{ClassCounts, Divisor, Loss, Objective, Options};
/// let counts = ClassCounts::new([9, 3])?;
/// let loss = Loss::builder(Objective::CrossEntropy, &counts).class_weights([1.0, 3.0]).build()?;
/// let gradient = |divisor| {
///     let options = Options::new().divisor(divisor);
///     loss.evaluate_with(&[0.0f32; 4], &[0, 1], &options).map(|outcome| outcome.gradient)
/// };
/// assert_eq!(gradient(Divisor::Weights)?, [-0.125, 0.125, 0.375, -0.375]); // 1 + 3
/// assert_eq!(gradient(Divisor::Rows)?, [-0.25, 0.25, 0.75, -0.75]); // 2
/// assert_eq!(gradient(Divisor::Given(8.0))?, [-0.0625, 0.0625, 0.1875, -0.1875]);
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Divisor<G = f64> {
    /// The weights of the rows that count, added up: PyTorch's rule.
    #[default]
    Weights,
    /// The number of rows that count.
    Rows,
    /// This number, finite and above 0; 0 too where no row counts.
    Given(G),
}

/// How much of a mixed row is its first label's: `L = lambda L(a) + (1 - lambda) L(b)`, with
/// `lambda` in `[0, 1]`.
///
/// ```
/// use ala_loss::{ClassCounts, Lambda, Loss, Objective, Options};
/// let counts = ClassCounts::new([9, 3])?;
/// let loss = Loss::new(Objective::CrossEntropy, &counts)?;
/// let gradient = |lambda| {
///     let options = Options::new().mixed_with(&[1, 1], lambda);
///     loss.evaluate_with(&[0.0f32; 4], &[0, 0], &options).map(|outcome| outcome.gradient)
/// };
/// assert_eq!(gradient(Lambda::Scalar(0.75))?, [-0.125, 0.125, -0.125, 0.125]);
/// assert_eq!(gradient(Lambda::PerRow(&[1.0, 0.0]))?, [-0.25, 0.25, 0.25, -0.25]);
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lambda<S, P = S> {
    /// The same for every row.
    Scalar(S),
    /// A number for each row, `[N]`.
    PerRow(P),
}

/// What a call may vary from step to step; the default is contiguous rows and an upstream gradient
/// of 1.
///
/// ```
/// use ala_loss::{ClassCounts, Loss, Objective, Options};
/// let counts = ClassCounts::new([9, 3])?;
/// let loss = Loss::builder(Objective::CrossEntropy, &counts).build()?;
/// let padded = [0.0f32, 0.0, f32::NAN, 0.0, 0.0]; // two rows at stride 3
/// let options = Options::new().stride(3).gradient_scale(1024.0);
/// let outcome = loss.evaluate_with(&padded, &[0, 1], &options)?;
/// assert_eq!(outcome.gradient, [-256.0, 256.0, 256.0, -256.0]);
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[must_use]
pub struct Options<'a, R> {
    pub(crate) stride: Option<usize>,
    pub(crate) upstream: Upstream<f64, &'a [R]>,
    pub(crate) gradient_scale: f64,
    pub(crate) divisor: Divisor,
    pub(crate) row_weights: Option<&'a [R]>,
    pub(crate) mixed: Option<Mixed<'a, R>>,
    pub(crate) hits: bool,
    pub(crate) predictions: bool,
}

/// The second labels, and how much is the first ones'.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Mixed<'a, R> {
    pub(crate) labels: LabelSlice<'a>,
    pub(crate) lambda: Lambda<f64, &'a [R]>,
}

impl<R> Default for Options<'_, R> {
    fn default() -> Self {
        Self {
            stride: None,
            upstream: Upstream::One,
            gradient_scale: 1.0,
            divisor: Divisor::Weights,
            row_weights: None,
            mixed: None,
            hits: false,
            predictions: false,
        }
    }
}

impl<'a, R: Real> Options<'a, R> {
    /// The defaults.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective, Options};
    /// # let counts = ClassCounts::new([9, 3])?;
    /// # let loss = Loss::builder(Objective::CrossEntropy, &counts).build()?;
    /// let logits = [2.0f32, 1.0];
    /// let plain = loss.evaluate(&logits, &[1])?;
    /// assert_eq!(loss.evaluate_with(&logits, &[1], &Options::new())?, plain);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Elements from the start of one row of logits to the next, at least `C`; `C` where not set.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective, Options};
    /// # let counts = ClassCounts::new([9, 3])?;
    /// # let loss = Loss::builder(Objective::CrossEntropy, &counts).build()?;
    /// let padded = [0.0f32, 0.0, f32::NAN, 0.0, 0.0];
    /// let outcome = loss.evaluate_with(&padded, &[0, 1], &Options::new().stride(3))?;
    /// assert_eq!(outcome.gradient, [-0.25, 0.25, 0.25, -0.25]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn stride(mut self, stride: usize) -> Self {
        self.stride = Some(stride);
        self
    }

    /// The upstream gradient; 1 where not set.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective, Options, Upstream};
    /// # let counts = ClassCounts::new([9, 3])?;
    /// # let loss = Loss::builder(Objective::CrossEntropy, &counts).build()?;
    /// let options = Options::new().upstream(Upstream::Scalar(3.0));
    /// assert_eq!(loss.evaluate_with(&[0.0f32, 0.0], &[0], &options)?.gradient, [-1.5, 1.5]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn upstream(mut self, upstream: Upstream<f64, &'a [R]>) -> Self {
        self.upstream = upstream;
        self
    }

    /// The loss scale of mixed-precision training: multiplies the gradient before it is rounded.
    /// The loss itself is not scaled. An infinite gradient is then the signal to lower it, so it is
    /// not checked here.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective, Options};
    /// use half::f16;
    /// # let counts = ClassCounts::new([9, 3])?;
    /// # let loss = Loss::builder(Objective::CrossEntropy, &counts).build()?;
    /// let logits = [12.0, -12.0].map(f16::from_f32); // p_1 = e^-24, too small for f16
    /// let plain = loss.evaluate(&logits, &[0])?;
    /// let scaled = loss.evaluate_with(&logits, &[0], &Options::new().gradient_scale(1048576.0))?;
    /// assert!(plain.gradient[1] == f16::ZERO && scaled.gradient[1] > f16::ZERO);
    /// assert_eq!(scaled.loss, plain.loss);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn gradient_scale(mut self, scale: f64) -> Self {
        self.gradient_scale = scale;
        self
    }

    /// What a mean divides by; the rows' weights where not set. Only with
    /// [`Reduction::Mean`](crate::Reduction::Mean).
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Divisor, Loss, Objective, Options};
    /// # let counts = ClassCounts::new([9, 3])?;
    /// # let loss = Loss::builder(Objective::CrossEntropy, &counts).build()?;
    /// let (logits, labels) = ([0.3f64, 0.1, -0.2, 0.0, 0.9, 0.4], [0, 1, 1]);
    /// let whole = loss.evaluate(&logits, &labels)?;
    /// // The same in two parts.
    /// let all = loss.divisor(&labels, &Options::<f64>::new())?;
    /// let options = Options::new().divisor(Divisor::Given(all));
    /// let parts = [
    ///     loss.evaluate_with(&logits[..4], &labels[..2], &options)?,
    ///     loss.evaluate_with(&logits[4..], &labels[2..], &options)?,
    /// ];
    /// assert_eq!(parts.map(|part| part.gradient).concat(), whole.gradient);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn divisor(mut self, divisor: Divisor) -> Self {
        self.divisor = divisor;
        self
    }

    /// A weight for each row, `[N]`, finite and `>= 0`: it multiplies the row's loss and gradient,
    /// and counts in [`Divisor::Weights`] as a class's weight does.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective, Options};
    /// # let counts = ClassCounts::new([9, 3])?;
    /// # let loss = Loss::builder(Objective::CrossEntropy, &counts).build()?;
    /// let options = Options::new().row_weights(&[1.0, 3.0]);
    /// let outcome = loss.evaluate_with(&[0.0f32; 4], &[0, 0], &options)?;
    /// assert_eq!(outcome.gradient, [-0.125, 0.125, -0.375, 0.375]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn row_weights(mut self, weights: &'a [R]) -> Self {
        self.row_weights = Some(weights);
        self
    }

    /// A second label for each row, `[N]`, as mixup and CutMix make them: `L = lambda L(a) +
    /// (1 - lambda) L(b)`, each with its own margin, weight and focal factor. One pass over the row
    /// gives both. A label whose part is 0, and one that is the ignore label, counts for nothing;
    /// a row counts while one of its labels does. In [`Divisor::Weights`] a row counts `lambda` of
    /// its first label's weight and `1 - lambda` of its second's. [Hits](crate::Outcome::hits) are
    /// of the first label. A row that counts has a
    /// [prediction](crate::Outcome::predictions), whichever of its labels does.
    ///
    /// Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018; Yun et al., "CutMix",
    /// ICCV 2019.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Lambda, Loss, Objective, Options};
    /// # let counts = ClassCounts::new([9, 3])?;
    /// let loss = Loss::new(Objective::ala(), &counts)?;
    /// let mixed = Options::new().mixed_with(&[1], Lambda::Scalar(0.25));
    /// let mixed = loss.evaluate_with(&[0.8f64, 0.1], &[0], &mixed)?;
    /// let [a, b] = [0, 1].map(|label| loss.evaluate(&[0.8f64, 0.1], &[label]));
    /// assert!((mixed.loss - 0.25 * a?.loss - 0.75 * b?.loss).abs() < 1e-12);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn mixed_with<L: Label>(mut self, labels: &'a [L], lambda: Lambda<f64, &'a [R]>) -> Self {
        self.mixed = Some(Mixed {
            labels: L::slice(labels),
            lambda,
        });
        self
    }

    /// Asks for the rows' top-1 hits where the result is owned
    /// ([`Loss::evaluate_with`](crate::Loss::evaluate_with)); elsewhere they need a buffer
    /// ([`Outputs::hits`](crate::Outputs::hits)).
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective, Options};
    /// # let counts = ClassCounts::new([9, 3])?;
    /// # let loss = Loss::builder(Objective::CrossEntropy, &counts).build()?;
    /// let logits = [0.9f32, 0.2, 0.1, 0.3];
    /// let outcome = loss.evaluate_with(&logits, &[0, 0], &Options::new().hits())?;
    /// assert_eq!(outcome.hits, Some(vec![true, false]));
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn hits(mut self) -> Self {
        self.hits = true;
        self
    }

    /// Asks for the rows' predicted classes where the result is owned
    /// ([`Loss::evaluate_with`](crate::Loss::evaluate_with)); elsewhere they need a buffer
    /// ([`Outputs::predictions`](crate::Outputs::predictions)). What they are:
    /// [`Outcome::predictions`](crate::Outcome::predictions).
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective, Options};
    /// # let counts = ClassCounts::new([9, 3])?;
    /// # let loss = Loss::builder(Objective::CrossEntropy, &counts).build()?;
    /// let logits = [0.9f32, 0.2, 0.1, 0.3];
    /// let outcome = loss.evaluate_with(&logits, &[0, 0], &Options::new().predictions())?;
    /// assert_eq!(outcome.predictions, Some(vec![0, 1]));
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn predictions(mut self) -> Self {
        self.predictions = true;
        self
    }
}
