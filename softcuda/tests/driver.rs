//! The driver API as cudarc 0.19.10 uses it, and the errors that a program in the wrong gets.

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, DeviceRepr, DriverError,
    LaunchConfig, PushKernelArg, result,
};
use cudarc::nvrtc::Ptx;
use softcuda::client::{Launch, SoftCuda};
use softcuda::exec::Order;
use std::error::Error;
use std::ptr::{null, null_mut};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

const PTX: &str = include_str!("kernels/driver.ptx");
const WAITING: &str = include_str!("ptx/order.ptx");
const FATBIN: &[u8] = include_bytes!("kernels/driver.fatbin");
const COMPRESSED: &[u8] = include_bytes!("kernels/compressed.fatbin");

type Test = Result<(), Box<dyn Error>>;

/// The instrument, fresh, for one test at a time.
fn instrument() -> (SoftCuda, MutexGuard<'static, ()>) {
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

fn code<T>(result: Result<T, DriverError>) -> CUresult {
    result.map_or_else(|error| error.0, |_| CUresult::CUDA_SUCCESS)
}

fn config(blocks: u32, threads: u32, shared: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: shared }
}

fn kernel(context: &Arc<CudaContext>, name: &str) -> Result<(Arc<CudaModule>, CudaFunction), DriverError> {
    let module = context.load_module(Ptx::from_src(PTX))?;
    let function = module.load_function(name)?;
    Ok((module, function))
}

fn axpy(
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

fn write_at(
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
    assert_eq!(code(CudaContext::new(1)), CUresult::CUDA_ERROR_INVALID_DEVICE);
    let error = DriverError(CUresult::CUDA_ERROR_INVALID_DEVICE);
    assert_eq!(error.error_name()?.to_str()?, "CUDA_ERROR_INVALID_DEVICE");
    assert_eq!(error.error_string()?.to_str()?, "invalid device ordinal");
    Ok(())
}

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
fn kernels_run_from_text_and_from_fat_binaries_in_every_order() -> Test {
    let (soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    let stream = context.new_stream()?;
    for order in [Order::Forward, Order::Reverse, Order::Interleaved] {
        soft.set_order(order);
        for image in [Ptx::from_src(PTX), Ptx::from_binary(FATBIN.to_vec())] {
            let axpy_of = context.load_module(image)?.load_function("axpy")?;
            let x = stream.clone_htod(&(0..1000).map(|i| i as f32).collect::<Vec<_>>())?;
            let mut y = stream.clone_htod(&vec![1.0f32; 1000])?;
            soft.take_counters();
            axpy(&stream, &axpy_of, &mut y, &x, 2.0)?;
            let y = stream.clone_dtoh(&y)?;
            assert_eq!(soft.counters().launches, 0, "nothing runs before something waits");
            stream.synchronize()?;
            assert_eq!(soft.counters().launches, 1);
            assert!(y.iter().enumerate().all(|(i, &y)| y == 1.0 + 2.0 * i as f32));
        }
    }
    Ok(())
}

#[test]
fn parameters_globals_and_dynamic_shared_memory_reach_the_kernel() -> Test {
    #[repr(C)]
    struct Mixed {
        small: u8,
        large: f64,
    }
    // SAFETY: the struct has the layout of the kernel's.
    unsafe impl DeviceRepr for Mixed {}

    let (soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    let stream = context.new_stream()?;
    let module = context.load_module(Ptx::from_binary(FATBIN.to_vec()))?;

    let (value, last) = (Mixed { small: 3, large: 0.25 }, 4u8);
    let mut sum = stream.alloc_zeros::<f64>(1)?;
    let function = module.load_function("mixed")?;
    let mut launch = stream.launch_builder(&function);
    launch.arg(&mut sum).arg(&value).arg(&last);
    // SAFETY: the arguments are those of the kernel.
    unsafe { launch.launch(config(1, 1, 0)) }?;

    let mut table = module.get_global("table", &stream)?;
    assert_eq!(table.len(), 16);
    let bytes: Vec<u8> = [9.0f32, 8.0, 7.0, 6.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    stream.memcpy_htod(&bytes[..8], &mut table.slice_mut(..8))?;
    let (mut added, n) = (stream.alloc_zeros::<f32>(4)?, 4u32);
    let function = module.load_function("add_table")?;
    let mut launch = stream.launch_builder(&function);
    launch.arg(&mut added).arg(&n);
    // SAFETY: the arguments are those of the kernel.
    unsafe { launch.launch(config(1, 4, 0)) }?;

    let input = stream.clone_htod(&[1.0f32, 2.0, 3.0])?;
    let mut reversed = stream.alloc_zeros::<f32>(3)?;
    let function = module.load_function("reverse")?;
    let mut launch = stream.launch_builder(&function);
    launch.arg(&mut reversed).arg(&input);
    // SAFETY: the arguments are those of the kernel. Its first 8 threads fill `scale`, of which 3 are used.
    unsafe { launch.launch(config(1, 3, 12)) }?;

    let sum = stream.clone_dtoh(&sum)?;
    let added = stream.clone_dtoh(&added)?;
    let reversed = stream.clone_dtoh(&reversed)?;
    stream.synchronize()?;
    assert_eq!((sum, added, reversed), (vec![7.25], vec![9.0, 8.0, 3.0, 4.0], vec![6.0, 4.0, 2.0]));
    let last = Launch { kernel: "reverse".into(), grid: [1; 3], block: [3, 1, 1], dynamic_shared: 12 };
    assert_eq!(soft.last_launch(), Some(last));
    soft.reset();
    assert_eq!(soft.last_launch(), None);
    Ok(())
}

#[test]
fn a_missing_synchronise_is_seen() -> Test {
    let (soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    let (_module, function) = kernel(&context, "axpy")?;
    let stream = context.new_stream()?;
    let x = stream.clone_htod(&[1.0f32; 8])?;
    let mut y = stream.clone_htod(&[0.0f32; 8])?;
    axpy(&stream, &function, &mut y, &x, 1.0)?;
    let mut host = [-1.0; 8];
    stream.memcpy_dtoh(&y, &mut host)?;
    assert_eq!(host, [-1.0; 8], "the copy has not run");
    assert!(soft.pending() > 0);
    soft.set_prompt_downloads(true);
    assert_eq!(stream.clone_dtoh(&y)?, [1.0; 8], "this copy runs at the call, and so does what it waits for");
    assert_eq!(host, [1.0; 8]);
    soft.set_prompt_downloads(false);

    // A synchronous copy waits for the legacy stream only, and this stream is non-blocking.
    let mut early = [-1.0f32; 8];
    let late = stream.clone_htod(&[1.0f32; 8])?;
    let (address, _guard) = late.device_ptr(&stream);
    assert_eq!(code(copy_at_once(&mut early, address)), CUresult::CUDA_ERROR_LAUNCH_FAILED);
    assert!(soft.last_fault().is_some_and(|text| text.contains("uninitialised read")), "{:?}", soft.last_fault());
    Ok(())
}

fn copy_at_once(to: &mut [f32], from: u64) -> Result<(), DriverError> {
    // SAFETY: the slice is the destination, the address a device allocation of the same size.
    unsafe { result::memcpy_dtoh_sync(to, from) }
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
fn events_order_streams_and_measure_time() -> Test {
    let (_soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    // SAFETY: this test orders its streams itself.
    unsafe { context.disable_event_tracking() };
    let (_module, function) = kernel(&context, "axpy")?;
    let (first, second) = (context.new_stream()?, context.new_stream()?);
    let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
    let x = first.clone_htod(&[1.0f32; 8])?;
    let mut y = first.clone_htod(&[0.0f32; 8])?;
    let start = first.record_event(timed)?;
    axpy(&first, &function, &mut y, &x, 3.0)?;
    let end = first.record_event(timed)?;
    assert_eq!(code(elapsed_at_once(&start, &end)), CUresult::CUDA_ERROR_NOT_READY);
    second.wait(&end)?;
    let seen = second.clone_dtoh(&y)?;
    second.synchronize()?;
    assert_eq!(seen, [3.0; 8], "the waited-for stream ran first");
    assert!(start.elapsed_ms(&end)? >= 0.0);

    let later = second.record_event(None)?;
    assert!(!later.is_complete() && later.is_complete(), "asking makes it run");
    drop(first.clone_dtoh(&y)?);
    let fork = second.fork()?;
    axpy(&fork, &function, &mut y, &x, 1.0)?;
    second.join(&fork)?;
    let open = second.record_event(None)?;
    assert!(!open.try_is_complete()? && open.try_is_complete()?);
    assert!(context.new_event(None)?.try_is_complete()?, "an event never recorded is complete");
    assert_eq!(code(elapsed_at_once(&open, &end)), CUresult::CUDA_ERROR_INVALID_HANDLE);
    Ok(())
}

fn elapsed_at_once(start: &CudaEvent, end: &CudaEvent) -> Result<f32, DriverError> {
    // SAFETY: both events are alive.
    unsafe { result::event::elapsed(start.cu_event(), end.cu_event()) }
}

#[test]
fn a_missing_dependency_between_streams_is_seen() -> Test {
    let (_soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    // SAFETY: leaving out the wait is the test.
    unsafe { context.disable_event_tracking() };
    let (first, second) = (context.new_stream()?, context.new_stream()?);
    let device = first.clone_htod(&[1.0f32])?;
    let _host = second.clone_dtoh(&device)?;
    assert_eq!(code(second.synchronize()), CUresult::CUDA_ERROR_LAUNCH_FAILED);
    Ok(())
}

#[test]
fn the_legacy_stream_and_blocking_streams_wait_for_each_other() -> Test {
    let (_soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    // SAFETY: the order that the legacy stream brings is the test.
    unsafe { context.disable_event_tracking() };
    let (legacy, blocking) = (context.default_stream(), context.per_thread_stream());
    let first = legacy.clone_htod(&[1.0f32, 2.0])?;
    let through = blocking.clone_dtoh(&first)?;
    blocking.synchronize()?;
    assert_eq!(through, [1.0, 2.0]);
    let second = blocking.clone_dtod(&first)?;
    let mut seen = [0.0f32; 2];
    let (address, _guard) = second.device_ptr(&blocking);
    copy_at_once(&mut seen, address)?;
    assert_eq!(seen, [1.0, 2.0]);
    Ok(())
}

#[test]
fn a_captured_launch_path_runs_again_and_again() -> Test {
    let (soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    // SAFETY: one stream does all the work.
    unsafe { context.disable_event_tracking() };
    let (_module, function) = kernel(&context, "axpy")?;
    let stream = context.new_stream()?;
    let x = stream.clone_htod(&[1.0f32; 300])?;
    let mut y = stream.clone_htod(&[0.0f32; 300])?;
    stream.synchronize()?;

    stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL)?;
    assert_eq!(stream.capture_status()?, sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE);
    axpy(&stream, &function, &mut y, &x, 2.0)?;
    let side = stream.fork()?;
    axpy(&side, &function, &mut y, &x, 1.0)?;
    stream.join(&side)?;
    let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0))?.ok_or("no graph")?;
    assert_eq!(soft.pending(), 0, "capturing runs and queues nothing");

    graph.upload()?;
    graph.launch()?;
    graph.launch()?;
    let seen = stream.clone_dtoh(&y)?;
    stream.synchronize()?;
    assert_eq!(seen, [6.0; 300]);
    assert_eq!(soft.counters().launches, 4);
    Ok(())
}

#[test]
fn what_a_graph_cannot_hold_is_refused_while_capturing() -> Test {
    let (_soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    // SAFETY: one stream does all the work.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream()?;
    let outside = context.new_stream()?.record_event(None)?;
    let unsupported = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    let begin = || stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    let end = || code(stream.end_capture(sys::CUgraphInstantiate_flags(0)));
    let cases: [(&str, CUresult, &dyn Fn() -> CUresult); 8] = [
        ("stream synchronise", unsupported, &|| code(stream.synchronize())),
        ("context synchronise", unsupported, &|| code(context.synchronize())),
        ("allocation in the stream", unsupported, &|| code(stream.alloc_zeros::<f32>(1))),
        ("allocation", unsupported, &|| {
            // SAFETY: the address is not used.
            code(unsafe { result::malloc_sync(4) })
        }),
        ("synchronous copy", unsupported, &|| code(copy_at_once(&mut [], 0))),
        ("loading a module", unsupported, &|| code(context.load_module(Ptx::from_src(PTX)))),
        ("event query", unsupported, &|| code(outside.try_is_complete())),
        ("event from outside", CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION, &|| code(stream.wait(&outside))),
    ];
    for (name, expected, act) in cases {
        begin()?;
        assert_eq!(act(), expected, "{name}");
        assert_eq!(end(), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "{name}");
    }
    begin()?;
    let forked = stream.fork()?;
    forked.memset_zeros(&mut context.default_stream().alloc_zeros::<u8>(4)?)?;
    assert_eq!(end(), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    assert_eq!(end(), CUresult::CUDA_ERROR_ILLEGAL_STATE);
    begin()?;
    assert_eq!(end(), CUresult::CUDA_SUCCESS);
    let legacy = context.default_stream().begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED);
    assert_eq!(code(legacy), unsupported);
    Ok(())
}

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
fn bad_launches_are_refused_at_the_call() -> Test {
    let (soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    let (module, function) = kernel(&context, "reverse")?;
    let stream = context.new_stream()?;
    let x = stream.clone_htod(&[1.0f32; 4])?;
    let mut y = stream.alloc_zeros::<f32>(4)?;
    let mut launch = |shape: LaunchConfig| {
        let mut launch = stream.launch_builder(&function);
        launch.arg(&mut y).arg(&x);
        // SAFETY: the arguments are those of the kernel, and nothing but the call is tested.
        code(unsafe { launch.launch(shape) })
    };
    let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
    assert_eq!(launch(config(0, 32, 0)), invalid);
    assert_eq!(launch(config(1, 0, 0)), invalid);
    assert_eq!(launch(config(1, 1025, 0)), invalid);
    assert_eq!(launch(config(1, 4, (48 << 10) + 1)), invalid);
    assert!(soft.last_fault().is_some_and(|text| text.contains("dynamic shared memory")));
    let limit = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    assert_eq!(code(function.set_attribute(limit, 228 << 10)), invalid);
    function.set_attribute(limit, 100 << 10)?;
    assert_eq!(function.get_attribute(limit)?, 100 << 10);
    assert_eq!(launch(config(1, 4, 100 << 10)), CUresult::CUDA_SUCCESS);

    let bounded = module.load_function("axpy")?;
    assert_eq!(bounded.max_threads_per_block()?, 256);
    // SAFETY: no argument is read, for the launch is refused before.
    let refused = unsafe { stream.launch_builder(&bounded).launch(config(1, 257, 0)) };
    assert_eq!(code(refused), invalid);
    Ok(())
}

#[test]
fn kernels_tell_their_attributes_and_occupancy() -> Test {
    extern "C" fn no_shared(_block: i32) -> usize {
        0
    }
    let (_soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    let module = context.load_module(Ptx::from_binary(FATBIN.to_vec()))?;
    let (axpy, reverse) = (module.load_function("axpy")?, module.load_function("reverse")?);
    assert_eq!((axpy.shared_size_bytes()?, reverse.shared_size_bytes()?), (0, 32));
    assert_eq!((axpy.local_size_bytes()?, axpy.const_size_bytes()?), (0, 0));
    assert_eq!((axpy.ptx_version()?, axpy.binary_version()?), (90, 90));
    // As `cuobjdump --dump-resource-usage driver.fatbin` says.
    assert_eq!((axpy.num_regs()?, reverse.num_regs()?), (AXPY_REGISTERS, REVERSE_REGISTERS));
    assert_eq!(axpy.occupancy_max_active_blocks_per_multiprocessor(256, 0, None)?, 8);
    assert_eq!(reverse.occupancy_max_active_blocks_per_multiprocessor(1024, 100 << 10, None)?, 2);
    assert_eq!(axpy.occupancy_max_potential_block_size(no_shared, 0, 0, None)?, (8 * 132, 256));
    assert!(reverse.occupancy_available_dynamic_smem_per_block(2, 1024)? > 100 << 10);
    Ok(())
}

const AXPY_REGISTERS: i32 = 10;
const REVERSE_REGISTERS: i32 = 14;

#[test]
fn images_without_readable_ptx_are_refused_with_a_reason() -> Test {
    let (soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    let no_binary = CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU;
    let load = |image: Vec<u8>| code(context.load_module(Ptx::from_binary(image)));
    assert_eq!(load(COMPRESSED.to_vec()), no_binary);
    assert!(soft.last_fault().is_some_and(|text| text.contains("--compress-mode=none")));
    assert_eq!(load(b"\x7fELF\x02\x01\x01\0".to_vec()), no_binary);
    assert_eq!(load(b"\0".to_vec()), CUresult::CUDA_ERROR_INVALID_IMAGE);
    assert_eq!(load(b"no ptx {\0".to_vec()), CUresult::CUDA_ERROR_INVALID_PTX);
    let mut broken = FATBIN.to_vec();
    broken[16 + 8..16 + 16].fill(0xff); // the first entry's payload size
    assert_eq!(load(broken), no_binary);
    let module = context.load_module(Ptx::from_src(PTX))?;
    assert_eq!(code(module.load_function("absent")), CUresult::CUDA_ERROR_NOT_FOUND);
    let stream = context.default_stream();
    assert_eq!(code(module.get_global("absent", &stream)), CUresult::CUDA_ERROR_NOT_FOUND);
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
fn packed_parameters_and_pointer_attributes_work() -> Test {
    let (_soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    let (_module, function) = kernel(&context, "write_at")?;
    let stream = context.default_stream();
    let y = stream.alloc_zeros::<f32>(4)?;
    let (address, _guard) = y.device_ptr(&stream);
    let (packed, mut size, mut ordinal, mut start) = ([address, 2], 16usize, -1i32, 0u64);
    let mut extra =
        [1usize, packed.as_ptr() as usize, 2, &raw mut size as usize, 0].map(|word| word as *mut std::ffi::c_void);
    // SAFETY: the packed buffer is the kernel's parameter block, and every pointer is to a live local.
    unsafe {
        let launched = sys::cuLaunchKernel(
            function.cu_function(),
            1,
            1,
            1,
            1,
            1,
            1,
            0,
            null_mut(),
            null_mut(),
            extra.as_mut_ptr(),
        );
        assert_eq!(launched, CUresult::CUDA_SUCCESS);
        let of = |value, attribute| sys::cuPointerGetAttribute(value, attribute, address + 8);
        let device = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL;
        assert_eq!(of((&raw mut ordinal).cast(), device), CUresult::CUDA_SUCCESS);
        let range = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR;
        assert_eq!(of((&raw mut start).cast(), range), CUresult::CUDA_SUCCESS);
    }
    assert_eq!((ordinal, start), (0, address));
    let seen = stream.clone_dtoh(&y)?;
    stream.synchronize()?;
    assert_eq!(seen, [0.0, 0.0, 1.0, 0.0]);
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
