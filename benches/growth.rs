//! Time and memory over the number of elements, from 10^4 to 10^9: `cargo bench --bench growth`.
//!
//! Time grows in proportion to `N C`: the slope of its logarithm is 1. The largest batch, and its
//! gradient over it in place, take 4 GB. `cargo bench --bench growth -- 8` stops at 10^8 elements.

use std::hint::black_box;
use std::time::Instant;

use ala_loss::{ClassCounts, Loss, Objective, Options, Outputs};

/// The most memory that this process has held, in bytes, where the system tells.
fn peak() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

fn main() {
    // Under `cargo test` it is only to build.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let last: u32 = std::env::args()
        .filter_map(|arg| arg.parse().ok())
        .next()
        .unwrap_or(9);
    let classes = 1000;
    let counts: Vec<u64> = (0..classes as u64).map(|j| 1 + 1000 / (1 + j)).collect();
    let counts = ClassCounts::new(counts).expect("valid");
    let loss = Loss::builder(Objective::ala(), &counts)
        .build()
        .expect("valid");
    let mut points = Vec::new();
    for exponent in 4..=last {
        let elements = 10usize.pow(exponent);
        let rows = elements / classes;
        let mut rng = fastrand::Rng::with_seed(1);
        let mut logits: Vec<f32> = (0..elements).map(|_| rng.f32() * 2.0 - 1.0).collect();
        let labels: Vec<u32> = (0..rows).map(|_| rng.u32(..classes as u32)).collect();
        let held = size_of_val(&*logits) + size_of_val(&*labels);
        // In place the logits change, and with them nothing that time depends on.
        let times = (0..(300_000_000 / elements).clamp(3, 1001)).map(|_| {
            let start = Instant::now();
            let summary =
                loss.evaluate_in_place(&mut logits, &labels, &Options::new(), Outputs::new());
            black_box(summary.expect("valid"));
            start.elapsed().as_secs_f64()
        });
        let mut times: Vec<f64> = times.collect();
        times.sort_unstable_by(f64::total_cmp);
        let time = times[times.len() / 2];
        let above = peak().map_or("unknown".into(), |peak| {
            format!("{:.1} MiB", (peak as f64 - held as f64) / 1_048_576.0)
        });
        println!(
            "10^{exponent} elements: {:>12.1} us, {:>5.0} ps an element; peak memory above inputs and outputs: {above}",
            time * 1e6,
            time * 1e12 / elements as f64
        );
        points.push((f64::from(exponent), time.log10()));
    }
    // Least squares.
    let n = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let covariance: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let variance: f64 = points.iter().map(|p| (p.0 - x) * (p.0 - x)).sum();
    println!("slope {:.3}, bound 0.9 to 1.1", covariance / variance);
}
