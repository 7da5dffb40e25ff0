//! A loss over some of its classes, bound to a context: the two halves of a step.

use std::sync::{Arc, OnceLock};

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DevicePtrMut};

use super::bound::{CudaLoss, Logits, keep_mixed};
use super::call::{Options, Outputs};
use super::element::{CudaElement, CudaLabel};
use super::error::CudaError;
use super::guards::Guards;
use super::halves::{self, Records};
use super::image::{ELEMENTS, Steps};
use super::launch::RawStep;
use super::module::{self, ShardKernels, Unit};
use super::tiers::MOST_CLASSES;
use super::workspace::Workspace;
use crate::error::Error;
use crate::shape::{check_length, check_rows};
use crate::shard::{LossShard, RecordLayout};

/// A [`LossShard`] bound to a CUDA context: its classes' table is uploaded. `Send + Sync`; made by
/// [`LossShard::bind`].
///
/// Classifiers of very many classes are cut by class: each device holds some columns of the logits
/// `[N, C]` and all labels. A step has two halves, and between them every device tells the others
/// [a few numbers a row](Self::record_len) by an all-gather of NCCL's, or by whatever else moves
/// device memory. Neither half allocates, waits, or asks the host for anything, so that a step with
/// its exchange can be captured into a CUDA graph.
///
/// The first half reads the shard's logits once. The second reads them once more and writes the
/// gradient of the shard's classes. All shards come to the same row losses, to the bit, whatever
/// the order in which their blocks run.
///
/// ```no_run
/// use ala_loss::cuda::{self, Options, Outputs};
/// use ala_loss::{ClassCounts, Loss, Objective};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let context = cuda::context(0)?;
/// let stream = context.new_stream()?;
/// let loss = Loss::new(Objective::ala(), &ClassCounts::new([500, 50, 5])?)?;
/// // On one device here; elsewhere each process has one of them.
/// let shards = [loss.shard(0..2)?.bind(&context)?, loss.shard(2..3)?.bind(&context)?];
/// let cosines = [vec![0.8f32, 0.1, 0.2, 0.4], vec![-0.3, 0.1]]; // [N = 2, 2] and [N = 2, 1]
/// let cosines = [stream.clone_htod(&cosines[0])?, stream.clone_htod(&cosines[1])?];
/// let (labels, options) = (stream.clone_htod(&[0i64, 2])?, Options::new());
///
/// let len = 2 * shards[0].record_len(&options);
/// let mut gathered = stream.alloc_zeros::<f32>(2 * len)?; // as an all-gather leaves them
/// for (rank, (shard, cosines)) in shards.iter().zip(&cosines).enumerate() {
///     let mut records = gathered.slice_mut(rank * len..(rank + 1) * len);
///     shard.partial(&stream, cosines, &labels, &options, &mut records)?;
/// }
/// let mut gradient = stream.alloc_zeros::<f32>(4)?;
/// let mut workspace = shards[0].workspace(&stream, 2)?;
/// let outputs = Outputs::new().gradient(&mut gradient);
/// shards[0].finish(
///     &stream, &cosines[0], &labels, &options, &gathered, outputs, &mut workspace,
/// )?;
/// println!("{}", workspace.read(&stream)?.loss);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct CudaShard {
    shard: LossShard,
    /// Of its classes alone.
    part: CudaLoss,
    /// By element type, loaded when the first step has it.
    kernels: [OnceLock<Arc<ShardKernels>>; ELEMENTS.len()],
}

impl LossShard {
    /// Binds the shard to a context: uploads its classes' table.
    ///
    /// # Errors
    /// As [`Loss::bind`](crate::Loss::bind).
    pub fn bind(&self, context: &Arc<CudaContext>) -> Result<CudaShard, Error> {
        let classes = self.all_classes();
        if u32::try_from(classes).map_or(true, |classes| classes > MOST_CLASSES) {
            let most = MOST_CLASSES;
            return Err(CudaError::TooManyClasses { classes, most }.into());
        }
        let weighted = self.common_weight() != Some(1.0);
        let part = self.part().bind(context)?;
        module::check_there(context, Steps::Shard)?;
        Ok(CudaShard {
            shard: self.clone(),
            part: part.part_of(self.all_classes(), weighted),
            kernels: [const { OnceLock::new() }; ELEMENTS.len()],
        })
    }
}

impl CudaShard {
    /// The shard that is bound.
    pub fn shard(&self) -> &LossShard {
        &self.shard
    }

    /// The context that it is bound to.
    pub fn context(&self) -> &Arc<CudaContext> {
        self.part.context()
    }

    /// The numbers of a row, `f32` each, that the shards tell one another in a step with these
    /// options: as [`LossShard::record_len`], with [`Options::hits`] and [`Options::predictions`].
    pub fn record_len(&self, options: &Options<'_>) -> usize {
        self.layout(options).len()
    }

    fn layout(&self, options: &Options<'_>) -> RecordLayout {
        RecordLayout {
            weights: self.shard.common_weight().is_none(),
            mixed: options.mixed.is_some(),
            top1: options.hits || options.predictions,
        }
    }

    /// Allocates a workspace for the second half of steps of up to `rows` rows. Waits for `stream`.
    ///
    /// # Errors
    /// As [`CudaLoss::workspace`].
    pub fn workspace(&self, stream: &Arc<CudaStream>, rows: usize) -> Result<Workspace, Error> {
        self.part.workspace(stream, rows)
    }

    /// A workspace in the caller's memory.
    ///
    /// # Errors
    /// As [`CudaLoss::workspace_in`].
    pub fn workspace_in(
        &self,
        stream: &Arc<CudaStream>,
        memory: CudaSlice<u8>,
    ) -> Result<Workspace, Error> {
        self.part.workspace_in(stream, memory)
    }

    /// Loads the kernels for logits of type `T`, once a context. The first step of a type does so
    /// where it has not been done; while a stream is captured it cannot be done. They come as PTX,
    /// which the driver compiles where it has not done so before.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn load<T: CudaElement>(&self) -> Result<(), Error> {
        self.kernels::<T>()?;
        Ok(())
    }

    fn kernels<T: CudaElement>(&self) -> Result<&ShardKernels, CudaError> {
        let element = T::TYPE.0;
        let cell = &self.kernels[element as usize];
        if let Some(kernels) = cell.get() {
            return Ok(kernels);
        }
        let unit = Unit {
            steps: Steps::Shard,
            element,
            per_class: self.part.is_per_class(),
        };
        let kernels = module::load_shard(self.context(), unit)?;
        Ok(cell.get_or_init(|| kernels))
    }

    /// Enqueues the first half of a step: what this shard's classes come to, for the others.
    ///
    /// `logits` are `[N, K]` for its `K` classes, contiguous or with the options' stride; `labels`
    /// are of all classes, `[N]`. The `records` are `[N, R]` with `R` of
    /// [`record_len`](Self::record_len): to be read by [`finish`](Self::finish), on every shard,
    /// and by nobody else. Those of the CPU path are others.
    ///
    /// Of the options those that are of the gradient alone matter in the second half. A bad label
    /// is reported by the second half too.
    ///
    /// # Errors
    /// [`Error::LogitsShape`], [`Error::StridedBuffer`], [`Error::Stride`], [`Error::Length`],
    /// [`CudaError::OtherContext`], [`CudaError::Driver`]. Nothing is launched then.
    pub fn partial<T: CudaElement, L: CudaLabel>(
        &self,
        stream: &Arc<CudaStream>,
        logits: &impl DevicePtr<T>,
        labels: &impl DevicePtr<L>,
        options: &Options<'_>,
        records: &mut impl DevicePtrMut<f32>,
    ) -> Result<(), Error> {
        let (rows, classes) = (labels.len(), self.part.loss().classes());
        let stride = check_rows("logits", logits.len(), rows, classes, options.stride)?;
        let layout = self.layout(options);
        let expected = rows.saturating_mul(layout.len());
        check_length("records", Some(records.len()), expected)?;
        self.part.check_owner("logits", logits.stream())?;
        self.part.check_owner("labels", labels.stream())?;
        self.part.check_owner("records", records.stream())?;
        self.part.check_stream(stream)?;
        self.part.check_targets(options, rows)?;
        self.part.make_current()?;
        let kernels = self.kernels::<T>()?;

        let mut guards = Guards::default();
        let logits = guards.keep(logits.device_ptr(stream));
        let row_weights = options.row_weights;
        let step = RawStep {
            logits_stride: stride,
            row_weights: row_weights.map(|weights| guards.keep(weights.device_ptr(stream))),
            mixed: keep_mixed(options, &mut guards, stream),
            ..RawStep::new(
                rows,
                classes,
                logits,
                guards.keep(labels.device_ptr(stream)),
            )
        };
        let table = self.part.keep_table(&mut guards, stream);
        let records = Records {
            own: guards.keep(records.device_ptr_mut(stream)),
            ..Records::default()
        };
        let recipe = self.part.recipe::<L>(table, &step);
        let parameters = halves::parameters(&self.shard, &recipe, layout, records);
        // SAFETY: every buffer was checked, lives in this context, and is kept in order by its
        // guard; without a row no address is read.
        unsafe {
            halves::partial(kernels, stream.cu_stream(), &parameters, options.overlap)?;
        }
        Ok(())
    }

    /// Enqueues the second half of a step: from what all shards have told the loss, and the
    /// gradient of this one's classes.
    ///
    /// Logits, labels and options are those of [`partial`](Self::partial). `gathered` is
    /// `[S, N, R]`: the records of all `S` shards one after the other, this one's among them, in
    /// the same order on every shard. What `outputs` leaves out is not computed; hits, predictions
    /// and running counts, which are of all classes, must have been asked for in the options of
    /// both halves.
    ///
    /// # Errors
    /// As [`CudaLoss::launch`], and [`Error::Misplaced`] for what the options of the halves did not
    /// ask for. Nothing is launched then. [`Workspace::read`] tells of bad labels, and with
    /// [`Error::ShardsOfLabel`] of a label that is of no shard's classes, or of two shards'.
    #[expect(
        clippy::too_many_arguments,
        reason = "those of `launch`, and the records"
    )]
    pub fn finish<T: CudaElement, L: CudaLabel>(
        &self,
        stream: &Arc<CudaStream>,
        logits: &impl DevicePtr<T>,
        labels: &impl DevicePtr<L>,
        options: &Options<'_>,
        gathered: &impl DevicePtr<f32>,
        outputs: Outputs<'_, T>,
        workspace: &mut Workspace,
    ) -> Result<(), Error> {
        let logits = Logits::Read(logits);
        self.enqueue(
            stream, logits, labels, options, gathered, outputs, workspace,
        )
    }

    /// [`finish`](Self::finish), the gradient written **over the logits**.
    ///
    /// # Errors
    /// As [`finish`](Self::finish), and [`Error::GradientBufferInPlace`] where `outputs` has a
    /// gradient buffer.
    #[expect(
        clippy::too_many_arguments,
        reason = "those of `launch`, and the records"
    )]
    pub fn finish_in_place<T: CudaElement, L: CudaLabel>(
        &self,
        stream: &Arc<CudaStream>,
        logits: &mut impl DevicePtrMut<T>,
        labels: &impl DevicePtr<L>,
        options: &Options<'_>,
        gathered: &impl DevicePtr<f32>,
        outputs: Outputs<'_, T>,
        workspace: &mut Workspace,
    ) -> Result<(), Error> {
        if outputs.gradient.is_some() {
            return Err(Error::GradientBufferInPlace);
        }
        let logits = Logits::Over(logits);
        self.enqueue(
            stream, logits, labels, options, gathered, outputs, workspace,
        )
    }

    #[expect(clippy::too_many_arguments, reason = "those of the calls")]
    fn enqueue<T: CudaElement, L: CudaLabel>(
        &self,
        stream: &Arc<CudaStream>,
        logits: Logits<'_, T>,
        labels: &dyn DevicePtr<L>,
        options: &Options<'_>,
        gathered: &dyn DevicePtr<f32>,
        outputs: Outputs<'_, T>,
        workspace: &mut Workspace,
    ) -> Result<(), Error> {
        let layout = self.layout(options);
        let shards = shards_of(gathered.len(), labels.len(), layout)?;
        self.part
            .check_owner("shards' records", gathered.stream())?;
        let unasked = outputs.hits.is_some() && !options.hits
            || outputs.predictions.is_some() && !options.predictions
            || outputs.class_counts.is_some() && !layout.top1;
        if unasked {
            return Err(Error::Misplaced {
                given: "a buffer for hits, predictions or class counts",
                instead: "the options of both halves of a shard's step must ask for them too",
            });
        }
        self.part.check_stream(stream)?;
        self.part.make_current()?;
        let kernels = self.kernels::<T>()?;
        let (gathered, _guard) = gathered.device_ptr(stream);
        let records = Records {
            gathered,
            shards,
            ..Records::default()
        };
        self.part.enqueue(
            stream,
            logits,
            labels,
            options,
            outputs,
            workspace,
            |_, recipe| {
                let parameters = halves::parameters(&self.shard, recipe, layout, records);
                let stream = stream.cu_stream();
                // SAFETY: every buffer was checked, lives in this context, and is kept in order by
                // its guard.
                unsafe { halves::finish(kernels, stream, &parameters, options.overlap) }
            },
        )
    }
}

/// How many shards have told their records of so many rows.
fn shards_of(numbers: usize, rows: usize, layout: RecordLayout) -> Result<usize, Error> {
    let of_shard = rows.saturating_mul(layout.len());
    let shards = numbers.checked_div(of_shard).unwrap_or(1);
    if numbers != shards * of_shard || shards == 0 {
        return Err(Error::Length {
            name: "the shards' records",
            got: numbers,
            expected: shards.max(1).saturating_mul(of_shard),
        });
    }
    Ok(shards)
}
