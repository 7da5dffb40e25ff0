//! What label smoothing needs of the classes: their weights, as both precisions read them.

use super::RowTable;
use super::log2::PADDING;
use crate::element::Real;

/// Label smoothing above 0, and the weights of the classes.
#[derive(Clone)]
pub(crate) struct Smoothing {
    pub(crate) epsilon: f64,
    /// The weights added up.
    pub(crate) total: f64,
    /// What the columns' weights are parts of: by themselves they may be beyond `f32`.
    pub(crate) largest: f64,
    /// Whether each weight is the largest, and above 0.
    pub(crate) alike: bool,
    /// `[C]` and [`PADDING`] zeros.
    pub(crate) single: Vec<f32>,
    pub(crate) double: Vec<f64>,
}

impl Smoothing {
    /// `None` for 0.
    pub(crate) fn new(epsilon: f64, table: &RowTable) -> Option<Self> {
        fn column<R: Real>(weights: &[f64], largest: f64) -> Vec<R> {
            let padding = [0.0; PADDING];
            let all = weights.iter().chain(&padding);
            all.map(|&weight| R::from_f64(weight / largest)).collect()
        }
        let weights: Vec<f64> = table.targets.iter().map(|target| target.weight).collect();
        // Where all are 0 they are so as parts of anything.
        let largest = match weights.iter().copied().fold(0.0, f64::max) {
            0.0 => 1.0,
            largest => largest,
        };
        (epsilon > 0.0).then(|| Self {
            epsilon,
            total: weights.iter().sum(),
            largest,
            alike: weights.iter().all(|&weight| weight == largest),
            single: column(&weights, largest),
            double: column(&weights, largest),
        })
    }
}
