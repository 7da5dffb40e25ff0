//! Batches, and the bounds that results are held to.

use ala_loss::{
    Ala, ClassCounts, DifficultyGradient, Loss, LossBuilder, Objective, QuantityLog, Reduction,
};
use burn::tensor::{Device, Int, Tensor, TensorData};

pub const COUNTS: [u64; 5] = [400, 90, 40, 12, 3];
pub const ROWS: usize = 7;
pub const CLASSES: usize = COUNTS.len();
pub const REDUCTIONS: [Reduction; 3] = [Reduction::Mean, Reduction::Sum, Reduction::None];

/// Every objective, with options that make each of its parameters matter.
pub fn objectives() -> Vec<Objective> {
    vec![
        Objective::ala(),
        Objective::Ala(Ala {
            log: QuantityLog::Natural,
            gradient: DifficultyGradient::Attached,
            log_prior_tau: 0.8,
        }),
        Objective::QuantityOnly {
            log: QuantityLog::Natural,
        },
        Objective::DifficultyOnly {
            k: 0.7,
            gradient: DifficultyGradient::Attached,
        },
        Objective::CrossEntropy,
        Objective::ClassBalanced { beta: 0.999 },
        Objective::Focal { gamma: 2.0 },
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

pub fn builder(objective: Objective) -> LossBuilder {
    let counts = ClassCounts::new(COUNTS).expect("counts above 0");
    Loss::builder(objective, &counts).scale(4.0)
}

/// Cosines, `[ROWS, CLASSES]`.
pub fn cosines() -> Vec<f64> {
    let mut rng = fastrand::Rng::with_seed(17);
    (0..ROWS * CLASSES).map(|_| rng.f64() * 1.8 - 0.9).collect()
}

pub fn labels() -> Vec<i64> {
    vec![0, 4, 2, 1, 3, 0, 4]
}

pub fn matrix(values: Vec<f64>, rows: usize, device: &Device) -> Tensor<2> {
    let columns = values.len() / rows;
    Tensor::from_data(
        TensorData::new(values, [rows, columns]),
        (device, burn::tensor::DType::F64),
    )
}

pub fn integers(values: &[i64], device: &Device) -> Tensor<1, Int> {
    let length = values.len();
    Tensor::from_data(TensorData::new(values.to_vec(), [length]), device)
}

/// A tensor's numbers, of any float type.
pub fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    let values = tensor.into_data().convert::<f64>().try_into_vec::<f64>();
    values.expect("converted to f64")
}

pub fn assert_close(got: &[f64], exact: &[f64], bound: impl Fn(f64) -> f64, what: &str) {
    assert_eq!(got.len(), exact.len(), "{what}");
    for (place, (got, exact)) in got.iter().zip(exact).enumerate() {
        let off = (got - exact).abs();
        let bound = bound(*exact);
        assert!(
            off <= bound,
            "{what}: {place}: {got:e}, not {exact:e}: off by {off:e} > {bound:e}"
        );
    }
}
