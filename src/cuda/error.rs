//! What can go wrong between the crate and a CUDA device.

use cudarc::driver::DriverError;
use thiserror::Error as ThisError;

/// What can go wrong between the crate and a CUDA device.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum CudaError {
    /// The driver library is not on this machine.
    #[error(
        "no CUDA driver: {library} cannot be loaded ({reason}); install an NVIDIA driver, or use the CPU path"
    )]
    NoDriver {
        /// The library's name.
        library: &'static str,
        /// What the loader said.
        reason: String,
    },
    /// The crate was built without nvcc.
    #[error(
        "the CUDA kernels were not compiled, since the build found no nvcc: install the CUDA toolkit (https://developer.nvidia.com/cuda-downloads) or the PyPI packages nvidia-cuda-nvcc, nvidia-cuda-crt, nvidia-nvvm, nvidia-cuda-runtime and nvidia-cuda-cccl, put nvcc in PATH or set NVCC, and build again"
    )]
    NotBuilt,
    /// A driver call failed.
    #[error("{call} failed with CUresult {code}")]
    Driver {
        /// What was being done.
        call: &'static str,
        /// The driver's own number (`CUresult`).
        code: u32,
    },
    /// A buffer lives on another device or in another context than the loss was bound to.
    #[error("the {buffer} is in another CUDA context than the loss: bind the loss to that context")]
    OtherContext {
        /// Which buffer.
        buffer: &'static str,
    },
    /// A workspace was made for fewer rows.
    #[error("the workspace holds {capacity} rows: {rows} are needed")]
    WorkspaceTooSmall {
        /// Rows it was made for.
        capacity: usize,
        /// Rows of the batch.
        rows: usize,
    },
    /// Two launches were under way in one workspace, or one did not end there.
    #[error(
        "launches met in one workspace, or one did not end in it, so that its results are not to be trusted: give each of them a workspace, and reset this one"
    )]
    Workspace,
    /// The kernels count classes in 32 bits.
    #[error("{classes} classes: the kernels take at most {most}")]
    TooManyClasses {
        /// Classes of the loss.
        classes: usize,
        /// The largest number.
        most: u32,
    },
    /// A launch shape that was chosen by hand (feature `instruments`) does not fit its kernel or
    /// the batch.
    #[error("the launch shape of tier {tier:?} does not fit: {reason}")]
    LaunchShape {
        /// The tier that was chosen.
        tier: &'static str,
        /// What does not fit.
        reason: &'static str,
    },
    /// A raw address is null or not aligned to its elements.
    #[error(
        "the {buffer} is at address {address:#x}: it must be a multiple of {alignment} and not null"
    )]
    Address {
        /// Which buffer.
        buffer: &'static str,
        /// The address given.
        address: u64,
        /// The elements' alignment in bytes.
        alignment: u64,
    },
}

/// A failed driver call, by its number alone, saying what was being done: cudarc's own error calls
/// the driver when it is formatted, and panics where there is none.
pub(super) fn driver(call: &'static str) -> impl Fn(DriverError) -> CudaError {
    move |error| CudaError::Driver {
        call,
        code: error.0 as u32,
    }
}
