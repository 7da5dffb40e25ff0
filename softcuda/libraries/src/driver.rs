//! The driver's calls that the libraries make.
use cudarc::driver::sys;
use std::ffi::{CStr, c_void};

/// A call that the driver refused.
pub(crate) struct Refused;

fn check(result: sys::CUresult) -> Result<(), Refused> {
    if result == sys::CUresult::CUDA_SUCCESS { Ok(()) } else { Err(Refused) }
}

/// A stream as its caller holds it: null is the default one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream(usize);

impl Stream {
    pub(crate) const DEFAULT: Self = Self(0);

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

    /// Copies to the device, behind what the stream holds.
    ///
    /// # Safety
    ///
    /// The device's memory at `to` has room for `from` and is live.
    pub(crate) unsafe fn upload<T: Copy>(self, to: usize, from: &[T]) -> Result<(), Refused> {
        let bytes = size_of_val(from);
        // SAFETY: as the caller says; pageable memory has been read when the call returns.
        check(unsafe { sys::cuMemcpyHtoDAsync_v2(to as u64, from.as_ptr().cast(), bytes, self.handle()) })
    }
}

/// The context that a library was set up in. Calls of threads that have none take it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context(usize);

impl Context {
    /// That of the thread.
    pub(crate) fn current() -> Result<Self, Refused> {
        let mut context: sys::CUcontext = std::ptr::null_mut();
        // SAFETY: the place is this call's.
        check(unsafe { sys::cuCtxGetCurrent(&mut context) })?;
        if context.is_null() { Err(Refused) } else { Ok(Self(context as usize)) }
    }

    /// Makes it the thread's, unless that has one.
    pub(crate) fn enter(self) -> Result<(), Refused> {
        if Self::current().is_ok() {
            return Ok(());
        }
        // SAFETY: a context that is gone is an error.
        check(unsafe { sys::cuCtxSetCurrent(self.0 as sys::CUcontext) })
    }
}

/// A loaded module.
#[derive(Debug)]
pub(crate) struct Module(usize);

/// A kernel of a module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel(usize);

impl Module {
    pub(crate) fn load(ptx: &CStr) -> Result<Self, Refused> {
        let mut module: sys::CUmodule = std::ptr::null_mut();
        // SAFETY: the text ends with a NUL, and the place is this call's.
        check(unsafe { sys::cuModuleLoadData(&mut module, ptx.as_ptr().cast()) })?;
        Ok(Self(module as usize))
    }

    pub(crate) fn kernel(&self, name: &CStr) -> Result<Kernel, Refused> {
        let mut kernel: sys::CUfunction = std::ptr::null_mut();
        // SAFETY: the name ends with a NUL, and the place is this call's.
        check(unsafe { sys::cuModuleGetFunction(&mut kernel, self.0 as sys::CUmodule, name.as_ptr()) })?;
        Ok(Kernel(kernel as usize))
    }

    /// Waits for all work, which may be this module's, and unloads it.
    pub(crate) fn unload(self) -> Result<(), Refused> {
        // SAFETY: without arguments.
        let waited = check(unsafe { sys::cuCtxSynchronize() });
        // SAFETY: nothing holds the module beyond this value.
        check(unsafe { sys::cuModuleUnload(self.0 as sys::CUmodule) })?;
        waited
    }
}

impl Kernel {
    /// Launches `blocks` of `threads` with the arguments at these addresses.
    ///
    /// # Safety
    ///
    /// The arguments are as many and of the types that the kernel declares, and what they point to
    /// on the device is live and large enough.
    pub(crate) unsafe fn launch(
        self,
        blocks: u32,
        threads: u32,
        stream: Stream,
        arguments: &mut [*mut c_void],
    ) -> Result<(), Refused> {
        let (kernel, extra) = (self.0 as sys::CUfunction, std::ptr::null_mut());
        let arguments = arguments.as_mut_ptr();
        // SAFETY: as the caller says.
        let result =
            unsafe { sys::cuLaunchKernel(kernel, blocks, 1, 1, threads, 1, 1, 0, stream.handle(), arguments, extra) };
        check(result)
    }
}
