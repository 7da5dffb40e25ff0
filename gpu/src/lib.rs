//! Proves and measures the CUDA path of `ala-loss` on a GPU: the timing of a step, what it stands
//! beside, and the records that come of it. The program `gpu-kit` is made of this, as are the
//! benchmark `step`. As a C library it is what `peers.py` loads.

pub mod batch;
pub mod clock;
pub mod device;
mod door;
pub mod record;
pub mod sizes;
pub mod stages;

/// Why a measurement ended early; its message fits on one line.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
