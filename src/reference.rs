//! The row problem in `f64`, written plainly: slow and obviously right, for other people's tests as
//! for ours.
//!
//! It shares nothing with the CPU path or the kernels but the [`RowTable`].
//!
//! ```
//! use ala_loss::{ClassCounts, Loss, Objective, reference};
//! let counts = ClassCounts::new([500, 50, 5])?;
//! let loss = Loss::builder(Objective::ala(), &counts).build()?;
//! let row = reference::row(loss.table(), &[0.8, 0.1, -0.3], 0);
//! let outcome = loss.evaluate(&[0.8f64, 0.1, -0.3], &[0])?;
//! assert!((row.loss - outcome.loss).abs() < 1e-12);
//! # Ok::<(), ala_loss::Error>(())
//! ```

use crate::element::Label;
use crate::loss::Loss;
use crate::reduction::Reduction;
use crate::table::RowTable;

/// Loss and gradient of one row.
#[derive(Debug, Clone, PartialEq)]
pub struct ReferenceRow {
    /// `w_y L`.
    pub loss: f64,
    /// `dL/dx`, `[C]`.
    pub gradient: Vec<f64>,
}

/// Solves the row problem of [`RowTable`] for logits `x`, `[C]`, and target `y`.
///
/// # Panics
/// Where `x` is not `[C]` or `y >= C`.
///
/// ```
/// use ala_loss::{ClassCounts, Loss, Objective, reference};
/// let loss = Loss::builder(Objective::CrossEntropy, &ClassCounts::new([1, 1])?).build()?;
/// let row = reference::row(loss.table(), &[0.0, 0.0], 1);
/// assert_eq!(row.gradient, [0.5, -0.5]);
/// # Ok::<(), ala_loss::Error>(())
/// ```
pub fn row(table: &RowTable, x: &[f64], y: usize) -> ReferenceRow {
    let Some(softmax) = Softmax::new(table, x, y) else {
        return ReferenceRow::undefined(x.len());
    };
    let (p, miss, cross_entropy) = (softmax.p(y), softmax.miss(y), softmax.cross_entropy(y));
    let (focal_loss, focal_slope) = match table.focal_gamma() {
        None => (1.0, 1.0),
        Some(gamma) => focal(gamma, miss, p, cross_entropy),
    };
    let target = table.targets()[y];
    let gradient = (0..x.len())
        .map(|j| {
            if j == y {
                weighed(target.weight, -target.gradient_slope * miss * focal_slope)
            } else {
                let slope = table.affine(j).slope;
                weighed(target.weight, slope * softmax.p(j) * focal_slope)
            }
        })
        .collect();
    ReferenceRow {
        loss: weighed(target.weight, focal_loss * cross_entropy),
        gradient,
    }
}

/// The class predicted from logits `x`, `[C]`: the lowest of those that have the largest logit, as
/// in [`Outcome::predictions`](crate::Outcome::predictions). `None` where there is a NaN, and where
/// there are no logits.
///
/// ```
/// use ala_loss::reference::prediction;
/// assert_eq!(prediction(&[0.1, 0.7, 0.7]), Some(1));
/// assert_eq!(prediction(&[-0.0, 0.0]), Some(0)); // they are equal
/// assert_eq!(prediction(&[f64::NEG_INFINITY; 3]), Some(0));
/// assert_eq!(prediction(&[0.1, f64::INFINITY, f64::NAN]), None);
/// ```
pub fn prediction(x: &[f64]) -> Option<usize> {
    if x.iter().any(|logit| logit.is_nan()) {
        return None;
    }
    let mut largest = None;
    for (class, &logit) in x.iter().enumerate() {
        if largest.is_none_or(|largest: usize| logit > x[largest]) {
            largest = Some(class);
        }
    }
    largest
}

/// The row with its label smoothed, as PyTorch's `CrossEntropyLoss` does it, on the adjusted logits
/// `z` of target `y`. The weights `w` are the table's; `smoothing`, epsilon, is in `0..=1`.
///
/// ```text
/// L = (1 - eps) w_y (lse(z) - z_y) + (eps / C) sum_j w_j (lse(z) - z_j)
/// dL/dz_k = (1 - eps) w_y (p_k - [k = y]) + (eps / C) (p_k sum_j w_j - w_k)
/// dL/dx_k = a_k dL/dz_k  (k != y)      dL/dx_y = G_y dL/dz_y
/// ```
///
/// A class of weight 0 adds nothing, also where its `z_j` is -inf. One of weight above 0 makes the
/// loss infinite there; the gradient stays defined. A smoothing of 0 is [`row`].
///
/// # Panics
/// Where `x` is not `[C]`, `y >= C` or `smoothing` is not in `0..=1`, and for a focal table unless
/// `smoothing` is 0: focal loss is not defined for a smoothed label.
///
/// ```
/// use ala_loss::{ClassCounts, Loss, Objective, reference};
/// let loss = Loss::builder(Objective::CrossEntropy, &ClassCounts::new([1, 1])?).build()?;
/// // The label is (0.05, 0.95).
/// let row = reference::smoothed_row(loss.table(), &[0.0, 0.0], 1, 0.1);
/// assert!((row.loss - 2f64.ln()).abs() < 1e-15);
/// assert!((row.gradient[0] - (0.5 - 0.05)).abs() < 1e-15);
/// # Ok::<(), ala_loss::Error>(())
/// ```
pub fn smoothed_row(table: &RowTable, x: &[f64], y: usize, smoothing: f64) -> ReferenceRow {
    assert!(
        (0.0..=1.0).contains(&smoothing),
        "smoothing is {smoothing}, and must be in 0..=1"
    );
    if smoothing == 0.0 {
        return row(table, x, y);
    }
    assert!(
        table.focal_gamma().is_none(),
        "smoothing is {smoothing}, and must be 0 for a focal loss"
    );
    let Some(softmax) = Softmax::new(table, x, y) else {
        return ReferenceRow::undefined(x.len());
    };
    let w = |j: usize| table.targets()[j].weight;
    let total: f64 = (0..x.len()).map(w).sum();
    let own = (1.0 - smoothing) * w(y);
    let each = smoothing / x.len() as f64;

    let spread: f64 = (0..x.len())
        .map(|j| weighed(w(j), softmax.cross_entropy(j)))
        .sum();
    // An infinite one stays so of any part, also of one that is rounded to 0.
    let spread_loss = match spread {
        f64::INFINITY => spread,
        spread => each * spread,
    };
    let gradient = (0..x.len())
        .map(|k| {
            let (p, miss) = (softmax.p(k), softmax.miss(k));
            // p_k sum_j w_j - w_k; not a difference from p, which is 1 for a confident row.
            let spread = (total - w(k)) * p - w(k) * miss;
            if k == y {
                table.targets()[y].gradient_slope * (each * spread - own * miss)
            } else {
                table.affine(k).slope * (each * spread + own * p)
            }
        })
        .collect();
    ReferenceRow {
        loss: weighed(own, softmax.cross_entropy(y)) + spread_loss,
        gradient,
    }
}

/// A row with several labels (mixup, CutMix): the sum of `coefficient * L(target)` over `targets`,
/// each `L` the whole [`smoothed_row`] of that label, with its own margin, weight and focal factor.
///
/// The coefficients are at least 0 and used as they are: mixup's are `lambda` and `1 - lambda`. A
/// target of coefficient 0 is not looked at, so that an infinite loss of it does not show; a NaN
/// in the logits shows all the same.
///
/// # Panics
/// As [`smoothed_row`]; where no target is looked at only where `x` is not `[C]`.
///
/// ```
/// use ala_loss::{ClassCounts, Loss, Objective, reference};
/// let loss = Loss::builder(Objective::CrossEntropy, &ClassCounts::new([1, 1])?).build()?;
/// let row = reference::mixed_row(loss.table(), &[0.0, 0.0], &[(0, 0.25), (1, 0.75)], 0.0);
/// assert_eq!(row.gradient, [0.25, -0.25]);
/// # Ok::<(), ala_loss::Error>(())
/// ```
pub fn mixed_row(
    table: &RowTable,
    x: &[f64],
    targets: &[(usize, f64)],
    smoothing: f64,
) -> ReferenceRow {
    assert_eq!(x.len(), table.classes(), "x must be [C]");
    if !has_softmax(x) {
        return ReferenceRow::undefined(x.len());
    }
    let mut mixed = ReferenceRow {
        loss: 0.0,
        gradient: vec![0.0; x.len()],
    };
    for &(y, coefficient) in targets {
        if coefficient == 0.0 {
            continue;
        }
        let solved = smoothed_row(table, x, y, smoothing);
        mixed.loss += coefficient * solved.loss;
        for (g, solved) in mixed.gradient.iter_mut().zip(solved.gradient) {
            *g += coefficient * solved;
        }
    }
    mixed
}

impl ReferenceRow {
    fn undefined(classes: usize) -> Self {
        Self {
            loss: f64::NAN,
            gradient: vec![f64::NAN; classes],
        }
    }
}

/// Nothing times an infinite loss is nothing.
fn weighed(w: f64, value: f64) -> f64 {
    if w == 0.0 { 0.0 } else { w * value }
}

fn has_softmax(x: &[f64]) -> bool {
    let masked = |x: &f64| *x == f64::NEG_INFINITY;
    !x.iter().any(|x| x.is_nan() || *x == f64::INFINITY) && !x.iter().all(masked)
}

/// The softmax of the adjusted logits of target `y`.
struct Softmax {
    y: usize,
    /// A class of the largest `z`.
    m: usize,
    /// `z_j - z_m`, no more than 0.
    below: Vec<f64>,
    /// `exp(z_j - z_m)`.
    e: Vec<f64>,
    /// The sum of `e` without that of `y`.
    s: f64,
    /// The sum of `e`.
    d: f64,
}

impl Softmax {
    /// None where there is none: a NaN or +inf among the logits, or all of them -inf.
    fn new(table: &RowTable, x: &[f64], y: usize) -> Option<Self> {
        assert_eq!(x.len(), table.classes(), "x must be [C]");
        let target = table.targets()[y];
        if !has_softmax(x) {
            return None;
        }

        // Differences of logits are exact where sums are not: z_j - z_m as a_j (x_j - x_m) +
        // (a_j - a_m) x_m + (b_j - b_m), of logits 2^64 times smaller, so that none leaves f64.
        let small = 2f64.powi(-64);
        let map = |j: usize| match j == y {
            true => (target.slope, target.bias),
            false => (table.affine(j).slope, table.affine(j).bias),
        };
        let difference = |j: usize, m: usize| {
            let ((a, b), (a_m, b_m)) = (map(j), map(m));
            let (x_j, x_m) = (x[j] * small, x[m] * small);
            (a * (x_j - x_m) + ((a - a_m) * x_m + (b - b_m) * small)) / small
        };
        let m = (0..x.len())
            .reduce(
                |m, j| match x[m] == f64::NEG_INFINITY || difference(j, m) > 0.0 {
                    true => j,
                    false => m,
                },
            )
            .unwrap_or(0);
        // No more than 0 but for rounding.
        let below: Vec<f64> = (0..x.len()).map(|j| difference(j, m).min(0.0)).collect();
        let e: Vec<f64> = below.iter().map(|z| z.exp()).collect();
        let s: f64 = (0..x.len()).filter(|&j| j != y).map(|j| e[j]).sum();
        let d = s + e[y];
        Some(Self {
            y,
            m,
            below,
            e,
            s,
            d,
        })
    }

    /// The sum of `e` without that of class `j`. A difference is good enough unless `j` may have
    /// nearly all of it.
    fn rest(&self, j: usize) -> f64 {
        if j == self.y {
            self.s
        } else if j == self.m {
            (0..self.e.len())
                .filter(|&k| k != j)
                .map(|k| self.e[k])
                .sum()
        } else {
            self.d - self.e[j]
        }
    }

    /// The probability of class `j`.
    fn p(&self, j: usize) -> f64 {
        self.e[j] / self.d
    }

    /// `1 - p_j`.
    fn miss(&self, j: usize) -> f64 {
        self.rest(j) / self.d
    }

    /// `lse(z) - z_j`, as log d + m - z_j; log1p where the class holds the maximum, so that a tiny
    /// loss keeps its digits.
    fn cross_entropy(&self, j: usize) -> f64 {
        if self.below[j] == 0.0 {
            self.rest(j).ln_1p()
        } else {
            self.d.ln() - self.below[j]
        }
    }
}

/// `(1-p)^gamma`, and `(1-p)^gamma - gamma p (1-p)^(gamma-1) ln p` with its limits at `p = 0` and
/// `p = 1`.
fn focal(gamma: f64, miss: f64, p: f64, cross_entropy: f64) -> (f64, f64) {
    let modulation = miss.powf(gamma);
    let second = if miss == 0.0 {
        // (1-p)^(gamma-1) ln p -> -(1-p)^gamma
        gamma * p * modulation
    } else if p == 0.0 {
        0.0
    } else {
        gamma * p * modulation / miss * cross_entropy
    };
    (modulation, modulation + second)
}

/// A batch reduced as the loss says.
#[derive(Debug, Clone, PartialEq)]
pub struct ReferenceOutcome {
    /// The reduced loss; the rows' sum under [`Reduction::None`].
    pub loss: f64,
    /// Each row's weighted loss before reduction, `[N]`.
    pub row_losses: Vec<f64>,
    /// The gradient, `[N, C]`.
    pub gradient: Vec<f64>,
}

/// Solves every row of contiguous `[N, C]` logits and reduces as the loss says; `upstream` is
/// `[N]`, all 1 for the plain gradient.
///
/// # Panics
/// Where the shapes differ or a label is neither a class nor the ignore label.
///
/// ```
/// use ala_loss::{ClassCounts, Loss, Objective, reference};
/// let loss = Loss::builder(Objective::CrossEntropy, &ClassCounts::new([1, 1])?).build()?;
/// let outcome = reference::batch(&loss, &[0.0, 0.0, 3.0, 3.0], &[1, 0], &[1.0, 1.0]);
/// assert_eq!(outcome.gradient, [0.25, -0.25, -0.25, 0.25]);
/// # Ok::<(), ala_loss::Error>(())
/// ```
pub fn batch<L: Label>(
    loss: &Loss,
    logits: &[f64],
    labels: &[L],
    upstream: &[f64],
) -> ReferenceOutcome {
    let classes = loss.classes();
    assert_eq!(
        logits.len(),
        labels.len() * classes,
        "logits must be [N, C]"
    );
    assert_eq!(upstream.len(), labels.len(), "upstream must be [N]");
    let mut row_losses = vec![0.0; labels.len()];
    let mut gradient = vec![0.0; logits.len()];
    let mut total_weight = 0.0;
    for (i, label) in labels.iter().enumerate() {
        if loss.ignore_label().map(i128::from) == Some(label.value()) {
            continue;
        }
        let y = label.class(classes).expect("labels are classes");
        total_weight += loss.table().targets()[y].weight;
        let solved = row(loss.table(), &logits[i * classes..][..classes], y);
        row_losses[i] = solved.loss;
        for (g, solved) in gradient[i * classes..].iter_mut().zip(solved.gradient) {
            *g = solved * upstream[i];
        }
    }
    let sum: f64 = row_losses.iter().sum();
    let divisor = match loss.reduction() {
        Reduction::Mean if total_weight > 0.0 => total_weight,
        _ => 1.0,
    };
    for g in &mut gradient {
        *g /= divisor;
    }
    ReferenceOutcome {
        loss: sum / divisor,
        row_losses,
        gradient,
    }
}
