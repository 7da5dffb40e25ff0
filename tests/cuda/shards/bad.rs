//! What is wrong with a row or with the records, and the order of blocks.

use ala_loss::{ClassCounts, Error, Loss, NO_CLASS, Objective, Reduction};
use softcuda::exec::Order;

use super::mixed_step;
use super::together::{Step, bind, finish, records, together};
use crate::device::device;
use crate::problem::mixed::{IGNORED, random};
use crate::problem::shards::cuts;
use crate::problem::{counts, logits};

/// What is wrong with a row is a row of NaN on every shard, and the CPU's error when it is read.
#[test]
fn bad_rows_are_told_as_the_cpu_tells_them() {
    let device = device();
    let classes = 12;
    type Change = fn(&mut Step<f32>);
    let cases: [(Change, &str); 8] = [
        (|step| step.labels[2] = 12, "row 2 has label 12"),
        (|step| step.labels[2] = -1, "row 2 has label -1"),
        (
            |step| step.labels[2] = i64::MIN,
            "row 2 has label -9223372036854775808",
        ),
        (
            |step| step.labels[2] = 1 << 32,
            "row 2 has label 4294967296",
        ),
        (
            |step| step.mixed.as_mut().expect("mixed").0[2] = 99,
            "row 2 has second label 99",
        ),
        (
            |step| step.mixed.as_mut().expect("mixed").1[2] = 1.5,
            "lambda",
        ),
        (
            |step| step.row_weights.as_mut().expect("weights")[2] = -1.0,
            "weight",
        ),
        (
            |step| step.row_weights.as_mut().expect("weights")[2] = f32::NAN,
            "weight",
        ),
    ];
    let counts = ClassCounts::new(vec![7; classes]).expect("valid");
    for reduction in [Reduction::Sum, Reduction::Mean] {
        let loss = Loss::builder(Objective::ala(), &counts).reduction(reduction);
        let loss = loss.build().expect("valid");
        let sound = Step {
            mixed: Some((vec![5, 6, 7, 8], vec![0.5; 4])),
            row_weights: Some(vec![1.0; 4]),
            top1: true,
            ..Step::new(vec![0.25f32; 4 * classes], vec![1, 2, 3, 4])
        };
        for cut in cuts(classes).into_iter().take(3) {
            let right = together(&device, &loss, &cut, &sound);
            for (change, said) in cases {
                let mut step = sound.clone();
                change(&mut step);
                let got = together(&device, &loss, &cut, &step);
                let error = got.summary.expect_err("a bad row").to_string();
                assert!(error.contains(said) && error.contains("row 2"), "{error}");
                assert!(got.row_losses[2].is_nan());
                assert_eq!(got.gradient[2 * classes..][..classes], [0.0; 12]);
                assert_eq!((got.hits[2], got.predictions[2]), (0, NO_CLASS));
                for row in [0, 1, 3] {
                    assert_eq!(got.row_losses[row], right.row_losses[row], "{said}");
                }
            }
        }
    }
}

/// Records of other shards than all: the label is nobody's, or two shards'.
#[test]
fn labels_of_no_shard_and_of_two_are_told() {
    let device = device();
    let counts = ClassCounts::new([9, 3, 3, 1]).expect("valid");
    for objective in [Objective::ala(), Objective::ClassBalanced { beta: 0.9 }] {
        let loss = Loss::new(objective, &counts).expect("valid");
        let shards = bind(&device, &loss, &[0..2, 2..4]);
        let step = Step::new(vec![0.25f32; 8], vec![1, 3]);
        let told = device.download(&records(&device, &shards, &step));
        let (first, second) = told.split_at(told.len() / 2);
        for (told, row, label, count) in [
            ([first, first].concat(), 0, 1, 2),
            (first.to_vec(), 1, 3, 0),
            ([first, second, second].concat(), 1, 3, 2),
        ] {
            let got = finish(&device, &shards[0], &step, &device.upload(&told));
            let shards = count;
            assert_eq!(
                got.summary,
                Err(Error::ShardsOfLabel { row, label, shards })
            );
            assert!(got.row_losses[row].is_nan());
            assert_eq!(got.gradient[2 * row..][..2], [0.0; 2]);
        }
    }
}

/// Records hold anything where a transport lost them: nothing is read or written out of bounds,
/// which the driver in software would say.
#[test]
fn records_of_anything_are_survived() {
    let device = device();
    let mut rng = fastrand::Rng::with_seed(79);
    let (gamma, tau) = (0.2, 1.0);
    let vector = Objective::VectorScaling { gamma, tau };
    let some = [
        0.0,
        -1.0,
        1e38,
        -1e38,
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        3.0,
        1e9,
    ];
    for objective in [Objective::ala(), vector] {
        let loss = Loss::new(objective, &counts(&mut rng, 9)).expect("valid");
        let shards = bind(&device, &loss, &[0..2, 2..6, 6..9]);
        let step = Step {
            mixed: Some((vec![5, 8, 3, 1], vec![0.5; 4])),
            top1: true,
            ..Step::new(logits::<f32>(&mut rng, 36, 1.0), vec![2, 7, 2, 0])
        };
        let len = device.download(&records(&device, &shards, &step)).len();
        for _ in 0..60 {
            let told: Vec<f32> = (0..len).map(|_| some[rng.usize(..some.len())]).collect();
            // It may be an error.
            let _ = finish(&device, &shards[1], &step, &device.upload(&told));
        }
    }
}

/// Blocks and warps in any order give the same bits.
#[test]
fn any_order_gives_the_same_bits() {
    let device = device();
    let Some(soft) = device.soft else {
        return; // a GPU has an order of its own
    };
    let mut rng = fastrand::Rng::with_seed(80);
    let classes = 300;
    for objective in [Objective::ala(), Objective::LogitAdjustment { tau: 0.5 }] {
        let builder = Loss::builder(objective, &counts(&mut rng, classes));
        let loss = builder.ignore_label(IGNORED).build().expect("valid");
        let mut batch = random::<f32>(&mut rng, 700, classes);
        batch.a[7] = IGNORED;
        // Rows that are solved with care.
        batch.x[..2 * classes].fill(-1e9);
        let mut step = mixed_step(&batch);
        step.top1 = true;
        let of = |order| {
            soft.set_order(order);
            format!("{:?}", together(&device, &loss, &[0..130, 130..300], &step))
        };
        let forward = of(Order::Forward);
        for order in [Order::Reverse, Order::Interleaved] {
            assert!(of(order) == forward, "{objective:?} {order:?}");
        }
        soft.set_order(Order::Forward);
    }
}
