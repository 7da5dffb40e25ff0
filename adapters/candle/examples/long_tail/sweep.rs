//! Choosing what can be set of a method, on validation samples.

use crate::Failure;
use crate::method::{Method, Setting};
use crate::report::{self, Trial};
use crate::task::{Measured, Tasks};
use crate::training::Recipe;
use crate::trials;

/// What was tried and what was chosen.
pub(crate) struct Sweep {
    pub(crate) candidates: Vec<Setting>,
    /// Of every candidate, on validation samples.
    pub(crate) tried: Vec<Trial>,
    /// One of each method.
    pub(crate) chosen: Vec<Setting>,
}

/// Trains every candidate of the methods with every seed.
pub(crate) fn run(
    tasks: &Tasks,
    methods: &[Method],
    scale: f64,
    seeds: u64,
    recipe: Recipe,
) -> Result<Sweep, Failure> {
    let of_method = methods.iter().map(|method| method.candidates(scale));
    let candidates: Vec<Setting> = of_method.flatten().collect();
    let tried = trials::run(tasks, Measured::Validation, &candidates, seeds, recipe)?;
    let chosen = methods
        .iter()
        .map(|method| best(&tried, &method.candidates(scale)))
        .collect();
    Ok(Sweep {
        candidates,
        tried,
        chosen,
    })
}

impl Sweep {
    /// Of each method the untuned setting, then the chosen one where that is another.
    pub(crate) fn to_test(&self, scale: f64) -> Vec<Setting> {
        let mut settings = Vec::new();
        for &chosen in &self.chosen {
            let untuned = chosen.method.untuned(scale);
            settings.push(untuned);
            if chosen != untuned {
                settings.push(chosen);
            }
        }
        settings
    }
}

/// The candidate with the largest mean accuracy; among equal ones the first, so the untuned one
/// before all others.
fn best(tried: &[Trial], candidates: &[Setting]) -> Setting {
    let mean = |setting: Setting| {
        let values = report::overall(tried, setting);
        values.iter().sum::<f64>() / values.len() as f64
    };
    let mut best = candidates[0];
    for &candidate in &candidates[1..] {
        if mean(candidate) > mean(best) {
            best = candidate;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_mean_is_chosen_and_the_untuned_setting_where_it_is_as_good() {
        let candidates = Method::BalancedSoftmax.candidates(30.0);
        let tried = |means: [f64; 4]| -> Vec<Trial> {
            let of_seed = |seed: u64, off: f64| {
                let settings = candidates.iter().zip(means);
                settings.map(move |(&setting, mean)| Trial::of_test(setting, seed, mean + off))
            };
            of_seed(0, 10.0).chain(of_seed(1, -10.0)).collect()
        };
        let chosen = |means: [f64; 4]| best(&tried(means), &candidates);
        assert_eq!(chosen([50.0, 52.0, 51.0, 49.0]), candidates[1]);
        assert_eq!(chosen([50.0, 50.0, 50.0, 50.0]), candidates[0]);
        assert_eq!(chosen([50.0, 50.0, 50.0, 50.5]), candidates[3]);

        let sweep = Sweep {
            candidates: Vec::new(),
            tried: Vec::new(),
            chosen: vec![Method::Ala.untuned(30.0), candidates[2]],
        };
        let expected = [Method::Ala.untuned(30.0), candidates[0], candidates[2]];
        assert_eq!(sweep.to_test(30.0), expected);
    }
}
