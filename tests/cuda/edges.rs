//! The table of edge semantics on the device, in every tier.

use ala_loss::cuda::{CudaElement, Options, Outputs};
use ala_loss::{ClassCounts, Error, Loss, Objective, Reduction, reference};
use cudarc::driver::DeviceRepr;
use half::{bf16, f16};

use crate::device::{Device, Mode, Step, device};
use crate::problem::{
    self, assert_within, build, gradient_bound, loss_bound, objectives, slope, widen,
};

/// A class count in each kind of tier, and whether it is the packed one: packed, part of a warp
/// twice, warp, block, staged.
const CLASSES: [(usize, bool); 6] = [
    (3, true),
    (3, false),
    (60, false),
    (300, false),
    (1100, false),
    (16_500, false),
];
const MODES: [Mode; 2] = [Mode::Fused, Mode::Unfused];

/// Three rows of logits and a loss whose margins differ by class.
fn rows<T: CudaElement>(classes: usize) -> (Vec<f64>, ClassCounts) {
    let mut rng = fastrand::Rng::with_seed(61);
    let counts = problem::counts(&mut rng, classes);
    let x = problem::logits::<T>(&mut rng, 3 * classes, 1.0);
    (widen(&x), counts)
}

fn element<T: CudaElement>(values: &[f64]) -> Vec<T> {
    values.iter().map(|&x| T::from_f64(x)).collect()
}

fn each<T: CudaElement + DeviceRepr + Default>(check: impl Fn(&Device, &Loss, Mode, &[f64])) {
    let device = device();
    for (classes, packed) in CLASSES {
        device.packed.set(packed);
        let (x, counts) = rows::<T>(classes);
        for objective in objectives() {
            if classes > 10
                && !matches!(
                    objective,
                    Objective::Ala(_) | Objective::Focal { .. } | Objective::BalancedSoftmax
                )
            {
                continue;
            }
            let loss = Loss::builder(objective, &counts)
                .scale(4.0)
                .reduction(Reduction::Sum)
                .build()
                .expect("valid");
            for mode in MODES {
                check(&device, &loss, mode, &x);
            }
        }
    }
}

#[test]
fn a_bad_label_is_a_nan_row_and_an_error_when_read() {
    each::<f32>(|device, loss, mode, x| {
        let classes = loss.classes();
        for (bad, row) in [
            (-1i64, 1),
            (classes as i64, 2),
            (i64::MIN, 0),
            (i64::MAX, 1),
        ] {
            let mut labels = vec![0i64, 1, 2];
            labels[row] = bad;
            let step = Step {
                mode,
                ..Step::contiguous(element::<f32>(x), labels, classes)
            };
            let got = device.run(&device.bind(loss), &step);
            let error = Error::Label {
                row,
                label: bad.into(),
                classes,
            };
            assert_eq!(got.summary, Err(error));
            let clean = device.run(
                &device.bind(loss),
                &Step::contiguous(element::<f32>(x), vec![0i64, 1, 2], classes),
            );
            for i in 0..3 {
                let span = i * classes..(i + 1) * classes;
                if i == row {
                    assert!(got.row_losses[i].is_nan());
                    assert!(got.gradient[span].iter().all(|&g| g == 0.0));
                    assert!(!got.hits[i]);
                } else if mode == Mode::Fused {
                    assert_eq!(got.row_losses[i], clean.row_losses[i]);
                    assert_eq!(got.gradient[span.clone()], clean.gradient[span]);
                }
            }
        }
    });
}

#[test]
fn the_first_bad_row_of_the_first_launch_is_reported_once() {
    let device = device();
    let loss = build(Objective::ala(), &ClassCounts::new([5, 3]).expect("valid"));
    let bound = device.bind(&loss);
    let mut workspace = bound.workspace(&device.stream, 4).expect("a workspace");
    let x = device.upload(&[0.5f32; 8]);
    let launch = |labels: [i32; 4], workspace: &mut _| {
        let labels = device.upload(&labels);
        bound
            .launch(
                &device.stream,
                &x,
                &labels,
                &Options::new(),
                Outputs::new(),
                workspace,
            )
            .expect("launches");
    };
    launch([0, 1, 9, 7], &mut workspace);
    launch([-4, 0, 0, 0], &mut workspace);
    launch([0, 0, 0, 0], &mut workspace);
    let error = Error::Label {
        row: 2,
        label: 9,
        classes: 2,
    };
    assert_eq!(workspace.read(&device.stream), Err(error));
    launch([0, 1, 1, 0], &mut workspace);
    assert!(
        workspace.read(&device.stream).is_ok(),
        "reading clears the status"
    );
}

#[test]
fn ignored_rows_are_zero_and_do_not_count() {
    let device = device();
    for (classes, packed) in CLASSES {
        device.packed.set(packed);
        let (mut x, counts) = rows::<f32>(classes);
        // An ignored row's logits must not be read into anything.
        x[classes..2 * classes].fill(f64::NAN);
        for objective in [
            Objective::ala(),
            Objective::BalancedSoftmax,
            Objective::ClassBalanced { beta: 0.9 },
        ] {
            for ignore in [-100i64, 1] {
                for reduction in [Reduction::Mean, Reduction::Sum] {
                    for mode in [Mode::Fused, Mode::InPlace, Mode::Unfused] {
                        let loss = Loss::builder(objective, &counts)
                            .reduction(reduction)
                            .ignore_label(ignore)
                            .build()
                            .expect("valid");
                        let step = Step {
                            mode,
                            ..Step::contiguous(element::<f32>(&x), vec![0i64, ignore, 2], classes)
                        };
                        let got = device.run(&device.bind(&loss), &step);
                        let exact = reference::batch(&loss, &x, &[0i64, ignore, 2], &[1.0; 3]);
                        let summary = got.summary.expect("no bad label");
                        assert_eq!(summary.counted_rows, 2);
                        assert_within(summary.loss, exact.loss, loss_bound(exact.loss), &|| {
                            "loss".into()
                        });
                        assert_eq!(got.row_losses[1], 0.0);
                        assert!(!got.hits[1]);
                        assert!(got.gradient[classes..2 * classes].iter().all(|&g| g == 0.0));
                    }
                }
            }
        }
    }
}

#[test]
fn no_counted_row_gives_zero() {
    let device = device();
    let counts = ClassCounts::new([9, 4, 1]).expect("valid");
    for objective in objectives() {
        for reduction in [Reduction::Mean, Reduction::Sum, Reduction::None] {
            let loss = Loss::builder(objective, &counts)
                .reduction(reduction)
                .ignore_label(-1)
                .build()
                .expect("valid");
            for labels in [vec![], vec![-1i64], vec![-1, -1]] {
                let step = Step::contiguous(vec![f32::NAN; 3 * labels.len()], labels, 3);
                let got = device.run(&device.bind(&loss), &step);
                let summary = got.summary.expect("no bad label");
                assert_eq!(
                    (summary.loss, summary.counted_rows),
                    (0.0, 0),
                    "{objective:?}"
                );
                assert!(got.gradient.iter().all(|&g| g == 0.0));
            }
        }
    }
    // Every counted weight is 0: 0, not 0/0.
    let loss = Loss::builder(Objective::CrossEntropy, &counts)
        .class_weights([0.0, 1.0, 1.0])
        .build()
        .expect("valid");
    let got = device.run(
        &device.bind(&loss),
        &Step::contiguous(vec![1.0f32, 2.0, 3.0], vec![0i64], 3),
    );
    assert_eq!(got.summary.expect("valid").loss, 0.0);
    assert!(got.gradient.iter().all(|&g| g == 0.0));
}

#[test]
fn nan_or_plus_infinity_stays_in_its_row() {
    fn check<T: CudaElement + DeviceRepr + Default>() {
        each::<T>(|device, loss, mode, x| {
            let classes = loss.classes();
            let bound = device.bind(loss);
            let labels = vec![0i64, (classes / 2) as i64, 2];
            let run = |x: &[f64]| {
                let step = Step {
                    mode,
                    ..Step::contiguous(element::<T>(x), labels.clone(), classes)
                };
                device.run(&bound, &step)
            };
            let clean = run(x);
            for bad in [f64::NAN, f64::INFINITY] {
                for place in [0, classes / 2, classes - 1] {
                    let mut x = x.to_vec();
                    x[classes + place] = bad;
                    let dirty = run(&x);
                    let what = format!(
                        "{:?} {mode:?} C={classes} {bad} at {place}",
                        loss.objective()
                    );
                    assert!(dirty.summary.expect("no bad label").loss.is_nan(), "{what}");
                    assert!(dirty.row_losses[1].is_nan(), "{what}");
                    assert!(
                        widen(&dirty.gradient[classes..2 * classes])
                            .iter()
                            .all(|g| g.is_nan()),
                        "{what}"
                    );
                    assert!(!bad.is_nan() || !dirty.hits[1], "{what}");
                    for row in [0, 2] {
                        let span = row * classes..(row + 1) * classes;
                        assert_eq!(dirty.row_losses[row], clean.row_losses[row], "{what}");
                        assert_eq!(dirty.gradient[span.clone()], clean.gradient[span], "{what}");
                    }
                }
            }
        });
    }
    check::<f32>();
    check::<bf16>();
}

#[test]
fn minus_infinity_masks_a_class_and_costs_the_target_everything() {
    fn check<T: CudaElement + DeviceRepr + Default>() {
        each::<T>(|device, loss, mode, x| {
            let classes = loss.classes();
            let bound = device.bind(loss);
            let slope = slope(loss.table());
            let y = classes / 2;
            for place in [0, y, classes - 1] {
                let mut x = x[..classes].to_vec();
                x[place] = f64::NEG_INFINITY;
                let step = Step {
                    mode,
                    ..Step::contiguous(element::<T>(&x), vec![y as i64], classes)
                };
                let got = device.run(&bound, &step);
                let exact = reference::row(loss.table(), &x, y);
                let what = || format!("{:?} {mode:?} C={classes} at {place}", loss.objective());
                if place == y {
                    assert_eq!(got.row_losses[0], f32::INFINITY, "{}", what());
                } else {
                    assert_within(
                        got.row_losses[0].into(),
                        exact.loss,
                        loss_bound(exact.loss),
                        &what,
                    );
                    assert_eq!(got.gradient[place].to_f64(), 0.0, "{}", what());
                }
                for (got, exact) in widen(&got.gradient).into_iter().zip(exact.gradient) {
                    assert_within(got, exact, gradient_bound::<T>(exact, slope), &what);
                }
            }
        });
    }
    check::<f32>();
    check::<f16>();
}

#[test]
fn a_row_of_minus_infinities_is_nan() {
    each::<f32>(|device, loss, mode, _| {
        let classes = loss.classes();
        // Of logits that are all alike the largest is the lowest class's.
        for (label, hit) in [(0i64, true), (1, false)] {
            let step = Step {
                mode,
                ..Step::contiguous(vec![f32::NEG_INFINITY; classes], vec![label], classes)
            };
            let got = device.run(&device.bind(loss), &step);
            assert!(got.summary.expect("no bad label").loss.is_nan());
            assert!(got.gradient.iter().all(|g| g.is_nan()));
            assert_eq!(got.hits, [hit], "{mode:?} C = {classes}");
        }
    });
}

/// The lowest finite value is the usual mask, and times the scale it overflows.
#[test]
fn the_lowest_finite_value_masks_like_minus_infinity() {
    each::<f32>(|device, loss, mode, x| {
        let classes = loss.classes();
        let run = |mask: f64| {
            let mut x = x[..classes].to_vec();
            x[0] = mask;
            let step = Step {
                mode,
                ..Step::contiguous(element::<f32>(&x), vec![1i64], classes)
            };
            device.run(&device.bind(loss), &step)
        };
        let (lowest, infinite) = (run(f32::MIN.into()), run(f64::NEG_INFINITY));
        assert_eq!(lowest.row_losses, infinite.row_losses);
        assert_eq!(lowest.gradient, infinite.gradient);
    });
}

#[test]
fn one_class_has_zero_loss_and_gradient() {
    let device = device();
    for objective in objectives() {
        let loss = build(objective, &ClassCounts::new([7]).expect("valid"));
        for mode in [Mode::Fused, Mode::InPlace, Mode::Unfused] {
            let step = Step {
                mode,
                ..Step::contiguous(vec![0.25f32, -1.0], vec![0i64, 0], 1)
            };
            let got = device.run(&device.bind(&loss), &step);
            assert_eq!(got.summary.expect("valid").loss, 0.0, "{objective:?}");
            assert!(got.gradient.iter().all(|&g| g == 0.0), "{objective:?}");
        }
    }
}

#[test]
fn hits_are_the_argmax_with_ties_to_the_lowest_class() {
    let device = device();
    for (classes, packed) in CLASSES {
        device.packed.set(packed);
        let (x, counts) = rows::<f32>(classes);
        let loss = build(Objective::ala(), &counts);
        for (ties, y, expected) in [
            (vec![0, 2], 0, true),
            (vec![0, 2], 2, false),
            (vec![1], 1, true),
            (vec![1], 0, false),
        ] {
            let mut x = x[..classes].to_vec();
            for tie in ties {
                x[tie] = 1.5;
            }
            for mode in MODES {
                let step = Step {
                    mode,
                    ..Step::contiguous(element::<f32>(&x), vec![y], classes)
                };
                assert_eq!(device.run(&device.bind(&loss), &step).hits, [expected]);
            }
        }
    }
}

/// Gradients that lie half-way between two 16-bit numbers: of equal logits, so that all of them are
/// `gradient_scale` over the classes, of which every intermediate number is exact. Vectors, head
/// and tail, and a thread a row; by instruction from compute capability 8.0 on, by integers before.
fn half_way<T>(fraction_bits: i32)
where
    T: CudaElement + DeviceRepr + Default,
{
    let device = device();
    if device.soft.is_none() {
        eprintln!("quotients are exact in software only");
        return;
    }
    let classes = 16;
    let counts = ClassCounts::new(vec![1; classes]).expect("valid");
    let loss = Loss::builder(Objective::CrossEntropy, &counts)
        .scale(1.0)
        .reduction(Reduction::Sum)
        .build()
        .expect("valid");
    let ulp = 2f64.powi(-fraction_bits);
    for (packed, offset) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
        device.packed.set(packed);
        let bound = device.bind(&loss);
        // Half a unit above 1 goes down to 1, half a unit above 1 + 1 unit up.
        for (halves, units) in [(1, 0), (3, 2), (5, 2), (7, 4)] {
            let exact = 1.0 + f64::from(halves) * ulp / 2.0;
            let mut step =
                Step::contiguous(vec![T::from_f64(0.0); 3 * classes], vec![0i64; 3], classes);
            (step.offset, step.gradient_offset) = (offset, offset);
            step.gradient_scale = (exact * classes as f64) as f32;
            let got = device.run(&bound, &step);
            for (j, g) in got
                .gradient
                .iter()
                .enumerate()
                .filter(|(j, _)| j % classes != 0)
            {
                let right = 1.0 + f64::from(units) * ulp;
                assert_eq!(g.to_f64(), right, "{exact} at {j}, {packed}, {offset}");
            }
        }
    }
}

#[test]
fn gradients_half_way_are_rounded_to_even() {
    half_way::<bf16>(7);
    half_way::<f16>(10);
}
