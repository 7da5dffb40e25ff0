//! What is run on the device, a stage a file. Each writes its records as it goes and prints a line
//! for each.

mod facts;
mod launches;
mod repeats;
mod tiers;
mod times;

use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::CudaContext;

use crate::Failure;
use crate::clock::{Clock, Deadline};
use crate::record::{Record, Sink};
use crate::sizes::Sizes;

pub use facts::facts;
pub use launches::launches;
pub use repeats::repeats;
pub use tiers::tiers;
pub use times::times;

/// What every stage is given.
#[derive(Debug)]
pub struct Bench {
    /// The device.
    pub context: Arc<CudaContext>,
    /// What to measure.
    pub sizes: &'static Sizes,
    /// Where the records go.
    pub sink: Sink,
    /// When to stop starting measurements.
    pub deadline: Deadline,
}

impl Bench {
    /// A clock that has settled.
    fn clock(&self) -> Result<Clock, Failure> {
        let clock = Clock::new(&self.context)?;
        clock.settle(Duration::from_secs_f64(self.sizes.settle))?;
        Ok(clock)
    }

    /// Whether there is time for `what`; says so where there is none.
    fn has_time_for(&mut self, what: impl FnOnce() -> String) -> Result<bool, Failure> {
        if !self.deadline.passed() {
            return Ok(true);
        }
        let what = what();
        println!("{what}: left out, no time is left");
        self.sink.write(Record::LeftOut {
            what,
            reason: "no time was left".into(),
        })?;
        Ok(false)
    }
}
