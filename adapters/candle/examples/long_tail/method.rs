//! The methods compared: an objective and the head it is made for.

use ala_loss::{Ala, ClassCounts, DifficultyGradient, Error, Loss, Objective, QuantityLog};
use clap::ValueEnum;

/// Weight of easy samples in the focal loss, the value of its paper.
const FOCAL_GAMMA: f64 = 2.0;
/// The rarest class's margin in LDAM, the value of its paper.
const LDAM_MAX_MARGIN: f64 = 0.5;

/// A method of the comparison, under its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub(crate) enum Method {
    /// Cross-entropy, linear head: the baseline
    #[value(name = "ce")]
    CrossEntropy,
    /// Cross-entropy on scaled cosines, cosine head
    #[value(name = "ce-cosine")]
    CrossEntropyCosine,
    /// Focal loss with gamma 2, linear head
    Focal,
    /// LDAM with largest margin 0.5 and no deferred re-weighting, cosine head
    Ldam,
    /// ALA's quantity factor alone, cosine head
    QuantityOnly,
    /// ALA with the difficulty factor detached (the crate's default), cosine head
    Ala,
    /// ALA with the gradient through the difficulty factor, cosine head
    AlaAttached,
    /// Balanced Softmax, linear head (as in its paper)
    BalancedSoftmax,
}

/// The classifier on top of the features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// Weight and bias.
    Linear,
    /// Normalised features times normalised weights; its output is not scaled, the loss does that.
    Cosine,
}

impl Method {
    /// The name on the command line, in the table and in the JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::CrossEntropy => "ce",
            Self::CrossEntropyCosine => "ce-cosine",
            Self::Focal => "focal",
            Self::Ldam => "ldam",
            Self::QuantityOnly => "quantity-only",
            Self::Ala => "ala",
            Self::AlaAttached => "ala-attached",
            Self::BalancedSoftmax => "balanced-softmax",
        }
    }

    pub(crate) fn head(self) -> Head {
        match self {
            Self::CrossEntropy | Self::Focal | Self::BalancedSoftmax => Head::Linear,
            Self::CrossEntropyCosine
            | Self::Ldam
            | Self::QuantityOnly
            | Self::Ala
            | Self::AlaAttached => Head::Cosine,
        }
    }

    /// Whether its loss is defined for a smoothed label.
    pub(crate) fn has_smoothing(self) -> bool {
        self != Self::Focal
    }

    /// The loss for these counts; `scale` is for cosine heads, linear logits are taken as they are.
    pub(crate) fn loss(
        self,
        counts: &ClassCounts,
        scale: f64,
        label_smoothing: f64,
    ) -> Result<Loss, Error> {
        let objective = match self {
            Self::CrossEntropy | Self::CrossEntropyCosine => Objective::CrossEntropy,
            Self::Focal => Objective::Focal { gamma: FOCAL_GAMMA },
            Self::Ldam => Objective::Ldam {
                max_margin: LDAM_MAX_MARGIN,
            },
            Self::QuantityOnly => Objective::QuantityOnly {
                log: QuantityLog::Base2,
            },
            Self::Ala => Objective::ala(),
            Self::AlaAttached => Objective::Ala(Ala {
                gradient: DifficultyGradient::Attached,
                ..Ala::default()
            }),
            Self::BalancedSoftmax => Objective::BalancedSoftmax,
        };
        let scale = match self.head() {
            Head::Linear => 1.0,
            Head::Cosine => scale,
        };
        Loss::builder(objective, counts)
            .scale(scale)
            .label_smoothing(label_smoothing)
            .build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_command_line() {
        for &method in Method::value_variants() {
            let value = method.to_possible_value().expect("no method is hidden");
            assert_eq!(value.get_name(), method.name());
        }
    }

    #[test]
    fn only_cosine_heads_are_scaled() {
        let counts = ClassCounts::new(vec![100, 10]).expect("both counts are positive");
        for &method in Method::value_variants() {
            let loss = method
                .loss(&counts, 16.0, 0.0)
                .expect("16 is a valid scale");
            let expected = match method.head() {
                Head::Linear => 1.0,
                Head::Cosine => 16.0,
            };
            assert_eq!(loss.scale(), Some(expected), "{}", method.name());
        }
    }

    #[test]
    fn the_losses_agree_on_which_of_them_can_be_smoothed() {
        let counts = ClassCounts::new(vec![100, 10]).expect("both counts are positive");
        for &method in Method::value_variants() {
            let smoothed = method.loss(&counts, 16.0, 0.1);
            assert_eq!(
                smoothed.is_ok(),
                method.has_smoothing(),
                "{}",
                method.name()
            );
            assert!(smoothed.map_or(true, |loss| loss.label_smoothing() == 0.1));
        }
    }
}
