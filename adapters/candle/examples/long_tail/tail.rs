//! A long tail drawn from samples, and validation samples held out of them.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::data::{DataError, Samples};

/// Of the seeded generator. Stream 0 draws the long tail, 1 the weights, 2 the batches, 3 mixup's
/// draws, 4 the augmentation.
const VALIDATION_STREAM: u64 = 5;

/// Exponential profile, most frequent class first: `n_i = max * imbalance^(-i / (classes - 1))`,
/// rounded, at least 1.
///
/// Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples", section 5.1.
/// `imbalance` is the ratio of the largest to the smallest class and at least 1.
pub(crate) fn long_tailed_counts(max: usize, imbalance: f64, classes: usize) -> Vec<usize> {
    let steps = classes.saturating_sub(1).max(1) as f64;
    (0..classes)
        .map(|i| {
            let count = max as f64 * imbalance.powf(-(i as f64) / steps);
            (count.round() as usize).max(1)
        })
        .collect()
}

/// Thins `train` out to the profile of [`long_tailed_counts`] that begins as high as the classes'
/// sizes allow: balanced classes, at their size.
///
/// The seed draws which class is how rare, then which samples of each class stay; they keep their
/// order. A class too small for its place takes a rarer one. One seed gives the same draw on every
/// platform, and with balanced classes a larger imbalance ratio gives a subset of the same samples.
/// The second value is how many samples each class keeps, by class index.
pub(crate) fn long_tailed(
    train: &Samples,
    imbalance: f64,
    seed: u64,
) -> Result<(Samples, Vec<u64>), DataError> {
    if !imbalance.is_finite() || imbalance < 1.0 {
        return Err(DataError::Imbalance { imbalance });
    }
    let mut rows_of_class = rows_of_class(train);
    let sizes: Vec<usize> = rows_of_class.iter().map(Vec::len).collect();

    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut ranks: Vec<usize> = (0..train.classes).collect();
    ranks.shuffle(&mut rng);
    let counts = counts_of_classes(&sizes, imbalance, &ranks);

    let mut kept = Vec::with_capacity(counts.iter().sum());
    for (rows, &count) in rows_of_class.iter_mut().zip(&counts) {
        // A full shuffle even for a few rows: what a class draws must not depend on how many
        // another keeps.
        rows.shuffle(&mut rng);
        kept.extend_from_slice(&rows[..count]);
    }
    kept.sort_unstable();
    let counts = counts.into_iter().map(|n| n as u64).collect();
    Ok((train.select(&kept), counts))
}

/// How many samples each class keeps of `sizes`, if `ranks` says which place of the profile it
/// drew.
fn counts_of_classes(sizes: &[usize], imbalance: f64, ranks: &[usize]) -> Vec<usize> {
    let classes = sizes.len();
    let mut largest_first = sizes.to_vec();
    largest_first.sort_unstable_by(|a, b| b.cmp(a));
    let highest = largest_first.first().copied().unwrap_or(0);
    let profile = (1..=highest)
        .rev()
        .map(|max| long_tailed_counts(max, imbalance, classes))
        .find(|profile| {
            profile
                .iter()
                .zip(&largest_first)
                .all(|(n, size)| n <= size)
        })
        .unwrap_or_default();

    let mut waiting: Vec<usize> = (0..classes).collect();
    waiting.sort_unstable_by_key(|&class| ranks[class]);
    let mut counts = vec![0; classes];
    for count in profile {
        // There is one: the classes that are large enough for this count are at least as many as
        // the counts up to it, and what came before took no more than one each.
        if let Some(next) = waiting.iter().position(|&class| sizes[class] >= count) {
            counts[waiting.remove(next)] = count;
        }
    }
    counts
}

/// Takes `per_class` samples of each class, which the seed draws, out of `train`: what is left, and
/// what was taken.
pub(crate) fn held_out(
    train: &Samples,
    per_class: usize,
    seed: u64,
) -> Result<(Samples, Samples), DataError> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(VALIDATION_STREAM);
    let mut taken = Vec::with_capacity(per_class * train.classes);
    let mut left = Vec::with_capacity(train.labels.len());
    for (class, mut rows) in rows_of_class(train).into_iter().enumerate() {
        if rows.len() <= per_class {
            return Err(DataError::HeldOut {
                class,
                samples: rows.len(),
                needed: per_class + 1,
            });
        }
        rows.shuffle(&mut rng);
        taken.extend_from_slice(&rows[..per_class]);
        left.extend_from_slice(&rows[per_class..]);
    }
    taken.sort_unstable();
    left.sort_unstable();
    Ok((train.select(&left), train.select(&taken)))
}

/// Samples of the class that has the fewest.
pub(crate) fn smallest_class(samples: &Samples) -> usize {
    rows_of_class(samples)
        .iter()
        .map(Vec::len)
        .min()
        .unwrap_or(0)
}

/// The rows of each class, by class index.
fn rows_of_class(samples: &Samples) -> Vec<Vec<usize>> {
    let mut rows = vec![Vec::new(); samples.classes];
    for (row, &label) in samples.labels.iter().enumerate() {
        rows[label as usize].push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    type TestResult = Result<(), Box<dyn Error>>;

    #[test]
    fn long_tailed_profile_falls_from_max_by_the_imbalance_ratio() {
        // 2000 * 100^(-i/9), as Python rounds it.
        assert_eq!(
            long_tailed_counts(2000, 100.0, 10),
            [2000, 1199, 719, 431, 258, 155, 93, 56, 33, 20]
        );
        assert_eq!(long_tailed_counts(2000, 1.0, 3), [2000, 2000, 2000]);
        assert_eq!(long_tailed_counts(10, 1e9, 3), [10, 1, 1]);
        assert_eq!(long_tailed_counts(7, 100.0, 1), [7]);
        assert!(long_tailed_counts(7, 100.0, 0).is_empty());
    }

    /// 100 samples of each of 10 classes; the feature is the row.
    fn balanced() -> Samples {
        Samples {
            features: (0..1000_u16).map(f32::from).collect(),
            width: 1,
            labels: (0..1000).map(|row| row % 10).collect(),
            classes: 10,
        }
    }

    #[test]
    fn long_tailed_keeps_the_counted_samples_with_their_labels() -> TestResult {
        let (samples, counts) = long_tailed(&balanced(), 50.0, 3)?;
        let sizes: Vec<_> = rows_of_class(&samples).iter().map(Vec::len).collect();
        assert!(
            sizes
                .iter()
                .zip(&counts)
                .all(|(&size, &n)| size as u64 == n)
        );
        let mut profile: Vec<_> = counts.iter().map(|&n| n as usize).collect();
        profile.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(profile, long_tailed_counts(100, 50.0, 10));
        assert!(samples.features.is_sorted_by(|a, b| a < b));
        for (&feature, &label) in samples.features.iter().zip(&samples.labels) {
            assert_eq!(feature as u32 % 10, label);
        }
        Ok(())
    }

    /// The profile 61, 35, 20 fits sizes of 35, 90 and 20 in one way alone, whatever was drawn; one
    /// that begins at 62 ends at 21, and fits in none.
    #[test]
    fn the_profile_begins_as_high_as_the_sizes_allow() {
        for ranks in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
            assert_eq!(counts_of_classes(&[35, 90, 20], 3.0, &ranks), [35, 61, 20]);
        }
        assert_eq!(counts_of_classes(&[50, 50], 1.0, &[1, 0]), [50, 50]);
        assert!(counts_of_classes(&[], 3.0, &[]).is_empty());
    }

    /// Whatever the sizes and the draw, no class is asked for more than it has, all places are
    /// taken, and a class that is large enough keeps the place that it drew.
    #[test]
    fn a_class_too_small_for_its_place_takes_a_rarer_one() {
        for seed in 0..200 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut sizes: Vec<usize> = (15..55).map(|i| i.min(45)).collect();
            let mut ranks: Vec<usize> = (0..sizes.len()).collect();
            sizes.shuffle(&mut rng);
            ranks.shuffle(&mut rng);
            let counts = counts_of_classes(&sizes, 40.0, &ranks);
            assert!(
                counts
                    .iter()
                    .zip(&sizes)
                    .all(|(n, size)| (1..=*size).contains(n))
            );
            let mut profile = counts.clone();
            profile.sort_unstable_by(|a, b| b.cmp(a));
            assert_eq!(profile, long_tailed_counts(profile[0], 40.0, sizes.len()));
            let first = ranks
                .iter()
                .position(|&rank| rank == 0)
                .expect("one has it");
            if sizes[first] >= profile[0] {
                assert_eq!(counts[first], profile[0]);
            }
        }
    }

    #[test]
    fn held_out_samples_are_as_many_of_each_class_and_no_longer_there() -> TestResult {
        let train = balanced();
        let (left, taken) = held_out(&train, 7, 1)?;
        let of_class = |samples: &Samples, class: u32| {
            samples
                .labels
                .iter()
                .filter(|&&label| label == class)
                .count()
        };
        for class in 0..10 {
            assert_eq!((of_class(&left, class), of_class(&taken, class)), (93, 7));
        }
        let mut all = [left.features, taken.features.clone()].concat();
        all.sort_by(f32::total_cmp);
        assert_eq!(all, train.features);
        for (&feature, &label) in taken.features.iter().zip(&taken.labels) {
            assert_eq!(feature as u32 % 10, label);
        }
        assert!(held_out(&train, 7, 1)?.1.features == taken.features);
        assert!(held_out(&train, 7, 2)?.1.features != taken.features);
        let error = held_out(&train, 100, 0).expect_err("none would be left");
        let message = "class 0 has 100 training samples, a sweep needs 101: it holds some out";
        assert_eq!(error.to_string(), message);
        Ok(())
    }

    #[test]
    fn a_seed_gives_one_draw_and_another_seed_other_rare_classes() -> TestResult {
        let train = balanced();
        let draws: Vec<_> = (0..5)
            .map(|seed| long_tailed(&train, 50.0, seed))
            .collect::<Result<_, _>>()?;
        assert!(draws[0] == long_tailed(&train, 50.0, 0)?);
        for (i, draw) in draws.iter().enumerate() {
            for other in &draws[..i] {
                assert_ne!(draw.1, other.1);
            }
        }
        Ok(())
    }

    #[test]
    fn a_larger_imbalance_keeps_a_subset() -> TestResult {
        let (many, _) = long_tailed(&balanced(), 10.0, 7)?;
        let (few, _) = long_tailed(&balanced(), 100.0, 7)?;
        assert!(few.features.iter().all(|x| many.features.contains(x)));
        Ok(())
    }

    #[test]
    fn the_draw_of_a_seed_does_not_change() -> TestResult {
        // Pinned: another generator, or another use of it, would change published results in
        // silence.
        let (samples, counts) = long_tailed(&balanced(), 50.0, 0)?;
        assert_eq!(counts, [42, 3, 7, 65, 2, 11, 5, 18, 100, 27]);
        assert_eq!(samples.features[..8], [3., 5., 8., 10., 13., 18., 28., 29.]);
        Ok(())
    }

    #[test]
    fn an_imbalance_ratio_below_1_or_not_finite_is_refused() -> TestResult {
        for imbalance in [0.0, 0.999, -100.0, f64::NAN, f64::INFINITY] {
            let Err(error) = long_tailed(&balanced(), imbalance, 0) else {
                return Err(format!("{imbalance} was accepted").into());
            };
            assert_eq!(
                error.to_string(),
                format!("imbalance ratio {imbalance}, allowed are finite numbers from 1")
            );
        }
        Ok(())
    }
}
