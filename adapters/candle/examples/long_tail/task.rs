//! What a seed trains and tests on.

use ala_loss::{ClassCounts, GroupThresholds, ZeroCounts};
use candle_core::{Device, Tensor};

use crate::Failure;
use crate::augmentation::Images;
use crate::data::{Image, Samples};
use crate::dataset::{AugmentationKind, HIDDEN};
use crate::idx;
use crate::npy;
use crate::options::{Options, Source};
use crate::tail;

/// Training and test samples of one seed.
#[derive(Clone)]
pub(crate) struct Task {
    /// `[N, width]`
    pub(crate) train: Tensor,
    /// `[N]`, u32
    pub(crate) train_labels: Tensor,
    /// The training samples once more, where each batch has them placed anew.
    pub(crate) augmented: Option<Images>,
    /// `[M, width]`
    pub(crate) test: Tensor,
    pub(crate) test_labels: Vec<u32>,
    pub(crate) counts: ClassCounts,
    pub(crate) groups: Groups,
    /// Widths of the hidden layers; none where the samples are extracted features.
    pub(crate) hidden: &'static [usize],
}

/// On what a trained network is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Measured {
    /// The test set.
    Test,
    /// Samples held out of the training set, for choices.
    Validation,
}

/// Makes the task of each seed.
pub(crate) enum Tasks {
    /// Images of which each seed keeps a long tail.
    Images(Box<Pool>),
    /// The user's own features, the same for every seed.
    Features(Box<Task>),
}

/// Images, and how tasks are made of them.
pub(crate) struct Pool {
    train: Samples,
    image: Image,
    test: Tensor,
    test_labels: Vec<u32>,
    imbalance: f64,
    augmentation: AugmentationKind,
    /// Of each class for validation.
    held_out: usize,
}

impl Tasks {
    /// Reads the samples that the options name, and puts tensors on the device.
    pub(crate) fn load(options: &Options, device: &Device) -> Result<Self, Failure> {
        let split = match options.source() {
            Source::Embedded(dataset) => dataset.read()?,
            Source::Idx(folder) => idx::from_idx_dir(&folder, options.first_label)?,
            Source::Features {
                train,
                train_labels,
                test,
                test_labels,
            } => {
                let split = npy::from_npy(
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
                    train: features(&split.train, device)?,
                    augmented: None,
                    test_labels: split.test.labels.clone(),
                    test: features(&split.test, device)?,
                    counts,
                    groups: Groups::FIELD,
                    hidden: &[],
                })));
            }
        };
        let Some(image) = split.image else {
            return Err("samples without the shape of an image".into());
        };
        let held_out = match options.source() {
            Source::Embedded(dataset) => dataset.held_out(),
            _ => tail::smallest_class(&split.train).div_ceil(10),
        };
        Ok(Self::Images(Box::new(Pool {
            test_labels: split.test.labels.clone(),
            test: features(&split.test, device)?,
            train: split.train,
            image,
            imbalance: options.imbalance(),
            augmentation: options.augmentation(),
            held_out,
        })))
    }

    /// Where the tasks' tensors are.
    pub(crate) fn device(&self) -> &Device {
        match self {
            Self::Images(pool) => pool.test.device(),
            Self::Features(task) => task.test.device(),
        }
    }

    /// The task of one seed: the same for every method.
    pub(crate) fn of_seed(&self, seed: u64, measured: Measured) -> Result<Task, Failure> {
        match (self, measured) {
            (Self::Features(task), Measured::Test) => Ok(Task::clone(task)),
            // The options allow no sweep of features.
            (Self::Features(_), Measured::Validation) => {
                Err("no validation samples are held out of features".into())
            }
            (Self::Images(pool), Measured::Test) => pool.task(
                &pool.train,
                pool.test.clone(),
                pool.test_labels.clone(),
                seed,
            ),
            (Self::Images(pool), Measured::Validation) => {
                let (train, validation) = tail::held_out(&pool.train, pool.held_out, seed)?;
                let samples = features(&validation, pool.test.device())?;
                pool.task(&train, samples, validation.labels, seed)
            }
        }
    }
}

impl Pool {
    fn task(
        &self,
        train: &Samples,
        test: Tensor,
        test_labels: Vec<u32>,
        seed: u64,
    ) -> Result<Task, Failure> {
        let (train, counts) = tail::long_tailed(train, self.imbalance, seed)?;
        Ok(Task {
            train_labels: labels(&train, test.device())?,
            train: features(&train, test.device())?,
            augmented: match self.augmentation {
                AugmentationKind::None => None,
                AugmentationKind::ShiftScale => Some(Images::new(train, self.image)),
            },
            test,
            test_labels,
            groups: Groups::by_rank(&counts),
            counts: ClassCounts::new(counts)?,
            hidden: &HIDDEN,
        })
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

fn features(samples: &Samples, device: &Device) -> candle_core::Result<Tensor> {
    let rows = samples.labels.len();
    Tensor::from_slice(&samples.features, (rows, samples.width), device)
}

fn labels(samples: &Samples, device: &Device) -> candle_core::Result<Tensor> {
    Tensor::from_slice(&samples.labels, samples.labels.len(), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::HashSet;

    use clap::Parser;

    fn tasks(arguments: &str) -> Tasks {
        let arguments = std::iter::once("long_tail").chain(arguments.split_whitespace());
        Tasks::load(&Options::parse_from(arguments), &Device::Cpu).expect("embedded")
    }

    fn images(samples: &Tensor) -> HashSet<Vec<u32>> {
        let rows = samples.to_vec2::<f32>().expect("f32");
        let bits = |row: Vec<f32>| row.into_iter().map(f32::to_bits).collect();
        rows.into_iter().map(bits).collect()
    }

    /// What a setting is chosen on is neither trained on nor tested on. No symbol comes twice.
    #[test]
    fn validation_images_are_of_neither_set() {
        let tasks = tasks("--dataset symbols");
        let chosen_on = tasks.of_seed(1, Measured::Validation).expect("valid");
        let tested = tasks.of_seed(1, Measured::Test).expect("valid");
        let validation = images(&chosen_on.test);
        assert_eq!(validation.len(), 5 * 815);
        assert!(validation.is_disjoint(&images(&chosen_on.train)));
        assert!(validation.is_disjoint(&images(&tested.test)));
        for class in [0, 1, 814] {
            let of_class = chosen_on.test_labels.iter().filter(|&&y| y == class);
            assert_eq!(of_class.count(), 5, "{class}");
        }
        // And each seed holds out others.
        let other = tasks.of_seed(2, Measured::Validation).expect("valid");
        assert_ne!(images(&other.test), validation);
    }

    #[test]
    fn a_set_is_augmented_where_it_is_said_or_chosen_for_it() {
        for (arguments, augmented) in [
            ("", false),
            ("--augmentation shift-scale", true),
            ("--dataset symbols", true),
            ("--dataset symbols --augmentation none", false),
        ] {
            let task = tasks(arguments).of_seed(0, Measured::Test).expect("valid");
            assert_eq!(task.augmented.is_some(), augmented, "{arguments}");
        }
    }

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
