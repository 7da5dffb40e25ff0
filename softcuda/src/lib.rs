//! `softcuda`: a CUDA driver in software, for machines without a GPU.
//!
//! The crate builds a cdylib named `libcuda.so.1` that exports the driver API calls cudarc makes, over host memory, and
//! runs a module's PTX with an interpreter. It is a test instrument and so stricter than hardware: every access is
//! checked, nothing runs before something waits for it, and what decides a kernel's speed is counted.
//!
//! Tests load the cdylib with [`client::SoftCuda`]; all else here is also usable as a library, without a driver.
#![warn(missing_docs)]

#[cfg(unix)]
pub mod client;
pub mod counters;
pub mod device;
mod driver;
pub mod exec;
mod fatbin;
pub mod fault;
pub mod memory;
pub mod occupancy;
pub mod ptx;
pub mod ptxas;
