//! Steps with what a training recipe adds: second labels, row weights, smoothed labels, a divisor,
//! predictions and running counts. Each in every tier, against the `f64` reference.

use ala_loss::cuda::{
    CudaElement, CudaLoss, Divisor, LabelType, Lambda, Options, Outputs, RawMixed, RawStep,
    Upstream,
};
use ala_loss::{ClassCounts, CpuElement, Error, Loss, Objective, Summary};
use cudarc::driver::{DevicePtr, DevicePtrMut, DeviceRepr, sys};
use half::{bf16, f16};
use softcuda::exec::Order;

use crate::device::{Device, Step, device};
use crate::problem::mixed::{IGNORED, Mixed, edges, exact, random, sum_of};
use crate::problem::{assert_within, counts, gradient_bound, loss_bound, objectives, slope, widen};
use crate::tiers::{Turns, every_tier};

const NO_CLASS: u32 = u32::MAX;

/// What a step left behind.
struct Got<T> {
    summary: Result<Summary, Error>,
    row_losses: Vec<f32>,
    gradient: Vec<T>,
    hits: Vec<bool>,
    predictions: Vec<u32>,
    class_counts: Vec<u64>,
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}

/// What is asked for beside the row losses.
#[derive(Clone, Copy, PartialEq)]
enum Asked {
    Everything,
    InPlace,
    /// The gradient alone.
    Gradient,
}

/// Every output poisoned before, and class counts at 5.
fn run<T>(device: &Device, bound: &CudaLoss, batch: &Mixed<T>, asked: Asked) -> Got<T>
where
    T: CudaElement + DeviceRepr + Default,
{
    let (rows, classes) = (batch.a.len(), bound.loss().classes());
    let mut x = device.upload(&batch.x);
    let (a, b) = (device.upload(&batch.a), device.upload(&batch.b));
    let lambda = device.upload(&narrow(&batch.lambda));
    let weights = device.upload(&narrow(&batch.weights));
    let mut gradient = device.upload(&vec![T::from_f64(77.0); rows * classes]);
    let mut row_losses = device.upload(&vec![77.0f32; rows]);
    let mut hits = device.upload(&vec![77u8; rows]);
    let mut predictions = device.upload(&vec![77u32; rows]);
    let mut class_counts = device.upload(&vec![5u64; 2 * classes]);
    let mut workspace = bound.workspace(&device.stream, rows).expect("a workspace");
    let options = Options::new()
        .mixed_with(&b, Lambda::PerRow(&lambda))
        .row_weights(&weights);
    let mut outputs = Outputs::new().row_losses(&mut row_losses);
    if asked != Asked::Gradient {
        outputs = outputs
            .hits(&mut hits)
            .predictions(&mut predictions)
            .class_counts(&mut class_counts);
    }
    let in_place = asked == Asked::InPlace;
    let stream = &device.stream;
    if in_place {
        bound.launch_in_place(stream, &mut x, &a, &options, outputs, &mut workspace)
    } else {
        let outputs = outputs.gradient(&mut gradient);
        bound.launch(stream, &x, &a, &options, outputs, &mut workspace)
    }
    .expect("a valid step");
    Got {
        summary: workspace.read(stream),
        row_losses: device.download(&row_losses),
        gradient: device.download(if in_place { &x } else { &gradient }),
        hits: device.download(&hits).iter().map(|&hit| hit == 1).collect(),
        predictions: device.download(&predictions),
        class_counts: device.download(&class_counts),
    }
}

/// By its definition.
fn prediction(x: &[f64]) -> u32 {
    if x.iter().any(|x| x.is_nan()) {
        return NO_CLASS;
    }
    let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    x.iter().position(|&x| x == largest).expect("it is there") as u32
}

/// Holds a step, of which every row counts, against the definition.
fn check<T>(device: &Device, bound: &CudaLoss, batch: &Mixed<T>, what: &str)
where
    T: CudaElement + CpuElement + DeviceRepr + Default,
{
    let loss = bound.loss();
    let classes = loss.classes();
    let (losses, gradient) = exact(loss, batch);
    let heaviest = batch.weights.iter().fold(1.0, |a: f64, &b| a.max(b));
    let slope = slope(loss.table()) * heaviest;
    let predictions: Vec<u32> = widen(&batch.x).chunks(classes).map(prediction).collect();
    let mut class_counts = vec![5u64; 2 * classes];
    for (&label, &prediction) in batch.a.iter().zip(&predictions) {
        if label != IGNORED {
            class_counts[label as usize] += 1;
            class_counts[classes + label as usize] += u64::from(prediction == label as u32);
        }
    }
    for asked in [Asked::Everything, Asked::InPlace] {
        let got = run(device, bound, batch, asked);
        let name = || {
            let type_name = std::any::type_name::<T>();
            format!("{what} {:?} {type_name} C={classes}", loss.objective())
        };
        for (row, (&got, &exact)) in got.row_losses.iter().zip(&losses).enumerate() {
            // Infinite where it leaves the type.
            let exact = f64::from(exact as f32);
            assert_within(got.into(), exact, loss_bound(exact), &|| {
                format!("{} row loss {row}", name())
            });
        }
        for (i, (g, &exact)) in widen(&got.gradient).into_iter().zip(&gradient).enumerate() {
            assert_within(g, exact, gradient_bound::<T>(exact, slope), &|| {
                format!("{} gradient {i}", name())
            });
        }
        assert_eq!(got.predictions, predictions, "{}", name());
        let hits = batch.a.iter().zip(&predictions);
        let hits: Vec<bool> = hits.map(|(&a, &p)| a == i64::from(p)).collect();
        assert_eq!(got.hits, hits, "{}", name());
        assert_eq!(got.class_counts, class_counts, "{}", name());
        let total = got.summary.expect("labels are classes");
        assert_eq!(total.counted_rows, batch.a.len(), "{}", name());
        let sum: f64 = got.row_losses.iter().map(|&loss| f64::from(loss)).sum();
        assert_within(total.loss, sum, 1e-12 * sum.abs(), &name);
        let weight: f64 = (0..batch.a.len()).map(|row| weight(loss, batch, row)).sum();
        assert_within(total.total_weight, weight, 1e-6 * weight, &name);
    }
    let [all, bare] = [Asked::Everything, Asked::Gradient].map(|asked| {
        let got = run(device, bound, batch, asked);
        let bits = |values: Vec<f64>| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        (bits(widen(&got.gradient)), got.class_counts)
    });
    assert_eq!(all.0, bare.0, "{what} with nothing else asked for");
    assert_eq!(bare.1, vec![5; 2 * classes]);
}

/// What a row counts in a mean.
fn weight<T>(loss: &Loss, batch: &Mixed<T>, row: usize) -> f64 {
    let lambda = batch.lambda[row];
    let parts = [(batch.a[row], lambda), (batch.b[row], 1.0 - lambda)];
    let of = |(label, part): (i64, f64)| match usize::try_from(label) {
        Ok(class) => part * loss.table().targets()[class].weight,
        Err(_) => 0.0,
    };
    batch.weights[row] * parts.into_iter().map(of).sum::<f64>()
}

fn forced(
    device: &Device,
    loss: &Loss,
    shape: ala_loss::cuda::instruments::LaunchShape,
) -> CudaLoss {
    let mut bound = device.bind(loss);
    bound.set_launch_shape(Some(shape));
    bound
}

/// A loss of each kind of map, of like weights and of unlike ones, with focal rows.
fn some_objectives(smoothing: f64) -> Vec<(Objective, bool)> {
    let mut all = vec![
        (Objective::ala(), false),
        (Objective::BalancedSoftmax, true),
        (objectives()[14], true), // a slope for each class
        (Objective::ClassBalanced { beta: 0.99 }, smoothing > 0.0),
        (objectives()[3], false),
    ];
    if smoothing == 0.0 {
        all.push((Objective::Focal { gamma: 2.0 }, false));
    }
    all
}

fn every_tier_mixes_and_smooths<T>(seed: u64)
where
    T: CudaElement + CpuElement + DeviceRepr + Default,
{
    let device = device();
    let mut rng = fastrand::Rng::with_seed(seed);
    for smoothing in [0.0, 0.125] {
        for (objective, per_class) in some_objectives(smoothing) {
            for tier in every_tier::<T>(&device, per_class, 32, Turns::Blocks) {
                let classes = tier.classes;
                let loss = sum_of(objective, &counts(&mut rng, classes), 30.0, smoothing);
                let bound = forced(&device, &loss, tier.shape);
                let mut batch = random::<T>(&mut rng, tier.rows, classes);
                // The same label twice, neighbours, and either one ignored.
                batch.b[0] = batch.a[0];
                batch.b[1] = (batch.a[1] + 1) % classes as i64;
                (batch.a[2], batch.lambda[2]) = (IGNORED, 0.5);
                (batch.b[3], batch.lambda[3]) = (IGNORED, 0.75);
                for row in 0..tier.rows {
                    // Either label may have more than all others together.
                    for (label, above) in [(batch.a[row], row % 2), (batch.b[row], row % 3)] {
                        if label != IGNORED && above > 0 {
                            let place = row * classes + label as usize;
                            batch.x[place] = T::from_f64(0.75 + above as f64 / 8.0);
                        }
                    }
                }
                check(
                    &device,
                    &bound,
                    &batch,
                    &format!("{:?} eps {smoothing}", tier.shape),
                );
            }
        }
    }
}

#[test]
fn every_tier_mixes_and_smooths_f32() {
    every_tier_mixes_and_smooths::<f32>(1);
}

#[test]
fn every_tier_mixes_and_smooths_f16() {
    every_tier_mixes_and_smooths::<f16>(2);
}

#[test]
fn every_tier_mixes_and_smooths_bf16() {
    every_tier_mixes_and_smooths::<bf16>(3);
}

/// The edges of the formulas at either label of a pair; rows that `f32` cannot solve are among
/// them.
fn edges_in_every_tier<T>(objectives: usize)
where
    T: CudaElement + CpuElement + DeviceRepr + Default,
{
    let device = device();
    let mut turn = 0;
    for smoothing in [0.0, 0.125] {
        for (objective, per_class) in some_objectives(smoothing).into_iter().take(objectives) {
            for tier in every_tier::<T>(&device, per_class, 32, Turns::Rows(19)) {
                let counts = counts(&mut fastrand::Rng::with_seed(3), tier.classes);
                let loss = sum_of(objective, &counts, 2.0, smoothing);
                let bound = forced(&device, &loss, tier.shape);
                // Of each pair that differs by its rows' weight alone one.
                let batches = edges::<T>(tier.classes);
                for pair in batches.chunks(2) {
                    turn += 1;
                    let (batch, what) = &pair[turn % 2];
                    let what = format!("{what} {:?} eps {smoothing}", tier.shape);
                    check(&device, &bound, batch, &what);
                }
            }
        }
    }
}

#[test]
fn edges_in_every_tier_f32() {
    edges_in_every_tier::<f32>(4);
}

#[test]
fn edges_in_every_tier_f16() {
    edges_in_every_tier::<f16>(2);
}

/// A batch of one label a row beside the same as a recipe: both labels the same, all of the row one
/// label's, weights of 1. The same bits.
#[test]
fn one_label_of_a_pair_gives_the_bits_of_a_plain_step() {
    let device = device();
    let mut rng = fastrand::Rng::with_seed(5);
    let objectives = [
        (Objective::ala(), false),
        (Objective::Focal { gamma: 0.5 }, false),
        (Objective::BalancedSoftmax, true),
        (Objective::ClassBalanced { beta: 0.99 }, false),
    ];
    for (objective, per_class) in objectives {
        for tier in every_tier::<f32>(&device, per_class, 32, Turns::Blocks) {
            let (rows, classes) = (tier.rows, tier.classes);
            let loss = sum_of(objective, &counts(&mut rng, classes), 30.0, 0.0);
            let bound = forced(&device, &loss, tier.shape);
            let mut batch = random::<f32>(&mut rng, rows, classes);
            batch.weights = vec![1.0; rows];
            let step = Step::contiguous(batch.x.clone(), batch.a.clone(), classes);
            let plain = device.run(&bound, &step);
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            let other = batch.b.clone();
            for (first, second, lambda) in [
                (&batch.a, &other, 1.0),
                (&other, &batch.a, 0.0),
                (&batch.a, &batch.a, 0.25),
            ] {
                let pair = Mixed {
                    a: first.clone(),
                    b: second.clone(),
                    lambda: vec![lambda; rows],
                    ..batch.clone()
                };
                let got = run(&device, &bound, &pair, Asked::Everything);
                let what = || format!("{objective:?} {:?} lambda {lambda}", tier.shape);
                assert_eq!(bits(&got.gradient), bits(&plain.gradient), "{}", what());
                assert_eq!(bits(&got.row_losses), bits(&plain.row_losses), "{}", what());
                let (got, plain) = (got.summary.expect("valid"), plain.summary.clone());
                assert_eq!(got.loss, plain.expect("valid").loss, "{}", what());
            }
        }
    }
}

/// A step on the device: gradient and summary.
fn step(
    device: &Device,
    bound: &CudaLoss,
    (x, labels): (&[f32], &[i64]),
    options: &Options<'_>,
) -> (Vec<f32>, Result<Summary, Error>) {
    let x_on_device = device.upload(x);
    let labels_on_device = device.upload(labels);
    let mut gradient = device.upload(&vec![77.0f32; x.len()]);
    let mut workspace = bound
        .workspace(&device.stream, labels.len())
        .expect("a workspace");
    let outputs = Outputs::new().gradient(&mut gradient);
    let stream = &device.stream;
    let (x, labels) = (&x_on_device, &labels_on_device);
    bound
        .launch(stream, x, labels, options, outputs, &mut workspace)
        .expect("a valid step");
    let summary = workspace.read(stream);
    (device.download(&gradient), summary)
}

/// Parts of a batch that divide by what the whole divides by have its gradient, and their losses
/// add up to its own; the whole divides as the CPU path does.
#[test]
fn divisors_and_parts_of_a_batch() {
    let device = device();
    let mut rng = fastrand::Rng::with_seed(8);
    let (rows, classes) = (37, 11);
    for ignores in [false, true] {
        for objective in [Objective::ala(), Objective::ClassBalanced { beta: 0.99 }] {
            let builder = Loss::builder(objective, &counts(&mut rng, classes));
            let builder = if ignores {
                builder.ignore_label(IGNORED)
            } else {
                builder
            };
            let loss = builder.build().expect("valid");
            let bound = device.bind(&loss);
            let mut batch = random::<f32>(&mut rng, rows, classes);
            if ignores {
                (batch.a[3], batch.b[3]) = (IGNORED, IGNORED);
                (batch.a[5], batch.lambda[5]) = (IGNORED, 1.0);
                batch.b[7] = IGNORED;
            }
            let (lambda, weights) = (narrow(&batch.lambda), narrow(&batch.weights));
            let (lambda_at, weights_at) = (device.upload(&lambda), device.upload(&weights));
            let second = device.upload(&batch.b);
            let first = device.upload(&batch.a);
            for by_rows in [false, true] {
                for recipe in [false, true] {
                    let cpu_divisor = match by_rows {
                        true => Divisor::Rows,
                        false => Divisor::Weights,
                    };
                    let mut on_cpu = ala_loss::Options::new().divisor(cpu_divisor);
                    let divisor = match by_rows {
                        true => Divisor::Rows,
                        false => Divisor::Weights,
                    };
                    let mut options = Options::new().divisor(divisor);
                    if recipe {
                        on_cpu = on_cpu
                            .mixed_with(&batch.b, Lambda::PerRow(&lambda))
                            .row_weights(&weights);
                        options = options
                            .mixed_with(&second, Lambda::PerRow(&lambda_at))
                            .row_weights(&weights_at);
                    }
                    let what = || format!("{objective:?} {ignores} rows {by_rows} {recipe}");
                    let cpu = loss
                        .evaluate_with(&batch.x, &batch.a, &on_cpu)
                        .expect("valid");
                    let (whole, summary) = step(&device, &bound, (&batch.x, &batch.a), &options);
                    let summary = summary.expect("valid");
                    let total = loss.divisor(&batch.a, &on_cpu).expect("valid");
                    assert_eq!(summary.counted_rows, cpu.counted_rows, "{}", what());
                    let bound_of = |exact: f64| 1e-5 * exact.abs() + 1e-6;
                    assert_within(summary.loss, cpu.loss, bound_of(cpu.loss), &what);
                    for (got, exact) in whole.iter().zip(&cpu.gradient) {
                        let exact = f64::from(*exact);
                        assert_within((*got).into(), exact, bound_of(exact), &what);
                    }

                    let mut given = device.upload(&[77.0f32]);
                    let mut workspace = bound.workspace(&device.stream, rows).expect("one");
                    let stream = &device.stream;
                    bound
                        .divisor(stream, &first, &options, &mut given, &mut workspace)
                        .expect("launches");
                    let told = f64::from(device.download(&given)[0]);
                    assert_within(told, total, 1e-6 * total, &what);
                    let mut by_address = device.upload(&[77.0f32]);
                    let at = |(address, _)| address;
                    let raw = RawStep {
                        divisor: match by_rows {
                            true => Divisor::Rows,
                            false => Divisor::Weights,
                        },
                        mixed: recipe.then(|| RawMixed {
                            labels: at(second.device_ptr(stream)),
                            label_type: LabelType::of::<i64>(),
                            lambda: Lambda::PerRow(at(lambda_at.device_ptr(stream))),
                        }),
                        row_weights: recipe.then(|| at(weights_at.device_ptr(stream))),
                        ..RawStep::new(rows, classes, 0, at(first.device_ptr(stream)))
                    };
                    let to = at(by_address.device_ptr_mut(stream));
                    let stream_of = stream.cu_stream();
                    // SAFETY: every buffer outlives the download below.
                    unsafe { bound.divisor_raw::<i64>(stream_of, &raw, to, &mut workspace) }
                        .expect("launches");
                    assert_eq!(f64::from(device.download(&by_address)[0]), told);
                    let (mut loss_of_parts, mut gradient) = (0.0, vec![]);
                    for part in [0..13, 13..37] {
                        let lambda = device.upload(&lambda[part.clone()]);
                        let weights = device.upload(&weights[part.clone()]);
                        let second = device.upload(&batch.b[part.clone()]);
                        let mut options = Options::new().divisor(Divisor::Given(&given));
                        if recipe {
                            options = options
                                .mixed_with(&second, Lambda::PerRow(&lambda))
                                .row_weights(&weights);
                        }
                        let x = &batch.x[part.start * classes..part.end * classes];
                        let (of_part, summary) =
                            step(&device, &bound, (x, &batch.a[part]), &options);
                        loss_of_parts += summary.expect("valid").loss;
                        gradient.extend(of_part);
                    }
                    assert_within(loss_of_parts, summary.loss, bound_of(summary.loss), &what);
                    for (got, exact) in gradient.iter().zip(&whole) {
                        let exact = f64::from(*exact);
                        assert_within((*got).into(), exact, 1e-6 * exact.abs() + 1e-9, &what);
                    }
                }
            }
        }
    }
}

/// No row counts, and 0 is given: loss 0, not 0/0.
#[test]
fn a_given_divisor_of_0_where_no_row_counts() {
    let device = device();
    let counts = ClassCounts::new([9, 3]).expect("valid");
    let builder = Loss::builder(Objective::ala(), &counts).ignore_label(IGNORED);
    let bound = device.bind(&builder.build().expect("valid"));
    let given = device.upload(&[0.0f32]);
    let options = Options::new().divisor(Divisor::Given(&given));
    let (gradient, summary) = step(&device, &bound, (&[0.5; 4], &[IGNORED; 2]), &options);
    assert_eq!(
        (gradient, summary.expect("valid").loss),
        (vec![0.0; 4], 0.0)
    );
}

/// What is wrong with a row is a row of NaN, and the CPU's error when it is read.
#[test]
fn bad_rows_are_told_as_the_cpu_tells_them() {
    let device = device();
    let (a, b) = (vec![1i64, 2, 3, 4], vec![5i64, 6, 7, 8]);
    let (lambda, weights) = (vec![0.5f32; 4], vec![1.0f32; 4]);
    type Change = fn(&mut Mixed<f32>);
    let cases: [(Change, &str); 6] = [
        (|batch| batch.a[2] = 40, "row 2 has label 40"),
        (|batch| batch.b[2] = -1, "row 2 has second label -1"),
        (|batch| batch.lambda[2] = 1.5, "lambda"),
        (|batch| batch.lambda[2] = f64::NAN, "lambda"),
        (|batch| batch.weights[2] = -1.0, "weight"),
        (|batch| batch.weights[2] = 1e30, "weight"),
    ];
    for tier in every_tier::<f32>(&device, false, 32, Turns::Rows(4)) {
        let classes = tier.classes;
        let counts = ClassCounts::new(vec![7; classes]).expect("valid");
        let loss = sum_of(Objective::ala(), &counts, 1.0, 0.0);
        let bound = forced(&device, &loss, tier.shape);
        for (change, said) in cases {
            let mut batch = Mixed {
                x: vec![0.25f32; 4 * classes],
                a: a.clone(),
                b: b.clone(),
                lambda: lambda.iter().copied().map(f64::from).collect(),
                weights: weights.iter().copied().map(f64::from).collect(),
            };
            let sound = run(&device, &bound, &batch, Asked::Everything);
            change(&mut batch);
            // Of more classes than that a label of 40 is one.
            if batch.a[2] == 40 {
                batch.a[2] = classes as i64;
            }
            let got = run(&device, &bound, &batch, Asked::Everything);
            let error = got.summary.expect_err("a bad row").to_string();
            let said = said.replace("40", &classes.to_string());
            assert!(error.contains(&said) && error.contains("row 2"), "{error}");
            assert!(got.row_losses[2].is_nan());
            assert_eq!(got.gradient[2 * classes..][..classes], vec![0.0; classes]);
            assert_eq!((got.hits[2], got.predictions[2]), (false, NO_CLASS));
            for row in [0, 1, 3] {
                assert_eq!(got.row_losses[row], sound.row_losses[row], "{said}");
            }
        }
    }
}

/// Blocks and warps in any order give the same bits, also of what they add up together.
#[test]
fn any_order_gives_the_same_bits() {
    let device = device();
    let Some(soft) = device.soft else {
        return; // a GPU has an order of its own
    };
    let mut rng = fastrand::Rng::with_seed(9);
    for (objective, per_class) in [
        (Objective::ala(), false),
        (Objective::BalancedSoftmax, true),
    ] {
        for tier in every_tier::<f32>(&device, per_class, 32, Turns::Blocks) {
            let loss = sum_of(objective, &counts(&mut rng, tier.classes), 30.0, 0.125);
            let bound = forced(&device, &loss, tier.shape);
            let batch = random::<f32>(&mut rng, tier.rows, tier.classes);
            let of = |order| {
                soft.set_order(order);
                let got = run(&device, &bound, &batch, Asked::Everything);
                let loss = got.summary.expect("valid").loss.to_bits();
                let bits: Vec<u32> = got.gradient.iter().map(|g| g.to_bits()).collect();
                (loss, bits, got.class_counts, got.predictions)
            };
            let forward = of(Order::Forward);
            for order in [Order::Reverse, Order::Interleaved] {
                assert_eq!(of(order), forward, "{:?} {order:?}", tier.shape);
            }
            soft.set_order(Order::Forward);
        }
    }
}

/// New class counts reach a bound loss as if it were bound anew, and a graph that was captured
/// before.
#[test]
fn new_counts_reach_a_bound_loss_and_its_graphs() {
    let device = device();
    // SAFETY: everything below uses one stream.
    unsafe { device.context.disable_event_tracking() };
    let stream = &device.stream;
    let mut rng = fastrand::Rng::with_seed(12);
    for (objective, smoothing) in [
        (Objective::ala(), 0.0),
        (Objective::BalancedSoftmax, 0.125),
        (Objective::ClassBalanced { beta: 0.99 }, 0.125),
    ] {
        let classes = 40;
        let [before, after] = [(); 2].map(|()| counts(&mut rng, classes));
        let loss = sum_of(objective, &before, 30.0, smoothing);
        let mut bound = device.bind(&loss);
        bound.load_recipes::<f32>().expect("kernels load");
        let batch = random::<f32>(&mut rng, 4, classes);
        let x = device.upload(&batch.x);
        let (a, b) = (device.upload(&batch.a), device.upload(&batch.b));
        let lambda = device.upload(&narrow(&batch.lambda));
        let mut gradient = device.upload(&vec![77.0f32; 4 * classes]);
        let mut workspace = bound.workspace(stream, 4).expect("a workspace");
        stream
            .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .expect("capture begins");
        let options = Options::new().mixed_with(&b, Lambda::PerRow(&lambda));
        let outputs = Outputs::new().gradient(&mut gradient);
        bound
            .launch(stream, &x, &a, &options, outputs, &mut workspace)
            .expect("capturable");
        let graph = stream
            .end_capture(
                sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH,
            )
            .expect("capture ends")
            .expect("a graph");
        let mut seen = vec![];
        for counts in [&before, &after, &before] {
            bound.set_counts(stream, counts).expect("as many classes");
            graph.launch().expect("replays");
            let loss = workspace.read(stream).expect("valid").loss;
            let replayed = device.download(&gradient);
            let anew = device.bind(&sum_of(objective, counts, 30.0, smoothing));
            let plain = Mixed {
                weights: vec![1.0; 4],
                ..batch.clone()
            };
            let right = run(&device, &anew, &plain, Asked::Everything);
            assert_eq!(replayed, right.gradient, "{objective:?}");
            assert_eq!(loss, right.summary.expect("valid").loss, "{objective:?}");
            let now = run(&device, &bound, &plain, Asked::Everything);
            assert_eq!(now.gradient, right.gradient, "{objective:?}");
            assert_eq!(bound.loss().counts(), Some(counts));
            seen.push(replayed);
        }
        assert!(seen[0] != seen[1] && seen[0] == seen[2], "{objective:?}");

        let fewer = ClassCounts::new([9, 3]).expect("valid");
        assert!(bound.set_counts(stream, &fewer).is_err());
        assert_eq!(bound.loss().counts(), Some(&before));
    }
    // SAFETY: as above.
    unsafe { device.context.enable_event_tracking() };
}

/// Online counts begin as all 1, say, and the weights that follow them as all alike.
#[test]
fn class_weights_cease_to_be_alike_and_become_so() {
    let device = device();
    let stream = &device.stream;
    let classes = 40;
    let mut rng = fastrand::Rng::with_seed(14);
    let alike = ClassCounts::new(vec![1; classes]).expect("valid");
    let unlike = counts(&mut rng, classes);
    for smoothing in [0.0, 0.125] {
        let of = |counts: &ClassCounts| {
            Loss::builder(Objective::ClassBalanced { beta: 0.99 }, counts)
                .label_smoothing(smoothing)
                .build()
                .expect("valid")
        };
        let batch = random::<f32>(&mut rng, 4, classes);
        let numbers = batch.x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let (x, a) = (device.upload(&batch.x), device.upload(&batch.a));
        let mut gradient = device.upload(&vec![77.0f32; 4 * classes]);
        for [first, second] in [[&alike, &unlike], [&unlike, &alike]] {
            let mut bound = device.bind(&of(first));
            let mut workspace = bound.workspace(stream, 4).expect("a workspace");
            for counts in [first, second, first] {
                bound.set_counts(stream, counts).expect("as many classes");
                let outputs = Outputs::new().gradient(&mut gradient);
                bound
                    .launch(stream, &x, &a, &Options::new(), outputs, &mut workspace)
                    .expect("launches");
                let loss = workspace.read(stream).expect("valid").loss;
                let right = of(counts).evaluate(&numbers, &batch.a).expect("valid");
                assert!((loss - right.loss).abs() <= 2e-6 * right.loss);
                for (got, right) in device.download(&gradient).into_iter().zip(right.gradient) {
                    assert!((f64::from(got) - right).abs() <= 1e-5 * right.abs() + 1e-7);
                }
            }
        }
    }
}

/// What is given by address comes to the same, whatever the labels' types.
#[test]
fn raw_steps_take_second_labels_of_any_type() {
    let device = device();
    let stream = &device.stream;
    let mut rng = fastrand::Rng::with_seed(13);
    let classes = 19;
    let loss = sum_of(Objective::ala(), &counts(&mut rng, classes), 30.0, 0.125);
    let bound = device.bind(&loss);
    let mut batch = random::<f32>(&mut rng, 5, classes);
    batch.lambda = vec![0.75; 5];
    let right = run(&device, &bound, &batch, Asked::Everything);
    let x = device.upload(&batch.x);
    let first: Vec<u8> = batch.a.iter().map(|&label| label as u8).collect();
    let second: Vec<u32> = batch.b.iter().map(|&label| label as u32).collect();
    let (a, b) = (device.upload(&first), device.upload(&second));
    let weights = device.upload(&narrow(&batch.weights));
    let mut gradient = device.upload(&vec![77.0f32; 5 * classes]);
    let mut predictions = device.upload(&[77u32; 5]);
    let mut class_counts = device.upload(&vec![5u64; 2 * classes]);
    let mut workspace = bound.workspace(stream, 5).expect("a workspace");
    stream.synchronize().expect("the buffers are there");
    let address = |(address, _)| address;
    let step = RawStep {
        gradient: Some(address(gradient.device_ptr_mut(stream))),
        row_weights: Some(address(weights.device_ptr(stream))),
        mixed: Some(RawMixed {
            labels: address(b.device_ptr(stream)),
            label_type: LabelType::of::<u32>(),
            lambda: Lambda::Scalar(0.75),
        }),
        predictions: Some(address(predictions.device_ptr_mut(stream))),
        class_counts: Some(address(class_counts.device_ptr_mut(stream))),
        ..RawStep::new(
            5,
            classes,
            address(x.device_ptr(stream)),
            address(a.device_ptr(stream)),
        )
    };
    // SAFETY: every buffer outlives the read below.
    unsafe { bound.launch_raw::<f32, u8>(stream.cu_stream(), &step, &mut workspace) }
        .expect("launches");
    let summary = workspace.read(stream).expect("valid");
    assert_eq!(summary.loss, right.summary.expect("valid").loss);
    assert_eq!(device.download(&gradient), right.gradient);
    assert_eq!(device.download(&predictions), right.predictions);
    assert_eq!(device.download(&class_counts), right.class_counts);
}

/// Nothing is launched for what does not fit, and nothing given is ignored.
#[test]
fn what_does_not_fit_is_refused() {
    let device = device();
    let stream = &device.stream;
    let counts = ClassCounts::new([9, 3]).expect("valid");
    let sum = sum_of(Objective::ala(), &counts, 1.0, 0.0);
    let bound = device.bind(&sum);
    let (x, a) = (device.upload(&[0.5f32; 4]), device.upload(&[0i64, 1]));
    let (three, one) = (device.upload(&[0i64; 3]), device.upload(&[1.0f32]));
    let both = device.upload(&[0i64; 2]);
    let mut workspace = bound.workspace(stream, 2).expect("a workspace");
    let mut refused = |options: Options<'_>, said: &str| {
        let outputs = Outputs::new();
        let result = bound.launch(stream, &x, &a, &options, outputs, &mut workspace);
        let error = result.expect_err(said).to_string();
        assert!(error.contains(said), "{error}");
    };
    let half = Lambda::Scalar(0.5);
    refused(
        Options::new().mixed_with(&three, half),
        "second labels has 3 entries",
    );
    refused(
        Options::new().mixed_with(&both, Lambda::PerRow(&one)),
        "lambda has 1 entries",
    );
    refused(
        Options::new().mixed_with(&both, Lambda::Scalar(1.5)),
        "lambda is 1.5",
    );
    refused(
        Options::new().row_weights(&one),
        "row weights has 1 entries",
    );
    refused(
        Options::new().divisor(Divisor::Rows),
        "only Reduction::Mean divides",
    );
    refused(
        Options::new().divisor(Divisor::Given(&one)),
        "only Reduction::Mean divides",
    );
    let mut short = device.upload(&[0u64; 3]);
    let outputs = Outputs::new().class_counts(&mut short);
    let result = bound.launch(stream, &x, &a, &Options::new(), outputs, &mut workspace);
    let error = result.expect_err("short").to_string();
    assert!(
        error.contains("class counts has 3 entries: expected 4"),
        "{error}"
    );
    let mut short = device.upload(&[0u32; 3]);
    let outputs = Outputs::new().predictions(&mut short);
    let result = bound.launch(stream, &x, &a, &Options::new(), outputs, &mut workspace);
    assert!(matches!(
        result,
        Err(Error::Length {
            name: "predictions",
            ..
        })
    ));
}

/// A step that is skipped adds to no counts.
#[test]
fn a_skipped_step_counts_nothing() {
    let device = device();
    let stream = &device.stream;
    let mut rng = fastrand::Rng::with_seed(15);
    for tier in every_tier::<f32>(&device, false, 32, Turns::Rows(3)) {
        let loss = sum_of(Objective::ala(), &counts(&mut rng, tier.classes), 30.0, 0.0);
        let bound = forced(&device, &loss, tier.shape);
        let batch = random::<f32>(&mut rng, 3, tier.classes);
        let (x, a) = (device.upload(&batch.x), device.upload(&batch.a));
        let mut class_counts = device.upload(&vec![5u64; 2 * tier.classes]);
        let mut predictions = device.upload(&[77u32; 3]);
        let mut workspace = bound.workspace(stream, 3).expect("a workspace");
        let mut step = |upstream: f32| {
            let upstream = device.upload(&[upstream]);
            let options = Options::new()
                .upstream(Upstream::Scalar(&upstream))
                .skip_if_upstream(2.0);
            let outputs = Outputs::new()
                .class_counts(&mut class_counts)
                .predictions(&mut predictions);
            bound
                .launch(stream, &x, &a, &options, outputs, &mut workspace)
                .expect("a valid step");
            let total: u64 = device.download(&class_counts)[..tier.classes].iter().sum();
            (
                total - 5 * tier.classes as u64,
                device.download(&predictions),
            )
        };
        assert_eq!(step(2.0), (0, vec![77; 3]), "{:?}", tier.shape);
        let (counted, predictions) = step(1.0);
        assert_eq!(counted, 3, "{:?}", tier.shape);
        let right: Vec<u32> = widen(&batch.x)
            .chunks(tier.classes)
            .map(prediction)
            .collect();
        assert_eq!(predictions, right, "{:?}", tier.shape);
    }
}
