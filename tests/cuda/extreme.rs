//! Rows of which a part is masked by finite numbers, and losses of very different size.

use ala_loss::cuda::CudaElement;
use ala_loss::{Element, Loss, Objective, Reduction, reference};
use cudarc::driver::DeviceRepr;
use half::{bf16, f16};
use softcuda::exec::Order;

use crate::device::{Device, Step, device};
use crate::problem::{self, assert_within, gradient_bound, loss_bound, slope};

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

/// Where blocks share rows they take them as they come; the losses are added in one order all the same.
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
