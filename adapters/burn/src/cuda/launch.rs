//! From burn's tensors to a launch: the one place of this crate with unsafe code.

use std::any::Any;
use std::fmt::Display;

use ala_loss::cuda::{
    CudaElement, CudaLabel, LabelType, RawMixed, RawStep, Upstream, driver_error,
};
use ala_loss::{Divisor, Error as LossError, Lambda, Summary};
use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape, TensorData};
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl::__private::Runtime;
use burn_cubecl::cubecl::client::Client;
use burn_cubecl::cubecl::cuda::CudaRuntime;
use burn_cubecl::cubecl::future::block_on;
use burn_cubecl::cubecl::server::Handle;
use burn_cubecl::tensor::CubeTensor;
use half::{bf16, f16};

use super::bound::Place;
use crate::error::Error;
use crate::step::{Mixed, RowWeights, Targets};

/// A tensor that a step writes to: nothing else refers to its memory.
pub(super) struct Output(CubeTensor);

impl Output {
    /// Memory without values, on a tensor's device.
    pub(super) fn new(beside: &CubeTensor, shape: &[usize], dtype: DType) -> Self {
        let shape = Shape::from(shape.to_vec());
        let handle = beside.client.empty(shape.num_elements() * dtype.size());
        let (client, device) = (beside.client.clone(), beside.device.clone());
        Self(CubeTensor::new_contiguous(
            client, device, shape, handle, dtype,
        ))
    }

    /// A tensor that was an output before, if it is the only one that refers to its memory.
    pub(super) fn reuse(tensor: CubeTensor) -> Option<Self> {
        tensor.can_mut().then_some(Self(tensor))
    }

    pub(super) fn into_tensor(self) -> CubeTensor {
        self.0
    }
}

/// A step of logits and contiguous targets, on one device.
pub(super) struct Work<'a> {
    pub(super) logits: &'a CubeTensor,
    /// From row to row of the logits, whose classes are neighbours.
    pub(super) stride: usize,
    /// Their numbers are `f32`.
    pub(super) targets: &'a Targets<CubeBackend>,
    pub(super) gradient: Option<&'a Output>,
    pub(super) row_losses: Option<&'a Output>,
    pub(super) hits: Option<&'a Output>,
    pub(super) loss: Option<&'a Output>,
    /// Contiguous `f32`.
    pub(super) upstream: Upstream<&'a CubeTensor>,
    pub(super) gradient_scale: f32,
    pub(super) skip_if_upstream: Option<f32>,
}

impl<'a> Work<'a> {
    /// Without outputs; all else at its default.
    pub(super) fn new(
        logits: &'a CubeTensor,
        stride: usize,
        targets: &'a Targets<CubeBackend>,
    ) -> Self {
        Self {
            logits,
            stride,
            targets,
            gradient: None,
            row_losses: None,
            hits: None,
            loss: None,
            upstream: Upstream::One,
            gradient_scale: 1.0,
            skip_if_upstream: None,
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.targets.labels.shape().num_elements()
    }
}

/// A step whose memory is held: it is neither freed nor moved, and burn's work on it is done.
pub(super) struct Held {
    step: RawStep,
    classes: usize,
    logits: DType,
    labels: DType,
    /// Where a divisor was given.
    given: Option<f64>,
    _memory: Vec<Box<dyn Any>>,
}

impl Held {
    /// Waits for all that burn has enqueued on the tensors' device from this thread, or on any of
    /// these tensors.
    pub(super) fn of(work: &Work<'_>, classes: usize) -> Result<Self, Error> {
        let rows = work.rows();
        let mut memory = Memory::of(&work.logits.client);
        let all = rows.saturating_sub(1) * work.stride + if rows == 0 { 0 } else { classes };
        let logits = memory.address(work.logits, all)?;
        let targets = work.targets;
        let labels = memory.address(&targets.labels, rows)?;
        let step = RawStep {
            logits_stride: work.stride,
            gradient: memory.output(work.gradient, rows * classes, work.logits.dtype)?,
            row_losses: memory.output(work.row_losses, rows, DType::F32)?,
            hits: memory.output(work.hits, rows, super::HIT)?,
            loss: memory.output(work.loss, 1, DType::F32)?,
            upstream: match work.upstream {
                Upstream::One => Upstream::One,
                Upstream::Scalar(number) => Upstream::Scalar(memory.address(number, 1)?),
                Upstream::PerRow(numbers) => Upstream::PerRow(memory.address(numbers, rows)?),
            },
            gradient_scale: work.gradient_scale,
            skip_if_upstream: work.skip_if_upstream,
            mixed: memory.mixed(&targets.mixed, rows)?,
            row_weights: match &targets.row_weights {
                RowWeights::No => None,
                RowWeights::Each(weights) => Some(memory.address(weights, rows)?),
            },
            divisor: match targets.divisor {
                Divisor::Weights => Divisor::Weights,
                Divisor::Rows => Divisor::Rows,
                Divisor::Given(divisor) => {
                    Divisor::Given(memory.number(work.logits, rounded_divisor(divisor)?)?)
                }
            },
            ..RawStep::new(rows, classes, logits, labels)
        };
        // After the last address: asking for one has this thread's stream wait for the stream that
        // the tensor comes from.
        block_on(work.logits.client.sync()).map_err(runtime)?;
        Ok(Self {
            step,
            classes,
            logits: work.logits.dtype,
            labels: targets.labels.dtype,
            given: match targets.divisor {
                Divisor::Given(divisor) => Some(divisor),
                Divisor::Weights | Divisor::Rows => None,
            },
            _memory: memory.held,
        })
    }

    /// Launches the step and waits for it. A label out of range is an error, and so is what else of
    /// a row the device refuses.
    pub(super) fn launch(self, place: &mut Place) -> Result<(), Error> {
        let classes = place.loss.loss().classes();
        if self.classes != classes {
            return Err(Error::Shape {
                name: "logits",
                got: vec![self.step.rows, self.classes],
                expected: format!("[N, {classes}]"),
            });
        }
        // A step that is skipped counts nothing; the one before it did.
        let given = self.given.filter(|_| self.step.skip_if_upstream.is_none());
        let summary = match self.logits {
            DType::F32 => self.labelled::<f32>(place),
            DType::F16 => self.labelled::<f16>(place),
            DType::BF16 => self.labelled::<bf16>(place),
            other => Err(Error::LogitType(other)),
        }?;
        match given {
            Some(0.0) if summary.counted_rows > 0 => Err(bad_divisor(0.0)),
            _ => Ok(()),
        }
    }

    fn labelled<T: CudaElement>(self, place: &mut Place) -> Result<Summary, Error> {
        match self.labels {
            DType::U8 => self.typed::<T, u8>(place),
            DType::U32 => self.typed::<T, u32>(place),
            DType::I32 => self.typed::<T, i32>(place),
            DType::I64 => self.typed::<T, i64>(place),
            other => return Err(Error::LabelType(other)),
        }
        .map_err(Error::Loss)
    }

    fn typed<T: CudaElement, L: CudaLabel>(self, place: &mut Place) -> Result<Summary, LossError> {
        let Place {
            loss,
            stream,
            workspace,
            ..
        } = place;
        // SAFETY: Sizes: `Held::of` took each address from memory that has room for what the rows,
        // the stride and the loss's classes make of it; `launch` compared the latter. Types:
        // `launch` and `labelled` matched T and L with the tensors', `Memory::mixed` told that of
        // the second labels, `Memory::output` those of the outputs; `targets_of` and `upstream_of`
        // made the other numbers `f32`. Lifetime: `self` holds the memory and `place` the loss and
        // the workspace until this call ends, which is after the stream has passed the launch, for
        // it is waited for below. Context: cubecl allocates in the device's primary context, which
        // the place's loss and stream are of. Overlap: an `Output` shares its memory with no
        // tensor. Order: burn's earlier work on the memory was waited for, and burn writes over no
        // tensor that somebody else still has, as the caller of the step has these.
        unsafe { loss.launch_raw::<T, L>(stream.cu_stream(), &self.step, workspace)? };
        // Before anything else that can fail, for the memory may not go before.
        stream.synchronize().map_err(driver_error)?;
        workspace.read(stream)
    }
}

/// Asks for addresses, and holds what they point to.
struct Memory<'a> {
    client: &'a Client,
    held: Vec<Box<dyn Any>>,
}

impl<'a> Memory<'a> {
    fn of(client: &'a Client) -> Self {
        Self {
            client,
            held: Vec::new(),
        }
    }

    fn output(
        &mut self,
        output: Option<&Output>,
        elements: usize,
        dtype: DType,
    ) -> Result<Option<u64>, Error> {
        let Some(Output(tensor)) = output else {
            return Ok(None);
        };
        match tensor.dtype == dtype {
            true => self.address(tensor, elements).map(Some),
            false => Err(Error::Runtime(format!("an output is {:?}", tensor.dtype))),
        }
    }

    fn mixed(
        &mut self,
        mixed: &Mixed<CubeBackend>,
        rows: usize,
    ) -> Result<Option<RawMixed>, Error> {
        let (labels, lambda) = match mixed {
            Mixed::No => return Ok(None),
            Mixed::Scalar { labels, lambda } => (labels, Lambda::Scalar(*lambda as f32)),
            Mixed::PerRow { labels, lambda } => {
                (labels, Lambda::PerRow(self.address(lambda, rows)?))
            }
        };
        Ok(Some(RawMixed {
            label_type: match labels.dtype {
                DType::U8 => LabelType::of::<u8>(),
                DType::U32 => LabelType::of::<u32>(),
                DType::I32 => LabelType::of::<i32>(),
                DType::I64 => LabelType::of::<i64>(),
                other => return Err(Error::LabelType(other)),
            },
            labels: self.address(labels, rows)?,
            lambda,
        }))
    }

    /// The address of a number that is brought to the device.
    fn number(&mut self, beside: &CubeTensor, number: f32) -> Result<u64, Error> {
        let data = TensorData::new(vec![number], [1]);
        let tensor = CubeBackend::float_from_data(data, &beside.device);
        let address = self.address(&tensor, 1)?;
        self.held.push(Box::new(tensor));
        Ok(address)
    }

    /// The address of a tensor's first element, of so many that a step reads or writes.
    fn address(&mut self, tensor: &CubeTensor, elements: usize) -> Result<u64, Error> {
        if elements == 0 {
            // Without rows nothing is there, and not even an address.
            return Ok(0);
        }
        let handle: Handle = tensor.handle.clone();
        let memory = self
            .client
            .get_resource::<<CudaRuntime as Runtime>::Server>(handle)
            .map_err(runtime)?;
        let (address, bytes) = (memory.resource().ptr, memory.resource().size);
        let needed = elements * tensor.dtype.size();
        if bytes < needed as u64 {
            return Err(Error::Runtime(format!(
                "a tensor has {bytes} bytes of memory: its shape needs {needed}"
            )));
        }
        self.held.push(Box::new(memory));
        Ok(address)
    }
}

/// The device divides by whatever it is given, in `f32`.
fn rounded_divisor(divisor: f64) -> Result<f32, Error> {
    let rounded = divisor as f32;
    match divisor == 0.0 || (rounded > 0.0 && rounded.is_finite() && rounded.recip().is_finite()) {
        true => Ok(rounded),
        false => Err(bad_divisor(divisor)),
    }
}

fn bad_divisor(divisor: f64) -> Error {
    Error::Loss(LossError::Parameter {
        name: "divisor",
        value: divisor,
        allowed: "finite and above 0, or 0 where no row counts; on CUDA as an f32",
    })
}

pub(super) fn runtime(error: impl Display) -> Error {
    Error::Runtime(error.to_string())
}
