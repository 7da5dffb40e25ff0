//! The launch tiers, as data: which kernel takes which rows. `kernels/tiers.h` is the same list for
//! the compiler; a test holds this one to it.

/// One launch tier: which rows it takes and how. `kernels/ala.cu` lists the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tier {
    /// The part of the kernels' names.
    pub name: &'static str,
    /// The most classes that it takes where the slope is uniform; 0 where there is no such kernel.
    pub uniform: u32,
    /// The most classes that it takes where each class has a map of its own; 0 where there is no
    /// such kernel.
    pub per_class: u32,
    /// Threads of a block, at most. Fewer, whole warps, do where `lanes` is at most 32.
    pub threads: u32,
    /// Threads that work on one row.
    pub lanes: u32,
    /// Which rows it takes.
    pub rows: RowRequirement,
    /// Blocks of a launch for each multiprocessor, at most, in halves of the threads that it holds:
    /// what took the least time on an H100 (docs/gpu.md). The staged tier has as many as fit.
    pub half_waves: u32,
    /// Reductions over lanes, warps or blocks that follow one another between a row's loads and its
    /// stores.
    pub reductions: u32,
    /// Block barriers between a row's loads and its stores.
    pub barriers: u32,
}

/// What a [`Tier`] asks of its rows besides the number of classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowRequirement {
    /// Contiguous ones, of logits and gradient alike, of a batch of less than 2^31.
    Contiguous,
    /// Those of a batch of less than 2^31.
    Counted32,
    /// Those of which a part fits into a block's shared memory, where the device holds all parts of
    /// a row at once.
    Staged,
    /// All.
    Any,
}

pub(super) const WARP: u32 = 32;

/// What a tier of rows in registers takes: classes of one slope, or of a map each.
#[derive(Clone, Copy, PartialEq)]
enum Takes {
    Uniform,
    PerClass,
}
use Takes::{PerClass, Uniform};

/// A row in the registers of so many lanes, so many elements each.
const fn register_row(name: &'static str, lanes: u32, elements: u32, takes: Takes) -> Tier {
    let most = lanes * elements;
    Tier {
        name,
        uniform: if matches!(takes, Uniform) { most } else { 0 },
        per_class: if matches!(takes, PerClass) { most } else { 0 },
        // Lanes of a block, or so many warps that a block is worth its start.
        threads: if lanes > WARP { lanes } else { 128 },
        lanes,
        rows: RowRequirement::Counted32,
        half_waves: if lanes > WARP { 4 } else { 2 },
        // Maximum, then sum. A block's warps meet once more.
        reductions: if lanes > WARP { 3 } else { 2 },
        barriers: if lanes > WARP { 1 } else { 0 },
    }
}

/// The tiers in ascending order; a row goes to the first that takes it.
pub const TIERS: &[Tier] = &[
    Tier {
        name: "packed",
        uniform: 24,
        per_class: 16,
        threads: 128,
        lanes: 1,
        rows: RowRequirement::Contiguous,
        half_waves: 1,
        // Every thread has a row of its own; the tile is whole before and after.
        reductions: 0,
        barriers: 2,
    },
    register_row("row4x16", 4, 16, Uniform),
    register_row("row8x8", 8, 8, PerClass),
    // 32 elements of 16 bits; of `f32` as many as leave registers on every architecture.
    register_row("row4", 4, 28, Uniform),
    register_row("row16x8", 16, 8, PerClass),
    register_row("row8x24", 8, 24, Uniform),
    register_row("row32x8", 32, 8, PerClass),
    register_row("row8x32", 8, 32, Uniform),
    register_row("row16x24", 16, 24, Uniform),
    register_row("row16x32", 16, 32, Uniform),
    register_row("row32x16", 32, 16, PerClass),
    register_row("row32x24", 32, 24, Uniform),
    register_row("row32x32", 32, 32, Uniform),
    register_row("row64x16", 64, 16, PerClass),
    register_row("row64x24", 64, 24, Uniform),
    register_row("row64x32", 64, 32, Uniform),
    register_row("row128x16", 128, 16, PerClass),
    register_row("row128x24", 128, 24, Uniform),
    register_row("row128x32", 128, 32, Uniform),
    register_row("row256x16", 256, 16, PerClass),
    register_row("row256x24", 256, 24, Uniform),
    register_row("row256x32", 256, 32, Uniform),
    register_row("row512x16", 512, 16, PerClass),
    register_row("row512x24", 512, 24, Uniform),
    register_row("row512x32", 512, 32, Uniform),
    Tier {
        name: "staged",
        uniform: MOST_CLASSES,
        per_class: MOST_CLASSES,
        threads: 256,
        lanes: 256,
        rows: RowRequirement::Staged,
        half_waves: 2,
        // In each warp, over the warps, and where blocks share the row over them.
        reductions: 6,
        barriers: 2,
    },
    Tier {
        name: "streamed",
        uniform: MOST_CLASSES,
        per_class: MOST_CLASSES,
        threads: 512,
        lanes: 512,
        rows: RowRequirement::Any,
        half_waves: 1,
        // Maximum and sum together, in each warp and over them.
        reductions: 2,
        barriers: 1,
    },
];

impl Tier {
    /// The most classes that it takes, for either kind of map.
    pub const fn most_classes(&self, per_class: bool) -> u32 {
        if per_class {
            self.per_class
        } else {
            self.uniform
        }
    }
}

/// Class indices are 32 bits in the kernels, and the last step of a stride over them must not wrap.
pub(super) const MOST_CLASSES: u32 = u32::MAX - (1 << 16);
