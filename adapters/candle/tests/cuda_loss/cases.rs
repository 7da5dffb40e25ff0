//! The device, and inputs that the tests share.

use std::sync::OnceLock;

use ala_loss::{
    Ala, ClassCounts, DifficultyGradient, Loss, Objective, Options, QuantityLog, Reduction,
    Upstream,
};
use candle_core::{DType, Device, Result, Tensor, Var};
use softcuda_client::client::SoftCuda;

#[path = "../op/values.rs"]
mod values;

pub(crate) use values::values;

pub(crate) type Outcome = std::result::Result<(), Box<dyn std::error::Error>>;

pub(crate) const CLASSES: usize = 7;
pub(crate) const ROWS: usize = 9;
const COUNTS: [u64; CLASSES] = [900, 200, 60, 31, 12, 5, 3];
/// The label 2 is ignored where a loss has an ignore label.
pub(crate) const IGNORED: i64 = 2;
pub(crate) const LABELS: [i64; ROWS] = [4, 0, 2, 3, 1, 6, 5, 2, 0];

/// The driver in software, where that is the one.
pub(crate) fn soft() -> Option<SoftCuda> {
    static SOFT: OnceLock<Option<SoftCuda>> = OnceLock::new();
    *SOFT.get_or_init(|| {
        let soft = SoftCuda::linked();
        if let Some(soft) = soft {
            // candle reads what it has downloaded without waiting: of a copy to pageable memory
            // CUDA says that it is done when the call returns.
            soft.set_prompt_downloads(true);
        }
        soft
    })
}

/// A device of the test's own, with its own stream.
pub(crate) fn device() -> Device {
    soft();
    Device::new_cuda_with_stream(0).expect("a CUDA device")
}

pub(crate) fn loss(objective: Objective, reduction: Reduction) -> Loss {
    let counts = ClassCounts::new(COUNTS).expect("valid");
    Loss::builder(objective, &counts)
        .reduction(reduction)
        .build()
        .expect("valid")
}

/// The same with a label that is ignored and weights, one of them 0.
pub(crate) fn counted(objective: Objective, reduction: Reduction) -> Loss {
    let counts = ClassCounts::new(COUNTS).expect("valid");
    Loss::builder(objective, &counts)
        .reduction(reduction)
        .ignore_label(IGNORED)
        .class_weights(vec![0.5, 1.0, 2.0, 0.0, 3.0, 1.5, 0.25])
        .build()
        .expect("valid")
}

pub(crate) fn objectives() -> Vec<Objective> {
    vec![
        Objective::CrossEntropy,
        Objective::Focal { gamma: 2.0 },
        Objective::VectorScaling {
            gamma: 0.2,
            tau: 1.0,
        },
        Objective::Ldam { max_margin: 0.5 },
        Objective::ala(),
        Objective::Ala(Ala {
            gradient: DifficultyGradient::Attached,
            ..Ala::default()
        }),
        Objective::QuantityOnly {
            log: QuantityLog::Base2,
        },
    ]
}

/// A tensor's numbers as `f64`, on the host.
pub(crate) fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    let host = tensor.to_device(&Device::Cpu)?;
    host.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// `[N, C]` numbers as a variable of a type on a device.
pub(crate) fn variable(
    numbers: &[f64],
    shape: (usize, usize),
    dtype: DType,
    device: &Device,
) -> Result<Var> {
    let host = Tensor::from_slice(numbers, shape, &Device::Cpu)?;
    Var::from_tensor(&host.to_dtype(dtype)?.to_device(device)?)
}

/// The gradient of `output` for `variable`.
pub(crate) fn gradient_of(output: &Tensor, variable: &Var) -> Result<Vec<f64>> {
    let gradients = output.backward()?;
    let gradient = gradients.get(variable).expect("a gradient");
    assert!(gradient.device().is_cuda() && gradient.dtype() == variable.dtype());
    numbers(gradient)
}

/// What the reference says of contiguous rows, in `f64`.
pub(crate) struct Expected {
    pub(crate) loss: f64,
    pub(crate) row_losses: Vec<f64>,
    pub(crate) gradient: Vec<f64>,
    pub(crate) hits: Vec<bool>,
}

/// `upstream`: one factor, or one for each row.
pub(crate) fn expected(loss: &Loss, logits: &[f64], labels: &[i64], upstream: &[f64]) -> Expected {
    let upstream = match (upstream, loss.reduction()) {
        (&[factor], _) => Upstream::Scalar(factor),
        (each, Reduction::None) => Upstream::PerRow(each),
        _ => panic!("one factor for a loss that is reduced"),
    };
    let options = Options::new().upstream(upstream).hits();
    let outcome = loss.evaluate_with(logits, labels, &options).expect("valid");
    Expected {
        loss: outcome.loss,
        row_losses: outcome.row_losses,
        gradient: outcome.gradient,
        hits: outcome.hits.expect("asked for"),
    }
}

/// What a type can hold of a gradient that was computed in `f32` and rounded once, relative to the
/// largest of its row's or 1.
pub(crate) fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 2f64.powi(-11) + 4e-6,
        DType::BF16 => 2f64.powi(-8) + 4e-6,
        _ => 4e-6,
    }
}

#[track_caller]
pub(crate) fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (found - expected).abs();
        assert!(
            difference <= tolerance * expected.abs().max(1.0) || found == expected,
            "entry {index}: {found}, expected {expected}"
        );
    }
}
