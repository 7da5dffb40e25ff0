//! A linear cosine classifier trained on device memory, with cudarc alone: the loss in place over
//! the cosines, stochastic gradient descent, and the whole step captured in a CUDA graph.
//!
//! ```text
//! cargo run --release --features cuda --example cuda_training
//! ```
//!
//! Without a GPU it says so and ends with an error.

use std::process::ExitCode;
use std::sync::Arc;

use ala_loss::cuda::{self, CudaLoss, Options, Outputs, Workspace, driver_error};
use ala_loss::metrics::Accuracy;
use ala_loss::{ClassCounts, Error, GroupThresholds, Loss, Objective};
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{
    CudaFunction, CudaSlice, CudaStream, DriverError, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use fastrand::Rng;

const CLASSES: usize = 20;
const WIDTH: usize = 16;
const BATCH: usize = 64;
const STEPS: u32 = 500;
const RATE: f32 = 0.1;
/// The only moments at which the host waits.
const STEPS_BETWEEN_LOOKS: u32 = 100;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let context = cuda::context(0)?;
    // One stream, so that no event has to order anything; a capture could not wait for them.
    // SAFETY: everything below uses this one stream.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().map_err(driver_error)?;

    let data = Data::long_tailed();
    let loss = Loss::builder(Objective::ala(), &data.counts)
        .scale(16.0)
        .build()?
        .bind(&context)?;
    // A capture cannot hold what loads kernels.
    loss.load::<f32>()?;
    let mut trainer = Trainer::new(&stream, loss, &data)?;

    println!("accuracy before: {}", trainer.accuracy(&data)?);
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    stream.begin_capture(mode).map_err(driver_error)?;
    let captured = trainer.step();
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).map_err(driver_error)?;
    captured?;
    let graph = graph.ok_or("the capture holds no graph")?;
    for step in 1..=STEPS {
        graph.launch().map_err(driver_error)?;
        if step % STEPS_BETWEEN_LOOKS == 0 {
            // Waits, and reports a label out of range.
            let summary = trainer.workspace.read(&stream)?;
            println!("step {step}: loss {:.4}", summary.loss);
        }
    }
    println!("accuracy after: {}", trainer.accuracy(&data)?);
    Ok(())
}

/// Everything that lives on the device.
struct Trainer {
    stream: Arc<CudaStream>,
    kernels: Kernels,
    loss: CudaLoss,
    workspace: Workspace,
    all_features: CudaSlice<f32>,
    all_labels: CudaSlice<u32>,
    rows: u32,
    step: CudaSlice<u32>,
    features: CudaSlice<f32>,
    labels: CudaSlice<u32>,
    weight: CudaSlice<f32>,
    unit: CudaSlice<f32>,
    lengths: CudaSlice<f32>,
    /// Become their own gradient.
    cosines: CudaSlice<f32>,
    scratch: CudaSlice<f32>,
}

struct Kernels {
    take_batch: CudaFunction,
    unit_rows: CudaFunction,
    cosines: CudaFunction,
    descend: CudaFunction,
}

impl Kernels {
    fn load(stream: &CudaStream) -> Result<Self, DriverError> {
        let module = stream
            .context()
            .load_module(Ptx::from_src(include_str!("kernels.ptx")))?;
        Ok(Self {
            take_batch: module.load_function("take_batch")?,
            unit_rows: module.load_function("unit_rows")?,
            cosines: module.load_function("cosines")?,
            descend: module.load_function("descend")?,
        })
    }
}

fn grid(blocks: usize, threads: u32) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (blocks as u32, 1, 1),
        block_dim: (threads, 1, 1),
        shared_mem_bytes: 0,
    }
}

impl Trainer {
    fn new(stream: &Arc<CudaStream>, loss: CudaLoss, data: &Data) -> Result<Self, Error> {
        let rows = data.labels.len();
        let workspace = loss.workspace(stream, BATCH.max(rows))?;
        let make = || -> Result<Self, DriverError> {
            Ok(Self {
                stream: Arc::clone(stream),
                kernels: Kernels::load(stream)?,
                loss,
                workspace,
                all_features: stream.clone_htod(&data.features)?,
                all_labels: stream.clone_htod(&data.labels)?,
                rows: rows as u32,
                step: stream.alloc_zeros(1)?,
                features: stream.alloc_zeros(BATCH * WIDTH)?,
                labels: stream.alloc_zeros(BATCH)?,
                weight: stream.clone_htod(&numbers(&mut Rng::with_seed(7), CLASSES * WIDTH))?,
                unit: stream.alloc_zeros(CLASSES * WIDTH)?,
                lengths: stream.alloc_zeros(CLASSES)?,
                cosines: stream.alloc_zeros(BATCH * CLASSES)?,
                scratch: stream.alloc_zeros(CLASSES * WIDTH)?,
            })
        };
        make().map_err(driver_error)
    }

    /// Enqueues a step. It waits for nothing and allocates nothing, so that a graph can hold it.
    fn step(&mut self) -> Result<(), Error> {
        let (width, classes, rows) = (WIDTH as u32, CLASSES as u32, BATCH as u32);
        let stream = Arc::clone(&self.stream);
        let enqueue = |result: Result<_, DriverError>| result.map(drop).map_err(driver_error);
        let mut launch = stream.launch_builder(&self.kernels.take_batch);
        launch.arg(&self.all_features).arg(&self.all_labels);
        launch.arg(&self.step).arg(&self.rows).arg(&width);
        launch.arg(&mut self.features).arg(&mut self.labels);
        // SAFETY: the kernel's parameters, and room for BATCH rows.
        enqueue(unsafe { launch.launch(grid(BATCH, 32)) })?;

        let mut launch = stream.launch_builder(&self.kernels.unit_rows);
        launch.arg(&self.weight).arg(&width);
        launch.arg(&mut self.unit).arg(&mut self.lengths);
        // SAFETY: the kernel's parameters, and room for CLASSES rows.
        enqueue(unsafe { launch.launch(grid(CLASSES, 32)) })?;

        let mut launch = stream.launch_builder(&self.kernels.cosines);
        launch.arg(&self.features).arg(&self.unit);
        launch.arg(&classes).arg(&width).arg(&mut self.cosines);
        // SAFETY: the kernel's parameters, and room for BATCH rows of CLASSES.
        enqueue(unsafe { launch.launch(grid(BATCH, 32)) })?;

        // Loss and gradient, in place.
        self.loss.launch_in_place(
            &stream,
            &mut self.cosines,
            &self.labels,
            &Options::new(),
            Outputs::new(),
            &mut self.workspace,
        )?;

        let mut launch = stream.launch_builder(&self.kernels.descend);
        launch.arg(&self.cosines).arg(&self.features);
        launch.arg(&self.unit).arg(&self.lengths);
        launch.arg(&rows).arg(&width).arg(&RATE);
        launch.arg(&mut self.scratch).arg(&mut self.weight);
        launch.arg(&mut self.step);
        // SAFETY: the kernel's parameters, a warp for each class.
        enqueue(unsafe { launch.launch(grid(CLASSES, 32)) })
    }

    /// Of all samples, by the op's hits.
    fn accuracy(&mut self, data: &Data) -> Result<String, Failure> {
        let (width, classes, rows) = (WIDTH as u32, CLASSES as u32, data.labels.len());
        let stream = Arc::clone(&self.stream);
        let mut cosines = stream
            .alloc_zeros::<f32>(rows * CLASSES)
            .map_err(driver_error)?;
        let mut hits = stream.alloc_zeros::<u8>(rows).map_err(driver_error)?;
        let mut launch = stream.launch_builder(&self.kernels.unit_rows);
        launch.arg(&self.weight).arg(&width);
        launch.arg(&mut self.unit).arg(&mut self.lengths);
        // SAFETY: the kernel's parameters, and room for CLASSES rows.
        unsafe { launch.launch(grid(CLASSES, 32)) }.map_err(driver_error)?;
        let mut launch = stream.launch_builder(&self.kernels.cosines);
        launch.arg(&self.all_features).arg(&self.unit);
        launch.arg(&classes).arg(&width).arg(&mut cosines);
        // SAFETY: the kernel's parameters, and room for all rows of CLASSES.
        unsafe { launch.launch(grid(rows, 32)) }.map_err(driver_error)?;
        let (options, outputs) = (Options::new(), Outputs::new().hits(&mut hits));
        let workspace = &mut self.workspace;
        self.loss.launch(
            &stream,
            &cosines,
            &self.all_labels,
            &options,
            outputs,
            workspace,
        )?;
        workspace.read(&stream)?;
        let hits = stream.clone_dtoh(&hits).map_err(driver_error)?;
        stream.synchronize().map_err(driver_error)?;
        let hits: Vec<bool> = hits.into_iter().map(|hit| hit == 1).collect();
        let thresholds = GroupThresholds::new(40, 10)?;
        let accuracy = Accuracy::from_hits(&data.labels, &hits, &data.counts, thresholds)?;
        let per_cent = |part: Option<f64>| 100.0 * part.unwrap_or(f64::NAN);
        Ok(format!(
            "{:.1} % overall, {:.1} % few-shot",
            per_cent(accuracy.overall),
            per_cent(accuracy.few)
        ))
    }
}

/// Features of length 1 around a direction for each class, fewer and fewer of them.
struct Data {
    features: Vec<f32>,
    labels: Vec<u32>,
    counts: ClassCounts,
}

impl Data {
    fn long_tailed() -> Self {
        let mut random = Rng::with_seed(1);
        let centers = numbers(&mut random, CLASSES * WIDTH);
        let counts: Vec<u64> = (0..CLASSES)
            .map(|c| (90.0 * 0.85f64.powi(c as i32)) as u64 + 2)
            .collect();
        let mut samples: Vec<(Vec<f32>, u32)> = Vec::new();
        for (class, &count) in counts.iter().enumerate() {
            for _ in 0..count {
                let noise = numbers(&mut random, WIDTH);
                let center = &centers[class * WIDTH..][..WIDTH];
                let sample: Vec<f32> = center.iter().zip(noise).map(|(c, n)| c + 0.4 * n).collect();
                let length = sample.iter().map(|x| x * x).sum::<f32>().sqrt();
                samples.push((sample.iter().map(|x| x / length).collect(), class as u32));
            }
        }
        // Batches are taken one after the other, so that their order is mixed here.
        random.shuffle(&mut samples);
        Self {
            features: samples
                .iter()
                .flat_map(|(features, _)| features)
                .copied()
                .collect(),
            labels: samples.iter().map(|&(_, label)| label).collect(),
            counts: ClassCounts::new(counts).expect("every class has samples"),
        }
    }
}

/// In [-1, 1).
fn numbers(random: &mut Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| 2.0 * random.f32() - 1.0).collect()
}
