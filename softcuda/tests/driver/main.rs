//! The driver API as cudarc 0.19.10 uses it, and the errors that a program in the wrong gets.

mod device;
mod faults;
mod graph_memory;
mod instrument;
mod launches;
mod memory;
mod streams;
