//! Random rows against the `f64` reference, within the stated bounds, for every objective and
//! element type.

use ala_loss::{CpuElement, Loss};
use half::{bf16, f16};

mod problem;
use problem::{
    assert_matches_reference, assert_within, counts, gradient_bound, labels, logits, objectives,
};

const CLASSES: [usize; 9] = [1, 2, 3, 31, 32, 33, 365, 1000, 1025];

fn assert_random_rows<T: CpuElement>(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    for classes in CLASSES {
        let counts = counts(&mut rng, classes);
        for objective in objectives() {
            for scale in [1.0, 16.0, 64.0] {
                let loss = Loss::builder(objective, &counts)
                    .scale(scale)
                    .build()
                    .expect("valid");
                let x = logits::<T>(&mut rng, 3 * classes, 1.0);
                assert_matches_reference(&loss, &x, &labels(&mut rng, 3, classes));
            }
            // Raw logits to +-50.
            let loss = Loss::builder(objective, &counts)
                .scale(1.0)
                .build()
                .expect("valid");
            let x = logits::<T>(&mut rng, 3 * classes, 50.0);
            assert_matches_reference(&loss, &x, &labels(&mut rng, 3, classes));
        }
    }
}

#[test]
fn f32_rows_are_within_bounds() {
    assert_random_rows::<f32>(1);
}

#[test]
fn f64_rows_are_within_bounds() {
    assert_random_rows::<f64>(2);
}

#[test]
fn f16_rows_are_within_half_an_ulp() {
    assert_random_rows::<f16>(3);
}

#[test]
fn bf16_rows_are_within_half_an_ulp() {
    assert_random_rows::<bf16>(4);
}

/// Rounding the probability to 16 bits before 1 is subtracted makes the target's gradient 20 %
/// wrong at p = 0.99 and 0 above p = 0.998.
fn assert_confident_rows<T: CpuElement>() {
    let counts = ala_loss::ClassCounts::new([10, 10, 10]).expect("valid");
    for objective in objectives() {
        let loss = Loss::builder(objective, &counts)
            .scale(1.0)
            .reduction(ala_loss::Reduction::Sum)
            .build()
            .expect("valid");
        for ahead in [4.0, 6.0, 9.0, 14.0, 20.75] {
            let x = [T::from_f64(ahead), T::from_f64(0.0), T::from_f64(-0.5)];
            // With a loss scale, as mixed-precision training has it: small gradients would
            // underflow in f16.
            let scale = 65536.0;
            let options = ala_loss::Options::new().gradient_scale(scale);
            let got = loss.evaluate_with(&x, &[0], &options).expect("valid");
            let wide = problem::widen(&x);
            let exact = ala_loss::reference::row(loss.table(), &wide, 0);
            for (j, exact) in exact.gradient.into_iter().enumerate() {
                let exact = exact * scale;
                if exact.abs() > 60000.0 {
                    continue;
                }
                // No absolute part: a confident row's gradient is small and must keep its digits.
                let bound = gradient_bound::<T>(exact, 0.0);
                assert_within(got.gradient[j].to_f64(), exact, bound, &|| {
                    format!("{objective:?} ahead by {ahead}, gradient {j}")
                });
                let rounded = T::from_f64(exact).to_f64();
                assert!(rounded == 0.0 || got.gradient[j].to_f64() != 0.0);
            }
        }
    }
}

#[test]
fn confident_rows_keep_their_gradient() {
    assert_confident_rows::<f32>();
    assert_confident_rows::<f16>();
    assert_confident_rows::<bf16>();
    assert_confident_rows::<f64>();
}

/// Rows enough that the sum is cut into many parts.
#[test]
fn the_sum_over_many_rows_loses_nothing() {
    let mut rng = fastrand::Rng::with_seed(5);
    let (rows, classes) = (5000, 40);
    let counts = counts(&mut rng, classes);
    let x = logits::<f64>(&mut rng, rows * classes, 1.0);
    let y = labels(&mut rng, rows, classes);
    for objective in objectives() {
        for reduction in [ala_loss::Reduction::Mean, ala_loss::Reduction::Sum] {
            let loss = Loss::builder(objective, &counts)
                .reduction(reduction)
                .build()
                .expect("valid");
            let exact = ala_loss::reference::batch(&loss, &x, &y, &vec![1.0; rows]).loss;
            let got = loss.evaluate(&x, &y).expect("valid").loss;
            assert_within(got, exact, 1e-13 * exact, &|| {
                format!("{objective:?} {reduction:?}")
            });
        }
    }
}
