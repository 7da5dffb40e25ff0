//! From cudarc's slices to device addresses, and the guards that keep them in order.

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, SyncOnDrop, sys};

/// A slice's address, for calls that no guard follows.
pub(super) fn address_of(slice: &CudaSlice<u8>, stream: &CudaStream) -> u64 {
    slice.device_ptr(stream).0
}

/// The most buffers that a step has.
const MOST_BUFFERS: usize = 18;

/// Keeps cudarc's guards until the launch is enqueued; they then record that their buffers are in
/// use. No heap: the launch path allocates nothing.
#[derive(Default)]
pub(super) struct Guards<'a> {
    kept: [Option<SyncOnDrop<'a>>; MOST_BUFFERS],
    used: usize,
}

impl<'a> Guards<'a> {
    pub(super) fn keep(&mut self, (address, guard): (sys::CUdeviceptr, SyncOnDrop<'a>)) -> u64 {
        self.kept[self.used] = Some(guard);
        self.used += 1;
        address
    }
}
