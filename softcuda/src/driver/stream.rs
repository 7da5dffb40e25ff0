//! Streams and events.

use super::border::{Need, call, calls, current};
use super::code::Code;
use super::event::{Event, Recorded};
use super::handle::{Handle, LEGACY, PER_THREAD};
use super::pointer::Out;
use super::queue::Queue;
use super::state::State;
use super::work::Work;
use std::time::Instant;

const NON_BLOCKING: u32 = 1;
const DISABLE_TIMING: u32 = 2;

impl State {
    fn new_stream(&mut self, flags: u32) -> Result<Handle, Code> {
        if flags > NON_BLOCKING {
            return Err(Code::InvalidValue);
        }
        let stream = self.new_handle();
        self.queues.insert(stream, Queue::new(flags != NON_BLOCKING));
        Ok(stream)
    }

    /// Waits for all a stream holds; for the legacy stream, that includes every blocking stream.
    fn finish_stream(&mut self, stream: Handle) -> Result<(), Code> {
        if stream == LEGACY {
            let blocking = |(_, queue): &(&Handle, &Queue)| queue.blocking;
            for other in self.queues.iter().filter(blocking).map(|(&stream, _)| stream).collect::<Vec<_>>() {
                self.run_stream(other)?;
            }
        }
        self.run_stream(stream)
    }

    /// Where an event was last recorded, `None` for nowhere yet.
    fn place(&mut self, event: Handle) -> Result<Option<(Handle, u64)>, Code> {
        match self.events.get(&event).ok_or(Code::InvalidHandle)?.recorded {
            Recorded::Never => Ok(None),
            Recorded::Stream { stream, position } => Ok(Some((stream, position))),
            Recorded::Capture(_) => Err(self.refuse(Code::CapturedEvent, "the event was last recorded in a capture")),
        }
    }

    fn record(&mut self, event: Handle, stream: Handle) -> Result<(), Code> {
        let stream = self.stream(stream)?;
        let stamp = self.stamp(stream)?;
        if !self.events.contains_key(&event) {
            return Err(Code::InvalidHandle);
        }
        let ticket = self.new_handle();
        let recorded = match stamp {
            Some(stamp) => Recorded::Capture(stamp),
            None => {
                self.submit(stream, Work::Record { event, ticket })?;
                Recorded::Stream { stream, position: self.queues[&stream].submitted() }
            }
        };
        let event = self.events.get_mut(&event).expect("looked up above");
        *event = Event { timed: event.timed, recorded, ticket, time: None };
        Ok(())
    }

    fn event_time(&mut self, event: Handle) -> Result<Instant, Code> {
        let (stream, position) = self.place(event)?.ok_or(Code::InvalidHandle)?;
        let event = &self.events[&event];
        if !event.timed {
            return Err(Code::InvalidHandle);
        }
        if !self.reached(stream, position) {
            return Err(Code::NotReady);
        }
        event.time.ok_or(Code::NotReady)
    }
}

calls! {
    Context: fn cuStreamCreate(state, stream: Out<Handle>, flags: u32) {
        stream.set(state.new_stream(flags)?)
    }

    /// Priorities change nothing here.
    Context: fn cuStreamCreateWithPriority(state, stream: Out<Handle>, flags: u32, _priority: i32) {
        stream.set(state.new_stream(flags)?)
    }

    Context: fn cuStreamDestroy_v2(state, stream: Handle) {
        let key = state.stream(stream)?;
        if stream <= PER_THREAD {
            return Err(Code::InvalidHandle);
        }
        state.refuse_captured(key, "destroying the captured stream")?;
        state.lose_downloads(key);
        if state.queues[&key].pending() == 0 {
            state.queues.remove(&key);
        } else {
            state.queue(key).destroyed = true;
        }
        Ok(())
    }

    Context: fn cuStreamGetCtx(state, stream: Handle, context: Out<Handle>) {
        state.stream(stream)?;
        context.set(current())
    }

    Context: fn cuStreamSynchronize(state, stream: Handle) {
        let stream = state.stream(stream)?;
        state.refuse_captured(stream, "synchronising the captured stream")?;
        state.refuse_unsafe("synchronising a stream")?;
        state.finish_stream(stream)
    }

    /// Answers "not ready" where work was left, and then runs it: asking again and again comes to
    /// an end.
    Context: fn cuStreamQuery(state, stream: Handle) {
        let stream = state.stream(stream)?;
        state.refuse_captured(stream, "querying the captured stream")?;
        state.refuse_unsafe("querying a stream")?;
        if state.queues[&stream].pending() == 0 {
            return Ok(());
        }
        state.finish_stream(stream)?;
        Err(Code::NotReady)
    }

    Context: fn cuStreamWaitEvent(state, stream: Handle, event: Handle, flags: u32) {
        let stream = state.stream(stream)?;
        let recorded = state.events.get(&event).ok_or(Code::InvalidHandle)?.recorded.clone();
        if flags != 0 {
            return Err(Code::InvalidValue);
        }
        if state.wait_captured(stream, &recorded)? {
            return Ok(());
        }
        match recorded {
            Recorded::Stream { stream: other, position } if other != stream => {
                state.submit(stream, Work::Wait { stream: other, position })
            }
            _ => Ok(()),
        }
    }

    Context: fn cuEventCreate(state, event: Out<Handle>, flags: u32) {
        if flags > 7 {
            return Err(Code::InvalidValue);
        }
        let handle = state.new_handle();
        let timed = flags & DISABLE_TIMING == 0;
        state.events.insert(handle, Event { timed, recorded: Recorded::Never, ticket: 0, time: None });
        event.set(handle)
    }

    Context: fn cuEventDestroy_v2(state, event: Handle) {
        state.events.remove(&event).map(drop).ok_or(Code::InvalidHandle)
    }

    Context: fn cuEventRecord(state, event: Handle, stream: Handle) {
        state.record(event, stream)
    }

    Context: fn cuEventSynchronize(state, event: Handle) {
        let place = state.place(event)?;
        state.refuse_unsafe("synchronising an event")?;
        place.map_or(Ok(()), |(stream, position)| state.run_until(stream, position))
    }

    /// As `cuStreamQuery`: "not ready" first where work was left, which then runs.
    Context: fn cuEventQuery(state, event: Handle) {
        let place = state.place(event)?;
        state.refuse_unsafe("querying an event")?;
        match place {
            Some((stream, position)) if !state.reached(stream, position) => {
                state.run_until(stream, position)?;
                Err(Code::NotReady)
            }
            _ => Ok(()),
        }
    }

    Context: fn cuEventElapsedTime_v2(state, milliseconds: Out<f32>, start: Handle, end: Handle) {
        let (start, end) = (state.event_time(start)?, state.event_time(end)?);
        let elapsed = end.saturating_duration_since(start).as_secs_f32() - start.saturating_duration_since(end).as_secs_f32();
        milliseconds.set(elapsed * 1e3)
    }
}
