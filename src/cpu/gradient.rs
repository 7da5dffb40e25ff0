//! Writing a row's gradient from its exponentials: each times its class's slope and the row's
//! factor, rounded once; the target's own is patched in. Of smoothed labels a class's share is
//! taken off in the same step.
//!
//! A gradient that stays in the cache is written in whole vectors, the last of which overlaps the
//! one before. One that does not (see [`plan`](super::plan)) is streamed past the cache, so that no
//! line of it is read to be written:
//!
//! ```text
//! |ragged|  whole lines: streamed, the target's vector patched before  |ragged|
//! ```
//!
//! Streaming stores cover whole cache lines only; a row's ragged ends use normal stores on other
//! lines. Mixing the two on a line stalls.

use std::ops::Range;

use super::arch::isa::{Isa, Kernel};
use super::arch::vector::{MOST_LANES, Vector};
use super::lane::{Lane, VectorOf};
use super::map::Map;
use super::row_buffer::LINE;

/// So many vectors are written in one round of a loop.
const GROUP: usize = 4;

/// The gradient of a row, or of some columns of one, written from left to right.
pub(super) struct Gradient<'a, T: Lane, M> {
    pub(super) map: M,
    /// Of the first element.
    pub(super) first_class: usize,
    pub(super) gradient: &'a mut [T],
    /// What an exponential times its class's slope is multiplied by.
    pub(super) factor: T::Real,
    /// Of smoothed labels: what is taken off before the class's slope. 0 for nothing.
    pub(super) less: T::Real,
    /// The target's place and its gradient, where it is among these columns.
    pub(super) target: Option<(usize, T)>,
    pub(super) stream: bool,
    /// Columns that are done.
    pub(super) written: usize,
}

impl<T: Lane, M: Map<T::Real>> Gradient<'_, T, M> {
    /// Writes on to column `end`, or a little further: what lies beyond in `exponentials` must be
    /// this row's too.
    #[inline(always)]
    pub(super) fn write_to<I: Isa>(&mut self, isa: I, exponentials: &[T::Real], end: usize) {
        if self.stream {
            self.stream_to(isa, exponentials, end);
        } else {
            self.vectors(isa, exponentials, (end - self.written) / I::LANES);
        }
        if end == self.gradient.len() {
            self.finish(isa, exponentials);
        }
    }

    /// What is left at the row's end, and the target.
    #[inline(always)]
    fn finish<I: Isa>(&mut self, isa: I, exponentials: &[T::Real]) {
        let len = self.gradient.len();
        if self.stream || len < I::LANES {
            self.columns(isa, exponentials, self.written..len);
        } else if self.written < len {
            // Some of its columns once more.
            let last = len - I::LANES;
            let x = self.vector(isa, exponentials, last);
            T::narrow(isa, x, &mut self.gradient[last..]);
        }
        self.written = len;
        if let Some((place, value)) = self.target
            && !self.stream
        {
            self.gradient[place] = value;
        }
    }

    /// Whole lines past the cache, as far as there are, and what is before the first through it.
    #[inline(always)]
    fn stream_to<I: Isa>(&mut self, isa: I, exponentials: &[T::Real], end: usize) {
        let len = self.gradient.len();
        if self.written == 0 {
            let head = self.gradient.as_ptr().align_offset(LINE);
            if head > end {
                // The row ends in its first line.
                return;
            }
            self.columns(isa, exponentials, 0..head);
            self.written = head;
        }
        let line = (LINE / size_of::<T>()).max(I::LANES);
        let columns = end.saturating_sub(self.written);
        let lines = columns.div_ceil(line).min((len - self.written) / line);
        let vectors = lines * (line / I::LANES);
        // The target is written in its vector: the line would have to come back.
        let before = match self.target {
            Some((place, _)) => place.wrapping_sub(self.written) / I::LANES,
            None => vectors,
        };
        self.vectors(isa, exponentials, before.min(vectors));
        if before < vectors {
            let lanes = self.patched(isa, exponentials, self.written);
            let to = &mut self.gradient[self.written..][..I::LANES];
            isa.stream(&lanes[..I::LANES], to);
            self.written += I::LANES;
            self.vectors(isa, exponentials, vectors - before - 1);
        }
    }

    /// So many vectors, without a look at the target.
    #[inline(always)]
    fn vectors<I: Isa>(&mut self, isa: I, exponentials: &[T::Real], vectors: usize) {
        let columns = self.written..self.written + vectors * I::LANES;
        self.written = columns.end;
        let (map, first_class) = (self.map, self.first_class + columns.start);
        let factors = [self.factor, self.less];
        let (to, from) = (&mut self.gradient[columns.clone()], &exponentials[columns]);
        let stream = self.stream;
        if self.less == T::Real::default() {
            let rows = Vectors::<_, _, false> {
                map,
                first_class,
                factors,
                from,
                to,
                stream,
            };
            rows.run(isa);
        } else {
            isa.apart(Vectors::<_, _, true> {
                map,
                first_class,
                factors,
                from,
                to,
                stream,
            });
        }
    }

    /// Some columns and no others, through the cache.
    #[inline(always)]
    fn columns<I: Isa>(&mut self, isa: I, exponentials: &[T::Real], columns: Range<usize>) {
        for at in columns.clone().step_by(I::LANES) {
            let lanes = self.patched(isa, exponentials, at);
            let to = &mut self.gradient[at..columns.end.min(at + I::LANES)];
            to.copy_from_slice(&lanes[..to.len()]);
        }
    }

    /// The gradient from column `at` on, target and all.
    #[inline(always)]
    fn patched<I: Isa>(&self, isa: I, exponentials: &[T::Real], at: usize) -> [T; MOST_LANES] {
        let mut lanes = [T::ZERO; MOST_LANES];
        T::narrow(isa, self.vector(isa, exponentials, at), &mut lanes);
        if let Some((place, value)) = self.target
            && let Some(lane) = lanes.get_mut(place.wrapping_sub(at))
        {
            *lane = value;
        }
        lanes
    }

    /// The gradient from column `at` on, but for the target.
    #[inline(always)]
    fn vector<I: Isa>(&self, isa: I, exponentials: &[T::Real], at: usize) -> VectorOf<I, T> {
        let e = VectorOf::<I, T>::load(isa, &exponentials[at..]);
        let factor = VectorOf::<I, T>::splat(isa, self.factor);
        let class = self.first_class + at;
        if self.less == T::Real::default() {
            self.map.times_class_slope(isa, class, e).times(factor)
        } else {
            let e = e.times_plus(factor, VectorOf::<I, T>::splat(isa, -self.less));
            self.map.times_class_slope(isa, class, e)
        }
    }
}

/// Whole vectors of one row, one after the other.
struct Vectors<'a, T: Lane, M, const LESS: bool> {
    map: M,
    first_class: usize,
    /// What an exponential is multiplied by, and where `LESS` what is taken off then.
    factors: [T::Real; 2],
    from: &'a [T::Real],
    to: &'a mut [T],
    stream: bool,
}

impl<T: Lane, M: Map<T::Real>, const LESS: bool> Kernel for Vectors<'_, T, M, LESS> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self {
            map,
            first_class,
            factors: [factor, less],
            from,
            to,
            stream,
        } = self;
        let factors = [
            VectorOf::<I, T>::splat(isa, factor),
            VectorOf::<I, T>::splat(isa, -less),
        ];
        let mut class = first_class;
        let mut to = to.chunks_exact_mut(GROUP * I::LANES);
        let from = from.chunks_exact(GROUP * I::LANES);
        let rest = from.remainder();
        for (to, from) in (&mut to).zip(from) {
            for i in 0..GROUP {
                let to = &mut to[i * I::LANES..][..I::LANES];
                let from = &from[i * I::LANES..][..I::LANES];
                write::<I, T, M, LESS>(isa, (map, class), factors, from, to, stream);
                class += I::LANES;
            }
        }
        let to = to.into_remainder().chunks_exact_mut(I::LANES);
        for (to, from) in to.zip(rest.chunks_exact(I::LANES)) {
            write::<I, T, M, LESS>(isa, (map, class), factors, from, to, stream);
            class += I::LANES;
        }
    }
}

/// Writes one vector.
#[inline(always)]
fn write<I: Isa, T: Lane, M: Map<T::Real>, const LESS: bool>(
    isa: I,
    (map, class): (M, usize),
    [factor, less]: [VectorOf<I, T>; 2],
    exponentials: &[T::Real],
    to: &mut [T],
    stream: bool,
) {
    let e = VectorOf::<I, T>::load(isa, exponentials);
    let x = match LESS {
        false => map.times_class_slope(isa, class, e).times(factor),
        true => map.times_class_slope(isa, class, e.times_plus(factor, less)),
    };
    if stream {
        let mut lanes = [T::ZERO; MOST_LANES];
        T::narrow(isa, x, &mut lanes);
        isa.stream(&lanes[..I::LANES], to);
    } else {
        T::narrow(isa, x, to);
    }
}
