//! The loss on an NVIDIA GPU, through cudarc (feature `cuda`).
//!
//! [`Loss::bind`](crate::Loss::bind) binds a loss to a context: the class table is uploaded.
//! [`CudaLoss::launch`] then enqueues loss **and** gradient on the caller's stream: one kernel, or
//! two where a mean must count its rows first (ignore label or class weights). It allocates
//! nothing, waits for nothing and uses no other stream, so it can be captured into a CUDA graph.
//! Kernels are loaded by element type, once a context, when the first step needs them;
//! [`CudaLoss::load`] does it before, as a capture needs it. [`Workspace::read`] is the explicit
//! call that waits and hands out the result; a label out of range surfaces there as the CPU's
//! error. [`Workspace::poll`] tells of earlier steps and does not wait, and [`Outputs::loss`]
//! leaves the loss on the device.
//!
//! ```no_run
//! use ala_loss::cuda::{self, Options, Outputs};
//! use ala_loss::{ClassCounts, Loss, Objective};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let context = cuda::context(0)?; // an Err, not a panic, where there is no driver
//! let stream = context.new_stream()?;
//! let loss = Loss::builder(Objective::ala(), &ClassCounts::new([500, 50, 5])?).build()?;
//! let loss = loss.bind(&context)?;
//!
//! // [N = 2, C = 3], not yet scaled.
//! let cosines = stream.clone_htod(&[0.8f32, 0.1, -0.3, 0.2, 0.4, 0.1])?;
//! let labels = stream.clone_htod(&[0i64, 2])?;
//! let mut gradient = stream.alloc_zeros::<f32>(6)?;
//! let mut workspace = loss.workspace(&stream, 2)?;
//! let outputs = Outputs::new().gradient(&mut gradient);
//! loss.launch(&stream, &cosines, &labels, &Options::new(), outputs, &mut workspace)?;
//! println!("{}", workspace.read(&stream)?.loss);
//! # Ok(())
//! # }
//! ```
//!
//! Logits are `f32`, [`half::f16`] or [`half::bf16`], labels `u8`, `i32`, `u32` or `i64`.
//! Everything is computed in `f32` and the gradient rounded once; row losses are `f32`, their sum
//! `f64` in a fixed order. What happens at the edges is the CPU path's table, but that a row with a
//! label out of range has loss NaN and gradient 0.

#[rustfmt::skip]
mod abi;
mod bound;
mod call;
mod element;
pub(crate) mod error;
mod guards;
mod halves;
mod image;
#[cfg(feature = "instruments")]
pub mod instruments;
mod launch;
mod module;
#[cfg(feature = "nccl")]
pub mod nccl;
mod pack;
mod plan;
#[cfg(feature = "instruments")]
mod ptxas;
mod raw;
mod shard;
mod tiers;
mod workspace;

pub use crate::call::{Divisor, Lambda, Upstream};
pub use bound::CudaLoss;
pub use call::{Options, Outputs};
pub use element::{CudaElement, CudaLabel, DeviceLabels};
pub use error::CudaError;
pub use image::{EmbeddedKernels, Origin, kernels};
pub use launch::{LabelType, RawMixed, RawStep};
pub use shard::CudaShard;
pub use workspace::Workspace;

use std::sync::Arc;

use cudarc::driver::{CudaContext, DriverError};

use crate::error::Error;

#[cfg(windows)]
const DRIVER: &str = "nvcuda.dll";
#[cfg(not(windows))]
const DRIVER: &str = "libcuda.so.1";

/// Whether the driver library can be loaded, without calling it.
///
/// cudarc panics at its first call where the library is missing: ask this first.
///
/// # Errors
/// [`CudaError::NoDriver`].
///
/// ```
/// match ala_loss::cuda::probe_driver() {
///     Ok(()) => println!("there is a driver"),
///     Err(error) => println!("{error}"),
/// }
/// ```
pub fn probe_driver() -> Result<(), Error> {
    // SAFETY: loading the driver runs its initialisers, as cudarc's own loading would.
    match unsafe { libloading::Library::new(DRIVER) } {
        Ok(library) => {
            // Kept loaded: cudarc will ask for it again.
            std::mem::forget(library);
            Ok(())
        }
        Err(error) => Err(CudaError::NoDriver {
            library: DRIVER,
            // The loader's own words are one level down.
            reason: std::error::Error::source(&error)
                .map_or_else(|| error.to_string(), ToString::to_string),
        }
        .into()),
    }
}

/// The primary context of a device, after [`probe_driver`].
///
/// # Errors
/// [`CudaError::NoDriver`] where there is no driver, [`CudaError::Driver`] where it has no such
/// device.
///
/// ```
/// // On a machine without a GPU this is an error, never a panic.
/// let context = ala_loss::cuda::context(0);
/// println!("{:?}", context.map(|context| context.ordinal()));
/// ```
pub fn context(ordinal: usize) -> Result<Arc<CudaContext>, Error> {
    probe_driver()?;
    Ok(CudaContext::new(ordinal).map_err(error::driver("opening the device"))?)
}

/// cudarc's error as this crate's, by its number alone: cudarc's own calls the driver when it is
/// formatted, and panics where there is none.
///
/// ```
/// use ala_loss::{Error, cuda};
/// use cudarc::driver::{DriverError, sys::CUresult};
///
/// let error = cuda::driver_error(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY));
/// assert_eq!(error.to_string(), "a driver call failed with CUresult 2");
/// ```
pub fn driver_error(error: DriverError) -> Error {
    error::driver("a driver call")(error).into()
}
