//! The loss of a cosine classifier from its features and class weights, a few rows of logits at a
//! time.

use std::ops::Range;
#[cfg(feature = "cuda")]
use std::sync::Arc;
use std::sync::Mutex;

use ala_loss::{CpuElement, Loss, Outputs, Real, Reduction, Summary, Upstream};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CustomOp2, DType, Device, InplaceOp1, Layout, Result, Shape, Storage, Tensor,
    WithDType, bail,
};

use crate::cosine_head::UnitRows;
#[cfg(feature = "cuda")]
use crate::cuda::{Bound, DeviceBatch, DeviceFactor, DeviceStep};
use crate::loss_op::{RowOutput, check_alone, check_devices, check_labels, row_type};
use crate::step::{HostStep, StepOptions};

/// Logits that are there at a time, about: 4 MB of `f32`.
const LOGITS_AT_ONCE: usize = 1 << 20;
/// 32 MB: the second-level cache of a data centre's GPU holds them from one step to the next.
const LOGITS_AT_ONCE_ON_A_GPU: usize = 1 << 23;
/// Fewer rows than these keep a matrix product from being fast.
const LEAST_ROWS: usize = 32;

/// A [`Loss`] over the features `[N, D]` and class weights `[C, D]` of a cosine classifier,
/// differentiable with respect to both.
///
/// The same result as [`CosineHead`](crate::CosineHead) and then [`CandleLoss`](crate::CandleLoss),
/// to rounding, without their `[N, C]` tensors: cosines are made for some rows, become their own
/// gradient in place, and are multiplied back to the features and the weights, before the next rows
/// are begun. Memory grows with `(N + C) D`, and time is saved on every pass over `[N, C]` that
/// candle's own backward would take.
///
/// ```text
/// x_ij = f_i . w_j / (|f_i| |w_j|)        L = Loss(x, labels)
/// ```
///
/// **The scale is the loss's own**, as everywhere: neither features nor weights are to be scaled.
///
/// # Tensors
///
/// | | shape | data type |
/// |---|---|---|
/// | features, weight | `[N, D]`, `[C, D]`, any strides | each f32, f16 or bf16, which are computed in f32; both f64 on the CPU |
/// | labels | `[N]`, any strides | u8, u32, i32, i64; i16 on the CPU |
/// | loss | `[]` under `Reduction::Mean` and `Reduction::Sum`, `[N]` under `Reduction::None` | f64 for f64 features, otherwise f32 |
///
/// All on the CPU, or on one CUDA device with the feature `cuda`; what
/// [`CandleLoss`](crate::CandleLoss) says of those holds here too.
///
/// Gradients have the type of what they belong to, and are rounded to it once, after the upstream
/// gradient. Under `Reduction::None` the cosines are made twice, since weights for each row come
/// with the backward pass.
///
/// # Example
///
/// ```
/// use ala_loss::{ClassCounts, Loss, Objective};
/// use ala_loss_candle::CosineLoss;
/// use candle_core::{Device, Tensor, Var};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let counts = ClassCounts::new([500, 50, 5])?;
/// let loss = CosineLoss::new(Loss::builder(Objective::ala(), &counts).scale(30.0).build()?);
///
/// let features = Var::new(&[[1f32, 2.0], [0.5, -1.0]], &Device::Cpu)?; // of your network
/// let weight = Var::new(&[[0.3f32, 0.1], [-0.2, 0.4], [0.1, 0.1]], &Device::Cpu)?;
/// let labels = Tensor::new(&[0u32, 2], &Device::Cpu)?;
/// let gradients = loss.forward(&features, &weight, &labels)?.backward()?;
/// assert_eq!(gradients.get(&weight).map(|g| g.dims().to_vec()), Some(vec![3, 2]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct CosineLoss {
    loss: Loss,
    /// Of the whole batch's reduction, what a part of it is evaluated with.
    of_part: Loss,
    rows_at_once: Option<usize>,
    /// The loss of a part.
    #[cfg(feature = "cuda")]
    bound: Arc<Bound>,
}

impl CosineLoss {
    /// The op for a loss.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # use ala_loss_candle::CosineLoss;
    /// # fn main() -> Result<(), ala_loss::Error> {
    /// let counts = ClassCounts::new([9, 3])?;
    /// let op = CosineLoss::new(Loss::builder(Objective::ala(), &counts).build()?);
    /// assert_eq!(op.loss().classes(), 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(loss: Loss) -> Self {
        let of_part = match loss.reduction() {
            Reduction::Mean => loss.with_reduction(Reduction::Sum),
            Reduction::Sum | Reduction::None => loss.clone(),
        };
        Self {
            loss,
            #[cfg(feature = "cuda")]
            bound: Arc::new(Bound::new(of_part.clone())),
            of_part,
            rows_at_once: None,
        }
    }

    /// The loss that this op computes.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # use ala_loss_candle::CosineLoss;
    /// # fn main() -> Result<(), ala_loss::Error> {
    /// let counts = ClassCounts::new([9, 3])?;
    /// let op = CosineLoss::new(Loss::builder(Objective::ala(), &counts).build()?);
    /// assert_eq!(op.loss().scale(), Some(30.0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn loss(&self) -> &Loss {
        &self.loss
    }

    /// Rows whose logits are there at a time, at least 1; chosen by the number of classes where
    /// this is not set.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # use ala_loss_candle::CosineLoss;
    /// # fn main() -> Result<(), ala_loss::Error> {
    /// let counts = ClassCounts::new([9, 3])?;
    /// let op = CosineLoss::new(Loss::builder(Objective::ala(), &counts).build()?);
    /// let op = op.rows_at_once(64);
    /// # let _ = op;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn rows_at_once(mut self, rows: usize) -> Self {
        self.rows_at_once = Some(rows.max(1));
        self
    }

    /// The loss of features `[N, D]`, class weights `[C, D]` and labels `[N]`: `[]` where it is
    /// reduced, else `[N]`.
    ///
    /// # Errors
    ///
    /// Tensors on two devices, of another shape or type than the table above allows, or a label
    /// that is neither a class nor the ignore label (ala-loss's own message, which names the row;
    /// on CUDA that of an earlier step). What the device reports.
    pub fn forward(&self, features: &Tensor, weight: &Tensor, labels: &Tensor) -> Result<Tensor> {
        Ok(self.forward_rows(features, weight, labels)?.loss)
    }

    /// [`forward`](Self::forward) with second labels (mixup, CutMix), row weights or another
    /// divisor.
    ///
    /// # Errors
    ///
    /// As [`forward`](Self::forward). Options of another shape or type than [`StepOptions`] allows,
    /// a second label, lambda or weight out of its range (ala-loss's own message, which names the
    /// row), a divisor where nothing divides.
    ///
    /// # Example
    ///
    /// The features of inputs of which each is 0.7 of one sample and 0.3 of another:
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Lambda, Loss, Objective};
    /// use ala_loss_candle::{CosineLoss, StepOptions};
    /// use candle_core::{Device, Tensor, Var};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let counts = ClassCounts::new([500, 50, 5])?;
    /// let loss = CosineLoss::new(Loss::new(Objective::ala(), &counts)?);
    ///
    /// let features = Var::new(&[[1f32, 2.0], [0.5, -1.0]], &Device::Cpu)?; // of your network
    /// let weight = Var::new(&[[0.3f32, 0.1], [-0.2, 0.4], [0.1, 0.1]], &Device::Cpu)?;
    /// let labels = Tensor::new(&[0u32, 2], &Device::Cpu)?;
    /// let partners = Tensor::new(&[2u32, 0], &Device::Cpu)?;
    /// let mixed = StepOptions::new().mixed_with(&partners, Lambda::Scalar(0.7));
    /// let gradients = loss.forward_with(&features, &weight, &labels, &mixed)?.backward()?;
    /// assert!(gradients.get(&features).is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn forward_with(
        &self,
        features: &Tensor,
        weight: &Tensor,
        labels: &Tensor,
        options: &StepOptions<'_>,
    ) -> Result<Tensor> {
        let output = self.forward_rows_with(features, weight, labels, options)?;
        Ok(output.loss)
    }

    /// [`forward`](Self::forward), with what the same pass knows of each row.
    ///
    /// # Errors
    ///
    /// As [`forward`](Self::forward).
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # use ala_loss_candle::CosineLoss;
    /// # use candle_core::{Device, Tensor};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let counts = ClassCounts::new([9, 3])?;
    /// let loss = CosineLoss::new(Loss::builder(Objective::ala(), &counts).build()?);
    /// let features = Tensor::new(&[[1f32, 0.0], [0.9, 0.1]], &Device::Cpu)?;
    /// let weight = Tensor::new(&[[1f32, 0.0], [0.0, 1.0]], &Device::Cpu)?;
    /// let labels = Tensor::new(&[0u8, 1], &Device::Cpu)?;
    /// let output = loss.forward_rows(&features, &weight, &labels)?;
    /// assert_eq!(output.hits_on_host()?, [true, false]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn forward_rows(
        &self,
        features: &Tensor,
        weight: &Tensor,
        labels: &Tensor,
    ) -> Result<RowOutput> {
        self.forward_rows_with(features, weight, labels, &StepOptions::new())
    }

    /// [`forward_with`](Self::forward_with), with what the same pass knows of each row.
    ///
    /// # Errors
    ///
    /// As [`forward_with`](Self::forward_with).
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # use ala_loss_candle::{CosineLoss, StepOptions};
    /// # use candle_core::{Device, Tensor};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let counts = ClassCounts::new([9, 3])?;
    /// let loss = CosineLoss::new(Loss::new(Objective::ala(), &counts)?);
    /// let features = Tensor::new(&[[1f32, 0.0], [0.9, 0.1]], &Device::Cpu)?;
    /// let weight = Tensor::new(&[[1f32, 0.0], [0.0, 1.0]], &Device::Cpu)?;
    /// let labels = Tensor::new(&[0u8, 1], &Device::Cpu)?;
    /// let weights = Tensor::new(&[0f32, 1.0], &Device::Cpu)?;
    /// let options = StepOptions::new().row_weights(&weights);
    /// let output = loss.forward_rows_with(&features, &weight, &labels, &options)?;
    /// assert_eq!(output.row_losses.to_vec1::<f32>()?[0], 0.0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn forward_rows_with(
        &self,
        features: &Tensor,
        weight: &Tensor,
        labels: &Tensor,
        options: &StepOptions<'_>,
    ) -> Result<RowOutput> {
        self.check_tensors(features, weight, labels, options)?;
        options.check_reduction(self.loss.reduction())?;
        let batch = self.batch(labels, options, row_type(features))?;
        let pass = Pass {
            features: UnitRows::of(&features.detach())?,
            weight: UnitRows::of(&weight.detach())?,
            rows_at_once: self.rows_at_once.unwrap_or_else(|| {
                let at_once = match features.device() {
                    Device::Cpu => LOGITS_AT_ONCE,
                    _ => LOGITS_AT_ONCE_ON_A_GPU,
                };
                (at_once / self.loss.classes().max(1)).max(LEAST_ROWS)
            }),
            batch,
        };
        let reduced = self.loss.reduction() != Reduction::None;
        // Of a batch that is not reduced they wait for the upstream gradient.
        let wanted = [features, weight].map(|tensor| tensor.track_op());
        let now = wanted.map(|wanted| wanted && reduced);
        let Parts { results, gradients } = pass.run(None, now)?;
        let RowResults {
            loss,
            row_losses,
            hits,
        } = results;
        let op = CosineOp {
            pass,
            reduced,
            value: if reduced { loss } else { row_losses.clone() },
            wanted,
            types: [features.dtype(), weight.dtype()],
            gradients,
        };
        Ok(RowOutput {
            loss: features.apply_op2(weight, op)?,
            row_losses,
            hits,
        })
    }

    /// Waits for the device, and tells whether a label of a step there was out of range; on the CPU
    /// `forward` has told. See [`CandleLoss::check`](crate::CandleLoss::check).
    ///
    /// # Errors
    ///
    /// The first such label since this was told last, its row counted from the first of those that
    /// were computed with it; and what the device reports.
    pub fn check(&self, device: &Device) -> Result<()> {
        match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => self.bound.check(device),
            _ => Ok(()),
        }
    }

    /// What a mean over the rows with these labels divides by. See
    /// [`CandleLoss::divisor`](crate::CandleLoss::divisor).
    ///
    /// # Errors
    ///
    /// As [`forward_with`](Self::forward_with).
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # use ala_loss_candle::{CosineLoss, StepOptions};
    /// # use candle_core::{Device, Tensor};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let counts = ClassCounts::new([9, 3])?;
    /// let loss = CosineLoss::new(Loss::new(Objective::ala(), &counts)?);
    /// let labels = Tensor::new(&[0u8, 1, 1], &Device::Cpu)?;
    /// let all = loss.divisor(&labels, &StepOptions::new())?;
    /// assert_eq!(all.to_scalar::<f64>()?, 3.0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn divisor(&self, labels: &Tensor, options: &StepOptions<'_>) -> Result<Tensor> {
        check_alone(labels, options)?;
        #[cfg(feature = "cuda")]
        if labels.device().is_cuda() {
            let step = DeviceStep::new(labels, options)?;
            return step.total(&self.bound)?.reshape(());
        }
        options
            .on_host(labels, DType::F64)?
            .total_as_tensor(&self.loss)
    }

    /// The step, and what a reduced loss is divided by. On the CPU every row is checked.
    fn batch(&self, labels: &Tensor, options: &StepOptions<'_>, row_type: DType) -> Result<Batch> {
        #[cfg(feature = "cuda")]
        if labels.device().is_cuda() {
            let step = DeviceStep::new(labels, options)?;
            let divisor = match self.loss.reduction() {
                Reduction::Mean => Some(step.total(&self.bound)?),
                Reduction::Sum | Reduction::None => None,
            };
            return Ok(Batch::OnDevice {
                bound: Arc::clone(&self.bound),
                reciprocal: divisor.as_ref().map(Tensor::recip).transpose()?,
                divisor,
                step: step.undivided(),
            });
        }
        let step = options.on_host(labels, row_type)?;
        let divisor = match (self.loss.reduction(), step.total(&self.loss)?) {
            (Reduction::Mean, total) if total > 0.0 => total,
            _ => 1.0,
        };
        Ok(Batch::OnHost {
            divisor,
            loss: self.of_part.clone(),
            step,
        })
    }

    fn check_tensors(
        &self,
        features: &Tensor,
        weight: &Tensor,
        labels: &Tensor,
        options: &StepOptions<'_>,
    ) -> Result<()> {
        let others = [("weight", weight), ("labels", labels)];
        check_devices(("features", features), &others)?;
        let classes = self.loss.classes();
        let (rows, width) = match *features.dims() {
            [rows, width] => (rows, width),
            _ => bail!(
                "the features have shape {:?}: expected [N, D]",
                features.dims()
            ),
        };
        if *weight.dims() != [classes, width] {
            bail!(
                "the weight has shape {:?}: features [{rows}, {width}] and {classes} classes need [{classes}, {width}]",
                weight.dims()
            );
        }
        let kind = |dtype| match dtype {
            DType::F64 => Ok(DType::F64),
            DType::F32 | DType::F16 | DType::BF16 => Ok(DType::F32),
            other => bail!(
                "the features or the weight are {}: expected f32, f64, f16 or bf16",
                other.as_str()
            ),
        };
        if kind(features.dtype())? != kind(weight.dtype())? {
            bail!(
                "the features are {} and the weight {}: one of them is f64",
                features.dtype().as_str(),
                weight.dtype().as_str()
            );
        }
        if features.device().is_cuda() && features.dtype() == DType::F64 {
            bail!("the features are f64: on CUDA expected f32, f16 or bf16");
        }
        let of = format!("features [{rows}, {width}]");
        check_labels("labels", labels, rows, &of)?;
        options.check(("features", features), rows, &of)
    }
}

/// How the loss of a batch is computed, a part of its rows after the other.
pub(crate) trait BatchLoss {
    /// The loss of the rows from `begin` on that have these logits, which become their gradient
    /// where it is wanted.
    fn part(&mut self, logits: &Tensor, begin: usize, over: bool) -> Result<()>;

    /// What the parts come to.
    fn results(self) -> Result<RowResults>;
}

/// What the parts of a batch come to.
pub(crate) struct RowResults {
    /// The sum of the rows' losses over what a reduced loss is divided by, `[]`.
    pub(crate) loss: Tensor,
    pub(crate) row_losses: Tensor,
    pub(crate) hits: Tensor,
}

/// What a batch's rows are held against, and what its loss is divided by.
enum Batch {
    OnHost {
        loss: Loss,
        step: HostStep,
        divisor: f64,
    },
    #[cfg(feature = "cuda")]
    OnDevice {
        bound: Arc<Bound>,
        step: DeviceStep,
        /// Of a mean, `[1]`.
        divisor: Option<Tensor>,
        reciprocal: Option<Tensor>,
    },
}

/// A batch, and how it is taken apart.
struct Pass {
    batch: Batch,
    features: UnitRows,
    weight: UnitRows,
    rows_at_once: usize,
}

struct Parts {
    results: RowResults,
    /// With respect to features and weight as they were given, in the type that is computed in.
    gradients: [Option<Tensor>; 2],
}

impl Pass {
    /// `upstream`: one number where the loss is reduced, else one for each row; 1 where there is
    /// none. `wanted`: whether a gradient with respect to the features, to the weight.
    fn run(&self, upstream: Option<&Tensor>, wanted: [bool; 2]) -> Result<Parts> {
        match &self.batch {
            Batch::OnHost {
                loss,
                step,
                divisor,
            } => {
                let upstream = match upstream {
                    Some(upstream) => upstream.to_dtype(DType::F64)?.to_vec1::<f64>()?,
                    None => vec![1.0],
                };
                let upstream = match (loss.reduction(), &upstream[..]) {
                    (_, &[factor]) => Upstream::Scalar(factor / divisor),
                    (Reduction::None, each) => Upstream::PerRow(each),
                    (_, other) => bail!(
                        "the upstream gradient of a reduced loss has {} values",
                        other.len()
                    ),
                };
                let batch = HostBatch {
                    loss,
                    step,
                    upstream,
                    divisor: *divisor,
                    sum: 0.0,
                    row_losses: Vec::new(),
                    hits: Vec::with_capacity(step.rows()),
                    dtype: self.features.unit.dtype(),
                };
                self.run_on(batch, wanted)
            }
            #[cfg(feature = "cuda")]
            Batch::OnDevice {
                bound,
                step,
                divisor,
                reciprocal,
            } => {
                let factor = match (upstream, reciprocal) {
                    (Some(each), _) => DeviceFactor::PerRow(each),
                    (None, Some(reciprocal)) => DeviceFactor::Scalar(reciprocal),
                    (None, None) => DeviceFactor::One,
                };
                let parts = step.rows().div_ceil(self.rows_at_once);
                let batch = DeviceBatch::new(bound, step, factor, divisor.as_ref(), parts)?;
                self.run_on(batch, wanted)
            }
        }
    }

    fn run_on(&self, mut batch: impl BatchLoss, wanted: [bool; 2]) -> Result<Parts> {
        let (features, weight) = (&self.features.unit, &self.weight.unit);
        let rows = features.dim(0)?;
        let towards_logits = weight.t()?;
        let mut of_features = Vec::new();
        let mut of_weight: Option<Tensor> = None;
        for begin in (0..rows).step_by(self.rows_at_once) {
            let count = self.rows_at_once.min(rows - begin);
            let part = features.narrow(0, begin, count)?;
            // Becomes the gradient in place.
            let logits = part.matmul(&towards_logits)?;
            batch.part(&logits, begin, wanted.contains(&true))?;
            if wanted[0] {
                of_features.push(logits.matmul(weight)?);
            }
            if wanted[1] {
                let more = logits.t()?.matmul(&part)?;
                of_weight = Some(match of_weight {
                    Some(sum) => (sum + more)?,
                    None => more,
                });
            }
        }
        let of_features = match (wanted[0], of_features.is_empty()) {
            (false, _) => None,
            (true, true) => Some(features.zeros_like()?),
            (true, false) => Some(self.features.backward(&Tensor::cat(&of_features, 0)?)?),
        };
        let of_weight = match (wanted[1], of_weight) {
            (false, _) => None,
            (true, None) => Some(weight.zeros_like()?),
            (true, Some(sum)) => Some(self.weight.backward(&sum)?),
        };
        Ok(Parts {
            results: batch.results()?,
            gradients: [of_features, of_weight],
        })
    }
}

/// The loss of a batch on the CPU.
struct HostBatch<'a> {
    loss: &'a Loss,
    step: &'a HostStep,
    upstream: Upstream<f64, &'a [f64]>,
    divisor: f64,
    sum: f64,
    row_losses: Vec<Tensor>,
    hits: Vec<u8>,
    /// Of the row losses.
    dtype: DType,
}

impl BatchLoss for HostBatch<'_> {
    fn part(&mut self, logits: &Tensor, begin: usize, over: bool) -> Result<()> {
        let range = begin..begin + logits.dim(0)?;
        let op = PartOp {
            loss: self.loss,
            step: self.step,
            upstream: match self.upstream {
                Upstream::PerRow(upstream) => Upstream::PerRow(&upstream[range.clone()]),
                other => other,
            },
            rows: range,
            over,
            done: Mutex::new(None),
        };
        logits.inplace_op1(&op)?;
        let Ok(Some(done)) = op.done.into_inner() else {
            bail!("a part of the batch was not evaluated");
        };
        self.sum += done.summary.loss;
        self.row_losses.push(done.row_losses);
        self.hits.extend(done.hits.into_iter().map(u8::from));
        Ok(())
    }

    fn results(self) -> Result<RowResults> {
        let row_losses = match self.row_losses.is_empty() {
            true => Tensor::zeros(0, self.dtype, &Device::Cpu)?,
            false => Tensor::cat(&self.row_losses, 0)?,
        };
        let loss = Tensor::new(self.sum / self.divisor, &Device::Cpu)?;
        Ok(RowResults {
            loss: loss.to_dtype(row_losses.dtype())?,
            hits: Tensor::from_vec(self.hits, self.step.rows(), &Device::Cpu)?,
            row_losses,
        })
    }
}

/// Loss of a part's logits, and their gradient over them where it is wanted.
struct PartOp<'a> {
    loss: &'a Loss,
    step: &'a HostStep,
    rows: Range<usize>,
    upstream: Upstream<f64, &'a [f64]>,
    over: bool,
    done: Mutex<Option<Done>>,
}

struct Done {
    summary: Summary,
    row_losses: Tensor,
    hits: Vec<bool>,
}

impl PartOp<'_> {
    fn evaluate<T>(&self, logits: &mut [T]) -> Result<()>
    where
        T: CpuElement<Real: WithDType> + WithDType,
    {
        let rows = self.rows.len();
        let each: Vec<T::Real>;
        let upstream = match self.upstream {
            Upstream::One => Upstream::One,
            Upstream::Scalar(factor) => Upstream::Scalar(factor),
            Upstream::PerRow(factors) => {
                each = factors
                    .iter()
                    .map(|&f| <T::Real as Real>::from_f64(f))
                    .collect();
                Upstream::PerRow(&each[..])
            }
        };
        let mut row_losses = vec![<T::Real as Real>::from_f64(0.0); rows];
        let mut hits = vec![false; rows];
        let outputs = Outputs::new().row_losses(&mut row_losses).hits(&mut hits);
        let loss = self.loss;
        let summary = self.step.of_rows(self.rows.clone(), |labels, options| {
            let options = options.upstream(upstream);
            match self.over {
                true => loss.evaluate_in_place(logits, labels, &options, outputs),
                false => loss.evaluate_into(logits, labels, &options, outputs),
            }
        })?;
        let done = Done {
            summary,
            row_losses: Tensor::from_vec(row_losses, rows, &Device::Cpu)?,
            hits,
        };
        *self
            .done
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(done);
        Ok(())
    }
}

impl InplaceOp1 for PartOp<'_> {
    fn name(&self) -> &'static str {
        "ala-loss-in-place"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let Some((begin, end)) = layout.contiguous_offsets() else {
            bail!("a product of matrices is not contiguous");
        };
        match storage {
            CpuStorage::F32(logits) => self.evaluate(&mut logits[begin..end]),
            CpuStorage::F64(logits) => self.evaluate(&mut logits[begin..end]),
            other => bail!("logits are {}: expected f32 or f64", other.dtype().as_str()),
        }
    }
}

/// The loss, which is computed already, as an operation of features and weight.
struct CosineOp {
    pass: Pass,
    reduced: bool,
    value: Tensor,
    /// Which of features and weight are differentiated.
    wanted: [bool; 2],
    types: [DType; 2],
    /// For an upstream gradient of 1, where the loss is reduced.
    gradients: [Option<Tensor>; 2],
}

impl CosineOp {
    /// The gradients of a loss that is reduced, for the upstream gradient `[1]`.
    fn scaled(&self, upstream: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let [of_features, of_weight] = &self.gradients;
        if upstream.device().is_cuda() {
            // Nobody asks the device what the number is.
            let scale =
                |gradient: &Tensor| gradient.broadcast_mul(&upstream.to_dtype(gradient.dtype())?);
            let of_features = of_features.as_ref().map(|gradient| {
                // A row that does not count stays 0, whatever arrives.
                let product = scale(gradient)?;
                gradient
                    .ne(0f64)?
                    .where_cond(&product, &gradient.zeros_like()?)
            });
            let of_weight = of_weight.as_ref().map(scale);
            return Ok([of_features.transpose()?, of_weight.transpose()?]);
        }
        let factor = upstream.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        if !factor[0].is_finite() {
            return Ok(self.pass.run(Some(upstream), self.wanted)?.gradients);
        }
        let scale = |gradient: &Option<Tensor>| {
            let scaled = |gradient: &Tensor| match factor[0] == 1.0 {
                true => Ok(gradient.clone()),
                false => gradient.affine(factor[0], 0.0),
            };
            gradient.as_ref().map(scaled).transpose()
        };
        Ok([scale(of_features)?, scale(of_weight)?])
    }
}

impl CustomOp2 for CosineOp {
    fn name(&self) -> &'static str {
        "ala-cosine-loss"
    }

    fn cpu_fwd(
        &self,
        _features: &CpuStorage,
        _of_features: &Layout,
        _weight: &CpuStorage,
        _of_weight: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (storage, _) = self.value.storage_and_layout();
        match &*storage {
            Storage::Cpu(storage) => Ok((storage.clone(), self.value.shape().clone())),
            _ => bail!("the loss is not on the CPU"),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        _features: &CudaStorage,
        _of_features: &Layout,
        _weight: &CudaStorage,
        _of_weight: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (storage, layout) = self.value.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => Ok((storage.try_clone(layout)?, self.value.shape().clone())),
            _ => bail!("the loss is not on the device"),
        }
    }

    fn bwd(
        &self,
        _features: &Tensor,
        _weight: &Tensor,
        _loss: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let upstream = upstream.flatten_all()?.contiguous()?;
        let gradients = match self.reduced {
            true => self.scaled(&upstream)?,
            false => self.pass.run(Some(&upstream), self.wanted)?.gradients,
        };
        let rounded = |gradient: Option<Tensor>, dtype| {
            gradient
                .map(|gradient| gradient.to_dtype(dtype))
                .transpose()
        };
        let [of_features, of_weight] = gradients;
        let [of_features_type, of_weight_type] = self.types;
        Ok((
            rounded(of_features, of_features_type)?,
            rounded(of_weight, of_weight_type)?,
        ))
    }
}
