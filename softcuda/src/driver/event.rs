//! Events: places in streams, or in captures.

use super::capture::Stamp;
use super::handle::Handle;
use std::time::Instant;

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
