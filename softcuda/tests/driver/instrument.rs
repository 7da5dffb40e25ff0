//! The driver, fresh for one test at a time, and kernels to run on it.

use cudarc::driver::sys::CUresult;
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DriverError, LaunchConfig, PushKernelArg, result,
};
use cudarc::nvrtc::Ptx;
use softcuda::client::SoftCuda;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

pub const PTX: &str = include_str!("../kernels/driver.ptx");
pub const WAITING: &str = include_str!("../ptx/order.ptx");
pub const FATBIN: &[u8] = include_bytes!("../kernels/driver.fatbin");
pub type Test = Result<(), Box<dyn Error>>;

/// The instrument, fresh, for one test at a time.
pub fn instrument() -> (SoftCuda, MutexGuard<'static, ()>) {
    static ONE: Mutex<()> = Mutex::new(());
    static LOADED: OnceLock<SoftCuda> = OnceLock::new();
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let soft = *LOADED.get_or_init(|| {
        let path = SoftCuda::locate().expect("libsoftcuda.so lies beside the tests");
        SoftCuda::load(&path).expect("libsoftcuda.so loads")
    });
    soft.reset();
    (soft, guard)
}

pub fn code<T>(result: Result<T, DriverError>) -> CUresult {
    result.map_or_else(|error| error.0, |_| CUresult::CUDA_SUCCESS)
}

pub fn config(blocks: u32, threads: u32, shared: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: shared }
}

pub fn kernel(context: &Arc<CudaContext>, name: &str) -> Result<(Arc<CudaModule>, CudaFunction), DriverError> {
    let module = context.load_module(Ptx::from_src(PTX))?;
    let function = module.load_function(name)?;
    Ok((module, function))
}

pub fn axpy(
    stream: &Arc<CudaStream>,
    function: &CudaFunction,
    y: &mut CudaSlice<f32>,
    x: &CudaSlice<f32>,
    a: f32,
) -> Result<(), DriverError> {
    let n = x.len() as u32;
    let mut launch = stream.launch_builder(function);
    launch.arg(y).arg(x).arg(&a).arg(&n);
    // SAFETY: the arguments are those of the kernel, and the slices hold n elements.
    unsafe { launch.launch(config(n.div_ceil(256), 256, 0)) }.map(drop)
}

pub fn write_at(
    stream: &Arc<CudaStream>,
    function: &CudaFunction,
    y: &mut CudaSlice<f32>,
    index: u64,
) -> Result<(), DriverError> {
    let mut launch = stream.launch_builder(function);
    launch.arg(y).arg(&index);
    // SAFETY: the arguments are those of the kernel; softcuda checks the index.
    unsafe { launch.launch(config(1, 1, 0)) }.map(drop)
}

pub fn copy_at_once(to: &mut [f32], from: u64) -> Result<(), DriverError> {
    // SAFETY: the slice is the destination, the address a device allocation of the same size.
    unsafe { result::memcpy_dtoh_sync(to, from) }
}

#[test]
fn a_driver_that_is_loaded_is_found_as_one_that_is_linked() -> Test {
    let (soft, _one) = instrument();
    let linked = SoftCuda::linked().expect("its names are the program's");
    CudaContext::new(0)?;
    assert_eq!(linked.driver_calls("cuInit"), soft.driver_calls("cuInit"));
    assert!(linked.driver_calls("cuInit") > 0);
    Ok(())
}
