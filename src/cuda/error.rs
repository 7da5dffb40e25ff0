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
    /// The sources of the kernels were changed, or the instruments are asked for, and the build
    /// found no nvcc.
    #[error(
        "these CUDA kernels do not come with the crate and were not compiled, since the build found no nvcc: install the CUDA toolkit (https://developer.nvidia.com/cuda-downloads) or the PyPI packages nvidia-cuda-nvcc, nvidia-cuda-crt, nvidia-nvvm, nvidia-cuda-runtime and nvidia-cuda-cccl, put nvcc in PATH or set NVCC, and build again"
    )]
    NotBuilt,
    /// The build has no kernels that the device can run.
    #[error(
        "no kernels that a device of compute capability {}.{} can run: this build has machine code for {machine_code:?} and PTX for {ptx:?} (capabilities times ten); where the device is of 7.5 or newer, set ALA_CUDA_ARCHS to it and build again with nvcc",
        .capability.0, .capability.1
    )]
    NoKernelsForDevice {
        /// The device's, major and minor.
        capability: (u32, u32),
        /// Capabilities, times ten, that there is machine code for.
        machine_code: &'static [u32],
        /// Capabilities, times ten, that there is PTX for.
        ptx: &'static [u32],
    },
    /// The driver is older than what the kernels were compiled for.
    #[error(
        "the CUDA driver is of CUDA {}.{}, and the kernels need one of {}.{} or newer: update the driver, or build with an nvcc that is no newer than the driver (set NVCC or ALA_CUDA_ARCHS)",
        .driver.0, .driver.1, .needed.0, .needed.1
    )]
    DriverTooOld {
        /// The CUDA version that the driver tells, major and minor.
        driver: (u32, u32),
        /// The oldest that will do.
        needed: (u32, u32),
    },
    /// A driver call failed.
    #[error("{call} failed with CUresult {code}")]
    Driver {
        /// What was being done.
        call: &'static str,
        /// The driver's own number (`CUresult`).
        code: u32,
    },
    /// A call of NCCL's failed.
    #[cfg(feature = "nccl")]
    #[error("{call} failed with ncclResult_t {code}")]
    Nccl {
        /// What was being done.
        call: &'static str,
        /// NCCL's own number (`ncclResult_t`).
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
    /// A step was to be skipped for an upstream gradient, and has none of one number.
    #[error("skip_if_upstream compares one number on the device: it needs Upstream::Scalar")]
    SkipNeedsScalarUpstream,
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
