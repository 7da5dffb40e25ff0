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
    assert_eq!(x.len(), table.classes(), "x must be [C]");
    let target = table.targets()[y];

    // Differences of logits are exact where sums are not: z_j - z_m as a_j (x_j - x_m) + (a_j -
    // a_m) x_m + (b_j - b_m), of logits 2^64 times smaller, so that none leaves f64.
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
    if x.iter().any(|x| x.is_nan() || *x == f64::INFINITY) || x[m] == f64::NEG_INFINITY {
        return ReferenceRow {
            loss: f64::NAN,
            gradient: vec![f64::NAN; x.len()],
        };
    }
    // No more than 0 but for rounding.
    let below: Vec<f64> = (0..x.len()).map(|j| difference(j, m).min(0.0)).collect();
    let e: Vec<f64> = below.iter().map(|z| z.exp()).collect();
    let s: f64 = (0..x.len()).filter(|&j| j != y).map(|j| e[j]).sum();
    let d = s + e[y];
    // log d + m - z_y; log1p where the target holds the maximum, so that a tiny loss keeps its
    // digits.
    let cross_entropy = if below[y] == 0.0 {
        s.ln_1p()
    } else {
        d.ln() - below[y]
    };

    let (focal_loss, focal_slope) = match table.focal_gamma() {
        None => (1.0, 1.0),
        Some(gamma) => focal(gamma, s / d, e[y] / d, cross_entropy),
    };
    let w = target.weight;
    // Nothing times an infinite loss is nothing.
    let weighed = |value: f64| if w == 0.0 { 0.0 } else { w * value };
    let gradient = (0..x.len())
        .map(|j| {
            if j == y {
                weighed(-target.gradient_slope * (s / d) * focal_slope)
            } else {
                weighed(table.affine(j).slope * (e[j] / d) * focal_slope)
            }
        })
        .collect();
    ReferenceRow {
        loss: weighed(focal_loss * cross_entropy),
        gradient,
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
