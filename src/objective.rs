//! Objectives and how each is lowered to a table.

use crate::counts::ClassCounts;
use crate::error::{Error, check_parameter};
use crate::table::{Affine, HELD, NonTarget, RowTable, Target};

/// The logarithm of the quantity factor `QF_y = 1 / log(n_y / n_min + 1)`.
///
/// ```
/// use ala_loss::{ClassCounts, Loss, Objective, QuantityLog};
/// let counts = ClassCounts::new([35, 5])?; // class 0: QF = 1 / log(35/5 + 1)
/// for (log, factor) in [(QuantityLog::Base2, 0.3333), (QuantityLog::Natural, 0.4809)] {
///     let loss = Loss::builder(Objective::QuantityOnly { log }, &counts).scale(1.0).build()?;
///     assert!((-loss.table().targets()[0].bias - factor).abs() < 1e-4);
/// }
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QuantityLog {
    /// Base 2, as in the public OpenLT code: the rarest class has `QF = 1`.
    #[default]
    Base2,
    /// Natural: the rarest class has `QF = 1 / ln 2 = 1.4427`.
    Natural,
}

impl QuantityLog {
    fn factor(self, count: u64, least: u64) -> f64 {
        let ratio = count as f64 / least as f64;
        match self {
            Self::Base2 => 1.0 / (ratio + 1.0).log2(),
            Self::Natural => 1.0 / ratio.ln_1p(),
        }
    }
}

/// Whether the gradient flows through the difficulty factor `DF = (1 - x_y) / 2`.
///
/// ```
/// use ala_loss::{ClassCounts, DifficultyGradient, Loss, Objective};
/// let counts = ClassCounts::new([9, 3])?;
/// let ratios = [(DifficultyGradient::Detached, 1.0), (DifficultyGradient::Attached, 1.5)];
/// for (gradient, ratio) in ratios {
///     // z_y = s (x_y - (1 - x_y)/2) = s (1.5 x_y - 0.5)
///     let loss = Loss::builder(Objective::DifficultyOnly { k: 1.0, gradient }, &counts).build()?;
///     let gradient = loss.evaluate(&[0.1f64, 0.2], &[0])?.gradient;
///     assert!((-gradient[0] / gradient[1] - ratio).abs() < 1e-12);
/// }
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DifficultyGradient {
    /// The factor is a constant of the step, as in the public OpenLT code.
    #[default]
    Detached,
    /// The factor is differentiated too.
    Attached,
}

/// Options of the ALA loss; the default is that of the public OpenLT code.
///
/// ```
/// use ala_loss::{Ala, ClassCounts, Loss, Objective, QuantityLog};
/// let counts = ClassCounts::new([500, 50, 5])?;
/// let natural = Ala { log: QuantityLog::Natural, ..Ala::default() };
/// let loss = |ala| Loss::builder(Objective::Ala(ala), &counts).build();
/// let cosines = [0.1f32, 0.2, 0.3];
/// // 1 / ln v > 1 / log2 v: the margin is larger.
/// let (base_2, natural) = (loss(Ala::default())?, loss(natural)?);
/// let of = |loss: &Loss| loss.evaluate(&cosines, &[2]).map(|outcome| outcome.loss);
/// assert!(of(&natural)? > of(&base_2)?);
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Ala {
    /// The quantity factor's logarithm.
    pub log: QuantityLog,
    /// Whether the difficulty factor is differentiated.
    pub gradient: DifficultyGradient,
    /// `tau` of a log-prior offset `tau ln pi_j` added to every logit. **Not in the paper**; 0
    /// switches it off.
    pub log_prior_tau: f64,
}

/// A loss for long-tailed recognition. `x` are the logits given, `s` the logit scale, `n` the class
/// counts, `pi` their priors, `y` the row's target; the loss is softmax cross-entropy over `z`.
///
/// **The margin losses take cosines that are not yet scaled**: the loss multiplies by `s` itself.
/// For logits that are already `s cos`, say [`Input::PreScaled`](crate::Input::PreScaled).
///
/// ```
/// use ala_loss::{ClassCounts, Loss, Objective};
/// let counts = ClassCounts::new([500, 50, 5])?;
/// let focal = Objective::Focal { gamma: 2.0 };
/// for objective in [Objective::ala(), Objective::BalancedSoftmax, focal] {
///     let loss = Loss::builder(objective, &counts).build()?;
///     assert!(loss.evaluate(&[0.1f32, 0.7, -0.2], &[1])?.loss > 0.0);
/// }
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Objective {
    /// ALA, Adaptive Logit Adjustment (Zhao et al., AAAI 2022, arXiv 2104.06094):
    /// `z_y = s (x_y - DF QF_y)`, `DF = (1 - x_y)/2`, `QF_y = 1 / log(n_y/n_min + 1)`;
    /// `z_j = s x_j`.
    Ala(Ala),
    /// ALA's ablation without the difficulty factor: `z_y = s (x_y - QF_y)`.
    QuantityOnly {
        /// The quantity factor's logarithm.
        log: QuantityLog,
    },
    /// ALA's ablation without the quantity factor: `z_y = s (x_y - k (1 - x_y)/2)`.
    DifficultyOnly {
        /// What stands for the quantity factor, `>= 0`.
        k: f64,
        /// Whether the difficulty factor is differentiated.
        gradient: DifficultyGradient,
    },
    /// Softmax cross-entropy, `z = s x`.
    CrossEntropy,
    /// Cross-entropy weighted by the effective number of samples (Cui et al., CVPR 2019):
    /// `w_y = (1 - beta)/(1 - beta^n_y)`, scaled so that the weights sum to `C`.
    ClassBalanced {
        /// In `[0, 1)`; 0.9999 is usual.
        beta: f64,
    },
    /// Focal loss (Lin et al., ICCV 2017), softmax form: `L = -(1-p)^gamma ln p`.
    Focal {
        /// `>= 0`; 2 is usual, 0 is cross-entropy.
        gamma: f64,
    },
    /// Balanced Softmax (Ren et al., NeurIPS 2020): `z_j = s x_j + ln n_j`.
    BalancedSoftmax,
    /// Logit adjustment as a loss (Menon et al., ICLR 2021): `z_j = s x_j + tau ln pi_j`.
    LogitAdjustment {
        /// `>= 0`; 1 is usual.
        tau: f64,
    },
    /// Vector scaling (Kini et al., NeurIPS 2021): `z_j = s (n_j/n_max)^gamma x_j + tau ln pi_j`.
    VectorScaling {
        /// `>= 0`.
        gamma: f64,
        /// `>= 0`.
        tau: f64,
    },
    /// LDAM (Cao et al., NeurIPS 2019): `z_y = s (x_y - Delta_y)`,
    /// `Delta_y = M n_y^(-1/4) / max_k n_k^(-1/4)`.
    Ldam {
        /// `M`, the rarest class's margin, `>= 0`; 0.5 is usual.
        max_margin: f64,
    },
    /// CosFace (Wang et al., CVPR 2018): `z_y = s (x_y - m)`.
    CosFace {
        /// `m >= 0`; 0.35 is usual.
        margin: f64,
    },
}

impl Objective {
    /// ALA with its default options: base-2 logarithm, difficulty gradient detached.
    ///
    /// ```
    /// use ala_loss::{Ala, DifficultyGradient, Objective, QuantityLog};
    /// let openlt = Ala {
    ///     log: QuantityLog::Base2,
    ///     gradient: DifficultyGradient::Detached,
    ///     log_prior_tau: 0.0,
    /// };
    /// assert_eq!(Objective::ala(), Objective::Ala(openlt));
    /// ```
    pub fn ala() -> Self {
        Self::Ala(Ala::default())
    }

    /// The scale `s` where none is set: 30 for the losses on cosines, 1 for those on any logits.
    ///
    /// ```
    /// use ala_loss::Objective;
    /// assert_eq!(Objective::ala().default_scale(), 30.0);
    /// assert_eq!(Objective::BalancedSoftmax.default_scale(), 1.0);
    /// ```
    pub fn default_scale(&self) -> f64 {
        match self {
            Self::Ala(_)
            | Self::QuantityOnly { .. }
            | Self::DifficultyOnly { .. }
            | Self::Ldam { .. }
            | Self::CosFace { .. } => 30.0,
            Self::CrossEntropy
            | Self::ClassBalanced { .. }
            | Self::Focal { .. }
            | Self::BalancedSoftmax
            | Self::LogitAdjustment { .. }
            | Self::VectorScaling { .. } => 1.0,
        }
    }

    /// Lowers the objective to the row table. `scale` is `s`; `slope` is what the given logits are
    /// still to be multiplied by: `s` for cosines, 1 where they are scaled already.
    pub(crate) fn lower(
        &self,
        counts: &ClassCounts,
        scale: f64,
        slope: f64,
    ) -> Result<RowTable, Error> {
        self.check()?;
        let uniform = NonTarget::Uniform { slope };
        let least = counts.min();
        let plain = |bias: f64| Target {
            slope,
            bias,
            gradient_slope: slope,
            weight: 1.0,
        };
        // The margin k (1 - x_y)/2, times s, as an affine map of the logit given.
        let difficult = |k: f64, gradient: DifficultyGradient| {
            let steep = slope * (1.0 + k / 2.0);
            Target {
                slope: steep,
                bias: -scale * k / 2.0,
                gradient_slope: match gradient {
                    DifficultyGradient::Detached => slope,
                    DifficultyGradient::Attached => steep,
                },
                weight: 1.0,
            }
        };
        let targets = |of: &dyn Fn(u64) -> Target| -> Vec<Target> {
            counts.as_slice().iter().map(|&n| of(n)).collect()
        };
        let table = |targets, non_target| RowTable {
            targets,
            non_target,
            focal_gamma: None,
        };
        Ok(match *self {
            Self::Ala(ala) => {
                let mut table = table(
                    targets(&|n| difficult(ala.log.factor(n, least), ala.gradient)),
                    uniform,
                );
                if ala.log_prior_tau > 0.0 {
                    let maps = log_priors(counts, ala.log_prior_tau, |_| slope);
                    for (target, map) in table.targets.iter_mut().zip(&maps) {
                        target.bias += map.bias;
                    }
                    table.non_target = NonTarget::PerClass(maps);
                }
                table
            }
            Self::QuantityOnly { log } => {
                table(targets(&|n| plain(-scale * log.factor(n, least))), uniform)
            }
            Self::DifficultyOnly { k, gradient } => {
                table(targets(&|_| difficult(k, gradient)), uniform)
            }
            Self::CrossEntropy => table(targets(&|_| plain(0.0)), uniform),
            Self::ClassBalanced { beta } => {
                let weights = counts.class_balanced_weights(beta)?;
                let targets = weights
                    .into_iter()
                    .map(|weight| Target {
                        weight,
                        ..plain(0.0)
                    })
                    .collect();
                table(targets, uniform)
            }
            Self::Focal { gamma } => RowTable {
                focal_gamma: Some(gamma),
                ..table(targets(&|_| plain(0.0)), uniform)
            },
            Self::BalancedSoftmax => per_class(
                counts
                    .as_slice()
                    .iter()
                    .map(|&n| Affine {
                        slope,
                        bias: (n as f64).ln(),
                    })
                    .collect(),
            ),
            Self::LogitAdjustment { tau } => per_class(log_priors(counts, tau, |_| slope)),
            Self::VectorScaling { gamma, tau } => {
                let most = counts.max() as f64;
                let maps = log_priors(counts, tau, |n| slope * (n as f64 / most).powf(gamma));
                for map in &maps {
                    check_parameter(
                        "vector scaling's smallest slope",
                        map.slope,
                        "from 1e-30 to 1e30 (lower gamma)",
                        |a| HELD.contains(&a),
                    )?;
                }
                per_class(maps)
            }
            Self::Ldam { max_margin } => table(
                targets(&|n| plain(-scale * max_margin * (least as f64 / n as f64).powf(0.25))),
                uniform,
            ),
            Self::CosFace { margin } => table(targets(&|_| plain(-scale * margin)), uniform),
        })
    }

    fn check(&self) -> Result<(), Error> {
        let non_negative = |name, value| {
            check_parameter(name, value, "finite and at least 0", |v| v >= 0.0).map(drop)
        };
        match *self {
            Self::Ala(ala) => non_negative("log_prior_tau", ala.log_prior_tau),
            Self::DifficultyOnly { k, .. } => non_negative("k", k),
            Self::Focal { gamma } => non_negative("gamma", gamma),
            Self::LogitAdjustment { tau } => non_negative("tau", tau),
            Self::VectorScaling { gamma, tau } => {
                non_negative("gamma", gamma)?;
                non_negative("tau", tau)
            }
            Self::Ldam { max_margin } => non_negative("max_margin", max_margin),
            Self::CosFace { margin } => non_negative("margin", margin),
            // beta is checked where the weights are made.
            Self::ClassBalanced { .. }
            | Self::QuantityOnly { .. }
            | Self::CrossEntropy
            | Self::BalancedSoftmax => Ok(()),
        }
    }
}

/// `z_j = slope(n_j) x_j + tau ln pi_j`.
fn log_priors(counts: &ClassCounts, tau: f64, slope: impl Fn(u64) -> f64) -> Vec<Affine> {
    counts
        .as_slice()
        .iter()
        .zip(counts.priors())
        .map(|(&n, prior)| Affine {
            slope: slope(n),
            bias: tau * prior.ln(),
        })
        .collect()
}

/// Every class keeps its own map where it is the target.
fn per_class(maps: Vec<Affine>) -> RowTable {
    RowTable {
        targets: maps
            .iter()
            .map(|map| Target {
                slope: map.slope,
                bias: map.bias,
                gradient_slope: map.slope,
                weight: 1.0,
            })
            .collect(),
        non_target: NonTarget::PerClass(maps),
        focal_gamma: None,
    }
}
