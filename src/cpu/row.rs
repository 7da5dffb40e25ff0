//! One row's scalars, in `f64`: its loss and the factors of its gradient, from the sum over the other classes.

use crate::table::{RowTable, Target};

/// What the gradient and the loss of a row are made from.
pub(super) struct Row {
    target: Target,
    focal_gamma: Option<f64>,
    /// `1 - p = S/d`, from sums without the target's term: it keeps its digits where `p` is near 1.
    miss: f64,
    /// A term of the sum times this is its class's probability.
    normaliser: f64,
    cross_entropy: f64,
}

impl Row {
    /// For target `y` with logit `x`, and `others = sum_{j != y} exp(z_j - shift)`.
    pub(super) fn new(table: &RowTable, y: usize, x: f64, shift: f64, others: f64) -> Self {
        let target = table.targets[y];
        let z = target.slope * x + target.bias;
        // The softmax is undefined with a NaN or +inf, and with nothing above -inf.
        if shift.max(z).is_finite() && !z.is_nan() && others.is_finite() {
            Self::of(table, y, z - shift, others)
        } else {
            Self::undefined(table, y)
        }
    }

    /// For target `y`, `ahead = z_y - shift` and `others = sum_{j != y} exp(z_j - shift)`, which is finite.
    pub(super) fn of(table: &RowTable, y: usize, ahead: f64, others: f64) -> Self {
        let row = |miss, normaliser, cross_entropy| Self {
            miss,
            normaliser,
            cross_entropy,
            ..Self::undefined(table, y)
        };
        if ahead >= 0.0 {
            // The target holds the maximum and its own term is 1: log d without forming 1 + S.
            let rescale = (-ahead).exp();
            let others = others * rescale;
            let sum = others + 1.0;
            row(others / sum, rescale / sum, others.ln_1p())
        } else {
            let sum = others + ahead.exp();
            row(others / sum, 1.0 / sum, sum.ln() - ahead)
        }
    }

    /// A row that has a NaN for everything.
    pub(super) fn undefined(table: &RowTable, y: usize) -> Self {
        Self {
            target: table.targets[y],
            focal_gamma: table.focal_gamma,
            miss: f64::NAN,
            normaliser: f64::NAN,
            cross_entropy: f64::NAN,
        }
    }

    /// A row whose weight is 0 counts for nothing, also where its own loss or what scales it is infinite. A NaN in it shows.
    fn counts_for_nothing(&self) -> bool {
        self.target.weight == 0.0 && !self.is_nan()
    }

    pub(super) fn is_nan(&self) -> bool {
        self.miss.is_nan()
    }

    /// `w_y L`.
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
        // (1-p)^(gamma-1) ln p as (1-p)^gamma (ln p)/(1-p): finite for gamma < 1 too, where ln p -> -(1-p).
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

    /// What the caller scales the row's gradient by. The weight is divided first: of a mean it is part of the divisor, and
    /// no more than 1 then, however small or large both are.
    pub(super) fn given(&self, upstream: f64, divisor: f64) -> f64 {
        self.target.weight / divisor * upstream
    }

    /// `dL/dx` times what is [given](Self::given): at the target, and what a term of the sum times its class's slope is to be
    /// multiplied by.
    pub(super) fn gradient(&self, given: f64) -> (f64, f64) {
        if self.counts_for_nothing() {
            return (0.0, 0.0);
        }
        let scale = given * self.loss_slope();
        let at_target = -scale * self.target.gradient_slope * self.miss;
        (at_target, scale * self.normaliser)
    }
}
