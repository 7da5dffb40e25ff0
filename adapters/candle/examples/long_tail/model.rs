//! The network: two hidden layers and a head for images, a head alone for features.

use ala_loss_candle::CosineHead;
use candle_core::{Device, Module, Result, Tensor, Var};
use candle_nn::Linear;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::method::Head;

/// Widths of the hidden layers for images.
pub(crate) const HIDDEN: [usize; 2] = [256, 128];

/// A network and its variables.
pub(crate) struct Network {
    hidden: Vec<Linear>,
    head: Box<dyn Module>,
    variables: Vec<Var>,
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
    ) -> Result<Self> {
        let mut weights = Weights::new(seed);
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
        let head: Box<dyn Module> = match head {
            Head::Linear => Box::new(Linear::new(weight, Some(weights.bias(classes, inputs)?))),
            Head::Cosine => Box::new(CosineHead::from_weight(weight)?),
        };
        Ok(Self {
            hidden: layers,
            head,
            variables: weights.variables,
        })
    }

    pub(crate) fn variables(&self) -> Vec<Var> {
        self.variables.clone()
    }
}

impl Module for Network {
    /// `[N, width]` to logits, or for a cosine head to unscaled cosines, `[N, C]`.
    fn forward(&self, samples: &Tensor) -> Result<Tensor> {
        let mut features = samples.clone();
        for layer in &self.hidden {
            features = layer.forward(&features)?.relu()?;
        }
        self.head.forward(&features)
    }
}

/// Draws variables from one seeded stream: candle's own generator for the CPU takes no seed.
struct Weights {
    random: ChaCha8Rng,
    variables: Vec<Var>,
}

impl Weights {
    fn new(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        // Stream 0 draws the long tail.
        random.set_stream(1);
        Self {
            random,
            variables: Vec::new(),
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
        let variable = Var::from_vec(values, shape, &Device::Cpu)?;
        let tensor = variable.as_tensor().clone();
        self.variables.push(variable);
        Ok(tensor)
    }
}
