//! The loss as an operation on the CPU: the gradient is made in the forward pass and handed out in
//! the backward pass.

use std::sync::{Arc, OnceLock};

use ala_loss::{CpuElement, Loss, Options, Outputs, Real, Reduction, Summary, Upstream};
use candle_core::{
    CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Storage, Tensor, WithDType, bail,
};

use crate::loss_op::{Kept, row_range};
use crate::step::HostStep;

pub(crate) struct CpuOp {
    pub(crate) loss: Loss,
    pub(crate) step: HostStep,
    /// What the gradient is kept for: an upstream gradient of this.
    pub(crate) loss_scale: f64,
    pub(crate) keep_gradient: bool,
    pub(crate) keep_rows: bool,
    pub(crate) kept: Arc<OnceLock<Kept>>,
}

/// An element type that both crates know.
trait Logit: CpuElement<Real: WithDType> + WithDType {}
impl<T: CpuElement<Real: WithDType> + WithDType> Logit for T {}

/// Calls a generic method on the storage's elements.
macro_rules! by_element {
    ($storage:expr, $elements:ident => $call:expr) => {
        match $storage {
            CpuStorage::F32($elements) => $call,
            CpuStorage::F64($elements) => $call,
            CpuStorage::F16($elements) => $call,
            CpuStorage::BF16($elements) => $call,
            other => bail!(
                "the logits are {}: expected f32, f64, f16 or bf16",
                candle_core::backend::BackendStorage::dtype(other).as_str()
            ),
        }
    };
}

impl CpuOp {
    fn forward<T: Logit>(&self, storage: &[T], layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, classes) = layout.shape().dims2()?;
        let (range, stride) = row_range(layout)?;
        let logits = &storage[range];
        let reduction = self.loss.reduction();
        let mut gradient = vec![
            T::ZERO;
            if self.keep_gradient {
                rows * classes
            } else {
                0
            }
        ];
        let mut row_losses = Vec::new();
        let mut hits = Vec::new();
        let mut outputs = Outputs::new();
        if self.keep_gradient {
            outputs = outputs.gradient(&mut gradient);
        }
        if self.keep_rows || reduction == Reduction::None {
            row_losses.resize(rows, <T::Real as Real>::from_f64(0.0));
            outputs = outputs.row_losses(&mut row_losses);
        }
        if self.keep_rows {
            hits.resize(rows, false);
            outputs = outputs.hits(&mut hits);
        }
        let upstream = (Upstream::One, self.loss_scale);
        let summary = self.evaluate(logits, stride, upstream, outputs)?;

        let kept = Kept {
            gradient: self
                .keep_gradient
                .then(|| Tensor::from_vec(gradient, (rows, classes), &Device::Cpu))
                .transpose()?,
            logits: (self.keep_gradient && is_16_bit(T::DTYPE))
                .then(|| {
                    let rows = (0..rows).flat_map(|row| &logits[row * stride..][..classes]);
                    Tensor::from_vec(
                        rows.copied().collect(),
                        (self.step.rows(), classes),
                        &Device::Cpu,
                    )
                })
                .transpose()?,
            row_losses: self
                .keep_rows
                .then(|| Tensor::from_slice(&row_losses, rows, &Device::Cpu))
                .transpose()?,
            hits: self
                .keep_rows
                .then(|| {
                    let hits = hits.into_iter().map(u8::from).collect();
                    Tensor::from_vec(hits, rows, &Device::Cpu)
                })
                .transpose()?,
        };
        if self.kept.set(kept).is_err() {
            bail!("the forward pass of one loss op ran twice");
        }
        Ok(match reduction {
            Reduction::None => (T::Real::to_cpu_storage_owned(row_losses), Shape::from(rows)),
            Reduction::Mean | Reduction::Sum => (
                T::Real::to_cpu_storage_owned(vec![<T::Real as Real>::from_f64(summary.loss)]),
                Shape::from(()),
            ),
        })
    }

    /// Calls the loss with the step; `scale` is for the gradient alone.
    fn evaluate<T: Logit>(
        &self,
        logits: &[T],
        stride: usize,
        (upstream, scale): (Upstream<f64, &[T::Real]>, f64),
        outputs: Outputs<'_, T>,
    ) -> Result<Summary> {
        self.step.of_rows(0..self.step.rows(), |labels, options| {
            let options: Options<'_, T::Real> = options
                .stride(stride)
                .divisor(self.step.divisor())
                .upstream(upstream)
                .gradient_scale(scale);
            self.loss.evaluate_into(logits, labels, &options, outputs)
        })
    }

    /// The kept gradient times what the upstream one is of the loss scale. A row that does not
    /// count stays 0, whatever arrives.
    fn scaled(&self, gradient: &Tensor, upstream: &[f64]) -> Result<Tensor> {
        if let (true, &[factor]) = (self.loss.reduction() != Reduction::None, upstream)
            && factor.is_finite()
        {
            return gradient.affine(factor, 0.0);
        }
        let rows = self.step.rows();
        let of_row = |row| match (
            self.step.counts(row, &self.loss),
            upstream.get(row).or(upstream.first()),
        ) {
            (true, Some(&factor)) => factor,
            _ => 0.0,
        };
        let factors: Vec<f64> = (0..rows).map(of_row).collect();
        let factors = Tensor::from_vec(factors, (rows, 1), &Device::Cpu)?;
        gradient.broadcast_mul(&factors.to_dtype(gradient.dtype())?)
    }

    /// The gradient with the upstream one applied before the rounding to `T`.
    fn recompute<T: Logit>(
        &self,
        storage: &[T],
        layout: &Layout,
        upstream: &[T::Real],
    ) -> Result<Tensor> {
        let (rows, classes) = layout.shape().dims2()?;
        let (range, stride) = row_range(layout)?;
        let logits = &storage[range];
        let mut gradient = vec![T::ZERO; rows * classes];
        let upstream = match (self.loss.reduction(), upstream) {
            (Reduction::None, rows) => Upstream::PerRow(rows),
            (_, [scalar]) => Upstream::Scalar(Real::to_f64(*scalar)),
            (_, other) => bail!(
                "the upstream gradient of a reduced loss has {} values",
                other.len()
            ),
        };
        let outputs = Outputs::new().gradient(&mut gradient);
        self.evaluate(logits, stride, (upstream, 1.0), outputs)?;
        Tensor::from_vec(gradient, (rows, classes), &Device::Cpu)
    }
}

fn is_16_bit(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

impl CustomOp1 for CpuOp {
    fn name(&self) -> &'static str {
        "ala-loss"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        by_element!(storage, logits => self.forward(logits, layout))
    }

    fn bwd(&self, _logits: &Tensor, _loss: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let Some(kept) = self.kept.get() else {
            bail!("the forward pass kept nothing");
        };
        let Some(gradient) = &kept.gradient else {
            bail!("the forward pass kept no gradient");
        };
        let mut factors = upstream
            .flatten_all()?
            .to_dtype(DType::F64)?
            .to_vec1::<f64>()?;
        // As the loss's own type has it: a third is another number there.
        let told = match upstream.dtype() {
            DType::F64 => self.loss_scale,
            _ => f64::from(self.loss_scale as f32),
        };
        if factors.iter().all(|&factor| factor == told) {
            return Ok(Some(gradient.clone()));
        }
        let gradient = match &kept.logits {
            Some(logits) => {
                let upstream = upstream.flatten_all()?.to_vec1::<f32>()?;
                let (storage, layout) = logits.storage_and_layout();
                match &*storage {
                    Storage::Cpu(CpuStorage::F16(logits)) => {
                        self.recompute(logits, layout, &upstream)?
                    }
                    Storage::Cpu(CpuStorage::BF16(logits)) => {
                        self.recompute(logits, layout, &upstream)?
                    }
                    _ => bail!("the logits that were kept are no 16-bit tensor on the CPU"),
                }
            }
            None => {
                for factor in &mut factors {
                    *factor /= self.loss_scale;
                }
                self.scaled(gradient, &factors)?
            }
        };
        Ok(Some(gradient))
    }
}
