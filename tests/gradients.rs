//! Gradients against central differences of the loss, in `f64`.

use ala_loss::{Ala, DifficultyGradient, Loss, Objective, QuantityLog, Reduction};

mod problem;
use problem::{assert_within, build, counts, labels, logits, objectives};

fn detached(objective: Objective) -> bool {
    matches!(
        objective,
        Objective::Ala(Ala {
            gradient: DifficultyGradient::Detached,
            ..
        }) | Objective::DifficultyOnly {
            gradient: DifficultyGradient::Detached,
            ..
        }
    )
}

#[test]
fn gradients_agree_with_central_differences() {
    let mut rng = fastrand::Rng::with_seed(11);
    for classes in [2, 5, 17] {
        let counts = counts(&mut rng, classes);
        for objective in objectives().into_iter().filter(|&o| !detached(o)) {
            for reduction in [Reduction::Mean, Reduction::Sum] {
                let loss = Loss::builder(objective, &counts)
                    .scale(8.0)
                    .reduction(reduction)
                    .build()
                    .expect("valid");
                let x = logits::<f64>(&mut rng, 2 * classes, 1.0);
                let y = labels(&mut rng, 2, classes);
                let gradient = loss.evaluate(&x, &y).expect("valid").gradient;
                let step = 1e-5;
                for i in 0..x.len() {
                    let at = |dx: f64| {
                        let mut x = x.clone();
                        x[i] += dx;
                        loss.evaluate(&x, &y).expect("valid").loss
                    };
                    let difference = (at(step) - at(-step)) / (2.0 * step);
                    let bound = 1e-6 * difference.abs() + 1e-7;
                    assert_within(gradient[i], difference, bound, &|| {
                        format!("{objective:?} {reduction:?} C={classes} element {i}")
                    });
                }
            }
        }
    }
}

/// Detached: the loss is the attached one's, and the gradient is that of a constant margin.
#[test]
fn a_detached_difficulty_factor_is_a_constant_margin() {
    let mut rng = fastrand::Rng::with_seed(12);
    let counts = counts(&mut rng, 9);
    let ala = |gradient| {
        build(
            Objective::Ala(Ala {
                log: QuantityLog::Base2,
                gradient,
                log_prior_tau: 0.0,
            }),
            &counts,
        )
    };
    let x = logits::<f64>(&mut rng, 9, 1.0);
    for y in 0..9usize {
        let detached = ala(DifficultyGradient::Detached)
            .evaluate(&x, &[y])
            .expect("valid");
        let attached = ala(DifficultyGradient::Attached)
            .evaluate(&x, &[y])
            .expect("valid");
        assert_eq!(detached.loss, attached.loss);
        // The margin DF * QF as a number, from the paper's formula.
        let n_min = counts.min() as f64;
        let quantity = 1.0 / (counts.as_slice()[y] as f64 / n_min + 1.0).log2();
        let margin = (1.0 - x[y]) / 2.0 * quantity;
        let constant = build(Objective::CosFace { margin }, &counts)
            .evaluate(&x, &[y])
            .expect("valid");
        assert_within(detached.loss, constant.loss, 1e-12, &|| "loss".into());
        for j in 0..9 {
            assert_within(detached.gradient[j], constant.gradient[j], 1e-12, &|| {
                format!("target {y}, gradient {j}")
            });
            let factor = if j == y { 1.0 + quantity / 2.0 } else { 1.0 };
            assert_within(
                attached.gradient[j],
                factor * detached.gradient[j],
                1e-12,
                &|| format!("attached, target {y}, gradient {j}"),
            );
        }
    }
}

#[test]
fn pre_scaled_logits_give_the_same_loss_and_a_gradient_smaller_by_the_scale() {
    let mut rng = fastrand::Rng::with_seed(13);
    let counts = counts(&mut rng, 6);
    for objective in objectives() {
        let scale = 16.0;
        let cosine = Loss::builder(objective, &counts)
            .scale(scale)
            .build()
            .expect("valid");
        let scaled = Loss::builder(objective, &counts)
            .scale(scale)
            .input(ala_loss::Input::PreScaled)
            .build()
            .expect("valid");
        let x = logits::<f64>(&mut rng, 12, 1.0);
        let sx: Vec<f64> = x.iter().map(|x| x * scale).collect();
        let a = cosine.evaluate(&x, &[1, 4]).expect("valid");
        let b = scaled.evaluate(&sx, &[1, 4]).expect("valid");
        assert_within(b.loss, a.loss, 1e-12 * a.loss, &|| format!("{objective:?}"));
        for (b, a) in b.gradient.iter().zip(&a.gradient) {
            assert_within(b * scale, *a, 1e-12 * a.abs(), &|| format!("{objective:?}"));
        }
    }
}
