//! Runs kernels: blocks in an order of choice, warps between barriers, everything checked and
//! counted.

mod access;
mod block;
mod chain;
mod clock;
mod compute;
mod context;
mod execute;
mod global;
mod grid;
mod module;
mod order;
mod races;
mod scene;
mod shared;
mod sync;
mod warp;

pub use chain::{Chain, Reach};
pub use grid::{launch, launch_with_chain};
pub use module::LoadedModule;
pub use scene::{Launch, Order};
