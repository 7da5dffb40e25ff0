//! The device, handles, and what the instrument counts.

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, DriverError};
use std::ptr::{null, null_mut};

use crate::instrument::{Test, axpy, code, instrument, kernel};

#[test]
fn the_device_describes_itself() -> Test {
    let (_soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    assert_eq!(CudaContext::device_count()?, 1);
    assert_eq!(context.name()?, "softcuda");
    assert_eq!(context.compute_capability()?, (9, 0));
    assert!(context.has_async_alloc());
    assert_eq!(context.total_mem()?, context.mem_get_info()?.1);
    let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
    assert_eq!(context.attribute(attribute)?, 227 << 10);
    context.uuid()?;
    let bus_id = |bytes: &mut [u8]| {
        // SAFETY: the length is the buffer's.
        unsafe { sys::cuDeviceGetPCIBusId(bytes.as_mut_ptr().cast(), bytes.len() as i32, 0) }
    };
    let mut id = [0; 13];
    assert_eq!(bus_id(&mut id[..12]), CUresult::CUDA_ERROR_INVALID_VALUE, "no room for the end");
    assert_eq!(bus_id(&mut id), CUresult::CUDA_SUCCESS);
    assert_eq!(&id, b"0000:00:1f.7\0");
    let mut table = null();
    // SAFETY: the place for the table is there.
    let refused = unsafe { sys::cuGetExportTable(&mut table, null()) };
    assert_eq!((refused, table), (CUresult::CUDA_ERROR_NOT_SUPPORTED, null()));
    assert_eq!(code(CudaContext::new(1)), CUresult::CUDA_ERROR_INVALID_DEVICE);
    let error = DriverError(CUresult::CUDA_ERROR_INVALID_DEVICE);
    assert_eq!(error.error_name()?.to_str()?, "CUDA_ERROR_INVALID_DEVICE");
    assert_eq!(error.error_string()?.to_str()?, "invalid device ordinal");
    Ok(())
}

#[test]
fn wrong_handles_null_pointers_and_foreign_threads_get_error_codes() -> Test {
    let (_soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    let (_module, function) = kernel(&context, "axpy")?;
    let (bad, invalid) = (0xdead0 as *mut std::ffi::c_void, CUresult::CUDA_ERROR_INVALID_VALUE);
    let invalid_handle = CUresult::CUDA_ERROR_INVALID_HANDLE;
    // SAFETY: softcuda looks handles up and refuses null pointers; nothing here is dereferenced.
    unsafe {
        assert_eq!(sys::cuStreamSynchronize(bad.cast()), invalid_handle);
        assert_eq!(sys::cuStreamDestroy_v2(null_mut()), invalid_handle);
        assert_eq!(sys::cuEventRecord(bad.cast(), null_mut()), invalid_handle);
        assert_eq!(sys::cuModuleUnload(bad.cast()), invalid_handle);
        assert_eq!(sys::cuGraphLaunch(bad.cast(), null_mut()), invalid);
        assert_eq!(sys::cuGraphDestroy(bad.cast()), invalid);
        assert_eq!(sys::cuCtxSetCurrent(bad.cast()), CUresult::CUDA_ERROR_INVALID_CONTEXT);
        assert_eq!(sys::cuMemAlloc_v2(null_mut(), 4), invalid);
        assert_eq!(sys::cuMemFreeHost(bad), invalid);
        assert_eq!(sys::cuMemcpyHtoD_v2(0x10, null(), 4), invalid);
        assert_eq!(sys::cuModuleLoadData(&mut null_mut(), null()), invalid);
        let launch = |stream, params| {
            sys::cuLaunchKernel(function.cu_function(), 1, 1, 1, 32, 1, 1, 0, stream, params, null_mut())
        };
        assert_eq!(launch(bad.cast(), null_mut()), invalid_handle);
        assert_eq!(launch(null_mut(), null_mut()), invalid, "the kernel has parameters");
    }
    // A thread that bound no context gets an error, not a launch.
    let other = std::thread::spawn(move || function.occupancy_available_dynamic_smem_per_block(1, 32));
    let answer = other.join().map_err(|_| "the thread panicked")?;
    assert_eq!(code(answer), CUresult::CUDA_ERROR_INVALID_CONTEXT);
    Ok(())
}

#[test]
fn operations_are_counted_by_name_beyond_their_module_and_context() -> Test {
    let (soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    let stream = context.new_stream()?;
    let x = stream.clone_htod(&[1.0f32; 64])?;
    let mut y = stream.clone_htod(&[0.0f32; 64])?;
    for times in 1..=2 {
        let (module, function) = kernel(&context, "axpy")?;
        axpy(&stream, &function, &mut y, &x, 1.0)?;
        stream.synchronize()?;
        let operations = soft.operations();
        // Two warps of 8 have elements; a guarded operation counts where a lane executes it.
        let counts = ["ld.param.u32", "fma.rn.f32", "st.global.f32"].map(|name| operations[name]);
        assert_eq!(counts, [8, 2, 2].map(|count| count * times));
        assert!(!operations.contains_key("add.f64"), "no instruction of its own");
        drop((module, function));
    }
    drop((x, y, stream, context));
    assert_eq!(soft.operations()["fma.rn.f32"], 4);
    soft.reset();
    assert!(soft.operations().is_empty());
    Ok(())
}

#[test]
fn driver_calls_are_counted_by_name() -> Test {
    let (soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    // SAFETY: one stream does all the work.
    unsafe { context.disable_event_tracking() };
    let (_module, function) = kernel(&context, "axpy")?;
    let stream = context.new_stream()?;
    let x = stream.clone_htod(&[1.0f32; 4])?;
    let mut y = stream.clone_htod(&[0.0f32; 4])?;
    let count = || {
        ["cuLaunchKernel", "cuStreamSynchronize", "cuMemAllocAsync", "cuEventRecord"]
            .map(|name| soft.driver_calls(name))
    };
    let before = count();
    axpy(&stream, &function, &mut y, &x, 1.0)?;
    assert_eq!(count(), [before[0] + 1, before[1], before[2], before[3]]);
    assert_eq!(soft.driver_calls("cuNoSuchCall"), 0);
    Ok(())
}
