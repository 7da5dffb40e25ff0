//! What the README's table of edges says of a result, row by row, and for usual numbers the bounds
//! of its accuracy, against the crate's reference.

use ala_loss::{Element, Label, Loss, Outcome, Reduction, RowTable, reference};

use crate::bits::LogitBits;

/// The classes of the rows that count.
pub fn counted<L: Label>(loss: &Loss, labels: &[L]) -> impl Iterator<Item = usize> {
    labels.iter().filter_map(|&label| class_of(loss, label))
}

fn class_of<L: Label>(loss: &Loss, label: L) -> Option<usize> {
    let ignored = loss.ignore_label().map(i128::from) == Some(label.value());
    if ignored {
        None
    } else {
        label.class(loss.classes())
    }
}

/// `outside` is what multiplies a row's gradient: the upstream gradient and the gradient scale.
pub fn hold<T: LogitBits, L: Label>(
    loss: &Loss,
    logits: &[T],
    stride: usize,
    labels: &[L],
    outside: impl Fn(usize) -> [f64; 2],
    outcome: &Outcome<T>,
) {
    let (rows, classes) = (labels.len(), loss.classes());
    let hits = outcome.hits.as_ref().expect("they were asked for");
    assert_eq!(outcome.gradient.len(), rows * classes);
    assert_eq!((outcome.row_losses.len(), hits.len()), (rows, rows));
    assert_eq!(outcome.counted_rows, counted(loss, labels).count());
    let weight: f64 = counted(loss, labels)
        .map(|class| loss.table().targets()[class].weight)
        .sum();
    let divisor = match loss.reduction() {
        Reduction::Mean if weight > 0.0 => weight,
        _ => 1.0,
    };
    let is_usual = is_usual(loss.table());
    let mut x = Vec::new();
    let mut losses = Vec::new();
    for (row, &label) in labels.iter().enumerate() {
        x.clear();
        x.extend(
            logits[row * stride..][..classes]
                .iter()
                .map(|&x| Element::to_f64(x)),
        );
        let row_loss = Element::to_f64(outcome.row_losses[row]);
        losses.push(row_loss);
        let gradient = &outcome.gradient[row * classes..][..classes];
        let Some(target) = class_of(loss, label) else {
            assert!(row_loss == 0.0 && gradient.iter().all(|&g| g == T::ZERO) && !hits[row]);
            continue;
        };
        let has_nan = x.iter().any(|x| x.is_nan());
        assert_eq!(
            hits[row],
            !has_nan && target == largest(&x),
            "row {row}: {x:?}"
        );
        let solved = Row {
            loss,
            x: &x,
            target,
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
        // A row's loss is rounded to its type, and may be too small for it.
        let bound = 1e-6 * sum + 1e-37 * rows as f64;
        assert!(
            (outcome.loss * divisor - sum).abs() <= bound,
            "{} of {losses:?}",
            outcome.loss
        );
    }
}

/// The first of the largest.
fn largest(x: &[f64]) -> usize {
    (1..x.len()).fold(0, |best, j| if x[j] > x[best] { j } else { best })
}

struct Row<'a, T> {
    loss: &'a Loss,
    x: &'a [f64],
    target: usize,
    outside: [f64; 2],
    row_loss: f64,
    gradient: &'a [T],
}

impl<T: LogitBits> Row<'_, T> {
    fn hold(&self) {
        let is_nan = |g: &T| Element::to_f64(*g).is_nan();
        let says = || {
            format!(
                "{:?} at {} times {:?} gives {} {:?}; {:?}",
                self.x, self.target, self.outside, self.row_loss, self.gradient, self.loss
            )
        };
        let masked = self.x.iter().filter(|&&x| x == f64::NEG_INFINITY).count();
        let undefined = self.x.iter().any(|&x| x.is_nan() || x == f64::INFINITY);
        if undefined || masked == self.x.len() {
            assert!(
                self.row_loss.is_nan() && self.gradient.iter().all(is_nan),
                "{}",
                says()
            );
            return;
        }
        assert!(self.row_loss >= 0.0, "{}", says());
        if self.x[self.target] == f64::NEG_INFINITY {
            let weight = self.loss.table().targets()[self.target].weight;
            let expected = if weight > 0.0 { f64::INFINITY } else { 0.0 };
            assert_eq!(self.row_loss, expected, "{}", says());
        }
        if !self.outside.iter().all(|factor| factor.is_finite()) {
            return;
        }
        assert!(!self.gradient.iter().any(is_nan), "{}", says());
        for (j, g) in self.gradient.iter().enumerate() {
            let is_masked = self.x[j] == f64::NEG_INFINITY && j != self.target;
            assert!(!is_masked || *g == T::ZERO, "{}", says());
        }
        if self.x.len() == 1 {
            assert!(
                self.row_loss == 0.0 && self.gradient[0] == T::ZERO,
                "{}",
                says()
            );
        }
    }

    fn is_accurate(&self, divisor: f64) {
        let is_usual = |x: &f64| x.abs() <= 1e3 || *x == f64::NEG_INFINITY;
        let all_usual = self.x.iter().all(is_usual) && self.x[self.target].is_finite();
        let scale = self.outside[0] * self.outside[1] / divisor;
        if !all_usual || !(1e-3..=1e3).contains(&scale.abs()) {
            return;
        }
        let table = self.loss.table();
        let exact = reference::row(table, self.x, self.target);
        let weight = table.targets()[self.target].weight;
        let bound = 2e-6 * exact.loss + 1e-6 * weight.max(1.0) + T::half_ulp(0.0);
        let error = (self.row_loss - exact.loss).abs();
        assert!(
            error <= bound,
            "loss {} for {}: {:?} at {}, {table:?}",
            self.row_loss,
            exact.loss,
            self.x,
            self.target
        );
        let slope = most_slope(table) * weight * scale.abs();
        for (j, (g, exact)) in self.gradient.iter().zip(&exact.gradient).enumerate() {
            let (g, exact) = (Element::to_f64(*g), exact * scale);
            if exact.abs() >= T::MOST {
                continue;
            }
            let bound = T::half_ulp(exact) + 1e-5 * exact.abs() + 1e-7 * slope;
            assert!(
                (g - exact).abs() <= bound,
                "gradient {j}: {g} for {exact}: {:?} at {}, {table:?}",
                self.x,
                self.target
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
