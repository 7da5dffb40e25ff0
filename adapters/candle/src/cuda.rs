//! The loss on candle's CUDA devices: on the device's own stream, on tensors where they lie,
//! without waiting.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, ThreadId};

use ala_loss::cuda::{
    CudaElement, CudaLabel, CudaLoss, Options, Outputs, Upstream, Workspace, driver_error,
};
use ala_loss::{Loss, Reduction};
use candle_core::backend::BackendStorage;
use candle_core::cuda::cudarc::driver::sys::CUstreamCaptureStatus;
use candle_core::cuda::cudarc::driver::{
    CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceRepr,
};
use candle_core::cuda::{CudaDType, CudaStorageSlice, DeviceId};
use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, CustomOp1, DType, Device, Error, InplaceOp1, Layout,
    Result, Shape, Storage, Tensor, bail,
};

use crate::cosine_loss::{BatchLoss, RowResults};
use crate::loss_op::{Kept, row_range};

type LossResult<T> = std::result::Result<T, ala_loss::Error>;

/// A loss, and where it is bound.
#[derive(Debug)]
pub(crate) struct Bound {
    loss: Loss,
    places: Mutex<Vec<Place>>,
}

/// What a device's steps need that one thread enqueues: candle's default stream is each thread's
/// own, so that steps of two threads may overlap.
#[derive(Debug)]
struct Place {
    device: DeviceId,
    thread: ThreadId,
    /// One for all places of a context.
    loss: Arc<CudaLoss>,
    workspace: Workspace,
}

impl Bound {
    pub(crate) fn new(loss: Loss) -> Self {
        Self {
            loss,
            places: Mutex::default(),
        }
    }

    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `step` with what this thread's steps on the device need, for up to `rows` rows.
    fn enqueue(
        &self,
        device: &CudaDevice,
        rows: usize,
        step: impl FnOnce(&CudaLoss, &Arc<CudaStream>, &mut Workspace) -> LossResult<()>,
    ) -> Result<()> {
        let stream = device.cuda_stream();
        let mut places = self.places();
        let place = self
            .place(&mut places, device, &stream, rows)
            .map_err(Error::wrap)?;
        step(&place.loss, &stream, &mut place.workspace).map_err(Error::wrap)
    }

    fn place<'p>(
        &self,
        places: &'p mut Vec<Place>,
        device: &CudaDevice,
        stream: &Arc<CudaStream>,
        rows: usize,
    ) -> LossResult<&'p mut Place> {
        let thread = thread::current().id();
        let found = places
            .iter()
            .position(|place| place.device == device.id() && place.thread == thread);
        let index = match found {
            Some(index) => index,
            None => {
                let context = stream.context();
                let bound = places.iter().find(|place| place.loss.context() == context);
                let loss = match bound {
                    Some(place) => Arc::clone(&place.loss),
                    None => Arc::new(self.loss.bind(context)?),
                };
                places.push(Place {
                    device: device.id(),
                    thread,
                    workspace: loss.workspace(stream, rows)?,
                    loss,
                });
                places.len() - 1
            }
        };
        let place = &mut places[index];
        if place.workspace.capacity() < rows {
            // What its steps met is told before it goes.
            let told = place.workspace.read(stream);
            place.workspace = place.loss.workspace(stream, rows.next_power_of_two())?;
            told?;
        }
        Ok(place)
    }

    /// Tells of a label out of range that an earlier step of this thread met, if that is known.
    fn poll(&self, device: &CudaDevice) -> Result<()> {
        let stream = device.cuda_stream();
        // Asking is nothing that a graph could hold.
        if stream.capture_status().map_err(Error::wrap)?
            != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE
        {
            return Ok(());
        }
        let thread = thread::current().id();
        let mut places = self.places();
        let place = places
            .iter_mut()
            .find(|place| place.device == device.id() && place.thread == thread);
        if let Some(place) = place {
            place.workspace.poll(&stream).map_err(Error::wrap)?;
        }
        Ok(())
    }

    /// Waits for the device's steps, of any thread, and tells the first label out of range.
    pub(crate) fn check(&self, device: &CudaDevice) -> Result<()> {
        let stream = device.cuda_stream();
        let mut places = self.places();
        // Of other threads too, whose streams this thread cannot name.
        stream.context().synchronize().map_err(driver)?;
        let mut told = Ok(());
        for place in places
            .iter_mut()
            .filter(|place| place.device == device.id())
        {
            told = told.and(place.workspace.read(&stream).map(drop));
        }
        told.map_err(Error::wrap)
    }
}

/// Without calling the driver for its words, which panics where there is none.
fn driver(error: candle_core::cuda::cudarc::driver::DriverError) -> Error {
    Error::wrap(driver_error(error))
}

/// An element type of both crates.
trait Logit: CudaElement + CudaDType + DeviceRepr {}
impl<T: CudaElement + CudaDType + DeviceRepr> Logit for T {}

enum Logits<'a, T> {
    Read(&'a CudaView<'a, T>),
    /// The gradient goes over them.
    Over(&'a mut CudaViewMut<'a, T>),
}

/// Calls a generic method on a storage's elements of a label type.
macro_rules! by_label {
    ($storage:expr, $range:expr, $labels:ident => $call:expr) => {
        match &$storage.slice {
            CudaStorageSlice::U8(all) => by_label!(all, $range, $labels, $call),
            CudaStorageSlice::U32(all) => by_label!(all, $range, $labels, $call),
            CudaStorageSlice::I32(all) => by_label!(all, $range, $labels, $call),
            CudaStorageSlice::I64(all) => by_label!(all, $range, $labels, $call),
            _ => bail!(
                "the labels are {}: on CUDA they are u8, u32, i32 or i64",
                $storage.dtype().as_str()
            ),
        }
    };
    ($all:ident, $range:expr, $labels:ident, $call:expr) => {{
        let $labels = &$all.slice($range);
        $call
    }};
}

fn on_device(storage: &Storage) -> Result<&CudaStorage> {
    match storage {
        Storage::Cuda(storage) => Ok(storage),
        _ => bail!("a tensor of a step on a CUDA device is not there"),
    }
}

/// Enqueues the step of logits and contiguous labels.
fn launch<T: Logit>(
    bound: &Bound,
    device: &CudaDevice,
    logits: Logits<'_, T>,
    labels: &Tensor,
    options: &Options<'_>,
    outputs: Outputs<'_, T>,
) -> Result<()> {
    fn run<T: Logit, L: CudaLabel>(
        (loss, stream, workspace): (&CudaLoss, &Arc<CudaStream>, &mut Workspace),
        logits: Logits<'_, T>,
        labels: &impl DevicePtr<L>,
        options: &Options<'_>,
        outputs: Outputs<'_, T>,
    ) -> LossResult<()> {
        match logits {
            Logits::Read(logits) => {
                loss.launch(stream, logits, labels, options, outputs, workspace)
            }
            Logits::Over(logits) => {
                loss.launch_in_place(stream, logits, labels, options, outputs, workspace)
            }
        }
    }
    let (storage, range) = label_range(labels);
    let rows = range.len();
    by_label!(on_device(&storage)?, range, labels => bound.enqueue(device, rows, |loss, stream, workspace| {
        run((loss, stream, workspace), logits, labels, options, outputs)
    }))
}

/// The storage of contiguous labels, and where in it they lie.
fn label_range(labels: &Tensor) -> (candle_core::StorageRef<'_>, Range<usize>) {
    let (storage, layout) = labels.storage_and_layout();
    let start = layout.start_offset();
    (storage, start..start + layout.shape().elem_count())
}

/// Device memory that has no value yet. Not for nothing: the driver gives out no 0 bytes.
fn alloc<T: DeviceRepr>(device: &CudaDevice, length: usize) -> Result<CudaSlice<T>> {
    // SAFETY: the step that it is made for writes every element before anything reads it.
    unsafe { device.alloc::<T>(length.max(1)) }
}

fn tensor<T: CudaDType>(
    slice: CudaSlice<T>,
    device: &CudaDevice,
    shape: impl Into<Shape>,
) -> Tensor {
    let storage = CudaStorage::wrap_cuda_slice(slice, device.clone());
    Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
}

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
    labels: Tensor,
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
        (logits, labels): (&Tensor, &Tensor),
        loss_scale: f32,
        keep_rows: bool,
        kept: &Arc<OnceLock<Kept>>,
    ) -> Result<Self> {
        let keep_gradient = logits.track_op();
        let copy = keep_gradient && may_change(logits);
        Ok(Self {
            bound: Arc::clone(bound),
            labels: labels.contiguous()?,
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
        launch(
            &self.bound,
            device,
            Logits::Read(&logits),
            &self.labels,
            &options,
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
        self.again(logits, layout, device, upstream, None, &mut gradient)?;
        Ok(tensor(gradient, device, (rows, classes)))
    }

    /// Makes the gradient for an upstream one, unless that is `skip`.
    fn again<T: Logit>(
        &self,
        logits: &CudaSlice<T>,
        layout: &Layout,
        device: &CudaDevice,
        upstream: &Tensor,
        skip: Option<f32>,
        gradient: &mut impl DevicePtrMut<T>,
    ) -> Result<()> {
        let (range, stride) = row_range(layout)?;
        let (of_upstream, upstream_layout) = upstream.storage_and_layout();
        let upstream = on_device(&of_upstream)?.as_cuda_slice::<f32>()?;
        let upstream = upstream.slice(upstream_layout.start_offset()..);
        let upstream = upstream.slice(..upstream_layout.shape().elem_count());
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
        launch(
            &self.bound,
            device,
            Logits::Read(&logits),
            &self.labels,
            &options,
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

const CPU: &str = "an operation on a CUDA device was given CPU storage";

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
            &storage.device,
            self.upstream,
            self.skip,
            CudaDType::as_cuda_slice_mut(gradient)?,
        ))
    }
}

/// The loss of a batch, a part of its rows after the other.
pub(crate) struct DeviceBatch<'a> {
    bound: &'a Bound,
    device: &'a CudaDevice,
    labels: &'a Tensor,
    factor: DeviceFactor<'a>,
    divisor: Option<&'a Tensor>,
    rows: DeviceRows,
}

/// What the gradient of each row's loss is multiplied by.
#[derive(Clone, Copy)]
pub(crate) enum DeviceFactor<'a> {
    One,
    /// One number, `[1]`.
    Scalar(&'a Tensor),
    /// `[N]`
    PerRow(&'a Tensor),
}

/// What the steps of all parts leave.
struct DeviceRows {
    row_losses: CudaSlice<f32>,
    hits: CudaSlice<u8>,
    /// One for each part.
    losses: CudaSlice<f32>,
    parts: usize,
}

impl<'a> DeviceBatch<'a> {
    /// A batch of so many parts; `labels` are contiguous.
    pub(crate) fn new(
        bound: &'a Bound,
        labels: &'a Tensor,
        factor: DeviceFactor<'a>,
        divisor: Option<&'a Tensor>,
        parts: usize,
    ) -> Result<Self> {
        let Device::Cuda(device) = labels.device() else {
            bail!("{CPU}");
        };
        let rows = labels.elem_count();
        Ok(Self {
            bound,
            device,
            labels,
            factor,
            divisor,
            rows: DeviceRows {
                row_losses: alloc(device, rows)?,
                hits: alloc(device, rows)?,
                losses: alloc(device, parts)?,
                parts: 0,
            },
        })
    }
}

impl BatchLoss for DeviceBatch<'_> {
    fn part(&mut self, logits: &Tensor, begin: usize, over: bool) -> Result<()> {
        let count = logits.dim(0)?;
        logits.inplace_op1(&PartOp {
            bound: self.bound,
            labels: self.labels.narrow(0, begin, count)?,
            factor: self.factor,
            begin,
            over,
            rows: RefCell::new(&mut self.rows),
        })
    }

    fn results(self) -> Result<RowResults> {
        let rows = self.labels.elem_count();
        let sum = match self.rows.parts {
            0 => Tensor::zeros((), DType::F32, self.labels.device())?,
            parts => tensor(self.rows.losses, self.device, parts).sum_all()?,
        };
        self.bound.poll(self.device)?;
        Ok(RowResults {
            loss: match self.divisor {
                Some(divisor) => (sum / divisor.reshape(())?)?,
                None => sum,
            },
            row_losses: tensor(self.rows.row_losses, self.device, rows),
            hits: tensor(self.rows.hits, self.device, rows),
        })
    }
}

/// Loss of a part's logits, and their gradient over them where it is wanted.
struct PartOp<'a> {
    bound: &'a Bound,
    labels: Tensor,
    factor: DeviceFactor<'a>,
    begin: usize,
    over: bool,
    rows: RefCell<&'a mut DeviceRows>,
}

impl InplaceOp1 for PartOp<'_> {
    fn name(&self) -> &'static str {
        "ala-loss-in-place"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        bail!("{CPU}")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let Some((begin, end)) = layout.contiguous_offsets() else {
            bail!("a product of matrices is not contiguous");
        };
        let device = storage.device.clone();
        let mut logits = storage.as_cuda_slice_mut::<f32>()?.slice_mut(begin..end);
        let mut rows = self.rows.borrow_mut();
        let rows = &mut **rows;
        let range = self.begin..self.begin + self.labels.elem_count();
        let mut row_losses = rows.row_losses.slice_mut(range.clone());
        let mut hits = rows.hits.slice_mut(range.clone());
        let mut loss = rows.losses.slice_mut(rows.parts..rows.parts + 1);
        rows.parts += 1;
        let outputs = Outputs::new()
            .row_losses(&mut row_losses)
            .hits(&mut hits)
            .loss(&mut loss);

        let (factor, wanted) = match self.factor {
            DeviceFactor::One => (None, 0..0),
            DeviceFactor::Scalar(factor) => (Some(factor), 0..1),
            DeviceFactor::PerRow(factors) => (Some(factors), range),
        };
        let of_factor = factor.map(Tensor::storage_and_layout);
        let factor = of_factor
            .as_ref()
            .map(|(storage, layout)| {
                let all = on_device(storage)?.as_cuda_slice::<f32>()?;
                let start = layout.start_offset();
                Ok::<_, Error>(all.slice(start + wanted.start..start + wanted.end))
            })
            .transpose()?;
        let options = Options::new().upstream(match (&factor, self.factor) {
            (Some(factors), DeviceFactor::PerRow(_)) => Upstream::PerRow(factors),
            (Some(factor), _) => Upstream::Scalar(factor),
            (None, _) => Upstream::One,
        });
        if self.over {
            let logits = Logits::Over(&mut logits);
            launch(self.bound, &device, logits, &self.labels, &options, outputs)
        } else {
            let logits = Logits::Read(&logits.as_view());
            launch(self.bound, &device, logits, &self.labels, &options, outputs)
        }
    }
}

/// What a mean over the rows of these contiguous labels divides by, `[1]`; 0 where none counts.
pub(crate) fn divisor_of(bound: &Bound, labels: &Tensor) -> Result<Tensor> {
    let Device::Cuda(device) = labels.device() else {
        bail!("{CPU}");
    };
    let mut divisor = alloc::<f32>(device, 1)?;
    let (storage, range) = label_range(labels);
    let rows = range.len();
    by_label!(on_device(&storage)?, range, labels => {
        bound.enqueue(device, rows, |loss, stream, workspace| {
            loss.divisor(stream, labels, &Options::new(), &mut divisor, workspace)
        })?
    });
    Ok(tensor(divisor, device, 1))
}
