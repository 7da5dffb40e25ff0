//! Steps on a CUDA stream of the caller's.

use std::ffi::c_void;
use std::mem::offset_of;
use std::ptr;
use std::sync::Arc;

use ala_loss::cuda::{
    self, CudaElement, CudaError, CudaLoss, LabelType, RawMixed, RawStep, Upstream, Workspace,
};
use ala_loss::{ClassCounts, Error, ZeroCounts};
use cudarc::driver::{CudaContext, result, sys};
use half::{bf16, f16};

use crate::given::{self, SecondLabels, none_given};
use crate::loss::{AlaLoss, AlaSummary};
use crate::numbers::{AlaElement, AlaLabel, AlaUpstream, entry, flag, for_label};
use crate::pointers::{self, Growing};
use crate::status::{AlaStatus, Failure, guarded};

/// A loss bound to the primary context of a device. Made by ala_cuda_bind or ala_cuda_bind_current,
/// given back by ala_cuda_destroy.
pub struct AlaCudaLoss {
    loss: CudaLoss,
    /// For new class counts.
    zero_counts: ZeroCounts,
}

impl AlaCudaLoss {
    fn new(loss: &AlaLoss, context: &Arc<CudaContext>) -> Result<Self, Failure> {
        Ok(Self {
            loss: loss.loss.bind(context)?,
            zero_counts: loss.zero_counts,
        })
    }
}

/// Device memory that launches need beside the caller's: a result, and one float for each row.
/// Launches that may overlap need a workspace each. Made by ala_cuda_workspace_create, given back
/// by ala_cuda_workspace_destroy.
pub struct AlaCudaWorkspace {
    workspace: Workspace,
    context: Arc<CudaContext>,
}

impl std::fmt::Debug for AlaCudaLoss {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.loss.fmt(formatter)
    }
}

impl std::fmt::Debug for AlaCudaWorkspace {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.workspace.fmt(formatter)
    }
}

/// A step on a device, N rows of C classes. Set all to 0, then size, rows, logits, labels and what
/// else is wanted. Addresses are of device memory (CUdeviceptr), 0 for none. Strides are in
/// elements, from the start of one row to the next.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct AlaCudaStep {
    /// sizeof(AlaCudaStep).
    pub size: usize,
    /// An AlaElement but ALA_ELEMENT_F64: the type of logits and gradient.
    pub element: u32,
    /// An AlaLabel: the type of labels.
    pub label: u32,
    /// Rows N.
    pub rows: usize,
    /// Logits, `[N, C]`. The margin losses take cosines that are not yet scaled.
    pub logits: u64,
    /// At least C; 0 for C.
    pub logits_stride: usize,
    /// Labels, `[N]`.
    pub labels: u64,
    /// Where the gradient with respect to the logits goes, `[N, C]`; or 0. The logits' own address
    /// and stride write it over them.
    pub gradient: u64,
    /// At least C; 0 for C.
    pub gradient_stride: usize,
    /// Where each row's weighted loss before reduction goes, `[N]` of float; or 0.
    pub row_losses: u64,
    /// Where it goes whether a row's largest logit is its target's (1, else 0), `[N]` of uint8_t;
    /// or 0.
    pub hits: u64,
    /// Where the loss goes, one float; or 0: ala_cuda_read has it all the same.
    pub loss: u64,
    /// The upstream gradient: nothing, one float or `[N]` of float, as upstream_kind says.
    pub upstream: u64,
    /// An AlaUpstream.
    pub upstream_kind: u32,
    /// 1 where the step does nothing if the upstream gradient, which the device looks at, is
    /// skip_if_upstream; else 0. Only with ALA_UPSTREAM_SCALAR: for a backward pass whose gradient
    /// a forward pass made already.
    pub has_skip: u32,
    /// See has_skip.
    pub skip_if_upstream: f32,
    /// The loss scale of mixed precision: multiplies the gradient before it is rounded; 0 for 1.
    pub gradient_scale: f32,
    /// 1 where the step's kernels may begin while the kernel before them in the stream ends, else
    /// 0. Results are the same.
    pub overlap: u32,
    /// 0.
    pub reserved: u32,
    /// A second label for each row, `[N]`, where lambda_kind says so; else 0. As in AlaCpuStep.
    pub second_labels: u64,
    /// An AlaLabel: the type of second_labels.
    pub second_label: u32,
    /// An AlaLambda.
    pub lambda_kind: u32,
    /// With ALA_LAMBDA_PER_ROW: each row's lambda, `[N]` of float, in [0, 1].
    pub lambdas: u64,
    /// With ALA_LAMBDA_SCALAR: every row's lambda, in [0, 1]. A captured graph keeps it: where it
    /// must vary, give each row's.
    pub lambda: f32,
    /// An AlaDivisor.
    pub divisor_kind: u32,
    /// With ALA_DIVISOR_GIVEN: what the mean divides by, one float, which the device does not
    /// check.
    pub divisor: u64,
    /// A weight for each row, `[N]` of float, which multiplies the row's loss and gradient and
    /// counts in ALA_DIVISOR_WEIGHTS; or 0. Each is 0, or from 1e-20 to 1e20, and the same times
    /// its class's weight.
    pub row_weights: u64,
    /// Where each row's predicted class goes, the lowest of its largest logit, `[N]` of uint32_t;
    /// or 0. ALA_NO_CLASS where a logit is NaN and where the row does not count.
    pub predictions: u64,
    /// Running counts, `[2, C]` of uint64_t, to which the step adds, of the rows that count and
    /// whose first label is a class, by that class: the rows, then the hits; or 0.
    pub class_counts: u64,
}

// SAFETY: `repr(C)`, its size, then numbers.
unsafe impl Growing for AlaCudaStep {
    const NAME: &'static str = "AlaCudaStep";
    const FIRST_SIZE: usize = offset_of!(Self, reserved) + size_of::<u32>();
}

/// Makes the context that was current on this thread current again, whatever the call needed.
struct Current(sys::CUcontext);

impl Current {
    /// After it is known that there is a driver.
    fn keep() -> Self {
        Self(current())
    }
}

/// Null where there is none, or where the driver is not initialised yet.
fn current() -> sys::CUcontext {
    result::ctx::get_current()
        .ok()
        .flatten()
        .unwrap_or(ptr::null_mut())
}

impl Drop for Current {
    fn drop(&mut self) {
        if current() != self.0 {
            // A context that is gone meanwhile cannot be current again.
            // SAFETY: it was current before.
            let _ = unsafe { result::ctx::set_current(self.0) };
        }
    }
}

/// Whether there is a CUDA driver, without calling it: ALA_STATUS_OK or ALA_STATUS_NO_DRIVER.
#[unsafe(no_mangle)]
pub extern "C" fn ala_cuda_probe() -> AlaStatus {
    guarded(|| Ok(cuda::probe_driver()?))
}

/// Binds a loss to the primary context of a device, which is the one that the CUDA runtime and
/// PyTorch use, and puts it to *out; NULL where that fails. The class table is uploaded. The loss
/// may be destroyed then. The thread's current context stays what it is, as in every call.
///
/// ALA_STATUS_NO_DRIVER, ALA_STATUS_DRIVER where there is no such device, ALA_STATUS_DEVICE,
/// ALA_STATUS_SHAPE for too many classes, ALA_STATUS_PARAMETER for a class weight that is neither 0
/// nor from 1e-20 to 1e20.
///
/// # Safety
/// loss must be one that was made and not destroyed; out valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ala_cuda_bind(
    loss: *const AlaLoss,
    ordinal: u32,
    out: *mut *mut AlaCudaLoss,
) -> AlaStatus {
    guarded(|| {
        let make = || {
            // SAFETY: the caller's promise.
            let loss = unsafe { pointers::borrowed("loss", loss)? };
            cuda::probe_driver()?;
            let _current = Current::keep();
            let context = cuda::context(ordinal as usize)?;
            AlaCudaLoss::new(loss, &context)
        };
        // SAFETY: the caller's promise.
        unsafe { pointers::hand_out(out, make) }
    })
}

/// As ala_cuda_bind, to the context that is current on this thread. ALA_STATUS_DEVICE where there
/// is none, or where it is not its device's primary context.
///
/// # Safety
/// As ala_cuda_bind.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ala_cuda_bind_current(
    loss: *const AlaLoss,
    out: *mut *mut AlaCudaLoss,
) -> AlaStatus {
    guarded(|| {
        let make = || {
            // SAFETY: the caller's promise.
            let loss = unsafe { pointers::borrowed("loss", loss)? };
            cuda::probe_driver()?;
            let kept = Current::keep();
            let context = current_primary(kept.0)?;
            AlaCudaLoss::new(loss, &context)
        };
        // SAFETY: the caller's promise.
        unsafe { pointers::hand_out(out, make) }
    })
}

/// The device's primary context, where that is the one that is current.
fn current_primary(current: sys::CUcontext) -> Result<Arc<CudaContext>, Failure> {
    if current.is_null() {
        return Err(Failure::new(
            AlaStatus::Device,
            "no CUDA context is current on this thread: bind to a device by its ordinal",
        ));
    }
    let mut device = 0;
    // SAFETY: it writes the current context's device, and there is a current context.
    unsafe { sys::cuCtxGetDevice(&mut device) }.result()?;
    for ordinal in 0..result::device::get_count()? {
        if result::device::get(ordinal)? != device {
            continue;
        }
        let context = cuda::context(ordinal as usize)?;
        if context.cu_ctx() == current {
            return Ok(context);
        }
    }
    Err(Failure::new(
        AlaStatus::Device,
        "the current CUDA context is not its device's primary context",
    ))
}

/// Loads the kernels for logits of an AlaElement. The first step of a type does so where it has not
/// been done; while a stream is captured into a graph it cannot be done. Steps with second labels,
/// row weights, predictions or class counts need those of ala_cuda_load_recipes.
///
/// # Safety
/// bound must be one that was bound and not destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ala_cuda_load(bound: *const AlaCudaLoss, element: u32) -> AlaStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let bound = unsafe { pointers::borrowed("bound", bound)? };
        let _current = Current::keep();
        match entry("element", AlaElement::ALL, element)? {
            AlaElement::F32 => bound.loss.load::<f32>()?,
            AlaElement::F16 => bound.loss.load::<f16>()?,
            AlaElement::Bf16 => bound.loss.load::<bf16>()?,
            AlaElement::F64 => return Err(no_f64()),
        }
        Ok(())
    })
}

/// The same for steps with second labels, row weights, predictions or class counts, and for losses
/// that smooth labels, of which ala_cuda_load loads no others. The driver compiles these kernels
/// where it has not done so before: that takes some seconds, once a machine.
///
/// # Safety
/// bound must be one that was bound and not destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ala_cuda_load_recipes(
    bound: *const AlaCudaLoss,
    element: u32,
) -> AlaStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let bound = unsafe { pointers::borrowed("bound", bound)? };
        let _current = Current::keep();
        match entry("element", AlaElement::ALL, element)? {
            AlaElement::F32 => bound.loss.load_recipes::<f32>()?,
            AlaElement::F16 => bound.loss.load_recipes::<f16>()?,
            AlaElement::Bf16 => bound.loss.load_recipes::<bf16>()?,
            AlaElement::F64 => return Err(no_f64()),
        }
        Ok(())
    })
}

/// Gives a bound loss new class counts as ala_loss_with_counts does, without binding it anew: the
/// class table is uploaded on the stream into the memory where it was. Launches that the stream has
/// before it see the old one, later ones the new one; so does a captured graph when it is replayed.
/// Order other streams that launch the loss yourself. Not while a stream is captured.
///
/// ALA_STATUS_SHAPE where classes is not the loss's, ALA_STATUS_PARAMETER for a count or a class
/// weight out of range; the old ones stay then. After ALA_STATUS_DRIVER the table may be in part
/// the old one.
///
/// # Safety
/// bound must be one that was bound and not destroyed, which no other call may be using; the stream
/// must be one of its context; counts valid for its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ala_cuda_set_counts(
    bound: *mut AlaCudaLoss,
    stream: *mut c_void,
    counts: *const u64,
    classes: usize,
) -> AlaStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (bound, counts) = unsafe {
            (
                pointers::exclusive("bound", bound)?,
                pointers::slice("counts", counts, classes)?,
            )
        };
        let counts = ClassCounts::with_zero_policy(counts, bound.zero_counts)?;
        let _current = Current::keep();
        let context = Arc::clone(bound.loss.context());
        // SAFETY: the caller's promise.
        let stream = unsafe { context.wrap_borrowed_stream(stream.cast()) };
        Ok(bound.loss.set_counts(&stream, &counts)?)
    })
}

fn no_f64() -> Failure {
    Failure::new(
        AlaStatus::Argument,
        "element is ALA_ELEMENT_F64: the kernels have f32, f16 and bf16",
    )
}

/// Allocates a workspace for batches of up to so many rows and puts it to *out; NULL where that
/// fails. Waits for the device's default stream: any stream may use the workspace then.
///
/// # Safety
/// bound must be one that was bound and not destroyed; out valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ala_cuda_workspace_create(
    bound: *const AlaCudaLoss,
    rows: usize,
    out: *mut *mut AlaCudaWorkspace,
) -> AlaStatus {
    guarded(|| {
        let make = || {
            // SAFETY: the caller's promise.
            let bound = unsafe { pointers::borrowed("bound", bound)? };
            pointers::bytes_of::<f32>("the workspace", rows)?;
            let _current = Current::keep();
            let context = Arc::clone(bound.loss.context());
            context.bind_to_thread()?;
            let workspace = bound.loss.workspace(&context.default_stream(), rows)?;
            Ok(AlaCudaWorkspace { workspace, context })
        };
        // SAFETY: the caller's promise.
        unsafe { pointers::hand_out(out, make) }
    })
}

/// Enqueues loss and gradient on a stream (a CUstream or cudaStream_t; null is the default stream).
/// Allocates nothing and waits for nothing, so that it can be captured into a graph, once the
/// kernels are loaded (ala_cuda_load, ala_cuda_load_recipes).
///
/// ALA_STATUS_SHAPE for a stride below C or more rows than the workspace has, ALA_STATUS_NULL and
/// ALA_STATUS_ARGUMENT for addresses, ALA_STATUS_CALL for an upstream gradient that does not fit or
/// fields that exclude each other, ALA_STATUS_PARAMETER for a lambda out of range,
/// ALA_STATUS_DRIVER. Nothing is launched then. What is out of range in device memory, a label, a
/// row's lambda or its weight, is told by ala_cuda_read.
///
/// # Safety
/// bound and workspace must be ones that were made and not destroyed, and no other thread may be
/// using the workspace. The addresses must be valid for their shapes, and bound and workspace must
/// stay, until the stream has passed the launch. No buffer may overlap another, but a gradient over
/// the logits. The stream must be one of the context that the loss is bound to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ala_cuda_launch(
    bound: *const AlaCudaLoss,
    workspace: *mut AlaCudaWorkspace,
    stream: *mut c_void,
    step: *const AlaCudaStep,
) -> AlaStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (bound, workspace, step) = unsafe {
            (
                &pointers::borrowed("bound", bound)?.loss,
                pointers::exclusive("workspace", workspace)?,
                pointers::growing(step)?,
            )
        };
        check_owner(bound, workspace)?;
        let raw = raw_step(bound, &step)?;
        let _current = Current::keep();
        let (stream, label) = (stream.cast(), step.label);
        let workspace = &mut workspace.workspace;
        // SAFETY: the caller's promise.
        unsafe {
            match entry("element", AlaElement::ALL, step.element)? {
                AlaElement::F32 => launch::<f32>(bound, stream, &raw, label, workspace),
                AlaElement::F16 => launch::<f16>(bound, stream, &raw, label, workspace),
                AlaElement::Bf16 => launch::<bf16>(bound, stream, &raw, label, workspace),
                AlaElement::F64 => Err(no_f64()),
            }
        }
    })
}

/// Enqueues what a mean over the step's rows divides by, as divisor_kind says: one float at
/// divisor, an address in device memory. As of ala_divisor, so that batches that are parts of a
/// larger one need no host: their divisors are added up, and are each step's divisor
/// (ALA_DIVISOR_GIVEN).
///
/// Of the step only what says which rows count and what they weigh is used: label, rows, labels,
/// second labels with lambda, row_weights and divisor_kind. Statuses are those of ala_cuda_launch,
/// ALA_STATUS_CALL where the step gives a divisor already.
///
/// # Safety
/// As ala_cuda_launch, of what is used, and of divisor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ala_cuda_divisor(
    bound: *const AlaCudaLoss,
    workspace: *mut AlaCudaWorkspace,
    stream: *mut c_void,
    step: *const AlaCudaStep,
    divisor: u64,
) -> AlaStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (bound, workspace, step) = unsafe {
            (
                &pointers::borrowed("bound", bound)?.loss,
                pointers::exclusive("workspace", workspace)?,
                pointers::growing(step)?,
            )
        };
        check_owner(bound, workspace)?;
        let raw = raw_step(bound, &step)?;
        let label = entry("label", AlaLabel::ALL, step.label)?;
        let _current = Current::keep();
        let (stream, workspace) = (stream.cast(), &mut workspace.workspace);
        // SAFETY: the caller's promise.
        unsafe { for_label!(label, L => bound.divisor_raw::<L>(stream, &raw, divisor, workspace)) }
            .map_err(Failure::from)
    })
}

fn check_owner(bound: &CudaLoss, workspace: &AlaCudaWorkspace) -> Result<(), Failure> {
    if **bound.context() != *workspace.context {
        let buffer = "workspace";
        return Err(Error::from(CudaError::OtherContext { buffer }).into());
    }
    Ok(())
}

/// The second labels; `None` where rows have one label.
fn mixed(step: &AlaCudaStep) -> Result<Option<RawMixed>, Failure> {
    let fields = SecondLabels {
        labels: step.second_labels,
        label: step.second_label,
        lambda_kind: step.lambda_kind,
        lambda: step.lambda,
        lambdas: step.lambdas,
    };
    Ok(fields.read()?.map(|(label, lambda)| RawMixed {
        labels: step.second_labels,
        label_type: for_label!(label, L => LabelType::of::<L>()),
        lambda,
    }))
}

fn raw_step(bound: &CudaLoss, step: &AlaCudaStep) -> Result<RawStep, Failure> {
    let stride = |stride: usize| match stride {
        0 => bound.loss().classes(),
        stride => stride,
    };
    let given = |address: u64| (address != 0).then_some(address);
    let upstream = match entry("upstream_kind", AlaUpstream::ALL, step.upstream_kind)? {
        AlaUpstream::One => {
            let given = [("upstream", step.upstream != 0)];
            none_given("upstream_kind is ALA_UPSTREAM_ONE", &given)?;
            Upstream::One
        }
        AlaUpstream::Scalar => Upstream::Scalar(step.upstream),
        AlaUpstream::PerRow => Upstream::PerRow(step.upstream),
    };
    let has_skip = flag("has_skip", step.has_skip)?;
    if !has_skip && step.skip_if_upstream != 0.0 {
        return Err(Failure::new(
            AlaStatus::Call,
            "skip_if_upstream is given, and has_skip is 0: set it to 1",
        ));
    }
    if step.reserved != 0 {
        return Err(Failure::new(AlaStatus::Argument, "reserved is not 0"));
    }
    // Not to leave 64 bits where the kernels count in bytes.
    for (name, stride) in [
        ("logits", stride(step.logits_stride)),
        ("gradient", stride(step.gradient_stride)),
    ] {
        pointers::bytes_of::<u32>(name, step.rows.saturating_mul(stride))?;
    }
    Ok(RawStep {
        rows: step.rows,
        logits: step.logits,
        logits_stride: stride(step.logits_stride),
        labels: step.labels,
        gradient: given(step.gradient),
        gradient_stride: stride(step.gradient_stride),
        row_losses: given(step.row_losses),
        hits: given(step.hits),
        loss: given(step.loss),
        upstream,
        gradient_scale: match step.gradient_scale {
            0.0 => 1.0,
            scale => scale,
        },
        skip_if_upstream: has_skip.then_some(step.skip_if_upstream),
        overlap: flag("overlap", step.overlap)?,
        divisor: given::divisor(step.divisor_kind, step.divisor)?,
        row_weights: given(step.row_weights),
        mixed: mixed(step)?,
        predictions: given(step.predictions),
        class_counts: given(step.class_counts),
    })
}

/// # Safety
/// As [`ala_cuda_launch`].
unsafe fn launch<T: CudaElement>(
    bound: &CudaLoss,
    stream: sys::CUstream,
    step: &RawStep,
    label: u32,
    workspace: &mut Workspace,
) -> Result<(), Failure> {
    let label = entry("label", AlaLabel::ALL, label)?;
    // SAFETY: the caller's promise.
    unsafe { for_label!(label, L => bound.launch_raw::<T, L>(stream, step, workspace)) }
        .map_err(Failure::from)
}

/// Waits for the stream and puts the last launch's result to *summary.
///
/// ALA_STATUS_LABEL where, since the last read, a launch met a label that is neither a class nor
/// the ignore label, ALA_STATUS_PARAMETER where it met a lambda or a row weight out of range: the
/// first such row of the first such launch, told once. ALA_STATUS_WORKSPACE, ALA_STATUS_DRIVER
/// where the driver reports a failure, of earlier work too.
///
/// # Safety
/// workspace must be one that was made and not destroyed, which no other thread may be using; the
/// stream must be that of its launches; summary valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ala_cuda_read(
    workspace: *mut AlaCudaWorkspace,
    stream: *mut c_void,
    summary: *mut AlaSummary,
) -> AlaStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (workspace, summary) = unsafe {
            (
                pointers::exclusive("workspace", workspace)?,
                pointers::place("summary", summary)?,
            )
        };
        let _current = Current::keep();
        workspace.context.bind_to_thread()?;
        // SAFETY: the caller's promise.
        let stream = unsafe { workspace.context.wrap_borrowed_stream(stream.cast()) };
        summary.write(workspace.workspace.read(&stream)?.into());
        Ok(())
    })
}

/// Tells of the launches that the stream held at an earlier poll, without waiting: where they have
/// ended, *ready is 1 and *summary their result; else, as at the first poll, *ready is 0 and
/// *summary stays. One call a step tells of an earlier step. Not while the stream is captured.
///
/// Statuses are those of ala_cuda_read.
///
/// # Safety
/// As ala_cuda_read; ready valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ala_cuda_poll(
    workspace: *mut AlaCudaWorkspace,
    stream: *mut c_void,
    ready: *mut u32,
    summary: *mut AlaSummary,
) -> AlaStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (workspace, ready, summary) = unsafe {
            (
                pointers::exclusive("workspace", workspace)?,
                pointers::place("ready", ready)?,
                pointers::place("summary", summary)?,
            )
        };
        ready.write(0);
        let _current = Current::keep();
        workspace.context.bind_to_thread()?;
        // SAFETY: the caller's promise.
        let stream = unsafe { workspace.context.wrap_borrowed_stream(stream.cast()) };
        if let Some(told) = workspace.workspace.poll(&stream)? {
            summary.write(told.into());
            ready.write(1);
        }
        Ok(())
    })
}

/// Makes a workspace as it was when it was new, and waits for the stream. For the time after
/// ALA_STATUS_WORKSPACE.
///
/// # Safety
/// As ala_cuda_read; no launch may be under way in the workspace.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ala_cuda_workspace_reset(
    workspace: *mut AlaCudaWorkspace,
    stream: *mut c_void,
) -> AlaStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let workspace = unsafe { pointers::exclusive("workspace", workspace)? };
        let _current = Current::keep();
        workspace.context.bind_to_thread()?;
        // SAFETY: the caller's promise.
        let stream = unsafe { workspace.context.wrap_borrowed_stream(stream.cast()) };
        Ok(workspace.workspace.reset(&stream)?)
    })
}

/// Destroys a workspace; nothing where it is null.
///
/// # Safety
/// workspace must be one that was made and not destroyed; no call may be using it, and its launches
/// must have ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ala_cuda_workspace_destroy(workspace: *mut AlaCudaWorkspace) -> AlaStatus {
    destroyed(|| {
        // SAFETY: the caller's promise.
        unsafe { pointers::take_back("workspace", workspace) }
    })
}

/// Destroys a bound loss; nothing where it is null. Workspaces stay as they are.
///
/// # Safety
/// bound must be one that was bound and not destroyed; no call may be using it, and its launches
/// must have ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ala_cuda_destroy(bound: *mut AlaCudaLoss) -> AlaStatus {
    destroyed(|| {
        // SAFETY: the caller's promise.
        unsafe { pointers::take_back("bound", bound) }
    })
}

/// Where there is no driver there is nothing that could be destroyed but null.
fn destroyed(body: impl FnOnce() -> Result<(), Failure>) -> AlaStatus {
    guarded(|| {
        let _current = cuda::probe_driver().is_ok().then(Current::keep);
        body()
    })
}
