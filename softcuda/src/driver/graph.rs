//! Stream capture and the graphs it makes.

use super::border::{Need, call, calls};
use super::capture::Capture;
use super::code::Code;
use super::handle::{Handle, LEGACY};
use super::pointer::Out;
use super::state::Executable;

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
        let joined = capture.is_joined();
        if capture.invalid || !joined {
            state.forget_graph_blocks();
        }
        if capture.invalid {
            return Err(Code::CaptureInvalidated);
        }
        if !joined {
            return Err(state.refuse(Code::CaptureUnjoined, "a forked stream's work was not joined to the captured one"));
        }
        state.graphs.insert(handle, capture.into_graph());
        graph.set(handle)
    }

    Context: fn cuStreamIsCapturing(state, stream: Handle, status: Out<u32>) {
        let stream = state.stream(stream)?;
        let capture = state.queues[&stream].capture.map(|capture| &state.captures[&capture]);
        status.set(capture.map_or(0, |capture| 1 + u32::from(capture.invalid)))
    }

    Context: fn cuGraphInstantiateWithFlags(state, executable: Out<Handle>, graph: Handle, flags: u64) {
        const FREES_ON_LAUNCH: u64 = 1;
        const DEVICE_LAUNCH: u64 = 4;
        let nodes = state.graphs.get(&graph).ok_or(Code::InvalidValue)?.clone();
        if flags > 15 || flags & DEVICE_LAUNCH != 0 {
            return Err(Code::InvalidValue);
        }
        state.refuse_second_instance(graph, &nodes)?;
        let new = state.new_handle();
        let frees_on_launch = flags & FREES_ON_LAUNCH != 0;
        state.executables.insert(new, Executable { graph, nodes, frees_on_launch, last: None });
        executable.set(new)
    }

    Context: fn cuGraphLaunch(state, executable: Handle, stream: Handle) {
        if !state.executables.contains_key(&executable) {
            return Err(Code::InvalidValue);
        }
        let stream = state.stream(stream)?;
        state.refuse_captured(stream, "launching a graph")?;
        state.launch_graph(executable, stream)
    }

    Context: fn cuGraphUpload(state, executable: Handle, stream: Handle) {
        state.stream(stream)?;
        state.executables.get(&executable).map(drop).ok_or(Code::InvalidValue)
    }

    /// Ends no allocation that a launch left: that is the caller's to free, graph or no graph.
    Init: fn cuGraphDestroy(state, graph: Handle) {
        state.graphs.remove(&graph).ok_or(Code::InvalidValue)?;
        state.forget_graph_blocks();
        Ok(())
    }

    /// Launches submitted before still run.
    Init: fn cuGraphExecDestroy(state, executable: Handle) {
        state.executables.remove(&executable).ok_or(Code::InvalidValue)?;
        state.forget_graph_blocks();
        Ok(())
    }
}
