use std::ops::RangeInclusive;

use crate::error::{Error, check_parameter};

/// The constants of one class where it is the row's target.
///
/// `z_y = slope * x_y + bias`, `dL/dx_y = -weight * gradient_slope * S/d`.
///
/// ```
/// use ala_loss::{ClassCounts, Loss, Objective, Target};
/// let counts = ClassCounts::new([500, 5])?;
/// let loss = Loss::builder(Objective::ala(), &counts).scale(30.0).build()?;
/// // The rarest class has QF = 1: z_y = 30 (x_y - (1 - x_y)/2), the difficulty factor detached.
/// let rarest = Target { slope: 45.0, bias: -15.0, gradient_slope: 30.0, weight: 1.0 };
/// assert_eq!(loss.table().targets()[1], rarest);
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// `A_y`: slope of the target's own affine map.
    pub slope: f64,
    /// `B_y`: its offset, the margin included.
    pub bias: f64,
    /// `G_y`: the slope that the gradient sees; differs from `slope` where the difficulty gradient is detached.
    pub gradient_slope: f64,
    /// `w_y`: weight of the row's loss and gradient.
    pub weight: f64,
}

/// How the logits off the target are mapped: `z_j = a_j x_j + b_j`.
///
/// ```
/// use ala_loss::{Affine, ClassCounts, Loss, Objective, Others};
/// let counts = ClassCounts::new([4, 1])?;
/// let ala = Loss::builder(Objective::ala(), &counts).build()?;
/// assert_eq!(ala.table().others(), &Others::Uniform { slope: 30.0 });
/// let scaled = Loss::builder(Objective::VectorScaling { gamma: 1.0, tau: 0.0 }, &counts).build()?;
/// let maps = [1.0, 0.25].map(|slope| Affine { slope, bias: 0.0 });
/// assert_eq!(scaled.table().others(), &Others::PerClass(maps.to_vec()));
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum Others {
    /// `a_j = slope`, `b_j = 0` for every class: the fast path.
    Uniform {
        /// The slope `s`.
        slope: f64,
    },
    /// A slope and an offset for each class.
    PerClass(Vec<Affine>),
}

impl Others {
    /// The highest offset of a class: what lanes and kernels count offsets from.
    pub(crate) fn highest_bias(&self) -> f64 {
        match self {
            Self::Uniform { .. } => 0.0,
            Self::PerClass(maps) => maps
                .iter()
                .map(|map| map.bias)
                .fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

/// `z = slope * x + bias`.
///
/// ```
/// use ala_loss::{Affine, ClassCounts, Loss, Objective};
/// let counts = ClassCounts::new([500, 5])?;
/// let loss = Loss::builder(Objective::BalancedSoftmax, &counts).build()?;
/// let Affine { slope, bias } = loss.table().other(0); // z_0 = x_0 + ln n_0
/// assert!(slope == 1.0 && (bias.exp() - 500.0).abs() < 1e-9);
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    /// `a_j`.
    pub slope: f64,
    /// `b_j`.
    pub bias: f64,
}

/// What every objective lowers to: the row problem that the CPU path, the GPU kernels and the
/// [reference](crate::reference) solve, none of which knows of objectives.
///
/// For a row `x` with target `y`:
///
/// ```text
/// z_j = a_j x_j + b_j  (j != y)      z_y = A_y x_y + B_y      m = max z
/// S = sum_{j != y} exp(z_j - m)      d = S + exp(z_y - m)
/// L = w_y (log d + m - z_y)
/// dL/dx_j = w_y a_j exp(z_j - m)/d   dL/dx_y = -w_y G_y S/d
/// ```
///
/// With a focal exponent, `L = -w_y (1-p)^gamma ln p` with `1 - p = S/d`, and both gradients gain the
/// factor `(1-p)^gamma - gamma p (1-p)^(gamma-1) ln p`.
///
/// ```
/// use ala_loss::{ClassCounts, Loss, Objective};
/// let counts = ClassCounts::new([500, 5])?;
/// let loss = Loss::builder(Objective::ala(), &counts).build()?;
/// let x = [0.4f64, 0.3];
/// let (other, target) = (loss.table().other(0), loss.table().targets()[1]);
/// let z = [other.slope * x[0] + other.bias, target.slope * x[1] + target.bias];
/// let by_hand = (1.0 + (z[0] - z[1]).exp()).ln();
/// assert!((loss.cpu(&x, &[1])?.loss - by_hand).abs() < 1e-12);
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct RowTable {
    pub(crate) targets: Vec<Target>,
    pub(crate) others: Others,
    pub(crate) focal_gamma: Option<f64>,
}

/// What a parameter of the row problem may be in size: sums, products with logits and reciprocals of it stay within `f64`,
/// and it is itself within `f32`.
pub(crate) const HELD: RangeInclusive<f64> = 1e-30..=1e30;

/// The largest weight: the sum over as many rows as there can be is finite.
const MOST_WEIGHT: f64 = 1e280;

impl RowTable {
    /// Fails where a parameter is one that the paths cannot hold.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let slope = |name, value| {
            check_parameter(name, value, "above 0, from 1e-30 to 1e30", |a| {
                HELD.contains(&a)
            })
        };
        let offset = |name, value| {
            check_parameter(name, value, "from -1e30 to 1e30", |b| {
                b.abs() <= *HELD.end()
            })
        };
        match &self.others {
            Others::Uniform { slope: uniform } => {
                slope("the slope of the logits", *uniform)?;
            }
            Others::PerClass(maps) => {
                for map in maps {
                    slope("a class's slope", map.slope)?;
                    offset("a class's offset", map.bias)?;
                }
            }
        }
        for target in &self.targets {
            slope("a target's slope", target.slope)?;
            offset("a target's offset", target.bias)?;
            offset("a target's gradient slope", target.gradient_slope)?;
            check_parameter(
                "class weight",
                target.weight,
                "at most 1e280 when multiplied by the others of its class",
                |w| w <= MOST_WEIGHT,
            )?;
        }
        check_parameter(
            "gamma",
            self.focal_gamma.unwrap_or(0.0),
            "at most 1e30",
            |g| g <= *HELD.end(),
        )?;
        Ok(())
    }

    /// The number of classes `C`.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # let counts = ClassCounts::new([500, 50, 5])?;
    /// let loss = Loss::builder(Objective::ala(), &counts).build()?;
    /// assert_eq!(loss.table().classes(), 3);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn classes(&self) -> usize {
        self.targets.len()
    }

    /// The constants of each class as a target, `[C]`.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective, QuantityLog};
    /// let counts = ClassCounts::new([15, 5])?; // QF = 1/2 and 1
    /// let loss = Loss::builder(Objective::QuantityOnly { log: QuantityLog::Base2 }, &counts).build()?;
    /// let margins: Vec<f64> = loss.table().targets().iter().map(|target| -target.bias).collect();
    /// assert_eq!(margins, [15.0, 30.0]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// How the logits off the target are mapped.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective, Others};
    /// # let counts = ClassCounts::new([500, 50, 5])?;
    /// let loss = Loss::builder(Objective::CrossEntropy, &counts).scale(16.0).build()?;
    /// assert_eq!(loss.table().others(), &Others::Uniform { slope: 16.0 });
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn others(&self) -> &Others {
        &self.others
    }

    /// The affine map of class `j` off the target; panics where `j >= C`.
    ///
    /// ```
    /// # use ala_loss::{Affine, ClassCounts, Loss, Objective};
    /// let counts = ClassCounts::new([4, 1])?;
    /// let loss = Loss::builder(Objective::VectorScaling { gamma: 1.0, tau: 0.0 }, &counts).build()?;
    /// assert_eq!(loss.table().other(1), Affine { slope: 0.25, bias: 0.0 });
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn other(&self, j: usize) -> Affine {
        match &self.others {
            Others::Uniform { slope } => Affine {
                slope: *slope,
                bias: 0.0,
            },
            Others::PerClass(maps) => maps[j],
        }
    }

    /// The focal exponent, where the objective is focal loss.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # let counts = ClassCounts::new([500, 50, 5])?;
    /// let loss = Loss::builder(Objective::Focal { gamma: 2.0 }, &counts).build()?;
    /// assert_eq!(loss.table().focal_gamma(), Some(2.0));
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn focal_gamma(&self) -> Option<f64> {
        self.focal_gamma
    }
}
