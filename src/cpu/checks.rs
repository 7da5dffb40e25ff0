//! What of a call's arguments is checked and sorted before its rows are walked, the same for every
//! call.

use super::batch::{Factors, Matrix, Top1Outputs};
use super::targets::{Counted, RowTargets};
use crate::call::{Divisor, Lambda, Options, Outputs, Upstream};
use crate::element::{Element, Label, Real};
use crate::error::{Error, check_parameter};
use crate::reduction::Reduction;
use crate::shape::{check_length, check_rows};

/// What a call's outputs are in parts: the gradient beside the logits, the row losses, the rest.
pub(super) type Parts<'a, T> = (
    Matrix<'a, T>,
    Option<&'a mut [<T as Element>::Real]>,
    Top1Outputs<'a>,
);

/// The outputs of a call with these logits, `[rows, classes]`.
pub(super) fn apart<'a, T: Element>(
    logits: &'a [T],
    (rows, classes): (usize, usize),
    options: &Options<'_, T::Real>,
    outputs: Outputs<'a, T>,
) -> Result<Parts<'a, T>, Error> {
    let stride = check_rows("logits", logits.len(), rows, classes, options.stride)?;
    let matrix = match outputs.gradient {
        Some(gradient) => {
            let gradient_stride = check_rows(
                "gradient",
                gradient.len(),
                rows,
                classes,
                outputs.gradient_stride,
            )?;
            Matrix::ReadWrite {
                logits,
                stride,
                gradient,
                gradient_stride,
            }
        }
        None => Matrix::Read { logits, stride },
    };
    let top1 = Top1Outputs {
        hits: outputs.hits,
        predictions: outputs.predictions,
    };
    Ok((matrix, outputs.row_losses, top1))
}

/// The same of a call that writes the gradient over the logits.
pub(super) fn apart_in_place<'a, T: Element>(
    logits: &'a mut [T],
    (rows, classes): (usize, usize),
    options: &Options<'_, T::Real>,
    outputs: Outputs<'a, T>,
) -> Result<Parts<'a, T>, Error> {
    if outputs.gradient.is_some() {
        return Err(Error::GradientBufferInPlace);
    }
    let stride = check_rows("logits", logits.len(), rows, classes, options.stride)?;
    let top1 = Top1Outputs {
        hits: outputs.hits,
        predictions: outputs.predictions,
    };
    Ok((Matrix::InPlace { logits, stride }, outputs.row_losses, top1))
}

pub(super) fn factors<'a, R: Real>(
    reduction: Reduction,
    options: &Options<'a, R>,
    rows: usize,
) -> Result<Factors<'a, R>, Error> {
    match options.upstream {
        Upstream::One => Ok(Factors::Same(1.0, options.gradient_scale)),
        Upstream::Scalar(upstream) => Ok(Factors::Same(upstream, options.gradient_scale)),
        Upstream::PerRow(upstream) => {
            if reduction != Reduction::None {
                return Err(Error::UpstreamNeedsNoReduction(reduction.name()));
            }
            check_length("upstream gradient", Some(upstream.len()), rows)?;
            Ok(Factors::Each(upstream, options.gradient_scale))
        }
    }
}

/// What the sum of the row losses is divided by.
pub(super) fn reduction_divisor(
    reduction: Reduction,
    counted: &Counted,
    divisor: Divisor,
) -> Result<f64, Error> {
    match reduction {
        // Where nothing counts the loss is 0, not 0/0.
        Reduction::Mean => match divisor_of(counted, divisor)? {
            0.0 => Ok(1.0),
            divisor => Ok(divisor),
        },
        Reduction::Sum | Reduction::None if divisor != Divisor::Weights => Err(Error::Misplaced {
            given: "a divisor in `Options`",
            instead: "only Reduction::Mean divides; Upstream::Scalar scales a gradient",
        }),
        Reduction::Sum | Reduction::None => Ok(1.0),
    }
}

pub(super) fn check_top1<R>(
    top1: &Top1Outputs<'_>,
    options: &Options<'_, R>,
    rows: usize,
    classes: usize,
) -> Result<(), Error> {
    if options.hits && top1.hits.is_none() {
        return Err(Error::Misplaced {
            given: "hits in `Options`",
            instead: "they are for results that the call allocates: give `Outputs::hits` a buffer",
        });
    }
    if options.predictions && top1.predictions.is_none() {
        return Err(Error::Misplaced {
            given: "predictions in `Options`",
            instead: "they are for results that the call allocates: give `Outputs::predictions` a \
                      buffer",
        });
    }
    check_top1_lengths(top1, rows, classes)
}

pub(super) fn check_top1_lengths(
    top1: &Top1Outputs<'_>,
    rows: usize,
    classes: usize,
) -> Result<(), Error> {
    check_length("hits", top1.hits.as_deref().map(<[_]>::len), rows)?;
    let predictions = top1.predictions.as_deref().map(<[_]>::len);
    check_length("predictions", predictions, rows)?;
    if predictions.is_some() && u32::try_from(classes).is_err() {
        return Err(Error::Parameter {
            name: "the number of classes",
            value: classes as f64,
            allowed: "at most 4294967295 where predictions, which are `u32`, are wanted",
        });
    }
    Ok(())
}

/// What the rows are held against, of which the lengths were checked.
pub(super) fn row_targets<'a, L: Label, R: Real>(
    (classes, ignore): (usize, Option<i64>),
    labels: &'a [L],
    options: &Options<'a, R>,
) -> Result<RowTargets<'a, L, R>, Error> {
    let rows = labels.len();
    if let Some(mixed) = options.mixed {
        check_length("second labels", Some(mixed.labels.len()), rows)?;
        if let Lambda::PerRow(lambda) = mixed.lambda {
            check_length("lambda", Some(lambda.len()), rows)?;
        }
    }
    check_length("row weights", options.row_weights.map(<[_]>::len), rows)?;
    Ok(RowTargets {
        labels,
        mixed: options.mixed,
        weights: options.row_weights,
        classes,
        ignore: ignore.map(i128::from),
    })
}

/// 0 where no row counts.
pub(super) fn divisor_of(counted: &Counted, divisor: Divisor) -> Result<f64, Error> {
    match divisor {
        Divisor::Weights => Ok(counted.weight),
        Divisor::Rows => Ok(counted.rows as f64),
        Divisor::Given(divisor) => {
            const ALLOWED: &str = "finite and above 0, or 0 where no row counts";
            check_parameter("divisor", divisor, ALLOWED, |divisor| {
                divisor > 0.0 || (divisor == 0.0 && counted.rows == 0)
            })
        }
    }
}
