//! Handles, which the caller holds in place of what the driver has.

/// An opaque handle as the caller holds it. Handles are never addresses of ours, so a wrong one is
/// only not found.
pub type Handle = usize;

/// The only device.
pub const DEVICE: i32 = 0;
/// The legacy default stream (also handle 0).
pub const LEGACY: Handle = 1;
/// The per-thread default stream; one for all threads here.
pub const PER_THREAD: Handle = 2;
