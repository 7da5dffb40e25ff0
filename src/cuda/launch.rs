//! The one place where kernels are launched: parameters in, driver calls out.

use std::ffi::c_void;
use std::mem::offset_of;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::{result, sys};

use super::abi::{
    ALA_BY_ROWS, ALA_COUNTED, ALA_FOCAL, ALA_GIVEN, ALA_HAS_IGNORE, ALA_LABEL_I64, ALA_LABEL_U8,
    ALA_MOST_BLOCKS, ALA_OUT_OF_PHASE, ALA_REDUCTION_MEAN, ALA_REDUCTION_SUM, ALA_UPSTREAM_PER_ROW,
    ALA_WEIGHTED, AlaParams, AlaRecipe, AlaState, AlaTarget,
};
use super::element::CudaLabel;
use super::error::{CudaError, driver};
use super::image::Steps;
use super::module::{Kernel, Kernels, THREADS};
use super::plan::{Batch, Grid, LaunchShape, Plan, in_phase, shape_of, shape_of_one_block_a_row};
use crate::call::{Divisor, Lambda, Upstream};
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
    /// As [`Options::divisor`](super::Options::divisor), a given one at an address of `f32`.
    pub divisor: Divisor<u64>,
    /// As [`Options::row_weights`](super::Options::row_weights): `f32`, `[N]`.
    pub row_weights: Option<u64>,
    /// As [`Options::mixed_with`](super::Options::mixed_with).
    pub mixed: Option<RawMixed>,
    /// As [`Outputs::predictions`](super::Outputs::predictions): `u32`, `[N]`.
    pub predictions: Option<u64>,
    /// As [`Outputs::class_counts`](super::Outputs::class_counts): `u64`, `[2, C]`.
    pub class_counts: Option<u64>,
}

/// The second labels of a [`RawStep`], and how much is the first ones'.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RawMixed {
    /// Second labels `[N]`.
    pub labels: u64,
    /// Their type.
    pub label_type: LabelType,
    /// One number, or an address of `f32`, `[N]`.
    pub lambda: Lambda<f32, u64>,
}

/// The type of labels that are told by address alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelType(pub(super) u32);

impl LabelType {
    /// That of `L`.
    pub const fn of<L: CudaLabel>() -> Self {
        Self(L::TYPE)
    }

    /// In bytes.
    pub(super) fn alignment(self) -> u64 {
        match self.0 {
            ALA_LABEL_U8 => 1,
            ALA_LABEL_I64 => 8,
            _ => 4,
        }
    }
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
            divisor: Divisor::Weights,
            row_weights: None,
            mixed: None,
            predictions: None,
            class_counts: None,
        }
    }

    /// Which kernels take it.
    pub(super) fn steps(&self, loss: &Loss) -> Steps {
        let is_plain = self.row_weights.is_none()
            && self.mixed.is_none()
            && self.predictions.is_none()
            && self.class_counts.is_none()
            && loss.label_smoothing() == 0.0;
        match is_plain {
            true => Steps::Plain,
            false => Steps::Recipe,
        }
    }
}

/// Device addresses that belong to the loss and its workspace.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnAddresses {
    pub(super) targets: u64,
    pub(super) others: u64,
    pub(super) weighed: u64,
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

/// A step's parameters. Kernels of plain steps are given the first part of them.
pub(super) fn recipe(
    loss: &Loss,
    constants: Constants,
    own: OwnAddresses,
    step: &RawStep,
    label_type: u32,
) -> AlaRecipe {
    let parameters = parameters(loss, constants, own, step, label_type);
    let epsilon = loss.label_smoothing();
    let (lambda, lambda_of_all) = match step.mixed.map(|mixed| mixed.lambda) {
        None => (0, 1.0),
        Some(Lambda::Scalar(lambda)) => (0, lambda),
        Some(Lambda::PerRow(address)) => (address, 0.0),
    };
    let class_rows = step.class_counts.unwrap_or(0);
    let class_hits = match step.class_counts {
        Some(address) => address + (loss.classes() * size_of::<u64>()) as u64,
        None => 0,
    };
    AlaRecipe {
        step: parameters,
        second_labels: step.mixed.map_or(0, |mixed| mixed.labels),
        lambda,
        row_weights: step.row_weights.unwrap_or(0),
        predictions: step.predictions.unwrap_or(0),
        class_rows,
        class_hits,
        weighed: own.weighed,
        all_classes: own.targets + (size_of::<AlaTarget>() * loss.classes()) as u64,
        lambda_of_all,
        own: (1.0 - epsilon) as f32,
        each: (epsilon / loss.classes() as f64) as f32,
        second_label_type: step.mixed.map_or(0, |mixed| mixed.label_type.0),
        reserved: 0,
    }
}

fn parameters(
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
    let weighted = constants.weighted || step.row_weights.is_some();
    set(ALA_WEIGHTED, weighted);
    set(
        ALA_UPSTREAM_PER_ROW,
        matches!(step.upstream, Upstream::PerRow(_)),
    );
    // With gamma 0 focal loss is cross-entropy, and 0^0 is not to be taken on the device.
    set(
        ALA_FOCAL,
        loss.table().focal_gamma().is_some_and(|gamma| gamma > 0.0),
    );
    let in_state = own.state + offset_of!(AlaState, rounded_divisor) as u64;
    let (counted, given) = match step.divisor {
        Divisor::Weights => (loss.ignore_label().is_some() || weighted, in_state),
        Divisor::Rows => (loss.ignore_label().is_some(), in_state),
        Divisor::Given(address) => (true, address),
    };
    set(ALA_GIVEN, matches!(step.divisor, Divisor::Given(_)));
    set(ALA_COUNTED, loss.reduction() == Reduction::Mean && counted);
    set(ALA_BY_ROWS, step.divisor == Divisor::Rows);
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
        given,
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
    recipe: &AlaRecipe,
    element_bytes: u64,
    how: How,
) -> Result<(), CudaError> {
    // All that can be refused comes before the first launch.
    let parameters = &recipe.step;
    let batch = Batch::of(parameters);
    let overlap = how.overlap && kernels.overlap;
    let shape = match how.shape {
        Some(shape) => shape,
        None => shape_of(kernels, &batch, element_bytes)?,
    };
    let plan = Plan::of(kernels, &batch, element_bytes, shape)?;
    // SAFETY: the caller's promise.
    unsafe { count(kernels, stream, recipe, overlap)? };
    let phase = match in_phase(parameters, element_bytes) {
        true => 0,
        false => ALA_OUT_OF_PHASE,
    };
    let recipe = with(recipe, |step| step.flags |= phase);
    // SAFETY: the caller's promise.
    let launched = unsafe { launch_plan(&plan, stream, &recipe, overlap) };
    match launched {
        Err(CudaError::Driver {
            code: TOO_LARGE, ..
        }) if how.shape.is_none() => {
            // The context has fewer multiprocessors than the device: no block waits for another
            // then.
            let shape = shape_of_one_block_a_row(kernels, &batch, element_bytes);
            let plan = Plan::of(kernels, &batch, element_bytes, shape)?;
            // SAFETY: the caller's promise.
            unsafe { launch_plan(&plan, stream, &recipe, overlap) }
        }
        launched => launched,
    }
}

/// # Safety
/// As [`fused`].
unsafe fn launch_plan(
    plan: &Plan,
    stream: sys::CUstream,
    recipe: &AlaRecipe,
    overlap: bool,
) -> Result<(), CudaError> {
    let recipe = with(recipe, |step| {
        step.parts = plan.parts;
        step.part_vectors = plan.part_vectors;
    });
    // SAFETY: the caller's promise.
    unsafe { launch_with(plan.kernel, plan.grid, stream, &recipe, overlap) }
}

/// The same with another step.
fn with(recipe: &AlaRecipe, change: impl FnOnce(&mut AlaParams)) -> AlaRecipe {
    let mut recipe = *recipe;
    change(&mut recipe.step);
    recipe
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
    recipe: &AlaRecipe,
    overlap: bool,
) -> Result<(), CudaError> {
    const ROWS_A_THREAD: u64 = 4;
    let parameters = &recipe.step;
    if parameters.flags & (ALA_COUNTED | ALA_GIVEN) != ALA_COUNTED {
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
            recipe,
            overlap,
        )
    }
}

/// The same with a number that the launch is told apart by, from others in the same workspace.
pub(super) fn numbered(recipe: &AlaRecipe) -> AlaRecipe {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    with(recipe, |step| step.launch = number)
}

/// A kernel of the loss, which takes one `AlaRecipe`, or the `AlaParams` that it begins with.
///
/// # Safety
/// As [`fused`].
unsafe fn launch_with(
    kernel: Kernel,
    grid: Grid,
    stream: sys::CUstream,
    recipe: &AlaRecipe,
    overlap: bool,
) -> Result<(), CudaError> {
    let recipe = numbered(recipe);
    let together = recipe.step.parts > 1;
    let beside = Beside { together, overlap };
    // The driver copies the parameters during the call, as many bytes as the kernel takes, and
    // writes to none of them.
    let mut arguments = [ptr::from_ref(&recipe).cast_mut().cast::<c_void>()];
    // SAFETY: the kernel takes one AlaRecipe by value, or one AlaParams, which is at its beginning;
    // the rest is the caller's promise.
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
