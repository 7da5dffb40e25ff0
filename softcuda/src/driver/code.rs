//! The driver API's result codes, as far as softcuda answers with them.

use std::ffi::CStr;

macro_rules! codes {
    ($($code:ident = $value:literal, $name:literal, $text:literal;)*) => {
        /// A `CUresult`.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code {
            $(#[doc = $text] $code = $value,)*
        }

        /// The C name and the text of a result code, `None` for one softcuda never gives.
        pub fn describe(value: u32) -> Option<(&'static CStr, &'static CStr)> {
            const fn c(text: &'static str) -> &'static CStr {
                match CStr::from_bytes_with_nul(text.as_bytes()) {
                    Ok(text) => text,
                    Err(_) => panic!("a code's name holds a NUL"),
                }
            }
            match value {
                $($value => Some((
                    const { c(concat!("CUDA_", $name, "\0")) },
                    const { c(concat!($text, "\0")) },
                )),)*
                _ => None,
            }
        }
    };
}

codes! {
    Success = 0, "SUCCESS", "no error";
    InvalidValue = 1, "ERROR_INVALID_VALUE", "invalid argument";
    OutOfMemory = 2, "ERROR_OUT_OF_MEMORY", "out of memory";
    NotInitialized = 3, "ERROR_NOT_INITIALIZED", "initialization error";
    InvalidDevice = 101, "ERROR_INVALID_DEVICE", "invalid device ordinal";
    InvalidImage = 200, "ERROR_INVALID_IMAGE", "device kernel image is invalid";
    InvalidContext = 201, "ERROR_INVALID_CONTEXT", "invalid device context";
    NoBinaryForGpu = 209, "ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device";
    InvalidPtx = 218, "ERROR_INVALID_PTX", "a PTX JIT compilation failed";
    UnsupportedPtxVersion = 222, "ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain";
    FileNotFound = 301, "ERROR_FILE_NOT_FOUND", "file not found";
    InvalidHandle = 400, "ERROR_INVALID_HANDLE", "invalid resource handle";
    IllegalState = 401, "ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state";
    NotFound = 500, "ERROR_NOT_FOUND", "named symbol not found";
    NotReady = 600, "ERROR_NOT_READY", "device not ready";
    IllegalAddress = 700, "ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered";
    LaunchOutOfResources = 701, "ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch";
    ContextIsDestroyed = 709, "ERROR_CONTEXT_IS_DESTROYED", "context is destroyed";
    MisalignedAddress = 716, "ERROR_MISALIGNED_ADDRESS", "misaligned address";
    LaunchFailed = 719, "ERROR_LAUNCH_FAILED", "unspecified launch failure";
    CooperativeLaunchTooLarge = 720, "ERROR_COOPERATIVE_LAUNCH_TOO_LARGE", "too many blocks in cooperative launch";
    NotSupported = 801, "ERROR_NOT_SUPPORTED", "operation not supported";
    CaptureUnsupported = 900, "ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing";
    CaptureInvalidated = 901, "ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture";
    CaptureMerge = 902, "ERROR_STREAM_CAPTURE_MERGE", "operation would result in a merge of separate capture sequences";
    CaptureUnmatched = 903, "ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not ended in the same stream as it began";
    CaptureUnjoined = 904, "ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work";
    CaptureIsolation = 905, "ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream";
    CaptureImplicit = 906, "ERROR_STREAM_CAPTURE_IMPLICIT", "operation would make the legacy stream depend on a capturing blocking stream";
    CapturedEvent = 907, "ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream";
    CaptureWrongThread = 908, "ERROR_STREAM_CAPTURE_WRONG_THREAD", "attempt to terminate a thread-local capture sequence from another thread";
    Unknown = 999, "ERROR_UNKNOWN", "unknown error";
}
