//! Predicted classes against the plain definition, and what becomes of them in the metrics.

use ala_loss::metrics::{Accuracy, Tally};
use ala_loss::{
    ClassCounts, CpuElement, Error, GroupThresholds, Lambda, Loss, NO_CLASS, Objective, Options,
    Outputs, Reduction, reference,
};
use half::{bf16, f16};

mod problem;
use problem::mixed::IGNORED;
use problem::{logits, widen};

/// Around the numbers of lanes, of columns in a strip and of those in a block.
const SIZES: [usize; 23] = [
    1, 2, 3, 7, 8, 9, 10, 15, 16, 17, 31, 33, 100, 255, 256, 257, 365, 511, 513, 1000, 1279, 1281,
    4097,
];

/// Runs a generic check over the four element types.
macro_rules! every_type {
    ($check:ident) => {
        $check::<f32>();
        $check::<f64>();
        $check::<f16>();
        $check::<bf16>();
    };
}

fn loss_of(objective: Objective, classes: usize, smoothing: f64) -> Loss {
    let counts = ClassCounts::new((0..classes as u64).map(|j| 5 + j % 90).collect::<Vec<_>>());
    Loss::builder(objective, &counts.expect("positive"))
        .scale(1.0)
        .ignore_label(IGNORED)
        .label_smoothing(smoothing)
        .build()
        .expect("valid")
}

/// One slope for all classes, one for each, and smoothed labels.
fn losses(classes: usize) -> [Loss; 3] {
    let scaled = Objective::VectorScaling {
        gamma: 0.1,
        tau: 1.0,
    };
    [
        loss_of(Objective::ala(), classes, 0.0),
        loss_of(scaled, classes, 0.0),
        loss_of(Objective::CrossEntropy, classes, 0.1),
    ]
}

/// By the definition, of rows that count.
fn expected<T: CpuElement>(x: &[T], counts: &[bool], classes: usize) -> Vec<u32> {
    let of_row = |(x, &counts): (&[T], &bool)| {
        let class = reference::prediction(&widen(x)).filter(|_| counts);
        class.map_or(NO_CLASS, |class| class as u32)
    };
    x.chunks(classes).zip(counts).map(of_row).collect()
}

/// Holds contiguous rows against the definition: owned, into buffers at strides, without a
/// gradient, in place, and beside hits, which are the predictions that are the label.
fn check<T: CpuElement>(loss: &Loss, x: &[T], labels: &[i64], what: &str) {
    let (classes, rows) = (loss.classes(), labels.len());
    let counts: Vec<bool> = labels.iter().map(|&label| label != IGNORED).collect();
    let expected = expected(x, &counts, classes);
    let hits = |predictions: &[u32]| -> Vec<bool> {
        let rows = predictions.iter().zip(labels);
        rows.map(|(&prediction, &label)| i64::from(prediction) == label)
            .collect()
    };

    let options = Options::new();
    let owned = |options: Options<'_, _>| loss.evaluate_with(x, labels, &options).expect("valid");
    let alone = owned(options.predictions());
    assert_eq!(alone.predictions.as_ref(), Some(&expected), "{what}");
    assert_eq!(alone.hits, None);
    let both = owned(options.hits().predictions());
    assert_eq!(both.predictions.as_ref(), Some(&expected), "{what}");
    assert_eq!(both.hits, Some(hits(&expected)), "{what}");
    let other = owned(options.hits());
    assert_eq!((other.hits, other.predictions), (both.hits, None), "{what}");

    // What is between rows is above all in them.
    let stride = classes + 3;
    let mut wide = vec![T::from_f64(f64::INFINITY); rows * stride];
    for (to, from) in wide.chunks_mut(stride).zip(x.chunks(classes)) {
        to[..classes].copy_from_slice(from);
    }
    let options = options.stride(stride);
    let poison: Vec<u32> = expected.iter().map(|class| class ^ 1).collect();
    let mut got = poison.clone();
    let outputs = Outputs::new().predictions(&mut got);
    let result = loss.evaluate_into(&wide, labels, &options, outputs);
    result.expect("valid");
    assert_eq!(got, expected, "without a gradient, {what}");
    let (mut got, mut of_hits) = (poison.clone(), vec![true; rows]);
    let mut gradient = vec![T::ZERO; rows * (classes + 1)];
    let outputs = Outputs::new()
        .gradient_strided(&mut gradient, classes + 1)
        .predictions(&mut got)
        .hits(&mut of_hits);
    let result = loss.evaluate_into(&wide, labels, &options, outputs);
    result.expect("valid");
    assert_eq!(got, expected, "with a gradient, {what}");
    assert_eq!(of_hits, hits(&expected), "with a gradient, {what}");
    let mut got = poison;
    let outputs = Outputs::new().predictions(&mut got);
    let result = loss.evaluate_in_place(&mut wide, labels, &options, outputs);
    result.expect("valid");
    assert_eq!(got, expected, "in place, {what}");
}

/// Of few different logits, so that most rows have several that are the largest.
fn coarse<T: CpuElement>(rng: &mut fastrand::Rng, n: usize, levels: usize) -> Vec<T> {
    (0..n)
        .map(|_| T::from_f64(rng.usize(..levels) as f64 / 4.0 - 1.0))
        .collect()
}

/// Half of them the row's own prediction, some ignored.
fn labels_of<T: CpuElement>(rng: &mut fastrand::Rng, x: &[T], classes: usize) -> Vec<i64> {
    let of_row = |x: &[T]| match rng.usize(..8) {
        0 => IGNORED,
        1..4 => rng.usize(..classes) as i64,
        _ => reference::prediction(&widen(x)).unwrap_or(0) as i64,
    };
    x.chunks(classes).map(of_row).collect()
}

fn random_rows<T: CpuElement>() {
    let mut rng = fastrand::Rng::with_seed(80);
    for classes in SIZES {
        for levels in [2, 5, 300] {
            let rows = if classes < 1000 { 13 } else { 5 };
            let x = coarse::<T>(&mut rng, rows * classes, levels);
            let labels = labels_of(&mut rng, &x, classes);
            for loss in losses(classes) {
                check(&loss, &x, &labels, &format!("{levels} in {classes}"));
            }
        }
    }
}

#[test]
fn a_prediction_is_the_lowest_class_of_the_largest_logit() {
    every_type!(random_rows);
}

/// A row for each pair of places, of which the first is each in turn.
fn pairs(rng: &mut fastrand::Rng, classes: usize) -> Vec<[usize; 2]> {
    let mut pairs = vec![];
    for a in 0..classes {
        let at_an_end = a < 18 || a + 18 > classes;
        if classes <= 33 || at_an_end || rng.usize(..classes) < 20 {
            pairs.push([a, (a + 1 + rng.usize(..classes)) % classes]);
        }
    }
    pairs
}

fn special_rows<T: CpuElement>() {
    const NAN: f64 = f64::NAN;
    const INFINITY: f64 = f64::INFINITY;
    const NEG_INFINITY: f64 = f64::NEG_INFINITY;
    let mut rng = fastrand::Rng::with_seed(81);
    for classes in SIZES.into_iter().filter(|&classes| classes < 4097) {
        let pairs = pairs(&mut rng, classes);
        let finite = f16::MAX.to_f64();
        // What the row is full of, and what two places have.
        for (rest, a, b) in [
            // Ties.
            (-1.0, 0.5, 0.5),
            (NEG_INFINITY, -finite, -finite),
            (0.0, INFINITY, INFINITY),
            // One above the other.
            (0.25, 0.5, 0.75),
            (finite, INFINITY, finite),
            (NEG_INFINITY, NEG_INFINITY, -finite),
            // All the same.
            (NEG_INFINITY, NEG_INFINITY, NEG_INFINITY),
            (INFINITY, INFINITY, INFINITY),
            (0.5, 0.5, 0.5),
            // Zeros of both signs are equal.
            (-0.0, 0.0, 0.0),
            (0.0, -0.0, 0.0),
            (-1.0, -0.0, 0.0),
            // One NaN, of each sign, and beside what is above all.
            (0.0, NAN, 1.0),
            (-1.0, -NAN, 0.0),
            (0.0, NAN, INFINITY),
            (NEG_INFINITY, NAN, NEG_INFINITY),
            (NAN, NAN, NAN),
        ] {
            let mut x = vec![T::from_f64(rest); pairs.len() * classes];
            for (x, [i, j]) in x.chunks_mut(classes).zip(&pairs) {
                x[*j] = T::from_f64(b);
                x[*i] = T::from_f64(a);
            }
            let labels = labels_of(&mut rng, &x, classes);
            let loss = &losses(classes)[rng.usize(..3)];
            check(loss, &x, &labels, &format!("{rest}, {a}, {b} in {classes}"));
        }
    }
}

#[test]
fn ties_infinities_zeros_and_nans_are_seen_at_every_place() {
    every_type!(special_rows);
}

/// Rows whose exponentials are kept and not, whose columns are shared out, whose gradient is
/// streamed, and that threads share.
#[test]
fn long_rows_and_many_have_their_predictions() {
    fn peaks<T: CpuElement>(rows: usize, classes: usize) {
        let mut rng = fastrand::Rng::with_seed(82);
        let mut x = logits::<T>(&mut rng, rows * classes, 0.5);
        for (row, x) in x.chunks_mut(classes).enumerate() {
            let place = rng.usize(..classes);
            let (before, after) = (rng.usize(..=place), rng.usize(place..classes));
            match row % 5 {
                0 => x[place] = T::from_f64(0.75),
                1 => [x[before], x[place]] = [0.75, 0.75].map(T::from_f64),
                2 => [x[place], x[after]] = [0.75, 1.0].map(T::from_f64),
                3 => [x[place], x[after]] = [f64::INFINITY; 2].map(T::from_f64),
                _ => x[place] = T::from_f64(f64::NAN),
            }
        }
        let labels = labels_of(&mut rng, &x, classes);
        let losses = losses(classes);
        check(
            &losses[rows % 3],
            &x,
            &labels,
            &format!("{rows} x {classes}"),
        );
    }
    peaks::<f32>(2200, 1000); // streamed, by several threads
    peaks::<bf16>(3000, 100);
    peaks::<f32>(16, 9001); // kept
    peaks::<f16>(6, 9001); // computed again
    peaks::<f64>(6, 20_003); // shared out
    peaks::<bf16>(6, 70_001);
}

#[test]
fn a_mixed_row_has_a_prediction_while_one_label_counts() {
    fn mixed<T: CpuElement>() {
        let mut rng = fastrand::Rng::with_seed(83);
        for classes in [2, 10, 365, 1500, 8200] {
            let rows = 12;
            let x = coarse::<T>(&mut rng, rows * classes, 4);
            let (a, b) = (
                labels_of(&mut rng, &x, classes),
                labels_of(&mut rng, &x, classes),
            );
            let parts: Vec<f64> = (0..rows).map(|row| [0.0, 0.5, 1.0][row % 3]).collect();
            let counts: Vec<bool> = (0..rows)
                .map(|row| {
                    let first = a[row] != IGNORED && parts[row] > 0.0;
                    first || (b[row] != IGNORED && parts[row] < 1.0)
                })
                .collect();
            let expected = expected(&x, &counts, classes);
            let lambda = problem::mixed::real::<T>(&parts);
            // A weight of 0 takes nothing from the prediction.
            let weights = problem::mixed::real::<T>(&vec![0.0; rows]);
            let plain = Options::new().mixed_with(&b, Lambda::PerRow(&lambda));
            for loss in losses(classes) {
                for options in [plain, plain.row_weights(&weights)] {
                    let options = options.predictions().hits();
                    let outcome = loss.evaluate_with(&x, &a, &options).expect("valid");
                    let hits = expected.iter().zip(&a);
                    let hits = hits.map(|(&class, &label)| i64::from(class) == label);
                    assert_eq!(outcome.hits, Some(hits.collect()), "{classes}");
                    assert_eq!(outcome.predictions.as_ref(), Some(&expected), "{classes}");
                }
            }
        }
    }
    every_type!(mixed);
}

/// What is wanted beside it changes no bit of the rest.
#[test]
fn predictions_change_nothing_else() {
    let mut rng = fastrand::Rng::with_seed(84);
    for classes in [3, 365, 1500, 9000] {
        let x = logits::<f32>(&mut rng, 6 * classes, 1.0);
        let labels = problem::labels(&mut rng, 6, classes);
        for loss in losses(classes) {
            let plain = loss.evaluate(&x, &labels).expect("valid");
            let options = Options::new().predictions();
            let mut outcome = loss.evaluate_with(&x, &labels, &options).expect("valid");
            outcome.predictions = None;
            assert_eq!(outcome, plain);
        }
    }
}

#[test]
fn predictions_are_asked_for_where_they_have_a_place_and_written_after_all_checks() {
    let loss = loss_of(Objective::CrossEntropy, 2, 0.0);
    let options = Options::new().predictions();
    let mut x = [0.5f32, 0.25, 0.25, 0.5];
    let misplaced = |result: Result<_, Error>| {
        let error = result.expect_err("there is no buffer").to_string();
        assert!(error.contains("`Outputs::predictions`"), "{error}");
    };
    misplaced(loss.evaluate_into(&x, &[0, 1], &options, Outputs::new()));
    misplaced(loss.evaluate_in_place(&mut x, &[0, 1], &options, Outputs::new()));
    assert_eq!(x, [0.5, 0.25, 0.25, 0.5]);
    for len in [0, 1, 3] {
        let mut got = vec![7; len];
        let outputs = Outputs::new().predictions(&mut got);
        let error = Error::Length {
            name: "predictions",
            got: len,
            expected: 2,
        };
        assert_eq!(
            loss.evaluate_into(&x, &[0, 1], &options, outputs),
            Err(error)
        );
        assert_eq!(got, vec![7; len]);
    }
    let mut got = [7; 2];
    let outputs = Outputs::new().predictions(&mut got);
    assert!(loss.evaluate_into(&x, &[0, 2], &options, outputs).is_err());
    assert_eq!(got, [7; 2]);
    let outputs = Outputs::new().predictions(&mut got);
    loss.evaluate_into(&x, &[0, 0], &options, outputs)
        .expect("valid");
    assert_eq!(got, [0, 1]);
    // No rows, and rows that are not reduced.
    let none = loss.evaluate_with(&[0.0f32; 0], &[0; 0], &options);
    assert_eq!(none.expect("valid").predictions, Some(vec![]));
    let loss = loss.with_reduction(Reduction::None);
    let each = loss.evaluate_with(&x, &[IGNORED, 0], &options);
    assert_eq!(each.expect("valid").predictions, Some(vec![NO_CLASS, 1]));
}

#[test]
fn the_reference_has_no_prediction_without_logits() {
    assert_eq!(reference::prediction(&[]), None);
}

fn tally() -> Tally {
    let counts = ClassCounts::new([500, 50, 5]).expect("positive");
    Tally::new(&counts, GroupThresholds::default()).ignore_label(IGNORED)
}

/// As the op gives them, and in wider types.
#[test]
fn a_row_without_a_prediction_is_a_miss() {
    let labels = [0, IGNORED, 1, 2, 2];
    let predictions = [0, NO_CLASS, NO_CLASS, 2, NO_CLASS];
    let right = [Some(1.0), Some(0.0), Some(0.5)];
    let mut narrow = tally();
    narrow
        .add_predictions(&labels, &predictions)
        .expect("valid");
    assert_eq!(narrow.accuracy().per_class, right);
    let mut wide = tally();
    let predictions = predictions.map(i64::from);
    wide.add_predictions(&labels, &predictions).expect("valid");
    assert_eq!(wide.accuracy(), narrow.accuracy());
    for other in [3, -1, i64::from(NO_CLASS) - 1, i64::from(NO_CLASS) + 1] {
        let error = Error::Prediction {
            row: 0,
            prediction: other.into(),
            classes: 3,
        };
        assert_eq!(wide.add_predictions(&[0], &[other]), Err(error));
    }
    assert_eq!(wide.accuracy(), narrow.accuracy());
}

/// A test set by the op's predictions, by its hits and by counts.
#[test]
fn predictions_hits_and_counts_have_one_accuracy() {
    let mut rng = fastrand::Rng::with_seed(85);
    let counts = ClassCounts::new([500, 200, 50, 5, 4]).expect("positive");
    let loss = Loss::builder(Objective::ala(), &counts).ignore_label(IGNORED);
    let loss = loss.build().expect("valid");
    let mut x = logits::<f32>(&mut rng, 5 * 200, 1.0);
    x[77] = f32::NAN;
    let labels = labels_of(&mut rng, &x, 5);
    let outcome = loss.evaluate_with(&x, &labels, &Options::new().hits().predictions());
    let outcome = outcome.expect("valid");
    let hits = outcome.hits.expect("asked");
    let predictions = outcome.predictions.expect("asked");
    let tally = || Tally::new(&counts, GroupThresholds::default()).ignore_label(IGNORED);
    let (mut by_predictions, mut by_hits, mut by_counts) = (tally(), tally(), tally());
    by_predictions
        .add_predictions(&labels, &predictions)
        .expect("valid");
    by_hits.add_hits(&labels, &hits).expect("valid");
    for half in [0..100, 100..200] {
        let (mut rows_of, mut hits_of) = ([0; 5], [0; 5]);
        for row in half {
            if labels[row] != IGNORED {
                rows_of[labels[row] as usize] += 1;
                hits_of[labels[row] as usize] += u64::from(hits[row]);
            }
        }
        by_counts.add_counts(&rows_of, &hits_of).expect("valid");
    }
    let accuracy: Accuracy = by_hits.accuracy();
    assert!(accuracy.overall.is_some_and(|a| a > 0.3 && a < 0.9));
    assert_eq!(by_predictions.accuracy(), accuracy);
    assert_eq!(by_counts.accuracy(), accuracy);
}

#[test]
fn counts_that_cannot_be_are_named_and_add_nothing() {
    let mut tally = tally();
    tally.add_counts(&[4, 2, 0], &[3, 0, 0]).expect("valid");
    let before = tally.accuracy();
    let length = |name, got| {
        let expected = 3;
        Err(Error::Length {
            name,
            got,
            expected,
        })
    };
    let of_rows = tally.add_counts(&[1; 2], &[1; 3]);
    assert_eq!(of_rows, length("rows of the classes", 2));
    let of_hits = tally.add_counts(&[1; 3], &[1; 4]);
    assert_eq!(of_hits, length("hits of the classes", 4));
    // More than the call's own rows, also where there were enough before.
    let more = tally.add_counts(&[9, 1, 5], &[9, 1, 6]);
    let (class, rows, hits) = (2, 5, 6);
    assert_eq!(more, Err(Error::Hits { class, hits, rows }));
    assert!(tally.add_counts(&[1, 0, 0], &[2, 0, 0]).is_err());
    const MOST: u64 = 1 << 53;
    for rows in [MOST - 3, u64::MAX] {
        let (class, count) = (0, rows.saturating_add(4));
        let error = Err(Error::CountTooLarge { class, count });
        assert_eq!(tally.add_counts(&[rows, 0, 0], &[0; 3]), error);
    }
    assert_eq!(tally.accuracy(), before);
    // As many as there can be.
    let rows = [MOST - 4, MOST - 2, MOST];
    tally.add_counts(&rows, &rows).expect("valid");
    assert_eq!(tally.accuracy().few, Some(1.0));
}
