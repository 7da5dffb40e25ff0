//! Rows whose logits are very large, masked or alike, on the CPU path and the reference, against values that mpmath gives
//! (`tests/golden/extreme.py`).

use ala_loss::{ClassCounts, Element, Loss, Objective, Reduction, reference};
use half::{bf16, f16};

mod problem;

use problem::extreme::{Case, cases};
use problem::{assert_within, gradient_bound, loss_bound, slope};

/// More columns than a vector, a block and what a thread keeps of a row; those that are added are masked.
const CLASSES: [usize; 6] = [3, 40, 1200, 3000, 9001, 140_000];

fn check<T: Element>(case: &Case, name: &str) {
    if !case.types.iter().any(|held| held == name) {
        return;
    }
    for classes in CLASSES {
        let (loss, logits, label) = case.spread::<T>(classes);
        let what = || format!("{name}, {classes} classes: {case:?}");
        let outcome = loss
            .cpu(&logits, &[label])
            .unwrap_or_else(|error| panic!("{error}: {}", what()));
        assert_within(outcome.loss, case.loss, loss_bound(case.loss), &what);
        let mut in_place = logits.clone();
        let options = ala_loss::Options::new();
        let again = loss
            .cpu_in_place(&mut in_place, &[label], &options, ala_loss::Outputs::new())
            .unwrap_or_else(|error| panic!("{error}: {}", what()));
        assert_eq!(
            again.loss.to_bits(),
            outcome.loss.to_bits(),
            "in place, {}",
            what()
        );
        let slope = slope(loss.table());
        for (place, exact) in case.places(classes).zip(&case.gradient) {
            for gradient in [&outcome.gradient, &in_place] {
                let got = gradient[place].to_f64();
                assert_within(got, *exact, gradient_bound::<T>(*exact, slope), &what);
            }
        }
        // What was added is masked.
        let sum = |gradient: &[T]| gradient.iter().filter(|g| g.to_f64() != 0.0).count();
        assert!(sum(&outcome.gradient) <= 3, "{}", what());
    }
}

#[test]
fn extreme_rows_on_the_cpu() {
    for case in cases() {
        check::<f32>(&case, "f32");
        check::<f64>(&case, "f64");
        check::<f16>(&case, "f16");
        check::<bf16>(&case, "bf16");
    }
}

#[test]
fn extreme_rows_in_the_reference() {
    for case in cases() {
        let (loss, logits, label) = case.spread::<f64>(3);
        let row = reference::row(loss.table(), &logits, label);
        let close =
            |got: f64, exact: f64| got == exact || (got - exact).abs() <= 1e-6 * exact.abs() + 1e-9;
        assert!(close(row.loss, case.loss), "{} {case:?}", row.loss);
        for (got, exact) in row.gradient.iter().zip(&case.gradient) {
            assert!(close(*got, *exact), "{got} {case:?}");
        }
    }
}

/// The first block and more is a mask's, of finite numbers; what is seen comes late.
#[test]
fn a_finite_mask_before_the_rest_is_a_mask() {
    let mut rng = fastrand::Rng::with_seed(90);
    let classes = 3000;
    let counts = problem::counts(&mut rng, classes);
    for objective in problem::objectives() {
        let loss = Loss::builder(objective, &counts)
            .reduction(Reduction::Sum)
            .build()
            .expect("valid");
        for mask in [-1e9f32, f32::MIN] {
            let mut logits = problem::logits::<f32>(&mut rng, classes, 1.0);
            logits[..1100].fill(mask);
            for label in [1500, 2999] {
                let exact = reference::row(loss.table(), &problem::widen(&logits), label);
                let got = loss.cpu(&logits, &[label]).expect("valid");
                let what = || format!("{objective:?} {mask} {label}");
                assert_within(got.loss, exact.loss, loss_bound(exact.loss), &what);
                let slope = slope(loss.table());
                for (got, exact) in got.gradient.iter().zip(&exact.gradient) {
                    let bound = gradient_bound::<f32>(*exact, slope);
                    assert_within(f64::from(*got), *exact, bound, &what);
                }
            }
        }
    }
}

/// Beyond what even f64 tells apart a row still makes sense: no NaN, no negative loss, parts that add up.
#[test]
fn any_finite_row_makes_sense() {
    let mut rng = fastrand::Rng::with_seed(91);
    for objective in problem::objectives() {
        for round in 0..60 {
            let classes = [2, 5, 33, 1100][round % 4];
            let counts = problem::counts(&mut rng, classes);
            let loss = Loss::builder(objective, &counts)
                .scale([1.0, 30.0, 1e4][round % 3])
                .build()
                .expect("valid");
            let largest = [1e12, 1e20, 1e37, 3e38][round / 4 % 4];
            let logits: Vec<f32> = (0..classes)
                .map(|_| {
                    let sign = if rng.bool() { 1.0 } else { -1.0 };
                    (sign * largest * [1.0, 1.0, 0.5, 1e-9][rng.usize(..4)]) as f32
                })
                .collect();
            let label = rng.usize(..classes);
            let wide: Vec<f64> = logits.iter().map(|&x| f64::from(x) * 1e260).collect();
            let what = || format!("{objective:?} {logits:?} {label}");
            makes_sense(
                &loss,
                &loss.cpu(&logits, &[label]).expect("valid"),
                label,
                &what,
            );
            makes_sense(
                &loss,
                &loss.cpu(&wide, &[label]).expect("valid"),
                label,
                &what,
            );
        }
    }
}

fn makes_sense<T: Element>(
    loss: &Loss,
    got: &ala_loss::Outcome<T>,
    label: usize,
    what: &dyn Fn() -> String,
) {
    assert!(got.loss >= 0.0, "{} {}", got.loss, what());
    let table = loss.table();
    let at_target = -got.gradient[label].to_f64() / table.targets()[label].gradient_slope;
    let others: f64 = (0..got.gradient.len())
        .filter(|&j| j != label)
        .map(|j| got.gradient[j].to_f64() / table.other(j).slope)
        .sum();
    assert!(
        (at_target - others).abs() <= 1e-4 * at_target.abs() + 1e-6,
        "{at_target} {others} {}",
        what()
    );
}

/// A weight of 0 is a row that does not count, whatever its loss; a NaN in it shows all the same.
#[test]
fn a_row_of_weight_0_counts_for_nothing() {
    let counts = ClassCounts::new([9, 9, 3]).expect("valid");
    let loss = Loss::builder(Objective::CrossEntropy, &counts)
        .class_weights([0.0, 0.0, 1.0])
        .build()
        .expect("valid");
    let infinite = [f32::NEG_INFINITY, 2.0, 3.0, 0.5, 0.1, 0.2];
    let outcome = loss.cpu(&infinite, &[0, 2]).expect("valid");
    // ln(e^.5 + e^.1 + e^.2) - .2
    assert!((outcome.loss - 1.180_099).abs() < 1e-6, "{}", outcome.loss);
    assert_eq!(outcome.row_losses[0], 0.0);
    assert_eq!(outcome.gradient[..3], [0.0; 3]);
    let per_row = Loss::builder(Objective::CrossEntropy, &counts)
        .class_weights([0.0, 0.0, 1.0])
        .reduction(Reduction::None)
        .build()
        .expect("valid");
    let upstream = ala_loss::Upstream::PerRow(&[f32::INFINITY, 1.0]);
    let outcome = per_row
        .cpu_with(
            &infinite,
            &[0, 2],
            &ala_loss::Options::new().upstream(upstream),
        )
        .expect("valid");
    assert_eq!(outcome.gradient[..3], [0.0; 3]);
    let nan = [f32::NAN, 2.0, 3.0, 0.5, 0.1, 0.2];
    let outcome = loss.cpu(&nan, &[0, 2]).expect("valid");
    assert!(outcome.loss.is_nan() && outcome.row_losses[0].is_nan());
    assert!(outcome.gradient[..3].iter().all(|g| g.is_nan()));
    let exact = reference::row(loss.table(), &[f64::NEG_INFINITY, 2.0, 3.0], 0);
    assert_eq!((exact.loss, exact.gradient), (0.0, vec![0.0; 3]));
}
