//! A network with a cosine head, and how burn's learner trains it.

use ala_loss_burn::{AlaLoss, AlaLossConfig, CosineHead, CosineHeadConfig, Error};
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Bool, Device, ExecutionError, Int, Tensor, activation};

use burn::train::metric::{Adaptor, ItemLazy, LossInput};
use burn::train::{InferenceStep, TrainOutput, TrainStep};

use crate::data::Batch;
use crate::metric::HitInput;

const HIDDEN: usize = 128;
const FEATURES: usize = 64;

#[derive(Debug)]
pub struct ModelConfig {
    pixels: usize,
    counts: Vec<u64>,
}

impl ModelConfig {
    pub fn new(pixels: usize, counts: Vec<u64>) -> Self {
        Self { pixels, counts }
    }

    pub fn init(&self, device: &Device) -> Result<Model, Error> {
        Ok(Model {
            hidden: LinearConfig::new(self.pixels, HIDDEN).init(device),
            features: LinearConfig::new(HIDDEN, FEATURES).init(device),
            head: CosineHeadConfig::new(FEATURES, self.counts.len()).init(device),
            loss: AlaLossConfig::new(self.counts.clone())
                .with_scale(16.0)
                .try_init(device)?,
        })
    }
}

/// The loss is a part of it, so that both steps have it.
#[derive(Module, Debug)]
pub struct Model {
    hidden: Linear,
    features: Linear,
    head: CosineHead,
    loss: AlaLoss,
}

/// What the metrics are made from.
#[derive(Debug)]
pub struct Output {
    loss: Tensor<1>,
    hits: Tensor<1, Bool>,
    labels: Tensor<1, Int>,
}

impl Model {
    fn output(&self, batch: Batch) -> Output {
        let hidden = activation::relu(self.hidden.forward(batch.images));
        let features = activation::relu(self.features.forward(hidden));
        let cosines = self.head.forward(features);
        let output = self.loss.forward_rows(cosines, batch.labels.clone());
        Output {
            loss: output.loss,
            hits: output.hits,
            labels: batch.labels,
        }
    }
}

impl TrainStep for Model {
    type Input = Batch;
    type Output = Output;

    fn step(&self, batch: Batch) -> TrainOutput<Output> {
        let output = self.output(batch);
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

impl InferenceStep for Model {
    type Input = Batch;
    type Output = Output;

    fn step(&self, batch: Batch) -> Output {
        self.output(batch)
    }
}

impl ItemLazy for Output {
    fn sync(self) -> Result<Self, ExecutionError> {
        Ok(Self {
            loss: self.loss.without_autodiff(),
            hits: self.hits.without_autodiff(),
            labels: self.labels.without_autodiff(),
        })
    }
}

impl Adaptor<LossInput> for Output {
    fn adapt(&self) -> LossInput {
        LossInput::new(self.loss.clone())
    }
}

impl Adaptor<HitInput> for Output {
    fn adapt(&self) -> HitInput {
        HitInput {
            hits: self.hits.clone(),
            labels: self.labels.clone(),
        }
    }
}
