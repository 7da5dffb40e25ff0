//! The one way to time on a device: between two events, with nothing of it in L2 before, all things
//! in turns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ala_loss::cuda::instruments::Instruments;
use cudarc::driver::sys::{CUdevice_attribute, CUevent_flags};
use cudarc::driver::{CudaContext, CudaEvent, CudaSlice, CudaStream};
use serde::{Deserialize, Serialize};

use crate::Failure;

/// The middle of several times, and how far they lie apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Half of them are less.
    pub median: f64,
    /// A tenth of them are less.
    pub p10: f64,
    /// A tenth of them are more.
    pub p90: f64,
    /// How many there are.
    pub count: usize,
}

impl Spread {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = (share * sorted.len().saturating_sub(1) as f64).round() as usize;
            sorted.get(place).copied().unwrap_or(f64::NAN)
        };
        Self {
            median: at(0.5),
            p10: at(0.1),
            p90: at(0.9),
            count: sorted.len(),
        }
    }

    /// All times that factor.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            median: factor * self.median,
            p10: factor * self.p10,
            p90: factor * self.p90,
            count: self.count,
        }
    }
}

/// When to stop starting things.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// So many seconds from now.
    pub fn after(seconds: f64) -> Self {
        Self(Instant::now() + Duration::from_secs_f64(seconds))
    }

    /// Whether it has passed.
    pub fn passed(self) -> bool {
        Instant::now() >= self.0
    }

    /// Seconds until then.
    pub fn left(self) -> f64 {
        self.0
            .saturating_duration_since(Instant::now())
            .as_secs_f64()
    }
}

/// What a call to be timed is given: which of the things, and the stream to put it into.
pub trait Enqueue: FnMut(usize, &Arc<CudaStream>) -> Result<(), Failure> {}
impl<F: FnMut(usize, &Arc<CudaStream>) -> Result<(), Failure>> Enqueue for F {}

/// A stream, two events in it, and something to fill L2 with.
#[derive(Debug)]
pub struct Clock {
    /// What is timed goes into it.
    pub stream: Arc<CudaStream>,
    /// What a step is measured against.
    pub instruments: Instruments,
    start: CudaEvent,
    stop: CudaEvent,
    /// Twice as large as L2.
    flush: CudaSlice<u8>,
}

/// Reads of `flush` that keep the device busy until the host has enqueued many launches behind
/// them.
const HEAD_START: usize = 16;

impl Clock {
    /// A clock on a stream of its own.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn new(context: &Arc<CudaContext>) -> Result<Self, Failure> {
        // cudarc's own events would run between the two that time a step, and cannot be waited for
        // in a graph. SAFETY: one stream does all the work; binding a loss waits for its own.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream()?;
        let l2 = context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?;
        // Softcuda runs what is timed in software, where a cache is none and reading it takes
        // seconds.
        let bytes = match crate::device::is_software(context)? {
            true => 1 << 10,
            false => 2 * usize::try_from(l2)?.max(1 << 20),
        };
        let flush = stream.alloc_zeros::<u8>(bytes)?;
        let event = || context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
        Ok(Self {
            start: event()?,
            stop: event()?,
            instruments: Instruments::load(context)?,
            stream,
            flush,
        })
    }

    /// Keeps the device busy until its clocks have settled.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn settle(&self, duration: Duration) -> Result<(), Failure> {
        let end = Instant::now() + duration;
        loop {
            for _ in 0..HEAD_START {
                self.instruments.read(&self.stream, &self.flush)?;
            }
            self.stream.synchronize()?;
            if Instant::now() >= end {
                return Ok(());
            }
        }
    }

    /// Microseconds on the device of what `enqueue` puts into the stream, with nothing of it in L2
    /// before.
    fn cold(&self, what: usize, enqueue: &mut impl Enqueue) -> Result<f64, Failure> {
        // While this runs the host enqueues the rest, so that no launch is waited for between the
        // events.
        self.instruments.read(&self.stream, &self.flush)?;
        self.start.record(&self.stream)?;
        enqueue(what, &self.stream)?;
        self.stop.record(&self.stream)?;
        Ok(1e3 * f64::from(self.start.elapsed_ms(&self.stop)?))
    }

    /// Times `things` things in turns, `rounds` times over, so that a drift hits all alike; a round
    /// before that is not counted. Fewer rounds, but three at least, where the deadline passes.
    ///
    /// # Errors
    /// Those of `enqueue` and of the driver.
    pub fn in_turns(
        &self,
        things: usize,
        rounds: usize,
        deadline: Deadline,
        mut enqueue: impl Enqueue,
    ) -> Result<Vec<Spread>, Failure> {
        let mut times = vec![Vec::new(); things];
        for round in 0..=rounds {
            if round > LEAST_ROUNDS && deadline.passed() {
                break;
            }
            for (what, times) in times.iter_mut().enumerate() {
                let time = self.cold(what, &mut enqueue)?;
                if round > 0 {
                    times.push(time);
                }
            }
        }
        Ok(times.iter().map(|times| Spread::of(times)).collect())
    }

    /// The same for many launches of one thing in a row: microseconds a launch, on the device and
    /// of the call on the host.
    ///
    /// # Errors
    /// Those of `enqueue` and of the driver.
    pub fn launches_in_turns(
        &self,
        things: usize,
        launches: usize,
        rounds: usize,
        mut enqueue: impl Enqueue,
    ) -> Result<Vec<[Spread; 2]>, Failure> {
        let mut times = vec![[Vec::new(), Vec::new()]; things];
        for round in 0..=rounds {
            for (what, [device, host]) in times.iter_mut().enumerate() {
                for _ in 0..HEAD_START {
                    self.instruments.read(&self.stream, &self.flush)?;
                }
                self.start.record(&self.stream)?;
                let begun = Instant::now();
                for _ in 0..launches {
                    enqueue(what, &self.stream)?;
                }
                let enqueued = begun.elapsed();
                self.stop.record(&self.stream)?;
                let elapsed = f64::from(self.start.elapsed_ms(&self.stop)?);
                if round > 0 {
                    device.push(1e3 * elapsed / launches as f64);
                    host.push(1e6 * enqueued.as_secs_f64() / launches as f64);
                }
            }
        }
        Ok(times
            .iter()
            .map(|both| both.each_ref().map(|times| Spread::of(times)))
            .collect())
    }
}

/// Rounds that are run whatever the deadline.
const LEAST_ROUNDS: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_of_sorted_values() {
        let values: Vec<f64> = (0..=10).rev().map(f64::from).collect();
        let spread = Spread::of(&values);
        assert_eq!((spread.p10, spread.median, spread.p90), (1.0, 5.0, 9.0));
        assert_eq!(spread.count, 11);
        let one = Spread::of(&[7.0]);
        assert_eq!((one.p10, one.median, one.p90), (7.0, 7.0, 7.0));
    }

    #[test]
    fn a_deadline_passes() {
        assert!(Deadline::after(0.0).passed());
        let later = Deadline::after(1e3);
        assert!(!later.passed() && later.left() > 900.0);
        assert_eq!(Deadline::after(0.0).left(), 0.0);
    }
}
