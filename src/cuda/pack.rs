//! The row table as the kernels read it: `f32`, slopes and offsets in units of log2.

use super::abi::{AlaAffine, AlaExact, AlaTarget};
use crate::table::log2::to_log2;
use crate::table::{NonTarget, RowTable};

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

/// Rounds the table. The target's slope is kept as what it adds to its class's own slope: added up
/// first, a margin of a few units would be rounded to the digits of the scale.
///
/// Offsets count from the highest: what all have in common the softmax does not see, and the
/// rounding of a large one it does.
pub(super) fn pack(table: &RowTable) -> Packed {
    let reference = table.non_target().largest_bias();
    let log2 = |value: f64| to_log2(value) as f32;
    let targets = (0..table.classes())
        .map(|class| {
            let (own, other) = (table.targets()[class], table.affine(class));
            AlaTarget {
                extra_slope: log2(own.slope - other.slope),
                bias: log2(own.bias - other.bias),
                gradient_slope: own.gradient_slope as f32,
                weight: own.weight as f32,
            }
        })
        .collect();
    let (others, slope) = match table.non_target() {
        NonTarget::Uniform { slope } => (Vec::new(), log2(*slope)),
        NonTarget::PerClass(maps) => {
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
            let (own, other) = (table.targets()[class], table.affine(class));
            AlaExact {
                slope: to_log2(other.slope),
                bias: to_log2(other.bias - reference),
                target_slope: to_log2(own.slope),
                target_bias: to_log2(own.bias - reference),
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
