//! What the command line offers, and which of its options exclude each other.

use std::path::PathBuf;

use candle_core::Device;
use clap::{Parser, ValueEnum};

use crate::Failure;
use crate::dataset::{AugmentationKind, Dataset};
use crate::method::Method;
use crate::training::BATCH;

/// Trains one small network a method on long-tailed data and compares the accuracies.
///
/// The data are embedded images, Fashion-MNIST by default, cut to an exponential long tail; the
/// test set is the whole balanced one. Every method starts from the same weights and sees the same
/// batches in the same order, so the difference to `ce` is paired by seed.
///
/// GROUPS. The field's many (> 100), medium (20 to 100) and few (< 20) leave `few` empty for the
/// default profile of 2000 to 20 images a class. For image data the classes are therefore split by
/// rank: the rarest three tenths are few, the next three tenths are medium, the rest are many (of
/// ten classes 4, 3 and 3; equal counts at a cut all fall to medium). With --features the field's
/// thresholds hold.
#[derive(Clone, Debug, Parser)]
#[command(name = "long_tail", version, verbatim_doc_comment)]
#[command(group = clap::ArgGroup::new("samples").args(["data", "features"]))]
pub(crate) struct Options {
    /// Repetitions; a seed draws which classes are rare, the first weights and the order of the
    /// batches.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seeds: u64,

    /// The embedded images to train on.
    #[arg(long, value_name = "NAME", value_enum, default_value = "fashion", conflicts_with_all = ["data", "features"])]
    pub(crate) dataset: Dataset,

    /// The methods to compare, separated by commas.
    #[arg(long, value_name = "LIST", value_enum, value_delimiter = ',', default_values_t = Method::value_variants().to_vec())]
    pub(crate) methods: Vec<Method>,

    /// Training steps of 128 samples each. [default: 1000, of symbols 6000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) steps: Option<u64>,

    /// Chooses scale, logarithm and tau of each method by accuracy on validation images, which are
    /// held out of the training images (200 of each class of fashion, 5 of symbols, a tenth of the
    /// smallest class else), among scales 10, 20, 30, 40; log2 and ln; tau 0.5, 1, 1.5, 2. Then
    /// trains with what was chosen and with the defaults, and tests both.
    #[arg(long, conflicts_with = "features")]
    pub(crate) sweep: bool,

    /// Seeds with which the sweep tries each candidate, the first ones. [default: all of --seeds]
    #[arg(long, value_name = "N", requires = "sweep", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) sweep_seeds: Option<u64>,

    /// Logit scale s of the methods with a cosine head; the linear heads always use 1.
    #[arg(long, value_name = "S", default_value_t = 30.0, value_parser = scale)]
    pub(crate) scale: f64,

    /// Mixup: each batch is mixed with a permutation of itself, by a lambda drawn from
    /// Beta(ALPHA, ALPHA), and every sample is held against both its labels. Mixed are the images,
    /// or the features given.
    #[arg(long, value_name = "ALPHA", value_parser = alpha)]
    pub(crate) mixup: Option<f64>,

    /// Label smoothing: the share of a label that is spread over all classes, from 0 to under 1.
    /// Of every method but focal, which has no smoothed form.
    #[arg(long, value_name = "E", default_value_t = 0.0, value_parser = smoothing)]
    pub(crate) label_smoothing: f64,

    /// Gradient accumulation: each step takes its 128 samples in K parts, whose gradients add up to
    /// that of the whole. It changes the memory that a step takes, and the results by rounding
    /// alone.
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=BATCH as u64))]
    pub(crate) accumulate: u64,

    /// Images of the most frequent class over images of the rarest. [default: 100, of symbols 10]
    #[arg(long, value_name = "RATIO", value_parser = imbalance)]
    pub(crate) imbalance: Option<f64>,

    /// What is done to training images before each step. [default: none, of symbols shift-scale]
    #[arg(long, value_name = "KIND", value_enum, conflicts_with = "features")]
    pub(crate) augmentation: Option<AugmentationKind>,

    /// Where to train: cpu, cuda, or cuda:N for another than the first GPU. CUDA needs a build with
    /// `--features cuda`. Figures on a GPU differ in the last digits, which training makes grow.
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = place)]
    pub(crate) device: Place,

    /// Folder for the charts, made if it is missing.
    #[arg(long, value_name = "DIR", default_value = "target/long_tail")]
    pub(crate) out: PathBuf,

    /// Also write the results as a JSON array of {method, setting, measured, seed, overall, many,
    /// medium, few, by_difficulty, by_epoch}: accuracies in per cent (0 to 100), null for a group
    /// without test samples. A sweep's own trials are there too, measured on "validation".
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Folder with the four original IDX files of MNIST, Fashion-MNIST or a set of that form
    /// (train-images-idx3-ubyte or train-images.idx3-ubyte and so on, plain or .gz) instead of the
    /// embedded images.
    #[arg(long, value_name = "DIR", conflicts_with = "features")]
    pub(crate) data: Option<PathBuf>,

    /// Your own training features [N, D] as .npy: only the head is trained, on the features and the
    /// class counts as they are (no long tail is cut). Needs the three options below.
    #[arg(long, value_name = "X.npy", requires_all = ["labels", "test_features", "test_labels"], conflicts_with = "imbalance")]
    pub(crate) features: Option<PathBuf>,

    /// Labels [N] of the training features, integers from 0 (or --first-label) without gaps.
    #[arg(long, value_name = "Y.npy", requires_all = ["features", "test_features", "test_labels"])]
    pub(crate) labels: Option<PathBuf>,

    /// Test features [M, D].
    #[arg(long, value_name = "X.npy", requires_all = ["features", "labels", "test_labels"])]
    pub(crate) test_features: Option<PathBuf>,

    /// Labels [M] of the test features; a class that is not among them has no accuracy.
    #[arg(long, value_name = "Y.npy", requires_all = ["features", "labels", "test_features"])]
    pub(crate) test_labels: Option<PathBuf>,

    /// What --data or --labels and --test-labels call the first class, 1 where they count from 1.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "samples")]
    pub(crate) first_label: u32,
}

/// What `--device` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl Place {
    pub(crate) fn open(self) -> Result<Device, Failure> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(_) if !cfg!(feature = "cuda") => Err(
                "this program was built without CUDA: build it with --features cuda, for which \
                 candle needs nvcc"
                    .into(),
            ),
            Self::Cuda(ordinal) => Device::new_cuda(ordinal)
                .map_err(|error| format!("cannot open GPU {ordinal}: {error}").into()),
        }
    }
}

/// Where the samples come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Images embedded in this program.
    Embedded(Dataset),
    /// A folder of IDX files.
    Idx(PathBuf),
    /// Extracted features and labels of the user's own.
    Features {
        train: PathBuf,
        train_labels: PathBuf,
        test: PathBuf,
        test_labels: PathBuf,
    },
}

impl Options {
    /// The one source that the options name.
    pub(crate) fn source(&self) -> Source {
        match (
            &self.data,
            &self.features,
            &self.labels,
            &self.test_features,
            &self.test_labels,
        ) {
            (_, Some(train), Some(train_labels), Some(test), Some(test_labels)) => {
                Source::Features {
                    train: train.clone(),
                    train_labels: train_labels.clone(),
                    test: test.clone(),
                    test_labels: test_labels.clone(),
                }
            }
            (Some(folder), ..) => Source::Idx(folder.clone()),
            _ => Source::Embedded(self.dataset),
        }
    }

    /// Whose choices hold where the options make none.
    fn chosen_for(&self) -> Dataset {
        match self.source() {
            Source::Embedded(dataset) => dataset,
            Source::Idx(_) | Source::Features { .. } => Dataset::Fashion,
        }
    }

    pub(crate) fn steps(&self) -> u64 {
        self.steps.unwrap_or_else(|| self.chosen_for().steps())
    }

    pub(crate) fn sweep_seeds(&self) -> u64 {
        self.sweep_seeds.unwrap_or(self.seeds)
    }

    pub(crate) fn imbalance(&self) -> f64 {
        self.imbalance
            .unwrap_or_else(|| self.chosen_for().imbalance())
    }

    pub(crate) fn augmentation(&self) -> AugmentationKind {
        self.augmentation
            .unwrap_or_else(|| self.chosen_for().augmentation())
    }

    /// What no option alone shows to be wrong.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let unsmoothed = self.methods.iter().find(|method| !method.has_smoothing());
        match unsmoothed {
            Some(method) if self.label_smoothing > 0.0 => Err(format!(
                "--label-smoothing {}: {} has no smoothed form; name the other methods with --methods",
                self.label_smoothing,
                method.name()
            )
            .into()),
            _ => Ok(()),
        }
    }

    /// The methods in the order given, each once.
    pub(crate) fn distinct_methods(&self) -> Vec<Method> {
        let mut distinct = Vec::with_capacity(self.methods.len());
        for &method in &self.methods {
            if !distinct.contains(&method) {
                distinct.push(method);
            }
        }
        distinct
    }
}

fn place(text: &str) -> Result<Place, String> {
    let ordinal = match text.split_once(':') {
        None if text == "cpu" => return Ok(Place::Cpu),
        None if text == "cuda" => Some(0),
        Some(("cuda", ordinal)) => ordinal.parse().ok(),
        _ => None,
    };
    ordinal
        .map(Place::Cuda)
        .ok_or_else(|| "must be cpu, cuda or cuda:N".to_owned())
}

fn scale(text: &str) -> Result<f64, String> {
    number(text, "a finite number above 0", |value| value > 0.0)
}

fn alpha(text: &str) -> Result<f64, String> {
    number(text, "above 0 and at most 1e6", |value| {
        value > 0.0 && value <= 1e6
    })
}

fn smoothing(text: &str) -> Result<f64, String> {
    number(text, "at least 0 and under 1", |value| {
        (0.0..1.0).contains(&value)
    })
}

fn imbalance(text: &str) -> Result<f64, String> {
    number(text, "a finite number of at least 1", |value| value >= 1.0)
}

fn number(text: &str, allowed: &str, accept: impl Fn(f64) -> bool) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|&value: &f64| value.is_finite() && accept(value))
        .ok_or_else(|| format!("must be {allowed}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::error::ErrorKind;

    fn parse(arguments: &str) -> Result<Options, ErrorKind> {
        Options::try_parse_from(std::iter::once("long_tail").chain(arguments.split_whitespace()))
            .map_err(|error| error.kind())
    }

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let options = parse("").expect("no option is required");
        assert_eq!((options.seeds, options.steps()), (3, 1000));
        assert_eq!((options.scale, options.imbalance()), (30.0, 100.0));
        assert_eq!(options.augmentation(), AugmentationKind::None);
        assert!(!options.sweep);
        assert_eq!(options.sweep_seeds(), 3);
        assert_eq!((options.mixup, options.label_smoothing), (None, 0.0));
        assert_eq!(options.accumulate, 1);
        assert_eq!(options.distinct_methods(), Method::value_variants());
        assert_eq!(options.source(), Source::Embedded(Dataset::Fashion));

        let options = parse("--dataset symbols").expect("it is embedded");
        assert_eq!(options.source(), Source::Embedded(Dataset::Symbols));
        assert_eq!((options.steps(), options.imbalance()), (6000, 10.0));
        assert_eq!(options.augmentation(), AugmentationKind::ShiftScale);
        let own = "--dataset symbols --steps 7 --imbalance 3 --augmentation none";
        let options = parse(own).expect("each may be chosen");
        assert_eq!((options.steps(), options.imbalance()), (7, 3.0));
        assert_eq!(options.augmentation(), AugmentationKind::None);
        // Of the user's own images nothing is known.
        let options = parse("--data folder").expect("a folder");
        assert_eq!((options.steps(), options.imbalance()), (1000, 100.0));
    }

    #[test]
    fn values_without_meaning_are_refused() {
        for arguments in [
            "--steps 0",
            "--seeds 0",
            "--sweep --sweep-seeds 0",
            "--sweep-seeds 2",
            "--scale NaN",
            "--scale 0",
            "--scale inf",
            "--imbalance 0.5",
            "--imbalance NaN",
            "--mixup 0",
            "--mixup -1",
            "--mixup 2e6",
            "--mixup NaN",
            "--mixup inf",
            "--mixup",
            "--label-smoothing 1",
            "--label-smoothing -0.1",
            "--label-smoothing NaN",
            "--accumulate 0",
            "--accumulate 129",
            "--accumulate 1.5",
            "--methods",
            "--methods softmax",
        ] {
            assert!(parse(arguments).is_err(), "{arguments} was accepted");
        }
    }

    #[test]
    fn devices_are_the_cpu_and_gpus_by_number() {
        let device = |text: &str| parse(&format!("--device {text}")).map(|options| options.device);
        assert_eq!(device("cpu"), Ok(Place::Cpu));
        assert_eq!(device("cuda"), Ok(Place::Cuda(0)));
        assert_eq!(device("cuda:3"), Ok(Place::Cuda(3)));
        for text in [
            "gpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "CUDA", "cuda:1:2",
        ] {
            assert_eq!(device(text), Err(ErrorKind::ValueValidation), "{text}");
        }
    }

    #[test]
    fn feature_files_come_all_four_or_not_at_all() {
        let all = "--features a --labels b --test-features c --test-labels d";
        let options = parse(all).expect("all four are given");
        assert!(matches!(options.source(), Source::Features { .. }));
        for alone in [
            "--features a",
            "--labels b",
            "--features a --labels b --test-features c",
        ] {
            assert_eq!(
                parse(alone).err(),
                Some(ErrorKind::MissingRequiredArgument),
                "{alone}"
            );
        }
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        let all = "--features a --labels b --test-features c --test-labels d";
        for other in [
            "--data folder",
            "--imbalance 10",
            "--dataset symbols",
            "--sweep",
            "--augmentation none",
        ] {
            assert_eq!(
                parse(&format!("{all} {other}")).err(),
                Some(ErrorKind::ArgumentConflict),
                "{other}"
            );
        }
        let both = parse("--data folder --dataset fashion").err();
        assert_eq!(both, Some(ErrorKind::ArgumentConflict));
    }

    /// Of the embedded images it would be ignored.
    #[test]
    fn a_first_label_needs_data_that_have_one() {
        let alone = parse("--first-label 1").err();
        assert_eq!(alone, Some(ErrorKind::MissingRequiredArgument));
        let all = "--features a --labels b --test-features c --test-labels d";
        for data in ["--data folder", all] {
            let options = parse(&format!("{data} --first-label 1")).expect("valid");
            assert_eq!(options.first_label, 1);
        }
    }

    #[test]
    fn a_method_given_twice_is_trained_once() {
        let options = parse("--methods ala,ce,ala").expect("both are methods");
        assert_eq!(
            options.distinct_methods(),
            [Method::Ala, Method::CrossEntropy]
        );
    }
}
