//! Passes over a row: the maximum, the sum of powers, the gradient. Each is written once for all types and instances.

use std::ops::Range;

use super::arch::{Isa, Kernel, Vector};
use super::lane::{Float, Lane, VectorOf};
use super::map::Map;

/// So many columns are added in lanes before the lanes are added up in `f64`: with 8 lanes a sum of 128 `f32`, whose
/// rounding stays far within the bounds however long the row is.
pub(super) const BLOCK: usize = 1024;

/// So many vectors are taken together, each with its own maximum or sum. With 4 of them AVX2 runs out of registers for the
/// polynomial's constants: 1.03 x the time.
const CHAINS: usize = 2;

/// The terms off the target over some columns: `sum` of `exp(z_j - m)`, where `m` is the shift at height `top`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Partial<R> {
    pub(super) top: R,
    pub(super) sum: f64,
}

impl<R: Float> Partial<R> {
    const EMPTY: Self = Self {
        top: R::NEG_INFINITY,
        sum: 0.0,
    };

    /// Both together. A NaN in either stays.
    pub(super) fn and(self, other: Self, map: impl Map<R>) -> Self {
        let top = higher(other.top, self.top);
        let at_top = |part: Self| {
            if part.top == top {
                part.sum
            } else {
                part.sum * (map.shift(part.top) - map.shift(top)).exp()
            }
        };
        Self {
            top,
            sum: at_top(self) + at_top(other),
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

/// Takes the columns `part` of the row `x` in vectors; what is left at the end overlaps the columns beside it. What the
/// steps return is kept where there is somewhere to: a row and padding. Column 0 of what is needed next lies at `ahead`;
/// it is fetched meanwhile.
#[inline(always)]
fn pass<I: Isa, T: Lane, const L: usize>(
    isa: I,
    x: &[T],
    part: Range<usize>,
    mut kept: Option<&mut [T::Wide]>,
    ahead: Option<*const T>,
    step: &mut impl Step<VectorOf<I, T>>,
) {
    let (vectors, rest) = x[part.clone()].as_chunks::<L>();
    let (groups, single) = vectors.as_chunks::<CHAINS>();
    let mut at = part.start;
    match &mut kept {
        None => {
            for group in groups {
                fetch(isa, ahead, at, group);
                for (chain, vector) in group.iter().enumerate() {
                    step.step(chain, at + chain * L, T::widen_lanes(isa, *vector), None);
                }
                at += CHAINS * L;
            }
            for vector in single {
                step.step(0, at, T::widen_lanes(isa, *vector), None);
                at += L;
            }
        }
        Some(kept) => {
            let (slots, _) = kept[part.clone()].as_chunks_mut::<L>();
            let (slot_groups, slots) = slots.as_chunks_mut::<CHAINS>();
            for (group, slots) in groups.iter().zip(slot_groups) {
                fetch(isa, ahead, at, group);
                for (chain, (vector, slot)) in group.iter().zip(slots).enumerate() {
                    let x = T::widen_lanes(isa, *vector);
                    *slot = step.step(chain, at + chain * L, x, None).store();
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
    let valid = at - start..part.end - start;
    let x = T::widen_lanes(isa, vector);
    let result = step.step(0, start, x, Some(valid.clone()));
    if let Some(kept) = kept {
        let slot = kept[start..].first_chunk_mut::<L>().expect("padded");
        // Lanes before the valid ones are other columns', which are done; those after are yet to come.
        *slot = result
            .within(valid.start..L, VectorOf::<I, T>::load(isa, *slot))
            .store();
    }
}

/// Asks for what lies at `at` columns from `ahead`, as long as `group`.
#[inline(always)]
fn fetch<I: Isa, T, G>(isa: I, ahead: Option<*const T>, at: usize, _: &G) {
    const LINE: usize = 64;
    if let Some(ahead) = ahead {
        for byte in (0..size_of::<G>()).step_by(LINE) {
            isa.prefetch(ahead.wrapping_add(at).wrapping_byte_add(byte));
        }
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
    columns: Range<usize>,
    target: usize,
) -> T::Wide {
    let mut summit = Summit::<_, _, _, L> {
        isa,
        map,
        best: [VectorOf::<I, T>::splat(isa, T::Wide::NEG_INFINITY); CHAINS],
    };
    for part in off_target(columns, target) {
        pass::<_, _, L>(isa, x, part, None, None, &mut summit);
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
    sums: [R::Vector<I>; CHAINS],
}

impl<I: Isa, M: Map<R>, R: Float, const L: usize> Step<R::Vector<I>> for Powers<I, M, R, L> {
    #[inline(always)]
    fn step(
        &mut self,
        chain: usize,
        at: usize,
        x: R::Vector<I>,
        valid: Option<Range<usize>>,
    ) -> R::Vector<I> {
        let mut powers = self.map.powers::<_, L>(self.isa, at, x, self.top);
        if let Some(valid) = valid {
            powers = powers.within(valid, R::Vector::splat(self.isa, R::default()));
        }
        self.sums[chain] = self.sums[chain].plus(powers);
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

/// The sum of a block of columns, which are in two parts.
#[inline(always)]
fn block_sum<I: Isa, M: Map<T::Wide>, T: Lane, const L: usize>(
    isa: I,
    map: M,
    x: &[T],
    parts: [Range<usize>; 2],
    top: T::Wide,
    mut kept: Option<&mut [T::Wide]>,
    ahead: *const T,
) -> f64 {
    let top = finite_top(top);
    let mut powers = Powers::<_, _, _, L> {
        isa,
        map,
        top,
        sums: [VectorOf::<I, T>::splat(isa, T::Wide::default()); CHAINS],
    };
    for part in parts {
        let kept = kept.as_deref_mut();
        pass::<_, _, L>(isa, x, part, kept, Some(ahead), &mut powers);
    }
    let sums: [T::Wide; L] = across(powers.sums, |a, b| a.plus(b)).store();
    across(sums.map(Float::widen), |a, b| a + b)
}

#[inline(always)]
fn blocks(columns: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = columns.end;
    columns
        .step_by(BLOCK)
        .map(move |start| start..end.min(start + BLOCK))
}

/// Sums up a row whose powers are kept: the maximum of all first, then powers that differ from the gradient by one factor.
pub(super) struct SumKept<'a, T: Lane, M> {
    pub(super) map: M,
    pub(super) x: &'a [T],
    pub(super) target: usize,
    /// `[C]` and padding.
    pub(super) kept: Option<&'a mut [T::Wide]>,
    /// Where the next row's logits lie.
    pub(super) ahead: *const T,
}

impl<T: Lane, M: Map<T::Wide>> Kernel for SumKept<'_, T, M> {
    type Output = Partial<T::Wide>;

    #[inline(always)]
    fn run<I: Isa, const L: usize>(self, isa: I) -> Self::Output {
        let Self {
            map,
            x,
            target,
            mut kept,
            ahead,
        } = self;
        let top = summit::<_, _, _, L>(isa, map, x, 0..x.len(), target);
        let mut sum = 0.0;
        for block in blocks(0..x.len()) {
            let kept = kept.as_deref_mut();
            let parts = off_target(block, target);
            sum += block_sum::<_, _, _, L>(isa, map, x, parts, top, kept, ahead);
        }
        Partial { top, sum }
    }
}

/// Sums up some columns of a long row in one reading: each block relative to its own maximum.
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
        let ahead = x.as_ptr().wrapping_add(BLOCK);
        for block in blocks(columns) {
            let top = summit::<_, _, _, L>(isa, map, x, block.clone(), target);
            let parts = off_target(block, target);
            let sum = block_sum::<_, _, _, L>(isa, map, x, parts, top, None, ahead);
            all = all.and(Partial { top, sum }, map);
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

#[derive(Clone, Copy)]
struct Kept<'a, R>(&'a [R]);

impl<T: Lane> Source<T> for Kept<'_, T::Wide> {
    type Raw<const L: usize> = [T::Wide; L];

    #[inline(always)]
    fn vectors<const L: usize>(self, at: usize) -> impl Iterator<Item = [T::Wide; L]> {
        self.0[at..].as_chunks().0.iter().copied()
    }

    #[inline(always)]
    fn part<const L: usize>(self, at: usize, _: usize) -> [T::Wide; L] {
        *self.0[at..].first_chunk().expect("padded")
    }

    #[inline(always)]
    fn powers<I: Isa, const L: usize>(
        self,
        isa: I,
        _: usize,
        raw: [T::Wide; L],
        _: [T; L],
    ) -> VectorOf<I, T> {
        VectorOf::<I, T>::load(isa, raw)
    }
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

/// Writes a row's gradient from the powers that were kept.
pub(super) struct WriteKept<'a, T: Lane, M> {
    pub(super) map: M,
    pub(super) kept: &'a [T::Wide],
    pub(super) gradient: &'a mut [T],
    pub(super) scale: T::Wide,
    pub(super) stream: bool,
}

impl<T: Lane, M: Map<T::Wide>> Kernel for WriteKept<'_, T, M> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa, const L: usize>(self, isa: I) {
        let gradient = Gradient {
            map: self.map,
            source: Kept(self.kept),
            first_class: 0,
            gradient: self.gradient,
            scale: self.scale,
        };
        gradient.write_where::<_, L>(isa, self.stream);
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
