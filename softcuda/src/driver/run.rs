//! Runs what streams hold, as far as somebody waits for it.

use super::code::Code;
use super::handle::Handle;
use super::state::State;
use super::work::{HostRange, KernelLaunch, Node, Source, Work};
use crate::exec::{self, Order};
use std::sync::Arc;
use std::time::Instant;

impl State {
    /// Runs a stream up to a position, and before that what it waits for in other streams.
    pub fn run_until(&mut self, stream: Handle, position: u64) -> Result<(), Code> {
        let mut goals = vec![(stream, position)];
        while let Some(&(stream, position)) = goals.last() {
            if self.reached(stream, position) {
                goals.pop();
                if self.queues.get(&stream).is_some_and(|queue| queue.destroyed && queue.pending() == 0) {
                    self.queues.remove(&stream);
                }
                continue;
            }
            if let Some(goal) = self.awaited(stream) {
                goals.push(goal);
                continue;
            }
            let work = self.queue(stream).take_next().expect("it has not reached the position");
            self.run(&work)?;
        }
        Ok(())
    }

    /// What a stream waits for before its next piece of work, where that has not been reached.
    fn awaited(&self, stream: Handle) -> Option<(Handle, u64)> {
        match self.queues[&stream].next() {
            Some(&Work::Wait { stream, position }) => Some((stream, position)),
            _ => None,
        }
        .filter(|&(stream, position)| !self.reached(stream, position))
    }

    /// Runs all a stream holds.
    pub fn run_stream(&mut self, stream: Handle) -> Result<(), Code> {
        self.run_until(stream, self.queues[&stream].submitted())
    }

    /// Runs all that every stream holds; in the reverse execution order the youngest stream first,
    /// so that a missing dependency between streams shows.
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
            Work::Graph(nodes) => return nodes.iter().try_for_each(|node| self.run_node(node)),
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
            Work::Allocate(address) => (format!("a graph's allocation at {address:#x}"), self.memory.give(*address)),
            Work::Free(address) => {
                self.blocks.remove(address);
                (format!("free of {address:#x}"), self.memory.free(*address))
            }
        };
        outcome.map_err(|fault| self.stop_for(&what, &fault))
    }

    fn run_node(&mut self, node: &Node) -> Result<(), Code> {
        node.withheld.iter().for_each(|&address| self.memory.withhold(address, true));
        let outcome = self.run(&node.work);
        node.withheld.iter().for_each(|&address| self.memory.withhold(address, false));
        outcome
    }

    fn run_launch(&mut self, launch: &Arc<KernelLaunch>) -> Result<(), Code> {
        let KernelLaunch { module, kernel, params, grid, block, dynamic_shared, overlaps } = &**launch;
        let (&grid, &block, &dynamic_shared, &overlaps) = (grid, block, dynamic_shared, overlaps);
        let (order, resident, races) = (self.order, self.resident, self.races);
        let work =
            exec::Launch { module, kernel, grid, block, dynamic_shared, params, order, resident, races, overlaps };
        let (memory, asked) = (&mut self.memory, self.chains);
        let outcome = match asked {
            true => exec::launch_with_chain(memory, &work).map(|(counters, chain)| (counters, Some(chain))),
            false => exec::launch(memory, &work).map(|counters| (counters, None)),
        };
        let (counters, chain) = outcome
            .map_err(|fault| self.stop_for(&format!("kernel {kernel}, grid {grid:?}, block {block:?}"), &fault))?;
        self.last_chain = chain;
        self.counters += counters;
        self.last_launch = Some(Arc::clone(launch));
        Ok(())
    }

    fn check_pinned(&mut self, range: HostRange) -> Result<(), Code> {
        if range.pinned && !self.host_range(range.at, range.bytes).pinned {
            let why = format!("page-locked memory at {:#x} was freed before a queued copy ran", range.at.address());
            return Err(self.stop(Code::LaunchFailed, why));
        }
        Ok(())
    }

    /// Gives up a stream's copies to pageable host memory: their stream or context is destroyed
    /// without anybody having waited for them, and the host memory may go next.
    pub fn lose_downloads(&mut self, stream: Handle) {
        let lost = self.queue(stream).give_up_downloads();
        self.lost_copies += lost;
        if lost > 0 {
            self.message = format!("{lost} copies to host memory were never waited for");
            eprintln!("softcuda: {}", self.message);
        }
    }
}
