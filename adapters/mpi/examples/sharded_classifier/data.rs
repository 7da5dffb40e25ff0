//! Samples of a long tail: around a prototype of their class.

use ala_loss::{ClassCounts, Error};
use fastrand::Rng;
use ndarray::Array2;

/// How far samples are from their prototypes, which have length 1.
const NOISE: f32 = 0.3;

/// Classes whose counts fall by a power law, from as many samples as there are classes to one.
pub struct LongTail {
    counts: ClassCounts,
    /// Samples of the classes up to each, added up.
    cumulative: Vec<u64>,
    width: usize,
    seed: u64,
    rng: Rng,
}

pub struct Batch {
    /// `[N, D]`.
    pub samples: Array2<f32>,
    pub labels: Vec<u32>,
}

impl LongTail {
    pub fn new(classes: usize, width: usize, seed: u64) -> Result<Self, Error> {
        let count = |class: usize| (classes / (class + 1)).max(1) as u64;
        let counts = ClassCounts::new((0..classes).map(count).collect::<Vec<u64>>())?;
        let mut total = 0;
        let cumulative = counts.as_slice().iter().map(|count| {
            total += count;
            total
        });
        Ok(Self {
            cumulative: cumulative.collect(),
            counts,
            width,
            seed,
            rng: Rng::with_seed(seed),
        })
    }

    pub fn counts(&self) -> &ClassCounts {
        &self.counts
    }

    pub fn batch(&mut self, rows: usize) -> Batch {
        let total = self.cumulative.last().copied().unwrap_or(1);
        let mut samples = Array2::zeros((rows, self.width));
        let labels = samples.rows_mut().into_iter().map(|mut sample| {
            let drawn = self.rng.u64(..total);
            let class = self.cumulative.partition_point(|&below| below <= drawn);
            // Its prototype, anew each time: of all classes they would fill the memory of a rank.
            let prototype = unit(&mut Rng::with_seed(mix(self.seed, class, 0)), self.width);
            let noise = unit(&mut self.rng, self.width);
            for ((x, p), n) in sample.iter_mut().zip(prototype).zip(noise) {
                *x = p + NOISE * n;
            }
            class as u32
        });
        let labels = labels.collect();
        Batch { samples, labels }
    }
}

/// A seed for each class and purpose.
pub fn mix(seed: u64, class: usize, purpose: u64) -> u64 {
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (class as u64) << 2 ^ purpose
}

/// A random direction.
pub fn unit(rng: &mut Rng, width: usize) -> Vec<f32> {
    // Sums of uniform numbers are near enough to a normal distribution.
    let normal = |rng: &mut Rng| (0..4).map(|_| rng.f32() - 0.5).sum::<f32>();
    let mut direction: Vec<f32> = (0..width).map(|_| normal(rng)).collect();
    let norm = direction.iter().map(|x| x * x).sum::<f32>().sqrt();
    // No direction has length 0 but with a chance that nobody lives to see.
    direction.iter_mut().for_each(|x| *x /= norm.max(1e-20));
    direction
}
