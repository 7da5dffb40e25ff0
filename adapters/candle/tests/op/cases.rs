//! Inputs that the tests share.

use ala_loss::{
    Ala, ClassCounts, DifficultyGradient, Loss, LossBuilder, Objective, QuantityLog, Reduction,
};
use ala_loss_candle::CandleLoss;
use candle_core::{Device, Tensor, Var};

pub(crate) use crate::values::values;

pub(crate) type Outcome = Result<(), Box<dyn std::error::Error>>;

pub(crate) const ROWS: usize = 6;
pub(crate) const CLASSES: usize = 5;
pub(crate) const COUNTS: [u64; CLASSES] = [900, 200, 60, 12, 3];
pub(crate) const LABELS: [u32; ROWS] = [4, 0, 2, 3, 1, 4];

pub(crate) fn cosines() -> Vec<f64> {
    values(ROWS * CLASSES, 1)
}

pub(crate) fn labels() -> candle_core::Result<Tensor> {
    Tensor::new(&LABELS, &Device::Cpu)
}

pub(crate) fn variable(values: &[f64], shape: (usize, usize)) -> candle_core::Result<Var> {
    Var::from_slice(values, shape, &Device::Cpu)
}

pub(crate) fn builder(objective: Objective) -> Result<LossBuilder, ala_loss::Error> {
    Ok(Loss::builder(objective, &ClassCounts::new(COUNTS)?))
}

pub(crate) fn ala(reduction: Reduction) -> Result<CandleLoss, ala_loss::Error> {
    let loss = builder(Objective::ala())?.reduction(reduction).build()?;
    Ok(CandleLoss::new(loss))
}

/// ALA with the difficulty gradient attached: the one whose gradient is the derivative of its loss.
pub(crate) fn attached() -> Objective {
    Objective::Ala(Ala {
        gradient: DifficultyGradient::Attached,
        ..Ala::default()
    })
}

/// One of each objective.
pub(crate) fn objectives() -> Vec<Objective> {
    vec![
        Objective::CrossEntropy,
        Objective::ClassBalanced { beta: 0.999 },
        Objective::Focal { gamma: 2.0 },
        Objective::BalancedSoftmax,
        Objective::LogitAdjustment { tau: 1.0 },
        Objective::VectorScaling {
            gamma: 0.2,
            tau: 1.0,
        },
        Objective::Ldam { max_margin: 0.5 },
        Objective::CosFace { margin: 0.35 },
        Objective::ala(),
        attached(),
        Objective::QuantityOnly {
            log: QuantityLog::Base2,
        },
        Objective::DifficultyOnly {
            k: 1.0,
            gradient: DifficultyGradient::Detached,
        },
    ]
}

/// The gradient of `output` for `variable`, row by row.
pub(crate) fn gradient_of(output: &Tensor, variable: &Var) -> candle_core::Result<Vec<f64>> {
    match output.backward()?.get(variable) {
        Some(gradient) => gradient
            .to_dtype(candle_core::DType::F64)?
            .flatten_all()?
            .to_vec1(),
        None => candle_core::bail!("the variable has no gradient"),
    }
}

/// Fails on the first entry that differs by more than `tolerance` times the larger of 1 and the
/// expected size.
#[track_caller]
pub(crate) fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (found - expected).abs();
        assert!(
            difference <= tolerance * expected.abs().max(1.0),
            "entry {index}: {found}, expected {expected}"
        );
    }
}
