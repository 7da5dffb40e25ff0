//! What a seed trains and tests on.

use ala_loss::{ClassCounts, GroupThresholds, ZeroCounts};
use candle_core::{Device, Tensor};

use crate::Failure;
use crate::data::{self, Samples};
use crate::model::HIDDEN;
use crate::options::{Options, Source};

/// Training and test samples of one seed.
#[derive(Clone)]
pub(crate) struct Task {
    /// `[N, width]`
    pub(crate) train: Tensor,
    /// `[N]`, u32
    pub(crate) train_labels: Tensor,
    /// `[M, width]`
    pub(crate) test: Tensor,
    pub(crate) test_labels: Vec<u32>,
    pub(crate) counts: ClassCounts,
    pub(crate) groups: Groups,
    /// Widths of the hidden layers; none where the samples are extracted features.
    pub(crate) hidden: &'static [usize],
}

/// Makes the task of each seed.
pub(crate) enum Tasks {
    /// Images of which each seed keeps a long tail.
    Images {
        pool: Samples,
        test: Tensor,
        test_labels: Vec<u32>,
        imbalance: f64,
    },
    /// The user's own features, the same for every seed.
    Features(Box<Task>),
}

impl Tasks {
    /// Reads the samples that the options name, and puts tensors on the device.
    pub(crate) fn load(options: &Options, device: &Device) -> Result<Self, Failure> {
        let split = match options.source() {
            Source::Embedded => data::embedded()?,
            Source::Idx(folder) => data::from_idx_dir(&folder, options.first_label)?,
            Source::Features {
                train,
                train_labels,
                test,
                test_labels,
            } => {
                let split = data::from_npy(
                    &train,
                    &train_labels,
                    &test,
                    &test_labels,
                    options.first_label,
                )?;
                let counts = ClassCounts::from_labels(
                    &split.train.labels,
                    split.train.classes,
                    ZeroCounts::Reject,
                )?;
                return Ok(Self::Features(Box::new(Task {
                    train_labels: labels(&split.train, device)?,
                    train: features(split.train, device)?,
                    test_labels: split.test.labels.clone(),
                    test: features(split.test, device)?,
                    counts,
                    groups: Groups::FIELD,
                    hidden: &[],
                })));
            }
        };
        Ok(Self::Images {
            pool: split.train,
            test_labels: split.test.labels.clone(),
            test: features(split.test, device)?,
            imbalance: options.imbalance,
        })
    }

    /// Where the tasks' tensors are.
    pub(crate) fn device(&self) -> &Device {
        match self {
            Self::Images { test, .. } => test.device(),
            Self::Features(task) => task.test.device(),
        }
    }

    /// The task of one seed: the same for every method.
    pub(crate) fn of_seed(&self, seed: u64) -> Result<Task, Failure> {
        match self {
            Self::Features(task) => Ok(Task::clone(task)),
            Self::Images {
                pool,
                test,
                test_labels,
                imbalance,
            } => {
                let (train, counts) = data::long_tailed(pool, *imbalance, seed)?;
                let groups = Groups::by_rank(&counts);
                Ok(Task {
                    train_labels: labels(&train, test.device())?,
                    train: features(train, test.device())?,
                    test: test.clone(),
                    test_labels: test_labels.clone(),
                    counts: ClassCounts::new(counts)?,
                    groups,
                    hidden: &HIDDEN,
                })
            }
        }
    }
}

/// The counts that divide classes into many, medium and few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Groups {
    /// Many: classes with more samples than this.
    pub(crate) many_over: u64,
    /// Few: classes with fewer.
    pub(crate) few_under: u64,
}

impl Groups {
    /// The division that long-tail papers use.
    pub(crate) const FIELD: Self = Self {
        many_over: 100,
        few_under: 20,
    };

    /// The rarest three tenths of the classes are few, the three tenths above them medium.
    fn by_rank(counts: &[u64]) -> Self {
        let mut ascending = counts.to_vec();
        ascending.sort_unstable();
        let share = (0.3 * counts.len() as f64).round() as usize;
        // Both bounds are counts of the medium group, so classes of equal count never fall apart.
        let few_under = ascending[share.min(counts.len() - 1)];
        Self {
            few_under,
            many_over: ascending[(2 * share).max(1) - 1].max(few_under),
        }
    }

    pub(crate) fn thresholds(self) -> Result<GroupThresholds, ala_loss::Error> {
        GroupThresholds::new(self.many_over, self.few_under)
    }
}

fn features(samples: Samples, device: &Device) -> candle_core::Result<Tensor> {
    let rows = samples.labels.len();
    Tensor::from_vec(samples.features, (rows, samples.width), device)
}

fn labels(samples: &Samples, device: &Device) -> candle_core::Result<Tensor> {
    Tensor::from_slice(&samples.labels, samples.labels.len(), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_classes_are_split_by_rank_into_four_three_and_three() {
        let counts = [2000, 20, 1199, 33, 719, 56, 431, 93, 258, 155];
        let groups = Groups::by_rank(&counts);
        let many = counts.iter().filter(|&&n| n > groups.many_over).count();
        let few = counts.iter().filter(|&&n| n < groups.few_under).count();
        assert_eq!((many, few), (4, 3));
    }

    #[test]
    fn every_number_of_classes_gives_valid_thresholds() {
        for classes in 1..40 {
            let counts: Vec<u64> = (1..=classes).collect();
            assert!(Groups::by_rank(&counts).thresholds().is_ok(), "{classes}");
        }
    }

    #[test]
    fn balanced_classes_are_all_medium() {
        let groups = Groups::by_rank(&[50; 10]);
        assert_eq!((groups.few_under, groups.many_over), (50, 50));
    }
}
