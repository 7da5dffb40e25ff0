//! What a step takes beside logits and labels, and its form on the host.

use std::ops::Range;

use ala_loss::{Divisor, Lambda, Loss, Options, Real, Reduction};
use candle_core::{DType, Device, Error, Result, Tensor, bail};

use crate::loss_op::{check_devices, check_labels};

/// What a step may take beside logits and labels: second labels, row weights, and what its mean
/// divides by. The default is none of them.
///
/// | | shape | data type |
/// |---|---|---|
/// | second labels | `[N]`, any strides | u8, u32, i32, i64; i16 on the CPU |
/// | lambda, where each row has its own; row weights | `[N]`, any strides | f32, f64, f16, bf16 |
/// | a divisor that is given | one number | f32, f64, f16, bf16 |
///
/// All on the logits' device. Lambdas and weights are rounded to the type of the row losses, and
/// nothing is differentiated with respect to them. On CUDA nothing is copied that has its type
/// already: as labels, they are to stay as they are until the backward pass. What the device finds
/// out of range there is told as a label is, see [`CandleLoss`](crate::CandleLoss); a given divisor
/// is not looked at.
///
/// ```
/// use ala_loss::{ClassCounts, Lambda, Loss, Objective};
/// use ala_loss_candle::{CandleLoss, StepOptions};
/// use candle_core::{Device, Tensor, Var};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let counts = ClassCounts::new([9, 3])?;
/// let loss = CandleLoss::new(Loss::new(Objective::CrossEntropy, &counts)?);
/// let logits = Var::zeros((2, 2), candle_core::DType::F64, &Device::Cpu)?;
/// let labels = Tensor::new(&[0u32, 1], &Device::Cpu)?;
/// let partners = Tensor::new(&[1u32, 1], &Device::Cpu)?;
/// let mixed = StepOptions::new().mixed_with(&partners, Lambda::Scalar(0.75));
/// let gradients = loss.forward_with(&logits, &labels, &mixed)?.backward()?;
/// let gradient = gradients.get(&logits).map(Tensor::to_vec2::<f64>).transpose()?;
/// assert_eq!(gradient, Some(vec![vec![-0.125, 0.125], vec![0.25, -0.25]]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct StepOptions<'a> {
    pub(crate) mixed: Option<(&'a Tensor, Lambda<f64, &'a Tensor>)>,
    pub(crate) row_weights: Option<&'a Tensor>,
    pub(crate) divisor: Divisor<&'a Tensor>,
}

impl Default for StepOptions<'_> {
    fn default() -> Self {
        Self {
            mixed: None,
            row_weights: None,
            divisor: Divisor::Weights,
        }
    }
}

impl<'a> StepOptions<'a> {
    /// The defaults.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # use ala_loss_candle::{CandleLoss, StepOptions};
    /// # use candle_core::{Device, Tensor};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let counts = ClassCounts::new([9, 3])?;
    /// let loss = CandleLoss::new(Loss::new(Objective::CrossEntropy, &counts)?);
    /// let logits = Tensor::new(&[[2f32, 1.0]], &Device::Cpu)?;
    /// let labels = Tensor::new(&[1u8], &Device::Cpu)?;
    /// let plain = loss.forward(&logits, &labels)?.to_scalar::<f32>()?;
    /// let with = loss.forward_with(&logits, &labels, &StepOptions::new())?;
    /// assert_eq!(with.to_scalar::<f32>()?, plain);
    /// # Ok(())
    /// # }
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// A second label for each row, as mixup and CutMix make them: `L = lambda L(a) +
    /// (1 - lambda) L(b)`, each with its own margin, weight and focal factor, in one pass over the
    /// row. Lambda is in `[0, 1]`. A label whose part is 0, and one that is the ignore label,
    /// counts for nothing; a row counts while one of its labels does. Hits are of the first label.
    ///
    /// See [`ala_loss::Options::mixed_with`]; [`StepOptions`] has an example with one lambda.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Lambda, Loss, Objective, Reduction};
    /// # use ala_loss_candle::{CandleLoss, StepOptions};
    /// # use candle_core::{Device, Tensor};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let counts = ClassCounts::new([9, 3])?;
    /// let loss = Loss::builder(Objective::BalancedSoftmax, &counts).reduction(Reduction::Sum);
    /// let loss = CandleLoss::new(loss.build()?);
    /// let logits = Tensor::zeros((2, 2), candle_core::DType::F64, &Device::Cpu)?;
    /// let labels = Tensor::new(&[0u8, 1], &Device::Cpu)?;
    /// let partners = Tensor::new(&[1u8, 0], &Device::Cpu)?;
    /// let each = Tensor::new(&[0.25f64, 0.75], &Device::Cpu)?; // CutMix: of each row's own box
    /// let mixed = StepOptions::new().mixed_with(&partners, Lambda::PerRow(&each));
    /// let mixed = loss.forward_with(&logits, &labels, &mixed)?.to_scalar::<f64>()?;
    /// // A quarter of a row and a quarter of the other are of class 0.
    /// let expected = -(0.5 * 0.75f64.ln() + 1.5 * 0.25f64.ln());
    /// assert!((mixed - expected).abs() < 1e-12);
    /// # Ok(())
    /// # }
    /// ```
    pub fn mixed_with(mut self, labels: &'a Tensor, lambda: Lambda<f64, &'a Tensor>) -> Self {
        self.mixed = Some((labels, lambda));
        self
    }

    /// A weight for each row, finite and `>= 0`: it multiplies the row's loss and gradient, and
    /// counts in [`Divisor::Weights`] as a class's weight does.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # use ala_loss_candle::{CandleLoss, StepOptions};
    /// # use candle_core::{DType, Device, Tensor, Var};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let counts = ClassCounts::new([9, 3])?;
    /// let loss = CandleLoss::new(Loss::new(Objective::CrossEntropy, &counts)?);
    /// let logits = Var::zeros((2, 2), DType::F32, &Device::Cpu)?;
    /// let labels = Tensor::new(&[0u8, 0], &Device::Cpu)?;
    /// let weights = Tensor::new(&[1f32, 3.0], &Device::Cpu)?;
    /// let options = StepOptions::new().row_weights(&weights);
    /// let gradients = loss.forward_with(&logits, &labels, &options)?.backward()?;
    /// let gradient = gradients.get(&logits).map(Tensor::to_vec2::<f32>).transpose()?;
    /// assert_eq!(gradient, Some(vec![vec![-0.125, 0.125], vec![-0.375, 0.375]]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn row_weights(mut self, weights: &'a Tensor) -> Self {
        self.row_weights = Some(weights);
        self
    }

    /// What a mean divides by; the rows' weights where not set. Only with [`Reduction::Mean`].
    ///
    /// A batch in parts (gradient accumulation, several devices) has the gradient of the whole
    /// where each part divides by what the whole is divided by:
    /// [`CandleLoss::divisor`](crate::CandleLoss::divisor) of all its labels, or the sum of the
    /// parts' own.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Divisor, Loss, Objective};
    /// # use ala_loss_candle::{CandleLoss, StepOptions};
    /// # use candle_core::{Device, Tensor};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let counts = ClassCounts::new([9, 3])?;
    /// let loss = Loss::builder(Objective::CrossEntropy, &counts).class_weights([1.0, 3.0]);
    /// let loss = CandleLoss::new(loss.build()?);
    /// let logits = Tensor::new(&[[0.3f64, 0.1], [-0.2, 0.0], [0.9, 0.4]], &Device::Cpu)?;
    /// let labels = Tensor::new(&[0u32, 1, 1], &Device::Cpu)?;
    /// let whole = loss.forward(&logits, &labels)?.to_scalar::<f64>()?;
    ///
    /// let all = loss.divisor(&labels, &StepOptions::new())?; // 7
    /// let options = StepOptions::new().divisor(Divisor::Given(&all));
    /// let mut sum = 0.0;
    /// for row in 0..3 {
    ///     let part = [logits.narrow(0, row, 1)?, labels.narrow(0, row, 1)?];
    ///     sum += loss.forward_with(&part[0], &part[1], &options)?.to_scalar::<f64>()?;
    /// }
    /// assert!((sum - whole).abs() < 1e-15);
    /// # Ok(())
    /// # }
    /// ```
    pub fn divisor(mut self, divisor: Divisor<&'a Tensor>) -> Self {
        self.divisor = divisor;
        self
    }

    fn is_plain(&self) -> bool {
        self.mixed.is_none() && self.row_weights.is_none() && !self.divides()
    }

    fn divides(&self) -> bool {
        !matches!(self.divisor, Divisor::Weights)
    }

    /// `with` is what the options are for, and `of` what the rows are of.
    pub(crate) fn check(&self, with: (&str, &Tensor), rows: usize, of: &str) -> Result<()> {
        if self.is_plain() {
            return Ok(());
        }
        let mut numbers = Vec::new();
        if let Some((labels, lambda)) = self.mixed {
            check_devices(with, &[("second labels", labels)])?;
            check_labels("second labels", labels, rows, of)?;
            if let Lambda::PerRow(lambda) = lambda {
                numbers.push(("lambda", lambda, Some(rows)));
            }
        }
        if let Some(weights) = self.row_weights {
            numbers.push(("row weights", weights, Some(rows)));
        }
        if let Divisor::Given(divisor) = self.divisor {
            numbers.push(("divisor", divisor, None));
        }
        for (name, tensor, rows) in numbers {
            check_devices(with, &[(name, tensor)])?;
            check_numbers(name, tensor, rows, of)?;
        }
        Ok(())
    }

    /// Only a mean is divided.
    pub(crate) fn check_reduction(&self, reduction: Reduction) -> Result<()> {
        if reduction != Reduction::Mean && self.divides() {
            bail!(
                "a divisor was given, and the loss has Reduction::{reduction:?}: only Reduction::Mean divides"
            );
        }
        Ok(())
    }

    /// The step with these labels, all checked; its numbers as they are in `row_type`, the type of
    /// the row losses.
    pub(crate) fn on_host(&self, labels: &Tensor, row_type: DType) -> Result<HostStep> {
        let numbers = |tensor: &Tensor| -> Result<Vec<f64>> {
            let rounded = tensor.flatten_all()?.to_dtype(row_type)?;
            rounded.to_dtype(DType::F64)?.to_vec1()
        };
        let mixed = |(labels, lambda): (&Tensor, Lambda<f64, &Tensor>)| {
            let lambda = match lambda {
                Lambda::Scalar(lambda) => Lambda::Scalar(lambda),
                Lambda::PerRow(lambda) => Lambda::PerRow(numbers(lambda)?),
            };
            Ok::<_, Error>(HostMixed {
                labels: labels_on_host(labels)?,
                lambda,
            })
        };
        Ok(HostStep {
            labels: labels_on_host(labels)?,
            mixed: self.mixed.map(mixed).transpose()?,
            weights: self.row_weights.map(numbers).transpose()?,
            divisor: match self.divisor {
                Divisor::Weights => Divisor::Weights,
                Divisor::Rows => Divisor::Rows,
                // Not rounded: it may have come from a mean's own weights in f64.
                Divisor::Given(divisor) => {
                    let one = divisor.flatten_all()?.to_dtype(DType::F64)?;
                    Divisor::Given(one.get(0)?.to_scalar()?)
                }
            },
        })
    }
}

/// Floating-point numbers, one a row or one in all.
fn check_numbers(name: &str, tensor: &Tensor, rows: Option<usize>, of: &str) -> Result<()> {
    match rows {
        Some(rows) if *tensor.dims() != [rows] => bail!(
            "expected {name} of shape [{rows}] for {of}, found {:?}",
            tensor.dims()
        ),
        None if tensor.elem_count() != 1 => bail!(
            "expected a {name} of one number, found shape {:?}",
            tensor.dims()
        ),
        _ => {}
    }
    match tensor.dtype() {
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 => Ok(()),
        other => bail!(
            "expected {name} of type f32, f64, f16 or bf16, found {}",
            other.as_str()
        ),
    }
}

/// Labels as integers that every label type fits into.
fn labels_on_host(labels: &Tensor) -> Result<Vec<i64>> {
    labels.to_dtype(DType::I64)?.to_vec1()
}

/// What the rows of a batch are held against, on the host.
#[derive(Clone, Debug)]
pub(crate) struct HostStep {
    labels: Vec<i64>,
    mixed: Option<HostMixed>,
    weights: Option<Vec<f64>>,
    divisor: Divisor,
}

/// Second labels, and how much of each row is its first one's.
#[derive(Clone, Debug)]
struct HostMixed {
    labels: Vec<i64>,
    lambda: Lambda<f64, Vec<f64>>,
}

impl HostStep {
    pub(crate) fn rows(&self) -> usize {
        self.labels.len()
    }

    pub(crate) fn divisor(&self) -> Divisor {
        self.divisor
    }

    /// Calls `evaluate` with the labels of some rows, and options that say all but the divisor.
    pub(crate) fn of_rows<R: Real, O>(
        &self,
        rows: Range<usize>,
        evaluate: impl FnOnce(&[i64], Options<'_, R>) -> std::result::Result<O, ala_loss::Error>,
    ) -> Result<O> {
        let rounded = |numbers: &[f64]| -> Vec<R> {
            let numbers = numbers[rows.clone()].iter();
            numbers.map(|&number| R::from_f64(number)).collect()
        };
        let weights = self.weights.as_deref().map(rounded);
        let lambda = self.mixed.as_ref().map(|mixed| match &mixed.lambda {
            Lambda::Scalar(lambda) => Lambda::Scalar(*lambda),
            Lambda::PerRow(each) => Lambda::PerRow(rounded(each)),
        });
        let mut options = Options::new();
        if let (Some(mixed), Some(lambda)) = (&self.mixed, &lambda) {
            let lambda = match lambda {
                Lambda::Scalar(lambda) => Lambda::Scalar(*lambda),
                Lambda::PerRow(each) => Lambda::PerRow(&each[..]),
            };
            options = options.mixed_with(&mixed.labels[rows.clone()], lambda);
        }
        if let Some(weights) = &weights {
            options = options.row_weights(weights);
        }
        evaluate(&self.labels[rows.clone()], options).map_err(Error::wrap)
    }

    /// What a mean over all rows divides by; 0 where none counts. Every row is checked.
    pub(crate) fn total(&self, loss: &Loss) -> Result<f64> {
        self.of_rows(0..self.rows(), |labels, options: Options<'_, f64>| {
            loss.divisor(labels, &options.divisor(self.divisor))
        })
    }

    /// [`total`](Self::total) as a number on the CPU, `[]`.
    pub(crate) fn total_as_tensor(&self, loss: &Loss) -> Result<Tensor> {
        Tensor::new(self.total(loss)?, &Device::Cpu)
    }

    /// Whether anything that scales the row's gradient may show.
    pub(crate) fn counts(&self, row: usize, loss: &Loss) -> bool {
        let counts = |label: i64, part: f64| {
            // Of a smoothed label all classes have a share.
            let weighs = |class: usize| {
                loss.label_smoothing() > 0.0 || loss.table().targets()[class].weight > 0.0
            };
            part > 0.0
                && Some(label) != loss.ignore_label()
                && usize::try_from(label).is_ok_and(weighs)
        };
        let weight = self.weights.as_ref().map_or(1.0, |weights| weights[row]);
        let first = self.labels[row];
        let Some(HostMixed { labels, lambda }) = &self.mixed else {
            return counts(first, weight);
        };
        let lambda = match lambda {
            Lambda::Scalar(lambda) => *lambda,
            Lambda::PerRow(each) => each[row],
        };
        counts(first, lambda * weight) || counts(labels[row], (1.0 - lambda) * weight)
    }
}
