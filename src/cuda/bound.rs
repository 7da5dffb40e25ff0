//! A loss bound to a context: what its calls check before they launch.

use std::sync::{Arc, OnceLock};

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, sys};

use super::abi::{ALA_BY_ROWS, ALA_COUNTED, ALA_WEIGHTED, AlaRecipe};
use super::call::{Options, Outputs};
use super::element::{CudaElement, CudaLabel};
use super::error::{CudaError, driver};
use super::guards::{Guards, address_of};
use super::image::{ELEMENTS, Steps};
use super::launch::{self, Constants, How, LabelType, OwnAddresses, RawMixed, RawStep};
use super::module::{self, ElementType, Kernels, Unit};
use super::pack::{self, Packed};
#[cfg(feature = "instruments")]
use super::plan::Batch;
use super::plan::LaunchShape;
use super::tiers::MOST_CLASSES;
use super::workspace::{BLOCKS, ROW_LOSSES, Workspace};
use crate::call::{Divisor, Lambda, Upstream};
use crate::counts::ClassCounts;
use crate::error::{Error, check_parameter};
use crate::loss::Loss;
use crate::reduction::Reduction;
use crate::shape::{check_length, check_rows};

/// A [`Loss`] bound to a CUDA context: its table is uploaded, and kernels are loaded by element
/// type when the first step needs them, or by [`load`](Self::load). `Send + Sync`; made by
/// [`Loss::bind`].
///
/// The table lives on the context's default stream. Where cudarc orders nothing (its event tracking
/// is off, or a stream is borrowed from another library), drop the loss when its launches have
/// ended.
#[derive(Debug)]
pub struct CudaLoss {
    loss: Loss,
    context: Arc<CudaContext>,
    /// By steps, then element type, loaded when the first step has them.
    kernels: [[OnceLock<Arc<Kernels>>; ELEMENTS.len()]; 2],
    targets: CudaSlice<u8>,
    others: Option<CudaSlice<u8>>,
    weighed: Option<CudaSlice<u8>>,
    exact: CudaSlice<u8>,
    targets_address: u64,
    others_address: u64,
    weighed_address: u64,
    exact_address: u64,
    constants: Constants,
    /// Its classes; of a part of a loss those of the whole, which its running counts are of.
    all_classes: usize,
    /// Other than the crate's own; only instruments set it.
    pub(super) launch_shape: Option<LaunchShape>,
}

impl Loss {
    /// Binds the loss to a context: uploads the class table.
    ///
    /// # Errors
    /// [`CudaError::NotBuilt`], [`CudaError::TooManyClasses`],
    /// [`CudaError::Driver`]; [`Error::Parameter`] where a class weight is neither 0 nor from
    /// `1e-20` to `1e20`.
    pub fn bind(&self, context: &Arc<CudaContext>) -> Result<CudaLoss, Error> {
        if u32::try_from(self.classes()).map_or(true, |classes| classes > MOST_CLASSES) {
            return Err(CudaError::TooManyClasses {
                classes: self.classes(),
                most: MOST_CLASSES,
            }
            .into());
        }
        check_weights(self)?;
        let smooths = self.label_smoothing() > 0.0;
        let packed = pack::pack(self);
        module::check_there(context, if smooths { Steps::Recipe } else { Steps::Plain })?;
        // Not a stream of its own: as long as there is one, cudarc records an event at every use of
        // every slice of the context.
        let stream = context.default_stream();
        let upload = |bytes: &[u8]| {
            stream
                .clone_htod(bytes)
                .map_err(driver("uploading the class table"))
        };
        let table = Table::new(&packed);
        let targets = upload(&table.targets)?;
        let of_classes = |bytes: &[u8]| match bytes {
            [] => Ok(None),
            bytes => upload(bytes).map(Some),
        };
        let others = of_classes(table.others)?;
        let weighed = of_classes(table.weighed)?;
        let exact = upload(table.exact)?;
        // Every stream may use the table from here on, whether or not cudarc tracks events.
        stream
            .synchronize()
            .map_err(driver("uploading the class table"))?;
        Ok(CudaLoss {
            loss: self.clone(),
            context: Arc::clone(context),
            kernels: [const { [const { OnceLock::new() }; ELEMENTS.len()] }; 2],
            targets_address: address_of(&targets, &stream),
            others_address: others
                .as_ref()
                .map_or(0, |others| address_of(others, &stream)),
            weighed_address: weighed
                .as_ref()
                .map_or(0, |weighed| address_of(weighed, &stream)),
            exact_address: address_of(&exact, &stream),
            targets,
            others,
            weighed,
            exact,
            constants: Constants {
                slope: packed.slope,
                weighted: packed.weighted,
            },
            all_classes: self.classes(),
            launch_shape: None,
        })
    }
}

/// The class table as it is uploaded.
struct Table<'a> {
    /// With what all classes have together behind them.
    targets: Vec<u8>,
    others: &'a [u8],
    weighed: &'a [u8],
    exact: &'a [u8],
}

impl<'a> Table<'a> {
    fn new(packed: &'a Packed) -> Self {
        let all_classes = [packed.all_classes];
        Self {
            targets: [bytes_of(&packed.targets), bytes_of(&all_classes)].concat(),
            others: bytes_of(&packed.others),
            weighed: bytes_of(&packed.weighed),
            exact: bytes_of(&packed.exact),
        }
    }
}

/// Sums of weights and their reciprocals are `f32` on the device.
fn check_weights(loss: &Loss) -> Result<(), Error> {
    for target in loss.table().targets() {
        check_parameter(
            "class weight on CUDA",
            target.weight,
            "0, or from 1e-20 to 1e20: sums of weights and their reciprocals are f32 there",
            |weight| weight == 0.0 || (1e-20..=1e20).contains(&weight),
        )?;
    }
    Ok(())
}

fn bytes_of<T: Copy>(entries: &[T]) -> &[u8] {
    // SAFETY: the table's entries are `f32` and `f64` alone, without padding, and u8 has no
    // alignment.
    unsafe { std::slice::from_raw_parts(entries.as_ptr().cast(), size_of_val(entries)) }
}

impl CudaLoss {
    /// The same as a part of a loss: of how many classes, and whether any of them has a weight
    /// other than 1.
    pub(super) fn part_of(mut self, all_classes: usize, weighted: bool) -> Self {
        self.all_classes = all_classes;
        self.constants.weighted = weighted;
        self
    }

    /// The loss that is bound.
    pub fn loss(&self) -> &Loss {
        &self.loss
    }

    /// The context that it is bound to.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// Allocates a workspace for batches of up to `rows` rows. Waits for `stream`: any stream may
    /// use it from here on.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn workspace(&self, stream: &Arc<CudaStream>, rows: usize) -> Result<Workspace, Error> {
        // SAFETY: the state is written before anything reads it, the row losses by each launch.
        let memory = unsafe { stream.alloc::<u8>(Workspace::bytes(rows)) }
            .map_err(driver("allocating the workspace"))?;
        self.workspace_in(stream, memory)
    }

    /// A workspace in the caller's memory, [`Workspace::bytes`] for as many rows as it is to serve.
    /// Waits for `stream`: any stream may use the workspace from here on.
    ///
    /// # Errors
    /// [`Error::Length`] where not even the state fits, [`CudaError::Address`] where the memory is
    /// not at a multiple of 16 bytes, [`CudaError::OtherContext`], [`CudaError::Driver`].
    pub fn workspace_in(
        &self,
        stream: &Arc<CudaStream>,
        memory: CudaSlice<u8>,
    ) -> Result<Workspace, Error> {
        self.check_context("workspace", &memory)?;
        self.check_stream(stream)?;
        Workspace::new(stream, self.all_classes, memory)
    }

    /// Enqueues loss and gradient of logits `[N, C]` on `stream`; `N` is the number of labels.
    /// Allocates no device memory and waits for nothing.
    ///
    /// **The margin losses take cosines that are not yet scaled**, as everywhere in this crate.
    ///
    /// # Errors
    /// Those of [`Loss::evaluate_into`] but for labels, which [`Workspace::read`] reports; and
    /// [`CudaError::WorkspaceTooSmall`], [`CudaError::OtherContext`], [`CudaError::Driver`].
    /// Nothing is launched then.
    pub fn launch<T: CudaElement, L: CudaLabel>(
        &self,
        stream: &Arc<CudaStream>,
        logits: &impl DevicePtr<T>,
        labels: &impl DevicePtr<L>,
        options: &Options<'_>,
        outputs: Outputs<'_, T>,
        workspace: &mut Workspace,
    ) -> Result<(), Error> {
        check_is_whole(options)?;
        let logits = Logits::Read(logits);
        self.enqueue(
            stream,
            logits,
            labels,
            options,
            outputs,
            workspace,
            |steps, recipe| {
                // SAFETY: every buffer was checked, lives in this context, and is kept in order by
                // its guard.
                unsafe {
                    self.launch_fused::<T>(stream.cu_stream(), steps, recipe, options.overlap)
                }
            },
        )
    }

    /// [`launch`](Self::launch), the gradient written **over the logits**.
    ///
    /// # Errors
    /// As [`launch`](Self::launch), and [`Error::GradientBufferInPlace`] where `outputs` has a
    /// gradient buffer.
    pub fn launch_in_place<T: CudaElement, L: CudaLabel>(
        &self,
        stream: &Arc<CudaStream>,
        logits: &mut impl DevicePtrMut<T>,
        labels: &impl DevicePtr<L>,
        options: &Options<'_>,
        outputs: Outputs<'_, T>,
        workspace: &mut Workspace,
    ) -> Result<(), Error> {
        if outputs.gradient.is_some() {
            return Err(Error::GradientBufferInPlace);
        }
        check_is_whole(options)?;
        let logits = Logits::Over(logits);
        self.enqueue(
            stream,
            logits,
            labels,
            options,
            outputs,
            workspace,
            |steps, recipe| {
                // SAFETY: every buffer was checked, lives in this context, and is kept in order by
                // its guard.
                unsafe {
                    self.launch_fused::<T>(stream.cu_stream(), steps, recipe, options.overlap)
                }
            },
        )
    }

    /// Enqueues what a mean over the rows of these labels divides by, as
    /// [`Options::divisor`](Options::divisor) says: the weights of those that count, added up, or
    /// their number; 0 where nothing counts. Several launches that divide by the sum of such
    /// numbers, [`Divisor::Given`], make one mean, also on several devices. Of the options the
    /// second labels, row weights and the divisor matter, the loss's own reduction does not.
    ///
    /// # Errors
    /// [`Error::Length`] where `divisor` is not one number, [`Error::Misplaced`] where the options
    /// give one already, and as [`launch`](Self::launch).
    ///
    /// ```no_run
    /// use ala_loss::cuda::{self, Options};
    /// use ala_loss::{ClassCounts, Loss, Objective};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let context = cuda::context(0)?;
    /// let stream = context.new_stream()?;
    /// let counts = ClassCounts::new([9, 3])?;
    /// let loss = Loss::builder(Objective::ala(), &counts).ignore_label(-100).build()?;
    /// let loss = loss.bind(&context)?;
    /// let mut workspace = loss.workspace(&stream, 4)?;
    /// let labels = stream.clone_htod(&[0i64, -100, 1, 0])?;
    /// let mut divisor = stream.alloc_zeros::<f32>(1)?;
    /// loss.divisor(&stream, &labels, &Options::new(), &mut divisor, &mut workspace)?;
    /// assert_eq!(stream.clone_dtoh(&divisor)?, [3.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn divisor<L: CudaLabel>(
        &self,
        stream: &Arc<CudaStream>,
        labels: &impl DevicePtr<L>,
        options: &Options<'_>,
        divisor: &mut impl DevicePtrMut<f32>,
        workspace: &mut Workspace,
    ) -> Result<(), Error> {
        let rows = labels.len();
        check_length("divisor", Some(divisor.len()), 1)?;
        self.check_owner("divisor", divisor.stream())?;
        self.check_owner("labels", labels.stream())?;
        self.check_stream(stream)?;
        self.check_targets(options, rows)?;
        let counted = not_given(options.divisor)?;
        self.check_context("workspace", &workspace.memory)?;
        check_capacity(workspace, rows)?;
        self.make_current()?;
        let mut guards = Guards::default();
        let labels = guards.keep(labels.device_ptr(stream));
        let targets = guards.keep(self.targets.device_ptr(stream));
        let state = guards.keep(workspace.memory.device_ptr_mut(stream));
        let mixed = keep_mixed(options, &mut guards, stream);
        let row_weights = options
            .row_weights
            .map(|weights| guards.keep(weights.device_ptr(stream)));
        let divisor = guards.keep(divisor.device_ptr_mut(stream));
        let own = OwnAddresses {
            targets,
            others: 0,
            weighed: 0,
            exact: 0,
            state,
            blocks: state + BLOCKS as u64,
            row_losses: 0,
        };
        let step = RawStep {
            mixed,
            row_weights,
            divisor: counted,
            ..RawStep::new(rows, self.loss.classes(), 0, labels)
        };
        // SAFETY: each address was checked, lives in this context, and is kept in order by its
        // guard.
        unsafe { self.count::<L>(stream.cu_stream(), own, &step, divisor) }
    }

    /// Counts rows and their weights; what a mean divides by goes to `divisor`.
    ///
    /// # Safety
    /// Counting reads labels, targets, lambda and weights and writes state, blocks and divisor:
    /// each address must be valid until the stream has passed the launch.
    pub(super) unsafe fn count<L: CudaLabel>(
        &self,
        stream: sys::CUstream,
        own: OwnAddresses,
        step: &RawStep,
        divisor: u64,
    ) -> Result<(), Error> {
        let steps = match step.mixed.is_some() || step.row_weights.is_some() {
            true => Steps::Recipe,
            false => Steps::Plain,
        };
        let mut recipe = self.recipe::<L>(own, step);
        recipe.step.divisor = divisor;
        // Weighted, so that rows are counted where each of them counts 1 too.
        recipe.step.flags |= ALA_COUNTED | ALA_WEIGHTED;
        if step.divisor == Divisor::Rows {
            recipe.step.flags |= ALA_BY_ROWS;
        }
        // Those of any type: that which is loaded, if there is one.
        let loaded = self.kernels[steps as usize].iter().find_map(OnceLock::get);
        let kernels = match loaded {
            Some(kernels) => kernels,
            None => self.kernels_of(steps, ElementType::F32)?,
        };
        // SAFETY: the caller's promise.
        unsafe { launch::count(kernels, stream, &recipe, false)? };
        Ok(())
    }

    /// What kernels are told of a step.
    pub(super) fn recipe<L: CudaLabel>(&self, own: OwnAddresses, step: &RawStep) -> AlaRecipe {
        launch::recipe(&self.loss, self.constants, own, step, L::TYPE)
    }

    /// The class table's addresses, for as long as the guards live; nothing of a workspace.
    pub(super) fn keep_table<'a>(
        &'a self,
        guards: &mut Guards<'a>,
        stream: &'a CudaStream,
    ) -> OwnAddresses {
        let mut of_classes = |entries: &'a Option<CudaSlice<u8>>| match entries {
            Some(entries) => guards.keep(entries.device_ptr(stream)),
            None => 0,
        };
        let (others, weighed) = (of_classes(&self.others), of_classes(&self.weighed));
        OwnAddresses {
            targets: guards.keep(self.targets.device_ptr(stream)),
            others,
            weighed,
            exact: guards.keep(self.exact.device_ptr(stream)),
            state: 0,
            blocks: 0,
            row_losses: 0,
        }
    }

    /// Without events: the caller keeps the loss and the workspace alive.
    pub(super) fn own_addresses(&self, workspace: &Workspace) -> OwnAddresses {
        OwnAddresses {
            targets: self.targets_address,
            others: self.others_address,
            weighed: self.weighed_address,
            exact: self.exact_address,
            state: workspace.address,
            blocks: workspace.address + BLOCKS as u64,
            row_losses: workspace.address + ROW_LOSSES as u64,
        }
    }

    /// # Safety
    /// As [`launch::fused`].
    pub(super) unsafe fn launch_fused<T: CudaElement>(
        &self,
        stream: sys::CUstream,
        steps: Steps,
        recipe: &AlaRecipe,
        overlap: bool,
    ) -> Result<(), CudaError> {
        let element_bytes = size_of::<T>() as u64;
        let kernels = self.kernels_of(steps, T::TYPE.0)?;
        // SAFETY: the caller's promise.
        unsafe {
            launch::fused(
                kernels,
                stream,
                recipe,
                element_bytes,
                How {
                    shape: self.launch_shape,
                    overlap,
                },
            )
        }
    }

    /// Checks everything, then has `run` launch kernels with the step's parameters, all buffers in
    /// order.
    #[expect(
        clippy::too_many_arguments,
        reason = "those of the calls, and what is launched"
    )]
    pub(super) fn enqueue<T: CudaElement, L: CudaLabel>(
        &self,
        stream: &Arc<CudaStream>,
        logits: Logits<'_, T>,
        labels: &dyn DevicePtr<L>,
        options: &Options<'_>,
        outputs: Outputs<'_, T>,
        workspace: &mut Workspace,
        run: impl FnOnce(Steps, &AlaRecipe) -> Result<(), CudaError>,
    ) -> Result<(), Error> {
        let (rows, classes) = (labels.len(), self.loss.classes());
        let (length, owner) = logits.shape();
        let logits_stride = check_rows("logits", length, rows, classes, options.stride)?;
        self.check_owner("logits", owner)?;
        self.check_owner("labels", labels.stream())?;
        self.check_stream(stream)?;
        let mut gradient_stride = logits_stride;
        if let Some(gradient) = &outputs.gradient {
            gradient_stride = check_rows(
                "gradient",
                gradient.len(),
                rows,
                classes,
                outputs.gradient_stride,
            )?;
            self.check_owner("gradient", gradient.stream())?;
        }
        if let Some(losses) = &outputs.row_losses {
            check_length("row losses", Some(losses.len()), rows)?;
            self.check_owner("row losses", losses.stream())?;
        }
        if let Some(hits) = &outputs.hits {
            check_length("hits", Some(hits.len()), rows)?;
            self.check_owner("hits", hits.stream())?;
        }
        if let Some(loss) = &outputs.loss {
            check_length("loss", Some(loss.len()), 1)?;
            self.check_owner("loss", loss.stream())?;
        }
        if let Some(predictions) = &outputs.predictions {
            check_length("predictions", Some(predictions.len()), rows)?;
            self.check_owner("predictions", predictions.stream())?;
        }
        if let Some(counts) = &outputs.class_counts {
            check_length("class counts", Some(counts.len()), 2 * self.all_classes)?;
            self.check_owner("class counts", counts.stream())?;
        }
        self.check_targets(options, rows)?;
        let address_free = match options.divisor {
            Divisor::Weights => Divisor::Weights,
            Divisor::Rows => Divisor::Rows,
            Divisor::Given(given) => {
                check_length("divisor", Some(given.len()), 1)?;
                self.check_owner("divisor", given.stream())?;
                Divisor::Given(())
            }
        };
        self.check_divisor(address_free)?;
        check_skip(options.skip_if_upstream, &options.upstream)?;
        match &options.upstream {
            Upstream::Scalar(upstream) => {
                check_length("upstream gradient", Some(upstream.len()), 1)?;
                self.check_owner("upstream gradient", upstream.stream())?;
            }
            Upstream::PerRow(upstream) => {
                self.check_upstream(true)?;
                check_length("upstream gradient", Some(upstream.len()), rows)?;
                self.check_owner("upstream gradient", upstream.stream())?;
            }
            Upstream::One => {}
        }
        check_capacity(workspace, rows)?;
        self.check_context("workspace", &workspace.memory)?;
        self.make_current()?;

        // The guards record what the launch reads and writes when they are dropped, after it.
        let mut guards = Guards::default();
        let (logits, in_place) = match logits {
            Logits::Read(logits) => (guards.keep(logits.device_ptr(stream)), false),
            Logits::Over(logits) => (guards.keep(logits.device_ptr_mut(stream)), true),
        };
        let upstream = match options.upstream {
            Upstream::One => Upstream::One,
            Upstream::Scalar(u) => Upstream::Scalar(guards.keep(u.device_ptr(stream))),
            Upstream::PerRow(u) => Upstream::PerRow(guards.keep(u.device_ptr(stream))),
        };
        let divisor = match options.divisor {
            Divisor::Weights => Divisor::Weights,
            Divisor::Rows => Divisor::Rows,
            Divisor::Given(given) => Divisor::Given(guards.keep(given.device_ptr(stream))),
        };
        let row_weights = options
            .row_weights
            .map(|weights| guards.keep(weights.device_ptr(stream)));
        let mixed = keep_mixed(options, &mut guards, stream);
        let labels = guards.keep(labels.device_ptr(stream));
        let table = self.keep_table(&mut guards, stream);
        let state = guards.keep(workspace.memory.device_ptr_mut(stream));
        let gradient = match outputs.gradient {
            Some(gradient) => Some(guards.keep(gradient.device_ptr_mut(stream))),
            None => in_place.then_some(logits),
        };
        let row_losses = outputs
            .row_losses
            .map(|losses| guards.keep(losses.device_ptr_mut(stream)));
        let hits = outputs
            .hits
            .map(|hits| guards.keep(hits.device_ptr_mut(stream)));
        let loss = outputs
            .loss
            .map(|loss| guards.keep(loss.device_ptr_mut(stream)));
        let predictions = outputs
            .predictions
            .map(|predictions| guards.keep(predictions.device_ptr_mut(stream)));
        let class_counts = outputs
            .class_counts
            .map(|counts| guards.keep(counts.device_ptr_mut(stream)));
        let step = RawStep {
            rows,
            logits,
            logits_stride,
            labels,
            gradient,
            gradient_stride,
            row_losses,
            hits,
            loss,
            upstream,
            gradient_scale: options.gradient_scale,
            skip_if_upstream: options.skip_if_upstream,
            overlap: options.overlap,
            divisor,
            row_weights,
            mixed,
            predictions,
            class_counts,
        };
        let own = OwnAddresses {
            state,
            blocks: state + BLOCKS as u64,
            row_losses: state + ROW_LOSSES as u64,
            ..table
        };
        let recipe = self.recipe::<L>(own, &step);
        Ok(run(step.steps(&self.loss), &recipe)?)
    }

    /// The same objective and settings for new class counts ([`Loss::with_counts`]), not bound
    /// anew: the class table is uploaded on `stream` into the memory where it was. Launches that
    /// `stream` has before it see the old one, later ones the new one; so does a captured graph
    /// when it is replayed. Where cudarc orders nothing, order the loss's other streams yourself.
    /// Not while a stream is captured.
    ///
    /// # Errors
    /// Those of [`Loss::with_counts`] and [`Loss::bind`]. [`CudaError::Driver`]; after that the
    /// table may be in part the old one.
    ///
    /// ```no_run
    /// # use std::sync::Arc;
    /// # use ala_loss::{ClassCounts, cuda::CudaLoss};
    /// # use cudarc::driver::CudaStream;
    /// # fn epoch(loss: &mut CudaLoss, stream: &Arc<CudaStream>) -> Result<(), ala_loss::Error> {
    /// // What the sampler has drawn by now.
    /// loss.set_counts(stream, &ClassCounts::new([700, 90, 20])?)
    /// # }
    /// ```
    pub fn set_counts(
        &mut self,
        stream: &Arc<CudaStream>,
        counts: &ClassCounts,
    ) -> Result<(), Error> {
        self.check_stream(stream)?;
        let loss = self.loss.with_counts(counts)?;
        check_weights(&loss)?;
        let packed = pack::pack(&loss);
        self.make_current()?;
        let table = Table::new(&packed);
        // Which of its parts there are is the objective's and the settings', not the counts'.
        let upload = |entries: Option<&mut CudaSlice<u8>>, bytes: &[u8]| match entries {
            // From memory that is not pinned: the driver has it when the call returns.
            Some(entries) => stream
                .memcpy_htod(bytes, entries)
                .map_err(driver("uploading the class table")),
            None => Ok(()),
        };
        upload(Some(&mut self.targets), &table.targets)?;
        upload(self.others.as_mut(), table.others)?;
        upload(self.weighed.as_mut(), table.weighed)?;
        upload(Some(&mut self.exact), table.exact)?;
        self.constants.slope = packed.slope;
        self.loss = loss;
        Ok(())
    }

    /// Loads the kernels for logits of type `T`, once a context. The first step of a type does so
    /// where it has not been done; while a stream is captured it cannot be done. Of a loss that
    /// smooths labels they are those of [`load_recipes`](Self::load_recipes).
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn load<T: CudaElement>(&self) -> Result<(), Error> {
        match self.loss.label_smoothing() > 0.0 {
            true => self.load_recipes::<T>(),
            false => self
                .kernels_of(Steps::Plain, T::TYPE.0)
                .map(drop)
                .map_err(Error::from),
        }
    }

    /// The same for steps with second labels, row weights, predictions or class counts, and for
    /// losses that smooth labels. They come as PTX, which the driver compiles where it has not done
    /// so before: that takes some seconds, once a machine.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_recipes<T: CudaElement>(&self) -> Result<(), Error> {
        self.kernels_of(Steps::Recipe, T::TYPE.0)?;
        Ok(())
    }

    pub(super) fn kernels_of(
        &self,
        steps: Steps,
        element: ElementType,
    ) -> Result<&Kernels, CudaError> {
        let cell = &self.kernels[steps as usize][element as usize];
        if let Some(kernels) = cell.get() {
            return Ok(kernels);
        }
        let unit = Unit {
            steps,
            element,
            per_class: self.others.is_some(),
        };
        let kernels = module::load(&self.context, unit)?;
        Ok(cell.get_or_init(|| kernels))
    }

    /// Whose kernels the loss's own steps take.
    #[cfg(feature = "instruments")]
    pub(super) fn steps(&self) -> Steps {
        match self.loss.label_smoothing() > 0.0 {
            true => Steps::Recipe,
            false => Steps::Plain,
        }
    }

    /// Whether each class has a map of its own.
    pub(super) fn is_per_class(&self) -> bool {
        self.others.is_some()
    }

    /// A batch of contiguous rows.
    #[cfg(feature = "instruments")]
    pub(super) fn batch(&self, rows: usize) -> Batch {
        Batch {
            rows: rows as u64,
            classes: self.loss.classes() as u32,
            per_class: self.others.is_some(),
            contiguous: true,
        }
    }

    pub(super) fn make_current(&self) -> Result<(), CudaError> {
        self.context
            .bind_to_thread()
            .map_err(driver("cuCtxSetCurrent"))
    }

    pub(super) fn check_context<T>(
        &self,
        buffer: &'static str,
        slice: &CudaSlice<T>,
    ) -> Result<(), Error> {
        self.check_owner(buffer, slice.stream())
    }

    pub(super) fn check_stream(&self, stream: &Arc<CudaStream>) -> Result<(), Error> {
        self.check_owner("stream", stream)
    }

    pub(super) fn check_owner(
        &self,
        buffer: &'static str,
        stream: &Arc<CudaStream>,
    ) -> Result<(), Error> {
        if **stream.context() == *self.context {
            Ok(())
        } else {
            Err(CudaError::OtherContext { buffer }.into())
        }
    }

    /// What says, beside the labels, what rows are held against.
    pub(super) fn check_targets(&self, options: &Options<'_>, rows: usize) -> Result<(), Error> {
        if let Some(mixed) = &options.mixed {
            check_length("second labels", Some(mixed.labels.len()), rows)?;
            self.check_owner("second labels", mixed.labels.stream())?;
            check_lambda(mixed.lambda)?;
            if let Lambda::PerRow(lambda) = mixed.lambda {
                check_length("lambda", Some(lambda.len()), rows)?;
                self.check_owner("lambda", lambda.stream())?;
            }
        }
        if let Some(weights) = options.row_weights {
            check_length("row weights", Some(weights.len()), rows)?;
            self.check_owner("row weights", weights.stream())?;
        }
        Ok(())
    }

    pub(super) fn check_divisor<G: PartialEq>(&self, divisor: Divisor<G>) -> Result<(), Error> {
        if self.loss.reduction() != Reduction::Mean && divisor != Divisor::Weights {
            return Err(Error::Misplaced {
                given: "a divisor in `Options`",
                instead: "only Reduction::Mean divides; Upstream::Scalar scales a gradient",
            });
        }
        Ok(())
    }

    pub(super) fn check_upstream(&self, per_row: bool) -> Result<(), Error> {
        let reduction = self.loss.reduction();
        if per_row && reduction != Reduction::None {
            return Err(Error::UpstreamNeedsNoReduction(reduction.name()));
        }
        Ok(())
    }
}

/// Hits and predictions of a loss of all classes are asked for by their buffers.
pub(super) fn check_is_whole(options: &Options<'_>) -> Result<(), Error> {
    if options.hits || options.predictions {
        return Err(Error::Misplaced {
            given: "hits or predictions in `Options`",
            instead: "they are for a shard's step: give `Outputs` a buffer for them",
        });
    }
    Ok(())
}

/// What is skipped is told by one number on the device.
pub(super) fn check_skip<S, R>(skip: Option<f32>, upstream: &Upstream<S, R>) -> Result<(), Error> {
    match (skip, upstream) {
        (None, _) | (Some(_), Upstream::Scalar(_)) => Ok(()),
        _ => Err(CudaError::SkipNeedsScalarUpstream.into()),
    }
}

/// The second labels' addresses, for as long as the guards live.
pub(super) fn keep_mixed<'a>(
    options: &Options<'a>,
    guards: &mut Guards<'a>,
    stream: &'a CudaStream,
) -> Option<RawMixed> {
    let mixed = options.mixed?;
    let lambda = match mixed.lambda {
        Lambda::Scalar(lambda) => Lambda::Scalar(lambda),
        Lambda::PerRow(lambda) => Lambda::PerRow(guards.keep(lambda.device_ptr(stream))),
    };
    Some(RawMixed {
        labels: mixed.labels.keep(guards, stream),
        label_type: LabelType(mixed.labels.label_type()),
        lambda,
    })
}

/// One number is checked here, those on the device there.
pub(super) fn check_lambda<P>(lambda: Lambda<f32, P>) -> Result<(), Error> {
    match lambda {
        Lambda::Scalar(lambda) => {
            check_parameter("lambda", lambda.into(), "from 0 to 1", |lambda| {
                (0.0..=1.0).contains(&lambda)
            })
            .map(drop)
        }
        Lambda::PerRow(_) => Ok(()),
    }
}

/// What a mean is to divide by, where a call makes it.
pub(super) fn not_given<G>(divisor: Divisor<G>) -> Result<Divisor<u64>, Error> {
    match divisor {
        Divisor::Weights => Ok(Divisor::Weights),
        Divisor::Rows => Ok(Divisor::Rows),
        Divisor::Given(_) => Err(Error::Misplaced {
            given: "a given divisor",
            instead: "this call makes one, of Divisor::Weights or Divisor::Rows",
        }),
    }
}

pub(super) fn check_capacity(workspace: &Workspace, rows: usize) -> Result<(), Error> {
    if workspace.capacity < rows {
        return Err(CudaError::WorkspaceTooSmall {
            capacity: workspace.capacity,
            rows,
        }
        .into());
    }
    Ok(())
}

/// The logits, and whether the gradient goes over them.
pub(super) enum Logits<'a, T> {
    Read(&'a dyn DevicePtr<T>),
    Over(&'a mut dyn DevicePtrMut<T>),
}

impl<T> Logits<'_, T> {
    fn shape(&self) -> (usize, &Arc<CudaStream>) {
        match self {
            Self::Read(logits) => (logits.len(), logits.stream()),
            Self::Over(logits) => (logits.len(), logits.stream()),
        }
    }
}
