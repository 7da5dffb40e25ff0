//! The CUDA path, on a GPU where there is one and in software where there is none: the same tests
//! either way.
//!
//! `ALA_REQUIRE_GPU=1` makes a missing GPU a failure.

mod abi;
// What the report counts is what the bounds are held to.
#[path = "../../examples/kernel_report/case.rs"]
mod case;
mod chain;
mod counts;
mod device;
mod edges;
mod extreme;
mod host;
#[cfg(feature = "instruments")]
mod instruments;
mod launches;
mod machines;
mod parity;
#[path = "../problem/mod.rs"]
mod problem;
#[cfg(feature = "instruments")]
mod recipes;
mod resources;
mod shards;
mod tier_list;
#[cfg(feature = "instruments")]
mod tiers;
mod workspaces;
