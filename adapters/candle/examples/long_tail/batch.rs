//! A batch of samples, and how mixup makes one of it.

use ala_loss::{Divisor, Lambda};
use ala_loss_candle::StepOptions;
use candle_core::{Result, Tensor};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Beta, Distribution};

use crate::Failure;

/// Samples `[N, width]` and what they are held against.
pub(crate) struct Batch {
    pub(crate) samples: Tensor,
    /// `[N]`
    pub(crate) labels: Tensor,
    pub(crate) mixed: Option<Mixed>,
}

/// The second labels `[N]` of mixed samples, and how much of each sample is the first ones'.
pub(crate) struct Mixed {
    pub(crate) labels: Tensor,
    pub(crate) lambda: f64,
}

impl Batch {
    pub(crate) fn options<'a>(&'a self, divisor: Divisor<&'a Tensor>) -> StepOptions<'a> {
        let options = StepOptions::new().divisor(divisor);
        match &self.mixed {
            Some(mixed) => options.mixed_with(&mixed.labels, Lambda::Scalar(mixed.lambda)),
            None => options,
        }
    }

    /// The batch in so many parts, whose sizes differ by at most one sample.
    pub(crate) fn parts(&self, count: usize) -> impl Iterator<Item = Result<Self>> {
        let rows = self.labels.elem_count();
        let begin = move |part: usize| part * rows / count;
        (0..count).map(move |part| self.rows(begin(part), begin(part + 1)))
    }

    fn rows(&self, begin: usize, end: usize) -> Result<Self> {
        let part = |of: &Tensor| of.narrow(0, begin, end - begin);
        let mixed = |mixed: &Mixed| {
            let labels = part(&mixed.labels)?;
            let lambda = mixed.lambda;
            Ok::<_, candle_core::Error>(Mixed { labels, lambda })
        };
        Ok(Self {
            samples: part(&self.samples)?,
            labels: part(&self.labels)?,
            mixed: self.mixed.as_ref().map(mixed).transpose()?,
        })
    }
}

/// Mixes each batch with a permutation of itself by a lambda of `Beta(alpha, alpha)` (Zhang et al.,
/// "mixup: Beyond Empirical Risk Minimization", ICLR 2018): the same ones for every method.
pub(crate) struct Mixup {
    beta: Beta<f64>,
    random: ChaCha8Rng,
}

impl Mixup {
    pub(crate) fn new(alpha: f64, seed: u64) -> std::result::Result<Self, Failure> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        // Stream 0 draws the long tail, stream 1 the weights, stream 2 the batches.
        random.set_stream(3);
        Ok(Self {
            beta: Beta::new(alpha, alpha)?,
            random,
        })
    }

    /// The next batch's lambda and permutation.
    fn draw(&mut self, rows: usize) -> (f64, Vec<u32>) {
        let lambda = self.beta.sample(&mut self.random);
        let mut permutation: Vec<u32> = (0..rows as u32).collect();
        permutation.shuffle(&mut self.random);
        (lambda, permutation)
    }

    /// Of samples `[N, width]` and labels `[N]`.
    pub(crate) fn mix(&mut self, samples: &Tensor, labels: Tensor) -> Result<Batch> {
        let (lambda, permutation) = self.draw(labels.elem_count());
        let permutation = Tensor::from_vec(permutation, labels.shape(), labels.device())?;
        let partners = samples.index_select(&permutation, 0)?;
        Ok(Batch {
            samples: (samples.affine(lambda, 0.0)? + partners.affine(1.0 - lambda, 0.0)?)?,
            mixed: Some(Mixed {
                labels: labels.index_select(&permutation, 0)?,
                lambda,
            }),
            labels,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use candle_core::Device;

    fn lambdas(alpha: f64, seed: u64, count: usize) -> Vec<f64> {
        let mut mixup = Mixup::new(alpha, seed).expect("above 0");
        (0..count).map(|_| mixup.draw(1).0).collect()
    }

    /// Of `Beta(a, a)` the mean is 1/2 and the variance `1 / (4 (2 a + 1))`.
    #[test]
    fn lambda_is_of_the_beta_distribution() {
        const COUNT: usize = 20_000;
        for alpha in [1e-3, 0.2, 1.0, 4.0, 1e3] {
            let lambdas = lambdas(alpha, 5, COUNT);
            assert!(lambdas.iter().all(|l| (0.0..=1.0).contains(l)), "{alpha}");
            let mean = lambdas.iter().sum::<f64>() / COUNT as f64;
            let squares = lambdas.iter().map(|l| (l - 0.5).powi(2));
            let variance = squares.sum::<f64>() / COUNT as f64;
            let expected = 0.25 / (2.0 * alpha + 1.0);
            // Five standard errors of a mean.
            let error = 5.0 * (expected / COUNT as f64).sqrt();
            assert!((mean - 0.5).abs() < error, "{alpha}: {mean}");
            assert!((variance / expected - 1.0).abs() < 0.05, "{alpha}");
        }
    }

    /// The ends of what the command line takes.
    #[test]
    fn every_alpha_gives_numbers_from_0_to_1() {
        for alpha in [f64::from_bits(1), f64::MIN_POSITIVE, 1e-9, 1e6] {
            let lambdas = lambdas(alpha, 6, 1000);
            assert!(lambdas.iter().all(|l| (0.0..=1.0).contains(l)), "{alpha}");
        }
    }

    #[test]
    fn a_seed_repeats_and_another_one_differs() {
        let drawn = |seed: u64| {
            let mut mixup = Mixup::new(0.2, seed).expect("above 0");
            [(); 3].map(|()| mixup.draw(9))
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        let [first, second, _] = drawn(1);
        assert_ne!(first, second, "each batch has its own");
        let mut permutation = second.1;
        permutation.sort_unstable();
        assert!(permutation.into_iter().eq(0..9));
    }

    /// Sample `i` is `(i, -i)` and label `i`, so that a sample tells its labels.
    #[test]
    fn samples_and_labels_are_mixed_alike() -> Result<()> {
        const ROWS: u32 = 8;
        let numbers = Tensor::arange(0f64, f64::from(ROWS), &Device::Cpu)?;
        let samples = Tensor::stack(&[&numbers, &numbers.neg()?], 1)?;
        let labels = Tensor::arange(0u32, ROWS, &Device::Cpu)?;
        let mut mixup = Mixup::new(1.0, 3).expect("above 0");
        let batch = mixup.mix(&samples, labels)?;
        let mixed = batch.mixed.as_ref().expect("it was mixed");
        let first = batch.labels.to_vec1::<u32>()?;
        let second = mixed.labels.to_vec1::<u32>()?;
        assert!(first.iter().copied().eq(0..ROWS));
        assert_ne!(first, second);
        let found = batch.samples.to_vec2::<f64>()?;
        for ((a, b), found) in first.iter().zip(&second).zip(found) {
            let expected = mixed.lambda * f64::from(*a) + (1.0 - mixed.lambda) * f64::from(*b);
            assert!((found[0] - expected).abs() < 1e-12 && found[1] == -found[0]);
        }

        // In parts nothing is lost and nothing comes twice.
        let parts = batch.parts(3).collect::<Result<Vec<Batch>>>()?;
        let sizes = parts.iter().map(|part| part.labels.elem_count());
        assert!(sizes.eq([2, 3, 3]));
        let joined = |of: &dyn Fn(&Batch) -> Tensor| {
            Tensor::cat(&parts.iter().map(of).collect::<Vec<_>>(), 0)
        };
        let samples = joined(&|part| part.samples.clone())?.to_vec2::<f64>()?;
        assert_eq!(samples, batch.samples.to_vec2::<f64>()?);
        let labels = joined(&|part| part.labels.clone())?.to_vec1::<u32>()?;
        assert_eq!(labels, first);
        let of_part = |part: &Batch| part.mixed.as_ref().map(|mixed| mixed.labels.clone());
        let labels = joined(&|part| of_part(part).expect("it was mixed"))?;
        assert_eq!(labels.to_vec1::<u32>()?, second);
        assert!(parts.iter().all(|part| {
            let lambda = part.mixed.as_ref().map(|mixed| mixed.lambda);
            lambda == Some(mixed.lambda)
        }));
        Ok(())
    }
}
