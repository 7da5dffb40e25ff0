//! Trains on long-tailed Fashion-MNIST with burn's own learner.
//!
//! ```text
//! cargo run --release -p ala-loss-burn --example learner -- --epochs 4
//! ```

mod data;
mod metric;
mod model;

use std::error::Error;
use std::path::PathBuf;

use burn::data::dataloader::DataLoaderBuilder;
use burn::data::dataset::InMemDataset;
use burn::optim::AdamWConfig;
use burn::tensor::Device;
use burn::train::metric::{LossMetric, NumericEntry};
use burn::train::{Learner, SupervisedTraining};
use clap::Parser;

use crate::data::{ImageBatcher, Images};
use crate::metric::HitMetric;
use crate::model::ModelConfig;

/// Trains a small network with the ALA loss on long-tailed Fashion-MNIST.
#[derive(Debug, Clone, Parser)]
struct Options {
    /// Passes over the training images.
    #[arg(long, default_value_t = 8)]
    epochs: usize,
    /// Only so many training steps an epoch; all where it is not given.
    #[arg(long)]
    steps: Option<usize>,
    /// Images of a step.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// How many times as many images the most frequent class has as the rarest.
    #[arg(long, default_value_t = 100.0)]
    imbalance: f64,
    /// Of the first weights and of the order of the images.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where checkpoints and metrics go.
    #[arg(long, default_value = "target/burn_learner")]
    folder: PathBuf,
}

/// The last epoch on the test images.
#[derive(Debug)]
struct Results {
    accuracy: f64,
    rare_accuracy: f64,
    error: Option<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let results = train(&Options::parse())?;
    if let Some(error) = results.error {
        return Err(error.into());
    }
    println!(
        "accuracy {:.1} %, on the three rarest classes {:.1} %",
        results.accuracy, results.rare_accuracy
    );
    Ok(())
}

fn train(options: &Options) -> Result<Results, Box<dyn Error>> {
    let (mut train, test) = Images::embedded()?;
    let counts = train.thin(options.imbalance);
    if let Some(steps) = options.steps {
        train.shuffle(options.seed);
        train.items.truncate(steps * options.batch);
    }
    let rare: Vec<i64> = (counts.len() as i64 - 3..counts.len() as i64).collect();

    let device = Device::flex().autodiff();
    device.seed(options.seed);
    let model = ModelConfig::new(train.pixels, counts).init(&device)?;
    let loader = |images: Images| {
        DataLoaderBuilder::new(ImageBatcher)
            .batch_size(options.batch)
            .shuffle(options.seed)
            .num_workers(1)
            .build(InMemDataset::new(images.items))
    };
    let overall = HitMetric::new("Accuracy", None);
    let of_rare = HitMetric::new("Few-shot accuracy", Some(rare));
    std::fs::create_dir_all(&options.folder)?;
    let training = SupervisedTraining::new(&options.folder, loader(train), loader(test))
        .metrics((overall.clone(), of_rare.clone(), LossMetric::new()))
        .with_default_checkpointers()
        .num_epochs(options.epochs)
        .summary();
    let result = training.launch(Learner::new(model, AdamWConfig::new().init(), 2e-3));
    let percent = |metric: &HitMetric| match metric.last_epoch() {
        NumericEntry::Value(value) | NumericEntry::Final(value) => value,
        NumericEntry::Aggregated {
            aggregated_value, ..
        } => aggregated_value,
    };
    Ok(Results {
        accuracy: percent(&overall),
        rare_accuracy: percent(&of_rare),
        error: result.error.map(|error| error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_steps_learn_and_leave_a_checkpoint() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = Options {
            epochs: 1,
            steps: Some(40),
            batch: 64,
            imbalance: 100.0,
            seed: 1,
            folder: folder.path().to_owned(),
        };
        let results = train(&options).expect("trained");
        assert_eq!(results.error, None);
        // One class in ten is right by chance.
        assert!(results.accuracy > 40.0, "{results:?}");
        assert!(
            (0.0..=100.0).contains(&results.rare_accuracy),
            "{results:?}"
        );
        let checkpoints = std::fs::read_dir(folder.path().join("checkpoint")).expect("a folder");
        assert!(checkpoints.count() >= 3);
    }
}
