//! The CUDA path, on a GPU where there is one and in software where there is none: the same tests either way.
//!
//! `ALA_REQUIRE_GPU=1` makes a missing GPU a failure.

mod abi;
mod device;
mod edges;
mod host;
mod launches;
mod machines;
mod parity;
#[path = "../problem/mod.rs"]
mod problem;
mod resources;
