//! What an entry returns, and the text that goes with it.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use ala_loss::Error;
use ala_loss::cuda::{self, CudaError};
use cudarc::driver::DriverError;

/// What became of a call. ala_last_error has the words, with the offending number and the allowed
/// one.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlaStatus {
    /// All went well.
    Ok = 0,
    /// A pointer that must be given is null.
    Null = 1,
    /// An argument is none that there is: a misaligned pointer, a number that no enum has, the
    /// size of a struct, a workspace of another context.
    Argument = 2,
    /// A parameter of the loss or a number of the step is out of its range: class counts, scale,
    /// weights, margins, lambda, divisor.
    Parameter = 3,
    /// Rows, classes, strides or a workspace do not fit together.
    Shape = 4,
    /// A label is neither a class nor the ignore label.
    Label = 5,
    /// Something was given that the call does not take, or two things that exclude each other.
    Call = 6,
    /// There is no CUDA driver on this machine.
    NoDriver = 7,
    /// The driver or the device cannot run the kernels of this build, or the current context is
    /// none that a loss can be bound to.
    Device = 8,
    /// A driver call failed; the text has its CUresult.
    Driver = 9,
    /// Launches met in one workspace: its results since the last read are not to be trusted.
    /// ala_cuda_workspace_reset makes it usable again.
    Workspace = 10,
    /// A bug of this library: it panicked. The text has the panic's message.
    Panic = 11,
    /// An error that this version of the interface has no number for.
    Other = 12,
}

/// Why an entry failed.
#[derive(Debug)]
pub struct Failure {
    status: AlaStatus,
    text: String,
}

impl Failure {
    /// A failure in one's own words.
    pub fn new(status: AlaStatus, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { status, text }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(status_of(&error), error.to_string())
    }
}

impl From<DriverError> for Failure {
    fn from(error: DriverError) -> Self {
        cuda::driver_error(error).into()
    }
}

fn status_of(error: &Error) -> AlaStatus {
    match error {
        Error::NoClasses
        | Error::ZeroCount { .. }
        | Error::MissingClasses { .. }
        | Error::CountTooLarge { .. }
        | Error::Parameter { .. }
        | Error::RowParameter { .. } => AlaStatus::Parameter,
        Error::TooManyClasses { .. }
        | Error::Length { .. }
        | Error::LogitsShape { .. }
        | Error::StridedBuffer { .. }
        | Error::Stride { .. }
        | Error::ShapeOverflow { .. } => AlaStatus::Shape,
        Error::Label { .. } | Error::SecondLabel { .. } => AlaStatus::Label,
        Error::UpstreamNeedsNoReduction(_)
        | Error::GradientBufferInPlace
        | Error::Misplaced { .. } => AlaStatus::Call,
        Error::Cuda(error) => match error {
            CudaError::NoDriver { .. } => AlaStatus::NoDriver,
            CudaError::NotBuilt
            | CudaError::NoKernelsForDevice { .. }
            | CudaError::DriverTooOld { .. } => AlaStatus::Device,
            CudaError::Driver { .. } => AlaStatus::Driver,
            CudaError::OtherContext { .. } => AlaStatus::Argument,
            CudaError::WorkspaceTooSmall { .. } | CudaError::TooManyClasses { .. } => {
                AlaStatus::Shape
            }
            CudaError::SkipNeedsScalarUpstream => AlaStatus::Call,
            CudaError::Workspace => AlaStatus::Workspace,
            CudaError::Address { address: 0, .. } => AlaStatus::Null,
            CudaError::Address { .. } => AlaStatus::Argument,
            _ => AlaStatus::Other,
        },
        _ => AlaStatus::Other,
    }
}

thread_local! {
    static TEXT: RefCell<CString> = RefCell::default();
}

/// Runs an entry's body. An error or a panic becomes a status, and its text is kept.
pub fn guarded(body: impl FnOnce() -> Result<(), Failure>) -> AlaStatus {
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return AlaStatus::Ok,
        Ok(Err(failure)) => failure,
        Err(panic) => {
            let text = format!("this is a bug: {}", text_of(&*panic));
            // To drop it might panic again.
            std::mem::forget(panic);
            Failure::new(AlaStatus::Panic, text)
        }
    };
    let text = CString::new(failure.text.replace('\0', " ")).unwrap_or_default();
    // A thread that ends has no place for it any more.
    let _ = TEXT.try_with(|kept| kept.replace(text));
    failure.status
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "a panic without words",
    }
}

/// The text of this thread's last failure, in UTF-8; empty where there was none. A call that goes
/// well leaves it. The pointer is valid until this thread's next failure or its end.
#[unsafe(no_mangle)]
pub extern "C" fn ala_last_error() -> *const c_char {
    TEXT.try_with(|text| text.borrow().as_ptr())
        .unwrap_or(c"".as_ptr())
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    fn last_error() -> String {
        // SAFETY: the text is valid until this thread's next failure.
        let text = unsafe { CStr::from_ptr(ala_last_error()) };
        text.to_str().expect("UTF-8").to_owned()
    }

    /// A C caller has nothing that could catch it.
    #[test]
    fn a_panic_becomes_a_status_and_its_text() {
        extern "C" fn entry(with: u32) -> AlaStatus {
            guarded(|| match with {
                0 => panic!("in so many words"),
                1 => panic!("row {with}"),
                _ => std::panic::panic_any(with),
            })
        }
        assert_eq!(last_error(), "");
        for (with, text) in [
            (0, "this is a bug: in so many words"),
            (1, "this is a bug: row 1"),
            (2, "this is a bug: a panic without words"),
        ] {
            assert_eq!(entry(with), AlaStatus::Panic);
            assert_eq!(last_error(), text);
        }
        assert_eq!(guarded(|| Ok(())), AlaStatus::Ok);
        let other = std::thread::spawn(last_error).join();
        assert_eq!(other.expect("it ends"), "", "a text is its thread's own");
    }

    #[test]
    fn a_text_with_a_zero_is_not_cut_short() {
        guarded(|| Err(Failure::new(AlaStatus::Other, "a\0b")));
        assert_eq!(last_error(), "a b");
    }
}
