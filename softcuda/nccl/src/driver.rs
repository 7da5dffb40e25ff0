//! The driver's calls that the library makes.
use cudarc::driver::sys;

/// A call that the driver refused.
pub(crate) struct Refused;

fn check(result: sys::CUresult) -> Result<(), Refused> {
    if result == sys::CUresult::CUDA_SUCCESS { Ok(()) } else { Err(Refused) }
}

/// A stream as its caller holds it.
#[derive(Clone, Copy)]
pub(crate) struct Stream(usize);

impl Stream {
    pub(crate) fn new(handle: usize) -> Self {
        Self(handle)
    }

    fn handle(self) -> sys::CUstream {
        self.0 as sys::CUstream
    }

    /// Whether what is submitted is recorded instead of run.
    pub(crate) fn captures(self) -> Result<bool, Refused> {
        let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        // SAFETY: the place is this call's; a wrong handle is an error.
        check(unsafe { sys::cuStreamIsCapturing(self.handle(), &mut status) })?;
        Ok(status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
    }

    /// # Safety
    ///
    /// So many bytes are live at both addresses when the stream gets there, or the addresses are
    /// the same.
    pub(crate) unsafe fn copy(self, to: u64, from: u64, bytes: usize) -> Result<(), Refused> {
        if to == from || bytes == 0 {
            return Ok(());
        }
        // SAFETY: as the caller says.
        check(unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, self.handle()) })
    }

    /// Goes on when the event has come.
    pub(crate) fn wait(self, event: usize) -> Result<(), Refused> {
        // SAFETY: a wrong handle is an error.
        check(unsafe { sys::cuStreamWaitEvent(self.handle(), event as sys::CUevent, 0) })
    }

    pub(crate) fn synchronize(self) -> Result<(), Refused> {
        // SAFETY: a wrong handle is an error.
        check(unsafe { sys::cuStreamSynchronize(self.handle()) })
    }
}

/// What a stream held so far.
pub(crate) struct Event(usize);

impl Event {
    pub(crate) fn after(stream: Stream) -> Result<Self, Refused> {
        let mut event: sys::CUevent = std::ptr::null_mut();
        // SAFETY: the place is this call's.
        check(unsafe { sys::cuEventCreate(&mut event, 2) })?;
        let event = Self(event as usize);
        // SAFETY: the event is this one's own; a wrong stream is an error.
        check(unsafe { sys::cuEventRecord(event.0 as sys::CUevent, stream.handle()) })?;
        Ok(event)
    }

    pub(crate) fn handle(&self) -> usize {
        self.0
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event is this one's own, and CUDA keeps it for who waits on it already.
        let _ = unsafe { sys::cuEventDestroy_v2(self.0 as sys::CUevent) };
    }
}

/// # Safety
///
/// The device's memory at `from` is live and holds as much.
pub(crate) unsafe fn download<T: Copy>(to: &mut [T], from: u64) -> Result<(), Refused> {
    // SAFETY: as the caller says.
    check(unsafe { sys::cuMemcpyDtoH_v2(to.as_mut_ptr().cast(), from, size_of_val(to)) })
}

/// # Safety
///
/// The device's memory at `to` is live and has room for as much.
pub(crate) unsafe fn upload<T: Copy>(to: u64, from: &[T]) -> Result<(), Refused> {
    // SAFETY: as the caller says.
    check(unsafe { sys::cuMemcpyHtoD_v2(to, from.as_ptr().cast(), size_of_val(from)) })
}
