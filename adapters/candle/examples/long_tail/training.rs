//! One trial: a method trained on a seed's task, then tested.

use std::f64::consts::PI;

use ala_loss::Divisor;
use ala_loss::metrics::Accuracy;
use candle_core::backprop::GradStore;
use candle_core::{D, Module, Tensor};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::Failure;
use crate::augmentation::Augmentation;
use crate::batch::{Batch, Mixup};
use crate::method::{Head, Setting};
use crate::model::{Network, NetworkLoss};
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
/// How often a network is measured as it is trained, the end included.
const MEASUREMENTS: u64 = 8;
/// Steps between two of them at the least: of a short training they would take most of the time.
const STEPS_BETWEEN_MEASUREMENTS: u64 = 25;

/// What is the same for every trial of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe {
    pub(crate) steps: u64,
    /// Mixup's alpha.
    pub(crate) mixup: Option<f64>,
    pub(crate) label_smoothing: f64,
    /// In how many parts a batch is taken.
    pub(crate) parts: usize,
}

/// What a trained network does on the samples that it is measured on.
pub(crate) struct Outcome {
    pub(crate) accuracy: Accuracy,
    /// Epochs, and the overall accuracy after them; empty where nobody wants it.
    pub(crate) by_epoch: Vec<(f64, f64)>,
    pub(crate) answers: Answers,
}

/// What a network says of samples.
pub(crate) struct Answers {
    /// The class with the largest logit: no method adjusts its logits at test time.
    pub(crate) predictions: Vec<u32>,
    /// The cosine of each sample's own class, of a cosine head.
    pub(crate) target_cosines: Option<Vec<f32>>,
}

/// Whether a network is measured on the way to its last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looks {
    OnTheWay,
    AtTheEnd,
}

/// Trains a network from the seed's weights and measures it.
///
/// `after_step` is called after each step, and ends the training early by returning `false`.
pub(crate) fn train(
    task: &Task,
    setting: Setting,
    seed: u64,
    recipe: Recipe,
    looks: Looks,
    mut after_step: impl FnMut() -> bool,
) -> Result<Outcome, Failure> {
    let mut by_epoch = Vec::new();
    let epochs = |steps: u64| steps as f64 * BATCH as f64 / task.counts.total() as f64;
    let network = fit(task, setting, seed, recipe, |step, _, network| {
        let done = step + 1;
        let all = (recipe.steps / STEPS_BETWEEN_MEASUREMENTS).clamp(1, MEASUREMENTS);
        let measurements = |steps: u64| steps * all / recipe.steps;
        let due = measurements(done) > measurements(step) && done < recipe.steps;
        if due && looks == Looks::OnTheWay {
            let answers = answers(network, &task.test, &task.test_labels)?;
            let accuracy = accuracy(task, &answers)?.overall;
            by_epoch.push((epochs(done), accuracy.unwrap_or(f64::NAN)));
        }
        Ok(after_step())
    })?;
    let answers = answers(&network, &task.test, &task.test_labels)?;
    let accuracy = accuracy(task, &answers)?;
    if looks == Looks::OnTheWay {
        by_epoch.push((epochs(recipe.steps), accuracy.overall.unwrap_or(f64::NAN)));
    }
    Ok(Outcome {
        accuracy,
        by_epoch,
        answers,
    })
}

fn accuracy(task: &Task, answers: &Answers) -> Result<Accuracy, Failure> {
    Ok(Accuracy::from_predictions(
        &task.test_labels,
        &answers.predictions,
        &task.counts,
        task.groups.thresholds()?,
    )?)
}

/// `after_step` is called with a step's number from 0, the loss before it and the network after it,
/// and ends the training early by returning `false`.
fn fit(
    task: &Task,
    setting: Setting,
    seed: u64,
    recipe: Recipe,
    mut after_step: impl FnMut(u64, &Tensor, &Network) -> Result<bool, Failure>,
) -> Result<Network, Failure> {
    let width = task.train.dim(D::Minus1)?;
    let classes = task.counts.classes();
    let device = task.train.device();
    let head = setting.method.head();
    let network = Network::new(width, task.hidden, classes, head, seed, device)?;
    let loss = network.loss(setting.loss(&task.counts, recipe.label_smoothing)?);
    let mut optimizer = AdamW::new(
        network.variables(),
        ParamsAdamW {
            weight_decay: WEIGHT_DECAY,
            ..ParamsAdamW::default()
        },
    )?;
    let mut batches = Batches::new(task.train.dim(0)?, seed);
    let mixup = recipe.mixup.map(|alpha| Mixup::new(alpha, seed));
    let mut mixup = mixup.transpose()?;
    let mut augmentation = Augmentation::new(seed);
    for step in 0..recipe.steps {
        let progress = step as f64 / recipe.steps as f64;
        optimizer.set_learning_rate(LEARNING_RATE * 0.5 * (1.0 + (PI * progress).cos()));
        let rows = batches.next_batch();
        let indices = Tensor::from_slice(&rows, BATCH, device)?;
        let samples = match &task.augmented {
            Some(images) => augmentation.batch(images, &rows, device)?,
            None => task.train.index_select(&indices, 0)?,
        };
        let labels = task.train_labels.index_select(&indices, 0)?;
        let batch = match &mut mixup {
            Some(mixup) => mixup.mix(&samples, labels)?,
            None => Batch {
                samples,
                labels,
                mixed: None,
            },
        };
        let (value, gradients) = gradients_of(&network, &loss, &batch, recipe.parts)?;
        // To look at it waits for a GPU, which would have nothing to do meanwhile.
        let look = device.is_cpu() || step % GPU_STEPS_BETWEEN_LOOKS == 0;
        if look && !value.to_scalar::<f32>()?.is_finite() {
            return Err(format!(
                "{} with seed {seed}: the loss is no longer finite at step {step}; try a smaller --scale",
                setting.method.name()
            )
            .into());
        }
        optimizer.step(&gradients)?;
        if !after_step(step, &value, &network)? {
            break;
        }
    }
    loss.check(device)?;
    Ok(network)
}

/// The loss of a batch and its gradients, from so many parts of it one after the other.
fn gradients_of(
    network: &Network,
    loss: &NetworkLoss,
    batch: &Batch,
    parts: usize,
) -> candle_core::Result<(Tensor, GradStore)> {
    if parts == 1 {
        let value = network.loss_of(loss, batch, Divisor::Weights)?;
        let gradients = value.backward()?;
        return Ok((value, gradients));
    }
    // With the whole's divisor losses and gradients of the parts add up to the whole's.
    let whole = loss.divisor(batch)?;
    let mut gradients = GradStore::default();
    let mut sum: Option<Tensor> = None;
    for part in batch.parts(parts) {
        let value = network.loss_of(loss, &part?, Divisor::Given(&whole))?;
        gradients.extend(value.backward()?)?;
        let value = value.detach();
        sum = Some(match sum {
            Some(sum) => (sum + value)?,
            None => value,
        });
    }
    match sum {
        Some(sum) => Ok((sum, gradients)),
        None => candle_core::bail!("a batch in no parts"),
    }
}

/// What the network says of `samples`; their own classes' cosines where its head gives such.
fn answers(network: &Network, samples: &Tensor, labels: &[u32]) -> candle_core::Result<Answers> {
    let rows = samples.dim(0)?;
    let mut predictions = Vec::with_capacity(rows);
    let mut target_cosines = (network.head() == Head::Cosine).then(Vec::new);
    for start in (0..rows).step_by(TEST_CHUNK) {
        let count = TEST_CHUNK.min(rows - start);
        let logits = network.forward(&samples.narrow(0, start, count)?)?;
        predictions.extend(logits.argmax(D::Minus1)?.to_vec1::<u32>()?);
        if let Some(cosines) = &mut target_cosines {
            let labels =
                Tensor::from_slice(&labels[start..start + count], (count, 1), samples.device())?;
            let of_targets = logits.gather(&labels, 1)?.flatten_all()?;
            cosines.extend(of_targets.to_vec1::<f32>()?);
        }
    }
    Ok(Answers {
        predictions,
        target_cosines,
    })
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

    fn next_batch(&mut self) -> Vec<u32> {
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
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use ala_loss::{ClassCounts, ZeroCounts};
    use candle_core::{Device, Var};
    use clap::ValueEnum;

    use crate::augmentation::Images;
    use crate::data::{Image, Samples};
    use crate::method::Method;
    use crate::task::Groups;

    const PLAIN: Recipe = Recipe {
        steps: 3,
        mixup: None,
        label_smoothing: 0.0,
        parts: 1,
    };

    /// 300 samples of five classes with different counts, on 7 axes.
    fn small_task() -> Task {
        let rows = 300usize;
        let classes: Vec<u32> = (0..rows).map(|i| (i * i % 5).min(i % 7) as u32).collect();
        let features: Vec<f32> = (0..rows * 7)
            .map(|i| {
                ((i * 37 % 101) as f32 / 50.0 - 1.0) + f32::from(classes[i / 7] as usize == i % 7)
            })
            .collect();
        let counts = ClassCounts::from_labels(&classes, 5, ZeroCounts::Reject).expect("all are");
        let train = Tensor::from_vec(features, (rows, 7), &Device::Cpu).expect("as many");
        Task {
            test: train.clone(),
            train,
            train_labels: Tensor::new(classes.clone(), &Device::Cpu).expect("one axis"),
            test_labels: classes,
            counts,
            groups: Groups::FIELD,
            hidden: &[8],
            augmented: None,
        }
    }

    #[test]
    fn mixup_and_smoothing_reach_every_method() {
        let task = small_task();
        for &method in Method::value_variants() {
            let losses = |mixup: Option<f64>, label_smoothing: f64| {
                let recipe = Recipe {
                    mixup,
                    label_smoothing,
                    ..PLAIN
                };
                let mut losses = Vec::new();
                let network = fit(&task, method.untuned(30.0), 3, recipe, |_, loss, _| {
                    losses.push(loss.to_scalar::<f32>()?);
                    Ok(true)
                });
                network.expect("trains");
                losses
            };
            let plain = losses(None, 0.0);
            let mixed = losses(Some(1.0), 0.0);
            let name = method.name();
            assert_eq!(losses(Some(1.0), 0.0), mixed, "{name}: the same seed");
            let mut variants = vec![plain, mixed];
            if method.has_smoothing() {
                variants.extend([losses(None, 0.2), losses(Some(1.0), 0.2)]);
            }
            for (index, losses) in variants.iter().enumerate() {
                let as_before = variants[..index].iter().any(|other| other[0] == losses[0]);
                assert!(!as_before, "{name}: {variants:?}");
            }
        }
    }

    /// By every method, of mixed and smoothed samples too, and in parts of which the sizes differ.
    #[test]
    fn parts_of_a_batch_have_the_gradients_of_the_whole() -> candle_core::Result<()> {
        let task = small_task();
        for &method in Method::value_variants() {
            let smoothing = if method.has_smoothing() { 0.1 } else { 0.0 };
            let network = Network::new(7, task.hidden, 5, method.head(), 4, &Device::Cpu)?;
            let loss = method.untuned(30.0).loss(&task.counts, smoothing);
            let loss = loss.expect("valid");
            let loss = network.loss(loss);
            let rows = |of: &Tensor| of.narrow(0, 0, BATCH);
            let (samples, labels) = (rows(&task.train)?, rows(&task.train_labels)?);
            let mut mixup = Mixup::new(1.0, 0).expect("above 0");
            let mixed = mixup.mix(&samples, labels.clone())?;
            let plain = Batch {
                samples,
                labels,
                mixed: None,
            };
            for batch in [plain, mixed] {
                let (value, whole) = gradients_of(&network, &loss, &batch, 1)?;
                for parts in [2, 5, BATCH] {
                    let (sum, gradients) = gradients_of(&network, &loss, &batch, parts)?;
                    let (sum, value) = (sum.to_scalar::<f32>()?, value.to_scalar::<f32>()?);
                    assert!((sum - value).abs() <= 1e-5 * value, "{sum}, not {value}");
                    for variable in network.variables() {
                        let of = |gradients: &GradStore| {
                            let gradient = gradients.get(&variable).expect("it has one");
                            gradient.flatten_all()?.to_vec1::<f32>()
                        };
                        let (found, expected) = (of(&gradients)?, of(&whole)?);
                        let most = expected.iter().fold(0f32, |most, g| most.max(g.abs()));
                        assert!(most > 0.0);
                        for (found, expected) in found.iter().zip(&expected) {
                            let difference = (found - expected).abs();
                            let name = method.name();
                            assert!(
                                difference <= 1e-5 * most,
                                "{name} {parts}: {found}, {expected}"
                            );
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// AdamW moves each parameter by about the learning rate: a rounding's difference shows where a
    /// gradient is nearly nothing, so the mean is looked at.
    #[test]
    fn a_step_in_parts_is_that_of_the_whole_batch() {
        let task = small_task();
        let trained = |parts: usize, mixup: Option<f64>| -> Vec<f32> {
            let recipe = Recipe {
                steps: 1,
                mixup,
                parts,
                ..PLAIN
            };
            let setting = Method::Ala.untuned(30.0);
            let network = fit(&task, setting, 2, recipe, |_, _, _| Ok(true)).expect("trains");
            let flat = |variable: Var| variable.flatten_all()?.to_vec1::<f32>();
            let variables = network.variables().into_iter().map(flat);
            let variables = variables.collect::<candle_core::Result<Vec<_>>>();
            variables.expect("f32").concat()
        };
        let apart = |a: &[f32], b: &[f32]| {
            let differences = a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs()));
            differences.sum::<f64>() / a.len() as f64
        };
        for mixup in [None, Some(0.5)] {
            let whole = trained(1, mixup);
            for parts in [4, 7] {
                let mean = apart(&trained(parts, mixup), &whole);
                assert!(mean < 1e-6, "{parts}: {mean}");
            }
        }
        let mean = apart(&trained(1, Some(0.5)), &trained(1, None));
        assert!(mean > 1e-5, "mixup changes nothing: {mean}");
    }

    /// Images of 6x6 in which a class is a bright row.
    fn image_task() -> Task {
        let mut task = small_task();
        let rows = task.test_labels.len();
        let features = (0..rows * 36).map(|i| {
            let bright = task.test_labels[i / 36] as usize == i % 36 / 6;
            if bright {
                1.0
            } else {
                (i * 37 % 101) as f32 / 400.0
            }
        });
        let samples = Samples {
            features: features.collect(),
            width: 36,
            labels: task.test_labels.clone(),
            classes: 5,
        };
        task.train =
            Tensor::from_slice(&samples.features, (rows, 36), &Device::Cpu).expect("as many");
        task.test = task.train.clone();
        let image = Image {
            rows: 6,
            columns: 6,
            black: 0.0,
        };
        task.augmented = Some(Images::new(samples, image));
        task
    }

    /// The images that a network sees are not the same, and so its losses differ.
    #[test]
    fn augmentation_reaches_the_network() {
        let losses = |augmented: bool| {
            let mut task = image_task();
            if !augmented {
                task.augmented = None;
            }
            let mut losses = Vec::new();
            let network = fit(&task, Method::Ala.untuned(30.0), 0, PLAIN, |_, loss, _| {
                losses.push(loss.to_scalar::<f32>()?);
                Ok(true)
            });
            network.expect("trains");
            losses
        };
        assert_ne!(losses(true)[0], losses(false)[0]);
        assert_eq!(losses(true), losses(true));
    }

    /// Eight points at equal distances, the last of them the final accuracy; fewer where there are
    /// fewer steps; none where nobody wants them.
    #[test]
    fn a_network_is_measured_on_the_way() {
        let task = small_task();
        let by_epoch = |steps: u64, looks: Looks| {
            let recipe = Recipe { steps, ..PLAIN };
            let outcome = train(&task, Method::Ala.untuned(30.0), 0, recipe, looks, || true);
            let outcome = outcome.expect("trains");
            if let Some(&(_, last)) = outcome.by_epoch.last() {
                assert_eq!(Some(last), outcome.accuracy.overall);
            }
            let epochs = outcome.by_epoch.iter().map(|&(epochs, _)| epochs);
            epochs.collect::<Vec<f64>>()
        };
        let epochs = |steps: u64| steps as f64 * BATCH as f64 / 300.0;
        let expected: Vec<f64> = (1..=8).map(|k| epochs(30 * k)).collect();
        assert_eq!(by_epoch(240, Looks::OnTheWay), expected);
        assert_eq!(by_epoch(60, Looks::OnTheWay), [30, 60].map(epochs));
        assert_eq!(by_epoch(3, Looks::OnTheWay), [epochs(3)]);
        assert!(by_epoch(3, Looks::AtTheEnd).is_empty());
    }

    /// Held against products of normalised features and weights, over more samples than a chunk.
    #[test]
    fn target_cosines_are_those_of_each_sample_s_class() -> candle_core::Result<()> {
        let task = small_task();
        let network = Network::new(7, &[], 5, Head::Cosine, 0, &Device::Cpu)?;
        let found = answers(&network, &task.test, &task.test_labels)?;
        let cosines = found.target_cosines.expect("a cosine head");
        let samples = task.test.to_vec2::<f32>()?;
        let weights = network.variables()[0].to_vec2::<f32>()?;
        assert!(samples.len() > TEST_CHUNK && cosines.len() == samples.len());
        for ((sample, &label), found) in samples.iter().zip(&task.test_labels).zip(cosines) {
            let dot = |a: &[f32], b: &[f32]| -> f64 {
                a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum()
            };
            let weight = &weights[label as usize];
            let expected = dot(sample, weight) / (dot(sample, sample) * dot(weight, weight)).sqrt();
            assert!(
                (f64::from(found) - expected).abs() < 1e-5,
                "{found}, not {expected}"
            );
        }
        let network = Network::new(7, &[], 5, Head::Linear, 0, &Device::Cpu)?;
        let linear = answers(&network, &task.test, &task.test_labels)?;
        assert!(linear.target_cosines.is_none());
        Ok(())
    }

    #[test]
    fn an_epoch_visits_every_sample_once_and_batches_are_always_full() {
        let rows = 3 * BATCH / 2;
        let mut batches = Batches::new(rows, 7);
        let mut seen: Vec<u32> = Vec::new();
        for _ in 0..3 {
            let batch = batches.next_batch();
            assert_eq!(batch.len(), BATCH);
            seen.extend(batch);
        }
        for epoch in seen.chunks_mut(rows) {
            epoch.sort_unstable();
            assert!(epoch.iter().copied().eq(0..rows as u32));
        }
    }

    #[test]
    fn fewer_samples_than_a_batch_still_fill_it() {
        assert_eq!(Batches::new(5, 0).next_batch().len(), BATCH);
    }

    /// With every kind of head and loss, with one label a sample and with two, from the same
    /// weights on the same batches: the losses of the first steps, and that the last network
    /// predicts the same.
    #[cfg(feature = "cuda")]
    #[test]
    fn a_gpu_trains_as_the_cpu_does() {
        use softcuda_client::client::SoftCuda;

        use crate::options::Options;
        use crate::task::{Measured, Tasks};
        use clap::Parser;

        if let Some(soft) = SoftCuda::linked() {
            // candle reads what it has downloaded without waiting.
            soft.set_prompt_downloads(true);
        }
        let mixed = Recipe {
            mixup: Some(0.4),
            label_smoothing: 0.1,
            parts: 2,
            ..PLAIN
        };
        let trained = |device: &Device, method: Method, recipe: Recipe| {
            let options = Options::parse_from(["long_tail"]);
            let tasks = Tasks::load(&options, device).expect("embedded");
            let mut task = tasks.of_seed(1, Measured::Test).expect("embedded");
            // In software a product of matrices takes its time.
            task.hidden = &[32, 16];
            task.test = task.test.narrow(0, 0, 64).expect("there are more");
            let mut losses = Vec::new();
            let network = fit(&task, method.untuned(30.0), 1, recipe, |_, loss, _| {
                losses.push(f64::from(loss.to_scalar::<f32>()?));
                Ok(true)
            });
            let network = network.expect("trains");
            let labels = &task.test_labels[..64];
            let answers = answers(&network, &task.test, labels);
            (losses, answers.expect("predicts").predictions)
        };
        let gpu = Device::new_cuda(0).expect("a CUDA device");
        for (method, recipe) in [(Method::BalancedSoftmax, PLAIN), (Method::Ala, mixed)] {
            let (expected, predicted) = trained(&Device::Cpu, method, recipe);
            let (found, also) = trained(&gpu, method, recipe);
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
