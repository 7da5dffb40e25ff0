//! The methods compared: an objective and the head it is made for, with what can be set of it.

use ala_loss::{Ala, ClassCounts, DifficultyGradient, Error, Loss, Objective, QuantityLog};
use clap::ValueEnum;

/// Weight of easy samples in the focal loss, the value of its paper.
const FOCAL_GAMMA: f64 = 2.0;
/// The rarest class's margin in LDAM, the value of its paper.
const LDAM_MAX_MARGIN: f64 = 0.5;
/// Balanced Softmax.
const UNTUNED_TAU: f64 = 1.0;

/// The logit scales that a sweep tries.
pub(crate) const SCALES: [f64; 4] = [10.0, 20.0, 30.0, 40.0];
/// The weights of the class frequencies that a sweep tries.
pub(crate) const TAUS: [f64; 4] = [0.5, 1.0, 1.5, 2.0];

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

    /// Whether its margin has the quantity factor, whose logarithm's base is a choice.
    fn has_quantity_factor(self) -> bool {
        matches!(self, Self::QuantityOnly | Self::Ala | Self::AlaAttached)
    }

    /// With what its papers or this crate take where nothing is chosen; `scale` is for cosine
    /// heads, linear logits are taken as they are.
    pub(crate) fn untuned(self, scale: f64) -> Setting {
        Setting {
            method: self,
            scale: match self.head() {
                Head::Linear => 1.0,
                Head::Cosine => scale,
            },
            log: QuantityLog::default(),
            tau: UNTUNED_TAU,
        }
    }

    /// What a sweep tries, the settings that are nearest to the untuned one first.
    pub(crate) fn candidates(self, scale: f64) -> Vec<Setting> {
        let untuned = self.untuned(scale);
        let mut candidates = vec![untuned];
        let scales = match self.head() {
            Head::Linear => vec![untuned.scale],
            Head::Cosine => SCALES.to_vec(),
        };
        let logs = match self.has_quantity_factor() {
            true => vec![QuantityLog::Base2, QuantityLog::Natural],
            false => vec![untuned.log],
        };
        let taus = match self {
            Self::BalancedSoftmax => TAUS.to_vec(),
            _ => vec![untuned.tau],
        };
        for &tau in &taus {
            for &log in &logs {
                for &scale in &scales {
                    let setting = Setting {
                        scale,
                        log,
                        tau,
                        ..untuned
                    };
                    if setting != untuned {
                        candidates.push(setting);
                    }
                }
            }
        }
        candidates
    }
}

/// A method and what is set of it; what it does not have is as in [`Method::untuned`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Setting {
    pub(crate) method: Method,
    pub(crate) scale: f64,
    pub(crate) log: QuantityLog,
    /// The weight of the class frequencies' logarithms: 1 is Balanced Softmax, another one logit
    /// adjustment as a loss.
    pub(crate) tau: f64,
}

impl Setting {
    pub(crate) fn loss(self, counts: &ClassCounts, label_smoothing: f64) -> Result<Loss, Error> {
        let objective = match self.method {
            Method::CrossEntropy | Method::CrossEntropyCosine => Objective::CrossEntropy,
            Method::Focal => Objective::Focal { gamma: FOCAL_GAMMA },
            Method::Ldam => Objective::Ldam {
                max_margin: LDAM_MAX_MARGIN,
            },
            Method::QuantityOnly => Objective::QuantityOnly { log: self.log },
            Method::Ala => Objective::Ala(Ala {
                log: self.log,
                ..Ala::default()
            }),
            Method::AlaAttached => Objective::Ala(Ala {
                log: self.log,
                gradient: DifficultyGradient::Attached,
                ..Ala::default()
            }),
            Method::BalancedSoftmax if self.tau == UNTUNED_TAU => Objective::BalancedSoftmax,
            Method::BalancedSoftmax => Objective::LogitAdjustment { tau: self.tau },
        };
        Loss::builder(objective, counts)
            .scale(self.scale)
            .label_smoothing(label_smoothing)
            .build()
    }

    /// What can be set of its method, as a table shows it; nothing where nothing can.
    pub(crate) fn shown(self) -> String {
        let mut parts = Vec::new();
        if self.method.head() == Head::Cosine {
            parts.push(format!("s {}", self.scale));
        }
        if self.method.has_quantity_factor() {
            parts.push(self.log_name().to_owned());
        }
        if self.method == Method::BalancedSoftmax {
            parts.push(format!("tau {}", self.tau));
        }
        parts.join(", ")
    }

    /// The method's name and what can be set of it.
    pub(crate) fn named(self) -> String {
        match self.shown() {
            shown if shown.is_empty() => self.method.name().to_owned(),
            shown => format!("{} ({shown})", self.method.name()),
        }
    }

    fn log_name(self) -> &'static str {
        match self.log {
            QuantityLog::Base2 => "log2",
            QuantityLog::Natural => "ln",
        }
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
            let loss = method.untuned(16.0).loss(&counts, 0.0);
            let loss = loss.expect("16 is a valid scale");
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
            let smoothed = method.untuned(16.0).loss(&counts, 0.1);
            assert_eq!(
                smoothed.is_ok(),
                method.has_smoothing(),
                "{}",
                method.name()
            );
            assert!(smoothed.map_or(true, |loss| loss.label_smoothing() == 0.1));
        }
    }

    /// As many as the grid of what each method has, the untuned one first, and no two the same
    /// loss.
    #[test]
    fn candidates_differ_in_what_their_method_has() {
        let counts = ClassCounts::new(vec![100, 10]).expect("both counts are positive");
        for (method, expected) in [
            (Method::CrossEntropy, 1),
            (Method::CrossEntropyCosine, 4),
            (Method::Focal, 1),
            (Method::Ldam, 4),
            (Method::QuantityOnly, 8),
            (Method::Ala, 8),
            (Method::AlaAttached, 8),
            (Method::BalancedSoftmax, 4),
        ] {
            let candidates = method.candidates(30.0);
            assert_eq!(candidates[0], method.untuned(30.0));
            assert_eq!(candidates.len(), expected, "{}", method.name());
            // A scale that is not in the grid is tried as well.
            let more = usize::from(method.head() == Head::Cosine);
            assert_eq!(method.candidates(16.0).len(), expected + more);
            let values: Vec<f64> = candidates
                .iter()
                .map(|setting| {
                    let loss = setting.loss(&counts, 0.0).expect("valid");
                    loss.evaluate(&[0.3f32, 0.5], &[1]).expect("valid").loss
                })
                .collect();
            for (index, value) in values.iter().enumerate() {
                let earlier = &values[..index];
                assert!(!earlier.contains(value), "{}: {values:?}", method.name());
            }
        }
    }

    #[test]
    fn a_setting_shows_what_its_method_has() {
        let shown = |method: Method| method.untuned(30.0).shown();
        assert_eq!(shown(Method::CrossEntropy), "");
        assert_eq!(shown(Method::Ldam), "s 30");
        assert_eq!(shown(Method::Ala), "s 30, log2");
        assert_eq!(shown(Method::BalancedSoftmax), "tau 1");
    }
}
