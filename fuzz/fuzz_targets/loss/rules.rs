//! What the README's table of edges says of a result, row by row, and for usual numbers the bounds
//! of its accuracy, against the crate's reference.

use ala_loss::{Element, Label, Loss, NO_CLASS, Outcome, RowTable, reference};

use crate::bits::LogitBits;
use crate::held::Held;

/// `outside` is what multiplies a row's gradient: the upstream gradient and the gradient scale.
pub fn hold<T: LogitBits, L: Label>(
    loss: &Loss,
    logits: &[T],
    stride: usize,
    held: &Held<'_, L, T::Real>,
    outside: impl Fn(usize) -> [f64; 2],
    outcome: &Outcome<T>,
) {
    let (rows, classes) = (held.rows(), loss.classes());
    let hits = outcome.hits.as_ref().expect("they were asked for");
    let predictions = outcome.predictions.as_ref().expect("so were they");
    assert_eq!(outcome.gradient.len(), rows * classes);
    assert_eq!((outcome.row_losses.len(), hits.len()), (rows, rows));
    assert_eq!(predictions.len(), rows);
    assert_eq!(outcome.counted_rows, held.counted_rows());
    let divisor = held.divisor().expect("it was not refused");
    let is_usual = is_usual(loss.table());
    let mut x = Vec::new();
    let mut losses = Vec::new();
    for row in 0..rows {
        x.clear();
        x.extend(
            logits[row * stride..][..classes]
                .iter()
                .map(|&x| Element::to_f64(x)),
        );
        let row_loss = Element::to_f64(outcome.row_losses[row]);
        losses.push(row_loss);
        let gradient = &outcome.gradient[row * classes..][..classes];
        let terms = held.terms(row);
        if terms.is_empty() {
            assert!(row_loss == 0.0 && gradient.iter().all(|&g| g == T::ZERO) && !hits[row]);
            assert_eq!(predictions[row], NO_CLASS);
            continue;
        }
        let prediction = reference::prediction(&x);
        let class = prediction.map_or(NO_CLASS, |class| class as u32);
        assert_eq!(predictions[row], class, "row {row}: {x:?}");
        let is_hit = prediction.is_some() && prediction == held.first_class(row);
        assert_eq!(hits[row], is_hit, "row {row}: {x:?}");
        let solved = Row {
            loss,
            x: &x,
            terms: &terms,
            outside: outside(row),
            row_loss,
            gradient,
        };
        solved.hold();
        if is_usual {
            solved.is_accurate(divisor);
        }
    }
    let any_nan = losses.iter().any(|loss| loss.is_nan());
    assert_eq!(
        outcome.loss.is_nan(),
        any_nan,
        "{} of {losses:?}",
        outcome.loss
    );
    let sum: f64 = losses.iter().sum();
    if sum.is_finite() && (outcome.loss * divisor).is_finite() {
        // A row's loss is rounded to its type, and may be too small for it; so may the batch's.
        let least = 1e-37 * rows as f64 + f64::from_bits(1) * divisor;
        let bound = 1e-6 * sum + least;
        assert!(
            (outcome.loss * divisor - sum).abs() <= bound,
            "{} of {losses:?}",
            outcome.loss
        );
    }
}

struct Row<'a, T> {
    loss: &'a Loss,
    x: &'a [f64],
    /// The classes that it is held against, and what multiplies the loss of each.
    terms: &'a [(usize, f64)],
    outside: [f64; 2],
    row_loss: f64,
    gradient: &'a [T],
}

impl<T: LogitBits> Row<'_, T> {
    fn says(&self) -> String {
        let Self {
            loss,
            x,
            terms,
            outside,
            row_loss,
            gradient,
        } = self;
        let table = loss.table();
        format!(
            "{x:?} at {terms:?} times {outside:?} gives {row_loss} {gradient:?}; {loss:?} {table:?}"
        )
    }

    /// What its loss multiplies `lse(z) - z_j` by, of all its labels.
    fn label_weight(&self, class: usize) -> f64 {
        let (table, smoothing) = (self.loss.table(), self.loss.label_smoothing());
        let weight = table.targets()[class].weight;
        let each = smoothing / table.classes() as f64;
        let of_term = |&(target, share): &(usize, f64)| {
            let own = if target == class {
                1.0 - smoothing
            } else {
                0.0
            };
            (own + each) * (weight * share)
        };
        self.terms.iter().map(of_term).sum()
    }

    fn counts_for_nothing(&self) -> bool {
        let targets = self.loss.table().targets();
        let is_smoothed = self.loss.label_smoothing() > 0.0;
        let no_class_weighs = targets.iter().all(|target| target.weight == 0.0);
        self.terms.iter().all(|&(target, share)| match is_smoothed {
            true => share == 0.0 || no_class_weighs,
            false => share * targets[target].weight == 0.0,
        })
    }

    fn hold(&self) {
        let is_nan = |g: &T| Element::to_f64(*g).is_nan();
        let is_masked = |class: &usize| self.x[*class] == f64::NEG_INFINITY;
        let masked = || (0..self.x.len()).filter(is_masked);
        let undefined = self.x.iter().any(|&x| x.is_nan() || x == f64::INFINITY);
        if undefined || masked().count() == self.x.len() {
            let all_nan = self.row_loss.is_nan() && self.gradient.iter().all(is_nan);
            assert!(all_nan, "{}", self.says());
            return;
        }
        assert!(self.row_loss >= 0.0, "{}", self.says());
        if self.counts_for_nothing() || self.x.len() == 1 {
            assert_eq!(self.row_loss, 0.0, "{}", self.says());
        } else if masked().any(|class| self.label_weight(class) > 0.0) {
            assert_eq!(self.row_loss, f64::INFINITY, "{}", self.says());
        }
        let all_zero = self.gradient.iter().all(|&g| g == T::ZERO);
        assert!(all_zero || !self.counts_for_nothing(), "{}", self.says());
        if !self.outside.iter().all(|factor| factor.is_finite()) {
            return;
        }
        assert!(!self.gradient.iter().any(is_nan), "{}", self.says());
        for class in masked().filter(|&class| self.label_weight(class) == 0.0) {
            assert!(self.gradient[class] == T::ZERO, "{}", self.says());
        }
        assert!(all_zero || self.x.len() > 1, "{}", self.says());
    }

    fn is_accurate(&self, divisor: f64) {
        let usual = 1e-3..=1e3;
        let is_usual = |x: &f64| x.abs() <= 1e3 || *x == f64::NEG_INFINITY;
        let all_usual = self.x.iter().all(is_usual) && self.x.iter().any(|x| x.is_finite());
        let scale = self.outside[0] * self.outside[1] / divisor;
        let weights = (0..self.x.len()).map(|class| self.label_weight(class));
        let weight: f64 = weights.sum();
        let weight_is_usual = weight == 0.0 || usual.contains(&weight);
        if !all_usual || !weight_is_usual || !usual.contains(&scale.abs()) {
            return;
        }
        let (table, smoothing) = (self.loss.table(), self.loss.label_smoothing());
        let exact = reference::mixed_row(table, self.x, self.terms, smoothing);
        let bound = 2e-6 * exact.loss + 1e-6 * weight.max(1.0) + T::half_ulp(0.0);
        let is_near = (self.row_loss - exact.loss).abs() <= bound;
        assert!(
            is_near || self.row_loss == exact.loss,
            "loss for {}: {}",
            exact.loss,
            self.says()
        );
        // Each label's part of the gradient has its own digits, also where they all but cancel.
        let parts: Vec<_> = (self.terms.iter())
            .map(|&term| reference::mixed_row(table, self.x, &[term], smoothing).gradient)
            .collect();
        let slope = most_slope(table) * weight * scale.abs();
        for (j, (g, exact)) in self.gradient.iter().zip(&exact.gradient).enumerate() {
            let (g, exact) = (Element::to_f64(*g), exact * scale);
            if exact.abs() >= T::MOST {
                continue;
            }
            let size: f64 = parts.iter().map(|part| (part[j] * scale).abs()).sum();
            let bound = T::half_ulp(exact) + 1e-5 * size + 1e-7 * slope;
            assert!(
                (g - exact).abs() <= bound,
                "gradient {j}: {g} for {exact}: {}",
                self.says()
            );
        }
    }
}

fn most_slope(table: &RowTable) -> f64 {
    (0..table.classes()).fold(0.0, |most, j| {
        let own = table.targets()[j].gradient_slope.abs();
        f64::max(most, own.max(table.affine(j).slope))
    })
}

/// Whether a table is one of usual numbers, for which the bounds of accuracy are tried.
fn is_usual(table: &RowTable) -> bool {
    // An offset of hundreds is rounded by more, in the lanes' `f32`.
    const MOST_OFFSET: f64 = 50.0;
    let slope = 1e-2..=1e2;
    let targets = table.targets().iter().all(|target| {
        slope.contains(&target.slope)
            && target.bias.abs() <= MOST_OFFSET
            && target.gradient_slope.abs() <= 1e2
            && (target.weight == 0.0 || (1e-3..=1e3).contains(&target.weight))
    });
    let others = (0..table.classes()).all(|j| {
        let map = table.affine(j);
        slope.contains(&map.slope) && map.bias.abs() <= MOST_OFFSET
    });
    targets && others && table.focal_gamma().is_none_or(|gamma| gamma <= 10.0)
}
