//! A batch on the device, and what may be put into a stream for it.

use std::ops::Range;
use std::sync::Arc;

use ala_loss::cuda::instruments::{Instruments, LaunchShape, TIERS, Tier};
use ala_loss::cuda::{CudaElement, CudaLoss, Options, Outputs, Workspace};
use ala_loss::{ClassCounts, Lambda, Loss, Objective};
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr};
use half::{bf16, f16};

use crate::Failure;
use crate::record::{Counted, Op};

/// A type of logits that the kernels have.
pub trait Logit: CudaElement + DeviceRepr {
    /// As in the kernels' names.
    const NAME: &'static str;
}

impl Logit for f32 {
    const NAME: &'static str = "f32";
}
impl Logit for f16 {
    const NAME: &'static str = "f16";
}
impl Logit for bf16 {
    const NAME: &'static str = "bf16";
}

/// Calls a function once for each type of logits, in the order of their importance.
#[macro_export]
macro_rules! each_type {
    ($function:ident($($argument:expr),* $(,)?)) => {{
        $function::<f32>($($argument),*)?;
        $function::<half::bf16>($($argument),*)?;
        $function::<half::f16>($($argument),*)?;
    }};
}

/// Device memory that all batches of a type share, so that it is filled once.
#[derive(Debug)]
pub struct Arena<T> {
    logits: CudaSlice<T>,
    gradient: CudaSlice<T>,
    /// Of the unfused baseline.
    scratch: CudaSlice<f32>,
}

impl<T: Logit> Arena<T> {
    /// Random cosines, `elements` of them, and room for as much gradient and for the baseline with
    /// up to `most_rows` rows.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn new(
        stream: &Arc<CudaStream>,
        elements: usize,
        most_rows: usize,
    ) -> Result<Self, Failure> {
        let mut random = fastrand::Rng::with_seed(1);
        let logits: Vec<T> = (0..elements)
            .map(|_| T::from_f64(f64::from(2.0 * random.f32() - 1.0)))
            .collect();
        let logits = stream.clone_htod(&logits)?;
        Ok(Self {
            gradient: stream.clone_dtod(&logits)?,
            scratch: stream.alloc_zeros(elements + 2 * most_rows)?,
            logits,
        })
    }

    /// Logits that it holds.
    pub fn elements(&self) -> usize {
        self.logits.len()
    }

    /// The gradient as bytes' worth of bits, for comparisons.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn gradient(&self, stream: &Arc<CudaStream>, elements: usize) -> Result<Vec<T>, Failure> {
        let gradient = stream.clone_dtoh(&self.gradient.slice(..elements))?;
        stream.synchronize()?;
        Ok(gradient)
    }
}

/// Elements between the starts of two sets are a multiple of this, so that each starts at a line of
/// the cache.
const ALIGNED: usize = 128;

/// A loss, labels and a workspace, on rows that lie in an [`Arena`]: in one set, or in several that
/// take turns.
#[derive(Debug)]
pub struct Batch {
    loss: CudaLoss,
    smoothed: CudaLoss,
    labels: CudaSlice<i64>,
    second_labels: CudaSlice<i64>,
    row_losses: CudaSlice<f32>,
    workspace: Workspace,
    rows: usize,
    classes: usize,
    sets: usize,
    turn: usize,
}

/// An objective with one slope for all classes, or with a map for each.
fn objective(per_class: bool) -> Objective {
    match per_class {
        true => Objective::LogitAdjustment { tau: 1.0 },
        false => Objective::ala(),
    }
}

/// Long-tailed counts of so many classes.
///
/// # Errors
/// Where there are none.
fn counts(classes: usize) -> Result<ClassCounts, Failure> {
    let counts: Vec<u64> = (0..classes as u64)
        .map(|class| 5 + 1000 / (class + 1))
        .collect();
    Ok(ClassCounts::new(counts)?)
}

/// Logits, labels, gradient and row losses once. The class table is small against them, and stays
/// in cache.
fn least_bytes<T>(rows: usize, classes: usize) -> u64 {
    let bytes = 2 * rows * classes * size_of::<T>() + rows * (size_of::<i64>() + size_of::<f32>());
    bytes as u64
}

/// How much of a mixed row is its first label's, and how much of a label is smoothed.
const LAMBDA: f32 = 0.7;
const SMOOTHING: f64 = 0.1;

impl Batch {
    /// `sets` batches of `rows` rows, as far as an arena of `elements` logits holds so many; at
    /// least one.
    ///
    /// # Errors
    /// Those of the driver, and where not even one fits.
    pub fn new(
        stream: &Arc<CudaStream>,
        per_class: bool,
        [rows, classes]: [usize; 2],
        sets: usize,
        elements: usize,
    ) -> Result<Self, Failure> {
        let counts = counts(classes)?;
        let loss = Loss::builder(objective(per_class), &counts);
        let smoothed = loss.clone().label_smoothing(SMOOTHING).build()?;
        let loss = loss.build()?.bind(stream.context())?;
        let mut random = fastrand::Rng::with_seed(2);
        let mut labels = || -> Vec<i64> {
            let labels = (0..rows).map(|_| random.usize(..classes) as i64);
            labels.collect()
        };
        let (labels, second_labels) = (labels(), labels());
        let fitting = elements / (rows * classes).next_multiple_of(ALIGNED);
        if fitting == 0 && rows * classes > elements {
            return Err(format!("{rows} x {classes} logits do not fit into {elements}").into());
        }
        Ok(Self {
            labels: stream.clone_htod(&labels)?,
            second_labels: stream.clone_htod(&second_labels)?,
            smoothed: smoothed.bind(stream.context())?,
            row_losses: stream.alloc_zeros(rows)?,
            workspace: loss.workspace(stream, rows)?,
            loss,
            rows,
            classes,
            sets: sets.min(fitting).max(1),
            turn: 0,
        })
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Logits of a set.
    pub fn elements(&self) -> usize {
        self.rows * self.classes
    }

    /// Bytes that `op` moves at least.
    pub fn bytes<T>(&self, op: Op) -> u64 {
        match op {
            Op::Fused | Op::Overlapped | Op::Smoothed | Op::Unfused => {
                least_bytes::<T>(self.rows, self.classes)
            }
            Op::Mixed => {
                let second = (self.rows * size_of::<i64>()) as u64;
                least_bytes::<T>(self.rows, self.classes) + second
            }
            Op::Copy => 2 * self.copied::<T>(),
            Op::DriverCopy => 2 * (self.elements() * size_of::<T>()) as u64,
            Op::Empty => 0,
        }
    }

    /// Whole vectors of a set.
    fn copied<T>(&self) -> u64 {
        (self.elements() * size_of::<T>()) as u64 / 16 * 16
    }

    /// The bound loss.
    pub fn loss(&mut self) -> &mut CudaLoss {
        &mut self.loss
    }

    /// Puts one of the sets, the next, through `op`.
    ///
    /// # Errors
    /// Those of the crate and of the driver.
    pub fn enqueue<T: Logit>(
        &mut self,
        op: Op,
        arena: &mut Arena<T>,
        instruments: &Instruments,
        stream: &Arc<CudaStream>,
    ) -> Result<(), Failure> {
        let (set, copied) = (self.next_set(), self.copied::<T>());
        let logits = arena.logits.slice(set.clone());
        let mut gradient = arena.gradient.slice_mut(set);
        match op {
            Op::Fused | Op::Overlapped | Op::Mixed | Op::Smoothed | Op::Unfused => {
                let mut options = Options::new().overlap(op == Op::Overlapped);
                if op == Op::Mixed {
                    options = options.mixed_with(&self.second_labels, Lambda::Scalar(LAMBDA));
                }
                let options = &options;
                let labels = &self.labels;
                let outputs = Outputs::new()
                    .gradient(&mut gradient)
                    .row_losses(&mut self.row_losses);
                let workspace = &mut self.workspace;
                match op {
                    Op::Fused | Op::Overlapped | Op::Mixed => self
                        .loss
                        .launch(stream, &logits, labels, options, outputs, workspace)?,
                    Op::Smoothed => self
                        .smoothed
                        .launch(stream, &logits, labels, options, outputs, workspace)?,
                    _ => instruments.unfused(
                        &self.loss,
                        stream,
                        &logits,
                        labels,
                        options,
                        outputs,
                        workspace,
                        &mut arena.scratch,
                    )?,
                }
            }
            Op::Copy => {
                let (from, _reads) = logits.device_ptr(stream);
                let (to, _writes) = gradient.device_ptr_mut(stream);
                // SAFETY: two buffers of the arena, each of at least so many bytes, kept by their
                // guards.
                unsafe { instruments.copy(stream.cu_stream(), from, to, copied)? };
            }
            Op::DriverCopy => stream.memcpy_dtod(&logits, &mut gradient)?,
            Op::Empty => instruments.empty(stream)?,
        }
        Ok(())
    }

    fn next_set(&mut self) -> Range<usize> {
        let start = self.turn * self.elements().next_multiple_of(ALIGNED);
        self.turn = (self.turn + 1) % self.sets;
        start..start + self.elements()
    }

    /// A graph of `steps` times `op`, over the sets in turns.
    ///
    /// # Errors
    /// Those of [`enqueue`](Self::enqueue), and where the stream cannot be captured.
    pub fn graph<T: Logit>(
        &mut self,
        op: Op,
        steps: usize,
        arena: &mut Arena<T>,
        instruments: &Instruments,
        stream: &Arc<CudaStream>,
    ) -> Result<CudaGraph, Failure> {
        // Nothing can be loaded while a stream is captured.
        match op {
            Op::Mixed | Op::Smoothed => self.loss.load_recipes::<T>()?,
            _ => self.loss.load::<T>()?,
        }
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        let enqueued =
            (0..steps).try_for_each(|_| self.enqueue::<T>(op, arena, instruments, stream));
        // Also where enqueueing failed: the stream must not stay captured.
        let graph = stream
            .end_capture(CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);
        enqueued?;
        graph?.ok_or_else(|| "nothing was captured".into())
    }

    /// Waits, and fails where a launch did or met a label that is no class. The reduced loss.
    ///
    /// # Errors
    /// As said.
    pub fn finish(&mut self, stream: &Arc<CudaStream>) -> Result<f64, Failure> {
        let loss = self.workspace.read(stream)?.loss;
        match loss.is_finite() {
            true => Ok(loss),
            false => Err(format!("a step's loss is {loss}").into()),
        }
    }

    /// The row losses of the last step.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn row_losses(&self, stream: &Arc<CudaStream>) -> Result<Vec<f32>, Failure> {
        let losses = stream.clone_dtoh(&self.row_losses)?;
        stream.synchronize()?;
        Ok(losses)
    }

    /// The shape that stands for a tier where this batch goes to it: the crate's own, or blocks as
    /// large and as many as the crate would take.
    ///
    /// # Errors
    /// Those of the crate.
    pub fn shape_of_tier<T: Logit>(&self, tier: &str) -> Result<Option<LaunchShape>, Failure> {
        let own = self.loss.launch_shape::<T>(self.rows)?;
        if own.tier == tier {
            return Ok(Some(own));
        }
        let mut shapes = self.loss.launch_shapes::<T>(self.rows)?;
        shapes.retain(|shape| shape.tier == tier);
        let most = shapes.iter().map(|shape| shape.threads).max();
        Ok(shapes
            .into_iter()
            .filter(|shape| Some(shape.threads) == most)
            .max_by_key(|shape| (shape.blocks_per_multiprocessor, shape.parts)))
    }
}

/// A tier, and a batch for it.
#[derive(Clone, Copy, Debug)]
pub struct TierCase {
    /// The tier.
    pub tier: &'static Tier,
    /// Which of its kernels.
    pub per_class: bool,
    /// Rows.
    pub rows: usize,
    /// Classes.
    pub classes: usize,
}

/// Classes of the tiers that take any number of them: more than one block's shared memory holds of
/// `f32`.
const MANY: usize = 60_000;

impl TierCase {
    /// Every kernel that a step may go to, with as many classes as it takes and about `elements`
    /// logits; two rows at least.
    pub fn all(elements: usize) -> impl Iterator<Item = Self> {
        TIERS.iter().flat_map(move |tier| {
            [false, true].into_iter().filter_map(move |per_class| {
                let classes = (tier.most_classes(per_class) as usize).min(MANY);
                (classes > 0).then(|| Self {
                    tier,
                    per_class,
                    rows: (elements / classes).clamp(2, 1 << 16),
                    classes,
                })
            })
        })
    }

    /// Logits of its batch.
    pub fn elements(&self) -> usize {
        self.rows * self.classes
    }

    /// Its kernel for a type, with nothing counted: the one of [`Op::Fused`].
    pub fn kernel<T: Logit>(&self) -> Counted {
        let map = if self.per_class {
            "per_class"
        } else {
            "uniform"
        };
        Counted {
            kernel: format!("ala_{}_{}_{map}", self.tier.name, T::NAME),
            tier: self.tier.name.into(),
            dtype: T::NAME.into(),
            n: self.rows,
            c: self.classes,
            least_bytes: least_bytes::<T>(self.rows, self.classes),
            ..Counted::default()
        }
    }

    /// Its kernel for each type.
    pub fn kernels(&self) -> [Counted; 3] {
        [
            self.kernel::<f32>(),
            self.kernel::<bf16>(),
            self.kernel::<f16>(),
        ]
    }

    /// The batch, bound to launch in the tier.
    ///
    /// # Errors
    /// Those of the crate, and where the tier does not take it on this device.
    pub fn batch<T: Logit>(&self, stream: &Arc<CudaStream>) -> Result<Batch, Failure> {
        let shape = [self.rows, self.classes];
        let mut batch = Batch::new(stream, self.per_class, shape, 1, self.elements())?;
        let shape = batch
            .shape_of_tier::<T>(self.tier.name)?
            .ok_or_else(|| format!("{} does not take {shape:?} here", self.tier.name))?;
        batch.loss().set_launch_shape(Some(shape));
        Ok(batch)
    }
}
