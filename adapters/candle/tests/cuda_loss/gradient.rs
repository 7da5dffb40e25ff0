//! Loss and gradient of every type, layout and form of upstream gradient.

use ala_loss::{Objective, Reduction};
use ala_loss_candle::CandleLoss;
use candle_core::{DType, Device, Tensor};

use crate::cases::{
    CLASSES, LABELS, Outcome, ROWS, assert_close, counted, device, expected, gradient_of, loss,
    numbers, objectives, tolerance, values, variable,
};

const TYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
const REDUCTIONS: [Reduction; 3] = [Reduction::Mean, Reduction::Sum, Reduction::None];

/// Every objective, reduction and type, with and without rows that do not count, for upstream
/// gradients that are and are not the one that the gradient was made for.
#[test]
fn loss_and_gradient_are_the_reference_s() -> Outcome {
    let device = device();
    let labels = Tensor::new(&LABELS, &device)?;
    for dtype in TYPES {
        for (i, objective) in objectives().into_iter().enumerate() {
            for reduction in REDUCTIONS {
                let loss = match i % 2 {
                    0 => loss(objective, reduction),
                    _ => counted(objective, reduction),
                };
                let logits = variable(&values(ROWS * CLASSES, 1), (ROWS, CLASSES), dtype, &device)?;
                let exact = numbers(&logits)?;
                let op = CandleLoss::new(loss.clone());
                let output = op.forward_rows(&logits, &labels)?;
                assert!(output.loss.device().is_cuda());
                for factor in [1.0, -0.75] {
                    let expected = expected(&loss, &exact, &LABELS, &[factor]);
                    let total = match (reduction, factor) {
                        (Reduction::None, factor) => (&output.loss * factor)?.sum_all()?,
                        (_, 1.0) => output.loss.clone(),
                        (_, factor) => (&output.loss * factor)?,
                    };
                    let gradient = gradient_of(&total, &logits)?;
                    assert_close(&gradient, &expected.gradient, tolerance(dtype));
                    assert_close(&numbers(&output.row_losses)?, &expected.row_losses, 2e-6);
                    assert_eq!(output.hits_on_host()?, expected.hits);
                    match reduction {
                        Reduction::None => {
                            assert_close(&numbers(&output.loss)?, &expected.row_losses, 2e-6);
                        }
                        _ => assert_close(&numbers(&output.loss)?, &[expected.loss], 2e-6),
                    }
                }
                op.check(&device)?;
            }
        }
    }
    Ok(())
}

#[test]
fn labels_of_every_type_lie_where_they_are() -> Outcome {
    let device = device();
    let loss = loss(Objective::ala(), Reduction::Mean);
    let logits = variable(
        &values(ROWS * CLASSES, 2),
        (ROWS, CLASSES),
        DType::F32,
        &device,
    )?;
    let expected = expected(&loss, &numbers(&logits)?, &LABELS, &[1.0]);
    let op = CandleLoss::new(loss);
    let narrow = LABELS.map(|label| label as u8);
    // Every second of twice as many, and those after the first few.
    let apart: Vec<i64> = LABELS.iter().flat_map(|&label| [label, 77]).collect();
    let after: Vec<u32> = [9, 9, 9]
        .into_iter()
        .chain(LABELS.map(|label| label as u32))
        .collect();
    for labels in [
        Tensor::new(&narrow, &device)?,
        Tensor::new(&LABELS.map(|label| label as u32), &device)?,
        Tensor::new(&LABELS.map(|label| label as i32), &device)?,
        Tensor::new(&LABELS, &device)?,
        Tensor::from_vec(apart, (ROWS, 2), &device)?
            .narrow(1, 0, 1)?
            .squeeze(1)?,
        Tensor::from_vec(after, 3 + ROWS, &device)?.narrow(0, 3, ROWS)?,
    ] {
        let value = op.forward(&logits, &labels)?;
        assert_close(&numbers(&value)?, &[expected.loss], 2e-6);
        assert_close(&gradient_of(&value, &logits)?, &expected.gradient, 4e-6);
    }
    op.check(&device)?;
    Ok(())
}

/// Rows apart, an offset, transposed logits; a single row and none.
#[test]
fn any_layout() -> Outcome {
    let device = device();
    let loss = loss(Objective::ala(), Reduction::Mean);
    let op = CandleLoss::new(loss.clone());
    for dtype in TYPES {
        let wide = variable(
            &values((ROWS + 2) * (CLASSES + 4), 3),
            (ROWS + 2, CLASSES + 4),
            dtype,
            &device,
        )?;
        let tall = variable(&values(ROWS * CLASSES, 4), (CLASSES, ROWS), dtype, &device)?;
        let views = [
            (&wide, wide.narrow(0, 1, ROWS)?.narrow(1, 3, CLASSES)?),
            (&wide, wide.narrow(0, 4, 1)?.narrow(1, 2, CLASSES)?),
            (&tall, tall.t()?),
        ];
        for (of, view) in views {
            let rows = view.dim(0)?;
            let labels = Tensor::new(&LABELS[..rows], &device)?;
            let expected = expected(&loss, &numbers(&view)?, &LABELS[..rows], &[2.0]);
            let value = (op.forward(&view, &labels)? * 2.0)?;
            assert_close(&numbers(&value)?, &[2.0 * expected.loss], 2e-6);
            // candle carries the view's gradient back to the variable: the same view of it.
            let gradients = value.backward()?;
            let whole = gradients.get(of).expect("a gradient");
            let gradient = match (of.dim(0)? == CLASSES, rows) {
                (true, _) => whole.t()?,
                (false, 1) => whole.narrow(0, 4, 1)?.narrow(1, 2, CLASSES)?,
                (false, _) => whole.narrow(0, 1, ROWS)?.narrow(1, 3, CLASSES)?,
            };
            assert_close(&numbers(&gradient)?, &expected.gradient, tolerance(dtype));
        }
    }
    let none = Tensor::zeros((0, CLASSES), DType::F32, &Device::Cpu)?;
    let labels = Tensor::zeros(0, DType::I64, &Device::Cpu)?;
    if let (Ok(none), Ok(labels)) = (none.to_device(&device), labels.to_device(&device)) {
        let value = op.forward(&none, &labels)?;
        assert_eq!(numbers(&value)?, [0.0]);
    }
    op.check(&device)?;
    Ok(())
}

/// A backward pass more than once, a loss that occurs twice, and another upstream gradient each
/// time: the gradient is anew that of the one that comes.
#[test]
fn the_kept_gradient_serves_more_than_once() -> Outcome {
    let device = device();
    let labels = Tensor::new(&LABELS, &device)?;
    for dtype in TYPES {
        for reduction in [Reduction::Mean, Reduction::None] {
            for scale in [1.0, 8.0] {
                let loss = counted(Objective::ala(), reduction);
                let logits = variable(&values(ROWS * CLASSES, 5), (ROWS, CLASSES), dtype, &device)?;
                let exact = numbers(&logits)?;
                let value = CandleLoss::new(loss.clone())
                    .loss_scale(scale)?
                    .forward(&logits, &labels)?;
                for factor in [8.0, 8.0, 1.0, 8.0, 3.0, 1.0] {
                    let total = (&value * factor)?.sum_all()?;
                    let gradient = gradient_of(&total, &logits)?;
                    let expected = expected(&loss, &exact, &LABELS, &[factor]).gradient;
                    assert_close(&gradient, &expected, tolerance(dtype));
                }
                let twice = (&value + &value)?.sum_all()?;
                let expected = expected(&loss, &exact, &LABELS, &[2.0]).gradient;
                assert_close(&gradient_of(&twice, &logits)?, &expected, tolerance(dtype));
            }
        }
    }
    Ok(())
}

#[test]
fn an_upstream_gradient_for_each_row_multiplies_its_row() -> Outcome {
    let device = device();
    let labels = Tensor::new(&LABELS, &device)?;
    let weights = [0.5, 2.0, 0.0, -1.0, 3.0, 1.0, 7.0, f64::NAN, 0.125];
    for dtype in TYPES {
        // The row whose factor is no number is ignored.
        let loss = counted(Objective::ala(), Reduction::None);
        let logits = variable(&values(ROWS * CLASSES, 6), (ROWS, CLASSES), dtype, &device)?;
        let expected = expected(&loss, &numbers(&logits)?, &LABELS, &weights);
        let rows = CandleLoss::new(loss).forward(&logits, &labels)?;
        let each = Tensor::new(&weights.map(|weight| weight as f32), &device)?;
        let total = (rows * each)?.sum_all()?;
        assert_close(
            &gradient_of(&total, &logits)?,
            &expected.gradient,
            tolerance(dtype),
        );
    }
    Ok(())
}

/// A mean over many rows makes gradients that underflow in f16; a loss scale must still bring them
/// back, whether the op was told of it or not.
#[test]
fn a_loss_scale_recovers_f16_gradients_that_underflow() -> Outcome {
    const MANY: usize = 512;
    let device = device();
    let loss = loss(Objective::CrossEntropy, Reduction::Mean);
    let start: Vec<f64> = values(MANY * CLASSES, 7)
        .iter()
        .map(|&x| 0.001 * x + if x > 0.5 { 12.0 } else { 0.0 })
        .collect();
    let some: Vec<i64> = (0..MANY).map(|row| LABELS[row % ROWS]).collect();
    let labels = Tensor::new(&some[..], &device)?;
    let logits = variable(&start, (MANY, CLASSES), DType::F16, &device)?;
    let scale = 16384.0;
    let scaled = expected(&loss, &numbers(&logits)?, &some, &[scale]).gradient;
    let lost = |gradient: &[f64]| gradient.iter().filter(|&&g| g == 0.0).count();
    let plain = gradient_of(
        &CandleLoss::new(loss.clone()).forward(&logits, &labels)?,
        &logits,
    )?;
    assert!(
        lost(&plain) > 100,
        "nothing underflows here, so the test shows nothing"
    );
    for told in [1.0, scale] {
        let op = CandleLoss::new(loss.clone()).loss_scale(told)?;
        let gradient = gradient_of(&(op.forward(&logits, &labels)? * scale)?, &logits)?;
        assert_eq!(lost(&gradient), 0);
        for (found, expected) in gradient.iter().zip(&scaled) {
            let most = 2f64.powi(-11) * expected.abs() + 2f64.powi(-25);
            assert!(
                (found - expected).abs() <= 1.02 * most,
                "{found}, expected {expected}"
            );
        }
    }
    Ok(())
}

#[test]
fn classes_that_are_masked_out_have_no_gradient() -> Outcome {
    let device = device();
    let loss = loss(Objective::ala(), Reduction::Mean);
    for dtype in TYPES {
        let mut start = values(ROWS * CLASSES, 8);
        let masked = |row: usize| row * CLASSES + (LABELS[row] as usize + 1 + row % 3) % CLASSES;
        for row in 0..ROWS {
            start[masked(row)] = f64::NEG_INFINITY;
        }
        let labels = Tensor::new(&LABELS, &device)?;
        let logits = variable(&start, (ROWS, CLASSES), dtype, &device)?;
        let expected = expected(&loss, &numbers(&logits)?, &LABELS, &[1.0]);
        let value = CandleLoss::new(loss.clone()).forward(&logits, &labels)?;
        assert_close(&numbers(&value)?, &[expected.loss], 2e-6);
        let gradient = gradient_of(&value, &logits)?;
        assert_close(&gradient, &expected.gradient, tolerance(dtype));
        assert!((0..ROWS).all(|row| gradient[masked(row)] == 0.0));
    }
    Ok(())
}

/// A variable may be set between the two passes: the gradient is that of what the loss was computed
/// from.
#[test]
fn logits_that_change_before_the_backward_pass_change_nothing() -> Outcome {
    let device = device();
    let labels = Tensor::new(&LABELS, &device)?;
    for dtype in TYPES {
        for reduction in [Reduction::Mean, Reduction::None] {
            for part in [false, true] {
                let op = CandleLoss::new(counted(Objective::ala(), reduction));
                let gradient = |set: bool| -> candle_core::Result<Vec<f64>> {
                    let shape = (ROWS, CLASSES + 1);
                    let logits = variable(&values(ROWS * (CLASSES + 1), 9), shape, dtype, &device)?;
                    let narrow = logits.narrow(1, 1, CLASSES)?;
                    let whole = variable(&numbers(&narrow)?, (ROWS, CLASSES), dtype, &device)?;
                    let (of, view) = match part {
                        true => (&logits, narrow),
                        false => (&whole, whole.as_tensor().clone()),
                    };
                    let total = (op.forward(&view, &labels)? * 3.0)?.sum_all()?;
                    if set {
                        of.set(&of.affine(-5.0, 0.5)?)?;
                    }
                    gradient_of(&total, of)
                };
                assert_eq!(gradient(true)?, gradient(false)?);
            }
        }
    }
    Ok(())
}

#[test]
fn logits_without_a_variable_have_a_loss_and_no_gradient() -> Outcome {
    let device = device();
    let loss = loss(Objective::ala(), Reduction::Mean);
    let logits = variable(
        &values(ROWS * CLASSES, 10),
        (ROWS, CLASSES),
        DType::F32,
        &device,
    )?;
    let expected = expected(&loss, &numbers(&logits)?, &LABELS, &[1.0]);
    let logits = logits.as_detached_tensor();
    let labels = Tensor::new(&LABELS, &device)?;
    let value = CandleLoss::new(loss).forward(&logits, &labels)?;
    assert_close(&numbers(&value)?, &[expected.loss], 2e-6);
    assert!(value.backward()?.get(&logits).is_none());
    Ok(())
}
