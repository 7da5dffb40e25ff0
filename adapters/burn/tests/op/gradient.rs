//! Losses and gradients through burn's autodiff against the reference.

use ala_loss::{Loss, Objective, Options, Reduction, reference};
use ala_loss_burn::AlaLoss;
use burn::tensor::{DType, Device, Tensor};

use crate::cases::{
    CLASSES, REDUCTIONS, ROWS, assert_close, builder, cosines, integers, labels, matrix, numbers,
    objectives,
};

const IGNORED: i64 = -100;

fn exact(loss: &Loss, labels: &[i64], upstream: &[f64]) -> reference::ReferenceOutcome {
    reference::batch(loss, &cosines(), labels, upstream)
}

fn vector(values: &[f64], device: &Device) -> Tensor<1> {
    matrix(values.to_vec(), 1, device).reshape([values.len()])
}

/// The gradient of the loss times `upstream`, one number or one for each row.
fn gradient(op: &AlaLoss, labels: &[i64], upstream: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let device = Device::flex().autodiff();
    let logits = matrix(cosines(), ROWS, &device).require_grad();
    let loss = op
        .try_forward(logits.clone(), integers(labels, &device))
        .expect("a valid batch");
    let scaled = loss.clone() * vector(upstream, &device);
    let gradients = scaled.sum().backward();
    let gradient = logits.grad(&gradients).expect("the logits are tracked");
    (numbers(loss), numbers(gradient))
}

fn check(loss: Loss, labels: &[i64], upstream: &[f64]) {
    let what = format!("{:?} {:?}", loss.objective(), loss.reduction());
    let each: Vec<f64> = match upstream {
        [factor] => vec![*factor; ROWS],
        each => each.to_vec(),
    };
    let exact = exact(&loss, labels, &each);
    let values = match loss.reduction() {
        Reduction::None => exact.row_losses,
        _ => vec![exact.loss],
    };
    let (got, gradient) = gradient(&AlaLoss::new(loss), labels, upstream);
    assert_close(&got, &values, |x| 1e-12 * x.abs() + 1e-13, &what);
    assert_close(
        &gradient,
        &exact.gradient,
        |x| 1e-11 * x.abs() + 1e-12,
        &what,
    );
}

#[test]
fn every_objective_and_reduction_matches_the_reference() {
    for objective in objectives() {
        for reduction in REDUCTIONS {
            let loss = builder(objective).reduction(reduction).build();
            check(loss.expect("valid"), &labels(), &[1.0]);
        }
    }
}

#[test]
fn an_upstream_number_multiplies_the_gradient() {
    for reduction in REDUCTIONS {
        let loss = builder(Objective::ala()).reduction(reduction).build();
        check(loss.expect("valid"), &labels(), &[-3.5]);
    }
}

#[test]
fn each_row_has_its_own_upstream_gradient_where_nothing_is_reduced() {
    let upstream = [1.0, 0.0, -2.0, 0.25, 7.0, 1.5, -0.5];
    let loss = builder(Objective::ala()).reduction(Reduction::None);
    check(loss.build().expect("valid"), &labels(), &upstream);
}

#[test]
fn ignored_rows_and_class_weights_count_as_in_the_reference() {
    let mut labels = labels();
    labels[1] = IGNORED;
    labels[5] = IGNORED;
    for reduction in REDUCTIONS {
        let loss = builder(Objective::ala())
            .reduction(reduction)
            .ignore_label(IGNORED)
            .class_weights([0.5, 1.0, 0.0, 2.0, 3.0]);
        check(loss.build().expect("valid"), &labels, &[2.0]);
    }
}

#[test]
fn the_loss_scale_changes_no_gradient() {
    let loss = builder(Objective::ala()).build().expect("valid");
    let scaled = AlaLoss::new(loss.clone()).with_loss_scale(64.0);
    for upstream in [[1.0], [64.0], [-2.0]] {
        let exact = exact(&loss, &labels(), &[upstream[0]; ROWS]);
        let (_, got) = gradient(scaled.as_ref().expect("valid"), &labels(), &upstream);
        assert_close(&got, &exact.gradient, |x| 1e-11 * x.abs() + 1e-12, "scaled");
    }
}

/// What was kept is handed out, not made again for the number that `f32` has instead: 1.
#[test]
fn a_loss_scale_that_f32_has_not_is_known_too() {
    const SCALE: f64 = 1.000_000_05;
    let device = Device::flex().autodiff();
    let narrow: Vec<f32> = cosines().iter().map(|&x| x as f32).collect();
    let loss = builder(Objective::ala()).build().expect("valid");
    let options = Options::new().gradient_scale(SCALE);
    let kept = loss.evaluate_with(&narrow, &labels(), &options);
    let logits = matrix(cosines(), ROWS, &device).cast(DType::F32).detach();
    let logits = logits.require_grad();
    let op = AlaLoss::new(loss).with_loss_scale(SCALE).expect("valid");
    let value = op.forward(logits.clone(), integers(&labels(), &device)) * SCALE;
    let gradient = logits.grad(&value.backward()).expect("tracked");
    let gradient = gradient.into_data().try_into_vec::<f32>().expect("f32");
    assert_eq!(gradient, kept.expect("valid").gradient);
}

#[test]
fn the_gradient_flows_through_a_graph_before_the_loss() {
    let device = Device::flex().autodiff();
    let weight = matrix(cosines(), ROWS, &device).require_grad(); // [7, 5]
    let samples = matrix(
        (0..3 * ROWS).map(|i| (i as f64).sin() / 7.0).collect(),
        3,
        &device,
    );
    let loss = builder(Objective::ala()).build().expect("valid");
    let labels = [4, 0, 2];
    let logits = samples.clone().matmul(weight.clone());
    let exact = reference::batch(&loss, &numbers(logits.clone()), &labels, &[1.0; 3]);
    let value = AlaLoss::new(loss).forward(logits, integers(&labels, &device));
    let gradients = value.backward();
    let of_logits = matrix(exact.gradient, 3, &Device::flex());
    let expected = samples.inner().transpose().matmul(of_logits);
    let got = weight.grad(&gradients).expect("tracked");
    assert_close(
        &numbers(got),
        &numbers(expected),
        |x| 1e-11 * x.abs() + 1e-12,
        "weight",
    );
}

#[test]
fn logits_that_nothing_tracks_give_an_untracked_loss() {
    let loss = AlaLoss::new(builder(Objective::ala()).build().expect("valid"));
    for device in [Device::flex(), Device::flex().autodiff()] {
        let logits = matrix(cosines(), ROWS, &device);
        let output = loss.forward_rows(logits, integers(&labels(), &device));
        assert!(!output.loss.is_tracked());
        let exact = exact(loss.loss(), &labels(), &[1.0; ROWS]);
        assert_close(&numbers(output.loss), &[exact.loss], |_| 1e-12, "untracked");
    }
}

#[test]
fn labels_outside_of_autodiff_go_with_logits_inside() {
    let device = Device::flex().autodiff();
    let logits = matrix(cosines(), ROWS, &device).require_grad();
    let loss = AlaLoss::new(builder(Objective::ala()).build().expect("valid"));
    let value = loss.forward(logits.clone(), integers(&labels(), &Device::flex()));
    assert!(logits.grad(&value.backward()).is_some());
}

#[test]
fn rows_know_their_losses_and_hits() {
    let device = Device::flex().autodiff();
    let logits = matrix(cosines(), ROWS, &device).require_grad();
    let loss = AlaLoss::new(builder(Objective::ala()).build().expect("valid"));
    let output = loss.forward_rows(logits, integers(&labels(), &device));
    let exact = exact(loss.loss(), &labels(), &[1.0; ROWS]);
    assert_close(
        &numbers(output.row_losses),
        &exact.row_losses,
        |_| 1e-12,
        "rows",
    );
    let values = cosines();
    let expected: Vec<bool> = (values.chunks(CLASSES).zip(labels()))
        .map(|(row, label)| row.iter().all(|&x| x <= row[label as usize]))
        .collect();
    assert!(expected.contains(&true) && expected.contains(&false));
    let hits = output.hits.into_data().try_into_vec::<bool>();
    assert_eq!(hits.expect("bools"), expected);
}
