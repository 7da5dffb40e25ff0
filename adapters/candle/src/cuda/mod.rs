//! The loss on candle's CUDA devices: on the device's own stream, on tensors where they lie,
//! without waiting.

mod batch;
mod bound;
mod op;
mod step;

use ala_loss::cuda::CudaElement;
use candle_core::cuda::CudaDType;
use candle_core::cuda::cudarc::driver::{CudaSlice, DeviceRepr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Result, Shape, Storage, Tensor, bail};

pub(crate) use batch::{DeviceBatch, DeviceFactor};
pub(crate) use bound::Bound;
pub(crate) use op::CudaOp;
pub(crate) use step::DeviceStep;

const CPU: &str = "an operation on a CUDA device was given CPU storage";

/// An element type of both crates.
trait Logit: CudaElement + CudaDType + DeviceRepr {}
impl<T: CudaElement + CudaDType + DeviceRepr> Logit for T {}

fn on_device(storage: &Storage) -> Result<&CudaStorage> {
    match storage {
        Storage::Cuda(storage) => Ok(storage),
        _ => bail!("a tensor of a step on a CUDA device is not there"),
    }
}

/// Device memory that has no value yet. Not for nothing: the driver gives out no 0 bytes.
fn alloc<T: DeviceRepr>(device: &CudaDevice, length: usize) -> Result<CudaSlice<T>> {
    // SAFETY: the step that it is made for writes every element before anything reads it.
    unsafe { device.alloc::<T>(length.max(1)) }
}

fn tensor<T: CudaDType>(
    slice: CudaSlice<T>,
    device: &CudaDevice,
    shape: impl Into<Shape>,
) -> Tensor {
    let storage = CudaStorage::wrap_cuda_slice(slice, device.clone());
    Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
}
