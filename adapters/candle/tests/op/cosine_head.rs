//! The cosine head: values, edges and the gradient's direction.

use ala_loss_candle::CosineHead;
use candle_core::{DType, Device, Module, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};

use crate::cases::{Outcome, assert_close, gradient_of, values, variable};

const ROWS: usize = 3;
const WIDTH: usize = 7;
const CLASSES: usize = 4;

fn head() -> candle_core::Result<(CosineHead, Var)> {
    let weight = variable(&values(CLASSES * WIDTH, 11), (CLASSES, WIDTH))?;
    Ok((CosineHead::from_weight(weight.as_tensor().clone())?, weight))
}

/// Against the formula written out; a forgotten normalisation or a scale would show at once.
#[test]
fn output_is_the_unscaled_cosine_of_each_pair() -> Outcome {
    let (head, weight) = head()?;
    let features = variable(&values(ROWS * WIDTH, 12), (ROWS, WIDTH))?;
    let weights = weight.to_vec2::<f64>()?;
    let mut expected = Vec::new();
    for feature in features.to_vec2::<f64>()? {
        for weight in &weights {
            let dot: f64 = feature.iter().zip(weight).map(|(f, w)| f * w).sum();
            let length = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
            expected.push(dot / (length(&feature) * length(weight)));
        }
    }
    let found = head.forward(&features)?.flatten_all()?.to_vec1::<f64>()?;
    assert_close(&found, &expected, 1e-11);
    Ok(())
}

/// A cosine does not change with the length of either vector, so no gradient may point along it.
#[test]
fn gradients_are_at_right_angles_to_their_vectors() -> Outcome {
    let (head, weight) = head()?;
    let features = variable(&values(ROWS * WIDTH, 13), (ROWS, WIDTH))?;
    // Squared, so that the rows' gradients differ.
    let total = head.forward(&features)?.sqr()?.sum_all()?;
    for variable in [&features, &weight] {
        let gradient = gradient_of(&total, variable)?;
        assert!(gradient.iter().any(|g| g.abs() > 1e-3));
        let vectors = variable.flatten_all()?.to_vec1::<f64>()?;
        for (vector, gradient) in vectors.chunks(WIDTH).zip(gradient.chunks(WIDTH)) {
            let along: f64 = vector.iter().zip(gradient).map(|(v, g)| v * g).sum();
            assert!(along.abs() < 1e-10, "{along}");
        }
    }
    Ok(())
}

#[test]
fn a_batch_without_rows_has_no_cosines() -> Outcome {
    let (head, _) = head()?;
    let none = Tensor::zeros((0, WIDTH), DType::F64, &Device::Cpu)?;
    assert_eq!(head.forward(&none)?.dims(), [0, CLASSES]);
    Ok(())
}

#[test]
fn a_zero_feature_gives_cosine_zero_and_finite_gradients() -> Outcome {
    let (head, weight) = head()?;
    let features = variable(&[0.0; WIDTH], (1, WIDTH))?;
    let cosines = head.forward(&features)?;
    assert_eq!(cosines.flatten_all()?.to_vec1::<f64>()?, [0.0; CLASSES]);
    let total = cosines.sum_all()?;
    for variable in [&features, &weight] {
        assert!(gradient_of(&total, variable)?.iter().all(|g| g.is_finite()));
    }
    Ok(())
}

/// 300 squared overflows f16, and a bf16 cosine would be off by up to 1/512.
#[test]
fn sixteen_bit_features_give_f32_cosines() -> Outcome {
    for dtype in [DType::F16, DType::BF16] {
        let weight = Tensor::new(&[[300f32, 0.0], [300.0, 300.0]], &Device::Cpu)?;
        let head = CosineHead::from_weight(weight.to_dtype(dtype)?)?;
        let features = Tensor::new(&[[300f32, 0.0]], &Device::Cpu)?.to_dtype(dtype)?;
        let cosines = head.forward(&features)?;
        assert_eq!(cosines.dtype(), DType::F32);
        let cosines: Vec<f64> = cosines.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
        assert_close(&cosines, &[1.0, 0.5f64.sqrt()], 1e-6);
    }
    Ok(())
}

#[test]
fn gradients_reach_sixteen_bit_variables_in_their_type() -> Outcome {
    let (head, _) = head()?;
    let weight = Var::from_tensor(&head.weight().to_dtype(DType::BF16)?)?;
    let head = CosineHead::from_weight(weight.as_tensor().clone())?;
    let features = Tensor::from_vec(values(ROWS * WIDTH, 14), (ROWS, WIDTH), &Device::Cpu)?;
    let total = head.forward(&features.to_dtype(DType::BF16)?)?.sum_all()?;
    let gradients = total.backward()?;
    assert_eq!(gradients.get(&weight).map(Tensor::dtype), Some(DType::BF16));
    Ok(())
}

#[test]
fn a_new_head_registers_its_weight() -> Outcome {
    let variables = VarMap::new();
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let head = CosineHead::new(WIDTH, CLASSES, vb.pp("classifier"))?;
    assert_eq!(head.weight().dims(), [CLASSES, WIDTH]);
    let names: Vec<String> = match variables.data().lock() {
        Ok(data) => data.keys().cloned().collect(),
        Err(poisoned) => return Err(poisoned.to_string().into()),
    };
    assert_eq!(names, ["classifier.weight"]);
    Ok(())
}

#[test]
fn features_of_another_shape_are_refused_with_both_sizes() -> Outcome {
    let (head, _) = head()?;
    for shape in [&[ROWS, WIDTH + 1][..], &[WIDTH], &[2, ROWS, WIDTH]] {
        let features = Tensor::zeros(shape, DType::F64, &Device::Cpu)?;
        match head.forward(&features) {
            Ok(_) => return Err(format!("{shape:?} was accepted").into()),
            Err(error) => assert!(error.to_string().contains("[N, 7]"), "{error}"),
        }
    }
    let flat = Tensor::zeros(WIDTH, DType::F64, &Device::Cpu)?;
    assert!(CosineHead::from_weight(flat).is_err());
    Ok(())
}

/// Squares of these leave f32, or are nothing beside what is added to them.
#[test]
fn very_large_and_very_small_vectors_keep_their_direction() -> Outcome {
    let weight = Tensor::new(&[[1f32, 0.0], [0.0, 1.0]], &Device::Cpu)?;
    let head = CosineHead::from_weight(weight)?;
    for (vector, expected) in [
        ([3e20f32, 4e20], [0.6f32, 0.8]),
        ([f32::MAX, 0.0], [1.0, 0.0]),
        ([-f32::MAX, 0.75 * f32::MAX], [-0.8, 0.6]),
        ([3e-7, 4e-7], [0.6, 0.8]),
        ([3e-30, -4e-30], [0.6, -0.8]),
        ([0.0, 1e-37], [0.0, 1.0]),
    ] {
        let features = Var::from_tensor(&Tensor::new(&[vector], &Device::Cpu)?)?;
        let cosines = head.forward(&features)?;
        for (found, expected) in cosines.to_vec2::<f32>()?[0].iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{vector:?}: {found}");
        }
        let head = CosineHead::from_weight(Tensor::new(&[vector], &Device::Cpu)?)?;
        let own = head.forward(&Tensor::new(&[vector], &Device::Cpu)?)?;
        assert!(
            (own.to_vec2::<f32>()?[0][0] - 1.0).abs() < 1e-6,
            "{vector:?} with itself"
        );
    }
    Ok(())
}
