//! The row table in units of log2, so that an exponential is a power of 2: what both paths read.
//!
//! Offsets count from the largest of a class: what all have in common the softmax does not see, and
//! the rounding of a large one it does.

use std::f64::consts::LOG2_E;

use super::{Affine, NonTarget};
use crate::element::Real;

/// What is read in whole vectors is followed by so many maps that leave -infinity what it is: no
/// CPU instance has more lanes.
pub(crate) const PADDING: usize = 16;

/// A natural exponent in units of log2.
pub(crate) fn to_log2(value: f64) -> f64 {
    value * LOG2_E
}

impl NonTarget {
    /// The largest offset of a class: what both paths count offsets from.
    pub(crate) fn largest_bias(&self) -> f64 {
        match self {
            Self::Uniform { .. } => 0.0,
            Self::PerClass(maps) => maps
                .iter()
                .map(|map| map.bias)
                .fold(f64::NEG_INFINITY, f64::max),
        }
    }

    fn per_class(&self) -> &[Affine] {
        match self {
            Self::Uniform { .. } => &[],
            Self::PerClass(maps) => maps,
        }
    }
}

/// The maps of the classes off the target in one precision, `[C]` and [`PADDING`] each; padding
/// alone where one slope serves all.
#[derive(Debug, Clone)]
pub(crate) struct Log2Maps<R> {
    pub(crate) slopes: Vec<R>,
    /// What rounding took from the slopes: with large logits it matters.
    pub(crate) slope_rests: Vec<R>,
    /// From [`largest_bias`](NonTarget::largest_bias) on.
    pub(crate) biases: Vec<R>,
}

impl<R: Real> Log2Maps<R> {
    fn new(non_target: &NonTarget) -> Self {
        let maps = non_target.per_class();
        let largest = non_target.largest_bias();
        let padding = [Affine {
            slope: 1.0,
            bias: largest,
        }; PADDING];
        let column = |value: &dyn Fn(&Affine) -> f64| {
            let maps = maps.iter().chain(&padding);
            maps.map(|map| R::from_f64(value(map))).collect()
        };
        Self {
            slopes: column(&|map| to_log2(map.slope)),
            // As one multiply-add, to have what the product's own rounding took as well.
            slope_rests: column(&|map| {
                let rounded = R::from_f64(to_log2(map.slope)).to_f64();
                map.slope.mul_add(LOG2_E, -rounded)
            }),
            biases: column(&|map| to_log2(map.bias - largest)),
        }
    }
}

/// The maps in both precisions, and what their offsets count from.
#[derive(Debug, Clone)]
pub(crate) struct Log2Table {
    pub(crate) single: Log2Maps<f32>,
    pub(crate) double: Log2Maps<f64>,
    pub(crate) largest_bias: f64,
}

impl Log2Table {
    pub(crate) fn new(non_target: &NonTarget) -> Self {
        Self {
            single: Log2Maps::new(non_target),
            double: Log2Maps::new(non_target),
            largest_bias: non_target.largest_bias(),
        }
    }
}
