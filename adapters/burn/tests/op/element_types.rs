//! Element types: one rounding, and labels of every integer type.

use ala_loss::{Objective, Reduction, reference};
use ala_loss_burn::AlaLoss;
use burn::tensor::{DType, Device};

use crate::cases::{ROWS, assert_close, builder, cosines, integers, labels, matrix, numbers};

/// Half the distance of two neighbours around `exact`: mantissa bits and the least exponent.
fn half_ulp(exact: f64, (bits, least): (i32, i32)) -> f64 {
    let exponent = (exact.abs().log2().floor() as i32).max(least);
    0.5 * 2f64.powi(exponent - bits)
}

/// The gradient for upstream gradients far below what `T` can hold before they are applied.
fn check(dtype: DType, ulp: Option<(i32, i32)>, upstream: f64) {
    let device = Device::flex().autodiff();
    for reduction in [Reduction::Mean, Reduction::None] {
        let loss = builder(Objective::ala()).reduction(reduction);
        let loss = loss.build().expect("valid");
        let logits = matrix(cosines(), ROWS, &device).cast(dtype);
        let rounded = numbers(logits.clone());
        let logits = logits.detach().require_grad();
        let value =
            AlaLoss::new(loss.clone()).forward(logits.clone(), integers(&labels(), &device));
        assert_eq!(value.dtype(), DType::F32);
        let gradients = (value * upstream).sum().backward();
        let gradient = logits.grad(&gradients).expect("tracked");
        assert_eq!(gradient.dtype(), dtype);
        let exact = reference::batch(&loss, &rounded, &labels(), &[upstream; ROWS]);
        let bound = |x: f64| {
            let rounding = ulp.map_or(0.0, |of| half_ulp(x, of));
            rounding + 1e-5 * x.abs() + upstream.abs() * 6e-7
        };
        assert_close(
            &numbers(gradient),
            &exact.gradient,
            bound,
            &format!("{dtype:?}"),
        );
    }
}

#[test]
fn gradients_of_every_float_type_are_rounded_once() {
    for upstream in [1.0, 3.0, 1024.0, 1e-3] {
        check(DType::F32, None, upstream);
        check(DType::F16, Some((10, -14)), upstream);
        check(DType::BF16, Some((7, -126)), upstream);
    }
}

#[test]
fn labels_may_be_of_every_integer_type() {
    let device = Device::flex();
    let loss = AlaLoss::new(builder(Objective::ala()).build().expect("valid"));
    let exact = numbers(loss.forward(
        matrix(cosines(), ROWS, &device),
        integers(&labels(), &device),
    ));
    for dtype in [
        DType::I64,
        DType::I32,
        DType::I16,
        DType::I8,
        DType::U64,
        DType::U32,
        DType::U16,
        DType::U8,
    ] {
        let labels = integers(&labels(), &device).cast(dtype);
        assert_eq!(labels.dtype(), dtype);
        let got = loss.forward(matrix(cosines(), ROWS, &device), labels);
        assert_eq!(numbers(got), exact, "{dtype:?}");
    }
}
