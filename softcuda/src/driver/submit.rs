//! Puts work into streams, or into the graphs that they are captured to.

use super::code::Code;
use super::handle::{Handle, LEGACY};
use super::state::State;
use super::work::Work;

impl State {
    /// Puts work into a stream, or into the graph that the stream is captured to.
    pub fn submit(&mut self, stream: Handle, work: Work) -> Result<(), Code> {
        if work.is_empty() {
            return Ok(());
        }
        if let Some(capture) = self.queues[&stream].capture {
            return self.append(capture, stream, work);
        }
        if stream == LEGACY {
            self.refuse_implicit_capture()?;
            for other in self.queues.keys().copied().collect::<Vec<_>>() {
                if other != LEGACY && self.queues[&other].blocking {
                    self.join(LEGACY, other);
                }
            }
        } else if self.queues[&stream].blocking {
            self.join(stream, LEGACY);
        }
        self.queue(stream).push(work);
        Ok(())
    }

    /// Makes `stream` wait for all that `other` holds now.
    fn join(&mut self, stream: Handle, other: Handle) {
        let position = self.queues[&other].submitted();
        if !self.reached(other, position) {
            self.queue(stream).push(Work::Wait { stream: other, position });
        }
    }
}
