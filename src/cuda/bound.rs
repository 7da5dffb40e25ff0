//! A loss bound to a context: what its calls check before they launch.

use std::sync::{Arc, OnceLock};

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, sys};

use super::abi::{ALA_COUNTED, ALA_WEIGHTED, AlaParams};
use super::call::{Options, Outputs};
use super::element::{CudaElement, CudaLabel};
use super::error::{CudaError, driver};
use super::guards::{Guards, address_of};
use super::image::ELEMENTS;
use super::launch::{self, Constants, How, OwnAddresses, RawStep};
use super::module::{self, ElementType, Kernels};
use super::pack;
#[cfg(feature = "instruments")]
use super::plan::Batch;
use super::plan::LaunchShape;
use super::tiers::MOST_CLASSES;
use super::workspace::{BLOCKS, ROW_LOSSES, Workspace};
use crate::call::Upstream;
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
    /// By element type, loaded when the first step has it.
    kernels: [OnceLock<Arc<Kernels>>; ELEMENTS.len()],
    targets: CudaSlice<u8>,
    others: Option<CudaSlice<u8>>,
    exact: CudaSlice<u8>,
    targets_address: u64,
    others_address: u64,
    exact_address: u64,
    constants: Constants,
    /// Other than the crate's own; only instruments set it.
    pub(super) launch_shape: Option<LaunchShape>,
}

impl Loss {
    /// Binds the loss to a context: uploads the class table.
    ///
    /// # Errors
    /// [`CudaError::NotBuilt`], [`CudaError::TooManyClasses`],
    /// [`CudaError::Driver`]; [`Error::Parameter`] where a class weight is neither 0 nor from
    /// `1e-20` to `1e20`, and for label smoothing, which CUDA does not have yet.
    pub fn bind(&self, context: &Arc<CudaContext>) -> Result<CudaLoss, Error> {
        if u32::try_from(self.classes()).map_or(true, |classes| classes > MOST_CLASSES) {
            return Err(CudaError::TooManyClasses {
                classes: self.classes(),
                most: MOST_CLASSES,
            }
            .into());
        }
        for target in self.table().targets() {
            check_parameter(
                "class weight on CUDA",
                target.weight,
                "0, or from 1e-20 to 1e20: sums of weights and their reciprocals are f32 there",
                |weight| weight == 0.0 || (1e-20..=1e20).contains(&weight),
            )?;
        }
        check_parameter(
            "label smoothing on CUDA",
            self.label_smoothing(),
            "0: the kernels do not smooth labels yet",
            |epsilon| epsilon == 0.0,
        )?;
        let packed = pack::pack(self.table());
        module::check_there(context)?;
        // Not a stream of its own: as long as there is one, cudarc records an event at every use of
        // every slice of the context.
        let stream = context.default_stream();
        let upload = |bytes: &[u8]| {
            stream
                .clone_htod(bytes)
                .map_err(driver("uploading the class table"))
        };
        let targets = upload(bytes_of(&packed.targets))?;
        let others = match packed.others.as_slice() {
            [] => None,
            others => Some(upload(bytes_of(others))?),
        };
        let exact = upload(bytes_of(&packed.exact))?;
        // Every stream may use the table from here on, whether or not cudarc tracks events.
        stream
            .synchronize()
            .map_err(driver("uploading the class table"))?;
        Ok(CudaLoss {
            loss: self.clone(),
            context: Arc::clone(context),
            kernels: [const { OnceLock::new() }; ELEMENTS.len()],
            targets_address: address_of(&targets, &stream),
            others_address: others
                .as_ref()
                .map_or(0, |others| address_of(others, &stream)),
            exact_address: address_of(&exact, &stream),
            targets,
            others,
            exact,
            constants: Constants {
                slope: packed.slope,
                weighted: packed.weighted,
            },
            launch_shape: None,
        })
    }
}

fn bytes_of<T: Copy>(entries: &[T]) -> &[u8] {
    // SAFETY: the table's entries are `f32` or `f64` alone, without padding, and u8 has no
    // alignment.
    unsafe { std::slice::from_raw_parts(entries.as_ptr().cast(), size_of_val(entries)) }
}

impl CudaLoss {
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
        Workspace::new(stream, &self.loss, memory)
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
        let logits = Logits::Read(logits);
        self.enqueue(
            stream,
            logits,
            labels,
            options,
            outputs,
            workspace,
            |parameters| {
                // SAFETY: every buffer was checked, lives in this context, and is kept in order by
                // its guard.
                unsafe { self.launch_fused::<T>(stream.cu_stream(), parameters, options.overlap) }
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
        let logits = Logits::Over(logits);
        self.enqueue(
            stream,
            logits,
            labels,
            options,
            outputs,
            workspace,
            |parameters| {
                // SAFETY: every buffer was checked, lives in this context, and is kept in order by
                // its guard.
                unsafe { self.launch_fused::<T>(stream.cu_stream(), parameters, options.overlap) }
            },
        )
    }

    /// Enqueues what a mean over the rows of these labels is divided by: the weights of those that
    /// count, added up, or 1 where that is 0. So several launches of
    /// [`Reduction::Sum`] make one mean, the reciprocal as their
    /// [`upstream`](Options::upstream) gradient. The loss's own reduction does not matter.
    ///
    /// # Errors
    /// [`Error::Length`] where `divisor` is not one number, and as [`launch`](Self::launch).
    ///
    /// ```no_run
    /// use ala_loss::cuda;
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
    /// loss.divisor(&stream, &labels, &mut divisor, &mut workspace)?;
    /// assert_eq!(stream.clone_dtoh(&divisor)?, [3.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn divisor<L: CudaLabel>(
        &self,
        stream: &Arc<CudaStream>,
        labels: &impl DevicePtr<L>,
        divisor: &mut impl DevicePtrMut<f32>,
        workspace: &mut Workspace,
    ) -> Result<(), Error> {
        check_length("divisor", Some(divisor.len()), 1)?;
        self.check_owner("divisor", divisor.stream())?;
        self.check_owner("labels", labels.stream())?;
        self.check_stream(stream)?;
        self.check_context("workspace", &workspace.memory)?;
        check_capacity(workspace, labels.len())?;
        self.make_current()?;
        // That of any type: one that is loaded, if there is one.
        let loaded = self.kernels.iter().find_map(OnceLock::get);
        let kernels = match loaded {
            Some(kernels) => kernels,
            None => self.kernels_of(ElementType::F32)?,
        };
        let mut guards = Guards::default();
        let rows = labels.len();
        let labels = guards.keep(labels.device_ptr(stream));
        let targets = guards.keep(self.targets.device_ptr(stream));
        let state = guards.keep(workspace.memory.device_ptr_mut(stream));
        let divisor = guards.keep(divisor.device_ptr_mut(stream));
        let own = OwnAddresses {
            targets,
            others: 0,
            exact: 0,
            state,
            blocks: state + BLOCKS as u64,
            row_losses: 0,
        };
        let step = RawStep::new(rows, self.loss.classes(), 0, labels);
        let parameters = launch::parameters(&self.loss, self.constants, own, &step, L::TYPE);
        let parameters = AlaParams {
            divisor,
            // Weighted, so that rows are counted where each of them counts 1 too.
            flags: parameters.flags | ALA_COUNTED | ALA_WEIGHTED,
            ..parameters
        };
        // SAFETY: counting reads labels and targets and writes state, blocks and divisor, each of
        // which was checked, lives in this context, and is kept in order by its guard.
        unsafe { launch::count(kernels, stream.cu_stream(), &parameters, false)? };
        Ok(())
    }

    /// Enqueues a step given by device addresses on any stream of this context.
    ///
    /// # Errors
    /// [`Error::Stride`], [`CudaError::Address`], [`CudaError::WorkspaceTooSmall`],
    /// [`Error::UpstreamNeedsNoReduction`], [`CudaError::Driver`]. Nothing is launched then.
    ///
    /// # Safety
    /// Every address must be valid for its shape and element type, in this context, until the
    /// stream has passed the launch, as must this loss and the workspace; no buffer may overlap
    /// another but a gradient that is given the logits' own address and stride; `stream` must be a
    /// stream of this context.
    pub unsafe fn launch_raw<T: CudaElement, L: CudaLabel>(
        &self,
        stream: sys::CUstream,
        step: &RawStep,
        workspace: &mut Workspace,
    ) -> Result<(), Error> {
        let classes = self.loss.classes();
        for (name, stride) in [
            ("logits", step.logits_stride),
            ("gradient", step.gradient_stride),
        ] {
            if stride < classes && (name == "logits" || step.gradient.is_some()) {
                return Err(Error::Stride {
                    name,
                    stride,
                    classes,
                });
            }
        }
        let (upstream, per_row) = match step.upstream {
            Upstream::One => (None, false),
            Upstream::Scalar(address) => (Some(address), false),
            Upstream::PerRow(address) => (Some(address), true),
        };
        self.check_upstream(per_row)?;
        check_skip(step.skip_if_upstream, &step.upstream)?;
        let element = align_of::<T>() as u64;
        let given = [
            ("logits", Some(step.logits), element),
            ("labels", Some(step.labels), align_of::<L>() as u64),
            ("gradient", step.gradient, element),
            ("row losses", step.row_losses, 4),
            ("hits", step.hits, 1),
            ("loss", step.loss, 4),
            ("upstream gradient", upstream, 4),
        ];
        for (buffer, address, alignment) in given {
            // Without rows nothing but the loss is touched.
            if let Some(address) = address.filter(|_| step.rows > 0 || buffer == "loss")
                && (address == 0 || address % alignment != 0)
            {
                return Err(CudaError::Address {
                    buffer,
                    address,
                    alignment,
                }
                .into());
            }
        }
        check_capacity(workspace, step.rows)?;
        self.make_current()?;
        // The caller keeps the loss and the workspace alive, so no event needs to be recorded for
        // them.
        let own = OwnAddresses {
            targets: self.targets_address,
            others: self.others_address,
            exact: self.exact_address,
            state: workspace.address,
            blocks: workspace.address + BLOCKS as u64,
            row_losses: workspace.address + ROW_LOSSES as u64,
        };
        let parameters = launch::parameters(&self.loss, self.constants, own, step, L::TYPE);
        // SAFETY: the caller's promise; the context was made current above.
        unsafe { self.launch_fused::<T>(stream, &parameters, step.overlap)? };
        Ok(())
    }

    /// # Safety
    /// As [`launch::fused`].
    unsafe fn launch_fused<T: CudaElement>(
        &self,
        stream: sys::CUstream,
        parameters: &AlaParams,
        overlap: bool,
    ) -> Result<(), CudaError> {
        let element_bytes = size_of::<T>() as u64;
        let kernels = self.kernels_of(T::TYPE.0)?;
        // SAFETY: the caller's promise.
        unsafe {
            launch::fused(
                kernels,
                stream,
                parameters,
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
        run: impl FnOnce(&AlaParams) -> Result<(), CudaError>,
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
        let labels = guards.keep(labels.device_ptr(stream));
        let targets = guards.keep(self.targets.device_ptr(stream));
        let others = match &self.others {
            Some(others) => guards.keep(others.device_ptr(stream)),
            None => 0,
        };
        let exact = guards.keep(self.exact.device_ptr(stream));
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
        };
        let own = OwnAddresses {
            targets,
            others,
            exact,
            state,
            blocks: state + BLOCKS as u64,
            row_losses: state + ROW_LOSSES as u64,
        };
        let parameters = launch::parameters(&self.loss, self.constants, own, &step, L::TYPE);
        Ok(run(&parameters)?)
    }

    /// Loads the kernels for logits of type `T`, once a context. The first step of a type does so
    /// where it has not been done; while a stream is captured it cannot be done.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn load<T: CudaElement>(&self) -> Result<(), Error> {
        self.kernels_of(T::TYPE.0)?;
        Ok(())
    }

    pub(super) fn kernels_of(&self, element: ElementType) -> Result<&Kernels, CudaError> {
        let cell = &self.kernels[element as usize];
        if let Some(kernels) = cell.get() {
            return Ok(kernels);
        }
        let kernels = module::load(&self.context, element, self.others.is_some())?;
        Ok(cell.get_or_init(|| kernels))
    }

    /// Whether each class has a map of its own.
    #[cfg(feature = "instruments")]
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

    fn make_current(&self) -> Result<(), CudaError> {
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

    fn check_stream(&self, stream: &Arc<CudaStream>) -> Result<(), Error> {
        self.check_owner("stream", stream)
    }

    fn check_owner(&self, buffer: &'static str, stream: &Arc<CudaStream>) -> Result<(), Error> {
        if **stream.context() == *self.context {
            Ok(())
        } else {
            Err(CudaError::OtherContext { buffer }.into())
        }
    }

    fn check_upstream(&self, per_row: bool) -> Result<(), Error> {
        let reduction = self.loss.reduction();
        if per_row && reduction != Reduction::None {
            return Err(Error::UpstreamNeedsNoReduction(reduction.name()));
        }
        Ok(())
    }
}

/// What is skipped is told by one number on the device.
fn check_skip<S, R>(skip: Option<f32>, upstream: &Upstream<S, R>) -> Result<(), Error> {
    match (skip, upstream) {
        (None, _) | (Some(_), Upstream::Scalar(_)) => Ok(()),
        _ => Err(CudaError::SkipNeedsScalarUpstream.into()),
    }
}

fn check_capacity(workspace: &Workspace, rows: usize) -> Result<(), Error> {
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
