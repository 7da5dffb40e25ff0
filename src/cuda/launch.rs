//! The one place where kernels are launched: parameters in, driver calls out.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::{result, sys};

use super::abi::{
    ALA_COUNTED, ALA_FOCAL, ALA_HAS_IGNORE, ALA_MOST_BLOCKS, ALA_OUT_OF_PHASE, ALA_REDUCTION_MEAN,
    ALA_REDUCTION_SUM, ALA_UPSTREAM_PER_ROW, ALA_WEIGHTED, AlaParams, AlaTotals,
};
use super::error::{CudaError, driver};
use super::kernels::{
    DeviceShape, Kernel, Kernels, MOST_CLASSES, RowsTaken, THREADS, TIERS, Tier, WARP,
};
use crate::Error;
use crate::loss::{Loss, Reduction};

/// The upstream gradient of a [`RawStep`]: device addresses of `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RawUpstream {
    /// 1.
    #[default]
    One,
    /// One number.
    Scalar(u64),
    /// A number for each row, `[N]`; only with [`Reduction::None`](crate::Reduction::None).
    PerRow(u64),
}

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
    /// The upstream gradient.
    pub upstream: RawUpstream,
    /// Multiplies the gradient before it is rounded; 1 for none.
    pub gradient_scale: f32,
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
        matches!(step.upstream, RawUpstream::PerRow(_)),
    );
    // With gamma 0 focal loss is cross-entropy, and 0^0 is not to be taken on the device.
    set(
        ALA_FOCAL,
        loss.table().focal_gamma().is_some_and(|gamma| gamma > 0.0),
    );
    let counted = loss.ignore_label().is_some() || constants.weighted;
    set(ALA_COUNTED, loss.reduction() == Reduction::Mean && counted);
    AlaParams {
        logits: step.logits,
        gradient: step.gradient.unwrap_or(0),
        labels: step.labels,
        targets: own.targets,
        others: own.others,
        exact: own.exact,
        upstream: match step.upstream {
            RawUpstream::One => 0,
            RawUpstream::Scalar(address) | RawUpstream::PerRow(address) => address,
        },
        row_losses: step.row_losses.unwrap_or(own.row_losses),
        hits: step.hits.unwrap_or(0),
        state: own.state,
        blocks: own.blocks,
        scratch: 0,
        row_scratch: 0,
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
    }
}

/// Enqueues loss and gradient: one kernel, two where the mean's divisor is counted first. `chosen` is a shape other than
/// the crate's own.
///
/// # Safety
/// Every address in `parameters` must be valid for its shape, and stay so until the stream has passed the launch; the
/// stream and the kernels must be of the context that is current on this thread.
pub(super) unsafe fn fused(
    kernels: &Kernels,
    stream: sys::CUstream,
    parameters: &AlaParams,
    element_bytes: u64,
    chosen: Option<LaunchShape>,
) -> Result<(), Error> {
    // All that can be refused comes before the first launch.
    let batch = Batch::of(parameters);
    let shape = match chosen {
        Some(shape) => shape,
        None => shape_of(kernels, &batch, element_bytes)?,
    };
    let plan = Plan::of(kernels, &batch, element_bytes, shape)?;
    // SAFETY: the caller's promise.
    unsafe { count(kernels, stream, parameters)? };
    let phase = match in_phase(parameters, element_bytes) {
        true => 0,
        false => ALA_OUT_OF_PHASE,
    };
    let parameters = AlaParams {
        flags: parameters.flags | phase,
        ..*parameters
    };
    // SAFETY: the caller's promise.
    let launched = unsafe { plan.launch(stream, &parameters) };
    match launched {
        Err(Error::Cuda(CudaError::Driver {
            code: TOO_LARGE, ..
        })) if chosen.is_none() => {
            // The context has fewer multiprocessors than the device: no block waits for another then.
            let shape = shape_of_one_block_a_row(kernels, &batch, element_bytes);
            let plan = Plan::of(kernels, &batch, element_bytes, shape)?;
            // SAFETY: the caller's promise.
            unsafe { plan.launch(stream, &parameters) }
        }
        launched => launched,
    }
}

/// The driver's answer to blocks that wait for one another and would not all run at once.
const TOO_LARGE: u32 = sys::CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE as u32;

/// Counts the rows and their weights, where their mean needs that.
///
/// # Safety
/// As [`fused`].
unsafe fn count(
    kernels: &Kernels,
    stream: sys::CUstream,
    parameters: &AlaParams,
) -> Result<(), Error> {
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
            Shape::plain(blocks as u32),
            stream,
            parameters,
        )
    }
}

/// How a step is launched: which kernel, in what blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchShape {
    /// The [`Tier`]'s name.
    pub tier: &'static str,
    /// Threads of a block.
    pub threads: u32,
    /// Blocks for each multiprocessor, at most; there are never more than there are rows for.
    pub blocks_per_multiprocessor: u32,
    /// Blocks that share a row; 1 but in the staged tier.
    pub parts: u32,
}

/// What of a batch decides its launch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch {
    pub(super) rows: u64,
    pub(super) classes: u32,
    pub(super) per_class: bool,
    /// Logits and gradient without gaps between rows.
    pub(super) contiguous: bool,
}

impl Batch {
    fn of(parameters: &AlaParams) -> Self {
        Self {
            rows: parameters.rows,
            classes: parameters.classes,
            per_class: parameters.others != 0,
            contiguous: contiguous(parameters),
        }
    }

    fn row_vectors(&self, element_bytes: u64) -> u64 {
        (u64::from(self.classes) * element_bytes / VECTOR_BYTES).max(1)
    }
}

/// Whether a tier takes a batch's rows on a device.
fn takes(tier: &Tier, batch: &Batch, kernels: &Kernels, element_bytes: u64) -> bool {
    let device = kernels.device;
    batch.classes <= tier.most_classes(batch.per_class)
        && match tier.rows {
            RowsTaken::Contiguous => counted_32(batch.rows) && batch.contiguous,
            RowsTaken::Counted32 => counted_32(batch.rows),
            RowsTaken::Staged => {
                let bytes = u64::from(batch.classes) * element_bytes;
                kernels.staged_blocks > 0
                    && bytes.div_ceil(device.stage_bytes.max(1).into()) <= most_parts(device)
            }
            RowsTaken::Any => true,
        }
}

/// The tiers that take a batch, with their kernels, in the table's order.
fn tiers_of<'a>(
    kernels: &'a Kernels,
    batch: &'a Batch,
    element_bytes: u64,
) -> impl Iterator<Item = (&'static Tier, Kernel)> + 'a {
    TIERS
        .iter()
        .zip(&kernels.tiers)
        .filter_map(|(tier, kernel)| kernel.map(|kernel| (tier, kernel)))
        .filter(move |(tier, _)| takes(tier, batch, kernels, element_bytes))
}

/// The crate's own choice: the first tier that takes the batch; blocks of several waves. Where rows are few, small blocks
/// spread them over the device, and blocks share the long ones.
pub(super) fn shape_of(
    kernels: &Kernels,
    batch: &Batch,
    element_bytes: u64,
) -> Result<LaunchShape, Error> {
    let device = kernels.device;
    // The last tier takes every row.
    let (tier, _) =
        tiers_of(kernels, batch, element_bytes)
            .next()
            .ok_or(CudaError::TooManyClasses {
                classes: batch.classes as usize,
                most: MOST_CLASSES,
            })?;
    let mut threads = tier.threads;
    while threads > WARP.max(tier.lanes)
        && batch.rows.div_ceil(u64::from(threads / tier.lanes)) < u64::from(device.multiprocessors)
    {
        threads /= 2;
    }
    if tier.rows != RowsTaken::Staged {
        return Ok(in_waves(kernels, tier, threads));
    }
    // A device that the rows alone do not fill shares them out.
    let idle = u64::from(device.multiprocessors) / batch.rows.max(1);
    let useful = batch.row_vectors(element_bytes) * VECTOR_BYTES / LEAST_PART_BYTES;
    let parts = least_parts(batch, device, element_bytes).max(idle.min(useful));
    Ok(staged(
        kernels,
        tier,
        parts.clamp(1, most_parts(device)) as u32,
    ))
}

/// Blocks of several waves, each with rows of its own.
fn in_waves(kernels: &Kernels, tier: &Tier, threads: u32) -> LaunchShape {
    const WAVES: u32 = 2;
    LaunchShape {
        tier: tier.name,
        threads,
        blocks_per_multiprocessor: (kernels.device.threads / threads).max(1) * WAVES,
        parts: 1,
    }
}

/// As many blocks of the staged tier as the device holds.
fn staged(kernels: &Kernels, tier: &Tier, parts: u32) -> LaunchShape {
    LaunchShape {
        tier: tier.name,
        threads: tier.threads,
        blocks_per_multiprocessor: kernels.staged_blocks,
        parts,
    }
}

/// For rows of the staged tier: a block a row, staged where it fits, else streamed.
fn shape_of_one_block_a_row(kernels: &Kernels, batch: &Batch, element_bytes: u64) -> LaunchShape {
    let fits = least_parts(batch, kernels.device, element_bytes) <= 1;
    let wanted = if fits {
        RowsTaken::Staged
    } else {
        RowsTaken::Any
    };
    // Both are in the table.
    let tier = TIERS.iter().find(|tier| tier.rows == wanted);
    let tier = tier.unwrap_or(&TIERS[TIERS.len() - 1]);
    match tier.rows {
        RowsTaken::Staged => staged(kernels, tier, 1),
        _ => in_waves(kernels, tier, tier.threads),
    }
}

/// Every shape that takes the batch; see `CudaLoss::launch_shapes`.
#[cfg(feature = "instruments")]
pub(super) fn shapes_of(kernels: &Kernels, batch: &Batch, element_bytes: u64) -> Vec<LaunchShape> {
    let device = kernels.device;
    let halves = |from: u32, least: u32| {
        std::iter::successors(Some(from), move |&n| (n / 2 >= least).then_some(n / 2))
    };
    let mut shapes = Vec::new();
    for (tier, _) in tiers_of(kernels, batch, element_bytes) {
        if tier.rows == RowsTaken::Staged {
            let least = least_parts(batch, device, element_bytes).max(1) as u32;
            let most = most_parts(device) as u32;
            let doubled = std::iter::successors(Some(least), |&parts| Some(2 * parts));
            shapes.extend(
                doubled
                    .take_while(|&parts| parts <= most)
                    .map(|parts| staged(kernels, tier, parts)),
            );
            continue;
        }
        for threads in halves(tier.threads, least_threads(tier)) {
            let rows_a_block = u64::from(threads / tier.lanes);
            let needed = batch
                .rows
                .div_ceil(rows_a_block * u64::from(device.multiprocessors));
            let most = u64::from(ALA_MOST_BLOCKS / device.multiprocessors)
                .min(needed)
                .max(1);
            let doubled = std::iter::successors(Some(1), |&blocks| Some(2 * blocks));
            shapes.extend(
                doubled
                    .take_while(|&blocks| blocks < 2 * most)
                    .map(|blocks| LaunchShape {
                        tier: tier.name,
                        threads,
                        blocks_per_multiprocessor: blocks as u32,
                        parts: 1,
                    }),
            );
        }
    }
    shapes
}

/// The smallest block of a tier: whole warps, and at least a row's lanes.
fn least_threads(tier: &Tier) -> u32 {
    match tier.rows {
        RowsTaken::Staged | RowsTaken::Any => tier.threads,
        RowsTaken::Contiguous | RowsTaken::Counted32 => WARP.max(tier.lanes),
    }
}

/// Blocks that must share a row so that each holds its part.
fn least_parts(batch: &Batch, device: DeviceShape, element_bytes: u64) -> u64 {
    let stage_vectors = (u64::from(device.stage_bytes) / VECTOR_BYTES).max(1);
    batch.row_vectors(element_bytes).div_ceil(stage_vectors)
}

/// Which kernel solves a batch, and what it is told.
struct Plan {
    kernel: Kernel,
    shape: Shape,
    parts: u32,
    part_vectors: u32,
}

/// Blocks do not share a row of fewer bytes: the wait for one another costs more than they save.
const LEAST_PART_BYTES: u64 = 32 << 10;
const VECTOR_BYTES: u64 = 16;

impl Plan {
    fn of(
        kernels: &Kernels,
        batch: &Batch,
        element_bytes: u64,
        chosen: LaunchShape,
    ) -> Result<Self, Error> {
        let device = kernels.device;
        let refused = |reason| CudaError::LaunchShape {
            tier: chosen.tier,
            reason,
        };
        let (tier, kernel) = tiers_of(kernels, batch, element_bytes)
            .find(|(tier, _)| tier.name == chosen.tier)
            .ok_or(refused("no such tier takes these rows"))?;
        let threads = chosen.threads;
        if !threads.is_multiple_of(WARP)
            || !threads.is_multiple_of(tier.lanes)
            || !(least_threads(tier)..=tier.threads).contains(&threads)
        {
            return Err(refused("its blocks cannot have so many threads").into());
        }
        if chosen.blocks_per_multiprocessor == 0 {
            return Err(refused("it must have a block").into());
        }
        let staged = tier.rows == RowsTaken::Staged;
        let parts = u64::from(chosen.parts);
        let most = if staged { most_parts(device) } else { 1 };
        let least = if staged {
            least_parts(batch, device, element_bytes)
        } else {
            1
        };
        if !(least.max(1)..=most).contains(&parts) {
            return Err(refused("so many blocks cannot share a row").into());
        }
        let most_blocks = chosen
            .blocks_per_multiprocessor
            .saturating_mul(device.multiprocessors)
            .min(ALA_MOST_BLOCKS);
        // At least one, which also settles a batch without rows.
        let blocks = batch
            .rows
            .div_ceil(u64::from(threads / tier.lanes))
            .clamp(1, most_blocks.into());
        let mut plan = Self {
            kernel,
            shape: Shape {
                blocks: blocks as u32,
                threads,
                shared: 0,
            },
            parts: 1,
            part_vectors: 0,
        };
        if tier.rows == RowsTaken::Contiguous {
            plan.shape.shared = tile_bytes(threads, batch.classes);
        }
        if staged {
            let part_vectors = batch.row_vectors(element_bytes).div_ceil(parts);
            // Those that wait for one another run at the same time.
            let resident = most_blocks.min(kernels.staged_blocks * device.multiprocessors);
            let at_once = (u64::from(resident) / parts).clamp(1, batch.rows.max(1));
            plan.parts = chosen.parts;
            plan.part_vectors = part_vectors as u32;
            // Whole groups.
            plan.shape.blocks = (at_once * parts) as u32;
            plan.shape.shared = (part_vectors * VECTOR_BYTES) as u32;
        }
        Ok(plan)
    }

    /// # Safety
    /// As [`fused`].
    unsafe fn launch(&self, stream: sys::CUstream, parameters: &AlaParams) -> Result<(), Error> {
        let parameters = AlaParams {
            parts: self.parts,
            part_vectors: self.part_vectors,
            ..*parameters
        };
        // SAFETY: the caller's promise.
        unsafe { launch_with(self.kernel, self.shape, stream, &parameters) }
    }
}

/// Shared memory of a tile of packed rows, one a thread: `f32`, rows a word apart, room to align the first; or at least
/// the threads' totals.
fn tile_bytes(threads: u32, classes: u32) -> u32 {
    let rows = threads * (classes + 1) * size_of::<f32>() as u32 + 32;
    rows.max(threads * size_of::<AlaTotals>() as u32)
}

/// Blocks that may share a row. They wait for one another, so that such a launch is a cooperative one: the driver runs all
/// its blocks at once, or refuses it.
fn most_parts(device: DeviceShape) -> u64 {
    u64::from(device.multiprocessors / 8).clamp(1, 16)
}

/// Whether 32 bits hold every row, and the last step over them too.
fn counted_32(rows: u64) -> bool {
    rows < 1 << 31
}

fn contiguous(parameters: &AlaParams) -> bool {
    parameters.logits_stride == u64::from(parameters.classes)
        && (parameters.gradient == 0 || parameters.gradient_stride == parameters.logits_stride)
}

/// Whether each row's gradient begins at the same place within 16 bytes as its logits.
fn in_phase(parameters: &AlaParams, element_bytes: u64) -> bool {
    let between = parameters
        .gradient_stride
        .wrapping_sub(parameters.logits_stride);
    parameters.gradient == 0
        || (parameters
            .gradient
            .wrapping_sub(parameters.logits)
            .is_multiple_of(VECTOR_BYTES)
            && (parameters.rows < 2
                || between
                    .wrapping_mul(element_bytes)
                    .is_multiple_of(VECTOR_BYTES)))
}

/// The same by the unfused baseline, one kernel an operation.
///
/// # Safety
/// As [`fused`], with `scratch` and `row_scratch` set and a gradient that is not the logits.
pub(super) unsafe fn unfused(
    kernels: &Kernels,
    stream: sys::CUstream,
    parameters: &AlaParams,
) -> Result<(), Error> {
    // SAFETY: the caller's promise.
    unsafe { count(kernels, stream, parameters)? };
    for (&kernel, (step, _)) in kernels.unfused.iter().zip(super::kernels::UNFUSED) {
        let blocks = match step {
            "reduce" => 1,
            "gradient" if parameters.gradient == 0 => continue,
            _ => blocks(kernels, parameters.rows),
        };
        // SAFETY: the caller's promise.
        unsafe { launch_with(kernel, Shape::plain(blocks), stream, parameters)? };
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) blocks: u32,
    pub(super) threads: u32,
    /// Bytes of dynamic shared memory.
    pub(super) shared: u32,
}

impl Shape {
    fn plain(blocks: u32) -> Self {
        Self {
            blocks,
            threads: THREADS,
            shared: 0,
        }
    }
}

/// Blocks of the unfused baseline, which loops over what is left.
fn blocks(kernels: &Kernels, rows: u64) -> u32 {
    const WAVES: u32 = 8;
    let most = kernels.device.multiprocessors.saturating_mul(WAVES);
    u32::try_from(rows).unwrap_or(u32::MAX).clamp(1, most)
}

/// A kernel of the loss, which takes one `AlaParams`.
///
/// # Safety
/// As [`fused`].
unsafe fn launch_with(
    kernel: Kernel,
    shape: Shape,
    stream: sys::CUstream,
    parameters: &AlaParams,
) -> Result<(), Error> {
    /// What the next launch is told apart by, from others in the same workspace.
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let parameters = AlaParams {
        launch: NUMBER.fetch_add(1, Ordering::Relaxed),
        ..*parameters
    };
    // The driver copies the parameters during the call and writes to none of them.
    let mut arguments = [std::ptr::from_ref(&parameters).cast_mut().cast::<c_void>()];
    // SAFETY: the kernel takes one AlaParams by value; the rest is the caller's promise.
    unsafe { launch(kernel, shape, stream, &mut arguments, parameters.parts > 1) }
}

/// `together`: blocks wait for one another, so that all must run at once.
///
/// # Safety
/// `arguments` must point to the kernel's own, what these point to on the device must stay valid until the stream has
/// passed the launch, and stream and kernel must be of the context that is current on this thread.
pub(super) unsafe fn launch(
    kernel: Kernel,
    shape: Shape,
    stream: sys::CUstream,
    arguments: &mut [*mut c_void],
    together: bool,
) -> Result<(), Error> {
    let (blocks, threads) = ((shape.blocks, 1, 1), (shape.threads, 1, 1));
    if together {
        // SAFETY: the caller's promise.
        return unsafe {
            result::launch_cooperative_kernel(
                kernel.0,
                blocks,
                threads,
                shape.shared,
                stream,
                arguments,
            )
        }
        .map_err(driver("cuLaunchCooperativeKernel"));
    }
    // SAFETY: the caller's promise.
    unsafe { result::launch_kernel(kernel.0, blocks, threads, shape.shared, stream, arguments) }
        .map_err(driver("cuLaunchKernel"))
}
