//! Passes over a row: the maximum, the sum of powers, the gradient. Each is written once for all types and instances.

use std::ops::Range;

use super::arch::{Isa, Kernel, Vector};
use super::lane::{Float, LINE, Lane, VectorOf};
use super::map::Map;

/// So many columns have one maximum and are added in lanes before the lanes are added up in `f64`: with 8 lanes a sum of
/// 128 `f32`, 159 at the end of a row, whose rounding stays far within the bounds however long the row is.
pub(super) const BLOCK: usize = 1024;

/// The gradient of one row and the powers of a later one take turns after so many columns: memory works while the processor
/// does.
const STRIP: usize = 256;

/// So many vectors are taken together, each with its own maximum. With 4 of them AVX2 runs out of registers for the
/// polynomial's constants: 1.03 x the time.
const CHAINS: usize = 2;

/// Logits are asked for when what lies so many bytes before them is read.
const AHEAD: usize = 16 << 10;

/// Where a part ends that begins at `start`, of columns that are cut in parts of `len`. What is left at the `end` counts as
/// a part if it is a quarter of one, and else belongs to the last.
#[inline(always)]
fn part_end(start: usize, end: usize, len: usize) -> usize {
    if end - start < len + len / 4 {
        end
    } else {
        start + len
    }
}

/// How many blocks a row of so many columns has.
pub(super) const fn blocks(columns: usize) -> usize {
    columns.saturating_sub(BLOCK / 4) / BLOCK + 1
}

/// The terms off the target over some columns: `sum` of `exp(z_j - m)`, where `m` is the shift at height `top`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Partial<R> {
    pub(super) top: R,
    pub(super) sum: f64,
}

impl<R: Float> Partial<R> {
    pub(super) const EMPTY: Self = Self {
        top: R::NEG_INFINITY,
        sum: 0.0,
    };

    /// The same terms relative to `top`, which is at least as high.
    #[inline(always)]
    fn raised(self, top: R, map: impl Map<R>) -> Self {
        // From one block to the next the maximum seldom rises. A NaN stays.
        let sum = if self.top == top || self.sum == 0.0 {
            self.sum
        } else {
            self.sum * (map.shift(self.top) - map.shift(top)).exp()
        };
        Self { top, sum }
    }

    /// Both together. A NaN in either stays.
    #[inline(always)]
    pub(super) fn and(self, other: Self, map: impl Map<R>) -> Self {
        let top = higher(other.top, self.top);
        Self {
            top,
            sum: self.raised(top, map).sum + other.raised(top, map).sum,
        }
    }
}

/// `a` where it is higher, and so `b` where `a` is a NaN. In this form it is one instruction.
#[inline(always)]
fn higher<R: Float>(a: R, b: R) -> R {
    if a > b { a } else { b }
}

/// One step of a pass.
trait Step<V> {
    /// Takes the columns from `at` into one of the [`CHAINS`]. Where not all lanes are `valid`, the others are not to count.
    fn step(&mut self, chain: usize, at: usize, x: V, valid: Option<Range<usize>>) -> V;
}

/// Takes `columns` of the row `x` in vectors; what is left at the end overlaps the columns beside it. What the steps
/// return is kept where there is somewhere to: a row and padding. Where `FETCH`, later logits are asked for.
#[inline(always)]
fn pass<I: Isa, T: Lane, const L: usize, const FETCH: bool>(
    isa: I,
    x: &[T],
    columns: Range<usize>,
    mut kept: Option<&mut [T::Wide]>,
    step: &mut impl Step<VectorOf<I, T>>,
) {
    let (vectors, rest) = x[columns.clone()].as_chunks::<L>();
    let (groups, single) = vectors.as_chunks::<CHAINS>();
    let mut at = columns.start;
    match &mut kept {
        None => {
            for group in groups {
                for (chain, vector) in group.iter().enumerate() {
                    step.step(chain, at + chain * L, T::widen_lanes(isa, *vector), None);
                }
                if FETCH {
                    fetch(isa, group);
                }
                at += CHAINS * L;
            }
            for vector in single {
                step.step(0, at, T::widen_lanes(isa, *vector), None);
                at += L;
            }
        }
        Some(kept) => {
            let (slots, _) = kept[columns.clone()].as_chunks_mut::<L>();
            let (slot_groups, slots) = slots.as_chunks_mut::<CHAINS>();
            for (group, slots) in groups.iter().zip(slot_groups) {
                for (chain, (vector, slot)) in group.iter().zip(slots).enumerate() {
                    let x = T::widen_lanes(isa, *vector);
                    *slot = step.step(chain, at + chain * L, x, None).store();
                }
                if FETCH {
                    fetch(isa, group);
                }
                at += CHAINS * L;
            }
            for (vector, slot) in single.iter().zip(slots) {
                *slot = step.step(0, at, T::widen_lanes(isa, *vector), None).store();
                at += L;
            }
        }
    }
    if rest.is_empty() {
        return;
    }
    let start = at.min(x.len().saturating_sub(L));
    let vector = match x[start..].first_chunk::<L>() {
        Some(vector) => *vector,
        None => padded(x),
    };
    let valid = at - start..columns.end - start;
    let x = T::widen_lanes(isa, vector);
    let result = step.step(0, start, x, Some(valid.clone()));
    if let Some(kept) = kept {
        let slot = kept[start..].first_chunk_mut::<L>().expect("padded");
        // The other lanes are other columns', done or yet to come.
        let old = VectorOf::<I, T>::load(isa, *slot);
        *slot = result.within(valid, old).store();
    }
}

/// Asks for what lies ahead of a group of vectors.
#[inline(always)]
fn fetch<I: Isa, G>(isa: I, group: &G) {
    for byte in (0..size_of::<G>()).step_by(LINE) {
        isa.prefetch(std::ptr::from_ref(group).wrapping_byte_add(AHEAD + byte));
    }
}

/// `part`, of at least one element, with more to fill a vector.
#[inline(always)]
fn padded<T: Copy, const L: usize>(part: &[T]) -> [T; L] {
    let mut padded = [part[0]; L];
    for (to, from) in padded.iter_mut().zip(part) {
        *to = *from;
    }
    padded
}

/// `columns` without the target.
#[inline(always)]
fn off_target(columns: Range<usize>, target: usize) -> [Range<usize>; 2] {
    let Range { start, end } = columns;
    [
        start..target.clamp(start, end),
        (target + 1).clamp(start, end)..end,
    ]
}

/// The highest of a pass.
struct Summit<I: Isa, M, R: Float, const L: usize> {
    isa: I,
    map: M,
    best: [R::Vector<I>; CHAINS],
}

impl<I: Isa, M: Map<R>, R: Float, const L: usize> Step<R::Vector<I>> for Summit<I, M, R, L> {
    #[inline(always)]
    fn step(
        &mut self,
        chain: usize,
        at: usize,
        x: R::Vector<I>,
        valid: Option<Range<usize>>,
    ) -> R::Vector<I> {
        let height = self.map.height::<_, L>(self.isa, at, x);
        let own = &mut self.best[chain];
        let best = height.or_higher(*own);
        *own = match valid {
            None => best,
            Some(valid) => best.within(valid, *own),
        };
        *own
    }
}

#[inline(always)]
fn summit<I: Isa, M: Map<T::Wide>, T: Lane, const L: usize>(
    isa: I,
    map: M,
    x: &[T],
    columns: impl IntoIterator<Item = Range<usize>>,
) -> T::Wide {
    let mut summit = Summit::<_, _, _, L> {
        isa,
        map,
        best: [VectorOf::<I, T>::splat(isa, T::Wide::NEG_INFINITY); CHAINS],
    };
    for columns in columns {
        pass::<_, _, L, false>(isa, x, columns, None, &mut summit);
    }
    let best = across(summit.best, |a, b| a.or_higher(b));
    across::<_, L>(best.store(), higher)
}

/// All lanes as one, by halves: the chain of dependent steps is short.
#[inline(always)]
fn across<R: Copy, const L: usize>(mut lanes: [R; L], both: impl Fn(R, R) -> R) -> R {
    let mut n = L;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            lanes[i] = both(lanes[i], lanes[i + n]);
        }
    }
    lanes[0]
}

/// The sum of a pass, its terms kept where there is somewhere to.
struct Powers<I: Isa, M, R: Float, const L: usize> {
    isa: I,
    map: M,
    top: R,
    sum: R::Vector<I>,
}

impl<I: Isa, M: Map<R>, R: Float, const L: usize> Step<R::Vector<I>> for Powers<I, M, R, L> {
    #[inline(always)]
    fn step(
        &mut self,
        _: usize,
        at: usize,
        x: R::Vector<I>,
        valid: Option<Range<usize>>,
    ) -> R::Vector<I> {
        let mut powers = self.map.powers::<_, L>(self.isa, at, x, self.top);
        if let Some(valid) = valid {
            powers = powers.within(valid, R::Vector::splat(self.isa, R::default()));
        }
        self.sum = self.sum.plus(powers);
        powers
    }
}

/// With nothing above `-infinity`, every distance from it would be a NaN; from any number the powers are 0.
#[inline(always)]
fn finite_top<R: Float>(top: R) -> R {
    if top == R::NEG_INFINITY {
        R::default()
    } else {
        top
    }
}

impl<I: Isa, M: Map<R>, R: Float, const L: usize> Powers<I, M, R, L> {
    #[inline(always)]
    fn new(isa: I, map: M, top: R) -> Self {
        Self {
            isa,
            map,
            top: finite_top(top),
            sum: R::Vector::splat(isa, R::default()),
        }
    }

    #[inline(always)]
    fn total(self) -> f64 {
        let lanes: [R; L] = self.sum.store();
        across(lanes.map(Float::widen), |a, b| a + b)
    }
}

/// A block to sum up.
#[derive(Clone, Copy)]
struct Block<'a, T, M> {
    map: M,
    x: &'a [T],
    start: usize,
    end: usize,
    target: usize,
}

impl<T: Lane, M: Map<T::Wide>> Block<'_, T, M> {
    /// Raises `all` to the block's height. Says whether the passes must leave the target out: where it is as high as the
    /// rest. Else it has some of the sum but not much of it, since another class's term is 1, and can be taken off again.
    #[inline(always)]
    fn raise<I: Isa, const L: usize>(self, isa: I, all: &mut Partial<T::Wide>) -> bool {
        let mut split = false;
        loop {
            let columns = self.columns(self.start..self.end, split);
            let top = summit::<_, _, _, L>(isa, self.map, self.x, columns);
            if split || !self.holds_target() || self.height::<_, L>(isa) < top {
                *all = all.raised(higher(top, all.top), self.map);
                return split;
            }
            split = true;
        }
    }

    #[inline(always)]
    fn holds_target(self) -> bool {
        (self.start..self.end).contains(&self.target)
    }

    /// `columns`, without the target where they are to be `split`.
    #[inline(always)]
    fn columns(self, columns: Range<usize>, split: bool) -> [Range<usize>; 2] {
        if split {
            off_target(columns, self.target)
        } else {
            let end = columns.end;
            [columns, end..end]
        }
    }

    /// The target's logit in lanes, to have what the passes have.
    #[inline(always)]
    fn own<I: Isa, const L: usize>(self, isa: I) -> VectorOf<I, T> {
        T::widen_lanes(isa, [self.x[self.target]; L])
    }

    #[inline(always)]
    fn height<I: Isa, const L: usize>(self, isa: I) -> T::Wide {
        let own = self.own::<_, L>(isa);
        let heights = self.map.height::<_, L>(isa, self.target, own);
        heights.store::<L>()[0]
    }

    /// Takes a strip.
    #[inline(always)]
    fn take<I: Isa, const L: usize>(
        self,
        isa: I,
        strip: Range<usize>,
        split: bool,
        mut kept: Option<&mut [T::Wide]>,
        powers: &mut Powers<I, M, T::Wide, L>,
    ) {
        for columns in self.columns(strip, split) {
            if !columns.is_empty() {
                let kept = kept.as_deref_mut();
                pass::<_, _, L, true>(isa, self.x, columns, kept, powers);
            }
        }
    }

    /// Adds what was taken to `all`.
    #[inline(always)]
    fn add_to<I: Isa, const L: usize>(
        self,
        isa: I,
        split: bool,
        powers: Powers<I, M, T::Wide, L>,
        all: &mut Partial<T::Wide>,
    ) {
        all.sum += powers.total();
        if !split && self.holds_target() {
            let own = self.own::<_, L>(isa);
            let top = finite_top(all.top);
            let own = self.map.powers::<_, L>(isa, self.target, own, top);
            all.sum -= own.store::<L>()[0].widen();
        }
    }
}

/// A row to sum up.
pub(super) struct Summed<'a, T: Lane> {
    pub(super) x: &'a [T],
    pub(super) target: usize,
    /// What the powers of each block are relative to: the highest so far.
    pub(super) tops: &'a mut [T::Wide],
}

/// A row whose powers are kept and whose gradient is to be written.
pub(super) struct Written<'a, T: Lane> {
    pub(super) gradient: &'a mut [T],
    /// What the powers of each block are to be multiplied by.
    pub(super) factors: &'a [T::Wide],
    /// The target and its gradient.
    pub(super) target: (usize, T),
    pub(super) stream: bool,
}

/// Sums up a row and keeps its powers over those of an earlier one, of which the gradient is made meanwhile.
pub(super) struct Turn<'a, T: Lane, M> {
    pub(super) map: M,
    pub(super) sum: Option<Summed<'a, T>>,
    pub(super) write: Option<Written<'a, T>>,
    /// `[C]` and padding.
    pub(super) kept: &'a mut [T::Wide],
}

impl<T: Lane, M: Map<T::Wide>> Kernel for Turn<'_, T, M> {
    type Output = Partial<T::Wide>;

    #[inline(always)]
    fn run<I: Isa, const L: usize>(self, isa: I) -> Self::Output {
        let Self {
            map,
            mut sum,
            write,
            kept,
        } = self;
        let mut writer = write.map(|row| Writer { map, row, done: 0 });
        let columns = match (&sum, &writer) {
            (Some(sum), _) => sum.x.len(),
            (None, Some(writer)) => writer.row.gradient.len(),
            (None, None) => 0,
        };
        let mut all = Partial::EMPTY;
        let (mut start, mut i) = (0, 0);
        while start < columns {
            let end = part_end(start, columns, BLOCK);
            let mut summed = sum.as_mut().map(|sum| {
                let block = Block {
                    map,
                    x: sum.x,
                    start,
                    end,
                    target: sum.target,
                };
                let split = block.raise::<_, L>(isa, &mut all);
                sum.tops[i] = all.top;
                (block, split, Powers::<_, _, _, L>::new(isa, map, all.top))
            });
            while start < end {
                let strip = start..part_end(start, end, STRIP);
                start = strip.end;
                if let Some(writer) = &mut writer {
                    writer.write_to::<_, L>(isa, kept, start, i, start == end);
                }
                if let Some((block, split, powers)) = &mut summed {
                    block.take::<_, L>(isa, strip, *split, Some(kept), powers);
                }
            }
            if let Some((block, split, powers)) = summed {
                block.add_to::<_, L>(isa, split, powers, &mut all);
            }
            i += 1;
        }
        all
    }
}

/// Writes a gradient from kept powers, some columns at a time.
struct Writer<'a, T: Lane, M> {
    map: M,
    row: Written<'a, T>,
    /// Columns that are done.
    done: usize,
}

impl<T: Lane, M: Map<T::Wide>> Writer<'_, T, M> {
    /// The gradient from column `at` on.
    #[inline(always)]
    fn lanes<I: Isa, const L: usize>(
        map: M,
        isa: I,
        at: usize,
        powers: &[T::Wide; L],
        factor: VectorOf<I, T>,
    ) -> [T; L] {
        let powers = map.weigh::<_, L>(isa, at, VectorOf::<I, T>::load(isa, *powers));
        T::narrow_lanes(isa, powers.times(factor))
    }

    #[inline(always)]
    fn put<I: Isa, const L: usize>(isa: I, to: &mut [T; L], lanes: [T; L], past: bool) {
        if past {
            isa.stream(to, lanes);
        } else {
            *to = lanes;
        }
    }

    /// One vector, `past` the cache or not. Where the row is shorter it is cut.
    #[inline(always)]
    fn one<I: Isa, const L: usize>(
        &mut self,
        isa: I,
        kept: &[T::Wide],
        at: usize,
        factor: VectorOf<I, T>,
        past: bool,
    ) {
        let powers = kept[at..].first_chunk::<L>().expect("padded");
        let mut lanes = Self::lanes::<_, L>(self.map, isa, at, powers, factor);
        let Written {
            gradient, target, ..
        } = &mut self.row;
        if let Some(lane) = lanes.get_mut(target.0.wrapping_sub(at)) {
            *lane = target.1;
        }
        let to = &mut gradient[at..];
        match to.first_chunk_mut::<L>() {
            Some(to) => Self::put(isa, to, lanes, past),
            None => {
                for (to, from) in to.iter_mut().zip(lanes) {
                    *to = from;
                }
            }
        }
    }

    /// So many vectors, without a look at the target.
    #[inline(always)]
    fn many<I: Isa, const L: usize>(
        &mut self,
        isa: I,
        kept: &[T::Wide],
        vectors: usize,
        factor: VectorOf<I, T>,
    ) {
        let columns = self.done..self.done + vectors * L;
        let (to, _) = self.row.gradient[columns.clone()].as_chunks_mut::<L>();
        let (powers, _) = kept[columns].as_chunks::<L>();
        for (to, powers) in to.iter_mut().zip(powers) {
            let lanes = Self::lanes::<_, L>(self.map, isa, self.done, powers, factor);
            Self::put(isa, to, lanes, self.row.stream);
            self.done += L;
        }
    }

    /// Writes on to column `end`, and to the end of the line: powers beyond are still those of this row. `block` is the
    /// block that the columns are in, and `last` says that they are its last.
    #[inline(always)]
    fn write_to<I: Isa, const L: usize>(
        &mut self,
        isa: I,
        kept: &[T::Wide],
        end: usize,
        block: usize,
        last: bool,
    ) {
        let stream = self.row.stream;
        if self.done >= end {
            return;
        }
        let splat = |factor| VectorOf::<I, T>::splat(isa, factor);
        let factor = splat(self.row.factors[block]);
        if stream && self.done == 0 {
            // Past the cache whole lines only, since a part of one would be read to be completed. The next vectors may
            // write some of these columns again.
            let head = self.row.gradient.as_ptr().align_offset(LINE);
            if head <= end {
                for at in (0..head).step_by(L) {
                    self.one::<_, L>(isa, kept, at, factor, false);
                }
                self.done = head;
            }
        }
        let (target, value) = self.row.target;
        let vectors = (end - self.done) / L;
        let before = target.wrapping_sub(self.done) / L;
        // What is past the cache would have to come back for the target to be written over it.
        let split = stream && before < vectors;
        let mut left = vectors;
        if split {
            self.many::<_, L>(isa, kept, before, factor);
            self.one::<_, L>(isa, kept, self.done, factor, true);
            self.done += L;
            left -= before + 1;
        }
        self.many::<_, L>(isa, kept, left, factor);
        let len = self.row.gradient.len();
        if end < len {
            // There is more than a line to come.
            let line = if stream {
                self.row.gradient[self.done..].as_ptr().align_offset(LINE)
            } else {
                0
            };
            let stop = (self.done + line).max(end);
            let next = splat(self.row.factors[block + usize::from(last)]);
            while self.done < stop {
                let own = end.saturating_sub(self.done).min(L);
                let factor = factor.within(0..own, next);
                self.one::<_, L>(isa, kept, self.done, factor, stream);
                self.done += L;
            }
            return;
        }
        if self.done < end {
            // A block is longer than a vector, so that what is written twice has the same factor.
            self.one::<_, L>(isa, kept, end.saturating_sub(L), factor, false);
            self.done = end;
        }
        if !stream {
            self.row.gradient[target] = value;
        }
    }
}

/// Sums up some columns of a long row in one reading: each block relative to the highest so far.
pub(super) struct SumBlocks<'a, T, M> {
    pub(super) map: M,
    pub(super) x: &'a [T],
    pub(super) columns: Range<usize>,
    pub(super) target: usize,
}

impl<T: Lane, M: Map<T::Wide>> Kernel for SumBlocks<'_, T, M> {
    type Output = Partial<T::Wide>;

    #[inline(always)]
    fn run<I: Isa, const L: usize>(self, isa: I) -> Self::Output {
        let Self {
            map,
            x,
            columns,
            target,
        } = self;
        let mut all = Partial::EMPTY;
        let mut start = columns.start;
        while start < columns.end {
            let end = part_end(start, columns.end, BLOCK);
            let block = Block {
                map,
                x,
                start,
                end,
                target,
            };
            let split = block.raise::<_, L>(isa, &mut all);
            let mut powers = Powers::<_, _, _, L>::new(isa, map, all.top);
            block.take::<_, L>(isa, start..end, split, None, &mut powers);
            block.add_to::<_, L>(isa, split, powers, &mut all);
            start = end;
        }
        all
    }
}

/// Where the powers of a gradient come from.
trait Source<T: Lane>: Copy {
    /// What there is of them for one vector.
    type Raw<const L: usize>: Copy;

    /// For each vector from `at` on.
    fn vectors<const L: usize>(self, at: usize) -> impl Iterator<Item = Self::Raw<L>>;

    /// For the `n` columns from `at`, less than a vector.
    fn part<const L: usize>(self, at: usize, n: usize) -> Self::Raw<L>;

    /// `over` is what the gradient will be written over.
    fn powers<I: Isa, const L: usize>(
        self,
        isa: I,
        at: usize,
        raw: Self::Raw<L>,
        over: [T; L],
    ) -> VectorOf<I, T>;
}

/// Computed again from the logits.
#[derive(Clone, Copy)]
struct Again<'a, T: Lane, M> {
    map: M,
    first_class: usize,
    x: &'a [T],
    top: T::Wide,
}

impl<T: Lane, M: Map<T::Wide>> Source<T> for Again<'_, T, M> {
    type Raw<const L: usize> = [T; L];

    #[inline(always)]
    fn vectors<const L: usize>(self, at: usize) -> impl Iterator<Item = [T; L]> {
        self.x[at..].as_chunks().0.iter().copied()
    }

    #[inline(always)]
    fn part<const L: usize>(self, at: usize, n: usize) -> [T; L] {
        padded(&self.x[at..at + n])
    }

    #[inline(always)]
    fn powers<I: Isa, const L: usize>(
        self,
        isa: I,
        at: usize,
        raw: [T; L],
        _: [T; L],
    ) -> VectorOf<I, T> {
        let x = T::widen_lanes(isa, raw);
        self.map
            .powers::<_, L>(isa, self.first_class + at, x, self.top)
    }
}

/// Computed again from what is written over.
#[derive(Clone, Copy)]
struct InPlace<M, R> {
    map: M,
    first_class: usize,
    top: R,
}

impl<T: Lane, M: Map<T::Wide>> Source<T> for InPlace<M, T::Wide> {
    type Raw<const L: usize> = ();

    #[inline(always)]
    fn vectors<const L: usize>(self, _: usize) -> impl Iterator<Item = ()> {
        std::iter::repeat(())
    }

    #[inline(always)]
    fn part<const L: usize>(self, _: usize, _: usize) {}

    #[inline(always)]
    fn powers<I: Isa, const L: usize>(
        self,
        isa: I,
        at: usize,
        (): (),
        over: [T; L],
    ) -> VectorOf<I, T> {
        let x = T::widen_lanes(isa, over);
        self.map
            .powers::<_, L>(isa, self.first_class + at, x, self.top)
    }
}

/// A gradient, or some columns of one.
struct Gradient<'a, T: Lane, M, S> {
    map: M,
    source: S,
    first_class: usize,
    gradient: &'a mut [T],
    scale: T::Wide,
}

impl<T: Lane, M: Map<T::Wide>, S: Source<T>> Gradient<'_, T, M, S> {
    /// The gradient in lanes.
    #[inline(always)]
    fn lanes<I: Isa, const L: usize>(
        factors: (M, S, T::Wide),
        isa: I,
        (at, class): (usize, usize),
        raw: S::Raw<L>,
        over: [T; L],
    ) -> [T; L] {
        let (map, source, scale) = factors;
        let powers = source.powers(isa, at, raw, over);
        let weighed = map.weigh::<_, L>(isa, class, powers);
        T::narrow_lanes(isa, weighed.times(VectorOf::<I, T>::splat(isa, scale)))
    }

    /// Less than a vector.
    #[inline(always)]
    fn part<I: Isa, const L: usize>(&mut self, isa: I, at: usize, n: usize) {
        let factors = (self.map, self.source, self.scale);
        let over = padded(&self.gradient[at..at + n]);
        let raw = self.source.part(at, n);
        let place = (at, self.first_class + at);
        let lanes = Self::lanes::<_, L>(factors, isa, place, raw, over);
        for (to, from) in self.gradient[at..at + n].iter_mut().zip(lanes) {
            *to = from;
        }
    }

    /// Past the cache where `STREAM`: whole lines, since a part of one would be read to be completed.
    #[inline(always)]
    fn write<I: Isa, const L: usize, const STREAM: bool>(mut self, isa: I) {
        let factors = (self.map, self.source, self.scale);
        let len = self.gradient.len();
        let mut at = 0;
        if STREAM {
            let head = self.gradient.as_ptr().align_offset(64).min(len);
            while at < head {
                let n = L.min(head - at);
                self.part::<_, L>(isa, at, n);
                at += n;
            }
        }
        let raws = self.source.vectors::<L>(at);
        for (to, raw) in self.gradient[at..]
            .as_chunks_mut::<L>()
            .0
            .iter_mut()
            .zip(raws)
        {
            let place = (at, self.first_class + at);
            let lanes = Self::lanes::<_, L>(factors, isa, place, raw, *to);
            if STREAM {
                isa.stream(to, lanes);
            } else {
                *to = lanes;
            }
            at += L;
        }
        if at < len {
            self.part::<_, L>(isa, at, len - at);
        }
    }

    #[inline(always)]
    fn write_where<I: Isa, const L: usize>(self, isa: I, stream: bool) {
        if stream {
            self.write::<_, L, true>(isa);
        } else {
            self.write::<_, L, false>(isa);
        }
    }
}

/// Writes some columns of a gradient from the logits, which are its own buffer where `x` is `None`.
pub(super) struct WriteAgain<'a, T: Lane, M> {
    pub(super) map: M,
    pub(super) first_class: usize,
    pub(super) x: Option<&'a [T]>,
    pub(super) top: T::Wide,
    pub(super) gradient: &'a mut [T],
    pub(super) scale: T::Wide,
    pub(super) stream: bool,
}

impl<T: Lane, M: Map<T::Wide>> WriteAgain<'_, T, M> {
    pub(super) fn split_at(self, column: usize) -> (Self, Self) {
        let (low, high) = self.gradient.split_at_mut(column);
        let (x_low, x_high) = self.x.map(|x| x.split_at(column)).unzip();
        let part = |first_class, x, gradient| Self {
            first_class,
            x,
            gradient,
            ..self
        };
        (
            part(self.first_class, x_low, low),
            part(self.first_class + column, x_high, high),
        )
    }
}

impl<T: Lane, M: Map<T::Wide>> Kernel for WriteAgain<'_, T, M> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa, const L: usize>(self, isa: I) {
        let Self {
            map,
            first_class,
            x,
            top,
            gradient,
            scale,
            stream,
        } = self;
        let top = finite_top(top);
        match x {
            Some(x) => Gradient {
                map,
                source: Again {
                    map,
                    first_class,
                    x,
                    top,
                },
                first_class,
                gradient,
                scale,
            }
            .write_where::<_, L>(isa, stream),
            None => Gradient {
                map,
                source: InPlace {
                    map,
                    first_class,
                    top,
                },
                first_class,
                gradient,
                scale,
            }
            .write_where::<_, L>(isa, stream),
        }
    }
}

/// What was streamed is complete before other threads hear of it.
pub(super) struct FinishStreams;

impl Kernel for FinishStreams {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa, const L: usize>(self, isa: I) {
        isa.finish_streams();
    }
}

/// Whether the target's logit is the row's largest; ties go to the lowest class, a NaN makes a miss.
pub(super) struct Top1<'a, T> {
    pub(super) x: &'a [T],
    pub(super) target: usize,
}

impl<T: Lane> Kernel for Top1<'_, T> {
    type Output = bool;

    #[inline(always)]
    fn run<I: Isa, const L: usize>(self, isa: I) -> bool {
        let widen = |x: [T; L]| -> [T::Wide; L] { T::widen_lanes(isa, x).store() };
        let own = widen([self.x[self.target]; L]);
        let [before, after] = off_target(0..self.x.len(), self.target);
        let stands = |part: &[T], against: fn(T::Wide, T::Wide) -> bool| {
            part.chunks(L).all(|part| {
                let part = widen(padded(part));
                part.iter()
                    .zip(own)
                    .fold(true, |stands, (x, own)| stands & against(*x, own))
            })
        };
        // Where there are no others, its own NaN has nothing to lose to.
        let is_nan = own[0].partial_cmp(&own[0]).is_none();
        !is_nan
            && stands(&self.x[before], |x, own| x < own)
            && stands(&self.x[after], |x, own| x <= own)
    }
}
