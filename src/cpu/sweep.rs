//! Passes over a row: the sum of powers, the gradient, now and then the maximum. Each is written once for all types and
//! instances. No closures but the plainest: they may be compiled without the instance's instructions.

use std::ops::Range;

use super::arch::{Isa, Kernel, Made, Make, Vector, store};
use super::lane::{Float, LINE, Lane, VectorOf};
use super::map::{Level, Map};

/// So many columns are added in lanes before the lanes are added up in `f64`: with 8 lanes a sum of 128 `f32`, 159 at the
/// end of a row, whose rounding stays far within the bounds however long the row is.
pub(super) const BLOCK: usize = 1024;

/// The gradient of one row and the powers of a later one take turns after a block, or after so many columns where the
/// gradient is streamed: memory works while the processor does.
const STRIP: usize = 256;

/// A row's first level is the highest of so many columns.
const SAMPLE: usize = 32;

/// With a block's sum above this the level is too low. Powers so far above a level are rounded by 1.3e-6 at most where the
/// level is taken off as a number, and not at all where it is a whole exponent; the gradient's factor is as small as they are large.
pub(super) const REACH: f64 = (1u32 << 24) as f64;

/// So many vectors are taken in a round, each with its own maximum. 4 cost short rows of `f32` the 2 % that they gain long ones.
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

/// The terms off the target over some columns: `sum` of `exp(z_j - m)`, where `m` is the shift at `level`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Partial<R> {
    pub(super) level: Level<R>,
    pub(super) sum: f64,
}

impl<R: Float> Partial<R> {
    #[inline(always)]
    fn none<I: Isa>(map: impl Map<R>) -> Self {
        Self {
            level: map.level::<I>(R::NEG_INFINITY),
            sum: 0.0,
        }
    }

    /// The same terms relative to `level`. A NaN stays.
    #[inline(always)]
    fn moved(self, level: Level<R>, map: impl Map<R>) -> Self {
        let sum = if self.level.height == level.height || self.sum == 0.0 {
            self.sum
        } else {
            self.sum * (map.shift(self.level) - map.shift(level)).exp()
        };
        Self { level, sum }
    }

    /// Both together. A NaN in either stays.
    #[inline(always)]
    pub(super) fn and(self, other: Self, map: impl Map<R>) -> Self {
        let level = if self.level.height > other.level.height {
            self.level
        } else {
            other.level
        };
        Self {
            level,
            sum: self.moved(level, map).sum + other.moved(level, map).sum,
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
/// return is kept where there is somewhere to, a row and padding: then `columns` are a vector at least, or the row. Where
/// `FETCH`, later logits are asked for.
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
    let result = step.step(0, start, x, Some(valid));
    if let Some(kept) = kept {
        // The columns before have the same powers once more, and behind the row there is padding.
        let slot = kept[start..].first_chunk_mut::<L>().expect("padded");
        *slot = result.store();
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
    map.unmasked(across::<_, L>(best.store(), higher))
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

/// The sum of a pass: of what it takes, as it is.
struct Total<I: Isa, R: Float, const L: usize> {
    isa: I,
    sum: R::Vector<I>,
}

impl<I: Isa, R: Float, const L: usize> Total<I, R, L> {
    #[inline(always)]
    fn new(isa: I) -> Self {
        let sum = R::Vector::splat(isa, R::default());
        Self { isa, sum }
    }

    #[inline(always)]
    fn lanes(self) -> f64 {
        let lanes: [R; L] = self.sum.store();
        across(lanes.map(Float::widen), |a, b| a + b)
    }
}

impl<I: Isa, R: Float, const L: usize> Step<R::Vector<I>> for Total<I, R, L> {
    #[inline(always)]
    fn step(
        &mut self,
        _: usize,
        _: usize,
        x: R::Vector<I>,
        valid: Option<Range<usize>>,
    ) -> R::Vector<I> {
        let zero = R::Vector::splat(self.isa, R::default());
        let term = match valid {
            None => x,
            Some(valid) => x.within(valid, zero),
        };
        self.sum = self.sum.plus(term);
        x
    }
}

/// The sum of the powers of a pass, which are kept where there is somewhere to.
struct Powers<'a, I: Isa, M, R: Float, const L: usize, const FAR: bool> {
    map: M,
    level: Level<R>,
    total: &'a mut Total<I, R, L>,
}

impl<I: Isa, M: Map<R>, R: Float, const L: usize, const FAR: bool> Step<R::Vector<I>>
    for Powers<'_, I, M, R, L, FAR>
{
    #[inline(always)]
    fn step(
        &mut self,
        chain: usize,
        at: usize,
        x: R::Vector<I>,
        valid: Option<Range<usize>>,
    ) -> R::Vector<I> {
        let isa = self.total.isa;
        let powers = self.map.powers::<_, L, FAR>(isa, at, x, self.level);
        self.total.step(chain, at, powers, valid);
        powers
    }
}

/// The powers of `x`, the logits from class `j` on.
#[inline(always)]
fn powers<I: Isa, T: Lane, const L: usize>(
    isa: I,
    map: impl Map<T::Wide>,
    j: usize,
    x: VectorOf<I, T>,
    level: Level<T::Wide>,
) -> VectorOf<I, T> {
    if level.far {
        map.powers::<_, L, true>(isa, j, x, level)
    } else {
        map.powers::<_, L, false>(isa, j, x, level)
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
    /// Where the row has no level yet, one from a sample off the target: not above the row's highest, so that its powers do
    /// not all end, and mostly not so far below that they reach beyond.
    #[inline(always)]
    fn begin<I: Isa, const L: usize>(self, isa: I, all: &mut Partial<T::Wide>) {
        if all.level.height > T::Wide::NEG_INFINITY {
            return;
        }
        let columns = self.start..self.end.min(self.start + SAMPLE);
        let highest = summit::<_, _, _, L>(isa, self.map, self.x, [columns.clone()]);
        let above_target = !columns.contains(&self.target) || self.height::<_, L>(isa) < highest;
        if highest > T::Wide::NEG_INFINITY && above_target {
            all.level = self.map.level::<I>(highest);
        } else {
            *all = isa.apart(Raise(self, *all));
        }
    }

    #[inline(always)]
    fn holds_target(self) -> bool {
        (self.start..self.end).contains(&self.target)
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

    /// The target's power, as the passes have it.
    #[inline(always)]
    fn power<I: Isa, const L: usize>(self, isa: I, level: Level<T::Wide>) -> T::Wide {
        let own = self.own::<_, L>(isa);
        powers::<_, T, L>(isa, self.map, self.target, own, level).store::<L>()[0]
    }

    /// Takes some columns.
    #[inline(always)]
    fn take<I: Isa, const L: usize>(
        self,
        isa: I,
        columns: Range<usize>,
        level: Level<T::Wide>,
        kept: Option<&mut [T::Wide]>,
        total: &mut Total<I, T::Wide, L>,
    ) {
        let Self { map, x, .. } = self;
        if level.far {
            let mut powers = Powers::<_, _, _, L, true> { map, level, total };
            pass::<_, _, L, true>(isa, x, columns, kept, &mut powers);
        } else {
            let mut powers = Powers::<_, _, _, L, false> { map, level, total };
            pass::<_, _, L, true>(isa, x, columns, kept, &mut powers);
        }
    }

    /// The sum off the target, where `total` is the sum with it.
    #[inline(always)]
    fn others<I: Isa, const L: usize>(
        self,
        isa: I,
        total: Total<I, T::Wide, L>,
        level: Level<T::Wide>,
        kept: Option<&[T::Wide]>,
    ) -> f64 {
        let total = total.lanes();
        if !self.holds_target() {
            return total;
        }
        let own = match kept {
            None => self.power::<_, L>(isa, level),
            Some(kept) => kept[self.target],
        };
        let own = own.widen();
        let others = total - own;
        if own <= others {
            // It has no more than half of the sum, which it can be taken off again.
            return others;
        }
        isa.apart(Others(self, level, kept))
    }

    /// Adds what was taken to `all`.
    #[inline(always)]
    fn add_to<I: Isa, const L: usize>(
        self,
        isa: I,
        total: Total<I, T::Wide, L>,
        kept: Option<&mut [T::Wide]>,
        all: &mut Partial<T::Wide>,
    ) {
        let sum = self.others::<_, L>(isa, total, all.level, kept.as_deref());
        if sum <= REACH {
            all.sum += sum;
        } else {
            *all = isa.apart(Higher(self, *all, kept));
        }
    }
}

/// What there is of a row, raised to the highest of the block off the target, if that is higher.
struct Raise<'a, T: Lane, M>(Block<'a, T, M>, Partial<T::Wide>);

impl<T: Lane, M: Map<T::Wide>> Kernel for Raise<'_, T, M> {
    type Output = Partial<T::Wide>;

    #[inline(always)]
    fn run<I: Isa, const L: usize>(self, isa: I) -> Self::Output {
        let Self(block, all) = self;
        let columns = off_target(block.start..block.end, block.target);
        let highest = summit::<_, _, _, L>(isa, block.map, block.x, columns);
        if highest > all.level.height {
            all.moved(block.map.level::<I>(highest), block.map)
        } else {
            all
        }
    }
}

/// The sum of a block off the target, once more where its powers are not kept.
struct Others<'a, T: Lane, M>(Block<'a, T, M>, Level<T::Wide>, Option<&'a [T::Wide]>);

impl<T: Lane, M: Map<T::Wide>> Kernel for Others<'_, T, M> {
    type Output = f64;

    #[inline(always)]
    fn run<I: Isa, const L: usize>(self, isa: I) -> f64 {
        let Self(block, level, kept) = self;
        let mut total = Total::<_, _, L>::new(isa);
        for columns in off_target(block.start..block.end, block.target) {
            if columns.is_empty() {
                continue;
            }
            match kept {
                Some(kept) => pass::<_, _, L, false>(isa, kept, columns, None, &mut total),
                None => block.take(isa, columns, level, None, &mut total),
            }
        }
        total.lanes()
    }
}

/// A block beyond the level's reach: the level is raised, what was kept of the row is made relative to it, and the block is
/// taken again.
struct Higher<'a, T: Lane, M>(Block<'a, T, M>, Partial<T::Wide>, Option<&'a mut [T::Wide]>);

impl<T: Lane, M: Map<T::Wide>> Kernel for Higher<'_, T, M> {
    type Output = Partial<T::Wide>;

    #[inline(always)]
    fn run<I: Isa, const L: usize>(self, isa: I) -> Self::Output {
        let Self(block, all, mut kept) = self;
        let map = block.map;
        let old = all.level;
        let mut all = Raise(block, all).run::<_, L>(isa);
        let mut total = Total::<_, _, L>::new(isa);
        let columns = block.start..block.end;
        if let Some(kept) = &mut kept {
            let by = T::Wide::round((map.shift(old) - map.shift(all.level)).exp());
            multiply::<_, _, L>(isa, &mut kept[..block.start], by);
        }
        block.take(isa, columns, all.level, kept.as_deref_mut(), &mut total);
        all.sum += block.others::<_, L>(isa, total, all.level, kept.as_deref());
        all
    }
}

/// Multiplies whole vectors.
#[inline(always)]
fn multiply<I: Isa, R: Float, const L: usize>(isa: I, x: &mut [R], by: R) {
    let by = R::Vector::splat(isa, by);
    for x in x.as_chunks_mut::<L>().0 {
        *x = R::Vector::load(isa, *x).times(by).store();
    }
}

/// A row to sum up.
pub(super) struct Summed<'a, T> {
    pub(super) x: &'a [T],
    pub(super) target: usize,
}

/// A row whose powers are kept and whose gradient is to be written.
pub(super) struct Written<'a, T: Lane> {
    pub(super) gradient: &'a mut [T],
    /// What the powers are to be multiplied by.
    pub(super) factor: T::Wide,
    /// The target and its gradient.
    pub(super) target: (usize, T),
    pub(super) stream: bool,
}

/// Sums up a row and keeps its powers, and makes the gradient of an earlier one from its own.
pub(super) struct Turn<'a, T: Lane, M> {
    pub(super) map: M,
    pub(super) columns: usize,
    pub(super) sum: Option<Summed<'a, T>>,
    pub(super) write: Option<Written<'a, T>>,
}

impl<'a, T: Lane, M: Map<T::Wide>> Turn<'a, T, M> {
    #[inline(always)]
    fn block(&self, start: usize, end: usize) -> Option<Block<'a, T, M>> {
        match &self.sum {
            Some(sum) => Some(Block {
                map: self.map,
                x: sum.x,
                start,
                end,
                target: sum.target,
            }),
            None => None,
        }
    }
}

/// Whether a row is one block.
pub(super) const fn short(classes: usize) -> bool {
    classes < BLOCK + BLOCK / 4
}

/// A turn of rows of one block. The earlier row's powers are kept apart from the later's, so that the scalars of neither are
/// waited for.
pub(super) struct ShortTurn<'a, T: Lane, M> {
    pub(super) turn: Turn<'a, T, M>,
    /// `[C]` and padding, for the later row and from the earlier.
    pub(super) kept: &'a mut [T::Wide],
    pub(super) earlier: &'a [T::Wide],
}

impl<T: Lane, M: Map<T::Wide>> Kernel for ShortTurn<'_, T, M> {
    type Output = Partial<T::Wide>;

    #[inline(always)]
    fn run<I: Isa, const L: usize>(self, isa: I) -> Self::Output {
        let Self {
            turn,
            kept,
            earlier,
        } = self;
        let map = turn.map;
        let mut all = Partial::none::<I>(map);
        let columns = turn.columns;
        if let Some(block) = turn.block(0, columns) {
            block.begin::<_, L>(isa, &mut all);
            let mut total = Total::<_, _, L>::new(isa);
            block.take(isa, 0..columns, all.level, Some(&mut *kept), &mut total);
            block.add_to(isa, total, Some(kept), &mut all);
        }
        if let Some(row) = turn.write {
            let mut writer = Writer { map, row, done: 0 };
            writer.write_to::<_, L>(isa, earlier, columns);
        }
        all
    }
}

/// A turn of longer rows: the later row's powers are kept over those of the earlier, as its gradient goes along.
pub(super) struct LongTurn<'a, T: Lane, M> {
    pub(super) turn: Turn<'a, T, M>,
    /// `[C]` and padding.
    pub(super) kept: &'a mut [T::Wide],
}

impl<T: Lane, M: Map<T::Wide>> Kernel for LongTurn<'_, T, M> {
    type Output = Partial<T::Wide>;

    #[inline(always)]
    fn run<I: Isa, const L: usize>(mut self, isa: I) -> Self::Output {
        let Self { turn, kept } = &mut self;
        let map = turn.map;
        let columns = turn.columns;
        let mut writer = match turn.write.take() {
            Some(row) => Some(Writer { map, row, done: 0 }),
            None => None,
        };
        let strip_len = match &writer {
            Some(writer) if writer.row.stream => STRIP,
            _ => BLOCK,
        };
        let mut all = Partial::none::<I>(map);
        let mut start = 0;
        while start < columns {
            let end = part_end(start, columns, BLOCK);
            let block = turn.block(start, end);
            if let Some(block) = block {
                block.begin::<_, L>(isa, &mut all);
            }
            let mut total = Total::<_, _, L>::new(isa);
            while start < end {
                let strip = start..part_end(start, end, strip_len);
                start = strip.end;
                if let Some(writer) = &mut writer {
                    writer.write_to::<_, L>(isa, kept, start);
                }
                if let Some(block) = block {
                    block.take(isa, strip, all.level, Some(kept), &mut total);
                }
            }
            if let Some(block) = block {
                block.add_to(isa, total, Some(kept), &mut all);
            }
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

/// The gradient from powers, one vector after the other from column `at` on.
struct Lanes<I: Isa, T: Lane, M> {
    isa: I,
    map: M,
    at: usize,
    factor: VectorOf<I, T>,
}

impl<I: Isa, T: Lane, M: Map<T::Wide>, const L: usize> Make<[T::Wide; L], [T; L]>
    for Lanes<I, T, M>
{
    #[inline(always)]
    fn make(&mut self, powers: &[T::Wide; L]) -> [T; L] {
        let powers = VectorOf::<I, T>::load(self.isa, *powers);
        let weighed = self.map.weigh::<_, L>(self.isa, self.at, powers);
        self.at += L;
        T::narrow_lanes(self.isa, weighed.times(self.factor))
    }
}

impl<T: Lane, M: Map<T::Wide>> Writer<'_, T, M> {
    #[inline(always)]
    fn lanes<I: Isa>(&self, isa: I, at: usize) -> Lanes<I, T, M> {
        Lanes {
            isa,
            map: self.map,
            at,
            factor: VectorOf::<I, T>::splat(isa, self.row.factor),
        }
    }

    /// The gradient from column `at` on, target and all.
    #[inline(always)]
    fn one<I: Isa, const L: usize>(&self, isa: I, kept: &[T::Wide], at: usize) -> [T; L] {
        let powers = kept[at..].first_chunk::<L>().expect("padded");
        let mut lanes: [T; L] = self.lanes(isa, at).make(powers);
        let (target, value) = self.row.target;
        if let Some(lane) = lanes.get_mut(target.wrapping_sub(at)) {
            *lane = value;
        }
        lanes
    }

    /// Some columns and no others, through the cache.
    #[inline(always)]
    fn part<I: Isa, const L: usize>(&mut self, isa: I, kept: &[T::Wide], columns: Range<usize>) {
        for at in columns.clone().step_by(L) {
            let lanes = self.one::<_, L>(isa, kept, at);
            let to = &mut self.row.gradient[at..columns.end.min(at + L)];
            for (to, from) in to.iter_mut().zip(lanes) {
                *to = from;
            }
        }
    }

    /// So many vectors, without a look at the target.
    #[inline(always)]
    fn many<I: Isa, const L: usize>(&mut self, isa: I, kept: &[T::Wide], vectors: usize) {
        let at = self.done;
        self.done += vectors * L;
        let mut lanes = self.lanes(isa, at);
        let (to, _) = self.row.gradient[at..self.done].as_chunks_mut::<L>();
        let (powers, _) = kept[at..self.done].as_chunks::<L>();
        if self.row.stream {
            isa.stream(to, powers, &mut lanes);
        } else {
            store(to, powers, &mut lanes);
        }
    }

    /// Writes on to column `end` or a little further: powers beyond are still those of this row.
    #[inline(always)]
    fn write_to<I: Isa, const L: usize>(&mut self, isa: I, kept: &[T::Wide], end: usize) {
        let Written {
            ref gradient,
            target: (target, value),
            stream,
            ..
        } = self.row;
        let len = gradient.len();
        if stream {
            self.stream_to::<_, L>(isa, kept, end);
        } else {
            self.many::<_, L>(isa, kept, (end - self.done) / L);
        }
        if end < len {
            return;
        }
        if stream || len < L {
            self.part::<_, L>(isa, kept, self.done..len);
        } else if self.done < len {
            // Some of its columns once more.
            let last = self.one::<_, L>(isa, kept, len - L);
            *self.row.gradient.last_chunk_mut().expect("a vector") = last;
        }
        if !stream {
            self.row.gradient[target] = value;
        }
    }

    /// Past the cache whole lines only, and what is left of a row through it: where both write to a line, they wait for each
    /// other and for memory.
    #[inline(always)]
    fn stream_to<I: Isa, const L: usize>(&mut self, isa: I, kept: &[T::Wide], end: usize) {
        let gradient = &*self.row.gradient;
        let most = gradient.len();
        if self.done == 0 {
            let head = gradient.as_ptr().align_offset(LINE);
            if head > end {
                // The row ends in its first line.
                return;
            }
            self.part::<_, L>(isa, kept, 0..head);
            self.done = head;
        }
        let line = (LINE / size_of::<T>()).max(L);
        let columns = end.saturating_sub(self.done);
        // Powers beyond the end are still this row's, as far as there is a line of them.
        let lines = columns.div_ceil(line).min((most - self.done) / line);
        let vectors = lines * (line / L);
        // The target is written in its vector: the line would have to come back.
        let before = self.row.target.0.wrapping_sub(self.done) / L;
        if before < vectors {
            self.many::<_, L>(isa, kept, before);
            let own = self.one::<_, L>(isa, kept, self.done);
            let to = &mut self.row.gradient[self.done..].as_chunks_mut::<L>().0[..1];
            isa.stream(to, &[own], &mut Made);
            self.done += L;
            self.many::<_, L>(isa, kept, vectors - before - 1);
        } else {
            self.many::<_, L>(isa, kept, vectors);
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
        let mut all = Partial::none::<I>(map);
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
            block.begin::<_, L>(isa, &mut all);
            let mut total = Total::<_, _, L>::new(isa);
            block.take(isa, start..end, all.level, None, &mut total);
            block.add_to(isa, total, None, &mut all);
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
    level: Level<T::Wide>,
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
        powers::<_, T, L>(isa, self.map, self.first_class + at, x, self.level)
    }
}

/// Computed again from what is written over.
#[derive(Clone, Copy)]
struct InPlace<M, R> {
    map: M,
    first_class: usize,
    level: Level<R>,
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
        powers::<_, T, L>(isa, self.map, self.first_class + at, x, self.level)
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
                isa.stream(std::slice::from_mut(to), &[lanes], &mut Made);
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
    pub(super) level: Level<T::Wide>,
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
            level,
            gradient,
            scale,
            stream,
        } = self;
        match x {
            Some(x) => Gradient {
                map,
                source: Again {
                    map,
                    first_class,
                    x,
                    level,
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
                    level,
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
