//! Logits and labels that are views of other tensors.

use ala_loss::Reduction;
use candle_core::{Device, IndexOp, Tensor, Var};

use crate::cases::{
    CLASSES, LABELS, Outcome, ROWS, ala, cosines, gradient_of, labels, values, variable,
};

/// A view must give what its contiguous copy gives, and the same gradient must reach the viewed
/// variable.
#[track_caller]
fn assert_view_equals_copy(
    base: &Var,
    view: impl Fn(&Tensor) -> candle_core::Result<Tensor>,
    labels: &Tensor,
) -> Outcome {
    for reduction in [Reduction::Mean, Reduction::None] {
        let loss = ala(reduction)?;
        let viewed = loss.forward(&view(base)?, labels)?;
        let copied = loss.forward(&view(base)?.force_contiguous()?, labels)?;
        assert_eq!(
            viewed.flatten_all()?.to_vec1::<f64>()?,
            copied.flatten_all()?.to_vec1::<f64>()?
        );
        // Times 3, so that the upstream gradient passes through the view as well.
        let total = |value: Tensor| (value * 3.0)?.sum_all();
        assert_eq!(
            gradient_of(&total(viewed)?, base)?,
            gradient_of(&total(copied)?, base)?
        );
    }
    Ok(())
}

#[test]
fn transposed_logits() -> Outcome {
    let base = variable(&cosines(), (CLASSES, ROWS))?;
    assert_view_equals_copy(&base, Tensor::t, &labels()?)
}

#[test]
fn logits_narrowed_to_some_columns() -> Outcome {
    let base = variable(&values(ROWS * (CLASSES + 3), 5), (ROWS, CLASSES + 3))?;
    assert_view_equals_copy(&base, |base| base.narrow(1, 2, CLASSES), &labels()?)
}

#[test]
fn logits_narrowed_to_some_rows() -> Outcome {
    let base = variable(&values((ROWS + 4) * CLASSES, 6), (ROWS + 4, CLASSES))?;
    assert_view_equals_copy(&base, |base| base.narrow(0, 3, ROWS), &labels()?)
}

#[test]
fn one_narrowed_row() -> Outcome {
    let base = variable(&values(3 * (CLASSES + 1), 7), (3, CLASSES + 1))?;
    let labels = Tensor::new(&[2u32], &Device::Cpu)?;
    assert_view_equals_copy(
        &base,
        |base| base.narrow(0, 2, 1)?.narrow(1, 1, CLASSES),
        &labels,
    )
}

#[test]
fn one_row_broadcast_to_all() -> Outcome {
    let base = variable(&values(CLASSES, 8), (1, CLASSES))?;
    assert_view_equals_copy(&base, |base| base.broadcast_as((ROWS, CLASSES)), &labels()?)
}

#[test]
fn labels_that_are_a_column_of_a_table() -> Outcome {
    let logits = variable(&cosines(), (ROWS, CLASSES))?;
    let table: Vec<u32> = LABELS.iter().flat_map(|&label| [99, label]).collect();
    let column = Tensor::from_vec(table, (ROWS, 2), &Device::Cpu)?.i((.., 1))?;
    assert!(!column.is_contiguous());
    let loss = ala(Reduction::Mean)?;
    assert_eq!(
        loss.forward(&logits, &column)?.to_scalar::<f64>()?,
        loss.forward(&logits, &labels()?)?.to_scalar::<f64>()?
    );
    Ok(())
}

#[test]
fn no_rows_have_loss_zero_and_an_empty_gradient() -> Outcome {
    let logits = Var::from_vec(Vec::<f32>::new(), (0, CLASSES), &Device::Cpu)?;
    let labels = Tensor::from_vec(Vec::<u32>::new(), 0, &Device::Cpu)?;
    let value = ala(Reduction::Mean)?.forward(&logits, &labels)?;
    assert_eq!(value.to_scalar::<f32>()?, 0.0);
    assert!(gradient_of(&value, &logits)?.is_empty());
    let rows = ala(Reduction::None)?.forward(&logits, &labels)?;
    assert_eq!(rows.dims(), [0]);
    Ok(())
}

#[test]
fn the_gradient_of_a_view_leaves_the_rest_of_its_variable_at_zero() -> Outcome {
    let base = variable(&values(ROWS * (CLASSES + 3), 5), (ROWS, CLASSES + 3))?;
    let value = ala(Reduction::Sum)?.forward(&base.narrow(1, 2, CLASSES)?, &labels()?)?;
    for row in gradient_of(&value, &base)?.chunks(CLASSES + 3) {
        assert!(
            row[..2]
                .iter()
                .chain(&row[CLASSES + 2..])
                .all(|&g| g == 0.0)
        );
        assert!(row[2..CLASSES + 2].iter().any(|&g| g != 0.0));
    }
    Ok(())
}
