//! The one all-gather of a step.
//!
//! ```text
//! message     header, records, room up to the capacity       of a rank
//! received    the messages of all, in rank order; then       [S, N, R]
//! ```
//!
//! All ranks must send messages of one length, and none knows how much the others have to tell. So
//! all keep the same capacity: where a step needs more, the headers say so to all, all grow, and
//! gather once more.

use std::fmt;

use mpi::request::{self, WaitGuard};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};

use crate::error::Error;
use crate::failure::Failure;
use crate::header::{Header, NUMBERS};

pub(crate) struct Exchange {
    communicator: SimpleCommunicator,
    ranks: usize,
    /// Records that a message has room for, the same on all ranks.
    capacity: usize,
    message: Vec<f64>,
    received: Vec<f64>,
    gathers: u64,
}

/// Without the numbers, and without the communicator, which has no text.
impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("ranks", &self.ranks)
            .field("capacity", &self.capacity)
            .field("gathers", &self.gathers)
            .finish_non_exhaustive()
    }
}

impl Exchange {
    pub(crate) fn new(communicator: SimpleCommunicator) -> Self {
        let ranks = usize::try_from(communicator.size()).unwrap_or(1);
        Self {
            communicator,
            ranks,
            capacity: 0,
            message: vec![0.0; NUMBERS],
            received: vec![0.0; ranks * NUMBERS],
            gathers: 0,
        }
    }

    pub(crate) fn communicator(&self) -> &SimpleCommunicator {
        &self.communicator
    }

    pub(crate) fn gathers(&self) -> u64 {
        self.gathers
    }

    /// Room for this rank's records. There is then room for those of all too: behind the first
    /// gather of a step no rank may fail alone.
    pub(crate) fn room(&mut self, need: usize) -> Result<&mut [f64], Failure> {
        // What MPI counts with an `int` is all that is received.
        let most = i32::MAX as usize / self.ranks;
        let numbers = need.max(self.capacity).saturating_add(NUMBERS);
        if numbers > most {
            return Err(Failure::TooLong { numbers, most });
        }
        grow(&mut self.message, numbers)?;
        grow(&mut self.received, numbers * self.ranks)?;
        Ok(&mut self.message[NUMBERS..][..need])
    }

    pub(crate) fn write_header(&mut self, header: &Header, failure: Option<&Failure>) {
        header.write(failure, &mut self.message[..NUMBERS]);
    }

    /// All ranks' messages.
    pub(crate) fn gather(&mut self) {
        self.gathers += 1;
        let len = NUMBERS + self.capacity;
        let received = &mut self.received[..self.ranks * len];
        self.communicator
            .all_gather_into(&self.message[..len], received);
    }

    /// The same, beside `work`.
    pub(crate) fn gather_while<W>(&mut self, work: impl FnOnce() -> W) -> W {
        self.gathers += 1;
        let len = NUMBERS + self.capacity;
        let message = &self.message[..len];
        let received = &mut self.received[..self.ranks * len];
        let communicator = &self.communicator;
        request::scope(|scope| {
            // Waits when it goes: behind the work, and also where that panics.
            let _gathering =
                WaitGuard::from(communicator.immediate_all_gather_into(scope, message, received));
            work()
        })
    }

    /// The records of all ranks from what was gathered, `[S, N, R]`; or the error that all of them
    /// find there.
    pub(crate) fn records(&mut self) -> Result<&[f64], Error> {
        let len = NUMBERS + self.capacity;
        let headers = self.received.chunks_exact(len).take(self.ranks);
        let mut first = None;
        let mut unlike = None;
        for (rank, message) in headers.enumerate() {
            let (header, error) = Header::read(rank, message);
            if let Some(error) = error {
                return Err(error);
            }
            let first = first.get_or_insert(header);
            if unlike.is_none() {
                unlike = first.check(rank, &header).err();
            }
        }
        if let Some(error) = unlike {
            return Err(error);
        }
        // That of all ranks.
        let need = first.map_or(0, |header| header.need());
        if need > self.capacity {
            self.capacity = need;
            self.gather();
        }
        let len = NUMBERS + self.capacity;
        for rank in 0..self.ranks {
            let records = rank * len + NUMBERS;
            self.received
                .copy_within(records..records + need, rank * need);
        }
        Ok(&self.received[..self.ranks * need])
    }
}

/// Makes a buffer at least so long.
fn grow(buffer: &mut Vec<f64>, len: usize) -> Result<(), Failure> {
    let more = len.saturating_sub(buffer.len());
    let reserved = buffer.try_reserve_exact(more);
    reserved.map_err(|_| Failure::Memory { numbers: len })?;
    buffer.resize(buffer.len() + more, 0.0);
    Ok(())
}
