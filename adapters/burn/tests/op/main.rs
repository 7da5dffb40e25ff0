//! The op and the cosine head, held against the plain `f64` reference and central differences.

mod cases;
mod config;
mod cosine_head;
mod element_types;
mod errors;
mod gradient;
mod layouts;
mod step;
