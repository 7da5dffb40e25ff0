//! Top-1 hits: whether a row's target has its largest logit. Nothing is added up, so that the
//! logits given decide, without margin or prior.

use super::arch::isa::{Isa, Kernel};
use super::arch::vector::{MOST_LANES, Vector};
use super::lane::{Float, Lane, VectorOf};
use super::pass::padded;

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
