//! Rows that are not like others.

use ala_loss::{Lambda, NO_CLASS, Objective, Options, Outputs};
use ala_loss_mpi::MpiLoss;
use mpi::topology::SimpleCommunicator;

use crate::cut::{check_within, cuts, rank, ranks};
use crate::problem::mixed::IGNORED;
use crate::problem::objectives;
use crate::values::weighted;

/// A mask near the type's lowest. Of the lowest itself an exponent is the type's last number, which
/// two shards' parts of it may round beyond.
const FAR: f64 = -1e308;

pub fn edges_are_those_of_the_whole(world: &SimpleCommunicator) {
    let classes = 9;
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    let base = |j: usize| (j * 5 % 9) as f64 * 0.1 - 0.3;
    let mut rows: Vec<[f64; 9]> = vec![];
    let row = |change: &dyn Fn(usize) -> Option<f64>| {
        std::array::from_fn::<f64, 9, _>(|j| change(j).unwrap_or_else(|| base(j)))
    };
    for at in [0, 4, 8] {
        for value in [nan, inf, -inf, -1e9, 1e9, FAR, 250.0] {
            rows.push(row(&|j| (j == at).then_some(value)));
        }
    }
    // Masks on the first classes, on the last, on all but one, on all: whole shards among them, and
    // of seven ranks those of one class.
    for masked in [0..2, 0..4, 0..5, 3..6, 2..9, 5..9, 8..9, 0..8, 1..9, 0..9] {
        for mask in [-inf, -1e9, FAR] {
            rows.push(row(&|j| masked.contains(&j).then_some(mask)));
        }
    }
    // Equal logits, of which the lowest class is the largest; a common offset.
    rows.push([0.25; 9]);
    rows.push(row(&|j| (j % 2 == 1).then_some(0.75)));
    rows.push(std::array::from_fn(|j| base(j) + 1e4));
    rows.push([0.0; 9].map(|_| -0.0));
    let x: Vec<f64> = rows.concat();
    let options = Options::new().hits().predictions();
    let mut rng = fastrand::Rng::with_seed(5);
    for objective in objectives() {
        let loss = weighted(&mut rng, objective, classes)
            .reduction(ala_loss::Reduction::None)
            .build()
            .expect("valid");
        for target in [0, 4, 8] {
            let labels = vec![target; rows.len()];
            check_within(
                world,
                &loss,
                &x,
                &labels,
                &options,
                (1e-6, &format!("target {target}")),
            );
            let second = vec![(target + 3) % 9; rows.len()];
            let mixed = options.mixed_with(&second, Lambda::Scalar(0.25));
            check_within(
                world,
                &loss,
                &x,
                &labels,
                &mixed,
                (1e-6, &format!("mixed, target {target}")),
            );
        }
    }
}

pub fn nothing_to_count_is_zero(world: &SimpleCommunicator) {
    let mut rng = fastrand::Rng::with_seed(5);
    let loss = weighted(&mut rng, Objective::ala(), 11)
        .build()
        .expect("valid");
    for cut in cuts(1, ranks(world), 11) {
        let range = cut[rank(world)].clone();
        let mut mine = MpiLoss::new(&loss, range.clone(), world).expect("valid");
        let x = vec![f32::NAN; 3 * range.len()];
        let (mut gradient, mut losses) = (vec![7.0; x.len()], [7.0; 3]);
        let (mut hits, mut predictions) = ([true; 3], [7; 3]);
        let outputs = Outputs::new()
            .gradient(&mut gradient)
            .row_losses(&mut losses);
        let outputs = outputs.hits(&mut hits).predictions(&mut predictions);
        let options = Options::new().hits().predictions();
        let summary = mine.evaluate_into(&x, &[IGNORED; 3], &options, outputs);
        let summary = summary.expect("a valid batch");
        assert_eq!((summary.loss, summary.counted_rows), (0.0, 0));
        assert!(gradient.iter().chain(&losses).all(|&value| value == 0.0));
        assert_eq!((hits, predictions), ([false; 3], [NO_CLASS; 3]));

        let none: [i64; 0] = [];
        let outcome = mine.evaluate::<f32, _>(&[], &none).expect("no rows");
        assert_eq!((outcome.loss, outcome.gradient.len()), (0.0, 0));
    }
}
