//! Steps one after the other: their bits, their messages, their memory.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ala_loss::{Lambda, Loss, Objective, Options, Outputs, Summary};
use ala_loss_mpi::MpiLoss;
use mpi::topology::SimpleCommunicator;

use crate::allocations;
use crate::cut::{assert_same_on_all, columns, cuts, rank, ranks};
use crate::problem::{build, counts, labels, logits};

struct Batch {
    x: Vec<f32>,
    labels: Vec<i64>,
    second: Vec<i64>,
}

fn problem(seed: u64, rows: usize, classes: usize) -> (Loss, Batch) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let objective = Objective::LogitAdjustment { tau: 0.7 };
    let loss = build(objective, &counts(&mut rng, classes));
    let batch = Batch {
        x: logits(&mut rng, rows * classes, 1.0),
        labels: labels(&mut rng, rows, classes),
        second: labels(&mut rng, rows, classes),
    };
    (loss, batch)
}

/// A step into fresh buffers: the summary, the gradient and the row losses.
type Step = (Summary, Vec<f32>, Vec<f32>);

fn into(loss: &mut MpiLoss, x: &[f32], batch: &Batch) -> Step {
    let (mut gradient, mut rows) = (vec![7.0; x.len()], vec![7.0; batch.labels.len()]);
    let outputs = Outputs::new().gradient(&mut gradient).row_losses(&mut rows);
    let options = Options::new().mixed_with(&batch.second, Lambda::Scalar(0.25));
    let summary = loss.evaluate_into(x, &batch.labels, &options, outputs);
    (summary.expect("valid"), gradient, rows)
}

pub fn overlapped_steps_are_the_same_to_the_bit(world: &SimpleCommunicator) {
    for (rows, classes) in [(1, 9), (33, 200), (7, 5000)] {
        let (loss, batch) = problem(8, rows, classes);
        for cut in cuts(4, ranks(world), classes) {
            let range = cut[rank(world)].clone();
            let own = columns(&batch.x, classes, &range);
            let mut loss = MpiLoss::new(&loss, range, world).expect("the ranks agree");
            let options = Options::new().mixed_with(&batch.second, Lambda::Scalar(0.25));
            // The first step makes its room; the others find it.
            for step in 0..3 {
                let (mut gradient, mut losses) = (vec![7.0; own.len()], vec![7.0; rows]);
                let outputs = Outputs::new()
                    .gradient(&mut gradient)
                    .row_losses(&mut losses);
                let mut worked = 0;
                let (summary, given) =
                    loss.evaluate_into_while(&own, &batch.labels, &options, outputs, || {
                        worked += 1;
                        "given"
                    });
                assert_eq!((worked, given), (1, "given"));
                let overlapped = (summary.expect("valid"), gradient, losses);
                assert_eq!(overlapped, into(&mut loss, &own, &batch), "step {step}");
            }
            let (summary, gradient, _) = into(&mut loss, &own, &batch);
            let mut over = own.clone();
            let labels = &batch.labels;
            let in_place = loss.evaluate_in_place(&mut over, labels, &options, Outputs::new());
            assert_eq!((in_place.expect("valid"), &over), (summary, &gradient));
            let mut over = own.clone();
            let (step, given) =
                loss.evaluate_in_place_while(&mut over, labels, &options, Outputs::new(), || 3);
            assert_eq!(
                (step.expect("valid"), &over, given),
                (summary, &gradient, 3)
            );
            let owned = loss.evaluate_with(&own, labels, &options).expect("valid");
            assert_eq!(owned.loss.to_bits(), summary.loss.to_bits());
        }
    }
}

pub fn steps_repeat_to_the_bit_on_all_ranks(world: &SimpleCommunicator) {
    let (whole, batch) = problem(9, 65, 700);
    let mut before = None;
    for _ in 0..4 {
        // Anew, as in another run.
        let mut loss = MpiLoss::even(&whole, world).expect("the ranks agree");
        let own = columns(&batch.x, 700, &loss.shard().classes());
        let step = into(&mut loss, &own, &batch);
        let bits = |values: &[f32]| values.iter().map(|v| u64::from(v.to_bits())).collect();
        let mut shared: Vec<u64> = bits(&step.2);
        shared.push(step.0.loss.to_bits());
        assert_same_on_all(world, &shared, "loss and row losses");
        if let Some(before) = &before {
            assert_eq!(before, &step);
        }
        before = Some(step);
    }
}

pub fn a_step_is_one_gather(world: &SimpleCommunicator) {
    let (whole, _) = problem(1, 1, 30);
    let mut loss = MpiLoss::even(&whole, world).expect("the ranks agree");
    assert_eq!(loss.gathers(), 0);
    let mut step = |rows: usize, options: &Options<'_, f32>| {
        let before = loss.gathers();
        let x = vec![0.5f32; rows * loss.shard().classes().len()];
        let labels: Vec<u16> = (0..rows).map(|row| (row % 30) as u16).collect();
        loss.evaluate_with(&x, &labels, options).expect("valid");
        loss.gathers() - before
    };
    let plain = Options::new();
    assert_eq!(step(0, &plain), 1); // nothing to tell
    assert_eq!(step(8, &plain), 2); // the first that tells anything
    for _ in 0..3 {
        assert_eq!(step(8, &plain), 1);
        assert_eq!(step(3, &plain), 1);
        assert_eq!(step(0, &plain), 1);
    }
    assert_eq!(step(9, &plain), 2); // more rows
    assert_eq!(step(9, &plain), 1);
    assert_eq!(step(9, &plain.hits()), 2); // more of a row
    assert_eq!(step(9, &plain.hits()), 1);
    assert_eq!(step(9, &plain), 1);
}

pub fn a_step_allocates_nothing(world: &SimpleCommunicator) {
    let (whole, batch) = problem(1, 16, 120);
    let mut loss = MpiLoss::even(&whole, world).expect("the ranks agree");
    let own = columns(&batch.x, 120, &loss.shard().classes());
    let options = Options::new()
        .mixed_with(&batch.second, Lambda::Scalar(0.25))
        .hits();
    let (mut gradient, mut hits) = (vec![0.0; own.len()], vec![false; 16]);
    let mut step = |overlapped: bool| {
        let outputs = Outputs::new().gradient(&mut gradient).hits(&mut hits);
        let labels = &batch.labels;
        let step = match overlapped {
            true => {
                loss.evaluate_into_while(&own, labels, &options, outputs, || ())
                    .0
            }
            false => loss.evaluate_into(&own, labels, &options, outputs),
        };
        step.expect("valid");
    };
    [false, true].into_iter().for_each(&mut step);
    for overlapped in [false, true, false] {
        assert_eq!(allocations::count(|| step(overlapped)), 0, "{overlapped}");
    }
}

pub fn work_that_panics_leaves_the_ranks_together(world: &SimpleCommunicator) {
    let (whole, batch) = problem(1, 16, 120);
    let mut loss = MpiLoss::even(&whole, world).expect("the ranks agree");
    let own = columns(&batch.x, 120, &loss.shard().classes());
    let right = into(&mut loss, &own, &batch);
    let options = Options::new();
    let worked = catch_unwind(AssertUnwindSafe(|| {
        let work = || assert!(rank(world) != 1, "on purpose");
        let (step, ()) =
            loss.evaluate_into_while(&own, &batch.labels, &options, Outputs::new(), work);
        step.expect("valid");
    }));
    assert_eq!(worked.is_err(), rank(world) == 1);
    assert_eq!(into(&mut loss, &own, &batch), right);
}
