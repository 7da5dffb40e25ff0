//! `softcuda`: a CUDA driver in software, for machines without a GPU.
//!
//! The crate builds a cdylib named `libcuda.so.1` that exports the driver calls cudarc makes, over
//! host memory, and runs a module's PTX with an interpreter. It is a test instrument and so
//! stricter than hardware: every access is checked, nothing runs before something waits for it, and
//! what decides a kernel's speed is counted. The README says what it models, what not, and how each
//! is checked.
//!
//! Tests load the cdylib with [`client::SoftCuda`]; all else here is also usable as a library,
//! without a driver. Its layers, each of which knows those before it only:
//!
//! - [`fault`], [`counters`], [`device`], [`occupancy`], [`ptxas`]: what goes wrong, what is
//!   counted, the device's figures;
//! - [`memory`]: checked device memory; [`ptx`]: the text of a module;
//! - `code`: kernels decoded; [`exec`]: kernels run, blocks and warps in several orders, races
//!   found;
//! - [`fatbin`], `driver`: images, and the driver's calls; [`client`]: what a test asks the loaded
//!   driver.
#![warn(missing_docs)]
// What only the driver's calls tell of the device.
#![cfg_attr(not(driver), allow(dead_code))]

#[cfg(unix)]
pub mod client;
mod code;
pub mod counters;
pub mod device;
#[cfg(driver)]
mod driver;
pub mod exec;
pub mod fatbin;
pub mod fault;
pub mod memory;
pub mod occupancy;
pub mod ptx;
pub mod ptxas;
