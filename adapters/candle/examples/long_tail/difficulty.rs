//! Accuracy against difficulty: how hard a test sample is, the target's cosine says under
//! cross-entropy, whatever method is measured.

use crate::method::Method;
use crate::report::Trial;

/// Parts of equal size into which difficulty cuts the test samples.
pub(crate) const FIFTHS: usize = 5;

/// Fills in the accuracy of each fifth. How hard a sample is says, for all methods of a seed,
/// `ce-cosine` of that seed: it has no margin. Without it nothing is filled in.
pub(crate) fn fill(trials: &mut [Trial]) {
    let found: Vec<_> = trials
        .iter()
        .map(|trial| {
            let cosines = judge(trials, trial.seed)?.target_cosines.as_ref()?;
            by_fifth(cosines, &trial.hits)
        })
        .collect();
    for (trial, found) in trials.iter_mut().zip(found) {
        trial.by_difficulty = found;
    }
}

/// Who says how hard the samples of a seed are.
pub(crate) fn judge(trials: &[Trial], seed: u64) -> Option<&Trial> {
    trials
        .iter()
        .find(|trial| trial.seed == seed && trial.setting.method == Method::CrossEntropyCosine)
}

/// Accuracy in per cent of each fifth, that of the smallest cosines first; equal ones in their
/// order. `None` for fewer samples than fifths.
fn by_fifth(cosines: &[f32], hits: &[bool]) -> Option<[f64; FIFTHS]> {
    let samples = cosines.len();
    if samples < FIFTHS {
        return None;
    }
    let mut hardest_first: Vec<usize> = (0..samples).collect();
    hardest_first.sort_by(|&a, &b| cosines[a].total_cmp(&cosines[b]));
    Some(std::array::from_fn(|fifth| {
        let of_fifth = &hardest_first[fifth * samples / FIFTHS..(fifth + 1) * samples / FIFTHS];
        let hits = of_fifth.iter().filter(|&&sample| hits[sample]).count();
        100.0 * hits as f64 / of_fifth.len() as f64
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_cosines_are_the_hardest() {
        let cosines = [0.9, -0.5, 0.1, 0.3, 0.2, 0.8, 0.7, 0.6, 0.5, 0.4, -0.9];
        let mut hits = [true; 11];
        // The hardest two, and one of the easiest three.
        for miss in [1, 10, 0] {
            hits[miss] = false;
        }
        let found = by_fifth(&cosines, &hits).expect("there are eleven");
        assert_eq!(found[..4], [0.0, 100.0, 100.0, 100.0]);
        assert!((found[4] - 200.0 / 3.0).abs() < 1e-9, "{found:?}");
        assert_eq!(by_fifth(&cosines[..4], &hits[..4]), None);
    }

    #[test]
    fn each_seed_is_judged_by_its_own_cross_entropy() {
        let trial = |method: Method, seed: u64, cosines: Option<[f32; 5]>, hits: [bool; 5]| {
            let mut trial = Trial::of_test(method.untuned(30.0), seed, 0.0);
            trial.target_cosines = cosines.map(|cosines| cosines.to_vec());
            trial.hits = hits.to_vec();
            trial
        };
        let rising = [0.1, 0.2, 0.3, 0.4, 0.5];
        let falling = [0.5, 0.4, 0.3, 0.2, 0.1];
        let first = [true, false, false, false, false];
        let mut trials = vec![
            trial(Method::Ala, 0, Some(falling), first),
            trial(Method::CrossEntropyCosine, 0, Some(rising), first),
            trial(Method::CrossEntropyCosine, 1, Some(falling), first),
            trial(Method::CrossEntropy, 1, None, first),
            trial(Method::Ala, 2, Some(rising), first),
        ];
        fill(&mut trials);
        let found: Vec<_> = trials.iter().map(|trial| trial.by_difficulty).collect();
        let (hardest, easiest) = ([100.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 100.0]);
        assert_eq!(
            found,
            [
                Some(hardest),
                Some(hardest),
                Some(easiest),
                Some(easiest),
                None
            ]
        );
    }
}
