//! The rows of a call with all that belongs to them, and how they are split in two.

use super::targets::{Targets, Terms};
use crate::call::NO_CLASS;
use crate::element::{Element, Real};

/// The logits and where the gradient goes. The last row need not be followed by its padding.
pub(super) enum Matrix<'a, T> {
    Read {
        logits: &'a [T],
        stride: usize,
    },
    ReadWrite {
        logits: &'a [T],
        stride: usize,
        gradient: &'a mut [T],
        gradient_stride: usize,
    },
    InPlace {
        logits: &'a mut [T],
        stride: usize,
    },
}

impl<'a, T> Matrix<'a, T> {
    fn split_at(self, row: usize) -> (Self, Self) {
        match self {
            Self::Read { logits, stride } => {
                let (a, b) = logits.split_at(row * stride);
                (
                    Self::Read { logits: a, stride },
                    Self::Read { logits: b, stride },
                )
            }
            Self::ReadWrite {
                logits,
                stride,
                gradient,
                gradient_stride,
            } => {
                let (a, b) = logits.split_at(row * stride);
                let (ga, gb) = gradient.split_at_mut(row * gradient_stride);
                let half = |logits, gradient| Self::ReadWrite {
                    logits,
                    stride,
                    gradient,
                    gradient_stride,
                };
                (half(a, ga), half(b, gb))
            }
            Self::InPlace { logits, stride } => {
                let (a, b) = logits.split_at_mut(row * stride);
                (
                    Self::InPlace { logits: a, stride },
                    Self::InPlace { logits: b, stride },
                )
            }
        }
    }

    #[inline(always)]
    pub(super) fn row(&self, row: usize, classes: usize) -> &[T] {
        let (logits, stride): (&[T], usize) = match self {
            Self::Read { logits, stride } | Self::ReadWrite { logits, stride, .. } => {
                (logits, *stride)
            }
            Self::InPlace { logits, stride } => (logits, *stride),
        };
        &logits[row * stride..][..classes]
    }

    /// The gradient of the row `old` and the logits of `new`, a later one.
    #[inline(always)]
    pub(super) fn overlap(
        &mut self,
        (old, new): (Option<usize>, Option<usize>),
        classes: usize,
    ) -> (Option<&mut [T]>, Option<&[T]>) {
        match self {
            Self::Read { logits, stride } => {
                (None, new.map(|row| &logits[row * *stride..][..classes]))
            }
            Self::ReadWrite {
                logits,
                stride,
                gradient,
                gradient_stride,
            } => (
                old.map(|row| &mut gradient[row * *gradient_stride..][..classes]),
                new.map(|row| &logits[row * *stride..][..classes]),
            ),
            Self::InPlace { logits, stride } => {
                let cut = new.map_or(logits.len(), |row| row * *stride);
                let (before, from) = logits.split_at_mut(cut);
                (
                    old.map(|row| &mut before[row * *stride..][..classes]),
                    new.map(|_| &from[..classes]),
                )
            }
        }
    }

    /// The row's gradient, with its logits where they lie elsewhere.
    #[inline(always)]
    pub(super) fn gradient(
        &mut self,
        row: usize,
        classes: usize,
    ) -> Option<(Option<&[T]>, &mut [T])> {
        match self {
            Self::Read { .. } => None,
            Self::ReadWrite {
                logits,
                stride,
                gradient,
                gradient_stride,
            } => Some((
                Some(&logits[row * *stride..][..classes]),
                &mut gradient[row * *gradient_stride..][..classes],
            )),
            Self::InPlace { logits, stride } => {
                Some((None, &mut logits[row * *stride..][..classes]))
            }
        }
    }
}

/// The upstream gradient, and the gradient scale.
#[derive(Clone, Copy)]
pub(super) enum Factors<'a, R> {
    Same(f64, f64),
    Each(&'a [R], f64),
}

/// What a row's gradient is multiplied by from outside. Apart, as their product may be beyond
/// `f64` where the gradient is not.
#[derive(Clone, Copy)]
pub(super) struct Outside {
    pub(super) upstream: f64,
    pub(super) scale: f64,
}

impl Outside {
    pub(super) fn is_finite(self) -> bool {
        self.upstream.is_finite() && self.scale.is_finite()
    }

    pub(super) fn is_zero(self) -> bool {
        self.upstream == 0.0 || self.scale == 0.0
    }
}

impl<R: Real> Factors<'_, R> {
    fn split_at(self, row: usize) -> (Self, Self) {
        match self {
            Self::Same(..) => (self, self),
            Self::Each(upstream, scale) => {
                let (a, b) = upstream.split_at(row);
                (Self::Each(a, scale), Self::Each(b, scale))
            }
        }
    }

    pub(super) fn at(self, row: usize) -> Outside {
        let (upstream, scale) = match self {
            Self::Same(upstream, scale) => (upstream, scale),
            Self::Each(upstream, scale) => (upstream[row].to_f64(), scale),
        };
        Outside { upstream, scale }
    }
}

/// What is wanted of which logit is a row's largest.
pub(super) struct Top1Outputs<'a> {
    pub(super) hits: Option<&'a mut [bool]>,
    pub(super) predictions: Option<&'a mut [u32]>,
}

impl Top1Outputs<'_> {
    fn split_at(self, row: usize) -> (Self, Self) {
        let hits = split_option(self.hits, row);
        let predictions = split_option(self.predictions, row);
        let part = |hits, predictions| Self { hits, predictions };
        (part(hits.0, predictions.0), part(hits.1, predictions.1))
    }

    /// The outputs of a row that counts. Where its prediction is wanted its hit comes from it, and
    /// the row is looked at once.
    #[inline(always)]
    pub(super) fn note(
        &mut self,
        row: usize,
        label: Option<usize>,
        prediction: impl FnOnce() -> Option<usize>,
        hit: impl FnOnce(usize) -> bool,
    ) {
        if let Some(predictions) = &mut self.predictions {
            let class = prediction();
            // There are fewer classes than NO_CLASS: it was checked.
            predictions[row] = class.map_or(NO_CLASS, |class| class as u32);
            if let Some(hits) = &mut self.hits {
                hits[row] = label.is_some() && class == label;
            }
        } else if let Some(hits) = &mut self.hits {
            hits[row] = label.is_some_and(hit);
        }
    }

    /// The outputs of a row that does not count.
    fn ignore(&mut self, row: usize) {
        if let Some(hits) = &mut self.hits {
            hits[row] = false;
        }
        if let Some(predictions) = &mut self.predictions {
            predictions[row] = NO_CLASS;
        }
    }
}

/// A run of rows with all that belongs to them.
#[expect(missing_debug_implementations, reason = "nobody outside can name it")]
pub struct Batch<'a, T: Element> {
    pub(super) matrix: Matrix<'a, T>,
    pub(super) targets: &'a dyn Targets,
    /// [`Targets::are_plain`].
    pub(super) plain: bool,
    /// The first row's number among the targets.
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) upstream: Factors<'a, T::Real>,
    pub(super) row_losses: Option<&'a mut [T::Real]>,
    pub(super) top1: Top1Outputs<'a>,
}

impl<T: Element> Batch<'_, T> {
    pub(super) fn split_at(self, row: usize) -> (Self, Self) {
        let matrix = self.matrix.split_at(row);
        let upstream = self.upstream.split_at(row);
        let row_losses = split_option(self.row_losses, row);
        let top1 = self.top1.split_at(row);
        let part = |first, count, matrix, upstream, row_losses, top1| Self {
            matrix,
            targets: self.targets,
            plain: self.plain,
            first,
            count,
            upstream,
            row_losses,
            top1,
        };
        let (first, rest) = (self.first, self.count - row);
        (
            part(first, row, matrix.0, upstream.0, row_losses.0, top1.0),
            part(
                first + row,
                rest,
                matrix.1,
                upstream.1,
                row_losses.1,
                top1.1,
            ),
        )
    }

    #[inline(always)]
    pub(super) fn terms(&self, row: usize) -> Option<Terms> {
        let row = self.first + row;
        if self.plain {
            let class = self.targets.first_class(row);
            return class.map(|class| Terms::single(class, 1.0));
        }
        self.targets.terms(row)
    }

    /// The class that the row's hit is of, where hits are wanted and its first label is one.
    #[inline(always)]
    pub(super) fn hit_of(&self, row: Option<usize>) -> Option<usize> {
        self.top1.hits.as_ref()?;
        self.targets.first_class(self.first + row?)
    }

    /// The outputs of a row that does not count.
    pub(super) fn ignore(&mut self, row: usize, classes: usize) {
        if let Some((_, gradient)) = self.matrix.gradient(row, classes) {
            gradient.fill(T::ZERO);
        }
        if let Some(losses) = &mut self.row_losses {
            losses[row] = T::Real::from_f64(0.0);
        }
        self.top1.ignore(row);
    }

    /// The loss of a row, where row losses are wanted.
    pub(super) fn note_loss(&mut self, row: usize, loss: f64) {
        if let Some(losses) = &mut self.row_losses {
            losses[row] = T::Real::from_f64(loss);
        }
    }
}

fn split_option<T>(slice: Option<&mut [T]>, at: usize) -> (Option<&mut [T]>, Option<&mut [T]>) {
    match slice {
        Some(slice) => {
            let (a, b) = slice.split_at_mut(at);
            (Some(a), Some(b))
        }
        None => (None, None),
    }
}
