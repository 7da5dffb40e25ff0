//! What measurements of the kernels need besides them (feature `instruments`): kernels that only
//! copy, only read or do nothing, and launch shapes other than the crate's own. Not for training:
//! nothing here makes a step faster.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, sys};

use super::abi::AlaScratch;
use super::bound::{CudaLoss, Logits};
use super::call::{Options, Outputs};
use super::element::{CudaElement, CudaLabel};
use super::error::{CudaError, driver};
use super::image::{self, COMPILED, ELEMENTS, MAPS, Steps};
use super::launch::{self, Beside};
use super::module::{DeviceLimits, Kernel, Module};
use super::plan::{self, Grid};
use super::workspace::Workspace;
use crate::error::Error;

pub use super::plan::LaunchShape;
pub use super::ptxas::ptxas_report;
pub use super::tiers::{RowRequirement, TIERS, Tier};

/// Threads of a block of the kernels below.
const THREADS: u32 = 256;
const VECTOR_BYTES: u64 = 16;
/// Vectors that a thread of the larger copy kernel takes.
const EACH: u64 = 4;

/// The kernels that a step is measured against, loaded into a context.
#[derive(Debug, Clone)]
pub struct Instruments {
    context: Arc<CudaContext>,
    device: DeviceLimits,
    empty: Kernel,
    copy1: Kernel,
    copy4: Kernel,
    read: Kernel,
    unfused: Vec<Unfused>,
}

/// The kernels of the unfused baseline for one element type and one map, in the order of their
/// launches.
type Unfused = [Kernel; STEPS.len()];

/// Its steps; those marked have an element type and a map.
const STEPS: [(&str, bool); 8] = [
    ("scale", true),
    ("margin", true),
    ("max", false),
    ("exponentiate", true),
    ("sum", false),
    ("loss", true),
    ("gradient", true),
    ("reduce", false),
];

impl Instruments {
    /// Loads them. The module stays loaded for as long as the context lives.
    ///
    /// # Errors
    /// [`CudaError::NotBuilt`], [`CudaError::Driver`].
    pub fn load(context: &Arc<CudaContext>) -> Result<Self, Error> {
        let module = Module::load(context, COMPILED.fatbin.ok_or(CudaError::NotBuilt)?)?;
        Ok(Self {
            context: Arc::clone(context),
            device: DeviceLimits::of(context)?,
            empty: module.find("ala_empty")?,
            copy1: module.find("ala_copy1")?,
            copy4: module.find("ala_copy4")?,
            read: module.find("ala_read")?,
            unfused: unfused(module)?,
        })
    }

    /// The context that they were loaded into.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// The same result as [`CudaLoss::launch`] by the unfused baseline, one kernel an operation:
    /// what benchmarks compare with. Rows whose logits are so large that `f32` cannot tell their
    /// exponents apart are beyond it. `scratch` holds at least `N C + 2 N` numbers.
    ///
    /// # Errors
    /// As [`CudaLoss::launch`], [`Error::Length`] where `scratch` is too short, and
    /// [`CudaError::OtherContext`] where these kernels were loaded into another context than the
    /// loss's.
    #[expect(
        clippy::too_many_arguments,
        reason = "those of `launch`, the loss and the scratch"
    )]
    pub fn unfused<T: CudaElement, L: CudaLabel>(
        &self,
        loss: &CudaLoss,
        stream: &Arc<CudaStream>,
        logits: &impl DevicePtr<T>,
        labels: &impl DevicePtr<L>,
        options: &Options<'_>,
        outputs: Outputs<'_, T>,
        workspace: &mut Workspace,
        scratch: &mut CudaSlice<f32>,
    ) -> Result<(), Error> {
        let (rows, classes) = (labels.len(), loss.loss().classes());
        let expected = rows
            .checked_mul(classes)
            .and_then(|n| n.checked_add(2 * rows))
            .ok_or(Error::ShapeOverflow {
                rows,
                stride: classes,
            })?;
        if scratch.len() < expected {
            return Err(Error::Length {
                name: "scratch",
                got: scratch.len(),
                expected,
            });
        }
        if *self.context != **loss.context() {
            let buffer = "baseline";
            return Err(CudaError::OtherContext { buffer }.into());
        }
        loss.check_context("scratch", scratch)?;
        let (values, _guard) = scratch.device_ptr_mut(stream);
        let mut scratch = AlaScratch {
            values,
            row_values: values + size_of::<f32>() as u64 * (rows * classes) as u64,
        };
        let kernels = &self.unfused[image::unit(T::TYPE.0 as usize, loss.is_per_class())];
        let logits = Logits::Read(logits);
        loss.enqueue(
            stream,
            logits,
            labels,
            options,
            outputs,
            workspace,
            |steps, recipe| {
                let stream = stream.cu_stream();
                if steps == Steps::Recipe {
                    // The baseline has plain steps only.
                    return Err(CudaError::NotBuilt);
                }
                // SAFETY: every buffer was checked, lives in this context, and is kept in order by
                // its guard.
                unsafe {
                    launch::count(loss.kernels_of(steps, T::TYPE.0)?, stream, recipe, false)?
                };
                for (&kernel, (name, _)) in kernels.iter().zip(STEPS) {
                    let blocks = match name {
                        "reduce" => 1,
                        "gradient" if recipe.step.gradient == 0 => continue,
                        _ => self.blocks(rows),
                    };
                    let mut step = launch::numbered(recipe).step;
                    let mut arguments = [argument(&mut step), argument(&mut scratch)];
                    // SAFETY: as above; the gradient is not the logits, and each step takes these
                    // two.
                    unsafe {
                        launch::launch(
                            kernel,
                            Grid::plain(blocks),
                            stream,
                            &mut arguments,
                            Beside::default(),
                        )?
                    };
                }
                Ok(())
            },
        )
    }

    /// Blocks of the unfused baseline, which loops over what is left.
    fn blocks(&self, rows: usize) -> u32 {
        const WAVES: u32 = 8;
        let most = self.device.multiprocessors.saturating_mul(WAVES);
        u32::try_from(rows).unwrap_or(u32::MAX).clamp(1, most)
    }

    /// Enqueues a kernel of one block that does nothing.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn empty(&self, stream: &CudaStream) -> Result<(), Error> {
        // SAFETY: it takes no arguments and touches no memory.
        unsafe { self.launch(self.empty, stream.cu_stream(), 1, &mut []) }
    }

    /// Enqueues a copy of `bytes` bytes from one device address to another, 16 bytes a thread at a
    /// time.
    ///
    /// # Errors
    /// [`CudaError::Address`] where an address is no multiple of 16, [`Error::Length`] where
    /// `bytes` is none; [`CudaError::Driver`].
    ///
    /// # Safety
    /// Both ranges must be valid in this context until the stream has passed the launch, and must
    /// not overlap; `stream` must be a stream of this context.
    pub unsafe fn copy(
        &self,
        stream: sys::CUstream,
        from: u64,
        to: u64,
        bytes: u64,
    ) -> Result<(), Error> {
        for (buffer, address) in [("source", from), ("destination", to)] {
            if address == 0 || !address.is_multiple_of(VECTOR_BYTES) {
                return Err(CudaError::Address {
                    buffer,
                    address,
                    alignment: VECTOR_BYTES,
                }
                .into());
            }
        }
        if !bytes.is_multiple_of(VECTOR_BYTES) {
            return Err(Error::Length {
                name: "copy",
                got: bytes as usize,
                expected: bytes.next_multiple_of(VECTOR_BYTES) as usize,
            });
        }
        let vectors = bytes / VECTOR_BYTES;
        let fills = u64::from(self.device.multiprocessors) * u64::from(self.device.threads);
        let (kernel, each) = match vectors > EACH * fills {
            true => (self.copy4, EACH),
            false => (self.copy1, 1),
        };
        let blocks = vectors.div_ceil(u64::from(THREADS) * each).max(1);
        let (mut from, mut to, mut vectors) = (from, to, vectors);
        let mut arguments = [
            argument(&mut from),
            argument(&mut to),
            argument(&mut vectors),
        ];
        // SAFETY: the kernel takes two pointers and a count; the ranges are the caller's promise.
        unsafe { self.launch(kernel, stream, blocks, &mut arguments) }
    }

    /// Enqueues a kernel that reads all of a buffer and so fills L2 with its lines, of which none
    /// must be written back.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn read(&self, stream: &CudaStream, buffer: &CudaSlice<u8>) -> Result<(), Error> {
        let (mut from, guard) = buffer.device_ptr(stream);
        // Only a buffer that is all ones would be written to, one word of its own.
        let mut to = from;
        let mut vectors = buffer.len() as u64 / VECTOR_BYTES;
        let fills =
            u64::from(self.device.multiprocessors) * u64::from(self.device.threads / THREADS);
        let mut arguments = [
            argument(&mut from),
            argument(&mut to),
            argument(&mut vectors),
        ];
        // SAFETY: the kernel takes two pointers and a count; it reads whole vectors within the
        // buffer.
        unsafe { self.launch(self.read, stream.cu_stream(), fills, &mut arguments)? };
        drop(guard);
        Ok(())
    }

    /// # Safety
    /// The arguments must be the kernel's, and what they point to on the device valid until the
    /// stream has passed it.
    unsafe fn launch(
        &self,
        kernel: Kernel,
        stream: sys::CUstream,
        blocks: u64,
        arguments: &mut [*mut c_void],
    ) -> Result<(), Error> {
        self.context
            .bind_to_thread()
            .map_err(driver("cuCtxSetCurrent"))?;
        let grid = Grid {
            blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
            threads: THREADS,
            shared: 0,
        };
        // SAFETY: the caller's promise; the context was made current above.
        unsafe { launch::launch(kernel, grid, stream, arguments, Beside::default())? };
        Ok(())
    }
}

/// The baseline's kernels by element type, then map.
fn unfused(module: Module) -> Result<Vec<Unfused>, CudaError> {
    let mut all = Vec::new();
    for element in ELEMENTS {
        for map in MAPS {
            let mut kernels = Vec::new();
            for (step, typed) in STEPS {
                kernels.push(module.find(&match typed {
                    true => format!("ala_unfused_{step}_{element}_{map}"),
                    false => format!("ala_unfused_{step}"),
                })?);
            }
            all.extend(Unfused::try_from(kernels));
        }
    }
    Ok(all)
}

fn argument<T>(value: &mut T) -> *mut c_void {
    std::ptr::from_mut(value).cast()
}

impl CudaLoss {
    /// The shape in which a step of `rows` contiguous, aligned rows is launched.
    ///
    /// # Errors
    /// [`CudaError::TooManyClasses`].
    pub fn launch_shape<T: CudaElement>(&self, rows: usize) -> Result<LaunchShape, Error> {
        let kernels = self.kernels_of(self.steps(), T::TYPE.0)?;
        Ok(plan::shape_of(
            kernels,
            &self.batch(rows),
            size_of::<T>() as u64,
        )?)
    }

    /// Every shape in which such a step could be launched: each kernel that takes its rows, with
    /// whole and smaller blocks, from one block a multiprocessor on, and with each number of blocks
    /// that may share a row.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn launch_shapes<T: CudaElement>(&self, rows: usize) -> Result<Vec<LaunchShape>, Error> {
        let kernels = self.kernels_of(self.steps(), T::TYPE.0)?;
        let shapes = plan::shapes_of(kernels, &self.batch(rows), size_of::<T>() as u64);
        Ok(shapes)
    }

    /// Launches have this shape from now on; with `None` the crate's own choice again. A launch
    /// whose rows do not fit it is a [`CudaError::LaunchShape`].
    pub fn set_launch_shape(&mut self, shape: Option<LaunchShape>) {
        self.launch_shape = shape;
    }
}
