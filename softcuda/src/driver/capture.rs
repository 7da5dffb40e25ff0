//! A capture under way: the work so far, and which of it each captured stream has seen.
//!
//! A capture keeps the work in the order in which it was issued. Every dependency points back in
//! that order, so running a graph's work in it is one of the orders the graph allows. Which work of
//! a forked stream the origin has seen is followed by a clock for each stream, so that unjoined
//! work is refused at the end as a real driver refuses it. The same clocks tell what work nothing
//! orders with an allocation or a free of the graph.

use super::code::Code;
use super::handle::Handle;
use super::work::{Graph, Node, Work};
use std::collections::BTreeMap;
use std::thread::ThreadId;

const THREAD_LOCAL: u32 = 1;
const RELAXED: u32 = 2;

/// How much of each captured stream's work one stream depends on.
type Clock = BTreeMap<Handle, u64>;

/// An event's place in a capture.
#[derive(Clone)]
pub struct Stamp {
    pub capture: Handle,
    clock: Clock,
}

/// A piece of work with its place.
struct Placed {
    work: Work,
    stream: Handle,
    /// What its stream depends on, itself included.
    clock: Clock,
}

impl Placed {
    /// Whether something orders it before `other`, or it is that.
    fn precedes(&self, other: &Self) -> bool {
        self.clock.get(&self.stream) <= other.clock.get(&self.stream)
    }

    fn is_ordered_with(&self, other: &Self) -> bool {
        self.precedes(other) || other.precedes(self)
    }
}

/// A capture under way.
pub struct Capture {
    pub origin: Handle,
    pub invalid: bool,
    mode: u32,
    thread: ThreadId,
    nodes: Vec<Placed>,
    clocks: BTreeMap<Handle, Clock>,
}

impl Capture {
    /// A capture that begins in a stream, on this thread.
    pub fn begin(origin: Handle, mode: u32) -> Result<Self, Code> {
        if mode > RELAXED {
            return Err(Code::InvalidValue);
        }
        let thread = std::thread::current().id();
        let clocks = BTreeMap::from([(origin, Clock::new())]);
        Ok(Self { origin, mode, thread, nodes: Vec::new(), clocks, invalid: false })
    }

    /// Adds a stream's work.
    pub fn append(&mut self, stream: Handle, work: Work) {
        let clock = self.clocks.entry(stream).or_default();
        *clock.entry(stream).or_default() += 1;
        self.nodes.push(Placed { work, stream, clock: clock.clone() });
    }

    /// Whether it frees an address.
    pub fn frees(&self, address: u64) -> bool {
        self.nodes.iter().any(|node| matches!(node.work, Work::Free(freed) if freed == address))
    }

    /// The stamp of an event that a stream records now; `capture` is this one's handle.
    pub fn stamp(&self, capture: Handle, stream: Handle) -> Stamp {
        Stamp { capture, clock: self.clocks.get(&stream).cloned().unwrap_or_default() }
    }

    /// Makes a stream depend on what an event has seen.
    pub fn wait(&mut self, stream: Handle, stamp: &Stamp) {
        let clock = self.clocks.entry(stream).or_default();
        for (&other, &seen) in &stamp.clock {
            let known = clock.entry(other).or_default();
            *known = seen.max(*known);
        }
    }

    /// Whether this thread may make no call that could wait for, or allocate under, the capture.
    pub fn forbids_unsafe_calls(&self) -> bool {
        match self.mode {
            RELAXED => false,
            THREAD_LOCAL => self.is_of_this_thread(),
            _ => true,
        }
    }

    /// Whether this thread may end it.
    pub fn may_end_here(&self) -> bool {
        self.mode == RELAXED || self.is_of_this_thread()
    }

    fn is_of_this_thread(&self) -> bool {
        self.thread == std::thread::current().id()
    }

    /// Whether the origin has seen all work.
    pub fn is_joined(&self) -> bool {
        let seen = &self.clocks[&self.origin];
        self.clocks.iter().all(|(other, clock)| clock.get(other) <= seen.get(other))
    }

    /// The work, in issue order.
    pub fn into_graph(self) -> Graph {
        let withheld = self.nodes.iter().map(|node| self.withheld(node)).collect::<Vec<_>>();
        let works = self.nodes.into_iter().map(|node| node.work);
        works.zip(withheld).map(|(work, withheld)| Node { work, withheld }).collect()
    }

    /// The addresses that the graph allocates or frees without anything that orders it with a piece
    /// of work.
    fn withheld(&self, node: &Placed) -> Vec<u64> {
        let ends = self.nodes.iter().filter_map(|other| match other.work {
            Work::Allocate(address) | Work::Free(address) => Some((address, other)),
            _ => None,
        });
        ends.filter(|(_, other)| !node.is_ordered_with(other)).map(|(address, _)| address).collect()
    }
}
