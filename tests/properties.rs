//! What must hold for every batch, over random shapes, counts, labels and logits.

use ala_loss::{
    Ala, ClassCounts, CpuElement, DifficultyGradient, Loss, Objective, Options, Outputs,
    QuantityLog, Reduction, Upstream,
};
use half::{bf16, f16};
use proptest::prelude::*;

mod problem;
use problem::{assert_within, loss_bound, objectives, widen};

/// A batch that is made from its seed, so that it shrinks by shape.
#[derive(Debug, Clone)]
struct Shape {
    rows: usize,
    classes: usize,
    objective: Objective,
    scale: f64,
    seed: u64,
}

fn shapes() -> impl Strategy<Value = Shape> {
    let objectives = objectives();
    (
        0usize..20,
        1usize..70,
        0..objectives.len(),
        prop::sample::select(vec![1.0, 16.0, 30.0, 64.0]),
        any::<u64>(),
    )
        .prop_map(move |(rows, classes, objective, scale, seed)| Shape {
            rows,
            classes,
            objective: objectives[objective],
            scale,
            seed,
        })
}

struct Problem {
    counts: ClassCounts,
    logits: Vec<f64>,
    labels: Vec<i64>,
}

impl Shape {
    fn problem(&self) -> Problem {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        Problem {
            counts: problem::counts(&mut rng, self.classes),
            logits: problem::logits(&mut rng, self.rows * self.classes, 1.0),
            labels: problem::labels(&mut rng, self.rows, self.classes),
        }
    }

    fn loss(&self, counts: &ClassCounts, reduction: Reduction) -> Loss {
        Loss::builder(self.objective, counts)
            .scale(self.scale)
            .reduction(reduction)
            .build()
            .expect("valid")
    }
}

fn bits<T: CpuElement>(values: &[T]) -> Vec<u64> {
    values.iter().map(|v| v.to_f64().to_bits()).collect()
}

fn with_threads<R: Send>(threads: usize, run: impl FnOnce() -> R + Send) -> R {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .expect("a thread pool");
    pool.install(run)
}

proptest! {
    #[test]
    fn renaming_the_classes_renames_the_gradient(shape in shapes()) {
        let p = shape.problem();
        let mut order: Vec<usize> = (0..shape.classes).collect();
        fastrand::Rng::with_seed(shape.seed ^ 1).shuffle(&mut order);
        let renamed = ClassCounts::new(order.iter().map(|&j| p.counts.as_slice()[j]).collect::<Vec<_>>()).expect("valid");
        let mut place = vec![0; shape.classes];
        for (new, &old) in order.iter().enumerate() {
            place[old] = new;
        }
        let x: Vec<f64> = p.logits.chunks(shape.classes).flat_map(|row| order.iter().map(|&j| row[j])).collect();
        let y: Vec<usize> = p.labels.iter().map(|&y| place[y as usize]).collect();
        let a = shape.loss(&p.counts, Reduction::Sum).evaluate(&p.logits, &p.labels).expect("valid");
        let b = shape.loss(&renamed, Reduction::Sum).evaluate(&x, &y).expect("valid");
        assert_within(b.loss, a.loss, 1e-11 * (1.0 + a.loss), &|| "loss".into());
        for (ra, rb) in a.gradient.chunks(shape.classes).zip(b.gradient.chunks(shape.classes)) {
            for (new, &old) in order.iter().enumerate() {
                assert_within(rb[new], ra[old], 1e-11 * (1.0 + ra[old].abs()), &|| format!("class {old}"));
            }
        }
    }

    #[test]
    fn a_common_shift_leaves_cross_entropy_as_it_is(shape in shapes(), shift in -100.0f64..100.0) {
        let p = shape.problem();
        let loss = Loss::builder(Objective::CrossEntropy, &p.counts).build().expect("valid");
        let shifted: Vec<f64> = p.logits.iter().map(|x| x + shift).collect();
        let a = loss.evaluate(&p.logits, &p.labels).expect("valid");
        let b = loss.evaluate(&shifted, &p.labels).expect("valid");
        assert_within(b.loss, a.loss, 1e-12 * (1.0 + a.loss), &|| "loss".into());
        for (a, b) in a.gradient.iter().zip(&b.gradient) {
            assert_within(*b, *a, 1e-12, &|| "gradient".into());
        }
    }

    /// With one slope for all, the gradient sums to 0 over a row; a steeper target keeps `(A - s)`
    /// of its own part.
    #[test]
    fn a_row_s_gradient_sums_to_what_the_target_s_slope_adds(shape in shapes()) {
        let p = shape.problem();
        let loss = shape.loss(&p.counts, Reduction::Sum);
        prop_assume!(matches!(loss.table().non_target(), ala_loss::NonTarget::Uniform { .. }));
        let outcome = loss.evaluate(&p.logits, &p.labels).expect("valid");
        for (row, &y) in outcome.gradient.chunks(shape.classes).zip(&p.labels) {
            let own = loss.table().targets()[y as usize];
            let others: f64 = row.iter().sum::<f64>() - row[y as usize];
            let expected = -others * own.gradient_slope / shape.scale;
            assert_within(row[y as usize], expected, 1e-11 * shape.scale, &|| format!("{:?}", shape.objective));
        }
    }

    #[test]
    fn without_its_factor_each_margin_loss_is_cross_entropy(shape in shapes()) {
        let p = shape.problem();
        let of = |objective| Shape { objective, ..shape.clone() }.loss(&p.counts, Reduction::Mean).evaluate(&p.logits, &p.labels).expect("valid");
        let plain = of(Objective::CrossEntropy);
        for gradient in [DifficultyGradient::Detached, DifficultyGradient::Attached] {
            prop_assert_eq!(&of(Objective::DifficultyOnly { k: 0.0, gradient }), &plain);
        }
        prop_assert_eq!(&of(Objective::Ldam { max_margin: 0.0 }), &plain);
        prop_assert_eq!(&of(Objective::CosFace { margin: 0.0 }), &plain);
        let focal = of(Objective::Focal { gamma: 0.0 });
        assert_within(focal.loss, plain.loss, 1e-12, &|| "focal".into());
        for (a, b) in focal.gradient.iter().zip(&plain.gradient) {
            assert_within(*a, *b, 1e-12, &|| "focal gradient".into());
        }
    }

    #[test]
    fn margins_never_lower_the_loss(shape in shapes()) {
        let p = shape.problem();
        let of = |objective| Shape { objective, ..shape.clone() }.loss(&p.counts, Reduction::None).evaluate(&p.logits, &p.labels).expect("valid").row_losses;
        let plain = of(Objective::CrossEntropy);
        let margins = [
            Objective::ala(),
            Objective::Ala(Ala { log: QuantityLog::Natural, ..Ala::default() }),
            Objective::QuantityOnly { log: QuantityLog::Base2 },
            Objective::DifficultyOnly { k: 1.0, gradient: DifficultyGradient::Detached },
            Objective::Ldam { max_margin: 0.5 },
            Objective::CosFace { margin: 0.35 },
        ];
        for objective in margins {
            for (with, without) in of(objective).into_iter().zip(&plain) {
                prop_assert!(with >= *without, "{:?}: {} < {}", objective, with, without);
            }
        }
    }

    #[test]
    fn rows_do_not_see_each_other(shape in shapes()) {
        let p = shape.problem();
        let loss = shape.loss(&p.counts, Reduction::Sum);
        let all = loss.evaluate(&p.logits, &p.labels).expect("valid");
        for (row, x) in p.logits.chunks(shape.classes).enumerate() {
            let alone = loss.evaluate(x, &p.labels[row..=row]).expect("valid");
            prop_assert_eq!(alone.row_losses[0], all.row_losses[row]);
            prop_assert_eq!(&alone.gradient[..], &all.gradient[row * shape.classes..][..shape.classes]);
        }
    }

    #[test]
    fn hits_are_the_argmax_of_the_logits(shape in shapes()) {
        let p = shape.problem();
        // Coarse logits, so that ties happen.
        let x: Vec<f64> = p.logits.iter().map(|x| (x * 3.0).round() / 3.0).collect();
        let outcome = shape.loss(&p.counts, Reduction::Mean).evaluate_with(&x, &p.labels, &Options::new().hits()).expect("valid");
        let expected: Vec<bool> = x.chunks(shape.classes).zip(&p.labels).map(|(row, &y)| {
            let mut best = 0;
            for j in 1..row.len() {
                if row[j] > row[best] {
                    best = j;
                }
            }
            best == y as usize
        }).collect();
        prop_assert_eq!(outcome.hits, Some(expected));
    }

    #[test]
    fn strides_in_place_and_separate_buffers_give_the_same_bits(shape in shapes(), pad in 0usize..5, gradient_pad in 0usize..5) {
        fn check<T: CpuElement>(shape: &Shape, pad: usize, gradient_pad: usize) {
            let p = shape.problem();
            let (rows, classes) = (shape.rows, shape.classes);
            let loss = shape.loss(&p.counts, Reduction::Mean);
            let x: Vec<T> = p.logits.iter().map(|&x| T::from_f64(x)).collect();
            let plain = loss.evaluate(&x, &p.labels).expect("valid");

            let poison = T::from_f64(77.0);
            let spread = |source: &[T], stride: usize| {
                let mut wide = vec![poison; rows * stride];
                for (row, source) in source.chunks(classes).enumerate() {
                    wide[row * stride..][..classes].copy_from_slice(source);
                }
                wide
            };
            let (stride, gradient_stride) = (classes + pad, classes + gradient_pad);
            let wide = spread(&x, stride);
            let options = Options::new().stride(stride);

            let mut gradient = vec![poison; rows * gradient_stride];
            let mut losses = plain.row_losses.clone();
            losses.fill(<T::Real as ala_loss::Real>::from_f64(77.0));
            let outputs = Outputs::new().gradient_strided(&mut gradient, gradient_stride).row_losses(&mut losses);
            let summary = loss.evaluate_into(&wide, &p.labels, &options, outputs).expect("valid");
            assert_eq!(summary.loss.to_bits(), plain.loss.to_bits());
            assert_eq!(losses, plain.row_losses);
            // Rows are written, padding is not.
            assert_eq!(bits(&gradient), bits(&spread(&plain.gradient, gradient_stride)));

            let mut over = wide.clone();
            let summary = loss.evaluate_in_place(&mut over, &p.labels, &options, Outputs::new()).expect("valid");
            assert_eq!(summary.loss.to_bits(), plain.loss.to_bits());
            assert_eq!(bits(&over), bits(&spread(&plain.gradient, stride)));

            let summary = loss.evaluate_into(&wide, &p.labels, &options, Outputs::new()).expect("valid");
            assert_eq!(summary.loss.to_bits(), plain.loss.to_bits());
        }
        check::<f32>(&shape, pad, gradient_pad);
        check::<f64>(&shape, pad, gradient_pad);
        check::<f16>(&shape, pad, gradient_pad);
        check::<bf16>(&shape, pad, gradient_pad);
    }

    #[test]
    fn upstream_gradients_and_the_gradient_scale_multiply(shape in shapes(), factor in -3.0f64..3.0) {
        let p = shape.problem();
        let loss = shape.loss(&p.counts, Reduction::None);
        let plain = loss.evaluate(&p.logits, &p.labels).expect("valid");
        let mut rng = fastrand::Rng::with_seed(shape.seed ^ 2);
        let each: Vec<f64> = (0..shape.rows).map(|_| rng.f64() * 4.0 - 2.0).collect();
        let options = Options::new().upstream(Upstream::PerRow(&each)).gradient_scale(factor);
        let got = loss.evaluate_with(&p.logits, &p.labels, &options).expect("valid");
        prop_assert_eq!(&got.row_losses, &plain.row_losses);
        for (row, upstream) in each.iter().enumerate() {
            for j in row * shape.classes..(row + 1) * shape.classes {
                let exact = plain.gradient[j] * upstream * factor;
                assert_within(got.gradient[j], exact, 1e-14 * exact.abs(), &|| format!("element {j}"));
            }
        }
        let same = loss.evaluate_with(&p.logits, &p.labels, &Options::new().upstream(Upstream::Scalar(factor))).expect("valid");
        for (got, plain) in same.gradient.iter().zip(&plain.gradient) {
            assert_within(*got, plain * factor, 1e-14 * plain.abs() * factor.abs(), &|| "scalar".into());
        }
    }

    #[test]
    fn every_label_type_gives_the_same_bits(shape in shapes()) {
        let p = shape.problem();
        let loss = shape.loss(&p.counts, Reduction::Mean);
        let expected = loss.evaluate(&p.logits, &p.labels).expect("valid");
        macro_rules! check {
            ($($type:ty),*) => {$(
                let labels: Vec<$type> = p.labels.iter().map(|&y| y as $type).collect();
                prop_assert_eq!(&loss.evaluate(&p.logits, &labels).expect("valid"), &expected);
            )*};
        }
        check!(u8, u16, u32, u64, usize, i8, i16, i32, isize);
    }

    #[test]
    fn the_loss_alone_is_within_bounds_of_the_f64_loss(shape in shapes()) {
        let p = shape.problem();
        let loss = shape.loss(&p.counts, Reduction::Mean);
        let x: Vec<f32> = p.logits.iter().map(|&x| x as f32).collect();
        let exact = loss.evaluate(&widen(&x), &p.labels).expect("valid").loss;
        let got = loss.evaluate_into(&x, &p.labels, &Options::new(), Outputs::new()).expect("valid").loss;
        assert_within(got, exact, loss_bound(exact), &|| "loss".into());
    }
}

/// Large enough to be split over threads many times.
#[test]
fn any_thread_count_gives_the_same_bits() {
    let mut rng = fastrand::Rng::with_seed(31);
    for (rows, classes) in [(3000, 100), (700, 1001), (5, 60_000)] {
        let counts = problem::counts(&mut rng, classes);
        let x = problem::logits::<f32>(&mut rng, rows * classes, 1.0);
        let y = problem::labels(&mut rng, rows, classes);
        for objective in [Objective::ala(), Objective::BalancedSoftmax] {
            let loss = Loss::builder(objective, &counts)
                .reduction(Reduction::Mean)
                .build()
                .expect("valid");
            let run = |threads| with_threads(threads, || loss.evaluate(&x, &y).expect("valid"));
            let one = run(1);
            for threads in [2, 3, 7] {
                let many = run(threads);
                assert_eq!(
                    many.loss.to_bits(),
                    one.loss.to_bits(),
                    "{rows} x {classes}, {threads} threads"
                );
                assert_eq!(bits(&many.row_losses), bits(&one.row_losses));
                assert_eq!(bits(&many.gradient), bits(&one.gradient));
            }
        }
    }
}
