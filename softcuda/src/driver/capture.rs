//! Stream capture and the graphs it makes.
//!
//! A capture keeps the work in the order in which it was issued. Every dependency points back in that order, so running
//! a graph's work in it is one of the orders the graph allows. Which work of a forked stream the origin has seen is
//! followed by a clock for each stream, so that unjoined work is refused at the end as a real driver refuses it.

use super::code::Code;
use super::pointer::Out;
use super::queue::{LEGACY, Recorded, Work};
use super::state::{Handle, Need, State, call, calls};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::ThreadId;

const THREAD_LOCAL: u32 = 1;
const RELAXED: u32 = 2;

/// How much of each captured stream's work one stream depends on.
type Clock = BTreeMap<Handle, u64>;

/// An event's place in a capture.
#[derive(Clone)]
pub struct Stamp {
    capture: Handle,
    clock: Clock,
}

/// A capture under way.
pub struct Capture {
    origin: Handle,
    mode: u32,
    thread: ThreadId,
    nodes: Vec<Work>,
    clocks: BTreeMap<Handle, Clock>,
    invalid: bool,
}

/// A graph's work, in issue order.
pub type Graph = Arc<[Work]>;

impl State {
    /// Adds work to a capture.
    pub fn append(&mut self, capture: Handle, stream: Handle, work: Work) -> Result<(), Code> {
        let capture = self.valid_capture(capture)?;
        capture.nodes.push(work);
        let clock = capture.clocks.entry(stream).or_default();
        *clock.entry(stream).or_default() += 1;
        Ok(())
    }

    fn valid_capture(&mut self, capture: Handle) -> Result<&mut Capture, Code> {
        let capture = self.captures.get_mut(&capture).expect("a capturing stream's capture is kept");
        if capture.invalid { Err(Code::CaptureInvalidated) } else { Ok(capture) }
    }

    fn invalidate(&mut self, capture: Handle, code: Code, why: &str) -> Code {
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

    /// Refuses calls that may wait for, or allocate under, a capture: on the capturing thread unless its mode is
    /// relaxed, and on every thread where the mode is global.
    pub fn refuse_unsafe(&mut self, why: &str) -> Result<(), Code> {
        let thread = std::thread::current().id();
        let forbids = |capture: &Capture| match capture.mode {
            RELAXED => false,
            THREAD_LOCAL => capture.thread == thread,
            _ => true,
        };
        let conflict = self.captures.iter().find(|(_, capture)| forbids(capture)).map(|(&handle, _)| handle);
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
        let capture = self.valid_capture(handle)?;
        let clock = capture.clocks.get(&stream).cloned().unwrap_or_default();
        Ok(Some(Stamp { capture: handle, clock }))
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
        self.queues.get_mut(&stream).expect("the stream was looked up before").capture = Some(stamp.capture);
        let capture = self.valid_capture(stamp.capture)?;
        let clock = capture.clocks.entry(stream).or_default();
        for (&other, &seen) in &stamp.clock {
            let known = clock.entry(other).or_default();
            *known = seen.max(*known);
        }
        Ok(true)
    }
}

calls! {
    Context: fn cuStreamBeginCapture_v2(state, stream: Handle, mode: u32) {
        let stream = state.stream(stream)?;
        if mode > RELAXED {
            return Err(Code::InvalidValue);
        }
        if stream == LEGACY {
            return Err(state.refuse(Code::CaptureUnsupported, "the legacy stream cannot be captured"));
        }
        if state.queues[&stream].capture.is_some() {
            return Err(Code::IllegalState);
        }
        let handle = state.new_handle();
        let thread = std::thread::current().id();
        let clocks = BTreeMap::from([(stream, Clock::new())]);
        let capture = Capture { origin: stream, mode, thread, nodes: Vec::new(), clocks, invalid: false };
        state.captures.insert(handle, capture);
        state.queues.get_mut(&stream).expect("looked up above").capture = Some(handle);
        Ok(())
    }

    Context: fn cuStreamEndCapture(state, stream: Handle, graph: Out<Handle>) {
        let stream = state.stream(stream)?;
        graph.set(0)?;
        let handle = state.queues[&stream].capture.ok_or(Code::IllegalState)?;
        let capture = &state.captures[&handle];
        if capture.origin != stream {
            return Err(state.invalidate(handle, Code::CaptureUnmatched, "ending the capture in another stream"));
        }
        if capture.mode != RELAXED && capture.thread != std::thread::current().id() {
            return Err(Code::CaptureWrongThread);
        }
        let capture = state.captures.remove(&handle).expect("read above");
        state.queues.values_mut().filter(|queue| queue.capture == Some(handle)).for_each(|queue| queue.capture = None);
        if capture.invalid {
            return Err(Code::CaptureInvalidated);
        }
        let seen = &capture.clocks[&stream];
        let joined = |(other, clock): (&Handle, &Clock)| clock.get(other) <= seen.get(other);
        if !capture.clocks.iter().all(joined) {
            return Err(state.refuse(Code::CaptureUnjoined, "a forked stream's work was not joined to the captured one"));
        }
        let new = state.new_handle();
        state.graphs.insert(new, capture.nodes.into());
        graph.set(new)
    }

    Context: fn cuStreamIsCapturing(state, stream: Handle, status: Out<u32>) {
        let stream = state.stream(stream)?;
        let capture = state.queues[&stream].capture.map(|capture| &state.captures[&capture]);
        status.set(capture.map_or(0, |capture| 1 + u32::from(capture.invalid)))
    }

    Context: fn cuGraphInstantiateWithFlags(state, executable: Out<Handle>, graph: Handle, flags: u64) {
        const DEVICE_LAUNCH: u64 = 4;
        let nodes = state.graphs.get(&graph).ok_or(Code::InvalidValue)?.clone();
        if flags > 15 || flags & DEVICE_LAUNCH != 0 {
            return Err(Code::InvalidValue);
        }
        let new = state.new_handle();
        state.executables.insert(new, nodes);
        executable.set(new)
    }

    Context: fn cuGraphLaunch(state, executable: Handle, stream: Handle) {
        let nodes = state.executables.get(&executable).ok_or(Code::InvalidValue)?.clone();
        let stream = state.stream(stream)?;
        state.refuse_captured(stream, "launching a graph")?;
        state.submit(stream, Work::Graph(nodes))
    }

    Context: fn cuGraphUpload(state, executable: Handle, stream: Handle) {
        state.stream(stream)?;
        state.executables.get(&executable).map(drop).ok_or(Code::InvalidValue)
    }

    Init: fn cuGraphDestroy(state, graph: Handle) {
        state.graphs.remove(&graph).map(drop).ok_or(Code::InvalidValue)
    }

    Init: fn cuGraphExecDestroy(state, executable: Handle) {
        state.executables.remove(&executable).map(drop).ok_or(Code::InvalidValue)
    }
}
