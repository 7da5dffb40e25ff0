//! A step's labels and options on a device.

use std::ops::Range;
use std::sync::Arc;

use ala_loss::cuda::{CudaLabel, CudaLoss, Options, Outputs, Workspace};
use ala_loss::{Divisor, Lambda};
use candle_core::backend::BackendStorage;
use candle_core::cuda::CudaStorageSlice;
use candle_core::cuda::cudarc::driver::{CudaStream, CudaView, CudaViewMut, DevicePtr};
use candle_core::{CudaDevice, DType, Device, Layout, Result, Storage, Tensor, bail};

use super::bound::LossResult;
use super::{Bound, CPU, Logit, alloc, on_device, tensor};
use crate::step::StepOptions;

pub(super) enum Logits<'a, T> {
    Read(&'a CudaView<'a, T>),
    /// The gradient goes over them.
    Over(&'a mut CudaViewMut<'a, T>),
}

/// Calls a generic method on a storage's elements of a label type.
macro_rules! by_label {
    ($storage:expr, $range:expr, $labels:ident => $call:expr) => {
        match &$storage.slice {
            CudaStorageSlice::U8(all) => by_label!(all, $range, $labels, $call),
            CudaStorageSlice::U32(all) => by_label!(all, $range, $labels, $call),
            CudaStorageSlice::I32(all) => by_label!(all, $range, $labels, $call),
            CudaStorageSlice::I64(all) => by_label!(all, $range, $labels, $call),
            _ => bail!(
                "the labels are {}: on CUDA they are u8, u32, i32 or i64",
                $storage.dtype().as_str()
            ),
        }
    };
    ($all:ident, $range:expr, $labels:ident, $call:expr) => {{
        let $labels = &$all.slice($range);
        $call
    }};
}

/// What the rows of a batch are held against: contiguous, and numbers as f32.
#[derive(Clone, Debug)]
pub(crate) struct DeviceStep {
    labels: Tensor,
    /// Second labels, and how much of each row is its first one's.
    mixed: Option<(Tensor, Lambda<f32, Tensor>)>,
    weights: Option<Tensor>,
    /// A given one is `[1]`.
    divisor: Divisor<Tensor>,
}

impl DeviceStep {
    /// The step with these labels, all checked.
    pub(crate) fn new(labels: &Tensor, options: &StepOptions<'_>) -> Result<Self> {
        let numbers = |of: &Tensor| of.flatten_all()?.to_dtype(DType::F32)?.contiguous();
        let mixed = |(labels, lambda): (&Tensor, Lambda<f64, &Tensor>)| {
            let lambda = match lambda {
                Lambda::Scalar(lambda) => Lambda::Scalar(lambda as f32),
                Lambda::PerRow(each) => Lambda::PerRow(numbers(each)?),
            };
            Ok::<_, candle_core::Error>((labels.contiguous()?, lambda))
        };
        Ok(Self {
            labels: labels.contiguous()?,
            mixed: options.mixed.map(mixed).transpose()?,
            weights: options.row_weights.map(numbers).transpose()?,
            divisor: match options.divisor {
                Divisor::Weights => Divisor::Weights,
                Divisor::Rows => Divisor::Rows,
                Divisor::Given(divisor) => Divisor::Given(numbers(divisor)?),
            },
        })
    }

    pub(crate) fn rows(&self) -> usize {
        self.labels.elem_count()
    }

    pub(super) fn device(&self) -> Result<&CudaDevice> {
        match self.labels.device() {
            Device::Cuda(device) => Ok(device),
            _ => bail!("{CPU}"),
        }
    }

    /// Calls with what the options of a step say of some rows.
    fn with_options(
        &self,
        rows: Range<usize>,
        options: Options<'_>,
        call: impl FnOnce(&Options<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut options: Options<'_> = options;
        let weights = self.weights.as_ref().map(Tensor::storage_and_layout);
        let weights = weights
            .as_ref()
            .map(|(storage, layout)| numbers(storage, layout, rows.clone()))
            .transpose()?;
        if let Some(weights) = &weights {
            options = options.row_weights(weights);
        }
        let given = match &self.divisor {
            Divisor::Given(divisor) => Some(divisor.storage_and_layout()),
            Divisor::Weights | Divisor::Rows => None,
        };
        let given = given
            .as_ref()
            .map(|(storage, layout)| numbers(storage, layout, 0..1))
            .transpose()?;
        options = options.divisor(match (&self.divisor, &given) {
            (_, Some(given)) => Divisor::Given(given),
            (Divisor::Rows, None) => Divisor::Rows,
            (_, None) => Divisor::Weights,
        });
        let Some((second, lambda)) = &self.mixed else {
            return call(&options);
        };
        let each = match lambda {
            Lambda::PerRow(each) => Some(each.storage_and_layout()),
            Lambda::Scalar(_) => None,
        };
        let each = each
            .as_ref()
            .map(|(storage, layout)| numbers(storage, layout, rows.clone()))
            .transpose()?;
        let lambda = match (lambda, &each) {
            (&Lambda::Scalar(lambda), _) => Lambda::Scalar(lambda),
            (Lambda::PerRow(_), Some(each)) => Lambda::PerRow(each as &dyn DevicePtr<f32>),
            (Lambda::PerRow(_), None) => bail!("a lambda for each row is not there"),
        };
        let (storage, layout) = second.storage_and_layout();
        by_label!(on_device(&storage)?, part(layout, rows), second => {
            call(&options.mixed_with(second, lambda))
        })
    }

    /// Enqueues the step of the logits of some rows.
    pub(super) fn launch<T: Logit>(
        &self,
        bound: &Bound,
        logits: Logits<'_, T>,
        rows: Range<usize>,
        options: Options<'_>,
        outputs: Outputs<'_, T>,
    ) -> Result<()> {
        fn run<T: Logit, L: CudaLabel>(
            (loss, stream, workspace): (&CudaLoss, &Arc<CudaStream>, &mut Workspace),
            logits: Logits<'_, T>,
            labels: &impl DevicePtr<L>,
            options: &Options<'_>,
            outputs: Outputs<'_, T>,
        ) -> LossResult<()> {
            match logits {
                Logits::Read(logits) => {
                    loss.launch(stream, logits, labels, options, outputs, workspace)
                }
                Logits::Over(logits) => {
                    loss.launch_in_place(stream, logits, labels, options, outputs, workspace)
                }
            }
        }
        let device = self.device()?;
        let (storage, layout) = self.labels.storage_and_layout();
        let (storage, place) = (on_device(&storage)?, part(layout, rows.clone()));
        self.with_options(rows.clone(), options, |options| {
            by_label!(storage, place, labels => bound.enqueue(device, rows.len(), |loss, stream, workspace| {
                run((loss, stream, workspace), logits, labels, options, outputs)
            }))
        })
    }

    /// What a mean over all rows divides by, `[1]`; 0 where none counts.
    pub(crate) fn total(&self, bound: &Bound) -> Result<Tensor> {
        if let Divisor::Given(divisor) = &self.divisor {
            return Ok(divisor.clone());
        }
        let device = self.device()?;
        let mut total = alloc::<f32>(device, 1)?;
        let (storage, layout) = self.labels.storage_and_layout();
        let (storage, place) = (on_device(&storage)?, part(layout, 0..self.rows()));
        self.with_options(0..self.rows(), Options::new(), |options| {
            by_label!(storage, place, labels => bound.enqueue(device, self.rows(), |loss, stream, workspace| {
                loss.divisor(stream, labels, options, &mut total, workspace)
            }))
        })?;
        Ok(tensor(total, device, 1))
    }

    /// The step of a part of a batch, which is not divided: the batch is.
    pub(crate) fn undivided(self) -> Self {
        Self {
            divisor: Divisor::Weights,
            ..self
        }
    }
}

/// Where some of a contiguous tensor's numbers lie in its storage.
fn part(layout: &Layout, numbers: Range<usize>) -> Range<usize> {
    let start = layout.start_offset();
    start + numbers.start..start + numbers.end
}

/// Some numbers of a contiguous tensor.
pub(super) fn numbers<'a>(
    storage: &'a Storage,
    layout: &Layout,
    numbers: Range<usize>,
) -> Result<CudaView<'a, f32>> {
    let all = on_device(storage)?.as_cuda_slice::<f32>()?;
    Ok(all.slice(part(layout, numbers)))
}
