//! What pointers are asked before they are used: the one place where they become references.

use std::mem::MaybeUninit;
use std::ptr;

use crate::status::{AlaStatus, Failure};

fn check<T>(name: &str, pointer: *const T) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(Failure::new(AlaStatus::Null, format!("{name} is null")));
    }
    if !pointer.is_aligned() {
        return Err(Failure::new(
            AlaStatus::Argument,
            format!(
                "{name} is at {pointer:p}: it must be a multiple of {}",
                align_of::<T>()
            ),
        ));
    }
    Ok(())
}

/// # Safety
/// `pointer`, where it is not null, must be valid for reads as long as the reference lives.
pub(crate) unsafe fn borrowed<'a, T>(name: &str, pointer: *const T) -> Result<&'a T, Failure> {
    check(name, pointer)?;
    // SAFETY: not null and aligned; the rest is the caller's promise.
    Ok(unsafe { &*pointer })
}

/// # Safety
/// `pointer`, where it is not null, must be valid and nobody else's as long as the reference lives.
pub(crate) unsafe fn exclusive<'a, T>(name: &str, pointer: *mut T) -> Result<&'a mut T, Failure> {
    check(name, pointer)?;
    // SAFETY: not null and aligned; the rest is the caller's promise.
    Ok(unsafe { &mut *pointer })
}

/// Where a result goes; what is there need not be one yet.
///
/// # Safety
/// As [`exclusive`].
pub(crate) unsafe fn place<'a, T>(
    name: &str,
    pointer: *mut T,
) -> Result<&'a mut MaybeUninit<T>, Failure> {
    // SAFETY: the caller's promise.
    unsafe { exclusive(name, pointer.cast::<MaybeUninit<T>>()) }
}

/// Bytes of so many elements, where an address space has as many.
pub(crate) fn bytes_of<T>(name: &str, length: usize) -> Result<usize, Failure> {
    length
        .checked_mul(size_of::<T>())
        .filter(|&bytes| isize::try_from(bytes).is_ok())
        .ok_or_else(|| {
            Failure::new(
                AlaStatus::Shape,
                format!("{name}: {length} elements exceed the address space"),
            )
        })
}

/// # Safety
/// As [`borrowed`], for `length` elements. Without elements any pointer will do.
pub(crate) unsafe fn slice<'a, T>(
    name: &str,
    pointer: *const T,
    length: usize,
) -> Result<&'a [T], Failure> {
    if length == 0 {
        return Ok(&[]);
    }
    check(name, pointer)?;
    bytes_of::<T>(name, length)?;
    // SAFETY: not null, aligned and of a size that there can be; the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(pointer, length) })
}

/// # Safety
/// As [`exclusive`], for `length` elements. Without elements any pointer will do.
pub(crate) unsafe fn slice_mut<'a, T>(
    name: &str,
    pointer: *mut T,
    length: usize,
) -> Result<&'a mut [T], Failure> {
    if length == 0 {
        return Ok(&mut []);
    }
    check(name, pointer)?;
    bytes_of::<T>(name, length)?;
    // SAFETY: not null, aligned and of a size that there can be; the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer, length) })
}

/// Makes what a handle stands for and puts the handle to `out`, which is null where that fails.
///
/// # Safety
/// `out`, where it is not null, must be valid for writes.
pub(crate) unsafe fn hand_out<T>(
    out: *mut *mut T,
    make: impl FnOnce() -> Result<T, Failure>,
) -> Result<(), Failure> {
    check("out", out)?;
    // SAFETY: not null and aligned; the rest is the caller's promise.
    unsafe { out.write(ptr::null_mut()) };
    let handle = Box::into_raw(Box::new(make()?));
    // SAFETY: as above.
    unsafe { out.write(handle) };
    Ok(())
}

/// Takes a handle back; nothing where it is null.
///
/// # Safety
/// `handle`, where it is not null, must come from [`hand_out`] and not have been taken back.
pub(crate) unsafe fn take_back<T>(name: &str, handle: *mut T) -> Result<(), Failure> {
    if handle.is_null() {
        return Ok(());
    }
    check(name, handle)?;
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(handle) });
    Ok(())
}

/// A struct that later versions may add fields to.
///
/// # Safety
/// It must be `repr(C)` and begin with its size, a `usize`. Any bytes must be valid for it, as they
/// are for plain numbers and raw pointers.
pub(crate) unsafe trait Growing: Copy {
    const NAME: &'static str;
    /// Its size in the first version that had it.
    const FIRST_SIZE: usize;
}

/// The most that a later version may have.
const MOST_BYTES: usize = 4096;

/// Reads a struct of this version, an earlier or a later one. What an earlier one does not have is
/// 0; what a later one has beyond this must be 0.
///
/// # Safety
/// `pointer`, where it is not null, must be valid for reads of as many bytes as the struct's first
/// field says.
pub(crate) unsafe fn growing<T: Growing>(pointer: *const T) -> Result<T, Failure> {
    let name = T::NAME;
    check(name, pointer)?;
    // SAFETY: it begins with its size; a `T` is aligned as strictly.
    let size = unsafe { pointer.cast::<usize>().read() };
    if !(T::FIRST_SIZE..=MOST_BYTES).contains(&size) {
        return Err(Failure::new(
            AlaStatus::Argument,
            format!(
                "{name}.size is {size}: it must be sizeof({name}), {}",
                size_of::<T>()
            ),
        ));
    }
    let mut read = MaybeUninit::<T>::zeroed();
    let known = size.min(size_of::<T>());
    // SAFETY: the struct has so many bytes by its own word, and `read` has as many.
    unsafe { ptr::copy_nonoverlapping(pointer.cast::<u8>(), read.as_mut_ptr().cast(), known) };
    // SAFETY: as above; what is behind the bytes that are known has been checked to be there.
    let beyond = unsafe {
        std::slice::from_raw_parts(pointer.cast::<u8>().wrapping_add(known), size - known)
    };
    if beyond.iter().any(|&byte| byte != 0) {
        return Err(Failure::new(
            AlaStatus::Argument,
            format!("{name} has a field that this version of the library does not know"),
        ));
    }
    // SAFETY: any bytes are valid for it.
    Ok(unsafe { read.assume_init() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As two versions of one struct.
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Now {
        size: usize,
        first: u64,
        second: u64,
    }

    // SAFETY: plain numbers.
    unsafe impl Growing for Now {
        const NAME: &'static str = "Now";
        const FIRST_SIZE: usize = 16;
    }

    fn read(words: &[u64]) -> Result<Now, Failure> {
        // SAFETY: the tests give no size beyond the words.
        unsafe { growing(words.as_ptr().cast()) }
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn structs_of_earlier_and_later_versions_are_read() {
        let earlier = read(&[16, 7]).expect("it is of the first version");
        assert_eq!((earlier.first, earlier.second), (7, 0));
        let now = read(&[24, 7, 8]).expect("it is of this version");
        assert_eq!((now.size, now.first, now.second), (24, 7, 8));
        let later = read(&[32, 7, 8, 0]).expect("what is new is not used");
        assert_eq!((later.first, later.second), (7, 8));
        assert!(read(&[32, 7, 8, 1]).is_err(), "what is new is used");
        assert!(read(&[15, 7]).is_err() && read(&[0, 0]).is_err());
        assert!(read(&[4097]).is_err());
    }
}
