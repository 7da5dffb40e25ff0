//! A cosine classifier trained with burn:
//!
//! ```text
//! cargo run --release -p ala-loss-burn --example training_step
//! ```

use ala_loss_burn::{AlaLoss, AlaLossConfig, CosineHead, CosineHeadConfig};
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Distribution, Tensor, activation};

type Failure = Box<dyn std::error::Error>;

/// The loss is a part of it, so that it is made once.
#[derive(Module, Debug)]
struct Model {
    network: Linear,
    head: CosineHead,
    loss: AlaLoss,
}

/// The loss of every hundredth step.
fn train(device: &Device) -> Result<Vec<(usize, f32)>, Failure> {
    let mut model = Model {
        network: LinearConfig::new(16, 32).init(device),
        head: CosineHeadConfig::new(32, 3).init(device),
        loss: AlaLossConfig::new([500, 50, 5]) // training samples of each class
            .with_scale(30.0)
            .try_init(device)?,
    };
    let mut optimizer = AdamWConfig::new().init();

    let samples = Tensor::random([8, 16], Distribution::Normal(0.0, 1.0), device); // of your data
    let labels = Tensor::from_ints([0, 0, 1, 0, 2, 0, 1, 0], device);
    let mut seen = Vec::new();
    for step in 0..300 {
        let features = activation::relu(model.network.forward(samples.clone()));
        let cosines = model.head.try_forward(features)?; // not scaled
        let value = model.loss.try_forward(cosines, labels.clone())?;
        let gradients = GradientsParams::from_grads(value.backward(), &model);
        model = optimizer.step(2e-3, model, gradients);
        if step % 100 == 99 {
            seen.push((step, value.into_scalar()));
        }
    }
    Ok(seen)
}

fn main() -> Result<(), Failure> {
    for (step, loss) in train(&Device::flex().autodiff())? {
        println!("{step}: {loss:.4}");
    }
    Ok(())
}

#[test]
fn the_loss_falls() {
    let seen = train(&Device::flex().autodiff()).expect("it trains");
    let [(99, first), _, (299, last)] = seen[..] else {
        panic!("{seen:?}");
    };
    assert!(last < first && last < 1.0, "{seen:?}");
}
