//! Streams as queues of work that nothing runs until something waits for it, and events as places in those queues.

use super::capture::Stamp;
use super::code::Code;
use super::pointer::Host;
use super::state::{Handle, State};
use crate::exec::{self, LoadedModule, Order};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// The legacy default stream (also handle 0).
pub const LEGACY: Handle = 1;
/// The per-thread default stream; one for all threads here.
pub const PER_THREAD: Handle = 2;

/// A kernel launch with its arguments, as they were at the call.
pub struct KernelLaunch {
    pub module: Arc<LoadedModule>,
    pub kernel: String,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
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
    /// Ends an allocation.
    Free(u64),
    /// Runs a graph's work, in issue order.
    Graph(Arc<[Work]>),
}

impl Work {
    /// Whether it moves nothing; its addresses may then be anything.
    fn is_empty(&self) -> bool {
        match self {
            Self::Upload { from: Source::Staged(data), .. } => data.is_empty(),
            Self::Upload { from: Source::Host(range), .. } | Self::Download { to: range, .. } => range.bytes == 0,
            Self::Copy { bytes: count, .. } | Self::Set { count, .. } => *count == 0,
            _ => false,
        }
    }
}

/// One stream.
#[derive(Default)]
pub struct Queue {
    /// Waits for the legacy stream, and that stream for it.
    pub blocking: bool,
    /// Destroyed by the caller; what it holds still runs.
    pub destroyed: bool,
    /// The capture it takes part in.
    pub capture: Option<Handle>,
    pending: VecDeque<Work>,
    done: u64,
}

impl Queue {
    /// An empty stream.
    pub fn new(blocking: bool) -> Self {
        Self { blocking, ..Self::default() }
    }

    /// How many pieces of work it has ever been given.
    pub fn submitted(&self) -> u64 {
        self.done + self.pending.len() as u64
    }

    /// How many pieces of work have not run.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Drops what has not run.
    pub fn clear(&mut self) {
        self.done = self.submitted();
        self.pending.clear();
    }
}

/// What an event was last recorded in.
#[derive(Clone)]
pub enum Recorded {
    Never,
    Stream { stream: Handle, position: u64 },
    Capture(Stamp),
}

/// One event.
pub struct Event {
    pub timed: bool,
    pub recorded: Recorded,
    /// Of the last recording.
    pub ticket: Handle,
    pub time: Option<Instant>,
}

impl State {
    /// The stream a handle names.
    pub fn stream(&self, handle: Handle) -> Result<Handle, Code> {
        let stream = handle.max(LEGACY);
        match self.queues.get(&stream) {
            Some(queue) if !queue.destroyed => Ok(stream),
            _ => Err(Code::InvalidHandle),
        }
    }

    /// Puts work into a stream, or into the graph that the stream is captured to.
    pub fn submit(&mut self, stream: Handle, work: Work) -> Result<(), Code> {
        if work.is_empty() {
            return Ok(());
        }
        if let Some(capture) = self.queues[&stream].capture {
            return self.append(capture, stream, work);
        }
        if stream == LEGACY {
            self.refuse_implicit_capture()?;
            for other in self.queues.keys().copied().collect::<Vec<_>>() {
                if other != LEGACY && self.queues[&other].blocking {
                    self.join(LEGACY, other);
                }
            }
        } else if self.queues[&stream].blocking {
            self.join(stream, LEGACY);
        }
        self.queue(stream).pending.push_back(work);
        Ok(())
    }

    fn queue(&mut self, stream: Handle) -> &mut Queue {
        self.queues.get_mut(&stream).expect("the stream was looked up before")
    }

    /// Makes `stream` wait for all that `other` holds now.
    fn join(&mut self, stream: Handle, other: Handle) {
        let position = self.queues[&other].submitted();
        if !self.reached(other, position) {
            self.queue(stream).pending.push_back(Work::Wait { stream: other, position });
        }
    }

    /// Whether a stream has come so far. One that is gone has done all it held.
    pub fn reached(&self, stream: Handle, position: u64) -> bool {
        self.queues.get(&stream).is_none_or(|queue| queue.done >= position)
    }

    /// Runs a stream up to a position, and before that what it waits for in other streams.
    pub fn run_until(&mut self, stream: Handle, position: u64) -> Result<(), Code> {
        let mut goals = vec![(stream, position)];
        while let Some(&(stream, position)) = goals.last() {
            if self.reached(stream, position) {
                goals.pop();
                if self.queues.get(&stream).is_some_and(|queue| queue.destroyed && queue.pending.is_empty()) {
                    self.queues.remove(&stream);
                }
                continue;
            }
            if let Some(goal) = self.awaited(stream) {
                goals.push(goal);
                continue;
            }
            let queue = self.queue(stream);
            queue.done += 1;
            let work = queue.pending.pop_front().expect("it has not reached the position");
            self.run(&work)?;
        }
        Ok(())
    }

    /// What a stream waits for before its next piece of work, where that has not been reached.
    fn awaited(&self, stream: Handle) -> Option<(Handle, u64)> {
        match self.queues[&stream].pending.front() {
            Some(&Work::Wait { stream, position }) => Some((stream, position)),
            _ => None,
        }
        .filter(|&(stream, position)| !self.reached(stream, position))
    }

    /// Runs all a stream holds.
    pub fn run_stream(&mut self, stream: Handle) -> Result<(), Code> {
        self.run_until(stream, self.queues[&stream].submitted())
    }

    /// Runs all that every stream holds; in the reverse execution order the youngest stream first, so that a missing
    /// dependency between streams shows.
    pub fn run_all(&mut self) -> Result<(), Code> {
        let mut streams: Vec<_> = self.queues.iter().map(|(&stream, queue)| (stream, queue.submitted())).collect();
        if matches!(self.order, Order::Reverse) {
            streams.reverse();
        }
        streams.into_iter().try_for_each(|(stream, position)| self.run_until(stream, position))
    }

    fn run(&mut self, work: &Work) -> Result<(), Code> {
        let (what, outcome) = match work {
            Work::Wait { .. } => return Ok(()),
            Work::Record { event, ticket } => {
                if let Some(event) = self.events.get_mut(event).filter(|event| event.ticket == *ticket) {
                    event.time = Some(Instant::now());
                }
                return Ok(());
            }
            Work::Graph(nodes) => return nodes.iter().try_for_each(|node| self.run(node)),
            Work::Launch(launch) => return self.run_launch(launch),
            Work::Upload { to, from } => {
                let outcome = match from {
                    Source::Staged(data) => self.memory.write(*to, data),
                    Source::Host(host) => {
                        self.check_pinned(*host)?;
                        self.memory.write(*to, &host.at.read(host.bytes)?)
                    }
                };
                (format!("copy from host to device address {to:#x}"), outcome)
            }
            Work::Download { from, to } => {
                self.check_pinned(*to)?;
                let mut data = vec![0; to.bytes];
                let outcome = self.memory.read(*from, &mut data);
                if outcome.is_ok() {
                    to.at.write(&data)?;
                }
                (format!("copy of {} bytes from device address {from:#x} to host", to.bytes), outcome)
            }
            Work::Copy { from, to, bytes } => {
                (format!("copy of {bytes} bytes from {from:#x} to {to:#x}"), self.memory.copy(*to, *from, *bytes))
            }
            Work::Set { at, value, count } => {
                (format!("memset of {count} bytes at {at:#x}"), self.memory.set(*at, *value, *count))
            }
            Work::Free(address) => {
                self.blocks.remove(address);
                (format!("free of {address:#x}"), self.memory.free(*address))
            }
        };
        outcome.map_err(|fault| self.stop_for(&what, &fault))
    }

    fn run_launch(&mut self, launch: &Arc<KernelLaunch>) -> Result<(), Code> {
        let KernelLaunch { module, kernel, params, grid, block, dynamic_shared } = &**launch;
        let (&grid, &block, &dynamic_shared) = (grid, block, dynamic_shared);
        let (order, resident, races) = (self.order, self.resident, self.races);
        let work = exec::Launch { module, kernel, grid, block, dynamic_shared, params, order, resident, races };
        let counters = exec::launch(&mut self.memory, &work)
            .map_err(|fault| self.stop_for(&format!("kernel {kernel}, grid {grid:?}, block {block:?}"), &fault))?;
        self.counters += counters;
        self.last_launch = Some(Arc::clone(launch));
        Ok(())
    }

    /// What is known of a host range at the call.
    pub fn host_range(&self, at: Host, bytes: usize) -> HostRange {
        let start = self.pinned.range(..=at.address()).next_back();
        let pinned = start.is_some_and(|(start, layout)| bytes <= layout.size().saturating_sub(at.address() - start));
        HostRange { at, bytes, pinned }
    }

    fn check_pinned(&mut self, range: HostRange) -> Result<(), Code> {
        if range.pinned && !self.host_range(range.at, range.bytes).pinned {
            let why = format!("page-locked memory at {:#x} was freed before a queued copy ran", range.at.address());
            return Err(self.stop(Code::LaunchFailed, why));
        }
        Ok(())
    }

    /// Gives up a stream's copies to pageable host memory: their stream or context is destroyed without anybody having
    /// waited for them, and the host memory may go next.
    pub fn lose_downloads(&mut self, stream: Handle) {
        let mut pending = std::mem::take(&mut self.queue(stream).pending);
        let pageable = |work: &Work| matches!(work, Work::Download { to, .. } if !to.pinned);
        let mut lost = 0;
        for work in &mut pending {
            match work {
                Work::Download { .. } if pageable(work) => {
                    lost += 1;
                    *work = Work::Graph(Arc::new([]));
                }
                Work::Graph(nodes) => {
                    lost += nodes.iter().filter(|node| pageable(node)).count() as u64;
                    *work = Work::Graph(nodes.iter().filter(|node| !pageable(node)).cloned().collect());
                }
                _ => {}
            }
        }
        self.queue(stream).pending = pending;
        self.lost_copies += lost;
        if lost > 0 {
            self.message = format!("{lost} copies to host memory were never waited for");
            eprintln!("softcuda: {}", self.message);
        }
    }
}
