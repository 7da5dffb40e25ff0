//! Smoothed labels, of one label and of two, against the `f64` reference.

use ala_loss::{
    Affine, ClassCounts, Error, Input, Lambda, Loss, NonTarget, Objective, Options, Reduction,
    RowTable, Target, Upstream, reference,
};
use half::{bf16, f16};

mod problem;
use problem::mixed::{assert_edges, assert_long_rows, assert_random_rows};
use problem::{assert_within, counts, labels, logits, objectives};

#[test]
fn f32_smoothed_rows_are_within_bounds() {
    assert_random_rows::<f32>(51, 0.1);
    assert_random_rows::<f32>(52, 1.0);
}

#[test]
fn f64_smoothed_rows_are_within_bounds() {
    assert_random_rows::<f64>(53, 0.1);
}

#[test]
fn f16_smoothed_rows_are_within_bounds() {
    assert_random_rows::<f16>(54, 0.1);
}

#[test]
fn bf16_smoothed_rows_are_within_bounds() {
    assert_random_rows::<bf16>(55, 0.1);
}

#[test]
fn long_smoothed_rows_are_within_bounds() {
    assert_long_rows::<f32>(56, 0.1);
    assert_long_rows::<bf16>(57, 0.1);
}

#[test]
fn edges_hold_where_labels_are_smoothed() {
    assert_edges::<f32>(0.1);
    assert_edges::<f64>(0.1);
    assert_edges::<f16>(0.1);
}

/// `f64` to its own digits, of single labels as of mixed ones.
#[test]
fn f64_smoothed_rows_keep_their_digits() {
    let mut rng = fastrand::Rng::with_seed(58);
    for classes in [2, 10, 1300] {
        let counts = counts(&mut rng, classes);
        let weights: Vec<f64> = (0..classes)
            .map(|j| f64::from(j as u32 % 4) / 2.0)
            .collect();
        for objective in objectives() {
            let builder = Loss::builder(objective, &counts)
                .scale(20.0)
                .label_smoothing(0.2);
            let builder = builder.class_weights(weights.clone());
            let Ok(loss) = builder.reduction(Reduction::None).build() else {
                assert!(matches!(objective, Objective::Focal { .. }));
                continue;
            };
            let x = logits::<f64>(&mut rng, 3 * classes, 1.0);
            let (a, b) = (labels(&mut rng, 3, classes), labels(&mut rng, 3, classes));
            for lambda in [1.0, 0.25] {
                let options = Options::new().mixed_with(&b, Lambda::Scalar(lambda));
                let got = loss.evaluate_with(&x, &a, &options).expect("valid");
                for row in 0..3 {
                    let targets = [(a[row] as usize, lambda), (b[row] as usize, 1.0 - lambda)];
                    let x = &x[row * classes..][..classes];
                    let exact = reference::mixed_row(loss.table(), x, &targets, 0.2);
                    let what = || format!("{objective:?} C={classes}");
                    let bound = 1e-13 * exact.loss + 1e-15;
                    assert_within(got.row_losses[row], exact.loss, bound, &what);
                    assert!(got.row_losses[row] >= 0.0);
                    let got = &got.gradient[row * classes..][..classes];
                    for (got, exact) in got.iter().zip(exact.gradient) {
                        assert_within(*got, exact, 1e-12 * exact.abs() + 1e-13, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn a_masked_class_counts_by_its_weight() {
    const MASK: f64 = f64::NEG_INFINITY;
    let counts = ClassCounts::new([8, 2, 5, 1]).expect("valid");
    let build = |weights: [f64; 4]| {
        let builder = Loss::builder(Objective::ala(), &counts).class_weights(weights);
        let builder = builder.label_smoothing(0.3).reduction(Reduction::None);
        builder.build().expect("valid")
    };
    let x = [0.4, MASK, -0.2, 0.1];
    for (weights, finite) in [([1.0, 0.0, 2.0, 0.5], true), ([1.0, 0.5, 2.0, 0.5], false)] {
        let loss = build(weights);
        // The masked class too.
        for label in 0..4 {
            let got = loss.evaluate(&x, &[label]).expect("valid");
            let exact = reference::smoothed_row(loss.table(), &x, label, 0.3);
            assert_eq!(got.row_losses[0].is_finite(), finite);
            let what = || format!("{weights:?} label {label}");
            assert_within(
                got.row_losses[0],
                exact.loss,
                1e-13 * exact.loss.abs(),
                &what,
            );
            for (got, exact) in got.gradient.into_iter().zip(exact.gradient) {
                assert_within(got, exact, 1e-13, &what);
            }
        }
    }
}

#[test]
fn a_mean_divides_by_the_labels_own_weights() {
    let counts = ClassCounts::new([8, 2]).expect("valid");
    let builder = Loss::builder(Objective::CrossEntropy, &counts).class_weights([1.0, 3.0]);
    let loss = builder.label_smoothing(0.5).build().expect("valid");
    let outcome = loss.evaluate(&[0.0f64; 4], &[0, 1]).expect("valid");
    // As PyTorch: (0.5 w_y + 0.25 (1 + 3)) ln 2 each, over 1 + 3.
    assert!((outcome.loss - (1.5 + 2.5) / 4.0 * 2f64.ln()).abs() < 1e-15);
}

/// Weights of any size that is allowed, of which a mean sees only how they compare.
#[test]
fn weights_beyond_f32_smooth_as_others_do() {
    let counts = ClassCounts::new([8, 2, 5, 1]).expect("valid");
    let x = [0.4f32, 0.7, -0.2, 0.1, -0.9, 0.3, 0.8, 0.2];
    let options = Options::new().mixed_with(&[3, 3], Lambda::Scalar(0.75));
    let of = |size: f64| {
        let weights = [1.0, 0.5, 2.0, 0.25].map(|weight| weight * size);
        let builder = Loss::builder(Objective::ala(), &counts).label_smoothing(0.3);
        let loss = builder.class_weights(weights).build().expect("valid");
        loss.evaluate_with(&x, &[0, 2], &options).expect("valid")
    };
    let one = of(1.0);
    for size in [1e-200, 1e-50, 1e50, 1e200] {
        let other = of(size);
        let what = || format!("weights of {size:e}");
        assert_within(other.loss, one.loss, 1e-12 * one.loss, &what);
        for (got, exact) in other.gradient.into_iter().zip(&one.gradient) {
            let exact = f64::from(*exact);
            assert_within(got.into(), exact, 1e-6 * exact.abs() + 1e-7, &what);
        }
    }
    let nothing = of(0.0);
    assert_eq!((nothing.loss, nothing.gradient), (0.0, vec![0.0; 8]));
}

#[test]
fn new_class_weights_are_the_smoothing_s_too() {
    let counts = ClassCounts::new([8, 2]).expect("valid");
    let build = |weights: [f64; 2]| {
        let builder = Loss::builder(Objective::ala(), &counts).class_weights(weights);
        builder.label_smoothing(0.3).build().expect("valid")
    };
    let later = build([1.0, 1.0])
        .with_class_weights(&[2.0, 0.5])
        .expect("valid");
    let x = [0.3f32, -0.2, 0.9, 0.1];
    assert_eq!(
        later.evaluate(&x, &[0, 1]),
        build([2.0, 0.5]).evaluate(&x, &[0, 1])
    );
    assert_eq!(later.label_smoothing(), 0.3);
}

#[test]
fn smoothing_out_of_range_and_of_focal_loss_is_refused() {
    let counts = ClassCounts::new([8, 2]).expect("valid");
    for epsilon in [-0.1, 1.1, f64::NAN] {
        let built = Loss::builder(Objective::ala(), &counts)
            .label_smoothing(epsilon)
            .build();
        assert!(matches!(built, Err(Error::Parameter { .. })));
    }
    let focal = Loss::builder(Objective::Focal { gamma: 2.0 }, &counts);
    let message = focal
        .clone()
        .label_smoothing(0.1)
        .build()
        .expect_err("refused")
        .to_string();
    assert_eq!(
        message,
        "label smoothing is 0.1: it must be 0 for a focal loss, which has no smoothed form"
    );
    assert!(focal.label_smoothing(0.0).build().is_ok());
}

/// What scales a gradient from outside does not reach a row that counts for nothing.
#[test]
fn a_smoothed_row_of_weight_0_has_gradient_0_whatever_comes_from_outside() {
    let counts = ClassCounts::new([9, 3, 1]).expect("valid");
    let builder = Loss::builder(Objective::ala(), &counts).label_smoothing(0.1);
    let loss = builder.reduction(Reduction::None).build().expect("valid");
    for outside in [f32::NAN, f32::INFINITY] {
        let upstream = [outside, 1.0, outside];
        let options = Options::new()
            .row_weights(&[0.0, 1.0, 1.0])
            .upstream(Upstream::PerRow(&upstream));
        let outcome = loss.evaluate_with(&[0.5f32; 9], &[0, 1, 2], &options);
        let gradient = outcome.expect("valid").gradient;
        assert_eq!(gradient[..3], [0.0; 3], "{outside}");
        assert!(gradient[3..6].iter().all(|g| g.is_finite()), "{outside}");
        assert!(gradient[6..].iter().all(|g| !g.is_finite()), "{outside}");
    }
}

/// Row losses and gradients of a table's loss within the bounds of `f32`.
fn assert_rows(loss: &Loss, x: &[f32], labels: &[i64], what: &str) {
    let classes = loss.classes();
    let got = loss.evaluate(x, labels).expect("valid");
    for (row, &label) in labels.iter().enumerate() {
        let numbers: Vec<f64> = x[row * classes..][..classes]
            .iter()
            .map(|&x| x.into())
            .collect();
        let epsilon = loss.label_smoothing();
        let exact = reference::smoothed_row(loss.table(), &numbers, label as usize, epsilon);
        let what = || format!("{what}, row {row}");
        let row_loss = f64::from(got.row_losses[row]);
        assert_within(row_loss, exact.loss, 2e-6 * exact.loss, &what);
        let got = &got.gradient[row * classes..][..classes];
        for (got, exact) in got.iter().zip(exact.gradient) {
            assert_within(f64::from(*got), exact, 1e-5 * exact.abs() + 1e-7, &what);
        }
    }
}

/// Logits that differ by little and have much in common.
#[test]
fn what_logits_have_in_common_costs_no_digits() {
    let mut rng = fastrand::Rng::with_seed(59);
    for classes in [3, 300, 3000] {
        let counts = counts(&mut rng, classes);
        for objective in [
            Objective::CrossEntropy,
            Objective::LogitAdjustment { tau: 1.0 },
        ] {
            let loss = Loss::builder(objective, &counts)
                .input(Input::PreScaled)
                .label_smoothing(0.5)
                .reduction(Reduction::None)
                .build()
                .expect("valid");
            let labels = labels(&mut rng, 4, classes);
            let steps: Vec<f32> = (0..4 * classes).map(|_| 4.0 * rng.f32()).collect();
            for common in [0.0, 60.0, -60.0, 10_000.0, -10_000.0] {
                let x: Vec<f32> = steps.iter().map(|step| common + step).collect();
                let what = format!("{objective:?} C={classes} at {common}");
                assert_rows(&loss, &x, &labels, &what);
            }
        }
    }
}

/// The target's own map makes little of a logit that all others would be lost beside.
#[test]
fn a_target_s_large_logit_costs_the_others_no_digits() {
    let classes = 20;
    let target = Target {
        slope: 1e-4,
        bias: 0.0,
        gradient_slope: 1e-4,
        weight: 1.0,
    };
    let same = Affine {
        slope: 1.0,
        bias: 0.0,
    };
    for non_target in [
        NonTarget::Uniform { slope: 1.0 },
        NonTarget::PerClass(vec![same; classes]),
    ] {
        let table = RowTable::new(vec![target; classes], non_target, None).expect("valid");
        let loss = Loss::from_table(table)
            .label_smoothing(0.5)
            .reduction(Reduction::None)
            .build()
            .expect("valid");
        for label in 0..classes {
            let mut x: Vec<f32> = (0..classes).map(|j| (j * 7 % 20) as f32 / 2.3).collect();
            x[label] = 314_159.26;
            assert_rows(&loss, &x, &[label as i64], &format!("label {label}"));
        }
    }
}

/// Also where a mask times its slope would be a number of `f32`.
#[test]
fn a_masked_class_makes_the_loss_infinite_where_all_weigh_the_same() {
    const MASK: f32 = f32::NEG_INFINITY;
    for classes in [4, 40, 2000] {
        let counts = ClassCounts::new(vec![7; classes]).expect("valid");
        for objective in [
            Objective::CrossEntropy,
            Objective::LogitAdjustment { tau: 1.0 },
        ] {
            for scale in [0.1, 1.0, 30.0] {
                let loss = Loss::builder(objective, &counts)
                    .scale(scale)
                    .label_smoothing(0.3)
                    .reduction(Reduction::None)
                    .build()
                    .expect("valid");
                let mut x = vec![0.5; classes];
                x[1] = MASK;
                let got = loss.evaluate(&x, &[2]).expect("valid");
                assert_eq!(got.row_losses, [f32::INFINITY], "{objective:?} {scale}");
                let numbers: Vec<f64> = x.iter().map(|&x| x.into()).collect();
                let exact = reference::smoothed_row(loss.table(), &numbers, 2, 0.3);
                for (got, exact) in got.gradient.iter().zip(exact.gradient) {
                    let bound = 1e-5 * exact.abs() + 1e-7;
                    assert_within(f64::from(*got), exact, bound, &|| format!("{objective:?}"));
                }
            }
        }
    }
}

/// Nothing is taken off infinity.
#[test]
fn an_infinite_factor_from_outside_makes_infinite_gradients() {
    let counts = ClassCounts::new([5, 3, 2]).expect("valid");
    for objective in [
        Objective::CrossEntropy,
        Objective::LogitAdjustment { tau: 1.0 },
    ] {
        let loss = Loss::builder(objective, &counts).label_smoothing(0.3);
        let loss = loss.build().expect("valid");
        let x = [0.4f32, -0.2, 0.1];
        let numbers = x.map(f64::from);
        let exact = reference::smoothed_row(loss.table(), &numbers, 1, 0.3);
        let options = Options::new().upstream(Upstream::Scalar(f64::INFINITY));
        let got = loss.evaluate_with(&x, &[1], &options).expect("valid");
        for (got, exact) in got.gradient.into_iter().zip(exact.gradient) {
            assert_eq!(f64::from(got), exact * f64::INFINITY, "{objective:?}");
        }
    }
}

/// Also where all classes have weight 0, whether the row is solved by vectors or with care.
#[test]
fn smoothed_rows_of_classes_of_weight_0_have_gradient_0_whatever_comes_from_outside() {
    let counts = ClassCounts::new([9, 3, 1]).expect("valid");
    let builder = Loss::builder(Objective::ala(), &counts).label_smoothing(0.6);
    let loss = builder.class_weights([0.0; 3]).build().expect("valid");
    for masked in [0.5f32, -1e9, f32::NEG_INFINITY] {
        for outside in [f64::NAN, f64::INFINITY] {
            let options = Options::new().upstream(Upstream::Scalar(outside));
            let outcome = loss.evaluate_with(&[0.5, masked, 0.5], &[0], &options);
            let outcome = outcome.expect("valid");
            let name = || format!("{masked} times {outside}");
            assert_eq!(outcome.row_losses, [0.0], "{}", name());
            assert_eq!(outcome.gradient, [0.0; 3], "{}", name());
        }
    }
}

/// A part of a class that is rounded to 0 is above 0.
#[test]
fn a_masked_class_makes_the_loss_infinite_however_small_the_smoothing_is() {
    let counts = ClassCounts::new([8, 2, 5]).expect("valid");
    let least = f64::from_bits(1);
    let builder = Loss::builder(Objective::ala(), &counts).label_smoothing(least);
    let loss = builder.build().expect("valid");
    let x = [0.4, f64::NEG_INFINITY, -0.2];
    let outcome = loss.evaluate(&x, &[0]).expect("valid");
    let exact = reference::smoothed_row(loss.table(), &x, 0, least);
    assert_eq!(outcome.loss, f64::INFINITY);
    assert_eq!(exact.loss, f64::INFINITY);
    assert!(outcome.gradient.iter().all(|g| g.is_finite()));
}
