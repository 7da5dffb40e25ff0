//! One test for each row of the README's table of edge semantics, over every element type and
//! objective.

use ala_loss::{
    ClassCounts, CpuElement, Error, Loss, Objective, Options, Outputs, Reduction, reference,
};
use half::{bf16, f16};

mod problem;
use problem::{
    assert_within, build, gradient_bound, loss_bound, objectives, slope, widen, widen_real,
};

/// Runs a generic check over the four element types.
macro_rules! every_type {
    ($check:ident) => {
        $check::<f32>();
        $check::<f64>();
        $check::<f16>();
        $check::<bf16>();
    };
}

fn element<T: CpuElement>(values: &[f64]) -> Vec<T> {
    values.iter().map(|&x| T::from_f64(x)).collect()
}

fn three() -> ClassCounts {
    ClassCounts::new([100, 30, 10]).expect("valid")
}

fn each_loss(check: impl Fn(&Loss)) {
    for objective in objectives() {
        check(&build(objective, &three()));
    }
}

#[test]
fn a_label_out_of_range_is_an_error_and_writes_nothing() {
    fn check<T: CpuElement>() {
        each_loss(|loss| {
            let x = element::<T>(&[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]);
            for bad in [-1i64, 3, i64::MIN, i64::MAX, -100] {
                let poison = T::from_f64(77.0);
                let mut gradient = vec![poison; 6];
                let mut hits = [true; 2];
                let outputs = Outputs::new().gradient(&mut gradient).hits(&mut hits);
                let result = loss.evaluate_into(&x, &[0, bad], &Options::new(), outputs);
                let error = Error::Label {
                    row: 1,
                    label: bad.into(),
                    classes: 3,
                };
                assert_eq!(result, Err(error));
                assert!(gradient.iter().all(|&g| g == poison) && hits == [true; 2]);
                let mut over = x.clone();
                let outputs = Outputs::new();
                assert!(
                    loss.evaluate_in_place(&mut over, &[0, bad], &Options::new(), outputs)
                        .is_err()
                );
                assert_eq!(over, x);
            }
            // Beyond i64, and in the narrowest type.
            assert!(loss.evaluate(&x, &[0, u64::MAX]).is_err());
            assert!(loss.evaluate(&x, &[0u8, 3]).is_err());
        });
    }
    every_type!(check);
}

#[test]
fn a_bad_label_s_message_names_row_and_label() {
    let loss = build(Objective::ala(), &three());
    let error = loss
        .evaluate(&[0.0f32; 6], &[2, 9])
        .expect_err("9 is no class");
    let message = error.to_string();
    assert!(message.contains("row 1") && message.contains('9') && message.contains("0..3"));
}

#[test]
fn an_ignored_row_has_zero_loss_and_gradient_and_does_not_count() {
    fn check<T: CpuElement>() {
        for objective in objectives() {
            for ignore in [-100i64, 1, 255] {
                let loss = Loss::builder(objective, &three())
                    .ignore_label(ignore)
                    .build()
                    .expect("valid");
                // The ignored row is full of NaN: it must not be read into anything.
                let x =
                    element::<T>(&[0.5, 0.1, 0.2, f64::NAN, f64::NAN, f64::NAN, 0.3, 0.1, -0.5]);
                let both = loss
                    .evaluate_with(&x, &[0, ignore, 2], &Options::new().hits())
                    .expect("valid");
                let kept = element::<T>(&[0.5, 0.1, 0.2, 0.3, 0.1, -0.5]);
                let alone = loss.evaluate(&kept, &[0i64, 2]).expect("valid");
                assert_eq!(both.loss, alone.loss, "{objective:?}");
                assert_eq!(both.counted_rows, 2);
                assert_eq!(widen_real::<T>(&both.row_losses)[1], 0.0);
                assert_eq!(widen(&both.gradient[3..6]), [0.0; 3]);
                assert_eq!(both.gradient[..3], alone.gradient[..3]);
                assert_eq!(both.gradient[6..], alone.gradient[3..]);
                assert_eq!(both.hits, Some(vec![true, false, false]));
            }
        }
    }
    every_type!(check);
}

#[test]
fn an_ignored_row_s_zeros_are_written() {
    fn check<T: CpuElement>() {
        each_loss(|loss| {
            let loss = Loss::builder(loss.objective().expect("it has one"), &three())
                .ignore_label(-100)
                .build()
                .expect("valid");
            let x = element::<T>(&[0.5, 0.1, 0.2, 0.3, 0.1, -0.5]);
            let poison = T::from_f64(77.0);
            let mut gradient = vec![poison; 6];
            let mut losses = loss.evaluate(&x, &[0, 1]).expect("valid").row_losses;
            let mut hits = [true; 2];
            let outputs = Outputs::new()
                .gradient(&mut gradient)
                .row_losses(&mut losses)
                .hits(&mut hits);
            let labels = [-100, 2];
            loss.evaluate_into(&x, &labels, &Options::new(), outputs)
                .expect("valid");
            assert_eq!(widen(&gradient[..3]), [0.0; 3]);
            assert!(gradient[3..].iter().all(|&g| g != poison));
            assert_eq!(widen_real::<T>(&losses)[0], 0.0);
            assert!(!hits[0]);
            let mut over = x.clone();
            loss.evaluate_in_place(&mut over, &labels, &Options::new(), Outputs::new())
                .expect("valid");
            assert_eq!(over, gradient);
        });
    }
    every_type!(check);
}

#[test]
fn the_mean_with_class_weights_divides_by_the_summed_weights() {
    let weights = [0.5, 2.0, 4.0];
    let sum = Loss::builder(Objective::CrossEntropy, &three())
        .class_weights(weights)
        .reduction(Reduction::Sum);
    let mean = sum
        .clone()
        .reduction(Reduction::Mean)
        .build()
        .expect("valid");
    let sum = sum.build().expect("valid");
    let x = [0.1f64, 0.5, -0.3, 1.0, 0.0, 0.2, 0.4, 0.4, 0.9];
    let labels = [2, 0, 2];
    let (mean, sum) = (
        mean.evaluate(&x, &labels).expect("valid"),
        sum.evaluate(&x, &labels).expect("valid"),
    );
    let divisor = 4.0 + 0.5 + 4.0;
    assert_within(mean.loss, sum.loss / divisor, 1e-15, &|| "loss".into());
    for (mean, sum) in mean.gradient.iter().zip(&sum.gradient) {
        assert_within(*mean, sum / divisor, 1e-15, &|| "gradient".into());
    }
    // PyTorch 2 gives cross_entropy(x, y, weight, reduction='mean') by the same rule: by hand for
    // the first row.
    let lse = |row: &[f64]| row.iter().map(|x| x.exp()).sum::<f64>().ln();
    let by_hand =
        4.0 * (lse(&x[..3]) + 0.3) + 0.5 * (lse(&x[3..6]) - 1.0) + 4.0 * (lse(&x[6..]) - 0.9);
    assert_within(mean.loss, by_hand / divisor, 1e-14, &|| "by hand".into());
}

#[test]
fn no_counted_row_gives_zero_loss_and_gradient() {
    fn check<T: CpuElement>() {
        for reduction in [Reduction::Mean, Reduction::Sum, Reduction::None] {
            for objective in objectives() {
                let loss = Loss::builder(objective, &three())
                    .ignore_label(-1)
                    .reduction(reduction)
                    .build()
                    .expect("valid");
                let none = loss.evaluate::<T, i64>(&[], &[]).expect("N = 0 is valid");
                assert_eq!(
                    (none.loss, none.counted_rows, none.gradient.len()),
                    (0.0, 0, 0)
                );
                let x = element::<T>(&[1.0, f64::NAN, f64::INFINITY]);
                let ignored = loss.evaluate(&x, &[-1]).expect("valid");
                assert_eq!((ignored.loss, ignored.counted_rows), (0.0, 0));
                assert_eq!(widen(&ignored.gradient), [0.0; 3]);
            }
        }
        // Every counted weight is 0: 0, not 0/0.
        let loss = Loss::builder(Objective::CrossEntropy, &three())
            .class_weights([0.0, 1.0, 1.0])
            .build()
            .expect("valid");
        let outcome = loss
            .evaluate(&element::<T>(&[1.0, 2.0, 3.0]), &[0])
            .expect("valid");
        assert_eq!(
            (outcome.loss, widen(&outcome.gradient)),
            (0.0, vec![0.0; 3])
        );
    }
    every_type!(check);
}

#[test]
fn nan_or_plus_infinity_stays_in_its_row() {
    fn check<T: CpuElement>() {
        for objective in objectives() {
            let loss = Loss::builder(objective, &three())
                .reduction(Reduction::Sum)
                .build()
                .expect("valid");
            for bad in [f64::NAN, f64::INFINITY] {
                for place in 0..3 {
                    for y in 0..3 {
                        let mut x = [0.5, 0.1, 0.2, 0.3, -0.4, 0.1, 0.9, 0.8, -0.7];
                        let clean = loss.evaluate(&element::<T>(&x), &[0, y, 2]).expect("valid");
                        x[3 + place] = bad;
                        let dirty = loss.evaluate(&element::<T>(&x), &[0, y, 2]).expect("valid");
                        let what = format!("{objective:?} {bad} at {place}, target {y}");
                        assert!(dirty.loss.is_nan(), "{what}");
                        assert!(
                            widen(&dirty.gradient[3..6]).iter().all(|g| g.is_nan()),
                            "{what}"
                        );
                        let losses = widen_real::<T>(&dirty.row_losses);
                        assert!(losses[1].is_nan(), "{what}");
                        for row in [0, 2] {
                            assert_eq!(dirty.row_losses[row], clean.row_losses[row], "{what}");
                            let span = row * 3..row * 3 + 3;
                            assert_eq!(
                                dirty.gradient[span.clone()],
                                clean.gradient[span],
                                "{what}"
                            );
                        }
                    }
                }
            }
        }
    }
    every_type!(check);
}

#[test]
fn minus_infinity_off_the_target_masks_the_class() {
    fn check<T: CpuElement>() {
        each_loss(|loss| {
            let x = element::<T>(&[0.5, f64::NEG_INFINITY, 0.2]);
            let masked = loss.evaluate(&x, &[2]).expect("valid");
            assert_eq!(masked.gradient[1].to_f64(), 0.0);
            let exact = reference::row(loss.table(), &widen(&x), 2);
            // Far below everything else is the limit that the mask stands for.
            let far = reference::row(loss.table(), &[x[0].to_f64(), -1e6, x[2].to_f64()], 2);
            assert_within(exact.loss, far.loss, 1e-12, &|| {
                "the mask is the limit".into()
            });
            let slope = slope(loss.table());
            for (got, exact) in masked.gradient.iter().zip(far.gradient) {
                // The mean divides a weighted row's gradient by its weight.
                let exact = exact / loss.table().targets()[2].weight;
                assert_within(
                    got.to_f64(),
                    exact,
                    gradient_bound::<T>(exact, slope),
                    &|| format!("{:?}", loss.objective()),
                );
            }
        });
    }
    every_type!(check);
}

#[test]
fn minus_infinity_at_the_target_keeps_the_gradient_defined() {
    fn check<T: CpuElement>() {
        for objective in objectives() {
            let loss = Loss::builder(objective, &three())
                .reduction(Reduction::Sum)
                .build()
                .expect("valid");
            let x = element::<T>(&[0.5, f64::NEG_INFINITY, 0.2]);
            let outcome = loss.evaluate(&x, &[1]).expect("valid");
            assert_eq!(outcome.loss, f64::INFINITY, "{objective:?}");
            assert_eq!(widen_real::<T>(&outcome.row_losses), [f64::INFINITY]);
            let own = loss.table().targets()[1];
            let at_target = T::from_f64(-own.weight * own.gradient_slope);
            assert_eq!(outcome.gradient[1], at_target, "{objective:?}");
            // The softmax of the rest.
            let (a, b) = (loss.table().affine(0), loss.table().affine(2));
            let z = (a.slope * x[0].to_f64() + a.bias) - (b.slope * x[2].to_f64() + b.bias);
            let p = 1.0 / (1.0 + (-z).exp());
            for (j, exact) in [
                (0, own.weight * a.slope * p),
                (2, own.weight * b.slope * (1.0 - p)),
            ] {
                let bound = gradient_bound::<T>(exact, slope(loss.table()));
                assert_within(outcome.gradient[j].to_f64(), exact, bound, &|| {
                    format!("{objective:?} {j}")
                });
            }
        }
    }
    every_type!(check);
}

#[test]
fn a_row_of_minus_infinities_is_nan() {
    fn check<T: CpuElement>() {
        each_loss(|loss| {
            let outcome = loss
                .evaluate(&element::<T>(&[f64::NEG_INFINITY; 3]), &[1])
                .expect("valid");
            assert!(outcome.loss.is_nan());
            assert!(widen(&outcome.gradient).iter().all(|g| g.is_nan()));
        });
    }
    every_type!(check);
}

#[test]
fn a_large_common_offset_does_not_cancel() {
    let mut rng = fastrand::Rng::with_seed(21);
    let counts = problem::counts(&mut rng, 50);
    for objective in objectives() {
        let loss = Loss::builder(objective, &counts)
            .scale(1.0)
            .build()
            .expect("valid");
        let x: Vec<f32> = problem::logits::<f32>(&mut rng, 50, 5.0)
            .iter()
            .map(|x| x + 1e4)
            .collect();
        problem::assert_matches_reference(&loss, &x, &[7]);
        // Cross-entropy does not see the offset at all.
        if objective == Objective::CrossEntropy {
            let shifted: Vec<f32> = x.iter().map(|x| x - 1e4).collect();
            let (a, b) = (
                loss.evaluate(&x, &[7]).expect("valid"),
                loss.evaluate(&shifted, &[7]).expect("valid"),
            );
            assert_within(a.loss, b.loss, loss_bound(b.loss), &|| "offset".into());
        }
    }
}

#[test]
fn a_confident_row_s_gradient_is_accurate_and_not_zero() {
    // Cross-entropy over two classes: 1 - p = 1/(1 + exp(gap)) = 1e-9.
    let loss = build(
        Objective::CrossEntropy,
        &ClassCounts::new([1, 1]).expect("valid"),
    );
    let gap = (1e9f64 - 1.0).ln();
    let exact = 1.0 / (1.0 + f64::from(gap as f32).exp());
    let gradient = loss
        .evaluate(&[gap as f32, 0.0], &[0])
        .expect("valid")
        .gradient;
    assert_within(gradient[0].into(), -exact, 1e-5 * exact, &|| {
        "f32 target".into()
    });
    assert_within(gradient[1].into(), exact, 1e-5 * exact, &|| {
        "f32 other".into()
    });
    let gradient = loss.evaluate(&[gap, 0.0], &[0]).expect("valid").gradient;
    assert_within(gradient[0], -1e-9, 1e-5 * 1e-9, &|| "f64 target".into());
}

#[test]
fn one_class_has_zero_loss_and_gradient() {
    fn check<T: CpuElement>() {
        for objective in objectives() {
            let loss = build(objective, &ClassCounts::new([7]).expect("valid"));
            let outcome = loss
                .evaluate(&element::<T>(&[0.25, -1.0]), &[0, 0])
                .expect("valid");
            assert_eq!(outcome.loss, 0.0, "{objective:?}");
            assert_eq!(widen(&outcome.gradient), [0.0, 0.0], "{objective:?}");
        }
    }
    every_type!(check);
}

#[test]
fn wrong_shapes_are_errors_that_name_both_sizes_and_write_nothing() {
    let loss = build(Objective::ala(), &three());
    let x = [0.5f32; 8];
    let error = |result: Result<_, Error>| {
        result
            .map(|_: ala_loss::Summary| ())
            .expect_err("wrong shape")
    };
    let none = Outputs::<f32>::new;

    // C != the table's classes.
    let shape = error(loss.evaluate_into(&x, &[0, 1], &Options::new(), none()));
    assert_eq!(
        shape,
        Error::LogitsShape {
            got: 8,
            expected: 6,
            rows: 2,
            classes: 3
        }
    );
    assert!(shape.to_string().contains('8') && shape.to_string().contains('6'));
    // A stride shorter than a row, a buffer shorter than its rows.
    let stride = error(loss.evaluate_into(&x, &[0, 1], &Options::new().stride(2), none()));
    assert!(matches!(
        stride,
        Error::Stride {
            stride: 2,
            classes: 3,
            ..
        }
    ));
    let short = error(loss.evaluate_into(&x, &[0, 1], &Options::new().stride(6), none()));
    assert!(matches!(
        short,
        Error::StridedBuffer {
            got: 8,
            expected: 9,
            ..
        }
    ));
    // Sizes that overflow are refused before they are multiplied.
    let huge = error(loss.evaluate_into(
        &x,
        &[0; 3],
        &Options::new().stride(usize::MAX / 2 + 1),
        none(),
    ));
    assert!(matches!(huge, Error::ShapeOverflow { .. }));

    let mut gradient = [77.0f32; 5];
    let outputs = Outputs::new().gradient(&mut gradient);
    let result = error(loss.evaluate_into(&x[..6], &[0, 1], &Options::new(), outputs));
    assert!(matches!(
        result,
        Error::Length {
            name: "gradient",
            got: 5,
            expected: 6
        }
    ));
    let outputs = Outputs::new().gradient_strided(&mut gradient, 4);
    let result = error(loss.evaluate_into(&x[..6], &[0, 1], &Options::new(), outputs));
    assert!(matches!(
        result,
        Error::StridedBuffer {
            name: "gradient",
            got: 5,
            expected: 7,
            ..
        }
    ));

    let mut gradient = [77.0f32; 6];
    let (mut losses, mut hits) = ([77.0f32; 3], [true; 1]);
    let outputs = Outputs::new()
        .gradient(&mut gradient)
        .row_losses(&mut losses);
    let result = error(loss.evaluate_into(&x[..6], &[0, 1], &Options::new(), outputs));
    assert!(matches!(
        result,
        Error::Length {
            name: "row losses",
            got: 3,
            expected: 2
        }
    ));
    let outputs = Outputs::new().gradient(&mut gradient).hits(&mut hits);
    let result = error(loss.evaluate_into(&x[..6], &[0, 1], &Options::new(), outputs));
    assert!(matches!(
        result,
        Error::Length {
            name: "hits",
            got: 1,
            expected: 2
        }
    ));
    assert!(gradient == [77.0; 6] && losses == [77.0; 3] && hits == [true]);

    let mut over = x;
    let outputs = Outputs::new().gradient(&mut gradient);
    let result = loss.evaluate_in_place(&mut over[..6], &[0, 1], &Options::new(), outputs);
    assert_eq!(result, Err(Error::GradientBufferInPlace));
    assert_eq!(over, x);
}

/// No stride is multiplied before it is known to fit, and one row, or none, needs no stride at all.
#[test]
fn strides_up_to_the_largest_are_errors_or_work_and_never_overflow() {
    fn check<T: CpuElement>() {
        let loss = build(Objective::ala(), &three());
        let x = element::<T>(&[0.5, -0.25, 0.125]);
        let expected = loss.evaluate(&x, &[2]).expect("valid");
        let half = usize::MAX / 2;
        for stride in [
            usize::MAX,
            usize::MAX - 1,
            usize::MAX - 2,
            usize::MAX - 3,
            half + 2,
            half + 1,
            half,
            half / 2,
            usize::MAX / size_of::<T>(),
        ] {
            let options = Options::new().stride(stride);
            assert_eq!(loss.evaluate_with(&x, &[2], &options), Ok(expected.clone()));
            let none = loss
                .evaluate_with::<T, i64>(&[], &[], &options)
                .expect("N = 0");
            assert_eq!(none.gradient.len(), 0);
            let mut gradient = vec![T::ZERO; 3];
            let outputs = Outputs::new().gradient_strided(&mut gradient, stride);
            loss.evaluate_into(&x, &[2], &options, outputs)
                .expect("one row");
            assert_eq!(gradient, expected.gradient);
            let mut over = x.clone();
            loss.evaluate_in_place(&mut over, &[2], &options, Outputs::new())
                .expect("one row");
            assert_eq!(over, expected.gradient);

            for rows in [2usize, 3, 9] {
                let labels = vec![0; rows];
                let refused = |name: &str, result: Result<(), Error>| {
                    // What the rows need, where a number can hold it.
                    let need = (rows as u128 - 1) * stride as u128 + 3;
                    let error = result.expect_err("no buffer is so long");
                    match usize::try_from(need) {
                        Err(_) => assert_eq!(error, Error::ShapeOverflow { rows, stride }),
                        Ok(need) => assert!(
                            matches!(
                                error,
                                Error::StridedBuffer { name: n, got, expected, .. }
                                    if n == name && got == 3 * rows && expected == need
                            ),
                            "{error}"
                        ),
                    }
                };
                let x = x.repeat(rows);
                let owned = loss.evaluate_with(&x, &labels, &options);
                refused("logits", owned.map(drop));
                let mut over = x.clone();
                let in_place = loss.evaluate_in_place(&mut over, &labels, &options, Outputs::new());
                refused("logits", in_place.map(drop));
                assert_eq!(over, x);
                let mut gradient = x.clone();
                let outputs = Outputs::new().gradient_strided(&mut gradient, stride);
                let into = loss.evaluate_into(&x, &labels, &Options::new(), outputs);
                refused("gradient", into.map(drop));
                assert_eq!(gradient, x);
            }
        }
    }
    every_type!(check);
}

/// Without a stride a longer buffer means another `C` or `N`; with one, the last row may be
/// followed by anything.
#[test]
fn buffers_that_are_too_long_are_errors_without_a_stride_and_left_alone_with_one() {
    use ala_loss::Upstream;
    let loss = Loss::builder(Objective::ala(), &three())
        .reduction(Reduction::None)
        .build()
        .expect("valid");
    let x = [0.5f32, -0.25, 0.125, 0.75, 0.0, -0.5, 9.0, 9.0];
    let labels = [0, 2];
    let expected = loss.evaluate(&x[..6], &labels).expect("valid");
    let too_long = |name, got, expected| {
        Err(Error::Length {
            name,
            got,
            expected,
        })
    };
    for more in [1, 2] {
        let logits = Err(Error::LogitsShape {
            got: 6 + more,
            expected: 6,
            rows: 2,
            classes: 3,
        });
        let long = &x[..6 + more];
        assert_eq!(loss.evaluate(long, &labels).map(drop), logits);
        let mut over = x;
        let in_place = loss.evaluate_in_place(
            &mut over[..6 + more],
            &labels,
            &Options::new(),
            Outputs::new(),
        );
        assert_eq!(in_place.map(drop), logits);
        assert_eq!(over, x);

        let (mut gradient, mut losses, mut hits) = ([77.0f32; 8], [77.0f32; 4], [true; 4]);
        for (name, len) in [("gradient", 6), ("row losses", 2), ("hits", 2)] {
            let outputs = match name {
                "gradient" => Outputs::new().gradient(&mut gradient[..6 + more]),
                "row losses" => Outputs::new().row_losses(&mut losses[..2 + more]),
                _ => Outputs::new().hits(&mut hits[..2 + more]),
            };
            let result = loss.evaluate_into(&x[..6], &labels, &Options::new(), outputs);
            assert_eq!(result.map(drop), too_long(name, len + more, len));
        }
        assert!(gradient == [77.0; 8] && losses == [77.0; 4] && hits == [true; 4]);
        let upstream = [1.0f32; 4];
        let each = Options::new().upstream(Upstream::PerRow(&upstream[..2 + more]));
        let result = loss.evaluate_with(&x[..6], &labels, &each);
        assert_eq!(result.map(drop), too_long("upstream gradient", 2 + more, 2));

        // Stated strides: what lies behind the last row is neither read nor written.
        let mut padded = x;
        padded[6..].fill(f32::NAN);
        let options = Options::new().stride(3);
        let outputs = Outputs::new().gradient_strided(&mut gradient[..6 + more], 3);
        let summary = loss.evaluate_into(&padded[..6 + more], &labels, &options, outputs);
        assert_eq!(summary.expect("valid").loss, expected.loss);
        assert_eq!(gradient[..6], expected.gradient);
        assert_eq!(gradient[6..], [77.0; 2]);
        let mut over = x;
        loss.evaluate_in_place(&mut over[..6 + more], &labels, &options, Outputs::new())
            .expect("valid");
        assert_eq!(over[..6], expected.gradient);
        assert_eq!(over[6..], [9.0; 2]);
    }
}

#[test]
fn a_wrong_upstream_gradient_is_an_error() {
    use ala_loss::Upstream;
    let builder = Loss::builder(Objective::ala(), &three());
    let each = Options::new().upstream(Upstream::PerRow(&[1.0f32, 2.0]));
    let mean = builder.clone().build().expect("valid");
    assert_eq!(
        mean.evaluate_with(&[0.5f32; 6], &[0, 1], &each),
        Err(Error::UpstreamNeedsNoReduction("Mean"))
    );
    let none = builder.reduction(Reduction::None).build().expect("valid");
    let short = none.evaluate_with(&[0.5f32; 9], &[0, 1, 2], &each);
    assert!(matches!(
        short,
        Err(Error::Length {
            name: "upstream gradient",
            got: 2,
            expected: 3
        })
    ));
}

#[test]
fn any_alignment_of_rows_gives_the_same_bits() {
    fn check<T: CpuElement>() {
        let mut rng = fastrand::Rng::with_seed(22);
        let classes = 33;
        let loss = build(Objective::ala(), &problem::counts(&mut rng, classes));
        let x = problem::logits::<T>(&mut rng, 2 * classes, 1.0);
        let expected = loss.evaluate(&x, &[3, 30]).expect("valid");
        for offset in 0..16 {
            let mut moved = vec![T::ZERO; offset];
            moved.extend_from_slice(&x);
            assert_eq!(
                loss.evaluate(&moved[offset..], &[3, 30]),
                Ok(expected.clone())
            );
        }
    }
    every_type!(check);
}

/// `2^31` elements and more: the offset of the last row does not fit 32 bits, nor does it in bytes.
#[cfg(target_pointer_width = "64")]
#[test]
fn offsets_beyond_2_31_elements_work() {
    let loss = build(Objective::ala(), &three());
    // Two rows far apart; a zeroed vector's untouched pages take no memory.
    let stride = (1usize << 31) + 5;
    let mut x = vec![0.0f32; stride + 3];
    let rows = [[0.5, 0.25, -0.5], [0.75, -0.25, 0.125]].map(|row| element::<f32>(&row));
    x[..3].copy_from_slice(&rows[0]);
    x[stride..stride + 3].copy_from_slice(&rows[1]);
    let far = loss
        .evaluate_with(&x, &[0, 2], &Options::new().stride(stride))
        .expect("valid");
    assert_eq!(far, loss.evaluate(&rows.concat(), &[0, 2]).expect("valid"));
}
