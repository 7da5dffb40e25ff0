//! Mixed rows: two labels, how much is the first one's, and the row's weight, against the `f64`
//! reference.

use ala_loss::{ClassCounts, CpuElement, Lambda, Loss, Objective, Options, reference};
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
