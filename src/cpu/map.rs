//! The affine maps of the row table in units of log2, as lanes read them.

use std::f64::consts::{LN_2, LOG2_E};

use super::arch::{Isa, MOST_LANES, Vector};
use super::lane::Float;
use crate::table::Others;

/// How logits off the target become exponents. `j` is the class of the first lane.
///
/// A *height* is what a row's maximum is taken of; powers are relative to it.
pub(super) trait Map<R: Float>: Copy + Send + Sync {
    fn height<I: Isa, const L: usize>(self, isa: I, j: usize, x: R::Vector<I>) -> R::Vector<I>;

    /// `exp(z - m)` for logits `x`, where `m` is the shift at height `top`; 0 for `-infinity`.
    fn powers<I: Isa, const L: usize>(
        self,
        isa: I,
        j: usize,
        x: R::Vector<I>,
        top: R,
    ) -> R::Vector<I>;

    /// `e` times what of the slope differs between classes.
    fn weigh<I: Isa, const L: usize>(self, isa: I, j: usize, e: R::Vector<I>) -> R::Vector<I>;

    /// What of the slope is the same for all classes.
    fn slope(self) -> f64;

    /// `m` of the row's formulas at height `top`.
    fn shift(self, top: R) -> f64;
}

/// One slope for all and no offsets: the height is the logit itself.
///
/// The maximum is subtracted before the slope is applied: exact near the maximum, whatever the logits' common offset and
/// though the slope be rounded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Uniform<R> {
    slope: f64,
    slope_log2: R,
    /// The distance from the maximum at which powers end.
    lowest: R,
}

impl<R: Float> Uniform<R> {
    pub(super) fn new(slope: f64) -> Self {
        let slope_log2 = R::round(slope * LOG2_E);
        Self {
            slope,
            slope_log2,
            lowest: R::round(R::LOWEST_EXPONENT.widen() / slope_log2.widen()),
        }
    }
}

impl<R: Float> Map<R> for Uniform<R> {
    #[inline(always)]
    fn height<I: Isa, const L: usize>(self, _: I, _: usize, x: R::Vector<I>) -> R::Vector<I> {
        x
    }

    #[inline(always)]
    fn powers<I: Isa, const L: usize>(
        self,
        isa: I,
        _: usize,
        x: R::Vector<I>,
        top: R,
    ) -> R::Vector<I> {
        let below_top = x.minus(R::Vector::splat(isa, top));
        R::exp2(isa, below_top, self.slope_log2, self.lowest)
    }

    #[inline(always)]
    fn weigh<I: Isa, const L: usize>(self, _: I, _: usize, e: R::Vector<I>) -> R::Vector<I> {
        e
    }

    #[inline(always)]
    fn slope(self) -> f64 {
        self.slope
    }

    #[inline(always)]
    fn shift(self, top: R) -> f64 {
        self.slope * top.widen()
    }
}

/// A slope and an offset for each class, padded to be read in whole vectors.
#[derive(Debug, Clone)]
pub struct Columns<R> {
    slopes: Vec<R>,
    /// What rounding took from the slopes: with large logits it matters.
    slope_rests: Vec<R>,
    biases: Vec<R>,
}

impl<R: Float> Columns<R> {
    fn new(others: &Others) -> Self {
        let maps = match others {
            Others::Uniform { .. } => &[][..],
            Others::PerClass(maps) => maps,
        };
        let column = |value: &dyn Fn(f64, f64) -> f64| {
            let values = maps.iter().map(|map| R::round(value(map.slope, map.bias)));
            values.chain([R::default(); MOST_LANES]).collect()
        };
        Self {
            slopes: column(&|slope, _| slope * LOG2_E),
            // As one multiply-add, to have what the product's own rounding took as well.
            slope_rests: column(&|slope, _| {
                slope.mul_add(LOG2_E, -R::round(slope * LOG2_E).widen())
            }),
            biases: column(&|_, bias| bias * LOG2_E),
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct PerClass<'a, R>(pub(super) &'a Columns<R>);

impl<R: Float> Map<R> for PerClass<'_, R> {
    #[inline(always)]
    fn height<I: Isa, const L: usize>(self, isa: I, j: usize, x: R::Vector<I>) -> R::Vector<I> {
        let Columns { slopes, biases, .. } = self.0;
        x.times_plus(
            column::<_, _, L>(isa, slopes, j),
            column::<_, _, L>(isa, biases, j),
        )
    }

    #[inline(always)]
    fn powers<I: Isa, const L: usize>(
        self,
        isa: I,
        j: usize,
        x: R::Vector<I>,
        top: R,
    ) -> R::Vector<I> {
        let all = |x| R::Vector::splat(isa, x);
        // A rest may be negative or 0, and must not turn -infinity over. A NaN passes.
        let x = all(R::LOWEST).or_higher(x);
        let Columns {
            slopes,
            slope_rests,
            biases,
        } = self.0;
        if I::FUSED {
            let rests = column::<_, _, L>(isa, slope_rests, j);
            let rest = x.times_plus(rests, column::<_, _, L>(isa, biases, j));
            let below_top = x.times_plus(column::<_, _, L>(isa, slopes, j), all(-top));
            return R::exp2(isa, below_top.plus(rest), R::ONE, R::LOWEST_EXPONENT);
        }
        // A product of f32 is exact only in f64, and the difference is small where it counts.
        let mut x: [R; L] = x.store();
        for (i, x) in x.iter_mut().enumerate() {
            let slope = slopes[j + i].widen() + slope_rests[j + i].widen();
            *x = R::round(slope * x.widen() - top.widen() + biases[j + i].widen());
        }
        let x = R::Vector::load(isa, x);
        R::exp2(isa, x, R::ONE, R::LOWEST_EXPONENT)
    }

    #[inline(always)]
    fn weigh<I: Isa, const L: usize>(self, isa: I, j: usize, e: R::Vector<I>) -> R::Vector<I> {
        e.times(column::<_, _, L>(isa, &self.0.slopes, j))
    }

    #[inline(always)]
    fn slope(self) -> f64 {
        LN_2
    }

    #[inline(always)]
    fn shift(self, top: R) -> f64 {
        top.widen() * LN_2
    }
}

#[inline(always)]
fn column<I: Isa, R: Float, const L: usize>(isa: I, column: &[R], j: usize) -> R::Vector<I> {
    R::Vector::load(isa, *column[j..].first_chunk::<L>().expect("padded"))
}

/// The columns of a table in both precisions; empty where one slope serves all.
#[derive(Debug, Clone)]
pub struct LaneTable {
    pub(super) single: Columns<f32>,
    pub(super) double: Columns<f64>,
}

impl LaneTable {
    pub(crate) fn new(others: &Others) -> Self {
        Self {
            single: Columns::new(others),
            double: Columns::new(others),
        }
    }
}
