//! A cosine classifier trained with candle, on the CPU or on a GPU:
//!
//! ```text
//! cargo run --release -p ala-loss-candle --example training_step
//! cargo run --release -p ala-loss-candle --features cuda --example training_step
//! ```

use ala_loss::{ClassCounts, Loss, Objective};
use ala_loss_candle::CosineLoss;
use candle_core::{DType, Device, Tensor};
use candle_nn::{AdamW, Init, Module, Optimizer, VarBuilder, VarMap, linear};

type Failure = Box<dyn std::error::Error>;

/// The loss of every hundredth step.
fn train(device: &Device) -> Result<Vec<(usize, f32)>, Failure> {
    let counts = ClassCounts::new([500, 50, 5])?; // training samples of each class
    let loss = Loss::builder(Objective::ala(), &counts)
        .scale(30.0)
        .build()?;
    let loss = CosineLoss::new(loss);

    let variables = VarMap::new();
    let vb = VarBuilder::from_varmap(&variables, DType::F32, device);
    let network = linear(16, 32, vb.pp("network"))?;
    // One row a class, no bias.
    let init = Init::Randn {
        mean: 0.0,
        stdev: 1.0,
    };
    let classes = vb.get_with_hints((3, 32), "classes", init)?;
    let mut optimizer = AdamW::new_lr(variables.all_vars(), 2e-3)?;

    let samples = Tensor::randn(0f32, 1.0, (8, 16), device)?; // of your data
    let labels = Tensor::new(&[0u32, 0, 1, 0, 2, 0, 1, 0], device)?;
    let mut seen = Vec::new();
    for step in 0..300 {
        let features = network.forward(&samples)?.relu()?;
        // Cosines, margin and scale are in it.
        let value = loss.forward(&features, &classes, &labels)?;
        optimizer.backward_step(&value)?;
        if step % 100 == 99 {
            // These two wait for a GPU. The first tells of a label out of range.
            loss.check(device)?;
            seen.push((step, value.to_scalar::<f32>()?));
        }
    }
    Ok(seen)
}

fn main() -> Result<(), Failure> {
    // Each runs what it is built for.
    let device = match cfg!(feature = "cuda") {
        true => Device::new_cuda(0)?,
        false => Device::Cpu,
    };
    for (step, loss) in train(&device)? {
        println!("{step}: {loss:.4}");
    }
    Ok(())
}

#[cfg(test)]
fn assert_the_loss_falls(device: &Device) {
    let seen = train(device).expect("it trains");
    let [(99, first), _, (299, last)] = seen[..] else {
        panic!("{seen:?}");
    };
    assert!(last < first && last < 1.0, "{seen:?}");
}

#[test]
fn the_loss_falls() {
    assert_the_loss_falls(&Device::Cpu);
}

#[cfg(feature = "cuda")]
#[test]
fn the_loss_falls_on_a_gpu() {
    use softcuda_client::client::SoftCuda;

    // As NVIDIA's driver; candle reads downloads without waiting.
    if let Some(soft) = SoftCuda::linked() {
        soft.set_prompt_downloads(true);
    }
    assert_the_loss_falls(&Device::new_cuda(0).expect("a device"));
}
