//! The loss's settings, as burn's modules have theirs.

use ala_loss::{
    Ala, ClassCounts, DifficultyGradient, Input, Loss, Objective, QuantityLog, Reduction,
};
use burn::config::Config;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::loss::{AlaLoss, check_device};

/// The settings of an [`AlaLoss`]. Saves and loads as every burn [`Config`] does.
///
/// A loss from a [`RowTable`](ala_loss::RowTable), or from counts that hold a 0, is made by
/// [`AlaLoss::new`].
///
/// ```
/// use ala_loss::{Objective, Reduction};
/// use ala_loss_burn::AlaLossConfig;
/// use burn::tensor::Device;
///
/// let loss = AlaLossConfig::new([500, 50, 5]) // training samples of each class
///     .with_objective(Objective::CosFace { margin: 0.35 })
///     .with_scale(16.0)
///     .with_reduction(Reduction::Sum)
///     .with_ignore_label(-1)
///     .try_init(&Device::flex())?;
/// assert_eq!(loss.loss().scale(), Some(16.0));
/// # Ok::<(), ala_loss_burn::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[must_use]
pub struct AlaLossConfig {
    counts: Vec<u64>,
    #[serde(with = "ObjectiveForm")]
    objective: Objective,
    scale: Option<f64>,
    #[serde(with = "InputForm")]
    input: Input,
    #[serde(with = "ReductionForm")]
    reduction: Reduction,
    ignore_label: Option<i64>,
    class_weights: Option<Vec<f64>>,
    label_smoothing: f64,
    loss_scale: f64,
}

impl Config for AlaLossConfig {}

impl AlaLossConfig {
    /// The ALA loss over classes with these numbers of training samples, with its defaults: scale
    /// 30, unscaled cosines, the mean over rows.
    ///
    /// ```
    /// # use ala_loss_burn::AlaLossConfig;
    /// # use burn::tensor::Device;
    /// let loss = AlaLossConfig::new([9, 3]).init(&Device::flex());
    /// assert_eq!(loss.loss().classes(), 2);
    /// ```
    pub fn new(counts: impl Into<Vec<u64>>) -> Self {
        Self {
            counts: counts.into(),
            objective: Objective::ala(),
            scale: None,
            input: Input::Cosine,
            reduction: Reduction::Mean,
            ignore_label: None,
            class_weights: None,
            label_smoothing: 0.0,
            loss_scale: 1.0,
        }
    }

    /// The objective; ALA where not set.
    pub fn with_objective(mut self, objective: Objective) -> Self {
        self.objective = objective;
        self
    }

    /// The scale `s > 0` that the logits are multiplied by; the objective's own where not set.
    pub fn with_scale(mut self, scale: f64) -> Self {
        self.scale = Some(scale);
        self
    }

    /// Whether the logits come unscaled (the default) or are `s cos` already.
    pub fn with_input(mut self, input: Input) -> Self {
        self.input = input;
        self
    }

    /// How row losses are reduced; their mean where not set.
    pub fn with_reduction(mut self, reduction: Reduction) -> Self {
        self.reduction = reduction;
        self
    }

    /// Rows with this label have loss and gradient 0 and are left out of the mean.
    pub fn with_ignore_label(mut self, label: i64) -> Self {
        self.ignore_label = Some(label);
        self
    }

    /// A weight for each class, `[C]`, finite and at least 0.
    pub fn with_class_weights(mut self, weights: impl Into<Vec<f64>>) -> Self {
        self.class_weights = Some(weights.into());
        self
    }

    /// Label smoothing in `[0, 1]`; 0 where not set.
    pub fn with_label_smoothing(mut self, epsilon: f64) -> Self {
        self.label_smoothing = epsilon;
        self
    }

    /// What the loss is multiplied by before `backward`; see [`AlaLoss::with_loss_scale`].
    pub fn with_loss_scale(mut self, scale: f64) -> Self {
        self.loss_scale = scale;
        self
    }

    /// The loss on a device. It holds no tensor: the device is only asked whether it is one that
    /// the loss runs on.
    ///
    /// # Errors
    ///
    /// [`Error::Loss`] names what is out of range, [`Error::Device`] a device of another backend.
    ///
    /// ```
    /// # use ala_loss_burn::AlaLossConfig;
    /// # use burn::tensor::Device;
    /// let refused = AlaLossConfig::new([9, 0]).try_init(&Device::flex());
    /// assert!(refused.is_err_and(|error| error.to_string().starts_with("class 1 has count 0")));
    /// ```
    pub fn try_init(&self, device: &Device) -> Result<AlaLoss, Error> {
        check_device(device)?;
        let counts = ClassCounts::new(self.counts.clone())?;
        let mut builder = Loss::builder(self.objective, &counts)
            .input(self.input)
            .reduction(self.reduction)
            .label_smoothing(self.label_smoothing);
        if let Some(scale) = self.scale {
            builder = builder.scale(scale);
        }
        if let Some(label) = self.ignore_label {
            builder = builder.ignore_label(label);
        }
        if let Some(weights) = &self.class_weights {
            builder = builder.class_weights(weights.clone());
        }
        AlaLoss::new(builder.build()?).with_loss_scale(self.loss_scale)
    }

    /// [`try_init`](Self::try_init), as burn's configs are used.
    ///
    /// # Panics
    ///
    /// With the message of what [`try_init`](Self::try_init) refuses.
    pub fn init(&self, device: &Device) -> AlaLoss {
        self.try_init(device)
            .unwrap_or_else(|error| panic!("{error}"))
    }
}

/// The core's types in a file. A variant that the core gains is added here.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Objective")]
#[non_exhaustive]
enum ObjectiveForm {
    Ala(#[serde(with = "AlaForm")] Ala),
    QuantityOnly {
        #[serde(with = "QuantityLogForm")]
        log: QuantityLog,
    },
    DifficultyOnly {
        k: f64,
        #[serde(with = "DifficultyGradientForm")]
        gradient: DifficultyGradient,
    },
    CrossEntropy,
    ClassBalanced {
        beta: f64,
    },
    Focal {
        gamma: f64,
    },
    BalancedSoftmax,
    LogitAdjustment {
        tau: f64,
    },
    VectorScaling {
        gamma: f64,
        tau: f64,
    },
    Ldam {
        max_margin: f64,
    },
    CosFace {
        margin: f64,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Ala")]
struct AlaForm {
    #[serde(with = "QuantityLogForm")]
    log: QuantityLog,
    #[serde(with = "DifficultyGradientForm")]
    gradient: DifficultyGradient,
    log_prior_tau: f64,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "QuantityLog")]
enum QuantityLogForm {
    Base2,
    Natural,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "DifficultyGradient")]
enum DifficultyGradientForm {
    Detached,
    Attached,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Input")]
enum InputForm {
    Cosine,
    PreScaled,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Reduction")]
enum ReductionForm {
    Mean,
    Sum,
    None,
}
