//! Class counts, objectives, weights and metrics: what is accepted, what is refused, and what comes
//! out.

use ala_loss::metrics::{Accuracy, Tally};
use ala_loss::{
    Affine, Ala, ClassCounts, DeferredReweighting, DifficultyGradient, Error, Group,
    GroupThresholds, Input, Loss, NonTarget, Objective, Options, Outputs, QuantityLog, RowTable,
    Target, ZeroCounts,
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
        Err(Error::MissingClasses {
            smallest: 0,
            missing: 1,
            classes: 3,
            listed: "1".into()
        })
    );
    // Without a label at all there is no smallest one.
    assert_eq!(
        ClassCounts::from_labels::<u8>(&[], 3, ZeroCounts::Reject),
        Err(Error::ZeroCount { class: 0 })
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
    assert!(matches!(
        from(file, Some(3)),
        Err(Error::MissingClasses { smallest: 0, missing: 1, classes: 3, listed }) if listed == "2"
    ));
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
}

/// A file system takes paths that are no text; a label that is none is shown as far as it can be.
#[test]
fn annotation_files_are_bytes() {
    let from = |bytes: &[u8]| ClassCounts::from_annotations(bytes, None, ZeroCounts::Reject);
    let latin_1 = b"caf\xe9/\xff\xfe.jpg 0\n\xe9 1\nlast line 1";
    assert_eq!(from(latin_1).expect("valid").as_slice(), [1, 2]);
    let error = from(b"a 0\nb \xe91\n").expect_err("no number").to_string();
    assert!(
        error.contains("line 2") && error.contains('\u{fffd}'),
        "{error}"
    );
}

#[test]
fn a_byte_order_mark_is_no_part_of_an_annotation_file() {
    let from = |text: &str| {
        ClassCounts::from_annotations(text.as_bytes(), None, ZeroCounts::Reject)
            .map(|counts| counts.as_slice().to_vec())
    };
    assert_eq!(from("\u{feff}a 0\nb 1\n"), Ok(vec![1, 1]));
    assert_eq!(from("\u{feff}\r\na 0\nb 1\n"), Ok(vec![1, 1]));
    assert_eq!(from("\u{feff}\na 0\n"), Ok(vec![1]));
    // Before a line that has no path it must not pass for one.
    let error = from("\u{feff}0\n").expect_err("no path");
    assert!(
        matches!(error, Error::Annotation { line: 1, .. }),
        "{error}"
    );
    // Elsewhere it is a path's own.
    assert_eq!(from("a 0\n\u{feff} 1\n"), Ok(vec![1, 1]));
}

#[test]
fn labels_that_begin_at_1_or_have_gaps_are_told_and_can_be_shifted() {
    let from = |first, text: &str, classes| {
        ClassCounts::from_annotations_starting_at(
            first,
            text.as_bytes(),
            classes,
            ZeroCounts::Reject,
        )
    };
    let from_1 = "a 1\nb 1\nc 2\n";
    let error = from(0, from_1, None).expect_err("class 0 is missing");
    let missing = Error::MissingClasses {
        smallest: 1,
        missing: 1,
        classes: 3,
        listed: "0".into(),
    };
    assert_eq!(error, missing);
    let message = error.to_string();
    assert!(message.contains("begin at 1") && message.contains("1 of 3 classes"));
    assert!(message.contains("(0)") && message.contains("starting_at"));
    for classes in [None, Some(2)] {
        let counts = from(1, from_1, classes).expect("they begin at 1");
        assert_eq!(counts.as_slice(), [2, 1]);
    }
    // With the number of classes given it is the last label that is one too high.
    let error = from(0, "a 1\nb 2\n", Some(2)).expect_err("2 is no class of 2");
    let message = error.to_string();
    assert!(
        message.contains("line 2") && message.contains("begin at 1"),
        "{message}"
    );
    let below = from(1, "a 1\nb 0\n", None).expect_err("below the first");
    assert!(
        matches!(&below, Error::Annotation { line: 2, problem } if problem.contains("below 1")),
        "{below}"
    );

    // Gaps, as ranges and no more than a line takes.
    let gaps = from(0, "a 2\na 3\na 9\n", None).expect_err("gaps");
    let Error::MissingClasses {
        smallest: 2,
        missing: 7,
        classes: 10,
        listed,
    } = gaps
    else {
        panic!("{gaps:?}");
    };
    assert_eq!(listed, "0 to 1, 4 to 8");
    let odd: String = (0..20)
        .map(|class| format!("a {}\n", 2 * class + 1))
        .collect();
    let Err(Error::MissingClasses {
        missing: 20,
        listed,
        ..
    }) = from(0, &odd, None)
    else {
        panic!("every even class is missing");
    };
    assert_eq!(listed, "0, 2, 4, 6, 8, ...");
    let labels = ClassCounts::from_labels(&[1u8, 2], 3, ZeroCounts::Reject);
    assert!(matches!(
        labels,
        Err(Error::MissingClasses {
            smallest: 1,
            missing: 1,
            ..
        })
    ));
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

/// For 10, 2 and 1 samples at beta = 0.9, as exact fractions give it: (1 - beta)/(1 - beta^n) is
/// 0.15353.., 0.52631.. and 1, scaled to sum to 3; times the class's own weight.
#[test]
fn class_weights_multiply_the_class_balanced_ones() {
    let balanced = [
        0.274_192_362_058_462_65,
        0.939_933_668_255_702_6,
        1.785_873_969_685_834_8,
    ];
    let own = [2.0, 0.5, 3.0];
    let product = [
        0.548_384_724_116_925_3,
        0.469_966_834_127_851_3,
        5.357_621_909_057_505,
    ];
    let builder = Loss::builder(Objective::ClassBalanced { beta: 0.9 }, &counts(&[10, 2, 1]));
    let near = |got: f64, exact: f64| assert!((got / exact - 1.0).abs() < 1e-14, "{got} {exact}");
    let plain = builder.clone().build().expect("valid");
    let weighted = builder.class_weights(own).build().expect("valid");
    for class in 0..3 {
        near(plain.table().targets()[class].weight, balanced[class]);
        near(weighted.table().targets()[class].weight, product[class]);
    }
    // Equal logits: each row's loss is ln 3, and its gradient (1/3, 1/3, -2/3) in some order.
    let outcome = weighted.evaluate(&[0.25f64; 9], &[0, 1, 2]).expect("valid");
    let total: f64 = product.iter().sum();
    near(outcome.loss, 3f64.ln());
    for (row, weight) in product.into_iter().enumerate() {
        near(outcome.row_losses[row], weight * 3f64.ln());
        for class in 0..3 {
            let p = if class == row { -2.0 / 3.0 } else { 1.0 / 3.0 };
            near(outcome.gradient[3 * row + class], weight * p / total);
        }
    }
    // So do those that are put off.
    let schedule = DeferredReweighting::new(plain, &own, 1).expect("valid");
    near(schedule.at(0).table().targets()[2].weight, balanced[2]);
    near(schedule.at(1).table().targets()[2].weight, product[2]);
}

/// 30 for the losses whose margin is one of cosines, 1 for those on any logits; and that is what
/// the table is made with.
#[test]
fn every_objective_has_its_default_scale() {
    let c = counts(&[400, 100, 25]);
    // The quantity factors 1/log2(n/25 + 1), and LDAM's 0.5 (25/n)^(1/4), by hand: 17, 5 and 2.
    let quantity = [17.0f64, 5.0, 2.0].map(|n| 1.0 / n.log2());
    let ldam = [0.25, 0.5 / 2f64.sqrt(), 0.5];
    let priors = [400.0f64 / 525.0, 100.0 / 525.0, 25.0 / 525.0];
    let none = [0.0; 3];
    let all = [1.0f64; 3];
    let k = 0.8;
    let detached = DifficultyGradient::Detached;
    let log = QuantityLog::Base2;
    // Default scale, slopes of the target and off it in units of the scale, the target's offset.
    let expected = [
        (
            Objective::ala(),
            30.0,
            quantity.map(|q| 1.0 + q / 2.0),
            all,
            quantity.map(|q| -30.0 * q / 2.0),
        ),
        (
            Objective::QuantityOnly { log },
            30.0,
            all,
            all,
            quantity.map(|q| -30.0 * q),
        ),
        (
            Objective::DifficultyOnly {
                k,
                gradient: detached,
            },
            30.0,
            [1.0 + k / 2.0; 3],
            all,
            [-30.0 * k / 2.0; 3],
        ),
        (
            Objective::Ldam { max_margin: 0.5 },
            30.0,
            all,
            all,
            ldam.map(|m| -30.0 * m),
        ),
        (
            Objective::CosFace { margin: 0.35 },
            30.0,
            all,
            all,
            [-30.0 * 0.35; 3],
        ),
        (Objective::CrossEntropy, 1.0, all, all, none),
        (Objective::ClassBalanced { beta: 0.9 }, 1.0, all, all, none),
        (Objective::Focal { gamma: 2.0 }, 1.0, all, all, none),
        (
            Objective::BalancedSoftmax,
            1.0,
            all,
            all,
            [400.0f64, 100.0, 25.0].map(f64::ln),
        ),
        (
            Objective::LogitAdjustment { tau: 2.0 },
            1.0,
            all,
            all,
            priors.map(|p| 2.0 * p.ln()),
        ),
        (
            Objective::VectorScaling {
                gamma: 0.5,
                tau: 1.0,
            },
            1.0,
            [1.0, 0.5, 0.25],
            [1.0, 0.5, 0.25],
            priors.map(f64::ln),
        ),
    ];
    for (objective, scale, own, others, offset) in expected {
        assert_eq!(objective.default_scale(), scale, "{objective:?}");
        let loss = Loss::builder(objective, &c).build().expect("valid");
        assert_eq!(loss.scale(), Some(scale), "{objective:?}");
        for class in 0..3 {
            let target = loss.table().targets()[class];
            let other = loss.table().affine(class);
            for (what, got, exact) in [
                ("target's slope", target.slope, scale * own[class]),
                ("slope", other.slope, scale * others[class]),
                ("target's offset", target.bias, offset[class]),
            ] {
                assert!(
                    (got - exact).abs() <= 1e-13 * exact.abs(),
                    "{objective:?} {what} {class}: {got}, {exact}"
                );
            }
        }
    }
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

/// Of a class without test rows there is no accuracy; the others' and the groups' are those of the
/// rows there are.
#[test]
fn a_test_set_may_lack_classes() {
    let c = counts(&[500, 200, 50, 5, 4]);
    let accuracy = |labels: &[i64], predictions: &[i64]| {
        Accuracy::from_predictions(labels, predictions, &c, GroupThresholds::default())
            .expect("valid")
    };
    // No row of class 1 (many), of class 2 (the only medium one), of class 4 (few).
    let lacking = accuracy(&[0, 0, 0, 3], &[0, 0, 1, 2]);
    let expected = Accuracy {
        overall: Some(0.5),
        many: Some(2.0 / 3.0),
        medium: None,
        few: Some(0.0),
        per_class: vec![Some(2.0 / 3.0), None, None, Some(0.0), None],
    };
    assert_eq!(lacking, expected);
    let empty = accuracy(&[], &[]);
    assert_eq!((empty.overall, empty.per_class), (None, vec![None; 5]));
}

/// Its rows are passed over; as a prediction for other rows it is a class like any other.
#[test]
fn an_ignore_label_may_be_a_class() {
    let c = counts(&[500, 50, 5]);
    let tally = || Tally::new(&c, GroupThresholds::default()).ignore_label(1);
    let expected = Accuracy {
        overall: Some(0.5),
        many: Some(0.5),
        medium: None,
        few: Some(0.5),
        per_class: vec![Some(0.5), None, Some(0.5)],
    };
    let mut predictions = tally();
    // Predicted right, wrong, and as no class at all: none of it counts in an ignored row.
    predictions
        .add_predictions(&[0u8, 0, 1, 1, 1, 2, 2], &[0i64, 1, 1, 0, -7, 2, 1])
        .expect("valid");
    assert_eq!(predictions.accuracy(), expected);
    let mut hits = tally();
    hits.add_hits(
        &[0i64, 0, 1, 1, 2, 2],
        &[true, false, true, false, true, false],
    )
    .expect("valid");
    assert_eq!(hits.accuracy(), expected);
}

/// What f64 sums or f32 slopes cannot hold is refused, and named.
#[test]
fn parameters_that_no_path_can_hold_are_errors() {
    let c = counts(&[9, 3]);
    let named = |loss: Result<Loss, Error>, expected: &str| {
        let error = loss.expect_err(expected);
        assert!(
            matches!(&error, Error::Parameter { name, .. } if *name == expected),
            "{expected}: {error}"
        );
    };
    let cross_entropy = || Loss::builder(Objective::CrossEntropy, &c);
    for scale in [1e39, 1e31, 1e-31, f64::MIN_POSITIVE] {
        named(cross_entropy().scale(scale).build(), "scale");
    }
    for weight in [1e300, 1.1e280, f64::MAX] {
        let weights = [1.0, weight];
        named(
            cross_entropy().class_weights(weights).build(),
            "class weight",
        );
    }
    for held in [0.0, 1e-300, 1e280] {
        let loss = cross_entropy().class_weights([1.0, held]).build();
        let loss = loss
            .expect("held")
            .evaluate(&[0.0f32; 4], &[0, 1])
            .expect("valid");
        assert!(
            (loss.loss - 2f64.ln()).abs() < 1e-7,
            "{held}: {}",
            loss.loss
        );
    }
    // Weights multiply: each is held, their product is not.
    let mut loss = cross_entropy().build().expect("valid");
    for _ in 0..3 {
        loss = loss.with_class_weights(&[1.0, 1e90]).expect("held");
    }
    named(loss.with_class_weights(&[1.0, 1e90]), "class weight");
    let tau = |tau| Loss::builder(Objective::LogitAdjustment { tau }, &c).build();
    named(tau(1e31), "a class's offset");
    assert!(tau(1e20).is_ok());
    let margin = |margin| Loss::builder(Objective::CosFace { margin }, &c).build();
    named(margin(1e30), "a target's offset");
    let gamma = |gamma| Loss::builder(Objective::Focal { gamma }, &c).build();
    named(gamma(1e31), "gamma");
}

/// What the call does not take is an error, not ignored.
#[test]
fn hits_are_asked_for_where_they_have_a_place() {
    let loss = Loss::builder(Objective::CrossEntropy, &counts(&[9, 3]))
        .build()
        .expect("valid");
    let (x, options) = ([0.5f32, 0.25], Options::new().hits());
    let misplaced = |result| assert!(matches!(result, Err(Error::Misplaced { .. })), "{result:?}");
    misplaced(loss.evaluate_into(&x, &[0u8], &options, Outputs::new()));
    let mut over = x;
    misplaced(loss.evaluate_in_place(&mut over, &[0u8], &options, Outputs::new()));
    assert_eq!(over, x);
    let mut hits = [false];
    let outputs = Outputs::new().hits(&mut hits);
    loss.evaluate_into(&x, &[0u8], &options, outputs)
        .expect("a place");
    assert_eq!(hits, [true]);
}

/// What is given for a table is checked as what an objective makes, and a table takes no scale of
/// its own.
#[test]
fn a_table_of_ones_own_is_checked() {
    let target = |weight| Target {
        slope: 2.0,
        bias: -0.5,
        gradient_slope: 2.0,
        weight,
    };
    let uniform = |slope| NonTarget::Uniform { slope };
    let none: [Target; 0] = [];
    assert_eq!(
        RowTable::new(none, uniform(1.0), None),
        Err(Error::NoClasses)
    );
    let one = Affine {
        slope: 1.0,
        bias: 0.0,
    };
    let short = RowTable::new([target(1.0); 2], NonTarget::PerClass(vec![one]), None);
    assert!(matches!(
        short,
        Err(Error::Length {
            got: 1,
            expected: 2,
            ..
        })
    ));
    for (weight, slope, gamma) in [
        (-1.0, 1.0, None),
        (f64::NAN, 1.0, None),
        (1.0, 0.0, None),
        (1.0, 1e31, None),
        (1.0, 1.0, Some(-1.0)),
    ] {
        let table = RowTable::new([target(weight); 2], uniform(slope), gamma);
        assert!(
            matches!(table, Err(Error::Parameter { .. })),
            "{weight} {slope} {gamma:?}: {table:?}"
        );
    }

    let table = RowTable::new([target(1.0); 2], uniform(2.0), Some(2.0)).expect("valid");
    for given in [
        Loss::from_table(table.clone()).scale(30.0),
        Loss::from_table(table.clone()).input(Input::PreScaled),
    ] {
        assert!(matches!(given.build(), Err(Error::Misplaced { .. })));
    }
    let loss = Loss::from_table(table).build().expect("valid");
    assert_eq!((loss.objective(), loss.scale()), (None, None));
    // By hand: z = [2 x_0 - 1/2, 2 x_1], p the softmax of the target, (1 - p)^2 times
    // cross-entropy.
    let difference: f64 = 2.0 * 0.75 - (2.0 * 0.5 - 0.5);
    let miss = 1.0 / (1.0 + (-difference).exp());
    let by_hand = -(1.0 - miss).ln() * miss * miss;
    let got = loss.evaluate(&[0.5f64, 0.75], &[0]).expect("valid").loss;
    assert!((got - by_hand).abs() < 1e-15, "{got} {by_hand}");
}

#[test]
fn a_loss_of_many_classes_prints_as_few_lines_as_one_of_few() {
    let text = |classes: usize| {
        let counts = ClassCounts::new(vec![7; classes]).expect("valid");
        format!("{:?}", Loss::new(Objective::ala(), &counts).expect("valid"))
    };
    assert!(text(8142).contains("classes: 8142"), "{}", text(8142));
    assert!(text(8142).len() < text(10).len() + 10);
}
