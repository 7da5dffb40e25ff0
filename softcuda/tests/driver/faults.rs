//! Faults of kernels, as the driver tells them.

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, DevicePtr, PushKernelArg};
use cudarc::nvrtc::Ptx;

use crate::instrument::{Test, WAITING, axpy, code, config, instrument, kernel, write_at};

#[test]
fn an_out_of_bounds_write_is_named_and_stops_the_device() -> Test {
    let (soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    let (_module, function) = kernel(&context, "write_at")?;
    let stream = context.new_stream()?;
    let mut y = stream.alloc_zeros::<f32>(4)?;
    write_at(&stream, &function, &mut y, 3)?;
    stream.synchronize()?;
    write_at(&stream, &function, &mut y, 4)?;
    let illegal = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
    assert_eq!(code(stream.synchronize()), illegal, "the wait that ran it fails");
    let text = soft.last_fault().ok_or("no text")?;
    assert!(text.contains("write_at") && text.contains("out of bounds"), "{text}");
    assert_eq!(code(stream.synchronize()), illegal);
    assert_eq!(code(stream.alloc_zeros::<f32>(1)), illegal);
    assert_eq!(code(context.new_stream()), illegal);
    drop((y, stream, context));
    soft.reset();
    CudaContext::new(0)?.synchronize()?;
    Ok(())
}

#[test]
fn blocks_that_wait_for_one_another_need_a_device_that_holds_them() -> Test {
    let (soft, _one) = instrument();
    for (resident, outcome) in [
        (None, CUresult::CUDA_SUCCESS),
        (Some(8), CUresult::CUDA_SUCCESS),
        (Some(7), CUresult::CUDA_ERROR_LAUNCH_FAILED),
    ] {
        soft.reset();
        if let Some(resident) = resident {
            soft.set_resident_blocks(resident);
        }
        let context = CudaContext::new(0)?;
        let all_meet = context.load_module(Ptx::from_src(WAITING))?.load_function("all_meet")?;
        let stream = context.new_stream()?;
        let (mut flag, mut out) = (stream.alloc_zeros::<u32>(1)?, stream.alloc_zeros::<u32>(8)?);
        let data = stream.alloc_zeros::<u32>(1)?;
        let mut launch = stream.launch_builder(&all_meet);
        launch.arg(&data).arg(&mut flag).arg(&mut out);
        // SAFETY: the arguments are those of the kernel, which writes a number a block.
        unsafe { launch.launch(config(8, 32, 0)) }?;
        assert_eq!(code(stream.synchronize()), outcome, "{resident:?}");
    }
    let text = soft.last_fault().ok_or("no text")?;
    for part in ["deadlock between blocks: all 7 resident blocks", "1 blocks have not begun", "kernel all_meet"] {
        assert!(text.contains(part), "{text}");
    }
    Ok(())
}

#[test]
fn a_misaligned_vector_load_has_its_own_code() -> Test {
    let (soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    let (_module, function) = kernel(&context, "read_four")?;
    let stream = context.new_stream()?;
    let x = stream.clone_htod(&[1.0f32; 8])?;
    let mut y = stream.alloc_zeros::<f32>(4)?;
    let view = x.slice(1..5);
    let mut launch = stream.launch_builder(&function);
    launch.arg(&mut y).arg(&view);
    // SAFETY: the arguments are those of the kernel; softcuda checks their alignment.
    unsafe { launch.launch(config(1, 1, 0)) }?;
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_MISALIGNED_ADDRESS);
    assert!(soft.last_fault().is_some_and(|text| text.contains("misaligned")));
    Ok(())
}

#[test]
fn use_after_free_by_queued_work_is_a_fault() -> Test {
    let (soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    // SAFETY: leaving the order to the driver is the test.
    unsafe { context.disable_event_tracking() };
    let (_module, function) = kernel(&context, "axpy")?;
    let stream = context.new_stream()?;
    let x = stream.clone_htod(&[1.0f32; 4])?;
    let mut y = stream.clone_htod(&[0.0f32; 4])?;
    // SAFETY: the second owner of the same memory frees it before the kernel runs.
    drop(unsafe { stream.upgrade_device_ptr::<f32>(x.device_ptr(&stream).0, 4) });
    axpy(&stream, &function, &mut y, &x, 1.0)?;
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert!(soft.last_fault().is_some_and(|text| text.contains("use after free")), "{:?}", soft.last_fault());
    Ok(())
}

#[test]
fn a_cooperative_launch_of_more_blocks_than_the_device_holds_is_refused_at_the_call() -> Test {
    let (soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    let all_meet = context.load_module(Ptx::from_src(WAITING))?.load_function("all_meet")?;
    let stream = context.new_stream()?;
    let (mut flag, mut out) = (stream.alloc_zeros::<u32>(1)?, stream.alloc_zeros::<u32>(8)?);
    let data = stream.alloc_zeros::<u32>(1)?;
    let too_large = CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
    for (resident, outcome) in [(8, CUresult::CUDA_SUCCESS), (7, too_large)] {
        soft.set_resident_blocks(resident);
        let mut launch = stream.launch_builder(&all_meet);
        launch.arg(&data).arg(&mut flag).arg(&mut out);
        // SAFETY: the arguments are those of the kernel, which writes a number a block.
        let launched = unsafe { launch.launch_cooperative(config(8, 32, 0)) };
        assert_eq!(code(launched), outcome, "{resident}");
        stream.synchronize()?;
    }
    assert!(soft.last_fault().is_some_and(|text| text.contains("all_meet") && text.contains("holds 7 blocks at once")));
    Ok(())
}
