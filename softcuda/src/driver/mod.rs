//! The CUDA driver API over host memory, as far as cudarc and this project call it.
//!
//! Nothing runs when it is submitted: a stream is a queue, and only what waits for it (a
//! synchronise, a query, a synchronous copy or free) makes it run. A program that forgets to wait
//! therefore sees old data every time.

mod border;
mod capture;
mod capturing;
mod code;
mod context;
mod control;
mod copy_2d;
mod event;
mod graph;
mod graph_memory;
mod handle;
mod image;
mod launch;
mod memory;
mod module;
mod pointer;
mod queue;
mod run;
mod state;
mod stream;
mod submit;
mod work;
