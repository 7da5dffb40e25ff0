//! How a batch is launched: which tier, in how many blocks of how many threads, and which of them
//! share a row.

use super::abi::{ALA_MOST_BLOCKS, AlaParams, AlaTotals};
use super::error::CudaError;
use super::module::{DeviceLimits, Kernel, Kernels, STAGE_MARGIN, THREADS};
use super::tiers::{MOST_CLASSES, RowRequirement, TIERS, Tier, WARP};

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
    pub(super) fn of(parameters: &AlaParams) -> Self {
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
            RowRequirement::Contiguous => counted_32(batch.rows) && batch.contiguous,
            RowRequirement::Counted32 => counted_32(batch.rows),
            RowRequirement::Staged => {
                let bytes = u64::from(batch.classes) * element_bytes;
                kernels.staged_blocks > 0
                    && bytes.div_ceil(device.stage_bytes.max(1).into()) <= most_parts(device)
            }
            RowRequirement::Any => true,
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

/// The crate's own choice: the first tier that takes the batch, in as many blocks as the table
/// says. Where rows are few, small blocks spread them over the device, and blocks share the long
/// ones.
pub(super) fn shape_of(
    kernels: &Kernels,
    batch: &Batch,
    element_bytes: u64,
) -> Result<LaunchShape, CudaError> {
    let device = kernels.device;
    // A tile of rows takes several trips to memory in a row, which only many tiles hide.
    let few = batch.rows < u64::from(PACKED_ROWS * device.multiprocessors);
    // The last tier takes every row.
    let (tier, _) = tiers_of(kernels, batch, element_bytes)
        .find(|(tier, _)| !(few && tier.rows == RowRequirement::Contiguous))
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
    if tier.rows != RowRequirement::Staged {
        return Ok(in_waves(kernels, tier, threads));
    }
    Ok(staged(
        kernels,
        tier,
        batch,
        element_bytes,
        parts_of(kernels, batch, element_bytes) as u32,
    ))
}

/// How many blocks share a row: as many as make the last of them end first. Each takes one part of
/// every row of its group, one after the other; held against the times of every number on a GPU
/// (docs/gpu.md).
fn parts_of(kernels: &Kernels, batch: &Batch, element_bytes: u64) -> u64 {
    let device = kernels.device;
    let vectors = batch.row_vectors(element_bytes);
    let least = least_parts(batch, device, element_bytes);
    let most =
        (vectors * VECTOR_BYTES / LEAST_PART_BYTES).clamp(least, most_parts(device).max(least));
    let cost = |parts: u64| {
        let part = vectors.div_ceil(parts);
        let resident = u64::from(resident(kernels, batch, element_bytes, parts));
        let groups = (resident * u64::from(device.multiprocessors) / parts).max(1);
        let meeting = if parts > 1 { MEETING_VECTORS } else { 0 };
        let time = batch.rows.div_ceil(groups).saturating_mul(part + meeting);
        // What is left of an SM's memory is its L1, where loads under way have their place.
        let crowded = resident * (part * VECTOR_BYTES + u64::from(STAGE_MARGIN))
            > u64::from(device.shared) / 7 * 6;
        if crowded {
            time.saturating_add(time / 8)
        } else {
            time
        }
    };
    (least..=most)
        .min_by_key(|&parts| cost(parts))
        .unwrap_or(least)
}

/// As many blocks as the tier says, each with rows of its own.
fn in_waves(kernels: &Kernels, tier: &Tier, threads: u32) -> LaunchShape {
    let threads_at_most = kernels.device.threads * tier.half_waves / 2;
    LaunchShape {
        tier: tier.name,
        threads,
        blocks_per_multiprocessor: (threads_at_most / threads).max(1),
        parts: 1,
    }
}

/// As many blocks of the staged tier as the device holds.
fn staged(
    kernels: &Kernels,
    tier: &Tier,
    batch: &Batch,
    element_bytes: u64,
    parts: u32,
) -> LaunchShape {
    LaunchShape {
        tier: tier.name,
        threads: tier.threads,
        blocks_per_multiprocessor: resident(kernels, batch, element_bytes, parts.into()),
        parts,
    }
}

/// Blocks of the staged tier that a multiprocessor holds, each with one of `parts` of a row.
fn resident(kernels: &Kernels, batch: &Batch, element_bytes: u64, parts: u64) -> u32 {
    let device = kernels.device;
    let part = batch.row_vectors(element_bytes).div_ceil(parts) * VECTOR_BYTES;
    let by_shared = u64::from(device.shared) / (part + u64::from(STAGE_MARGIN));
    by_shared.min(kernels.staged_blocks.into()).max(1) as u32
}

/// For rows of the staged tier: a block a row, staged where it fits, else streamed.
pub(super) fn shape_of_one_block_a_row(
    kernels: &Kernels,
    batch: &Batch,
    element_bytes: u64,
) -> LaunchShape {
    let fits = least_parts(batch, kernels.device, element_bytes) <= 1;
    let wanted = if fits {
        RowRequirement::Staged
    } else {
        RowRequirement::Any
    };
    // Both are in the table.
    let tier = TIERS.iter().find(|tier| tier.rows == wanted);
    let tier = tier.unwrap_or(&TIERS[TIERS.len() - 1]);
    match tier.rows {
        RowRequirement::Staged => staged(kernels, tier, batch, element_bytes, 1),
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
        if tier.rows == RowRequirement::Staged {
            let least = least_parts(batch, device, element_bytes).max(1) as u32;
            let most = most_parts(device) as u32;
            // All that leave a part some length, and of the others some.
            let bytes = batch.row_vectors(element_bytes) * VECTOR_BYTES;
            let long = |parts: u32| u64::from(parts) * LEAST_PART_BYTES / 4 <= bytes;
            let wanted = |parts: &u32| {
                long(*parts) || (*parts / least).is_power_of_two() && parts.is_multiple_of(least)
            };
            shapes.extend(
                (least..=most)
                    .filter(wanted)
                    .map(|parts| staged(kernels, tier, batch, element_bytes, parts)),
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
        RowRequirement::Staged | RowRequirement::Any => tier.threads,
        RowRequirement::Contiguous | RowRequirement::Counted32 => WARP.max(tier.lanes),
    }
}

/// Blocks that must share a row so that each holds its part.
fn least_parts(batch: &Batch, device: DeviceLimits, element_bytes: u64) -> u64 {
    let stage_vectors = (u64::from(device.stage_bytes) / VECTOR_BYTES).max(1);
    batch.row_vectors(element_bytes).div_ceil(stage_vectors)
}

/// Which kernel solves a batch, and what it is told.
pub(super) struct Plan {
    pub(super) kernel: Kernel,
    pub(super) grid: Grid,
    pub(super) parts: u32,
    pub(super) part_vectors: u32,
}

/// Blocks do not share a row of fewer bytes: the wait for one another costs more than they save.
const LEAST_PART_BYTES: u64 = 32 << 10;
const VECTOR_BYTES: u64 = 16;
/// Rows a multiprocessor from which the packed tier is the faster one.
const PACKED_ROWS: u32 = 16;
/// What a part's meeting with the others of its row takes, in the vectors that a block moves
/// meanwhile.
const MEETING_VECTORS: u64 = 128;

impl Plan {
    pub(super) fn of(
        kernels: &Kernels,
        batch: &Batch,
        element_bytes: u64,
        chosen: LaunchShape,
    ) -> Result<Self, CudaError> {
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
            return Err(refused("its blocks cannot have so many threads"));
        }
        if chosen.blocks_per_multiprocessor == 0 {
            return Err(refused("it must have a block"));
        }
        let staged = tier.rows == RowRequirement::Staged;
        let parts = u64::from(chosen.parts);
        let most = if staged { most_parts(device) } else { 1 };
        let least = if staged {
            least_parts(batch, device, element_bytes)
        } else {
            1
        };
        if !(least.max(1)..=most).contains(&parts) {
            return Err(refused("so many blocks cannot share a row"));
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
            grid: Grid {
                blocks: blocks as u32,
                threads,
                shared: 0,
            },
            parts: 1,
            part_vectors: 0,
        };
        if tier.rows == RowRequirement::Contiguous {
            plan.grid.shared = tile_bytes(threads, batch.classes);
        }
        if staged {
            let part_vectors = batch.row_vectors(element_bytes).div_ceil(parts);
            // Those that wait for one another run at the same time.
            let resident = resident(kernels, batch, element_bytes, parts)
                .saturating_mul(device.multiprocessors)
                .min(most_blocks);
            let at_once = (u64::from(resident) / parts).clamp(1, batch.rows.max(1));
            plan.parts = chosen.parts;
            plan.part_vectors = part_vectors as u32;
            // Whole groups.
            plan.grid.blocks = (at_once * parts) as u32;
            plan.grid.shared = (part_vectors * VECTOR_BYTES) as u32;
        }
        Ok(plan)
    }
}

/// Shared memory of a tile of packed rows, one a thread: `f32`, rows a word apart, room to align
/// the first; or at least the threads' totals.
fn tile_bytes(threads: u32, classes: u32) -> u32 {
    let rows = threads * (classes + 1) * size_of::<f32>() as u32 + 32;
    rows.max(threads * size_of::<AlaTotals>() as u32)
}

/// Blocks that may share a row. They wait for one another, so that such a launch is a cooperative
/// one: the driver runs all its blocks at once, or refuses it.
fn most_parts(device: DeviceLimits) -> u64 {
    u64::from(device.multiprocessors / 4).clamp(1, 32)
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
pub(super) fn in_phase(parameters: &AlaParams, element_bytes: u64) -> bool {
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

/// The blocks of a launch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    pub(super) blocks: u32,
    pub(super) threads: u32,
    /// Bytes of dynamic shared memory.
    pub(super) shared: u32,
}

impl Grid {
    pub(super) fn plain(blocks: u32) -> Self {
        Self {
            blocks,
            threads: THREADS,
            shared: 0,
        }
    }
}
