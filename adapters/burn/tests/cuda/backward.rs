//! Gradients through burn's autodiff, whose own operations are burn's kernels.

use ala_loss::{Loss, Objective, Reduction, reference};
use ala_loss_burn::AlaLoss;
use burn::tensor::{DType, Tensor, TensorData};

use crate::cases::{
    REDUCTIONS, ROWS, assert_close, builder, cosines, device, integers, labels, matrix, numbers,
    objectives,
};

/// The gradient of the loss times `upstream` is the reference's.
fn check(loss: &Loss, loss_scale: f64, dtype: DType, upstream: &[f64]) {
    let what = format!("{:?} {:?}", loss.objective(), loss.reduction());
    let device = device().autodiff();
    let (logits, exact) = matrix(cosines(), ROWS, dtype, &device);
    let logits = logits.require_grad();
    let op = AlaLoss::new(loss.clone()).with_loss_scale(loss_scale);
    let op = op.expect("a loss scale");
    let value = op
        .try_forward(logits.clone(), integers(&labels(), DType::I32, &device))
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let each = match upstream {
        [factor] => vec![*factor; ROWS],
        each => each.to_vec(),
    };
    let factors = each[..value.dims()[0]].to_vec();
    let length = factors.len();
    let factors = TensorData::new(factors, [length]).convert_dtype(DType::F32);
    let factors = Tensor::<1>::from_data(factors, (&device, DType::F32));
    // Of the sum of its numbers, as burn takes it.
    let gradients = (value * factors).backward();
    let gradient = logits.grad(&gradients).expect("the logits are tracked");
    assert_eq!(gradient.dtype(), dtype);

    let exact = reference::batch(loss, &exact, &labels(), &each);
    let digits = match dtype {
        DType::F32 => 4e-6,
        DType::F16 => 1e-3,
        _ => 8e-3,
    };
    let bound = |x: f64| digits * x.abs() + 4e-6;
    assert_close(&numbers(gradient), &exact.gradient, bound, &what);
}

#[test]
fn every_objective_and_reduction_matches_the_reference() {
    for objective in objectives() {
        for reduction in REDUCTIONS {
            let loss = builder(objective).reduction(reduction);
            check(&loss.build().expect("valid"), 1.0, DType::F32, &[1.0]);
        }
    }
}

/// Of a reduced loss the kept gradient serves for the loss scale, and is made anew for any other.
#[test]
fn any_upstream_gradient_of_any_type() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for reduction in [Reduction::Mean, Reduction::Sum] {
            let loss = builder(Objective::ala()).reduction(reduction);
            let loss = loss.build().expect("valid");
            for upstream in [1.0, 8.0, -0.75] {
                check(&loss, 8.0, dtype, &[upstream]);
            }
        }
        let loss = builder(Objective::ala()).reduction(Reduction::None);
        let each: Vec<f64> = (0..ROWS).map(|row| row as f64 * 0.5 - 1.0).collect();
        check(&loss.build().expect("valid"), 1.0, dtype, &each);
    }
}

/// Transposed logits, and labels of other types, are copied by burn first.
#[test]
fn what_the_kernels_cannot_read_is_copied() {
    let device = device();
    let loss = builder(Objective::ala()).build().expect("valid");
    let (tall, exact) = matrix(cosines(), ROWS, DType::F32, &device);
    let turned = tall.transpose();
    // Twice turned, once in memory.
    let copied = Tensor::<2>::from_data(turned.into_data(), &device).transpose();
    let exact = reference::batch(&loss, &exact, &labels(), &[1.0; ROWS]);
    for label_type in [DType::I8, DType::I16, DType::U16, DType::I64] {
        let op = AlaLoss::new(loss.clone());
        let labels = integers(&labels(), label_type, &device);
        let value = op.try_forward(copied.clone(), labels).expect("valid");
        assert_close(&numbers(value), &[exact.loss], |_| 4e-6, "copied");
    }
}
