//! Second labels, row weights and divisors on the device, against the CPU's in `f64`.

use ala_loss::{Divisor, Lambda, Loss, Objective, Options, Reduction, Upstream};
use ala_loss_candle::{CandleLoss, CosineLoss, StepOptions};
use candle_core::{DType, Device, IndexOp, Tensor, Var};

use crate::cases::{
    CLASSES, IGNORED, LABELS, Outcome, ROWS, assert_close, counted, device, gradient_of, loss,
    numbers, objectives, tolerance, values, variable,
};

/// Of row 2 both labels are ignored, of rows 0 and 7 one is, in row 4 they are the same, and class
/// 3 weighs nothing.
const SECOND: [i64; ROWS] = [IGNORED, 5, IGNORED, 0, 1, 3, 6, 4, 1];
/// Numbers that every type has.
const EACH: [f64; ROWS] = [0.25, 0.5, 0.75, 0.125, 0.5, 1.0, 0.0, 0.375, 0.875];
const WEIGHTS: [f64; ROWS] = [1.5, 0.5, 3.0, 1.0, 0.25, 2.0, 0.75, 1.25, 0.5];
const GIVEN: f64 = 7.5;
const WIDTH: usize = 5;

fn tensor(numbers: &[f64], device: &Device) -> candle_core::Result<Tensor> {
    Tensor::new(numbers, device)?.to_dtype(DType::F32)
}

/// What a step takes, on both sides.
#[derive(Clone, Copy, Debug)]
struct Case {
    lambda: Option<Lambda<f64, ()>>,
    weighted: bool,
    divisor: Divisor<()>,
}

fn cases(reduction: Reduction) -> Vec<Case> {
    let divisors = match reduction {
        Reduction::Mean => vec![Divisor::Weights, Divisor::Rows, Divisor::Given(())],
        Reduction::Sum | Reduction::None => vec![Divisor::Weights],
    };
    let lambdas = [None, Some(Lambda::Scalar(0.375)), Some(Lambda::PerRow(()))];
    let mut cases = Vec::new();
    for divisor in divisors {
        for lambda in lambdas {
            for weighted in [false, true] {
                cases.push(Case {
                    lambda,
                    weighted,
                    divisor,
                });
            }
        }
    }
    cases
}

/// What the options are made of, on a device.
struct Tensors {
    second: Tensor,
    each: Tensor,
    weights: Tensor,
    given: Tensor,
}

impl Tensors {
    fn new(device: &Device) -> candle_core::Result<Self> {
        Ok(Self {
            second: Tensor::new(&SECOND, device)?,
            each: tensor(&EACH, device)?,
            weights: tensor(&WEIGHTS, device)?,
            given: tensor(&[GIVEN], device)?,
        })
    }

    fn options(&self, case: Case) -> StepOptions<'_> {
        let mut options = StepOptions::new().divisor(match case.divisor {
            Divisor::Weights => Divisor::Weights,
            Divisor::Rows => Divisor::Rows,
            Divisor::Given(()) => Divisor::Given(&self.given),
        });
        options = match case.lambda {
            None => options,
            Some(Lambda::Scalar(lambda)) => {
                options.mixed_with(&self.second, Lambda::Scalar(lambda))
            }
            Some(Lambda::PerRow(())) => {
                options.mixed_with(&self.second, Lambda::PerRow(&self.each))
            }
        };
        match case.weighted {
            true => options.row_weights(&self.weights),
            false => options,
        }
    }
}

fn on_host(case: Case) -> Options<'static, f64> {
    let mut options = Options::new().divisor(match case.divisor {
        Divisor::Weights => Divisor::Weights,
        Divisor::Rows => Divisor::Rows,
        Divisor::Given(()) => Divisor::Given(GIVEN),
    });
    options = match case.lambda {
        None => options,
        Some(Lambda::Scalar(lambda)) => options.mixed_with(&SECOND, Lambda::Scalar(lambda)),
        Some(Lambda::PerRow(())) => options.mixed_with(&SECOND, Lambda::PerRow(&EACH)),
    };
    match case.weighted {
        true => options.row_weights(&WEIGHTS),
        false => options,
    }
}

fn losses(reduction: Reduction) -> Result<Vec<Loss>, ala_loss::Error> {
    let counts = ala_loss::ClassCounts::new([900, 200, 60, 31, 12, 5, 3])?;
    let smoothed = Loss::builder(Objective::ala(), &counts)
        .reduction(reduction)
        .ignore_label(IGNORED)
        .label_smoothing(0.2)
        .build()?;
    let mut losses: Vec<Loss> = objectives()
        .into_iter()
        .map(|objective| counted(objective, reduction))
        .collect();
    losses.push(smoothed);
    Ok(losses)
}

/// Every objective, reduction and type, with all that a step takes, alone and together, under an
/// upstream gradient that is and one that is not what the gradient was made for.
#[test]
fn loss_and_gradient_are_the_cpu_s() -> Outcome {
    let device = device();
    let tensors = Tensors::new(&device)?;
    let labels = Tensor::new(&LABELS, &device)?;
    let own = values(ROWS, 81);
    for reduction in [Reduction::Mean, Reduction::Sum, Reduction::None] {
        for (i, loss) in losses(reduction)?.into_iter().enumerate() {
            let op = CandleLoss::new(loss.clone()).loss_scale(4.0)?;
            let dtype = [DType::F32, DType::F16, DType::BF16][i % 3];
            for (j, case) in cases(reduction).into_iter().enumerate() {
                let factor = [4.0, -0.75][j % 2];
                let numbers_of = values(ROWS * CLASSES, 82 + i as u64);
                let logits = variable(&numbers_of, (ROWS, CLASSES), dtype, &device)?;
                let host = numbers(&logits)?;
                let upstream = match reduction {
                    Reduction::None => Upstream::PerRow(&own[..]),
                    _ => Upstream::Scalar(factor),
                };
                let options = on_host(case).upstream(upstream).hits();
                let expected = loss.evaluate_with(&host, &LABELS, &options)?;

                let options = tensors.options(case);
                let output = op.forward_rows_with(&logits, &labels, &options)?;
                let of_loss = match reduction {
                    Reduction::None => expected.row_losses.clone(),
                    _ => vec![expected.loss],
                };
                let total = match reduction {
                    Reduction::None => (&output.loss * tensor(&own, &device)?)?.sum_all()?,
                    _ => (&output.loss * factor)?,
                };
                // Set between the passes: the gradient is of what the loss was computed from.
                logits.set(&logits.ones_like()?)?;
                let gradient = gradient_of(&total, &logits)?;
                assert_close(&numbers(&output.loss)?, &of_loss, 3e-6);
                assert_close(&numbers(&output.row_losses)?, &expected.row_losses, 3e-6);
                let most = expected
                    .gradient
                    .iter()
                    .fold(1.0, |m, g| f64::max(m, g.abs()));
                assert_close(&gradient, &expected.gradient, tolerance(dtype) * most);
                assert_eq!(Some(output.hits_on_host()?), expected.hits, "{case:?}");
                op.check(&device)?;

                let divisor = numbers(&op.divisor(&labels, &options)?)?;
                let on_cpu = loss.divisor(&LABELS, &on_host(case))?;
                assert_close(&divisor, &[on_cpu], 1e-6);
            }
        }
    }
    Ok(())
}

/// However the batch is taken apart, the step reaches every part with its own rows.
#[test]
fn the_cosine_loss_s_parts_come_to_what_the_cpu_s_do() -> Outcome {
    let (device, cpu) = (device(), Device::Cpu);
    let own = values(ROWS, 83);
    for reduction in [Reduction::Mean, Reduction::Sum, Reduction::None] {
        for loss in losses(reduction)?.split_off(4) {
            for (i, case) in cases(reduction).into_iter().enumerate() {
                let step = |device: &Device, dtype, rows| -> candle_core::Result<[Vec<f64>; 4]> {
                    let tensors = Tensors::new(device)?;
                    let labels = Tensor::new(&LABELS, device)?;
                    let op = CosineLoss::new(loss.clone()).rows_at_once(rows);
                    let shape = (ROWS, WIDTH);
                    let features = variable(&values(ROWS * WIDTH, 84), shape, dtype, device)?;
                    let shape = (CLASSES, WIDTH);
                    let weight = variable(&values(CLASSES * WIDTH, 85), shape, dtype, device)?;
                    let options = tensors.options(case);
                    let output = op.forward_rows_with(&features, &weight, &labels, &options)?;
                    op.check(device)?;
                    let total = match reduction {
                        Reduction::None => {
                            let own = tensor(&own, device)?.to_dtype(output.loss.dtype())?;
                            (&output.loss * own)?.sum_all()?
                        }
                        _ => output.loss.affine(-0.75, 2.0)?,
                    };
                    let gradients = total.backward()?;
                    let of = |of: &Var| numbers(gradients.get(of).expect("a gradient"));
                    Ok([
                        numbers(&output.loss)?,
                        numbers(&output.row_losses)?,
                        of(&features)?,
                        of(&weight)?,
                    ])
                };
                let expected = step(&cpu, DType::F64, ROWS)?;
                let found = step(&device, DType::F32, [1, 4, 100][i % 3])?;
                for (found, expected) in found.iter().zip(&expected) {
                    let most = expected.iter().fold(1.0, |m, g| f64::max(m, g.abs()));
                    assert_close(found, expected, 1e-5 * most);
                }
            }
        }
    }
    Ok(())
}

/// Of other types than the first ones', columns of tables, and a divisor in a corner of one.
#[test]
fn types_and_strides_of_what_a_step_takes_mean_nothing() -> Outcome {
    let device = device();
    let op = CandleLoss::new(counted(Objective::ala(), Reduction::Mean));
    let labels = Tensor::new(&LABELS, &device)?;
    let Tensors {
        second,
        each,
        weights,
        given,
    } = Tensors::new(&device)?;
    let logits = values(ROWS * CLASSES, 86);
    let logits = variable(&logits, (ROWS, CLASSES), DType::F32, &device)?;
    let step = |second: &Tensor, each: &Tensor, weights: &Tensor, given: &Tensor| {
        let options = StepOptions::new()
            .mixed_with(second, Lambda::PerRow(each))
            .row_weights(weights)
            .divisor(Divisor::Given(given));
        let value = op.forward_with(&logits, &labels, &options)?;
        let gradient = gradient_of(&(&value * 3.0)?, &logits)?;
        candle_core::Result::Ok((numbers(&value)?, gradient))
    };
    let expected = step(&second, &each, &weights, &given)?;
    for dtype in [DType::U8, DType::U32, DType::I32, DType::I64] {
        let second = Tensor::new(&SECOND, &Device::Cpu)?.to_dtype(dtype)?;
        let second = second.to_device(&device)?;
        assert_eq!(step(&second, &each, &weights, &given)?, expected);
    }
    for dtype in [DType::F64, DType::F16, DType::BF16] {
        let [each, weights, given] = [&each, &weights, &given].map(|of| of.to_dtype(dtype));
        assert_eq!(step(&second, &each?, &weights?, &given?)?, expected);
    }
    let column = |of: &Tensor| Tensor::stack(&[&of.zeros_like()?, of], 1)?.i((.., 1));
    let last = |of: &Tensor| Tensor::cat(&[&of.zeros_like()?, of], 0)?.i(of.dim(0)?..);
    let corner = Tensor::stack(&[&given.zeros_like()?, &given], 0)?.i((1, 0))?;
    let found = step(
        &column(&second)?,
        &column(&each)?,
        &column(&weights)?,
        &corner,
    )?;
    assert_eq!(found, expected);
    let found = step(&last(&second)?, &last(&each)?, &last(&weights)?, &corner)?;
    assert_eq!(found, expected);
    Ok(())
}

/// The second labels are not looked at where the first ones are all.
#[test]
fn a_lambda_of_1_is_the_step_of_one_label() -> Outcome {
    let device = device();
    let labels = Tensor::new(&LABELS, &device)?;
    let second = Tensor::new(&SECOND, &device)?;
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let op = CandleLoss::new(counted(Objective::ala(), Reduction::Mean));
        let logits = variable(&values(ROWS * CLASSES, 87), (ROWS, CLASSES), dtype, &device)?;
        let step = |options: &StepOptions<'_>| -> candle_core::Result<_> {
            let value = op.forward_with(&logits, &labels, options)?;
            Ok((numbers(&value)?, gradient_of(&value, &logits)?))
        };
        let plain = StepOptions::new();
        let all = plain.mixed_with(&second, Lambda::Scalar(1.0));
        assert_eq!(step(&all)?, step(&plain)?);
        let swapped = plain.mixed_with(&labels, Lambda::Scalar(0.0));
        let value = op.forward_with(&logits, &second, &swapped)?;
        let found = (numbers(&value)?, gradient_of(&value, &logits)?);
        assert_eq!(found, step(&plain)?);
    }
    Ok(())
}

/// Parts of 4 and 5 rows, of which one counts less than the other, through the logits and through
/// the cosines.
#[test]
fn parts_with_the_divisor_of_the_whole_come_to_the_whole() -> Outcome {
    let device = device();
    let loss = counted(Objective::ala(), Reduction::Mean);
    let (op, cosine) = (CandleLoss::new(loss.clone()), CosineLoss::new(loss));
    let labels = Tensor::new(&LABELS, &device)?;
    let of_step = Tensors::new(&device)?;
    let logits = values(ROWS * CLASSES, 88);
    let logits = variable(&logits, (ROWS, CLASSES), DType::F32, &device)?;
    let features = variable(
        &values(ROWS * WIDTH, 89),
        (ROWS, WIDTH),
        DType::F32,
        &device,
    )?;
    let weight = values(CLASSES * WIDTH, 90);
    let weight = variable(&weight, (CLASSES, WIDTH), DType::F32, &device)?;
    let step = |cosines: bool, begin: usize, rows: usize, divisor: Divisor<&Tensor>| {
        let part = |of: &Tensor| of.narrow(0, begin, rows);
        let (second, each) = (part(&of_step.second)?, part(&of_step.each)?);
        let weights = part(&of_step.weights)?;
        let options = StepOptions::new()
            .mixed_with(&second, Lambda::PerRow(&each))
            .row_weights(&weights)
            .divisor(divisor);
        match cosines {
            false => op.forward_with(&part(&logits)?, &part(&labels)?, &options),
            true => cosine.forward_with(&part(&features)?, &weight, &part(&labels)?, &options),
        }
    };
    let whole = StepOptions::new()
        .mixed_with(&of_step.second, Lambda::PerRow(&of_step.each))
        .row_weights(&of_step.weights);
    for by in [Divisor::Weights, Divisor::Rows] {
        let all = op.divisor(&labels, &whole.divisor(by))?;
        let of_cosine = cosine.divisor(&labels, &whole.divisor(by))?;
        assert_eq!(numbers(&all)?, numbers(&of_cosine)?);
        for (cosines, of) in [(false, &logits), (true, &features), (true, &weight)] {
            let value = step(cosines, 0, ROWS, by)?;
            let given = Divisor::Given(&all);
            let sum = (step(cosines, 0, 4, given)? + step(cosines, 4, 5, given)?)?;
            assert_close(&numbers(&sum)?, &numbers(&value)?, 1e-6);
            assert_close(&gradient_of(&sum, of)?, &gradient_of(&value, of)?, 1e-6);
        }
    }
    Ok(())
}

/// A part of a batch in which nothing counts divides 0 by whatever is given.
#[test]
fn nothing_that_counts_over_a_given_0_is_0() -> Outcome {
    let device = device();
    let loss = counted(Objective::ala(), Reduction::Mean);
    let ignored = Tensor::new(&[IGNORED; ROWS], &device)?;
    let logits = values(ROWS * CLASSES, 91);
    let logits = variable(&logits, (ROWS, CLASSES), DType::F32, &device)?;
    let weight = values(CLASSES * CLASSES, 92);
    let weight = variable(&weight, (CLASSES, CLASSES), DType::F32, &device)?;
    for given in [0.0, GIVEN] {
        let given = tensor(&[given], &device)?;
        let options = StepOptions::new().divisor(Divisor::Given(&given));
        let op = CandleLoss::new(loss.clone());
        let value = op.forward_with(&logits, &ignored, &options)?;
        assert_eq!(numbers(&value)?, [0.0]);
        assert_eq!(gradient_of(&value, &logits)?, [0.0; ROWS * CLASSES]);
        let op = CosineLoss::new(loss.clone());
        let value = op.forward_with(&logits, &weight, &ignored, &options)?;
        assert_eq!(numbers(&value)?, [0.0]);
        assert_eq!(gradient_of(&value, &logits)?, [0.0; ROWS * CLASSES]);
        assert_eq!(gradient_of(&value, &weight)?, [0.0; CLASSES * CLASSES]);
    }
    Ok(())
}

/// The row itself tells at once, the error when the device is asked, in ala-loss's own words.
#[test]
fn what_a_row_cannot_have_is_told() -> Outcome {
    let device = device();
    let labels = Tensor::new(&LABELS, &device)?;
    let good = Tensors::new(&device)?;
    let logits = values(ROWS * CLASSES, 93);
    let logits = variable(&logits, (ROWS, CLASSES), DType::F32, &device)?;
    let weight = values(CLASSES * CLASSES, 94);
    let weight = variable(&weight, (CLASSES, CLASSES), DType::F32, &device)?;
    let changed = |of: &[f64; ROWS], number: f64| {
        let mut of = *of;
        of[5] = number;
        tensor(&of, &device)
    };
    let mut some = SECOND;
    some[5] = -7;
    let second = Tensor::new(&some, &device)?;
    let (lambda, row_weights) = (changed(&EACH, 1.5)?, changed(&WEIGHTS, f64::NAN)?);
    let plain = StepOptions::new();
    let half = Lambda::Scalar(0.5);
    for (options, words) in [
        (plain.mixed_with(&second, half), "second label -7"),
        (
            plain.mixed_with(&good.second, Lambda::PerRow(&lambda)),
            "lambda",
        ),
        (plain.row_weights(&row_weights), "weight"),
    ] {
        let op = CandleLoss::new(loss(Objective::ala(), Reduction::Sum));
        let cosine = CosineLoss::new(loss(Objective::ala(), Reduction::Sum));
        let counted = StepOptions::new().mixed_with(&good.second, half);
        // Every label is a class here.
        let no_ignore = op.forward_with(&logits, &labels, &counted);
        assert!(no_ignore.is_ok());
        op.check(&device)?;
        let output = op.forward_rows_with(&logits, &labels, &options)?;
        let row_losses = numbers(&output.row_losses)?;
        assert!((0..ROWS).all(|row| row_losses[row].is_nan() == (row == 5)));
        let gradient = gradient_of(&output.loss, &logits)?;
        assert_eq!(gradient[5 * CLASSES..6 * CLASSES], [0.0; CLASSES]);
        cosine.forward_with(&logits, &weight, &labels, &options)?;
        for told in [op.check(&device), cosine.check(&device)] {
            let told = told.expect_err("a bad row").to_string();
            assert!(told.contains("row 5") && told.contains(words), "{told}");
        }
        op.check(&device)?;
    }
    Ok(())
}
