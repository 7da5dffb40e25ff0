//! Device memory of a loss: its result, and what blocks tell one another.

use std::mem::offset_of;
use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaSlice, CudaStream, PinnedHostSlice};

use super::abi::{
    ALA_BAD_BITS, ALA_BAD_LAMBDA, ALA_BAD_SECOND_LABEL, ALA_BAD_SHARDS, ALA_BAD_WEIGHT, ALA_NO_ROW,
    AlaBlocks, AlaState,
};
use super::error::{CudaError, driver};
use super::guards::address_of;
use crate::call::Summary;
use crate::error::Error;

/// Device memory that a launch needs besides the caller's buffers: the result, what blocks tell one
/// another (400 KiB), and one `f32` for each row.
///
/// Made by [`CudaLoss::workspace`](super::CudaLoss::workspace), or by
/// [`CudaLoss::workspace_in`](super::CudaLoss::workspace_in) in the caller's memory, for as many
/// rows as a batch may have. Launches that may overlap need a workspace each; where two met all the
/// same, [`read`](Self::read) says so.
#[derive(Debug)]
pub struct Workspace {
    /// The state, what blocks tell one another, then the row losses.
    pub(super) memory: CudaSlice<u8>,
    pub(super) address: u64,
    pub(super) capacity: usize,
    /// Of the loss that it was made for, for error messages.
    classes: usize,
    /// Where a poll has the state copied to; made by the first.
    mailbox: Option<PinnedHostSlice<u8>>,
    /// Behind the copy of the last poll, which nobody has looked at.
    under_way: Option<CudaEvent>,
}

const STATE: usize = size_of::<AlaState>();
/// The kernels read entries of 16 bytes.
const ALIGNMENT: u64 = 16;
/// Where what blocks tell one another begins: 16-byte aligned, as its entries are read.
pub(super) const BLOCKS: usize = STATE.next_multiple_of(16);
/// Where the row losses begin.
pub(super) const ROW_LOSSES: usize = BLOCKS + size_of::<AlaBlocks>();

impl Workspace {
    /// Bytes of device memory that a workspace for `rows` rows takes.
    pub const fn bytes(rows: usize) -> usize {
        ROW_LOSSES.saturating_add(size_of::<f32>().saturating_mul(rows))
    }

    pub(super) fn new(
        stream: &Arc<CudaStream>,
        classes: usize,
        memory: CudaSlice<u8>,
    ) -> Result<Self, Error> {
        let capacity = memory.len().saturating_sub(ROW_LOSSES) / size_of::<f32>();
        let address = address_of(&memory, stream);
        if !address.is_multiple_of(ALIGNMENT) {
            return Err(CudaError::Address {
                buffer: "workspace",
                address,
                alignment: ALIGNMENT,
            }
            .into());
        }
        if memory.len() < ROW_LOSSES {
            return Err(Error::Length {
                name: "workspace",
                got: memory.len(),
                expected: ROW_LOSSES,
            });
        }
        let mut workspace = Self {
            address,
            memory,
            capacity,
            classes,
            mailbox: None,
            under_way: None,
        };
        workspace.reset(stream)?;
        Ok(workspace)
    }

    /// Makes the workspace as it was when it was new, and waits for `stream`. No launch may be
    /// under way in it. For the time after [`CudaError::Workspace`].
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn reset(&mut self, stream: &Arc<CudaStream>) -> Result<(), Error> {
        stream
            .memset_zeros(&mut self.memory.slice_mut(STATE..ROW_LOSSES))
            .and_then(|()| {
                stream.memcpy_htod(&bytes_of(&CLEARED), &mut self.memory.slice_mut(..STATE))
            })
            // Every stream may use it from here on, whether or not cudarc orders them.
            .and_then(|()| stream.synchronize())
            .map_err(driver("preparing the workspace"))?;
        self.under_way = None;
        Ok(())
    }

    /// The largest batch that it serves.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Waits for the stream and returns the last launch's result.
    ///
    /// # Errors
    /// [`Error::Label`] where, since the last read, a launch met a label that is neither a class
    /// nor the ignore label: the first such row of the first such launch. Reading clears the
    /// status. [`CudaError::Workspace`] where launches met in the workspace, or one did not end in
    /// it: the results since the last read are not to be trusted, and [`reset`](Self::reset) makes
    /// the workspace usable again. [`CudaError::Driver`](super::CudaError::Driver) where the driver
    /// reports a failure, of earlier work too.
    pub fn read(&mut self, stream: &Arc<CudaStream>) -> Result<Summary, Error> {
        let mut bytes = [0u8; STATE];
        stream
            .memcpy_dtoh(&self.memory.slice(..STATE), &mut bytes)
            .map_err(driver("reading the result"))?;
        stream
            .synchronize()
            .map_err(driver("waiting for the result"))?;
        // What it would tell is told here.
        self.under_way = None;
        self.result(stream, from_bytes(bytes))
    }

    /// The result of the launches that `stream` held at an earlier poll, once they have ended;
    /// `None` while they have not, and at the first poll. Never waits. Each call asks for the state
    /// anew if nothing is under way, so that one call a step tells of an earlier step.
    ///
    /// `stream` is the launches' own. Not while it is captured.
    ///
    /// # Errors
    /// As [`read`](Self::read): of the labels out of range that launches met since the last report
    /// the first is reported, once.
    pub fn poll(&mut self, stream: &Arc<CudaStream>) -> Result<Option<Summary>, Error> {
        let asked = match &self.under_way {
            Some(copied)
                if !copied
                    .try_is_complete()
                    .map_err(driver("asking for the result"))? =>
            {
                return Ok(None);
            }
            asked => asked.is_some(),
        };
        self.under_way = None;
        let result = match &self.mailbox {
            Some(mailbox) if asked => {
                let mut bytes = [0; STATE];
                bytes.copy_from_slice(mailbox.as_slice().map_err(driver("reading the result"))?);
                self.result(stream, from_bytes(bytes)).map(Some)
            }
            _ => Ok(None),
        };
        // What is known is told, whatever becomes of asking anew.
        let result = result?;
        self.ask(stream)?;
        Ok(result)
    }

    /// Has the state copied to the host when the stream is there.
    fn ask(&mut self, stream: &Arc<CudaStream>) -> Result<(), Error> {
        let mailbox = match self.mailbox.take() {
            Some(mailbox) => mailbox,
            // SAFETY: it is read only behind a copy that fills it.
            None => unsafe { stream.context().alloc_pinned_with_flags(STATE, 0) }
                .map_err(driver("allocating for the result"))?,
        };
        let mailbox = self.mailbox.insert(mailbox);
        let copied = stream
            .memcpy_dtoh(&self.memory.slice(..STATE), mailbox)
            .and_then(|()| stream.record_event(None))
            .map_err(driver("asking for the result"))?;
        self.under_way = Some(copied);
        Ok(())
    }

    /// What a state tells. A bad row is reported once: the device's state is cleared of it.
    fn result(&mut self, stream: &Arc<CudaStream>, state: AlaState) -> Result<Summary, Error> {
        let at_rest = (state.blocks_done, state.tickets, state.step_bad_row) == (0, 0, NO_ROW);
        if state.disturbed != 0 || !at_rest {
            return Err(CudaError::Workspace.into());
        }
        if state.bad_row != NO_ROW {
            let place = offset_of!(AlaState, bad_row);
            let mut bad_row = self.memory.slice_mut(place..place + size_of::<u64>());
            stream
                .memcpy_htod(&NO_ROW.to_ne_bytes(), &mut bad_row)
                .map_err(driver("clearing the status"))?;
            return Err(self.bad_row(&state));
        }
        Ok(Summary {
            loss: state.loss,
            counted_rows: state.counted_rows as usize,
            total_weight: state.total_weight,
        })
    }

    /// What is wrong with a row, as the CPU says it.
    fn bad_row(&self, state: &AlaState) -> Error {
        let (row, label, classes) = (
            state.bad_row as usize,
            i128::from(state.bad_label),
            self.classes,
        );
        let number = |name, allowed| Error::RowParameter {
            row,
            name,
            value: f32::from_bits(state.bad_label as u32).into(),
            allowed,
        };
        match state.bad_what & ((1 << ALA_BAD_BITS) - 1) {
            ALA_BAD_SHARDS => Error::ShardsOfLabel {
                row,
                label,
                shards: (state.bad_what >> ALA_BAD_BITS) as usize,
            },
            ALA_BAD_SECOND_LABEL => Error::SecondLabel {
                row,
                label,
                classes,
            },
            ALA_BAD_LAMBDA => number("lambda", "from 0 to 1"),
            ALA_BAD_WEIGHT => number("weight", "0, or from 1e-20 to 1e20 on CUDA"),
            _ => Error::Label {
                row,
                label,
                classes,
            },
        }
    }
}

/// bindgen types a macro by its value, here -1.
const NO_ROW: u64 = ALA_NO_ROW as u64;

const CLEARED: AlaState = AlaState {
    loss: 0.0,
    total_weight: 0.0,
    counted_rows: 0,
    bad_row: NO_ROW,
    bad_label: 0,
    step_bad_row: NO_ROW,
    blocks_done: 0,
    tickets: 0,
    disturbed: 0,
    divisor: 1.0,
    rounded_divisor: 1.0,
    bad_what: 0,
};

fn bytes_of(state: &AlaState) -> [u8; STATE] {
    // SAFETY: AlaState is plain numbers without padding; a test adds its fields up to its size.
    unsafe { std::mem::transmute_copy(state) }
}

fn from_bytes(bytes: [u8; STATE]) -> AlaState {
    // SAFETY: any bytes are valid numbers.
    unsafe { std::mem::transmute_copy(&bytes) }
}
