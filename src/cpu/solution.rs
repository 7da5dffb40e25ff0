//! One row's scalars, in `f64`: its loss and the factors of its gradient, from the sum off the
//! target.

use super::batch::Outside;
use super::product::Product;
use super::targets::Term;
use crate::table::smoothing::Smoothing;
use crate::table::{RowTable, Target};

/// What the gradient and the loss of a row are made from.
pub(super) struct RowSolution {
    /// Its weight is the row's: its share is in it.
    target: Target,
    focal_gamma: Option<f64>,
    /// `1 - p = S/d`, from sums without the target's term: it keeps its digits where `p` is near 1.
    miss: f64,
    /// A term of the sum times this is its class's probability.
    normaliser: f64,
    cross_entropy: f64,
}

impl RowSolution {
    /// For a target `y` with logit `x`, and `others = sum_{j != y} exp(z_j - shift)`.
    #[inline(always)]
    pub(super) fn new(table: &RowTable, term: Term, x: f64, shift: f64, others: f64) -> Self {
        let target = table.targets[term.class];
        let z = target.slope * x + target.bias;
        // The softmax is undefined with a NaN or +inf, and with nothing above -inf.
        if shift.max(z).is_finite() && !z.is_nan() && others.is_finite() {
            Self::of(table, term, z - shift, others)
        } else {
            Self::undefined(table, term)
        }
    }

    /// For a target `y`, `target_offset = z_y - shift` and `others = sum_{j != y} exp(z_j -
    /// shift)`, which is finite.
    #[inline(always)]
    pub(super) fn of(table: &RowTable, term: Term, target_offset: f64, others: f64) -> Self {
        Self::undefined(table, term).defined(target_offset, others)
    }

    /// The same of a row that was undefined.
    #[inline(always)]
    fn defined(self, target_offset: f64, others: f64) -> Self {
        let row = |miss, normaliser, cross_entropy| Self {
            miss,
            normaliser,
            cross_entropy,
            ..self
        };
        if target_offset >= 0.0 {
            // The target holds the maximum and its own term is 1: log d without forming 1 + S.
            let rescale = (-target_offset).exp();
            let others = others * rescale;
            let sum = others + 1.0;
            row(others / sum, rescale / sum, others.ln_1p())
        } else {
            let own = target_offset.exp();
            let sum = others + own;
            // Of a confident row the difference would be rounding alone, and may be below 0. Such a
            // row of two labels comes here, as the shift is near the other label's maximum.
            let cross_entropy = match others < own {
                true => (others / own).ln_1p(),
                false => sum.ln() - target_offset,
            };
            row(others / sum, 1.0 / sum, cross_entropy)
        }
    }

    /// A row that has a NaN for everything.
    #[inline(always)]
    pub(super) fn undefined(table: &RowTable, term: Term) -> Self {
        let target = table.targets[term.class];
        let weight = target.weight * term.share;
        Self::of_target(Target { weight, ..target }, table.focal_gamma)
    }

    /// The same of a target whose weight is the row's.
    #[inline(always)]
    fn of_target(target: Target, focal_gamma: Option<f64>) -> Self {
        Self {
            target,
            focal_gamma,
            miss: f64::NAN,
            normaliser: f64::NAN,
            cross_entropy: f64::NAN,
        }
    }

    /// For a target which may be no class of this table: of the row's weight, with this slope of
    /// its gradient. `None` for a row without a softmax.
    pub(super) fn of_shards(
        weight: f64,
        gradient_slope: f64,
        focal_gamma: Option<f64>,
        sums: Option<(f64, f64)>,
    ) -> Self {
        let target = Target {
            slope: f64::NAN,
            bias: f64::NAN,
            gradient_slope,
            weight,
        };
        let undefined = Self::of_target(target, focal_gamma);
        match sums {
            Some((target_offset, others)) => undefined.defined(target_offset, others),
            None => undefined,
        }
    }

    /// A row whose weight is 0 counts for nothing, also where its own loss or what scales it is
    /// infinite. A NaN in it shows.
    #[inline(always)]
    pub(super) fn counts_for_nothing(&self) -> bool {
        self.target.weight == 0.0 && !self.is_nan()
    }

    #[inline(always)]
    /// `1 - p`.
    pub(super) fn miss(&self) -> f64 {
        self.miss
    }

    /// A term of the sum times this is its class's probability.
    pub(super) fn normaliser(&self) -> f64 {
        self.normaliser
    }

    /// `-ln p`, without weight.
    pub(super) fn cross_entropy(&self) -> f64 {
        self.cross_entropy
    }

    pub(super) fn is_nan(&self) -> bool {
        self.miss.is_nan()
    }

    /// `w_y L`.
    #[inline(always)]
    pub(super) fn loss(&self) -> f64 {
        if self.counts_for_nothing() {
            return 0.0;
        }
        let Some(gamma) = self.focal_gamma else {
            return self.target.weight * self.cross_entropy;
        };
        self.target.weight * (self.miss.powf(gamma) * self.cross_entropy)
    }

    /// `dL/dz = (p - delta) * slope`; 1 but for focal loss.
    fn loss_slope(&self) -> f64 {
        let Some(gamma) = self.focal_gamma else {
            return 1.0;
        };
        let miss = self.miss;
        let hit = 1.0 - miss;
        // (1-p)^(gamma-1) ln p as (1-p)^gamma (ln p)/(1-p): finite for gamma < 1 too, where ln p ->
        // -(1-p).
        let ratio = if miss > 0.0 {
            self.cross_entropy / miss
        } else {
            1.0
        };
        // p ln p -> 0, where the loss itself is infinite.
        let entropy = if self.cross_entropy == f64::INFINITY {
            0.0
        } else {
            hit * ratio
        };
        miss.powf(gamma) * (1.0 + gamma * entropy)
    }

    /// What the row's gradient is scaled by from outside. The weight is divided first: of a mean it
    /// is part of the divisor, and no more than 1 then, however small or large both are.
    #[inline(always)]
    pub(super) fn outer_factor(&self, outside: Outside, divisor: f64) -> f64 {
        self.target.weight / divisor * (outside.upstream * outside.scale)
    }

    /// `dL/dx` times the [outer factor](Self::outer_factor).
    #[inline(always)]
    pub(super) fn gradient(&self, outer_factor: f64) -> RowGradient {
        if self.counts_for_nothing() {
            return RowGradient {
                at_target: 0.0,
                scale: 0.0,
            };
        }
        let scale = outer_factor * self.loss_slope();
        RowGradient {
            at_target: -scale * self.target.gradient_slope * self.miss,
            scale: scale * self.normaliser,
        }
    }

    /// The [gradient](Self::gradient) of the target, and what a term of the sum times its class's
    /// slope is to be multiplied by: as products, for factors that leave `f64` on the way.
    pub(super) fn careful_gradient(&self, outside: Outside, divisor: f64) -> (Product, Product) {
        if self.counts_for_nothing() {
            return (Product::of(0.0), Product::of(0.0));
        }
        let scale = Product::of(self.target.weight)
            .over(divisor)
            .times(outside.upstream)
            .times(outside.scale)
            .times(self.loss_slope());
        let at_target = scale.times(-self.target.gradient_slope).times(self.miss);
        (at_target, scale.times(self.normaliser))
    }
}

/// What a row's gradient is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowGradient {
    pub(super) at_target: f64,
    /// What a term of the sum times its class's slope is multiplied by.
    pub(super) scale: f64,
}

/// The constants of a smoothed label's formulas (see [`smoothed`](super::smoothed)).
#[derive(Clone, Copy)]
pub(super) struct SmoothedTarget {
    weight: f64,
    /// `W - w_y`.
    others: f64,
    /// `(1 - eps) w_y`.
    own: f64,
    /// `eps / C`.
    pub(super) each: f64,
    /// `K`.
    pub(super) factor: f64,
}

impl SmoothedTarget {
    pub(super) fn new(smoothing: &Smoothing, weight: f64, classes: usize) -> Self {
        let each = smoothing.epsilon / classes as f64;
        let own = (1.0 - smoothing.epsilon) * weight;
        Self {
            weight,
            others: smoothing.total - weight,
            own,
            each,
            factor: own + each * smoothing.total,
        }
    }

    /// With `spread = W lse(z) - sum_j w_j z_j`.
    pub(super) fn loss(self, solution: &RowSolution, spread: f64) -> f64 {
        // Nothing times an infinite loss is nothing.
        let own = match self.own {
            0.0 => 0.0,
            own => own * solution.cross_entropy(),
        };
        // By rounding it may be less than it can be. A NaN stays.
        let spread = if spread < 0.0 { 0.0 } else { spread };
        // An infinite one stays so of any part, also of one that is rounded to 0.
        let spread = match spread {
            f64::INFINITY => spread,
            spread => self.each * spread,
        };
        own + spread
    }

    /// `dL/dz` of a class with probability `p` and this weight.
    pub(super) fn off_target(self, p: f64, weight: f64) -> f64 {
        self.factor * p - self.each * weight
    }

    /// `dL/dz` of the target.
    pub(super) fn at_target(self, solution: &RowSolution) -> f64 {
        let miss = solution.miss();
        self.each * (self.others * (1.0 - miss) - self.weight * miss) - self.own * miss
    }
}
