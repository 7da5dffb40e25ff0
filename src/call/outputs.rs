//! What a call gives.

use crate::element::Element;

/// The prediction of a row that has none: one with a NaN, or one that does not count. It is no
/// class: where predictions are wanted there are at most `u32::MAX` classes.
///
/// ```
/// use ala_loss::{ClassCounts, Loss, NO_CLASS, Objective, Options};
/// let loss = Loss::new(Objective::CrossEntropy, &ClassCounts::new([9, 3])?)?;
/// let logits = [0.1f32, 0.3, f32::NAN, 0.3];
/// let outcome = loss.evaluate_with(&logits, &[0, 0], &Options::new().predictions())?;
/// assert_eq!(outcome.predictions, Some(vec![1, NO_CLASS]));
/// # Ok::<(), ala_loss::Error>(())
/// ```
pub const NO_CLASS: u32 = u32::MAX;

/// The caller's buffers; each one left out is not computed.
///
/// ```
/// use ala_loss::{ClassCounts, Loss, Objective, Options, Outputs};
/// let counts = ClassCounts::new([9, 3])?;
/// let loss = Loss::builder(Objective::CrossEntropy, &counts).build()?;
/// let (mut gradient, mut hits) = ([0.0f32; 2], [false; 1]);
/// for logits in [[0.0f32, 0.0], [0.5, 0.5]] {
///     let outputs = Outputs::new().gradient(&mut gradient).hits(&mut hits);
///     loss.evaluate_into(&logits, &[0], &Options::new(), outputs)?;
///     assert!((gradient[0] + 0.5).abs() < 1e-6 && (gradient[1] - 0.5).abs() < 1e-6);
///     assert_eq!(hits, [true]);
/// }
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct Outputs<'a, T: Element> {
    pub(crate) gradient: Option<&'a mut [T]>,
    pub(crate) gradient_stride: Option<usize>,
    pub(crate) row_losses: Option<&'a mut [T::Real]>,
    pub(crate) hits: Option<&'a mut [bool]>,
    pub(crate) predictions: Option<&'a mut [u32]>,
}

impl<T: Element> Default for Outputs<'_, T> {
    fn default() -> Self {
        Self {
            gradient: None,
            gradient_stride: None,
            row_losses: None,
            hits: None,
            predictions: None,
        }
    }
}

impl<'a, T: Element> Outputs<'a, T> {
    /// No buffers: only the [`Summary`] is computed.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective, Options, Outputs};
    /// # let counts = ClassCounts::new([9, 3])?;
    /// # let loss = Loss::builder(Objective::CrossEntropy, &counts).build()?;
    /// let summary = loss.evaluate_into(&[0.0f64, 0.0], &[0], &Options::new(), Outputs::new())?;
    /// assert!((summary.loss - 2f64.ln()).abs() < 1e-15);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// A contiguous gradient, `[N, C]` and no longer.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective, Options, Outputs};
    /// # let counts = ClassCounts::new([9, 3])?;
    /// # let loss = Loss::builder(Objective::CrossEntropy, &counts).build()?;
    /// let mut gradient = [0.0f32; 4];
    /// let outputs = Outputs::new().gradient(&mut gradient);
    /// loss.evaluate_into(&[0.0f32; 4], &[0, 1], &Options::new(), outputs)?;
    /// assert_eq!(gradient, [-0.25, 0.25, 0.25, -0.25]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn gradient(mut self, buffer: &'a mut [T]) -> Self {
        self.gradient = Some(buffer);
        self.gradient_stride = None;
        self
    }

    /// A gradient with `stride >= C` elements between the starts of rows; what lies between and
    /// behind rows is not written.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective, Options, Outputs};
    /// # let counts = ClassCounts::new([9, 3])?;
    /// # let loss = Loss::builder(Objective::CrossEntropy, &counts).build()?;
    /// let mut gradient = [7.0f32; 5];
    /// let outputs = Outputs::new().gradient_strided(&mut gradient, 3);
    /// loss.evaluate_into(&[0.0f32; 4], &[0, 1], &Options::new(), outputs)?;
    /// assert_eq!(gradient, [-0.25, 0.25, 7.0, 0.25, -0.25]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn gradient_strided(mut self, buffer: &'a mut [T], stride: usize) -> Self {
        self.gradient = Some(buffer);
        self.gradient_stride = Some(stride);
        self
    }

    /// Each row's weighted loss before reduction, `[N]`.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective, Options, Outputs};
    /// # let counts = ClassCounts::new([9, 3])?;
    /// # let loss = Loss::builder(Objective::CrossEntropy, &counts).build()?;
    /// let mut rows = [0.0f64; 2];
    /// let outputs = Outputs::new().row_losses(&mut rows);
    /// let logits = [0.0, 0.0, 0.0, f64::NEG_INFINITY];
    /// loss.evaluate_into(&logits, &[0, 1], &Options::new(), outputs)?;
    /// assert!((rows[0] - 2f64.ln()).abs() < 1e-15 && rows[1] == f64::INFINITY);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn row_losses(mut self, buffer: &'a mut [T::Real]) -> Self {
        self.row_losses = Some(buffer);
        self
    }

    /// Whether each row's largest logit is its target's, `[N]`; see [`Outcome::hits`].
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective, Options, Outputs};
    /// # let counts = ClassCounts::new([9, 3])?;
    /// # let loss = Loss::builder(Objective::CrossEntropy, &counts).build()?;
    /// let mut hits = [false; 2];
    /// let outputs = Outputs::new().hits(&mut hits);
    /// loss.evaluate_into(&[0.9f32, 0.2, 0.1, 0.3], &[0, 0], &Options::new(), outputs)?;
    /// assert_eq!(hits, [true, false]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn hits(mut self, buffer: &'a mut [bool]) -> Self {
        self.hits = Some(buffer);
        self
    }

    /// The lowest class of each row's largest logit, `[N]`; see [`Outcome::predictions`]. With
    /// [`hits`](Self::hits) too, a row is looked at once for both.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective, Options, Outputs};
    /// # let counts = ClassCounts::new([9, 3])?;
    /// # let loss = Loss::builder(Objective::CrossEntropy, &counts).build()?;
    /// let mut predictions = [0; 2];
    /// let outputs = Outputs::new().predictions(&mut predictions);
    /// loss.evaluate_into(&[0.9f32, 0.2, 0.1, 0.3], &[0, 0], &Options::new(), outputs)?;
    /// assert_eq!(predictions, [0, 1]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn predictions(mut self, buffer: &'a mut [u32]) -> Self {
        self.predictions = Some(buffer);
        self
    }
}

/// What a call into the caller's buffers returns.
///
/// ```
/// use ala_loss::{ClassCounts, Loss, Objective, Options, Outputs};
/// let counts = ClassCounts::new([9, 3])?;
/// let loss = Loss::builder(Objective::CrossEntropy, &counts)
///     .class_weights([1.0, 3.0])
///     .ignore_label(-1)
///     .build()?;
/// let summary = loss.evaluate_into(&[0.0f64; 6], &[0, 1, -1], &Options::new(), Outputs::new())?;
/// assert_eq!((summary.counted_rows, summary.total_weight), (2, 4.0));
/// assert!((summary.loss - 2f64.ln()).abs() < 1e-15);
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The reduced loss; the rows' sum under [`Reduction::None`](crate::Reduction::None).
    pub loss: f64,
    /// Rows that were not ignored.
    pub counted_rows: usize,
    /// The counted rows' summed weights: what the mean divides by, unless
    /// [`Options::divisor`](crate::Options::divisor) says otherwise.
    pub total_weight: f64,
}

/// What an owned call returns.
///
/// ```
/// use ala_loss::{ClassCounts, Loss, Objective};
/// let counts = ClassCounts::new([9, 3])?;
/// let loss = Loss::builder(Objective::CrossEntropy, &counts).build()?;
/// let outcome = loss.evaluate(&[2.0f64, 1.0, 0.0, 0.0], &[0, 1])?; // [N = 2, C = 2]
/// assert!((outcome.loss - (outcome.row_losses[0] + outcome.row_losses[1]) / 2.0).abs() < 1e-15);
/// assert_eq!(outcome.gradient[2..], [0.25, -0.25]); // row 1
/// assert_eq!((outcome.counted_rows, outcome.hits), (2, None));
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome<T: Element> {
    /// The reduced loss; the rows' sum under [`Reduction::None`](crate::Reduction::None).
    pub loss: f64,
    /// Each row's weighted loss before reduction, `[N]`.
    pub row_losses: Vec<T::Real>,
    /// The gradient with respect to the logits given, `[N, C]`, contiguous.
    pub gradient: Vec<T>,
    /// Rows that were not ignored.
    pub counted_rows: usize,
    /// On request: whether the row's largest logit is its target's, `[N]`. The logits given are
    /// compared, without margin or prior, as at inference; ties go to the lowest class; ignored
    /// rows and rows with a NaN are misses.
    pub hits: Option<Vec<bool>>,
    /// On request: the lowest class of the row's largest logit, `[N]`. The logits given are
    /// compared, without margin or prior, as at inference. `+inf` is a logit like any other, and of
    /// a row that is `-inf` throughout class 0 is the lowest. A row with a NaN and a row that does
    /// not count have [`NO_CLASS`]. So a row is a [hit](Self::hits) where its prediction is its
    /// (first) label, and only there.
    pub predictions: Option<Vec<u32>>,
}
