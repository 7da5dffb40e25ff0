//! A loss by its builder: any objective, table, counts, weights, ignore label and reduction.

use ala_loss::{
    Affine, Ala, ClassCounts, DifficultyGradient, Input, Loss, LossBuilder, NonTarget, Objective,
    QuantityLog, Reduction, RowTable, Target,
};
use libfuzzer_sys::arbitrary::{Result, Unstructured};

use crate::numbers::{float, many, rarely};

/// `None` where the builder refuses what it is given.
pub fn loss(input: &mut Unstructured<'_>, classes: usize) -> Result<Option<Loss>> {
    let builder = match input.int_in_range(0..=11u8)? {
        0 => match table(input, classes)? {
            Some(table) => Loss::from_table(table),
            None => return Ok(None),
        },
        choice => {
            let counts = many(input, classes, |input| {
                let (size, count) = input.arbitrary::<(u8, u64)>()?;
                // At most 2^53, and mostly small.
                Ok((count >> (11 + size % 53)).max(1))
            })?;
            let counts = ClassCounts::new(counts).expect("counts in range");
            Loss::builder(objective(input, choice)?, &counts)
        }
    };
    let Ok(mut loss) = options(input, builder, classes)?.build() else {
        return Ok(None);
    };
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

fn options(
    input: &mut Unstructured<'_>,
    mut builder: LossBuilder,
    classes: usize,
) -> Result<LossBuilder> {
    let given: u8 = input.arbitrary()?;
    if given & 0b11 == 1 {
        builder = builder.scale(float(input)?);
    }
    if given & 0b1100 == 0b100 {
        builder = builder.input(Input::PreScaled);
    }
    if given & 0b1_0000 != 0 {
        let any: i64 = input.arbitrary()?;
        builder = builder.ignore_label(*input.choose(&[-100, -1, 255, 0, classes as i64, any])?);
    }
    if given & 0b110_0000 == 0b10_0000 {
        let weights = classes + usize::from(rarely(input, 64)?);
        builder = builder.class_weights(many(input, weights, float)?);
    }
    let reduction = *input.choose(&[Reduction::Mean, Reduction::Sum, Reduction::None])?;
    Ok(builder.reduction(reduction))
}
