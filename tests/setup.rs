//! Class counts, objectives, weights and metrics: what is accepted, what is refused, and what comes out.

use ala_loss::metrics::{Accuracy, Tally};
use ala_loss::{
    Ala, ClassCounts, DeferredReweighting, DifficultyGradient, Error, Group, GroupThresholds, Loss,
    Objective, QuantityLog, ZeroCounts,
};

fn counts(counts: &[u64]) -> ClassCounts {
    ClassCounts::new(counts).expect("valid")
}

#[test]
fn counts_are_validated() {
    assert_eq!(ClassCounts::new([]), Err(Error::NoClasses));
    assert_eq!(
        ClassCounts::new([3, 0, 0]),
        Err(Error::ZeroCount { class: 1 })
    );
    let most = 1u64 << 53;
    assert!(ClassCounts::new([most]).is_ok());
    let error = Error::CountTooLarge {
        class: 1,
        count: most + 1,
    };
    assert_eq!(ClassCounts::new([1, most + 1]), Err(error));
    // Sums beyond 64 bits are not lost.
    assert_eq!(counts(&vec![most; 4096]).total(), 1u128 << 65);
    let treated = ClassCounts::with_zero_policy([3, 0], ZeroCounts::TreatAsOne).expect("valid");
    assert_eq!((treated.as_slice(), treated.min()), ([3, 1].as_slice(), 1));
}

/// More classes than there can be memory for are an error, not a panic.
#[test]
fn a_number_of_classes_without_memory_is_an_error() {
    let error = Err(Error::TooManyClasses {
        classes: usize::MAX,
    });
    let policy = ZeroCounts::TreatAsOne;
    assert_eq!(ClassCounts::from_labels(&[0u8], usize::MAX, policy), error);
    let file = "a.jpg 0\n".as_bytes();
    assert_eq!(
        ClassCounts::from_annotations(file, Some(usize::MAX), policy),
        error
    );
}

#[test]
fn counts_from_labels() {
    let from =
        |labels: &[i64], classes| ClassCounts::from_labels(labels, classes, ZeroCounts::TreatAsOne);
    assert_eq!(from(&[2, 0, 2, 2], 3).expect("valid").as_slice(), [1, 1, 3]);
    assert!(matches!(
        from(&[0, 3], 3),
        Err(Error::Label {
            row: 1,
            label: 3,
            classes: 3
        })
    ));
    assert!(matches!(
        from(&[-1], 3),
        Err(Error::Label {
            row: 0,
            label: -1,
            classes: 3
        })
    ));
    assert_eq!(from(&[], 0), Err(Error::NoClasses));
    assert_eq!(
        ClassCounts::from_labels(&[0u8, 2], 3, ZeroCounts::Reject),
        Err(Error::ZeroCount { class: 1 })
    );
}

#[test]
fn counts_from_annotation_files() {
    let from = |text: &str, classes| {
        ClassCounts::from_annotations(text.as_bytes(), classes, ZeroCounts::Reject)
    };
    let file = "data/a b.jpg 1\r\n\r\ndata/c.jpg\t0\ndata/d.jpg 1\n";
    assert_eq!(from(file, None).expect("valid").as_slice(), [1, 2]);
    assert_eq!(from(file, Some(2)).expect("valid").as_slice(), [1, 2]);
    assert_eq!(from(file, Some(3)), Err(Error::ZeroCount { class: 2 }));
    let line = |text, classes| match from(text, classes) {
        Err(Error::Annotation { line, problem }) => (line, problem),
        other => panic!("{other:?}"),
    };
    assert_eq!(line("a 0\nb\n", None).0, 2);
    assert_eq!(line("a 0\nb -1\n", None).0, 2);
    assert_eq!(line("a 0\n\nb 1.5\n", None).0, 3);
    assert_eq!(line("a 0\nb 2\n", Some(2)).0, 2);
    // A corrupt index must not become an allocation.
    assert!(
        line("a 99999999999999\n", None)
            .1
            .contains("99999999999999")
    );
    assert_eq!(from("", None), Err(Error::NoClasses));
    let not_text = ClassCounts::from_annotations(&b"a\xff 0\n"[..], None, ZeroCounts::Reject);
    assert!(matches!(not_text, Err(Error::Read(_))));
}

#[test]
fn priors_ratio_and_groups() {
    let c = counts(&[101, 100, 20, 19]);
    assert_eq!(c.priors().iter().sum::<f64>(), 1.0);
    assert_eq!(c.priors()[3], 19.0 / 240.0);
    assert_eq!(c.imbalance_ratio(), 101.0 / 19.0);
    let custom = GroupThresholds::new(100, 101).expect("adjacent");
    assert_eq!(
        c.groups(custom),
        [Group::Many, Group::Few, Group::Few, Group::Few]
    );
    assert!(GroupThresholds::new(100, 102).is_err());
}

#[test]
fn class_balanced_weights_sum_to_c_and_follow_the_formula() {
    let c = counts(&[1000, 30, 2]);
    for beta in [0.0, 0.9, 0.9999, 1.0 - 1e-12] {
        let weights = c.class_balanced_weights(beta).expect("valid");
        assert!((weights.iter().sum::<f64>() - 3.0).abs() < 1e-12);
    }
    let weights = c.class_balanced_weights(0.9).expect("valid");
    let raw = |n: i32| (1.0 - 0.9) / (1.0 - 0.9f64.powi(n));
    assert!((weights[0] / weights[2] - raw(1000) / raw(2)).abs() < 1e-12);
    // beta -> 1 is inverse frequency.
    let inverse = c.class_balanced_weights(1.0 - 1e-12).expect("valid");
    assert!((inverse[2] / inverse[0] - 500.0).abs() < 1e-3);
    for beta in [-0.1, 1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(
            c.class_balanced_weights(beta),
            Err(Error::Parameter { name: "beta", .. })
        ));
    }
}

#[test]
fn the_quantity_factor_follows_the_paper() {
    let margin = |log| {
        let loss = Loss::builder(Objective::QuantityOnly { log }, &counts(&[700, 100]))
            .scale(1.0)
            .build();
        loss.expect("valid")
            .table()
            .targets()
            .iter()
            .map(|t| -t.bias)
            .collect::<Vec<_>>()
    };
    // 1/log2(700/100 + 1) = 1/3 and 1/log2(1 + 1) = 1.
    assert_eq!(margin(QuantityLog::Base2), [1.0 / 3.0, 1.0]);
    let natural = margin(QuantityLog::Natural);
    assert!(
        (natural[0] - 1.0 / 8f64.ln()).abs() < 1e-15
            && (natural[1] - 1.0 / 2f64.ln()).abs() < 1e-15
    );
}

#[test]
fn invalid_parameters_are_errors_that_name_them() {
    let c = counts(&[5, 3]);
    let bad = [-1.0, f64::NAN, f64::INFINITY];
    let refused = |objective: Objective, name: &str| {
        let error = Loss::builder(objective, &c)
            .build()
            .expect_err("out of range");
        assert!(
            matches!(error, Error::Parameter { name: n, .. } if n == name),
            "{objective:?}: {error}"
        );
    };
    for v in bad {
        refused(
            Objective::Ala(Ala {
                log_prior_tau: v,
                ..Ala::default()
            }),
            "log_prior_tau",
        );
        refused(
            Objective::DifficultyOnly {
                k: v,
                gradient: DifficultyGradient::Detached,
            },
            "k",
        );
        refused(Objective::Focal { gamma: v }, "gamma");
        refused(Objective::LogitAdjustment { tau: v }, "tau");
        refused(Objective::VectorScaling { gamma: v, tau: 1.0 }, "gamma");
        refused(Objective::VectorScaling { gamma: 0.1, tau: v }, "tau");
        refused(Objective::Ldam { max_margin: v }, "max_margin");
        refused(Objective::CosFace { margin: v }, "margin");
        refused(Objective::ClassBalanced { beta: v }, "beta");
        let weighted = Loss::builder(Objective::ala(), &c)
            .class_weights([1.0, v])
            .build();
        assert!(matches!(
            weighted,
            Err(Error::Parameter {
                name: "class weight",
                ..
            })
        ));
    }
    refused(Objective::ClassBalanced { beta: 1.0 }, "beta");
    refused(
        Objective::VectorScaling {
            gamma: 1e9,
            tau: 0.0,
        },
        "vector scaling's smallest slope",
    );
    for scale in [0.0, -30.0, f64::NAN, f64::INFINITY] {
        let loss = Loss::builder(Objective::ala(), &c).scale(scale).build();
        assert!(
            matches!(loss, Err(Error::Parameter { name: "scale", .. })),
            "{scale}"
        );
    }
    let lengths = Loss::builder(Objective::ala(), &c)
        .class_weights([1.0; 3])
        .build();
    assert!(matches!(
        lengths,
        Err(Error::Length {
            name: "class weights",
            got: 3,
            expected: 2
        })
    ));
}

#[test]
fn deferred_weights_switch_on_at_their_epoch() {
    let c = counts(&[500, 5]);
    let loss = Loss::builder(Objective::Ldam { max_margin: 0.5 }, &c)
        .build()
        .expect("valid");
    let weights = c.class_balanced_weights(0.9999).expect("valid");
    let schedule = DeferredReweighting::new(loss, &weights, 2).expect("valid");
    let weight = |epoch| schedule.at(epoch).table().targets()[0].weight;
    assert_eq!(
        [weight(0), weight(1), weight(2), weight(9)],
        [1.0, 1.0, weights[0], weights[0]]
    );
}

#[test]
fn losses_are_shared_between_threads() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    shared::<Loss>();
    shared::<Error>();
}

#[test]
fn accuracy_by_group_and_class() {
    let c = counts(&[500, 50, 5, 5]);
    let mut tally = Tally::new(&c, GroupThresholds::default()).ignore_label(-1);
    tally
        .add_predictions(&[0, 0, 1, -1, 2], &[0, 1, 1, 99, 0])
        .expect("valid");
    tally.add_hits(&[2i64, -1], &[true, true]).expect("valid");
    let accuracy = tally.accuracy();
    assert_eq!(accuracy.overall, Some(3.0 / 5.0));
    assert_eq!(
        (accuracy.many, accuracy.medium, accuracy.few),
        (Some(0.5), Some(1.0), Some(0.5))
    );
    assert_eq!(accuracy.per_class, [Some(0.5), Some(1.0), Some(0.5), None]);

    // A bad batch adds nothing.
    let before = tally.accuracy();
    assert!(matches!(
        tally.add_predictions(&[0, 7], &[0, 0]),
        Err(Error::Label { row: 1, .. })
    ));
    assert!(matches!(
        tally.add_predictions(&[0, 1], &[0, 4]),
        Err(Error::Prediction { row: 1, .. })
    ));
    assert!(matches!(
        tally.add_hits(&[0], &[]),
        Err(Error::Length { .. })
    ));
    assert_eq!(tally.accuracy(), before);
    let empty = Accuracy::from_hits::<u8>(&[], &[], &c, GroupThresholds::default()).expect("valid");
    assert_eq!((empty.overall, empty.few), (None, None));
}
