//! What is refused, and with what words.

use ala_loss::Reduction;
use candle_core::{DType, Device, Tensor};

use crate::cases::{CLASSES, Outcome, ROWS, ala, labels};

/// The message of the error that these tensors cause.
fn refusal(logits: &Tensor, labels: &Tensor) -> Result<String, Box<dyn std::error::Error>> {
    match ala(Reduction::Mean)?.forward(logits, labels) {
        Ok(value) => Err(format!("accepted, the loss is {value}").into()),
        Err(error) => Ok(error.to_string()),
    }
}

fn zeros(shape: &[usize]) -> candle_core::Result<Tensor> {
    Tensor::zeros(shape, DType::F32, &Device::Cpu)
}

#[test]
fn logits_of_another_rank() -> Outcome {
    for shape in [&[CLASSES][..], &[2, 3, CLASSES], &[]] {
        let message = refusal(&zeros(shape)?, &labels()?)?;
        assert!(message.contains("expected [N, 5]"), "{message}");
    }
    Ok(())
}

#[test]
fn logits_of_another_number_of_classes() -> Outcome {
    let message = refusal(&zeros(&[ROWS, 7])?, &labels()?)?;
    assert!(
        message.contains("[6, 7]") && message.contains("5 classes"),
        "{message}"
    );
    Ok(())
}

#[test]
fn labels_of_another_shape() -> Outcome {
    for shape in [&[ROWS - 1][..], &[ROWS, 1], &[]] {
        let labels = zeros(shape)?.to_dtype(DType::U32)?;
        let message = refusal(&zeros(&[ROWS, CLASSES])?, &labels)?;
        assert!(message.contains("need [6]"), "{message}");
    }
    Ok(())
}

#[test]
fn labels_that_are_not_integers() -> Outcome {
    let message = refusal(&zeros(&[ROWS, CLASSES])?, &zeros(&[ROWS])?)?;
    assert!(message.contains("labels are f32"), "{message}");
    Ok(())
}

#[test]
fn logits_that_are_integers() -> Outcome {
    let logits = zeros(&[ROWS, CLASSES])?.to_dtype(DType::U32)?;
    let message = refusal(&logits, &labels()?)?;
    assert!(message.contains("logits are u32"), "{message}");
    Ok(())
}

/// ala-loss's own message: it names the row, the label and the allowed range.
#[test]
fn a_label_that_is_no_class() -> Outcome {
    for (bad, expected) in [(5i64, "row 3 has label 5"), (-1, "row 3 has label -1")] {
        let labels = Tensor::new(&[0i64, 1, 2, bad, 4, 0], &Device::Cpu)?;
        let message = refusal(&zeros(&[ROWS, CLASSES])?, &labels)?;
        assert!(
            message.contains(expected) && message.contains("0..5"),
            "{message}"
        );
    }
    Ok(())
}
