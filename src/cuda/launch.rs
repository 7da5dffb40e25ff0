//! The one place where kernels are launched: parameters in, driver calls out.

use std::ffi::c_void;

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
        reserved: 0,
    }
}

/// Enqueues loss and gradient: one kernel, two where the mean's divisor is counted first.
///
/// # Safety
/// Every address in `parameters` must be valid for its shape, and stay so until the stream has passed the launch; the
/// stream and the kernels must be of the context that is current on this thread.
pub(super) unsafe fn fused(
    kernels: &Kernels,
    stream: sys::CUstream,
    parameters: &AlaParams,
    element_bytes: u64,
) -> Result<(), Error> {
    if parameters.flags & ALA_COUNTED != 0 {
        // SAFETY: the caller's promise.
        unsafe { launch(kernels.count, Shape::plain(1), stream, parameters)? };
    }
    let plan = Plan::of(kernels, parameters, element_bytes)?;
    let phase = match in_phase(parameters, element_bytes) {
        true => 0,
        false => ALA_OUT_OF_PHASE,
    };
    let parameters = AlaParams {
        flags: parameters.flags | phase,
        parts: plan.parts,
        part_vectors: plan.part_vectors,
        ..*parameters
    };
    // SAFETY: the caller's promise.
    unsafe { launch(plan.kernel, plan.shape, stream, &parameters) }
}

/// Which kernel solves a batch, and in what shape.
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
    fn of(kernels: &Kernels, parameters: &AlaParams, element_bytes: u64) -> Result<Self, Error> {
        let device = kernels.device;
        let (rows, classes) = (parameters.rows, parameters.classes);
        let takes = |tier: &Tier| {
            classes <= tier.most_classes(parameters.others != 0)
                && match tier.rows {
                    RowsTaken::Contiguous => counted_32(rows) && contiguous(parameters),
                    RowsTaken::Counted32 => counted_32(rows),
                    RowsTaken::Staged => {
                        let bytes = u64::from(classes) * element_bytes;
                        bytes.div_ceil(device.stage_bytes.max(1).into()) <= most_parts(device)
                    }
                    RowsTaken::Any => true,
                }
        };
        // The last tier takes every row.
        let (tier, kernel) = TIERS
            .iter()
            .zip(&kernels.tiers)
            .find_map(|(tier, kernel)| kernel.filter(|_| takes(tier)).map(|kernel| (tier, kernel)))
            .ok_or(CudaError::TooManyClasses {
                classes: classes as usize,
                most: MOST_CLASSES,
            })?;
        let mut plan = Self {
            kernel,
            shape: Shape::of_rows(device, tier, rows),
            parts: 1,
            part_vectors: 0,
        };
        if tier.rows == RowsTaken::Contiguous {
            plan.shape.shared = tile_bytes(plan.shape.threads, classes);
        }
        if tier.rows == RowsTaken::Staged {
            let vectors = (u64::from(classes) * element_bytes / VECTOR_BYTES).max(1);
            let needed = vectors.div_ceil(u64::from(device.stage_bytes) / VECTOR_BYTES);
            // A device that the rows alone do not fill shares them out.
            let idle = u64::from(device.multiprocessors) / rows.max(1);
            let useful = vectors * VECTOR_BYTES / LEAST_PART_BYTES;
            let parts = needed.max(idle.min(useful)).clamp(1, most_parts(device));
            let part_vectors = vectors.div_ceil(parts);
            let resident = (device.multiprocessors * STAGED_BLOCKS).min(ALA_MOST_BLOCKS);
            let at_once = (u64::from(resident) / parts).clamp(1, rows.max(1));
            plan.parts = parts as u32;
            plan.part_vectors = part_vectors as u32;
            // Whole groups.
            plan.shape.blocks = (at_once * parts) as u32;
            plan.shape.shared = (part_vectors * VECTOR_BYTES) as u32;
        }
        Ok(plan)
    }
}

/// Shared memory of a tile of packed rows, one a thread: `f32`, rows a word apart, room to align the first; or at least
/// the threads' totals.
fn tile_bytes(threads: u32, classes: u32) -> u32 {
    let rows = threads * (classes + 1) * size_of::<f32>() as u32 + 32;
    rows.max(threads * size_of::<AlaTotals>() as u32)
}

/// Blocks of the staged tier that a multiprocessor holds, by their shared memory and registers.
const STAGED_BLOCKS: u32 = 2;

/// Blocks that may share a row. A launch never has more of them waiting than those of one row, so it takes a dozen and
/// more launches at once before a device could be full of blocks that wait.
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
    if parameters.flags & ALA_COUNTED != 0 {
        // SAFETY: the caller's promise.
        unsafe { launch(kernels.count, Shape::plain(1), stream, parameters)? };
    }
    for (&kernel, (step, _)) in kernels.unfused.iter().zip(super::kernels::UNFUSED) {
        let blocks = match step {
            "reduce" => 1,
            "gradient" if parameters.gradient == 0 => continue,
            _ => blocks(kernels, parameters.rows),
        };
        // SAFETY: the caller's promise.
        unsafe { launch(kernel, Shape::plain(blocks), stream, parameters)? };
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    blocks: u32,
    threads: u32,
    /// Bytes of dynamic shared memory.
    shared: u32,
}

impl Shape {
    fn plain(blocks: u32) -> Self {
        Self {
            blocks,
            threads: THREADS,
            shared: 0,
        }
    }

    /// Blocks for so many rows: as many as there is work for, up to several waves of the device; at least one, which
    /// also settles a batch without rows. Where rows are few, small blocks spread them over the device.
    fn of_rows(device: DeviceShape, tier: &Tier, rows: u64) -> Self {
        const WAVES: u32 = 2;
        let blocks_of = |threads: u32| rows.div_ceil(u64::from(threads / tier.lanes));
        let mut threads = tier.threads;
        while threads > WARP.max(tier.lanes)
            && blocks_of(threads) < u64::from(device.multiprocessors)
        {
            threads /= 2;
        }
        let resident = (device.threads / threads).max(1) * device.multiprocessors;
        let most = resident.saturating_mul(WAVES).min(ALA_MOST_BLOCKS);
        Self {
            blocks: u32::try_from(blocks_of(threads))
                .unwrap_or(u32::MAX)
                .clamp(1, most),
            threads,
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

/// # Safety
/// As [`fused`].
unsafe fn launch(
    kernel: Kernel,
    shape: Shape,
    stream: sys::CUstream,
    parameters: &AlaParams,
) -> Result<(), Error> {
    // The driver copies the parameters during the call and writes to none of them.
    let mut arguments = [std::ptr::from_ref(parameters).cast_mut().cast::<c_void>()];
    // SAFETY: the kernel takes one AlaParams by value; the rest is the caller's promise.
    unsafe {
        result::launch_kernel(
            kernel.0,
            (shape.blocks, 1, 1),
            (shape.threads, 1, 1),
            shape.shared,
            stream,
            &mut arguments,
        )
    }
    .map_err(driver("cuLaunchKernel"))
}
