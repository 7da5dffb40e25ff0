//! The device that everything runs on, and the rule that no time of software passes for one of a
//! GPU.

use std::sync::Arc;

use ala_loss::cuda;
use cudarc::driver::CudaContext;
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};

use crate::Failure;
use crate::record::Device;

/// What the driver in software calls its device.
const SOFTWARE: &str = "softcuda";

/// Whether the device is the driver in software, whose times mean nothing.
///
/// # Errors
/// Those of the driver.
pub fn is_software(context: &CudaContext) -> Result<bool, Failure> {
    Ok(context.name()? == SOFTWARE)
}

/// The first device: a GPU, or where `dry` the driver in software.
///
/// # Errors
/// Where there is none, or the other.
pub fn open(dry: bool) -> Result<Arc<CudaContext>, Failure> {
    let context = cuda::context(0)?;
    match (dry, is_software(&context)?) {
        (true, false) => Err(format!(
            "a dry run is for {SOFTWARE}, and the driver found has the device {}",
            context.name()?
        )
        .into()),
        (false, true) => Err(format!("{SOFTWARE} is no GPU: only a dry run runs on it").into()),
        _ => Ok(context),
    }
}

/// What the driver says of a device.
///
/// # Errors
/// Those of the driver.
pub fn describe(context: &CudaContext) -> Result<Device, Failure> {
    let mut driver = 0;
    // SAFETY: it writes one number.
    unsafe { sys::cuDriverGetVersion(&mut driver) }.result()?;
    let attribute = |attribute| context.attribute(attribute);
    let megahertz = |kilohertz: i32| f64::from(kilohertz) / 1e3;
    let (major, minor) = context.compute_capability()?;
    Ok(Device {
        name: context.name()?,
        capability: format!("{major}.{minor}"),
        driver,
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        clock_mhz: megahertz(attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?),
        memory_clock_mhz: megahertz(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?),
        memory_bus_bits: attribute(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?,
        l2_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.try_into()?,
        memory_bytes: context.total_mem()? as u64,
    })
}
