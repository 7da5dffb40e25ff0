//! What is wrong on one rank: who is told, and what is left as it was.

use ala_loss::{
    ClassCounts, Error as LossError, Lambda, Loss, Objective, Options, Outputs, Upstream,
};
use ala_loss_mpi::{Error, MpiLoss};
use mpi::topology::SimpleCommunicator;

use crate::cut::{assert_same_on_all, rank, ranks};

const ROWS: usize = 4;

/// An even cut of 12 classes, and the logits of this rank.
fn step(world: &SimpleCommunicator) -> (MpiLoss, Vec<f32>) {
    let counts = ClassCounts::new((1..=12).collect::<Vec<u64>>()).expect("counts");
    let loss = Loss::new(Objective::ala(), &counts).expect("a loss");
    let loss = MpiLoss::even(&loss, world).expect("the ranks agree");
    let len = ROWS * loss.shard().classes().len();
    let x = (0..len).map(|i| (i % 7) as f32 * 0.1).collect();
    (loss, x)
}

/// Makes a step of either kind with outputs that must stay as they are, and then a good one.
fn assert_error(
    world: &SimpleCommunicator,
    (loss, good): &mut (MpiLoss, Vec<f32>),
    x: &[f32],
    labels: &[i64],
    options: &Options<'_, f32>,
    expected: &Error,
) {
    let mut gradient = vec![7.0f32; x.len()];
    let (mut losses, mut hits) = (vec![7.0f32; labels.len()], vec![true; labels.len()]);
    let outputs = Outputs::new()
        .gradient(&mut gradient)
        .row_losses(&mut losses);
    let got = loss.evaluate_into(x, labels, options, outputs.hits(&mut hits));
    assert_eq!(got.as_ref(), Err(expected));
    assert!(gradient.iter().chain(&losses).all(|&value| value == 7.0));
    assert!(hits.iter().all(|&hit| hit));
    let mut over = x.to_vec();
    let got = loss.evaluate_in_place(&mut over, labels, options, Outputs::new());
    assert_eq!(got.as_ref(), Err(expected));
    assert_eq!(over, x);
    let got = loss.evaluate_with(x, labels, options);
    assert_eq!(got.as_ref(), Err(expected));
    let work = || 5;
    let (got, worked) = loss.evaluate_into_while(x, labels, options, Outputs::new(), work);
    assert_eq!((got.as_ref(), worked), (Err(expected), 5));
    let (got, worked) =
        loss.evaluate_in_place_while(&mut over, labels, options, Outputs::new(), work);
    assert_eq!((got.as_ref(), worked), (Err(expected), 5));
    assert_eq!(over, x);

    // The ranks are still together.
    let outcome = loss.evaluate(good, &[0, 5, 11, 3]).expect("a good step");
    assert_same_on_all(world, &[outcome.loss.to_bits()], "the next step");
}

pub fn what_is_wrong_on_one_rank_is_told_on_all(world: &SimpleCommunicator) {
    let mut step = step(world);
    let (x, good) = (step.1.clone(), [0i64, 5, 11, 3]);
    let plain = Options::new();
    for bad in 0..ranks(world) {
        let here = rank(world) == bad;
        let told = |error: LossError| Error::Rank { rank: bad, error };
        let mut check = |x: &[f32], labels: &[i64], options: &Options<'_, f32>, error| {
            assert_error(world, &mut step, x, labels, options, &told(error));
        };
        for label in [12, -1, i64::MAX, i64::MIN] {
            let mut labels = good;
            labels[2] = if here { label } else { labels[2] };
            let error = LossError::Label {
                row: 2,
                label: label.into(),
                classes: 12,
            };
            check(&x, &labels, &plain, error);
        }
        let second = [0, 1, 2, if here { 99 } else { 3 }];
        let mixed = plain.mixed_with(&second, Lambda::Scalar(0.5));
        let error = LossError::SecondLabel {
            row: 3,
            label: 99,
            classes: 12,
        };
        check(&x, &good, &mixed, error);
        let weights = [1.0, if here { -2.0 } else { 1.0 }, 1.0, 1.0];
        let error = LossError::RowParameter {
            row: 1,
            name: "weight",
            value: -2.0,
            allowed: "at least 0, and at most 1e280 when multiplied by its class's weight",
        };
        check(&x, &good, &plain.row_weights(&weights), error);

        let classes = x.len() / ROWS;
        let short = if here { &x[1..] } else { &x };
        // Cut evenly, all ranks have as many classes.
        let error = LossError::LogitsShape {
            got: x.len() - 1,
            expected: x.len(),
            rows: ROWS,
            classes,
        };
        check(short, &good, &plain, error);
        let strided = plain.stride(if here { classes - 1 } else { classes });
        let error = LossError::Stride {
            name: "logits",
            stride: classes - 1,
            classes,
        };
        check(&x, &good, &strided, error);
    }
    // The lowest rank is named where more than one is wrong.
    let labels = [0, 20 + rank(world) as i64, 11, 3];
    let error = LossError::Label {
        row: 1,
        label: 20,
        classes: 12,
    };
    let told = Error::Rank { rank: 0, error };
    assert_error(world, &mut step, &x, &labels, &plain, &told);
}

pub fn different_inputs_are_told_on_all(world: &SimpleCommunicator) {
    let mut step = step(world);
    let (x, good) = (step.1.clone(), [0i64, 5, 11, 3]);
    let plain = Options::new();
    for other in 1..ranks(world) {
        let here = rank(world) == other;
        let unlike = |what| Error::Unlike { what, rank: other };
        // Labels that are all valid.
        let labels = if here { [0, 5, 11, 4] } else { good };
        assert_error(world, &mut step, &x, &labels, &plain, &unlike("labels"));
        let labels = if here { [5, 0, 11, 3] } else { good };
        assert_error(world, &mut step, &x, &labels, &plain, &unlike("labels"));

        // More rows than before, and fewer, on one rank.
        for rows in [3, 40] {
            let (mut x, mut labels) = (x.clone(), good.to_vec());
            if here {
                x.resize(x.len() / ROWS * rows, 0.0);
                labels.resize(rows, 0);
            }
            let error = Error::Differ {
                what: "rows",
                rank: other,
                got: rows,
                expected: ROWS,
            };
            assert_error(world, &mut step, &x, &labels, &plain, &error);
        }
        let hits = if here { plain.hits() } else { plain };
        let error = Error::Differ {
            what: "numbers a row in its records",
            rank: other,
            got: 5,
            expected: 3,
        };
        assert_error(world, &mut step, &x, &good, &hits, &error);

        let second = [0, 1, if here { 4 } else { 2 }, 3];
        let weights = [1.0, if here { 1.5 } else { 2.0 }, 1.0, 1.0];
        let lambda = [0.5, 0.5, if here { 0.25 } else { 0.5 }, 0.5];
        let number = if here { 2.0 } else { 3.0 };
        let options = [
            plain.mixed_with(&second, Lambda::Scalar(0.5)),
            plain.mixed_with(&[0, 1, 2, 3], Lambda::Scalar(lambda[2].into())),
            plain.mixed_with(&[0, 1, 2, 3], Lambda::PerRow(&lambda)),
            plain.row_weights(&weights),
            plain.upstream(Upstream::Scalar(number)),
            plain.gradient_scale(number),
            plain.divisor(ala_loss::Divisor::Given(number)),
            if here {
                plain.hits()
            } else {
                plain.predictions()
            },
        ];
        for options in options {
            assert_error(world, &mut step, &x, &good, &options, &unlike("options"));
        }
    }
    // A stride is each rank's own.
    let classes = x.len() / ROWS;
    let (loss, x) = &mut step;
    let whole = loss.evaluate(x, &good).expect("valid");
    if rank(world) == 0 {
        let padded: Vec<f32> = x
            .chunks(classes)
            .flat_map(|row| [row, &[f32::NAN]].concat())
            .collect();
        let outcome = loss.evaluate_with(&padded, &good, &plain.stride(classes + 1));
        assert_eq!(outcome, Ok(whole));
    } else {
        assert_eq!(loss.evaluate(x, &good), Ok(whole));
    }
}

pub fn a_wrong_output_is_told_on_its_rank_alone(world: &SimpleCommunicator) {
    let (mut loss, x) = step(world);
    let good = [0i64, 5, 11, 3];
    let right = loss.evaluate(&x, &good).expect("valid");
    let options = Options::new();
    for bad in 0..ranks(world) {
        let mut gradient = vec![7.0f32; x.len() - usize::from(rank(world) == bad)];
        let outputs = Outputs::new().gradient(&mut gradient);
        let got = loss.evaluate_into(&x, &good, &options, outputs);
        if rank(world) == bad {
            let error = LossError::Length {
                name: "gradient",
                got: x.len() - 1,
                expected: x.len(),
            };
            assert_eq!(got, Err(Error::Own(error)));
            assert!(gradient.iter().all(|&value| value == 7.0));
        } else {
            assert_eq!(got.map(|summary| summary.loss), Ok(right.loss));
            assert_eq!(gradient, right.gradient);
        }
        // The ranks are still together.
        assert_eq!(loss.evaluate(&x, &good).as_ref(), Ok(&right));
    }
    // What the second half says of the options, all say.
    let per_row = options.upstream(Upstream::PerRow(&[1.0; ROWS]));
    let got = loss.evaluate_with(&x, &good, &per_row);
    let error = LossError::UpstreamNeedsNoReduction("Mean");
    assert_eq!(got, Err(Error::Own(error)));
}

pub fn too_long_a_message_is_told_on_all(world: &SimpleCommunicator) {
    let (mut loss, x) = step(world);
    // So many labels that their records are more than MPI counts, all on one page of memory: they
    // are zeros that nobody touches until they are looked at, which is not before the length is.
    let rows = i32::MAX as usize / 3 / 2 + 1;
    let here = rank(world) == 1;
    let labels = vec![0u8; if here { rows } else { ROWS }];
    let got = loss.evaluate(&x, &labels);
    match got {
        Err(Error::TooLong {
            rank: 1,
            numbers,
            most,
        }) => {
            assert_eq!(most, i32::MAX as usize / 2);
            assert!(numbers > 3 * rows && numbers < 3 * rows + 200);
        }
        other => panic!("{other:?}"),
    }
    let outcome = loss.evaluate(&x, &[0, 5, 11, 3]).expect("a good step");
    assert_same_on_all(world, &[outcome.loss.to_bits()], "the next step");
}
