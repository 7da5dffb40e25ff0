//! Modules, kernels and launches.

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, DevicePtr, DeviceRepr, DriverError, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use softcuda::client::Launch;
use softcuda::exec::Order;
use std::ffi::c_void;
use std::ptr::null_mut;

use crate::instrument::{FATBIN, PTX, Test, axpy, code, config, instrument, kernel};

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
    // SAFETY: the arguments are those of the kernel. Its first 8 threads fill `scale`, of which 3
    // are used.
    unsafe { launch.launch(config(1, 3, 12)) }?;

    let sum = stream.clone_dtoh(&sum)?;
    let added = stream.clone_dtoh(&added)?;
    let reversed = stream.clone_dtoh(&reversed)?;
    stream.synchronize()?;
    assert_eq!((sum, added, reversed), (vec![7.25], vec![9.0, 8.0, 3.0, 4.0], vec![6.0, 4.0, 2.0]));
    let last = Launch { kernel: "reverse".into(), grid: [1; 3], block: [3, 1, 1], dynamic_shared: 12, overlaps: false };
    assert_eq!(soft.last_launch(), Some(last));
    soft.reset();
    assert_eq!(soft.last_launch(), None);
    Ok(())
}

/// A launch with attributes: of `axpy`, which waits for no other kernel.
#[test]
fn attributes_say_how_a_kernel_is_launched() -> Test {
    use sys::CUlaunchAttributeID_enum as Id;
    let (soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    let (_module, function) = kernel(&context, "axpy")?;
    let stream = context.new_stream()?;
    let x = stream.clone_htod(&[1.0f32, 2.0, 3.0])?;
    let y = stream.clone_htod(&[1.0f32; 3])?;
    let launch = |attributes: &[(Id, i32)]| {
        let (mut a, mut n) = (2.0f32, 3u32);
        let (mut to, mut from) = (y.device_ptr(&stream).0, x.device_ptr(&stream).0);
        let mut params =
            [(&raw mut to).cast::<c_void>(), (&raw mut from).cast(), (&raw mut a).cast(), (&raw mut n).cast()];
        let mut attributes: Vec<_> = attributes
            .iter()
            .map(|&(id, on)| {
                let mut value = sys::CUlaunchAttributeValue { pad: [0; 64] };
                value.programmaticStreamSerializationAllowed = on;
                sys::CUlaunchAttribute { id, pad: [0; 4], value }
            })
            .collect();
        let config = sys::CUlaunchConfig {
            gridDimX: 1,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 32,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: stream.cu_stream(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        // SAFETY: the arguments are those of the kernel, and all live until the stream is waited
        // for.
        unsafe { sys::cuLaunchKernelEx(&config, function.cu_function(), params.as_mut_ptr(), null_mut()) }
    };
    let overlap = Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    for attributes in [&[][..], &[(Id::CU_LAUNCH_ATTRIBUTE_COOPERATIVE, 1), (overlap, 0)]] {
        assert_eq!(launch(attributes), CUresult::CUDA_SUCCESS);
        stream.synchronize()?;
        assert_eq!(soft.last_launch().map(|launch| launch.overlaps), Some(false));
    }
    let got = stream.clone_dtoh(&y)?;
    stream.synchronize()?;
    assert_eq!(got, [5.0, 9.0, 13.0]);
    let unknown = Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    assert_eq!(launch(&[(unknown, 1)]), CUresult::CUDA_ERROR_NOT_SUPPORTED);
    // It may run beside the kernel before it, and does not wait for that.
    assert_eq!(launch(&[(overlap, 1)]), CUresult::CUDA_SUCCESS);
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_LAUNCH_FAILED);
    assert!(soft.last_fault().is_some_and(|text| text.contains("too early")), "{:?}", soft.last_fault());
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
    let mut extra = [1usize, packed.as_ptr() as usize, 2, &raw mut size as usize, 0].map(|word| word as *mut c_void);
    // SAFETY: the packed buffer is the kernel's parameter block, and every pointer is to a live
    // local.
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

/// Of PTX alone: all that the launch bounds leave, or else a number that is assumed.
#[test]
fn launch_bounds_tell_the_registers_where_no_sass_does() -> Test {
    let (_soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    let registers = |bounds: &str| -> Result<i32, DriverError> {
        let ptx =
            format!(".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k()\n{bounds}\n{{\nret;\n}}\n");
        context.load_module(Ptx::from_src(ptx))?.load_function("k")?.num_regs()
    };
    assert_eq!(registers(".maxntid 256, 1, 1\n.minnctapersm 4")?, 64);
    // 65,536 registers of 24 warps, each of which takes a multiple of 256.
    assert_eq!(registers(".maxntid 96\n.minnctapersm 8")?, 80);
    assert_eq!(registers(".reqntid 32\n.minnctapersm 1")?, 255);
    assert_eq!(registers(".maxntid 256")?, 32);
    assert_eq!(registers(".maxntid 256\n.minnctapersm 0")?, 32);
    Ok(())
}

#[test]
fn ptx_newer_than_the_driver_is_refused() -> Test {
    let (soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    let load = |version: &str| {
        let ptx = format!(".version {version}\n.target sm_90\n.address_size 64\n.visible .entry k()\n{{\nret;\n}}\n");
        code(context.load_module(Ptx::from_src(ptx)))
    };
    // The driver is of CUDA 13.0.
    assert_eq!(load("9.0"), CUresult::CUDA_SUCCESS);
    assert_eq!(load("9.1"), CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
    assert!(soft.last_fault().is_some_and(|text| text.contains("9.1") && text.contains("9.0")));
    assert_eq!(load("9"), CUresult::CUDA_ERROR_INVALID_PTX);
    Ok(())
}

const AXPY_REGISTERS: i32 = 10;
const REVERSE_REGISTERS: i32 = 14;
const COMPRESSED: &[u8] = include_bytes!("../kernels/compressed.fatbin");

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
fn a_module_is_loaded_from_a_file_of_ptx() -> Test {
    let (soft, _one) = instrument();
    let context = CudaContext::new(0)?;
    let folder = env!("CARGO_MANIFEST_DIR");
    let load = |file: &str| context.load_module(Ptx::from_file(format!("{folder}/tests/kernels/{file}")));
    load("driver.ptx")?.load_function("axpy")?;
    assert_eq!(code(load("absent.ptx")), CUresult::CUDA_ERROR_FILE_NOT_FOUND);
    assert_eq!(code(load("driver.fatbin")), CUresult::CUDA_ERROR_NOT_SUPPORTED);
    assert!(soft.last_fault().is_some_and(|why| why.contains("is not PTX")));
    Ok(())
}
