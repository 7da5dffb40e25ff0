//! The loss as a module: what its calls check, and what they give.

use ala_loss::Loss;
use burn::backend::{Dispatch, DispatchDevice};
use burn::module::Module;
use burn::tensor::{Bool, DType, Device, Int, Tensor};

use crate::error::Error;
use crate::op::{Answer, LossOps};
use crate::options::StepOptions;
use crate::step::{Bound, Call};

/// A [`Loss`] over burn tensors, differentiable with respect to the logits. A module without
/// parameters, so that a model can hold it.
///
/// Loss and gradient are computed in one pass over the logits, in the forward pass; the backward
/// pass hands out what was kept. Logits that nothing tracks cost no gradient.
///
/// **The margin losses take cosines that are not yet scaled** (the output of
/// [`CosineHead`](crate::CosineHead)): the loss multiplies by `s` itself.
///
/// # Tensors
///
/// | | shape | data type |
/// |---|---|---|
/// | logits | `[N, C]`, any strides, on flex or (feature `cuda`) CUDA | f32, f16, bf16; on flex f64 too |
/// | labels | `[N]`, any strides, on the same device | every integer type, but on CUDA u64 |
/// | loss | `[1]` under `Reduction::Mean` and `Reduction::Sum`, `[N]` under `Reduction::None` | f64 for f64 logits, otherwise f32 |
/// | gradient | `[N, C]` | that of the logits |
///
/// Rows may lie apart (a slice of the classes): they are read where they are. Logits whose classes
/// are not neighbours in memory (a transposed tensor) are copied first, and so are labels that are
/// not i64, flex's own; on CUDA those of 16 bits and i8.
///
/// On CUDA each pass waits for the device, before and after it.
///
/// [`try_forward_with`](Self::try_forward_with) takes more: second labels (mixup, CutMix), row
/// weights, and what a mean divides by, for a batch in parts.
///
/// # Upstream gradients and the loss scale
///
/// The gradient of 16-bit logits is rounded once, after the upstream gradient has been applied.
/// Where the upstream gradient is not what the gradient was made for, and where nothing is reduced,
/// the backward pass therefore computes the step once more, from logits that it shares with the
/// forward pass. Who multiplies the loss by a number says so with
/// [`with_loss_scale`](Self::with_loss_scale) and pays nothing for it.
///
/// # Example
///
/// ```
/// use ala_loss_burn::AlaLossConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex().autodiff();
/// let loss = AlaLossConfig::new([500, 50, 5]).with_scale(30.0).try_init(&device)?;
///
/// let cosines = Tensor::<2>::from_floats([[0.8, 0.1, -0.3], [0.2, 0.4, 0.1]], &device);
/// let cosines = cosines.require_grad();
/// let gradients = loss
///     .try_forward(cosines.clone(), Tensor::from_ints([0, 2], &device))?
///     .backward();
/// assert_eq!(cosines.grad(&gradients).map(|gradient| gradient.dims()), Some([2, 3]));
/// # Ok::<(), ala_loss_burn::Error>(())
/// ```
#[derive(Module, Debug)]
pub struct AlaLoss {
    #[module(skip)]
    loss: Loss,
    #[module(skip)]
    loss_scale: f64,
    #[module(skip)]
    bound: Bound,
}

/// What [`AlaLoss::try_forward_rows`] returns.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LossOutput {
    /// The differentiable loss, as [`AlaLoss::try_forward`] returns it.
    pub loss: Tensor<1>,
    /// Each row's weighted loss before reduction, `[N]`; not differentiable.
    pub row_losses: Tensor<1>,
    /// Whether the row's largest logit is its label's, `[N]`. The logits given are compared,
    /// without margin. False for a row that is ignored.
    pub hits: Tensor<1, Bool>,
}

impl AlaLoss {
    /// The module of any loss of ala-loss.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective, ZeroCounts};
    /// # use ala_loss_burn::AlaLoss;
    /// let counts = ClassCounts::with_zero_policy([9, 0], ZeroCounts::TreatAsOne)?;
    /// let loss = AlaLoss::new(Loss::new(Objective::BalancedSoftmax, &counts)?);
    /// # let _ = loss;
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn new(loss: Loss) -> Self {
        Self {
            loss,
            loss_scale: 1.0,
            bound: Bound::default(),
        }
    }

    /// The upstream gradient to expect: what the loss is multiplied by before `backward` (the loss
    /// scale of mixed precision, `1 / k` under gradient accumulation). 1 where it is not set.
    /// Another one is right too, and costs one more pass.
    ///
    /// # Errors
    ///
    /// A scale that is not finite and positive as an `f32`.
    ///
    /// ```
    /// # use ala_loss_burn::AlaLossConfig;
    /// # use burn::tensor::Device;
    /// let loss = AlaLossConfig::new([9, 3]).try_init(&Device::flex())?;
    /// assert!(loss.clone().with_loss_scale(1024.0).is_ok());
    /// assert!(loss.with_loss_scale(0.0).is_err());
    /// # Ok::<(), ala_loss_burn::Error>(())
    /// ```
    pub fn with_loss_scale(mut self, scale: f64) -> Result<Self, Error> {
        let rounded = scale as f32;
        if !(rounded.is_finite() && rounded > 0.0) {
            return Err(Error::LossScale(scale));
        }
        self.loss_scale = scale;
        Ok(self)
    }

    /// The loss that this module computes.
    pub fn loss(&self) -> &Loss {
        &self.loss
    }

    /// The loss of logits `[N, C]` and labels `[N]`: `[1]` where it is reduced, else `[N]`.
    ///
    /// # Errors
    ///
    /// Tensors of another shape or type than the table above allows, on two devices or on one that
    /// the loss is not built for; a label that is neither a class nor the ignore label. On CUDA
    /// what the driver or burn's runtime reports.
    ///
    /// # Panics
    ///
    /// On CUDA, where burn's own runtime does: with its feature `fusion`, if an operation that the
    /// tensors wait for fails.
    pub fn try_forward(
        &self,
        logits: Tensor<2>,
        labels: Tensor<1, Int>,
    ) -> Result<Tensor<1>, Error> {
        self.try_forward_with(logits, labels, StepOptions::new())
    }

    /// [`try_forward`](Self::try_forward), as burn's losses are used.
    ///
    /// # Panics
    ///
    /// With the message of what [`try_forward`](Self::try_forward) refuses.
    ///
    /// ```
    /// # use ala_loss_burn::AlaLossConfig;
    /// # use burn::tensor::{Device, Tensor};
    /// let device = Device::flex();
    /// let loss = AlaLossConfig::new([9, 3]).init(&device);
    /// let value = loss.forward(Tensor::zeros([4, 2], &device), Tensor::zeros([4], &device));
    /// assert_eq!(value.dims(), [1]);
    /// ```
    pub fn forward(&self, logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
        self.try_forward(logits, labels)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// The loss with second labels, row weights or another divisor:
    ///
    /// ```text
    /// L = sum_i v_i (lambda_i L(x_i, a_i) + (1 - lambda_i) L(x_i, b_i)) / divisor
    /// ```
    ///
    /// with row weights `v`, second labels `b`, and the mean's divisor. `[1]` where it is reduced,
    /// else `[N]`.
    ///
    /// # Errors
    ///
    /// As [`try_forward`](Self::try_forward); options of another shape, type or device than
    /// [`StepOptions`] says, lambda outside of `[0, 1]`, a negative row weight, a second label that
    /// is neither a class nor the ignore label, a divisor that is not finite and above 0, or one
    /// where nothing is averaged.
    ///
    /// ```
    /// # use ala_loss::Lambda;
    /// # use ala_loss_burn::{AlaLossConfig, StepOptions};
    /// # use burn::tensor::{Device, Tensor};
    /// let device = Device::flex();
    /// let loss = AlaLossConfig::new([9, 3]).try_init(&device)?;
    /// let cosines = Tensor::<2>::from_floats([[0.9, 0.1]], &device);
    /// let [first, second] = [0, 1].map(|label| Tensor::from_ints([label], &device));
    /// let of = |label| loss.forward(cosines.clone(), label).into_scalar::<f32>();
    /// let expected = 0.25 * of(first.clone()) + 0.75 * of(second.clone());
    /// let mixed = StepOptions::new().mixed_with(second, Lambda::Scalar(0.25));
    /// let mixed = loss.try_forward_with(cosines.clone(), first, mixed)?.into_scalar::<f32>();
    /// assert!((mixed - expected).abs() < 1e-5 * expected);
    /// # Ok::<(), ala_loss_burn::Error>(())
    /// ```
    pub fn try_forward_with(
        &self,
        logits: Tensor<2>,
        labels: Tensor<1, Int>,
        options: StepOptions,
    ) -> Result<Tensor<1>, Error> {
        Ok(self.apply(logits, labels, options, false)?.loss)
    }

    /// [`try_forward_with`](Self::try_forward_with), as burn's losses are used.
    ///
    /// # Panics
    ///
    /// With the message of what [`try_forward_with`](Self::try_forward_with) refuses.
    pub fn forward_with(
        &self,
        logits: Tensor<2>,
        labels: Tensor<1, Int>,
        options: StepOptions,
    ) -> Tensor<1> {
        self.try_forward_with(logits, labels, options)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// [`try_forward`](Self::try_forward), with what the same pass knows of each row.
    ///
    /// # Errors
    ///
    /// As [`try_forward`](Self::try_forward).
    ///
    /// ```
    /// # use ala_loss_burn::AlaLossConfig;
    /// # use burn::tensor::{Device, Tensor};
    /// let device = Device::flex();
    /// let loss = AlaLossConfig::new([9, 3]).try_init(&device)?;
    /// let cosines = Tensor::from_floats([[0.9, 0.1], [0.8, 0.2]], &device);
    /// let output = loss.try_forward_rows(cosines, Tensor::from_ints([0, 1], &device))?;
    /// assert_eq!(output.hits.int().sum().into_scalar::<i64>(), 1);
    /// assert_eq!(output.row_losses.dims(), [2]);
    /// # Ok::<(), ala_loss_burn::Error>(())
    /// ```
    pub fn try_forward_rows(
        &self,
        logits: Tensor<2>,
        labels: Tensor<1, Int>,
    ) -> Result<LossOutput, Error> {
        self.try_forward_rows_with(logits, labels, StepOptions::new())
    }

    /// [`try_forward_rows`](Self::try_forward_rows), as burn's losses are used.
    ///
    /// # Panics
    ///
    /// With the message of what [`try_forward_rows`](Self::try_forward_rows) refuses.
    pub fn forward_rows(&self, logits: Tensor<2>, labels: Tensor<1, Int>) -> LossOutput {
        self.try_forward_rows(logits, labels)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// [`try_forward_with`](Self::try_forward_with), with what the same pass knows of each row.
    ///
    /// # Errors
    ///
    /// As [`try_forward_with`](Self::try_forward_with).
    ///
    /// ```
    /// # use ala_loss::Lambda;
    /// # use ala_loss_burn::{AlaLossConfig, StepOptions};
    /// # use burn::tensor::{Device, Tensor};
    /// let device = Device::flex();
    /// let loss = AlaLossConfig::new([9, 3]).try_init(&device)?;
    /// let cosines = Tensor::from_floats([[0.9, 0.1], [0.8, 0.2]], &device);
    /// let [labels, partners] = [[0, 1], [1, 0]].map(|labels| Tensor::from_ints(labels, &device));
    /// let mixed = StepOptions::new().mixed_with(partners, Lambda::Scalar(0.6));
    /// let output = loss.try_forward_rows_with(cosines, labels, mixed)?;
    /// let hits = output.hits.into_data().to_vec::<bool>();
    /// assert_eq!(hits, Ok(vec![true, false])); // of the first labels
    /// # Ok::<(), ala_loss_burn::Error>(())
    /// ```
    pub fn try_forward_rows_with(
        &self,
        logits: Tensor<2>,
        labels: Tensor<1, Int>,
        options: StepOptions,
    ) -> Result<LossOutput, Error> {
        self.apply(logits, labels, options, true)
    }

    /// [`try_forward_rows_with`](Self::try_forward_rows_with), as burn's losses are used.
    ///
    /// # Panics
    ///
    /// With the message of what [`try_forward_rows_with`](Self::try_forward_rows_with) refuses.
    pub fn forward_rows_with(
        &self,
        logits: Tensor<2>,
        labels: Tensor<1, Int>,
        options: StepOptions,
    ) -> LossOutput {
        self.try_forward_rows_with(logits, labels, options)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// What a mean over the rows with these labels `[N]` divides by, as the options say: the
    /// weights of the rows that count, added up, or their number; 0 where no row counts. The loss's
    /// own reduction does not matter. Parts of a batch take it as
    /// [`Divisor::Given`](ala_loss::Divisor::Given).
    ///
    /// Row weights are taken as they are here; a step rounds them to the type of its row losses. On
    /// CUDA the labels are read back, and what the options hold.
    ///
    /// # Errors
    ///
    /// As [`try_forward_with`](Self::try_forward_with).
    ///
    /// ```
    /// # use ala_loss::{Divisor, Objective};
    /// # use ala_loss_burn::{AlaLossConfig, StepOptions};
    /// # use burn::tensor::{Device, Tensor};
    /// let device = Device::flex();
    /// let loss = AlaLossConfig::new([9, 3])
    ///     .with_objective(Objective::CrossEntropy)
    ///     .with_class_weights([1.0, 3.0])
    ///     .with_ignore_label(-1)
    ///     .try_init(&device)?;
    /// let labels = Tensor::from_ints([0, -1, 1, 1], &device);
    /// assert_eq!(loss.divisor(&labels, &StepOptions::new())?, 7.0);
    /// let rows = StepOptions::new().divisor(Divisor::Rows);
    /// assert_eq!(loss.divisor(&labels, &rows)?, 3.0);
    /// # Ok::<(), ala_loss_burn::Error>(())
    /// ```
    pub fn divisor(&self, labels: &Tensor<1, Int>, options: &StepOptions) -> Result<f64, Error> {
        check_device(&labels.device())?;
        options.check(labels)?;
        let targets = options.clone().targets(labels.clone().without_autodiff());
        Dispatch::ala_divisor(targets, self.loss.clone())
    }

    fn apply(
        &self,
        logits: Tensor<2>,
        labels: Tensor<1, Int>,
        options: StepOptions,
        rows: bool,
    ) -> Result<LossOutput, Error> {
        self.check(&logits, &labels)?;
        options.check(&labels)?;
        let call = Call {
            loss: self.loss.clone(),
            loss_scale: self.loss_scale,
            rows,
            bound: self.bound.clone(),
        };
        match Dispatch::ala_loss(logits.into_dispatch(), options.targets(labels), call) {
            Answer::Rows {
                loss,
                row_losses,
                hits,
            } => Ok(LossOutput {
                loss: Tensor::from_dispatch(loss),
                row_losses: Tensor::from_dispatch(row_losses),
                hits: Tensor::from_dispatch(hits),
            }),
            Answer::Refused(error) => Err(error),
        }
    }

    fn check(&self, logits: &Tensor<2>, labels: &Tensor<1, Int>) -> Result<(), Error> {
        check_device(&logits.device())?;
        check_devices(&logits.device(), &labels.device())?;
        match logits.dtype() {
            DType::F32 | DType::F64 | DType::F16 | DType::BF16 => {}
            other => return Err(Error::LogitType(other)),
        }
        let classes = self.loss.classes();
        let [rows, found] = logits.dims();
        if found != classes {
            return Err(Error::Shape {
                name: "logits",
                got: vec![rows, found],
                expected: format!("[N, {classes}]"),
            });
        }
        if labels.dims() != [rows] {
            return Err(Error::Shape {
                name: "labels",
                got: labels.dims().to_vec(),
                expected: format!("[{rows}], as many as the logits have rows"),
            });
        }
        Ok(())
    }
}

/// One that the op is implemented for: elsewhere burn's dispatch would panic.
pub(crate) fn check_device(device: &Device) -> Result<(), Error> {
    match device.clone().without_autodiff().as_dispatch() {
        DispatchDevice::Flex(_) => Ok(()),
        #[cfg(feature = "cuda")]
        DispatchDevice::Cube(burn_cubecl::CubeDevice::Cuda(_)) => Ok(()),
        // There is none where no other backend is built in.
        #[allow(unreachable_patterns)]
        other => Err(Error::Device(format!("{other:?}"))),
    }
}

/// One device, and no two kinds of autodiff graph, which burn's dispatch would panic about.
fn check_devices(logits: &Device, labels: &Device) -> Result<(), Error> {
    let strategies = (
        logits.gradient_checkpointing_strategy(),
        labels.gradient_checkpointing_strategy(),
    );
    let mixed = matches!(strategies, (Some(one), Some(other)) if one != other);
    if mixed || logits.clone().without_autodiff() != labels.clone().without_autodiff() {
        return Err(Error::TwoDevices {
            logits: format!("{logits:?}"),
            labels: format!("{labels:?}"),
        });
    }
    Ok(())
}
