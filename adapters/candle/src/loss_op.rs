//! The loss as a candle operation: the gradient is made in the forward pass and handed out in the
//! backward pass.

use std::sync::{Arc, OnceLock};

use ala_loss::{CpuElement, Loss, Options, Outputs, Real, Reduction, Upstream};
use candle_core::{
    CpuStorage, CustomOp1, DType, Device, Error, Layout, Result, Shape, Storage, Tensor, WithDType,
    bail,
};

/// A [`Loss`] over candle tensors on the CPU, differentiable with respect to the logits.
///
/// Loss and gradient are computed in one pass over the logits, in [`forward`](Self::forward); the
/// backward pass only multiplies the kept gradient by the upstream one. Logits that track no
/// variable cost no gradient.
///
/// **The margin losses take cosines that are not yet scaled** (the output of
/// [`CosineHead`](crate::CosineHead)): the loss multiplies by `s` itself.
///
/// # Tensors
///
/// | | shape | data type |
/// |---|---|---|
/// | logits | `[N, C]`, any strides | f32, f64, f16, bf16 |
/// | labels | `[N]`, any strides | u8, u32, i16, i32, i64 |
/// | loss | `[]` under `Reduction::Mean` and `Reduction::Sum`, `[N]` under `Reduction::None` | f64 for f64 logits, otherwise f32 |
/// | gradient | `[N, C]` | that of the logits |
///
/// Rows may lie apart (a `narrow` over the classes): they are read where they are. Logits whose
/// classes are not neighbours in memory (a transposed tensor) are copied first.
///
/// # 16-bit logits
///
/// Their gradient is rounded once, after the upstream gradient has been applied. Where that is not
/// 1 (a loss scale of mixed-precision training, say) the backward pass therefore computes the
/// gradient anew: a product of what was rounded already would have lost whatever underflowed.
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
}

/// What [`CandleLoss::forward_rows`] returns.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RowOutput {
    /// The differentiable loss, as [`CandleLoss::forward`] returns it.
    pub loss: Tensor,
    /// Each row's weighted loss before reduction, `[N]`; not differentiable.
    pub row_losses: Tensor,
    /// Whether the row's largest logit is its label's, `[N]`, as for
    /// [`Accuracy::from_hits`](ala_loss::metrics::Accuracy::from_hits). The logits given are
    /// compared, without margin.
    pub hits: Vec<bool>,
    /// Rows that were not ignored.
    pub counted_rows: usize,
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
        Self { loss }
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
    /// Tensors on another device than the CPU, of another shape or type than the table above
    /// allows, or a label that is neither a class nor the ignore label (ala-loss's own message,
    /// which names the row).
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
        Ok(self.apply(logits, labels, false)?.0)
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
    /// assert_eq!(output.hits, [true, false]);
    /// assert_eq!(output.row_losses.dims(), [2]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn forward_rows(&self, logits: &Tensor, labels: &Tensor) -> Result<RowOutput> {
        let (loss, kept) = self.apply(logits, labels, true)?;
        let Some(Kept {
            row_losses: Some(row_losses),
            hits,
            counted_rows,
            ..
        }) = kept.get().cloned()
        else {
            bail!("the forward pass kept no row results");
        };
        Ok(RowOutput {
            loss,
            row_losses,
            hits,
            counted_rows,
        })
    }

    fn apply(
        &self,
        logits: &Tensor,
        labels: &Tensor,
        keep_rows: bool,
    ) -> Result<(Tensor, Arc<OnceLock<Kept>>)> {
        let labels = self.check(logits, labels)?;
        let logits = if rows_are_slices(logits.layout()) {
            logits.clone()
        } else {
            logits.contiguous()?
        };
        let kept = Arc::new(OnceLock::new());
        let op = LossOp {
            loss: self.loss.clone(),
            labels,
            keep_gradient: logits.track_op(),
            keep_rows,
            kept: Arc::clone(&kept),
        };
        Ok((logits.apply_op1(op)?, kept))
    }

    /// Checks both tensors and returns the labels as integers that every label type fits into.
    fn check(&self, logits: &Tensor, labels: &Tensor) -> Result<Vec<i64>> {
        check_device("logits", logits)?;
        check_device("labels", labels)?;
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
        labels_of(labels, rows, &format!("logits [{rows}, {classes}]"))
    }
}

pub(crate) fn check_device(name: &str, tensor: &Tensor) -> Result<()> {
    if tensor.device().is_cpu() {
        return Ok(());
    }
    bail!(
        "ala-loss-candle computes on the CPU, but the {name} are on {:?}: move them with to_device",
        tensor.device().location()
    )
}

/// Labels as integers that every label type fits into; `of` is what they are the labels of.
pub(crate) fn labels_of(labels: &Tensor, rows: usize, of: &str) -> Result<Vec<i64>> {
    if *labels.dims() != [rows] {
        bail!(
            "the labels have shape {:?}: {of} need [{rows}]",
            labels.dims()
        );
    }
    match labels.dtype() {
        DType::U8 | DType::U32 | DType::I16 | DType::I32 | DType::I64 => {}
        other => bail!(
            "the labels are {}: expected u8, u32, i16, i32 or i64",
            other.as_str()
        ),
    }
    labels.to_dtype(DType::I64)?.to_vec1()
}

/// Whether each row of an `[N, C]` layout is one slice and no row overlaps another.
fn rows_are_slices(layout: &Layout) -> bool {
    let (dims, stride) = (layout.dims(), layout.stride());
    (dims[1] == 1 || stride[1] == 1) && (dims[0] <= 1 || stride[0] >= dims[1])
}

/// Results of the forward pass that outlive it.
#[derive(Clone, Debug)]
struct Kept {
    /// `[N, C]` for an upstream gradient of 1.
    gradient: Option<Tensor>,
    /// The logits, where another upstream gradient computes again: a variable may hold others by
    /// then.
    logits: Option<Tensor>,
    row_losses: Option<Tensor>,
    hits: Vec<bool>,
    counted_rows: usize,
}

struct LossOp {
    loss: Loss,
    labels: Vec<i64>,
    keep_gradient: bool,
    keep_rows: bool,
    kept: Arc<OnceLock<Kept>>,
}

/// An element type that both crates know.
trait Logit: CpuElement<Real: WithDType> + WithDType {}
impl<T: CpuElement<Real: WithDType> + WithDType> Logit for T {}

/// Calls a generic method on the storage's elements.
macro_rules! by_element {
    ($storage:expr, $elements:ident => $call:expr) => {
        match $storage {
            CpuStorage::F32($elements) => $call,
            CpuStorage::F64($elements) => $call,
            CpuStorage::F16($elements) => $call,
            CpuStorage::BF16($elements) => $call,
            other => bail!(
                "the logits are {}: expected f32, f64, f16 or bf16",
                candle_core::backend::BackendStorage::dtype(other).as_str()
            ),
        }
    };
}

impl LossOp {
    fn forward<T: Logit>(&self, storage: &[T], layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, classes) = layout.shape().dims2()?;
        let (logits, stride) = row_slices(storage, layout)?;
        let reduction = self.loss.reduction();
        let mut gradient = vec![
            T::ZERO;
            if self.keep_gradient {
                rows * classes
            } else {
                0
            }
        ];
        let mut row_losses = Vec::new();
        let mut hits = Vec::new();
        let mut outputs = Outputs::new();
        if self.keep_gradient {
            outputs = outputs.gradient(&mut gradient);
        }
        if self.keep_rows || reduction == Reduction::None {
            row_losses.resize(rows, <T::Real as Real>::from_f64(0.0));
            outputs = outputs.row_losses(&mut row_losses);
        }
        if self.keep_rows {
            hits.resize(rows, false);
            outputs = outputs.hits(&mut hits);
        }
        let options = Options::new().stride(stride);
        let summary = self
            .loss
            .evaluate_into(logits, &self.labels, &options, outputs)
            .map_err(Error::wrap)?;

        let kept = Kept {
            gradient: self
                .keep_gradient
                .then(|| Tensor::from_vec(gradient, (rows, classes), &Device::Cpu))
                .transpose()?,
            logits: (self.keep_gradient && is_16_bit(T::DTYPE))
                .then(|| {
                    let rows = (0..rows).flat_map(|row| &logits[row * stride..][..classes]);
                    Tensor::from_vec(
                        rows.copied().collect(),
                        (self.labels.len(), classes),
                        &Device::Cpu,
                    )
                })
                .transpose()?,
            row_losses: self
                .keep_rows
                .then(|| Tensor::from_slice(&row_losses, rows, &Device::Cpu))
                .transpose()?,
            hits,
            counted_rows: summary.counted_rows,
        };
        if self.kept.set(kept).is_err() {
            bail!("the forward pass of one loss op ran twice");
        }
        Ok(match reduction {
            Reduction::None => (T::Real::to_cpu_storage_owned(row_losses), Shape::from(rows)),
            Reduction::Mean | Reduction::Sum => (
                T::Real::to_cpu_storage_owned(vec![<T::Real as Real>::from_f64(summary.loss)]),
                Shape::from(()),
            ),
        })
    }

    /// The kept gradient times the upstream one. A row that does not count stays 0, whatever
    /// arrives.
    fn scaled(&self, gradient: &Tensor, upstream: &[f64]) -> Result<Tensor> {
        if let (true, &[factor]) = (self.loss.reduction() != Reduction::None, upstream)
            && factor.is_finite()
        {
            return gradient.affine(factor, 0.0);
        }
        let of_row = |(row, label): (usize, &i64)| {
            let weight = |class: usize| self.loss.table().targets()[class].weight;
            let counts = Some(*label) != self.loss.ignore_label()
                && usize::try_from(*label).is_ok_and(|class| weight(class) > 0.0);
            match (counts, upstream.get(row).or(upstream.first())) {
                (true, Some(&factor)) => factor,
                _ => 0.0,
            }
        };
        let factors: Vec<f64> = self.labels.iter().enumerate().map(of_row).collect();
        let factors = Tensor::from_vec(factors, (self.labels.len(), 1), &Device::Cpu)?;
        gradient.broadcast_mul(&factors.to_dtype(gradient.dtype())?)
    }

    /// The gradient with the upstream one applied before the rounding to `T`.
    fn recompute<T: Logit>(
        &self,
        storage: &[T],
        layout: &Layout,
        upstream: &[T::Real],
    ) -> Result<Tensor> {
        let (rows, classes) = layout.shape().dims2()?;
        let (logits, stride) = row_slices(storage, layout)?;
        let mut gradient = vec![T::ZERO; rows * classes];
        let upstream = match (self.loss.reduction(), upstream) {
            (Reduction::None, rows) => Upstream::PerRow(rows),
            (_, [scalar]) => Upstream::Scalar(Real::to_f64(*scalar)),
            (_, other) => bail!(
                "the upstream gradient of a reduced loss has {} values",
                other.len()
            ),
        };
        let options = Options::new().stride(stride).upstream(upstream);
        let outputs = Outputs::new().gradient(&mut gradient);
        self.loss
            .evaluate_into(logits, &self.labels, &options, outputs)
            .map_err(Error::wrap)?;
        Tensor::from_vec(gradient, (rows, classes), &Device::Cpu)
    }
}

fn is_16_bit(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

/// The elements from the first row's start to the last row's end, and the distance of two rows'
/// starts.
fn row_slices<'a, T>(storage: &'a [T], layout: &Layout) -> Result<(&'a [T], usize)> {
    let (rows, classes) = layout.shape().dims2()?;
    // The stride of a single row or of none is whatever the tensor came from.
    let stride = if rows <= 1 {
        classes
    } else {
        layout.stride()[0]
    };
    let start = layout.start_offset();
    let length = match rows {
        0 => 0,
        _ => (rows - 1) * stride + classes,
    };
    Ok((&storage[start..start + length], stride))
}

impl CustomOp1 for LossOp {
    fn name(&self) -> &'static str {
        "ala-loss"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        by_element!(storage, logits => self.forward(logits, layout))
    }

    fn bwd(&self, _logits: &Tensor, _loss: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let Some(kept) = self.kept.get() else {
            bail!("the forward pass kept nothing");
        };
        let Some(gradient) = &kept.gradient else {
            bail!("the forward pass kept no gradient");
        };
        let upstream_values = upstream
            .flatten_all()?
            .to_dtype(DType::F64)?
            .to_vec1::<f64>()?;
        if upstream_values.iter().all(|&value| value == 1.0) {
            return Ok(Some(gradient.clone()));
        }
        let gradient = match &kept.logits {
            Some(logits) => {
                let upstream = upstream.flatten_all()?.to_vec1::<f32>()?;
                let (storage, layout) = logits.storage_and_layout();
                match &*storage {
                    Storage::Cpu(CpuStorage::F16(logits)) => {
                        self.recompute(logits, layout, &upstream)?
                    }
                    Storage::Cpu(CpuStorage::BF16(logits)) => {
                        self.recompute(logits, layout, &upstream)?
                    }
                    _ => bail!("the logits that were kept are no 16-bit tensor on the CPU"),
                }
            }
            None => self.scaled(gradient, &upstream_values)?,
        };
        Ok(Some(gradient))
    }
}
