//! The batches of the tests on flex, on the device.

#[path = "../op/cases.rs"]
#[expect(dead_code, reason = "what makes tensors there makes f64 ones")]
mod host;

pub use host::{
    CLASSES, REDUCTIONS, ROWS, assert_close, builder, cosines, labels, numbers, objectives,
};

use std::sync::{Arc, OnceLock};

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use cudarc::driver::CudaContext;

/// The device. Its context is made current to this thread: cubecl waits for events on it, and the
/// driver in software wants one for that.
pub fn device() -> Device {
    static CONTEXT: OnceLock<Arc<CudaContext>> = OnceLock::new();
    let context = CONTEXT.get_or_init(|| ala_loss::cuda::context(0).expect("a device"));
    context.bind_to_thread().expect("a context");
    Device::cuda(0)
}

/// A matrix of these values, rounded to `dtype`, and they as `f64`.
pub fn matrix(
    values: Vec<f64>,
    rows: usize,
    dtype: DType,
    device: &Device,
) -> (Tensor<2>, Vec<f64>) {
    let columns = values.len() / rows;
    let data = TensorData::new(values, [rows, columns]).convert_dtype(dtype);
    let rounded = data.clone().convert::<f64>().try_into_vec();
    let rounded = rounded.expect("converted to f64");
    (Tensor::from_data(data, (device, dtype)), rounded)
}

pub fn integers(values: &[i64], dtype: DType, device: &Device) -> Tensor<1, Int> {
    let length = values.len();
    let data = TensorData::new(values.to_vec(), [length]).convert_dtype(dtype);
    Tensor::from_data(data, (device, dtype))
}
