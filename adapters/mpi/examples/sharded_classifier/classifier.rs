//! A linear layer, and the cosines between its features and the weights of all classes.
//!
//! ```text
//! h = x A          [N, D]    on all ranks
//! u = h / |h|
//! cos = u W'       [N, K]    of this rank's classes; W is [K, D], its rows of length 1
//! ```

use ala_loss::{Loss, Options, Outputs};
use ala_loss_mpi::MpiLoss;
use fastrand::Rng;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, Zip};

use crate::Failure;
use crate::data::{Batch, mix, unit};

pub struct Classifier<'a> {
    ranks: &'a SimpleCommunicator,
    loss: MpiLoss,
    /// `A`, the same on all ranks.
    layer: Array2<f32>,
    /// `W` of this rank's classes.
    weights: Array2<f32>,
}

impl<'a> Classifier<'a> {
    pub fn new(
        loss: &Loss,
        ranks: &'a SimpleCommunicator,
        (width, seed): (usize, u64),
    ) -> Result<Self, Failure> {
        let loss = MpiLoss::even(loss, ranks)?;
        // By class, so that they do not depend on how classes are cut.
        let of_class = |class| unit(&mut Rng::with_seed(mix(seed, class, 1)), width);
        let weights: Vec<f32> = loss.shard().classes().flat_map(of_class).collect();
        let of_layer = |row| unit(&mut Rng::with_seed(mix(seed, row, 2)), width);
        let layer: Vec<f32> = (0..width).flat_map(of_layer).collect();
        Ok(Self {
            ranks,
            layer: Array2::from_shape_vec((width, width), layer)?,
            weights: Array2::from_shape_vec((loss.shard().classes().len(), width), weights)?,
            loss,
        })
    }

    /// A step of gradient descent; gives the batch's loss and top-1 hits before it.
    pub fn step(&mut self, batch: &Batch, rate: f32) -> Result<(f64, usize), Failure> {
        let h = batch.samples.dot(&self.layer);
        let (u, norms) = normalised(&h);
        let mut cosines = u.dot(&self.weights.t());

        let mut hits = vec![false; batch.labels.len()];
        let outputs = Outputs::new().hits(&mut hits);
        let logits = cosines.as_slice_mut().ok_or("cosines are not contiguous")?;
        let options = Options::new().hits();
        let summary = self
            .loss
            .evaluate_in_place(logits, &batch.labels, &options, outputs)?;

        // Of all classes, so that every rank changes its layer alike.
        let of_u = self.sum_over_ranks(&cosines.dot(&self.weights))?;
        let mut of_h = of_u;
        for ((mut g, u), norm) in of_h.rows_mut().into_iter().zip(u.rows()).zip(norms) {
            let along = g.dot(&u);
            Zip::from(&mut g)
                .and(u)
                .for_each(|g, u| *g = (*g - along * u) / norm);
        }
        general_mat_mul(-rate, &batch.samples.t(), &of_h, 1.0, &mut self.layer);
        general_mat_mul(-rate, &cosines.t(), &u, 1.0, &mut self.weights);
        let (weights, _) = normalised(&self.weights);
        self.weights = weights;
        Ok((summary.loss, hits.iter().filter(|&&hit| hit).count()))
    }

    /// In rank order, so that the sum has the same bits on all ranks and in every run.
    fn sum_over_ranks(&self, own: &Array2<f32>) -> Result<Array2<f32>, Failure> {
        let own_numbers = own.as_slice().ok_or("features are not contiguous")?;
        let mut all = vec![0f32; own.len() * self.ranks.size() as usize];
        self.ranks.all_gather_into(own_numbers, &mut all[..]);
        let mut sum = Array2::zeros(own.raw_dim());
        for part in all.chunks_exact(own.len()) {
            sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
        }
        Ok(sum)
    }
}

/// Rows of length 1, and what they were divided by.
fn normalised(rows: &Array2<f32>) -> (Array2<f32>, Vec<f32>) {
    let mut unit = rows.clone();
    let norms = unit.rows_mut().into_iter().map(|mut row| {
        let norm = row.dot(&row).sqrt().max(1e-12);
        row /= norm;
        norm
    });
    let norms = norms.collect();
    (unit, norms)
}
