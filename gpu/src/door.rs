//! A door for Python's ctypes: steps on raw device addresses, so that one harness times this crate
//! and its peers alike. Not a public interface: `gpu/peers.py` is its only user.
//!
//! Functions that give a number give 0 where all went well; `ala_door_error` has the reason where
//! not. A door belongs to the device's primary context, which PyTorch uses too.

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ala_loss::cuda::instruments::Instruments;
use ala_loss::cuda::{self, CudaLoss, RawStep, Upstream, Workspace};
use ala_loss::{ClassCounts, Loss, Objective, Reduction};
use cudarc::driver::{CudaContext, CudaStream, result, sys};
use half::{bf16, f16};

use crate::Failure;

/// A loss and all that its steps need.
struct Door {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    instruments: Instruments,
    loss: CudaLoss,
    workspace: Workspace,
    dtype: u32,
}

thread_local! {
    static ERROR: RefCell<CString> = RefCell::default();
}

/// Runs `body`; keeps the reason where it fails. No panic crosses the border.
fn guarded<R>(failed: R, body: impl FnOnce() -> Result<R, Failure>) -> R {
    let text = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => return value,
        Ok(Err(failure)) => failure.to_string(),
        Err(_) => "a panic; its text is on the standard error output".to_owned(),
    };
    ERROR.with_borrow_mut(|error| {
        *error = CString::new(text.replace('\0', " ")).unwrap_or_default()
    });
    failed
}

/// The reason of this thread's last failure; empty where there was none. Valid until the next.
#[unsafe(no_mangle)]
extern "C" fn ala_door_error() -> *const c_char {
    ERROR.with_borrow(|error| error.as_ptr())
}

/// Opens a door; null where that fails. `dtype`: 0 f32, 1 f16, 2 bf16. `objective`: 0 ALA, 1
/// cross-entropy. `reduction`: 0 mean, 1 sum.
///
/// # Safety
/// `counts` must point to `classes` numbers.
#[unsafe(no_mangle)]
unsafe extern "C" fn ala_door_open(
    dtype: u32,
    objective: u32,
    scale: f64,
    reduction: u32,
    counts: *const u64,
    classes: u64,
    rows: u64,
) -> *mut c_void {
    guarded(std::ptr::null_mut(), || {
        let classes = usize::try_from(classes)?;
        if counts.is_null() || dtype > 2 {
            return Err("no counts, or an unknown dtype".into());
        }
        // SAFETY: the caller's promise.
        let counts = unsafe { std::slice::from_raw_parts(counts, classes) };
        let counts = ClassCounts::new(counts.to_vec())?;
        let objective = match objective {
            0 => Objective::ala(),
            1 => Objective::CrossEntropy,
            other => return Err(format!("no objective {other}").into()),
        };
        let reduction = match reduction {
            0 => Reduction::Mean,
            1 => Reduction::Sum,
            other => return Err(format!("no reduction {other}").into()),
        };
        let loss = Loss::builder(objective, &counts)
            .scale(scale)
            .reduction(reduction)
            .build()?;
        let context = cuda::context(0)?;
        let stream = context.new_stream()?;
        let loss = loss.bind(&context)?;
        let workspace = loss.workspace(&stream, usize::try_from(rows)?)?;
        // Steps go into other streams, which must find it prepared.
        stream.synchronize()?;
        let door = Door {
            instruments: Instruments::load(&context)?,
            context,
            stream,
            loss,
            workspace,
            dtype,
        };
        Ok(Box::into_raw(Box::new(door)).cast())
    })
}

/// # Safety
/// `door` must be one that was opened and not closed, and nothing else may use it meanwhile.
unsafe fn with_door<R>(
    door: *mut c_void,
    failed: R,
    body: impl FnOnce(&mut Door) -> Result<R, Failure>,
) -> R {
    guarded(failed, || {
        // SAFETY: the caller's promise.
        let door = unsafe { door.cast::<Door>().as_mut() }.ok_or("no door is open")?;
        door.context.bind_to_thread()?;
        body(door)
    })
}

/// Enqueues loss and gradient; waits for nothing.
///
/// # Safety
/// As [`with_door`]; the addresses must be valid for `rows` contiguous rows, 64-bit labels and as
/// much gradient (which may be the logits' own) until the stream has passed; `stream` must be one
/// of the primary context, or 0.
#[unsafe(no_mangle)]
unsafe extern "C" fn ala_door_step(
    door: *mut c_void,
    stream: u64,
    logits: u64,
    labels: u64,
    gradient: u64,
    rows: u64,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        with_door(door, 1, |door| {
            let classes = door.loss.loss().classes();
            let step = RawStep {
                rows: usize::try_from(rows)?,
                logits,
                logits_stride: classes,
                labels,
                gradient: Some(gradient),
                gradient_stride: classes,
                row_losses: None,
                hits: None,
                loss: None,
                upstream: Upstream::One,
                gradient_scale: 1.0,
                skip_if_upstream: None,
                overlap: false,
            };
            let stream = stream as sys::CUstream;
            let (loss, workspace) = (&door.loss, &mut door.workspace);
            match door.dtype {
                0 => loss.launch_raw::<f32, i64>(stream, &step, workspace)?,
                1 => loss.launch_raw::<f16, i64>(stream, &step, workspace)?,
                _ => loss.launch_raw::<bf16, i64>(stream, &step, workspace)?,
            }
            Ok(0)
        })
    }
}

/// Waits for `stream` and gives the last step's reduced loss.
///
/// # Safety
/// As [`with_door`]; `loss` must point to a number.
#[unsafe(no_mangle)]
unsafe extern "C" fn ala_door_read(door: *mut c_void, stream: u64, loss: *mut f64) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        with_door(door, 1, |door| {
            result::stream::synchronize(stream as sys::CUstream)?;
            let summary = door.workspace.read(&door.stream)?;
            *loss.as_mut().ok_or("nowhere to put the loss")? = summary.loss;
            Ok(0)
        })
    }
}

/// Enqueues a copy by the copy kernel.
///
/// # Safety
/// As [`with_door`] and [`Instruments::copy`].
#[unsafe(no_mangle)]
unsafe extern "C" fn ala_door_copy(
    door: *mut c_void,
    stream: u64,
    from: u64,
    to: u64,
    bytes: u64,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        with_door(door, 1, |door| {
            door.instruments
                .copy(stream as sys::CUstream, from, to, bytes)?;
            Ok(0)
        })
    }
}

/// Closes a door.
///
/// # Safety
/// As [`with_door`]; its steps must have run.
#[unsafe(no_mangle)]
unsafe extern "C" fn ala_door_close(door: *mut c_void) {
    guarded((), || {
        if !door.is_null() {
            // SAFETY: it was made by a box, and the caller gives it up.
            drop(unsafe { Box::from_raw(door.cast::<Door>()) });
        }
        Ok(())
    });
}

/// Device memory, for callers without a framework; 0 where there is none.
///
/// # Safety
/// As [`with_door`].
#[unsafe(no_mangle)]
unsafe extern "C" fn ala_door_alloc(door: *mut c_void, bytes: u64) -> u64 {
    // SAFETY: the caller's promise.
    unsafe {
        with_door(door, 0, |_| {
            Ok(result::malloc_sync(usize::try_from(bytes)?)?)
        })
    }
}

/// # Safety
/// As [`with_door`]; `address` must come from [`ala_door_alloc`], and nothing may use it any more.
#[unsafe(no_mangle)]
unsafe extern "C" fn ala_door_free(door: *mut c_void, address: u64) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        with_door(door, 1, |_| {
            result::free_sync(address)?;
            Ok(0)
        })
    }
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
    bytes: u64,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        with_door(door, 1, |_| {
            let from = std::slice::from_raw_parts(from.cast::<u8>(), usize::try_from(bytes)?);
            result::memcpy_htod_sync(to, from)?;
            Ok(0)
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
    bytes: u64,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        with_door(door, 1, |door| {
            door.context.synchronize()?;
            let to = std::slice::from_raw_parts_mut(to.cast::<u8>(), usize::try_from(bytes)?);
            result::memcpy_dtoh_sync(to, from)?;
            Ok(0)
        })
    }
}
