//! Everything that the driver knows.

use super::capture::Capture;
use super::code::Code;
use super::event::Event;
use super::handle::{Handle, LEGACY};
use super::image::{Footprint, Function, LoadedImage};
use super::pointer::Host;
use super::queue::Queue;
use super::work::{Graph, HostRange, KernelLaunch};
use crate::counters::Counters;
use crate::device::{CAPACITY, RESIDENT_BLOCKS};
use crate::exec::{Chain, Order};
use crate::fault::Fault;
use crate::memory::Memory;
use crate::ptx::Kernel;
use std::alloc::Layout;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One device allocation of the caller's.
pub struct Block {
    /// From `cuMemAllocAsync`.
    pub pooled: bool,
    /// A free is in a queue.
    pub freed: bool,
}

/// An address that a graph allocates.
pub struct GraphBlock {
    pub bytes: u64,
    /// The capture that it was asked for in, and the graph that came of that: they have one handle.
    pub graph: Handle,
    /// That graph frees it, so that nothing else may.
    pub freed_inside: bool,
    /// A launch that leaves it allocated was submitted, and no free since.
    pub live: bool,
}

/// A graph that can be launched.
pub struct Executable {
    pub graph: Handle,
    pub nodes: Graph,
    /// A launch frees what the launch before left allocated.
    pub frees_on_launch: bool,
    /// Up to where which stream must come for its last launch to be done.
    pub last: Option<(Handle, u64)>,
}

/// The primary context.
pub struct Context {
    pub handle: Handle,
    pub retained: u32,
}

/// The driver's state.
pub struct State {
    pub initialised: bool,
    pub context: Option<Context>,
    pub memory: Memory,
    pub blocks: BTreeMap<u64, Block>,
    /// What graphs allocate, for as long as a graph does so, or nobody freed it.
    pub graph_blocks: BTreeMap<u64, GraphBlock>,
    /// Page-locked host memory by address.
    pub pinned: BTreeMap<usize, Layout>,
    pub queues: BTreeMap<Handle, Queue>,
    pub events: BTreeMap<Handle, Event>,
    pub captures: BTreeMap<Handle, Capture>,
    pub graphs: BTreeMap<Handle, Graph>,
    pub executables: BTreeMap<Handle, Executable>,
    pub images: BTreeMap<Handle, LoadedImage>,
    pub functions: BTreeMap<Handle, Function>,
    pub order: Order,
    /// Blocks that the device holds at a time.
    pub resident: usize,
    pub races: bool,
    /// Whether asynchronous copies to pageable host memory are done when their call returns.
    pub prompt_downloads: bool,
    pub counters: Counters,
    /// Whether launches are asked for their chains.
    pub chains: bool,
    /// That of the launch that ran last, if it was asked.
    pub last_chain: Option<Chain>,
    /// What modules executed that are unloaded now, by operation.
    pub unloaded: BTreeMap<String, u64>,
    /// The launch that ran last.
    pub last_launch: Option<Arc<KernelLaunch>>,
    /// The fault that stopped the device, for as long as nobody resets it.
    pub fault: Option<Code>,
    /// The text of the last fault or refusal.
    pub message: String,
    pub calls: BTreeMap<&'static str, u64>,
    /// Allocations that a destroyed context took with it.
    pub leaked: u64,
    /// Copies to pageable host memory whose stream was destroyed before anything waited for them.
    pub lost_copies: u64,
    next_handle: Handle,
}

impl State {
    /// A driver that nobody has called.
    pub fn new() -> Self {
        Self {
            initialised: false,
            context: None,
            memory: Memory::new(CAPACITY),
            blocks: BTreeMap::new(),
            graph_blocks: BTreeMap::new(),
            pinned: BTreeMap::new(),
            queues: BTreeMap::new(),
            events: BTreeMap::new(),
            captures: BTreeMap::new(),
            graphs: BTreeMap::new(),
            executables: BTreeMap::new(),
            images: BTreeMap::new(),
            functions: BTreeMap::new(),
            order: Order::Forward,
            resident: RESIDENT_BLOCKS,
            races: true,
            prompt_downloads: false,
            counters: Counters::default(),
            chains: false,
            last_chain: None,
            unloaded: BTreeMap::new(),
            last_launch: None,
            fault: None,
            message: String::new(),
            calls: BTreeMap::new(),
            leaked: 0,
            lost_copies: 0,
            next_handle: 0x5c00_0000,
        }
    }

    /// Forgets everything. Handles are not given out twice, so those of before stay invalid.
    /// Page-locked memory is not returned to the host's allocator: a program may still hold slices
    /// of it.
    pub fn reset(&mut self) {
        let next_handle = self.next_handle;
        *self = Self { initialised: self.initialised, next_handle, ..Self::new() };
    }

    /// A handle not given out before.
    pub fn new_handle(&mut self) -> Handle {
        self.next_handle += 0x10;
        self.next_handle
    }

    /// Keeps and prints why a call is refused; the device goes on.
    pub fn refuse(&mut self, code: Code, why: impl Into<String>) -> Code {
        self.message = why.into();
        eprintln!("softcuda: refused: {}", self.message);
        code
    }

    /// Stops the device for good: this and every later call fails until the instrument is reset.
    pub fn stop(&mut self, code: Code, why: String) -> Code {
        eprintln!("softcuda: fault: {why}");
        self.message = why;
        self.fault = Some(code);
        for queue in self.queues.values_mut() {
            queue.clear();
        }
        code
    }

    /// Stops the device for a fault of a piece of work.
    pub fn stop_for(&mut self, work: &str, fault: &Fault) -> Code {
        self.stop(fault_code(fault), format!("{work}: {fault}"))
    }

    /// Device allocations that nobody freed.
    pub fn unfreed(&self) -> u64 {
        let blocks = self.blocks.values().filter(|block| !block.freed).count();
        (blocks + self.graph_blocks.values().filter(|block| block.live).count()) as u64
    }

    /// Whether `bytes` from `address` on lie in one live allocation, or in one that a graph makes.
    pub fn covers(&self, address: u64, bytes: u64) -> bool {
        let within = |&(start, size): &(u64, u64)| {
            address.checked_sub(start).is_some_and(|offset| offset <= size && bytes <= size - offset)
        };
        let of_graphs = self.graph_blocks.iter().map(|(&start, block)| (start, block.bytes));
        bytes == 0 || self.memory.live().iter().any(within) || of_graphs.into_iter().any(|range| within(&range))
    }

    /// The stream a handle names.
    pub fn stream(&self, handle: Handle) -> Result<Handle, Code> {
        let stream = handle.max(LEGACY);
        match self.queues.get(&stream) {
            Some(queue) if !queue.destroyed => Ok(stream),
            _ => Err(Code::InvalidHandle),
        }
    }

    /// The queue of a stream that was looked up.
    pub fn queue(&mut self, stream: Handle) -> &mut Queue {
        self.queues.get_mut(&stream).expect("the stream was looked up before")
    }

    /// Whether a stream has come so far. One that is gone has done all it held.
    pub fn reached(&self, stream: Handle, position: u64) -> bool {
        self.queues.get(&stream).is_none_or(|queue| queue.reached(position))
    }

    /// A kernel that was handed out, with what it is of.
    pub fn function(&self, handle: Handle) -> Result<(&Function, &LoadedImage, &Kernel), Code> {
        let function = self.functions.get(&handle).ok_or(Code::InvalidHandle)?;
        let image = self.images.get(&function.image).ok_or(Code::InvalidHandle)?;
        let kernel = image.module.module().kernel(&function.name).ok_or(Code::InvalidHandle)?;
        Ok((function, image, kernel))
    }

    /// What a block of it takes.
    pub fn footprint(&self, handle: Handle) -> Result<Footprint, Code> {
        self.function(handle).map(|(_, image, kernel)| image.footprint(kernel))
    }

    /// How often warps executed each operation since the last reset.
    pub fn operations(&self) -> BTreeMap<String, u64> {
        let mut counts = self.unloaded.clone();
        for (name, count) in self.images.values().flat_map(|image| image.module.operations()) {
            *counts.entry(name).or_default() += count;
        }
        counts
    }

    /// Keeps the counts of an image that is unloaded.
    pub fn keep_operations(&mut self, image: &LoadedImage) {
        for (name, count) in image.module.operations() {
            *self.unloaded.entry(name).or_default() += count;
        }
    }

    /// What is known of a host range at the call.
    pub fn host_range(&self, at: Host, bytes: usize) -> HostRange {
        let start = self.pinned.range(..=at.address()).next_back();
        let pinned = start.is_some_and(|(start, layout)| bytes <= layout.size().saturating_sub(at.address() - start));
        HostRange { at, bytes, pinned }
    }

    /// Forgets what a context owns, and keeps what was set and counted.
    pub fn forget_context(&mut self) {
        self.leaked += self.unfreed();
        let (calls, unloaded) = (std::mem::take(&mut self.calls), self.operations());
        let (message, pinned) = (std::mem::take(&mut self.message), std::mem::take(&mut self.pinned));
        let &mut Self {
            next_handle,
            order,
            resident,
            races,
            prompt_downloads,
            counters,
            fault,
            leaked,
            lost_copies,
            ..
        } = self;
        let new =
            Self { initialised: true, next_handle, order, resident, races, prompt_downloads, counters, ..Self::new() };
        *self = Self { calls, unloaded, message, pinned, fault, leaked, lost_copies, ..new };
    }
}

/// The result code a real device would give for a fault.
fn fault_code(fault: &Fault) -> Code {
    match fault {
        Fault::OutOfBounds { .. }
        | Fault::UseAfterFree { .. }
        | Fault::UseBeforeAllocation { .. }
        | Fault::UnorderedUse { .. } => Code::IllegalAddress,
        Fault::Misaligned { .. } => Code::MisalignedAddress,
        _ => Code::LaunchFailed,
    }
}
