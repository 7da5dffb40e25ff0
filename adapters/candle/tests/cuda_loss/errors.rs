//! What is refused, and when a label out of range is told.

use ala_loss::{Divisor, Lambda, Objective, Reduction};
use ala_loss_candle::{CandleLoss, CosineLoss, StepOptions};
use candle_core::{DType, Device, Tensor};

use crate::cases::{
    CLASSES, LABELS, Outcome, ROWS, device, gradient_of, loss, numbers, values, variable,
};

fn message<T>(result: candle_core::Result<T>) -> String {
    match result {
        Ok(_) => String::from("accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn tensors_on_two_devices_and_types_that_the_kernels_lack() -> Outcome {
    let device = device();
    let op = CandleLoss::new(loss(Objective::ala(), Reduction::Mean));
    let logits = Tensor::zeros((ROWS, CLASSES), DType::F32, &device)?;
    let on_host = Tensor::new(&LABELS, &Device::Cpu)?;
    let labels = Tensor::new(&LABELS, &device)?;
    let told = message(op.forward(&logits, &on_host));
    assert!(
        told.contains("logits are on Cuda") && told.contains("labels on Cpu"),
        "{told}"
    );
    let told = message(op.forward(&logits.to_device(&Device::Cpu)?, &labels));
    assert!(
        told.contains("logits are on Cpu") && told.contains("to_device"),
        "{told}"
    );
    let told = message(op.forward(&logits.to_dtype(DType::F64)?, &labels));
    assert!(told.contains("logits are f64: on CUDA"), "{told}");
    let narrow = LABELS.map(|label| label as i16);
    let told = message(op.forward(&logits, &Tensor::new(&narrow, &device)?));
    assert!(told.contains("labels are i16: on CUDA"), "{told}");
    let told = message(op.forward(&logits, &Tensor::zeros(ROWS, DType::F32, &device)?));
    assert!(told.contains("labels are f32"), "{told}");

    let cosine = CosineLoss::new(loss(Objective::ala(), Reduction::Mean));
    let features = Tensor::zeros((ROWS, 3), DType::F64, &device)?;
    let weight = Tensor::zeros((CLASSES, 3), DType::F64, &device)?;
    let told = message(cosine.forward(&features, &weight, &labels));
    assert!(told.contains("features are f64: on CUDA"), "{told}");
    let weight = weight.to_device(&Device::Cpu)?;
    let told = message(cosine.forward(&features, &weight, &labels));
    assert!(told.contains("weight on Cpu"), "{told}");
    Ok(())
}

/// What a step takes is on its device, of types that the kernels have, and in range where the host
/// knows it.
#[test]
fn what_a_step_cannot_take_is_refused() -> Outcome {
    let device = device();
    let logits = Tensor::zeros((ROWS, CLASSES), DType::F32, &device)?;
    let weight = Tensor::zeros((CLASSES, CLASSES), DType::F32, &device)?;
    let labels = Tensor::new(&LABELS, &device)?;
    let narrow = Tensor::new(&LABELS.map(|label| label as i16), &device)?;
    let ones = Tensor::ones(ROWS, DType::F32, &device)?;
    let on_host = ones.to_device(&Device::Cpu)?;
    let labels_on_host = labels.to_device(&Device::Cpu)?;
    let plain = StepOptions::new();
    let half = Lambda::Scalar(0.5);
    for (reduction, options, words) in [
        (
            Reduction::Mean,
            plain.row_weights(&on_host),
            "row weights on Cpu",
        ),
        (
            Reduction::Mean,
            plain.divisor(Divisor::Given(&on_host)),
            "divisor on Cpu",
        ),
        (
            Reduction::Mean,
            plain.mixed_with(&labels_on_host, half),
            "second labels on Cpu",
        ),
        (
            Reduction::Mean,
            plain.mixed_with(&labels, Lambda::PerRow(&on_host)),
            "lambda on Cpu",
        ),
        (
            Reduction::Mean,
            plain.mixed_with(&narrow, half),
            "second labels are i16: on CUDA",
        ),
        (
            Reduction::Mean,
            plain.mixed_with(&labels, Lambda::Scalar(1.5)),
            "lambda",
        ),
        (
            Reduction::Mean,
            plain.mixed_with(&labels, Lambda::Scalar(f64::NAN)),
            "lambda",
        ),
        (
            Reduction::Sum,
            plain.divisor(Divisor::Rows),
            "only Reduction::Mean divides",
        ),
    ] {
        let op = CandleLoss::new(loss(Objective::ala(), reduction));
        let cosine = CosineLoss::new(loss(Objective::ala(), reduction));
        for told in [
            message(op.forward_with(&logits, &labels, &options)),
            message(cosine.forward_with(&logits, &weight, &labels, &options)),
        ] {
            assert!(told.contains(words), "{told}: {words}");
        }
    }
    let of_rows = CandleLoss::new(loss(Objective::ala(), Reduction::Mean));
    let of_rows = of_rows.divisor(&labels, &plain)?;
    assert_eq!(of_rows.to_scalar::<f32>()?, ROWS as f32);
    Ok(())
}

/// The row itself tells at once, the error when the device is asked, or at a later step without
/// waiting; once, and the loss works on.
#[test]
fn a_label_that_is_no_class_is_told() -> Outcome {
    let device = device();
    let op = CandleLoss::new(loss(Objective::ala(), Reduction::Mean));
    let logits = variable(
        &values(ROWS * CLASSES, 20),
        (ROWS, CLASSES),
        DType::F32,
        &device,
    )?;
    let good = Tensor::new(&LABELS, &device)?;
    let mut some = LABELS;
    some[3] = CLASSES as i64;
    let bad = Tensor::new(&some, &device)?;
    op.forward(&logits, &good)?;
    op.check(&device)?;

    let output = op.forward_rows(&logits, &bad)?;
    assert!(numbers(&output.loss)?[0].is_nan());
    let losses = numbers(&output.row_losses)?;
    assert!((0..ROWS).all(|row| losses[row].is_nan() == (row == 3)));
    let gradient = gradient_of(&output.loss, &logits)?;
    assert_eq!(gradient[3 * CLASSES..4 * CLASSES], [0.0; CLASSES]);
    assert!(gradient.iter().all(|g| g.is_finite()));
    let told = message(op.check(&device));
    assert!(
        told.contains("row 3 has label 7") && told.contains("0..7"),
        "{told}"
    );
    op.check(&device)?;
    op.forward(&logits, &good)?;

    // Nobody asks: a later step does.
    op.forward(&logits, &bad)?;
    device.synchronize()?;
    let told = (0..3).map(|_| message(op.forward(&logits, &good)));
    let told: Vec<String> = told
        .filter(|told| told.contains("row 3 has label 7"))
        .collect();
    assert_eq!(told.len(), 1);
    op.check(&device)?;

    // A larger batch takes another workspace; what the first met is not lost.
    op.forward(&logits, &bad)?;
    let twice = Tensor::cat(&[logits.as_tensor(), logits.as_tensor()], 0)?;
    let told = message(op.forward(&twice, &Tensor::cat(&[&good, &good], 0)?));
    assert!(told.contains("row 3 has label 7"), "{told}");
    op.forward(&twice, &Tensor::cat(&[&good, &good], 0)?)?;
    op.check(&device)?;
    Ok(())
}

#[test]
fn the_cosine_loss_tells_of_one_too() -> Outcome {
    let device = device();
    for reduction in [Reduction::Mean, Reduction::None] {
        let op = CosineLoss::new(loss(Objective::ala(), reduction)).rows_at_once(4);
        let features = variable(&values(ROWS * 3, 21), (ROWS, 3), DType::F32, &device)?;
        let weight = variable(&values(CLASSES * 3, 22), (CLASSES, 3), DType::F32, &device)?;
        let mut some = LABELS;
        some[6] = -1;
        let value = op.forward(&features, &weight, &Tensor::new(&some, &device)?)?;
        assert_eq!(
            numbers(&value)?.iter().filter(|loss| loss.is_nan()).count(),
            1
        );
        let told = message(op.check(&device));
        assert!(told.contains("label -1"), "{told}");
        op.check(&device)?;
    }
    Ok(())
}
