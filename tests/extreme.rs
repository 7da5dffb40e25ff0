//! Rows whose logits are very large, masked or alike, on the CPU path and the reference, against
//! values that mpmath gives (`tests/golden/extreme.py`).

use ala_loss::{
    ClassCounts, CpuElement, Loss, Objective, Options, Outputs, Real, Reduction, Upstream,
    reference,
};
use half::{bf16, f16};

mod problem;

use problem::extreme::{Case, cases};
use problem::{assert_within, gradient_bound, loss_bound, slope};

/// More columns than a vector, a block and what a thread keeps of a row; those that are added are
/// masked.
const CLASSES: [usize; 6] = [3, 40, 1200, 3000, 9001, 140_000];

fn check<T: CpuElement>(case: &Case, name: &str) {
    if !case.types.iter().any(|held| held == name) {
        return;
    }
    for classes in CLASSES {
        let (loss, logits, label) = case.spread::<T>(classes);
        let what = || format!("{name}, {classes} classes: {case:?}");
        let outcome = loss
            .evaluate(&logits, &[label])
            .unwrap_or_else(|error| panic!("{error}: {}", what()));
        assert_within(outcome.loss, case.loss, loss_bound(case.loss), &what);
        let mut in_place = logits.clone();
        let options = Options::new();
        let again = loss
            .evaluate_in_place(&mut in_place, &[label], &options, Outputs::new())
            .unwrap_or_else(|error| panic!("{error}: {}", what()));
        assert_eq!(
            again.loss.to_bits(),
            outcome.loss.to_bits(),
            "in place, {}",
            what()
        );
        let slope = slope(loss.table());
        for (place, exact) in case.places(classes).zip(&case.gradient) {
            for gradient in [&outcome.gradient, &in_place] {
                let got = gradient[place].to_f64();
                assert_within(got, *exact, gradient_bound::<T>(*exact, slope), &what);
            }
        }
        // What was added is masked.
        let sum = |gradient: &[T]| gradient.iter().filter(|g| g.to_f64() != 0.0).count();
        assert!(sum(&outcome.gradient) <= 3, "{}", what());
    }
}

#[test]
fn extreme_rows_on_the_cpu() {
    for case in cases() {
        check::<f32>(&case, "f32");
        check::<f64>(&case, "f64");
        check::<f16>(&case, "f16");
        check::<bf16>(&case, "bf16");
    }
}

#[test]
fn extreme_rows_in_the_reference() {
    for case in cases() {
        let (loss, logits, label) = case.spread::<f64>(3);
        let row = reference::row(loss.table(), &logits, label);
        let close =
            |got: f64, exact: f64| got == exact || (got - exact).abs() <= 1e-6 * exact.abs() + 1e-9;
        assert!(close(row.loss, case.loss), "{} {case:?}", row.loss);
        for (got, exact) in row.gradient.iter().zip(&case.gradient) {
            assert!(close(*got, *exact), "{got} {case:?}");
        }
    }
}

/// The first block and more is a mask's, of finite numbers; what is seen comes late.
#[test]
fn a_finite_mask_before_the_rest_is_a_mask() {
    let mut rng = fastrand::Rng::with_seed(90);
    let classes = 3000;
    let counts = problem::counts(&mut rng, classes);
    for objective in problem::objectives() {
        let loss = Loss::builder(objective, &counts)
            .reduction(Reduction::Sum)
            .build()
            .expect("valid");
        for mask in [-1e9f32, f32::MIN] {
            let mut logits = problem::logits::<f32>(&mut rng, classes, 1.0);
            logits[..1100].fill(mask);
            for label in [1500, 2999] {
                let exact = reference::row(loss.table(), &problem::widen(&logits), label);
                let got = loss.evaluate(&logits, &[label]).expect("valid");
                let what = || format!("{objective:?} {mask} {label}");
                assert_within(got.loss, exact.loss, loss_bound(exact.loss), &what);
                let slope = slope(loss.table());
                for (got, exact) in got.gradient.iter().zip(&exact.gradient) {
                    let bound = gradient_bound::<f32>(*exact, slope);
                    assert_within(f64::from(*got), *exact, bound, &what);
                }
            }
        }
    }
}

/// Beyond what even f64 tells apart a row still makes sense: no NaN, no negative loss, parts that
/// add up.
#[test]
fn any_finite_row_makes_sense() {
    let mut rng = fastrand::Rng::with_seed(91);
    for objective in problem::objectives() {
        for round in 0..60 {
            let classes = [2, 5, 33, 1100][round % 4];
            let counts = problem::counts(&mut rng, classes);
            let loss = Loss::builder(objective, &counts)
                .scale([1.0, 30.0, 1e4][round % 3])
                .build()
                .expect("valid");
            let largest = [1e12, 1e20, 1e37, 3e38][round / 4 % 4];
            let logits: Vec<f32> = (0..classes)
                .map(|_| {
                    let sign = if rng.bool() { 1.0 } else { -1.0 };
                    (sign * largest * [1.0, 1.0, 0.5, 1e-9][rng.usize(..4)]) as f32
                })
                .collect();
            let label = rng.usize(..classes);
            let wide: Vec<f64> = logits.iter().map(|&x| f64::from(x) * 1e260).collect();
            let what = || format!("{objective:?} {logits:?} {label}");
            makes_sense(
                &loss,
                &loss.evaluate(&logits, &[label]).expect("valid"),
                label,
                &what,
            );
            makes_sense(
                &loss,
                &loss.evaluate(&wide, &[label]).expect("valid"),
                label,
                &what,
            );
        }
    }
}

fn makes_sense<T: CpuElement>(
    loss: &Loss,
    got: &ala_loss::Outcome<T>,
    label: usize,
    what: &dyn Fn() -> String,
) {
    assert!(got.loss >= 0.0, "{} {}", got.loss, what());
    let table = loss.table();
    let at_target = -got.gradient[label].to_f64() / table.targets()[label].gradient_slope;
    let others: f64 = (0..got.gradient.len())
        .filter(|&j| j != label)
        .map(|j| got.gradient[j].to_f64() / table.affine(j).slope)
        .sum();
    assert!(
        (at_target - others).abs() <= 1e-4 * at_target.abs() + 1e-6,
        "{at_target} {others} {}",
        what()
    );
}

/// A weight of 0 is a row that does not count, whatever its loss; a NaN in it shows all the same.
#[test]
fn a_row_of_weight_0_counts_for_nothing() {
    let counts = ClassCounts::new([9, 9, 3]).expect("valid");
    let loss = Loss::builder(Objective::CrossEntropy, &counts)
        .class_weights([0.0, 0.0, 1.0])
        .build()
        .expect("valid");
    let infinite = [f32::NEG_INFINITY, 2.0, 3.0, 0.5, 0.1, 0.2];
    let outcome = loss.evaluate(&infinite, &[0, 2]).expect("valid");
    // ln(e^.5 + e^.1 + e^.2) - .2
    assert!((outcome.loss - 1.180_099).abs() < 1e-6, "{}", outcome.loss);
    assert_eq!(outcome.row_losses[0], 0.0);
    assert_eq!(outcome.gradient[..3], [0.0; 3]);
    let per_row = Loss::builder(Objective::CrossEntropy, &counts)
        .class_weights([0.0, 0.0, 1.0])
        .reduction(Reduction::None)
        .build()
        .expect("valid");
    let upstream = Upstream::PerRow(&[f32::INFINITY, 1.0][..]);
    let outcome = per_row
        .evaluate_with(&infinite, &[0, 2], &Options::new().upstream(upstream))
        .expect("valid");
    assert_eq!(outcome.gradient[..3], [0.0; 3]);
    let nan = [f32::NAN, 2.0, 3.0, 0.5, 0.1, 0.2];
    let outcome = loss.evaluate(&nan, &[0, 2]).expect("valid");
    assert!(outcome.loss.is_nan() && outcome.row_losses[0].is_nan());
    assert!(outcome.gradient[..3].iter().all(|g| g.is_nan()));
    let exact = reference::row(loss.table(), &[f64::NEG_INFINITY, 2.0, 3.0], 0);
    assert_eq!((exact.loss, exact.gradient), (0.0, vec![0.0; 3]));
}

/// What multiplies a row's gradient.
#[derive(Debug, Clone, Copy)]
struct Factors {
    class_weight: f64,
    upstream: f64,
    gradient_scale: f64,
}

/// Products that leave a type, that come back into it, and that end in its subnormal numbers.
fn factors() -> Vec<Factors> {
    let most = f64::from(f32::MAX);
    let least = f64::from(f32::from_bits(1));
    [
        (1.0, most, 1.0),
        (1.0, -most, 1.0),
        (1.0, most, 30.0),
        (1.0, 1.0, 1e45),
        (most, 1.0, 1.0),
        (most, most, 1.0),
        (most, 1.0, 1.0 / most),
        (most, least, 1e6),
        (least, 1.0, 1.0),
        (least, 1e38, 1.0),
        (1.0, least, 1.0),
        (1.0, 1e-40, 1.0),
        (1.0, 1e-36, 1.0),
        (1.0, 1e-33, 1.0),
        (1e-20, 1e-16, 1.0),
        (1.0, 1e-310, 1.0),
        (1.0, 1e-300, 1e300),
        (1e280, 1e-150, 1e-130),
        (1.0, 65504.0, 1.0),
        (1.0, 6e-8, 1.0),
    ]
    .map(|(class_weight, upstream, gradient_scale)| Factors {
        class_weight,
        upstream,
        gradient_scale,
    })
    .to_vec()
}

/// Three classes that are not masked, the first of them far below the others so that what a row
/// begins with is no measure of it, and the probabilities by hand.
fn three_of<T: CpuElement>(classes: usize, per_class: bool) -> (Vec<T>, [usize; 3], [f64; 3]) {
    let places = [0, classes / 2, classes - 1];
    let mut x = vec![T::from_f64(f64::NEG_INFINITY); classes];
    let logits = [-13.0, 0.5, -1.0];
    for (place, logit) in places.into_iter().zip(logits) {
        x[place] = T::from_f64(logit);
    }
    // Balanced Softmax adds ln n: 1, 2 and 4 samples.
    let counts = if per_class { [1.0, 2.0, 4.0] } else { [1.0; 3] };
    let terms: Vec<f64> = (0..3).map(|j| counts[j] * logits[j].exp()).collect();
    let sum: f64 = terms.iter().sum();
    (x, places, [0, 1, 2].map(|j| terms[j] / sum))
}

fn factors_at_the_edge<T: CpuElement>() {
    for (classes, per_class) in [3, 40, 1200, 3000, 9001]
        .into_iter()
        .flat_map(|classes| [(classes, false), (classes, true)])
    {
        let (x, places, p) = three_of::<T>(classes, per_class);
        let mut counts = vec![1; classes];
        let objective = if per_class {
            (counts[places[1]], counts[places[2]]) = (2, 4);
            Objective::BalancedSoftmax
        } else {
            Objective::CrossEntropy
        };
        let counts = ClassCounts::new(counts).expect("positive");
        for factors in factors() {
            let loss = Loss::builder(objective, &counts)
                .reduction(Reduction::None)
                .class_weights(vec![factors.class_weight; classes])
                .build()
                .expect("finite weights");
            for (y, &target) in places.iter().enumerate() {
                let what = || {
                    let name = std::any::type_name::<T>();
                    format!("{name} {objective:?}, C = {classes}, target {target}, {factors:?}")
                };
                // In the order that loses nothing to the type: the largest factor with the
                // smallest.
                let mut ordered = [
                    factors.class_weight,
                    factors.upstream,
                    factors.gradient_scale,
                ];
                ordered.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
                let factor = ordered[0] * ordered[2] * ordered[1];
                let exact: Vec<f64> = (0..3)
                    .map(|j| match j == y {
                        true => -factor * (p[(y + 1) % 3] + p[(y + 2) % 3]),
                        false => factor * p[j],
                    })
                    .collect();

                let row = [T::Real::from_f64(factors.upstream)];
                let mut ways = vec![Upstream::Scalar(factors.upstream)];
                if row[0].to_f64() == factors.upstream {
                    ways.push(Upstream::PerRow(&row[..]));
                }
                for upstream in ways {
                    let options = Options::new()
                        .upstream(upstream)
                        .gradient_scale(factors.gradient_scale);
                    let outcome = loss.evaluate_with(&x, &[target], &options).expect("valid");
                    let mut over = x.clone();
                    loss.evaluate_in_place(&mut over, &[target], &options, Outputs::new())
                        .expect("valid");
                    for gradient in [&outcome.gradient, &over] {
                        for (&place, &exact) in places.iter().zip(&exact) {
                            assert_rounded(gradient[place], exact, &what);
                        }
                        let masked = gradient.iter().filter(|g| g.to_f64() == 0.0).count();
                        assert!(masked >= classes - 3, "{}", what());
                        assert!(gradient.iter().all(|g| !g.to_f64().is_nan()), "{}", what());
                    }
                    let exact = -factors.class_weight * p[y].ln();
                    let bound = 2e-6 * exact.abs() + f64::from_bits(1);
                    assert_within(outcome.loss, exact, bound, &what);
                }
            }
        }
    }
}

/// As near as the type has it: no absolute part, for there is no size that a factor leaves without
/// meaning.
fn assert_rounded<T: CpuElement>(got: T, exact: f64, what: &dyn Fn() -> String) {
    let (got, nearest) = (got.to_f64(), T::from_f64(exact).to_f64());
    if nearest.is_infinite() {
        assert_eq!(got, nearest, "{}: {exact:e} leaves the type", what());
        return;
    }
    // And one spacing of what the lanes have, where that is more: the least number.
    let least = match size_of::<T>() {
        8 => f64::from_bits(1),
        _ => f64::from(f32::from_bits(1)),
    };
    assert_within(got, exact, gradient_bound::<T>(exact, 0.0) + least, what);
}

#[test]
fn factors_at_the_edge_of_the_type_give_the_formula() {
    factors_at_the_edge::<f32>();
    factors_at_the_edge::<f64>();
    factors_at_the_edge::<f16>();
    factors_at_the_edge::<bf16>();
}

/// What scales a gradient has a product, in whatever order, that leaves `f64` where the gradient
/// does not; and nothing times a number is nothing.
#[test]
fn factors_whose_product_leaves_f64_give_the_formula() {
    fn check<T: CpuElement>() {
        let two = |exponent| 2f64.powi(exponent);
        // Weight, upstream gradient, gradient scale and their product.
        let cases = [
            (1.0, two(600), two(600), f64::INFINITY),
            (1.0, two(-600), -two(-600), 0.0),
            (two(-900), two(600), two(600), two(300)),
            (two(900), two(-600), two(-600), two(-300)),
            (two(900), -two(-450), two(-450), -1.0),
            (two(-900), two(450), two(450), 1.0),
            (f64::from_bits(1), two(1000), two(74), 1.0),
            (3.0, f64::MAX, 1.0, f64::INFINITY),
        ];
        let masked = f64::NEG_INFINITY;
        for slope in [1.0, 4.0] {
            for (weight, upstream, scale, product) in cases {
                let build = |counts: &[u64]| {
                    let counts = ClassCounts::new(counts).expect("positive");
                    Loss::builder(Objective::CrossEntropy, &counts)
                        .scale(slope)
                        .reduction(Reduction::Sum)
                        .class_weights(vec![weight; counts.classes()])
                        .build()
                        .expect("finite weights")
                };
                let options = Options::new()
                    .upstream(Upstream::Scalar(upstream))
                    .gradient_scale(scale);
                let gradient = |loss: &Loss, logits: &[f64]| -> Vec<T> {
                    let logits: Vec<T> = logits.iter().map(|&x| T::from_f64(x)).collect();
                    let outcome = loss.evaluate_with(&logits, &[0], &options);
                    outcome.expect("valid").gradient
                };
                // By hand: p = 1/2 for the two alike, and for the others 0.
                let half = product * slope / 2.0;
                let got = gradient(&build(&[1; 4]), &[0.5, 0.5, masked, -1e4]);
                let what = || format!("{weight:e} {upstream:e} {scale:e}");
                for (got, exact) in got.into_iter().zip([-half, half, 0.0, 0.0]) {
                    assert_rounded(got, exact, &what);
                }
                // By hand: p = 1.
                assert_eq!(gradient(&build(&[1]), &[0.5]), [T::ZERO]);
                assert_eq!(gradient(&build(&[1; 2]), &[1e4, -1e4]), [T::ZERO; 2]);
            }
        }
    }
    check::<f32>();
    check::<f64>();
    check::<f16>();
    check::<bf16>();
}

/// A mean does not see what all weights have in common, however small or large that is.
#[test]
fn a_mean_does_not_see_the_size_of_the_weights() {
    let counts = ClassCounts::new([1, 1]).expect("positive");
    // Two rows of weights 1 : 3; by hand, p = 1/2 in both.
    let exact = [-0.125, 0.125, 0.375, -0.375];
    for unit in [1.0, 1e-310, 1e-45, 3.4e38, 1e279] {
        let loss = Loss::builder(Objective::CrossEntropy, &counts)
            .class_weights([unit, 3.0 * unit])
            .build()
            .expect("finite weights");
        let outcome = loss.evaluate(&[0.5f32; 4], &[0, 1]).expect("valid");
        assert_within(outcome.loss, 2f64.ln(), 1e-6, &|| format!("{unit:e}"));
        for (got, exact) in outcome.gradient.iter().zip(exact) {
            assert_within(f64::from(*got), exact, 1e-6, &|| format!("{unit:e}"));
        }
    }
}
