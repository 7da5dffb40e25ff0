//! One pass over some columns of a row, in vectors.
//!
//! ```text
//! whole vectors               in groups of two, each with its own chain of dependent steps
//! what is left at the end     a vector whose other lanes hold -infinity; it ends with the row
//! ```
//!
//! It is fast because nothing is asked of an element: what must not count becomes -infinity, which
//! no maximum is and whose exponential is 0. Every type, every map and every step share this loop.

use std::ops::Range;

use super::arch::isa::Isa;
use super::arch::vector::{MOST_LANES, Vector};
use super::lane::{Float, Lane, VectorOf};
use super::row_buffer::LINE;

/// So many vectors are taken in a round, each with its own maximum. 4 cost short rows of `f32` the
/// 2 % that they gain long ones.
pub(super) const CHAINS: usize = 2;

/// Logits are asked for when what lies so many bytes before them is read.
const FETCH_AHEAD: usize = 16 << 10;

/// One step of a pass.
pub(super) trait Step<V> {
    /// Takes the logits from column `at` on into one of the [`CHAINS`].
    fn step(&mut self, chain: usize, at: usize, x: V) -> V;

    /// The same of a vector of which these lanes count, the others are `-infinity`.
    #[inline(always)]
    fn step_in_part(&mut self, at: usize, x: V, _: Range<usize>) -> V {
        self.step(0, at, x)
    }
}

/// Takes `columns` of the row `x`. What the steps return is kept where there is somewhere to, a row
/// and a vector's padding: then `columns` are a vector at least, or the row. Where `FETCH`, later
/// logits are asked for.
#[inline(always)]
pub(super) fn pass<I: Isa, T: Lane, const FETCH: bool>(
    isa: I,
    x: &[T],
    columns: Range<usize>,
    mut kept: Option<&mut [T::Real]>,
    step: &mut impl Step<VectorOf<I, T>>,
) {
    let Range { start, end } = columns;
    let whole = end - (end - start) % I::LANES;
    match &mut kept {
        None => take::<I, T, FETCH>(isa, &x[start..whole], start, step),
        Some(kept) => {
            keep::<I, T, FETCH>(isa, &x[start..whole], start, step, &mut kept[start..whole])
        }
    }
    if whole < end {
        take_in_part(isa, x, whole..end, kept, step);
    }
}

/// `columns` without the target.
#[inline(always)]
pub(super) fn off_target(columns: Range<usize>, target: usize) -> [Range<usize>; 2] {
    let Range { start, end } = columns;
    [
        start..target.clamp(start, end),
        target.saturating_add(1).clamp(start, end)..end,
    ]
}

/// Whole vectors, from column `at` on.
#[inline(always)]
fn take<I: Isa, T: Lane, const FETCH: bool>(
    isa: I,
    x: &[T],
    mut at: usize,
    step: &mut impl Step<VectorOf<I, T>>,
) {
    let groups = x.chunks_exact(CHAINS * I::LANES);
    let single = groups.remainder();
    for group in groups {
        for chain in 0..CHAINS {
            let x = T::widen(isa, &group[chain * I::LANES..][..I::LANES]);
            step.step(chain, at, x);
            at += I::LANES;
        }
        if FETCH {
            fetch(isa, group);
        }
    }
    for vector in single.chunks_exact(I::LANES) {
        step.step(0, at, T::widen(isa, vector));
        at += I::LANES;
    }
}

/// The same, and keeps what the steps return.
#[inline(always)]
fn keep<I: Isa, T: Lane, const FETCH: bool>(
    isa: I,
    x: &[T],
    mut at: usize,
    step: &mut impl Step<VectorOf<I, T>>,
    kept: &mut [T::Real],
) {
    let groups = x.chunks_exact(CHAINS * I::LANES);
    let single = groups.remainder();
    let mut slots = kept.chunks_exact_mut(CHAINS * I::LANES);
    for (group, slots) in groups.zip(&mut slots) {
        for chain in 0..CHAINS {
            let x = T::widen(isa, &group[chain * I::LANES..][..I::LANES]);
            step.step(chain, at, x)
                .store(&mut slots[chain * I::LANES..][..I::LANES]);
            at += I::LANES;
        }
        if FETCH {
            fetch(isa, group);
        }
    }
    let slots = slots.into_remainder().chunks_exact_mut(I::LANES);
    for (vector, slot) in single.chunks_exact(I::LANES).zip(slots) {
        step.step(0, at, T::widen(isa, vector)).store(slot);
        at += I::LANES;
    }
}

/// A vector of which the `columns` count.
#[inline(always)]
fn take_in_part<I: Isa, T: Lane>(
    isa: I,
    x: &[T],
    columns: Range<usize>,
    kept: Option<&mut [T::Real]>,
    step: &mut impl Step<VectorOf<I, T>>,
) {
    // At the row's end it overlaps the columns before.
    let start = columns.start.min(x.len().saturating_sub(I::LANES));
    let lanes = columns.start - start..columns.end - start;
    let vector = match x.get(start..start + I::LANES) {
        Some(vector) => T::widen(isa, vector),
        None => T::widen(isa, &padded(x)),
    };
    let off = VectorOf::<I, T>::splat(isa, T::Real::NEG_INFINITY);
    let vector = vector.within(lanes.clone(), off);
    let result = step.step_in_part(start, vector, lanes.clone());
    if let Some(kept) = kept {
        let slot = &mut kept[start..start + I::LANES];
        let before = VectorOf::<I, T>::load(isa, slot);
        result.within(lanes, before).store(slot);
    }
}

/// A row shorter than a vector, with more to fill one.
#[inline(always)]
pub(super) fn padded<T: Copy>(row: &[T]) -> [T; MOST_LANES] {
    let mut padded = [row[0]; MOST_LANES];
    for (to, from) in padded.iter_mut().zip(row) {
        *to = *from;
    }
    padded
}

/// Asks for what lies ahead of a group of vectors.
#[inline(always)]
fn fetch<I: Isa, T>(isa: I, group: &[T]) {
    for byte in (0..size_of_val(group)).step_by(LINE) {
        isa.prefetch(group.as_ptr().wrapping_byte_add(FETCH_AHEAD + byte));
    }
}

/// All lanes as one, by halves: the chain of dependent steps is short.
#[inline(always)]
pub(super) fn across<I: Isa, R: Copy>(mut lanes: [R; MOST_LANES], both: impl Fn(R, R) -> R) -> R {
    let mut n = I::LANES;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            lanes[i] = both(lanes[i], lanes[i + n]);
        }
    }
    lanes[0]
}
