//! What the backward pass hands out.

use ala_loss::{Objective, Options, Reduction, Upstream};
use ala_loss_candle::{CandleLoss, CosineHead};
use candle_core::{DType, Device, Module, Tensor, Var};
use half::{bf16, f16};

use crate::cases::{
    CLASSES, LABELS, Outcome, ROWS, ala, assert_close, attached, builder, cosines, gradient_of,
    labels, objectives, values, variable,
};

/// Exact: the op must hand out the core's bits, for every objective and both reductions.
#[test]
fn loss_and_gradient_are_the_cores_bits() -> Outcome {
    for objective in objectives() {
        for reduction in [Reduction::Mean, Reduction::Sum] {
            let loss = builder(objective)?.reduction(reduction).build()?;
            let expected = loss.evaluate(&cosines(), &LABELS)?;
            let logits = variable(&cosines(), (ROWS, CLASSES))?;
            let value = CandleLoss::new(loss).forward(&logits, &labels()?)?;
            assert_eq!(value.to_scalar::<f64>()?, expected.loss, "{objective:?}");
            let gradient = gradient_of(&value, &logits)?;
            assert_eq!(gradient, expected.gradient, "{objective:?}");
        }
    }
    Ok(())
}

/// Only objectives whose gradient is the derivative of their loss; a detached difficulty factor is
/// not.
#[test]
fn central_differences_agree_through_the_cosine_head() -> Outcome {
    const WIDTH: usize = 4;
    const STEP: f64 = 1e-6;
    let start_features = values(ROWS * WIDTH, 2);
    let start_weight = values(CLASSES * WIDTH, 3);
    for objective in [
        Objective::CrossEntropy,
        Objective::Focal { gamma: 2.0 },
        Objective::Ldam { max_margin: 0.5 },
        attached(),
    ] {
        let loss = CandleLoss::new(builder(objective)?.scale(8.0).build()?);
        let labels = labels()?;
        let forward = |features: &Tensor, weight: &Tensor| {
            let head = CosineHead::from_weight(weight.clone())?;
            loss.forward(&head.forward(features)?, &labels)
        };
        let at = |features: &[f64], weight: &[f64]| -> candle_core::Result<f64> {
            let features = Tensor::from_slice(features, (ROWS, WIDTH), &Device::Cpu)?;
            let weight = Tensor::from_slice(weight, (CLASSES, WIDTH), &Device::Cpu)?;
            forward(&features, &weight)?.to_scalar()
        };

        let features = variable(&start_features, (ROWS, WIDTH))?;
        let weight = variable(&start_weight, (CLASSES, WIDTH))?;
        let value = forward(&features, &weight)?;
        let differences = |of_features: bool| -> candle_core::Result<Vec<f64>> {
            let count = [start_weight.len(), start_features.len()][usize::from(of_features)];
            (0..count)
                .map(|index| {
                    let moved = |by: f64| {
                        let mut features = start_features.clone();
                        let mut weight = start_weight.clone();
                        if of_features {
                            features[index] += by;
                        } else {
                            weight[index] += by;
                        }
                        at(&features, &weight)
                    };
                    Ok((moved(STEP)? - moved(-STEP)?) / (2.0 * STEP))
                })
                .collect()
        };
        assert_close(&gradient_of(&value, &features)?, &differences(true)?, 1e-7);
        assert_close(&gradient_of(&value, &weight)?, &differences(false)?, 1e-7);
    }
    Ok(())
}

#[test]
fn a_scalar_upstream_gradient_multiplies() -> Outcome {
    for reduction in [Reduction::Mean, Reduction::Sum] {
        let loss = ala(reduction)?;
        let plain = loss.loss().evaluate(&cosines(), &LABELS)?.gradient;
        let logits = variable(&cosines(), (ROWS, CLASSES))?;
        let tripled = (loss.forward(&logits, &labels()?)? * 3.0)?;
        let expected: Vec<f64> = plain.iter().map(|g| 3.0 * g).collect();
        assert_eq!(gradient_of(&tripled, &logits)?, expected);
    }
    Ok(())
}

#[test]
fn an_upstream_gradient_for_each_row_multiplies_its_row() -> Outcome {
    let loss = ala(Reduction::None)?;
    let weights = [0.5, 2.0, 0.0, -1.0, 3.0, 1.0];
    let expected = loss.loss().evaluate_with(
        &cosines(),
        &LABELS,
        &Options::new().upstream(Upstream::PerRow(&weights)),
    )?;
    let logits = variable(&cosines(), (ROWS, CLASSES))?;
    let rows = loss.forward(&logits, &labels()?)?;
    assert_eq!(rows.to_vec1::<f64>()?, expected.row_losses);
    let weighted = (rows * Tensor::new(&weights, &Device::Cpu)?)?.sum_all()?;
    assert_close(&gradient_of(&weighted, &logits)?, &expected.gradient, 1e-15);
    Ok(())
}

/// The gradient is kept, not taken: a second backward pass, or a loss that occurs twice, finds it
/// again.
#[test]
fn the_kept_gradient_serves_more_than_once() -> Outcome {
    let loss = ala(Reduction::Mean)?;
    let plain = loss.loss().evaluate(&cosines(), &LABELS)?.gradient;
    let doubled: Vec<f64> = plain.iter().map(|g| 2.0 * g).collect();
    let logits = variable(&cosines(), (ROWS, CLASSES))?;
    let value = loss.forward(&logits, &labels()?)?;
    assert_eq!(gradient_of(&value, &logits)?, plain);
    assert_eq!(gradient_of(&value, &logits)?, plain);
    assert_eq!(gradient_of(&(&value + &value)?, &logits)?, doubled);
    let again = loss.forward(&logits, &labels()?)?;
    assert_eq!(gradient_of(&(&value + &again)?, &logits)?, doubled);
    Ok(())
}

#[test]
fn the_loss_adds_to_other_terms_of_a_graph() -> Outcome {
    let loss = ala(Reduction::Mean)?;
    let logits = variable(&cosines(), (ROWS, CLASSES))?;
    let penalty = logits.sqr()?.sum_all()?;
    let total = (loss.forward(&logits, &labels()?)? + penalty)?;
    let plain = loss.loss().evaluate(&cosines(), &LABELS)?.gradient;
    let expected: Vec<f64> = plain
        .iter()
        .zip(&cosines())
        .map(|(g, x)| g + 2.0 * x)
        .collect();
    assert_close(&gradient_of(&total, &logits)?, &expected, 1e-14);
    Ok(())
}

#[test]
fn logits_without_a_variable_have_a_loss_and_no_gradient() -> Outcome {
    let loss = ala(Reduction::Mean)?;
    let logits = Tensor::from_vec(cosines(), (ROWS, CLASSES), &Device::Cpu)?;
    let value = loss.forward(&logits, &labels()?)?;
    let expected = loss.loss().evaluate(&cosines(), &LABELS)?.loss;
    assert_eq!(value.to_scalar::<f64>()?, expected);
    assert!(value.backward()?.get(&logits).is_none());
    Ok(())
}

/// A mean over many rows makes gradients that underflow in f16; a loss scale must still bring them
/// back.
#[test]
fn a_loss_scale_recovers_f16_gradients_that_underflow() -> Outcome {
    const MANY: usize = 4096;
    let loss = CandleLoss::new(builder(Objective::CrossEntropy)?.build()?);
    let half: Vec<f16> = values(MANY * CLASSES, 4)
        .iter()
        .map(|&x| f16::from_f64(0.001 * x + if x > 0.5 { 9.0 } else { 0.0 }))
        .collect();
    let targets: Vec<u32> = (0..MANY).map(|row| LABELS[row % ROWS]).collect();
    let scale = 65536.0;
    let expected = loss.loss().evaluate_with(
        &half,
        &targets,
        &Options::new().upstream(Upstream::Scalar(scale)),
    )?;
    let plain = loss.loss().evaluate(&half, &targets)?;
    let lost = |gradient: &[f16]| gradient.iter().filter(|g| g.to_f64() == 0.0).count();
    assert!(
        lost(&plain.gradient) > lost(&expected.gradient),
        "nothing underflows here, so the test shows nothing"
    );

    let logits = Var::from_slice(&half, (MANY, CLASSES), &Device::Cpu)?;
    let labels = Tensor::new(targets, &Device::Cpu)?;
    let scaled = (loss.forward(&logits, &labels)? * scale)?;
    let expected: Vec<f64> = expected.gradient.iter().map(|g| g.to_f64()).collect();
    assert_eq!(gradient_of(&scaled, &logits)?, expected);
    Ok(())
}

/// The gradient is made for the loss scale, and is right for any other upstream gradient too.
#[test]
fn a_loss_scale_that_is_known_costs_nothing_and_changes_nothing() -> Outcome {
    fn check<T: candle_core::WithDType>(narrow: impl Fn(f64) -> T, tolerance: f64) -> Outcome {
        let numbers: Vec<T> = cosines().iter().map(|&x| narrow(x)).collect();
        for reduction in [Reduction::Mean, Reduction::None] {
            for factor in [0.125, 1.0, 3.0, 1024.0] {
                let gradient = |scale: f64| -> candle_core::Result<Vec<f64>> {
                    let loss = ala(reduction).map_err(candle_core::Error::wrap)?;
                    let loss = loss.loss_scale(scale)?;
                    let logits = Var::from_slice(&numbers, (ROWS, CLASSES), &Device::Cpu)?;
                    let value = (loss.forward(&logits, &labels()?)? * factor)?.sum_all()?;
                    gradient_of(&value, &logits)
                };
                let plain = gradient(1.0)?;
                assert_close(&gradient(1024.0)?, &plain, tolerance);
                assert_close(&gradient(factor)?, &plain, tolerance);
            }
        }
        Ok(())
    }
    check::<f64>(|x| x, 1e-14)?;
    check::<f32>(|x| x as f32, 1e-6)?;
    check::<f16>(f16::from_f64, 0.0)?;
    check::<bf16>(bf16::from_f64, 0.0)?;
    for scale in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e39, 1e-60] {
        let refused = ala(Reduction::Mean)?.loss_scale(scale);
        let message = refused.expect_err("no scale").to_string();
        assert!(message.contains(&format!("is {scale}")), "{message}");
    }
    Ok(())
}

/// What was kept is handed out, not made again for the number that `f32` has instead: 1.
#[test]
fn a_loss_scale_that_f32_has_not_is_known_too() -> Outcome {
    const SCALE: f64 = 1.000_000_05;
    let numbers: Vec<f32> = cosines().iter().map(|&x| x as f32).collect();
    let loss = ala(Reduction::Mean)?.loss_scale(SCALE)?;
    let options = Options::new().gradient_scale(SCALE);
    let kept = loss.loss().evaluate_with(&numbers, &LABELS, &options)?;
    let logits = Var::from_slice(&numbers, (ROWS, CLASSES), &Device::Cpu)?;
    let value = (loss.forward(&logits, &labels()?)? * SCALE)?;
    let kept: Vec<f64> = kept.gradient.iter().copied().map(f64::from).collect();
    assert_eq!(gradient_of(&value, &logits)?, kept);
    Ok(())
}

/// Rounding the row's gradient first and its product again would differ in the last bit of some
/// entry.
#[test]
fn bf16_gradients_with_row_weights_are_rounded_once() -> Outcome {
    let loss = ala(Reduction::None)?;
    let half: Vec<bf16> = cosines().iter().map(|&x| bf16::from_f64(x)).collect();
    let weights = [0.3f32, 1.7, 0.9, 2.3, 0.1, 1.1];
    let options = Options::new().upstream(Upstream::PerRow(&weights));
    let expected = loss
        .loss()
        .evaluate_with(&half, &LABELS, &options)?
        .gradient;

    let logits = Var::from_slice(&half, (ROWS, CLASSES), &Device::Cpu)?;
    let rows = loss.forward(&logits, &labels()?)?;
    assert_eq!(rows.dtype(), DType::F32);
    let weighted = (rows * Tensor::new(&weights, &Device::Cpu)?)?.sum_all()?;
    let expected: Vec<f64> = expected.iter().map(|g| g.to_f64()).collect();
    assert_eq!(gradient_of(&weighted, &logits)?, expected);
    Ok(())
}

#[test]
fn ignored_rows_get_no_gradient_and_do_not_count() -> Outcome {
    let loss = builder(Objective::ala())?.ignore_label(-100).build()?;
    let mut some = LABELS.map(i64::from);
    some[1] = -100;
    let expected = loss.evaluate(&cosines(), &some)?;
    let loss = CandleLoss::new(loss);
    let logits = variable(&cosines(), (ROWS, CLASSES))?;
    let output = loss.forward_rows(&logits, &Tensor::new(&some, &Device::Cpu)?)?;
    assert!(!output.hits_on_host()?[1]);
    assert_eq!(output.loss.to_scalar::<f64>()?, expected.loss);
    let gradient = gradient_of(&output.loss, &logits)?;
    assert_eq!(gradient, expected.gradient);
    assert_eq!(gradient[CLASSES..2 * CLASSES], [0.0; CLASSES]);
    Ok(())
}

/// Whatever arrives for a row that does not count, it has no gradient.
#[test]
fn an_ignored_row_s_gradient_is_zero_whatever_arrives() -> Outcome {
    for upstream in [f64::NAN, f64::INFINITY] {
        for reduction in [Reduction::None, Reduction::Sum] {
            let loss = builder(Objective::CrossEntropy)?
                .reduction(reduction)
                .ignore_label(LABELS[1].into())
                .build()?;
            let ignored = |row: usize| LABELS[row] == LABELS[1];
            let logits = variable(&cosines(), (ROWS, CLASSES))?;
            let value = CandleLoss::new(loss).forward(&logits, &labels()?)?;
            let gradient = gradient_of(&(value * upstream)?.sum_all()?, &logits)?;
            for (row, gradient) in gradient.chunks(CLASSES).enumerate() {
                let zero = gradient.iter().all(|&g| g == 0.0);
                assert_eq!(
                    zero,
                    ignored(row),
                    "{upstream} {reduction:?}, row {row}: {gradient:?}"
                );
            }
        }
    }
    Ok(())
}

/// A variable may be set between the two passes: the gradient is that of what the loss was computed
/// from.
#[test]
fn logits_that_change_before_the_backward_pass_change_nothing() -> Outcome {
    fn check<T: candle_core::WithDType>(narrow: impl Fn(f64) -> T) -> Outcome {
        let loss = ala(Reduction::Mean)?;
        let numbers = |values: &[f64]| -> Vec<T> { values.iter().map(|&x| narrow(x)).collect() };
        let tensor =
            |values: &[f64]| Tensor::from_vec(numbers(values), (ROWS, CLASSES), &Device::Cpu);
        let gradient = |set: bool| -> candle_core::Result<Vec<f64>> {
            let logits = Var::from_tensor(&tensor(&cosines())?)?;
            let tripled = (loss.forward(&logits, &labels()?)? * 3.0)?;
            if set {
                logits.set(&tensor(&values(ROWS * CLASSES, 77))?)?;
            }
            let gradients = tripled.backward()?;
            let gradient = gradients.get(&logits).expect("logits are a variable");
            gradient.flatten_all()?.to_dtype(DType::F64)?.to_vec1()
        };
        assert_eq!(gradient(true)?, gradient(false)?);
        Ok(())
    }
    check::<f64>(|x| x)?;
    check::<f32>(|x| x as f32)?;
    check::<f16>(f16::from_f64)?;
    check::<bf16>(bf16::from_f64)
}
