//! The loss of a cosine classifier on the device, against the CPU's in `f64` and against head and
//! loss one after the other.

use ala_loss::{Loss, Reduction};
use ala_loss_candle::{CandleLoss, CosineHead, CosineLoss};
use candle_core::{DType, Device, Module, Tensor, Var};

use crate::cases::{
    CLASSES, LABELS, Outcome, ROWS, assert_close, counted, device, loss, numbers, objectives,
    values, variable,
};

const WIDTH: usize = 5;

/// Loss, gradients of features and weight.
type Step = [Vec<f64>; 3];

fn step(value: &Tensor, total: &Tensor, features: &Var, weight: &Var) -> candle_core::Result<Step> {
    let gradients = total.backward()?;
    let of = |variable: &Var| {
        let gradient = gradients.get(variable).expect("a gradient");
        assert_eq!(gradient.dtype(), variable.dtype());
        numbers(gradient)
    };
    Ok([numbers(value)?, of(features)?, of(weight)?])
}

/// On the CPU in `f64`, of the numbers that the device has.
fn reference(
    loss: &Loss,
    features: &Var,
    weight: &Var,
    total: &Total<'_>,
) -> candle_core::Result<Step> {
    let host = |variable: &Var| {
        let tensor = variable.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        Var::from_tensor(&tensor)
    };
    let (features, weight) = (host(features)?, host(weight)?);
    let labels = Tensor::new(&LABELS, &Device::Cpu)?;
    let value = CosineLoss::new(loss.clone()).forward(&features, &weight, &labels)?;
    step(&value, &total(&value)?, &features, &weight)
}

type Total<'a> = dyn Fn(&Tensor) -> candle_core::Result<Tensor> + 'a;

/// Every objective, reduction and type, however the batch is taken apart.
#[test]
fn the_parts_come_to_what_the_cpu_s_do() -> Outcome {
    let device = device();
    let labels = Tensor::new(&LABELS, &device)?;
    let each = values(ROWS, 50);
    for (i, objective) in objectives().into_iter().enumerate() {
        for reduction in [Reduction::Mean, Reduction::Sum, Reduction::None] {
            let loss = match i % 2 {
                0 => loss(objective, reduction),
                _ => counted(objective, reduction),
            };
            let dtype = [DType::F32, DType::F16, DType::BF16][i % 3];
            let features = variable(&values(ROWS * WIDTH, 51), (ROWS, WIDTH), dtype, &device)?;
            let weight = variable(
                &values(CLASSES * WIDTH, 52),
                (CLASSES, WIDTH),
                DType::F32,
                &device,
            )?;
            let total = |value: &Tensor| match reduction {
                Reduction::None => {
                    let each = Tensor::new(&each[..], &Device::Cpu)?.to_dtype(value.dtype())?;
                    (value * each.to_device(value.device())?)?.sum_all()
                }
                _ => value.affine(-0.75, 2.0),
            };
            let [of_loss, of_features, of_weight] = reference(&loss, &features, &weight, &total)?;
            // The gradient's own rounding to the type, relative to the largest.
            let rounding = match dtype {
                DType::F32 => 0.0,
                DType::F16 => 2f64.powi(-11),
                _ => 2f64.powi(-8),
            };
            let most =
                |gradient: &[f64]| gradient.iter().fold(1.0, |most, g| f64::max(most, g.abs()));
            for rows in [1, 4, ROWS, 100] {
                let op = CosineLoss::new(loss.clone()).rows_at_once(rows);
                let value = op.forward(&features, &weight, &labels)?;
                assert!(value.device().is_cuda());
                let found = step(&value, &total(&value)?, &features, &weight)?;
                assert_close(&found[0], &of_loss, 5e-6);
                assert_close(
                    &found[1],
                    &of_features,
                    (rounding + 1e-5) * most(&of_features),
                );
                assert_close(&found[2], &of_weight, 1e-5 * most(&of_weight));
                op.check(&device)?;
            }
        }
    }
    Ok(())
}

#[test]
fn rows_tell_what_head_and_loss_tell() -> Outcome {
    let device = device();
    let labels = Tensor::new(&LABELS, &device)?;
    let loss = counted(ala_loss::Objective::ala(), Reduction::Mean);
    let features = variable(
        &values(ROWS * WIDTH, 53),
        (ROWS, WIDTH),
        DType::F32,
        &device,
    )?;
    let weight = variable(
        &values(CLASSES * WIDTH, 54),
        (CLASSES, WIDTH),
        DType::F32,
        &device,
    )?;
    let cosines = CosineHead::from_weight(weight.as_tensor().clone())?.forward(&features)?;
    let one_after_the_other = CandleLoss::new(loss.clone()).forward_rows(&cosines, &labels)?;
    let found = CosineLoss::new(loss)
        .rows_at_once(4)
        .forward_rows(&features, &weight, &labels)?;
    assert_eq!(found.hits_on_host()?, one_after_the_other.hits_on_host()?);
    assert_close(
        &numbers(&found.row_losses)?,
        &numbers(&one_after_the_other.row_losses)?,
        1e-6,
    );
    assert_close(
        &numbers(&found.loss)?,
        &numbers(&one_after_the_other.loss)?,
        1e-6,
    );
    Ok(())
}

/// Whatever arrives for a row that does not count, it has no gradient.
#[test]
fn an_ignored_row_s_gradient_is_zero_whatever_arrives() -> Outcome {
    let device = device();
    let labels = Tensor::new(&LABELS, &device)?;
    for reduction in [Reduction::Mean, Reduction::None] {
        for upstream in [f64::NAN, f64::INFINITY] {
            let loss = counted(ala_loss::Objective::CrossEntropy, reduction);
            let features = variable(
                &values(ROWS * WIDTH, 55),
                (ROWS, WIDTH),
                DType::F32,
                &device,
            )?;
            let weight = variable(
                &values(CLASSES * WIDTH, 56),
                (CLASSES, WIDTH),
                DType::F32,
                &device,
            )?;
            let value = CosineLoss::new(loss).forward(&features, &weight, &labels)?;
            let gradients = (value * upstream)?.sum_all()?.backward()?;
            let gradient = numbers(gradients.get(&features).expect("a gradient"))?;
            for (row, gradient) in gradient.chunks(WIDTH).enumerate() {
                // Label 2 is ignored, label 3 has weight 0.
                let zero = gradient.iter().all(|&g| g == 0.0);
                assert_eq!(
                    zero,
                    [2, 3].contains(&LABELS[row]),
                    "{upstream} {reduction:?} {row}: {gradient:?}"
                );
            }
        }
    }
    Ok(())
}

/// Features and weight that are views; and variables that are set between the passes, whose
/// gradients are those of what the loss was computed from.
#[test]
fn views_and_variables_that_change() -> Outcome {
    let device = device();
    let labels = Tensor::new(&LABELS, &device)?;
    for reduction in [Reduction::Mean, Reduction::None] {
        let op = CosineLoss::new(counted(ala_loss::Objective::ala(), reduction)).rows_at_once(4);
        let (tall, wide) = ((WIDTH, ROWS), (CLASSES + 2, WIDTH + 3));
        let step = |plain: bool, set: bool| -> candle_core::Result<Step> {
            let turned = variable(&values(ROWS * WIDTH, 57), tall, DType::F32, &device)?;
            let whole = variable(&values(wide.0 * wide.1, 58), wide, DType::F32, &device)?;
            let view = |of: &Tensor| of.narrow(0, 1, CLASSES)?.narrow(1, 2, WIDTH);
            let (features, weight) = (turned.t()?, view(&whole)?);
            let (features, weight) = match plain {
                true => (features.contiguous()?, weight.contiguous()?),
                false => (features, weight),
            };
            let value = op.forward(&features, &weight, &labels)?;
            let total = (&value * 3.0)?.sum_all()?;
            if set {
                turned.set(&turned.affine(-2.0, 0.25)?)?;
                whole.set(&whole.affine(3.0, -0.5)?)?;
            }
            step(&value, &total, &turned, &whole)
        };
        let expected = step(true, false)?;
        assert_eq!(step(false, false)?, expected);
        assert_eq!(step(false, true)?, expected);
    }
    Ok(())
}
