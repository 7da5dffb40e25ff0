//! How a shard's step runs: what it moves, that it can be captured, what it refuses.

use ala_loss::cuda::{CudaElement, CudaError, Options, Outputs, Upstream};
use ala_loss::{ClassCounts, CpuElement, Error, Loss, Objective, Reduction};
use cudarc::driver::{DeviceRepr, sys};
use half::bf16;
use softcuda::device::SECTOR;

use super::together::{Step, bind, records, together};
use crate::device::{Device, device};
use crate::problem::{counts, labels, logits};

/// The first half reads each logit once, the second reads it once and writes its gradient; rows
/// aligned or not.
#[test]
fn a_step_reads_logits_twice_and_writes_the_gradient_once() {
    fn check<T>(device: &Device, most_instructions: [f64; 2])
    where
        T: CudaElement + CpuElement + DeviceRepr + Default,
    {
        let Some(soft) = device.soft else {
            return; // counted in software only
        };
        let (rows, all) = (4, 100_003);
        let mut rng = fastrand::Rng::with_seed(81);
        let loss = Loss::new(Objective::ala(), &counts(&mut rng, all)).expect("valid");
        for (classes, offset) in [(0..50_000, 0), (50_000..all, 1), (50_000..all, 3)] {
            let shards = bind(device, &loss, std::slice::from_ref(&classes));
            let (shard, width) = (&shards[0], classes.len());
            let stream = &device.stream;
            let x = logits::<T>(&mut rng, offset + rows * width, 1.0);
            let x = device.upload(&x);
            let x = x.slice(offset..);
            // Its own: there is no other shard.
            let y = labels(&mut rng, rows, width);
            let y: Vec<i64> = y.iter().map(|y| y + classes.start as i64).collect();
            let y = device.upload(&y);
            let options = Options::new();
            let mut gathered = device.upload(&vec![0.0f32; 3 * rows]);
            let mut gradient = device.upload(&vec![T::from_f64(0.0); offset + rows * width]);
            let mut workspace = shard.workspace(stream, rows).expect("a workspace");
            shard.load::<T>().expect("kernels load");
            stream.synchronize().expect("the buffers are there");

            let least = (rows * width * size_of::<T>()) as f64 / SECTOR as f64;
            let elements = (rows * width) as f64;
            soft.take_counters();
            shard
                .partial(stream, &x, &y, &options, &mut gathered)
                .expect("launches");
            stream.synchronize().expect("it ends");
            let partial = soft.take_counters();
            {
                let mut gradient = gradient.slice_mut(offset..);
                let outputs = Outputs::new().gradient(&mut gradient);
                shard
                    .finish(stream, &x, &y, &options, &gathered, outputs, &mut workspace)
                    .expect("launches");
            }
            stream.synchronize().expect("it ends");
            let finish = soft.take_counters();
            let type_name = std::any::type_name::<T>();
            for (half, counted, least, most) in [
                ("partial", partial, least, most_instructions[0]),
                ("finish", finish, 2.0 * least, most_instructions[1]),
            ] {
                let moved = counted.distinct_sectors as f64 / least;
                let asked = counted.global_load_requests + counted.global_store_requests;
                let asked = asked as f64 / least;
                let instructions = counted.lane_instructions as f64 / elements;
                eprintln!(
                    "{half} {type_name} {classes:?} at {offset}: moved {moved:.4}, asked \
                     {asked:.4}, {instructions:.2} instructions an element"
                );
                assert_eq!(counted.launches, 1);
                assert!(moved <= 1.02, "{half} {type_name}: {moved}");
                assert!(asked <= 1.15, "{half} {type_name}: {asked}");
                assert!(instructions <= most, "{half} {type_name}: {instructions}");
            }
        }
    }
    let device = device();
    check::<f32>(&device, [17.0, 13.0]);
    check::<bf16>(&device, [14.0, 10.0]);
}

/// A mean that has to count takes one launch more, in the second half alone.
#[test]
fn a_counted_mean_takes_one_launch_more() {
    let device = device();
    let Some(soft) = device.soft else {
        return;
    };
    let counts = ClassCounts::new([5, 3, 1]).expect("valid");
    for (ignores, launches) in [(false, 1), (true, 2)] {
        let mut builder = Loss::builder(Objective::ala(), &counts);
        if ignores {
            builder = builder.ignore_label(-100);
        }
        let loss = builder.build().expect("valid");
        let shards = bind(&device, &loss, std::slice::from_ref(&(0..3)));
        let step = Step::new(vec![0.5f32; 6], vec![0, 2]);
        let gathered = records(&device, &shards, &step);
        let (x, y) = (device.upload(&step.x), device.upload(&step.labels));
        let stream = &device.stream;
        let mut workspace = shards[0].workspace(stream, 2).expect("a workspace");
        soft.take_counters();
        let outputs = Outputs::new();
        shards[0]
            .finish(
                stream,
                &x,
                &y,
                &Options::new(),
                &gathered,
                outputs,
                &mut workspace,
            )
            .expect("launches");
        workspace.read(stream).expect("valid");
        assert_eq!(soft.take_counters().launches, launches);
    }
}

/// Also on a shard whose own classes all weigh 1.
#[test]
fn a_mean_counts_the_weights_of_all_shards_classes() {
    let device = device();
    let counts = ClassCounts::new([9, 3, 3, 1]).expect("valid");
    let loss = Loss::builder(Objective::CrossEntropy, &counts).class_weights([1.0, 2.0, 4.0, 1.0]);
    let loss = loss.build().expect("valid");
    let step = Step::new(vec![0.0f32; 12], vec![0, 3, 2]);
    let got = together(&device, &loss, &[0..1, 1..3, 3..4], &step);
    let summary = got.summary.expect("valid");
    assert_eq!((summary.total_weight, summary.counted_rows), (6.0, 3));
    assert!((summary.loss - 4f64.ln()).abs() < 2e-6, "{summary:?}");
    let third = f64::from(got.gradient[8]);
    assert!((third - 4.0 / 6.0 / 4.0).abs() < 1e-6, "{third}");
}

/// Both halves and what moves the records between them are captured, and replayed on whatever the
/// buffers hold by then.
#[test]
fn a_step_with_its_exchange_can_be_captured_into_a_graph() {
    let device = device();
    // SAFETY: everything below uses one stream.
    unsafe { device.context.disable_event_tracking() };
    let stream = &device.stream;
    let mut rng = fastrand::Rng::with_seed(82);
    let (rows, classes) = (3, 40);
    let cut = [0..13, 13..40];
    for objective in [Objective::ala(), Objective::ClassBalanced { beta: 0.99 }] {
        let loss = Loss::new(objective, &counts(&mut rng, classes)).expect("valid");
        let shards = bind(&device, &loss, &cut);
        let steps: Vec<Step<f32>> = (0..2)
            .map(|_| {
                let y = labels(&mut rng, rows, classes);
                Step::new(logits(&mut rng, rows * classes, 1.0), y)
            })
            .collect();
        let mut x: Vec<_> = cut
            .iter()
            .map(|cut| device.upload(&vec![0.0f32; rows * cut.len()]))
            .collect();
        let mut y = device.upload(&vec![0i64; rows]);
        let options = Options::new();
        let len = rows * shards[0].record_len(&options);
        let mut own: Vec<_> = cut
            .iter()
            .map(|_| device.upload(&vec![77.0f32; len]))
            .collect();
        let mut gathered = device.upload(&vec![77.0f32; 2 * len]);
        let mut gradients: Vec<_> = cut
            .iter()
            .map(|cut| device.upload(&vec![77.0f32; rows * cut.len()]))
            .collect();
        let mut workspaces: Vec<_> = shards
            .iter()
            .map(|shard| shard.workspace(stream, rows).expect("one"))
            .collect();
        shards[0].load::<f32>().expect("kernels load");
        stream
            .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .expect("capture begins");
        for (rank, shard) in shards.iter().enumerate() {
            shard
                .partial(stream, &x[rank], &y, &options, &mut own[rank])
                .expect("capturable");
            let mut place = gathered.slice_mut(rank * len..(rank + 1) * len);
            stream
                .memcpy_dtod(&own[rank], &mut place)
                .expect("capturable");
        }
        for (rank, shard) in shards.iter().enumerate() {
            let outputs = Outputs::new().gradient(&mut gradients[rank]);
            let workspace = &mut workspaces[rank];
            shard
                .finish(
                    stream, &x[rank], &y, &options, &gathered, outputs, workspace,
                )
                .expect("capturable");
        }
        let graph = stream
            .end_capture(
                sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH,
            )
            .expect("capture ends")
            .expect("a graph");
        for step in &steps {
            for (x, cut) in x.iter_mut().zip(&cut) {
                let own = crate::problem::shards::columns(&step.x, classes, cut.clone());
                stream.memcpy_htod(&own, x).expect("a copy");
            }
            stream.memcpy_htod(&step.labels, &mut y).expect("a copy");
            graph.launch().expect("replays");
            let right = together(&device, &loss, &cut, step);
            for (rank, cut) in cut.iter().enumerate() {
                let summary = workspaces[rank].read(stream).expect("valid");
                assert_eq!(summary, right.summary.clone().expect("valid"));
                let own = crate::problem::shards::columns(&right.gradient, classes, cut.clone());
                assert_eq!(device.download(&gradients[rank]), own, "{objective:?}");
            }
        }
    }
    // SAFETY: as above.
    unsafe { device.context.enable_event_tracking() };
}

/// A step whose gradient an earlier one made leaves everything as it is.
#[test]
fn a_step_is_skipped_for_a_known_upstream_gradient() {
    let device = device();
    let stream = &device.stream;
    let counts = ClassCounts::new([5, 3, 1]).expect("valid");
    let loss = Loss::builder(Objective::ClassBalanced { beta: 0.9 }, &counts);
    let loss = loss.build().expect("valid");
    let shards = bind(&device, &loss, std::slice::from_ref(&(0..3)));
    let step = Step::new(vec![0.5f32; 6], vec![0, 2]);
    let gathered = records(&device, &shards, &step);
    let (x, y) = (device.upload(&step.x), device.upload(&step.labels));
    let mut gradient = device.upload(&[77.0f32; 6]);
    let mut workspace = shards[0].workspace(stream, 2).expect("a workspace");
    for (upstream, skipped) in [(1.0f32, true), (2.0, false)] {
        let upstream = device.upload(&[upstream]);
        let options = Options::new()
            .upstream(Upstream::Scalar(&upstream))
            .skip_if_upstream(1.0);
        let outputs = Outputs::new().gradient(&mut gradient);
        shards[0]
            .finish(stream, &x, &y, &options, &gathered, outputs, &mut workspace)
            .expect("launches");
        workspace.read(stream).expect("valid");
        assert_eq!(device.download(&gradient) == [77.0; 6], skipped);
    }
}

/// Batches without rows, and such as do not fit: nothing is launched.
#[test]
fn what_does_not_fit_is_refused() {
    let device = device();
    let stream = &device.stream;
    let counts = ClassCounts::new([5, 3, 1]).expect("valid");
    let loss = Loss::new(Objective::ala(), &counts).expect("valid");
    let shards = bind(&device, &loss, &[0..2, 2..3]);
    let shard = &shards[0];
    let (x, y) = (device.upload(&[0.5f32; 4]), device.upload(&[0i64, 2]));
    let three = device.upload(&[0.5f32; 3]);
    let mut workspace = shard.workspace(stream, 2).expect("a workspace");
    let none = Options::new();
    let mut short = device.upload(&[77.0f32; 5]);
    let mut own = device.upload(&[77.0f32; 6]);
    let error = shard
        .partial(stream, &x, &y, &none, &mut short)
        .expect_err("short");
    assert!(
        error
            .to_string()
            .contains("records has 5 entries: expected 6"),
        "{error}"
    );
    let error = shard
        .partial(stream, &three, &y, &none, &mut own)
        .expect_err("short");
    assert!(
        matches!(
            error,
            Error::LogitsShape {
                got: 3,
                expected: 4,
                ..
            }
        ),
        "{error}"
    );
    let one = device.upload(&[1.0f32]);
    let weights = none.row_weights(&one);
    let error = shard
        .partial(stream, &x, &y, &weights, &mut own)
        .expect_err("short");
    assert!(
        error.to_string().contains("row weights has 1 entries"),
        "{error}"
    );
    assert_eq!(device.download(&own), [77.0; 6]);

    let gathered = device.upload(&[0.0f32; 12]);
    let mut finish = |gathered: &cudarc::driver::CudaSlice<f32>, outputs: Outputs<'_, f32>| {
        shard
            .finish(stream, &x, &y, &none, gathered, outputs, &mut workspace)
            .expect_err("refused")
    };
    let error = finish(&device.upload(&[0.0f32; 13]), Outputs::new());
    let name = "the shards' records";
    let (got, expected) = (13, 12);
    assert_eq!(
        error,
        Error::Length {
            name,
            got,
            expected
        }
    );
    let (mut hits, mut predictions) = (device.upload(&[7u8; 2]), device.upload(&[7u32; 2]));
    for outputs in [
        Outputs::new().hits(&mut hits),
        Outputs::new().predictions(&mut predictions),
    ] {
        assert!(matches!(
            finish(&gathered, outputs),
            Error::Misplaced { .. }
        ));
    }
    // Of all classes, not of the shard's own.
    let mut class_counts = device.upload(&[5u64; 4]);
    let options = none.hits();
    let ten = device.upload(&[0.0f32; 20]);
    let outputs = Outputs::new().class_counts(&mut class_counts);
    let error = shard
        .finish(stream, &x, &y, &options, &ten, outputs, &mut workspace)
        .expect_err("refused");
    assert!(
        error
            .to_string()
            .contains("class counts has 4 entries: expected 6"),
        "{error}"
    );
    let mut small = shard.workspace(stream, 1).expect("a workspace");
    let error = shard
        .finish(stream, &x, &y, &none, &gathered, Outputs::new(), &mut small)
        .expect_err("refused");
    assert!(
        matches!(error, Error::Cuda(CudaError::WorkspaceTooSmall { .. })),
        "{error}"
    );

    // A loss of all classes has no use for what is asked of both halves.
    let whole = device.bind(&loss);
    let mut workspace = whole.workspace(stream, 1).expect("a workspace");
    let y = device.upload(&[0i64]);
    let (options, outputs) = (none.hits(), Outputs::new());
    let result = whole.launch(stream, &three, &y, &options, outputs, &mut workspace);
    assert!(matches!(result, Err(Error::Misplaced { .. })));
}

/// Without rows the loss is 0, and no address is read.
#[test]
fn a_batch_without_rows_is_0() {
    let device = device();
    let stream = &device.stream;
    let counts = ClassCounts::new([5, 3, 1]).expect("valid");
    let builder = Loss::builder(Objective::ala(), &counts).reduction(Reduction::Mean);
    let shards = bind(&device, &builder.build().expect("valid"), &[0..2, 2..3]);
    let (x, y) = (device.upload(&[0.5f32]), device.upload(&[0i64]));
    let (x, y) = (x.slice(..0), y.slice(..0));
    let mut records = device.upload(&[77.0f32]);
    let mut workspace = shards[0].workspace(stream, 1).expect("a workspace");
    let options = Options::new();
    let mut none = records.slice_mut(..0);
    shards[0]
        .partial::<f32, i64>(stream, &x, &y, &options, &mut none)
        .expect("nothing to do");
    shards[0]
        .finish(
            stream,
            &x,
            &y,
            &options,
            &none,
            Outputs::new(),
            &mut workspace,
        )
        .expect("launches");
    assert_eq!(workspace.read(stream).expect("valid").loss, 0.0);
}
