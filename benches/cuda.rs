//! Fused against unfused on a GPU, and both against a copy of as many bytes in the same run:
//!
//! ```text
//! cargo bench --features cuda --bench cuda
//! ```
//!
//! Without a GPU it says so and times nothing.

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ala_loss::cuda::{self, CudaElement, CudaLoss, Inputs, Outputs, Workspace};
use ala_loss::{ClassCounts, Loss, Objective};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use cudarc::driver::sys::{CUdevice_attribute, CUevent_flags};
use cudarc::driver::{CudaContext, CudaEvent, CudaSlice, CudaStream, DeviceRepr};
use half::bf16;

type Failure = Box<dyn Error>;

const CLASSES: [usize; 6] = [100, 365, 1000, 8142, 32_000, 131_072];
/// Logits of a batch: far beyond what L2 holds.
const ELEMENTS: usize = 1 << 26;
/// What the driver in software calls itself: its times mean nothing.
const SOFTWARE: &str = "softcuda";

fn main() -> ExitCode {
    let context = match cuda::context(0) {
        Ok(context) => context,
        Err(error) => {
            println!("no GPU, so nothing is timed: {error}");
            return ExitCode::SUCCESS;
        }
    };
    match run(&context) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(context: &Arc<CudaContext>) -> Result<(), Failure> {
    let name = context.name()?;
    if name == SOFTWARE {
        println!("{name} is no GPU, so nothing is timed");
        return Ok(());
    }
    println!("on {name}");
    let mut criterion = Criterion::default()
        .measurement_time(Duration::from_secs(2))
        .warm_up_time(Duration::from_millis(500))
        .sample_size(20)
        .configure_from_args();
    let mut gpu = Gpu::new(context)?;
    for classes in CLASSES {
        let mut group = criterion.benchmark_group(format!("C = {classes}"));
        let timed = [
            (
                "f32",
                time_step::<f32>(&mut gpu, &mut group, "f32", classes)?,
            ),
            (
                "bf16",
                time_step::<bf16>(&mut gpu, &mut group, "bf16", classes)?,
            ),
        ];
        group.finish();
        for (dtype, [fused, unfused, copy]) in timed {
            println!(
                "C = {classes} {dtype}: {}",
                Compared {
                    fused,
                    unfused,
                    copy
                }
            );
        }
    }
    criterion.final_summary();
    Ok(())
}

/// Time on the GPU and bytes that had to be moved in it.
#[derive(Clone, Copy, Debug, Default)]
struct Timed {
    bytes: u64,
    /// Of each iteration, in milliseconds; none where the command line's filter left the benchmark out.
    median: Option<f64>,
}

impl Timed {
    fn gigabytes_a_second(self) -> Option<f64> {
        self.median.map(|median| self.bytes as f64 / median / 1e6)
    }
}

/// One line of the summary.
struct Compared {
    fused: Timed,
    unfused: Timed,
    copy: Timed,
}

impl std::fmt::Display for Compared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let figures = |timed: Timed| Some((timed.median?, timed.gigabytes_a_second()?));
        let copy = figures(self.copy);
        for (name, timed) in [
            ("fused", self.fused),
            ("unfused", self.unfused),
            ("copy", self.copy),
        ] {
            let Some((median, rate)) = figures(timed) else {
                write!(f, "{name} not timed; ")?;
                continue;
            };
            write!(f, "{name} {:.1} µs, {rate:.0} GB/s", 1e3 * median)?;
            if let Some((_, most)) = copy.filter(|_| name != "copy") {
                write!(f, " ({:.0} % of a copy)", 100.0 * rate / most)?;
            }
            f.write_str("; ")?;
        }
        Ok(())
    }
}

/// A stream, a clock on it, and something to fill L2 with.
struct Gpu {
    stream: Arc<CudaStream>,
    start: CudaEvent,
    stop: CudaEvent,
    /// Twice as large as L2.
    flush: CudaSlice<u8>,
}

impl Gpu {
    fn new(context: &Arc<CudaContext>) -> Result<Self, Failure> {
        // cudarc's own events would run between the two that time a step.
        // SAFETY: one stream does all the work below; binding a loss waits for its own.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream()?;
        let l2 = context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?;
        let flush = stream.alloc_zeros::<u8>(2 * usize::try_from(l2)?.max(1 << 20))?;
        let event = || context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
        Ok(Self {
            start: event()?,
            stop: event()?,
            stream,
            flush,
        })
    }

    /// Milliseconds on the GPU of what `enqueue` puts into the stream, with nothing of it in L2 before.
    fn milliseconds(
        &mut self,
        enqueue: &mut impl FnMut(&Arc<CudaStream>) -> Result<(), Failure>,
    ) -> Result<f64, Failure> {
        // While this runs the host enqueues the rest, so that no launch is waited for between the events.
        self.stream.memset_zeros(&mut self.flush)?;
        self.start.record(&self.stream)?;
        enqueue(&self.stream)?;
        self.stop.record(&self.stream)?;
        Ok(f64::from(self.start.elapsed_ms(&self.stop)?))
    }

    /// Has criterion time `enqueue` by the GPU's clock.
    fn time(
        &mut self,
        group: &mut BenchmarkGroup<'_, WallTime>,
        id: BenchmarkId,
        bytes: u64,
        mut enqueue: impl FnMut(&Arc<CudaStream>) -> Result<(), Failure>,
    ) -> Result<Timed, Failure> {
        let mut all = Vec::new();
        let mut failure = None;
        group.throughput(Throughput::Bytes(bytes));
        group.bench_function(id, |bencher| {
            bencher.iter_custom(|iterations| {
                let mut total = 0.0;
                for _ in 0..iterations {
                    match self.milliseconds(&mut enqueue) {
                        Ok(time) => {
                            total += time;
                            all.push(time);
                        }
                        Err(error) => failure = Some(error),
                    }
                }
                // criterion cannot divide by nothing, and a failure ends the run below.
                Duration::from_secs_f64(total / 1e3).max(Duration::from_nanos(1))
            });
        });
        match failure {
            Some(failure) => Err(failure),
            None => {
                all.sort_by(f64::total_cmp);
                Ok(Timed {
                    bytes,
                    median: all.get(all.len() / 2).copied(),
                })
            }
        }
    }
}

/// Times fused, unfused and copy for one type and number of classes.
fn time_step<T: CudaElement + DeviceRepr>(
    gpu: &mut Gpu,
    group: &mut BenchmarkGroup<'_, WallTime>,
    dtype: &str,
    classes: usize,
) -> Result<[Timed; 3], Failure> {
    let mut batch = Batch::<T>::new(&gpu.stream, classes)?;
    let id = |what: &str| BenchmarkId::new(what, dtype);
    let fused = gpu.time(group, id("fused"), batch.least_bytes(), |stream| {
        batch.fused(stream)
    })?;
    let unfused = gpu.time(group, id("unfused"), batch.least_bytes(), |stream| {
        batch.unfused(stream)
    })?;
    batch.workspace.read(&gpu.stream)?;
    // It reads them and writes them.
    let copied = 2 * batch.logits.num_bytes() as u64;
    let copy = gpu.time(group, id("copy"), copied, |stream| batch.copy(stream))?;
    Ok([fused, unfused, copy])
}

/// A batch on the device.
struct Batch<T> {
    loss: CudaLoss,
    logits: CudaSlice<T>,
    labels: CudaSlice<i64>,
    gradient: CudaSlice<T>,
    scratch: CudaSlice<f32>,
    workspace: Workspace,
}

impl<T: CudaElement + DeviceRepr> Batch<T> {
    fn new(stream: &Arc<CudaStream>, classes: usize) -> Result<Self, Failure> {
        let rows = ELEMENTS / classes;
        let counts = ClassCounts::new(
            (0..classes as u64)
                .map(|class| 5 + 1000 / (class + 1))
                .collect::<Vec<_>>(),
        )?;
        let loss = Loss::builder(Objective::ala(), &counts)
            .build()?
            .cuda(stream.context())?;
        let mut random = fastrand::Rng::with_seed(1);
        let logits: Vec<T> = (0..rows * classes)
            .map(|_| T::from_f64(2.0 * random.f64() - 1.0))
            .collect();
        let labels: Vec<i64> = (0..rows).map(|_| random.usize(..classes) as i64).collect();
        let logits = stream.clone_htod(&logits)?;
        Ok(Self {
            labels: stream.clone_htod(&labels)?,
            gradient: stream.clone_dtod(&logits)?,
            scratch: stream.alloc_zeros(rows * classes + 2 * rows)?,
            workspace: loss.workspace(stream, rows)?,
            logits,
            loss,
        })
    }

    /// Logits, labels, gradient and row losses once. The class table is small against them, and stays in cache.
    fn least_bytes(&self) -> u64 {
        const ROW_LOSS: usize = size_of::<f32>();
        let bytes = self.logits.num_bytes()
            + self.gradient.num_bytes()
            + self.labels.num_bytes()
            + self.labels.len() * ROW_LOSS;
        bytes as u64
    }

    fn fused(&mut self, stream: &Arc<CudaStream>) -> Result<(), Failure> {
        let inputs = Inputs::new(&self.logits, &self.labels);
        let outputs = Outputs::new().gradient(&mut self.gradient);
        Ok(self
            .loss
            .launch(stream, inputs, outputs, &mut self.workspace)?)
    }

    fn unfused(&mut self, stream: &Arc<CudaStream>) -> Result<(), Failure> {
        let inputs = Inputs::new(&self.logits, &self.labels);
        let outputs = Outputs::new().gradient(&mut self.gradient);
        let (workspace, scratch) = (&mut self.workspace, &mut self.scratch);
        Ok(self
            .loss
            .launch_unfused(stream, inputs, outputs, workspace, scratch)?)
    }

    fn copy(&mut self, stream: &Arc<CudaStream>) -> Result<(), Failure> {
        Ok(stream.memcpy_dtod(&self.logits, &mut self.gradient)?)
    }
}
