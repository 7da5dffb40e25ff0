//! Second labels, row weights and divisors, held against the reference row by row, and against the
//! core crate's bits.

use ala_loss::{
    CpuElement, Divisor, Error, Lambda, Loss, Objective, Options, Real, Reduction, Upstream,
    reference,
};
use ala_loss_candle::{CandleLoss, CosineHead, CosineLoss, RowOutput, StepOptions};
use candle_core::{DType, Device, IndexOp, Module, Tensor, Var, WithDType};
use half::{bf16, f16};

use crate::cases::{
    CLASSES, LABELS, Outcome, ROWS, ala, assert_close, builder, cosines, gradient_of, labels,
    objectives, values, variable,
};

/// In rows 1 and 4 one of the two labels is ignored, in row 2 both are, in row 3 they are the same.
const FIRST: [i64; ROWS] = [4, -1, -1, 3, 1, 4];
const SECOND: [i64; ROWS] = [1, 2, -1, 3, -1, 0];
const EACH: [f64; ROWS] = [0.25, 0.5, 0.75, 0.125, 0.5, 1.0];
const WEIGHTS: [f64; ROWS] = [1.5, 0.5, 3.0, 1.0, 0.25, 2.0];
const CLASS_WEIGHTS: [f64; CLASSES] = [0.5, 1.0, 2.0, 0.25, 3.0];

fn tensor<T: WithDType>(numbers: &[T]) -> candle_core::Result<Tensor> {
    Tensor::new(numbers, &Device::Cpu)
}

/// Loss, row losses and gradient as the reference has them.
struct Expected {
    loss: f64,
    row_losses: Vec<f64>,
    gradient: Vec<f64>,
}

fn expected(
    loss: &Loss,
    lambda: Option<&[f64; ROWS]>,
    weights: Option<&[f64; ROWS]>,
    divisor: Divisor,
    upstream: &[f64; ROWS],
) -> Expected {
    let (mut total, mut counted) = (0.0, 0.0);
    let (mut row_losses, mut gradient) = (Vec::new(), Vec::new());
    for (row, x) in cosines().chunks(CLASSES).enumerate() {
        let weight = weights.map_or(1.0, |weights| weights[row]);
        let mut parts = vec![(FIRST[row], lambda.map_or(1.0, |lambda| lambda[row]))];
        parts.extend(lambda.map(|lambda| (SECOND[row], 1.0 - lambda[row])));
        let targets: Vec<(usize, f64)> = parts
            .into_iter()
            .filter(|&(label, part)| label >= 0 && part != 0.0)
            .map(|(label, part)| (label as usize, part * weight))
            .collect();
        counted += f64::from(u8::from(!targets.is_empty()));
        let of_class = |&(y, share): &(usize, f64)| loss.table().targets()[y].weight * share;
        total += targets.iter().map(of_class).sum::<f64>();
        let solved = reference::mixed_row(loss.table(), x, &targets, loss.label_smoothing());
        row_losses.push(solved.loss);
        gradient.extend(solved.gradient.iter().map(|g| g * upstream[row]));
    }
    let by = match (loss.reduction(), divisor) {
        (Reduction::Sum | Reduction::None, _) => 1.0,
        (Reduction::Mean, Divisor::Weights) => total,
        (Reduction::Mean, Divisor::Rows) => counted,
        (Reduction::Mean, Divisor::Given(by)) => by,
    };
    Expected {
        loss: row_losses.iter().sum::<f64>() / by,
        row_losses,
        gradient: gradient.iter().map(|g| g / by).collect(),
    }
}

/// Every objective and reduction, with all that a step takes, alone and together, under an upstream
/// gradient other than the one that the gradient was made for.
#[test]
fn loss_and_gradient_are_the_reference_s() -> Outcome {
    let (first, second) = (tensor(&FIRST)?, tensor(&SECOND)?);
    let (each, weights, given) = (tensor(&EACH)?, tensor(&WEIGHTS)?, tensor(&[7.5f64])?);
    let own: [f64; ROWS] = values(ROWS, 31).try_into().expect("as many");
    let smoothed = [(Objective::ala(), 0.2), (Objective::CrossEntropy, 0.1)];
    let plain = objectives().into_iter().map(|objective| (objective, 0.0));
    for (objective, smoothing) in plain.chain(smoothed) {
        for reduction in [Reduction::Mean, Reduction::Sum, Reduction::None] {
            let loss = builder(objective)?
                .reduction(reduction)
                .ignore_label(-1)
                .class_weights(CLASS_WEIGHTS)
                .label_smoothing(smoothing)
                .build()?;
            let op = CandleLoss::new(loss.clone()).loss_scale(4.0)?;
            let same = [0.375; ROWS];
            for (lambda, of_rows) in [
                (None, None),
                (Some(Lambda::Scalar(same[0])), Some(&same)),
                (Some(Lambda::PerRow(&each)), Some(&EACH)),
            ] {
                for weighted in [false, true] {
                    for divisor in [Divisor::Weights, Divisor::Rows, Divisor::Given(&given)] {
                        if reduction != Reduction::Mean && !matches!(divisor, Divisor::Weights) {
                            continue;
                        }
                        let mut options = StepOptions::new().divisor(divisor);
                        if let Some(lambda) = lambda {
                            options = options.mixed_with(&second, lambda);
                        }
                        if weighted {
                            options = options.row_weights(&weights);
                        }
                        let (upstream, total): (_, fn(Tensor, &[f64; ROWS]) -> _) = match reduction
                        {
                            Reduction::None => (own, |rows, own| (rows * tensor(own)?)?.sum_all()),
                            _ => ([-0.75; ROWS], |loss, _| loss.affine(-0.75, 2.0)),
                        };
                        let divisor = match divisor {
                            Divisor::Weights => Divisor::Weights,
                            Divisor::Rows => Divisor::Rows,
                            Divisor::Given(_) => Divisor::Given(7.5),
                        };
                        let weights = weighted.then_some(&WEIGHTS);
                        let expected = expected(&loss, of_rows, weights, divisor, &upstream);

                        let logits = variable(&cosines(), (ROWS, CLASSES))?;
                        let output = op.forward_rows_with(&logits, &first, &options)?;
                        let found = output.loss.flatten_all()?.to_vec1::<f64>()?;
                        match reduction {
                            Reduction::None => assert_close(&found, &expected.row_losses, 1e-12),
                            _ => assert_close(&found, &[expected.loss], 1e-12),
                        }
                        let rows = output.row_losses.to_vec1::<f64>()?;
                        assert_close(&rows, &expected.row_losses, 1e-12);
                        let gradient = gradient_of(&total(output.loss, &own)?, &logits)?;
                        assert_close(&gradient, &expected.gradient, 1e-12);
                    }
                }
            }
        }
    }
    Ok(())
}

/// Exact, also where the gradient is made anew for another upstream one: a 16-bit gradient is
/// rounded once.
#[test]
fn every_type_has_the_core_s_bits() -> Outcome {
    fn check<T>(from_f64: impl Fn(f64) -> T) -> Outcome
    where
        T: CpuElement<Real: WithDType> + WithDType,
    {
        let rounded = |numbers: &[f64]| -> Vec<T::Real> {
            let numbers = numbers.iter().copied();
            numbers.map(<T::Real as Real>::from_f64).collect()
        };
        let numbers: Vec<T> = cosines().into_iter().map(&from_f64).collect();
        let (lambda, weights) = (rounded(&EACH), rounded(&[0.3, 1.7, 0.9, 2.3, 0.1, 1.1]));
        let second = LABELS.map(|label| (label + 2) % CLASSES as u32);
        let (of_second, each, weight) = (tensor(&second)?, tensor(&lambda)?, tensor(&weights)?);
        let own = rounded(&values(ROWS, 32));
        for reduction in [Reduction::Mean, Reduction::None] {
            for factor in [1.0, 3.0] {
                let loss = ala(reduction)?;
                let mut options = Options::new()
                    .mixed_with(&second, Lambda::PerRow(&lambda))
                    .row_weights(&weights);
                let mut step = StepOptions::new()
                    .mixed_with(&of_second, Lambda::PerRow(&each))
                    .row_weights(&weight);
                options = match (reduction, factor) {
                    (_, 1.0) => options,
                    (Reduction::None, _) => options.upstream(Upstream::PerRow(&own)),
                    (_, factor) => options.upstream(Upstream::Scalar(factor)),
                };
                if reduction == Reduction::Mean {
                    options = options.divisor(Divisor::Rows);
                    step = step.divisor(Divisor::Rows);
                }
                let expected = loss.loss().evaluate_with(&numbers, &LABELS, &options)?;
                let logits = Var::from_slice(&numbers, (ROWS, CLASSES), &Device::Cpu)?;
                let output = loss.forward_rows_with(&logits, &labels()?, &step)?;
                assert_eq!(output.row_losses.to_vec1::<T::Real>()?, expected.row_losses);
                let total = match (reduction, factor) {
                    (_, 1.0) => output.loss.sum_all()?,
                    (Reduction::None, _) => (output.loss * tensor(&own)?)?.sum_all()?,
                    (_, factor) => (output.loss * factor)?,
                };
                // Set between the passes: the gradient is of what the loss was computed from.
                logits.set(&Tensor::ones((ROWS, CLASSES), T::DTYPE, &Device::Cpu)?)?;
                let gradient = gradient_of(&total, &logits)?;
                let bits = expected.gradient.into_iter().map(WithDType::to_f64);
                let bits: Vec<f64> = bits.collect();
                let exact = T::DTYPE.size_in_bytes() == 2 || factor == 1.0;
                assert_close(&gradient, &bits, if exact { 0.0 } else { 1e-6 });
            }
        }
        Ok(())
    }
    check::<f64>(|x| x)?;
    check::<f32>(|x| x as f32)?;
    check::<f16>(f16::from_f64)?;
    check::<bf16>(bf16::from_f64)
}

/// Of other types than the first ones', and columns of tables; the logits a transposed tensor.
#[test]
fn types_and_strides_of_what_a_step_takes_mean_nothing() -> Outcome {
    let loss = ala(Reduction::Mean)?;
    let second = LABELS.map(|label| (label + 2) % CLASSES as u32);
    let (of_second, each, weight) = (tensor(&second)?, tensor(&EACH)?, tensor(&WEIGHTS)?);
    let base = variable(&cosines(), (CLASSES, ROWS))?;
    let step = |second: &Tensor, each: &Tensor, weight: &Tensor| -> candle_core::Result<_> {
        let options = StepOptions::new()
            .mixed_with(second, Lambda::PerRow(each))
            .row_weights(weight);
        let value = loss.forward_with(&base.t()?, &labels()?, &options)?;
        let gradient = gradient_of(&(&value * 3.0)?, &base)?;
        Ok((value.to_scalar::<f64>()?, gradient))
    };
    let expected = step(&of_second, &each, &weight)?;
    for dtype in [DType::U8, DType::U32, DType::I16, DType::I32, DType::I64] {
        let found = step(&of_second.to_dtype(dtype)?, &each, &weight)?;
        assert_eq!(found, expected, "{dtype:?}");
    }
    // All of them are numbers of each type.
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let found = step(&of_second, &each.to_dtype(dtype)?, &weight.to_dtype(dtype)?)?;
        assert_eq!(found, expected, "{dtype:?}");
    }
    let column = |of: &Tensor| Tensor::stack(&[&of.affine(0.0, 77.0)?, of], 1)?.i((.., 1));
    let (second, each, weight) = (column(&of_second)?, column(&each)?, column(&weight)?);
    assert!(!second.is_contiguous() && !each.is_contiguous() && !weight.is_contiguous());
    assert_eq!(step(&second, &each, &weight)?, expected);
    Ok(())
}

/// Of neither label anything counts, or the row weighs nothing.
#[test]
fn a_row_that_does_not_count_has_gradient_0_whatever_arrives() -> Outcome {
    let (first, second) = (tensor(&FIRST)?, tensor(&SECOND)?);
    // Of row 1 only the second label counts, and of row 4 only the first.
    let each = tensor(&[0.5, 1.0, 0.5, 0.5, 0.0, 0.5])?;
    let weights = tensor(&[1.0, 1.0, 1.0, 0.0, 1.0, 1.0])?;
    let options = StepOptions::new()
        .mixed_with(&second, Lambda::PerRow(&each))
        .row_weights(&weights);
    for reduction in [Reduction::None, Reduction::Sum] {
        for smoothing in [0.0, 0.1] {
            let loss = builder(Objective::CrossEntropy)?
                .reduction(reduction)
                .ignore_label(-1)
                .label_smoothing(smoothing)
                .build()?;
            let op = CandleLoss::new(loss);
            for dtype in [DType::F64, DType::BF16] {
                let numbers = Tensor::from_vec(cosines(), (ROWS, CLASSES), &Device::Cpu)?;
                let logits = Var::from_tensor(&numbers.to_dtype(dtype)?)?;
                let value = op.forward_with(&logits, &first, &options)?;
                let gradient = gradient_of(&(value * f64::NAN)?.sum_all()?, &logits)?;
                let zero: Vec<bool> = gradient
                    .chunks(CLASSES)
                    .map(|row| row.iter().all(|&g| g == 0.0))
                    .collect();
                let expected = [false, true, true, true, true, false];
                assert_eq!(
                    zero, expected,
                    "{reduction:?} {dtype:?} {smoothing} {gradient:?}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn hits_are_of_the_first_labels() -> Outcome {
    let loss = ala(Reduction::Mean)?;
    let logits = Tensor::from_vec(cosines(), (ROWS, CLASSES), &Device::Cpu)?;
    let best = logits.argmax(1)?;
    let other = ((&best + 1.0)? * best.lt(4u32)?.to_dtype(DType::U32)?)?;
    for (first, second, hit) in [(&best, &other, true), (&other, &best, false)] {
        let mixed = StepOptions::new().mixed_with(second, Lambda::Scalar(0.125));
        let output: RowOutput = loss.forward_rows_with(&logits, first, &mixed)?;
        assert_eq!(output.hits_on_host()?, [hit; ROWS]);
    }
    Ok(())
}

/// Parts of 4 and 2 rows, of which one counts less than the other, through the logits and through
/// the cosines.
#[test]
fn parts_with_the_divisor_of_the_whole_come_to_the_whole() -> Outcome {
    const WIDTH: usize = 4;
    let (first, second) = (tensor(&FIRST)?, tensor(&SECOND)?);
    let (each, weights) = (tensor(&EACH)?, tensor(&WEIGHTS)?);
    let loss = builder(Objective::ala())?
        .ignore_label(-1)
        .class_weights(CLASS_WEIGHTS)
        .build()?;
    let (op, cosine) = (CandleLoss::new(loss.clone()), CosineLoss::new(loss));
    let logits = variable(&cosines(), (ROWS, CLASSES))?;
    let features = variable(&values(ROWS * WIDTH, 33), (ROWS, WIDTH))?;
    let weight = variable(&values(CLASSES * WIDTH, 34), (CLASSES, WIDTH))?;
    type Step<'a> = dyn Fn(usize, usize, Divisor<&Tensor>) -> candle_core::Result<Tensor> + 'a;
    let step = |cosines: bool, begin, rows, divisor: Divisor<&Tensor>| {
        let part = |of: &Tensor| of.narrow(0, begin, rows);
        let (second, each, weights) = (part(&second)?, part(&each)?, part(&weights)?);
        let options = StepOptions::new()
            .mixed_with(&second, Lambda::PerRow(&each))
            .row_weights(&weights)
            .divisor(divisor);
        match cosines {
            false => op.forward_with(&part(&logits)?, &part(&first)?, &options),
            true => cosine.forward_with(&part(&features)?, &weight, &part(&first)?, &options),
        }
    };
    let whole = StepOptions::new()
        .mixed_with(&second, Lambda::PerRow(&each))
        .row_weights(&weights);
    for by in [Divisor::Weights, Divisor::Rows] {
        let all = op.divisor(&first, &whole.divisor(by))?;
        let of_cosine = cosine.divisor(&first, &whole.divisor(by))?;
        assert_eq!(all.to_scalar::<f64>()?, of_cosine.to_scalar::<f64>()?);
        let cases: [(&Step<'_>, &Var); 3] = [
            (&|begin, rows, by| step(false, begin, rows, by), &logits),
            (&|begin, rows, by| step(true, begin, rows, by), &features),
            (&|begin, rows, by| step(true, begin, rows, by), &weight),
        ];
        for (step, of) in cases {
            let value = step(0, ROWS, by)?;
            let given = Divisor::Given(&all);
            let parts = [step(0, 4, given)?, step(4, 2, given)?];
            let sum = (&parts[0] + &parts[1])?;
            let flat = |value: &Tensor| value.to_scalar::<f64>();
            assert_close(&[flat(&sum)?], &[flat(&value)?], 1e-14);
            assert_close(&gradient_of(&sum, of)?, &gradient_of(&value, of)?, 1e-14);
        }
    }
    Ok(())
}

/// The step reaches every part of the batch with its own rows.
#[test]
fn the_cosine_loss_comes_to_what_head_and_loss_do() -> Outcome {
    const WIDTH: usize = 4;
    let (first, second) = (tensor(&FIRST)?, tensor(&SECOND)?);
    let (each, weights, given) = (tensor(&EACH)?, tensor(&WEIGHTS)?, tensor(&[7.5f64])?);
    let own = tensor(&values(ROWS, 35))?;
    let features = variable(&values(ROWS * WIDTH, 36), (ROWS, WIDTH))?;
    let weight = variable(&values(CLASSES * WIDTH, 37), (CLASSES, WIDTH))?;
    for reduction in [Reduction::Mean, Reduction::Sum, Reduction::None] {
        for divisor in [Divisor::Weights, Divisor::Rows, Divisor::Given(&given)] {
            if reduction != Reduction::Mean && !matches!(divisor, Divisor::Weights) {
                continue;
            }
            for lambda in [Lambda::Scalar(0.375), Lambda::PerRow(&each)] {
                let options = StepOptions::new()
                    .mixed_with(&second, lambda)
                    .row_weights(&weights)
                    .divisor(divisor);
                let loss = builder(Objective::ala())?
                    .reduction(reduction)
                    .ignore_label(-1)
                    .class_weights(CLASS_WEIGHTS)
                    .build()?;
                let total = |value: &Tensor| match reduction {
                    Reduction::None => (value * &own)?.sum_all(),
                    _ => value.affine(-0.75, 2.0),
                };
                let head = CosineHead::from_weight(weight.as_tensor().clone())?;
                let cosines = head.forward(&features)?;
                let expected = CandleLoss::new(loss.clone());
                let expected = expected.forward_rows_with(&cosines, &first, &options)?;
                for rows in [1, 4, ROWS] {
                    let op = CosineLoss::new(loss.clone()).rows_at_once(rows);
                    let found = op.forward_rows_with(&features, &weight, &first, &options)?;
                    assert_eq!(found.hits_on_host()?, expected.hits_on_host()?);
                    for (found, expected) in [
                        (&found.loss, &expected.loss),
                        (&found.row_losses, &expected.row_losses),
                    ] {
                        let flat = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f64>();
                        assert_close(&flat(found)?, &flat(expected)?, 1e-12);
                    }
                    for of in [&features, &weight] {
                        let wanted = gradient_of(&total(&expected.loss)?, of)?;
                        assert_close(&gradient_of(&total(&found.loss)?, of)?, &wanted, 1e-12);
                    }
                }
            }
        }
    }
    Ok(())
}

/// By both losses, in the same words: of shapes and types before anything is computed, of a row's
/// numbers as ala-loss has them.
#[test]
fn what_does_not_fit_is_refused_by_name() -> Outcome {
    let first = labels()?;
    let logits = Tensor::zeros((ROWS, CLASSES), DType::F32, &Device::Cpu)?;
    let features = Tensor::ones((ROWS, 2), DType::F32, &Device::Cpu)?;
    let weight = Tensor::ones((CLASSES, 2), DType::F32, &Device::Cpu)?;
    let refused = |reduction: Reduction, options: &StepOptions<'_>, words: &[&str]| -> Outcome {
        let loss = builder(Objective::ala())?.reduction(reduction).build()?;
        let of_logits = CandleLoss::new(loss.clone()).forward_with(&logits, &first, options);
        let of_cosines = CosineLoss::new(loss).rows_at_once(2);
        let of_cosines = of_cosines.forward_with(&features, &weight, &first, options);
        for refused in [of_logits, of_cosines] {
            let message = refused.expect_err("refused").to_string();
            let all = words.iter().all(|word| message.contains(word));
            assert!(all, "{message}: {words:?}");
        }
        Ok(())
    };
    let mean = |options: StepOptions<'_>, words: &[&str]| refused(Reduction::Mean, &options, words);
    let plain = StepOptions::new();
    let half = Lambda::Scalar(0.5);

    let short = first.narrow(0, 0, 2)?;
    mean(
        plain.mixed_with(&short, half),
        &["second labels", "[2]", "need [6]"],
    )?;
    let floats = tensor(&EACH)?;
    mean(
        plain.mixed_with(&floats, half),
        &["second labels are f64", "i64"],
    )?;
    let bad = tensor(&[0i64, 1, 2, 3, 4, 9])?;
    mean(
        plain.mixed_with(&bad, half),
        &["row 5 has second label 9", "0..5"],
    )?;
    for lambda in [1.5, -0.25, f64::NAN] {
        let words = ["row 0 has lambda", &format!("{lambda}"), "0 to 1"];
        mean(plain.mixed_with(&first, Lambda::Scalar(lambda)), &words)?;
    }
    let each = tensor(&[0.5, 0.5, 0.5, 0.5, 2.0, 0.5])?;
    let words = ["row 4 has lambda 2"];
    mean(plain.mixed_with(&first, Lambda::PerRow(&each)), &words)?;
    let column = each.reshape((ROWS, 1))?;
    let words = ["lambda of shape [6]", "[6, 1]"];
    mean(plain.mixed_with(&first, Lambda::PerRow(&column)), &words)?;
    let words = ["lambda of type", "found u32"];
    mean(plain.mixed_with(&first, Lambda::PerRow(&first)), &words)?;

    let words = ["row weights of shape [6]", "[2]"];
    mean(plain.row_weights(&floats.narrow(0, 0, 2)?), &words)?;
    mean(
        plain.row_weights(&first),
        &["row weights of type", "found u32"],
    )?;
    let negative = tensor(&[1.0, 1.0, -1.0, 1.0, 1.0, 1.0])?;
    mean(plain.row_weights(&negative), &["row 2 has weight -1"])?;

    mean(
        plain.divisor(Divisor::Given(&floats)),
        &["divisor of one number", "[6]"],
    )?;
    let integer = tensor(&[3u32])?;
    mean(
        plain.divisor(Divisor::Given(&integer)),
        &["divisor of type", "found u32"],
    )?;
    for number in [0.0, -1.0, f64::INFINITY] {
        let given = tensor(&[number])?;
        mean(
            plain.divisor(Divisor::Given(&given)),
            &["divisor", "above 0"],
        )?;
    }
    let one = tensor(&[1.0])?;
    for reduction in [Reduction::Sum, Reduction::None] {
        for divisor in [Divisor::Rows, Divisor::Given(&one)] {
            let words = ["a divisor was given", "only Reduction::Mean"];
            refused(reduction, &plain.divisor(divisor), &words)?;
        }
    }
    Ok(())
}

#[test]
fn a_divisor_is_of_labels_that_fit() -> Outcome {
    let loss = ala(Reduction::Sum)?;
    // What a part of a mean divides by, whatever this loss is reduced by.
    let all = loss.divisor(&labels()?, &StepOptions::new())?;
    assert_eq!((all.dims(), all.to_scalar::<f64>()?), (&[][..], 6.0));
    let message = |labels: &Tensor, options: &StepOptions<'_>| {
        let refused = loss.divisor(labels, options);
        refused.expect_err("refused").to_string()
    };
    let plain = StepOptions::new();
    let told = message(&labels()?.reshape((ROWS, 1))?, &plain);
    assert!(told.contains("expected [N]"), "{told}");
    let told = message(&tensor(&EACH)?, &plain);
    assert!(told.contains("labels are f64"), "{told}");
    let bad = tensor(&[9u32])?;
    let told = message(&bad, &plain);
    let expected = Error::Label {
        row: 0,
        label: 9,
        classes: CLASSES,
    };
    assert!(told.contains(&expected.to_string()), "{told}");
    let told = message(&labels()?, &plain.mixed_with(&bad, Lambda::Scalar(0.5)));
    assert!(told.contains("labels [6] need [6]"), "{told}");
    Ok(())
}
