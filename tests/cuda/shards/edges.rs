//! The edges of the formulas, each in a shard of its own and not.

use ala_loss::cuda::CudaElement;
use ala_loss::{ClassCounts, CpuElement, Loss, NO_CLASS, Objective, Reduction, reference};
use cudarc::driver::DeviceRepr;
use half::{bf16, f16};

use super::assert_is;
use super::together::{Step, together};
use crate::device::device;
use crate::problem::shards::{cuts, edge_rows, steep_rows};
use crate::problem::{objectives, slope, widen};

/// A row of each kind that the README's table of edges has, for each objective, cut in each way.
fn edges_hold_over_shards<T>()
where
    T: CudaElement + CpuElement + DeviceRepr + Default,
{
    let device = device();
    let classes = 9;
    let counts = ClassCounts::new([900, 300, 100, 90, 50, 40, 9, 9, 4]).expect("valid");
    let rows = edge_rows::<T>();
    let x: Vec<T> = rows.concat().into_iter().map(T::from_f64).collect();
    let wide = widen(&x);
    let best: Vec<_> = wide.chunks(classes).map(reference::prediction).collect();
    let predictions: Vec<u32> = best
        .iter()
        .map(|best| best.map_or(NO_CLASS, |class| class as u32))
        .collect();
    for objective in objectives() {
        let loss = Loss::builder(objective, &counts).reduction(Reduction::Sum);
        let loss = loss.build().expect("valid");
        let (mut losses, mut gradient) = (vec![], vec![]);
        for row in wide.chunks(classes) {
            let exact = reference::row(loss.table(), row, 4);
            losses.push(exact.loss);
            gradient.extend(exact.gradient);
        }
        for (i, cut) in cuts(classes).into_iter().enumerate() {
            let mut step = Step::new(x.clone(), vec![4; rows.len()]);
            (step.top1, step.in_place) = (true, i % 2 == 0);
            (step.offset, step.gap) = (i % 3, i % 2);
            let got = together(&device, &loss, &cut, &step);
            let what = || format!("{objective:?} {cut:?}");
            assert_is(&got, slope(loss.table()), (&losses, &gradient), &what);
            assert_eq!(got.predictions, predictions, "{}", what());
            let hits: Vec<u8> = predictions.iter().map(|&p| u8::from(p == 4)).collect();
            assert_eq!(got.hits, hits, "{}", what());
            let mut class_counts = vec![5u64; 2 * classes];
            class_counts[4] += rows.len() as u64;
            class_counts[classes + 4] += hits.iter().map(|&hit| u64::from(hit)).sum::<u64>();
            assert_eq!(got.class_counts, class_counts, "{}", what());
        }
    }
}

#[test]
fn edges_hold_over_shards_f32() {
    edges_hold_over_shards::<f32>();
}

#[test]
fn edges_hold_over_shards_f16() {
    edges_hold_over_shards::<f16>();
}

#[test]
fn edges_hold_over_shards_bf16() {
    edges_hold_over_shards::<bf16>();
}

/// A logit times a slope may be too coarse to hold the classes' offsets as well: a record has room
/// for those up to 64 in units of log2 (`choose_pivot` in kernels/shard.cuh).
fn steep_slopes_leave_the_offsets_their_digits<T>()
where
    T: CudaElement + CpuElement + DeviceRepr + Default,
{
    let device = device();
    for (loss, row) in steep_rows(&[
        Objective::BalancedSoftmax,
        Objective::LogitAdjustment { tau: 1.5 },
    ]) {
        let exact = reference::row(loss.table(), &row, 4);
        let x = row.map(T::from_f64).to_vec();
        for cut in cuts(row.len()) {
            let got = together(&device, &loss, &cut, &Step::new(x.clone(), vec![4]));
            let what = || format!("{:?} {row:?} {cut:?}", loss.table());
            let right = (&[exact.loss][..], &exact.gradient[..]);
            assert_is(&got, slope(loss.table()), right, &what);
        }
    }
}

#[test]
fn steep_slopes_leave_the_offsets_their_digits_f32() {
    steep_slopes_leave_the_offsets_their_digits::<f32>();
}

#[test]
fn steep_slopes_leave_the_offsets_their_digits_bf16() {
    steep_slopes_leave_the_offsets_their_digits::<bf16>();
}
