//! Steps over NCCL: the ranks are threads of this program, one for each GPU. Without a GPU they
//! share the driver in software, and what stands in for NCCL.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use ala_loss::cuda::{self, Divisor, Options, Outputs, Upstream, nccl};
use ala_loss::{Loss, Objective, Reduction, reference};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DeviceRepr, sys};
use cudarc::nccl::safe::{Comm, Id};
use softcuda::client::SoftCuda;

mod problem;
use problem::{
    assert_within, counts, gradient_bound, labels, logits, loss_bound, objectives, slope, widen,
};

/// What there is to run ranks on.
struct Ranks {
    /// How many there may be.
    counts: Vec<usize>,
    /// Whether all share the driver in software, where only one rank's steps can be captured.
    in_software: bool,
}

/// Nothing where there is no NCCL.
fn ranks() -> Option<Ranks> {
    static IN_SOFTWARE: OnceLock<bool> = OnceLock::new();
    let is_set = |name| std::env::var_os(name).is_some_and(|value| value != "0");
    let in_software = *IN_SOFTWARE.get_or_init(|| {
        let gpu = cuda::context(0);
        if gpu.is_ok() {
            return false;
        }
        assert!(
            !is_set("ALA_REQUIRE_GPU"),
            "ALA_REQUIRE_GPU is set, and there is no GPU: {gpu:?}"
        );
        let path = SoftCuda::locate().expect("softcuda is built beside the tests");
        SoftCuda::load(&path).expect("softcuda loads");
        assert!(softcuda_nccl::load(), "it is built beside the tests");
        true
    });
    if in_software {
        return Some(Ranks {
            counts: vec![1, 2, 3, 5],
            in_software,
        });
    }
    if !softcuda_nccl::is_there() {
        assert!(
            !is_set("ALA_REQUIRE_NCCL"),
            "ALA_REQUIRE_NCCL is set, and there is no libnccl"
        );
        eprintln!("not tested: there is no libnccl");
        return None;
    }
    let devices = CudaContext::device_count().expect("there is a GPU") as usize;
    let mut counts = vec![1, devices];
    counts.dedup();
    Some(Ranks {
        counts,
        in_software,
    })
}

fn download<T: DeviceRepr>(stream: &Arc<CudaStream>, from: &CudaSlice<T>) -> Vec<T> {
    let values = stream.clone_dtoh(from).expect("it downloads");
    stream.synchronize().expect("it ends");
    values
}

/// One rank's own.
struct Rank {
    rank: usize,
    in_software: bool,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    comm: Comm,
}

/// What each rank gives, for every number of ranks.
fn each<T: Send>(body: impl Fn(Rank, usize) -> T + Sync, mut hold: impl FnMut(Vec<T>)) {
    let Some(Ranks {
        counts,
        in_software,
    }) = ranks()
    else {
        return;
    };
    let device_of = |rank: usize| if in_software { 0 } else { rank };
    for count in counts {
        let id = Id::new().expect("NCCL gives a number");
        let rank = |rank: usize| {
            let context = cuda::context(device_of(rank)).expect("a device");
            context.bind_to_thread().expect("it is alive");
            // SAFETY: everything of a rank uses one stream; steps are captured.
            unsafe { context.disable_event_tracking() };
            let stream = context.new_stream().expect("a stream");
            let comm = Comm::from_rank(Arc::clone(&stream), rank, count, id).expect("ranks meet");
            let of_rank = Rank {
                rank,
                in_software,
                context,
                stream,
                comm,
            };
            body(of_rank, count)
        };
        let all = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..count)
                .map(|number| scope.spawn(move || rank(number)))
                .collect();
            let threads = threads.into_iter();
            threads
                .map(|thread| thread.join().expect("the rank ends"))
                .collect()
        });
        hold(all);
    }
}

/// The classes of a rank, of as many ranks; the first has one alone.
fn classes_of(rank: usize, ranks: usize, classes: usize) -> Range<usize> {
    let end = |rank: usize| match rank {
        0 => 0,
        rank if rank == ranks => classes,
        rank => 1 + (rank - 1) * (classes - 1) / (ranks - 1),
    };
    end(rank)..end(rank + 1)
}

const ROWS: usize = 9;
const CLASSES: usize = 203;

/// What a rank's step left: the loss, row losses, hits, and the gradient of its classes.
type Left = (Range<usize>, f64, Vec<f32>, Vec<u8>, Vec<f32>);

fn problem(objective: Objective, seed: u64) -> (Loss, Vec<f32>, Vec<i64>) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let loss = Loss::builder(objective, &counts(&mut rng, CLASSES)).ignore_label(-1);
    let loss = loss.build().expect("valid");
    let x = logits::<f32>(&mut rng, ROWS * CLASSES, 1.0);
    let mut y = labels(&mut rng, ROWS, CLASSES);
    y[2] = -1;
    (loss, x, y)
}

fn columns(x: &[f32], classes: &Range<usize>) -> Vec<f32> {
    let rows = x.chunks(CLASSES);
    rows.flat_map(|row| row[classes.clone()].to_vec()).collect()
}

fn hold(loss: &Loss, x: &[f32], y: &[i64], all: &[Left]) {
    let exact = reference::batch(loss, &widen(x), y, &[1.0; ROWS]);
    let slope = slope(loss.table());
    let (_, first_loss, first_rows, first_hits, _) = &all[0];
    for (classes, got, rows, hits, gradient) in all {
        let what = || format!("{:?} {classes:?} of {}", loss.objective(), all.len());
        assert_within(*got, exact.loss, loss_bound(exact.loss), &what);
        // All ranks say the same.
        assert_eq!((got, rows, hits), (first_loss, first_rows, first_hits));
        for (row, (got, exact)) in rows.iter().zip(&exact.row_losses).enumerate() {
            assert_within(f64::from(*got), *exact, loss_bound(*exact), &what);
            let of_row = &widen(&x[row * CLASSES..][..CLASSES]);
            let best = reference::prediction(of_row).expect("no NaN") as i64;
            assert_eq!(hits[row], u8::from(best == y[row]), "{}", what());
        }
        for (row, gradient) in gradient.chunks(classes.len()).enumerate() {
            let exact = &exact.gradient[row * CLASSES..][classes.clone()];
            for (&got, &exact) in gradient.iter().zip(exact) {
                let bound = gradient_bound::<f32>(exact, slope);
                assert_within(f64::from(got), exact, bound, &what);
            }
        }
    }
}

fn step(rank: &Rank, ranks: usize, loss: &Loss, x: &[f32], y: &[i64], in_place: bool) -> Left {
    let Rank {
        context,
        stream,
        comm,
        ..
    } = rank;
    let classes = classes_of(rank.rank, ranks, CLASSES);
    let shard = loss.shard(classes.clone()).expect("valid");
    let shard = shard.bind(context).expect("it binds");
    let options = Options::new().hits();
    let mut exchange = shard.exchange(comm, ROWS, &options).expect("memory");
    let mut workspace = shard.workspace(stream, ROWS).expect("memory");
    let mut logits = stream
        .clone_htod(&columns(x, &classes))
        .expect("it uploads");
    let labels = stream.clone_htod(y).expect("it uploads");
    let mut gradient = stream
        .clone_htod(&vec![77.0f32; logits.len()])
        .expect("memory");
    let mut rows = stream.clone_htod(&[77.0f32; ROWS]).expect("memory");
    let mut hits = stream.clone_htod(&[77u8; ROWS]).expect("memory");
    let outputs = Outputs::new().row_losses(&mut rows).hits(&mut hits);
    let done = match in_place {
        true => shard.step_in_place(
            comm,
            &mut logits,
            &labels,
            &options,
            &mut exchange,
            outputs,
            &mut workspace,
        ),
        false => shard.step(
            comm,
            &logits,
            &labels,
            &options,
            &mut exchange,
            outputs.gradient(&mut gradient),
            &mut workspace,
        ),
    };
    done.expect("it is enqueued");
    let summary = workspace.read(stream).expect("no bad rows");
    let written = if in_place { &logits } else { &gradient };
    (
        classes,
        summary.loss,
        download(stream, &rows),
        download(stream, &hits),
        download(stream, written),
    )
}

#[test]
fn steps_over_ranks_are_those_of_all_classes() {
    for (i, objective) in objectives().into_iter().enumerate() {
        let (loss, x, y) = problem(objective, i as u64);
        for in_place in [false, true] {
            each(
                |rank, ranks| step(&rank, ranks, &loss, &x, &y, in_place),
                |all| hold(&loss, &x, &y, &all),
            );
        }
    }
}

/// A shorter exchange is refused before anything is enqueued.
#[test]
fn an_exchange_that_is_too_short_is_refused() {
    let (loss, x, y) = problem(Objective::ala(), 90);
    let short = |rank: Rank, ranks: usize| {
        let classes = classes_of(rank.rank, ranks, CLASSES);
        let shard = loss.shard(classes.clone()).expect("valid");
        let shard = shard.bind(&rank.context).expect("it binds");
        let (options, stream) = (Options::new(), &rank.stream);
        let mut exchange = shard
            .exchange(&rank.comm, ROWS - 1, &options)
            .expect("memory");
        let mut workspace = shard.workspace(stream, ROWS).expect("memory");
        let logits = stream
            .clone_htod(&columns(&x, &classes))
            .expect("it uploads");
        let labels = stream.clone_htod(&y).expect("it uploads");
        let step = shard.step(
            &rank.comm,
            &logits,
            &labels,
            &options,
            &mut exchange,
            Outputs::new(),
            &mut workspace,
        );
        step.expect_err("it is too short").to_string()
    };
    each(short, |all| {
        for error in all {
            assert_eq!(error, "the exchange's records has 24 entries: expected 27");
        }
    });
}

/// Where there is one rank its step is captured; over several GPUs NCCL's own is too.
#[test]
fn a_step_can_be_captured_into_a_graph() {
    let (loss, x, y) = problem(Objective::ala(), 91);
    let captured = |rank: Rank, ranks: usize| {
        if ranks > 1 && rank.in_software {
            return None;
        }
        let Rank {
            context,
            stream,
            comm,
            ..
        } = &rank;
        let classes = classes_of(rank.rank, ranks, CLASSES);
        let shard = loss.shard(classes.clone()).expect("valid");
        let shard = shard.bind(context).expect("it binds");
        shard.load::<f32>().expect("kernels load");
        let options = Options::new().hits();
        let mut exchange = shard.exchange(comm, ROWS, &options).expect("memory");
        let mut workspace = shard.workspace(stream, ROWS).expect("memory");
        let mut logits = stream
            .clone_htod(&vec![0.0; ROWS * classes.len()])
            .expect("it uploads");
        let labels = stream.clone_htod(&y).expect("it uploads");
        let mut gradient = stream
            .clone_htod(&vec![77.0f32; logits.len()])
            .expect("memory");
        let mut rows = stream.clone_htod(&[77.0f32; ROWS]).expect("memory");
        let mut hits = stream.clone_htod(&[77u8; ROWS]).expect("memory");
        stream.synchronize().expect("all is there");
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).expect("capture begins");
        let outputs = Outputs::new()
            .gradient(&mut gradient)
            .row_losses(&mut rows)
            .hits(&mut hits);
        shard
            .step(
                comm,
                &logits,
                &labels,
                &options,
                &mut exchange,
                outputs,
                &mut workspace,
            )
            .expect("capturable");
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).expect("capture ends");
        let graph = graph.expect("a graph");
        stream
            .memcpy_htod(&columns(&x, &classes), &mut logits)
            .expect("it uploads");
        graph.launch().expect("it replays");
        let summary = workspace.read(stream).expect("no bad rows");
        Some((
            classes,
            summary.loss,
            download(stream, &rows),
            download(stream, &hits),
            download(stream, &gradient),
        ))
    };
    each(captured, |all| {
        let all: Vec<Left> = all.into_iter().flatten().collect();
        if !all.is_empty() {
            hold(&loss, &x, &y, &all);
        }
    });
}

/// Ranks that hold other rows divide by what all of them count, and add up their running counts.
#[test]
fn data_parallel_ranks_have_the_divisor_and_the_counts_of_all() {
    let mut rng = fastrand::Rng::with_seed(92);
    let loss = Loss::builder(Objective::CrossEntropy, &counts(&mut rng, 7))
        .class_weights([1.0, 0.5, 2.0, 1.0, 4.0, 0.0, 1.0])
        .build()
        .expect("valid");
    assert_eq!(loss.reduction(), Reduction::Mean);
    let x = logits::<f32>(&mut rng, 60 * 7, 1.0);
    let y = labels(&mut rng, 60, 7);
    let exact = reference::batch(&loss, &widen(&x), &y, &[1.0; 60]);
    let weight = loss
        .divisor(&y, &ala_loss::Options::<f32>::new())
        .expect("valid");
    let hits_of = |class: i64| {
        let rows = x.chunks(7).zip(&y).filter(|(_, y)| **y == class);
        let best = |x: &[f32]| reference::prediction(&widen(x)).expect("no NaN") as i64;
        rows.filter(|(x, y)| best(x) == **y).count() as u64
    };
    let body = |rank: Rank, ranks: usize| {
        let Rank {
            context,
            stream,
            comm,
            ..
        } = &rank;
        // Uneven parts.
        let end = |rank: usize| 60 * rank * rank / (ranks * ranks);
        let rows = end(rank.rank)..end(rank.rank + 1);
        let bound = loss.bind(context).expect("it binds");
        let mut workspace = bound.workspace(stream, 60).expect("memory");
        let own = &x[7 * rows.start..7 * rows.end];
        let logits = stream.clone_htod(own).expect("it uploads");
        let labels = stream.clone_htod(&y[rows]).expect("it uploads");
        let mut divisor = stream.clone_htod(&[77.0f32]).expect("memory");
        let options = Options::new().upstream(Upstream::One);
        let divided = bound.divisor_of_all(comm, &labels, &options, &mut divisor, &mut workspace);
        divided.expect("it is enqueued");
        let mut gradient = stream
            .clone_htod(&vec![77.0f32; own.len()])
            .expect("memory");
        let mut own_counts = stream.clone_htod(&[0u64; 14]).expect("memory");
        let mut counts = stream.clone_htod(&[77u64; 14]).expect("memory");
        let given = Options::new().divisor(Divisor::Given(&divisor));
        let outputs = Outputs::new()
            .gradient(&mut gradient)
            .class_counts(&mut own_counts);
        bound
            .launch(stream, &logits, &labels, &given, outputs, &mut workspace)
            .expect("it is enqueued");
        let added = nccl::class_counts_of_all(comm, &own_counts, &mut counts);
        added.expect("it is enqueued");
        let summary = workspace.read(stream).expect("no bad rows");
        (
            summary.loss,
            download(stream, &divisor),
            download(stream, &gradient),
            download(stream, &counts),
        )
    };
    each(body, |all| {
        let what = || format!("{} ranks", all.len());
        let loss_of_all: f64 = all.iter().map(|(loss, ..)| loss).sum();
        assert_within(loss_of_all, exact.loss, loss_bound(exact.loss), &what);
        let gradient = all.iter().flat_map(|(_, _, gradient, _)| gradient);
        for (&got, &exact) in gradient.zip(&exact.gradient) {
            let bound = gradient_bound::<f32>(exact, 4.0);
            assert_within(f64::from(got), exact, bound, &what);
        }
        for (_, divisor, _, counts) in &all {
            assert_eq!(f64::from(divisor[0]), weight, "{}", what());
            let rows = (0..7).map(|class| y.iter().filter(|y| **y == class).count() as u64);
            let hits = (0..7).map(hits_of);
            let exact: Vec<u64> = rows.chain(hits).collect();
            assert_eq!(counts, &exact, "{}", what());
        }
    });
}
