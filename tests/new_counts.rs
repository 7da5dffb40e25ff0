//! A loss for new class counts is the loss that is built from them.

use ala_loss::{
    ClassCounts, DeferredReweighting, Error, Input, Loss, LossBuilder, NonTarget, Objective,
    Reduction, RowTable, Target, ZeroCounts,
};

mod problem;
use problem::{counts, labels, logits, objectives, widen};

const CLASSES: usize = 40;

/// Every setting that a builder has, alone and with others.
fn settings() -> Vec<fn(LossBuilder) -> LossBuilder> {
    vec![
        |plain| plain,
        |b| b.scale(7.5),
        |b| b.input(Input::PreScaled),
        |b| b.reduction(Reduction::Sum),
        |b| b.ignore_label(3),
        |b| b.class_weights(given_weights()),
        |b| {
            b.scale(0.7)
                .input(Input::PreScaled)
                .reduction(Reduction::None)
                .ignore_label(-1)
                .class_weights(given_weights())
        },
    ]
}

fn given_weights() -> Vec<f64> {
    (0..CLASSES).map(|j| 0.3 + j as f64 / 7.0).collect()
}

/// The table, all that the loss says of itself, and the bits of a result.
fn assert_same(got: &Loss, right: &Loss, what: &str) {
    assert_eq!(got.table(), right.table(), "{what}");
    assert_eq!(got.counts(), right.counts(), "{what}");
    assert_eq!(format!("{got:?}"), format!("{right:?}"), "{what}");
    let mut rng = fastrand::Rng::with_seed(90);
    let x = logits::<f32>(&mut rng, 9 * CLASSES, 1.0);
    let y = labels(&mut rng, 9, CLASSES);
    let bits = |loss: &Loss| -> Vec<u64> {
        let outcome = loss.evaluate(&x, &y).expect("valid");
        let all = [outcome.loss, outcome.counted_rows as f64].into_iter();
        let all = all.chain(widen(&outcome.row_losses));
        all.chain(widen(&outcome.gradient))
            .map(f64::to_bits)
            .collect()
    };
    assert_eq!(bits(got), bits(right), "{what}");
}

fn old_and_new() -> [ClassCounts; 2] {
    let mut rng = fastrand::Rng::with_seed(91);
    [counts(&mut rng, CLASSES), counts(&mut rng, CLASSES)]
}

#[test]
fn a_loss_for_new_counts_is_the_one_built_from_them() {
    let [old, new] = old_and_new();
    for objective in objectives() {
        for (i, set) in settings().into_iter().enumerate() {
            let build = |counts| {
                set(Loss::builder(objective, counts))
                    .build()
                    .expect("valid")
            };
            let (before, right) = (build(&old), build(&new));
            let got = before.with_counts(&new).expect("as many classes");
            let what = format!("{objective:?}, setting {i}");
            assert_same(&got, &right, &what);
            // And back again.
            assert_same(&got.with_counts(&old).expect("valid"), &before, &what);
            assert_same(&before.with_counts(&old).expect("valid"), &before, &what);
        }
    }
}

#[test]
fn smoothing_stays_for_new_counts() {
    let [old, new] = old_and_new();
    let focal = |objective: &Objective| matches!(objective, Objective::Focal { .. });
    for objective in objectives().into_iter().filter(|o| !focal(o)) {
        let build = |counts| {
            let builder = Loss::builder(objective, counts).label_smoothing(0.15);
            let builder = builder.class_weights(given_weights()).ignore_label(2);
            builder.build().expect("valid")
        };
        let got = build(&old).with_counts(&new).expect("valid");
        assert_eq!(got.label_smoothing(), 0.15);
        assert_same(&got, &build(&new), &format!("{objective:?}"));
    }
}

/// Weights that were given stay, also those of a schedule that computed them from the old counts;
/// an objective's own are computed anew.
#[test]
fn given_weights_and_a_reduction_set_later_stay_for_new_counts() {
    let [old, new] = old_and_new();
    let balanced = old.class_balanced_weights(0.999).expect("valid");
    for objective in [
        Objective::Ldam { max_margin: 0.5 },
        Objective::ClassBalanced { beta: 0.99 },
    ] {
        let loss = Loss::new(objective, &old).expect("valid");
        let schedule = DeferredReweighting::new(loss, &balanced, 1).expect("valid");
        for (epoch, weights) in [(0, vec![1.0; CLASSES]), (1, balanced.clone())] {
            let loss = schedule.at(epoch).with_reduction(Reduction::Sum);
            let got = loss.with_counts(&new).expect("valid");
            let right = Loss::builder(objective, &new).reduction(Reduction::Sum);
            let right = right.class_weights(weights).build().expect("valid");
            assert_same(&got, &right, &format!("{objective:?}, epoch {epoch}"));
        }
    }
    // Given twice they are multiplied.
    let builder = |counts| Loss::builder(Objective::ClassBalanced { beta: 0.99 }, counts);
    let twice = builder(&old).class_weights(given_weights());
    let twice = twice.build().expect("valid").with_class_weights(&balanced);
    let got = twice.expect("valid").with_counts(&new).expect("valid");
    let products = given_weights().into_iter().zip(&balanced);
    let products: Vec<f64> = products.map(|(a, b)| a * b).collect();
    let right = builder(&new).class_weights(products).build();
    assert_same(&got, &right.expect("valid"), "weights given twice");
}

/// The counts bring their own policy for classes without samples.
#[test]
fn new_counts_may_have_none_of_a_class() {
    let [old, _] = old_and_new();
    let mut seen = vec![0; CLASSES];
    seen[7] = 900;
    let new = ClassCounts::with_zero_policy(seen, ZeroCounts::TreatAsOne).expect("valid");
    let loss = Loss::new(Objective::ala(), &old).expect("valid");
    let right = Loss::new(Objective::ala(), &new).expect("valid");
    let got = loss.with_counts(&new).expect("valid");
    assert_same(&got, &right, "one class seen");
}

#[test]
fn what_has_no_new_counts_is_named() {
    let [old, new] = old_and_new();
    let loss = Loss::new(Objective::ala(), &old).expect("valid");
    let more = ClassCounts::new(vec![5; CLASSES + 1]).expect("positive");
    let error = loss.with_counts(&more).expect_err("another number");
    let message = "class counts has 41 entries: expected 40";
    assert_eq!(error.to_string(), message);

    let slope = 2.0;
    let target = Target {
        slope,
        bias: 0.0,
        gradient_slope: slope,
        weight: 1.0,
    };
    let table = RowTable::new([target; CLASSES], NonTarget::Uniform { slope }, None);
    let loss = Loss::from_table(table.expect("valid")).build();
    let loss = loss.expect("valid");
    for loss in [
        loss.with_class_weights(&given_weights()).expect("valid"),
        loss,
    ] {
        let error = loss.with_counts(&new).expect_err("there is no objective");
        assert!(matches!(error, Error::Misplaced { .. }));
        assert!(error.to_string().contains("from a table"), "{error}");
    }
}
