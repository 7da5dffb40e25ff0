//! The cosine head against central differences, and at its edges.

use ala_loss::Objective;
use ala_loss_burn::{AlaLoss, CosineHead};
use burn::module::Param;
use burn::tensor::{DType, Device, Tensor};

use crate::cases::{CLASSES, ROWS, assert_close, builder, integers, labels, matrix, numbers};

const WIDTH: usize = 3;

fn features() -> Vec<f64> {
    (0..ROWS * WIDTH).map(|i| (1.7 * i as f64).sin()).collect()
}

fn weight() -> Vec<f64> {
    (0..CLASSES * WIDTH)
        .map(|i| (2.3 * i as f64).cos())
        .collect()
}

fn head(weight: Tensor<2>) -> CosineHead {
    CosineHead {
        weight: Param::from_tensor(weight),
    }
}

fn value(objective: Objective, features: Tensor<2>, head: &CosineHead) -> Tensor<1> {
    let device = features.device();
    let loss = AlaLoss::new(builder(objective).build().expect("valid"));
    loss.forward(head.forward(features), integers(&labels(), &device))
}

/// Of a margin that is no function of the cosines, whose gradient is all of the derivative.
#[test]
fn gradients_of_features_and_weight_are_central_differences() {
    let objective = Objective::CosFace { margin: 0.3 };
    let device = Device::flex().autodiff();
    let x = matrix(features(), ROWS, &device).require_grad();
    let module = head(matrix(weight(), CLASSES, &device).require_grad());
    let gradients = value(objective, x.clone(), &module).backward();
    let of_features = numbers(x.grad(&gradients).expect("tracked"));
    let of_weight = numbers(module.weight.grad(&gradients).expect("tracked"));

    let plain = Device::flex();
    let at = |x: Vec<f64>, w: Vec<f64>| {
        let head = head(matrix(w, CLASSES, &plain));
        numbers(value(objective, matrix(x, ROWS, &plain), &head))[0]
    };
    let difference = |values: Vec<f64>, place: usize, at: &dyn Fn(Vec<f64>) -> f64| {
        let moved = |by: f64| {
            let mut values = values.clone();
            values[place] += by;
            at(values)
        };
        (moved(1e-5) - moved(-1e-5)) / 2e-5
    };
    let expected: Vec<f64> = (0..ROWS * WIDTH)
        .map(|place| difference(features(), place, &|x| at(x, weight())))
        .collect();
    assert_close(&of_features, &expected, |_| 1e-8, "features");
    let expected: Vec<f64> = (0..CLASSES * WIDTH)
        .map(|place| difference(weight(), place, &|w| at(features(), w)))
        .collect();
    assert_close(&of_weight, &expected, |_| 1e-8, "weight");
}

#[test]
fn a_zero_vector_has_cosine_0_and_a_finite_gradient() {
    let device = Device::flex().autodiff();
    let mut zero = features();
    zero[..WIDTH].fill(0.0);
    let x = matrix(zero, ROWS, &device).require_grad();
    let head = head(matrix(weight(), CLASSES, &device));
    let cosines = numbers(head.forward(x.clone()));
    assert!(cosines[..CLASSES].iter().all(|&cosine| cosine == 0.0));
    let gradients = value(Objective::ala(), x.clone(), &head).backward();
    let gradient = numbers(x.grad(&gradients).expect("tracked"));
    assert!(gradient.iter().all(|value| value.is_finite()));
}

#[test]
fn very_large_and_very_small_vectors_keep_their_direction() {
    let device = Device::flex();
    let [plain, large, small] = [1.0, 1e30, 1e-30].map(|size| {
        let x = matrix(features().iter().map(|x| x * size).collect(), ROWS, &device);
        let w = matrix(weight(), CLASSES, &device).cast(DType::F32);
        numbers(head(w).forward(x.cast(DType::F32)))
    });
    assert_close(&large, &plain, |_| 1e-6, "large");
    assert_close(&small, &plain, |_| 1e-6, "small");
}

#[test]
fn features_of_16_bits_give_cosines_of_32() {
    let device = Device::flex();
    let w = matrix(weight(), CLASSES, &device).cast(DType::F32);
    let x = Tensor::<2>::full([2, WIDTH], 300.0, (&device, DType::F16));
    let cosines = head(w.clone()).forward(x);
    assert_eq!(cosines.dtype(), DType::F32);
    assert!(numbers(cosines).iter().all(|cosine| cosine.is_finite()));
    let refused = head(w).try_forward(Tensor::zeros([2, WIDTH], (&device, DType::F64)));
    let message = refused.expect_err("two types").to_string();
    assert_eq!(
        message,
        "the features become F64 and the weight F32: give both in one type"
    );
}

#[test]
fn features_of_another_width_are_refused() {
    let device = Device::flex();
    let head = head(Tensor::zeros([CLASSES, WIDTH], &device));
    let refused = head.try_forward(Tensor::zeros([2, WIDTH + 1], &device));
    let message = refused.expect_err("another width").to_string();
    assert_eq!(message, "the features have shape [2, 4]: expected [N, 3]");
}
