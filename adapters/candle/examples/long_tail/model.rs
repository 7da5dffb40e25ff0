//! The network: two hidden layers and a head for images, a head alone for features.

use ala_loss::{Divisor, Loss};
use ala_loss_candle::{CandleLoss, CosineHead, CosineLoss};
use candle_core::{Device, Module, Result, Tensor, Var};
use candle_nn::Linear;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::batch::Batch;
use crate::method::Head;

/// A network and its variables.
pub(crate) struct Network {
    hidden: Vec<Linear>,
    classifier: Classifier,
    variables: Vec<Var>,
}

enum Classifier {
    Linear(Linear),
    Cosine(CosineHead),
}

/// A loss over a network's last features.
pub(crate) enum NetworkLoss {
    /// Of logits.
    Linear(CandleLoss),
    /// Of features and class weights: the cosines of a batch are never all there.
    Cosine(CosineLoss),
}

impl Network {
    /// A network `width - hidden.. - classes`. The weights depend on the shape and the seed alone,
    /// so both kinds of head start from the same ones (a cosine head only lacks the bias).
    pub(crate) fn new(
        width: usize,
        hidden: &[usize],
        classes: usize,
        head: Head,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let mut weights = Weights::new(seed, device);
        let mut layers = Vec::with_capacity(hidden.len());
        let mut inputs = width;
        for &outputs in hidden {
            layers.push(Linear::new(
                weights.matrix(outputs, inputs)?,
                Some(weights.bias(outputs, inputs)?),
            ));
            inputs = outputs;
        }
        let weight = weights.matrix(classes, inputs)?;
        let classifier = match head {
            Head::Linear => {
                let bias = weights.bias(classes, inputs)?;
                Classifier::Linear(Linear::new(weight, Some(bias)))
            }
            Head::Cosine => Classifier::Cosine(CosineHead::from_weight(weight)?),
        };
        Ok(Self {
            hidden: layers,
            classifier,
            variables: weights.variables,
        })
    }

    pub(crate) fn variables(&self) -> Vec<Var> {
        self.variables.clone()
    }

    pub(crate) fn head(&self) -> Head {
        match self.classifier {
            Classifier::Linear(_) => Head::Linear,
            Classifier::Cosine(_) => Head::Cosine,
        }
    }

    /// The loss in the form that the network's head asks for.
    pub(crate) fn loss(&self, loss: Loss) -> NetworkLoss {
        match self.classifier {
            Classifier::Linear(_) => NetworkLoss::Linear(CandleLoss::new(loss)),
            Classifier::Cosine(_) => NetworkLoss::Cosine(CosineLoss::new(loss)),
        }
    }

    /// The loss of a batch, or of a part of one with the divisor of the whole.
    pub(crate) fn loss_of(
        &self,
        loss: &NetworkLoss,
        batch: &Batch,
        divisor: Divisor<&Tensor>,
    ) -> Result<Tensor> {
        let features = self.features(&batch.samples)?;
        let (labels, options) = (&batch.labels, batch.options(divisor));
        match (loss, &self.classifier) {
            (NetworkLoss::Cosine(loss), Classifier::Cosine(head)) => {
                loss.forward_with(&features, head.weight(), labels, &options)
            }
            (NetworkLoss::Linear(loss), _) => {
                loss.forward_with(&self.logits(&features)?, labels, &options)
            }
            (NetworkLoss::Cosine(_), Classifier::Linear(_)) => {
                candle_core::bail!("a loss over cosines for a linear head")
            }
        }
    }

    fn features(&self, samples: &Tensor) -> Result<Tensor> {
        let mut features = samples.clone();
        for layer in &self.hidden {
            features = layer.forward(&features)?.relu()?;
        }
        Ok(features)
    }

    fn logits(&self, features: &Tensor) -> Result<Tensor> {
        match &self.classifier {
            Classifier::Linear(head) => head.forward(features),
            Classifier::Cosine(head) => head.forward(features),
        }
    }
}

impl NetworkLoss {
    /// What the batch's mean divides by.
    pub(crate) fn divisor(&self, batch: &Batch) -> Result<Tensor> {
        let options = batch.options(Divisor::Weights);
        match self {
            Self::Linear(loss) => loss.divisor(&batch.labels, &options),
            Self::Cosine(loss) => loss.divisor(&batch.labels, &options),
        }
    }

    /// Waits for the device, and tells whether a label was out of range.
    pub(crate) fn check(&self, device: &Device) -> Result<()> {
        match self {
            Self::Linear(loss) => loss.check(device),
            Self::Cosine(loss) => loss.check(device),
        }
    }
}

impl Module for Network {
    /// `[N, width]` to logits, or for a cosine head to unscaled cosines, `[N, C]`.
    fn forward(&self, samples: &Tensor) -> Result<Tensor> {
        self.logits(&self.features(samples)?)
    }
}

/// Draws variables from one seeded stream, the same for every device: candle's own generator for
/// the CPU takes no seed.
struct Weights<'a> {
    random: ChaCha8Rng,
    variables: Vec<Var>,
    device: &'a Device,
}

impl<'a> Weights<'a> {
    fn new(seed: u64, device: &'a Device) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        // Stream 0 draws the long tail.
        random.set_stream(1);
        Self {
            random,
            variables: Vec::new(),
            device,
        }
    }

    /// Kaiming uniform for ReLU: the bound is sqrt(6 / inputs).
    fn matrix(&mut self, outputs: usize, inputs: usize) -> Result<Tensor> {
        self.uniform(&[outputs, inputs], (6.0 / inputs as f32).sqrt())
    }

    fn bias(&mut self, outputs: usize, inputs: usize) -> Result<Tensor> {
        self.uniform(&[outputs], 1.0 / (inputs as f32).sqrt())
    }

    fn uniform(&mut self, shape: &[usize], bound: f32) -> Result<Tensor> {
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| self.random.random_range(-bound..=bound))
            .collect();
        let variable = Var::from_vec(values, shape, self.device)?;
        let tensor = variable.as_tensor().clone();
        self.variables.push(variable);
        Ok(tensor)
    }
}
