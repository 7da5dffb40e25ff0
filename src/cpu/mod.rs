//! The CPU path: checks the whole batch, then walks its rows over rayon.

mod arch;
mod exp2;
mod half_bits;
mod lane;
mod map;
mod row;
mod sweep;

use std::ops::Range;

use crate::element::{Element, Label, Real};
use crate::error::Error;
use crate::loss::{Loss, Reduction};
use crate::outcome::{Options, Outcome, Outputs, Summary, Upstream};
use crate::shape::{check_length, check_rows};
use crate::table::{Others, RowTable};
pub use arch::CpuInstance;
pub use lane::Lane;
use lane::{Float, KEPT, KeptExponentials};
pub(crate) use map::LaneTable;
use map::{Map, PerClass, Uniform};
use row::Row;
use sweep::{BLOCK, FinishStreams, Partial, SumBlocks, SumKept, Top1, WriteAgain, WriteKept};

/// Rows are handed to a thread in runs of about this many elements, but at least of [`LEAF_ROWS`] where they are kept.
/// The cut depends on the shape alone, so the sums below are added in the same order whatever the thread count.
const LEAF_ELEMENTS: usize = 16 * 1024;

/// A run's stack is cleared once, and is as long as a row.
const LEAF_ROWS: usize = 4;

/// A row too long to be kept is handed out in runs of so many columns.
const LEAF_COLUMNS: usize = 8 * BLOCK;

/// Up to so many elements the calling thread is done before another would have woken.
const ONE_THREAD_ELEMENTS: usize = 64 * 1024;

/// A gradient of more bytes than this does not stay in the cache, nor should it push out what does.
const STREAM_BYTES: usize = 8 << 20;

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
    let elements = rows.saturating_mul(loss.classes());
    let walk = Walk {
        instance: CpuInstance::active(),
        table: loss.table(),
        lane_table: loss.lane_table(),
        ignore: loss.ignore_label().map(i128::from),
        divisor,
        leaf_rows: leaf_rows(loss.classes()),
        parallel: elements > ONE_THREAD_ELEMENTS && rayon::current_num_threads() > 1,
        stream: elements.saturating_mul(size_of::<T>()) > STREAM_BYTES,
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

fn leaf_rows(classes: usize) -> usize {
    let least = if classes <= KEPT { LEAF_ROWS } else { 1 };
    (LEAF_ELEMENTS / classes).max(least)
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

    /// Where the row's logits begin; past the last row it is an address only.
    fn address(&self, row: usize) -> *const T {
        match self {
            Self::Read { logits, stride } | Self::ReadWrite { logits, stride, .. } => {
                logits.as_ptr().wrapping_add(row * stride)
            }
            Self::InPlace { logits, stride } => logits.as_ptr().wrapping_add(row * *stride),
        }
    }

    /// The row's gradient, with its logits where they lie elsewhere.
    fn gradient(&mut self, row: usize, classes: usize) -> Option<(Option<&[T]>, &mut [T])> {
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
    instance: CpuInstance,
    table: &'a RowTable,
    lane_table: &'a LaneTable,
    ignore: Option<i128>,
    divisor: f64,
    leaf_rows: usize,
    parallel: bool,
    stream: bool,
}

impl Walk<'_> {
    /// Does both, in either order or at once. Neither way allocates.
    fn both<A: Send, B: Send>(
        &self,
        a: impl FnOnce() -> A + Send,
        b: impl FnOnce() -> B + Send,
    ) -> (A, B) {
        if self.parallel {
            rayon::join(a, b)
        } else {
            (a(), b())
        }
    }

    /// The rows' summed loss. Halving by row count alone fixes the order of the sum.
    fn rows<T: Element, L: Label>(&self, rows: Rows<'_, T, L>) -> f64 {
        let count = rows.labels.len();
        if count > self.leaf_rows {
            let (a, b) = rows.split_at(count / 2);
            let (a, b) = self.both(|| self.rows(a), || self.rows(b));
            return a + b;
        }
        match &self.table.others {
            Others::Uniform { slope } => self.leaf(rows, Uniform::new(*slope)),
            Others::PerClass(_) => self.leaf(rows, PerClass(T::Wide::columns(self.lane_table))),
        }
    }

    fn leaf<T: Element, L: Label>(&self, rows: Rows<'_, T, L>, map: impl Map<T::Wide>) -> f64 {
        if self.table.classes() <= KEPT {
            self.kept_leaf(rows, map)
        } else {
            self.each_row(rows, &mut LongRow { walk: self, map })
        }
    }

    // Not part of its caller, whose stack would grow by the exponentials once for every nested run of long rows.
    #[inline(never)]
    fn kept_leaf<T: Element, L: Label>(&self, rows: Rows<'_, T, L>, map: impl Map<T::Wide>) -> f64 {
        let mut kept = KeptExponentials::new();
        let kept = match rows.matrix {
            Matrix::Read { .. } => None,
            _ => Some(kept.zeroed(self.table.classes() + arch::MOST_LANES)),
        };
        let sum = self.each_row(
            rows,
            &mut KeptRow {
                walk: self,
                map,
                kept,
            },
        );
        if self.stream {
            self.instance.run(FinishStreams);
        }
        sum
    }

    fn each_row<T: Element, L: Label>(
        &self,
        mut rows: Rows<'_, T, L>,
        solver: &mut impl Solver<T>,
    ) -> f64 {
        let classes = self.table.classes();
        let mut sum = 0.0;
        for (i, label) in rows.labels.iter().enumerate() {
            let target = match label.class(classes) {
                Some(target) if Some(label.value()) != self.ignore => target,
                _ => {
                    if let Some((_, gradient)) = rows.matrix.gradient(i, classes) {
                        gradient.fill(T::ZERO);
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
                hits[i] = self.instance.run(Top1 { x, target });
            }
            let ahead = rows.matrix.address(i + 1);
            let Partial { top, sum: others } = solver.sum_up(x, target, ahead);
            let shift = solver.shift(top);
            let row = Row::new(self.table, target, x[target].to_f64(), shift, others);
            let loss = row.loss();
            sum += loss;
            if let Some(losses) = &mut rows.row_losses {
                losses[i] = T::Real::from_f64(loss);
            }
            let (at_target, scale) = row.gradient(rows.upstream.at(i) / self.divisor);
            if let Some((x, gradient)) = rows.matrix.gradient(i, classes) {
                if row.is_nan() {
                    gradient.fill(T::from_f64(f64::NAN));
                    continue;
                }
                solver.write(x, gradient, top, scale);
                gradient[target] = T::from_f64(at_target);
            }
        }
        sum
    }
}

/// The two passes over a row that [`Row`] lies between.
trait Solver<T: Element> {
    /// `ahead` is where the next row begins.
    fn sum_up(&mut self, x: &[T], target: usize, ahead: *const T) -> Partial<T::Wide>;
    fn shift(&self, top: T::Wide) -> f64;
    /// Writes the gradient off the target; `x` is `None` where the logits are what is written over.
    fn write(&mut self, x: Option<&[T]>, gradient: &mut [T], top: T::Wide, scale: f64);
}

/// A gradient's factor, rounded. What is finite stays so: times a power of 0 it must be 0.
fn factor<R: Float>(scale: f64) -> R {
    if scale.is_finite() {
        R::round(scale.clamp(R::LOWEST.widen(), -R::LOWEST.widen()))
    } else {
        R::round(scale)
    }
}

/// A row whose powers are kept from the sum to the gradient.
struct KeptRow<'a, M, R> {
    walk: &'a Walk<'a>,
    map: M,
    kept: Option<&'a mut [R]>,
}

impl<T: Element, M: Map<T::Wide>> Solver<T> for KeptRow<'_, M, T::Wide> {
    fn sum_up(&mut self, x: &[T], target: usize, ahead: *const T) -> Partial<T::Wide> {
        self.walk.instance.run(SumKept {
            map: self.map,
            x,
            target,
            kept: self.kept.as_deref_mut(),
            ahead,
        })
    }

    fn shift(&self, top: T::Wide) -> f64 {
        self.map.shift(top)
    }

    fn write(&mut self, _: Option<&[T]>, gradient: &mut [T], _: T::Wide, scale: f64) {
        self.walk.instance.run(WriteKept {
            map: self.map,
            kept: self.kept.as_deref().unwrap_or_default(),
            gradient,
            scale: factor(scale * self.map.slope()),
            stream: self.walk.stream,
        });
    }
}

/// A row too long for that: split over threads, its powers computed again for the gradient.
struct LongRow<'a, M> {
    walk: &'a Walk<'a>,
    map: M,
}

impl<M> LongRow<'_, M> {
    /// Where a run of columns is cut in two, as its length alone says, so that sums are added in the same order always.
    fn cut(len: usize) -> Option<usize> {
        (len > LEAF_COLUMNS).then(|| (len / 2).next_multiple_of(BLOCK))
    }

    fn sum_columns<T: Element>(
        &self,
        x: &[T],
        columns: Range<usize>,
        target: usize,
    ) -> Partial<T::Wide>
    where
        M: Map<T::Wide> + Sync,
    {
        let map = self.map;
        let Some(cut) = Self::cut(columns.len()) else {
            return self.walk.instance.run(SumBlocks {
                map,
                x,
                columns,
                target,
            });
        };
        let (low, high) = (
            columns.start..columns.start + cut,
            columns.start + cut..columns.end,
        );
        let (a, b) = self.walk.both(
            || self.sum_columns(x, low, target),
            || self.sum_columns(x, high, target),
        );
        a.and(b, map)
    }

    fn write_columns<T: Element>(&self, write: WriteAgain<'_, T, M>)
    where
        M: Map<T::Wide> + Sync,
    {
        let Some(cut) = Self::cut(write.gradient.len()) else {
            let stream = write.stream;
            self.walk.instance.run(write);
            if stream {
                self.walk.instance.run(FinishStreams);
            }
            return;
        };
        let (low, high) = write.split_at(cut);
        self.walk
            .both(|| self.write_columns(low), || self.write_columns(high));
    }
}

impl<T: Element, M: Map<T::Wide>> Solver<T> for LongRow<'_, M> {
    fn sum_up(&mut self, x: &[T], target: usize, _: *const T) -> Partial<T::Wide> {
        self.sum_columns(x, 0..x.len(), target)
    }

    fn shift(&self, top: T::Wide) -> f64 {
        self.map.shift(top)
    }

    fn write(&mut self, x: Option<&[T]>, gradient: &mut [T], top: T::Wide, scale: f64) {
        self.write_columns(WriteAgain {
            map: self.map,
            first_class: 0,
            x,
            top,
            gradient,
            scale: factor(scale * self.map.slope()),
            stream: self.walk.stream,
        });
    }
}
