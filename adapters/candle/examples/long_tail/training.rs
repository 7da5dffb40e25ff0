//! One trial: a method trained on a seed's task, then tested.

use std::f64::consts::PI;

use ala_loss::metrics::Accuracy;
use candle_core::{D, Device, Module, Tensor};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::Failure;
use crate::method::Method;
use crate::model::Network;
use crate::task::Task;

/// Samples a step.
pub(crate) const BATCH: usize = 128;
const LEARNING_RATE: f64 = 2e-3;
/// AdamW's default, in candle as in PyTorch.
const WEIGHT_DECAY: f64 = 0.01;
/// Keeps the widest layer's activations under the size from which candle splits a single operation
/// over threads, since the trials already use every core.
const TEST_CHUNK: usize = 250;

const GPU_STEPS_BETWEEN_LOOKS: u64 = 50;

/// What is the same for every trial of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe {
    pub(crate) steps: u64,
    pub(crate) scale: f64,
}

/// Trains a network from the seed's weights and returns its accuracy on the test samples.
///
/// `after_step` is called after each step with its loss, and ends the training early by returning
/// `false`.
pub(crate) fn train(
    task: &Task,
    method: Method,
    seed: u64,
    recipe: Recipe,
    after_step: impl FnMut(&Tensor) -> bool,
) -> Result<Accuracy, Failure> {
    let network = fit(task, method, seed, recipe, after_step)?;
    let predictions = predict(&network, &task.test)?;
    Ok(Accuracy::from_predictions(
        &task.test_labels,
        &predictions,
        &task.counts,
        task.groups.thresholds()?,
    )?)
}

fn fit(
    task: &Task,
    method: Method,
    seed: u64,
    recipe: Recipe,
    mut after_step: impl FnMut(&Tensor) -> bool,
) -> Result<Network, Failure> {
    let width = task.train.dim(D::Minus1)?;
    let classes = task.counts.classes();
    let device = task.train.device();
    let network = Network::new(width, task.hidden, classes, method.head(), seed, device)?;
    let loss = network.loss(method.loss(&task.counts, recipe.scale)?);
    let mut optimizer = AdamW::new(
        network.variables(),
        ParamsAdamW {
            weight_decay: WEIGHT_DECAY,
            ..ParamsAdamW::default()
        },
    )?;
    let mut batches = Batches::new(task.train.dim(0)?, seed);
    for step in 0..recipe.steps {
        let progress = step as f64 / recipe.steps as f64;
        optimizer.set_learning_rate(LEARNING_RATE * 0.5 * (1.0 + (PI * progress).cos()));
        let batch = batches.next_batch(device)?;
        let samples = task.train.index_select(&batch, 0)?;
        let labels = task.train_labels.index_select(&batch, 0)?;
        let value = network.loss_of(&loss, &samples, &labels)?;
        // To look at it waits for a GPU, which would have nothing to do meanwhile.
        let look = device.is_cpu() || step % GPU_STEPS_BETWEEN_LOOKS == 0;
        if look && !value.to_scalar::<f32>()?.is_finite() {
            return Err(format!(
                "{} with seed {seed}: the loss is no longer finite at step {step}; try a smaller --scale",
                method.name()
            )
            .into());
        }
        optimizer.backward_step(&value)?;
        if !after_step(&value) {
            break;
        }
    }
    loss.check(device)?;
    Ok(network)
}

/// The class with the largest logit: no method adjusts its logits at test time.
fn predict(network: &Network, samples: &Tensor) -> candle_core::Result<Vec<u32>> {
    let rows = samples.dim(0)?;
    let mut predictions = Vec::with_capacity(rows);
    for start in (0..rows).step_by(TEST_CHUNK) {
        let chunk = samples.narrow(0, start, TEST_CHUNK.min(rows - start))?;
        predictions.extend(
            network
                .forward(&chunk)?
                .argmax(D::Minus1)?
                .to_vec1::<u32>()?,
        );
    }
    Ok(predictions)
}

/// Indices of seeded, shuffled epochs, cut into batches; a batch may span two epochs, so all are
/// full.
struct Batches {
    order: Vec<u32>,
    used: usize,
    random: ChaCha8Rng,
}

impl Batches {
    fn new(rows: usize, seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        // Stream 0 draws the long tail, stream 1 the weights.
        random.set_stream(2);
        Self {
            order: (0..rows as u32).collect(),
            used: rows,
            random,
        }
    }

    fn next_batch(&mut self, device: &Device) -> candle_core::Result<Tensor> {
        let mut batch = Vec::with_capacity(BATCH);
        while batch.len() < BATCH {
            if self.used == self.order.len() {
                self.order.shuffle(&mut self.random);
                self.used = 0;
            }
            let taken = (BATCH - batch.len()).min(self.order.len() - self.used);
            batch.extend_from_slice(&self.order[self.used..self.used + taken]);
            self.used += taken;
        }
        Tensor::from_vec(batch, BATCH, device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_visits_every_sample_once_and_batches_are_always_full() {
        let rows = 3 * BATCH / 2;
        let mut batches = Batches::new(rows, 7);
        let mut seen: Vec<u32> = Vec::new();
        for _ in 0..3 {
            let batch = batches
                .next_batch(&Device::Cpu)
                .expect("indices make a tensor");
            assert_eq!(batch.dims(), [BATCH]);
            seen.extend(batch.to_vec1::<u32>().expect("indices are u32"));
        }
        for epoch in seen.chunks_mut(rows) {
            epoch.sort_unstable();
            assert!(epoch.iter().copied().eq(0..rows as u32));
        }
    }

    #[test]
    fn fewer_samples_than_a_batch_still_fill_it() {
        let batch = Batches::new(5, 0)
            .next_batch(&Device::Cpu)
            .expect("five samples");
        assert_eq!(batch.dims(), [BATCH]);
    }

    /// With every kind of head and loss, from the same weights on the same batches: the losses of
    /// the first steps, and that the last network predicts the same.
    #[cfg(feature = "cuda")]
    #[test]
    fn a_gpu_trains_as_the_cpu_does() {
        use softcuda_client::client::SoftCuda;

        use crate::options::Options;
        use crate::task::Tasks;
        use clap::Parser;

        if let Some(soft) = SoftCuda::linked() {
            // candle reads what it has downloaded without waiting.
            soft.set_prompt_downloads(true);
        }
        let recipe = Recipe {
            steps: 3,
            scale: 30.0,
        };
        let trained = |device: &Device, method: Method| {
            let options = Options::parse_from(["long_tail"]);
            let tasks = Tasks::load(&options, device).expect("embedded");
            let mut task = tasks.of_seed(1).expect("embedded");
            // In software a product of matrices takes its time.
            task.hidden = &[32, 16];
            task.test = task.test.narrow(0, 0, 64).expect("there are more");
            let mut losses = Vec::new();
            let network = fit(&task, method, 1, recipe, |loss| {
                losses.push(f64::from(loss.to_scalar::<f32>().expect("one number")));
                true
            });
            let network = network.expect("trains");
            (losses, predict(&network, &task.test).expect("predicts"))
        };
        let gpu = Device::new_cuda(0).expect("a CUDA device");
        for method in [Method::BalancedSoftmax, Method::Ala] {
            let (expected, predicted) = trained(&Device::Cpu, method);
            let (found, also) = trained(&gpu, method);
            for (step, (found, expected)) in found.iter().zip(&expected).enumerate() {
                // AdamW divides gradients by their size, and so makes their last digits grow.
                let tolerance = [1e-5, 1e-3, 1e-2][step];
                let difference = (found - expected).abs();
                assert!(
                    difference <= tolerance * expected,
                    "{step}: {found}, not {expected}"
                );
            }
            assert!(expected[2] < expected[0], "nothing is learnt: {expected:?}");
            let same = predicted.iter().zip(&also).filter(|(a, b)| a == b).count();
            assert!(same >= 60, "{same} of 64");
        }
    }
}
