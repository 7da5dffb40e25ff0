//! A loss by its builder: any objective, table, counts, weights, ignore label, reduction and label
//! smoothing.

use ala_loss::{
    Affine, Ala, ClassCounts, DifficultyGradient, Input, Loss, LossBuilder, NonTarget, Objective,
    QuantityLog, Reduction, RowTable, Target,
};
use libfuzzer_sys::arbitrary::{Result, Unstructured};

use crate::numbers::{float, many, part, rarely};

/// `None` where the builder refuses what it is given.
pub fn loss(input: &mut Unstructured<'_>, classes: usize) -> Result<Option<Loss>> {
    let choice = input.int_in_range(0..=11u8)?;
    let (builder, objective) = if choice == 0 {
        match table(input, classes)? {
            Some(table) => (Loss::from_table(table), None),
            None => return Ok(None),
        }
    } else {
        let counts = counts(input, classes)?;
        let objective = objective(input, choice)?;
        (Loss::builder(objective, &counts), Some(objective))
    };
    let settings = Settings::any(input, classes)?;
    let Some(mut loss) = settings.build(builder) else {
        return Ok(None);
    };
    if settings.new_counts {
        let counts = counts(input, classes)?;
        let renewed = loss.with_counts(&counts);
        let built = objective.and_then(|objective| {
            // What refuses to be built from them is refused here too.
            settings.build(Loss::builder(objective, &counts))
        });
        assert_eq!(renewed.is_ok(), built.is_some(), "{:?}", renewed.err());
        if let (Ok(renewed), Some(built)) = (renewed, built) {
            assert_eq!(renewed.table(), built.table());
            assert_eq!(format!("{renewed:?}"), format!("{built:?}"));
            loss = renewed;
        }
    }
    if rarely(input, 16)? {
        let weights = many(input, classes, float)?;
        match loss.with_class_weights(&weights) {
            Ok(weighted) => loss = weighted,
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    for target in loss.table().targets() {
        let parameters = [
            target.slope,
            target.bias,
            target.gradient_slope,
            target.weight,
        ];
        assert!(
            parameters.iter().all(|parameter| parameter.is_finite()),
            "{target:?}"
        );
        assert!(target.slope > 0.0 && target.weight >= 0.0, "{target:?}");
    }
    Ok(Some(loss))
}

fn counts(input: &mut Unstructured<'_>, classes: usize) -> Result<ClassCounts> {
    let counts = many(input, classes, |input| {
        let (size, count) = input.arbitrary::<(u8, u64)>()?;
        // At most 2^53, and mostly small.
        Ok((count >> (11 + size % 53)).max(1))
    })?;
    Ok(ClassCounts::new(counts).expect("counts in range"))
}

fn objective(input: &mut Unstructured<'_>, choice: u8) -> Result<Objective> {
    let log = *input.choose(&[QuantityLog::Base2, QuantityLog::Natural])?;
    let gradient = *input.choose(&[DifficultyGradient::Detached, DifficultyGradient::Attached])?;
    Ok(match choice {
        1 => Objective::Ala(Ala {
            log,
            gradient,
            log_prior_tau: float(input)?,
        }),
        2 => Objective::QuantityOnly { log },
        3 => Objective::DifficultyOnly {
            k: float(input)?,
            gradient,
        },
        4 => Objective::CrossEntropy,
        5 => Objective::ClassBalanced {
            beta: float(input)?,
        },
        6 => Objective::Focal {
            gamma: float(input)?,
        },
        7 => Objective::BalancedSoftmax,
        8 => Objective::LogitAdjustment { tau: float(input)? },
        9 => Objective::VectorScaling {
            gamma: float(input)?,
            tau: float(input)?,
        },
        10 => Objective::Ldam {
            max_margin: float(input)?,
        },
        _ => Objective::CosFace {
            margin: float(input)?,
        },
    })
}

fn table(input: &mut Unstructured<'_>, classes: usize) -> Result<Option<RowTable>> {
    let targets = many(input, classes, |input| {
        Ok(Target {
            slope: float(input)?,
            bias: float(input)?,
            gradient_slope: float(input)?,
            weight: float(input)?,
        })
    })?;
    let non_target = match input.arbitrary()? {
        true => NonTarget::Uniform {
            slope: float(input)?,
        },
        false => {
            let maps = classes + usize::from(rarely(input, 64)?);
            NonTarget::PerClass(many(input, maps, |input| {
                Ok(Affine {
                    slope: float(input)?,
                    bias: float(input)?,
                })
            })?)
        }
    };
    let gamma = if rarely(input, 4)? {
        Some(float(input)?)
    } else {
        None
    };
    Ok(RowTable::new(targets, non_target, gamma).ok())
}

/// What a builder is told beside the objective or the table.
struct Settings {
    scale: Option<f64>,
    pre_scaled: bool,
    ignore_label: Option<i64>,
    class_weights: Option<Vec<f64>>,
    reduction: Reduction,
    smoothing: f64,
    /// Whether the loss gets other class counts later.
    new_counts: bool,
}

impl Settings {
    fn any(input: &mut Unstructured<'_>, classes: usize) -> Result<Self> {
        let given: u8 = input.arbitrary()?;
        let scale = match given & 0b11 {
            1 => Some(float(input)?),
            _ => None,
        };
        let ignore_label = if given & 0b1_0000 != 0 {
            let any: i64 = input.arbitrary()?;
            Some(*input.choose(&[-100, -1, 255, 0, classes as i64, any])?)
        } else {
            None
        };
        let class_weights = if given & 0b110_0000 == 0b10_0000 {
            let weights = classes + usize::from(rarely(input, 64)?);
            Some(many(input, weights, float)?)
        } else {
            None
        };
        let reduction = *input.choose(&[Reduction::Mean, Reduction::Sum, Reduction::None])?;
        let smoothing = if given & 0b1100_0000 == 0b1000_0000 {
            let wild = rarely(input, 8)?;
            part(input, wild)?
        } else {
            0.0
        };
        Ok(Self {
            scale,
            pre_scaled: given & 0b1100 == 0b100,
            ignore_label,
            class_weights,
            reduction,
            smoothing,
            new_counts: given & 0b1111 == 0b1111,
        })
    }

    /// `None` where it is refused.
    fn build(&self, mut builder: LossBuilder) -> Option<Loss> {
        if let Some(scale) = self.scale {
            builder = builder.scale(scale);
        }
        if self.pre_scaled {
            builder = builder.input(Input::PreScaled);
        }
        if let Some(label) = self.ignore_label {
            builder = builder.ignore_label(label);
        }
        if let Some(weights) = &self.class_weights {
            builder = builder.class_weights(weights.as_slice());
        }
        builder = builder.reduction(self.reduction);
        let sharp = builder.clone().build().ok()?;
        let is_focal = sharp.table().focal_gamma().is_some();
        let fits = self.smoothing == 0.0 || ((0.0..=1.0).contains(&self.smoothing) && !is_focal);
        let smoothed = builder.label_smoothing(self.smoothing).build();
        assert_eq!(smoothed.is_ok(), fits, "{}", self.smoothing);
        let smoothed = smoothed.ok()?;
        assert_eq!(smoothed.table(), sharp.table());
        assert_eq!(smoothed.label_smoothing(), self.smoothing);
        Some(smoothed)
    }
}
