//! Second labels, row weights and divisors, against the core crate in `f64` on the CPU.

use ala_loss::{
    Divisor, Error as LossError, Lambda, Loss, Objective, Options, Reduction, Upstream,
};
use ala_loss_burn::{AlaLoss, Error, StepOptions};
use burn::tensor::{DType, Device, Int, Tensor, TensorData, s};

use crate::cases::{
    CLASSES, REDUCTIONS, ROWS, assert_close, builder, cosines, device, integers, labels, matrix,
    numbers,
};

/// In rows 1 and 4 one of the two labels is ignored, in row 2 both are, in row 3 they are the same.
const FIRST: [i64; ROWS] = [4, -1, -1, 3, 1, 4, 0];
const SECOND: [i64; ROWS] = [1, 2, -1, 3, -1, 0, 2];
const EACH: [f64; ROWS] = [0.25, 0.5, 0.75, 0.125, 0.5, 1.0, 0.0];
const WEIGHTS: [f64; ROWS] = [1.5, 0.5, 3.0, 1.0, 0.25, 2.0, 0.75];
const CLASS_WEIGHTS: [f64; CLASSES] = [0.5, 1.0, 2.0, 0.25, 3.0];
/// The upstream gradients of losses that are not reduced.
const OWN: [f64; ROWS] = [1.0, 0.5, -2.0, 0.25, 7.0, 1.5, -0.5];
const SCALE: f64 = 4.0;

fn vector(values: &[f64], dtype: DType, device: &Device) -> Tensor<1> {
    let data = TensorData::new(values.to_vec(), [values.len()]).convert_dtype(dtype);
    Tensor::from_data(data, (device, dtype))
}

fn ints(values: &[i64], dtype: DType) -> Tensor<1, Int> {
    integers(values, dtype, &device())
}

fn weights() -> Tensor<1> {
    vector(&WEIGHTS, DType::F32, &device())
}

fn loss(objective: Objective, reduction: Reduction, smoothing: f64) -> Loss {
    builder(objective)
        .reduction(reduction)
        .ignore_label(-1)
        .class_weights(CLASS_WEIGHTS)
        .label_smoothing(smoothing)
        .build()
        .expect("valid")
}

/// Loss, row losses and gradient of a step are those of the core crate; and so is the divisor.
fn check(loss: &Loss, dtype: DType, options: &StepOptions, of_core: &Options<'_, f64>) {
    let device = device().autodiff();
    let reduction = loss.reduction();
    let upstreams = match reduction {
        Reduction::None => vec![OWN.to_vec()],
        Reduction::Mean | Reduction::Sum => vec![vec![SCALE], vec![-0.75]],
    };
    let op = AlaLoss::new(loss.clone()).with_loss_scale(SCALE);
    let op = op.expect("a loss scale");
    for upstream in upstreams {
        let what = format!("{:?} {dtype:?} {reduction:?} {of_core:?}", loss.objective());
        let (logits, rounded) = matrix(cosines(), ROWS, dtype, &device);
        let exact_options = of_core.upstream(match &upstream[..] {
            [factor] => Upstream::Scalar(*factor),
            each => Upstream::PerRow(each),
        });
        let exact = loss.evaluate_with(&rounded, &FIRST, &exact_options);
        let exact = exact.expect("a valid step");
        let logits = logits.require_grad();
        let first = integers(&FIRST, DType::I32, &device);
        let output = op
            .try_forward_rows_with(logits.clone(), first, options.clone())
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let bound = |x: f64| 4e-6 * x.abs() + 4e-6;
        let row_losses = numbers(output.row_losses);
        assert_close(&row_losses, &exact.row_losses, bound, &what);
        match reduction {
            Reduction::None => assert_eq!(numbers(output.loss.clone()), row_losses),
            _ => assert_close(&numbers(output.loss.clone()), &[exact.loss], bound, &what),
        }
        let factors = vector(&upstream, DType::F32, &device);
        // Of the sum of its numbers, as burn takes it.
        let gradients = (output.loss * factors).backward();
        let gradient = logits.grad(&gradients).expect("the logits are tracked");
        let digits = match dtype {
            DType::F32 => 1e-5,
            DType::F16 => 1e-3,
            _ => 8e-3,
        };
        let bound = |x: f64| digits * x.abs() + 1e-5;
        assert_close(&numbers(gradient), &exact.gradient, bound, &what);
    }
    let divisor = op.divisor(&ints(&FIRST, DType::I64), options);
    assert_eq!(divisor, Ok(loss.divisor(&FIRST, of_core).expect("valid")));
}

/// Alone and together, in every reduction and type of the logits.
#[test]
fn every_option_and_type_comes_to_what_the_cpu_does() {
    let divisors = [Divisor::Weights, Divisor::Rows, Divisor::Given(7.5)];
    for reduction in REDUCTIONS {
        let loss = loss(Objective::ala(), reduction, 0.0);
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for lambda in [None, Some(false), Some(true)] {
                for weighted in [false, true] {
                    for divisor in divisors {
                        if reduction != Reduction::Mean && divisor != Divisor::Weights {
                            continue;
                        }
                        let mut options = StepOptions::new().divisor(divisor);
                        let mut of_core = Options::new().divisor(divisor);
                        if let Some(each) = lambda {
                            let second = ints(&SECOND, DType::I64);
                            let (lambda, on_host) = match each {
                                true => (
                                    Lambda::PerRow(vector(&EACH, DType::F32, &device())),
                                    Lambda::PerRow(&EACH[..]),
                                ),
                                false => (Lambda::Scalar(0.375), Lambda::Scalar(0.375)),
                            };
                            options = options.mixed_with(second, lambda);
                            of_core = of_core.mixed_with(&SECOND, on_host);
                        }
                        if weighted {
                            options = options.row_weights(weights());
                            of_core = of_core.row_weights(&WEIGHTS);
                        }
                        check(&loss, dtype, &options, &of_core);
                    }
                }
            }
        }
    }
}

#[test]
fn other_objectives_and_smoothed_labels_take_them_too() {
    let options = StepOptions::new()
        .mixed_with(ints(&SECOND, DType::I32), Lambda::Scalar(0.375))
        .row_weights(weights());
    let of_core = Options::new()
        .mixed_with(&SECOND, Lambda::Scalar(0.375))
        .row_weights(&WEIGHTS);
    for (objective, smoothing) in [
        (Objective::ala(), 0.2),
        (Objective::CrossEntropy, 0.1),
        (Objective::Focal { gamma: 2.0 }, 0.0),
        (Objective::LogitAdjustment { tau: 1.2 }, 0.1),
    ] {
        let loss = loss(objective, Reduction::Mean, smoothing);
        check(&loss, DType::F32, &options, &of_core);
    }
}

/// What the kernels read, what burn casts to that, and parts of other tensors.
#[test]
fn types_and_strides_of_the_options_mean_nothing() {
    let loss = loss(Objective::ala(), Reduction::Mean, 0.0);
    let of_core = |second| {
        Options::new()
            .mixed_with(second, Lambda::PerRow(&EACH[..]))
            .row_weights(&WEIGHTS)
    };
    let device = device();
    let each = |dtype| vector(&EACH, dtype, &device);
    for dtype in [DType::I8, DType::I16, DType::I32, DType::I64] {
        let options = StepOptions::new()
            .mixed_with(ints(&SECOND, dtype), Lambda::PerRow(each(DType::F32)))
            .row_weights(weights());
        check(&loss, DType::F32, &options, &of_core(&SECOND));
    }
    // Some of the types have no -1.
    let classes = SECOND.map(|label| label.max(0));
    for dtype in [DType::U8, DType::U16, DType::U32] {
        let options = StepOptions::new()
            .mixed_with(ints(&classes, dtype), Lambda::PerRow(each(DType::F32)))
            .row_weights(weights());
        check(&loss, DType::F32, &options, &of_core(&classes));
    }
    for dtype in [DType::F16, DType::BF16] {
        let options = StepOptions::new()
            .mixed_with(ints(&SECOND, DType::I32), Lambda::PerRow(each(dtype)))
            .row_weights(vector(&WEIGHTS, dtype, &device));
        check(&loss, DType::F32, &options, &of_core(&SECOND));
    }
    // Every other number of a longer tensor.
    let apart = |values: &[f64]| {
        let pairs: Vec<f64> = values.iter().flat_map(|&value| [77.0, value]).collect();
        vector(&pairs, DType::F32, &device).slice(s![1..;2])
    };
    let pairs: Vec<i64> = SECOND.iter().flat_map(|&label| [77, label]).collect();
    let options = StepOptions::new()
        .mixed_with(
            ints(&pairs, DType::I32).slice(s![1..;2]),
            Lambda::PerRow(apart(&EACH)),
        )
        .row_weights(apart(&WEIGHTS));
    check(&loss, DType::F32, &options, &of_core(&SECOND));
    // One number for all rows, which lies in memory once.
    let one = |number| vector(&[number], DType::F32, &device).expand([ROWS]);
    let options = StepOptions::new()
        .mixed_with(
            ints(&[2], DType::I32).expand([ROWS]),
            Lambda::PerRow(one(0.25)),
        )
        .row_weights(one(1.5));
    let of_core = Options::new()
        .mixed_with(&[2; ROWS], Lambda::PerRow(&[0.25; ROWS]))
        .row_weights(&[1.5; ROWS]);
    check(&loss, DType::F32, &options, &of_core);
}

/// Parts of 4 and 3 rows, and the whole.
#[test]
fn parts_with_the_divisor_of_the_whole_come_to_the_whole() {
    let op = AlaLoss::new(loss(Objective::ala(), Reduction::Mean, 0.0));
    let graph = device().autodiff();
    let whole = StepOptions::new().row_weights(weights());
    let all = op.divisor(&ints(&FIRST, DType::I32), &whole);
    let all = all.expect("valid");
    let result = |parts: &[(usize, usize)], divisor: Divisor| {
        let (logits, _) = matrix(cosines(), ROWS, DType::F32, &graph);
        let logits = logits.require_grad();
        let sum = parts
            .iter()
            .map(|&(begin, rows)| {
                let options = StepOptions::new()
                    .row_weights(weights().narrow(0, begin, rows))
                    .divisor(divisor);
                let labels = ints(&FIRST, DType::I32).narrow(0, begin, rows);
                op.forward_with(logits.clone().narrow(0, begin, rows), labels, options)
            })
            .reduce(|sum, part| sum + part)
            .expect("parts");
        let gradient = logits.grad(&sum.backward()).expect("tracked");
        (numbers(sum), numbers(gradient))
    };
    let (value, gradient) = result(&[(0, ROWS)], Divisor::Weights);
    let (sum, summed) = result(&[(0, 4), (4, ROWS - 4)], Divisor::Given(all));
    assert_close(&sum, &value, |x| 1e-6 * x.abs(), "loss");
    assert_close(&summed, &gradient, |x| 1e-6 * x.abs() + 1e-8, "gradient");
}

/// By the call that meets it; the next call is none the worse.
#[test]
fn what_the_device_refuses_is_the_call_s_error() {
    let device = device();
    let loss = builder(Objective::ala()).build().expect("valid");
    let op = AlaLoss::new(loss.clone());
    let (logits, exact) = matrix(cosines(), ROWS, DType::F32, &device);
    let refused = |options: StepOptions| {
        let labels = ints(&labels(), DType::I32);
        let refused = op.try_forward_with(logits.clone(), labels.clone(), options);
        let taken = op.try_forward(logits.clone(), labels);
        let taken = numbers(taken.expect("a valid step"));
        let exact = loss.evaluate(&exact, &crate::cases::labels());
        let exact = exact.expect("a valid step").loss;
        assert_close(&taken, &[exact], |_| 4e-6, "after a refused step");
        match refused.expect_err("refused") {
            Error::Loss(error) => error,
            other => panic!("{other}"),
        }
    };
    let plain = StepOptions::new;
    let half = || Lambda::Scalar(0.5);
    let mut second = labels();
    second[5] = 9;
    let expected = LossError::SecondLabel {
        row: 5,
        label: 9,
        classes: CLASSES,
    };
    let found = refused(plain().mixed_with(ints(&second, DType::I64), half()));
    assert_eq!(found, expected);
    let good = || ints(&labels(), DType::I64);
    let mut each = EACH;
    each[4] = 2.0;
    let lambda = Lambda::PerRow(vector(&each, DType::F32, &device));
    let found = refused(plain().mixed_with(good(), lambda)).to_string();
    assert_eq!(found, "row 4 has lambda 2: it must be from 0 to 1");
    let found = refused(plain().mixed_with(good(), Lambda::Scalar(-0.25))).to_string();
    assert_eq!(found, "lambda is -0.25: it must be from 0 to 1");
    let mut weights = WEIGHTS;
    weights[2] = -1.0;
    let weights = vector(&weights, DType::F32, &device);
    let found = refused(plain().row_weights(weights)).to_string();
    assert!(found.starts_with("row 2 has weight -1"), "{found}");
    for divisor in [0.0, -1.0, f64::INFINITY, f64::NAN, 1e-60, 1e60] {
        let found = refused(plain().divisor(Divisor::Given(divisor)));
        let named = matches!(
            found,
            LossError::Parameter {
                name: "divisor",
                ..
            }
        );
        assert!(named, "{found}");
    }
}

/// A divisor of 0 is that of a batch in which no row counts.
#[test]
fn a_batch_that_counts_nothing_divides_by_0() {
    let graph = device().autodiff();
    let op = AlaLoss::new(loss(Objective::ala(), Reduction::Mean, 0.0));
    let none = integers(&[-1; ROWS], DType::I32, &graph);
    let by = op.divisor(&none, &StepOptions::new()).expect("valid");
    assert_eq!(by, 0.0);
    // Another step comes between the passes, in which rows count.
    for upstream in [1.0, 3.0] {
        let (logits, _) = matrix(cosines(), ROWS, DType::F32, &graph);
        let logits = logits.require_grad();
        let options = StepOptions::new().divisor(Divisor::Given(by));
        let value = op.forward_with(logits.clone(), none.clone(), options);
        let labels = ints(&FIRST, DType::I32);
        assert!(op.try_forward(logits.clone().inner(), labels).is_ok());
        let gradients = (value.clone() * upstream).backward();
        assert_eq!(numbers(value), [0.0]);
        let gradient = logits.grad(&gradients).expect("tracked");
        assert_eq!(numbers(gradient), [0.0; ROWS * CLASSES]);
    }
}

#[test]
fn only_a_mean_takes_a_divisor() {
    let op = AlaLoss::new(loss(Objective::ala(), Reduction::Sum, 0.0));
    let (logits, _) = matrix(cosines(), ROWS, DType::F32, &device());
    for divisor in [Divisor::Rows, Divisor::Given(1.0)] {
        let options = StepOptions::new().divisor(divisor);
        let refused = op.try_forward_with(logits.clone(), ints(&FIRST, DType::I32), options);
        let misplaced = matches!(refused, Err(Error::Loss(LossError::Misplaced { .. })));
        assert!(misplaced, "{refused:?}");
    }
}

#[test]
fn options_elsewhere_or_of_types_that_no_kernel_has_are_refused_by_name() {
    let op = AlaLoss::new(loss(Objective::ala(), Reduction::Mean, 0.0));
    let refused = |options: StepOptions| {
        let (logits, _) = matrix(cosines(), ROWS, DType::F32, &device());
        let refused = op.try_forward_with(logits, ints(&FIRST, DType::I32), options);
        refused.expect_err("refused")
    };
    let flex = Device::flex();
    let elsewhere = |options: StepOptions, expected: &str| {
        let found = refused(options);
        let named = matches!(found, Error::OptionDevice { name, .. } if name == expected);
        assert!(named, "{found}");
    };
    let plain = StepOptions::new;
    let second = || ints(&SECOND, DType::I32);
    let numbers = || vector(&EACH, DType::F32, &flex);
    let away = integers(&SECOND, DType::I32, &flex);
    elsewhere(
        plain().mixed_with(away, Lambda::Scalar(0.5)),
        "second labels",
    );
    elsewhere(
        plain().mixed_with(second(), Lambda::PerRow(numbers())),
        "lambda",
    );
    elsewhere(plain().row_weights(numbers()), "row weights");
    let second = ints(&labels(), DType::U64);
    let found = refused(plain().mixed_with(second, Lambda::Scalar(0.5)));
    let named = matches!(
        found,
        Error::OptionType {
            name: "second labels",
            found: DType::U64,
            ..
        }
    );
    assert!(named, "{found}");
}
