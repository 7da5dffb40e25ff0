//! Every type of logit and of label that candle has on the CPU.

use ala_loss::metrics::Accuracy;
use ala_loss::{CpuElement, GroupThresholds, Objective, Real, Reduction};
use ala_loss_candle::CandleLoss;
use candle_core::{DType, Device, Tensor, Var, WithDType};
use half::{bf16, f16};

use crate::cases::{
    CLASSES, LABELS, Outcome, ROWS, ala, builder, cosines, gradient_of, labels, variable,
};

/// Loss, row losses and gradient are the core's bits for logits of this type, and the loss has its
/// row type.
fn assert_core_bits<T>(from_f64: impl Fn(f64) -> T, loss_type: DType) -> Outcome
where
    T: CpuElement<Real: WithDType> + WithDType,
{
    let values: Vec<T> = cosines().into_iter().map(from_f64).collect();
    for reduction in [Reduction::Mean, Reduction::Sum, Reduction::None] {
        let loss = ala(reduction)?;
        let expected = loss.loss().evaluate(&values, &LABELS)?;
        let logits = Var::from_slice(&values, (ROWS, CLASSES), &Device::Cpu)?;
        let output = loss.forward_rows(&logits, &labels()?)?;
        assert_eq!(output.loss.dtype(), loss_type);
        assert_eq!(output.row_losses.to_vec1::<T::Real>()?, expected.row_losses);
        let found = output.loss.flatten_all()?.to_vec1::<T::Real>()?;
        match reduction {
            Reduction::None => assert_eq!(found, expected.row_losses),
            _ => assert_eq!(found, [<T::Real as Real>::from_f64(expected.loss)]),
        }
        let gradients = output.loss.sum_all()?.backward()?;
        let Some(gradient) = gradients.get(&logits) else {
            return Err("the logits have no gradient".into());
        };
        assert_eq!(gradient.dtype(), T::DTYPE);
        assert_eq!(gradient.flatten_all()?.to_vec1::<T>()?, expected.gradient);
    }
    Ok(())
}

#[test]
fn f32_logits() -> Outcome {
    assert_core_bits(|x| x as f32, DType::F32)
}

#[test]
fn f64_logits() -> Outcome {
    assert_core_bits(|x| x, DType::F64)
}

#[test]
fn f16_logits() -> Outcome {
    assert_core_bits(f16::from_f64, DType::F32)
}

#[test]
fn bf16_logits() -> Outcome {
    assert_core_bits(bf16::from_f64, DType::F32)
}

#[test]
fn labels_of_every_integer_type_mean_the_same() -> Outcome {
    let loss = ala(Reduction::Mean)?;
    let logits = variable(&cosines(), (ROWS, CLASSES))?;
    let expected = loss.loss().evaluate(&cosines(), &LABELS)?.gradient;
    for dtype in [DType::U8, DType::U32, DType::I16, DType::I32, DType::I64] {
        let value = loss.forward(&logits, &labels()?.to_dtype(dtype)?)?;
        assert_eq!(gradient_of(&value, &logits)?, expected, "{dtype:?}");
    }
    Ok(())
}

/// A 16-bit wide read of such labels, or one cut to 8 bits, would see class 1.
#[test]
fn class_indices_beyond_one_byte_are_read_whole() -> Outcome {
    const MANY: usize = 300;
    let counts = ala_loss::ClassCounts::new(vec![7; MANY])?;
    let loss = ala_loss::Loss::builder(Objective::CrossEntropy, &counts).build()?;
    let mut row = vec![0f32; MANY];
    row[257] = 50.0;
    let logits = Tensor::from_vec(row, (1, MANY), &Device::Cpu)?;
    let labels = Tensor::new(&[257i64], &Device::Cpu)?;
    let value = CandleLoss::new(loss).forward(&logits, &labels)?;
    assert!(value.to_scalar::<f32>()? < 1e-6);
    Ok(())
}

#[test]
fn hits_feed_the_metrics() -> Outcome {
    let loss = CandleLoss::new(builder(Objective::ala())?.build()?);
    let mut best = vec![0f32; ROWS * CLASSES];
    for (row, &label) in LABELS.iter().enumerate() {
        // Every row but the first is right.
        let class = if row == 0 { 0 } else { label as usize };
        best[row * CLASSES + class] = 0.1;
    }
    let logits = Tensor::from_vec(best, (ROWS, CLASSES), &Device::Cpu)?;
    let output = loss.forward_rows(&logits, &labels()?)?;
    let hits = output.hits_on_host()?;
    assert_eq!(hits, [false, true, true, true, true, true]);
    let accuracy = Accuracy::from_hits(
        &LABELS,
        &hits,
        loss.loss().counts().expect("of an objective"),
        GroupThresholds::default(),
    )?;
    assert_eq!(accuracy.overall, Some(5.0 / 6.0));
    assert_eq!(accuracy.per_class[4], Some(0.5));
    Ok(())
}
