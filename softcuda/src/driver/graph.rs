//! Stream capture and the graphs it makes.

use super::border::{Need, call, calls};
use super::capture::Capture;
use super::code::Code;
use super::handle::{Handle, LEGACY};
use super::pointer::Out;
use super::work::Work;

calls! {
    Context: fn cuStreamBeginCapture_v2(state, stream: Handle, mode: u32) {
        let stream = state.stream(stream)?;
        let capture = Capture::begin(stream, mode)?;
        if stream == LEGACY {
            return Err(state.refuse(Code::CaptureUnsupported, "the legacy stream cannot be captured"));
        }
        if state.queues[&stream].capture.is_some() {
            return Err(Code::IllegalState);
        }
        let handle = state.new_handle();
        state.captures.insert(handle, capture);
        state.queue(stream).capture = Some(handle);
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
        if !capture.may_end_here() {
            return Err(Code::CaptureWrongThread);
        }
        let capture = state.captures.remove(&handle).expect("read above");
        state.queues.values_mut().filter(|queue| queue.capture == Some(handle)).for_each(|queue| queue.capture = None);
        if capture.invalid {
            return Err(Code::CaptureInvalidated);
        }
        if !capture.is_joined() {
            return Err(state.refuse(Code::CaptureUnjoined, "a forked stream's work was not joined to the captured one"));
        }
        let new = state.new_handle();
        state.graphs.insert(new, capture.into_graph());
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
