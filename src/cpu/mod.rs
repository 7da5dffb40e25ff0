//! The CPU path: checks the whole batch, then walks its rows over rayon.

mod arch;
mod careful;
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
use arch::{Isa, Kernel, MOST_LANES};
use careful::Careful;
use lane::Float;
pub use lane::Lane;
pub(crate) use map::LaneTable;
use map::{Level, Map, PerClass, Uniform};
use row::Row;
use sweep::{
    BLOCK, FinishStreams, LongTurn, Partial, ShortTurn, SumBlocks, Summed, Top1, Turn, WriteAgain,
    Written,
};

/// Rows are handed to a thread in runs of about this many elements, but of a few rows at least, so that most rows have one
/// before them whose gradient is written meanwhile. The cut depends on the shape alone, so the sums below are added in the
/// same order whatever the thread count.
const LEAF_ELEMENTS: usize = 16 * 1024;

/// A thread keeps the exponentials of a row of up to so many classes between their sum and the gradient; of up to
/// [`MOST_KEPT`] where there are [`MANY_ROWS`]. Longer rows, and long ones where they are few and their columns are shared
/// out instead, compute them again.
const KEPT: usize = 8 * 1024;
const MOST_KEPT: usize = 128 * 1024;
const MANY_ROWS: usize = 16;

/// The columns of a row are handed out in runs of so many.
const LEAF_COLUMNS: usize = 8 * BLOCK;

/// Others are to take more than so many elements off the calling thread: less are done before they would have woken.
const ONE_THREAD_ELEMENTS: usize = 64 * 1024;

/// Exponents beyond this are taken with care: so far out the spacing of `f64` alone costs a loss 2.4e-7.
const FAR_OUT: f64 = (1u64 << 30) as f64;

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
    if options.hits && hits.is_none() {
        return Err(Error::Misplaced {
            given: "hits in `Options`",
            instead: "they are for results that the call allocates: give `Outputs::hits` a buffer",
        });
    }
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
        divisor,
        leaf_rows: leaf_rows(rows, loss.classes()),
        keep: keep(rows, loss.classes()),
        parallel: elements - elements / rayon::current_num_threads() > ONE_THREAD_ELEMENTS,
        stream: elements.saturating_mul(size_of::<T>()) > STREAM_BYTES,
    };
    let targets = Labels {
        labels,
        classes: loss.classes(),
        ignore: loss.ignore_label().map(i128::from),
    };
    let rows = Rows {
        matrix,
        targets: &targets,
        first: 0,
        count: rows,
        upstream,
        row_losses,
        hits,
    };
    let sum = T::sum_rows(&walk, rows);
    Ok(Summary {
        loss: sum / divisor,
        counted_rows,
        total_weight,
    })
}

fn leaf_rows(rows: usize, classes: usize) -> usize {
    // A row whose columns are shared out has none before it.
    let least = if keep(rows, classes) {
        (rows / 32).clamp(4, 32)
    } else {
        1
    };
    (LEAF_ELEMENTS / classes).max(least)
}

/// Whether a row's exponentials are kept.
fn keep(rows: usize, classes: usize) -> bool {
    classes <= KEPT || (classes <= MOST_KEPT && rows >= MANY_ROWS)
}

/// What is kept of a row, with padding for a vector from any column on. Whole lines, so that the next row begins one too.
fn kept_len(classes: usize) -> usize {
    (classes + MOST_LANES).next_multiple_of(MOST_LANES)
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

    #[inline(always)]
    fn row(&self, row: usize, classes: usize) -> &[T] {
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
    fn turn(
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

/// Labels of any type, so that what walks the rows is compiled for the logits' types only.
trait Targets: Sync {
    /// The class of a row that counts.
    fn target(&self, row: usize) -> Option<usize>;
}

struct Labels<'a, L> {
    labels: &'a [L],
    classes: usize,
    ignore: Option<i128>,
}

impl<L: Label> Targets for Labels<'_, L> {
    fn target(&self, row: usize) -> Option<usize> {
        let label = self.labels[row];
        let counts = Some(label.value()) != self.ignore;
        label.class(self.classes).filter(|_| counts)
    }
}

/// A run of rows with all that belongs to them.
#[expect(missing_debug_implementations, reason = "nobody outside can name it")]
pub struct Rows<'a, T: Element> {
    matrix: Matrix<'a, T>,
    targets: &'a dyn Targets,
    /// The first row's number among the targets.
    first: usize,
    count: usize,
    upstream: RowFactors<'a, T::Real>,
    row_losses: Option<&'a mut [T::Real]>,
    hits: Option<&'a mut [bool]>,
}

impl<T: Element> Rows<'_, T> {
    fn split_at(self, row: usize) -> (Self, Self) {
        let matrix = self.matrix.split_at(row);
        let upstream = self.upstream.split_at(row);
        let row_losses = split_option(self.row_losses, row);
        let hits = split_option(self.hits, row);
        let part = |first, count, matrix, upstream, row_losses, hits| Self {
            matrix,
            targets: self.targets,
            first,
            count,
            upstream,
            row_losses,
            hits,
        };
        let (first, rest) = (self.first, self.count - row);
        (
            part(first, row, matrix.0, upstream.0, row_losses.0, hits.0),
            part(
                first + row,
                rest,
                matrix.1,
                upstream.1,
                row_losses.1,
                hits.1,
            ),
        )
    }

    fn target(&self, row: usize) -> Option<usize> {
        self.targets.target(self.first + row)
    }

    /// The outputs of a row that does not count.
    fn ignore(&mut self, row: usize, classes: usize) {
        if let Some((_, gradient)) = self.matrix.gradient(row, classes) {
            gradient.fill(T::ZERO);
        }
        if let Some(losses) = &mut self.row_losses {
            losses[row] = T::Real::from_f64(0.0);
        }
        if let Some(hits) = &mut self.hits {
            hits[row] = false;
        }
    }

    /// A row that vectors cannot solve: slowly, all of it. Its loss.
    #[cold]
    #[inline(never)]
    fn solve_with_care(&mut self, walk: &Walk<'_>, row: usize, target: usize) -> f64 {
        let classes = walk.table.classes();
        let careful = Careful::new(walk.table, self.matrix.row(row, classes), target);
        let loss = self.note_loss(row, &careful.solved);
        let given = careful.solved.given(self.upstream.at(row), walk.divisor);
        if let Some((x, gradient)) = self.matrix.gradient(row, classes) {
            for class in 0..classes {
                // In place a class's gradient needs its own logit alone.
                let x = x.map_or(gradient[class], |x| x[class]);
                gradient[class] = match careful.solved.is_nan() {
                    true => T::from_f64(f64::NAN),
                    false => careful.gradient(class, x, given),
                };
            }
        }
        loss
    }

    fn note_loss(&mut self, row: usize, solved: &Row) -> f64 {
        let loss = solved.loss();
        if let Some(losses) = &mut self.row_losses {
            losses[row] = T::Real::from_f64(loss);
        }
        loss
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

#[expect(missing_debug_implementations, reason = "nobody outside can name it")]
pub struct Walk<'a> {
    instance: CpuInstance,
    table: &'a RowTable,
    lane_table: &'a LaneTable,
    divisor: f64,
    leaf_rows: usize,
    keep: bool,
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
    fn rows<T: Element>(&self, rows: Rows<'_, T>) -> f64 {
        let count = rows.count;
        if count > self.leaf_rows {
            let (a, b) = rows.split_at(count / 2);
            let (a, b) = self.both(|| self.rows(a), || self.rows(b));
            return a + b;
        }
        match &self.table.others {
            Others::Uniform { slope } => self.leaf(rows, Uniform::new(*slope)),
            others @ Others::PerClass(_) => {
                let map = PerClass {
                    columns: T::Wide::columns(self.lane_table),
                    highest_bias: others.highest_bias(),
                };
                self.leaf(rows, map)
            }
        }
    }

    fn leaf<T: Element>(&self, rows: Rows<'_, T>, map: impl Map<T::Wide>) -> f64 {
        if !self.keep {
            return self.long_rows(rows, map);
        }
        let mut rows = Some(rows);
        let classes = self.table.classes();
        let rows_kept = if sweep::short(classes) { 2 } else { 1 };
        let sum = T::Wide::with_kept(rows_kept * kept_len(classes), |kept| {
            rows.take().map(|rows| {
                self.instance.run(KeptRows {
                    walk: self,
                    rows,
                    map,
                    kept,
                })
            })
        });
        // Without memory to keep them in they are computed again.
        sum.flatten()
            .or_else(|| rows.map(|rows| self.long_rows(rows, map)))
            .unwrap_or_default()
    }

    fn long_rows<T: Element, M: Map<T::Wide>>(&self, mut rows: Rows<'_, T>, map: M) -> f64 {
        let classes = self.table.classes();
        let mut sum = 0.0;
        let long = LongRow { walk: self, map };
        for i in 0..rows.count {
            let Some(target) = rows.target(i) else {
                rows.ignore(i, classes);
                continue;
            };
            let x = rows.matrix.row(i, classes);
            if let Some(hits) = &mut rows.hits {
                hits[i] = self.instance.run(Top1 { x, target });
            }
            let Partial { level, sum: others } = long.sum_columns(x, 0..classes, target);
            let solved = Row::new(
                self.table,
                target,
                x[target].to_f64(),
                map.shift(level),
                others,
            );
            let given = solved.given(rows.upstream.at(i), self.divisor);
            let (at_target, scale) = solved.gradient(given);
            let slope = map.slope();
            if map.needs_care(level)
                || solved.is_nan()
                || beyond::<T::Wide>(given * slope, scale * slope)
            {
                sum += rows.solve_with_care(self, i, target);
                continue;
            }
            sum += rows.note_loss(i, &solved);
            if let Some((x, gradient)) = rows.matrix.gradient(i, classes) {
                long.write(x, gradient, level, scale);
                gradient[target] = T::from_f64(at_target);
            }
        }
        sum
    }
}

/// One row after the other: the gradient of one is written while the next is summed up.
struct KeptRows<'a, T: Element, M> {
    walk: &'a Walk<'a>,
    rows: Rows<'a, T>,
    map: M,
    /// `[C]` and padding; where rows are short, twice.
    kept: &'a mut [T::Wide],
}

impl<T: Element, M: Map<T::Wide>> Kernel for KeptRows<'_, T, M> {
    type Output = f64;

    #[inline(always)]
    fn run<I: Isa, const N: usize>(self, isa: I) -> f64 {
        let Self {
            walk,
            mut rows,
            map,
            kept,
        } = self;
        let classes = walk.table.classes();
        let (mut kept, mut earlier) = kept.split_at_mut(kept_len(classes));
        let mut waiting: Option<Waiting<T>> = None;
        let mut sum = 0.0;
        // One more turn, to write the last.
        for row in 0..=rows.count {
            let target = if row < rows.count {
                rows.target(row)
            } else {
                None
            };
            let old = waiting.take();
            let turn = (old.map(|old| old.row), target.map(|_| row));
            let (gradient, x) = rows.matrix.turn(turn, classes);
            let summed = x.zip(target);
            if let (Some(hits), Some((x, target))) = (&mut rows.hits, summed) {
                hits[row] = Top1 { x, target }.run::<_, N>(isa);
            }
            let turn = Turn {
                map,
                columns: classes,
                sum: match summed {
                    Some((x, target)) => Some(Summed { x, target }),
                    None => None,
                },
                write: match (gradient, old) {
                    (Some(gradient), Some(old)) => Some(Written {
                        gradient,
                        factor: old.factor,
                        target: (old.target, old.at_target),
                        stream: walk.stream,
                    }),
                    _ => None,
                },
            };
            let Partial { level, sum: others } = if earlier.is_empty() {
                isa.apart(LongTurn {
                    turn,
                    kept: &mut *kept,
                })
            } else {
                std::mem::swap(&mut kept, &mut earlier);
                let (kept, earlier) = (&mut *kept, &*earlier);
                ShortTurn {
                    turn,
                    kept,
                    earlier,
                }
                .run::<_, N>(isa)
            };
            let Some((x, target)) = summed else {
                if row < rows.count {
                    rows.ignore(row, classes);
                }
                continue;
            };
            let shift = map.shift(level);
            let solved = Row::new(walk.table, target, x[target].to_f64(), shift, others);
            let given = solved.given(rows.upstream.at(row), walk.divisor);
            let (at_target, scale) = solved.gradient(given);
            let slope = map.slope();
            if map.needs_care(level)
                || solved.is_nan()
                || beyond::<T::Wide>(given * slope, scale * slope)
            {
                sum += rows.solve_with_care(walk, row, target);
                continue;
            }
            sum += rows.note_loss(row, &solved);
            if rows.matrix.gradient(row, classes).is_none() {
                continue;
            }
            waiting = Some(Waiting {
                row,
                target,
                at_target: T::from_f64(at_target),
                factor: factor(scale * slope),
            });
        }
        if walk.stream {
            isa.finish_streams();
        }
        sum
    }
}

/// A row whose gradient off the target is still to be written.
#[derive(Clone, Copy)]
struct Waiting<T: Lane> {
    row: usize,
    target: usize,
    at_target: T,
    factor: T::Wide,
}

/// A gradient's factor, of which what is finite stays so: times a power of 0 it must be 0.
fn finite(scale: f64) -> f64 {
    if scale.is_infinite() {
        f64::MAX.copysign(scale)
    } else {
        scale
    }
}

/// Whether what scales a row is beyond the lanes' type: its factor is too large a number, or is so small that the least
/// normal number, by which rounding may change the highest term's gradient, is not small against what is `given`.
fn beyond<R: Float>(given: f64, factor: f64) -> bool {
    let most = -R::LOWEST.widen();
    let (given, factor) = (given.abs(), factor.abs());
    (factor > most && factor.is_finite()) || (given > 0.0 && given < R::LEAST_GIVEN)
}

/// The same, rounded. A NaN becomes the plain one, which survives being cut to 16 bits.
fn factor<R: Float>(scale: f64) -> R {
    if scale.is_finite() {
        R::round(scale.clamp(R::LOWEST.widen(), -R::LOWEST.widen()))
    } else if scale.is_nan() {
        R::round(f64::NAN)
    } else {
        R::round(scale)
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

    /// Writes the gradient off the target; `x` is `None` where the logits are what is written over.
    fn write<T: Element>(
        &self,
        x: Option<&[T]>,
        gradient: &mut [T],
        level: Level<T::Wide>,
        scale: f64,
    ) where
        M: Map<T::Wide> + Sync,
    {
        self.write_columns(WriteAgain {
            map: self.map,
            first_class: 0,
            x,
            level,
            gradient,
            scale: factor(scale * self.map.slope()),
            stream: self.walk.stream,
        });
    }
}
