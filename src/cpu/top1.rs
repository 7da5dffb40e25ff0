//! Which of a row's logits is the largest: the class predicted, and whether it is the target. The
//! logits given decide, without margin or prior; ties go to the lowest class.
//!
//! ```text
//! Top1     every other logit against the target's, until one is larger
//! Argmax   strip by strip of 256 columns: its largest logit, and whether it is above those before
//!          in the strip that was the last to be: the first column that has it
//! ```
//!
//! A class that went along with each lane's largest would cost a comparison and two selections for
//! each vector, and another width for `f64`. A strip is looked through again while it is in the
//! nearest cache.

use super::arch::isa::{Isa, Kernel};
use super::arch::vector::{MOST_LANES, Vector};
use super::lane::{Float, Lane, VectorOf};
use super::pass::{CHAINS, Step, across, padded, pass};

/// Whether the target's logit is the row's largest; ties go to the lowest class, a NaN makes a
/// miss.
pub(super) struct Top1<'a, T> {
    pub(super) x: &'a [T],
    pub(super) target: usize,
}

impl<T: Lane> Kernel for Top1<'_, T> {
    type Output = bool;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> bool {
        let own = widened(isa, &self.x[self.target..=self.target]);
        let stands = |part: &[T], against: fn(T::Real, T::Real) -> bool| {
            part.chunks(I::LANES).all(|part| {
                let part = widened(isa, part);
                part[..I::LANES]
                    .iter()
                    .zip(&own)
                    .fold(true, |stands, (x, own)| stands & against(*x, *own))
            })
        };
        // Where there are no others, its own NaN has nothing to lose to.
        let is_nan = own[0].partial_cmp(&own[0]).is_none();
        !is_nan
            && stands(&self.x[..self.target], |x, own| x < own)
            && stands(&self.x[self.target + 1..], |x, own| x <= own)
    }
}

/// The columns that the largest logit is looked for in at a time.
const STRIP: usize = 256;

/// The largest of some logits, and the lowest class that has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Largest<R> {
    pub(super) logit: R,
    pub(super) class: usize,
}

impl<R: Float> Largest<R> {
    /// The larger of this and of `later` columns, which begin at `start`.
    pub(super) fn or_of_columns_from(self, start: usize, later: Self) -> Self {
        if later.logit > self.logit {
            let class = start + later.class;
            Self { class, ..later }
        } else {
            self
        }
    }
}

/// The largest of the logits; nothing where there is a NaN.
pub(super) struct Argmax<'a, T> {
    pub(super) x: &'a [T],
}

impl<T: Lane> Kernel for Argmax<'_, T> {
    type Output = Option<Largest<T::Real>>;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Self::Output {
        let x = self.x;
        let mut step = LargestOf::<I, T::Real>::new(isa);
        let mut logit = T::Real::NEG_INFINITY;
        // Where all are -inf none is above.
        let mut best = 0;
        let mut start = 0;
        while start < x.len() {
            let end = x.len().min(start + STRIP);
            pass::<_, _, false>(isa, x, start..end, None, &mut step);
            let max = step.take_max();
            if max > logit {
                (logit, best) = (max, start);
            }
            start = end;
        }
        if step.met_nan() {
            return None;
        }
        let class = best + first_of(isa, &x[best..], logit)?;
        Some(Largest { logit, class })
    }
}

/// The largest logit of a pass, and whether there was a NaN.
struct LargestOf<I: Isa, R: Float> {
    isa: I,
    max: [R::Vector<I>; CHAINS],
    /// 0, or a NaN since the pass met one.
    nan: [R::Vector<I>; CHAINS],
}

impl<I: Isa, R: Float> Step<R::Vector<I>> for LargestOf<I, R> {
    #[inline(always)]
    fn step(&mut self, chain: usize, _: usize, x: R::Vector<I>) -> R::Vector<I> {
        self.max[chain] = x.or_higher(self.max[chain]);
        // With a NaN on either side these give their argument: so a NaN passes through what makes 0
        // of every number, infinities too.
        let zero = R::Vector::<I>::splat(self.isa, R::default());
        let one = R::Vector::<I>::splat(self.isa, R::ONE);
        let zero_or_nan = zero.or_lower(one.or_higher(x));
        self.nan[chain] = self.nan[chain].plus(zero_or_nan);
        x
    }
}

impl<I: Isa, R: Float> LargestOf<I, R> {
    #[inline(always)]
    fn new(isa: I) -> Self {
        Self {
            isa,
            max: [R::Vector::splat(isa, R::NEG_INFINITY); CHAINS],
            nan: [R::Vector::splat(isa, R::default()); CHAINS],
        }
    }

    /// The largest logit since the last time.
    #[inline(always)]
    fn take_max(&mut self) -> R {
        let [a, b] = self.max;
        self.max = [R::Vector::splat(self.isa, R::NEG_INFINITY); CHAINS];
        let mut lanes = [R::NEG_INFINITY; MOST_LANES];
        a.or_higher(b).store(&mut lanes);
        across::<I, _>(lanes, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn met_nan(&self) -> bool {
        let [a, b] = self.nan;
        let mut lanes = [R::default(); MOST_LANES];
        a.plus(b).store(&mut lanes);
        lanes[..I::LANES]
            .iter()
            .fold(false, |nan, lane| nan | lane.partial_cmp(lane).is_none())
    }
}

/// The first place of a logit.
#[inline(always)]
fn first_of<I: Isa, T: Lane>(isa: I, x: &[T], logit: T::Real) -> Option<usize> {
    let mut start = 0;
    while start < x.len() {
        let end = x.len().min(start + I::LANES);
        let lanes = widened(isa, &x[start..end]);
        let lanes = &lanes[..I::LANES];
        if lanes.iter().fold(false, |any, lane| any | (*lane == logit)) {
            // What fills a part up is its first logit once more.
            return lanes
                .iter()
                .position(|lane| *lane == logit)
                .map(|i| start + i);
        }
        start = end;
    }
    None
}

/// A vector of logits, or less of them, the first of which fills it up.
#[inline(always)]
fn widened<I: Isa, T: Lane>(isa: I, part: &[T]) -> [T::Real; MOST_LANES] {
    let vector = if part.len() == I::LANES {
        T::widen(isa, part)
    } else {
        T::widen(isa, &padded(part))
    };
    let mut lanes = [T::Real::NEG_INFINITY; MOST_LANES];
    VectorOf::<I, T>::store(vector, &mut lanes);
    lanes
}
