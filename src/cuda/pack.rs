//! The row table as the kernels read it: `f32`, slopes and offsets in units of log2.

use super::abi::{AlaAffine, AlaClasses, AlaExact, AlaTarget, AlaWeighed};
use crate::loss::Loss;
use crate::table::NonTarget;
use crate::table::log2::to_log2;

/// The table's entries, ready for the device.
pub(super) struct Packed {
    pub(super) targets: Vec<AlaTarget>,
    /// Empty where the slope is uniform.
    pub(super) others: Vec<AlaAffine>,
    /// The same with weights.
    pub(super) weighed: Vec<AlaWeighed>,
    /// The same unrounded.
    pub(super) exact: Vec<AlaExact>,
    pub(super) slope: f32,
    pub(super) weighted: bool,
    pub(super) all_classes: AlaClasses,
}

/// Rounds the table. The target's slope is kept as what it adds to its class's own slope: added up
/// first, a margin of a few units would be rounded to the digits of the scale.
///
/// Offsets count from the highest: what all have in common the softmax does not see, and the
/// rounding of a large one it does.
///
/// Labels that are smoothed over classes of unlike weights need a map for each class, which has its
/// weight. Weights that follow class counts, which may be new ones later, are taken for unlike.
pub(super) fn pack(loss: &Loss) -> Packed {
    let (table, smooths) = (loss.table(), loss.label_smoothing() > 0.0);
    let vary = loss.weights_follow_counts();
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
    let weights = || table.targets().iter().map(|target| target.weight as f32);
    let first = weights().next().unwrap_or(1.0);
    let alike = !vary && weights().all(|weight| weight == first);
    let common_weight = alike.then_some(first);
    let (others, slope) = match table.non_target() {
        NonTarget::Uniform { slope } if !smooths || common_weight.is_some() => {
            (Vec::new(), log2(*slope))
        }
        NonTarget::Uniform { .. } | NonTarget::PerClass(_) => {
            let map = |class| table.affine(class);
            let maps = (0..table.classes()).map(|class| AlaAffine {
                slope: log2(map(class).slope),
                bias: log2(map(class).bias - reference),
            });
            (maps.collect(), 0.0)
        }
    };
    let weighed = others
        .iter()
        .zip(weights())
        .map(|(map, weight)| AlaWeighed {
            slope: map.slope,
            bias: map.bias,
            weight,
            slope_weight: map.slope * weight,
        })
        .collect();
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
        weighed,
        exact,
        slope,
        weighted: vary || table.targets().iter().any(|target| target.weight != 1.0),
        all_classes: AlaClasses {
            // Of the weights that the kernels have.
            total_weight: weights().map(f64::from).sum(),
            common_weight: common_weight.unwrap_or(0.0),
            reserved: 0.0,
        },
    }
}
