//! Passes over a row: the maximum, the sum of powers, the gradient. Each is written once for all types and instances.

use std::ops::Range;

use super::arch::{Isa, Kernel, Vector};
use super::lane::{Float, Lane, VectorOf};
use super::map::Map;

/// So many columns are added in lanes before the lanes are added up in `f64`: with 8 lanes a sum of 128 `f32`, whose
/// rounding stays far within the bounds however long the row is.
pub(super) const BLOCK: usize = 1024;

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
    /// Takes the columns from `at`. Where not all lanes are `valid`, the others are not to count.
    fn step(&mut self, at: usize, x: V, valid: Option<Range<usize>>);
}

/// Takes the columns `part` of the row `x` in vectors; what is left at the end overlaps the columns beside it.
#[inline(always)]
fn pass<I: Isa, T: Lane, const L: usize>(
    isa: I,
    x: &[T],
    part: Range<usize>,
    step: &mut impl Step<VectorOf<I, T>>,
) {
    let (vectors, rest) = x[part.clone()].as_chunks::<L>();
    let mut at = part.start;
    for vector in vectors {
        step.step(at, T::widen_lanes(isa, *vector), None);
        at += L;
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
    step.step(start, T::widen_lanes(isa, vector), Some(valid));
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
    best: R::Vector<I>,
}

impl<I: Isa, M: Map<R>, R: Float, const L: usize> Step<R::Vector<I>> for Summit<I, M, R, L> {
    #[inline(always)]
    fn step(&mut self, at: usize, x: R::Vector<I>, valid: Option<Range<usize>>) {
        let height = self.map.height::<_, L>(self.isa, at, x);
        let best = height.or_higher(self.best);
        self.best = match valid {
            None => best,
            Some(valid) => best.within(valid, self.best),
        };
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
        best: <T::Wide as Float>::Vector::splat(isa, T::Wide::NEG_INFINITY),
    };
    for part in off_target(columns, target) {
        pass::<_, _, L>(isa, x, part, &mut summit);
    }
    let best: [T::Wide; L] = summit.best.store();
    best.into_iter()
        .fold(T::Wide::NEG_INFINITY, |best, x| higher(x, best))
}

/// The sum of a pass, its terms kept where there is somewhere to.
struct Powers<'a, I: Isa, M, R: Float, const L: usize> {
    isa: I,
    map: M,
    top: R,
    sums: R::Vector<I>,
    kept: Option<&'a mut [R]>,
}

impl<I: Isa, M: Map<R>, R: Float, const L: usize> Step<R::Vector<I>> for Powers<'_, I, M, R, L> {
    #[inline(always)]
    fn step(&mut self, at: usize, x: R::Vector<I>, valid: Option<Range<usize>>) {
        let mut powers = powers::<_, _, R, L>(self.isa, self.map, at, x, self.top);
        if let Some(valid) = &valid {
            let zero = R::Vector::splat(self.isa, R::default());
            powers = powers.within(valid.clone(), zero);
        }
        self.sums = self.sums.plus(powers);
        if let Some(kept) = &mut self.kept {
            let kept = kept[at..].first_chunk_mut::<L>().expect("padded");
            if let Some(valid) = valid {
                // Lanes before the valid ones are other columns', which are done; those after are yet to come.
                powers = powers.within(valid.start..L, R::Vector::load(self.isa, *kept));
            }
            *kept = powers.store();
        }
    }
}

/// `exp(z - m)` in lanes.
#[inline(always)]
fn powers<I: Isa, M: Map<R>, R: Float, const L: usize>(
    isa: I,
    map: M,
    at: usize,
    x: R::Vector<I>,
    top: R,
) -> R::Vector<I> {
    R::exp2(isa, map.exponents::<_, L>(isa, at, x, top))
}

/// The sum of a block of columns.
#[inline(always)]
fn block_sum<I: Isa, M: Map<T::Wide>, T: Lane, const L: usize>(
    isa: I,
    map: M,
    x: &[T],
    columns: Range<usize>,
    target: usize,
    top: T::Wide,
    kept: Option<&mut [T::Wide]>,
) -> f64 {
    // With nothing above -infinity, every distance from it would be a NaN.
    let top = if top == T::Wide::NEG_INFINITY {
        T::Wide::default()
    } else {
        top
    };
    let mut powers = Powers::<_, _, _, L> {
        isa,
        map,
        top,
        sums: <T::Wide as Float>::Vector::splat(isa, T::Wide::default()),
        kept,
    };
    for part in off_target(columns, target) {
        pass::<_, _, L>(isa, x, part, &mut powers);
    }
    let sums: [T::Wide; L] = powers.sums.store();
    sums.into_iter().map(Float::widen).sum()
}

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
        } = self;
        let top = summit::<_, _, _, L>(isa, map, x, 0..x.len(), target);
        let mut sum = 0.0;
        for block in blocks(0..x.len()) {
            sum += block_sum::<_, _, _, L>(isa, map, x, block, target, top, kept.as_deref_mut());
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
        for block in blocks(columns) {
            let top = summit::<_, _, _, L>(isa, map, x, block.clone(), target);
            let sum = block_sum::<_, _, _, L>(isa, map, x, block, target, top, None);
            all = all.and(Partial { top, sum }, map);
        }
        all
    }
}

/// Where the powers of a gradient come from.
trait Source<T: Lane>: Copy {
    /// Those of the columns from `at`, of which `n` are wanted; `over` is what the gradient will be written over.
    fn powers<I: Isa, const L: usize>(
        self,
        isa: I,
        at: usize,
        n: usize,
        over: [T; L],
    ) -> VectorOf<I, T>;
}

#[derive(Clone, Copy)]
struct Kept<'a, R>(&'a [R]);

impl<T: Lane> Source<T> for Kept<'_, T::Wide> {
    #[inline(always)]
    fn powers<I: Isa, const L: usize>(
        self,
        isa: I,
        at: usize,
        _: usize,
        _: [T; L],
    ) -> VectorOf<I, T> {
        VectorOf::<I, T>::load(isa, *self.0[at..].first_chunk::<L>().expect("padded"))
    }
}

/// Computed again; from what is written over where there are no other logits.
#[derive(Clone, Copy)]
struct Again<'a, T: Lane, M> {
    map: M,
    first_class: usize,
    x: Option<&'a [T]>,
    top: T::Wide,
}

impl<T: Lane, M: Map<T::Wide>> Source<T> for Again<'_, T, M> {
    #[inline(always)]
    fn powers<I: Isa, const L: usize>(
        self,
        isa: I,
        at: usize,
        n: usize,
        over: [T; L],
    ) -> VectorOf<I, T> {
        let x = match self.x {
            None => over,
            Some(x) if n == L => *x[at..].first_chunk().expect("a whole vector"),
            Some(x) => padded(&x[at..at + n]),
        };
        let x = T::widen_lanes(isa, x);
        powers::<_, _, T::Wide, L>(isa, self.map, self.first_class + at, x, self.top)
    }
}

/// A gradient, or some columns of one.
struct Gradient<'a, T: Lane, M, S> {
    map: M,
    source: S,
    first_class: usize,
    gradient: &'a mut [T],
    scale: T::Wide,
    /// Where logits lie that are needed next, to be fetched while this is written.
    ahead: Option<*const T>,
}

impl<T: Lane, M: Map<T::Wide>, S: Source<T>> Gradient<'_, T, M, S> {
    #[inline(always)]
    fn lanes<I: Isa, const L: usize>(&self, isa: I, at: usize, n: usize, over: [T; L]) -> [T; L] {
        let powers = self.source.powers(isa, at, n, over);
        let weighed = self.map.weigh::<_, L>(isa, self.first_class + at, powers);
        T::narrow_lanes(isa, weighed.times(VectorOf::<I, T>::splat(isa, self.scale)))
    }

    /// Less than a vector.
    #[inline(always)]
    fn part<I: Isa, const L: usize>(&mut self, isa: I, at: usize, n: usize) {
        let over = padded(&self.gradient[at..at + n]);
        let lanes = self.lanes::<_, L>(isa, at, n, over);
        for (to, from) in self.gradient[at..at + n].iter_mut().zip(lanes) {
            *to = from;
        }
    }

    /// Past the cache where `STREAM`: whole lines, since a part of one would be read to be completed.
    #[inline(always)]
    fn write<I: Isa, const L: usize, const STREAM: bool>(mut self, isa: I) {
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
        while at + L <= len {
            if let (true, Some(ahead)) = (STREAM, self.ahead) {
                isa.prefetch(ahead.wrapping_add(at));
            }
            let over = *self.gradient[at..].first_chunk().expect("a whole vector");
            let lanes = self.lanes::<_, L>(isa, at, L, over);
            let to = self.gradient[at..]
                .first_chunk_mut::<L>()
                .expect("a whole vector");
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
        if STREAM {
            isa.finish_streams();
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
    /// Where the next row's logits lie.
    pub(super) ahead: *const T,
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
            ahead: Some(self.ahead),
        };
        if self.stream {
            gradient.write::<_, L, true>(isa);
        } else {
            gradient.write::<_, L, false>(isa);
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
        let gradient = Gradient {
            map: self.map,
            source: Again {
                map: self.map,
                first_class: self.first_class,
                x: self.x,
                top: self.top,
            },
            first_class: self.first_class,
            gradient: self.gradient,
            scale: self.scale,
            ahead: None,
        };
        if self.stream {
            gradient.write::<_, L, true>(isa);
        } else {
            gradient.write::<_, L, false>(isa);
        }
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
        stands(&self.x[before], |x, own| x < own) && stands(&self.x[after], |x, own| x <= own)
            // Where there are no others.
            && own[0] <= own[0]
    }
}
