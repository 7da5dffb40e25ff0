//! What a step was given: whether all ranks were given the same, and what it was asked for.

use ala_loss::{Divisor, Label, Options, Real, Upstream};

use crate::digest::Digest;

/// Of the numbers, whatever type they are of.
pub(crate) fn labels_digest<L: Label>(labels: &[L]) -> u64 {
    let mut digest = Digest::new();
    for label in labels {
        let value = label.value();
        digest.word(value as u64);
        // Of 64-bit labels only the sign.
        digest.word((value >> 64) as u64);
    }
    digest.value()
}

/// Of all but the stride, which is of each rank's own logits. What options hold nobody outside of
/// their crate can read; their `Debug` shows all of it, and is written without an allocation.
pub(crate) fn options_digest<R: Real>(options: &Options<'_, R>) -> u64 {
    let mut digest = Digest::new();
    digest.shown(&options.stride(0));
    digest.value()
}

/// Which of the owned results that are made on request were asked for.
pub(crate) struct Asked {
    pub(crate) hits: bool,
    pub(crate) predictions: bool,
}

impl Asked {
    pub(crate) fn of<R: Real>(options: &Options<'_, R>) -> Self {
        // Asking again changes options that did not ask. Without the numbers that may be NaN, which
        // equal nothing; what else they hold was checked.
        let plain = options.upstream(Upstream::One).gradient_scale(1.0);
        let plain = plain.divisor(Divisor::Weights);
        Self {
            hits: plain.hits() == plain,
            predictions: plain.predictions() == plain,
        }
    }
}
