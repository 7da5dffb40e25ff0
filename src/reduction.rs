//! How row losses become one number.

/// How row losses become one number.
///
/// ```
/// use ala_loss::{ClassCounts, Loss, Objective, Reduction};
/// let counts = ClassCounts::new([9, 3])?;
/// let divisors = [(Reduction::Mean, 4.0), (Reduction::Sum, 1.0), (Reduction::None, 1.0)];
/// for (reduction, divisor) in divisors {
///     let loss = Loss::builder(Objective::CrossEntropy, &counts)
///         .class_weights([1.0, 3.0])
///         .reduction(reduction)
///         .build()?;
///     let outcome = loss.evaluate(&[0.0f64; 4], &[0, 1])?;
///     assert!((outcome.loss - outcome.row_losses.iter().sum::<f64>() / divisor).abs() < 1e-12);
///     assert_eq!(outcome.gradient, [-0.5, 0.5, 1.5, -1.5].map(|g| g / divisor));
/// }
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reduction {
    /// Divided by the sum of the counted rows' weights (PyTorch's rule); ignored rows do not count.
    #[default]
    Mean,
    /// The sum over rows.
    Sum,
    /// Not reduced: the gradient is that of each row's own loss, and
    /// [`Outcome::loss`](crate::Outcome::loss) is their sum, to watch.
    None,
}

impl Reduction {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mean => "Mean",
            Self::Sum => "Sum",
            Self::None => "None",
        }
    }
}
