//! Rows whose logits are very large, masked or alike, in every tier, against values that mpmath
//! gives, among rows that are neither and must not notice; and losses of very different size.

use ala_loss::cuda::{CudaElement, CudaLoss};
use ala_loss::{ClassCounts, Element, Loss, Objective, Reduction, reference};
use cudarc::driver::DeviceRepr;
use half::{bf16, f16};
use softcuda::exec::Order;

use crate::device::{Device, Mode, Step, device};
use crate::problem::extreme::{Case, cases};
use crate::problem::{self, assert_within, gradient_bound, loss_bound, slope};

/// Which rows of a batch are the case's; the others are cosines.
const EXTREME: [bool; 5] = [true, false, false, true, false];

/// A loss that leaves f32 is infinite there.
fn as_f32(loss: f64) -> f64 {
    f64::from(loss as f32)
}

fn is_hit(logits: &[f64], label: usize) -> bool {
    let best = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    logits.iter().position(|&x| x == best) == Some(label)
}

fn check<T>(device: &Device, bound: &CudaLoss, loss: &Loss, case: &Case, row: &[T], label: usize)
where
    T: CudaElement + DeviceRepr + Default,
{
    let classes = row.len();
    let mut rng = fastrand::Rng::with_seed(95);
    let cosines: Vec<T> = problem::logits(&mut rng, classes, 1.0);
    let rows = EXTREME.map(|extreme| {
        if extreme {
            row.to_vec()
        } else {
            cosines.clone()
        }
    });
    let wide = problem::widen(&cosines);
    let usual = reference::row(loss.table(), &wide, label);
    let bound_slope = slope(loss.table());
    for mode in [Mode::Fused, Mode::InPlace] {
        let step = Step {
            mode,
            ..Step::contiguous(rows.concat(), vec![label as i64; rows.len()], classes)
        };
        let got = device.run(bound, &step);
        let what = || {
            format!(
                "{mode:?}, C = {classes}, {}: {case:?}",
                std::any::type_name::<T>()
            )
        };
        let sum: f64 = EXTREME
            .iter()
            .map(|&e| if e { case.loss } else { usual.loss })
            .sum();
        let summary = got.summary.clone().expect("no bad label");
        if as_f32(case.loss).is_finite() {
            assert_within(summary.loss, sum, loss_bound(sum), &what);
        } else {
            assert_eq!(summary.loss, f64::INFINITY, "{}", what());
        }
        for (i, extreme) in EXTREME.into_iter().enumerate() {
            let gradient = problem::widen(&got.gradient[i * classes..][..classes]);
            if !extreme {
                assert_within(
                    got.row_losses[i].into(),
                    usual.loss,
                    loss_bound(usual.loss),
                    &what,
                );
                for (got, exact) in gradient.iter().zip(&usual.gradient) {
                    assert_within(
                        *got,
                        *exact,
                        gradient_bound::<T>(*exact, bound_slope),
                        &what,
                    );
                }
                continue;
            }
            let exact = as_f32(case.loss);
            assert_within(got.row_losses[i].into(), exact, loss_bound(exact), &what);
            assert_eq!(
                got.hits[i],
                is_hit(&problem::widen(row), label),
                "{}",
                what()
            );
            for (place, exact) in case.places(classes).zip(&case.gradient) {
                let bound = gradient_bound::<T>(*exact, bound_slope);
                assert_within(gradient[place], *exact, bound, &what);
            }
            let there = gradient.iter().filter(|&&g| g != 0.0).count();
            assert!(there <= case.gradient.len(), "{}", what());
        }
    }
}

fn every_kernel<T: CudaElement + DeviceRepr + Default>(name: &str, classes: &[usize]) {
    let device = device();
    for case in cases() {
        if !case.types.iter().any(|held| held == name) {
            continue;
        }
        for &classes in classes {
            let (loss, row, label) = case.spread::<T>(classes);
            let bound = device.bind(&loss);
            check(&device, &bound, &loss, &case, &row, label);
        }
    }
}

/// One number of classes for each kind of tier, by the crate's own choice.
#[test]
fn extreme_rows_in_f32() {
    every_kernel::<f32>("f32", &[3, 40, 300, 2500, 9001]);
}

#[test]
fn extreme_rows_in_16_bits() {
    every_kernel::<f16>("f16", &[3, 24, 100, 700, 9001]);
    every_kernel::<bf16>("bf16", &[3, 24, 100, 700, 9001]);
}

/// Blocks that share a row, and rows that no shared memory holds.
#[test]
fn extreme_rows_that_are_long() {
    let device = device();
    for case in cases().iter().step_by(3) {
        for classes in [60_000, 470_000] {
            let (loss, row, label) = case.spread::<f32>(classes);
            let bound = device.bind(&loss);
            check(&device, &bound, &loss, case, &row, label);
        }
    }
}

/// The same row in every tier that takes it.
#[cfg(feature = "instruments")]
#[test]
fn extreme_rows_in_every_tier() {
    let device = device();
    for case in cases() {
        let (loss, row, label) = case.spread::<f32>(16);
        let mut bound = device.bind(&loss);
        let mut shapes = bound
            .launch_shapes::<f32>(EXTREME.len())
            .expect("kernels load");
        shapes.dedup_by_key(|shape| shape.tier);
        assert!(shapes.len() >= 10, "{shapes:?}");
        for shape in shapes {
            bound.set_launch_shape(Some(shape));
            check(&device, &bound, &loss, &case, &row, label);
        }
    }
}

/// By hand: a row of weight 0 counts for nothing, even where its loss is infinite; a NaN in it
/// shows.
#[test]
fn a_row_of_weight_0_counts_for_nothing() {
    fn weightless<T: CudaElement + DeviceRepr + Default>(classes: &[usize]) {
        let device = device();
        for &classes in classes {
            let counts = ClassCounts::new(vec![1; classes]).expect("counts");
            let mut weights = vec![0.0; classes];
            weights[2] = 1.0;
            for reduction in [Reduction::Mean, Reduction::Sum] {
                let loss = Loss::builder(Objective::CrossEntropy, &counts)
                    .scale(1.0)
                    .class_weights(&weights[..])
                    .reduction(reduction)
                    .build()
                    .expect("valid");
                let bound = device.bind(&loss);
                // Classes beyond the third are masked.
                let row = |first: [f64; 3]| {
                    let mut row = vec![T::from_f64(f64::NEG_INFINITY); classes];
                    row.iter_mut()
                        .zip(first)
                        .for_each(|(x, first)| *x = T::from_f64(first));
                    row
                };
                let counted = [0.5, 0.25, 0.125];
                let right = (0.375f64.exp() + 0.125f64.exp() + 1.0).ln();
                for mode in [Mode::Fused, Mode::InPlace, Mode::Unfused] {
                    let rows = [row([f64::NEG_INFINITY, 2.0, 3.0]), row(counted)].concat();
                    let step = Step {
                        mode,
                        ..Step::contiguous(rows, vec![0i64, 2], classes)
                    };
                    let got = device.run(&bound, &step);
                    let what = || format!("{mode:?} {reduction:?} C = {classes}");
                    let summary = got.summary.expect("no bad label");
                    assert_within(summary.loss, right, loss_bound(right), &what);
                    assert_eq!(got.row_losses[0], 0.0, "{}", what());
                    let unmoved = got.gradient[..classes].iter().all(|g| g.to_f64() == 0.0);
                    assert!(unmoved, "{}", what());

                    let rows = [row([f64::NAN, 2.0, 3.0]), row(counted)].concat();
                    let step = Step {
                        mode,
                        ..Step::contiguous(rows, vec![1i64, 2], classes)
                    };
                    let got = device.run(&bound, &step);
                    assert!(got.row_losses[0].is_nan(), "{}", what());
                    assert!(got.summary.expect("no bad label").loss.is_nan());
                }
            }
        }
    }
    weightless::<f32>(&[3, 40, 100, 300, 2500, 9001, 60_000, 470_000]);
    weightless::<f16>(&[3, 24, 100, 700, 9001]);
    weightless::<bf16>(&[3, 24, 100, 700, 9001]);
}

/// Masks that fill whole vectors, lanes and blocks' parts.
#[test]
fn a_finite_mask_is_a_mask() {
    fn masked<T: CudaElement + DeviceRepr + Default>(device: &Device, mask: f64) {
        let mut rng = fastrand::Rng::with_seed(96);
        for classes in [20, 90, 700, 3000, 60_000] {
            let counts = problem::counts(&mut rng, classes);
            for objective in [
                Objective::ala(),
                Objective::LogitAdjustment { tau: 1.0 },
                Objective::LogitAdjustment { tau: 40.0 },
            ] {
                let loss = Loss::builder(objective, &counts).build().expect("valid");
                let mut row: Vec<T> = problem::logits(&mut rng, classes, 1.0);
                row[..2 * classes / 5].fill(T::from_f64(mask));
                let label = classes - 2;
                let exact = reference::row(loss.table(), &problem::widen(&row), label);
                let step = Step::contiguous(row, vec![label as i64], classes);
                let got = device.run(&device.bind(&loss), &step);
                let what = || format!("{objective:?} {mask} C = {classes}");
                let summary = got.summary.expect("no bad label");
                assert_within(summary.loss, exact.loss, loss_bound(exact.loss), &what);
                let slope = slope(loss.table());
                for (got, exact) in got.gradient.iter().zip(&exact.gradient) {
                    let bound = gradient_bound::<T>(*exact, slope);
                    assert_within(Element::to_f64(*got), *exact, bound, &what);
                }
            }
        }
    }
    let device = device();
    masked::<f32>(&device, -1e9);
    masked::<f32>(&device, f32::MIN.into());
    masked::<f16>(&device, -65504.0);
    masked::<bf16>(&device, -3.389_531_389_251_535_5e38);
}

/// Where blocks share rows they take them as they come; the losses are added in one order all the
/// same.
#[test]
fn losses_of_shared_rows_are_added_in_one_order() {
    let device = device();
    let mut rng = fastrand::Rng::with_seed(97);
    let (rows, classes) = (40, 60_000);
    let loss = Loss::builder(Objective::CrossEntropy, &problem::counts(&mut rng, classes))
        .reduction(Reduction::Sum)
        .build()
        .expect("valid");
    let mut logits = problem::logits::<f32>(&mut rng, rows * classes, 1.0);
    let labels = problem::labels(&mut rng, rows, classes);
    // From 1e-13 to 1e5: what f64 holds of a sum depends on the order of its terms.
    for (row, logits) in logits.chunks_mut(classes).enumerate() {
        let (size, target) = [
            (1.0f32, 40.0),
            (1.0, 31.0),
            (1.0, 0.1),
            (3e3, 0.1),
            (3e5, 0.1),
        ][row % 5];
        logits.iter_mut().for_each(|x| *x *= size);
        logits[labels[row] as usize] = target;
    }
    let step = Step::contiguous(logits, labels, classes);
    let bound = device.bind(&loss);
    let sums = [Order::Forward, Order::Reverse, Order::Interleaved].map(|order| {
        if let Some(soft) = device.soft {
            soft.set_order(order);
        }
        let got = device.run(&bound, &step);
        got.summary.expect("no bad label").loss.to_bits()
    });
    if let Some(soft) = device.soft {
        soft.set_order(Order::Forward);
    }
    assert_eq!([sums[0]; 3], sums);
}
