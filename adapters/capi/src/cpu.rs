//! A step on the host.

use std::ffi::c_void;
use std::mem::offset_of;

use ala_loss::{CpuElement, Error, Label, Lambda, Loss, Options, Outputs, Real, Summary, Upstream};
use half::{bf16, f16};

use crate::given::{self, Second, SecondLabels, none_given};
use crate::loss::{AlaLoss, AlaSummary};
use crate::numbers::{AlaElement, AlaLabel, AlaUpstream, entry, for_label};
use crate::pointers::{self, Growing};
use crate::status::{AlaStatus, Failure, guarded};

/// A step on the host, N rows of C classes. Set all to 0, then size, element, rows, logits, labels
/// and what else is wanted. Strides are in elements, from the start of one row to the next; what
/// lies between rows is neither read nor written. "Real" is double for ALA_ELEMENT_F64 and float
/// for the others. Buffers must not overlap, but for a gradient over the logits.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct AlaCpuStep {
    /// sizeof(AlaCpuStep).
    pub size: usize,
    /// An AlaElement: the type of logits and gradient.
    pub element: u32,
    /// An AlaLabel: the type of labels.
    pub label: u32,
    /// Rows N.
    pub rows: usize,
    /// Logits, `[N, C]`. The margin losses take cosines that are not yet scaled.
    pub logits: *const c_void,
    /// At least C; 0 for C.
    pub logits_stride: usize,
    /// Labels, `[N]`.
    pub labels: *const c_void,
    /// Where the gradient with respect to the logits goes, `[N, C]`; or null. The logits' own
    /// address and stride write it over them.
    pub gradient: *mut c_void,
    /// At least C; 0 for C.
    pub gradient_stride: usize,
    /// Where each row's weighted loss before reduction goes, `[N]` of Real; or null.
    pub row_losses: *mut c_void,
    /// Where it goes whether a row's largest logit is its target's (1, else 0), `[N]`; or null.
    pub hits: *mut u8,
    /// The upstream gradient: nothing, one Real or `[N]` of Real, as upstream_kind says.
    pub upstream: *const c_void,
    /// An AlaUpstream.
    pub upstream_kind: u32,
    /// 0.
    pub reserved: u32,
    /// The loss scale of mixed precision: multiplies the gradient before it is rounded; 0 for 1.
    pub gradient_scale: f64,
    /// A second label for each row, `[N]`, as mixup and CutMix make them, where lambda_kind says
    /// so; else null. Both losses, each with its own margin, weight and focal factor, come from one
    /// pass over the row. A label whose part is 0, and one that is the ignore label, counts for
    /// nothing; a row counts while one of its labels does. Hits are of the first label.
    pub second_labels: *const c_void,
    /// An AlaLabel: the type of second_labels.
    pub second_label: u32,
    /// An AlaLambda.
    pub lambda_kind: u32,
    /// With ALA_LAMBDA_SCALAR: every row's lambda, in [0, 1].
    pub lambda: f64,
    /// With ALA_LAMBDA_PER_ROW: each row's lambda, `[N]` of Real, in [0, 1].
    pub lambdas: *const c_void,
    /// A weight for each row, `[N]` of Real, finite and at least 0, which multiplies the row's loss
    /// and gradient and counts in ALA_DIVISOR_WEIGHTS; or null.
    pub row_weights: *const c_void,
    /// With ALA_DIVISOR_GIVEN: what the mean divides by, as of ala_divisor.
    pub divisor: f64,
    /// An AlaDivisor.
    pub divisor_kind: u32,
    /// 0.
    pub reserved_2: u32,
    /// Where each row's predicted class goes, the lowest of its largest logit, `[N]`; or null.
    /// ALA_NO_CLASS where a logit is NaN and where the row does not count.
    pub predictions: *mut u32,
}

// SAFETY: `repr(C)`, its size, then numbers and raw pointers.
unsafe impl Growing for AlaCpuStep {
    const NAME: &'static str = "AlaCpuStep";
    const FIRST_SIZE: usize = offset_of!(Self, gradient_scale) + size_of::<f64>();
}

/// Elements from the first row's start to the last one's end.
fn extent(rows: usize, stride: usize, classes: usize) -> Result<usize, Failure> {
    let Some(before) = rows.checked_sub(1) else {
        return Ok(0);
    };
    let extent = before.checked_mul(stride);
    let extent = extent.and_then(|extent| extent.checked_add(classes));
    extent.ok_or_else(|| Error::ShapeOverflow { rows, stride }.into())
}

/// A buffer's bytes.
struct Span {
    name: &'static str,
    start: usize,
    bytes: usize,
    written: bool,
}

fn check_apart(spans: &[Span]) -> Result<(), Failure> {
    for (place, a) in spans.iter().enumerate() {
        for b in &spans[place + 1..] {
            let meet = a.start < b.start.saturating_add(b.bytes)
                && b.start < a.start.saturating_add(a.bytes);
            if meet && (a.written || b.written) {
                return Err(Failure::new(
                    AlaStatus::Call,
                    format!(
                        "{} and {} overlap: give each a buffer of its own",
                        a.name, b.name
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// `None` where rows have one label.
fn second(step: &AlaCpuStep) -> Result<Option<Second<f64, *const c_void>>, Failure> {
    let fields = SecondLabels {
        labels: step.second_labels,
        label: step.second_label,
        lambda_kind: step.lambda_kind,
        lambda: step.lambda,
        lambdas: step.lambdas,
    };
    fields.read()
}

/// The options that say, beside the labels, what rows are held against and what they weigh.
///
/// # Safety
/// As [`ala_evaluate`].
unsafe fn row_options<'a, R: Real>(
    step: &AlaCpuStep,
    second: Option<Second<f64, *const c_void>>,
) -> Result<Options<'a, R>, Failure> {
    let rows = step.rows;
    let divisor = given::divisor(step.divisor_kind, step.divisor)?;
    let mut options = Options::new().divisor(divisor);
    if let Some((label, lambda)) = second {
        let lambda = match lambda {
            Lambda::Scalar(lambda) => Lambda::Scalar(lambda),
            Lambda::PerRow(lambdas) => {
                // SAFETY: the caller's promise.
                Lambda::PerRow(unsafe { pointers::slice("lambdas", lambdas.cast(), rows)? })
            }
        };
        let labels = step.second_labels;
        options = for_label!(label, L => {
            // SAFETY: the caller's promise.
            let labels = unsafe { pointers::slice::<L>("second_labels", labels.cast(), rows)? };
            options.mixed_with(labels, lambda)
        });
    }
    if !step.row_weights.is_null() {
        // SAFETY: the caller's promise.
        let weights = unsafe { pointers::slice("row_weights", step.row_weights.cast(), rows)? };
        options = options.row_weights(weights);
    }
    Ok(options)
}

/// # Safety
/// As [`ala_evaluate`].
unsafe fn run<T: CpuElement, L: Label>(loss: &Loss, step: &AlaCpuStep) -> Result<Summary, Failure> {
    let (rows, classes) = (step.rows, loss.classes());
    let stride = |given: usize, name: &'static str| match given {
        0 => Ok(classes),
        stride if stride < classes => Err(Failure::from(Error::Stride {
            name,
            stride,
            classes,
        })),
        stride => Ok(stride),
    };
    let logits_stride = stride(step.logits_stride, "logits")?;
    let gradient_stride = stride(step.gradient_stride, "gradient")?;
    let logits_length = extent(rows, logits_stride, classes)?;
    let gradient_length = extent(rows, gradient_stride, classes)?;
    let kind = entry("upstream_kind", AlaUpstream::ALL, step.upstream_kind)?;
    let in_place = !step.gradient.is_null() && step.gradient.cast_const() == step.logits;
    if in_place && gradient_stride != logits_stride {
        return Err(Failure::new(
            AlaStatus::Call,
            format!(
                "the gradient goes over the logits at stride {gradient_stride}: it must be theirs, \
                 {logits_stride}"
            ),
        ));
    }
    let upstream_length = match kind {
        AlaUpstream::One => {
            let given = [("upstream", !step.upstream.is_null())];
            none_given("upstream_kind is ALA_UPSTREAM_ONE", &given)?;
            0
        }
        AlaUpstream::Scalar => 1,
        AlaUpstream::PerRow => rows,
    };
    let second = second(step)?;
    let second_size = second.map_or(0, |(label, _)| for_label!(label, L => size_of::<L>()));
    let real = size_of::<T::Real>();
    let mut spans = Vec::with_capacity(10);
    for (name, start, length, size, written) in [
        (
            "logits",
            step.logits.addr(),
            logits_length,
            size_of::<T>(),
            in_place,
        ),
        ("labels", step.labels.addr(), rows, size_of::<L>(), false),
        (
            "gradient",
            match in_place {
                true => 0,
                false => step.gradient.addr(),
            },
            gradient_length,
            size_of::<T>(),
            true,
        ),
        ("row_losses", step.row_losses.addr(), rows, real, true),
        ("hits", step.hits.addr(), rows, 1, true),
        (
            "upstream",
            step.upstream.addr(),
            upstream_length,
            real,
            false,
        ),
        (
            "second_labels",
            step.second_labels.addr(),
            rows,
            second_size,
            false,
        ),
        ("lambdas", step.lambdas.addr(), rows, real, false),
        ("row_weights", step.row_weights.addr(), rows, real, false),
        ("predictions", step.predictions.addr(), rows, 4, true),
    ] {
        let bytes = length.saturating_mul(size);
        if start != 0 && bytes != 0 {
            spans.push(Span {
                name,
                start,
                bytes,
                written,
            });
        }
    }
    check_apart(&spans)?;

    let scale = match step.gradient_scale {
        0.0 => 1.0,
        scale => scale,
    };
    // SAFETY: the caller's promise; what is written overlaps nothing else.
    let (labels, upstream) = unsafe {
        (
            pointers::slice::<L>("labels", step.labels.cast(), rows)?,
            pointers::slice::<T::Real>("upstream", step.upstream.cast(), upstream_length)?,
        )
    };
    // SAFETY: as above.
    let options = unsafe { row_options(step, second)? }
        .stride(logits_stride)
        .gradient_scale(scale)
        .upstream(match kind {
            AlaUpstream::One => Upstream::One,
            AlaUpstream::Scalar => Upstream::Scalar(upstream[0].to_f64()),
            AlaUpstream::PerRow => Upstream::PerRow(upstream),
        });
    let mut outputs = Outputs::new();
    if !step.row_losses.is_null() {
        // SAFETY: as above.
        let losses = unsafe { pointers::slice_mut("row_losses", step.row_losses.cast(), rows)? };
        outputs = outputs.row_losses(losses);
    }
    if !step.predictions.is_null() {
        // SAFETY: as above.
        let predictions = unsafe { pointers::slice_mut("predictions", step.predictions, rows)? };
        outputs = outputs.predictions(predictions);
    }
    // What the caller's bytes are before need not be a bool.
    let mut hits = Vec::new();
    if !step.hits.is_null() {
        hits.try_reserve_exact(rows)
            .map_err(|_| Error::ShapeOverflow { rows, stride: 1 })?;
        hits.resize(rows, false);
        outputs = outputs.hits(&mut hits);
    }
    let summary = if in_place {
        // SAFETY: as above.
        let logits =
            unsafe { pointers::slice_mut::<T>("logits", step.gradient.cast(), logits_length)? };
        loss.evaluate_in_place(logits, labels, &options, outputs)?
    } else {
        if !step.gradient.is_null() {
            // SAFETY: as above.
            let gradient = unsafe {
                pointers::slice_mut::<T>("gradient", step.gradient.cast(), gradient_length)?
            };
            outputs = outputs.gradient_strided(gradient, gradient_stride);
        }
        // SAFETY: as above.
        let logits = unsafe { pointers::slice::<T>("logits", step.logits.cast(), logits_length)? };
        loss.evaluate_into(logits, labels, &options, outputs)?
    };
    if !step.hits.is_null() {
        // SAFETY: as above.
        let told = unsafe { pointers::slice_mut("hits", step.hits, rows)? };
        for (told, hit) in told.iter_mut().zip(hits) {
            *told = hit.into();
        }
    }
    Ok(summary)
}

/// # Safety
/// As [`ala_evaluate`].
unsafe fn with_labels<T: CpuElement>(loss: &Loss, step: &AlaCpuStep) -> Result<Summary, Failure> {
    let label = entry("label", AlaLabel::ALL, step.label)?;
    // SAFETY: the caller's promise.
    unsafe { for_label!(label, L => run::<T, L>(loss, step)) }
}

fn check_reserved(step: &AlaCpuStep) -> Result<(), Failure> {
    match (step.reserved, step.reserved_2) {
        (0, 0) => Ok(()),
        (0, _) => Err(Failure::new(AlaStatus::Argument, "reserved_2 is not 0")),
        _ => Err(Failure::new(AlaStatus::Argument, "reserved is not 0")),
    }
}

/// Loss and gradient of a batch in the caller's memory, on the host's cores. Everything is checked
/// before anything is written: after a failure the buffers hold what they held before.
///
/// ALA_STATUS_LABEL names the first row whose label is neither a class nor the ignore label,
/// ALA_STATUS_PARAMETER the first whose lambda or weight is out of range, ALA_STATUS_SHAPE a stride
/// below C, ALA_STATUS_CALL buffers that overlap and fields that exclude each other.
///
/// # Safety
/// loss must be one that was made and not destroyed; the step's buffers must be valid for their
/// shapes, and nothing else may write to them meanwhile or read what is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ala_evaluate(
    loss: *const AlaLoss,
    step: *const AlaCpuStep,
    summary: *mut AlaSummary,
) -> AlaStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (loss, step, summary) = unsafe {
            (
                &pointers::borrowed("loss", loss)?.loss,
                pointers::growing(step)?,
                pointers::place("summary", summary)?,
            )
        };
        check_reserved(&step)?;
        // SAFETY: the caller's promise.
        let told = unsafe {
            match entry("element", AlaElement::ALL, step.element)? {
                AlaElement::F32 => with_labels::<f32>(loss, &step)?,
                AlaElement::F16 => with_labels::<f16>(loss, &step)?,
                AlaElement::Bf16 => with_labels::<bf16>(loss, &step)?,
                AlaElement::F64 => with_labels::<f64>(loss, &step)?,
            }
        };
        summary.write(told.into());
        Ok(())
    })
}

/// # Safety
/// As [`ala_evaluate`], of what is read.
unsafe fn divisor_of<R: Real>(loss: &Loss, step: &AlaCpuStep) -> Result<f64, Failure> {
    let label = entry("label", AlaLabel::ALL, step.label)?;
    // SAFETY: the caller's promise.
    let options = unsafe { row_options::<R>(step, second(step)?)? };
    for_label!(label, L => {
        // SAFETY: the caller's promise.
        let labels = unsafe { pointers::slice::<L>("labels", step.labels.cast(), step.rows)? };
        Ok(loss.divisor(labels, &options)?)
    })
}

/// Puts what a mean over the step's rows divides by to *divisor, as divisor_kind says: the weights
/// of those that count, added up, or their number; 0 where none counts. Batches that are parts of a
/// larger one divide by the sum of theirs (ALA_DIVISOR_GIVEN).
///
/// Of the step only what says which rows count and what they weigh is read: element, label, rows,
/// labels, second labels with lambda, row_weights and the divisor's fields. It may be the step that
/// is evaluated then. Statuses are those of ala_evaluate.
///
/// # Safety
/// loss must be one that was made and not destroyed; what is read of the step valid for its shape
/// and type; divisor valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ala_divisor(
    loss: *const AlaLoss,
    step: *const AlaCpuStep,
    divisor: *mut f64,
) -> AlaStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (loss, step, divisor) = unsafe {
            (
                &pointers::borrowed("loss", loss)?.loss,
                pointers::growing(step)?,
                pointers::place("divisor", divisor)?,
            )
        };
        check_reserved(&step)?;
        // SAFETY: the caller's promise.
        let of_rows = unsafe {
            match entry("element", AlaElement::ALL, step.element)? {
                AlaElement::F64 => divisor_of::<f64>(loss, &step),
                AlaElement::F32 | AlaElement::F16 | AlaElement::Bf16 => {
                    divisor_of::<f32>(loss, &step)
                }
            }
        }?;
        divisor.write(of_rows);
        Ok(())
    })
}
