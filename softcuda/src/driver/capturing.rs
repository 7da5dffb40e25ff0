//! What a capture takes of the calls made meanwhile, and what it refuses.

use super::capture::{Capture, Stamp};
use super::code::Code;
use super::event::Recorded;
use super::handle::{Handle, LEGACY};
use super::state::State;
use super::work::Work;

impl State {
    /// Adds work to a capture.
    pub fn append(&mut self, capture: Handle, stream: Handle, work: Work) -> Result<(), Code> {
        let capture = self.valid_capture(capture)?;
        capture.append(stream, work);
        Ok(())
    }

    /// A capture under way that nothing spoiled.
    pub fn valid_capture(&mut self, capture: Handle) -> Result<&mut Capture, Code> {
        let capture = self.captures.get_mut(&capture).expect("a capturing stream's capture is kept");
        if capture.invalid { Err(Code::CaptureInvalidated) } else { Ok(capture) }
    }

    /// Spoils a capture, for a call that it cannot take.
    pub fn invalidate(&mut self, capture: Handle, code: Code, why: &str) -> Code {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.invalid = true;
        }
        self.refuse(code, format!("{why} while a stream is captured"))
    }

    /// Invalidates the capture that a call conflicts with, if there is one.
    fn refuse_for(&mut self, capture: Option<Handle>, code: Code, why: &str) -> Result<(), Code> {
        capture.map_or(Ok(()), |capture| Err(self.invalidate(capture, code, why)))
    }

    /// Refuses, on a capturing stream, what cannot become part of a graph.
    pub fn refuse_captured(&mut self, stream: Handle, why: &str) -> Result<(), Code> {
        self.refuse_for(self.queues[&stream].capture, Code::CaptureUnsupported, why)
    }

    /// Refuses calls that may wait for, or allocate under, a capture: on the capturing thread
    /// unless its mode is relaxed, and on every thread where the mode is global.
    pub fn refuse_unsafe(&mut self, why: &str) -> Result<(), Code> {
        let conflict = self.captures.iter().find(|(_, capture)| capture.forbids_unsafe_calls());
        let conflict = conflict.map(|(&handle, _)| handle);
        self.refuse_for(conflict, Code::CaptureUnsupported, why)
    }

    /// Refuses waiting for the whole context, whatever the mode.
    pub fn refuse_any_capture(&mut self, why: &str) -> Result<(), Code> {
        self.refuse_for(self.captures.keys().next().copied(), Code::CaptureUnsupported, why)
    }

    /// Refuses work in the legacy stream where it would wait for a captured blocking stream.
    pub fn refuse_implicit_capture(&mut self) -> Result<(), Code> {
        let conflict = self.queues.values().filter(|queue| queue.blocking).find_map(|queue| queue.capture);
        self.refuse_for(conflict, Code::CaptureImplicit, "work in the legacy stream")
    }

    /// The stamp an event gets from a stream, `None` outside a capture.
    pub fn stamp(&mut self, stream: Handle) -> Result<Option<Stamp>, Code> {
        let Some(handle) = self.queues[&stream].capture else {
            return Ok(None);
        };
        Ok(Some(self.valid_capture(handle)?.stamp(handle, stream)))
    }

    /// Makes a stream wait for an event where one of the two is captured; `false` where neither is.
    pub fn wait_captured(&mut self, stream: Handle, recorded: &Recorded) -> Result<bool, Code> {
        let own = self.queues[&stream].capture;
        let stamp = match (own, recorded) {
            (None, Recorded::Never | Recorded::Stream { .. }) => return Ok(false),
            (Some(_), Recorded::Never) => return Ok(true),
            (Some(capture), Recorded::Stream { .. }) => {
                return Err(self.invalidate(
                    capture,
                    Code::CaptureIsolation,
                    "waiting for an event from outside the capture",
                ));
            }
            (_, Recorded::Capture(stamp)) => stamp,
        };
        if !self.captures.contains_key(&stamp.capture) {
            return Err(Code::CapturedEvent);
        }
        match own {
            Some(own) if own != stamp.capture => {
                return Err(self.invalidate(own, Code::CaptureMerge, "waiting for an event of another capture"));
            }
            None if stream == LEGACY => {
                return Err(self.invalidate(stamp.capture, Code::CaptureImplicit, "joining the legacy stream"));
            }
            _ => {}
        }
        self.queue(stream).capture = Some(stamp.capture);
        self.valid_capture(stamp.capture)?.wait(stream, stamp);
        Ok(true)
    }
}
