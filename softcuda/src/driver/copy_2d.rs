//! Copies of rows that lie apart: of each row as a copy of its own.

use super::border::{Need, call, calls};
use super::code::Code;
use super::handle::Handle;
use super::pointer::Host;
use super::state::State;
use super::work::Work;

const HOST: u32 = 1;
const DEVICE: u32 = 2;

/// One side of a `CUDA_MEMCPY2D`.
struct Side {
    on_host: bool,
    /// Of the first row.
    address: usize,
    pitch: usize,
}

impl Side {
    /// The side whose fields begin at word `first`: bytes and rows that are left out, the kind of
    /// memory, an address for each kind, the pitch.
    fn read(copy: Host, first: usize) -> Result<Self, Code> {
        let word = |index: usize| Ok(copy.word(first + index)?.address());
        let kind = copy.offset((first + 2) * size_of::<usize>()).array().map(u32::from_le_bytes)?;
        let start = match kind {
            HOST => word(3)?,
            DEVICE => word(4)?,
            _ => return Err(Code::NotSupported),
        };
        let pitch = word(6)?;
        Ok(Self { on_host: kind == HOST, address: start + word(1)? * pitch + word(0)?, pitch })
    }

    fn row(&self, row: usize) -> usize {
        self.address + row * self.pitch
    }
}

impl State {
    fn row_copy(&mut self, from: &Side, to: &Side, row: usize, bytes: usize, captured: bool) -> Result<Work, Code> {
        const NAME: &str = "cuMemcpy2DAsync_v2";
        let (source, target) = (from.row(row), to.row(row));
        match (from.on_host, to.on_host) {
            (true, false) => self.upload(NAME, target as u64, Host::NULL.offset(source), bytes, captured),
            (false, true) => self.download(NAME, Host::NULL.offset(target), source as u64, bytes),
            (false, false) => self.copy(NAME, target as u64, source as u64, bytes),
            (true, true) => Err(Code::NotSupported),
        }
    }
}

calls! {
    /// Between host and device, and on the device.
    Context: fn cuMemcpy2DAsync_v2(state, copy: Host, stream: Handle) {
        let stream = state.stream(stream)?;
        let captured = state.queues[&stream].capture.is_some();
        let (from, to) = (Side::read(copy, 0)?, Side::read(copy, 7)?);
        let (width, height) = (copy.word(14)?.address(), copy.word(15)?.address());
        if height > 1 && width > from.pitch.min(to.pitch) {
            return Err(Code::InvalidValue);
        }
        // All that can be refused comes before the first row.
        let rows: Result<Vec<Work>, Code> =
            (0..height).map(|row| state.row_copy(&from, &to, row, width, captured)).collect();
        for row in rows? {
            state.submit(stream, row)?;
        }
        let pageable = to.on_host && !state.host_range(Host::NULL.offset(to.address), width).pinned;
        if state.prompt_downloads && pageable { state.run_stream(stream) } else { Ok(()) }
    }
}
