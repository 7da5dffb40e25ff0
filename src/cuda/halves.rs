//! The two halves of a step over some of the classes: what their kernels are told, and their
//! launches.

use std::ffi::c_void;
use std::ptr;

use cudarc::driver::sys;

use super::abi::{
    ALA_COUNTED, ALA_GIVEN, ALA_MOST_BLOCKS, ALA_SHARD_MIXED, ALA_SHARD_TOP1, ALA_SHARD_WEIGHTS,
    AlaRecipe, AlaShard,
};
use super::error::CudaError;
use super::launch::{self, Beside};
use super::module::{Kernel, ShardKernels, THREADS};
use super::plan::Grid;
use crate::shard::{LossShard, RecordLayout};
use crate::table::log2::to_log2;

/// Threads of a block of either half, which has a row.
const ROW_THREADS: u32 = 512;

/// Where the records are.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Records {
    /// Those that the first half writes.
    pub(super) own: u64,
    /// Those of so many shards, which the second half reads.
    pub(super) gathered: u64,
    pub(super) shards: usize,
}

/// What the kernels are told, from what those of a whole loss are, whose table is the part's.
pub(super) fn parameters(
    shard: &LossShard,
    recipe: &AlaRecipe,
    layout: RecordLayout,
    records: Records,
) -> AlaShard {
    let all_classes = shard.all_classes();
    let mut recipe = *recipe;
    recipe.step.classes = all_classes as u32;
    if recipe.class_rows != 0 {
        recipe.class_hits = recipe.class_rows + (all_classes * size_of::<u64>()) as u64;
    }
    let exact_slope = to_log2(shard.reference_slope());
    // Rounded as the table's are.
    let slope = f64::from(exact_slope as f32);
    let columns = [
        (layout.weights, ALA_SHARD_WEIGHTS),
        (layout.mixed, ALA_SHARD_MIXED),
        (layout.top1, ALA_SHARD_TOP1),
    ];
    AlaShard {
        recipe,
        records: records.own,
        gathered: records.gathered,
        slope,
        inverse_slope: 1.0 / slope,
        exact_slope,
        bias: to_log2(shard.part().table().non_target().largest_bias()),
        shards: records.shards as u32,
        first_class: shard.classes().start as u32,
        classes: shard.part().classes() as u32,
        record_len: layout.len() as u32,
        columns: columns
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, bit)| bit)
            .sum(),
        common_weight: shard.common_weight().unwrap_or(1.0) as f32,
    }
}

/// Enqueues the first half.
///
/// # Safety
/// Every address in `parameters` that the half reads or writes must be valid for its shape, and
/// stay so until the stream has passed the launch; the stream and the kernels must be of the
/// context that is current on this thread.
pub(super) unsafe fn partial(
    kernels: &ShardKernels,
    stream: sys::CUstream,
    parameters: &AlaShard,
    overlap: bool,
) -> Result<(), CudaError> {
    let grid = rows_grid(kernels, parameters);
    // SAFETY: the caller's promise.
    unsafe {
        launch(
            kernels.partial,
            grid,
            stream,
            parameters,
            overlap && kernels.overlap,
        )
    }
}

/// Enqueues the second half: one kernel, two where what a mean divides by is counted first.
///
/// # Safety
/// As [`partial`].
pub(super) unsafe fn finish(
    kernels: &ShardKernels,
    stream: sys::CUstream,
    parameters: &AlaShard,
    overlap: bool,
) -> Result<(), CudaError> {
    let overlap = overlap && kernels.overlap;
    if parameters.recipe.step.flags & (ALA_COUNTED | ALA_GIVEN) == ALA_COUNTED {
        let most = (2 * kernels.device.multiprocessors).clamp(1, ALA_MOST_BLOCKS);
        let blocks = parameters.recipe.step.rows.div_ceil(THREADS.into());
        let grid = Grid::plain(blocks.clamp(1, most.into()) as u32);
        // SAFETY: the caller's promise.
        unsafe { launch(kernels.count, grid, stream, parameters, overlap)? };
    }
    let grid = rows_grid(kernels, parameters);
    // SAFETY: the caller's promise.
    unsafe { launch(kernels.finish, grid, stream, parameters, overlap) }
}

/// A block a row, and no more of them than the device holds.
fn rows_grid(kernels: &ShardKernels, parameters: &AlaShard) -> Grid {
    let device = kernels.device;
    let resident = (device.threads / ROW_THREADS).max(1);
    let most = (resident * device.multiprocessors).min(ALA_MOST_BLOCKS);
    Grid {
        // At least one, which also settles a batch without rows.
        blocks: parameters.recipe.step.rows.clamp(1, most.into()) as u32,
        threads: ROW_THREADS,
        shared: 0,
    }
}

/// # Safety
/// As [`partial`].
unsafe fn launch(
    kernel: Kernel,
    grid: Grid,
    stream: sys::CUstream,
    parameters: &AlaShard,
    overlap: bool,
) -> Result<(), CudaError> {
    let parameters = AlaShard {
        recipe: launch::numbered(&parameters.recipe),
        ..*parameters
    };
    let beside = Beside {
        overlap,
        ..Beside::default()
    };
    // The driver copies the parameters during the call, and writes to none of them.
    let mut arguments = [ptr::from_ref(&parameters).cast_mut().cast::<c_void>()];
    // SAFETY: the kernel takes one AlaShard by value; the rest is the caller's promise.
    unsafe { launch::launch(kernel, grid, stream, &mut arguments, beside) }
}
