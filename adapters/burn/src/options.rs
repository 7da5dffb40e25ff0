//! What a step takes beside logits and labels.

use ala_loss::{Divisor, Lambda};
use burn::backend::Dispatch;
use burn::tensor::{DType, Device, Int, Tensor};

use crate::error::Error;
use crate::step::{Mixed, RowWeights, Targets};

/// What a step may take beside logits and labels: second labels, row weights, and what its mean
/// divides by. The default is none of them.
///
/// | | shape | data type |
/// |---|---|---|
/// | second labels | `[N]`, any strides | as the first: every integer type, but on CUDA u64 |
/// | lambda, where each row has its own; row weights | `[N]`, any strides | f32, f64, f16, bf16 |
///
/// All on the labels' device, inside autodiff or outside of it. They are rounded to the type of the
/// row losses, and nothing is differentiated with respect to them.
///
/// ```
/// use ala_loss::{Lambda, Objective};
/// use ala_loss_burn::{AlaLossConfig, StepOptions};
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex().autodiff();
/// let loss = AlaLossConfig::new([9, 3]).with_objective(Objective::CrossEntropy);
/// let loss = loss.try_init(&device)?;
/// let logits = Tensor::<2>::zeros([2, 2], &device).require_grad();
/// let labels = Tensor::from_ints([0, 1], &device);
/// let partners = Tensor::from_ints([1, 1], &device);
/// let mixed = StepOptions::new().mixed_with(partners, Lambda::Scalar(0.75));
/// let gradients = loss.try_forward_with(logits.clone(), labels, mixed)?.backward();
/// let gradient = logits.grad(&gradients).map(|gradient| gradient.into_data().to_vec::<f32>());
/// assert_eq!(gradient, Some(Ok(vec![-0.125, 0.125, 0.25, -0.25])));
/// # Ok::<(), ala_loss_burn::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct StepOptions {
    mixed: Option<(Tensor<1, Int>, Lambda<f64, Tensor<1>>)>,
    row_weights: Option<Tensor<1>>,
    divisor: Divisor,
}

impl Default for StepOptions {
    fn default() -> Self {
        Self {
            mixed: None,
            row_weights: None,
            divisor: Divisor::Weights,
        }
    }
}

impl StepOptions {
    /// The defaults.
    ///
    /// ```
    /// # use ala_loss_burn::{AlaLossConfig, StepOptions};
    /// # use burn::tensor::{Device, Tensor};
    /// let device = Device::flex();
    /// let loss = AlaLossConfig::new([9, 3]).try_init(&device)?;
    /// let logits = Tensor::from_floats([[0.2, 0.1]], &device);
    /// let labels = Tensor::from_ints([1], &device);
    /// let plain = loss.try_forward(logits.clone(), labels.clone())?;
    /// let with = loss.try_forward_with(logits, labels, StepOptions::new())?;
    /// assert_eq!(with.into_scalar::<f32>(), plain.into_scalar::<f32>());
    /// # Ok::<(), ala_loss_burn::Error>(())
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// A second label for each row, `[N]`, as mixup and CutMix make them: `L = lambda L(a) +
    /// (1 - lambda) L(b)`, each with its own margin, weight and focal factor, in one pass over the
    /// row. Lambda is in `[0, 1]`. A label whose part is 0, and one that is the ignore label,
    /// counts for nothing; a row counts while one of its labels does. Hits are of the first label.
    ///
    /// See [`ala_loss::Options::mixed_with`]; [`StepOptions`] has an example with one lambda.
    ///
    /// ```
    /// # use ala_loss::{Lambda, Objective, Reduction};
    /// # use ala_loss_burn::{AlaLossConfig, StepOptions};
    /// # use burn::tensor::{Device, Tensor};
    /// let device = Device::flex();
    /// let loss = AlaLossConfig::new([9, 3])
    ///     .with_objective(Objective::BalancedSoftmax)
    ///     .with_reduction(Reduction::Sum)
    ///     .try_init(&device)?;
    /// let labels = Tensor::from_ints([0, 1], &device);
    /// let partners = Tensor::from_ints([1, 0], &device);
    /// let each = Tensor::from_floats([0.25, 0.75], &device); // CutMix: of each row's own box
    /// let mixed = StepOptions::new().mixed_with(partners, Lambda::PerRow(each));
    /// let mixed = loss.try_forward_with(Tensor::zeros([2, 2], &device), labels, mixed)?;
    /// // A quarter of a row and a quarter of the other are of class 0.
    /// let expected = -(0.5 * 0.75f32.ln() + 1.5 * 0.25f32.ln());
    /// assert!((mixed.into_scalar::<f32>() - expected).abs() < 1e-6);
    /// # Ok::<(), ala_loss_burn::Error>(())
    /// ```
    pub fn mixed_with(mut self, labels: Tensor<1, Int>, lambda: Lambda<f64, Tensor<1>>) -> Self {
        self.mixed = Some((labels, lambda));
        self
    }

    /// A weight for each row, `[N]`, finite and `>= 0` (on CUDA 0, or from 1e-20 to 1e20): it
    /// multiplies the row's loss and gradient, and counts in [`Divisor::Weights`] as a class's
    /// weight does.
    ///
    /// ```
    /// # use ala_loss::Objective;
    /// # use ala_loss_burn::{AlaLossConfig, StepOptions};
    /// # use burn::tensor::{Device, Tensor};
    /// let device = Device::flex().autodiff();
    /// let loss = AlaLossConfig::new([9, 3]).with_objective(Objective::CrossEntropy);
    /// let loss = loss.try_init(&device)?;
    /// let logits = Tensor::<2>::zeros([2, 2], &device).require_grad();
    /// let labels = Tensor::from_ints([0, 0], &device);
    /// let weights = Tensor::from_floats([1.0, 3.0], &device);
    /// let options = StepOptions::new().row_weights(weights);
    /// let gradients = loss.try_forward_with(logits.clone(), labels, options)?.backward();
    /// let gradient = logits.grad(&gradients).map(|gradient| gradient.into_data().to_vec::<f32>());
    /// assert_eq!(gradient, Some(Ok(vec![-0.125, 0.125, -0.375, 0.375])));
    /// # Ok::<(), ala_loss_burn::Error>(())
    /// ```
    pub fn row_weights(mut self, weights: Tensor<1>) -> Self {
        self.row_weights = Some(weights);
        self
    }

    /// What a mean divides by; the rows' weights where not set. Only with
    /// [`Reduction::Mean`](ala_loss::Reduction::Mean).
    ///
    /// A batch in parts (gradient accumulation, several devices) has the gradient of the whole
    /// where each part divides by what the whole is divided by:
    /// [`AlaLoss::divisor`](crate::AlaLoss::divisor) of all its labels, or the sum of the parts'
    /// own.
    ///
    /// ```
    /// # use ala_loss::{Divisor, Objective};
    /// # use ala_loss_burn::{AlaLossConfig, StepOptions};
    /// # use burn::tensor::{Device, Tensor};
    /// let device = Device::flex();
    /// let loss = AlaLossConfig::new([9, 3])
    ///     .with_objective(Objective::CrossEntropy)
    ///     .with_class_weights([1.0, 3.0])
    ///     .try_init(&device)?;
    /// let logits = Tensor::<2>::from_floats([[0.3, 0.1], [-0.2, 0.0], [0.9, 0.4]], &device);
    /// let labels = Tensor::<1, burn::tensor::Int>::from_ints([0, 1, 1], &device);
    /// let whole = loss.try_forward(logits.clone(), labels.clone())?.into_scalar::<f32>();
    ///
    /// let all = loss.divisor(&labels, &StepOptions::new())?; // 7
    /// let options = StepOptions::new().divisor(Divisor::Given(all));
    /// let mut sum = 0.0;
    /// for row in 0..3 {
    ///     let (part, of) = (logits.clone().narrow(0, row, 1), labels.clone().narrow(0, row, 1));
    ///     sum += loss.try_forward_with(part, of, options.clone())?.into_scalar::<f32>();
    /// }
    /// assert!((sum - whole).abs() < 1e-6);
    /// # Ok::<(), ala_loss_burn::Error>(())
    /// ```
    pub fn divisor(mut self, divisor: Divisor) -> Self {
        self.divisor = divisor;
        self
    }

    /// With labels whose shape was checked.
    pub(crate) fn check(&self, labels: &Tensor<1, Int>) -> Result<(), Error> {
        let place = labels.device().without_autodiff();
        let of = |name, shape: [usize; 1], device: Device| {
            if shape != labels.dims() {
                return Err(Error::Shape {
                    name,
                    got: shape.to_vec(),
                    expected: format!("{:?}, that of the labels", labels.dims()),
                });
            }
            if device.clone().without_autodiff() != place {
                return Err(Error::OptionDevice {
                    name,
                    found: format!("{device:?}"),
                    labels: format!("{:?}", labels.device()),
                });
            }
            Ok(())
        };
        let numbers = |name, numbers: &Tensor<1>| {
            of(name, numbers.dims(), numbers.device())?;
            match numbers.dtype() {
                DType::F32 | DType::F64 | DType::F16 | DType::BF16 => Ok(()),
                found => Err(Error::OptionType {
                    name,
                    found,
                    expected: "F32, F64, F16 or BF16",
                }),
            }
        };
        if let Some((labels, lambda)) = &self.mixed {
            of("second labels", labels.dims(), labels.device())?;
            if let Lambda::PerRow(lambda) = lambda {
                numbers("lambda", lambda)?;
            }
        }
        match &self.row_weights {
            Some(weights) => numbers("row weights", weights),
            None => Ok(()),
        }
    }

    /// With checked labels. The options leave autodiff, so that they decide nothing about a graph.
    pub(crate) fn targets(self, labels: Tensor<1, Int>) -> Targets<Dispatch> {
        let int = |labels: Tensor<1, Int>| labels.without_autodiff().into_dispatch();
        let float = |numbers: Tensor<1>| numbers.without_autodiff().into_dispatch();
        Targets {
            labels: labels.into_dispatch(),
            mixed: match self.mixed {
                None => Mixed::No,
                Some((labels, Lambda::Scalar(lambda))) => Mixed::Scalar {
                    labels: int(labels),
                    lambda,
                },
                Some((labels, Lambda::PerRow(lambda))) => Mixed::PerRow {
                    labels: int(labels),
                    lambda: float(lambda),
                },
            },
            row_weights: match self.row_weights {
                None => RowWeights::No,
                Some(weights) => RowWeights::Each(float(weights)),
            },
            divisor: self.divisor,
        }
    }
}
