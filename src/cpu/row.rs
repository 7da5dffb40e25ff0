//! One row: its log-sum-exp, its loss, its gradient. Everything is computed in `f64`; the gradient is rounded once.

use crate::element::Element;
use crate::table::{Affine, Others, RowTable};

/// What the gradient and the loss of a row are made from.
pub(super) struct Row {
    max: f64,
    /// `S`, without the target's term: `1 - p = S/d` keeps its digits where `p` is near 1.
    others: f64,
    sum: f64,
    cross_entropy: f64,
    target: usize,
}

/// The affine map off the target, monomorphised so that the uniform case reads no table.
trait Map: Copy {
    fn at(self, j: usize) -> Affine;
}

#[derive(Clone, Copy)]
struct Uniform(f64);

impl Map for Uniform {
    #[inline(always)]
    fn at(self, _: usize) -> Affine {
        Affine {
            slope: self.0,
            bias: 0.0,
        }
    }
}

impl Map for &[Affine] {
    #[inline(always)]
    fn at(self, j: usize) -> Affine {
        self[j]
    }
}

#[inline(always)]
fn apply<T: Element>(map: impl Map, j: usize, x: T) -> f64 {
    let Affine { slope, bias } = map.at(j);
    slope * x.to_f64() + bias
}

/// Sums the row up; `x` is `[C]` and `target < C`.
pub(super) fn sum_up<T: Element>(table: &RowTable, x: &[T], target: usize) -> Row {
    match &table.others {
        Others::Uniform { slope } => sum_up_with(table, x, target, Uniform(*slope)),
        Others::PerClass(maps) => sum_up_with(table, x, target, maps.as_slice()),
    }
}

fn sum_up_with<T: Element>(table: &RowTable, x: &[T], target: usize, map: impl Map) -> Row {
    let own = table.targets[target];
    let z_target = own.slope * x[target].to_f64() + own.bias;
    let before = x[..target].iter().enumerate();
    let after = x.iter().enumerate().skip(target + 1);
    // f64::max drops NaN; the sums below do not.
    let max = before
        .clone()
        .chain(after.clone())
        .fold(z_target, |max, (j, &x)| max.max(apply(map, j, x)));
    if !max.is_finite() {
        // +inf, or nothing above -inf: the softmax is undefined.
        return Row {
            max,
            others: f64::NAN,
            sum: f64::NAN,
            cross_entropy: f64::NAN,
            target,
        };
    }
    let mut others = 0.0;
    for (j, &x) in before.chain(after) {
        others += (apply(map, j, x) - max).exp();
    }
    let sum = others + (z_target - max).exp();
    let cross_entropy = if z_target >= max {
        // The target's own term is 1: log d without forming 1 + S.
        others.ln_1p()
    } else {
        sum.ln() + (max - z_target)
    };
    Row {
        max,
        others,
        sum,
        cross_entropy,
        target,
    }
}

impl Row {
    /// `1 - p = S/d`.
    fn miss(&self) -> f64 {
        self.others / self.sum
    }

    /// `w_y L`.
    pub(super) fn loss(&self, table: &RowTable) -> f64 {
        let focal = match table.focal_gamma {
            Some(gamma) => self.miss().powf(gamma),
            None => 1.0,
        };
        table.targets[self.target].weight * (focal * self.cross_entropy)
    }

    /// `dL/dz = (p - delta) * slope`; 1 but for focal loss.
    fn loss_slope(&self, table: &RowTable) -> f64 {
        let Some(gamma) = table.focal_gamma else {
            return 1.0;
        };
        let miss = self.miss();
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

    /// Writes `factor * dL/dx`. `factor` holds all that scales the row but the class weight.
    pub(super) fn write_gradient<T: Element>(
        &self,
        table: &RowTable,
        factor: f64,
        destination: Destination<'_, T>,
    ) {
        let own = table.targets[self.target];
        let scale = own.weight * factor * self.loss_slope(table);
        let at_target = T::from_f64(-scale * own.gradient_slope * self.miss());
        match &table.others {
            Others::Uniform { slope } => {
                self.write_with(scale / self.sum, Uniform(*slope), at_target, destination);
            }
            Others::PerClass(maps) => {
                self.write_with(scale / self.sum, maps.as_slice(), at_target, destination);
            }
        }
    }

    fn write_with<T: Element>(
        &self,
        scale: f64,
        map: impl Map,
        at_target: T,
        destination: Destination<'_, T>,
    ) {
        let off_target = |j: usize, x: T| {
            T::from_f64(scale * map.at(j).slope * (apply(map, j, x) - self.max).exp())
        };
        let written = match destination {
            Destination::Separate { logits, gradient } => {
                for (j, (g, &x)) in gradient.iter_mut().zip(logits).enumerate() {
                    *g = off_target(j, x);
                }
                gradient
            }
            Destination::OverLogits(logits) => {
                for (j, x) in logits.iter_mut().enumerate() {
                    *x = off_target(j, *x);
                }
                logits
            }
        };
        written[self.target] = at_target;
    }
}

/// Where a row's gradient goes; every slice is `[C]`.
pub(super) enum Destination<'a, T> {
    Separate {
        logits: &'a [T],
        gradient: &'a mut [T],
    },
    OverLogits(&'a mut [T]),
}

/// Whether the target's logit is the row's largest; ties go to the lowest class, a NaN makes a miss.
pub(super) fn top1<T: Element>(x: &[T], target: usize) -> bool {
    let own = x[target].to_f64();
    let (before, after) = (&x[..target], &x[target + 1..]);
    before.iter().all(|x| x.to_f64() < own)
        && after.iter().all(|x| x.to_f64() <= own)
        && !own.is_nan()
}
