//! Streams as queues of work that nothing runs until something waits for it.

use super::handle::Handle;
use super::work::Work;
use std::collections::VecDeque;

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

    /// Whether it has done so many pieces.
    pub fn reached(&self, position: u64) -> bool {
        self.done >= position
    }

    /// Adds a piece of work.
    pub fn push(&mut self, work: Work) {
        self.pending.push_back(work);
    }

    /// The next piece of work.
    pub fn next(&self) -> Option<&Work> {
        self.pending.front()
    }

    /// Takes the next piece of work, which counts as done.
    pub fn take_next(&mut self) -> Option<Work> {
        let work = self.pending.pop_front()?;
        self.done += 1;
        Some(work)
    }

    /// Drops what has not run.
    pub fn clear(&mut self) {
        self.done = self.submitted();
        self.pending.clear();
    }

    /// Takes the copies to pageable host memory out of what has not run; gives how many those were.
    pub fn give_up_downloads(&mut self) -> u64 {
        self.pending.iter_mut().map(Work::give_up_downloads).sum()
    }
}
