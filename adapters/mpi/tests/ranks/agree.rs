//! Ranks that make a loss together, all of them and groups.

use std::ops::Range;

use ala_loss::{ClassCounts, Error as LossError, Loss, Objective, Options, Outputs, Reduction};
use ala_loss_mpi::{Error, MpiLoss};
use mpi::topology::{Color, SimpleCommunicator};
use mpi::traits::{Communicator, CommunicatorCollectives};

use crate::cut::{TOLERANCE, assert_close, assert_same_on_all, columns, rank, ranks};
use crate::problem::{build, counts, labels, logits};

fn of(classes: usize, objective: Objective) -> Loss {
    let counts = ClassCounts::new((1..=classes as u64).collect::<Vec<u64>>()).expect("counts");
    build(objective, &counts)
}

pub fn ranks_that_disagree_have_no_loss(world: &SimpleCommunicator) {
    let (rank, ranks) = (rank(world), ranks(world));
    let classes = 12;
    let loss = of(classes, Objective::ala());
    let even = |r: usize| r * classes / ranks..(r + 1) * classes / ranks;
    let last = ranks - 1;
    let refused = |loss: &Loss, own: Range<usize>, expected: Error| {
        let got = MpiLoss::new(loss, own, world).map(|_| ());
        assert_eq!(got, Err(expected));
    };
    let own = even(rank);

    // A class that two ranks have, one that nobody has, the order turned round, classes left over.
    let own_last = |start: usize| {
        if rank == last {
            start..classes
        } else {
            own.clone()
        }
    };
    for start in [even(last).start - 1, even(last).start + 1] {
        let error = Error::FirstClass {
            rank: last,
            start,
            end: classes,
            expected: even(last).start,
        };
        refused(&loss, own_last(start), error);
    }
    let turned = even(last - rank);
    let error = Error::FirstClass {
        rank: 0,
        start: even(last).start,
        end: classes,
        expected: 0,
    };
    refused(&loss, turned, error);
    let short = if rank == last {
        own.start..classes - 1
    } else {
        own.clone()
    };
    let error = Error::LastClass {
        end: classes - 1,
        classes,
    };
    refused(&loss, short, error);

    // Ranges that are none, on one rank.
    for (start, end) in [(3, 3), (11, 13), (5, 2)] {
        let given = if rank == last {
            Range { start, end }
        } else {
            own.clone()
        };
        let error = LossError::ShardClasses {
            start,
            end,
            classes,
        };
        refused(&loss, given, Error::Rank { rank: last, error });
    }
    let builder = || Loss::builder(Objective::CrossEntropy, &counts_of(classes));
    let smoothed = builder().label_smoothing(0.1).build().expect("valid");
    let error = LossError::Misplaced {
        given: "smoothed labels for shards",
        instead: "build the loss without label smoothing",
    };
    refused(&smoothed, own.clone(), Error::Rank { rank: 0, error });

    // Another loss on the last rank.
    let error = Error::Differ {
        what: "classes",
        rank: last,
        got: classes + 1,
        expected: classes,
    };
    let other = of(classes + 1, Objective::ala());
    let here = |other: Loss, loss: &Loss| if rank == last { other } else { loss.clone() };
    refused(&here(other, &loss), own.clone(), error);
    let plain = builder().build().expect("valid");
    let changed = [
        of(classes, Objective::Focal { gamma: 2.0 }),
        of(classes, Objective::BalancedSoftmax),
        plain.with_reduction(Reduction::Sum),
        builder().ignore_label(3).build().expect("valid"),
        builder().scale(2.0).build().expect("valid"),
        builder().class_weights([2.0; 12]).build().expect("valid"),
    ];
    for changed in changed {
        let error = Error::Unlike {
            what: "objective, class counts and settings",
            rank: last,
        };
        refused(&here(changed, &plain), own.clone(), error);
    }

    // More ranks than classes.
    let few = of(ranks - 1, Objective::ala());
    let got = MpiLoss::even(&few, world).map(|_| ());
    let error = LossError::ShardClasses {
        start: 0,
        end: 0,
        classes: ranks - 1,
    };
    assert_eq!(got, Err(Error::Rank { rank: 0, error }));

    assert!(MpiLoss::new(&loss, own, world).is_ok());
}

fn counts_of(classes: usize) -> ClassCounts {
    ClassCounts::new((1..=classes as u64).collect::<Vec<u64>>()).expect("counts")
}

/// Each group has its own loss, number of rows and of steps, and all messages are apart from those
/// that the caller sends.
pub fn groups_of_ranks_have_losses_of_their_own(world: &SimpleCommunicator) {
    let group = rank(world) % 2;
    let color = Color::with_value(group as i32);
    let own = world.split_by_color(color).expect("each is in a group");
    let mut rng = fastrand::Rng::with_seed(group as u64);
    let (rows, classes) = [(5, 14), (8, 9)][group];
    let loss = build(Objective::ala(), &counts(&mut rng, classes));
    let mut mine = MpiLoss::even(&loss, &own).expect("the ranks agree");
    let range = mine.shard().classes();
    for step in 0..3 + 4 * group {
        let x: Vec<f64> = logits(&mut rng, rows * classes, 1.0);
        let y = labels(&mut rng, rows, classes);
        let whole = loss.evaluate(&x, &y).expect("valid");
        let got = mine
            .evaluate(&columns(&x, classes, &range), &y)
            .expect("valid");
        assert_close(
            &got,
            &whole,
            &range,
            (TOLERANCE, &format!("group {group}, step {step}")),
        );
        assert_same_on_all(&own, &[got.loss.to_bits()], "a group's loss");
    }
    // Over all ranks at the same time, beside messages of the caller's.
    let loss = of(20, Objective::BalancedSoftmax);
    let mut all = MpiLoss::even(&loss, world).expect("the ranks agree");
    let width = all.shard().classes().len();
    let mut sum = [0u64];
    let (step, ()) = all.evaluate_into_while(
        &vec![0.5f32; width],
        &[3],
        &Options::new(),
        Outputs::new(),
        || {
            let ranks = [1u64];
            let operation = mpi::collective::SystemOperation::sum();
            world.all_reduce_into(&ranks[..], &mut sum[..], operation);
        },
    );
    assert_eq!(sum, [world.size() as u64]);
    assert_same_on_all(
        world,
        &[step.expect("valid").loss.to_bits()],
        "the whole's loss",
    );
}
