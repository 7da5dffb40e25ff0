//! Stands in for NCCL where ranks are threads of one process: communicators, the all-gather and the
//! all-reduce, under their C names, in the caller's stream. What it cannot do is refused.
//!
//! Ranks meet at every call, as they do in NCCL at the latest on the device. Each then waits, on
//! the device, for what the others had enqueued, and copies from their buffers; and all wait for
//! all copies, so that none writes over what another still reads.
#![warn(missing_docs)]

mod driver;
mod group;

use driver::{Event, Refused, Stream};
use group::{Group, Rank, Told};
use std::ffi::{c_int, c_void};

/// A `ncclResult_t`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Enqueued.
    Success = 0,
    /// The driver refused a call.
    UnhandledCudaError = 1,
    /// A null pointer, a rank that is none, a type that this library does not have.
    InvalidArgument = 4,
    /// Several ranks while a stream is captured.
    InvalidUsage = 5,
}

impl From<Refused> for Status {
    fn from(_: Refused) -> Self {
        Self::UnhandledCudaError
    }
}

/// A `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct UniqueId {
    internal: [u8; 128],
}

/// Loads the library that Cargo built beside the running program, by which a search for NCCL finds
/// it. Whether it was there.
pub fn load() -> bool {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    let Ok(program) = std::env::current_exe() else { return false };
    let folders = program.ancestors().skip(1).take(2);
    folders.flat_map(|folder| [folder.to_owned(), folder.join("deps")]).any(|folder| {
        // SAFETY: the library runs nothing when it is loaded.
        let library = unsafe { Library::open(Some(folder.join("libsoftcuda_nccl.so")), RTLD_NOW | RTLD_GLOBAL) };
        library.map(std::mem::forget).is_ok()
    })
}

/// Whether a search for NCCL as cudarc makes it finds one, this or NVIDIA's.
pub fn is_there() -> bool {
    use libloading::os::unix::Library;
    // SAFETY: NCCL runs nothing when it is loaded.
    unsafe { Library::new("libnccl.so") }.map(std::mem::forget).is_ok()
}

/// # Safety
///
/// `id` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetUniqueId(id: *mut UniqueId) -> Status {
    let mut internal = [0; 128];
    internal[..8].copy_from_slice(&group::new_number().to_le_bytes());
    // SAFETY: as the caller says.
    match unsafe { id.as_mut() } {
        Some(id) => *id = UniqueId { internal },
        None => return Status::InvalidArgument,
    }
    Status::Success
}

/// # Safety
///
/// `comm` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRank(comm: *mut *mut c_void, ranks: c_int, id: UniqueId, rank: c_int) -> Status {
    // SAFETY: as the caller says.
    let (Some(comm), Ok(ranks), Ok(rank)) = (unsafe { comm.as_mut() }, usize::try_from(ranks), usize::try_from(rank))
    else {
        return Status::InvalidArgument;
    };
    if rank >= ranks {
        return Status::InvalidArgument;
    }
    let [a, b, c, d, e, f, g, h, ..] = id.internal;
    let group = Group::of(u64::from_le_bytes([a, b, c, d, e, f, g, h]), ranks);
    *comm = Box::into_raw(Box::new(Rank { group, rank })).cast();
    Status::Success
}

/// # Safety
///
/// `comm` came from [`ncclCommInitRank`], and is used no more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommAbort(comm: *mut c_void) -> Status {
    if comm.is_null() {
        return Status::InvalidArgument;
    }
    // SAFETY: as the caller says.
    drop(unsafe { Box::from_raw(comm.cast::<Rank>()) });
    Status::Success
}

/// # Safety
///
/// As [`ncclCommAbort`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommDestroy(comm: *mut c_void) -> Status {
    // SAFETY: as the caller says.
    unsafe { ncclCommAbort(comm) }
}

/// The bytes of a `ncclDataType_t` of 4 or 8.
fn size_of_type(data_type: u32) -> Option<usize> {
    match data_type {
        2 | 3 | 7 => Some(4),
        4 | 5 | 8 => Some(8),
        _ => None,
    }
}

/// # Safety
///
/// `comm` is live; the device's memory is as NCCL says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclAllGather(
    from: u64,
    to: u64,
    count: usize,
    data_type: u32,
    comm: *mut c_void,
    stream: usize,
) -> Status {
    // SAFETY: as the caller says.
    let (Some(rank), Some(size)) = (unsafe { comm.cast::<Rank>().as_ref() }, size_of_type(data_type)) else {
        return Status::InvalidArgument;
    };
    gather(rank, from, to, count * size, Stream::new(stream)).err().unwrap_or(Status::Success)
}

fn gather(rank: &Rank, from: u64, to: u64, bytes: usize, stream: Stream) -> Result<(), Status> {
    if rank.group.ranks() == 1 {
        // SAFETY: as the caller of the gather says.
        return Ok(unsafe { stream.copy(to, from, bytes) }?);
    }
    if stream.captures()? {
        return Err(Status::InvalidUsage);
    }
    let written = Event::after(stream)?;
    let told = rank.meet(Told { address: from, event: written.handle() });
    for (place, told) in told.iter().enumerate() {
        stream.wait(told.event)?;
        // SAFETY: as the callers of all ranks say; this one's stream has waited for theirs.
        unsafe { stream.copy(to + (place * bytes) as u64, told.address, bytes) }?;
    }
    let read = Event::after(stream)?;
    for told in rank.meet(Told { address: from, event: read.handle() }) {
        stream.wait(told.event)?;
    }
    // Nobody waits for them any more.
    rank.meet(Told { address: from, event: 0 });
    Ok(())
}

/// Sums alone (0), in the ranks' order, of 4-byte floats (7) and 8-byte integers (4, 5).
///
/// # Safety
///
/// `comm` is live; the device's memory is as NCCL says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclAllReduce(
    from: u64,
    to: u64,
    count: usize,
    data_type: u32,
    operation: u32,
    comm: *mut c_void,
    stream: usize,
) -> Status {
    // SAFETY: as the caller says.
    let Some(rank) = (unsafe { comm.cast::<Rank>().as_ref() }) else {
        return Status::InvalidArgument;
    };
    let stream = Stream::new(stream);
    let done = match (operation, data_type) {
        (0, 7) => add::<f32>(rank, from, to, count, stream, |a, b| a + b),
        (0, 4 | 5) => add::<u64>(rank, from, to, count, stream, u64::wrapping_add),
        _ => Err(Status::InvalidArgument),
    };
    done.err().unwrap_or(Status::Success)
}

fn add<T: Copy + Default>(
    rank: &Rank,
    from: u64,
    to: u64,
    count: usize,
    stream: Stream,
    sum: impl Fn(T, T) -> T,
) -> Result<(), Status> {
    if rank.group.ranks() == 1 {
        // SAFETY: as the caller of the reduction says.
        return Ok(unsafe { stream.copy(to, from, count * size_of::<T>()) }?);
    }
    if stream.captures()? {
        return Err(Status::InvalidUsage);
    }
    stream.synchronize()?;
    let mut all: Option<Vec<T>> = None;
    for told in rank.meet(Told { address: from, event: 0 }) {
        let mut own = vec![T::default(); count];
        // SAFETY: as the callers of all ranks say; each has waited for its stream.
        unsafe { driver::download(&mut own, told.address) }?;
        all = Some(match all {
            None => own,
            Some(all) => all.into_iter().zip(own).map(|(a, b)| sum(a, b)).collect(),
        });
    }
    // All have read before one writes.
    rank.meet(Told { address: from, event: 0 });
    // SAFETY: as the caller says.
    Ok(unsafe { driver::upload(to, &all.unwrap_or_default()) }?)
}
