//! Pieces of work, as streams hold them until something waits.

use super::handle::Handle;
use super::pointer::Host;
use crate::exec::LoadedModule;
use std::sync::Arc;

/// A kernel launch with its arguments, as they were at the call.
pub struct KernelLaunch {
    pub module: Arc<LoadedModule>,
    pub kernel: String,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    /// It may begin while the kernel before it still runs.
    pub overlaps: bool,
    pub params: Vec<u8>,
}

/// Host memory that a queued copy will touch.
#[derive(Clone, Copy)]
pub struct HostRange {
    pub at: Host,
    pub bytes: usize,
    /// It was page-locked at the call, so it must be when the copy runs.
    pub pinned: bool,
}

/// Where a host-to-device copy takes its bytes from.
#[derive(Clone)]
pub enum Source {
    /// Copied at the call, as the driver stages pageable memory.
    Staged(Arc<[u8]>),
    /// Read when the copy runs: page-locked memory, and all memory in a graph.
    Host(HostRange),
}

/// A piece of a graph's work.
#[derive(Clone)]
pub struct Node {
    pub work: Work,
    /// What this must not touch: the graph allocates or frees it, and nothing orders this with
    /// that.
    pub withheld: Vec<u64>,
}

/// A graph's work, in issue order.
pub type Graph = Arc<[Node]>;

/// The addresses that a graph allocates.
pub fn allocated(nodes: &[Node]) -> impl Iterator<Item = u64> {
    nodes.iter().filter_map(|node| if let Work::Allocate(address) = node.work { Some(address) } else { None })
}

/// The addresses that a graph frees.
pub fn freed(nodes: &[Node]) -> impl Iterator<Item = u64> {
    nodes.iter().filter_map(|node| if let Work::Free(address) = node.work { Some(address) } else { None })
}

/// A piece of work in a stream.
#[derive(Clone)]
pub enum Work {
    /// Waits until another stream has done so many pieces.
    Wait { stream: Handle, position: u64 },
    /// Stamps the event's time, unless it was recorded again since.
    Record { event: Handle, ticket: Handle },
    /// Runs a kernel.
    Launch(Arc<KernelLaunch>),
    /// Copies from the host.
    Upload { to: u64, from: Source },
    /// Copies to the host.
    Download { from: u64, to: HostRange },
    /// Copies within the device.
    Copy { from: u64, to: u64, bytes: u64 },
    /// Sets bytes.
    Set { at: u64, value: u8, count: u64 },
    /// Makes an allocation of a graph.
    Allocate(u64),
    /// Ends an allocation.
    Free(u64),
    /// Runs a graph's work, in issue order.
    Graph(Graph),
}

impl Work {
    /// Whether it moves nothing; its addresses may then be anything.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Upload { from: Source::Staged(data), .. } => data.is_empty(),
            Self::Upload { from: Source::Host(range), .. } | Self::Download { to: range, .. } => range.bytes == 0,
            Self::Copy { bytes: count, .. } | Self::Set { count, .. } => *count == 0,
            _ => false,
        }
    }

    /// Whether it copies to pageable host memory.
    fn is_pageable_download(&self) -> bool {
        matches!(self, Self::Download { to, .. } if !to.pinned)
    }

    /// Takes the copies to pageable host memory out of it; gives how many those were.
    pub fn give_up_downloads(&mut self) -> u64 {
        if let Self::Graph(nodes) = self {
            let lost = nodes.iter().filter(|node| node.work.is_pageable_download()).count();
            if lost > 0 {
                *nodes = nodes.iter().filter(|node| !node.work.is_pageable_download()).cloned().collect();
            }
            return lost as u64;
        }
        let lost = self.is_pageable_download();
        if lost {
            *self = Self::Graph(Arc::new([]));
        }
        u64::from(lost)
    }
}
