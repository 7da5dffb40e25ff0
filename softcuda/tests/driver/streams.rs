//! Streams, events, captures and graphs.

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, CudaEvent, DevicePtr, DriverError, result};
use cudarc::nvrtc::Ptx;

use crate::instrument::{PTX, Test, axpy, code, copy_at_once, instrument, kernel};

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
    let cases: [(&str, CUresult, &dyn Fn() -> CUresult); 7] = [
        ("stream synchronise", unsupported, &|| code(stream.synchronize())),
        ("context synchronise", unsupported, &|| code(context.synchronize())),
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
