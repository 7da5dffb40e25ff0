//! Memory that graphs allocate and free: what a capture makes of stream-ordered allocation.

use cudarc::driver::sys::{self, CUresult, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaGraph, CudaStream, DevicePtr, DriverError, PushKernelArg, result};
use std::sync::Arc;

use crate::instrument::{Test, axpy, code, config, instrument, kernel, write_at};

const NO_FLAGS: sys::CUgraphInstantiate_flags = sys::CUgraphInstantiate_flags(0);
const FREES_ON_LAUNCH: sys::CUgraphInstantiate_flags =
    sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;
const ILLEGAL: CUresult = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
const BYTES: usize = 16;

type Act<'a> = dyn Fn() -> Result<(), DriverError> + 'a;

/// A context whose streams only the tests order, and one stream.
fn stream() -> Result<(Arc<CudaContext>, Arc<CudaStream>), DriverError> {
    let context = CudaContext::new(0)?;
    // SAFETY: the tests order their streams themselves.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream()?;
    Ok((context, stream))
}

fn begin(stream: &Arc<CudaStream>) -> Result<(), DriverError> {
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL)
}

/// The graph of what `issue` issues, and what that gives.
fn captured<T>(
    stream: &Arc<CudaStream>,
    flags: sys::CUgraphInstantiate_flags,
    issue: impl FnOnce() -> Result<T, DriverError>,
) -> Result<(CudaGraph, T), DriverError> {
    begin(stream)?;
    let made = issue()?;
    let graph = stream.end_capture(flags)?.expect("the capture was begun here");
    Ok((graph, made))
}

fn allocate(stream: &CudaStream, bytes: usize) -> Result<u64, DriverError> {
    // SAFETY: what is done with the address is checked by softcuda.
    unsafe { result::malloc_async(stream.cu_stream(), bytes) }
}

fn free(stream: &CudaStream, address: u64) -> Result<(), DriverError> {
    // SAFETY: what must not be freed is refused by softcuda.
    unsafe { result::free_async(address, stream.cu_stream()) }
}

fn free_at_once(address: u64) -> Result<(), DriverError> {
    // SAFETY: what must not be freed is refused by softcuda.
    unsafe { result::free_sync(address) }
}

fn set(stream: &CudaStream, address: u64, value: u8) -> Result<(), DriverError> {
    // SAFETY: softcuda checks the address.
    unsafe { result::memset_d8_async(address, value, BYTES, stream.cu_stream()) }
}

fn read(stream: &CudaStream, address: u64) -> Result<[u8; BYTES], DriverError> {
    let mut host = [0xee; BYTES];
    // SAFETY: softcuda checks the address, and the copy is done before the array goes.
    unsafe { result::memcpy_dtoh_async(&mut host, address, stream.cu_stream()) }?;
    stream.synchronize().map(|()| host)
}

fn launch_in(stream: &CudaStream, graph: &CudaGraph) -> Result<(), DriverError> {
    // SAFETY: the graph is alive.
    unsafe { result::graph::launch(graph.cu_graph_exec(), stream.cu_stream()) }
}

#[test]
fn scratch_memory_of_a_graph_is_there_for_its_work_and_takes_nothing_between_launches() -> Test {
    let (soft, _one) = instrument();
    let (context, stream) = stream()?;
    let (_module, function) = kernel(&context, "axpy")?;
    let x = stream.clone_htod(&[1.0f32, 2.0, 3.0, 4.0])?;
    let mut out = stream.alloc_zeros::<f32>(4)?;
    stream.synchronize()?;
    let (before, held) = (context.mem_get_info()?.0, soft.live_allocations());
    let host = [10.0f32, 20.0];
    let mut seen = [0.0f32; 4];
    let (graph, ()) = captured(&stream, NO_FLAGS, || {
        let mut scratch = stream.alloc_zeros::<f32>(4)?;
        let mut words = stream.alloc_zeros::<f32>(4)?;
        axpy(&stream, &function, &mut scratch, &x, 2.0)?;
        stream.memcpy_htod(&host, &mut scratch.slice_mut(2..))?;
        let address = words.device_ptr(&stream).0;
        // SAFETY: it holds four words.
        unsafe { sys::cuMemsetD32Async(address, 1.0f32.to_bits(), 4, stream.cu_stream()) }.result()?;
        axpy(&stream, &function, &mut words, &scratch, 1.0)?;
        stream.memcpy_dtod(&words, &mut out)?;
        stream.memcpy_dtoh(&words, &mut seen)
    })?;
    assert_eq!((soft.pending(), soft.live_allocations()), (0, held), "a capture allocates nothing");
    for launch in 0..3 {
        graph.launch()?;
        let out = stream.clone_dtoh(&out)?;
        stream.synchronize()?;
        assert_eq!(out, [3.0, 5.0, 11.0, 21.0], "launch {launch}");
        assert_eq!((context.mem_get_info()?.0, soft.live_allocations()), (before, held));
    }
    assert_eq!(seen, [3.0, 5.0, 11.0, 21.0]);
    Ok(context.check_err()?)
}

#[test]
fn an_address_is_known_in_the_capture_and_stays() -> Test {
    let (_soft, _one) = instrument();
    let (_context, stream) = stream()?;
    let (graph, address) = captured(&stream, FREES_ON_LAUNCH, || {
        let address = allocate(&stream, BYTES)?;
        let mut start = 0u64;
        let attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR;
        // SAFETY: the attribute is an address.
        unsafe { sys::cuPointerGetAttribute((&raw mut start).cast(), attribute, address + 8) }.result()?;
        assert_eq!(start, address);
        assert_eq!(allocate(&stream, 0)?, 0);
        set(&stream, address, 7)?;
        Ok(address)
    })?;
    for _ in 0..2 {
        graph.launch()?;
        assert_eq!(read(&stream, address)?, [7; BYTES]);
    }
    Ok(())
}

#[test]
fn each_launch_gives_memory_without_values() -> Test {
    let (soft, _one) = instrument();
    let (_context, stream) = stream()?;
    let (graph, address) = captured(&stream, FREES_ON_LAUNCH, || allocate(&stream, BYTES))?;
    graph.launch()?;
    set(&stream, address, 5)?;
    assert_eq!(read(&stream, address)?, [5; BYTES]);
    graph.launch()?;
    assert_eq!(code(read(&stream, address)), CUresult::CUDA_ERROR_LAUNCH_FAILED);
    assert!(soft.last_fault().is_some_and(|text| text.contains("uninitialised read")), "{:?}", soft.last_fault());
    Ok(())
}

#[test]
fn memory_that_its_graph_does_not_free_is_for_all_work_behind_the_launch() -> Test {
    let (soft, _one) = instrument();
    for (waits, outcome) in [(true, CUresult::CUDA_SUCCESS), (false, ILLEGAL)] {
        soft.reset();
        let (context, stream) = stream()?;
        let other = context.new_stream()?;
        let (graph, address) = captured(&stream, NO_FLAGS, || {
            let address = allocate(&stream, BYTES)?;
            set(&stream, address, 9).map(|()| address)
        })?;
        graph.launch()?;
        assert_eq!(soft.live_allocations(), 1);
        if waits {
            other.wait(&stream.record_event(None)?)?;
        }
        let seen = read(&other, address);
        assert_eq!(code(seen), outcome);
        if waits {
            assert_eq!(seen?, [9; BYTES]);
            free(&other, address)?;
            assert_eq!(soft.live_allocations(), 0);
            other.synchronize()?;
        }
    }
    assert!(soft.last_fault().is_some_and(|text| text.contains("use before allocation")), "{:?}", soft.last_fault());
    Ok(())
}

#[test]
fn a_use_before_the_launch_or_after_the_free_is_a_fault() -> Test {
    let (soft, _one) = instrument();
    type Case = (&'static str, &'static str, fn(&Arc<CudaStream>) -> Result<(), DriverError>);
    let cases: [Case; 6] = [
        ("before the launch", "use before allocation", |stream| {
            let (_graph, address) = captured(stream, NO_FLAGS, || allocate(stream, BYTES))?;
            set(stream, address, 1)
        }),
        ("in a graph, behind its free", "use after free", |stream| {
            let (graph, ()) = captured(stream, NO_FLAGS, || {
                let address = allocate(stream, BYTES)?;
                free(stream, address)?;
                set(stream, address, 1)
            })?;
            graph.launch()
        }),
        ("behind a launch that freed it", "use after free", |stream| {
            let (graph, address) = captured(stream, NO_FLAGS, || {
                let address = allocate(stream, BYTES)?;
                free(stream, address).map(|()| address)
            })?;
            graph.launch()?;
            set(stream, address, 1)
        }),
        ("behind a free in the stream", "use after free", |stream| {
            let (graph, address) = captured(stream, NO_FLAGS, || allocate(stream, BYTES))?;
            graph.launch()?;
            free(stream, address)?;
            set(stream, address, 1)
        }),
        ("behind a free at once", "use after free", |stream| {
            let (graph, address) = captured(stream, NO_FLAGS, || allocate(stream, BYTES))?;
            graph.launch()?;
            free_at_once(address)?;
            set(stream, address, 1)
        }),
        ("in another graph, launched too early", "use before allocation", |stream| {
            let (_graph, address) = captured(stream, NO_FLAGS, || allocate(stream, BYTES))?;
            let (user, ()) = captured(stream, NO_FLAGS, || set(stream, address, 1))?;
            user.launch()
        }),
    ];
    for (name, expected, act) in cases {
        soft.reset();
        let (_context, stream) = stream()?;
        act(&stream)?;
        assert_eq!(code(stream.synchronize()), ILLEGAL, "{name}");
        assert!(soft.last_fault().is_some_and(|text| text.contains(expected)), "{name}: {:?}", soft.last_fault());
    }
    Ok(())
}

#[test]
fn what_nothing_orders_with_the_allocation_or_the_free_is_a_fault() -> Test {
    let (soft, _one) = instrument();
    type Issue = fn(&Arc<CudaStream>, &Arc<CudaStream>, u64) -> Result<(), DriverError>;
    let cases: [(&str, &str, Issue); 5] = [
        ("all ordered", "", |stream, side, other| {
            let address = allocate(stream, BYTES)?;
            set(side, other, 1)?;
            side.join(stream)?;
            set(side, address, 1)?;
            stream.join(side)?;
            free(stream, address)
        }),
        ("a use that the allocation is not before", "unordered use", |stream, side, _| {
            let address = allocate(stream, BYTES)?;
            set(side, address, 1)?;
            stream.join(side)?;
            free(stream, address)
        }),
        ("a use that the free is not behind", "unordered use", |stream, side, _| {
            let address = allocate(stream, BYTES)?;
            side.join(stream)?;
            set(side, address, 1)?;
            free(stream, address)
        }),
        ("a free that the allocation is not before", "unordered free", |stream, side, _| {
            let address = allocate(stream, BYTES)?;
            free(side, address)
        }),
        ("a free of another graph's beside a use", "unordered use", |stream, side, address| {
            set(side, address, 1)?;
            free(stream, address)
        }),
    ];
    for (name, expected, issue) in cases {
        soft.reset();
        let (context, stream) = stream()?;
        let (foreign, address) = captured(&stream, NO_FLAGS, || allocate(&stream, BYTES))?;
        foreign.launch()?;
        let side = context.new_stream()?;
        let (graph, ()) = captured(&stream, NO_FLAGS, || {
            side.join(&stream)?;
            issue(&stream, &side, address)?;
            stream.join(&side)
        })?;
        graph.launch()?;
        let outcome = code(stream.synchronize());
        if expected.is_empty() {
            assert_eq!(outcome, CUresult::CUDA_SUCCESS, "{name}: {:?}", soft.last_fault());
        } else {
            let failed = CUresult::CUDA_ERROR_LAUNCH_FAILED;
            assert_eq!(outcome, if expected == "unordered use" { ILLEGAL } else { failed }, "{name}");
            assert!(soft.last_fault().is_some_and(|text| text.contains(expected)), "{name}: {:?}", soft.last_fault());
        }
    }
    Ok(())
}

#[test]
fn checks_of_kernels_hold_for_a_graphs_memory() -> Test {
    let (soft, _one) = instrument();
    for (case, expected) in [(0, "out of bounds"), (1, "uninitialised read"), (2, "global-memory race")] {
        soft.reset();
        let (context, stream) = stream()?;
        let ((_writing, write), (_adding, add)) = (kernel(&context, "write_at")?, kernel(&context, "axpy")?);
        let x = stream.clone_htod(&[1.0f32; 4])?;
        stream.synchronize()?;
        let (graph, _y) = captured(&stream, NO_FLAGS, || {
            // SAFETY: that it has no values is seen by softcuda.
            let mut y = unsafe { stream.alloc::<f32>(4) }?;
            match case {
                0 => write_at(&stream, &write, &mut y, 4)?,
                1 => axpy(&stream, &add, &mut y, &x, 1.0)?,
                _ => {
                    let mut launch = stream.launch_builder(&write);
                    launch.arg(&mut y).arg(&0u64);
                    // SAFETY: the arguments are those of the kernel; softcuda sees that two threads
                    // write one place.
                    unsafe { launch.launch(config(1, 64, 0)) }?;
                }
            }
            Ok(y)
        })?;
        graph.launch()?;
        assert_ne!(code(stream.synchronize()), CUresult::CUDA_SUCCESS, "{expected}");
        assert!(soft.last_fault().is_some_and(|text| text.contains(expected)), "{expected}: {:?}", soft.last_fault());
    }
    Ok(())
}

#[test]
fn a_free_in_a_capture_is_of_graph_memory_once_or_spoils_it() -> Test {
    let (soft, _one) = instrument();
    let (_context, stream) = stream()?;
    let ordinary = allocate(&stream, BYTES)?;
    let (_graph, freed_inside) = captured(&stream, NO_FLAGS, || {
        let address = allocate(&stream, BYTES)?;
        free(&stream, address).map(|()| address)
    })?;
    let (_left, left) = captured(&stream, NO_FLAGS, || allocate(&stream, BYTES))?;
    let cases: [(&str, &Act); 5] = [
        ("ordinary memory", &|| free(&stream, ordinary)),
        ("a place within", &|| free(&stream, left + 4)),
        ("what its own graph frees", &|| free(&stream, freed_inside)),
        ("twice in its graph", &|| {
            let address = allocate(&stream, BYTES)?;
            free(&stream, address)?;
            free(&stream, address)
        }),
        ("twice in another graph", &|| {
            free(&stream, left)?;
            free(&stream, left)
        }),
    ];
    for (name, act) in cases {
        begin(&stream)?;
        assert_eq!(code(act()), INVALID, "{name}");
        let spoiled = CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        assert_eq!(code(allocate(&stream, BYTES)), spoiled, "{name}");
        assert_eq!(code(free(&stream, left)), spoiled, "{name}");
        assert_eq!(code(stream.end_capture(NO_FLAGS)), spoiled, "{name}");
    }
    free(&stream, 0)?;
    free(&stream, ordinary)?;
    stream.synchronize()?;
    assert_eq!(soft.live_allocations(), 0);
    Ok(())
}

#[test]
fn a_free_outside_is_of_what_a_launch_left() -> Test {
    let (soft, _one) = instrument();
    let (_context, stream) = stream()?;
    begin(&stream)?;
    let spoiled = allocate(&stream, BYTES)?;
    assert_eq!(code(free_at_once(spoiled)), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(code(stream.end_capture(NO_FLAGS)), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    assert_eq!(code(set(&stream, spoiled, 1)), INVALID, "no graph came of it");
    begin(&stream)?;
    let unjoined = allocate(&stream, BYTES)?;
    let side = stream.fork()?;
    set(&side, unjoined, 1)?;
    assert_eq!(code(stream.end_capture(NO_FLAGS)), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    assert_eq!(code(set(&stream, unjoined, 1)), INVALID, "no graph came of it");
    let (graph, (left, freed_inside)) = captured(&stream, NO_FLAGS, || {
        let (left, freed_inside) = (allocate(&stream, BYTES)?, allocate(&stream, BYTES)?);
        free(&stream, freed_inside).map(|()| (left, freed_inside))
    })?;
    let refused = |address| {
        assert_eq!(code(free(&stream, address)), INVALID);
        assert_eq!(code(free_at_once(address)), INVALID);
    };
    [spoiled, left, freed_inside].into_iter().for_each(refused);
    let frees: [&Act; 2] = [&|| free(&stream, left), &|| free_at_once(left)];
    for free in frees {
        graph.launch()?;
        refused(freed_inside);
        free()?;
        refused(left);
        assert_eq!(soft.live_allocations(), 0);
    }
    Ok(stream.synchronize()?)
}

#[test]
fn a_graph_with_memory_left_is_launched_again_only_where_it_frees_on_launch() -> Test {
    let (soft, _one) = instrument();
    let (context, stream) = stream()?;
    let empty = context.mem_get_info()?.0;
    for (flags, again) in [(NO_FLAGS, INVALID), (FREES_ON_LAUNCH, CUresult::CUDA_SUCCESS)] {
        let (graph, address) = captured(&stream, flags, || {
            let address = allocate(&stream, BYTES)?;
            set(&stream, address, 3).map(|()| address)
        })?;
        graph.launch()?;
        assert_eq!(code(graph.launch()), again, "queued");
        stream.synchronize()?;
        assert_eq!(code(graph.launch()), again, "done");
        assert_eq!(read(&stream, address)?, [3; BYTES]);
        assert_eq!((soft.live_allocations(), context.mem_get_info()?.0), (1, empty - BYTES));
        free(&stream, address)?;
        graph.launch()?;
        free_at_once(address)?;
        graph.launch()?;
        drop(graph);
        assert_eq!(soft.live_allocations(), 1, "the flag frees at a launch only");
        free(&stream, address)?;
        stream.synchronize()?;
        assert_eq!((soft.live_allocations(), context.mem_get_info()?.0), (0, empty));
    }
    Ok(())
}

#[test]
fn memory_that_comes_back_before_an_unordered_free_is_a_fault() -> Test {
    let (soft, _one) = instrument();
    for (waits, outcome) in [(true, CUresult::CUDA_SUCCESS), (false, CUresult::CUDA_ERROR_LAUNCH_FAILED)] {
        soft.reset();
        let (context, stream) = stream()?;
        let other = context.new_stream()?;
        let (graph, address) = captured(&stream, NO_FLAGS, || allocate(&stream, BYTES))?;
        graph.launch()?;
        other.join(&stream)?;
        free(&other, address)?;
        if waits {
            stream.join(&other)?;
        }
        graph.launch()?;
        assert_eq!(code(stream.synchronize()), outcome, "{:?}", soft.last_fault());
    }
    assert!(soft.last_fault().is_some_and(|text| text.contains("allocated twice")), "{:?}", soft.last_fault());
    Ok(())
}

#[test]
fn another_graph_may_free_what_a_launch_left() -> Test {
    let (soft, _one) = instrument();
    let (_context, stream) = stream()?;
    let (making, address) = captured(&stream, NO_FLAGS, || allocate(&stream, BYTES))?;
    let (ending, ()) = captured(&stream, NO_FLAGS, || {
        set(&stream, address, 1)?;
        free(&stream, address)
    })?;
    assert_eq!(code(ending.launch()), INVALID, "nothing to free yet");
    for _ in 0..2 {
        making.launch()?;
        assert_eq!(soft.live_allocations(), 1);
        ending.launch()?;
        assert_eq!(soft.live_allocations(), 0);
        assert_eq!(code(ending.launch()), INVALID, "freed already");
    }
    stream.synchronize()?;
    making.launch()?;
    drop(making);
    ending.launch()?;
    stream.synchronize()?;
    assert_eq!(soft.live_allocations(), 0);
    Ok(())
}

#[test]
fn a_graph_with_memory_has_one_instance_at_a_time() -> Test {
    let (_soft, _one) = instrument();
    let (_context, stream) = stream()?;
    let lasting = allocate(&stream, BYTES)?;
    let (_making, left) = captured(&stream, NO_FLAGS, || allocate(&stream, BYTES))?;
    let cases: [(&str, bool, &Act); 3] = [
        ("no memory", true, &|| set(&stream, lasting, 1)),
        ("an allocation", false, &|| allocate(&stream, BYTES).map(drop)),
        ("a free", false, &|| free(&stream, left)),
    ];
    for (name, twice, issue) in cases {
        begin(&stream)?;
        issue()?;
        // SAFETY: graph and instances are alive, and destroyed once.
        unsafe {
            let graph = result::stream::end_capture(stream.cu_stream())?;
            let first = result::graph::instantiate(graph, NO_FLAGS)?;
            match (result::graph::instantiate(graph, NO_FLAGS), twice) {
                (Ok(second), true) => result::graph::exec_destroy(second)?,
                (Err(error), false) => assert_eq!(error.0, CUresult::CUDA_ERROR_NOT_SUPPORTED, "{name}"),
                (other, _) => panic!("{name}: {other:?}"),
            }
            result::graph::exec_destroy(first)?;
            let next = result::graph::instantiate(graph, NO_FLAGS)?;
            result::graph::exec_destroy(next)?;
            result::graph::destroy(graph)?;
        }
    }
    Ok(())
}

#[test]
fn memory_outlives_its_graph_until_it_is_freed() -> Test {
    let (soft, _one) = instrument();
    let (context, stream) = stream()?;
    let issue = || {
        let address = allocate(&stream, BYTES)?;
        set(&stream, address, 4).map(|()| address)
    };
    let (graph, address) = captured(&stream, NO_FLAGS, issue)?;
    graph.launch()?;
    drop(graph);
    assert_eq!(read(&stream, address)?, [4; BYTES], "the launch runs, and what it left stays");
    assert_eq!(soft.live_allocations(), 1);
    free(&stream, address)?;
    assert_eq!(soft.live_allocations(), 0);
    stream.synchronize()?;
    assert_eq!(code(set(&stream, address, 1)), INVALID, "nothing gives it back any more");

    let (graph, address) = captured(&stream, NO_FLAGS, issue)?;
    drop(graph);
    assert_eq!(code(set(&stream, address, 1)), INVALID, "no launch will come");

    let (graph, _address) = captured(&stream, NO_FLAGS, issue)?;
    let (_other, ()) = captured(&stream, NO_FLAGS, || {
        let address = allocate(&stream, BYTES)?;
        drop(graph);
        set(&stream, address, 1)?;
        free(&stream, address)
    })?;

    let (graph, _address) = captured(&stream, NO_FLAGS, issue)?;
    graph.launch()?;
    drop((graph, stream, context));
    assert_eq!(soft.live_allocations(), 1, "a destroyed context does not hide what a graph left");
    Ok(())
}

#[test]
fn an_address_lasts_as_long_as_a_graph_or_an_instance() -> Test {
    let (soft, _one) = instrument();
    let (_context, stream) = stream()?;
    begin(&stream)?;
    let address = allocate(&stream, BYTES)?;
    // SAFETY: graph and instances are alive where they are used, and destroyed once.
    unsafe {
        let graph = result::stream::end_capture(stream.cu_stream())?;
        result::graph::exec_destroy(result::graph::instantiate(graph, NO_FLAGS)?)?;
        let instance = result::graph::instantiate(graph, NO_FLAGS)?;
        result::graph::launch(instance, stream.cu_stream())?;
        result::graph::destroy(graph)?;
        free(&stream, address)?;
        result::graph::launch(instance, stream.cu_stream())?;
        set(&stream, address, 2)?;
        assert_eq!(read(&stream, address)?, [2; BYTES]);
        free(&stream, address)?;
        stream.synchronize()?;
        result::graph::exec_destroy(instance)?;
    }
    assert_eq!(code(set(&stream, address, 1)), INVALID, "that was the last");
    assert_eq!(soft.live_allocations(), 0);
    Ok(())
}

#[test]
fn launches_of_a_graph_follow_one_another_in_all_streams() -> Test {
    let (soft, _one) = instrument();
    let (context, stream) = stream()?;
    let other = context.new_stream()?;
    let (_module, function) = kernel(&context, "axpy")?;
    let x = stream.clone_htod(&[1.0f32; 4])?;
    let mut y = stream.clone_htod(&[0.0f32; 4])?;
    stream.synchronize()?;
    let (graph, ()) = captured(&stream, NO_FLAGS, || {
        let mut scratch = stream.alloc_zeros::<f32>(4)?;
        axpy(&stream, &function, &mut scratch, &x, 1.0)?;
        axpy(&stream, &function, &mut y, &scratch, 1.0)
    })?;
    graph.launch()?;
    launch_in(&other, &graph)?;
    other.synchronize()?;
    assert_eq!((soft.pending(), soft.counters().launches), (0, 4));
    let seen = other.clone_dtoh(&y)?;
    other.synchronize()?;
    assert_eq!(seen, [2.0; 4]);
    Ok(())
}

#[test]
fn memory_that_the_device_does_not_have_is_refused() -> Test {
    let (soft, _one) = instrument();
    let (context, stream) = stream()?;
    let (most, lacking) = (context.mem_get_info()?.1, CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    begin(&stream)?;
    assert_eq!(code(allocate(&stream, most + 1)), lacking, "at the capture, where it never can be there");
    assert_eq!(code(stream.end_capture(NO_FLAGS)), CUresult::CUDA_SUCCESS);
    let (both, ()) = captured(&stream, NO_FLAGS, || {
        let halves = [allocate(&stream, most / 2)?, allocate(&stream, most / 2 + 1)?];
        halves.into_iter().try_for_each(|half| free(&stream, half))
    })?;
    assert_eq!(code(both.launch()), lacking, "at the launch");
    let (apart, ()) = captured(&stream, NO_FLAGS, || {
        free(&stream, allocate(&stream, most)?)?;
        free(&stream, allocate(&stream, most / 2)?)
    })?;
    apart.launch()?;
    allocate(&stream, BYTES)?;
    assert_eq!(code(apart.launch()), lacking, "the rest is held outside");
    // Nothing that was launched is to run: the host may not have so much.
    soft.reset();
    Ok(())
}
