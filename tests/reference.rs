//! The reference with smoothed labels and mixed targets, where the formula read as it stands would
//! give a NaN or lose digits.

use ala_loss::reference::{ReferenceRow, mixed_row, row, smoothed_row};
use ala_loss::{ClassCounts, Loss, Objective, RowTable};

mod problem;
use problem::{assert_within, build, objectives};

const HIDDEN: f64 = f64::NEG_INFINITY;

fn weighted(weights: [f64; 3]) -> RowTable {
    let counts = ClassCounts::new([50, 9, 2]).expect("counts");
    let builder = Loss::builder(Objective::CrossEntropy, &counts)
        .scale(30.0)
        .class_weights(weights);
    builder.build().expect("a valid loss").table().clone()
}

fn plain() -> RowTable {
    weighted([1.0; 3])
}

fn assert_row(got: &ReferenceRow, loss: f64, gradient: &[f64]) {
    assert_within(got.loss, loss, 1e-15 * loss.abs(), &|| "loss".into());
    for (j, (&got, &exact)) in got.gradient.iter().zip(gradient).enumerate() {
        assert_within(got, exact, 1e-15, &|| format!("gradient {j}"));
    }
}

#[test]
fn no_smoothing_and_one_target_are_the_row_itself() {
    let mut rng = fastrand::Rng::with_seed(5);
    let counts = problem::counts(&mut rng, 9);
    for objective in objectives() {
        let loss = build(objective, &counts);
        let x: Vec<f64> = problem::logits(&mut rng, 9, 1.0);
        let exact = row(loss.table(), &x, 4);
        assert_eq!(smoothed_row(loss.table(), &x, 4, 0.0), exact);
        assert_eq!(
            mixed_row(loss.table(), &x, &[(4, 1.0), (7, 0.0)], 0.0),
            exact
        );
    }
}

#[test]
fn a_masked_class_without_weight_adds_nothing() {
    let two = ClassCounts::new([50, 9]).expect("counts");
    let two = Loss::builder(Objective::CrossEntropy, &two).scale(30.0);
    let two = two.build().expect("a valid loss");
    let masked = smoothed_row(&weighted([1.0, 1.0, 0.0]), &[0.5, 0.25, HIDDEN], 0, 0.3);
    // 0.3 over three classes is 0.2 over the two that count, the rest is the target's.
    let without = smoothed_row(two.table(), &[0.5, 0.25], 0, 0.2);
    let target = row(two.table(), &[0.5, 0.25], 0);
    let more = |j: usize| without.gradient[j] - 0.1 * target.gradient[j];
    assert_row(
        &masked,
        without.loss - 0.1 * target.loss,
        &[more(0), more(1), 0.0],
    );
}

#[test]
fn a_masked_class_with_weight_makes_the_loss_infinite_and_leaves_the_gradient() {
    let p = 1.0 / (1.0 + (-7.5f64).exp());
    let got = smoothed_row(&plain(), &[0.5, 0.25, HIDDEN], 0, 0.3);
    // dL/dz = p - label, at a scale of 30.
    let expected = [p - 0.8, (1.0 - p) - 0.1, -0.1].map(|g| 30.0 * g);
    assert_eq!(got.loss, f64::INFINITY);
    for (got, exact) in got.gradient.iter().zip(expected) {
        assert_within(*got, exact, 1e-13, &|| "gradient".into());
    }
}

#[test]
fn a_masked_target_counts_as_far_as_its_coefficient() {
    let x = [0.5, 0.25, HIDDEN];
    let seen = row(&plain(), &x, 0);
    assert_eq!(mixed_row(&plain(), &x, &[(2, 0.0), (0, 1.0)], 0.0), seen);
    let half = mixed_row(&plain(), &x, &[(2, 0.5), (0, 0.5)], 0.0);
    assert_eq!(half.loss, f64::INFINITY);
    assert_within(half.gradient[2], -15.0, 0.0, &|| "the hidden one".into());
    // Without weight it is nothing whatever its coefficient.
    let light = weighted([1.0, 1.0, 0.0]);
    let half = mixed_row(&light, &x, &[(2, 0.5), (0, 0.5)], 0.0);
    let halved: Vec<f64> = seen.gradient.iter().map(|g| 0.5 * g).collect();
    assert_row(&half, 0.5 * seen.loss, &halved);
    // A label smoothed all the way is every class's alike: its own part adds nothing.
    let all = smoothed_row(&light, &x, 2, 1.0);
    assert_row(&all, smoothed_row(&light, &x, 0, 1.0).loss, &all.gradient);
    assert!(all.loss.is_finite());
}

#[test]
fn what_has_no_softmax_is_nan_throughout() {
    let rows = [[0.5, f64::NAN, 0.1], [0.5, f64::INFINITY, 0.1], [HIDDEN; 3]];
    for x in &rows {
        for table in [plain(), weighted([0.0; 3])] {
            for got in [
                smoothed_row(&table, x, 0, 0.1),
                mixed_row(&table, x, &[(0, 0.5), (1, 0.5)], 0.1),
                mixed_row(&table, x, &[(0, 0.0)], 0.0),
                mixed_row(&table, x, &[], 0.0),
            ] {
                let mut values = got.gradient.iter().chain([&got.loss]);
                assert!(values.all(|value| value.is_nan()), "{x:?}: {got:?}");
            }
        }
    }
}

#[test]
fn very_large_logits_give_no_nan() {
    let got = smoothed_row(&plain(), &[1e300, 1e300, -1e300], 1, 0.3);
    // 30 of a logit, a tenth of the label, 2e300 below.
    assert_within(got.loss, 0.1 * 30.0 * 2e300, 1e288, &|| "loss".into());
    // dL/dz = p - label, at a scale of 30.
    let expected = [0.5 - 0.1, 0.5 - 0.8, -0.1].map(|g| 30.0 * g);
    for (got, exact) in got.gradient.iter().zip(expected) {
        assert_within(*got, exact, 1e-14, &|| "gradient".into());
    }
}

/// `1 - p` here is below what a difference from 1 can tell, and all there is to the gradient.
#[test]
fn a_confident_row_keeps_its_digits() {
    // Only class 0 is weighed, and nearly certain: the rest is no part of the smoothed label.
    let got = smoothed_row(&weighted([1.0, 0.0, 0.0]), &[1.0, -1.0, -1.0], 1, 0.3);
    let rest = 2.0 * (-60f64).exp();
    assert_within(got.loss, 0.1 * rest, 1e-12 * rest, &|| "loss".into());
    let expected = [-3.0 * rest, 1.5 * rest, 1.5 * rest];
    for (got, exact) in got.gradient.iter().zip(expected) {
        assert_within(*got, exact, 1e-12 * rest, &|| "gradient".into());
    }
}

#[test]
#[should_panic(expected = "smoothing is 0.1, and must be 0 for a focal loss")]
fn focal_loss_is_not_smoothed() {
    let counts = ClassCounts::new([50, 9, 2]).expect("counts");
    let focal = build(Objective::Focal { gamma: 2.0 }, &counts);
    mixed_row(focal.table(), &[0.5, 0.25, 0.1], &[(0, 1.0)], 0.1);
}

#[test]
#[should_panic(expected = "smoothing is 1.5, and must be in 0..=1")]
fn smoothing_is_a_share() {
    smoothed_row(&plain(), &[0.5, 0.25, 0.1], 0, 1.5);
}
