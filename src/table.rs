/// The constants of one class where it is the row's target.
///
/// `z_y = slope * x_y + bias`, `dL/dx_y = -weight * gradient_slope * S/d`.
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

/// `z = slope * x + bias`.
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
#[derive(Debug, Clone, PartialEq)]
pub struct RowTable {
    pub(crate) targets: Vec<Target>,
    pub(crate) others: Others,
    pub(crate) focal_gamma: Option<f64>,
}

impl RowTable {
    /// The number of classes `C`.
    pub fn classes(&self) -> usize {
        self.targets.len()
    }

    /// The constants of each class as a target, `[C]`.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// How the logits off the target are mapped.
    pub fn others(&self) -> &Others {
        &self.others
    }

    /// The affine map of class `j` off the target; panics where `j >= C`.
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
    pub fn focal_gamma(&self) -> Option<f64> {
        self.focal_gamma
    }
}
