//! The candle op and the cosine head, held against the core crate and against central differences.

mod cases;
mod cosine_head;
mod cosine_loss;
mod element_types;
mod errors;
mod gradient;
mod layouts;
mod step;
mod values;
