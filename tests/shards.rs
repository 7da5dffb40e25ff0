//! Losses over class shards, put together, against the `f64` reference of all classes.

use ala_loss::{
    ClassCounts, CpuElement, Divisor, Error, Lambda, Loss, NO_CLASS, Objective, Options, Outputs,
    Reduction, Upstream, reference, reference::ReferenceRow,
};
use half::{bf16, f16};

mod problem;
use problem::extreme::{Case, cases};
use problem::mixed::{IGNORED, Mixed, exact, real};
use problem::shards::{
    Together, assert_is, columns, cuts, edge_rows, records, shards_of, steep_rows, together,
};
use problem::{
    assert_within, counts, gradient_bound, labels, logits, loss_bound, objectives, slope, widen,
};

/// Runs a generic check over the four element types.
macro_rules! every_type {
    ($check:ident) => {
        $check::<f32>();
        $check::<f64>();
        $check::<f16>();
        $check::<bf16>();
    };
}

fn plain<T: CpuElement>(
    loss: &Loss,
    cut: &[std::ops::Range<usize>],
    x: &[T],
    labels: &[i64],
) -> Together<T> {
    let options = Options::new();
    together(loss, cut, x, labels, &options, (false, false)).expect("valid")
}

#[test]
fn shards_come_to_what_all_classes_do() {
    fn check<T: CpuElement>() {
        let mut rng = fastrand::Rng::with_seed(61);
        for classes in [7, 10, 100, 1300] {
            let counts = counts(&mut rng, classes);
            for objective in objectives() {
                let loss = Loss::builder(objective, &counts).ignore_label(IGNORED);
                let loss = loss.build().expect("valid");
                let raw = loss.scale() == Some(1.0);
                let x = logits::<T>(&mut rng, 5 * classes, if raw { 50.0 } else { 1.0 });
                let mut y = labels(&mut rng, 5, classes);
                y[3] = IGNORED;
                let exact = reference::batch(&loss, &widen(&x), &y, &[1.0; 5]);
                for cut in cuts(classes) {
                    let got = plain(&loss, &cut, &x, &y);
                    let what = || format!("{objective:?} {cut:?}");
                    assert_is(&got, &loss, (&exact.row_losses, &exact.gradient), &what);
                    assert_within(got.loss, exact.loss, loss_bound(exact.loss), &what);
                    assert_eq!(got.counted_rows, 4);
                }
            }
        }
    }
    every_type!(check);
}

/// Columns are split over threads, several blocks each.
#[test]
fn long_shards_come_to_what_all_classes_do() {
    fn check<T: CpuElement>() {
        let mut rng = fastrand::Rng::with_seed(62);
        let classes = 40_000;
        let counts = counts(&mut rng, classes);
        for objective in [Objective::ala(), Objective::BalancedSoftmax] {
            let loss = Loss::new(objective, &counts).expect("valid");
            let x = logits::<T>(&mut rng, 3 * classes, 1.0);
            let y = labels(&mut rng, 3, classes);
            let exact = reference::batch(&loss, &widen(&x), &y, &[1.0; 3]);
            for cut in [vec![0..30_000, 30_000..classes], vec![0..1, 1..classes]] {
                let got = plain(&loss, &cut, &x, &y);
                let what = || format!("{objective:?} {cut:?}");
                assert_is(&got, &loss, (&exact.row_losses, &exact.gradient), &what);
            }
        }
    }
    check::<f32>();
    check::<bf16>();
}

#[test]
fn mixed_rows_are_mixed_over_shards() {
    fn check<T: CpuElement>() {
        let mut rng = fastrand::Rng::with_seed(63);
        for classes in [7, 100, 1300] {
            let counts = counts(&mut rng, classes);
            for objective in objectives() {
                let loss = Loss::builder(objective, &counts)
                    .reduction(Reduction::Sum)
                    .ignore_label(IGNORED);
                let loss = loss.build().expect("valid");
                let rows = 6;
                let mut batch = Mixed {
                    x: logits::<T>(&mut rng, rows * classes, 1.0),
                    a: labels(&mut rng, rows, classes),
                    b: labels(&mut rng, rows, classes),
                    lambda: vec![0.5, 0.25, 1.0, 0.0, 0.75, 0.5],
                    weights: vec![1.0, 2.0, 0.5, 1.0, 0.0, 1.0],
                };
                // One label is ignored, the other counts; both are the same.
                batch.a[4] = IGNORED;
                batch.b[5] = batch.a[5];
                let (lambda, weights) = (real::<T>(&batch.lambda), real::<T>(&batch.weights));
                let options = Options::new()
                    .mixed_with(&batch.b, Lambda::PerRow(&lambda))
                    .row_weights(&weights)
                    .hits()
                    .predictions();
                let (losses, gradient) = exact(&loss, &batch);
                let whole = loss.evaluate_with(&batch.x, &batch.a, &options);
                let whole = whole.expect("valid");
                for cut in cuts(classes) {
                    let got = together(&loss, &cut, &batch.x, &batch.a, &options, (true, true));
                    let got = got.expect("valid");
                    let what = || format!("{objective:?} {cut:?}");
                    assert_is(&got, &loss, (&losses, &gradient), &what);
                    assert_eq!(got.hits, whole.hits, "{cut:?}");
                    assert_eq!(got.predictions, whole.predictions, "{cut:?}");
                }
            }
        }
    }
    every_type!(check);
}

/// Everything that a step may vary, against the same step over all classes.
#[test]
fn options_mean_what_they_do_without_shards() {
    let mut rng = fastrand::Rng::with_seed(64);
    let classes = 23;
    let counts = counts(&mut rng, classes);
    let x = logits::<f64>(&mut rng, 6 * classes, 1.0);
    let mut y = labels(&mut rng, 6, classes);
    y[2] = IGNORED;
    let weights: Vec<f64> = (0..classes).map(|j| (j % 5) as f64).collect();
    let row_weights = [1.0, 0.5, 3.0, 0.0, 2.0, 1.0];
    let upstream = [1.0, -2.0, 0.5, 0.0, 3.0, 1e-9];
    let options = Options::new().row_weights(&row_weights).gradient_scale(8.0);
    let per_row = options.upstream(Upstream::PerRow(&upstream));
    let steps = [
        (Reduction::Mean, options),
        (Reduction::Mean, options.divisor(Divisor::Rows)),
        (Reduction::Mean, options.divisor(Divisor::Given(17.0))),
        (Reduction::Mean, options.upstream(Upstream::Scalar(0.25))),
        (Reduction::Sum, options),
        (Reduction::None, per_row),
        (
            Reduction::None,
            per_row.mixed_with(&[3, 5, 7, 3, 11, 22], Lambda::Scalar(0.75)),
        ),
        (
            Reduction::Mean,
            options.mixed_with(&[3, 5, 7, 3, 11, 22], Lambda::Scalar(0.75)),
        ),
    ];
    for objective in objectives() {
        for weighted in [false, true] {
            for (reduction, options) in &steps {
                let mut builder = Loss::builder(objective, &counts)
                    .reduction(*reduction)
                    .ignore_label(IGNORED);
                if weighted {
                    builder = builder.class_weights(weights.clone());
                }
                let loss = builder.build().expect("valid");
                let whole = loss.evaluate_with(&x, &y, options).expect("valid");
                for cut in cuts(classes) {
                    let got = together(&loss, &cut, &x, &y, options, (false, false));
                    let got = got.expect("valid");
                    let what = || format!("{objective:?} {reduction:?} {weighted} {cut:?}");
                    let near = |exact: f64| 1e-12 * exact.abs() + 1e-13;
                    assert_within(got.loss, whole.loss, near(whole.loss), &what);
                    assert_eq!(got.counted_rows, whole.counted_rows);
                    for (got, exact) in got.gradient.iter().zip(&whole.gradient) {
                        assert_within(*got, *exact, near(*exact), &what);
                    }
                    for (got, exact) in got.row_losses.iter().zip(&whole.row_losses) {
                        assert_within(*got, *exact, near(*exact), &what);
                    }
                }
            }
        }
    }
}

#[test]
fn a_mean_counts_the_weights_of_all_shards_classes() {
    let counts = ClassCounts::new([9, 3, 3, 1]).expect("valid");
    let loss = Loss::builder(Objective::CrossEntropy, &counts).class_weights([1.0, 2.0, 4.0, 8.0]);
    let loss = loss.build().expect("valid");
    let got = plain(&loss, &[0..1, 1..4], &[0.0f64; 8], &[0, 3]);
    assert_eq!(got.total_weight, 9.0);
    assert_within(got.loss, 4f64.ln(), 1e-15, &|| "mean".into());
}

/// Every objective, and slopes whose products with large logits round in any way.
fn edge_losses() -> impl Iterator<Item = Loss> {
    let counts = ClassCounts::new([900, 300, 100, 90, 50, 40, 9, 9, 4]).expect("valid");
    let gammas = (1..20).map(|i| 0.03 * f64::from(i)).chain([1.9]);
    let slopes = gammas.map(|gamma| Objective::VectorScaling { gamma, tau: 1.0 });
    let offsets = [5.0, 20.0, 40.0].map(|tau| Objective::LogitAdjustment { tau });
    let objectives = objectives().into_iter().chain(slopes).chain(offsets);
    objectives.map(move |objective| {
        let loss = Loss::builder(objective, &counts).reduction(Reduction::Sum);
        loss.build().expect("valid")
    })
}

/// A row over shards cut in every way, against its exact loss and gradient. Of its labels each has
/// its own digits, also where their gradients all but cancel.
fn assert_row<T: CpuElement>(
    loss: &Loss,
    row: &[f64],
    options: Options<'_, T::Real>,
    terms: &[(usize, f64)],
) {
    let ReferenceRow {
        loss: exact_loss,
        gradient: exact,
    } = reference::mixed_row(loss.table(), row, terms, 0.0);
    let parts = terms
        .iter()
        .map(|&term| reference::mixed_row(loss.table(), row, &[term], 0.0));
    let parts: Vec<_> = parts.collect();
    let x: Vec<T> = row.iter().map(|&x| T::from_f64(x)).collect();
    let class = reference::prediction(row).map_or(NO_CLASS, |class| class as u32);
    let slope = slope(loss.table());
    let exact_loss = real::<T>(&[exact_loss])[0];
    let exact_loss = ala_loss::Real::to_f64(exact_loss);
    for cut in cuts(row.len()) {
        let what = || format!("{:?} {row:?} {cut:?}", loss.objective());
        let options = options.hits().predictions();
        let got = together(loss, &cut, &x, &[4], &options, (true, true)).expect("valid");
        let got_loss = ala_loss::Real::to_f64(got.row_losses[0]);
        assert_within(got_loss, exact_loss, loss_bound(exact_loss), &what);
        for (class, (got, &exact)) in widen(&got.gradient).iter().zip(&exact).enumerate() {
            // Where it leaves the type it is infinite.
            let exact = T::from_f64(exact).to_f64();
            let size: f64 = parts.iter().map(|part| part.gradient[class].abs()).sum();
            let more = 1e-5 * (size - exact.abs());
            let bound = gradient_bound::<T>(exact, slope) + if more > 0.0 { more } else { 0.0 };
            assert_within(*got, exact, bound, &|| format!("{} class {class}", what()));
        }
        assert_eq!(got.predictions, Some(vec![class]), "{}", what());
        assert_eq!(got.hits, Some(vec![class == 4]), "{}", what());
    }
}

#[test]
fn edges_hold_over_shards() {
    fn check<T: CpuElement>() {
        for loss in edge_losses() {
            for row in edge_rows::<T>() {
                assert_row::<T>(&loss, &row, Options::new(), &[(4, 1.0)]);
            }
        }
    }
    every_type!(check);
}

#[test]
fn edges_hold_for_each_label_of_a_pair_over_shards() {
    fn check<T: CpuElement>() {
        for loss in edge_losses() {
            for row in edge_rows::<T>() {
                let options = Options::new().mixed_with(&[7i64], Lambda::Scalar(0.25));
                assert_row::<T>(&loss, &row, options, &[(4, 0.25), (7, 0.75)]);
            }
        }
    }
    every_type!(check);
}

/// A logit times a slope may be too coarse to hold the classes' offsets as well.
#[test]
fn steep_slopes_leave_the_offsets_their_digits_over_shards() {
    fn check<T: CpuElement>() {
        let far_apart = Objective::VectorScaling {
            gamma: 0.1,
            tau: 3.0,
        };
        let by_tau = Objective::LogitAdjustment { tau: 20.0 };
        for (loss, row) in steep_rows(&[Objective::BalancedSoftmax, by_tau, far_apart]) {
            let mixed = || Options::new().mixed_with(&[7i64], Lambda::Scalar(0.25));
            let terms = [(4, 0.25), (7, 0.75)];
            assert_row::<T>(&loss, &row, Options::new(), &[(4, 1.0)]);
            assert_row::<T>(&loss, &row, mixed(), &terms);

            let x: Vec<T> = row.iter().map(|&x| T::from_f64(x)).collect();
            for (cut, options) in cuts(row.len()).iter().zip([Options::new(), mixed()]) {
                let options = options.upstream(Upstream::Scalar(0.0));
                let got = together(&loss, cut, &x, &[4], &options, (false, false));
                let gradient = widen(&got.expect("valid").gradient);
                assert!(gradient.iter().all(|&g| g == 0.0), "{cut:?}: {gradient:?}");
            }
        }
    }
    every_type!(check);
}

/// Rows whose exact values come from 120 digits.
#[test]
fn extreme_rows_over_shards() {
    fn check<T: CpuElement>(case: &Case, name: &str) {
        if !case.types.iter().any(|held| held == name) {
            return;
        }
        for classes in [3, 40, 1200] {
            let (loss, x, label) = case.spread::<T>(classes);
            let slope = slope(loss.table());
            for cut in cuts(classes) {
                let what = || format!("{name}, {cut:?}: {case:?}");
                let got = plain(&loss, &cut, &x, &[label as i64]);
                assert_within(got.loss, case.loss, loss_bound(case.loss), &what);
                for (place, exact) in case.places(classes).zip(&case.gradient) {
                    let got = ala_loss::Element::to_f64(got.gradient[place]);
                    assert_within(got, *exact, gradient_bound::<T>(*exact, slope), &what);
                }
            }
        }
    }
    for case in cases() {
        check::<f32>(&case, "f32");
        check::<f64>(&case, "f64");
        check::<f16>(&case, "f16");
        check::<bf16>(&case, "bf16");
    }
}

/// An offset that all logits have is in no shard's way.
#[test]
fn far_offsets_cost_shards_no_digits() {
    let mut rng = fastrand::Rng::with_seed(65);
    let classes = 40;
    let counts = counts(&mut rng, classes);
    for objective in [Objective::CrossEntropy, Objective::BalancedSoftmax] {
        let loss = Loss::builder(objective, &counts).reduction(Reduction::Sum);
        let loss = loss.build().expect("valid");
        for offset in [1e3, 1e7, 1e11, 1e14] {
            let near = logits::<f64>(&mut rng, classes, 8.0);
            let x: Vec<f64> = near.into_iter().map(|x| x + offset).collect();
            let exact = reference::row(loss.table(), &x, 11);
            for cut in cuts(classes) {
                let got = plain(&loss, &cut, &x, &[11]);
                let what = || format!("{objective:?} {offset:e} {cut:?}");
                assert_within(got.loss, exact.loss, 1e-7 * exact.loss, &what);
                for (got, exact) in got.gradient.iter().zip(&exact.gradient) {
                    assert_within(*got, *exact, 1e-7 * exact.abs(), &what);
                }
            }
        }
    }
}

#[test]
fn confident_rows_keep_their_gradients_over_shards() {
    let counts = ClassCounts::new(vec![7; 300]).expect("valid");
    let loss = Loss::builder(Objective::ala(), &counts)
        .scale(1.0)
        .reduction(Reduction::Sum);
    let loss = loss.build().expect("valid");
    for ahead in [6.0f32, 14.0, 20.75, 60.0, 200.0] {
        let mut x = vec![-0.5f32; 300];
        x[150] = ahead;
        let exact = reference::row(loss.table(), &widen(&x), 150);
        for cut in cuts(300) {
            let got = plain(&loss, &cut, &x, &[150]);
            let what = || format!("{ahead} {cut:?}");
            assert_within(got.loss, exact.loss, 2e-6 * exact.loss, &what);
            for (got, exact) in widen(&got.gradient).iter().zip(&exact.gradient) {
                // Below f32's normal numbers digits go.
                assert_within(*got, *exact, 1e-5 * exact.abs() + 1e-44, &what);
            }
        }
    }
}

/// What scales a row is beyond `f32`, or so small that it would take the gradient's digits.
#[test]
fn extreme_scales_keep_gradients_over_shards() {
    let counts = ClassCounts::new([9, 3, 3, 1]).expect("valid");
    let x = [0.3f32, 0.1, -0.4, 0.2];
    for (scale, weight) in [(1e200, 1e-190), (1e-200, 1e195), (1e39, 1.0), (1e-39, 1.0)] {
        for objective in objectives() {
            let loss = Loss::builder(objective, &counts)
                .class_weights([weight, 2.0 * weight, weight, weight])
                .reduction(Reduction::Sum);
            let loss = loss.build().expect("valid");
            let options = Options::new().gradient_scale(scale);
            let exact = reference::row(loss.table(), &widen(&x), 1).gradient;
            for cut in cuts(4) {
                let got = together(&loss, &cut, &x, &[1], &options, (false, false));
                let got = got.expect("valid").gradient;
                for (got, exact) in widen(&got).iter().zip(&exact) {
                    let exact = f64::from((exact * scale) as f32);
                    let what = || format!("{objective:?} {scale:e} {weight:e} {cut:?}");
                    assert_within(*got, exact, 1e-5 * exact.abs() + 1e-44, &what);
                }
            }
        }
    }
}

#[test]
fn ties_over_shards_go_to_the_lowest_class() {
    let loss = Loss::new(
        Objective::CrossEntropy,
        &ClassCounts::new([1; 6]).expect("valid"),
    );
    let loss = loss.expect("valid");
    let x = [0.1f32, 0.7, 0.7, 0.3, 0.7, -0.2];
    let options = Options::new().hits().predictions();
    for cut in cuts(6) {
        for order in [false, true] {
            // Records in another order than the classes' are as good.
            let mut cut = cut.clone();
            if order {
                cut.reverse();
            }
            let labels = [2, 1];
            let x = [x, x].concat();
            let got = together(&loss, &cut, &x, &labels, &options, (true, true)).expect("valid");
            assert_eq!(got.predictions, Some(vec![1, 1]));
            assert_eq!(got.hits, Some(vec![false, true]));
        }
    }
}

#[test]
fn batches_of_nothing_are_0() {
    let loss = Loss::builder(
        Objective::ala(),
        &ClassCounts::new([5, 3, 1]).expect("valid"),
    )
    .ignore_label(IGNORED);
    let loss = loss.build().expect("valid");
    let got = plain(&loss, &[0..1, 1..3], &[f32::NAN; 6], &[IGNORED; 2]);
    assert_eq!((got.loss, got.counted_rows), (0.0, 0));
    assert_eq!(got.gradient, [0.0; 6]);
    let shard = loss.shard(1..3).expect("valid");
    let none: [f32; 0] = [];
    let labels: [i64; 0] = [];
    shard
        .partial(&none, &labels, &Options::new(), &mut [])
        .expect("valid");
    let summary = shard.finish(&none, &labels, &Options::new(), &[], Outputs::new());
    assert_eq!(summary.expect("valid").loss, 0.0);
}

#[test]
fn strides_are_kept_by_both_halves() {
    let mut rng = fastrand::Rng::with_seed(66);
    let loss = Loss::new(Objective::ala(), &counts(&mut rng, 10)).expect("valid");
    let x = logits::<f32>(&mut rng, 30, 1.0);
    let y = [4, 9, 0];
    let exact = plain(&loss, &[0..4, 4..10], &x, &y);
    let shards = shards_of(&loss, &[0..4, 4..10]);
    let options = Options::new().stride(10);
    // Both read the whole logits in place.
    let mut all = vec![0.0; 2 * 9];
    for (shard, records) in shards.iter().zip(all.chunks_mut(9)) {
        let own = &x[shard.classes().start..];
        shard.partial(own, &y, &options, records).expect("valid");
    }
    let mut gradient = x.clone();
    for shard in &shards {
        let own = &x[shard.classes().start..];
        let part = &mut gradient[shard.classes().start..];
        let outputs = Outputs::new().gradient_strided(part, 10);
        shard
            .finish(own, &y, &options, &all, outputs)
            .expect("valid");
    }
    assert_eq!(gradient, exact.gradient);
}

#[test]
fn bad_input_is_told_and_nothing_written() {
    let loss = Loss::new(
        Objective::ala(),
        &ClassCounts::new([5, 3, 1]).expect("valid"),
    );
    let loss = loss.expect("valid");
    let error = |classes: std::ops::Range<usize>| loss.shard(classes).err();
    for (start, end) in [(0, 0), (2, 1), (0, 4), (3, 4)] {
        let classes = 3;
        assert_eq!(
            error(start..end),
            Some(Error::ShardClasses {
                start,
                end,
                classes
            })
        );
    }
    let smooth = Loss::builder(
        Objective::ala(),
        &ClassCounts::new([5, 3, 1]).expect("valid"),
    );
    let smooth = smooth.label_smoothing(0.1).build().expect("valid");
    assert!(matches!(smooth.shard(0..1), Err(Error::Misplaced { .. })));

    let shard = loss.shard(1..3).expect("valid");
    let options = Options::new();
    let mut own = [7.0; 6];
    let bad = shard.partial(&[0.1f32; 4], &[0, 3], &options, &mut own);
    let (row, label, classes) = (1, 3, 3);
    assert_eq!(
        bad,
        Err(Error::Label {
            row,
            label,
            classes
        })
    );
    let short = shard.partial(&[0.1f32; 4], &[0, 2], &options, &mut own[..5]);
    let (name, got, expected) = ("records", 5, 6);
    assert_eq!(
        short,
        Err(Error::Length {
            name,
            got,
            expected
        })
    );
    let narrow = shard.partial(&[0.1f32; 6], &[0, 2], &options, &mut own);
    assert!(matches!(
        narrow,
        Err(Error::LogitsShape {
            got: 6,
            expected: 4,
            ..
        })
    ));
    assert_eq!(own, [7.0; 6]);

    // A label that no record has, and one that two have.
    let shards = shards_of(&loss, &[0..1, 1..3]);
    let x = [0.1f32, 0.2, 0.3];
    let whole = records(&shards, &x, &[2], &options).expect("valid");
    let mut gradient = [7.0f32; 1];
    let mut finish = |records: &[f64], label: i64| {
        let outputs = Outputs::new().gradient(&mut gradient);
        shards[0].finish(&columns(&x, 3, 0..1), &[label], &options, records, outputs)
    };
    let twice = [&whole[3..], &whole[3..]].concat();
    for (records, shards) in [(&whole[..3], 0), (&twice, 2)] {
        let (row, label) = (0, 2);
        let error = Error::ShardsOfLabel { row, label, shards };
        assert_eq!(finish(records, 2), Err(error));
    }
    let (name, got, expected) = ("the shards' records", 4, 3);
    assert_eq!(
        finish(&whole[..4], 2),
        Err(Error::Length {
            name,
            got,
            expected
        })
    );
    let (got, expected) = (0, 3);
    assert_eq!(
        finish(&[], 2),
        Err(Error::Length {
            name,
            got,
            expected
        })
    );
    assert!(finish(&whole, 3).is_err());
    assert_eq!(gradient, [7.0]);
    // Hits were not asked for.
    let mut hits = [true];
    let outputs = Outputs::new().hits(&mut hits);
    let result = shards[0].finish(&[0.1f32], &[2], &options, &whole, outputs);
    assert!(matches!(result, Err(Error::Misplaced { .. })));
}

/// The rows' losses are added up in one order, however wide a shard is and however its rows are
/// handed to threads.
#[test]
fn shards_of_all_widths_come_to_the_same_bits() {
    let mut rng = fastrand::Rng::with_seed(69);
    let classes = 1500;
    let loss = Loss::new(Objective::ala(), &counts(&mut rng, classes)).expect("valid");
    let loss = loss.with_reduction(Reduction::Sum);
    let x = logits::<f32>(&mut rng, 700 * classes, 1.0);
    for rows in (100..=700).step_by(100) {
        let (x, y) = (&x[..rows * classes], labels(&mut rng, rows, classes));
        // `together` holds the shards' losses against one another.
        let got = plain(&loss, &[0..1, 1..40, 40..300, 300..classes], x, &y);
        let exact = loss.evaluate(x, &y).expect("valid").loss;
        assert_within(got.loss, exact, loss_bound(exact), &|| "sum".into());
    }
}

/// Records hold anything where a transport lost them: nothing is read or written out of bounds.
#[test]
fn records_of_anything_are_survived() {
    let mut rng = fastrand::Rng::with_seed(67);
    let loss = Loss::new(
        Objective::VectorScaling {
            gamma: 0.2,
            tau: 1.0,
        },
        &counts(&mut rng, 9),
    );
    let loss = loss.expect("valid");
    let shard = loss.shard(2..6).expect("valid");
    let some = [
        0.0,
        -1.0,
        1e300,
        -1e300,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        3.0,
        1e18,
    ];
    let options = Options::new()
        .mixed_with(&[5i64, 8], Lambda::Scalar(0.5))
        .hits()
        .predictions();
    for _ in 0..2000 {
        let len = 3 * 2 * shard.record_len(&options);
        let records: Vec<f64> = (0..len).map(|_| some[rng.usize(..some.len())]).collect();
        let x = logits::<f32>(&mut rng, 8, 1.0);
        let (mut gradient, mut hits, mut predictions) = ([0.0; 8], [false; 2], [0; 2]);
        let outputs = Outputs::new()
            .gradient(&mut gradient)
            .hits(&mut hits)
            .predictions(&mut predictions);
        // It may be an error.
        let _ = shard.finish(&x, &[2i64, 7], &options, &records, outputs);
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let mut rng = fastrand::Rng::with_seed(68);
    let classes = 30_000;
    let loss = Loss::new(Objective::ala(), &counts(&mut rng, classes)).expect("valid");
    let x = logits::<f32>(&mut rng, 40 * classes, 1.0);
    let y = labels(&mut rng, 40, classes);
    let step = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("a pool");
        pool.install(|| plain(&loss, &[0..9000, 9000..classes], &x, &y))
    };
    let one = step(1);
    assert!(one.loss > 0.0);
    assert_eq!(step(2), one);
    assert_eq!(step(3), one);
}
