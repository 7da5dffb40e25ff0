//! The loss of a cosine classifier, held against central differences, and against head and loss one
//! after the other, a few rows at a time and all at once.

use ala_loss::{Loss, Objective, Reduction};
use ala_loss_candle::{CandleLoss, CosineHead, CosineLoss};
use candle_core::{DType, Device, Module, Tensor, Var};

use crate::cases::{
    CLASSES, LABELS, Outcome, ROWS, assert_close, attached, builder, gradient_of, labels,
    objectives, values, variable,
};

const WIDTH: usize = 4;

fn features() -> candle_core::Result<Var> {
    variable(&values(ROWS * WIDTH, 21), (ROWS, WIDTH))
}

fn weight() -> candle_core::Result<Var> {
    variable(&values(CLASSES * WIDTH, 22), (CLASSES, WIDTH))
}

/// Loss, and gradients with respect to features and weight.
type Step = (Tensor, Vec<f64>, Vec<f64>);

fn step(value: Tensor, total: &Tensor, features: &Var, weight: &Var) -> candle_core::Result<Step> {
    Ok((
        value,
        gradient_of(total, features)?,
        gradient_of(total, weight)?,
    ))
}

fn one_after_the_other(
    loss: &Loss,
    features: &Tensor,
    weight: &Tensor,
    labels: &Tensor,
) -> candle_core::Result<Tensor> {
    let cosines = CosineHead::from_weight(weight.clone())?.forward(features)?;
    CandleLoss::new(loss.clone()).forward(&cosines, labels)
}

/// Of objectives whose gradient is the derivative of their loss.
#[test]
fn central_differences_agree() -> Outcome {
    const STEP: f64 = 1e-6;
    for objective in [
        Objective::CrossEntropy,
        Objective::Focal { gamma: 2.0 },
        attached(),
    ] {
        for reduction in [Reduction::Mean, Reduction::Sum] {
            let loss = builder(objective)?
                .scale(8.0)
                .reduction(reduction)
                .build()?;
            let loss = CosineLoss::new(loss).rows_at_once(4);
            let (features, weight, labels) = (features()?, weight()?, labels()?);
            let value = loss.forward(&features, &weight, &labels)?;
            for (of, other) in [(&features, &weight), (&weight, &features)] {
                let start = of.flatten_all()?.to_vec1::<f64>()?;
                let at = |index: usize, by: f64| -> candle_core::Result<f64> {
                    let mut moved = start.clone();
                    moved[index] += by;
                    let moved = Tensor::from_vec(moved, of.shape(), &Device::Cpu)?;
                    match of.dims()[0] == ROWS {
                        true => loss.forward(&moved, other, &labels)?.to_scalar(),
                        false => loss.forward(other, &moved, &labels)?.to_scalar(),
                    }
                };
                let differences: Vec<f64> = (0..start.len())
                    .map(|index| Ok((at(index, STEP)? - at(index, -STEP)?) / (2.0 * STEP)))
                    .collect::<candle_core::Result<_>>()?;
                assert_close(&gradient_of(&value, of)?, &differences, 1e-7);
            }
        }
    }
    Ok(())
}

/// Every objective, reduction and way to take the batch apart, with an ignored row and weights.
#[test]
fn the_parts_come_to_what_head_and_loss_do() -> Outcome {
    let some: Vec<i64> = LABELS
        .iter()
        .map(|&y| if y == 2 { -1 } else { y.into() })
        .collect();
    let some = Tensor::from_vec(some, ROWS, &Device::Cpu)?;
    let each = Tensor::from_vec(values(ROWS, 23), ROWS, &Device::Cpu)?;
    let smoothed = [
        (Objective::ala(), 0.2),
        (Objective::CosFace { margin: 0.2 }, 0.2),
    ];
    let plain = objectives().into_iter().map(|objective| (objective, 0.0));
    for (objective, smoothing) in plain.chain(smoothed) {
        for reduction in [Reduction::Mean, Reduction::Sum, Reduction::None] {
            let loss = builder(objective)?
                .reduction(reduction)
                .ignore_label(-1)
                .class_weights(vec![0.5, 1.0, 2.0, 0.0, 3.0])
                .label_smoothing(smoothing)
                .build()?;
            let (features, weight) = (features()?, weight()?);
            // Of rows that are not reduced each has a weight.
            let total = |value: &Tensor| match reduction {
                Reduction::None => (value * &each)?.sum_all(),
                _ => value.affine(-0.75, 2.0),
            };
            let expected = one_after_the_other(&loss, &features, &weight, &some)?;
            let expected = step(expected.clone(), &total(&expected)?, &features, &weight)?;
            for rows in [1, 4, ROWS, 100] {
                let op = CosineLoss::new(loss.clone()).rows_at_once(rows);
                let value = op.forward(&features, &weight, &some)?;
                assert_eq!(value.dims(), expected.0.dims());
                let found = step(value.clone(), &total(&value)?, &features, &weight)?;
                let flat = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f64>();
                assert_close(&flat(&found.0)?, &flat(&expected.0)?, 1e-12);
                assert_close(&found.1, &expected.1, 1e-12);
                assert_close(&found.2, &expected.2, 1e-12);
            }
        }
    }
    Ok(())
}

#[test]
fn rows_tell_what_the_loss_op_tells() -> Outcome {
    let loss = builder(Objective::ala())?.ignore_label(3).build()?;
    let (features, weight, labels) = (features()?, weight()?, labels()?);
    let cosines = CosineHead::from_weight(weight.as_tensor().clone())?.forward(&features)?;
    let expected = CandleLoss::new(loss.clone()).forward_rows(&cosines, &labels)?;
    let found = CosineLoss::new(loss)
        .rows_at_once(4)
        .forward_rows(&features, &weight, &labels)?;
    assert_eq!(found.hits_on_host()?, expected.hits_on_host()?);
    assert_close(
        &found.row_losses.to_vec1::<f64>()?,
        &expected.row_losses.to_vec1::<f64>()?,
        1e-12,
    );
    Ok(())
}

/// Against `f64`, from the same numbers: what the types round is all that differs.
#[test]
fn other_types_are_computed_in_f32_and_rounded_once() -> Outcome {
    let loss = builder(Objective::ala())?.build()?;
    let labels = labels()?;
    for (of_features, of_weight, unit) in [
        (DType::F32, DType::F32, 0.0),
        (DType::F16, DType::F32, 2f64.powi(-11)),
        (DType::BF16, DType::BF16, 2f64.powi(-8)),
    ] {
        let rounded = |var: Var, dtype| Var::from_tensor(&var.to_dtype(dtype)?);
        let (narrow, of) = (
            rounded(features()?, of_features)?,
            rounded(weight()?, of_weight)?,
        );
        let value = CosineLoss::new(loss.clone()).forward(&narrow, &of, &labels)?;
        assert_eq!(value.dtype(), DType::F32);
        let wide = [&narrow, &of].map(|var| Var::from_tensor(&var.to_dtype(DType::F64)?));
        let [wide_features, wide_weight] = wide;
        let (wide_features, wide_weight) = (wide_features?, wide_weight?);
        let exact = CosineLoss::new(loss.clone()).forward(&wide_features, &wide_weight, &labels)?;
        let exact_value = exact.to_scalar::<f64>()?;
        assert_close(
            &[f64::from(value.to_scalar::<f32>()?)],
            &[exact_value],
            4e-6,
        );
        // A loss scale comes before the rounding: without it the small ones would be subnormal.
        let scale = 1024.0;
        for (var, wide) in [(&narrow, &wide_features), (&of, &wide_weight)] {
            let found = gradient_of(&value.affine(scale, 0.0)?, var)?;
            for (found, exact) in found.iter().zip(gradient_of(&exact, wide)?) {
                let exact = exact * scale;
                let bound = (unit + 1e-5) * exact.abs() + 1e-5 * scale;
                assert!(
                    (found - exact).abs() <= bound,
                    "{found}, {exact}: {of_features:?}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn what_is_not_differentiated_costs_no_gradient_and_what_changes_later_is_not_seen() -> Outcome {
    let loss = CosineLoss::new(builder(Objective::ala())?.build()?);
    let (features, weight, labels) = (features()?, weight()?, labels()?);
    let frozen = weight.as_tensor().detach();
    let value = loss.forward(&features, &frozen, &labels)?;
    let expected = gradient_of(&loss.forward(&features, &weight, &labels)?, &features)?;
    let gradients = value.backward()?;
    assert!(gradients.get(&weight).is_none());
    assert_eq!(gradient_of(&value, &features)?, expected);
    let neither = loss.forward(&features.as_tensor().detach(), &frozen, &labels)?;
    assert!(!neither.track_op());

    let value = loss.forward(&features, &weight, &labels)?;
    features.set(&Tensor::ones((ROWS, WIDTH), DType::F64, &Device::Cpu)?)?;
    assert_eq!(gradient_of(&value, &features)?, expected);
    Ok(())
}

#[test]
fn edges() -> Outcome {
    let loss = builder(Objective::ala())?.ignore_label(-1).build()?;
    let loss = CosineLoss::new(loss).rows_at_once(2);
    let weight = weight()?;
    // Nothing counts.
    let ignored = Tensor::full(-1i64, ROWS, &Device::Cpu)?;
    let some = features()?;
    let value = loss.forward(&some, &weight, &ignored)?;
    assert_eq!(value.to_scalar::<f64>()?, 0.0);
    assert!(gradient_of(&value, &weight)?.iter().all(|&g| g == 0.0));
    // Whatever arrives.
    let nothing = gradient_of(&value.affine(f64::NAN, 0.0)?, &some)?;
    assert!(nothing.iter().all(|&g| g == 0.0), "{nothing:?}");
    // No rows, and rows of zeros.
    let none = Tensor::zeros(0, DType::I64, &Device::Cpu)?;
    let no_features = Var::zeros((0, WIDTH), DType::F64, &Device::Cpu)?;
    let value = loss.forward(&no_features, &weight, &none)?;
    assert_eq!(value.to_scalar::<f64>()?, 0.0);
    assert!(gradient_of(&value, &weight)?.iter().all(|&g| g == 0.0));
    let zeros = Var::zeros((ROWS, WIDTH), DType::F64, &Device::Cpu)?;
    let value = loss.forward(&zeros, &weight, &labels()?)?;
    assert!(gradient_of(&value, &zeros)?.iter().all(|g| g.is_finite()));
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused_by_name() -> Outcome {
    let loss = CosineLoss::new(builder(Objective::ala())?.build()?).rows_at_once(2);
    let refusal = |features: &Tensor, weight: &Tensor, labels: &Tensor| {
        let refused = loss.forward(features, weight, labels);
        refused.expect_err("refused").to_string()
    };
    let (features, weight, labels) = (features()?, weight()?, labels()?);
    let message = refusal(&features.flatten_all()?, &weight, &labels);
    assert!(message.contains("features have shape [24]"), "{message}");
    let message = refusal(&features, &weight.narrow(0, 0, 3)?, &labels);
    assert!(
        message.contains("[3, 4]") && message.contains("need [5, 4]"),
        "{message}"
    );
    let message = refusal(&features, &weight.to_dtype(DType::F32)?, &labels);
    assert!(
        message.contains("f64") && message.contains("f32"),
        "{message}"
    );
    let message = refusal(&features, &weight.to_dtype(DType::U32)?, &labels);
    assert!(message.contains("u32"), "{message}");
    let message = refusal(&features, &weight, &labels.narrow(0, 0, 2)?);
    assert!(message.contains("features [6, 4] need [6]"), "{message}");
    // The row is the batch's, not the part's.
    let bad = Tensor::new(&[0u32, 1, 2, 3, 4, 9], &Device::Cpu)?;
    let message = refusal(&features, &weight, &bad);
    assert!(
        message.contains("row 5") && message.contains('9'),
        "{message}"
    );
    Ok(())
}
