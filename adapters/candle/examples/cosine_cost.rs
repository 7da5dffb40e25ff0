//! What a step of a cosine classifier costs, forward and backward, by `CosineLoss` and by
//! `CosineHead` and `CandleLoss` one after the other:
//!
//! ```text
//! cargo run --release -p ala-loss-candle --example cosine_cost
//! ```

use std::time::Instant;

use ala_loss::{ClassCounts, Loss, Objective};
use ala_loss_candle::{CandleLoss, CosineHead, CosineLoss};
use candle_core::{Device, Module, Result, Tensor, Var};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Rounds, of which medians are told.
const ROUNDS: usize = 15;

/// Seconds and MiB of a step.
fn cost(step: impl Fn() -> Result<()>) -> Result<(f64, f64)> {
    let before = MEMORY.current_usage_as_mb();
    MEMORY.reset_peak_usage();
    let begun = Instant::now();
    step()?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok((seconds, f64::from(MEMORY.peak_usage_as_mb() - before)))
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    println!("N x C x D: ms and MiB a step; one after the other, CosineLoss, ratio of times");
    for (rows, classes, width) in [(512, 8142, 512), (1024, 1000, 256)] {
        let counts: Vec<u64> = (0..classes as u64).map(|c| 1 + 1000 / (1 + c)).collect();
        let counts = ClassCounts::new(counts)?;
        let loss = Loss::new(Objective::ala(), &counts)?;
        let features = Var::randn(0f32, 1.0, (rows, width), &Device::Cpu)?;
        let weight = Var::randn(0f32, 1.0, (classes, width), &Device::Cpu)?;
        let labels: Vec<u32> = (0..rows).map(|row| (row * row % classes) as u32).collect();
        let labels = Tensor::new(labels, &Device::Cpu)?;
        let apart = CandleLoss::new(loss.clone());
        let head = CosineHead::from_weight(weight.as_tensor().clone())?;
        let together = CosineLoss::new(loss);
        let backward = |value: Tensor| value.backward().map(drop);
        let (mut times, mut bytes) = ([vec![], vec![]], [0f64; 2]);
        for _ in 0..ROUNDS {
            let costs = [
                cost(|| backward(apart.forward(&head.forward(&features)?, &labels)?))?,
                cost(|| backward(together.forward(&features, &weight, &labels)?))?,
            ];
            for (which, (seconds, most)) in costs.into_iter().enumerate() {
                times[which].push(seconds);
                bytes[which] = bytes[which].max(most);
            }
        }
        let ratio = median(times[0].iter().zip(&times[1]).map(|(a, b)| b / a).collect());
        let [apart, together] = times.map(|times| 1e3 * median(times));
        println!(
            "{rows} x {classes} x {width}: {apart:.1} ms {:.0} MiB, {together:.1} ms {:.0} MiB, {ratio:.2}",
            bytes[0], bytes[1]
        );
    }
    Ok(())
}
