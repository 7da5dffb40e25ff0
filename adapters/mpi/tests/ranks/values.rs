//! Loss and gradient, by the loss that is not cut and by the reference.

use ala_loss::{
    CpuElement, Divisor, Lambda, Loss, LossBuilder, Objective, Options, Real, Reduction, Upstream,
    reference,
};
use ala_loss_mpi::MpiLoss;
use half::{bf16, f16};
use mpi::topology::SimpleCommunicator;

use crate::cut::{check, columns, cuts, rank, ranks};
use crate::problem::mixed::{self, IGNORED};
use crate::problem::{
    assert_within, counts, gradient_bound, labels, logits, loss_bound, objectives, slope, widen,
    widen_real,
};

/// A loss with class weights, some of which are equal, and an ignore label.
pub fn weighted(rng: &mut fastrand::Rng, objective: Objective, classes: usize) -> LossBuilder {
    let counts = counts(rng, classes);
    let weights: Vec<f64> = (0..classes).map(|j| [1.0, 0.25, 3.0][j % 3]).collect();
    Loss::builder(objective, &counts)
        .class_weights(weights)
        .ignore_label(IGNORED)
}

/// Some of the labels ignored.
pub fn some_ignored(labels: &mut [i64]) {
    labels
        .iter_mut()
        .skip(1)
        .step_by(4)
        .for_each(|label| *label = IGNORED);
}

pub fn every_objective_is_that_of_the_whole(world: &SimpleCommunicator) {
    let mut rng = fastrand::Rng::with_seed(11);
    for objective in objectives() {
        for (rows, classes) in [(1, 8), (9, 23), (5, 140)] {
            let x: Vec<f64> = logits(&mut rng, rows * classes, 1.0);
            let mut y = labels(&mut rng, rows, classes);
            some_ignored(&mut y);
            let builder = weighted(&mut rng, objective, classes);
            for reduction in [Reduction::Mean, Reduction::Sum, Reduction::None] {
                let loss = builder.clone().reduction(reduction).build().expect("valid");
                let options = Options::new().hits().predictions();
                check(world, &loss, &x, &y, &options, "random");
                against_the_reference(world, &loss, &x, &y);
            }
            // Weights that all classes share are not told.
            let counts = counts(&mut rng, classes);
            let loss = Loss::builder(objective, &counts).ignore_label(IGNORED);
            let loss = loss.build().expect("valid");
            check(world, &loss, &x, &y, &Options::new(), "one weight");
            against_the_reference(world, &loss, &x, &y);
        }
    }
}

/// Within the bounds that all paths are held to.
fn against_the_reference<T: CpuElement>(
    world: &SimpleCommunicator,
    loss: &Loss,
    x: &[T],
    labels: &[i64],
) {
    let (rows, classes) = (labels.len(), loss.classes());
    let exact = reference::batch(loss, &widen(x), labels, &vec![1.0; rows]);
    let slope = slope(loss.table());
    for cut in cuts(5, ranks(world), classes) {
        let range = cut[rank(world)].clone();
        let mut mine = MpiLoss::new(loss, range.clone(), world).expect("the ranks agree");
        let got = mine.evaluate(&columns(x, classes, &range), labels);
        let got = got.expect("a valid batch");
        let name = |what: &str| format!("{:?} C={classes} {range:?} {what}", loss.objective());
        assert_within(got.loss, exact.loss, loss_bound(exact.loss), &|| {
            name("loss")
        });
        let row_losses = widen_real::<T>(&got.row_losses);
        for (got, &exact) in row_losses.into_iter().zip(&exact.row_losses) {
            assert_within(got, exact, loss_bound(exact), &|| name("row loss"));
        }
        let gradient = columns(&exact.gradient, classes, &range);
        assert_eq!(gradient.len(), got.gradient.len());
        for (got, exact) in widen(&got.gradient).into_iter().zip(gradient) {
            let bound = gradient_bound::<T>(exact, slope);
            assert_within(got, exact, bound, &|| name("gradient"));
        }
    }
}

pub fn narrow_types_are_within_their_bounds(world: &SimpleCommunicator) {
    fn of<T: CpuElement>(world: &SimpleCommunicator) {
        let mut rng = fastrand::Rng::with_seed(29);
        for objective in objectives() {
            for (rows, classes, bound) in [(3, 17, 1.0), (4, 365, 1.0), (2, 40, 50.0)] {
                // Raw logits belong to losses that do not scale.
                if bound > 1.0 && objective.default_scale() > 1.0 {
                    continue;
                }
                let x: Vec<T> = logits(&mut rng, rows * classes, bound);
                let mut y = labels(&mut rng, rows, classes);
                some_ignored(&mut y);
                let loss = weighted(&mut rng, objective, classes)
                    .build()
                    .expect("valid");
                against_the_reference(world, &loss, &x, &y);
            }
        }
    }
    of::<f32>(world);
    of::<f16>(world);
    of::<bf16>(world);
}

pub fn every_option_is_that_of_the_whole(world: &SimpleCommunicator) {
    let mut rng = fastrand::Rng::with_seed(3);
    let (rows, classes) = (9, 31);
    for objective in objectives() {
        let x: Vec<f64> = logits(&mut rng, rows * classes, 1.0);
        let [mut y, mut second] = [(); 2].map(|()| labels(&mut rng, rows, classes));
        some_ignored(&mut y);
        second[2] = IGNORED;
        second[3] = y[3];
        let weights: Vec<f64> = (0..rows).map(|row| [1.0, 0.0, 2.5][row % 3]).collect();
        let lambda: Vec<f64> = (0..rows)
            .map(|row| [0.25, 1.0, 0.0, 0.5][row % 4])
            .collect();
        let upstream: Vec<f64> = (0..rows).map(|row| row as f64 - 3.0).collect();
        let builder = weighted(&mut rng, objective, classes);
        let plain = Options::new();
        let mean = [
            plain.row_weights(&weights),
            plain.divisor(Divisor::Rows),
            plain.divisor(Divisor::Given(17.0)),
            plain.mixed_with(&second, Lambda::Scalar(0.7)).hits(),
            plain
                .mixed_with(&second, Lambda::PerRow(&lambda))
                .predictions(),
            plain
                .mixed_with(&second, Lambda::PerRow(&lambda))
                .row_weights(&weights)
                .upstream(Upstream::Scalar(-2.0))
                .gradient_scale(1024.0)
                .hits()
                .predictions(),
        ];
        let loss = builder.clone().build().expect("valid");
        for (i, options) in mean.iter().enumerate() {
            check(world, &loss, &x, &y, options, &format!("mean, options {i}"));
        }
        let loss = builder.reduction(Reduction::None).build().expect("valid");
        let each = plain.upstream(Upstream::PerRow(&upstream));
        check(world, &loss, &x, &y, &each, "upstream");
        let both = each.mixed_with(&second, Lambda::Scalar(0.3));
        check(world, &loss, &x, &y, &both, "upstream of mixed rows");
        // What is not a number is a number's own matter, and does not hide what was asked for.
        let nan = plain.upstream(Upstream::Scalar(f64::NAN)).hits();
        check(
            world,
            &loss,
            &x,
            &y,
            &nan,
            "an upstream gradient that is not a number",
        );
    }
}

pub fn mixed_rows_are_those_of_the_definition(world: &SimpleCommunicator) {
    fn of<T: CpuElement>(world: &SimpleCommunicator) {
        let mut rng = fastrand::Rng::with_seed(41);
        let (rows, classes) = (6, 33);
        for objective in objectives() {
            let counts = counts(&mut rng, classes);
            let loss = mixed::sum_of(objective, &counts, 30.0, 0.0);
            let batch = mixed::random::<T>(&mut rng, rows, classes);
            let (losses, gradient) = mixed::exact(&loss, &batch);
            let lambda = mixed::real::<T>(&batch.lambda);
            let weights = mixed::real::<T>(&batch.weights);
            let options = Options::new()
                .mixed_with(&batch.b, Lambda::PerRow(&lambda))
                .row_weights(&weights);
            let slope = slope(loss.table()) * 3.0;
            for cut in cuts(2, ranks(world), classes) {
                let range = cut[rank(world)].clone();
                let mut mine = MpiLoss::new(&loss, range.clone(), world).expect("valid");
                let own = columns(&batch.x, classes, &range);
                let got = mine.evaluate_with(&own, &batch.a, &options).expect("valid");
                for (got, &exact) in got.row_losses.iter().zip(&losses) {
                    let name = || format!("{objective:?} row loss");
                    assert_within(got.to_f64(), exact, loss_bound(exact), &name);
                }
                let exact = columns(&gradient, classes, &range);
                for (got, exact) in widen(&got.gradient).into_iter().zip(exact) {
                    let bound = gradient_bound::<T>(exact, slope);
                    assert_within(got, exact, bound, &|| format!("{objective:?} gradient"));
                }
            }
        }
    }
    of::<f64>(world);
    of::<f32>(world);
}
