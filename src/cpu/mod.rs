//! The CPU path: checks the whole batch, then walks its rows over rayon.

mod row;

use crate::element::{Element, Label, Real};
use crate::error::Error;
use crate::loss::{Loss, Reduction};
use crate::outcome::{Options, Outcome, Outputs, Summary, Upstream};
use crate::shape::{check_length, check_rows};
use crate::table::RowTable;
use row::Destination;

/// Rows are handed to a thread in runs of about this many elements. The cut depends on the shape alone, so the
/// sums below are added in the same order whatever the thread count.
const LEAF_ELEMENTS: usize = 16 * 1024;

pub(crate) fn owned<T: Element, L: Label>(
    loss: &Loss,
    logits: &[T],
    labels: &[L],
    options: &Options<'_, T::Real>,
) -> Result<Outcome<T>, Error> {
    let (rows, classes) = (labels.len(), loss.classes());
    // Checked before anything is allocated for it.
    check_rows("logits", logits.len(), rows, classes, options.stride)?;
    let mut gradient = vec![T::ZERO; rows * classes];
    let mut row_losses = vec![T::Real::from_f64(0.0); rows];
    let mut hits = options.hits.then(|| vec![false; rows]);
    let mut outputs = Outputs::new()
        .gradient(&mut gradient)
        .row_losses(&mut row_losses);
    if let Some(hits) = &mut hits {
        outputs = outputs.hits(hits);
    }
    let summary = into(loss, logits, labels, options, outputs)?;
    Ok(Outcome {
        loss: summary.loss,
        row_losses,
        gradient,
        counted_rows: summary.counted_rows,
        hits,
    })
}

pub(crate) fn into<T: Element, L: Label>(
    loss: &Loss,
    logits: &[T],
    labels: &[L],
    options: &Options<'_, T::Real>,
    outputs: Outputs<'_, T>,
) -> Result<Summary, Error> {
    let (rows, classes) = (labels.len(), loss.classes());
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
    run(
        loss,
        matrix,
        labels,
        options,
        outputs.row_losses,
        outputs.hits,
    )
}

pub(crate) fn in_place<T: Element, L: Label>(
    loss: &Loss,
    logits: &mut [T],
    labels: &[L],
    options: &Options<'_, T::Real>,
    outputs: Outputs<'_, T>,
) -> Result<Summary, Error> {
    if outputs.gradient.is_some() {
        return Err(Error::GradientBufferInPlace);
    }
    let (rows, classes) = (labels.len(), loss.classes());
    let stride = check_rows("logits", logits.len(), rows, classes, options.stride)?;
    let matrix = Matrix::InPlace { logits, stride };
    run(
        loss,
        matrix,
        labels,
        options,
        outputs.row_losses,
        outputs.hits,
    )
}

fn run<T: Element, L: Label>(
    loss: &Loss,
    matrix: Matrix<'_, T>,
    labels: &[L],
    options: &Options<'_, T::Real>,
    row_losses: Option<&mut [T::Real]>,
    hits: Option<&mut [bool]>,
) -> Result<Summary, Error> {
    let rows = labels.len();
    check_length("row losses", row_losses.as_deref().map(<[_]>::len), rows)?;
    check_length("hits", hits.as_deref().map(<[_]>::len), rows)?;
    let upstream = match options.upstream {
        Upstream::Scalar(upstream) => RowFactors::Same(upstream * options.gradient_scale),
        Upstream::PerRow(upstream) => {
            if loss.reduction() != Reduction::None {
                return Err(Error::UpstreamNeedsNoReduction(loss.reduction().name()));
            }
            check_length("upstream gradient", Some(upstream.len()), rows)?;
            RowFactors::Each(upstream, options.gradient_scale)
        }
    };
    let (counted_rows, total_weight) = weigh_labels(loss, labels)?;
    // Where nothing counts the loss is 0, not 0/0.
    let divisor = match loss.reduction() {
        Reduction::Mean if total_weight > 0.0 => total_weight,
        Reduction::Mean | Reduction::Sum | Reduction::None => 1.0,
    };
    let walk = Walk {
        table: loss.table(),
        ignore: loss.ignore_label().map(i128::from),
        divisor,
        leaf_rows: (LEAF_ELEMENTS / loss.classes()).max(1),
    };
    let sum = walk.rows(Rows {
        matrix,
        labels,
        upstream,
        row_losses,
        hits,
    });
    Ok(Summary {
        loss: sum / divisor,
        counted_rows,
        total_weight,
    })
}

/// Checks every label and adds up the weights of those that count, in row order.
fn weigh_labels<L: Label>(loss: &Loss, labels: &[L]) -> Result<(usize, f64), Error> {
    let classes = loss.classes();
    let ignore = loss.ignore_label().map(i128::from);
    let (mut counted, mut weight) = (0, 0.0);
    for (row, label) in labels.iter().enumerate() {
        if Some(label.value()) == ignore {
            continue;
        }
        let class = label.class(classes).ok_or(Error::Label {
            row,
            label: label.value(),
            classes,
        })?;
        counted += 1;
        weight += loss.table().targets[class].weight;
    }
    Ok((counted, weight))
}

/// The logits and where the gradient goes. The last row need not be followed by its padding.
enum Matrix<'a, T> {
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

    fn row(&self, row: usize, classes: usize) -> &[T] {
        let (logits, stride): (&[T], usize) = match self {
            Self::Read { logits, stride } | Self::ReadWrite { logits, stride, .. } => {
                (logits, *stride)
            }
            Self::InPlace { logits, stride } => (logits, *stride),
        };
        &logits[row * stride..][..classes]
    }

    fn destination(&mut self, row: usize, classes: usize) -> Option<Destination<'_, T>> {
        match self {
            Self::Read { .. } => None,
            Self::ReadWrite {
                logits,
                stride,
                gradient,
                gradient_stride,
            } => Some(Destination::Separate {
                logits: &logits[row * *stride..][..classes],
                gradient: &mut gradient[row * *gradient_stride..][..classes],
            }),
            Self::InPlace { logits, stride } => Some(Destination::OverLogits(
                &mut logits[row * *stride..][..classes],
            )),
        }
    }
}

/// The upstream gradient times the gradient scale.
#[derive(Clone, Copy)]
enum RowFactors<'a, R> {
    Same(f64),
    Each(&'a [R], f64),
}

impl<R: Real> RowFactors<'_, R> {
    fn split_at(self, row: usize) -> (Self, Self) {
        match self {
            Self::Same(_) => (self, self),
            Self::Each(upstream, scale) => {
                let (a, b) = upstream.split_at(row);
                (Self::Each(a, scale), Self::Each(b, scale))
            }
        }
    }

    fn at(self, row: usize) -> f64 {
        match self {
            Self::Same(factor) => factor,
            Self::Each(upstream, scale) => upstream[row].to_f64() * scale,
        }
    }
}

/// A run of rows with all that belongs to them.
struct Rows<'a, T: Element, L> {
    matrix: Matrix<'a, T>,
    labels: &'a [L],
    upstream: RowFactors<'a, T::Real>,
    row_losses: Option<&'a mut [T::Real]>,
    hits: Option<&'a mut [bool]>,
}

impl<T: Element, L> Rows<'_, T, L> {
    fn split_at(self, row: usize) -> (Self, Self) {
        let matrix = self.matrix.split_at(row);
        let labels = self.labels.split_at(row);
        let upstream = self.upstream.split_at(row);
        let row_losses = split_option(self.row_losses, row);
        let hits = split_option(self.hits, row);
        (
            Self {
                matrix: matrix.0,
                labels: labels.0,
                upstream: upstream.0,
                row_losses: row_losses.0,
                hits: hits.0,
            },
            Self {
                matrix: matrix.1,
                labels: labels.1,
                upstream: upstream.1,
                row_losses: row_losses.1,
                hits: hits.1,
            },
        )
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

struct Walk<'a> {
    table: &'a RowTable,
    ignore: Option<i128>,
    divisor: f64,
    leaf_rows: usize,
}

impl Walk<'_> {
    /// The rows' summed loss. Halving by row count alone fixes the order of the sum; `join` needs no allocation.
    fn rows<T: Element, L: Label>(&self, rows: Rows<'_, T, L>) -> f64 {
        let count = rows.labels.len();
        if count <= self.leaf_rows {
            return self.leaf(rows);
        }
        let (a, b) = rows.split_at(count / 2);
        let (a, b) = rayon::join(|| self.rows(a), || self.rows(b));
        a + b
    }

    fn leaf<T: Element, L: Label>(&self, mut rows: Rows<'_, T, L>) -> f64 {
        let classes = self.table.classes();
        let mut sum = 0.0;
        for (i, label) in rows.labels.iter().enumerate() {
            let target = match label.class(classes) {
                Some(target) if Some(label.value()) != self.ignore => target,
                _ => {
                    match rows.matrix.destination(i, classes) {
                        Some(Destination::Separate { gradient, .. }) => gradient.fill(T::ZERO),
                        Some(Destination::OverLogits(logits)) => logits.fill(T::ZERO),
                        None => {}
                    }
                    if let Some(losses) = &mut rows.row_losses {
                        losses[i] = T::Real::from_f64(0.0);
                    }
                    if let Some(hits) = &mut rows.hits {
                        hits[i] = false;
                    }
                    continue;
                }
            };
            let x = rows.matrix.row(i, classes);
            if let Some(hits) = &mut rows.hits {
                hits[i] = row::top1(x, target);
            }
            let row = row::sum_up(self.table, x, target);
            let loss = row.loss(self.table);
            sum += loss;
            if let Some(losses) = &mut rows.row_losses {
                losses[i] = T::Real::from_f64(loss);
            }
            let factor = rows.upstream.at(i) / self.divisor;
            if let Some(destination) = rows.matrix.destination(i, classes) {
                row.write_gradient(self.table, factor, destination);
            }
        }
        sum
    }
}
