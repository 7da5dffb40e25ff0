//! What a step costs in driver calls: launches, and nothing that waits or allocates.

use ala_loss::cuda::{CudaError, Options, Outputs, Upstream};
use ala_loss::{ClassCounts, Error, Loss, Objective, Reduction};
use cudarc::driver::sys;

use crate::device::{Device, Mode, Step, device};
use crate::problem;

fn loss(reduction: Reduction, ignore: bool) -> Loss {
    let counts = ClassCounts::new([100, 30, 10]).expect("valid");
    let builder = Loss::builder(Objective::ala(), &counts).reduction(reduction);
    match ignore {
        true => builder.ignore_label(-100),
        false => builder,
    }
    .build()
    .expect("valid")
}

/// Driver calls that would make a launch wait, allocate or leave the caller's stream.
const FORBIDDEN: [&str; 13] = [
    "cuCtxSynchronize",
    "cuStreamSynchronize",
    "cuEventSynchronize",
    "cuStreamCreate",
    "cuMemAlloc_v2",
    "cuMemAllocAsync",
    "cuMemFree_v2",
    "cuMemFreeAsync",
    "cuMemcpyHtoD_v2",
    "cuMemcpyDtoH_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuModuleLoadData",
];

#[test]
fn one_launch_a_step_and_two_with_a_counted_mean() {
    let device = device();
    let Some(soft) = device.soft else {
        eprintln!("driver calls are counted in software only");
        return;
    };
    let x = device.upload(&[0.5f32; 6]);
    let y = device.upload(&[0i64, 1]);
    let mut gradient = device.upload(&[0.0f32; 6]);
    let cases = [
        (Reduction::Mean, false, 1),
        (Reduction::Sum, false, 1),
        (Reduction::None, true, 1),
        (Reduction::Sum, true, 1),
        (Reduction::Mean, true, 2),
    ];
    let calls = [("cuLaunchKernel", false), ("cuLaunchKernelEx", true)];
    for ((reduction, ignore, launches), (call, overlap)) in cases
        .into_iter()
        .flat_map(|case| calls.map(|call| (case, call)))
    {
        let bound = device.bind(&loss(reduction, ignore));
        bound.load::<f32>().expect("kernels load");
        let mut workspace = bound.workspace(&device.stream, 2).expect("a workspace");
        let count = |name: &str| soft.driver_calls(name);
        let before = FORBIDDEN.map(count);
        let launched = calls.map(|(name, _)| count(name));
        let outputs = Outputs::new().gradient(&mut gradient);
        bound
            .launch(
                &device.stream,
                &x,
                &y,
                &Options::new().overlap(overlap),
                outputs,
                &mut workspace,
            )
            .expect("launches");
        for ((name, _), before) in calls.into_iter().zip(launched) {
            let made = if name == call { launches } else { 0 };
            assert_eq!(count(name) - before, made, "{reduction:?} {ignore} {name}");
        }
        assert_eq!(FORBIDDEN.map(count), before, "{FORBIDDEN:?}");
        assert!(workspace.read(&device.stream).is_ok());
    }
}

#[test]
fn the_unfused_baseline_takes_eight_launches() {
    let device = device();
    let Some(soft) = device.soft else {
        eprintln!("driver calls are counted in software only");
        return;
    };
    let before = soft.driver_calls("cuLaunchKernel");
    let step = Step {
        mode: Mode::Unfused,
        ..Step::contiguous(vec![0.5f32; 6], vec![0i64, 1], 3)
    };
    device.run(&device.bind(&loss(Reduction::Mean, false)), &step);
    assert_eq!(soft.driver_calls("cuLaunchKernel") - before, 8);
}

/// What blocks tell one another in a launch must not be there for the next: a row shared by blocks
/// would not wait.
#[test]
fn a_workspace_serves_launch_after_launch() {
    let device = device();
    let stream = &device.stream;
    let mut rng = fastrand::Rng::with_seed(70);
    for classes in [10, 1000, 60_000] {
        let loss = Loss::builder(Objective::ala(), &problem::counts(&mut rng, classes))
            .build()
            .expect("valid");
        let bound = device.bind(&loss);
        let mut workspace = bound.workspace(stream, 3).expect("a workspace");
        for _ in 0..3 {
            let x = problem::logits::<f32>(&mut rng, 3 * classes, 1.0);
            let y = problem::labels(&mut rng, 3, classes);
            let (logits, labels) = (device.upload(&x), device.upload(&y));
            let mut gradient = device.upload(&vec![0.0f32; x.len()]);
            let outputs = Outputs::new().gradient(&mut gradient);
            bound
                .launch(
                    stream,
                    &logits,
                    &labels,
                    &Options::new(),
                    outputs,
                    &mut workspace,
                )
                .expect("launches");
            let summary = workspace.read(stream).expect("no bad label");
            let fresh = device.run(&bound, &Step::contiguous(x, y, classes));
            assert_eq!(summary, fresh.summary.expect("no bad label"));
            assert_eq!(device.download(&gradient), fresh.gradient, "C={classes}");
        }
    }
}

/// Kernels are loaded by element type and map, and not before they are needed.
#[test]
fn a_step_loads_the_kernels_of_its_type_once() {
    let device = device();
    let Some(soft) = device.soft else {
        eprintln!("driver calls are counted in software only");
        return;
    };
    // Contexts differ from test to test: what is loaded stays.
    let loads = || soft.driver_calls("cuModuleLoadData");
    let before = loads();
    let bound = device.bind(&loss(Reduction::Mean, false));
    assert_eq!(loads(), before, "binding loads nothing");
    device.run(&bound, &Step::contiguous(vec![0.5f32; 6], vec![0i64, 1], 3));
    let once = loads();
    assert!(once - before <= 1, "{before} to {once}");
    bound.load::<f32>().expect("kernels load");
    device.run(
        &device.bind(&loss(Reduction::Sum, true)),
        &Step::contiguous(vec![0.5f32; 6], vec![0i64, 1], 3),
    );
    assert_eq!(loads(), once, "another loss of the same type and map");
    bound.load::<half::f16>().expect("kernels load");
    assert!(loads() - once <= 1);
}

/// A captured graph replays the step on whatever the buffers hold by then.
#[test]
fn a_step_can_be_captured_into_a_graph() {
    let device = device();
    for overlap in [false, true] {
        captured(&device, overlap);
    }
}

fn captured(device: &Device, overlap: bool) {
    // Events that cudarc records on its slices cannot be waited for inside a capture.
    // SAFETY: everything below uses one stream.
    unsafe { device.context.disable_event_tracking() };
    let stream = &device.stream;
    let bound = device.bind(&loss(Reduction::Mean, true));
    bound.load::<f32>().expect("kernels load");
    let mut workspace = bound.workspace(stream, 2).expect("a workspace");
    let rows = [
        [0.8f32, 0.1, -0.3, 0.2, 0.4, 0.1],
        [-0.5, 0.9, 0.2, 0.3, 0.3, -0.7],
    ];
    let labels = [[0i64, 2], [1, -100]];
    let mut x = device.upload(&rows[0]);
    let mut y = device.upload(&labels[0]);
    let mut gradient = device.upload(&[0.0f32; 6]);

    stream
        .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .expect("capture begins");
    let outputs = Outputs::new().gradient(&mut gradient);
    bound
        .launch(
            stream,
            &x,
            &y,
            &Options::new().overlap(overlap),
            outputs,
            &mut workspace,
        )
        .expect("capturable");
    let graph = stream
        .end_capture(sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH)
        .expect("capture ends")
        .expect("a graph");
    for (rows, labels) in rows.iter().zip(&labels) {
        stream.memcpy_htod(rows, &mut x).expect("a copy");
        stream.memcpy_htod(labels, &mut y).expect("a copy");
        graph.launch().expect("replays");
        let summary = workspace.read(stream).expect("no bad label");
        let cpu = bound.loss().evaluate(rows, labels).expect("valid");
        assert!((summary.loss - cpu.loss).abs() <= problem::loss_bound(cpu.loss));
        assert_eq!(summary.counted_rows, cpu.counted_rows);
        for (got, exact) in device.download(&gradient).iter().zip(&cpu.gradient) {
            assert!((got - exact).abs() <= 1e-5 * exact.abs() + 1e-5);
        }
    }
    drop(graph);
    // SAFETY: as above.
    unsafe { device.context.enable_event_tracking() };
}

/// Of any tier: what an earlier launch left stays to the bit, its result and status too; any other
/// upstream gradient is applied as if nothing had been said.
#[test]
fn a_step_is_skipped_for_the_upstream_gradient_that_its_caller_names() {
    let device = device();
    for (rows, classes, ignore) in [
        (70, 3, false),
        (70, 3, true),
        (33, 40, false),
        (6, 365, true),
        (5, 1000, false),
        (3, 8142, true),
        (2, 70_000, false),
    ] {
        let counts =
            ClassCounts::new((1..=classes as u64).rev().collect::<Vec<_>>()).expect("valid");
        let builder = Loss::builder(Objective::ala(), &counts);
        let builder = if ignore {
            builder.ignore_label(-100)
        } else {
            builder
        };
        let bound = device.bind(&builder.build().expect("valid"));
        let logits: Vec<f32> = (0..rows * classes)
            .map(|i| ((i * 37) % 101) as f32 / 60.0 - 0.8)
            .collect();
        let x = device.upload(&logits);
        // The last label is no class: a launch that is not skipped says so.
        let labels: Vec<i64> = (0..rows as i64).collect();
        let labels: Vec<i64> = labels.iter().map(|row| row % classes as i64).collect();
        let good = device.upload(&labels);
        let bad = device.upload(&[&labels[..rows - 1], &[classes as i64]].concat());
        let upstream = device.upload(&[2.5f32]);
        let mut workspace = bound.workspace(&device.stream, rows).expect("a workspace");
        let mut step = |labels, known: Option<f32>| {
            let mut gradient = device.upload(&vec![77.0f32; rows * classes]);
            let mut losses = device.upload(&vec![77.0f32; rows]);
            let mut hits = device.upload(&vec![77u8; rows]);
            let mut loss = device.upload(&[77.0f32]);
            let outputs = Outputs::new()
                .gradient(&mut gradient)
                .row_losses(&mut losses)
                .hits(&mut hits)
                .loss(&mut loss);
            let mut options = Options::new().upstream(Upstream::Scalar(&upstream));
            if let Some(known) = known {
                options = options.skip_if_upstream(known);
            }
            bound
                .launch(
                    &device.stream,
                    &x,
                    labels,
                    &options,
                    outputs,
                    &mut workspace,
                )
                .expect("launches");
            let read = workspace.read(&device.stream);
            let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            let got = (
                bits(device.download(&gradient)),
                bits(device.download(&losses)),
                device.download(&hits),
                bits(device.download(&loss)),
            );
            (read, got)
        };
        let (first, plain) = step(&good, None);
        let first = first.expect("labels are classes");
        let (read, skipped) = step(&bad, Some(2.5));
        assert_eq!(read, Ok(first), "{rows} x {classes}");
        let untouched = 77.0f32.to_bits();
        assert!(
            skipped
                .0
                .iter()
                .chain(&skipped.1)
                .chain(&skipped.3)
                .all(|&b| b == untouched)
        );
        assert!(skipped.2.iter().all(|&hit| hit == 77));
        for known in [1.0, f32::NAN, -2.5] {
            let (read, other) = step(&good, Some(known));
            assert_eq!(read, Ok(first), "{rows} x {classes}");
            assert!(other == plain, "{rows} x {classes}, not {known}");
        }
        let (read, _) = step(&bad, Some(1.0));
        assert!(read.is_err(), "{rows} x {classes}");
    }
}

#[test]
fn a_skip_needs_one_number_to_look_at() {
    let device = device();
    let bound = device.bind(&loss(Reduction::None, false));
    let x = device.upload(&[0.5f32; 6]);
    let y = device.upload(&[0i64, 1]);
    let each = device.upload(&[1.0f32; 2]);
    let mut workspace = bound.workspace(&device.stream, 2).expect("a workspace");
    for upstream in [Upstream::One, Upstream::PerRow(&each as _)] {
        let options = Options::new().upstream(upstream).skip_if_upstream(1.0);
        let refused = bound.launch(
            &device.stream,
            &x,
            &y,
            &options,
            Outputs::new(),
            &mut workspace,
        );
        assert_eq!(
            refused,
            Err(Error::Cuda(CudaError::SkipNeedsScalarUpstream))
        );
    }
}

/// Against the sum by hand: three rows of class 0, two of class 2, one ignored, one of no class.
#[test]
fn the_divisor_of_several_launches_is_what_one_mean_divides_by() {
    let device = device();
    let labels = [0i64, 2, -100, 0, 7, 2, 0];
    for (weights, expected) in [
        ([1.0, 1.0, 1.0], 5.0),
        ([0.5, 9.0, 4.0], 9.5),
        ([0.0; 3], 0.0),
    ] {
        for ignore in [false, true] {
            let objective = Objective::CrossEntropy;
            let counts = ClassCounts::new([100, 30, 10]).expect("valid");
            let builder = Loss::builder(objective, &counts).class_weights(weights);
            // Without an ignore label -100 is no class either.
            let builder = if ignore {
                builder.ignore_label(-100)
            } else {
                builder
            };
            let bound = device.bind(&builder.build().expect("valid"));
            let mut workspace = bound.workspace(&device.stream, 7).expect("a workspace");
            let labels = device.upload(&labels);
            let mut divisor = device.upload(&[77.0f32]);
            bound
                .divisor(
                    &device.stream,
                    &labels,
                    &Options::new(),
                    &mut divisor,
                    &mut workspace,
                )
                .expect("launches");
            assert_eq!(device.download(&divisor), [expected]);
            let mut two = device.upload(&[77.0f32; 2]);
            let options = Options::new();
            let refused =
                bound.divisor(&device.stream, &labels, &options, &mut two, &mut workspace);
            assert!(matches!(
                refused,
                Err(Error::Length {
                    name: "divisor",
                    ..
                })
            ));
        }
    }
}
