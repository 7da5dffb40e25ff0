//! The row problem that every objective lowers to.

pub(crate) mod log2;
pub(crate) mod smoothing;

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
    /// `G_y`: the slope that the gradient sees; differs from `slope` where the difficulty gradient
    /// is detached.
    pub gradient_slope: f64,
    /// `w_y`: weight of the row's loss and gradient.
    pub weight: f64,
}

/// How the logits off the target are mapped: `z_j = a_j x_j + b_j`.
///
/// ```
/// use ala_loss::{Affine, ClassCounts, Loss, Objective, NonTarget};
/// let counts = ClassCounts::new([4, 1])?;
/// let ala = Loss::builder(Objective::ala(), &counts).build()?;
/// assert_eq!(ala.table().non_target(), &NonTarget::Uniform { slope: 30.0 });
/// let scaled = Loss::builder(Objective::VectorScaling { gamma: 1.0, tau: 0.0 }, &counts).build()?;
/// let maps = [1.0, 0.25].map(|slope| Affine { slope, bias: 0.0 });
/// assert_eq!(scaled.table().non_target(), &NonTarget::PerClass(maps.to_vec()));
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum NonTarget {
    /// `a_j = slope`, `b_j = 0` for every class: the fast path.
    Uniform {
        /// The slope `s`.
        slope: f64,
    },
    /// A slope and an offset for each class.
    PerClass(Vec<Affine>),
}

/// `z = slope * x + bias`.
///
/// ```
/// use ala_loss::{Affine, ClassCounts, Loss, Objective};
/// let counts = ClassCounts::new([500, 5])?;
/// let loss = Loss::builder(Objective::BalancedSoftmax, &counts).build()?;
/// let Affine { slope, bias } = loss.table().affine(0); // z_0 = x_0 + ln n_0
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
/// With a focal exponent, `L = -w_y (1-p)^gamma ln p` with `1 - p = S/d`, and both gradients gain
/// the factor `(1-p)^gamma - gamma p (1-p)^(gamma-1) ln p`.
///
/// ```
/// use ala_loss::{ClassCounts, Loss, Objective};
/// let counts = ClassCounts::new([500, 5])?;
/// let loss = Loss::builder(Objective::ala(), &counts).build()?;
/// let x = [0.4f64, 0.3];
/// let (other, target) = (loss.table().affine(0), loss.table().targets()[1]);
/// let z = [other.slope * x[0] + other.bias, target.slope * x[1] + target.bias];
/// let by_hand = (1.0 + (z[0] - z[1]).exp()).ln();
/// assert!((loss.evaluate(&x, &[1])?.loss - by_hand).abs() < 1e-12);
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct RowTable {
    pub(crate) targets: Vec<Target>,
    pub(crate) non_target: NonTarget,
    pub(crate) focal_gamma: Option<f64>,
}

/// What a parameter of the row problem may be in size: sums, products with logits and reciprocals
/// of it stay within `f64`, and it is itself within `f32`.
pub(crate) const HELD: RangeInclusive<f64> = 1e-30..=1e30;

/// The largest weight: the sum over as many rows as there can be is finite.
pub(crate) const MOST_WEIGHT: f64 = 1e280;

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
        match &self.non_target {
            NonTarget::Uniform { slope: uniform } => {
                slope("the slope of the logits", *uniform)?;
            }
            NonTarget::PerClass(maps) => {
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
                "at least 0, and at most 1e280 when multiplied by the others of its class",
                |w| (0.0..=MOST_WEIGHT).contains(&w),
            )?;
        }
        check_parameter(
            "gamma",
            self.focal_gamma.unwrap_or(0.0),
            "at least 0 and at most 1e30",
            |g| (0.0..=*HELD.end()).contains(&g),
        )?;
        Ok(())
    }

    /// A table of one's own; see [`Loss::from_table`](crate::Loss::from_table).
    ///
    /// # Errors
    /// [`Error::NoClasses`]; [`Error::Length`] where there is not a map for each target;
    /// [`Error::Parameter`] for a slope outside `1e-30..=1e30`, an offset or gradient slope beyond
    /// `1e30` in size, a weight that is negative or above `1e280`, a focal exponent outside
    /// `0..=1e30`.
    ///
    /// ```
    /// use ala_loss::{Error, NonTarget, RowTable, Target};
    /// let target = Target { slope: 1.0, bias: 0.0, gradient_slope: 1.0, weight: -1.0 };
    /// let error = RowTable::new([target], NonTarget::Uniform { slope: 1.0 }, None).unwrap_err();
    /// assert!(error.to_string().contains("class weight is -1"));
    /// ```
    pub fn new(
        targets: impl Into<Vec<Target>>,
        non_target: NonTarget,
        focal_gamma: Option<f64>,
    ) -> Result<Self, Error> {
        let table = Self {
            targets: targets.into(),
            non_target,
            focal_gamma,
        };
        if table.targets.is_empty() {
            return Err(Error::NoClasses);
        }
        match &table.non_target {
            NonTarget::PerClass(maps) if maps.len() != table.classes() => Err(Error::Length {
                name: "the maps off the target",
                got: maps.len(),
                expected: table.classes(),
            }),
            _ => table.check().map(|()| table),
        }
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
    /// let objective = Objective::QuantityOnly { log: QuantityLog::Base2 };
    /// let loss = Loss::new(objective, &counts)?;
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
    /// # use ala_loss::{ClassCounts, Loss, Objective, NonTarget};
    /// # let counts = ClassCounts::new([500, 50, 5])?;
    /// let loss = Loss::builder(Objective::CrossEntropy, &counts).scale(16.0).build()?;
    /// assert_eq!(loss.table().non_target(), &NonTarget::Uniform { slope: 16.0 });
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn non_target(&self) -> &NonTarget {
        &self.non_target
    }

    /// The affine map of class `j` off the target; panics where `j >= C`.
    ///
    /// ```
    /// # use ala_loss::{Affine, ClassCounts, Loss, Objective};
    /// let counts = ClassCounts::new([4, 1])?;
    /// let objective = Objective::VectorScaling { gamma: 1.0, tau: 0.0 };
    /// let loss = Loss::new(objective, &counts)?;
    /// assert_eq!(loss.table().affine(1), Affine { slope: 0.25, bias: 0.0 });
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn affine(&self, j: usize) -> Affine {
        match &self.non_target {
            NonTarget::Uniform { slope } => Affine {
                slope: *slope,
                bias: 0.0,
            },
            NonTarget::PerClass(maps) => maps[j],
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
