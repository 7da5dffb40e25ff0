//! What of a batch decides how it is walked: thresholds, and how many threads there are.
//!
//! All cuts depend on the shape alone, so that sums are added in the same order whatever the thread
//! count.

use super::arch::CpuInstance;
use super::arch::vector::MOST_LANES;
use super::sum::BLOCK;
use crate::loss::Loss;
use crate::table::RowTable;
use crate::table::log2::Log2Table;
use crate::table::smoothing::Smoothing;

/// Rows are handed to a thread in runs of about this many elements, but of a few rows at least, so
/// that most rows have one before them whose gradient is written meanwhile.
const LEAF_ELEMENTS: usize = 16 * 1024;

/// A thread keeps the exponentials of a row of up to so many classes between their sum and the
/// gradient; of up to [`MOST_KEPT`] where there are [`MANY_ROWS`]. Longer rows, and long ones where
/// they are few and their columns are shared out instead, compute them again.
const KEPT: usize = 8 * 1024;
const MOST_KEPT: usize = 128 * 1024;
const MANY_ROWS: usize = 16;

/// The columns of a row are handed out in runs of so many.
const LEAF_COLUMNS: usize = 8 * BLOCK;

/// Others are to take more than so many elements off the calling thread: less are done before they
/// would have woken.
const ONE_THREAD_ELEMENTS: usize = 64 * 1024;

/// A gradient of more bytes than this does not stay in the cache, nor should it push out what does.
const STREAM_BYTES: usize = 8 << 20;

/// How a batch is walked.
#[expect(missing_debug_implementations, reason = "nobody outside can name it")]
pub struct Plan<'a> {
    pub(super) instance: CpuInstance,
    pub(super) table: &'a RowTable,
    pub(super) log2_table: &'a Log2Table,
    pub(super) smoothing: Option<&'a Smoothing>,
    /// What the sum of the row losses is divided by.
    pub(super) divisor: f64,
    /// Rows of a run.
    pub(super) leaf_rows: usize,
    /// Whether a row's exponentials are kept.
    pub(super) keep: bool,
    /// Whether the gradient is streamed past the cache.
    pub(super) stream: bool,
    parallel: bool,
}

impl<'a> Plan<'a> {
    pub(super) fn new(loss: &'a Loss, rows: usize, divisor: f64, element_bytes: usize) -> Self {
        let classes = loss.classes();
        let elements = rows.saturating_mul(classes);
        let keep = classes <= KEPT || (classes <= MOST_KEPT && rows >= MANY_ROWS);
        // A row whose columns are shared out has none before it.
        let least_rows = if keep { (rows / 32).clamp(4, 32) } else { 1 };
        Self {
            instance: CpuInstance::active(),
            table: loss.table(),
            log2_table: loss.log2_table(),
            smoothing: loss.smoothing(),
            divisor,
            leaf_rows: (LEAF_ELEMENTS / classes).max(least_rows),
            keep,
            stream: elements.saturating_mul(element_bytes) > STREAM_BYTES,
            parallel: elements - elements / rayon::current_num_threads() > ONE_THREAD_ELEMENTS,
        }
    }

    /// Does both, in either order or at once. Neither way allocates.
    pub(super) fn both<A: Send, B: Send>(
        &self,
        a: impl FnOnce() -> A + Send,
        b: impl FnOnce() -> B + Send,
    ) -> (A, B) {
        if self.parallel {
            rayon::join(a, b)
        } else {
            (a(), b())
        }
    }
}

/// Whether a row is one block.
pub(super) const fn is_one_block(classes: usize) -> bool {
    classes < BLOCK + BLOCK / 4
}

/// Where a run of columns is cut in two, as its length alone says.
pub(super) fn column_cut(len: usize) -> Option<usize> {
    (len > LEAF_COLUMNS).then(|| (len / 2).next_multiple_of(BLOCK))
}

/// What is kept of a row, with padding for a vector from any column on. Whole lines, so that the
/// next row begins one too.
pub(super) fn kept_len(classes: usize) -> usize {
    (classes + MOST_LANES).next_multiple_of(MOST_LANES)
}
