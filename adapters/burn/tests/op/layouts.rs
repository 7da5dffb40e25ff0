//! Logits and labels that are parts of other tensors.

use ala_loss::{Objective, reference};
use ala_loss_burn::AlaLoss;
use burn::tensor::{Device, Int, Tensor};

use crate::cases::{
    CLASSES, ROWS, assert_close, builder, cosines, integers, labels, matrix, numbers,
};

/// Loss and gradient of logits that are a view of `whole` and hold the cosines.
fn check(
    whole: Vec<f64>,
    rows: usize,
    view: impl Fn(Tensor<2>) -> Tensor<2>,
    labels: Tensor<1, Int>,
) {
    let device = Device::flex().autodiff();
    let whole = matrix(whole, rows, &device).require_grad();
    let logits = view(whole.clone());
    assert_eq!(numbers(logits.clone()), cosines());
    let loss = builder(Objective::ala()).build().expect("valid");
    let exact = reference::batch(&loss, &cosines(), &crate::cases::labels(), &[1.0; ROWS]);
    let value = AlaLoss::new(loss).forward(logits, labels);
    let gradient = whole.grad(&value.backward()).expect("tracked");
    assert_close(&numbers(value), &[exact.loss], |_| 1e-12, "loss");
    let gradient = numbers(view(gradient));
    assert_close(&gradient, &exact.gradient, |_| 1e-12, "gradient");
}

#[test]
fn transposed_logits_are_read_in_their_order() {
    let mut whole = vec![0.0; ROWS * CLASSES];
    for (place, value) in cosines().into_iter().enumerate() {
        whole[place % CLASSES * ROWS + place / CLASSES] = value;
    }
    let labels = integers(&labels(), &Device::flex());
    check(whole, CLASSES, |whole| whole.transpose(), labels);
}

#[test]
fn rows_may_lie_apart_and_begin_anywhere() {
    let mut whole = vec![f64::NAN; (ROWS + 2) * (CLASSES + 4)];
    for (place, value) in cosines().into_iter().enumerate() {
        whole[(1 + place / CLASSES) * (CLASSES + 4) + 3 + place % CLASSES] = value;
    }
    let view = |whole: Tensor<2>| whole.slice([1..1 + ROWS, 3..3 + CLASSES]);
    check(whole, ROWS + 2, view, integers(&labels(), &Device::flex()));
}

#[test]
fn reversed_rows_are_read_in_their_order() {
    let reversed: Vec<f64> = (cosines().chunks(CLASSES).rev().flatten().copied()).collect();
    let labels = integers(&labels(), &Device::flex());
    check(reversed, ROWS, |whole| whole.flip([0]), labels);
}

#[test]
fn labels_may_lie_apart() {
    let pairs: Vec<i64> = labels().into_iter().flat_map(|label| [label, 99]).collect();
    let pairs = integers(&pairs, &Device::flex()).reshape([ROWS, 2]);
    let labels = pairs.slice([0..ROWS, 0..1]).reshape([ROWS]);
    check(cosines(), ROWS, |whole| whole, labels);
}

#[test]
fn a_batch_without_rows_has_loss_0() {
    let device = Device::flex();
    let loss = AlaLoss::new(builder(Objective::ala()).build().expect("valid"));
    let output = loss.forward_rows(
        Tensor::zeros([0, CLASSES], &device),
        Tensor::zeros([0], &device),
    );
    assert_eq!(numbers(output.loss), [0.0]);
    assert_eq!(output.hits.dims(), [0]);
}
