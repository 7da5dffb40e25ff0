//! The loss as an operation over candle tensors: what its calls check, and what they give.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use ala_loss::Loss;
use candle_core::{DType, Device, Layout, Result, Tensor, bail};

use crate::cpu::CpuOp;
#[cfg(feature = "cuda")]
use crate::cuda::{Bound, CudaOp, DeviceStep};
use crate::step::StepOptions;

/// A [`Loss`] over candle tensors, differentiable with respect to the logits: on the CPU, and on
/// CUDA devices with the feature `cuda`.
///
/// Loss and gradient are computed in one pass over the logits, in [`forward`](Self::forward); the
/// backward pass hands out what was kept. Logits that track no variable cost no gradient.
///
/// **The margin losses take cosines that are not yet scaled** (the output of
/// [`CosineHead`](crate::CosineHead)): the loss multiplies by `s` itself.
///
/// # Tensors
///
/// | | shape | data type |
/// |---|---|---|
/// | logits | `[N, C]`, any strides | f32, f16, bf16; f64 on the CPU |
/// | labels | `[N]`, any strides, on the same device | u8, u32, i32, i64; i16 on the CPU |
/// | loss | `[]` under `Reduction::Mean` and `Reduction::Sum`, `[N]` under `Reduction::None` | f64 for f64 logits, otherwise f32 |
/// | gradient | `[N, C]` | that of the logits |
///
/// Rows may lie apart (a `narrow` over the classes): they are read where they are. Logits whose
/// classes are not neighbours in memory (a transposed tensor) are copied first. So are, on CUDA, a
/// variable and a part of another tensor whose gradient is wanted: they might change before the
/// backward pass, which reads them.
///
/// [`forward_with`](Self::forward_with) takes more: second labels (mixup, CutMix), row weights, and
/// what a mean divides by, for a batch in parts.
///
/// # Upstream gradients and the loss scale
///
/// The gradient of 16-bit logits is rounded once, after the upstream gradient has been applied: a
/// product of what was rounded already would have lost whatever underflowed. Where the upstream
/// gradient is not what the gradient was made for, the backward pass therefore makes it anew. Who
/// multiplies the loss by a number (the loss scale of mixed-precision training, `1 / k` under
/// gradient accumulation) says so with [`loss_scale`](Self::loss_scale) and pays nothing for it.
///
/// # CUDA
///
/// The step runs on the device's own stream, on the tensors where they lie, and **waits for
/// nothing**: loss, row losses and hits are tensors on the device. So a label out of range is not
/// known when `forward` returns. Its row has loss NaN, the reduced loss is NaN, and its gradient is
/// 0; [`check`](Self::check) waits and tells, and a later `forward` tells as soon as it is known.
/// Whether the upstream gradient is the one that the gradient was made for is decided on the device
/// too.
///
/// The first step on a device binds the loss to it (which waits once), and the first of a larger
/// batch makes a larger workspace (which waits too). Before a graph is captured it needs one step
/// of each type and size, and cudarc's event tracking off (`CudaDevice::disable_event_tracking`)
/// where the context has streams of its own. Clones share what is bound. Gradients are the same
/// bits from step to step, but not those of the CPU: see ala-loss.
///
/// # Example
///
/// ```
/// use ala_loss::{ClassCounts, Loss, Objective};
/// use ala_loss_candle::CandleLoss;
/// use candle_core::{Device, Tensor, Var};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let counts = ClassCounts::new([500, 50, 5])?;
/// let loss = CandleLoss::new(Loss::builder(Objective::ala(), &counts).scale(30.0).build()?);
///
/// let cosines = Var::new(&[[0.8f32, 0.1, -0.3], [0.2, 0.4, 0.1]], &Device::Cpu)?;
/// let labels = Tensor::new(&[0u32, 2], &Device::Cpu)?;
/// let gradients = loss.forward(&cosines, &labels)?.backward()?;
/// assert_eq!(gradients.get(&cosines).map(|g| g.dims().to_vec()), Some(vec![2, 3]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct CandleLoss {
    loss: Loss,
    loss_scale: f64,
    #[cfg(feature = "cuda")]
    bound: Arc<Bound>,
}

/// What [`CandleLoss::forward_rows`] returns.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RowOutput {
    /// The differentiable loss, as [`CandleLoss::forward`] returns it.
    pub loss: Tensor,
    /// Each row's weighted loss before reduction, `[N]`; not differentiable.
    pub row_losses: Tensor,
    /// 1 where the row's largest logit is its label's, else 0, `[N]`, u8, on the logits' device.
    /// The logits given are compared, without margin. 0 for a row that is ignored.
    pub hits: Tensor,
}

impl RowOutput {
    /// The hits as [`Accuracy::from_hits`](ala_loss::metrics::Accuracy::from_hits) takes them.
    /// Waits for the device.
    ///
    /// # Errors
    ///
    /// What the device reports.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # use ala_loss_candle::CandleLoss;
    /// # use candle_core::{Device, Tensor};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let counts = ClassCounts::new([9, 3])?;
    /// let loss = CandleLoss::new(Loss::builder(Objective::ala(), &counts).build()?);
    /// let cosines = Tensor::new(&[[0.9f32, 0.1], [0.8, 0.2]], &Device::Cpu)?;
    /// let output = loss.forward_rows(&cosines, &Tensor::new(&[0u8, 1], &Device::Cpu)?)?;
    /// assert_eq!(output.hits_on_host()?, [true, false]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn hits_on_host(&self) -> Result<Vec<bool>> {
        let hits = self.hits.to_vec1::<u8>()?;
        Ok(hits.into_iter().map(|hit| hit == 1).collect())
    }
}

impl CandleLoss {
    /// The op for a loss.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # use ala_loss_candle::CandleLoss;
    /// # fn main() -> Result<(), ala_loss::Error> {
    /// let counts = ClassCounts::new([9, 3])?;
    /// let op = CandleLoss::new(Loss::builder(Objective::BalancedSoftmax, &counts).build()?);
    /// # let _ = op;
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(loss: Loss) -> Self {
        Self {
            #[cfg(feature = "cuda")]
            bound: Arc::new(Bound::new(loss.clone())),
            loss,
            loss_scale: 1.0,
        }
    }

    /// The upstream gradient to expect: what the loss is multiplied by before `backward`. 1 where
    /// it is not set. Another one is right too, and costs one more pass.
    ///
    /// # Errors
    ///
    /// A scale that is not finite and positive as an `f32`.
    ///
    /// # Example
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective};
    /// use ala_loss_candle::CandleLoss;
    /// use candle_core::{DType, Device, Tensor, Var};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let counts = ClassCounts::new([9, 3])?;
    /// let loss = Loss::builder(Objective::ala(), &counts).build()?;
    /// let loss = CandleLoss::new(loss).loss_scale(1024.0)?;
    /// let logits = Var::zeros((4, 2), DType::F16, &Device::Cpu)?;
    /// let labels = Tensor::new(&[0u8, 1, 0, 0], &Device::Cpu)?;
    /// let gradients = (loss.forward(&logits, &labels)? * 1024.0)?.backward()?;
    /// # let _ = gradients;
    /// # Ok(())
    /// # }
    /// ```
    pub fn loss_scale(mut self, scale: f64) -> Result<Self> {
        let rounded = scale as f32;
        if !(rounded.is_finite() && rounded > 0.0) {
            bail!("the loss scale is {scale}: it must be finite and positive as an f32");
        }
        self.loss_scale = scale;
        Ok(self)
    }

    /// Waits for the device, and tells whether a label of a step there was out of range; on the CPU
    /// `forward` has told.
    ///
    /// # Errors
    ///
    /// The first such label since this was told last (ala-loss's own message, which names its row),
    /// and what the device reports.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # use ala_loss_candle::CandleLoss;
    /// # use candle_core::Device;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let counts = ClassCounts::new([9, 3])?;
    /// let loss = CandleLoss::new(Loss::builder(Objective::ala(), &counts).build()?);
    /// loss.check(&Device::Cpu)?; // once an epoch, say
    /// # Ok(())
    /// # }
    /// ```
    pub fn check(&self, device: &Device) -> Result<()> {
        match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => self.bound.check(device),
            _ => Ok(()),
        }
    }

    /// The loss that this op computes.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # use ala_loss_candle::CandleLoss;
    /// # fn main() -> Result<(), ala_loss::Error> {
    /// let counts = ClassCounts::new([9, 3])?;
    /// let op = CandleLoss::new(Loss::builder(Objective::ala(), &counts).build()?);
    /// assert_eq!(op.loss().scale(), Some(30.0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn loss(&self) -> &Loss {
        &self.loss
    }

    /// The loss of logits `[N, C]` and labels `[N]`: `[]` where it is reduced, else `[N]`.
    ///
    /// # Errors
    ///
    /// Tensors on two devices, of another shape or type than the table above allows, or a label
    /// that is neither a class nor the ignore label (ala-loss's own message, which names the row;
    /// on CUDA that of an earlier step). What the device reports.
    ///
    /// # Example
    ///
    /// A weight for each row, through the chain rule:
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Loss, Objective, Reduction};
    /// use ala_loss_candle::CandleLoss;
    /// use candle_core::{Device, Tensor, Var};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let counts = ClassCounts::new([9, 3])?;
    /// let loss = Loss::builder(Objective::CrossEntropy, &counts).reduction(Reduction::None);
    /// let loss = CandleLoss::new(loss.build()?);
    ///
    /// let logits = Var::new(&[[0f64, 0.0], [0.0, 0.0]], &Device::Cpu)?;
    /// let labels = Tensor::new(&[0u32, 1], &Device::Cpu)?;
    /// let weights = Tensor::new(&[1f64, 4.0], &Device::Cpu)?;
    /// let rows = loss.forward(&logits, &labels)?;
    /// let gradients = (rows * weights)?.sum_all()?.backward()?;
    /// let gradient = gradients.get(&logits).map(Tensor::to_vec2::<f64>).transpose()?;
    /// assert_eq!(gradient, Some(vec![vec![-0.5, 0.5], vec![2.0, -2.0]]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn forward(&self, logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
        self.forward_with(logits, labels, &StepOptions::new())
    }

    /// [`forward`](Self::forward) with second labels (mixup, CutMix), row weights or another
    /// divisor: in the same one pass, and with the same upstream gradients.
    ///
    /// # Errors
    ///
    /// As [`forward`](Self::forward). Options of another shape or type than [`StepOptions`] allows,
    /// a second label, lambda or weight out of its range (ala-loss's own message, which names the
    /// row), a divisor where nothing divides.
    ///
    /// # Example
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Lambda, Loss, Objective};
    /// use ala_loss_candle::{CandleLoss, StepOptions};
    /// use candle_core::{Device, Tensor, Var};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let counts = ClassCounts::new([500, 50, 5])?;
    /// let loss = CandleLoss::new(Loss::new(Objective::ala(), &counts)?);
    ///
    /// // Of a network, for inputs of which each is 0.7 of one sample and 0.3 of another.
    /// let cosines = Var::new(&[[0.8f32, 0.1, -0.3], [0.2, 0.4, 0.1]], &Device::Cpu)?;
    /// let labels = Tensor::new(&[0u32, 2], &Device::Cpu)?;
    /// let permutation = Tensor::new(&[1u32, 0], &Device::Cpu)?;
    /// let partners = labels.index_select(&permutation, 0)?;
    /// let mixed = StepOptions::new().mixed_with(&partners, Lambda::Scalar(0.7));
    /// let gradients = loss.forward_with(&cosines, &labels, &mixed)?.backward()?;
    /// assert!(gradients.get(&cosines).is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn forward_with(
        &self,
        logits: &Tensor,
        labels: &Tensor,
        options: &StepOptions<'_>,
    ) -> Result<Tensor> {
        Ok(self.apply(logits, labels, options, false)?.0)
    }

    /// [`forward`](Self::forward), with what the same pass knows of each row.
    ///
    /// # Errors
    ///
    /// As [`forward`](Self::forward).
    ///
    /// # Example
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # use ala_loss_candle::CandleLoss;
    /// # use candle_core::{Device, Tensor};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let counts = ClassCounts::new([9, 3])?;
    /// let loss = CandleLoss::new(Loss::builder(Objective::ala(), &counts).build()?);
    /// let cosines = Tensor::new(&[[0.9f32, 0.1], [0.8, 0.2]], &Device::Cpu)?;
    /// let output = loss.forward_rows(&cosines, &Tensor::new(&[0u8, 1], &Device::Cpu)?)?;
    /// assert_eq!(output.hits.to_vec1::<u8>()?, [1, 0]);
    /// assert_eq!(output.row_losses.dims(), [2]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn forward_rows(&self, logits: &Tensor, labels: &Tensor) -> Result<RowOutput> {
        self.forward_rows_with(logits, labels, &StepOptions::new())
    }

    /// [`forward_with`](Self::forward_with), with what the same pass knows of each row.
    ///
    /// # Errors
    ///
    /// As [`forward_with`](Self::forward_with).
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Lambda, Loss, Objective};
    /// # use ala_loss_candle::{CandleLoss, StepOptions};
    /// # use candle_core::{Device, Tensor};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let counts = ClassCounts::new([9, 3])?;
    /// let loss = CandleLoss::new(Loss::new(Objective::ala(), &counts)?);
    /// let cosines = Tensor::new(&[[0.9f32, 0.1], [0.8, 0.2]], &Device::Cpu)?;
    /// let (labels, partners) = ([0u8, 1], [1u8, 0]);
    /// let partners = Tensor::new(&partners, &Device::Cpu)?;
    /// let mixed = StepOptions::new().mixed_with(&partners, Lambda::Scalar(0.6));
    /// let labels = Tensor::new(&labels, &Device::Cpu)?;
    /// let output = loss.forward_rows_with(&cosines, &labels, &mixed)?;
    /// assert_eq!(output.hits_on_host()?, [true, false]); // of the first labels
    /// # Ok(())
    /// # }
    /// ```
    pub fn forward_rows_with(
        &self,
        logits: &Tensor,
        labels: &Tensor,
        options: &StepOptions<'_>,
    ) -> Result<RowOutput> {
        let (loss, kept) = self.apply(logits, labels, options, true)?;
        let Some(Kept {
            row_losses: Some(row_losses),
            hits: Some(hits),
            ..
        }) = kept.get().cloned()
        else {
            bail!("the forward pass kept no row results");
        };
        Ok(RowOutput {
            loss,
            row_losses,
            hits,
        })
    }

    /// What a mean over the rows with these labels `[N]` divides by, as the options say: a number
    /// `[]` on the labels' device, f64 on the CPU and f32 on CUDA. 0 where no row counts. Parts of
    /// a batch take it as [`Divisor::Given`](ala_loss::Divisor::Given).
    ///
    /// Row weights are taken as they are here; a step rounds them to the type of its row losses.
    ///
    /// # Errors
    ///
    /// As [`forward_with`](Self::forward_with).
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Divisor, Loss, Objective};
    /// # use ala_loss_candle::{CandleLoss, StepOptions};
    /// # use candle_core::{Device, Tensor};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let counts = ClassCounts::new([9, 3])?;
    /// let loss = Loss::builder(Objective::CrossEntropy, &counts).ignore_label(-1);
    /// let loss = CandleLoss::new(loss.class_weights([1.0, 3.0]).build()?);
    /// let labels = Tensor::new(&[0i64, -1, 1, 1], &Device::Cpu)?;
    /// let weights = loss.divisor(&labels, &StepOptions::new())?;
    /// assert_eq!(weights.to_scalar::<f64>()?, 7.0);
    /// let rows = loss.divisor(&labels, &StepOptions::new().divisor(Divisor::Rows))?;
    /// assert_eq!(rows.to_scalar::<f64>()?, 3.0);
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

    fn apply(
        &self,
        logits: &Tensor,
        labels: &Tensor,
        options: &StepOptions<'_>,
        keep_rows: bool,
    ) -> Result<(Tensor, Arc<OnceLock<Kept>>)> {
        check_devices(("logits", logits), &[("labels", labels)])?;
        self.check_shapes(logits, labels, options)?;
        options.check_reduction(self.loss.reduction())?;
        let logits = if rows_are_slices(logits.layout()) {
            logits.clone()
        } else {
            logits.contiguous()?
        };
        let kept = Arc::new(OnceLock::new());
        let loss = match logits.device() {
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => logits.apply_op1(CudaOp::new(
                &self.bound,
                &logits,
                DeviceStep::new(labels, options)?,
                self.loss_scale as f32,
                keep_rows,
                &kept,
            )?)?,
            _ => logits.apply_op1(CpuOp {
                loss: self.loss.clone(),
                step: options.on_host(labels, row_type(&logits))?,
                loss_scale: self.loss_scale,
                keep_gradient: logits.track_op(),
                keep_rows,
                kept: Arc::clone(&kept),
            })?,
        };
        Ok((loss, kept))
    }

    fn check_shapes(
        &self,
        logits: &Tensor,
        labels: &Tensor,
        options: &StepOptions<'_>,
    ) -> Result<()> {
        let classes = self.loss.classes();
        let (rows, found) = match *logits.dims() {
            [rows, found] => (rows, found),
            _ => bail!(
                "the logits have shape {:?}: expected [N, {classes}]",
                logits.dims()
            ),
        };
        if found != classes {
            bail!(
                "the logits have shape [{rows}, {found}], but the loss was built for {classes} classes"
            );
        }
        let of = format!("logits [{rows}, {classes}]");
        check_labels("labels", labels, rows, &of)?;
        options.check(("logits", logits), rows, &of)
    }
}

/// The type of a row's loss.
pub(crate) fn row_type(logits: &Tensor) -> DType {
    match logits.dtype() {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}

/// Labels and options without what they are the labels of.
pub(crate) fn check_alone(labels: &Tensor, options: &StepOptions<'_>) -> Result<()> {
    let named = ("labels", labels);
    check_devices(named, &[])?;
    let &[rows] = labels.dims() else {
        bail!("the labels have shape {:?}: expected [N]", labels.dims());
    };
    let of = format!("labels [{rows}]");
    check_labels("labels", labels, rows, &of)?;
    options.check(named, rows, &of)
}

type Named<'a> = (&'a str, &'a Tensor);

/// All on one device, which this build computes on.
pub(crate) fn check_devices((name, first): Named<'_>, others: &[Named<'_>]) -> Result<()> {
    for (other, tensor) in others {
        if !tensor.device().same_device(first.device()) {
            bail!(
                "the {name} are on {:?} and the {other} on {:?}: move one of them with to_device",
                first.device().location(),
                tensor.device().location()
            );
        }
    }
    match first.device() {
        Device::Cpu => Ok(()),
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => Ok(()),
        device => bail!(
            "the {name} are on {:?}: this build of ala-loss-candle computes on {}",
            device.location(),
            match cfg!(feature = "cuda") {
                true => "the CPU and on CUDA devices",
                false => "the CPU; its feature `cuda` adds CUDA devices",
            }
        ),
    }
}

/// `of` is what they, or the second ones, are the labels of.
pub(crate) fn check_labels(name: &str, labels: &Tensor, rows: usize, of: &str) -> Result<()> {
    if *labels.dims() != [rows] {
        bail!(
            "the {name} have shape {:?}: {of} need [{rows}]",
            labels.dims()
        );
    }
    match (labels.dtype(), labels.device()) {
        (DType::U8 | DType::U32 | DType::I32 | DType::I64, _) => Ok(()),
        (DType::I16, Device::Cpu) => Ok(()),
        (DType::I16, _) => bail!("the {name} are i16: on CUDA they are u8, u32, i32 or i64"),
        (other, _) => bail!(
            "the {name} are {}: expected u8, u32, i16, i32 or i64",
            other.as_str()
        ),
    }
}

/// Whether each row of an `[N, C]` layout is one slice and no row overlaps another.
fn rows_are_slices(layout: &Layout) -> bool {
    let (dims, stride) = (layout.dims(), layout.stride());
    (dims[1] == 1 || stride[1] == 1) && (dims[0] <= 1 || stride[0] >= dims[1])
}

/// Where an `[N, C]` layout whose rows are slices has them: from the first row's start to the last
/// row's end, and the distance of two rows' starts.
pub(crate) fn row_range(layout: &Layout) -> Result<(Range<usize>, usize)> {
    let (rows, classes) = layout.shape().dims2()?;
    // The stride of a single row or of none is whatever the tensor came from.
    let stride = match rows {
        0 | 1 => classes,
        _ => layout.stride()[0],
    };
    let start = layout.start_offset();
    let length = match rows {
        0 => 0,
        _ => (rows - 1) * stride + classes,
    };
    Ok((start..start + length, stride))
}

/// Results of the forward pass that outlive it.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// `[N, C]`, for an upstream gradient of the loss scale.
    pub(crate) gradient: Option<Tensor>,
    /// The logits, where another upstream gradient computes again: a variable may hold others by
    /// then.
    pub(crate) logits: Option<Tensor>,
    pub(crate) row_losses: Option<Tensor>,
    pub(crate) hits: Option<Tensor>,
}
