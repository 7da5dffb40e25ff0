//! What is measured, as data: on a GPU, and in a dry run.

/// Shapes and repetitions of all stages.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Logits of a large batch: far beyond what L2 holds.
    pub elements: usize,
    /// Numbers of classes of the large batches. 368, 1024 and 8192 are aligned neighbours of 365,
    /// 1000 and 8142.
    pub classes: &'static [usize],
    /// Rows and classes of the small batches.
    pub small: &'static [(usize, usize)],
    /// Bytes of the copies that tell the device's bandwidth.
    pub copies: &'static [u64],
    /// How often each large batch is timed.
    pub rounds: usize,
    /// How often each graph is timed, and each row of plain launches.
    pub small_rounds: usize,
    /// Steps of a graph, and plain launches in a row.
    pub steps: usize,
    /// Runs of a step whose bits are compared.
    pub repeats: usize,
    /// Logits of a step that is counted or watched by a tool.
    pub watched: usize,
    /// Logits of a step that is counted in software.
    pub counted: usize,
    /// Seconds to let clocks settle.
    pub settle: f64,
}

/// On a GPU.
pub const FULL: Sizes = Sizes {
    elements: 1 << 26,
    classes: &[
        10, 100, 365, 368, 1000, 1024, 8142, 8192, 32_000, 50_257, 128_256, 262_144,
    ],
    small: &[
        (256, 10),
        (8192, 10),
        (256, 100),
        (128, 365),
        (1024, 365),
        (256, 1000),
        (1024, 1000),
        (4096, 1000),
        (256, 8142),
        (512, 8142),
    ],
    copies: &[1 << 20, 1 << 24, 1 << 28, 1 << 30],
    rounds: 21,
    small_rounds: 15,
    steps: 50,
    repeats: 20,
    watched: 1 << 24,
    counted: 1 << 18,
    settle: 0.5,
};

/// In software, where an element takes about a microsecond.
pub const DRY: Sizes = Sizes {
    elements: 1 << 10,
    classes: &[10, 1024],
    small: &[(4, 10), (2, 365)],
    copies: &[1 << 10],
    rounds: 2,
    small_rounds: 1,
    steps: 3,
    repeats: 2,
    watched: 1 << 11,
    counted: 1 << 11,
    settle: 0.0,
};

impl Sizes {
    /// Those of a dry run, or of a GPU.
    pub fn of(dry: bool) -> &'static Self {
        if dry { &DRY } else { &FULL }
    }
}
