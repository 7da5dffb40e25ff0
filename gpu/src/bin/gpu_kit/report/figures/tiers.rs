//! What the crate's choice of kernel and launch shape loses against the best.

use ala_loss_gpu::record::{Kind, Line, Tier};

use super::{of_kind, place};

/// Of one batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice<'a> {
    /// The crate's own.
    pub(crate) own: &'a Tier,
    /// The fastest.
    pub(crate) best: &'a Tier,
    /// The best of the other tiers, where one was timed.
    pub(crate) other: Option<&'a Tier>,
}

/// By kind, type and classes.
pub(crate) fn choices(lines: &[Line]) -> Vec<Choice<'_>> {
    let mut tiers: Vec<&Tier> = of_kind!(lines, Tier)
        .filter(|tier| tier.device_us.is_some())
        .collect();
    let key = |tier: &Tier| {
        (
            tier.batch == Kind::Large,
            place(&tier.dtype),
            tier.c,
            tier.n,
        )
    };
    tiers.sort_by_key(|tier| key(tier));
    let batches = tiers.chunk_by(|a, b| key(a) == key(b));
    let choices = batches.filter_map(|tiers| {
        let own = tiers.iter().rfind(|tier| tier.own).copied()?;
        Some(Choice {
            own,
            best: fastest(tiers.iter().copied())?,
            other: fastest(tiers.iter().copied().filter(|tier| tier.tier != own.tier)),
        })
    });
    choices.collect()
}

fn fastest<'a>(tiers: impl Iterator<Item = &'a Tier>) -> Option<&'a Tier> {
    tiers.min_by(|a, b| median(a).total_cmp(&median(b)))
}

/// The worst first.
pub(crate) fn worst(mut choices: Vec<Choice<'_>>) -> Vec<Choice<'_>> {
    choices.sort_by(|a, b| b.regret().total_cmp(&a.regret()));
    choices
}

/// Microseconds.
pub(crate) fn median(tier: &Tier) -> f64 {
    tier.device_us.map_or(f64::INFINITY, |us| us.median)
}

/// A tier and its launch shape, for a person.
pub(crate) fn shape(tier: &Tier) -> String {
    let parts = match tier.parts {
        1 => String::new(),
        parts => format!(" / {parts} parts"),
    };
    format!(
        "{} {}x{}{parts}",
        tier.tier, tier.threads, tier.blocks_per_multiprocessor
    )
}

impl Choice<'_> {
    /// What the own choice takes more than the best, in per cent.
    pub(crate) fn regret(&self) -> f64 {
        100.0 * (median(self.own) / median(self.best) - 1.0)
    }

    /// Whether another tier than the own wins.
    pub(crate) fn other_wins(&self) -> bool {
        self.best.tier != self.own.tier
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::samples::tier;
    use super::*;

    #[test]
    fn regret_is_against_the_fastest_of_all_shapes() {
        let lines = [
            tier(10, "packed", 128, true, 12.0),
            tier(10, "packed", 64, false, 10.0),
            tier(10, "row", 64, false, 11.0),
            tier(20, "packed", 128, true, 12.0),
            tier(20, "row", 32, false, 8.0),
        ];
        let choices = choices(&lines);
        let [first, second] = &choices[..] else {
            panic!("{choices:?}")
        };
        assert!((first.regret() - 20.0).abs() < 1e-9);
        assert!(!first.other_wins());
        assert_eq!(first.other.map(shape).as_deref(), Some("row 64x2"));
        assert!((second.regret() - 50.0).abs() < 1e-9);
        assert!(second.other_wins());
        let worst: Vec<_> = worst(choices).iter().map(|choice| choice.own.c).collect();
        assert_eq!(worst, [20, 10]);
    }
}
