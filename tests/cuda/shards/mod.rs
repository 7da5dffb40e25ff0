//! A loss cut over shards on the device, put together, against the `f64` reference of all classes.

mod bad;
mod edges;
mod steps;
mod together;

use std::ops::Range;

use ala_loss::cuda::{CudaElement, Divisor};
use ala_loss::{
    ClassCounts, CpuElement, DifficultyGradient, Loss, NO_CLASS, Objective, Reduction, reference,
};
use cudarc::driver::DeviceRepr;
use half::{bf16, f16};

use crate::device::device;
use crate::problem::mixed::{IGNORED, Mixed, edges, exact, random};
use crate::problem::shards::cuts;
use crate::problem::{
    assert_within, counts, gradient_bound, labels, logits, loss_bound, objectives, slope, widen,
};
use together::{Got, Step, together};

/// Holds row losses and gradient against exact ones; each is infinite where it leaves its type.
fn assert_is<T: CpuElement>(
    got: &Got<T>,
    slope: f64,
    (losses, gradient): (&[f64], &[f64]),
    what: &dyn Fn() -> String,
) {
    for (row, (&got, &exact)) in got.row_losses.iter().zip(losses).enumerate() {
        let exact = f64::from(exact as f32);
        assert_within(got.into(), exact, loss_bound(exact), &|| {
            format!("{} row loss {row}", what())
        });
    }
    for (i, (got, &exact)) in widen(&got.gradient).iter().zip(gradient).enumerate() {
        let rounded = T::from_f64(exact).to_f64();
        let exact = if rounded.is_infinite() {
            rounded
        } else {
            exact
        };
        assert_within(*got, exact, gradient_bound::<T>(exact, slope), &|| {
            format!("{} gradient {i}", what())
        });
    }
}

fn shards_come_to_what_all_classes_do<T>(seed: u64)
where
    T: CudaElement + CpuElement + DeviceRepr + Default,
{
    let device = device();
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut turn = 0;
    for classes in [7, 133, 2311] {
        let counts = counts(&mut rng, classes);
        for objective in objectives() {
            let loss = Loss::builder(objective, &counts).ignore_label(IGNORED);
            let loss = loss.build().expect("valid");
            let raw = loss.scale() == Some(1.0);
            let rows = 5;
            let x = logits::<T>(&mut rng, rows * classes, if raw { 50.0 } else { 1.0 });
            let mut y = labels(&mut rng, rows, classes);
            y[3] = IGNORED;
            let exact = reference::batch(&loss, &widen(&x), &y, &vec![1.0; rows]);
            for (i, cut) in cuts(classes).into_iter().enumerate() {
                turn += 1;
                if classes > 1000 && i != turn % 5 {
                    continue;
                }
                let mut step = Step::new(x.clone(), y.clone());
                step.in_place = turn % 2 == 0;
                step.top1 = turn % 3 == 0;
                (step.offset, step.gap) = (turn % 5, turn % 4);
                let got = together(&device, &loss, &cut, &step);
                let what = || format!("{objective:?} {cut:?}");
                let right = (&exact.row_losses[..], &exact.gradient[..]);
                assert_is(&got, slope(loss.table()), right, &what);
                let summary = got.summary.expect("labels are classes");
                assert_within(summary.loss, exact.loss, loss_bound(exact.loss), &what);
                assert_eq!(summary.counted_rows, 4);
            }
        }
    }
}

#[test]
fn shards_come_to_what_all_classes_do_f32() {
    shards_come_to_what_all_classes_do::<f32>(71);
}

#[test]
fn shards_come_to_what_all_classes_do_f16() {
    shards_come_to_what_all_classes_do::<f16>(72);
}

#[test]
fn shards_come_to_what_all_classes_do_bf16() {
    shards_come_to_what_all_classes_do::<bf16>(73);
}

fn mixed_step<T: CpuElement>(batch: &Mixed<T>) -> Step<T> {
    let narrow = |values: &[f64]| values.iter().map(|&value| value as f32).collect();
    let mut step = Step::new(batch.x.clone(), batch.a.clone());
    step.mixed = Some((batch.b.clone(), narrow(&batch.lambda)));
    step.row_weights = Some(narrow(&batch.weights));
    step
}

/// Random rows, and the edges of the formulas at either label of a pair.
fn mixed_rows_are_mixed_over_shards<T>(seed: u64)
where
    T: CudaElement + CpuElement + DeviceRepr + Default,
{
    let device = device();
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut turn = 0;
    for classes in [7, 40, 133] {
        let counts = counts(&mut rng, classes);
        for objective in objectives() {
            let build = |scale| {
                Loss::builder(objective, &counts)
                    .scale(scale)
                    .reduction(Reduction::Sum)
                    .ignore_label(IGNORED)
                    .build()
                    .expect("valid")
            };
            let mut batch = random::<T>(&mut rng, 8, classes);
            // The same label twice, neighbours, and either one ignored.
            batch.b[0] = batch.a[0];
            batch.b[1] = (batch.a[1] + 1) % classes as i64;
            (batch.a[2], batch.lambda[2]) = (IGNORED, 0.5);
            (batch.b[3], batch.lambda[3]) = (IGNORED, 0.75);
            let mut batches = vec![(batch, String::from("random"), build(30.0))];
            for (i, (edge, what)) in edges::<T>(classes).into_iter().enumerate() {
                if classes == 40 && i % 2 == turn % 2 {
                    batches.push((edge, what, build(2.0)));
                }
            }
            for (batch, what, loss) in batches {
                turn += 1;
                let (losses, gradient) = exact(&loss, &batch);
                let heaviest = batch.weights.iter().fold(1.0, |a: f64, &b| a.max(b));
                let cut = &cuts(classes)[turn % 5];
                let mut step = mixed_step(&batch);
                (step.in_place, step.top1) = (turn % 2 == 0, turn % 3 == 0);
                let got = together(&device, &loss, cut, &step);
                let what = || format!("{what} {objective:?} {cut:?}");
                let slope = slope(loss.table()) * heaviest;
                assert_is(&got, slope, (&losses, &gradient), &what);
            }
        }
    }
}

#[test]
fn mixed_rows_are_mixed_over_shards_f32() {
    mixed_rows_are_mixed_over_shards::<f32>(74);
}

#[test]
fn mixed_rows_are_mixed_over_shards_f16() {
    mixed_rows_are_mixed_over_shards::<f16>(75);
}

/// A target may be far above the rest to the other one, and far below it by its own map: the rest
/// is all that its own term has.
#[test]
fn sums_far_below_a_targets_pivot_keep_their_digits() {
    let device = device();
    let classes = 40;
    let counts = counts(&mut fastrand::Rng::with_seed(83), classes);
    let (k, gradient) = (0.7, DifficultyGradient::Attached);
    for objective in [Objective::DifficultyOnly { k, gradient }, Objective::ala()] {
        let loss = Loss::builder(objective, &counts)
            .scale(2.0)
            .reduction(Reduction::Sum)
            .build()
            .expect("valid");
        let pairs = [
            [-250.0, -200.0],
            [-200.0, -200.0],
            [-200.0, -198.0],
            [-900.0, -200.0],
        ];
        let mut x = vec![-250.0f32; pairs.len() * classes];
        for (row, [first, second]) in pairs.into_iter().enumerate() {
            x[row * classes + 39] = first;
            x[row * classes + 19] = second;
        }
        let batch = Mixed {
            x,
            a: vec![39; 4],
            b: vec![19; 4],
            lambda: vec![0.25; 4],
            weights: vec![1.0; 4],
        };
        let (losses, gradient) = exact(&loss, &batch);
        for cut in cuts(classes) {
            let got = together(&device, &loss, &cut, &mixed_step(&batch));
            let what = || format!("{objective:?} {cut:?}");
            assert_is(&got, slope(loss.table()), (&losses, &gradient), &what);
        }
    }
}

/// Everything that a step may vary, against the same step of all classes on the CPU in `f64`.
#[test]
fn options_mean_what_they_do_without_shards() {
    let device = device();
    let mut rng = fastrand::Rng::with_seed(76);
    let (rows, classes) = (6, 23);
    let counts = counts(&mut rng, classes);
    let x = logits::<f32>(&mut rng, rows * classes, 1.0);
    let mut y = labels(&mut rng, rows, classes);
    y[2] = IGNORED;
    let class_weights: Vec<f64> = (0..classes).map(|j| (j % 5) as f64).collect();
    let second = vec![3, 5, 7, 3, 11, 22];
    let row_weights = [1.0, 0.5, 3.0, 0.0, 2.0, 1.0];
    let upstream = [1.0, -2.0, 0.5, 0.0, 3.0, 1e-9];
    let base = Step {
        row_weights: Some(row_weights.map(|w| w as f32).to_vec()),
        gradient_scale: 8.0,
        ..Step::new(x.clone(), y.clone())
    };
    let with = |change: &dyn Fn(&mut Step<f32>)| {
        let mut step = base.clone();
        change(&mut step);
        step
    };
    let mix = |step: &mut Step<f32>| step.mixed = Some((second.clone(), vec![0.75; rows]));
    let per_row = |step: &mut Step<f32>| {
        step.upstream = Some(upstream.map(|u| u as f32).to_vec());
    };
    let steps = [
        (Reduction::Mean, with(&|_| {})),
        (Reduction::Mean, with(&|step| step.row_weights = None)),
        (Reduction::Mean, with(&|step| step.divisor = Divisor::Rows)),
        (
            Reduction::Mean,
            with(&|step| step.divisor = Divisor::Given(17.0)),
        ),
        (
            Reduction::Mean,
            with(&|step| step.upstream = Some(vec![0.25])),
        ),
        (Reduction::Mean, with(&|step| mix(step))),
        (Reduction::Sum, with(&|_| {})),
        (Reduction::None, with(&|step| per_row(step))),
        (
            Reduction::None,
            with(&|step| {
                per_row(step);
                mix(step);
            }),
        ),
    ];
    let wide = widen(&x);
    for (i, objective) in objectives().into_iter().enumerate() {
        for weighted in [false, true] {
            for (j, (reduction, step)) in steps.iter().enumerate() {
                let mut builder = Loss::builder(objective, &counts)
                    .reduction(*reduction)
                    .ignore_label(IGNORED);
                if weighted {
                    builder = builder.class_weights(class_weights.clone());
                }
                let loss = builder.build().expect("valid");
                let mean = loss.clone();
                let mut options = ala_loss::Options::new()
                    .gradient_scale(8.0)
                    .divisor(match step.divisor {
                        Divisor::Given(given) => Divisor::Given(given.into()),
                        Divisor::Rows => Divisor::Rows,
                        Divisor::Weights => Divisor::Weights,
                    });
                if step.row_weights.is_some() {
                    options = options.row_weights(&row_weights);
                }
                if step.mixed.is_some() {
                    options = options.mixed_with(&second, ala_loss::Lambda::Scalar(0.75));
                }
                options = match &step.upstream {
                    Some(one) if one.len() == 1 => {
                        options.upstream(ala_loss::Upstream::Scalar(0.25))
                    }
                    Some(_) => options.upstream(ala_loss::Upstream::PerRow(&upstream)),
                    None => options,
                };
                let whole = loss.evaluate_with(&wide, &y, &options).expect("valid");
                let cut = &cuts(classes)[(i + j) % 5];
                let got = together(&device, &loss, cut, step);
                let what = || format!("{objective:?} {reduction:?} step {j} {weighted} {cut:?}");
                let summary = got.summary.as_ref().expect("valid");
                let near = |exact: f64| 1e-5 * exact.abs() + 1e-6;
                assert_within(summary.loss, whole.loss, near(whole.loss), &what);
                assert_eq!(summary.counted_rows, whole.counted_rows, "{}", what());
                let by_weight = options.divisor(Divisor::Weights);
                let weight = mean.divisor(&y, &by_weight).expect("valid");
                assert_within(summary.total_weight, weight, 1e-6 * weight, &what);
                let slope = slope(loss.table()) * 8.0 * 3.0 * 3.0;
                assert_is(&got, slope, (&whole.row_losses, &whole.gradient), &what);
            }
        }
    }
}

/// More shards than a warp has lanes, in another order than their classes.
#[test]
fn seventy_shards_come_to_the_same() {
    let device = device();
    let mut rng = fastrand::Rng::with_seed(77);
    let classes = 75;
    let counts = counts(&mut rng, classes);
    let mut cut: Vec<Range<usize>> = (0..69).map(|class| class..class + 1).collect();
    cut.push(69..classes);
    rng.shuffle(&mut cut);
    for objective in [Objective::ala(), Objective::ClassBalanced { beta: 0.99 }] {
        let loss = Loss::new(objective, &counts).expect("valid");
        let mut x = logits::<f32>(&mut rng, 4 * classes, 1.0);
        // Shared by the classes of several shards: the lowest is it.
        for class in [14, 33, 60] {
            x[class] = 2.0;
        }
        // Far above all others, with the last lane and beyond the lanes.
        for (row, rank) in [(1, 31), (2, 40), (3, 68)] {
            x[row * classes + cut[rank].start] = 6.0;
        }
        let step = Step {
            top1: true,
            ..Step::new(x.clone(), vec![33, 70, 0, 5])
        };
        let exact = reference::batch(&loss, &widen(&x), &step.labels, &[1.0; 4]);
        let got = together(&device, &loss, &cut, &step);
        let what = || format!("{objective:?}");
        let right = (&exact.row_losses[..], &exact.gradient[..]);
        assert_is(&got, slope(loss.table()), right, &what);
        assert_eq!(got.predictions[0], 14);
        assert_eq!(got.hits[0], 0);
    }
}

/// A large offset that all logits have costs no shard its digits, at any cut.
#[test]
fn common_offsets_and_large_biases_cost_no_digits() {
    let device = device();
    let mut rng = fastrand::Rng::with_seed(78);
    let classes = 40;
    let counts = counts(&mut rng, classes);
    let tau = 40.0;
    for objective in [
        Objective::CrossEntropy,
        Objective::BalancedSoftmax,
        Objective::LogitAdjustment { tau },
    ] {
        let loss = Loss::builder(objective, &counts).reduction(Reduction::Sum);
        let loss = loss.build().expect("valid");
        for offset in [0.0, 1e4, 3e6, 1e7] {
            let x: Vec<f32> = (0..3 * classes)
                .map(|_| (offset + (rng.f64() * 2.0 - 1.0) * 8.0) as f32)
                .collect();
            let y = labels(&mut rng, 3, classes);
            let exact = reference::batch(&loss, &widen(&x), &y, &[1.0; 3]);
            for cut in cuts(classes) {
                let got = together(&device, &loss, &cut, &Step::new(x.clone(), y.clone()));
                let what = || format!("{objective:?} {offset:e} {cut:?}");
                let right = (&exact.row_losses[..], &exact.gradient[..]);
                assert_is(&got, slope(loss.table()), right, &what);
            }
        }
    }
}

/// Where nothing counts the loss is 0, whatever the logits are.
#[test]
fn ignored_batches_are_0() {
    let device = device();
    let counts = ClassCounts::new([5, 3, 1]).expect("valid");
    for objective in [Objective::ala(), Objective::ClassBalanced { beta: 0.9 }] {
        let loss = Loss::builder(objective, &counts).ignore_label(IGNORED);
        let loss = loss.build().expect("valid");
        let step = Step {
            top1: true,
            ..Step::new(vec![f32::NAN; 6], vec![IGNORED; 2])
        };
        let got = together(&device, &loss, &[0..1, 1..3], &step);
        let summary = got.summary.expect("valid");
        assert_eq!((summary.loss, summary.counted_rows), (0.0, 0));
        assert_eq!(got.gradient, [0.0; 6]);
        assert_eq!(got.row_losses, [0.0; 2]);
        assert_eq!((got.hits, got.predictions), (vec![0; 2], vec![NO_CLASS; 2]));
        assert_eq!(got.class_counts, [5; 6]);
    }
}
