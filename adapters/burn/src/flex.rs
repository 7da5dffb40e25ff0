//! The loss on flex, burn's backend for the CPU: on the tensors' own memory.

use std::borrow::Cow;
use std::ops::Range;

use ala_loss::{
    CpuElement, Divisor, Error as LossError, Lambda, Loss, Options, Outputs, Real, Reduction,
    Upstream,
};
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::ops::FloatTensorOps;
use burn::backend::{Element, Flex};
use burn::tensor::{DType, FloatDType, TensorData};
use half::{bf16, f16};

use crate::error::Error;
use crate::step::{Call, Mixed, RowWeights, Step, Steps, Targets};

/// An element type of both crates.
trait Logit: CpuElement<Real: Element> + Element {}
impl<T: CpuElement<Real: Element> + Element> Logit for T {}

/// Calls with the elements of a tensor's whole storage.
macro_rules! by_element {
    ($tensor:expr, $elements:ident => $call:expr) => {
        match $tensor.dtype() {
            DType::F32 => by_element!(f32, $tensor, $elements, $call),
            DType::F64 => by_element!(f64, $tensor, $elements, $call),
            DType::F16 => by_element!(f16, $tensor, $elements, $call),
            DType::BF16 => by_element!(bf16, $tensor, $elements, $call),
            other => Err(Error::LogitType(other)),
        }
    };
    ($type:ty, $tensor:expr, $elements:ident, $call:expr) => {{
        let $elements: &[$type] = $tensor.storage();
        $call
    }};
}

impl Steps for Flex {
    fn step(
        logits: &FlexTensor,
        targets: &Targets<Self>,
        call: &Call,
        with_gradient: bool,
    ) -> Result<Step<Self>, Error> {
        let rows = Rows::of(logits);
        let targets = contiguous_targets(targets);
        // Where nothing is reduced each row's own factor comes with the backward pass.
        let with_gradient = with_gradient && call.loss.reduction() != Reduction::None;
        by_element!(rows.tensor, all => step(&all[rows.range.clone()], rows.stride, &targets, call, with_gradient))
    }

    fn gradient(
        logits: &FlexTensor,
        targets: &Targets<Self>,
        call: &Call,
        kept: Option<FlexTensor>,
        upstream: &FlexTensor,
    ) -> Result<FlexTensor, Error> {
        let upstream = contiguous(upstream);
        if let Some(kept) = kept
            && is_all(&upstream, call.loss_scale)
        {
            return Ok(kept);
        }
        let rows = Rows::of(logits);
        let targets = contiguous_targets(targets);
        by_element!(rows.tensor, all => again(&all[rows.range.clone()], rows.stride, &targets, &call.loss, &upstream))
    }

    fn divisor(targets: &Targets<Self>, loss: &Loss) -> Result<f64, Error> {
        let targets = contiguous_targets(targets);
        let targets = Numbers::<f64>::of(&targets, loss)?;
        Ok(loss.divisor(&targets.labels, &targets.options())?)
    }
}

fn step<T: Logit>(
    logits: &[T],
    stride: usize,
    targets: &Targets<Flex>,
    call: &Call,
    with_gradient: bool,
) -> Result<Step<Flex>, Error> {
    let targets = Numbers::<T::Real>::of(targets, &call.loss)?;
    let (rows, classes) = (targets.labels.len(), call.loss.classes());
    let reduced = call.loss.reduction() != Reduction::None;
    let mut gradient = with_gradient.then(|| vec![T::ZERO; rows * classes]);
    let kept_rows = if call.rows || !reduced { rows } else { 0 };
    let mut row_losses = vec![<T::Real as Real>::from_f64(0.0); kept_rows];
    let mut hits = vec![false; if call.rows { rows } else { 0 }];
    let mut outputs = Outputs::new();
    if let Some(gradient) = &mut gradient {
        outputs = outputs.gradient(gradient);
    }
    if kept_rows > 0 {
        outputs = outputs.row_losses(&mut row_losses);
    }
    if call.rows {
        outputs = outputs.hits(&mut hits);
    }
    let options = targets.options();
    let options = options.stride(stride).gradient_scale(call.loss_scale);
    let summary = (call.loss).evaluate_into(logits, &targets.labels, &options, outputs)?;
    let row_losses = tensor(row_losses, &[kept_rows]);
    Ok(Step {
        loss: match reduced {
            true => tensor(vec![<T::Real as Real>::from_f64(summary.loss)], &[1]),
            false => row_losses.clone(),
        },
        row_losses,
        hits: tensor(hits, &[if call.rows { rows } else { 0 }]),
        gradient: gradient.map(|gradient| tensor(gradient, &[rows, classes])),
    })
}

/// The gradient with the upstream one applied before the rounding to `T`.
fn again<T: Logit>(
    logits: &[T],
    stride: usize,
    targets: &Targets<Flex>,
    loss: &Loss,
    upstream: &FlexTensor,
) -> Result<FlexTensor, Error> {
    let targets = Numbers::<T::Real>::of(targets, loss)?;
    let (rows, classes) = (targets.labels.len(), loss.classes());
    let mut gradient = vec![T::ZERO; rows * classes];
    let factors: Vec<f64> = upstream_values(upstream).collect();
    let each: Vec<T::Real>;
    let upstream = match loss.reduction() {
        Reduction::None => {
            each = factors.iter().map(|&f| Real::from_f64(f)).collect();
            Upstream::PerRow(&each[..])
        }
        // burn's own rules sum whatever arrives into the loss's shape, `[1]`.
        Reduction::Mean | Reduction::Sum => Upstream::Scalar(factors.iter().sum()),
    };
    let options = targets.options().stride(stride).upstream(upstream);
    let outputs = Outputs::new().gradient(&mut gradient);
    loss.evaluate_into(logits, &targets.labels, &options, outputs)?;
    Ok(tensor(gradient, &[rows, classes]))
}

fn tensor<E: Element>(values: Vec<E>, shape: &[usize]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.to_vec()))
}

fn contiguous(tensor: &FlexTensor) -> FlexTensor {
    match tensor.layout().contiguous_offsets() {
        Some(_) => tensor.clone(),
        None => tensor.to_contiguous(),
    }
}

/// As [`Numbers`] borrow and round them: contiguous, and numbers as `f64`.
fn contiguous_targets(targets: &Targets<Flex>) -> Targets<Flex> {
    let float = |numbers| contiguous(&Flex::float_cast(numbers, FloatDType::F64));
    targets.clone().map(|labels| contiguous(&labels), float)
}

/// Contiguous targets as the loss takes them. `R` is the type of the row losses.
struct Numbers<'a, R> {
    labels: Cow<'a, [i64]>,
    mixed: Option<MixedNumbers<'a, R>>,
    row_weights: Option<Vec<R>>,
    divisor: Divisor,
}

/// Second labels, and how much is the first ones'.
struct MixedNumbers<'a, R> {
    labels: Cow<'a, [i64]>,
    lambda: Lambda<f64, Vec<R>>,
}

impl<'a, R: Real> Numbers<'a, R> {
    fn of(targets: &'a Targets<Flex>, loss: &Loss) -> Result<Self, Error> {
        let second = |labels| {
            label_values(labels, |row, label| {
                Error::Loss(LossError::SecondLabel {
                    row,
                    label: label.into(),
                    classes: loss.classes(),
                })
            })
        };
        Ok(Self {
            labels: label_values(&targets.labels, |row, label| Error::LabelTooLarge {
                row,
                label,
            })?,
            mixed: match &targets.mixed {
                Mixed::No => None,
                Mixed::Scalar { labels, lambda } => Some(MixedNumbers {
                    labels: second(labels)?,
                    lambda: Lambda::Scalar(*lambda),
                }),
                Mixed::PerRow { labels, lambda } => Some(MixedNumbers {
                    labels: second(labels)?,
                    lambda: Lambda::PerRow(rounded(lambda)),
                }),
            },
            row_weights: match &targets.row_weights {
                RowWeights::No => None,
                RowWeights::Each(weights) => Some(rounded(weights)),
            },
            divisor: targets.divisor,
        })
    }

    /// All but stride and upstream gradient.
    fn options(&self) -> Options<'_, R> {
        let mut options = Options::new().divisor(self.divisor);
        if let Some(MixedNumbers { labels, lambda }) = &self.mixed {
            let lambda = match lambda {
                Lambda::Scalar(lambda) => Lambda::Scalar(*lambda),
                Lambda::PerRow(each) => Lambda::PerRow(&each[..]),
            };
            options = options.mixed_with(labels, lambda);
        }
        if let Some(weights) = &self.row_weights {
            options = options.row_weights(weights);
        }
        options
    }
}

/// Logits whose rows are slices, and where in their storage those are.
struct Rows {
    tensor: FlexTensor,
    range: Range<usize>,
    stride: usize,
}

impl Rows {
    fn of(logits: &FlexTensor) -> Self {
        let tensor = match row_stride(logits.layout()) {
            Some(_) => logits.clone(),
            None => logits.to_contiguous(),
        };
        let layout = tensor.layout();
        let (rows, classes) = (layout.shape()[0], layout.shape()[1]);
        let stride = row_stride(layout).unwrap_or(classes);
        let range = match rows {
            // No rows may begin past the storage's end.
            0 => 0..0,
            _ => {
                let start = layout.start_offset();
                start..start + (rows - 1) * stride + classes
            }
        };
        Self {
            range,
            stride,
            tensor,
        }
    }
}

/// The distance of two rows' starts, where each row of an `[N, C]` layout is one slice and no row
/// overlaps another.
fn row_stride(layout: &Layout) -> Option<usize> {
    let (shape, strides) = (layout.shape(), layout.strides());
    let (rows, classes) = (shape[0], shape[1]);
    if classes > 1 && strides[1] != 1 {
        return None;
    }
    // The stride of a single row or of none is whatever the tensor came from.
    if rows <= 1 {
        return Some(classes);
    }
    usize::try_from(strides[0])
        .ok()
        .filter(|&stride| stride >= classes)
}

/// Contiguous numbers in the type of the row losses.
fn rounded<R: Real>(numbers: &FlexTensor) -> Vec<R> {
    let Some(numbers) = numbers.as_slice::<f64>() else {
        unreachable!("`contiguous_targets` made it one of f64");
    };
    numbers.iter().map(|&number| R::from_f64(number)).collect()
}

/// Contiguous labels as integers; `i64` ones, burn's default, where they are. `too_large` names a
/// row and what it has.
fn label_values(
    labels: &FlexTensor,
    too_large: impl Fn(usize, u64) -> Error,
) -> Result<Cow<'_, [i64]>, Error> {
    macro_rules! widened {
        ($type:ty) => {
            labels
                .as_slice::<$type>()
                .map(|labels| labels.iter().map(|&label| i64::from(label)).collect())
        };
    }
    let values = match labels.dtype() {
        DType::I64 => labels.as_slice().map(Cow::Borrowed),
        DType::I32 => widened!(i32),
        DType::I16 => widened!(i16),
        DType::I8 => widened!(i8),
        DType::U32 => widened!(u32),
        DType::U16 => widened!(u16),
        DType::U8 => widened!(u8),
        DType::U64 => {
            let narrowed = |(row, &label): (usize, &u64)| {
                i64::try_from(label).map_err(|_| too_large(row, label))
            };
            let labels = labels.as_slice::<u64>().unwrap_or_default().iter();
            let labels: Result<Vec<i64>, Error> = labels.enumerate().map(narrowed).collect();
            Some(Cow::Owned(labels?))
        }
        _ => None,
    };
    values.ok_or(Error::LabelType(labels.dtype()))
}

/// A contiguous upstream gradient's numbers. It has the loss's type.
fn upstream_values(upstream: &FlexTensor) -> Box<dyn Iterator<Item = f64> + '_> {
    match (upstream.as_slice::<f32>(), upstream.as_slice::<f64>()) {
        (Some(values), _) => Box::new(values.iter().map(|&value| f64::from(value))),
        (_, Some(values)) => Box::new(values.iter().copied()),
        (None, None) => unreachable!("a loss is f32 or f64, and so is its gradient"),
    }
}

/// Whether each is that number, as the loss's own type has it: a third is another one there.
fn is_all(upstream: &FlexTensor, value: f64) -> bool {
    let value = match upstream.dtype() {
        DType::F64 => value,
        _ => f64::from(value as f32),
    };
    upstream_values(upstream).all(|factor| factor == value)
}
