//! Which rows count, for how much, and what a mean divides by; and what of it is refused.

use ala_loss::{ClassCounts, Divisor, Error, Lambda, Loss, Objective, Options, Outputs, Reduction};

mod problem;
use problem::{counts, labels, logits};

const IGNORED: i64 = -100;

#[test]
fn a_row_counts_while_one_of_its_labels_does() {
    let counts = ClassCounts::new([8, 2]).expect("valid");
    let builder = Loss::builder(Objective::CrossEntropy, &counts).class_weights([1.0, 3.0]);
    let loss = builder.ignore_label(IGNORED).build().expect("valid");
    let labels = [0, IGNORED, 0, IGNORED];
    let second = [IGNORED, 1, 1, IGNORED];
    let options = Options::new().mixed_with(&second, Lambda::Scalar(0.25));
    let x = [0.0f64; 8];
    let outcome = loss.evaluate_with(&x, &labels, &options).expect("valid");
    assert_eq!(outcome.counted_rows, 3);
    // 0.25 x 1, 0.75 x 3, and both.
    let divisor = 0.25 + 2.25 + 2.5;
    assert_eq!(loss.divisor(&labels, &options), Ok(divisor));
    assert_eq!(
        loss.divisor(&labels, &options.divisor(Divisor::Rows)),
        Ok(3.0)
    );
    let expected = [0.25, 2.25, 2.5, 0.0].map(|weight| weight * 2f64.ln());
    for (got, expected) in outcome.row_losses.iter().zip(expected) {
        assert!((got - expected).abs() < 1e-15);
    }
    assert!((outcome.loss - 2f64.ln()).abs() < 1e-15);
    let at = |row: usize| [0, 1].map(|j| outcome.gradient[2 * row + j] * divisor);
    for (row, expected) in [[-0.125, 0.125], [1.125, -1.125], [1.0, -1.0], [0.0, 0.0]]
        .into_iter()
        .enumerate()
    {
        let got = at(row);
        assert!(
            (0..2).all(|j| (got[j] - expected[j]).abs() < 1e-15),
            "{row}: {got:?}"
        );
    }
}

/// What is taken in parts has the gradient of the whole.
#[test]
fn parts_of_a_batch_come_to_the_whole() {
    let mut rng = fastrand::Rng::with_seed(41);
    let (rows, classes) = (24, 50);
    let counts = counts(&mut rng, classes);
    let builder = Loss::builder(Objective::ClassBalanced { beta: 0.99 }, &counts);
    let loss = builder.ignore_label(IGNORED).build().expect("valid");
    let x = logits::<f64>(&mut rng, rows * classes, 1.0);
    let mut y = labels(&mut rng, rows, classes);
    // A part that nothing counts in, and rows that do not count elsewhere.
    for row in [0, 1, 2, 3, 9, 20] {
        y[row] = IGNORED;
    }
    let weights: Vec<f64> = (0..rows).map(|row| 0.5 + row as f64 / 8.0).collect();
    for rule in [Divisor::Weights, Divisor::Rows] {
        let options = |from: usize, to: usize| Options::new().row_weights(&weights[from..to]);
        let whole = loss.evaluate_with(&x, &y, &options(0, rows).divisor(rule));
        let whole = whole.expect("valid");
        let parts = (0..rows).step_by(4).map(|row| (row, row + 4));
        let of_part = |(from, to): (usize, usize)| {
            loss.divisor(&y[from..to], &options(from, to).divisor(rule))
                .expect("valid")
        };
        let all: f64 = parts.clone().map(of_part).sum();
        let (mut sum, mut gradient) = (0.0, vec![]);
        for (from, to) in parts {
            let x = &x[from * classes..to * classes];
            let options = options(from, to).divisor(Divisor::Given(all));
            let part = loss
                .evaluate_with(x, &y[from..to], &options)
                .expect("valid");
            sum += part.loss;
            gradient.extend(part.gradient);
        }
        assert!((sum - whole.loss).abs() < 1e-14);
        for (part, whole) in gradient.iter().zip(&whole.gradient) {
            assert!((part - whole).abs() <= 1e-15 * whole.abs().max(1e-3));
        }
    }
}

#[test]
fn what_is_out_of_range_is_named() {
    let counts = ClassCounts::new([8, 2]).expect("valid");
    let build = |reduction| {
        let builder = Loss::builder(Objective::ala(), &counts).reduction(reduction);
        builder.ignore_label(IGNORED).build().expect("valid")
    };
    let (mean, sum) = (build(Reduction::Mean), build(Reduction::Sum));
    let mut x = [0.5f32, 0.1, 0.2, 0.3];
    let before = x;
    let mut refused = |loss: &Loss, labels: &[i64], options: &Options<'_, f32>| {
        let result = loss.evaluate_in_place(&mut x, labels, options, Outputs::new());
        assert_eq!(x, before, "nothing is written");
        result.expect_err("refused").to_string()
    };
    let two = [0, 1];
    let plain = Options::new();
    let mixed = |second, lambda| Options::new().mixed_with(second, lambda);
    let message = refused(&mean, &two, &mixed(&[0i64, 2], Lambda::Scalar(0.5)));
    assert_eq!(
        message,
        "row 1 has second label 2: labels must lie in 0..2 or be the ignore label"
    );
    // Also where it has no part.
    refused(&mean, &two, &mixed(&[0i64, 2], Lambda::Scalar(1.0)));
    let message = refused(&mean, &two, &mixed(&[0i64], Lambda::Scalar(0.5)));
    assert_eq!(message, "second labels has 1 entries: expected 2");
    let message = refused(&mean, &two, &mixed(&two, Lambda::PerRow(&[0.5, 1.5])));
    assert_eq!(message, "row 1 has lambda 1.5: it must be from 0 to 1");
    refused(&mean, &two, &mixed(&two, Lambda::PerRow(&[0.5])));
    refused(&mean, &two, &mixed(&two, Lambda::Scalar(f64::NAN)));
    for weight in [-1.0, f32::NAN, f32::INFINITY] {
        let message = refused(&mean, &two, &plain.row_weights(&[1.0, weight]));
        assert!(
            message.starts_with(&format!("row 1 has weight {weight}:")),
            "{message}"
        );
    }
    refused(&mean, &two, &plain.row_weights(&[1.0]));
    for divisor in [-1.0, 0.0, f64::NAN, f64::INFINITY] {
        let message = refused(&mean, &two, &plain.divisor(Divisor::Given(divisor)));
        assert!(
            message.starts_with(&format!("divisor is {divisor}:")),
            "{message}"
        );
    }
    let message = refused(&sum, &two, &plain.divisor(Divisor::Rows));
    assert!(message.starts_with("a divisor in `Options`:"), "{message}");
    // Of no rows that count the sum may be 0.
    let nothing = plain.divisor(Divisor::Given(0.0));
    let summary = mean
        .evaluate_with(&before, &[IGNORED; 2], &nothing)
        .expect("valid");
    assert_eq!((summary.loss, summary.gradient), (0.0, vec![0.0; 4]));
    assert_eq!(
        mean.divisor(&[0, 7], &Options::<f32>::new()),
        Err(Error::Label {
            row: 1,
            label: 7,
            classes: 2
        })
    );
}
