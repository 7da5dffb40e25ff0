//! The one place where kernels are launched: parameters in, driver calls out.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::{result, sys};

use super::abi::{
    ALA_COUNTED, ALA_FOCAL, ALA_HAS_IGNORE, ALA_MOST_BLOCKS, ALA_OUT_OF_PHASE, ALA_REDUCTION_MEAN,
    ALA_REDUCTION_SUM, ALA_UPSTREAM_PER_ROW, ALA_WEIGHTED, AlaParams,
};
use super::error::{CudaError, driver};
use super::module::{Kernel, Kernels, THREADS};
use super::plan::{Batch, Grid, LaunchShape, Plan, in_phase, shape_of, shape_of_one_block_a_row};
use crate::call::Upstream;
use crate::loss::Loss;
use crate::reduction::Reduction;

/// A step by device addresses, for callers that hold no cudarc slices. Strides are in elements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RawStep {
    /// Rows `N`.
    pub rows: usize,
    /// Logits `[N, C]`.
    pub logits: u64,
    /// At least `C`.
    pub logits_stride: usize,
    /// Labels `[N]`.
    pub labels: u64,
    /// Where the gradient goes, or `None`; the logits' own address and stride write it over them.
    pub gradient: Option<u64>,
    /// At least `C`.
    pub gradient_stride: usize,
    /// Where the row losses go (`f32`, `[N]`); into the workspace where `None`.
    pub row_losses: Option<u64>,
    /// Where the top-1 hits go (`u8`, `[N]`), or `None`.
    pub hits: Option<u64>,
    /// Where the loss goes (one `f32`), or `None`: into the workspace alone.
    pub loss: Option<u64>,
    /// The upstream gradient, at addresses of `f32`.
    pub upstream: Upstream<u64>,
    /// Multiplies the gradient before it is rounded; 1 for none.
    pub gradient_scale: f32,
    /// As [`Options::skip_if_upstream`](super::Options::skip_if_upstream).
    pub skip_if_upstream: Option<f32>,
    /// As [`Options::overlap`](super::Options::overlap).
    pub overlap: bool,
}

impl RawStep {
    /// `rows` rows of `classes` neighbouring logits, and their labels; no output yet, all else at
    /// its default. `gradient_stride` is `classes` too.
    ///
    /// ```no_run
    /// use ala_loss::cuda::{CudaLoss, RawStep, Workspace};
    ///
    /// /// Of `f32` logits and `i64` labels of another library, on the context's default stream.
    /// ///
    /// /// # Safety
    /// /// That of [`CudaLoss::launch_raw`].
    /// unsafe fn enqueue(
    ///     loss: &CudaLoss,
    ///     workspace: &mut Workspace,
    ///     (rows, logits, labels, gradient): (usize, u64, u64, u64),
    /// ) -> Result<(), ala_loss::Error> {
    ///     let mut step = RawStep::new(rows, loss.loss().classes(), logits, labels);
    ///     step.gradient = Some(gradient);
    ///     let stream = loss.context().default_stream().cu_stream();
    ///     // SAFETY: the caller's promise.
    ///     unsafe { loss.launch_raw::<f32, i64>(stream, &step, workspace) }
    /// }
    /// ```
    pub fn new(rows: usize, classes: usize, logits: u64, labels: u64) -> Self {
        Self {
            rows,
            logits,
            logits_stride: classes,
            labels,
            gradient: None,
            gradient_stride: classes,
            row_losses: None,
            hits: None,
            loss: None,
            upstream: Upstream::One,
            gradient_scale: 1.0,
            skip_if_upstream: None,
            overlap: false,
        }
    }
}

/// Device addresses that belong to the loss and its workspace.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnAddresses {
    pub(super) targets: u64,
    pub(super) others: u64,
    pub(super) exact: u64,
    pub(super) state: u64,
    pub(super) blocks: u64,
    pub(super) row_losses: u64,
}

/// What of the table is passed by value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Constants {
    pub(super) slope: f32,
    pub(super) weighted: bool,
}

pub(super) fn parameters(
    loss: &Loss,
    constants: Constants,
    own: OwnAddresses,
    step: &RawStep,
    label_type: u32,
) -> AlaParams {
    let mut flags = 0;
    let mut set = |bit: u32, on: bool| {
        if on {
            flags |= bit;
        }
    };
    set(ALA_HAS_IGNORE, loss.ignore_label().is_some());
    set(ALA_WEIGHTED, constants.weighted);
    set(
        ALA_UPSTREAM_PER_ROW,
        matches!(step.upstream, Upstream::PerRow(_)),
    );
    // With gamma 0 focal loss is cross-entropy, and 0^0 is not to be taken on the device.
    set(
        ALA_FOCAL,
        loss.table().focal_gamma().is_some_and(|gamma| gamma > 0.0),
    );
    let counted = loss.ignore_label().is_some() || constants.weighted;
    set(ALA_COUNTED, loss.reduction() == Reduction::Mean && counted);
    let rows_32 = u32::try_from(step.rows).unwrap_or(u32::MAX);
    AlaParams {
        logits: step.logits,
        gradient: step.gradient.unwrap_or(0),
        labels: step.labels,
        targets: own.targets,
        others: own.others,
        exact: own.exact,
        upstream: match step.upstream {
            Upstream::One => 0,
            Upstream::Scalar(address) | Upstream::PerRow(address) => address,
        },
        row_losses: step.row_losses.unwrap_or(own.row_losses),
        hits: step.hits.unwrap_or(0),
        loss: step.loss.unwrap_or(0),
        divisor: 0,
        state: own.state,
        blocks: own.blocks,
        rows: step.rows as u64,
        logits_stride: step.logits_stride as u64,
        gradient_stride: step.gradient_stride as u64,
        ignore_label: loss.ignore_label().unwrap_or(-1),
        classes: loss.classes() as u32,
        label_type,
        reduction: match loss.reduction() {
            Reduction::Mean => ALA_REDUCTION_MEAN,
            Reduction::Sum | Reduction::None => ALA_REDUCTION_SUM,
        },
        flags,
        slope: constants.slope,
        focal_gamma: loss.table().focal_gamma().unwrap_or(0.0) as f32,
        gradient_factor: match (loss.reduction(), counted, step.rows) {
            (Reduction::Mean, false, rows @ 1..) => {
                (f64::from(step.gradient_scale) / rows as f64) as f32
            }
            _ => step.gradient_scale,
        },
        parts: 1,
        part_vectors: 0,
        launch: 0,
        skipped_upstream: step.skip_if_upstream.unwrap_or(f32::NAN),
        rows_32,
        sure_rows: match step.skip_if_upstream {
            Some(_) => 0,
            None => rows_32,
        },
    }
}

/// How a step is launched, beside its parameters.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct How {
    /// A shape other than the crate's own.
    pub(super) shape: Option<LaunchShape>,
    /// As [`Options::overlap`](super::Options::overlap).
    pub(super) overlap: bool,
}

/// How a kernel runs beside others.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Beside {
    /// Its blocks wait for one another, so that all must run at once.
    pub(super) together: bool,
    /// It may begin while the kernel before it ends.
    pub(super) overlap: bool,
}

/// Enqueues loss and gradient: one kernel, two where the mean's divisor is counted first.
///
/// # Safety
/// Every address in `parameters` must be valid for its shape, and stay so until the stream has
/// passed the launch; the stream and the kernels must be of the context that is current on this
/// thread.
pub(super) unsafe fn fused(
    kernels: &Kernels,
    stream: sys::CUstream,
    parameters: &AlaParams,
    element_bytes: u64,
    how: How,
) -> Result<(), CudaError> {
    // All that can be refused comes before the first launch.
    let batch = Batch::of(parameters);
    let overlap = how.overlap && kernels.overlap;
    let shape = match how.shape {
        Some(shape) => shape,
        None => shape_of(kernels, &batch, element_bytes)?,
    };
    let plan = Plan::of(kernels, &batch, element_bytes, shape)?;
    // SAFETY: the caller's promise.
    unsafe { count(kernels, stream, parameters, overlap)? };
    let phase = match in_phase(parameters, element_bytes) {
        true => 0,
        false => ALA_OUT_OF_PHASE,
    };
    let parameters = AlaParams {
        flags: parameters.flags | phase,
        ..*parameters
    };
    // SAFETY: the caller's promise.
    let launched = unsafe { launch_plan(&plan, stream, &parameters, overlap) };
    match launched {
        Err(CudaError::Driver {
            code: TOO_LARGE, ..
        }) if how.shape.is_none() => {
            // The context has fewer multiprocessors than the device: no block waits for another
            // then.
            let shape = shape_of_one_block_a_row(kernels, &batch, element_bytes);
            let plan = Plan::of(kernels, &batch, element_bytes, shape)?;
            // SAFETY: the caller's promise.
            unsafe { launch_plan(&plan, stream, &parameters, overlap) }
        }
        launched => launched,
    }
}

/// # Safety
/// As [`fused`].
unsafe fn launch_plan(
    plan: &Plan,
    stream: sys::CUstream,
    parameters: &AlaParams,
    overlap: bool,
) -> Result<(), CudaError> {
    let parameters = AlaParams {
        parts: plan.parts,
        part_vectors: plan.part_vectors,
        ..*parameters
    };
    // SAFETY: the caller's promise.
    unsafe { launch_with(plan.kernel, plan.grid, stream, &parameters, overlap) }
}

/// The driver's answer to blocks that wait for one another and would not all run at once.
const TOO_LARGE: u32 = sys::CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE as u32;

/// Counts the rows and their weights, where their mean needs that.
///
/// # Safety
/// As [`fused`].
pub(super) unsafe fn count(
    kernels: &Kernels,
    stream: sys::CUstream,
    parameters: &AlaParams,
    overlap: bool,
) -> Result<(), CudaError> {
    const ROWS_A_THREAD: u64 = 4;
    if parameters.flags & ALA_COUNTED == 0 {
        return Ok(());
    }
    let most = (2 * kernels.device.multiprocessors).clamp(1, ALA_MOST_BLOCKS);
    let blocks = parameters
        .rows
        .div_ceil(u64::from(THREADS) * ROWS_A_THREAD)
        .clamp(1, most.into());
    // SAFETY: the caller's promise.
    unsafe {
        launch_with(
            kernels.count,
            Grid::plain(blocks as u32),
            stream,
            parameters,
            overlap,
        )
    }
}

/// The same with a number that the launch is told apart by, from others in the same workspace.
pub(super) fn numbered(parameters: &AlaParams) -> AlaParams {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    AlaParams {
        launch: NUMBER.fetch_add(1, Ordering::Relaxed),
        ..*parameters
    }
}

/// A kernel of the loss, which takes one `AlaParams`.
///
/// # Safety
/// As [`fused`].
unsafe fn launch_with(
    kernel: Kernel,
    grid: Grid,
    stream: sys::CUstream,
    parameters: &AlaParams,
    overlap: bool,
) -> Result<(), CudaError> {
    let parameters = numbered(parameters);
    let together = parameters.parts > 1;
    let beside = Beside { together, overlap };
    // The driver copies the parameters during the call and writes to none of them.
    let mut arguments = [ptr::from_ref(&parameters).cast_mut().cast::<c_void>()];
    // SAFETY: the kernel takes one AlaParams by value; the rest is the caller's promise.
    unsafe { launch(kernel, grid, stream, &mut arguments, beside) }
}

/// # Safety
/// `arguments` must point to the kernel's own, what these point to on the device must stay valid
/// until the stream has passed the launch, and stream and kernel must be of the context that is
/// current on this thread.
pub(super) unsafe fn launch(
    kernel: Kernel,
    grid: Grid,
    stream: sys::CUstream,
    arguments: &mut [*mut c_void],
    beside: Beside,
) -> Result<(), CudaError> {
    let (blocks, threads) = ((grid.blocks, 1, 1), (grid.threads, 1, 1));
    if beside.together {
        // All its blocks must find room at once: it does not begin beside another kernel.
        // SAFETY: the caller's promise.
        return unsafe {
            result::launch_cooperative_kernel(
                kernel.0,
                blocks,
                threads,
                grid.shared,
                stream,
                arguments,
            )
        }
        .map_err(driver("cuLaunchCooperativeKernel"));
    }
    if beside.overlap {
        let attribute = sys::CUlaunchAttribute {
            id:
                sys::CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue {
                programmaticStreamSerializationAllowed: 1,
            },
        };
        let mut attributes = [attribute];
        let config = sys::CUlaunchConfig {
            gridDimX: grid.blocks,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: grid.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: grid.shared,
            hStream: stream,
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        // SAFETY: the caller's promise; the driver reads the configuration during the call.
        return unsafe {
            sys::cuLaunchKernelEx(&config, kernel.0, arguments.as_mut_ptr(), ptr::null_mut())
        }
        .result()
        .map_err(driver("cuLaunchKernelEx"));
    }
    // SAFETY: the caller's promise.
    unsafe { result::launch_kernel(kernel.0, blocks, threads, grid.shared, stream, arguments) }
        .map_err(driver("cuLaunchKernel"))
}
