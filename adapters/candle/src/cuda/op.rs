//! The loss as an operation on a CUDA device.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use ala_loss::Reduction;
use ala_loss::cuda::{Options, Outputs, Upstream};
use candle_core::backend::BackendStorage;
use candle_core::cuda::cudarc::driver::{CudaSlice, DevicePtrMut};
use candle_core::cuda::{CudaDType, CudaStorageSlice};
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, CustomOp1, DType, InplaceOp1, Layout, Result, Shape,
    Storage, Tensor, bail,
};

use super::step::{DeviceStep, Logits, numbers};
use super::{Bound, CPU, Logit, alloc, on_device, tensor};
use crate::loss_op::{Kept, row_range};

/// Whether a variable may write into the tensor's storage: one that it shares with another tensor's
/// may be a variable's. (A variable's whole storage in another shape looks like one of its own.)
fn may_change(tensor: &Tensor) -> bool {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        return true;
    };
    let length = match &storage.slice {
        CudaStorageSlice::F32(all) => all.len(),
        CudaStorageSlice::F16(all) => all.len(),
        CudaStorageSlice::BF16(all) => all.len(),
        _ => return true,
    };
    tensor.is_variable() || length != layout.shape().elem_count()
}

/// The loss as an operation on a CUDA device.
pub(crate) struct CudaOp {
    bound: Arc<Bound>,
    step: DeviceStep,
    /// A copy of the logits, where they may change before the backward pass.
    logits: Option<Tensor>,
    /// What the gradient is kept for: an upstream gradient of this.
    loss_scale: f32,
    keep_gradient: bool,
    keep_rows: bool,
    kept: Arc<OnceLock<Kept>>,
    /// Whether the kept gradient may be of another upstream gradient by now.
    handed_out: AtomicBool,
}

impl CudaOp {
    pub(crate) fn new(
        bound: &Arc<Bound>,
        logits: &Tensor,
        step: DeviceStep,
        loss_scale: f32,
        keep_rows: bool,
        kept: &Arc<OnceLock<Kept>>,
    ) -> Result<Self> {
        let keep_gradient = logits.track_op();
        let copy = keep_gradient && may_change(logits);
        Ok(Self {
            bound: Arc::clone(bound),
            step,
            logits: copy.then(|| logits.detach().copy()).transpose()?,
            loss_scale,
            keep_gradient,
            keep_rows,
            kept: Arc::clone(kept),
            handed_out: AtomicBool::new(false),
        })
    }

    fn reduction(&self) -> Reduction {
        self.bound.loss.reduction()
    }

    fn forward<T: Logit>(
        &self,
        logits: &CudaSlice<T>,
        layout: &Layout,
        device: &CudaDevice,
    ) -> Result<(CudaStorage, Shape)> {
        let (rows, classes) = layout.shape().dims2()?;
        let (range, stride) = row_range(layout)?;
        let reduced = self.reduction() != Reduction::None;
        // Where nothing is reduced each row's own factor comes with the backward pass.
        let with_gradient = self.keep_gradient && reduced;
        let mut gradient = with_gradient
            .then(|| alloc::<T>(device, rows * classes))
            .transpose()?;
        let mut row_losses = (self.keep_rows || !reduced)
            .then(|| alloc::<f32>(device, rows))
            .transpose()?;
        let mut hits = self
            .keep_rows
            .then(|| alloc::<u8>(device, rows))
            .transpose()?;
        let mut loss = reduced.then(|| alloc::<f32>(device, 1)).transpose()?;

        let mut outputs = Outputs::new();
        if let Some(gradient) = &mut gradient {
            outputs = outputs.gradient(gradient);
        }
        let mut of_rows = row_losses.as_mut().map(|losses| losses.slice_mut(..rows));
        if let Some(losses) = &mut of_rows {
            outputs = outputs.row_losses(losses);
        }
        let mut of_hits = hits.as_mut().map(|hits| hits.slice_mut(..rows));
        if let Some(hits) = &mut of_hits {
            outputs = outputs.hits(hits);
        }
        if let Some(loss) = &mut loss {
            outputs = outputs.loss(loss);
        }
        let options = Options::new()
            .stride(stride)
            .gradient_scale(self.loss_scale);
        let logits = logits.slice(range);
        self.step.launch(
            &self.bound,
            Logits::Read(&logits),
            0..rows,
            options,
            outputs,
        )?;
        self.bound.poll(device)?;

        let row_losses = row_losses.map(|losses| tensor(losses, device, rows));
        let value = match (loss, &row_losses) {
            (Some(loss), _) => (
                CudaStorage::wrap_cuda_slice(loss, device.clone()),
                Shape::from(()),
            ),
            (None, Some(row_losses)) => {
                let (storage, layout) = row_losses.storage_and_layout();
                (on_device(&storage)?.try_clone(layout)?, Shape::from(rows))
            }
            (None, None) => bail!("a loss that is not reduced is its row losses"),
        };
        let kept = Kept {
            gradient: gradient.map(|gradient| tensor(gradient, device, (rows, classes))),
            logits: self.logits.clone(),
            row_losses: row_losses.filter(|_| self.keep_rows),
            hits: hits.map(|hits| tensor(hits, device, rows)),
        };
        if self.kept.set(kept).is_err() {
            bail!("the forward pass of one loss op ran twice");
        }
        Ok(value)
    }

    /// The gradient of a loss that is not reduced, with each row's own factor.
    fn gradient_of_rows<T: Logit>(
        &self,
        logits: &CudaSlice<T>,
        layout: &Layout,
        device: &CudaDevice,
        upstream: &Tensor,
    ) -> Result<Tensor> {
        let (rows, classes) = layout.shape().dims2()?;
        let mut gradient = alloc::<T>(device, rows * classes)?;
        self.again(logits, layout, upstream, None, &mut gradient)?;
        Ok(tensor(gradient, device, (rows, classes)))
    }

    /// Makes the gradient for an upstream one, unless that is `skip`.
    fn again<T: Logit>(
        &self,
        logits: &CudaSlice<T>,
        layout: &Layout,
        upstream: &Tensor,
        skip: Option<f32>,
        gradient: &mut impl DevicePtrMut<T>,
    ) -> Result<()> {
        let (range, stride) = row_range(layout)?;
        let (of_upstream, upstream_layout) = upstream.storage_and_layout();
        let upstream = numbers(&of_upstream, upstream_layout, 0..upstream.elem_count())?;
        let mut options = Options::new()
            .stride(stride)
            .upstream(match self.reduction() {
                Reduction::None => Upstream::PerRow(&upstream),
                Reduction::Mean | Reduction::Sum => Upstream::Scalar(&upstream),
            });
        if let Some(skip) = skip {
            options = options.skip_if_upstream(skip);
        }
        let logits = logits.slice(range);
        let outputs = Outputs::new().gradient(gradient);
        let rows = self.step.rows();
        self.step.launch(
            &self.bound,
            Logits::Read(&logits),
            0..rows,
            options,
            outputs,
        )
    }
}

/// Calls a generic method on a storage's elements of a type that the kernels have.
macro_rules! by_element {
    ($storage:expr, $elements:ident => $call:expr) => {
        match &$storage.slice {
            CudaStorageSlice::F32($elements) => $call,
            CudaStorageSlice::F16($elements) => $call,
            CudaStorageSlice::BF16($elements) => $call,
            _ => bail!(
                "the logits are {}: on CUDA expected f32, f16 or bf16",
                $storage.dtype().as_str()
            ),
        }
    };
}

impl CustomOp1 for CudaOp {
    fn name(&self) -> &'static str {
        "ala-loss"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("{CPU}")
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        by_element!(storage, logits => self.forward(logits, layout, &storage.device))
    }

    fn bwd(&self, logits: &Tensor, _loss: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let Some(kept) = self.kept.get() else {
            bail!("the forward pass kept nothing");
        };
        let logits = kept.logits.as_ref().unwrap_or(logits);
        let upstream = upstream.flatten_all()?.to_dtype(DType::F32)?.contiguous()?;
        let gradient = match &kept.gradient {
            Some(gradient) => {
                let first = !self.handed_out.swap(true, Ordering::Relaxed);
                gradient.inplace_op1(&Again {
                    op: self,
                    logits,
                    upstream: &upstream,
                    skip: first.then_some(self.loss_scale),
                })?;
                gradient.clone()
            }
            None => {
                let (storage, layout) = logits.storage_and_layout();
                let storage = on_device(&storage)?;
                by_element!(storage, logits => {
                    self.gradient_of_rows(logits, layout, &storage.device, &upstream)?
                })
            }
        };
        Ok(Some(gradient))
    }
}

/// Makes the kept gradient for an upstream one that it was not made for.
struct Again<'a> {
    op: &'a CudaOp,
    logits: &'a Tensor,
    upstream: &'a Tensor,
    skip: Option<f32>,
}

impl InplaceOp1 for Again<'_> {
    fn name(&self) -> &'static str {
        "ala-loss-gradient"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        bail!("{CPU}")
    }

    fn cuda_fwd(&self, gradient: &mut CudaStorage, _: &Layout) -> Result<()> {
        let (storage, layout) = self.logits.storage_and_layout();
        let storage = on_device(&storage)?;
        by_element!(storage, logits => self.op.again(
            logits,
            layout,
            self.upstream,
            self.skip,
            CudaDType::as_cuda_slice_mut(gradient)?,
        ))
    }
}
