//! Ranks that hold different rows.

use ala_loss::{
    ClassCounts, Divisor, Error as LossError, Loss, Objective, Options, Reduction, ZeroCounts,
};
use ala_loss_mpi::{Error, global_counts, global_divisor};
use mpi::topology::SimpleCommunicator;
use mpi::traits::CommunicatorCollectives;

use crate::cut::{assert_same_on_all, rank, ranks};
use crate::problem::mixed::IGNORED;
use crate::problem::{labels, logits};
use crate::values::{some_ignored, weighted};

pub fn parts_of_a_batch_have_the_gradient_of_the_whole(world: &SimpleCommunicator) {
    let (rank, ranks) = (rank(world), ranks(world));
    let classes = 19;
    // Of uneven parts, one of them empty where there are more than two.
    let ends: Vec<usize> = (0..ranks).map(|rank| [3, 3, 8, 20][rank]).collect();
    let begin = rank.checked_sub(1).map_or(0, |before| ends[before]);
    let (mine, rows) = (begin..ends[rank], ends[ranks - 1]);
    let mut rng = fastrand::Rng::with_seed(17);
    let x: Vec<f64> = logits(&mut rng, rows * classes, 1.0);
    let mut y = labels(&mut rng, rows, classes);
    some_ignored(&mut y);
    let loss = weighted(&mut rng, Objective::ala(), classes)
        .build()
        .expect("valid");
    for by in [Divisor::Weights, Divisor::Rows] {
        let options = Options::<f64>::new().divisor(by);
        let exact = loss.divisor(&y, &options).expect("valid");
        let divisor = global_divisor(world, loss.divisor(&y[mine.clone()], &options));
        let divisor = divisor.expect("valid");
        assert!((divisor - exact).abs() <= 1e-14 * exact);
        assert_same_on_all(world, &[divisor.to_bits()], "the divisor");
        // In rank order, whatever the message's way.
        let parts = (0..ranks).map(|rank| {
            let begin = rank.checked_sub(1).map_or(0, |before| ends[before]);
            loss.divisor(&y[begin..ends[rank]], &options)
                .expect("valid")
        });
        assert_eq!(divisor.to_bits(), parts.sum::<f64>().to_bits());

        let given = Options::new().divisor(Divisor::Given(divisor));
        let whole = loss.evaluate_with(&x, &y, &given).expect("valid");
        let columns = mine.start * classes..mine.end * classes;
        let own = loss.evaluate_with(&x[columns.clone()], &y[mine.clone()], &given);
        let own = own.expect("valid");
        assert_eq!(own.gradient, whole.gradient[columns]);
        let mut sum = [0.0];
        let operation = mpi::collective::SystemOperation::sum();
        world.all_reduce_into(&[own.loss][..], &mut sum[..], operation);
        assert!((sum[0] - whole.loss).abs() <= 1e-12 * whole.loss);
    }
    // A sum whose bits depend on the order.
    let own = [1e16, 1.0, 1.0, -0.0][rank % 4];
    let expected = (0..ranks).map(|rank| [1e16, 1.0, 1.0, -0.0][rank % 4]);
    let sum = global_divisor(world, Ok(own));
    assert_eq!(sum, Ok(expected.fold(0.0, |a, b| a + b)));
    // No rank has a row that counts.
    let none = global_divisor(world, loss.divisor(&[IGNORED; 2], &Options::<f32>::new()));
    assert_eq!(none, Ok(0.0));
}

pub fn divisors_that_are_wrong_are_told_on_all(world: &SimpleCommunicator) {
    let counts = ClassCounts::new([5, 3]).expect("counts");
    let loss = Loss::new(Objective::CrossEntropy, &counts).expect("a loss");
    let loss = loss.with_reduction(Reduction::Mean);
    for bad in 0..ranks(world) {
        let here = rank(world) == bad;
        let label = if here { 9 } else { 1 };
        let got = global_divisor(world, loss.divisor(&[0, label], &Options::<f32>::new()));
        let error = LossError::Label {
            row: 1,
            label: 9,
            classes: 2,
        };
        assert_eq!(got, Err(Error::Rank { rank: bad, error }));
        for value in [-1.0, f64::INFINITY] {
            let got = global_divisor(world, Ok(if here { value } else { 1.0 }));
            let error = LossError::Parameter {
                name: "divisor",
                value,
                allowed: "finite and at least 0",
            };
            assert_eq!(got, Err(Error::Rank { rank: bad, error }));
        }
        let got = global_divisor(world, Ok(if here { f64::NAN } else { 1.0 }));
        assert!(matches!(got, Err(Error::Rank { rank, .. }) if rank == bad));
        // One that travels as its text.
        let error = Err(LossError::Read("gone".to_owned()));
        let got = global_divisor(world, if here { error } else { Ok(1.0) });
        let message = "cannot read annotations: gone".to_owned();
        assert_eq!(got, Err(Error::RankMessage { rank: bad, message }));
    }
}

pub fn counts_are_added_up(world: &SimpleCommunicator) {
    let (rank, ranks) = (rank(world) as u64, ranks(world) as u64);
    let own: Vec<u64> = (0..1000)
        .map(|class| class * (rank + 1) + (1 << 60))
        .collect();
    let all = global_counts(world, &own).expect("they fit");
    let times = ranks * (ranks + 1) / 2;
    for (class, &sum) in all.iter().enumerate() {
        assert_eq!(sum, class as u64 * times + (ranks << 60));
    }
    assert_eq!(global_counts(world, &[]), Ok(vec![]));

    // The samples of one data set, each on one rank.
    let mut rng = fastrand::Rng::with_seed(2);
    let samples = labels(&mut rng, 500, 20);
    let of = |samples: &[i64]| ClassCounts::from_labels(samples, 20, ZeroCounts::TreatAsOne);
    let whole = of(&samples).expect("labels");
    let mut own = [0; 20];
    for label in samples.iter().skip(rank as usize).step_by(ranks as usize) {
        own[*label as usize] += 1;
    }
    let all = global_counts(world, &own).expect("they fit");
    assert_eq!(
        ClassCounts::with_zero_policy(all, ZeroCounts::TreatAsOne),
        Ok(whole)
    );
}

pub fn counts_that_do_not_fit_are_told_on_all(world: &SimpleCommunicator) {
    let ranks = ranks(world);
    for other in 1..ranks {
        let here = rank(world) == other;
        let got = global_counts(world, &vec![1; if here { 7 } else { 5 }]);
        let error = Error::Differ {
            what: "class counts",
            rank: other,
            got: 7,
            expected: 5,
        };
        assert_eq!(got, Err(error));
    }
    let got = global_counts(world, &[3, u64::MAX]);
    let sum = ranks as u128 * u128::from(u64::MAX);
    assert_eq!(got, Err(Error::CountOverflow { sum }));
    assert_eq!(global_counts(world, &[3]), Ok(vec![3 * ranks as u64]));
}
