//! A row's sum of exponentials off the target, relative to a pivot.
//!
//! ```text
//! pivot = the highest of the first 32 columns     not above the row's: not all terms vanish
//! for each block of 1024 columns:
//!     sum += exp(z_j - pivot)                     in lanes, then over them in f64; each is kept
//!     take the target's own term off again        or add up the rest, where it is more than half
//!     if the block's sum > 2^24:                  the pivot is too low, which is rare
//!         raise the pivot to the block's highest, scale what was kept, take the block again
//! ```
//!
//! It is fast because a row is read once: there is no pass for the maximum, which a softmax needs
//! only so that exponentials neither overflow nor all vanish. Against the highest of each block
//! before its exponentials are taken, all else equal, in turns in one process (AVX2, one slope for
//! all; the time of that scheme over this one's, median of 40; `f32` / `bf16`):
//!
//! | rows x classes | 1 thread | 2 threads |
//! |---|---|---|
//! | 256 x 1000 | 1.19 / 1.13 | 1.20 / 1.13 |
//! | 1024 x 365 | 1.16 / 1.15 | 1.15 / 1.13 |
//! | 512 x 8142 | 1.29 / 1.22 | 1.27 / 1.20 |
//! | 128 x 100000 | 1.40 / 1.20 | 1.32 / 1.17 |

use std::ops::Range;

use super::arch::isa::{Isa, Kernel};
use super::arch::vector::{MOST_LANES, Vector};
use super::lane::{Float, Lane, VectorOf};
use super::map::{Map, Pivot};
use super::pass::{CHAINS, Step, across, off_target, pass};
use crate::element::Real;

/// So many columns are added in lanes before the lanes are added up in `f64`: with 8 lanes a sum of
/// 128 `f32`, 160 at the end of a row, whose rounding stays far within the bounds however long the
/// row is.
pub(super) const BLOCK: usize = 1024;

/// A row's first pivot is the highest of so many columns.
const SAMPLE: usize = 32;

/// A larger block sum means that the pivot is too low. Exponentials so far above a pivot are
/// rounded by 1.3e-6 at most where it is taken off as a number, and not at all where it is a whole
/// exponent; the gradient's factor is as small as they are large.
pub(super) const MOST_BLOCK_SUM: f64 = (1u32 << 24) as f64;

/// Where a part ends that begins at `start`, of columns that are cut in parts of `len`. What is
/// left at the `end` counts as a part if it is a quarter of one, and else belongs to the last.
#[inline(always)]
pub(super) fn part_end(start: usize, end: usize, len: usize) -> usize {
    if end - start < len + len / 4 {
        end
    } else {
        start + len
    }
}

/// The terms off the target over some columns: `sum` of `exp(z_j - m)`, where `m` is the shift at
/// `pivot`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Partial<R> {
    pub(super) pivot: Pivot<R>,
    pub(super) sum: f64,
}

impl<R: Float> Partial<R> {
    #[inline(always)]
    pub(super) fn none<I: Isa>(map: impl Map<R>) -> Self {
        Self {
            pivot: map.pivot::<I>(R::NEG_INFINITY),
            sum: 0.0,
        }
    }

    /// The same terms relative to `pivot`. A NaN stays.
    #[inline(always)]
    fn moved(self, pivot: Pivot<R>, map: impl Map<R>) -> Self {
        let sum = if self.pivot.order == pivot.order || self.sum == 0.0 {
            self.sum
        } else {
            self.sum * (map.shift(self.pivot) - map.shift(pivot)).exp()
        };
        Self { pivot, sum }
    }

    /// Both together. A NaN in either stays.
    #[inline(always)]
    pub(super) fn and(self, other: Self, map: impl Map<R>) -> Self {
        let pivot = if self.pivot.order > other.pivot.order {
            self.pivot
        } else {
            other.pivot
        };
        Self {
            pivot,
            sum: self.moved(pivot, map).sum + other.moved(pivot, map).sum,
        }
    }
}

/// The highest order of a pass.
struct MaxOf<I: Isa, M, R: Float> {
    isa: I,
    map: M,
    max: [R::Vector<I>; CHAINS],
}

impl<I: Isa, M: Map<R>, R: Float> Step<R::Vector<I>> for MaxOf<I, M, R> {
    #[inline(always)]
    fn step(&mut self, chain: usize, at: usize, x: R::Vector<I>) -> R::Vector<I> {
        let order = self.map.order(self.isa, at, x);
        self.max[chain] = order.or_higher(self.max[chain]);
        x
    }
}

/// The sum of the exponentials of a pass.
pub(super) struct SumOf<I: Isa, M, R: Float, const SUBTRACT_FIRST: bool> {
    pub(super) isa: I,
    pub(super) map: M,
    /// Of the row's first column.
    pub(super) first_class: usize,
    pub(super) pivot: Pivot<R>,
    pub(super) sum: R::Vector<I>,
}

impl<I: Isa, M: Map<R>, R: Float, const SUBTRACT_FIRST: bool> Step<R::Vector<I>>
    for SumOf<I, M, R, SUBTRACT_FIRST>
{
    #[inline(always)]
    fn step(&mut self, _: usize, at: usize, x: R::Vector<I>) -> R::Vector<I> {
        let class = self.first_class + at;
        let map = self.map;
        let e = map.exponentials::<_, SUBTRACT_FIRST>(self.isa, class, x, self.pivot);
        self.sum = self.sum.plus(e);
        e
    }
}

/// [`SumOf`], which adds up the logits' measures too.
struct GatherOf<I: Isa, M, R: Float, const SUBTRACT_FIRST: bool> {
    of: SumOf<I, M, R, SUBTRACT_FIRST>,
    measures: R::Vector<I>,
}

impl<I: Isa, M: Map<R>, R: Float, const SUBTRACT_FIRST: bool> GatherOf<I, M, R, SUBTRACT_FIRST> {
    /// The exponentials and the measures.
    #[inline(always)]
    fn both(&mut self, at: usize, x: R::Vector<I>) -> [R::Vector<I>; 2] {
        let SumOf {
            isa,
            map,
            first_class,
            pivot,
            ..
        } = self.of;
        let class = first_class + at;
        let (e, measures) =
            map.exponentials_and_measures::<_, SUBTRACT_FIRST>(isa, class, x, pivot);
        self.of.sum = self.of.sum.plus(e);
        [e, measures]
    }
}

impl<I: Isa, M: Map<R>, R: Float, const SUBTRACT_FIRST: bool> Step<R::Vector<I>>
    for GatherOf<I, M, R, SUBTRACT_FIRST>
{
    #[inline(always)]
    fn step(&mut self, _: usize, at: usize, x: R::Vector<I>) -> R::Vector<I> {
        let [e, measures] = self.both(at, x);
        self.measures = self.measures.plus(measures);
        e
    }

    #[inline(always)]
    fn step_in_part(&mut self, at: usize, x: R::Vector<I>, lanes: Range<usize>) -> R::Vector<I> {
        let [e, measures] = self.both(at, x);
        let nothing = R::Vector::splat(self.of.isa, R::default());
        self.measures = self.measures.plus(measures.within(lanes, nothing));
        e
    }
}

/// A row to sum up, or some columns of one.
#[derive(Clone, Copy)]
pub(super) struct RowSum<'a, T, M> {
    pub(super) map: M,
    /// Of the first logit.
    pub(super) first_class: usize,
    pub(super) x: &'a [T],
    /// Of the target; beyond the logits where they do not hold it.
    pub(super) target: usize,
}

impl<'r, T: Lane, M: Map<T::Real>> RowSum<'r, T, M> {
    /// Where the row has no pivot yet, one from a sample of the block. A row whose sample holds
    /// only masks or NaN looks at the whole block.
    #[inline(always)]
    pub(super) fn begin<I: Isa>(self, isa: I, block: Range<usize>, partial: &mut Partial<T::Real>) {
        if partial.pivot.order > T::Real::NEG_INFINITY {
            return;
        }
        let sample = block.start..block.end.min(block.start + SAMPLE);
        let mut order = self.max(isa, sample);
        if order == T::Real::NEG_INFINITY {
            order = isa.apart(Max(self, block));
        }
        partial.pivot = self.map.pivot::<I>(order);
    }

    /// The highest order of some columns off the target.
    #[inline(always)]
    fn max<I: Isa>(self, isa: I, columns: Range<usize>) -> T::Real {
        let Self { map, x, .. } = self;
        let mut step = MaxOf {
            isa,
            map,
            max: [VectorOf::<I, T>::splat(isa, T::Real::NEG_INFINITY); CHAINS],
        };
        for columns in off_target(columns, self.target) {
            if !columns.is_empty() {
                pass::<_, _, false>(isa, x, columns, None, &mut step);
            }
        }
        let [a, b] = step.max;
        let mut lanes = [T::Real::NEG_INFINITY; MOST_LANES];
        a.or_higher(b).store(&mut lanes);
        // In this form it is one instruction.
        let max = across::<I, _>(lanes, |a, b| if a > b { a } else { b });
        map.unmasked(max)
    }

    /// Some columns whose exponentials are to be added up, and kept where there is somewhere to.
    #[inline(always)]
    pub(super) fn take<'a>(
        self,
        columns: Range<usize>,
        pivot: Pivot<T::Real>,
        kept: Option<&'a mut [T::Real]>,
    ) -> Take<'a, T, M>
    where
        'r: 'a,
    {
        Take {
            row: self,
            columns,
            pivot,
            kept,
        }
    }

    /// The sum of some columns off the target; nothing is kept.
    #[inline(always)]
    fn sum_off_target<I: Isa>(self, isa: I, columns: Range<usize>, pivot: Pivot<T::Real>) -> f64 {
        let mut sum = VectorOf::<I, T>::splat(isa, T::Real::default());
        for columns in off_target(columns, self.target) {
            if !columns.is_empty() {
                sum = self.take(columns, pivot, None).onto(isa, sum);
            }
        }
        total::<I, T::Real>(sum)
    }

    /// Adds a block's sum off the target to `partial`.
    #[inline(always)]
    pub(super) fn end<I: Isa>(
        self,
        isa: I,
        block: Range<usize>,
        sum: f64,
        kept: Option<&mut [T::Real]>,
        partial: &mut Partial<T::Real>,
    ) {
        if sum <= MOST_BLOCK_SUM {
            partial.sum += sum;
        } else {
            let (row, low) = (self, *partial);
            *partial = isa.apart(RetakeFromHigher {
                row,
                block,
                kept,
                low,
            });
        }
    }

    /// The sum of a block off the target, from lanes whose terms were kept, the target's too.
    #[inline(always)]
    pub(super) fn without_target<I: Isa>(
        self,
        isa: I,
        block: Range<usize>,
        sum: VectorOf<I, T>,
        kept: &mut [T::Real],
    ) -> f64 {
        let sum = total::<I, T::Real>(sum);
        if !block.contains(&self.target) {
            return sum;
        }
        let own = kept[self.target].to_f64();
        let rest = sum - own;
        if own <= rest {
            // It has no more than half of the sum, which it can be taken off again.
            return rest;
        }
        kept[self.target] = T::Real::default();
        isa.apart(Resum(&kept[block]))
    }
}

/// A block's numbers added up as the exponentials of a pass are.
pub(super) struct Resum<'a, R>(pub(super) &'a [R]);

impl<R: Float> Kernel for Resum<'_, R> {
    type Output = f64;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> f64 {
        let mut sum = R::Vector::splat(isa, R::default());
        let vectors = self.0.chunks_exact(I::LANES);
        let rest: f64 = vectors.remainder().iter().map(|x| x.to_f64()).sum();
        for vector in vectors {
            sum = sum.plus(R::Vector::load(isa, vector));
        }
        rest + total::<I, R>(sum)
    }
}

/// Lanes added up in `f64`.
#[inline(always)]
pub(super) fn total<I: Isa, R: Float>(sum: R::Vector<I>) -> f64 {
    let mut lanes = [R::default(); MOST_LANES];
    sum.store(&mut lanes);
    across::<I, _>(lanes.map(Real::to_f64), |a, b| a + b)
}

/// Some columns of a row to take.
pub(super) struct Take<'a, T: Lane, M> {
    row: RowSum<'a, T, M>,
    columns: Range<usize>,
    pivot: Pivot<T::Real>,
    kept: Option<&'a mut [T::Real]>,
}

impl<T: Lane, M: Map<T::Real>> Take<'_, T, M> {
    /// The sum in lanes.
    #[inline(always)]
    pub(super) fn sum<I: Isa>(self, isa: I) -> VectorOf<I, T> {
        self.onto(isa, VectorOf::<I, T>::splat(isa, T::Real::default()))
    }

    /// `sum` and these.
    #[inline(always)]
    pub(super) fn onto<I: Isa>(self, isa: I, sum: VectorOf<I, T>) -> VectorOf<I, T> {
        if !(M::WHOLE_EXPONENTS && I::FUSED) {
            self.with::<I, true>(isa, sum)
        } else if self.pivot.subtract_first {
            self.apart(isa, sum)
        } else {
            self.with::<I, false>(isa, sum)
        }
    }

    #[inline(always)]
    fn with<I: Isa, const SUBTRACT_FIRST: bool>(
        self,
        isa: I,
        sum: VectorOf<I, T>,
    ) -> VectorOf<I, T> {
        let RowSum {
            map,
            first_class,
            x,
            ..
        } = self.row;
        let mut step = SumOf::<_, _, _, SUBTRACT_FIRST> {
            isa,
            map,
            first_class,
            pivot: self.pivot,
            sum,
        };
        pass::<_, _, true>(isa, x, self.columns, self.kept, &mut step);
        step.sum
    }

    /// `sum` and these, `measures` and theirs; see [`Map::gathered`].
    #[inline(always)]
    pub(super) fn gather<I: Isa>(
        self,
        isa: I,
        sum: VectorOf<I, T>,
        measures: VectorOf<I, T>,
    ) -> [VectorOf<I, T>; 2] {
        let mut lanes = [[T::Real::default(); MOST_LANES]; 2];
        sum.store(&mut lanes[0]);
        measures.store(&mut lanes[1]);
        let [sum, measures] = isa.apart(Gather(self, lanes));
        [
            VectorOf::<I, T>::load(isa, &sum),
            VectorOf::<I, T>::load(isa, &measures),
        ]
    }

    /// [`onto`](Self::onto) as a function of its own.
    #[inline(always)]
    fn apart<I: Isa>(self, isa: I, sum: VectorOf<I, T>) -> VectorOf<I, T> {
        let mut lanes = [T::Real::default(); MOST_LANES];
        sum.store(&mut lanes);
        VectorOf::<I, T>::load(isa, &isa.apart(TakeApart(self, lanes)))
    }
}

/// The same as a function of its own, for what is seldom taken: of pivots that are taken off first,
/// or of a block once more.
struct TakeApart<'a, T: Lane, M>(Take<'a, T, M>, [T::Real; MOST_LANES]);

impl<T: Lane, M: Map<T::Real>> Kernel for TakeApart<'_, T, M> {
    type Output = [T::Real; MOST_LANES];

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Self::Output {
        let Self(take, mut lanes) = self;
        let sum = VectorOf::<I, T>::load(isa, &lanes);
        let sum = if !(M::WHOLE_EXPONENTS && I::FUSED) || take.pivot.subtract_first {
            take.with::<I, true>(isa, sum)
        } else {
            take.with::<I, false>(isa, sum)
        };
        sum.store(&mut lanes);
        lanes
    }
}

/// [`Take::gather`] as a function of its own: of smoothed labels alone.
struct Gather<'a, T: Lane, M>(Take<'a, T, M>, [[T::Real; MOST_LANES]; 2]);

impl<'a, T: Lane, M: Map<T::Real>> Gather<'a, T, M> {
    #[inline(always)]
    fn with<I: Isa, const SUBTRACT_FIRST: bool>(self, isa: I) -> [[T::Real; MOST_LANES]; 2] {
        let Self(
            Take {
                row,
                columns,
                pivot,
                kept,
            },
            mut lanes,
        ) = self;
        let mut step = GatherOf::<_, _, _, SUBTRACT_FIRST> {
            of: SumOf {
                isa,
                map: row.map,
                first_class: row.first_class,
                pivot,
                sum: VectorOf::<I, T>::load(isa, &lanes[0]),
            },
            measures: VectorOf::<I, T>::load(isa, &lanes[1]),
        };
        pass::<_, _, true>(isa, row.x, columns, kept, &mut step);
        step.of.sum.store(&mut lanes[0]);
        step.measures.store(&mut lanes[1]);
        lanes
    }
}

impl<T: Lane, M: Map<T::Real>> Kernel for Gather<'_, T, M> {
    type Output = [[T::Real; MOST_LANES]; 2];

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Self::Output {
        if !(M::WHOLE_EXPONENTS && I::FUSED) || self.0.pivot.subtract_first {
            self.with::<I, true>(isa)
        } else {
            self.with::<I, false>(isa)
        }
    }
}

/// The highest order of some columns off the target.
struct Max<'a, T, M>(RowSum<'a, T, M>, Range<usize>);

impl<T: Lane, M: Map<T::Real>> Kernel for Max<'_, T, M> {
    type Output = T::Real;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> T::Real {
        self.0.max(isa, self.1)
    }
}

/// A block whose pivot is too low: it is raised, what was kept of the row is made relative to it,
/// and the block is taken again.
struct RetakeFromHigher<'a, T: Lane, M> {
    row: RowSum<'a, T, M>,
    block: Range<usize>,
    kept: Option<&'a mut [T::Real]>,
    /// What there is of the row before the block.
    low: Partial<T::Real>,
}

impl<T: Lane, M: Map<T::Real>> Kernel for RetakeFromHigher<'_, T, M> {
    type Output = Partial<T::Real>;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Self::Output {
        let Self {
            row,
            block,
            mut kept,
            low,
        } = self;
        let map = row.map;
        let mut partial = low;
        let order = isa.apart(Max(row, block.clone()));
        if order > low.pivot.order {
            let pivot = map.pivot::<I>(order);
            if let Some(kept) = &mut kept {
                let by = (map.shift(low.pivot) - map.shift(pivot)).exp();
                scale(isa, &mut kept[..block.start], T::Real::from_f64(by));
            }
            partial = low.moved(pivot, map);
        }
        let mut sum = VectorOf::<I, T>::splat(isa, T::Real::default());
        let Some(kept) = kept else {
            for columns in off_target(block, row.target) {
                if !columns.is_empty() {
                    sum = row.take(columns, partial.pivot, None).apart(isa, sum);
                }
            }
            partial.sum += total::<I, T::Real>(sum);
            return partial;
        };
        let take = row.take(block.clone(), partial.pivot, Some(&mut *kept));
        let sum = take.apart(isa, sum);
        partial.sum += row.without_target(isa, block, sum, kept);
        partial
    }
}

/// Multiplies whole vectors.
#[inline(always)]
fn scale<I: Isa, R: Float>(isa: I, x: &mut [R], by: R) {
    let by = R::Vector::splat(isa, by);
    for x in x.chunks_exact_mut(I::LANES) {
        R::Vector::load(isa, x).times(by).store(x);
    }
}

/// Sums up some columns of a long row in one reading; keeps nothing.
pub(super) struct SumColumns<'a, T, M> {
    pub(super) row: RowSum<'a, T, M>,
    pub(super) columns: Range<usize>,
}

impl<T: Lane, M: Map<T::Real>> Kernel for SumColumns<'_, T, M> {
    type Output = Partial<T::Real>;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Self::Output {
        let Self { row, columns } = self;
        let mut partial = Partial::none::<I>(row.map);
        let mut start = columns.start;
        while start < columns.end {
            let block = start..part_end(start, columns.end, BLOCK);
            start = block.end;
            row.begin(isa, block.clone(), &mut partial);
            let sum = row.sum_off_target(isa, block.clone(), partial.pivot);
            row.end(isa, block, sum, None, &mut partial);
        }
        partial
    }
}
