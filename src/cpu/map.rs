//! The affine maps of the row table in units of log2, as lanes read them.

use std::f64::consts::{LN_2, LOG2_E};

use super::arch::{Isa, MOST_LANES, Vector};
use super::lane::Float;
use crate::table::Others;

/// What powers are relative to: a height near the row's highest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Level<R> {
    pub(super) height: R,
    /// What is taken off the exponent.
    whole: R,
    /// What the lowest and the highest exponents belong to, logits or distances from the height.
    ends: [R; 2],
    /// Whether the height is taken off first instead, as a number.
    pub(super) far: bool,
}

impl<R: Float> Level<R> {
    fn new(height: R) -> Self {
        Self {
            height,
            whole: R::default(),
            ends: R::EXPONENTS,
            far: true,
        }
    }

    /// With nothing above `-infinity`, every distance from it would be a NaN; from any number the powers are 0.
    #[inline(always)]
    fn finite(self) -> R {
        if self.height == R::NEG_INFINITY {
            R::default()
        } else {
            self.height
        }
    }
}

/// How logits off the target become exponents. `j` is the class of the first lane.
///
/// A *height* is what a row's level is chosen by.
pub(super) trait Map<R: Float>: Copy + Send + Sync {
    fn height<I: Isa, const L: usize>(self, isa: I, j: usize, x: R::Vector<I>) -> R::Vector<I>;

    fn level<I: Isa>(self, height: R) -> Level<R>;

    /// `exp(z - m)` for logits `x`, where `m` is the shift at `level`, which is `FAR` or not; 0 for `-infinity`.
    fn powers<I: Isa, const L: usize, const FAR: bool>(
        self,
        isa: I,
        j: usize,
        x: R::Vector<I>,
        level: Level<R>,
    ) -> R::Vector<I>;

    /// `e` times what of the slope differs between classes.
    fn weigh<I: Isa, const L: usize>(self, isa: I, j: usize, e: R::Vector<I>) -> R::Vector<I>;

    /// What of the slope is the same for all classes.
    fn slope(self) -> f64;

    /// `m` of the row's formulas at `level`.
    fn shift(self, level: Level<R>) -> f64;

    /// A height, or `-infinity` for one so low that it may only be a mask: a row has no level before there is a higher one.
    fn unmasked(self, height: R) -> R {
        height
    }

    /// Whether exponents so far out are too coarse for vectors; with nothing above `-infinity` too.
    fn needs_care(self, level: Level<R>) -> bool;
}

/// One slope for all and no offsets: the height is the logit itself.
///
/// With fused multiply-adds the level is a whole exponent, taken off within the exponent's own rounding, as long as it is
/// not too large. Else the logit at the level is taken off the others before the slope is applied: exact near the level,
/// whatever the logits' common offset and though the slope be rounded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Uniform<R> {
    slope: f64,
    slope_log2: R,
    /// Of [`slope_log2`](Self::slope_log2).
    inverse: f64,
}

impl<R: Float> Uniform<R> {
    pub(super) fn new(slope: f64) -> Self {
        let slope_log2 = R::round(slope * LOG2_E);
        Self {
            slope,
            slope_log2,
            inverse: slope_log2.widen().recip(),
        }
    }
}

impl<R: Float> Map<R> for Uniform<R> {
    #[inline(always)]
    fn height<I: Isa, const L: usize>(self, _: I, _: usize, x: R::Vector<I>) -> R::Vector<I> {
        x
    }

    #[inline(always)]
    fn level<I: Isa>(self, height: R) -> Level<R> {
        let slope = self.slope_log2.widen();
        let exponent = slope * height.widen();
        let level = Level::new(height);
        let ends = |whole| R::EXPONENTS.map(|end| R::round((end.widen() + whole) * self.inverse));
        if I::FUSED && exponent.abs() <= R::MOST_WHOLE.widen() {
            let whole = exponent.round_ties_even();
            Level {
                whole: R::round(whole),
                ends: ends(whole),
                far: false,
                ..level
            }
        } else {
            Level {
                ends: ends(0.0),
                ..level
            }
        }
    }

    #[inline(always)]
    fn powers<I: Isa, const L: usize, const FAR: bool>(
        self,
        isa: I,
        _: usize,
        x: R::Vector<I>,
        level: Level<R>,
    ) -> R::Vector<I> {
        let Self { slope_log2, .. } = self;
        if FAR {
            let above = x.minus(R::Vector::splat(isa, level.finite()));
            R::exp2(isa, above, slope_log2, level.ends, level.whole)
        } else {
            R::exp2(isa, x, slope_log2, level.ends, level.whole)
        }
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
    fn shift(self, level: Level<R>) -> f64 {
        let height = level.height.widen();
        let at_height = self.slope * height;
        if level.far {
            return at_height;
        }
        // The slope's rounding counts from the height on, not from 0 on: else a common offset would matter.
        let rest = self
            .slope_log2
            .widen()
            .mul_add(height, -level.whole.widen());
        at_height - rest * LN_2
    }

    /// The logit at the level is taken off first, so the scalars alone are too coarse.
    #[inline(always)]
    fn needs_care(self, level: Level<R>) -> bool {
        let size = self.shift(level).abs();
        size > super::FAR_OUT || size.is_nan()
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
        let reference = others.highest_bias();
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
            biases: column(&|_, bias| (bias - reference) * LOG2_E),
        }
    }
}

/// Offsets count from the highest: what all have in common the softmax does not see, and the rounding of a large one it does.
#[derive(Clone, Copy)]
pub(super) struct PerClass<'a, R> {
    pub(super) columns: &'a Columns<R>,
    pub(super) highest_bias: f64,
}

impl<R: Float> PerClass<'_, R> {
    /// The highest level that vectors take.
    const MOST: f64 = if R::FINE < super::FAR_OUT {
        R::FINE
    } else {
        super::FAR_OUT
    };
}

impl<R: Float> Map<R> for PerClass<'_, R> {
    #[inline(always)]
    fn height<I: Isa, const L: usize>(self, isa: I, j: usize, x: R::Vector<I>) -> R::Vector<I> {
        let Columns { slopes, biases, .. } = self.columns;
        x.times_plus(
            column::<_, _, L>(isa, slopes, j),
            column::<_, _, L>(isa, biases, j),
        )
    }

    #[inline(always)]
    fn level<I: Isa>(self, height: R) -> Level<R> {
        Level::new(height)
    }

    #[inline(always)]
    fn powers<I: Isa, const L: usize, const FAR: bool>(
        self,
        isa: I,
        j: usize,
        x: R::Vector<I>,
        level: Level<R>,
    ) -> R::Vector<I> {
        let top = level.finite();
        let all = |x| R::Vector::splat(isa, x);
        // A rest may be negative or 0, and must not turn -infinity over. A NaN passes.
        let x = all(R::LOWEST).or_higher(x);
        let Columns {
            slopes,
            slope_rests,
            biases,
        } = self.columns;
        if I::FUSED {
            let rests = column::<_, _, L>(isa, slope_rests, j);
            let rest = x.times_plus(rests, column::<_, _, L>(isa, biases, j));
            let below_top = x.times_plus(column::<_, _, L>(isa, slopes, j), all(-top));
            let below_top = below_top.plus(rest);
            return R::exp2(isa, below_top, R::ONE, level.ends, level.whole);
        }
        // A product of f32 is exact only in f64, and the difference is small where it counts.
        let mut x: [R; L] = x.store();
        for (i, x) in x.iter_mut().enumerate() {
            let slope = slopes[j + i].widen() + slope_rests[j + i].widen();
            *x = R::round(slope * x.widen() - top.widen() + biases[j + i].widen());
        }
        let x = R::Vector::load(isa, x);
        R::exp2(isa, x, R::ONE, level.ends, level.whole)
    }

    #[inline(always)]
    fn weigh<I: Isa, const L: usize>(self, isa: I, j: usize, e: R::Vector<I>) -> R::Vector<I> {
        e.times(column::<_, _, L>(isa, &self.columns.slopes, j))
    }

    #[inline(always)]
    fn slope(self) -> f64 {
        LN_2
    }

    #[inline(always)]
    fn shift(self, level: Level<R>) -> f64 {
        level.height.widen() * LN_2 + self.highest_bias
    }

    /// Where every level is this low the row needs care, and where one is not, what lies twice as low adds nothing to it.
    #[inline(always)]
    fn unmasked(self, height: R) -> R {
        if height.widen() < -2.0 * Self::MOST {
            R::NEG_INFINITY
        } else {
            height
        }
    }

    /// The level is taken off in one rounding, and alike from all, so that it may be as coarse as a sixteenth.
    #[inline(always)]
    fn needs_care(self, level: Level<R>) -> bool {
        level.height.widen().abs() > Self::MOST
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
