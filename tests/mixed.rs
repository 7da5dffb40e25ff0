//! Mixed rows: two labels, how much is the first one's, and the row's weight, against the `f64`
//! reference.

use ala_loss::{
    ClassCounts, CpuElement, Lambda, Loss, Objective, Options, Reduction, Upstream, reference,
};
use half::{bf16, f16};

mod problem;
use problem::mixed::{
    IGNORED, Mixed, assert_edges, assert_long_rows, assert_random_rows, exact, sum_of,
};
use problem::{assert_within, counts, labels, logits, objectives, widen, widen_real};

#[test]
fn f32_mixed_rows_are_their_labels_rows_mixed() {
    assert_random_rows::<f32>(11, 0.0);
}

#[test]
fn f64_mixed_rows_are_their_labels_rows_mixed() {
    assert_random_rows::<f64>(12, 0.0);
}

#[test]
fn f16_mixed_rows_are_their_labels_rows_mixed() {
    assert_random_rows::<f16>(13, 0.0);
}

#[test]
fn bf16_mixed_rows_are_their_labels_rows_mixed() {
    assert_random_rows::<bf16>(14, 0.0);
}

#[test]
fn long_mixed_rows_are_their_labels_rows_mixed() {
    assert_long_rows::<f32>(21, 0.0);
    assert_long_rows::<bf16>(22, 0.0);
}

#[test]
fn edges_hold_for_each_label_of_a_pair() {
    assert_edges::<f32>(0.0);
    assert_edges::<f64>(0.0);
    assert_edges::<f16>(0.0);
}

/// A confident row's gradient keeps its digits, whichever label it is confident of.
#[test]
fn confident_mixed_rows_keep_their_gradients() {
    // Of one vector, of one block, of several.
    for classes in [3, 300, 5000] {
        let counts = ClassCounts::new(vec![7; classes]).expect("valid");
        let loss = sum_of(Objective::ala(), &counts, 1.0, 0.0);
        for ahead in [6.0f32, 9.0, 14.0, 20.75, 60.0] {
            let pairs = [[ahead, 0.0], [0.0, ahead], [ahead, ahead]];
            // Of so small a part the other label's own digits show.
            let lambdas = [0.25, 2f64.powi(-40)];
            for ([first, second], lambda) in pairs.into_iter().flat_map(|p| lambdas.map(|l| (p, l)))
            {
                let mut x = vec![-0.5; classes];
                (x[0], x[classes / 2]) = (first, second);
                let batch = Mixed {
                    x,
                    a: vec![0],
                    b: vec![classes as i64 / 2],
                    lambda: vec![lambda],
                    weights: vec![1.0],
                };
                let (losses, exact) = exact(&loss, &batch);
                let options = Options::new().mixed_with(&batch.b, Lambda::Scalar(lambda));
                let got = loss.evaluate_with(&batch.x, &batch.a, &options);
                let got = got.expect("valid");
                let what = || format!("{first} and {second} of {classes}");
                assert_within(got.loss, losses[0], 2e-6 * losses[0], &what);
                // Of two terms each has its own digits, also where they all but cancel.
                let table = loss.table();
                let of_label = |label: i64, part: f64| {
                    let row = reference::row(table, &widen(&batch.x), label as usize);
                    row.gradient.into_iter().map(move |g| part * g.abs())
                };
                let sizes = of_label(0, lambda).zip(of_label(batch.b[0], 1.0 - lambda));
                let sizes = sizes.map(|(one, other)| one + other);
                let gradient = widen(&got.gradient).into_iter();
                for ((got, exact), size) in gradient.zip(exact).zip(sizes) {
                    assert_within(got, exact, 1e-5 * size, &what);
                }
            }
        }
    }
}

fn bits<T: CpuElement>(outcome: &ala_loss::Outcome<T>) -> Vec<u64> {
    let gradient = widen(&outcome.gradient);
    let rows = widen_real::<T>(&outcome.row_losses);
    let all = [outcome.loss].into_iter().chain(rows).chain(gradient);
    all.map(f64::to_bits).collect()
}

fn assert_one_label_alone<T: CpuElement>() {
    let mut rng = fastrand::Rng::with_seed(31);
    for classes in [1, 2, 10, 100, 1300, 9000] {
        let counts = counts(&mut rng, classes);
        for objective in objectives() {
            let loss = Loss::builder(objective, &counts)
                .scale(16.0)
                .ignore_label(IGNORED);
            let loss = loss.build().expect("valid");
            let x = logits::<T>(&mut rng, 3 * classes, 1.0);
            let (mut a, b) = (labels(&mut rng, 3, classes), labels(&mut rng, 3, classes));
            a[1] = IGNORED;
            let options = Options::new().hits();
            let alone = loss.evaluate_with(&x, &a, &options).expect("valid");
            let mixed = |labels: &[i64], with: &[i64], lambda| {
                let options = options.mixed_with(with, Lambda::Scalar(lambda));
                loss.evaluate_with(&x, labels, &options).expect("valid")
            };
            assert_eq!(bits(&mixed(&a, &b, 1.0)), bits(&alone));
            assert_eq!(bits(&mixed(&b, &a, 0.0)), bits(&alone));
            assert_eq!(bits(&mixed(&a, &a, 0.3)), bits(&alone));
            assert_eq!(mixed(&a, &b, 0.5).hits, alone.hits);
            assert_eq!(mixed(&a, &[IGNORED; 3], 1.0).counted_rows, 2);
        }
    }
}

#[test]
fn a_label_alone_gives_its_own_result_to_the_bit() {
    assert_one_label_alone::<f32>();
    assert_one_label_alone::<bf16>();
    assert_one_label_alone::<f64>();
}

/// Of a row that is confident of its second label alone the loss keeps its digits, and is not a
/// difference that rounding puts below 0.
#[test]
fn a_row_confident_of_its_second_label_has_no_loss_below_0() {
    for classes in [3, 40, 1300] {
        let counts = ClassCounts::new(vec![7; classes]).expect("valid");
        let loss = sum_of(Objective::CrossEntropy, &counts, 1.0, 0.0);
        for step in 0..400 {
            let ahead = 20.0 + f64::from(step) * 0.37;
            let mut x = vec![0.0; classes];
            x[classes - 1] = ahead;
            let second = [classes as i64 - 1];
            // The first label's own loss is too small to show.
            let options = Options::new().mixed_with(&second, Lambda::Scalar(1e-300));
            let mixed = loss.evaluate_with(&x, &[0], &options).expect("valid");
            let exact = reference::row(loss.table(), &x, classes - 1).loss;
            let what = || format!("{ahead} of {classes}");
            assert!(mixed.loss >= 0.0, "{}", what());
            assert_within(mixed.loss, exact, 2e-6 * exact, &what);
        }
    }
}

/// Parts of a gradient that are each beyond `f64` still have a sum.
#[test]
fn parts_beyond_f64_add_up() {
    for smoothing in [0.0, 0.5] {
        let counts = ClassCounts::new([3, 3, 3]).expect("valid");
        let builder = Loss::builder(Objective::CrossEntropy, &counts).label_smoothing(smoothing);
        let builder = builder.class_weights([1e30; 3]);
        let loss = builder.reduction(Reduction::Sum).build().expect("valid");
        let at = |size: f64| {
            let options = Options::new()
                .mixed_with(&[1], Lambda::Scalar(0.25))
                .upstream(Upstream::Scalar(size));
            let outcome = loss.evaluate_with(&[0.5f64; 3], &[0], &options);
            outcome.expect("valid").gradient
        };
        let usual = at(1.0);
        // p is 1/3, and more than the first label's part.
        assert!(usual[0] > 0.0 && usual[1] < 0.0 && usual[2] > 0.0);
        let infinite: Vec<f64> = usual.iter().map(|g| g.signum() * f64::INFINITY).collect();
        assert_eq!(at(1e300), infinite, "smoothing {smoothing}");
    }
}
