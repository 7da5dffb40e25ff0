//! Every kernel against the `f64` reference and the CPU path, within the stated bounds, over every
//! tier's borders.

use ala_loss::cuda::instruments::TIERS;
use ala_loss::cuda::{self, CudaElement, CudaLabel, CudaLoss, Outputs};
use ala_loss::{
    ClassCounts, CpuElement, Error, Loss, Objective, Options, Real, Reduction, Upstream, reference,
};
use cudarc::driver::DeviceRepr;
use half::{bf16, f16};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use softcuda::exec::Order;

use crate::device::{Device, Got, Mode, Step, device};
use crate::problem::{
    assert_within, counts, gradient_bound, labels, logits, loss_bound, objectives, slope, widen,
};

const CLASSES: [usize; 22] = [
    1, 2, 3, 31, 32, 33, 64, 127, 128, 129, 365, 1000, 1001, 1023, 1024, 1025, 2047, 4099, 8142,
    16385, 50257, 100003,
];

/// From here on only a few objectives run, so that the suite stays in minutes.
const LARGE: usize = 1500;

fn some_objectives(classes: usize) -> Vec<Objective> {
    let all = objectives();
    if classes < LARGE {
        return all;
    }
    vec![
        all[0],
        all[4],
        Objective::Focal { gamma: 2.0 },
        Objective::BalancedSoftmax,
    ]
}

/// Holds one step against the reference on the same rounded inputs, and against the CPU path.
fn assert_step<T, L>(device: &Device, loss: &Loss, step: &Step<T, L>) -> Got<T>
where
    T: CudaElement + CpuElement + DeviceRepr + Default,
    L: CudaLabel + DeviceRepr + Default,
{
    let classes = loss.classes();
    let contiguous = (step.stride, step.gradient_stride) == (classes, classes);
    if contiguous && classes <= MOST_PACKED && step.mode != Mode::Unfused {
        device.packed.set(true);
        assert_bound(device, &device.bind(loss), step);
        device.packed.set(false);
    }
    assert_bound(device, &device.bind(loss), step)
}

/// Classes that the packed tier takes, at most.
const MOST_PACKED: usize = TIERS[0].uniform as usize;

/// The same for a loss that is bound already.
pub fn assert_bound<T, L>(device: &Device, bound: &CudaLoss, step: &Step<T, L>) -> Got<T>
where
    T: CudaElement + CpuElement + DeviceRepr + Default,
    L: CudaLabel + DeviceRepr + Default,
{
    let loss = bound.loss();
    let (rows, classes) = (step.labels.len(), loss.classes());
    let got = device.run(bound, step);
    let what = || {
        format!(
            "{:?} {} N={rows} C={classes} {:?} stride {} offset {}",
            loss.objective(),
            std::any::type_name::<T>(),
            step.mode,
            step.stride,
            step.offset,
        )
    };
    let dense: Vec<T> = (0..rows)
        .flat_map(|row| step.logits[row * step.stride..][..classes].iter().copied())
        .collect();
    let factors: Vec<f64> = (0..rows)
        .map(|row| {
            let upstream = match &step.upstream {
                None => 1.0,
                Some(values) if step.per_row => values[row],
                Some(values) => values[0],
            };
            f64::from(upstream) * f64::from(step.gradient_scale)
        })
        .collect();
    let exact = reference::batch(loss, &widen(&dense), &step.labels, &factors);
    let upstream: Vec<T::Real> = factors.iter().map(|&f| T::Real::from_f64(f)).collect();
    let options = match (loss.reduction(), factors.first()) {
        (Reduction::None, _) => Options::new().upstream(Upstream::PerRow(&upstream)),
        (_, Some(&factor)) => Options::new().upstream(Upstream::Scalar(factor)),
        (_, None) => Options::new(),
    };
    let cpu = loss
        .evaluate_with(&dense, &step.labels, &options.hits())
        .unwrap_or_else(|error| panic!("{}: {error}", what()));

    let summary = got
        .summary
        .clone()
        .unwrap_or_else(|error| panic!("{}: {error}", what()));
    assert_within(summary.loss, exact.loss, loss_bound(exact.loss), &|| {
        what() + " loss"
    });
    assert_within(summary.loss, cpu.loss, loss_bound(cpu.loss), &|| {
        what() + " loss, CPU"
    });
    assert_eq!(summary.counted_rows, cpu.counted_rows, "{}", what());
    for row in 0..rows {
        let exact = exact.row_losses[row];
        assert_within(
            got.row_losses[row].into(),
            exact,
            loss_bound(exact),
            &|| format!("{} row loss {row}", what()),
        );
    }
    assert_eq!(Some(&got.hits), cpu.hits.as_ref(), "{} hits", what());
    let largest = factors.iter().fold(0.0, |most: f64, f| most.max(f.abs()));
    // A weighted mean divides by the counted weights; dividing the bound too keeps it as tight.
    let divisor = match loss.reduction() {
        Reduction::Mean if summary.total_weight > 0.0 => summary.total_weight,
        _ => 1.0,
    };
    let slope = slope(loss.table()) * largest / divisor;
    for (i, (got, exact)) in widen(&got.gradient)
        .into_iter()
        .zip(&exact.gradient)
        .enumerate()
    {
        let bound = gradient_bound::<T>(*exact, slope);
        assert_within(got, *exact, bound, &|| format!("{} gradient {i}", what()));
        let cpu = ala_loss::Element::to_f64(cpu.gradient[i]);
        // Both are rounded: half an ulp each.
        assert_within(got, cpu, 2.0 * bound, &|| {
            format!("{} gradient {i}, CPU", what())
        });
    }
    got
}

fn random<T: CudaElement + CpuElement>(
    rng: &mut fastrand::Rng,
    rows: usize,
    classes: usize,
    bound: f64,
) -> (Vec<T>, Vec<i64>) {
    (
        logits(rng, rows * classes, bound),
        labels(rng, rows, classes),
    )
}

fn every_class_count<T: CudaElement + CpuElement + DeviceRepr + Default>(
    mode: Mode,
    seed: u64,
    most: usize,
) {
    let device = device();
    let mut rng = fastrand::Rng::with_seed(seed);
    for classes in CLASSES.into_iter().filter(|&classes| classes <= most) {
        let counts = counts(&mut rng, classes);
        for (i, objective) in some_objectives(classes).into_iter().enumerate() {
            let reduction = [Reduction::Mean, Reduction::Sum, Reduction::None][i % 3];
            let loss = Loss::builder(objective, &counts)
                .scale([30.0, 64.0, 16.0, 1.0][i % 4])
                .reduction(reduction)
                .build()
                .expect("valid");
            let rows = if classes < LARGE { 3 } else { 2 };
            let (x, y) = random::<T>(&mut rng, rows, classes, 1.0);
            let step = Step {
                mode,
                ..Step::contiguous(x, y, classes)
            };
            assert_step(&device, &loss, &step);
        }
    }
}

#[test]
fn f32_at_every_class_count() {
    every_class_count::<f32>(Mode::Fused, 41, usize::MAX);
}

#[test]
fn f16_at_every_class_count() {
    every_class_count::<f16>(Mode::Fused, 42, usize::MAX);
}

#[test]
fn bf16_at_every_class_count() {
    every_class_count::<bf16>(Mode::Fused, 43, usize::MAX);
}

/// C - 1, C and C + 1 at the limit of each tier, for both kinds of map, contiguous and not, aligned
/// and not.
#[test]
fn every_tier_at_its_borders() {
    fn check<T: CudaElement + CpuElement + DeviceRepr + Default>(device: &Device, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        for objective in [Objective::ala(), Objective::LogitAdjustment { tau: 1.0 }] {
            let per_class = !matches!(objective, Objective::Ala(_));
            let limits = TIERS.iter().map(|tier| tier.most_classes(per_class));
            // 0 is a tier that has no such kernel.
            for limit in limits.filter(|&limit| limit > 1 && limit < 100_000) {
                for classes in [limit - 1, limit, limit + 1] {
                    let classes = classes as usize;
                    let counts = counts(&mut rng, classes);
                    let loss = Loss::builder(objective, &counts).build().expect("valid");
                    for (pad, offset) in [(0, 0), (3, 1)] {
                        let stride = classes + pad;
                        let (x, y) = random::<T>(&mut rng, 2, stride, 1.0);
                        let step = Step {
                            labels: y.into_iter().map(|y| y % classes as i64).collect(),
                            stride,
                            offset,
                            gradient_stride: stride,
                            gradient_offset: offset,
                            ..Step::contiguous(x, Vec::<i64>::new(), classes)
                        };
                        assert_step(device, &loss, &step);
                    }
                }
            }
        }
    }
    let device = device();
    check::<f32>(&device, 58);
    check::<f16>(&device, 59);
    check::<bf16>(&device, 60);
}

#[test]
fn in_place_at_every_class_count() {
    every_class_count::<f32>(Mode::InPlace, 44, 10_000);
    every_class_count::<bf16>(Mode::InPlace, 45, 5_000);
}

#[test]
fn loss_without_gradient_at_every_class_count() {
    every_class_count::<f32>(Mode::LossOnly, 46, 10_000);
}

#[test]
fn the_unfused_baseline_at_every_class_count() {
    every_class_count::<f32>(Mode::Unfused, 47, 2_100);
    every_class_count::<f16>(Mode::Unfused, 48, 1_100);
    every_class_count::<bf16>(Mode::Unfused, 49, 400);
}

#[test]
fn any_number_of_rows() {
    let device = device();
    let mut rng = fastrand::Rng::with_seed(50);
    for rows in [0, 1, 3, 17, 2000] {
        for classes in [10, 365] {
            let counts = counts(&mut rng, classes);
            for objective in [Objective::ala(), Objective::LogitAdjustment { tau: 1.0 }] {
                for reduction in [Reduction::Mean, Reduction::None] {
                    let loss = Loss::builder(objective, &counts)
                        .reduction(reduction)
                        .build()
                        .expect("valid");
                    let (x, y) = random::<f32>(&mut rng, rows, classes, 1.0);
                    assert_step(&device, &loss, &Step::contiguous(x, y, classes));
                }
            }
        }
    }
}

#[test]
fn every_label_type() {
    fn check<L: CudaLabel + DeviceRepr + Default>(device: &Device, narrow: impl Fn(i64) -> L) {
        let mut rng = fastrand::Rng::with_seed(51);
        let counts = counts(&mut rng, 200);
        let (x, y) = random::<f32>(&mut rng, 17, 200, 1.0);
        let y = y.into_iter().map(narrow).collect();
        let loss = Loss::builder(Objective::ala(), &counts)
            .build()
            .expect("valid");
        assert_step(device, &loss, &Step::contiguous(x, y, 200));
    }
    let device = device();
    check::<u8>(&device, |y| y as u8);
    check::<i32>(&device, |y| y as i32);
    check::<u32>(&device, |y| y as u32);
    check::<i64>(&device, |y| y);
}

/// Widened without its sign a negative label would be another.
#[test]
fn every_label_type_keeps_its_sign() {
    fn check<L: CudaLabel + DeviceRepr + Default>(device: &Device, labels: [L; 3]) {
        let counts = ClassCounts::new([9, 3]).expect("valid");
        let builder = Loss::builder(Objective::CrossEntropy, &counts).ignore_label(-7);
        let loss = device.bind(&builder.build().expect("valid"));
        let stream = &device.stream;
        let x = device.upload(&[0.5f32; 6]);
        let y = device.upload(&labels);
        let options = cuda::Options::new();
        let mut workspace = loss.workspace(stream, 3).expect("a workspace");
        loss.launch::<f32, L>(stream, &x, &y, &options, Outputs::new(), &mut workspace)
            .expect("launches");
        assert!(
            matches!(workspace.read(stream), Err(Error::Label { row: 2, label, .. }) if label == (-3).into())
        );
    }
    let device = device();
    check::<i32>(&device, [0, -7, -3]);
    check::<i64>(&device, [0, -7, -3]);
}

#[test]
fn raw_logits_and_a_large_common_offset() {
    let device = device();
    let mut rng = fastrand::Rng::with_seed(52);
    for classes in [7, 129, 1025, 5000] {
        let counts = counts(&mut rng, classes);
        for objective in some_objectives(classes) {
            let loss = Loss::builder(objective, &counts)
                .scale(1.0)
                .build()
                .expect("valid");
            let (x, y) = random::<f32>(&mut rng, 3, classes, 50.0);
            assert_step(&device, &loss, &Step::contiguous(x, y.clone(), classes));
            let x = logits::<f32>(&mut rng, 3 * classes, 5.0)
                .iter()
                .map(|x| x + 1e4)
                .collect();
            assert_step(&device, &loss, &Step::contiguous(x, y, classes));
        }
    }
}

#[test]
fn any_stride_and_alignment() {
    fn check<T: CudaElement + CpuElement + DeviceRepr + Default>(device: &Device) {
        let mut rng = fastrand::Rng::with_seed(53);
        for classes in [5, 33, 365, 1030] {
            let counts = counts(&mut rng, classes);
            for objective in [Objective::ala(), Objective::BalancedSoftmax] {
                let loss = Loss::builder(objective, &counts).build().expect("valid");
                for (i, offset) in [0, 1, 2, 3, 5, 8].into_iter().enumerate() {
                    let stride = classes + [0, 1, 3, 16, 2, 7][i];
                    let (x, y) = random::<T>(&mut rng, 3, stride, 1.0);
                    let step = Step {
                        labels: y.into_iter().map(|y| y % classes as i64).collect(),
                        stride,
                        offset,
                        gradient_stride: classes + [3, 0, 1, 5, 8, 2][i],
                        gradient_offset: [7, 0, 3, 2, 1, 4][i],
                        ..Step::contiguous(x, Vec::new(), classes)
                    };
                    assert_step(device, &loss, &step);
                    let step = Step {
                        mode: Mode::InPlace,
                        ..step
                    };
                    assert_step(device, &loss, &step);
                }
            }
        }
    }
    let device = device();
    check::<f32>(&device);
    check::<f16>(&device);
    check::<bf16>(&device);
}

#[test]
fn upstream_gradients_and_the_gradient_scale() {
    let device = device();
    let mut rng = fastrand::Rng::with_seed(54);
    for classes in [10, 1025, 4099] {
        let counts = counts(&mut rng, classes);
        for (reduction, per_row) in [
            (Reduction::Mean, false),
            (Reduction::None, false),
            (Reduction::None, true),
        ] {
            for mode in [Mode::Fused, Mode::Unfused] {
                let loss = Loss::builder(Objective::ala(), &counts)
                    .reduction(reduction)
                    .build()
                    .expect("valid");
                let (x, y) = random::<f16>(&mut rng, 4, classes, 1.0);
                let step = Step {
                    upstream: Some(match per_row {
                        true => vec![1.5, -2.0, 0.0, 0.25],
                        false => vec![-1.75],
                    }),
                    per_row,
                    gradient_scale: 128.0,
                    mode,
                    ..Step::contiguous(x, y, classes)
                };
                assert_step(&device, &loss, &step);
            }
        }
    }
}

#[test]
fn a_mean_over_counted_rows() {
    let device = device();
    let mut rng = fastrand::Rng::with_seed(55);
    for classes in [10, 365, 1500, 5000] {
        let counts = counts(&mut rng, classes);
        let weights: Vec<f64> = (0..classes).map(|j| 0.25 + (j % 5) as f64 * 0.5).collect();
        for weighted in [false, true] {
            for reduction in [Reduction::Mean, Reduction::Sum] {
                let mut builder = Loss::builder(Objective::ala(), &counts)
                    .reduction(reduction)
                    .ignore_label(-100);
                if weighted {
                    builder = builder.class_weights(weights.clone());
                }
                let loss = builder.build().expect("valid");
                let (x, mut y) = random::<f32>(&mut rng, 300, classes, 1.0);
                let keep = if classes > 1000 { 9 } else { 300 };
                y.truncate(keep);
                for i in (0..keep).step_by(3) {
                    y[i] = -100;
                }
                let x = x[..keep * classes].to_vec();
                for mode in [Mode::Fused, Mode::Unfused] {
                    let step = Step {
                        mode,
                        ..Step::contiguous(x.clone(), y.clone(), classes)
                    };
                    assert_step(&device, &loss, &step);
                }
            }
        }
    }
}

/// Rows for several blocks of the kernel that counts them, each with several rows a thread.
#[test]
fn a_mean_over_many_counted_rows() {
    let device = device();
    let mut rng = fastrand::Rng::with_seed(104);
    let (classes, ignored) = (3, 2);
    for rows in [1023, 1025, 9_000, 70_001] {
        let loss = Loss::builder(Objective::CrossEntropy, &counts(&mut rng, classes))
            .class_weights([0.5, 3.25, 7.0])
            .ignore_label(ignored)
            .build()
            .expect("valid");
        // Every row has the same loss but for its weight, so that the mean is known: ln 3.
        let labels = labels(&mut rng, rows, classes);
        let weights: Vec<f64> = labels
            .iter()
            .filter(|&&y| y != ignored)
            .map(|&y| loss.table().targets()[y as usize].weight)
            .collect();
        let step = Step::contiguous(vec![0.25f32; rows * classes], labels, classes);
        for order in [Order::Forward, Order::Reverse, Order::Interleaved] {
            if let Some(soft) = device.soft {
                soft.set_order(order);
            }
            let summary = device.run(&device.bind(&loss), &step).summary;
            let summary = summary.expect("no bad label");
            assert_eq!(summary.counted_rows, weights.len(), "{rows} {order:?}");
            assert_eq!(summary.total_weight, weights.iter().sum::<f64>());
            assert_within(summary.loss, 3f64.ln(), loss_bound(3f64.ln()), &|| {
                format!("{rows} {order:?}")
            });
        }
        if let Some(soft) = device.soft {
            soft.set_order(Order::Forward);
        }
    }
}

/// More rows than blocks: what a block keeps in shared memory for one row must not meet the next
/// row's.
#[test]
fn blocks_take_row_after_row() {
    let device = device();
    let mut rng = fastrand::Rng::with_seed(57);
    // Rows a tile, a row a warp and a row a block in registers, a row a block and two blocks a row
    // in shared memory.
    for (rows, classes) in [
        (140_000, 3),
        (20_000, 200),
        (4300, 2000),
        (600, 16_400),
        (300, 57_000),
    ] {
        let loss = Loss::builder(Objective::ala(), &counts(&mut rng, classes))
            .ignore_label(1)
            .build()
            .expect("valid");
        let (x, y) = random::<bf16>(&mut rng, rows, classes, 1.0);
        for order in [Order::Forward, Order::Interleaved] {
            if let Some(soft) = device.soft {
                soft.set_order(order);
            }
            assert_step(
                &device,
                &loss,
                &Step::contiguous(x.clone(), y.clone(), classes),
            );
        }
        if let Some(soft) = device.soft {
            soft.set_order(Order::Forward);
        }
    }
}

/// Longer than all the blocks that may share a row can stage.
#[test]
fn rows_that_no_shared_memory_holds() {
    fn check<T: CudaElement + CpuElement + DeviceRepr + Default>(device: &Device, classes: usize) {
        let mut rng = fastrand::Rng::with_seed(62);
        let loss = Loss::builder(Objective::ala(), &counts(&mut rng, classes))
            .build()
            .expect("valid");
        let (x, y) = random::<T>(&mut rng, 1, classes, 1.0);
        assert_step(device, &loss, &Step::contiguous(x, y, classes));
    }
    let device = device();
    check::<f32>(&device, 500_003);
    check::<bf16>(&device, 1_000_001);
}

/// The last row's offset does not fit 32 bits, in elements as in bytes.
#[test]
fn offsets_beyond_2_31_elements() {
    let device = device();
    let stride = (1usize << 31) + 5;
    let counts = ClassCounts::new([100, 30, 10]).expect("valid");
    let loss = Loss::builder(Objective::ala(), &counts)
        .reduction(Reduction::None)
        .build()
        .expect("valid");
    let bound = device.bind(&loss);
    // SAFETY: only the two rows written below are read.
    let mut x = unsafe { device.stream.alloc::<f16>(stride + 3) }.expect("4.3 GB of device memory");
    let rows = [[0.5, 0.25, -0.5], [0.75, -0.25, 0.125]].map(|row| row.map(f16::from_f64));
    for (row, start) in rows.iter().zip([0, stride]) {
        device
            .stream
            .memcpy_htod(row, &mut x.slice_mut(start..start + 3))
            .expect("a copy");
    }
    let labels = device.upload(&[0i64, 2]);
    let mut workspace = bound.workspace(&device.stream, 2).expect("a workspace");
    bound
        .launch_in_place(
            &device.stream,
            &mut x,
            &labels,
            &cuda::Options::new().stride(stride),
            Outputs::new(),
            &mut workspace,
        )
        .expect("launches");
    workspace.read(&device.stream).expect("no bad label");
    let near = device.run(&bound, &Step::contiguous(rows.concat(), vec![0i64, 2], 3));
    let mut far = [[f16::ZERO; 3]; 2];
    for (row, start) in far.iter_mut().zip([0, stride]) {
        device
            .stream
            .memcpy_dtoh(&x.slice(start..start + 3), row)
            .expect("a copy");
    }
    device.stream.synchronize().expect("the stream ends");
    assert_eq!(far.concat(), near.gradient);
}

/// The same bits in every order in which blocks and warps may run, and from run to run.
#[test]
fn any_execution_order_gives_the_same_bits() {
    let device = device();
    let mut rng = fastrand::Rng::with_seed(56);
    // The last: several blocks a row, which wait for one another.
    for classes in [33, 1025, 4099, 60_000] {
        let counts = counts(&mut rng, classes);
        for objective in [Objective::ala(), Objective::ClassBalanced { beta: 0.999 }] {
            let loss = Loss::builder(objective, &counts).build().expect("valid");
            let (x, y) = random::<f32>(&mut rng, 17, classes, 1.0);
            let step = Step::contiguous(x, y, classes);
            let mut results = Vec::new();
            for order in [Order::Forward, Order::Reverse, Order::Interleaved] {
                if let Some(soft) = device.soft {
                    soft.set_order(order);
                }
                let got = assert_step(&device, &loss, &step);
                results.push((
                    got.summary.expect("checked").loss.to_bits(),
                    got.row_losses
                        .iter()
                        .map(|l| l.to_bits())
                        .collect::<Vec<_>>(),
                    got.gradient.iter().map(|g| g.to_bits()).collect::<Vec<_>>(),
                ));
            }
            if let Some(soft) = device.soft {
                soft.set_order(Order::Forward);
            }
            assert!(
                results.windows(2).all(|pair| pair[0] == pair[1]),
                "{objective:?} C={classes}"
            );
        }
    }
}

/// Confident rows: 16-bit gradients too keep their digits, since `p - 1` is never formed.
#[test]
fn confident_rows_keep_their_gradient() {
    fn check<T: CudaElement + CpuElement + DeviceRepr + Default>(device: &Device) {
        let counts = ClassCounts::new([10, 10, 10]).expect("valid");
        for objective in objectives() {
            let loss = Loss::builder(objective, &counts)
                .scale(1.0)
                .reduction(Reduction::Sum)
                .build()
                .expect("valid");
            for ahead in [4.0, 9.0, 14.0, 20.75] {
                let x: Vec<T> = [ahead, 0.0, -0.5].into_iter().map(T::from_f64).collect();
                let scale = 65536.0f32;
                let step = Step {
                    gradient_scale: scale,
                    ..Step::contiguous(x.clone(), vec![0i64], 3)
                };
                let got = device.run(&device.bind(&loss), &step);
                let exact = reference::row(loss.table(), &widen(&x), 0);
                for (j, exact) in exact.gradient.into_iter().enumerate() {
                    let exact = exact * f64::from(scale);
                    if exact.abs() > 60000.0 {
                        continue;
                    }
                    assert_within(
                        got.gradient[j].to_f64(),
                        exact,
                        gradient_bound::<T>(exact, 0.0),
                        &|| format!("{objective:?} ahead by {ahead}, gradient {j}"),
                    );
                }
            }
        }
    }
    let device = device();
    check::<f32>(&device);
    check::<f16>(&device);
    check::<bf16>(&device);
}

#[test]
fn random_steps() {
    let device = device();
    let objectives = objectives();
    let shapes = (
        1usize..18,
        prop_oneof![3 => 1usize..70, 2 => 70usize..1100, 1 => 1100usize..4200],
        0..objectives.len(),
        any::<u64>(),
        0usize..4,
        0usize..9,
        prop::sample::select(vec![Mode::Fused, Mode::InPlace, Mode::Unfused]),
    );
    let mut runner = TestRunner::new(Config::with_cases(96));
    let result = runner.run(
        &shapes,
        |(rows, classes, objective, seed, pad, offset, mode)| {
            let mut rng = fastrand::Rng::with_seed(seed);
            let counts = counts(&mut rng, classes);
            let loss = Loss::builder(objectives[objective], &counts)
                .scale([1.0, 16.0, 30.0, 64.0][rng.usize(..4)])
                .reduction([Reduction::Mean, Reduction::Sum, Reduction::None][rng.usize(..3)])
                .ignore_label(3)
                .build()
                .expect("valid");
            let stride = classes + pad;
            let (x, y) = random::<bf16>(&mut rng, rows, stride, 1.0);
            let step = Step {
                labels: y.into_iter().map(|y| y % classes as i64).collect(),
                stride,
                offset,
                gradient_stride: classes + rng.usize(..4),
                gradient_offset: rng.usize(..9),
                mode,
                ..Step::contiguous(x, Vec::<i64>::new(), classes)
            };
            assert_step(&device, &loss, &step);
            Ok(())
        },
    );
    if let Err(error) = result {
        panic!("{error}");
    }
}
