//! What Python's ctypes needs beside the crate's C interface, so that one harness times the crate
//! and its peers alike: the copy kernel, and device memory for callers without a framework. Not a
//! public interface: `gpu/peers.py` is its only user. The library has the C interface too.
//!
//! Functions give a status and keep their reason as that interface's do. A door belongs to the
//! device's primary context, which PyTorch uses too.

use std::ffi::c_void;
use std::sync::Arc;

use ala_loss::cuda;
use ala_loss::cuda::instruments::Instruments;
use ala_loss_capi::AlaStatus;
use ala_loss_capi::status::{Failure, guarded};
use cudarc::driver::{CudaContext, result, sys};

/// The kernels beside the loss's own, and the context that they are loaded in.
struct Door {
    context: Arc<CudaContext>,
    instruments: Instruments,
}

fn null(what: &str) -> Failure {
    Failure::new(AlaStatus::Null, format!("{what} is null"))
}

/// Opens a door to device 0 and puts it to `out`.
///
/// # Safety
/// `out` must be valid for a write.
#[unsafe(no_mangle)]
unsafe extern "C" fn ala_door_open(out: *mut *mut c_void) -> AlaStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { out.as_mut() }.ok_or_else(|| null("out"))?;
        let context = cuda::context(0)?;
        let door = Door {
            instruments: Instruments::load(&context)?,
            context,
        };
        *out = Box::into_raw(Box::new(door)).cast();
        Ok(())
    })
}

/// # Safety
/// `door` must be one that was opened and not closed.
unsafe fn with_door(
    door: *mut c_void,
    body: impl FnOnce(&Door) -> Result<(), Failure>,
) -> AlaStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let door = unsafe { door.cast::<Door>().as_ref() }.ok_or_else(|| null("door"))?;
        door.context.bind_to_thread()?;
        body(door)
    })
}

/// Enqueues a copy by the copy kernel.
///
/// # Safety
/// As [`with_door`] and [`Instruments::copy`].
#[unsafe(no_mangle)]
unsafe extern "C" fn ala_door_copy(
    door: *mut c_void,
    stream: *mut c_void,
    from: u64,
    to: u64,
    bytes: u64,
) -> AlaStatus {
    let stream: sys::CUstream = stream.cast();
    // SAFETY: the caller's promise.
    unsafe {
        with_door(door, |door| {
            Ok(door.instruments.copy(stream, from, to, bytes)?)
        })
    }
}

/// Closes a door.
///
/// # Safety
/// As [`with_door`]; its copies must have run, and its memory be free.
#[unsafe(no_mangle)]
unsafe extern "C" fn ala_door_close(door: *mut c_void) -> AlaStatus {
    guarded(|| {
        if !door.is_null() {
            // SAFETY: it was made by a box, and the caller gives it up.
            drop(unsafe { Box::from_raw(door.cast::<Door>()) });
        }
        Ok(())
    })
}

/// Device memory, for callers without a framework: its address to `out`.
///
/// # Safety
/// As [`with_door`]; `out` must be valid for a write.
#[unsafe(no_mangle)]
unsafe extern "C" fn ala_door_alloc(door: *mut c_void, bytes: usize, out: *mut u64) -> AlaStatus {
    // SAFETY: the caller's promise.
    unsafe {
        with_door(door, |_| {
            *out.as_mut().ok_or_else(|| null("out"))? = result::malloc_sync(bytes)?;
            Ok(())
        })
    }
}

/// # Safety
/// As [`with_door`]; `address` must come from [`ala_door_alloc`], and nothing may use it any more.
#[unsafe(no_mangle)]
unsafe extern "C" fn ala_door_free(door: *mut c_void, address: u64) -> AlaStatus {
    // SAFETY: the caller's promise.
    unsafe { with_door(door, |_| Ok(result::free_sync(address)?)) }
}

/// Copies to the device, and waits.
///
/// # Safety
/// As [`with_door`]; both ranges must hold so many bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn ala_door_upload(
    door: *mut c_void,
    to: u64,
    from: *const c_void,
    bytes: usize,
) -> AlaStatus {
    // SAFETY: the caller's promise.
    unsafe {
        with_door(door, |_| {
            let from = std::slice::from_raw_parts(from.cast::<u8>(), bytes);
            Ok(result::memcpy_htod_sync(to, from)?)
        })
    }
}

/// Waits for the device, and copies from it.
///
/// # Safety
/// As [`ala_door_upload`].
#[unsafe(no_mangle)]
unsafe extern "C" fn ala_door_download(
    door: *mut c_void,
    to: *mut c_void,
    from: u64,
    bytes: usize,
) -> AlaStatus {
    // SAFETY: the caller's promise.
    unsafe {
        with_door(door, |door| {
            door.context.synchronize()?;
            let to = std::slice::from_raw_parts_mut(to.cast::<u8>(), bytes);
            Ok(result::memcpy_dtoh_sync(to, from)?)
        })
    }
}
