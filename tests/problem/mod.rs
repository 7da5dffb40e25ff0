//! Random problems and the accuracy bounds that every path is held to.

// Each test binary uses its own part of this module.
#![allow(dead_code)]

pub mod extreme;
pub mod mixed;
pub mod shards;

use ala_loss::{
    Ala, ClassCounts, CpuElement, DifficultyGradient, Element, Loss, Objective, QuantityLog,
    RowTable, reference,
};

/// Every objective, with options that make each of its parameters matter.
pub fn objectives() -> Vec<Objective> {
    use DifficultyGradient::{Attached, Detached};
    let ala = |log, gradient, log_prior_tau| {
        Objective::Ala(Ala {
            log,
            gradient,
            log_prior_tau,
        })
    };
    vec![
        ala(QuantityLog::Base2, Detached, 0.0),
        ala(QuantityLog::Base2, Attached, 0.0),
        ala(QuantityLog::Natural, Detached, 0.0),
        ala(QuantityLog::Natural, Attached, 0.0),
        ala(QuantityLog::Base2, Attached, 0.8),
        Objective::QuantityOnly {
            log: QuantityLog::Base2,
        },
        Objective::DifficultyOnly {
            k: 0.7,
            gradient: Detached,
        },
        Objective::DifficultyOnly {
            k: 1.3,
            gradient: Attached,
        },
        Objective::CrossEntropy,
        Objective::ClassBalanced { beta: 0.999 },
        Objective::Focal { gamma: 2.0 },
        Objective::Focal { gamma: 0.5 },
        Objective::BalancedSoftmax,
        Objective::LogitAdjustment { tau: 1.2 },
        Objective::VectorScaling {
            gamma: 0.15,
            tau: 0.9,
        },
        Objective::Ldam { max_margin: 0.5 },
        Objective::CosFace { margin: 0.35 },
    ]
}

/// Long-tailed counts in random class order, the largest 1,000 and the smallest 5.
pub fn counts(rng: &mut fastrand::Rng, classes: usize) -> ClassCounts {
    let mut counts: Vec<u64> = (0..classes)
        .map(|j| {
            let rank = j as f64 / classes.saturating_sub(1).max(1) as f64;
            (1000.0 * 200f64.powf(-rank)).round() as u64
        })
        .collect();
    rng.shuffle(&mut counts);
    ClassCounts::new(counts).expect("counts are positive")
}

/// `n` logits, uniform in `-bound..bound`, rounded to `T`.
pub fn logits<T: Element>(rng: &mut fastrand::Rng, n: usize, bound: f64) -> Vec<T> {
    (0..n)
        .map(|_| T::from_f64((rng.f64() * 2.0 - 1.0) * bound))
        .collect()
}

pub fn labels(rng: &mut fastrand::Rng, n: usize, classes: usize) -> Vec<i64> {
    (0..n).map(|_| rng.usize(..classes) as i64).collect()
}

pub fn widen<T: Element>(values: &[T]) -> Vec<f64> {
    values.iter().map(|v| v.to_f64()).collect()
}

pub fn build(objective: Objective, counts: &ClassCounts) -> Loss {
    Loss::builder(objective, counts)
        .build()
        .expect("the objective is valid")
}

/// Loss: within 2e-6 relative + 1e-6 absolute of the exact value.
pub fn loss_bound(exact: f64) -> f64 {
    2e-6 * exact.abs() + 1e-6
}

/// Half the distance between neighbours of `T` around `exact`, as far as `T` is a 16-bit type.
fn half_ulp<T: Element>(exact: f64) -> f64 {
    // (mantissa bits, smallest normal exponent)
    let (bits, least) = match std::any::type_name::<T>() {
        "half::binary16::f16" => (10, -14),
        "half::bfloat::bf16" => (7, -126),
        _ => return 0.0,
    };
    let exponent = if exact == 0.0 {
        least
    } else {
        (exact.abs().log2().floor() as i32).max(least)
    };
    0.5 * 2f64.powi(exponent - bits)
}

/// Gradient: within 1e-5 relative + 1e-7 absolute (times weight and slope), and for the 16-bit
/// types half an ulp more.
pub fn gradient_bound<T: Element>(exact: f64, slope: f64) -> f64 {
    half_ulp::<T>(exact) + 1e-5 * exact.abs() + 1e-7 * slope.abs()
}

/// The largest `w_y a_j` that a gradient of the table is made with.
pub fn slope(table: &RowTable) -> f64 {
    let weight = table
        .targets()
        .iter()
        .fold(0.0, |most, t| f64::max(most, t.weight));
    (0..table.classes()).fold(0.0, |most, j| {
        let own = table.targets()[j];
        f64::max(most, own.gradient_slope.max(table.affine(j).slope))
    }) * weight
}

pub fn assert_within(got: f64, exact: f64, bound: f64, what: &dyn Fn() -> String) {
    let same = got == exact || (got.is_nan() && exact.is_nan());
    assert!(
        same || (got - exact).abs() <= bound,
        "{}: got {got:e}, exact {exact:e}, off by {:e}, bound {bound:e}",
        what(),
        (got - exact).abs()
    );
}

/// Holds a whole result against the reference on the same rounded logits.
pub fn assert_matches_reference<T: CpuElement>(loss: &Loss, logits: &[T], labels: &[i64]) {
    let outcome = loss.evaluate(logits, labels).expect("the batch is valid");
    let exact = reference::batch(loss, &widen(logits), labels, &vec![1.0; labels.len()]);
    let name = || format!("{:?} C={}", loss.objective(), loss.classes());
    assert_within(outcome.loss, exact.loss, loss_bound(exact.loss), &name);
    for (i, (got, &exact)) in widen_real::<T>(&outcome.row_losses)
        .into_iter()
        .zip(&exact.row_losses)
        .enumerate()
    {
        assert_within(got, exact, loss_bound(exact), &|| {
            format!("{} row loss {i}", name())
        });
    }
    let slope = slope(loss.table());
    for (i, (got, &exact)) in widen(&outcome.gradient)
        .into_iter()
        .zip(&exact.gradient)
        .enumerate()
    {
        assert_within(got, exact, gradient_bound::<T>(exact, slope), &|| {
            format!("{} gradient {i}", name())
        });
    }
}

pub fn widen_real<T: Element>(values: &[T::Real]) -> Vec<f64> {
    use ala_loss::Real;
    values.iter().map(|v| v.to_f64()).collect()
}
