//! The row table as the kernels read it: `f32`, slopes and offsets in units of log2.

use std::f64::consts::LOG2_E;

use super::abi::{AlaAffine, AlaExact, AlaTarget};
use crate::table::{Others, RowTable};

/// The table's entries, ready for the device.
pub(super) struct Packed {
    pub(super) targets: Vec<AlaTarget>,
    /// Empty where the slope is uniform.
    pub(super) others: Vec<AlaAffine>,
    /// The same unrounded.
    pub(super) exact: Vec<AlaExact>,
    pub(super) slope: f32,
    pub(super) weighted: bool,
}

/// Rounds the table. The target's slope is kept as what it adds to its class's own slope: added up first, a margin
/// of a few units would be rounded to the digits of the scale.
///
/// Offsets count from the highest: what all have in common the softmax does not see, and the rounding of a large one it does.
pub(super) fn pack(table: &RowTable) -> Packed {
    let reference = table.others().highest_bias();
    let log2 = |value: f64| (value * LOG2_E) as f32;
    let targets = (0..table.classes())
        .map(|class| {
            let (own, other) = (table.targets()[class], table.other(class));
            AlaTarget {
                extra_slope: log2(own.slope - other.slope),
                bias: log2(own.bias - other.bias),
                gradient_slope: own.gradient_slope as f32,
                weight: own.weight as f32,
            }
        })
        .collect();
    let (others, slope) = match table.others() {
        Others::Uniform { slope } => (Vec::new(), log2(*slope)),
        Others::PerClass(maps) => {
            let maps = maps
                .iter()
                .map(|map| AlaAffine {
                    slope: log2(map.slope),
                    bias: log2(map.bias - reference),
                })
                .collect();
            (maps, 0.0)
        }
    };
    let exact = (0..table.classes())
        .map(|class| {
            let (own, other) = (table.targets()[class], table.other(class));
            AlaExact {
                slope: other.slope * LOG2_E,
                bias: (other.bias - reference) * LOG2_E,
                target_slope: own.slope * LOG2_E,
                target_bias: (own.bias - reference) * LOG2_E,
            }
        })
        .collect();
    Packed {
        targets,
        others,
        exact,
        slope,
        weighted: table.targets().iter().any(|target| target.weight != 1.0),
    }
}
