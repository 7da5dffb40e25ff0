//! The loss on burn's CUDA device: by ala-loss's kernels, on tensors where they lie.
//!
//! burn does not say which stream its own kernels run on. So a step waits for burn's work, runs on
//! a stream of its own, and is waited for before its results are handed out. A label out of range
//! is known by then, and is an error of the call itself.

mod bound;
mod launch;

pub(crate) use bound::Bound;

use ala_loss::cuda::Upstream;
use ala_loss::{Loss, Reduction};
use burn::backend::flex::FlexTensor;
use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::{ExecutionError, Flex, TensorMetadata, get_device_settings};
use burn::tensor::{BoolStore, DType, FloatDType, IntDType, TensorData};
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl::future::block_on;
use burn_cubecl::kernel::{bool_cast, into_contiguous};
use burn_cubecl::tensor::CubeTensor;

use crate::error::Error;
use crate::step::{Call, Mixed, Step, Steps, Targets};
use launch::{Output, Work, runtime};

impl Steps for CubeBackend {
    fn step(
        logits: &CubeTensor,
        targets: &Targets<Self>,
        call: &Call,
        with_gradient: bool,
    ) -> Result<Step<Self>, Error> {
        let (logits, stride) = rows_of(logits)?;
        let targets = targets_of(targets)?;
        let (rows, classes) = (targets.labels.shape()[0], call.loss.classes());
        let reduced = call.loss.reduction() != Reduction::None;
        let new = |shape: &[usize], dtype| Output::new(&logits, shape, dtype);
        // Where nothing is reduced each row's own factor comes with the backward pass.
        let gradient = (with_gradient && reduced).then(|| new(&[rows, classes], logits.dtype));
        let loss = reduced.then(|| new(&[1], DType::F32));
        let with_losses = call.rows || !reduced;
        let row_losses = new(&[if with_losses { rows } else { 0 }], DType::F32);
        let hits = new(&[if call.rows { rows } else { 0 }], HIT);
        call.bound.run(
            &call.loss,
            &Work {
                gradient: gradient.as_ref(),
                row_losses: with_losses.then_some(&row_losses),
                hits: call.rows.then_some(&hits),
                loss: loss.as_ref(),
                gradient_scale: call.loss_scale as f32,
                ..Work::new(&logits, stride, &targets)
            },
        )?;
        let row_losses = row_losses.into_tensor();
        Ok(Step {
            loss: loss.map_or_else(|| row_losses.clone(), Output::into_tensor),
            row_losses,
            hits: as_bools(hits.into_tensor()),
            gradient: gradient.map(Output::into_tensor),
        })
    }

    fn gradient(
        logits: &CubeTensor,
        targets: &Targets<Self>,
        call: &Call,
        kept: Option<CubeTensor>,
        upstream: &CubeTensor,
    ) -> Result<CubeTensor, Error> {
        let (logits, stride) = rows_of(logits)?;
        let targets = targets_of(targets)?;
        let upstream = upstream_of(upstream, call.loss.reduction());
        // The kept gradient is made anew in its own memory, unless the device finds there that the
        // upstream one is what it was made for. So nothing is read back to decide that.
        let kept = kept.and_then(Output::reuse);
        let skip_if_upstream = kept.as_ref().map(|_| call.loss_scale as f32);
        let gradient = kept.unwrap_or_else(|| {
            let shape = [targets.labels.shape()[0], call.loss.classes()];
            Output::new(&logits, &shape, logits.dtype)
        });
        call.bound.run(
            &call.loss,
            &Work {
                gradient: Some(&gradient),
                upstream: match call.loss.reduction() {
                    Reduction::None => Upstream::PerRow(&upstream),
                    Reduction::Mean | Reduction::Sum => Upstream::Scalar(&upstream),
                },
                skip_if_upstream,
                ..Work::new(&logits, stride, &targets)
            },
        )?;
        Ok(gradient.into_tensor())
    }

    /// On the CPU, in `f64`: the number is the host's, and so what it is made of is read back.
    fn divisor(targets: &Targets<Self>, loss: &Loss) -> Result<f64, Error> {
        let int = |labels| on_host(block_on(Self::int_into_data(labels)));
        let float = |numbers| on_host(block_on(Self::float_into_data(numbers)));
        Flex::divisor(&targets.clone().try_map(int, float)?, loss)
    }
}

fn on_host(data: Result<TensorData, ExecutionError>) -> Result<FlexTensor, Error> {
    data.map(FlexTensor::from_data).map_err(runtime)
}

/// What the kernels write of a hit, and burn's own choice on CUDA.
const HIT: DType = DType::Bool(BoolStore::U8);

/// In the element type that the device's other bools have: burn compares no two kinds.
fn as_bools(hits: CubeTensor) -> CubeTensor {
    match get_device_settings::<CubeBackend>(&hits.device).bool_dtype {
        BoolStore::U32 => bool_cast(hits, DType::Bool(BoolStore::U32)),
        BoolStore::U8 | BoolStore::Native => hits,
    }
}

/// Logits whose rows are slices, and how far apart those are.
fn rows_of(logits: &CubeTensor) -> Result<(CubeTensor, usize), Error> {
    match logits.dtype {
        DType::F32 | DType::F16 | DType::BF16 => {}
        other => return Err(Error::LogitType(other)),
    }
    if let Some(stride) = row_stride(logits) {
        return Ok((logits.clone(), stride));
    }
    let logits = into_contiguous(logits.clone());
    let classes = logits.shape()[1];
    Ok((logits, classes))
}

fn row_stride(logits: &CubeTensor) -> Option<usize> {
    if logits.meta.is_tiled() {
        return None;
    }
    let (shape, strides) = (logits.meta.shape(), logits.meta.strides());
    let (rows, classes) = (shape[0], shape[1]);
    if classes > 1 && strides[1] != 1 {
        return None;
    }
    // The stride of a single row or of none is whatever the tensor came from.
    if rows <= 1 {
        return Some(classes);
    }
    Some(strides[0]).filter(|&stride| stride >= classes)
}

/// Targets of types that the kernels read, contiguous.
fn targets_of(targets: &Targets<CubeBackend>) -> Result<Targets<CubeBackend>, Error> {
    if let Mixed::Scalar { labels, .. } | Mixed::PerRow { labels, .. } = &targets.mixed
        && labels.dtype == DType::U64
    {
        return Err(Error::OptionType {
            name: "second labels",
            found: labels.dtype,
            expected: "on CUDA an integer of 8 to 64 bits other than U64",
        });
    }
    let float = |numbers: CubeTensor| Ok(contiguous(as_f32(numbers)));
    targets.clone().try_map(|labels| labels_of(&labels), float)
}

fn as_f32(numbers: CubeTensor) -> CubeTensor {
    match numbers.dtype {
        DType::F32 => numbers,
        _ => CubeBackend::float_cast(numbers, FloatDType::F32),
    }
}

/// Contiguous labels of a type that the kernels read.
fn labels_of(labels: &CubeTensor) -> Result<CubeTensor, Error> {
    let labels = match labels.dtype {
        DType::U8 | DType::U32 | DType::I32 | DType::I64 => labels.clone(),
        DType::I8 | DType::I16 | DType::U16 => CubeBackend::int_cast(labels.clone(), IntDType::I32),
        // A u64 would not fit: cast, the largest would be taken for an ignore label of -1.
        other => return Err(Error::LabelType(other)),
    };
    Ok(contiguous(labels))
}

/// The upstream gradient as the kernels read it: `f32`, one number or one for each row.
fn upstream_of(upstream: &CubeTensor, reduction: Reduction) -> CubeTensor {
    let upstream = as_f32(upstream.clone());
    if reduction != Reduction::None && upstream.shape().num_elements() != 1 {
        return CubeBackend::float_sum(upstream);
    }
    contiguous(upstream)
}

/// Without a copy where at most one element is there, whose stride says nothing.
fn contiguous(vector: CubeTensor) -> CubeTensor {
    match vector.meta.is_tiled() || vector.shape().num_elements() > 1 {
        true => into_contiguous(vector),
        false => vector,
    }
}
