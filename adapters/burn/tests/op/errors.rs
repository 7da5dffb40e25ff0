//! What is refused, and in which words.

use ala_loss::Objective;
use ala_loss_burn::{AlaLoss, AlaLossConfig, Error};
use burn::tensor::{DType, Device, Int, Tensor};

use crate::cases::{CLASSES, ROWS, builder, cosines, integers, labels, matrix};

fn loss() -> AlaLoss {
    AlaLoss::new(builder(Objective::ala()).build().expect("valid"))
}

fn refused(logits: Tensor<2>, labels: Tensor<1, Int>) -> String {
    let error = loss()
        .try_forward_rows(logits, labels)
        .expect_err("refused");
    error.to_string()
}

#[test]
fn a_label_out_of_range_is_named_with_its_row() {
    for device in [Device::flex(), Device::flex().autodiff()] {
        let mut labels = labels();
        labels[3] = CLASSES as i64;
        let logits = matrix(cosines(), ROWS, &device).require_grad_where(&device);
        let message = refused(logits, integers(&labels, &device));
        assert_eq!(
            message,
            "row 3 has label 5: labels must lie in 0..5 or be the ignore label"
        );
    }
}

#[test]
fn a_label_beyond_i64_is_no_other_label() {
    let device = Device::flex();
    let labels = integers(&[0, 1, 2, -1, 0, 1, 2], &device).cast(DType::U64);
    let message = refused(matrix(cosines(), ROWS, &device), labels);
    assert_eq!(
        message,
        "row 3 has label 18446744073709551615, which is no class"
    );
}

#[test]
fn other_shapes_are_named() {
    let device = Device::flex();
    let message = refused(Tensor::zeros([3, 4], &device), Tensor::zeros([3], &device));
    assert_eq!(message, "the logits have shape [3, 4]: expected [N, 5]");
    let message = refused(Tensor::zeros([3, 5], &device), Tensor::zeros([2], &device));
    assert!(
        message.starts_with("the labels have shape [2]: expected [3]"),
        "{message}"
    );
}

#[test]
fn two_kinds_of_graph_are_refused_before_burn_panics() {
    let one = Device::flex().autodiff();
    let other = Device::flex().autodiff().gradient_checkpointing();
    let logits = matrix(cosines(), ROWS, &one);
    let message = refused(logits, integers(&labels(), &other));
    assert!(message.ends_with("move one of them"), "{message}");
}

#[test]
#[should_panic(expected = "row 0 has label 9")]
fn forward_panics_with_the_error_s_words() {
    let device = Device::flex();
    loss().forward(
        matrix(cosines(), ROWS, &device),
        integers(&[9; ROWS], &device),
    );
}

#[test]
fn settings_out_of_range_are_refused() {
    let device = Device::flex();
    let config = || AlaLossConfig::new([9, 3]);
    assert!(config().with_scale(-1.0).try_init(&device).is_err());
    assert!(
        config()
            .with_class_weights([1.0])
            .try_init(&device)
            .is_err()
    );
    let scale = config().with_loss_scale(1e60).try_init(&device);
    assert_eq!(scale.expect_err("refused"), Error::LossScale(1e60));
}

trait RequireGradWhere {
    fn require_grad_where(self, device: &Device) -> Self;
}

impl RequireGradWhere for Tensor<2> {
    /// Only autodiff tensors can be tracked.
    fn require_grad_where(self, device: &Device) -> Self {
        match device.is_autodiff() {
            true => self.require_grad(),
            false => self,
        }
    }
}
