//! Second labels, row weights and divisors, held against the reference row by row, and against the
//! core crate's bits.

use ala_loss::{
    Divisor, Error as LossError, Lambda, Loss, Objective, Options, Reduction, Upstream, reference,
};
use ala_loss_burn::{AlaLoss, Error, LossOutput, StepOptions};
use burn::tensor::quantization::QuantScheme;
use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData, s};

use crate::cases::{
    CLASSES, REDUCTIONS, ROWS, assert_close, builder, cosines, integers, labels, matrix, numbers,
    objectives,
};

/// In rows 1 and 4 one of the two labels is ignored, in row 2 both are, in row 3 they are the same.
const FIRST: [i64; ROWS] = [4, -1, -1, 3, 1, 4, 0];
const SECOND: [i64; ROWS] = [1, 2, -1, 3, -1, 0, 2];
const EACH: [f64; ROWS] = [0.25, 0.5, 0.75, 0.125, 0.5, 1.0, 0.0];
const SAME: [f64; ROWS] = [0.375; ROWS];
const WEIGHTS: [f64; ROWS] = [1.5, 0.5, 3.0, 1.0, 0.25, 2.0, 0.75];
const CLASS_WEIGHTS: [f64; CLASSES] = [0.5, 1.0, 2.0, 0.25, 3.0];
/// The upstream gradients of losses that are not reduced.
const OWN: [f64; ROWS] = [1.0, 0.5, -2.0, 0.25, 7.0, 1.5, -0.5];
const SCALE: f64 = 4.0;
const FLOATS: [DType; 4] = [DType::F64, DType::F32, DType::F16, DType::BF16];

fn vector(values: &[f64]) -> Tensor<1> {
    matrix(values.to_vec(), 1, &Device::flex()).reshape([values.len()])
}

fn ints(values: &[i64]) -> Tensor<1, Int> {
    integers(values, &Device::flex())
}

fn booleans(hits: Tensor<1, Bool>) -> Vec<bool> {
    hits.into_data().try_into_vec().expect("bools")
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

/// A step's options as every side of a comparison takes them.
#[derive(Clone, Copy, Debug)]
struct Case {
    lambda: Option<Lambda<f64, &'static [f64; ROWS]>>,
    weighted: bool,
    divisor: Divisor,
}

impl Case {
    /// All that a loss of this reduction takes.
    fn all(reduction: Reduction) -> Vec<Self> {
        let divisors = match reduction {
            Reduction::Mean => &[Divisor::Weights, Divisor::Rows, Divisor::Given(7.5)][..],
            Reduction::Sum | Reduction::None => &[Divisor::Weights],
        };
        let mut cases = Vec::new();
        for lambda in [
            None,
            Some(Lambda::Scalar(SAME[0])),
            Some(Lambda::PerRow(&EACH)),
        ] {
            for weighted in [false, true] {
                cases.extend(divisors.iter().map(|&divisor| Self {
                    lambda,
                    weighted,
                    divisor,
                }));
            }
        }
        cases
    }

    fn of_step(self) -> StepOptions {
        let mut options = StepOptions::new().divisor(self.divisor);
        if let Some(lambda) = self.lambda {
            let lambda = match lambda {
                Lambda::Scalar(lambda) => Lambda::Scalar(lambda),
                Lambda::PerRow(each) => Lambda::PerRow(vector(each)),
            };
            options = options.mixed_with(ints(&SECOND), lambda);
        }
        match self.weighted {
            true => options.row_weights(vector(&WEIGHTS)),
            false => options,
        }
    }

    fn of_core(self) -> Options<'static, f64> {
        let mut options = Options::new().divisor(self.divisor);
        if let Some(lambda) = self.lambda {
            let lambda = match lambda {
                Lambda::Scalar(lambda) => Lambda::Scalar(lambda),
                Lambda::PerRow(each) => Lambda::PerRow(&each[..]),
            };
            options = options.mixed_with(&SECOND, lambda);
        }
        match self.weighted {
            true => options.row_weights(&WEIGHTS),
            false => options,
        }
    }

    /// How much of each row is its first label's, where it has two.
    fn parts(self) -> Option<&'static [f64; ROWS]> {
        self.lambda.map(|lambda| match lambda {
            Lambda::Scalar(_) => &SAME,
            Lambda::PerRow(each) => each,
        })
    }
}

/// Loss, row losses and gradient as the reference has them, whose rows are solved one by one.
struct Expected {
    loss: f64,
    row_losses: Vec<f64>,
    gradient: Vec<f64>,
}

fn expected(loss: &Loss, case: Case, upstream: &[f64; ROWS]) -> Expected {
    let (mut total, mut counted) = (0.0, 0.0);
    let (mut row_losses, mut gradient) = (Vec::new(), Vec::new());
    for (row, x) in cosines().chunks(CLASSES).enumerate() {
        let weight = if case.weighted { WEIGHTS[row] } else { 1.0 };
        let mut parts = vec![(FIRST[row], case.parts().map_or(1.0, |parts| parts[row]))];
        parts.extend(case.parts().map(|parts| (SECOND[row], 1.0 - parts[row])));
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
    let by = match (loss.reduction(), case.divisor) {
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

/// Of these logits, and the gradient of the sum of the losses times `upstream`.
fn step(
    op: &AlaLoss,
    logits: Tensor<2>,
    options: StepOptions,
    upstream: &[f64],
) -> (LossOutput, Tensor<2>) {
    let logits = logits.detach().require_grad();
    let labels = integers(&FIRST, &logits.device());
    let output = op
        .try_forward_rows_with(logits.clone(), labels.clone(), options.clone())
        .expect("a valid step");
    let loss = op.forward_with(logits.clone(), labels, options);
    assert_eq!(numbers(loss), numbers(output.loss.clone()));
    let factors = TensorData::new(upstream.to_vec(), [upstream.len()]);
    let factors = Tensor::<1>::from_data(factors, (&logits.device(), output.loss.dtype()));
    let gradients = (output.loss.clone() * factors).sum().backward();
    let gradient = logits.grad(&gradients).expect("the logits are tracked");
    (output, gradient)
}

/// What arrives at a loss, one number or one for each row: where it is reduced once what the
/// gradient was made for, and once not.
fn upstreams(reduction: Reduction) -> Vec<Vec<f64>> {
    match reduction {
        Reduction::None => vec![OWN.to_vec()],
        Reduction::Mean | Reduction::Sum => vec![vec![SCALE], vec![-0.75]],
    }
}

fn of_rows(upstream: &[f64]) -> [f64; ROWS] {
    match *upstream {
        [factor] => [factor; ROWS],
        _ => upstream.try_into().expect("one for each row"),
    }
}

/// Every objective and reduction, with all that a step takes, alone and together.
#[test]
fn loss_and_gradient_are_the_reference_s() {
    let device = Device::flex().autodiff();
    let smoothed = [(Objective::ala(), 0.2), (Objective::CrossEntropy, 0.1)];
    let plain = objectives().into_iter().map(|objective| (objective, 0.0));
    for (objective, smoothing) in plain.chain(smoothed) {
        for reduction in REDUCTIONS {
            let loss = loss(objective, reduction, smoothing);
            let op = AlaLoss::new(loss.clone()).with_loss_scale(SCALE);
            let op = op.expect("a loss scale");
            for case in Case::all(reduction) {
                for upstream in upstreams(reduction) {
                    let what = format!("{objective:?} {reduction:?} {case:?} {upstream:?}");
                    let exact = expected(&loss, case, &of_rows(&upstream));
                    let logits = matrix(cosines(), ROWS, &device);
                    let (output, gradient) = step(&op, logits, case.of_step(), &upstream);
                    let values = match reduction {
                        Reduction::None => &exact.row_losses,
                        Reduction::Mean | Reduction::Sum => &vec![exact.loss],
                    };
                    let bound = |x: f64| 1e-11 * x.abs() + 1e-12;
                    assert_close(&numbers(output.loss), values, bound, &what);
                    assert_close(&numbers(output.row_losses), &exact.row_losses, bound, &what);
                    assert_close(&numbers(gradient), &exact.gradient, bound, &what);
                }
            }
        }
    }
}

/// Half the distance of two neighbours around `exact`.
fn half_ulp(exact: f64, (bits, least): (i32, i32)) -> f64 {
    let exponent = (exact.abs().log2().floor() as i32).max(least);
    0.5 * 2f64.powi(exponent - bits)
}

/// Against the core crate in f64, whose own step these options were held against the reference in.
#[test]
fn gradients_of_every_float_type_are_rounded_once() {
    let device = Device::flex().autodiff();
    for dtype in FLOATS {
        // Mantissa bits and the least exponent.
        let (digits, ulp) = match dtype {
            DType::F64 => (1e-12, None),
            DType::F32 => (1e-5, None),
            DType::F16 => (1e-5, Some((10, -14))),
            _ => (1e-5, Some((7, -126))),
        };
        let logits = matrix(cosines(), ROWS, &device).cast(dtype);
        let rounded = numbers(logits.clone());
        for reduction in REDUCTIONS {
            let loss = loss(Objective::ala(), reduction, 0.1);
            let op = AlaLoss::new(loss.clone()).with_loss_scale(SCALE);
            let op = op.expect("a loss scale");
            for case in Case::all(reduction) {
                for upstream in upstreams(reduction) {
                    let what = format!("{dtype:?} {reduction:?} {case:?} {upstream:?}");
                    let options = case.of_core().upstream(match &upstream[..] {
                        [factor] => Upstream::Scalar(*factor),
                        each => Upstream::PerRow(each),
                    });
                    let exact = loss.evaluate_with(&rounded, &FIRST, &options);
                    let exact = exact.expect("a valid step");
                    let (output, gradient) = step(&op, logits.clone(), case.of_step(), &upstream);
                    let row_type = match dtype {
                        DType::F64 => DType::F64,
                        _ => DType::F32,
                    };
                    assert_eq!(
                        (output.loss.dtype(), gradient.dtype()),
                        (row_type, dtype),
                        "{what}"
                    );
                    let of_rows = |x: f64| digits * x.abs() + digits;
                    let row_losses = numbers(output.row_losses);
                    assert_close(&row_losses, &exact.row_losses, of_rows, &what);
                    if reduction != Reduction::None {
                        assert_close(&numbers(output.loss), &[exact.loss], of_rows, &what);
                    }
                    let bound =
                        |x: f64| digits * (1.0 + x.abs()) + ulp.map_or(0.0, |of| half_ulp(x, of));
                    assert_close(&numbers(gradient), &exact.gradient, bound, &what);
                }
            }
        }
    }
}

/// The step with second labels is another one in the core crate.
#[test]
fn lambda_1_is_the_step_of_one_label_to_the_bit() {
    let device = Device::flex().autodiff();
    for dtype in FLOATS {
        let logits = matrix(cosines(), ROWS, &device).cast(dtype);
        for reduction in REDUCTIONS {
            let op = AlaLoss::new(loss(Objective::ala(), reduction, 0.0));
            for upstream in upstreams(reduction) {
                let [plain, same, each] = [
                    StepOptions::new(),
                    StepOptions::new().mixed_with(ints(&SECOND), Lambda::Scalar(1.0)),
                    StepOptions::new()
                        .mixed_with(ints(&SECOND), Lambda::PerRow(vector(&[1.0; ROWS]))),
                ]
                .map(|options| {
                    let (output, gradient) = step(&op, logits.clone(), options, &upstream);
                    let of = [numbers(output.loss), numbers(output.row_losses)];
                    (of, numbers(gradient), booleans(output.hits))
                });
                assert_eq!(same, plain, "{dtype:?} {reduction:?} {upstream:?}");
                assert_eq!(each, plain, "{dtype:?} {reduction:?} {upstream:?}");
            }
        }
    }
}

/// Of other types than the first ones', and parts of other tensors.
#[test]
fn types_and_strides_of_the_options_mean_nothing() {
    let device = Device::flex().autodiff();
    let op = AlaLoss::new(loss(Objective::ala(), Reduction::Mean, 0.0));
    // All of them classes: some of the types have no -1.
    let second: Vec<i64> = SECOND.iter().map(|&label| label.max(0)).collect();
    let result = |second: Tensor<1, Int>, each: Tensor<1>, weights: Tensor<1>| {
        let options = StepOptions::new()
            .mixed_with(second, Lambda::PerRow(each))
            .row_weights(weights);
        let logits = matrix(cosines(), ROWS, &device);
        let (output, gradient) = step(&op, logits, options, &[3.0]);
        (numbers(output.loss), numbers(gradient))
    };
    let (each, weights) = (vector(&EACH), vector(&WEIGHTS));
    let expected = result(ints(&second), each.clone(), weights.clone());
    for dtype in [
        DType::I32,
        DType::I16,
        DType::I8,
        DType::U64,
        DType::U32,
        DType::U16,
        DType::U8,
    ] {
        let found = result(ints(&second).cast(dtype), each.clone(), weights.clone());
        assert_eq!(found, expected, "{dtype:?}");
    }
    // All of them are numbers of each type.
    for dtype in FLOATS {
        let (each, weights) = (each.clone().cast(dtype), weights.clone().cast(dtype));
        assert_eq!(result(ints(&second), each, weights), expected, "{dtype:?}");
    }
    // Every other number of a longer tensor, and all from the last to the first.
    let apart = |values: &[f64]| {
        let pairs: Vec<f64> = values.iter().flat_map(|&value| [77.0, value]).collect();
        vector(&pairs).slice(s![1..;2])
    };
    let pairs: Vec<i64> = second.iter().flat_map(|&label| [77, label]).collect();
    let labels = ints(&pairs).slice(s![1..;2]);
    let found = result(labels, apart(&EACH), apart(&WEIGHTS));
    assert_eq!(found, expected);
    let turned = |values: &[f64]| {
        let last_first: Vec<f64> = values.iter().rev().copied().collect();
        vector(&last_first).flip([0])
    };
    let last_first: Vec<i64> = second.iter().rev().copied().collect();
    let labels = ints(&last_first).flip([0]);
    let found = result(labels, turned(&EACH), turned(&WEIGHTS));
    assert_eq!(found, expected);
    // One number for all rows, which lies in memory once.
    let expected = result(
        ints(&[2; ROWS]),
        vector(&[0.25; ROWS]),
        vector(&[1.5; ROWS]),
    );
    let found = result(
        ints(&[2]).expand([ROWS]),
        vector(&[0.25]).expand([ROWS]),
        vector(&[1.5]).expand([ROWS]),
    );
    assert_eq!(found, expected);
}

/// The logits alone decide whether a loss is tracked, and nothing else has a gradient.
#[test]
fn options_are_constants_wherever_they_are() {
    let (plain, graph) = (Device::flex(), Device::flex().autodiff());
    let op = AlaLoss::new(loss(Objective::ala(), Reduction::Mean, 0.0));
    let result = |logits: &Device, of: &Device, tracked: bool| {
        let logits = matrix(cosines(), ROWS, logits);
        let track = |tensor: Tensor<1>| match tracked {
            true => tensor.require_grad(),
            false => tensor,
        };
        let place = |values: &[f64]| track(matrix(values.to_vec(), 1, of).reshape([ROWS]));
        let (each, weights) = (place(&EACH), place(&WEIGHTS));
        let options = StepOptions::new()
            .mixed_with(integers(&SECOND, of), Lambda::PerRow(each))
            .row_weights(weights.clone());
        let divisor = op.divisor(&ints(&FIRST), &options).expect("valid");
        let loss = op.forward_with(logits, ints(&FIRST), options);
        (numbers(loss.clone()), divisor, loss, weights)
    };
    let (expected, divisor, loss, _) = result(&plain, &plain, false);
    assert!(!loss.device().is_autodiff());
    let other = graph.clone().gradient_checkpointing();
    for (logits, of) in [(&plain, &graph), (&graph, &plain), (&graph, &other)] {
        let (value, by, loss, _) = result(logits, of, false);
        assert_eq!((value, by), (expected.clone(), divisor));
        assert_eq!(loss.device().is_autodiff(), logits.is_autodiff());
        assert!(!loss.is_tracked());
    }
    let (value, by, loss, _) = result(&graph, &graph, true);
    assert_eq!((value, by), (expected, divisor));
    assert!(!loss.is_tracked());
}

#[test]
fn hits_are_of_the_first_labels() {
    let op = AlaLoss::new(loss(Objective::ala(), Reduction::Mean, 0.0));
    let values = cosines();
    let best: Vec<i64> = values
        .chunks(CLASSES)
        .map(|row| (0..CLASSES).fold(0, |best, j| if row[j] > row[best] { j } else { best }) as i64)
        .collect();
    let other: Vec<i64> = best.iter().map(|&j| (j + 1) % CLASSES as i64).collect();
    for (first, second, hit) in [(&best, &other, true), (&other, &best, false)] {
        let mixed = StepOptions::new().mixed_with(ints(second), Lambda::Scalar(0.125));
        let logits = matrix(values.clone(), ROWS, &Device::flex());
        let output = op.forward_rows_with(logits, ints(first), mixed);
        assert_eq!(booleans(output.hits), [hit; ROWS]);
    }
}

/// Parts of 4 and 3 rows, of which one counts less than the other.
#[test]
fn parts_with_the_divisor_of_the_whole_come_to_the_whole() {
    let device = Device::flex().autodiff();
    let op = AlaLoss::new(loss(Objective::ala(), Reduction::Mean, 0.0));
    let whole = StepOptions::new()
        .mixed_with(ints(&SECOND), Lambda::PerRow(vector(&EACH)))
        .row_weights(vector(&WEIGHTS));
    let result = |parts: &[(usize, usize)], divisor: Divisor| {
        let logits = matrix(cosines(), ROWS, &device).require_grad();
        let sum = parts
            .iter()
            .map(|&(begin, rows)| {
                let lambda = vector(&EACH).narrow(0, begin, rows);
                let options = StepOptions::new()
                    .mixed_with(ints(&SECOND).narrow(0, begin, rows), Lambda::PerRow(lambda))
                    .row_weights(vector(&WEIGHTS).narrow(0, begin, rows))
                    .divisor(divisor);
                let labels = ints(&FIRST).narrow(0, begin, rows);
                op.forward_with(logits.clone().narrow(0, begin, rows), labels, options)
            })
            .reduce(|sum, part| sum + part)
            .expect("parts");
        let gradient = logits.grad(&sum.backward()).expect("tracked");
        (numbers(sum), numbers(gradient))
    };
    let mut totals = Vec::new();
    for by in [Divisor::Weights, Divisor::Rows] {
        let all = op.divisor(&ints(&FIRST), &whole.clone().divisor(by));
        let all = all.expect("valid");
        totals.push(all);
        let (value, gradient) = result(&[(0, ROWS)], by);
        let (sum, summed) = result(&[(0, 4), (4, ROWS - 4)], Divisor::Given(all));
        assert_close(&sum, &value, |_| 1e-14, "loss");
        assert_close(&summed, &gradient, |_| 1e-14, "gradient");
    }
    // Every row counts but 2.
    assert_eq!(totals[1], 6.0);
    assert_ne!(totals[0], totals[1]);
}

/// Of neither label anything counts, or the row weighs nothing.
#[test]
fn a_row_that_does_not_count_has_gradient_0_whatever_arrives() {
    let device = Device::flex().autodiff();
    // Of row 1 only the second label counts, and of row 4 only the first.
    let each = vector(&[0.5, 1.0, 0.5, 0.5, 0.0, 0.5, 0.5]);
    let weights = vector(&[1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0]);
    let options = StepOptions::new()
        .mixed_with(ints(&SECOND), Lambda::PerRow(each))
        .row_weights(weights);
    for reduction in [Reduction::None, Reduction::Sum] {
        for smoothing in [0.0, 0.1] {
            let op = AlaLoss::new(loss(Objective::CrossEntropy, reduction, smoothing));
            for dtype in [DType::F64, DType::BF16] {
                let logits = matrix(cosines(), ROWS, &device).cast(dtype);
                let upstream = match reduction {
                    Reduction::None => vec![f64::NAN; ROWS],
                    Reduction::Mean | Reduction::Sum => vec![f64::NAN],
                };
                let (_, gradient) = step(&op, logits, options.clone(), &upstream);
                let zero: Vec<bool> = numbers(gradient)
                    .chunks(CLASSES)
                    .map(|row| row.iter().all(|&g| g == 0.0))
                    .collect();
                let expected = [false, true, true, true, true, false, false];
                assert_eq!(zero, expected, "{reduction:?} {dtype:?} {smoothing}");
            }
        }
    }
}

/// Where burn's own cast would panic.
#[test]
fn quantized_options_are_refused_by_name() {
    let quantized = |values: &[f64]| {
        let narrow = vector(values).cast(DType::F32);
        narrow.quantize_dynamic(&QuantScheme::default())
    };
    let plain = StepOptions::new;
    for (name, options) in [
        ("row weights", plain().row_weights(quantized(&WEIGHTS))),
        (
            "lambda",
            plain().mixed_with(ints(&labels()), Lambda::PerRow(quantized(&EACH))),
        ),
    ] {
        let found = refused(&options);
        let named = matches!(found, Error::OptionType { name: of, .. } if of == name);
        assert!(named, "{found}");
    }
}

/// The loss's own error, of a step or of a divisor, under a mean.
fn refused(options: &StepOptions) -> Error {
    let op = AlaLoss::new(builder(Objective::ala()).build().expect("valid"));
    let mut errors = [Device::flex(), Device::flex().autodiff()].map(|device| {
        let logits = matrix(cosines(), ROWS, &device);
        let refused = op.try_forward_with(logits, ints(&labels()), options.clone());
        refused.err()
    });
    let of_divisor = op.divisor(&ints(&labels()), options).err();
    // In words, for a NaN is not itself.
    let [first, second, third] = [&errors[0], &errors[1], &of_divisor].map(|e| format!("{e:?}"));
    assert_eq!((&first, &first), (&second, &third));
    errors[0].take().expect("refused")
}

#[test]
fn options_of_another_shape_or_type_are_refused_by_name() {
    let plain = StepOptions::new;
    let half = || Lambda::Scalar(0.5);
    let shape = |name, got| Error::Shape {
        name,
        got: vec![got],
        expected: String::from("[7], that of the labels"),
    };
    let short = ints(&labels()[..2]);
    let found = refused(&plain().mixed_with(short, half()));
    assert_eq!(found, shape("second labels", 2));
    let lambda = Lambda::PerRow(vector(&EACH[..3]));
    let found = refused(&plain().mixed_with(ints(&labels()), lambda));
    assert_eq!(found, shape("lambda", 3));
    let found = refused(&plain().row_weights(vector(&[1.0; ROWS + 1])));
    assert_eq!(found, shape("row weights", ROWS + 1));
    assert_eq!(
        found.to_string(),
        "the row weights have shape [8]: expected [7], that of the labels"
    );
}

#[test]
fn numbers_out_of_range_are_refused_with_their_row() {
    let plain = StepOptions::new;
    let message = |options: StepOptions| refused(&options).to_string();
    for lambda in [1.5, -0.25, f64::NAN] {
        let told = message(plain().mixed_with(ints(&labels()), Lambda::Scalar(lambda)));
        let words = format!("row 0 has lambda {lambda}: it must be from 0 to 1");
        assert_eq!(told, words);
    }
    let mut each = EACH;
    each[4] = 2.0;
    let told = message(plain().mixed_with(ints(&labels()), Lambda::PerRow(vector(&each))));
    assert_eq!(told, "row 4 has lambda 2: it must be from 0 to 1");
    let mut weights = WEIGHTS;
    weights[2] = -1.0;
    let told = message(plain().row_weights(vector(&weights)));
    assert!(told.starts_with("row 2 has weight -1"), "{told}");
    for divisor in [0.0, -1.0, f64::INFINITY] {
        let told = message(plain().divisor(Divisor::Given(divisor)));
        assert!(told.contains("divisor"), "{told}");
        assert!(told.contains("finite and above 0"), "{told}");
    }
}

#[test]
fn a_second_label_out_of_range_is_named_with_its_row() {
    let mut second = labels();
    second[5] = 9;
    let expected = LossError::SecondLabel {
        row: 5,
        label: 9,
        classes: CLASSES,
    };
    let half = || Lambda::Scalar(0.5);
    let found = refused(&StepOptions::new().mixed_with(ints(&second), half()));
    assert_eq!(found, Error::Loss(expected));
    second[5] = -1;
    let large = ints(&second).cast(DType::U64);
    let found = refused(&StepOptions::new().mixed_with(large, half()));
    let expected = LossError::SecondLabel {
        row: 5,
        label: u64::MAX.into(),
        classes: CLASSES,
    };
    assert_eq!(found, Error::Loss(expected));
}

#[test]
fn only_a_mean_takes_a_divisor() {
    for reduction in [Reduction::Sum, Reduction::None] {
        let op = AlaLoss::new(loss(Objective::ala(), reduction, 0.0));
        for divisor in [Divisor::Rows, Divisor::Given(1.0)] {
            let logits = matrix(cosines(), ROWS, &Device::flex());
            let options = StepOptions::new().divisor(divisor);
            let refused = op.try_forward_with(logits, ints(&FIRST), options.clone());
            let misplaced = matches!(
                refused,
                Err(Error::Loss(LossError::Misplaced { instead, .. }))
                    if instead.contains("only Reduction::Mean divides")
            );
            assert!(misplaced, "{refused:?}");
            // A part of a mean that another loss takes.
            assert!(op.divisor(&ints(&FIRST), &options).is_ok());
        }
    }
}

#[test]
fn a_divisor_is_of_labels_that_fit() {
    let op = AlaLoss::new(loss(Objective::ala(), Reduction::Sum, 0.0));
    let by = |divisor| {
        let options = StepOptions::new().divisor(divisor);
        op.divisor(&ints(&FIRST), &options)
    };
    // Classes 4, 3, 1, 4 and 0.
    assert_eq!(by(Divisor::Weights), Ok(7.75));
    assert_eq!(by(Divisor::Rows), Ok(5.0));
    assert_eq!(by(Divisor::Given(0.5)), Ok(0.5));
    assert_eq!(op.divisor(&ints(&[]), &StepOptions::new()), Ok(0.0));
    let refused = op.divisor(&ints(&[0, 9]), &StepOptions::new());
    let expected = LossError::Label {
        row: 1,
        label: 9,
        classes: CLASSES,
    };
    assert_eq!(refused, Err(Error::Loss(expected)));
}
