//! Allocations, copies and sets.

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, DevicePtr, DriverError, result};
use std::ptr::{null, null_mut};

use crate::instrument::{Test, code, instrument};

#[test]
fn copies_and_sets_arrive() -> Test {
    let (soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    for stream in [context.default_stream(), context.per_thread_stream(), context.new_stream()?] {
        let mut device = stream.clone_htod(&[1.0f32, 2.0, 3.0, 4.0])?;
        let twin = stream.clone_dtod(&device)?;
        stream.memset_zeros(&mut device.slice_mut(1..3))?;
        stream.memcpy_htod(&[7.0], &mut device.slice_mut(3..))?;
        stream.memcpy_dtod(&twin.slice(1..2), &mut device.slice_mut(0..1))?;
        let zeros = stream.alloc_zeros::<f32>(2)?;
        let (a, b) = (stream.clone_dtoh(&device)?, stream.clone_dtoh(&zeros)?);
        let mut tail = [0.0; 2];
        stream.memcpy_dtoh(&twin.slice(2..4), &mut tail)?;
        stream.synchronize()?;
        assert_eq!((a, b, tail), (vec![2.0, 0.0, 0.0, 7.0], vec![0.0; 2], [3.0, 4.0]));
    }
    assert_eq!(soft.live_allocations(), 0);
    context.synchronize()?;
    assert_eq!(context.mem_get_info()?.0, context.mem_get_info()?.1);
    Ok(())
}

#[test]
fn empty_slices_work() -> Test {
    let (_soft, _one) = instrument();
    let stream = CudaContext::new(0)?.new_stream()?;
    let mut empty = stream.alloc_zeros::<f32>(0)?;
    stream.memcpy_htod(&[] as &[f32], &mut empty)?;
    let back = stream.clone_dtoh(&empty)?;
    drop(empty);
    drop(stream.null::<u8>()?);
    stream.synchronize()?;
    assert!(back.is_empty());
    Ok(stream.context().check_err()?)
}

#[test]
fn a_copy_whose_stream_dies_first_is_lost_and_counted() -> Test {
    let (soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    let device = context.default_stream().clone_htod(&[5.0f32; 4])?;
    context.synchronize()?;
    let mut host = [0.0; 4];
    let stream = context.new_stream()?;
    stream.memcpy_dtoh(&device, &mut host)?;
    drop(stream);
    context.synchronize()?;
    assert_eq!((host, soft.lost_copies()), ([0.0; 4], 1));
    Ok(())
}

#[test]
fn host_sources_are_staged_when_pageable_and_read_late_when_pinned() -> Test {
    let (_soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    // SAFETY: one stream does all the work.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream()?;
    let mut device = stream.alloc_zeros::<u32>(2)?;
    let mut pageable = [1u32, 2];
    stream.memcpy_htod(&pageable, &mut device)?;
    pageable.fill(9);
    let staged = stream.clone_dtoh(&device)?;
    stream.synchronize()?;
    assert_eq!(staged, [1, 2]);

    let pinned = pinned_bytes(8)?;
    let source = pinned.cast::<u32>();
    // SAFETY: two page-locked words, which the queued copy reads after they are changed.
    let late = unsafe {
        source.write(3);
        source.add(1).write(4);
        let (to, _guard) = device.device_ptr(&stream);
        result::memcpy_htod_async(to, std::slice::from_raw_parts(source, 2), stream.cu_stream())?;
        source.write(5);
        stream.clone_dtoh(&device)?
    };
    stream.synchronize()?;
    assert_eq!(late, [5, 4]);

    stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED)?;
    let (to, _guard) = device.device_ptr(&stream);
    // SAFETY: as above, but the memory is gone before the graph reads it, and softcuda sees that.
    unsafe { result::memcpy_htod_async(to, std::slice::from_raw_parts(source, 2), stream.cu_stream()) }?;
    let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0))?.ok_or("no graph")?;
    // SAFETY: nothing else uses the page-locked memory.
    unsafe { result::free_host(pinned) }?;
    graph.launch()?;
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_LAUNCH_FAILED);
    Ok(())
}

fn pinned_bytes(bytes: usize) -> Result<*mut std::ffi::c_void, DriverError> {
    // SAFETY: a context is current.
    unsafe { result::malloc_host(bytes, 0) }
}

#[test]
fn leaks_double_frees_and_foreign_frees_are_seen() -> Test {
    let (soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    let stream = context.new_stream()?;
    let leaked = stream.alloc_zeros::<f32>(4)?.leak();
    assert_eq!(soft.live_allocations(), 1);
    let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
    // SAFETY: bad frees are refused by softcuda, and that is the test.
    unsafe {
        assert_eq!(code(result::free_async(leaked + 4, stream.cu_stream())), invalid);
        result::free_async(leaked, stream.cu_stream())?;
        assert_eq!(code(result::free_async(leaked, stream.cu_stream())), invalid);
        let plain = result::malloc_sync(64)?;
        assert_eq!(code(result::free_async(plain, stream.cu_stream())), invalid);
        result::free_sync(plain)?;
        assert_eq!(code(result::free_sync(plain)), invalid);
        result::free_sync(0)?;
        assert_eq!(code(result::malloc_sync(0)), invalid);
        assert_eq!(code(result::malloc_sync(1 << 40)), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    }
    assert_eq!(soft.live_allocations(), 0);
    stream.alloc_zeros::<f32>(4)?.leak();
    drop((stream, context));
    assert_eq!(soft.live_allocations(), 1, "a destroyed context does not hide what it took along");
    Ok(())
}

#[test]
fn copies_between_contexts_need_the_one_that_there_is() -> Test {
    let (_soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    let stream = context.new_stream()?;
    let from = stream.clone_htod(&[1u32, 2, 3])?;
    let to = stream.alloc_zeros::<u32>(3)?;
    let copy = |context_of_source| {
        let ((to, _to), (from, _from)) = (to.device_ptr(&stream), from.device_ptr(&stream));
        // SAFETY: both hold three numbers; a wrong context is refused.
        unsafe { sys::cuMemcpyPeerAsync(to, context.cu_ctx(), from, context_of_source, 12, stream.cu_stream()) }
    };
    assert_eq!(copy(null_mut()), CUresult::CUDA_ERROR_INVALID_CONTEXT);
    assert_eq!(copy(context.cu_ctx()), CUresult::CUDA_SUCCESS);
    let copied = stream.clone_dtoh(&to)?;
    stream.synchronize()?;
    assert_eq!(copied, [1, 2, 3]);
    // SAFETY: it is refused.
    let destroyed = unsafe { sys::cuCtxDestroy_v2(context.cu_ctx()) };
    assert_eq!(destroyed, CUresult::CUDA_ERROR_INVALID_CONTEXT);
    Ok(stream.synchronize()?)
}

/// One side of a copy of rows: an address and a pitch in bytes; what else a `CUDA_MEMCPY2D` can say
/// is left at 0.
fn copy_of_rows(
    (host, from_device, from_pitch): (*const u32, u64, usize),
    (to_host, to_device, to_pitch): (*mut u32, u64, usize),
    (width, height): (usize, usize),
) -> sys::CUDA_MEMCPY2D {
    let kind = |on_host: bool| match on_host {
        true => sys::CUmemorytype::CU_MEMORYTYPE_HOST,
        false => sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
    };
    sys::CUDA_MEMCPY2D_st {
        srcXInBytes: 0,
        srcY: 0,
        srcMemoryType: kind(!host.is_null()),
        srcHost: host.cast(),
        srcDevice: from_device,
        srcArray: null_mut(),
        srcPitch: from_pitch,
        dstXInBytes: 0,
        dstY: 0,
        dstMemoryType: kind(!to_host.is_null()),
        dstHost: to_host.cast(),
        dstDevice: to_device,
        dstArray: null_mut(),
        dstPitch: to_pitch,
        WidthInBytes: width,
        Height: height,
    }
}

#[test]
fn rows_that_lie_apart_are_copied_and_nothing_between_them() -> Test {
    let (_soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    let stream = context.new_stream()?;
    let (first, second) = (stream.clone_htod(&[9u32; 10])?, stream.clone_htod(&[8u32; 10])?);
    let ((first, _first), (second, _second)) = (first.device_ptr(&stream), second.device_ptr(&stream));
    let (rows, mut back) = ([1u32, 2, 3, 4, 5, 6], [7u32; 9]);
    // Two of each row's three numbers, at a pitch of four; from its second row on, to a pitch of
    // five, a number further; and back to one of three.
    let up = copy_of_rows((rows.as_ptr(), 0, 12), (null_mut(), first, 16), (8, 2));
    let mut over = copy_of_rows((null(), first, 16), (null_mut(), second, 20), (8, 1));
    (over.srcY, over.dstXInBytes, over.dstY) = (1, 4, 1);
    let down = copy_of_rows((null(), second, 20), (back.as_mut_ptr(), 0, 12), (12, 2));
    let copy = |what: &sys::CUDA_MEMCPY2D| {
        // SAFETY: every row lies within its side; the host's are there until the stream is waited
        // for.
        unsafe { sys::cuMemcpy2DAsync_v2(what, stream.cu_stream()) }
    };
    for what in [&up, &over, &down] {
        assert_eq!(copy(what), CUresult::CUDA_SUCCESS);
    }
    stream.synchronize()?;
    assert_eq!(back, [8, 8, 8, 8, 4, 5, 7, 7, 7]);

    let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
    assert_eq!(copy(&copy_of_rows((null(), first, 16), (null_mut(), second, 16), (8, 4))), invalid, "a row outside");
    assert_eq!(copy(&copy_of_rows((null(), first, 4), (null_mut(), second, 16), (8, 2))), invalid, "rows overlap");
    let on_host = copy_of_rows((rows.as_ptr(), 0, 12), (back.as_mut_ptr(), 0, 12), (8, 2));
    assert_eq!(copy(&on_host), CUresult::CUDA_ERROR_NOT_SUPPORTED);
    Ok(())
}
