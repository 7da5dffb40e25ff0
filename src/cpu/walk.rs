//! The walk over a batch: rows are halved down to runs that a thread takes, and each run goes the
//! way that fits its rows.

use half::{bf16, f16};

use super::batch::Batch;
use super::lane::{Float, Lane};
use super::map::{Map, PerClass, Uniform};
use super::overlap::Overlap;
use super::plan::{Plan, is_one_block, kept_len};
use super::shard::{self, Finish, PartialBatch};
use super::split_row;
use crate::element::Element;
use crate::table::NonTarget;

mod sealed {
    pub trait Sealed {}
}

/// A logit type that the CPU path has: `f32`, `f64`, [`half::f16`] or [`half::bf16`].
///
/// ```
/// use ala_loss::{ClassCounts, CpuElement, Error, Loss, Objective};
/// fn loss_of<T: CpuElement>(loss: &Loss, logits: [f64; 2]) -> Result<f64, Error> {
///     Ok(loss.evaluate(&logits.map(T::from_f64), &[1])?.loss)
/// }
/// let loss = Loss::new(Objective::CrossEntropy, &ClassCounts::new([9, 3])?)?;
/// assert!((loss_of::<f32>(&loss, [0.0, 0.0])? - 2f64.ln()).abs() < 1e-6);
/// # Ok::<(), ala_loss::Error>(())
/// ```
pub trait CpuElement: Element + sealed::Sealed {
    /// The rows' summed loss. Here, so that the walk is compiled with this crate: not once more by
    /// each that calls it.
    #[doc(hidden)]
    fn walk(plan: &Plan<'_>, batch: Batch<'_, Self>) -> f64;

    /// The same walk over the first half of a shard's step.
    #[doc(hidden)]
    fn partial(plan: &Plan<'_>, batch: PartialBatch<'_, Self>);

    /// And over the second.
    #[doc(hidden)]
    fn finish(plan: &Plan<'_>, rows: Finish<'_, Self>) -> f64;
}

macro_rules! cpu_elements {
    ($($type:ty),*) => {$(
        impl sealed::Sealed for $type {}
        impl CpuElement for $type {
            fn walk(plan: &Plan<'_>, batch: Batch<'_, Self>) -> f64 {
                rows(plan, batch)
            }

            fn partial(plan: &Plan<'_>, batch: PartialBatch<'_, Self>) {
                shard::partial(plan, batch);
            }

            fn finish(plan: &Plan<'_>, rows: Finish<'_, Self>) -> f64 {
                shard::finish(plan, rows)
            }
        }
    )*};
}
cpu_elements!(f32, f64, f16, bf16);

/// The rows' summed loss. Halving by row count alone fixes the order of the sum.
fn rows<T: Lane>(plan: &Plan<'_>, batch: Batch<'_, T>) -> f64 {
    let count = batch.count;
    if count > plan.leaf_rows {
        let (a, b) = batch.split_at(count / 2);
        let (a, b) = plan.both(|| rows(plan, a), || rows(plan, b));
        return a + b;
    }
    match plan.table.non_target() {
        NonTarget::Uniform { slope } => leaf(plan, batch, Uniform::new(*slope)),
        NonTarget::PerClass(_) => leaf(plan, batch, PerClass::new(plan.log2_table)),
    }
}

fn leaf<T: Lane, M: Map<T::Real>>(plan: &Plan<'_>, batch: Batch<'_, T>, map: M) -> f64 {
    if !plan.keep {
        return split_row::rows(plan, batch, map);
    }
    let mut batch = Some(batch);
    let classes = plan.table.classes();
    let buffers = if is_one_block(classes) { 2 } else { 1 };
    let sum = T::Real::with_row_buffer(buffers * kept_len(classes), |kept| {
        batch.take().map(|batch| {
            plan.instance.run(Overlap {
                plan,
                batch,
                map,
                kept,
            })
        })
    });
    // Without memory to keep them in they are computed again.
    sum.flatten()
        .or_else(|| batch.map(|batch| split_row::rows(plan, batch, map)))
        .unwrap_or_default()
}
