//! Memory that graphs allocate and free: "Graph Memory Nodes" of the CUDA Programming Guide.
//!
//! Calls are judged by the calls before them: an allocation is live from the launch call on that
//! leaves it allocated, up to the call that frees it. Whether the work itself came in that order is
//! seen when it runs, by `crate::memory`.

use super::code::Code;
use super::handle::Handle;
use super::state::{Executable, GraphBlock, State};
use super::work::{Node, Work, allocated, freed};
use crate::device::CAPACITY;

impl State {
    /// Adds an allocation to a capture; gives its address, which is its own for good.
    pub fn allocate_captured(&mut self, capture: Handle, stream: Handle, bytes: u64) -> Result<u64, Code> {
        let address = match self.memory.reserve(bytes) {
            Ok(address) => address,
            Err(fault) => return Err(self.refuse(Code::OutOfMemory, fault.to_string())),
        };
        self.append(capture, stream, Work::Allocate(address))?;
        self.graph_blocks.insert(address, GraphBlock { bytes, graph: capture, freed_inside: false, live: false });
        Ok(address)
    }

    /// Adds a free to a capture: of what a graph allocates, this one or one that does not free it.
    pub fn free_captured(&mut self, capture: Handle, stream: Handle, address: u64) -> Result<(), Code> {
        let is_freed = self.valid_capture(capture)?.frees(address);
        match self.graph_blocks.get_mut(&address) {
            Some(block) if !block.freed_inside && !is_freed => block.freed_inside = block.graph == capture,
            Some(_) => {
                let why = format!("freeing {address:#x}, which its graph or this one frees already,");
                return Err(self.invalidate(capture, Code::InvalidValue, &why));
            }
            None => {
                let why = format!("freeing {address:#x}, which no graph allocates,");
                return Err(self.invalidate(capture, Code::InvalidValue, &why));
            }
        }
        self.append(capture, stream, Work::Free(address))
    }

    /// Whether a graph's launch left an allocation at this address that nobody freed since.
    pub fn is_live_of_graph(&self, address: u64) -> bool {
        self.graph_blocks.get(&address).is_some_and(|block| block.live)
    }

    /// Notes that a graph's allocation is freed.
    pub fn end_of_graph(&mut self, address: u64) {
        if let Some(block) = self.graph_blocks.get_mut(&address) {
            block.live = false;
            self.forget_graph_blocks();
        }
    }

    /// Forgets the addresses that no graph can allocate again, and that nobody has to free.
    pub fn forget_graph_blocks(&mut self) {
        let Self { graph_blocks, captures, graphs, executables, .. } = self;
        graph_blocks.retain(|_, block| {
            let graph = block.graph;
            let instances = || executables.values().any(|executable| executable.graph == graph);
            block.live || captures.contains_key(&graph) || graphs.contains_key(&graph) || instances()
        });
    }

    /// A graph that allocates or frees has one instance at a time.
    pub fn refuse_second_instance(&mut self, graph: Handle, nodes: &[Node]) -> Result<(), Code> {
        let holds_memory = allocated(nodes).chain(freed(nodes)).next().is_some();
        if holds_memory && self.executables.values().any(|executable| executable.graph == graph) {
            return Err(self.refuse(Code::NotSupported, "a graph that allocates or frees is instantiated already"));
        }
        Ok(())
    }

    /// How many bytes more than now a graph's allocations take at a time.
    fn most_wanted(&self, nodes: &[Node]) -> u64 {
        let mut new = allocated(nodes).collect::<Vec<_>>();
        for (start, _) in self.memory.live() {
            new.retain(|&address| address != start);
        }
        let size = |address: &u64| if new.contains(address) { self.graph_blocks[address].bytes } else { 0 };
        let (mut wanted, mut most) = (0, 0);
        for node in nodes {
            match &node.work {
                Work::Allocate(address) => wanted += size(address),
                Work::Free(address) => wanted -= size(address),
                _ => {}
            }
            most = most.max(wanted);
        }
        most
    }

    /// Enqueues a graph's work, behind its launch before.
    pub fn launch_graph(&mut self, handle: Handle, stream: Handle) -> Result<(), Code> {
        let Executable { nodes, frees_on_launch, last, .. } = &self.executables[&handle];
        let (nodes, frees_on_launch, last) = (nodes.clone(), *frees_on_launch, *last);
        let own = allocated(&nodes).collect::<Vec<_>>();
        let left = own.iter().copied().filter(|&address| self.is_live_of_graph(address)).collect::<Vec<_>>();
        let foreign = freed(&nodes).filter(|address| !own.contains(address)).collect::<Vec<_>>();
        if let Some(address) = left.first().filter(|_| !frees_on_launch) {
            let why = format!("launch of a graph whose allocation at {address:#x} was not freed since its last launch");
            return Err(self.refuse(Code::InvalidValue, why));
        }
        if let Some(address) = foreign.iter().find(|&&address| !self.is_live_of_graph(address)) {
            let why = format!("launch of a graph that frees {address:#x}, which no launch left allocated");
            return Err(self.refuse(Code::InvalidValue, why));
        }
        let (wanted, free) = (self.most_wanted(&nodes), CAPACITY - self.memory.used());
        if wanted > free {
            let why = format!("launch of a graph that allocates {wanted} bytes, {free} free");
            return Err(self.refuse(Code::OutOfMemory, why));
        }
        if let Some((other, position)) = last.filter(|&(other, _)| other != stream) {
            self.submit(stream, Work::Wait { stream: other, position })?;
        }
        for address in left {
            self.submit(stream, Work::Free(address))?;
        }
        self.submit(stream, Work::Graph(nodes))?;
        let position = self.queues[&stream].submitted();
        self.executables.get_mut(&handle).expect("looked up above").last = Some((stream, position));
        for address in own {
            let block = self.graph_blocks.get_mut(&address).expect("its graph is there");
            block.live = !block.freed_inside;
        }
        foreign.into_iter().for_each(|address| self.end_of_graph(address));
        Ok(())
    }
}
