//! What a step of a cosine classifier costs, forward and backward: by `CosineLoss`, by `CosineHead`
//! and `CandleLoss` one after the other, and by `CosineHead` and candle's own cross-entropy, which
//! has no margin:
//!
//! ```text
//! cargo run --release -p ala-loss-candle --example cosine_cost
//! ```
//!
//! `-- cuda` (or `cuda:N`), built with `--features cuda`, is for a GPU.

use std::time::Instant;

use ala_loss::{ClassCounts, Loss, Objective};
use ala_loss_candle::{CandleLoss, CosineHead, CosineLoss};
use candle_core::{DType, Device, Module, Result, Tensor, Var};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Rounds, of which medians are told.
const ROUNDS: usize = 15;
/// A GPU is waited for after so many steps.
const GPU_STEPS: usize = 20;

/// Seconds of a step, and the host's memory in MiB.
fn cost(device: &Device, step: impl Fn() -> Result<()>) -> Result<(f64, f64)> {
    let steps = if device.is_cpu() { 1 } else { GPU_STEPS };
    let before = MEMORY.current_usage_as_mb();
    MEMORY.reset_peak_usage();
    let begun = Instant::now();
    for _ in 0..steps {
        step()?;
    }
    device.synchronize()?;
    let seconds = begun.elapsed().as_secs_f64() / steps as f64;
    Ok((seconds, f64::from(MEMORY.peak_usage_as_mb() - before)))
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// That of the command line.
fn device() -> std::result::Result<Device, Box<dyn std::error::Error>> {
    let Some(name) = std::env::args().nth(1) else {
        return Ok(Device::Cpu);
    };
    let ordinal = match name.strip_prefix("cuda") {
        Some("") => Some(0),
        Some(rest) => rest.strip_prefix(':').and_then(|n| n.parse().ok()),
        None => None,
    };
    match ordinal {
        Some(ordinal) => Ok(Device::new_cuda(ordinal)?),
        None => Err(format!("{name:?} is no device: nothing, cuda or cuda:N").into()),
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let device = device()?;
    println!(
        "N x C x D, a step by head and loss, CosineLoss, head and candle's cross-entropy; over head and loss"
    );
    for (rows, classes, width) in [(512, 8142, 512), (1024, 1000, 256)] {
        let counts: Vec<u64> = (0..classes as u64).map(|c| 1 + 1000 / (1 + c)).collect();
        let counts = ClassCounts::new(counts)?;
        let loss = Loss::new(Objective::ala(), &counts)?;
        let scale = loss.scale().unwrap_or(1.0);
        let features = Var::randn(0f32, 1.0, (rows, width), &device)?;
        let weight = Var::randn(0f32, 1.0, (classes, width), &device)?;
        let labels: Vec<u32> = (0..rows).map(|row| (row * row % classes) as u32).collect();
        let labels = Tensor::new(labels, &device)?.to_dtype(DType::U32)?;
        let apart = CandleLoss::new(loss.clone());
        let head = CosineHead::from_weight(weight.as_tensor().clone())?;
        let together = CosineLoss::new(loss);
        let backward = |value: Tensor| value.backward().map(drop);
        let steps: [&dyn Fn() -> Result<()>; 3] = [
            &|| backward(apart.forward(&head.forward(&features)?, &labels)?),
            &|| backward(together.forward(&features, &weight, &labels)?),
            &|| {
                let logits = (head.forward(&features)? * scale)?;
                backward(candle_nn::loss::cross_entropy(&logits, &labels)?)
            },
        ];
        let (mut times, mut memory) = ([const { vec![] }; 3], [0f64; 3]);
        // In turns, so that a drift hits all; the first round binds and loads.
        for round in 0..=ROUNDS {
            for (which, step) in steps.iter().enumerate() {
                let (seconds, most) = cost(&device, step)?;
                if round > 0 {
                    times[which].push(seconds);
                    memory[which] = memory[which].max(most);
                }
            }
        }
        print!("{rows} x {classes} x {width}:");
        for which in 0..3 {
            print!(" {:.3} ms", 1e3 * median(times[which].clone()));
            if device.is_cpu() {
                print!(" {:.0} MiB", memory[which]);
            }
        }
        let over = |which: usize| {
            let pairs = times[0].iter().zip(&times[which]);
            median(pairs.map(|(a, b)| b / a).collect())
        };
        println!("; {:.2}, {:.2}", over(1), over(2));
    }
    Ok(())
}
