//! Values, types, layouts and errors of the forward pass.

use ala_loss::{Error as LossError, Loss, Objective, Reduction, reference};
use ala_loss_burn::{AlaLoss, AlaLossConfig, Error};
use burn::tensor::{Bool, DType, Device, Tensor};

use crate::cases::{
    CLASSES, REDUCTIONS, ROWS, assert_close, builder, cosines, device, integers, labels, matrix,
    numbers, objectives,
};

const IGNORED: i64 = -100;

fn booleans(hits: Tensor<1, Bool>) -> Vec<bool> {
    hits.into_data().iter::<bool>().collect()
}

fn is_largest(row: &[f64], place: usize) -> bool {
    row.iter().all(|&value| value <= row[place])
}

/// Loss, row losses and hits of logits and labels are those of the exact ones.
fn check(loss: &Loss, logits: Tensor<2>, exact: &[f64], labels: &[i64], label_type: DType) {
    let what = format!("{:?} {:?}", loss.objective(), loss.reduction());
    let hits: Vec<bool> = exact
        .chunks(CLASSES)
        .zip(labels)
        .map(|(row, &label)| label != IGNORED && is_largest(row, label as usize))
        .collect();
    let exact = reference::batch(loss, exact, labels, &vec![1.0; labels.len()]);
    let labels = integers(labels, label_type, &logits.device());
    let output = AlaLoss::new(loss.clone())
        .try_forward_rows(logits, labels)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let bound = |x: f64| 2e-6 * x.abs() + 2e-6;
    assert_eq!(output.loss.dtype(), DType::F32);
    match loss.reduction() {
        Reduction::None => assert_close(&numbers(output.loss), &exact.row_losses, bound, &what),
        _ => assert_close(&numbers(output.loss), &[exact.loss], bound, &what),
    }
    assert_close(&numbers(output.row_losses), &exact.row_losses, bound, &what);
    assert_eq!(booleans(output.hits), hits, "{what}");
}

#[test]
fn every_objective_reduction_and_type_matches_the_reference() {
    let device = device();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let (logits, exact) = matrix(cosines(), ROWS, dtype, &device);
        for objective in objectives() {
            for reduction in REDUCTIONS {
                let loss = builder(objective).reduction(reduction);
                let loss = loss.build().expect("valid");
                check(&loss, logits.clone(), &exact, &labels(), DType::I32);
            }
        }
    }
}

#[test]
fn ignored_rows_and_class_weights_count_as_in_the_reference() {
    let device = device();
    let (logits, exact) = matrix(cosines(), ROWS, DType::F32, &device);
    let mut labels = labels();
    labels[2] = IGNORED;
    labels[5] = IGNORED;
    for reduction in REDUCTIONS {
        let loss = builder(Objective::ala())
            .reduction(reduction)
            .ignore_label(IGNORED)
            .class_weights(vec![0.5, 1.0, 2.0, 0.25, 3.0])
            .build()
            .expect("valid");
        check(&loss, logits.clone(), &exact, &labels, DType::I64);
    }
}

#[test]
fn labels_of_every_type_that_the_kernels_read() {
    let device = device();
    let loss = builder(Objective::ala()).build().expect("valid");
    let (logits, exact) = matrix(cosines(), ROWS, DType::F32, &device);
    for label_type in [DType::U8, DType::U32, DType::I32, DType::I64] {
        check(&loss, logits.clone(), &exact, &labels(), label_type);
    }
}

/// burn pads the rows of what it makes, of these to 8 numbers.
#[test]
fn rows_that_lie_apart_are_read_where_they_are() {
    let device = device();
    let loss = builder(Objective::ala()).build().expect("valid");
    let wide: Vec<f64> = (0..(ROWS + 2) * (CLASSES + 4))
        .map(|i| f64::from((i * 37 % 101) as u32) / 101.0)
        .collect();
    let (all, exact) = matrix(wide, ROWS + 2, DType::F32, &device);
    let logits = all.slice([1..1 + ROWS, 3..3 + CLASSES]);
    let exact: Vec<f64> = exact
        .chunks(CLASSES + 4)
        .skip(1)
        .take(ROWS)
        .flat_map(|row| row[3..3 + CLASSES].to_vec())
        .collect();
    check(&loss, logits, &exact, &labels(), DType::I32);
}

#[test]
fn a_single_row_and_none() {
    let device = device();
    let loss = builder(Objective::ala()).reduction(Reduction::Sum);
    let loss = loss.build().expect("valid");
    let (logits, exact) = matrix(cosines()[..CLASSES].to_vec(), 1, DType::F32, &device);
    check(&loss, logits.clone(), &exact, &[3], DType::I32);
    let none = logits.slice([0..0, 0..CLASSES]);
    check(&loss, none, &[], &[], DType::I32);
}

/// The first such row is named, by the call that meets it, and the next call is none the worse.
#[test]
fn a_label_out_of_range_is_the_call_s_error() {
    let device = device();
    let loss = builder(Objective::ala()).build().expect("valid");
    let (logits, exact) = matrix(cosines(), ROWS, DType::F32, &device);
    let op = AlaLoss::new(loss.clone());
    let mut wrong = labels();
    wrong[3] = 5;
    wrong[4] = -1;
    let refused = op.try_forward(logits.clone(), integers(&wrong, DType::I32, &device));
    let expected = LossError::Label {
        row: 3,
        label: 5,
        classes: CLASSES,
    };
    assert_eq!(refused.err(), Some(Error::Loss(expected)));
    let taken = op.try_forward(logits.clone(), integers(&labels(), DType::I32, &device));
    let exact = reference::batch(&loss, &exact, &labels(), &[1.0; ROWS]);
    let taken = numbers(taken.expect("valid labels"));
    assert_close(&taken, &[exact.loss], |_| 4e-6, "after a wrong label");
}

#[test]
fn types_that_the_kernels_do_not_have_are_refused_by_name() {
    let device = device();
    let op = AlaLossConfig::new([9, 3]).init(&device);
    let (logits, _) = matrix(vec![0.1; 4], 2, DType::F64, &device);
    let refused = op.try_forward(logits, integers(&[0, 1], DType::I32, &device));
    assert_eq!(refused.err(), Some(Error::LogitType(DType::F64)));
    let (logits, _) = matrix(vec![0.1; 4], 2, DType::F32, &device);
    let refused = op.try_forward(logits, integers(&[0, 1], DType::U64, &device));
    assert_eq!(refused.err(), Some(Error::LabelType(DType::U64)));
}

#[test]
fn tensors_on_two_devices_are_refused() {
    let device = device();
    let op = AlaLossConfig::new([9, 3]).init(&device);
    let (logits, _) = matrix(vec![0.1; 4], 2, DType::F32, &device);
    let refused = op.try_forward(logits, integers(&[0, 1], DType::I64, &Device::flex()));
    assert!(matches!(refused, Err(Error::TwoDevices { .. })));
}

/// Steps of several at once wait for one another.
#[test]
fn threads_share_a_module() {
    let device = device();
    let op = AlaLoss::new(builder(Objective::ala()).build().expect("valid"));
    let (_, exact) = matrix(cosines(), ROWS, DType::F32, &device);
    let exact = reference::batch(op.loss(), &exact, &labels(), &[1.0; ROWS]);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let device = crate::cases::device();
                for _ in 0..4 {
                    let (logits, _) = matrix(cosines(), ROWS, DType::F32, &device);
                    let labels = integers(&labels(), DType::I32, &device);
                    let loss = op.try_forward(logits, labels).expect("a valid batch");
                    assert_close(&numbers(loss), &[exact.loss], |_| 4e-6, "a thread's");
                }
            });
        }
    });
}
