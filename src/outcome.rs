use crate::element::{Element, Real};

/// The gradient that arrives from what was computed with the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Upstream<'a, R> {
    /// One number: the gradient of the reduced loss (or of every row's loss, where it is not reduced).
    Scalar(f64),
    /// A number for each row, `[N]`; only with [`Reduction::None`](crate::Reduction::None).
    PerRow(&'a [R]),
}

/// What a call may vary from step to step; the default is contiguous rows and an upstream gradient of 1.
#[derive(Debug, Clone, Copy, PartialEq)]
#[must_use]
pub struct Options<'a, R> {
    pub(crate) stride: Option<usize>,
    pub(crate) upstream: Upstream<'a, R>,
    pub(crate) gradient_scale: f64,
    pub(crate) hits: bool,
}

impl<R> Default for Options<'_, R> {
    fn default() -> Self {
        Self {
            stride: None,
            upstream: Upstream::Scalar(1.0),
            gradient_scale: 1.0,
            hits: false,
        }
    }
}

impl<'a, R: Real> Options<'a, R> {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Elements from the start of one row of logits to the next, at least `C`; `C` where not set.
    pub fn stride(mut self, stride: usize) -> Self {
        self.stride = Some(stride);
        self
    }

    /// The upstream gradient; 1 where not set.
    pub fn upstream(mut self, upstream: Upstream<'a, R>) -> Self {
        self.upstream = upstream;
        self
    }

    /// The loss scale of mixed-precision training: multiplies the gradient before it is rounded. The loss
    /// itself is not scaled. An infinite gradient is then the signal to lower it, so it is not checked here.
    pub fn gradient_scale(mut self, scale: f64) -> Self {
        self.gradient_scale = scale;
        self
    }

    /// Asks for the rows' top-1 hits where the result is owned ([`Loss::cpu_with`](crate::Loss::cpu_with)).
    pub fn hits(mut self) -> Self {
        self.hits = true;
        self
    }
}

/// The caller's buffers; each one left out is not computed.
#[derive(Debug)]
#[must_use]
pub struct Outputs<'a, T: Element> {
    pub(crate) gradient: Option<&'a mut [T]>,
    pub(crate) gradient_stride: Option<usize>,
    pub(crate) row_losses: Option<&'a mut [T::Real]>,
    pub(crate) hits: Option<&'a mut [bool]>,
}

impl<T: Element> Default for Outputs<'_, T> {
    fn default() -> Self {
        Self {
            gradient: None,
            gradient_stride: None,
            row_losses: None,
            hits: None,
        }
    }
}

impl<'a, T: Element> Outputs<'a, T> {
    /// No buffers: only the [`Summary`] is computed.
    pub fn new() -> Self {
        Self::default()
    }

    /// A contiguous gradient, `[N, C]`.
    pub fn gradient(mut self, buffer: &'a mut [T]) -> Self {
        self.gradient = Some(buffer);
        self.gradient_stride = None;
        self
    }

    /// A gradient with `stride >= C` elements between the starts of rows; what lies between rows is not written.
    pub fn gradient_strided(mut self, buffer: &'a mut [T], stride: usize) -> Self {
        self.gradient = Some(buffer);
        self.gradient_stride = Some(stride);
        self
    }

    /// Each row's weighted loss before reduction, `[N]`.
    pub fn row_losses(mut self, buffer: &'a mut [T::Real]) -> Self {
        self.row_losses = Some(buffer);
        self
    }

    /// Whether each row's largest logit is its target's, `[N]`; see [`Outcome::hits`].
    pub fn hits(mut self, buffer: &'a mut [bool]) -> Self {
        self.hits = Some(buffer);
        self
    }
}

/// What a call into the caller's buffers returns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The reduced loss; the rows' sum under [`Reduction::None`](crate::Reduction::None).
    pub loss: f64,
    /// Rows that were not ignored.
    pub counted_rows: usize,
    /// The counted rows' summed weights: what the mean divides by.
    pub total_weight: f64,
}

/// What an owned call returns.
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
    /// On request: whether the row's largest logit is its target's, `[N]`. The logits given are compared, without
    /// margin or prior, as at inference; ties go to the lowest class; ignored rows and rows with a NaN are misses.
    pub hits: Option<Vec<bool>>,
}
