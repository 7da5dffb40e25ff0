//! Device memory, page-locked host memory, copies and sets.

use super::border::{Need, call, calls, current};
use super::code::Code;
use super::handle::{DEVICE, Handle, LEGACY};
use super::pointer::{Host, Out};
use super::state::{Block, State};
use super::work::{Source, Work};
use crate::device::CAPACITY;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ffi::c_void;

impl State {
    fn allocate(&mut self, bytes: usize, pooled: bool) -> Result<u64, Code> {
        let address = match self.memory.alloc(bytes as u64) {
            Ok(address) => address,
            Err(fault) => return Err(self.refuse(Code::OutOfMemory, fault.to_string())),
        };
        self.blocks.insert(address, Block { pooled, freed: false });
        Ok(address)
    }

    /// Checks that device memory a call names is allocated now; whether it still is when the work
    /// runs is seen then.
    fn check_range(&mut self, what: &str, address: u64, bytes: usize) -> Result<(), Code> {
        if self.covers(address, bytes as u64) {
            return Ok(());
        }
        let why = format!("{what}: {bytes} bytes at {address:#x} are not within one device allocation");
        Err(self.refuse(Code::InvalidValue, why))
    }

    /// Runs work in the legacy stream and waits for it. As on a device, that does not wait for
    /// non-blocking streams.
    fn synchronously(&mut self, what: &str, work: Work) -> Result<(), Code> {
        self.refuse_unsafe(what)?;
        self.submit(LEGACY, work)?;
        self.run_stream(LEGACY)
    }

    pub(super) fn upload(
        &mut self,
        what: &str,
        to: u64,
        from: Host,
        bytes: usize,
        captured: bool,
    ) -> Result<Work, Code> {
        self.check_range(what, to, bytes)?;
        let range = self.host_range(from, bytes);
        let from =
            if captured || range.pinned { Source::Host(range) } else { Source::Staged(from.read(bytes)?.into()) };
        Ok(Work::Upload { to, from })
    }

    pub(super) fn download(&mut self, what: &str, to: Host, from: u64, bytes: usize) -> Result<Work, Code> {
        self.check_range(what, from, bytes)?;
        if to.address() == 0 && bytes > 0 {
            return Err(Code::InvalidValue);
        }
        Ok(Work::Download { from, to: self.host_range(to, bytes) })
    }

    pub(super) fn copy(&mut self, what: &str, to: u64, from: u64, bytes: usize) -> Result<Work, Code> {
        self.check_range(what, to, bytes)?;
        self.check_range(what, from, bytes)?;
        Ok(Work::Copy { from, to, bytes: bytes as u64 })
    }

    fn set(&mut self, what: &str, at: u64, value: u8, count: usize) -> Result<Work, Code> {
        self.check_range(what, at, count)?;
        Ok(Work::Set { at, value, count: count as u64 })
    }

    fn pin(&mut self, bytes: usize) -> Result<usize, Code> {
        const PAGE: usize = 4096;
        let layout = Layout::from_size_align(bytes, PAGE).map_err(|_| Code::OutOfMemory)?;
        if bytes == 0 {
            return Err(Code::InvalidValue);
        }
        // SAFETY: the layout's size is not 0.
        let address = unsafe { alloc_zeroed(layout) } as usize;
        if address == 0 {
            return Err(Code::OutOfMemory);
        }
        self.pinned.insert(address, layout);
        Ok(address)
    }
}

calls! {
    Context: fn cuMemGetInfo_v2(state, free: Out<usize>, total: Out<usize>) {
        free.set((CAPACITY - state.memory.used()) as usize)?;
        total.set(CAPACITY as usize)
    }

    Context: fn cuMemAlloc_v2(state, address: Out<u64>, bytes: usize) {
        state.refuse_unsafe("allocating")?;
        address.set(0)?;
        if bytes == 0 {
            return Err(Code::InvalidValue);
        }
        address.set(state.allocate(bytes, false)?)
    }

    /// A stream-ordered allocation. Its address can be used at once; 0 bytes give the null address,
    /// as cudarc's empty slices need. In a capture it is the graph's.
    Context: fn cuMemAllocAsync(state, address: Out<u64>, bytes: usize, stream: Handle) {
        let stream = state.stream(stream)?;
        address.set(0)?;
        match state.queues[&stream].capture {
            _ if bytes == 0 => Ok(()),
            Some(capture) => address.set(state.allocate_captured(capture, stream, bytes as u64)?),
            None => address.set(state.allocate(bytes, true)?),
        }
    }

    Context: fn cuMemFree_v2(state, address: u64) {
        state.refuse_unsafe("freeing")?;
        if address == 0 {
            return Ok(());
        }
        if state.blocks.get(&address).is_none_or(|block| block.freed) && !state.is_live_of_graph(address) {
            return Err(state.refuse(Code::InvalidValue, format!("free of {address:#x}, which is not an allocation")));
        }
        state.run_all()?;
        state.submit(LEGACY, Work::Free(address))?;
        state.end_of_graph(address);
        state.run_stream(LEGACY)
    }

    /// In a capture, of what a graph allocates.
    Context: fn cuMemFreeAsync(state, address: u64, stream: Handle) {
        let stream = state.stream(stream)?;
        if address == 0 {
            return Ok(());
        }
        if let Some(capture) = state.queues[&stream].capture {
            return state.free_captured(capture, stream, address);
        }
        if state.is_live_of_graph(address) {
            state.submit(stream, Work::Free(address))?;
            state.end_of_graph(address);
            return Ok(());
        }
        match state.blocks.get_mut(&address) {
            Some(block) if block.pooled && !block.freed => block.freed = true,
            _ => return Err(state.refuse(Code::InvalidValue, format!("free of {address:#x}, which no pool gave out"))),
        }
        state.submit(stream, Work::Free(address))
    }

    Context: fn cuMemHostAlloc(state, address: Out<usize>, bytes: usize, flags: u32) {
        state.refuse_unsafe("allocating page-locked memory")?;
        if flags > 7 {
            return Err(Code::InvalidValue);
        }
        address.set(0)?;
        address.set(state.pin(bytes)?)
    }

    Context: fn cuMemAllocHost_v2(state, address: Out<usize>, bytes: usize) {
        state.refuse_unsafe("allocating page-locked memory")?;
        address.set(0)?;
        address.set(state.pin(bytes)?)
    }

    /// Waits for all work first, as drivers do: cudarc relies on it where it works in one stream.
    Context: fn cuMemFreeHost(state, address: usize) {
        state.refuse_unsafe("freeing page-locked memory")?;
        if !state.pinned.contains_key(&address) {
            return Err(Code::InvalidValue);
        }
        state.run_all()?;
        let layout = state.pinned.remove(&address).expect("looked up above");
        // SAFETY: `pin` allocated it with this layout, and it is out of the table now.
        unsafe { dealloc(address as *mut u8, layout) };
        Ok(())
    }

    Context: fn cuMemcpyHtoD_v2(state, to: u64, from: Host, bytes: usize) {
        let work = state.upload("cuMemcpyHtoD_v2", to, from, bytes, false)?;
        state.synchronously("a synchronous copy", work)
    }

    Context: fn cuMemcpyDtoH_v2(state, to: Host, from: u64, bytes: usize) {
        let work = state.download("cuMemcpyDtoH_v2", to, from, bytes)?;
        state.synchronously("a synchronous copy", work)
    }

    Context: fn cuMemcpyDtoD_v2(state, to: u64, from: u64, bytes: usize) {
        let work = state.copy("cuMemcpyDtoD_v2", to, from, bytes)?;
        state.synchronously("a synchronous copy", work)
    }

    Context: fn cuMemcpyHtoDAsync_v2(state, to: u64, from: Host, bytes: usize, stream: Handle) {
        let stream = state.stream(stream)?;
        let captured = state.queues[&stream].capture.is_some();
        let work = state.upload("cuMemcpyHtoDAsync_v2", to, from, bytes, captured)?;
        state.submit(stream, work)
    }

    Context: fn cuMemcpyDtoHAsync_v2(state, to: Host, from: u64, bytes: usize, stream: Handle) {
        let stream = state.stream(stream)?;
        let work = state.download("cuMemcpyDtoHAsync_v2", to, from, bytes)?;
        let pageable = !state.host_range(to, bytes).pinned;
        state.submit(stream, work)?;
        if state.prompt_downloads && pageable { state.run_stream(stream) } else { Ok(()) }
    }

    Context: fn cuMemcpyDtoDAsync_v2(state, to: u64, from: u64, bytes: usize, stream: Handle) {
        let stream = state.stream(stream)?;
        let work = state.copy("cuMemcpyDtoDAsync_v2", to, from, bytes)?;
        state.submit(stream, work)
    }

    /// Between contexts, of which there is one.
    Context: fn cuMemcpyPeerAsync(
        state, to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize, stream: Handle,
    ) {
        if [to_context, from_context].iter().any(|&context| context != current()) {
            return Err(Code::InvalidContext);
        }
        let stream = state.stream(stream)?;
        let work = state.copy("cuMemcpyPeerAsync", to, from, bytes)?;
        state.submit(stream, work)
    }

    Context: fn cuMemsetD8_v2(state, at: u64, value: u8, count: usize) {
        let work = state.set("cuMemsetD8_v2", at, value, count)?;
        state.synchronously("a synchronous set", work)
    }

    Context: fn cuMemsetD8Async(state, at: u64, value: u8, count: usize, stream: Handle) {
        let stream = state.stream(stream)?;
        let work = state.set("cuMemsetD8Async", at, value, count)?;
        state.submit(stream, work)
    }

    Context: fn cuMemsetD32Async(state, at: u64, value: u32, count: usize, stream: Handle) {
        let stream = state.stream(stream)?;
        let data = value.to_le_bytes().repeat(count);
        state.check_range("cuMemsetD32Async", at, data.len())?;
        state.submit(stream, Work::Upload { to: at, from: Source::Staged(data.into()) })
    }

    /// What is known of a device pointer: enough to check that a caller's pointer is on the op's
    /// device.
    Context: fn cuPointerGetAttribute(state, value: Out<c_void>, attribute: u32, address: u64) {
        const DEVICE_MEMORY: u32 = 2;
        let of_graphs = state.graph_blocks.iter().map(|(&start, block)| (start, block.bytes));
        let live = state.memory.live().into_iter().chain(of_graphs).collect::<Vec<_>>();
        let holds = |&&(start, bytes): &&(u64, u64)| address >= start && address - start < bytes;
        let &(start, bytes) = live.iter().find(holds).ok_or(Code::InvalidValue)?;
        match attribute {
            1 => value.cast().set(current()),
            2 => value.cast().set(DEVICE_MEMORY),
            3 => value.cast().set(address),
            9 => value.cast().set(DEVICE),
            11 => value.cast().set(start),
            12 => value.cast().set(bytes),
            _ => Err(state.refuse(Code::NotSupported, format!("pointer attribute {attribute}"))),
        }
    }
}
