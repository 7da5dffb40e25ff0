//! The loss of a batch on a CUDA device, a part of its rows after the other.

use std::cell::RefCell;
use std::ops::Range;

use ala_loss::cuda::{Options, Outputs, Upstream};
use candle_core::cuda::cudarc::driver::CudaSlice;
use candle_core::{
    CpuStorage, CudaStorage, DType, Device, InplaceOp1, Layout, Result, Tensor, bail,
};

use super::step::{DeviceStep, Logits, numbers};
use super::{Bound, CPU, alloc, tensor};
use crate::cosine_loss::{BatchLoss, RowResults};

/// The loss of a batch, a part of its rows after the other.
pub(crate) struct DeviceBatch<'a> {
    bound: &'a Bound,
    step: &'a DeviceStep,
    factor: DeviceFactor<'a>,
    divisor: Option<&'a Tensor>,
    rows: DeviceRows,
}

/// What the gradient of each row's loss is multiplied by.
#[derive(Clone, Copy)]
pub(crate) enum DeviceFactor<'a> {
    One,
    /// One number, `[1]`.
    Scalar(&'a Tensor),
    /// `[N]`
    PerRow(&'a Tensor),
}

/// What the steps of all parts leave.
struct DeviceRows {
    row_losses: CudaSlice<f32>,
    hits: CudaSlice<u8>,
    /// One for each part.
    losses: CudaSlice<f32>,
    parts: usize,
}

impl<'a> DeviceBatch<'a> {
    /// A batch of so many parts, whose step divides nothing.
    pub(crate) fn new(
        bound: &'a Bound,
        step: &'a DeviceStep,
        factor: DeviceFactor<'a>,
        divisor: Option<&'a Tensor>,
        parts: usize,
    ) -> Result<Self> {
        let (device, rows) = (step.device()?, step.rows());
        Ok(Self {
            bound,
            step,
            factor,
            divisor,
            rows: DeviceRows {
                row_losses: alloc(device, rows)?,
                hits: alloc(device, rows)?,
                losses: alloc(device, parts)?,
                parts: 0,
            },
        })
    }
}

impl BatchLoss for DeviceBatch<'_> {
    fn part(&mut self, logits: &Tensor, begin: usize, over: bool) -> Result<()> {
        let count = logits.dim(0)?;
        logits.inplace_op1(&PartOp {
            bound: self.bound,
            step: self.step,
            factor: self.factor,
            range: begin..begin + count,
            over,
            rows: RefCell::new(&mut self.rows),
        })
    }

    fn results(self) -> Result<RowResults> {
        let (device, rows) = (self.step.device()?, self.step.rows());
        let sum = match self.rows.parts {
            0 => Tensor::zeros((), DType::F32, &Device::Cuda(device.clone()))?,
            parts => tensor(self.rows.losses, device, parts).sum_all()?,
        };
        self.bound.poll(device)?;
        Ok(RowResults {
            loss: match self.divisor {
                // Where no row counts it is 0, not 0/0.
                Some(divisor) => sum
                    .eq(0f32)?
                    .where_cond(&sum, &(&sum / divisor.reshape(())?)?)?,
                None => sum,
            },
            row_losses: tensor(self.rows.row_losses, device, rows),
            hits: tensor(self.rows.hits, device, rows),
        })
    }
}

/// Loss of a part's logits, and their gradient over them where it is wanted.
struct PartOp<'a> {
    bound: &'a Bound,
    step: &'a DeviceStep,
    factor: DeviceFactor<'a>,
    range: Range<usize>,
    over: bool,
    rows: RefCell<&'a mut DeviceRows>,
}

impl InplaceOp1 for PartOp<'_> {
    fn name(&self) -> &'static str {
        "ala-loss-in-place"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        bail!("{CPU}")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let Some((begin, end)) = layout.contiguous_offsets() else {
            bail!("a product of matrices is not contiguous");
        };
        let mut logits = storage.as_cuda_slice_mut::<f32>()?.slice_mut(begin..end);
        let mut rows = self.rows.borrow_mut();
        let rows = &mut **rows;
        let range = self.range.clone();
        let mut row_losses = rows.row_losses.slice_mut(range.clone());
        let mut hits = rows.hits.slice_mut(range.clone());
        let mut loss = rows.losses.slice_mut(rows.parts..rows.parts + 1);
        rows.parts += 1;
        let outputs = Outputs::new()
            .row_losses(&mut row_losses)
            .hits(&mut hits)
            .loss(&mut loss);

        let (factor, wanted) = match self.factor {
            DeviceFactor::One => (None, 0..0),
            DeviceFactor::Scalar(factor) => (Some(factor), 0..1),
            DeviceFactor::PerRow(factors) => (Some(factors), range.clone()),
        };
        let of_factor = factor.map(Tensor::storage_and_layout);
        let factor = of_factor
            .as_ref()
            .map(|(storage, layout)| numbers(storage, layout, wanted))
            .transpose()?;
        let options = Options::new().upstream(match (&factor, self.factor) {
            (Some(factors), DeviceFactor::PerRow(_)) => Upstream::PerRow(factors),
            (Some(factor), _) => Upstream::Scalar(factor),
            (None, _) => Upstream::One,
        });
        let read;
        let logits = match self.over {
            true => Logits::Over(&mut logits),
            false => {
                read = logits.as_view();
                Logits::Read(&read)
            }
        };
        self.step
            .launch(self.bound, logits, range, options, outputs)
    }
}
