//! Pointers that come from the C caller. All reads and writes of the caller's memory are in this
//! file.
//!
//! By the driver API's contract the caller's memory is there, and holds what the call says; null is
//! refused.

use super::code::Code;
use std::ffi::{CStr, c_void};

/// Where a call puts a result.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Stores `value`; a null pointer is an invalid value.
    pub fn set(self, value: T) -> Result<(), Code> {
        if self.0.is_null() {
            return Err(Code::InvalidValue);
        }
        // SAFETY: not null, and the caller's place for a `T`; it may be unaligned.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }
}

impl Out<c_void> {
    /// The same place, for a result whose type another argument tells.
    pub fn cast<T>(self) -> Out<T> {
        Out(self.0.cast())
    }
}

/// A place in host memory: what a call or a copy reads or writes, now or when its stream gets
/// there.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host(usize);

impl Host {
    pub const NULL: Self = Self(0);

    /// Where a text of ours is, which outlives its use.
    pub fn of(text: &CStr) -> Self {
        Self(text.as_ptr().addr())
    }

    pub fn address(self) -> usize {
        self.0
    }

    /// The place `bytes` further on.
    pub fn offset(self, bytes: usize) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// A copy of the first `bytes`; a null pointer is an invalid value.
    pub fn read(self, bytes: usize) -> Result<Vec<u8>, Code> {
        let mut copy = vec![0; bytes];
        if bytes > 0 && self.0 == 0 {
            return Err(Code::InvalidValue);
        }
        if bytes > 0 {
            // SAFETY: not null, the caller's range holds `bytes`, and so does the fresh vector.
            unsafe { (self.0 as *const u8).copy_to_nonoverlapping(copy.as_mut_ptr(), bytes) };
        }
        Ok(copy)
    }

    /// The first `N` bytes.
    pub fn array<const N: usize>(self) -> Result<[u8; N], Code> {
        Ok(self.read(N)?.try_into().expect("as many bytes were read"))
    }

    /// The pointer or size at `index` of the array that starts here.
    pub fn word(self, index: usize) -> Result<Self, Code> {
        if self.0 == 0 {
            return Err(Code::InvalidValue);
        }
        Ok(Self(usize::from_le_bytes(self.offset(index * size_of::<usize>()).array()?)))
    }

    /// The NUL-terminated text that starts here.
    pub fn text(self) -> Result<String, Code> {
        if self.0 == 0 {
            return Err(Code::InvalidValue);
        }
        // SAFETY: not null, and the call takes a NUL-terminated text.
        let text = unsafe { CStr::from_ptr(self.0 as *const _) };
        Ok(text.to_string_lossy().into_owned())
    }

    /// Writes `data` here.
    pub fn write(self, data: &[u8]) -> Result<(), Code> {
        if !data.is_empty() && self.0 == 0 {
            return Err(Code::InvalidValue);
        }
        if !data.is_empty() {
            // SAFETY: not null, and the caller's range holds as many bytes as the call says.
            unsafe { (self.0 as *mut u8).copy_from_nonoverlapping(data.as_ptr(), data.len()) };
        }
        Ok(())
    }
}
