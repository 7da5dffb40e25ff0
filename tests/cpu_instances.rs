//! Every instance of the CPU path that this machine has, against the reference and against itself.
//!
//! The instance is chosen once in a process, so each is tested in a process of its own: this
//! binary, started again.

use std::process::Command;

use ala_loss::{
    CpuElement, CpuInstance, Loss, NO_CLASS, Objective, Options, Outputs, Real, Reduction,
    Upstream, reference,
};
use half::{bf16, f16};

mod problem;
use problem::{assert_matches_reference, build, counts, labels, logits, objectives};

fn run_with(name: &str, test: &str) {
    let status = Command::new(std::env::current_exe().expect("the test's own path"))
        .args(["--exact", test, "--ignored"])
        .env("ALA_CPU", name)
        .status()
        .expect("the test starts");
    assert!(status.success(), "{test} with ALA_CPU={name}");
}

#[test]
fn every_instance_is_right() {
    for instance in CpuInstance::available() {
        run_with(instance.name(), "one_instance_is_right");
    }
}

#[test]
fn a_wish_that_cannot_be_met_leaves_the_best() {
    for wish in ["", "sse9", "AVX2"] {
        run_with(wish, "the_best_instance_is_active");
    }
}

#[test]
#[ignore = "started by a_wish_that_cannot_be_met_leaves_the_best"]
fn the_best_instance_is_active() {
    assert_eq!(Some(CpuInstance::active()), CpuInstance::available().last());
}

#[test]
#[ignore = "started by every_instance_is_right"]
fn one_instance_is_right() {
    let wish = std::env::var("ALA_CPU").expect("set by the test that started this");
    assert_eq!(CpuInstance::active().name(), wish);
    each_type::<f32>();
    each_type::<f64>();
    each_type::<f16>();
    each_type::<bf16>();
}

fn each_type<T: CpuElement>() {
    random_rows::<T>();
    long_rows::<T>();
    many_long_rows::<T>();
    rows_that_begin_low::<T>();
    large_logits::<T>();
    edges_at_every_place::<T>();
    hits_and_ignored_rows::<T>();
    streamed_and_cached_rows_have_the_same_bits::<T>();
    threads_do_not_change_bits::<T>();
    a_nan_upstream_makes_a_nan::<T>();
}

/// Around the numbers of lanes, of columns in a sample, a strip and a block, and of classes that
/// are kept; long rows are split in two, three, four.
fn random_rows<T: CpuElement>() {
    let mut rng = fastrand::Rng::with_seed(51);
    for classes in (1..40).chain([
        63, 64, 65, 127, 128, 129, 319, 320, 321, 365, 1023, 1024, 1025, 1040, 1279, 1280, 1281,
        2049, 2303, 2304,
    ]) {
        let counts = counts(&mut rng, classes);
        for objective in objectives() {
            let loss = build(objective, &counts);
            let x = logits::<T>(&mut rng, 3 * classes, 1.0);
            assert_matches_reference(&loss, &x, &labels(&mut rng, 3, classes));
        }
    }
}

fn one_slope_and_one_for_each_class() -> [Objective; 2] {
    let scaled = Objective::VectorScaling {
        gamma: 0.15,
        tau: 0.9,
    };
    [Objective::ala(), scaled]
}

fn assert_in_place_is_the_same<T: CpuElement>(loss: &Loss, mut x: Vec<T>, y: &[i64]) {
    let gradient = loss.evaluate(&x, y).expect("valid").gradient;
    loss.evaluate_in_place(&mut x, y, &Options::new(), Outputs::new())
        .expect("valid");
    let same = bits(&x) == bits(&gradient);
    assert!(same, "{:?} C={}", loss.objective(), loss.classes());
}

fn long_rows<T: CpuElement>() {
    let mut rng = fastrand::Rng::with_seed(52);
    for classes in [8191, 8192, 8193, 16_385, 30_011, 100_000] {
        let counts = counts(&mut rng, classes);
        for objective in one_slope_and_one_for_each_class() {
            let loss = build(objective, &counts);
            let x = logits::<T>(&mut rng, 2 * classes, 1.0);
            let y = labels(&mut rng, 2, classes);
            assert_matches_reference(&loss, &x, &y);
            assert_in_place_is_the_same(&loss, x, &y);
        }
    }
}

/// Enough rows to be taken one after the other, with maxima that rise from block to block or do
/// not, and targets in the first and last columns and where the row is highest.
fn many_long_rows<T: CpuElement>() {
    const ROWS: usize = 17;
    let mut rng = fastrand::Rng::with_seed(57);
    for classes in [1281, 8193, 20_003, 130_001] {
        let counts = counts(&mut rng, classes);
        for objective in one_slope_and_one_for_each_class() {
            let loss = build(objective, &counts);
            let mut y = labels(&mut rng, ROWS, classes);
            let mut x = logits::<T>(&mut rng, ROWS * classes, 0.1);
            for (row, (x, y)) in x.chunks_mut(classes).zip(&mut y).enumerate() {
                let slope = [0.0, 0.9, -0.9][row % 3];
                for (j, x) in x.iter_mut().enumerate() {
                    let ramp = slope * (2.0 * j as f64 / classes as f64 - 1.0);
                    *x = T::from_f64(x.to_f64() + ramp);
                }
                let highest = |a: &usize, b: &usize| x[*a].to_f64().total_cmp(&x[*b].to_f64());
                match row {
                    0..3 => *y = 0,
                    3..6 => *y = classes as i64 - 1,
                    6..9 => *y = (0..classes).max_by(highest).expect("a class") as i64,
                    _ => {}
                }
            }
            assert_matches_reference(&loss, &x, &y);
            assert_in_place_is_the_same(&loss, x, &y);
        }
    }
}

/// The first columns, by which a row is judged, lie below the rest: a little, as a mask does, or at
/// `-infinity`; and so do some of the blocks after them. Logits around 0 and around an offset,
/// targets anywhere and where the row is highest.
fn rows_that_begin_low<T: CpuElement>() {
    const ROWS: usize = 21;
    let mut rng = fastrand::Rng::with_seed(59);
    for (classes, rows) in [
        (5, ROWS),
        (40, ROWS),
        (365, ROWS),
        (1300, ROWS),
        (3001, ROWS),
        (9001, ROWS),
        (9001, 3),
    ] {
        let counts = counts(&mut rng, classes);
        for objective in one_slope_and_one_for_each_class() {
            let loss = build(objective, &counts);
            let mut x = logits::<T>(&mut rng, rows * classes, 1.0);
            let mut y = labels(&mut rng, rows, classes);
            for (row, (x, y)) in x.chunks_mut(classes).zip(&mut y).enumerate() {
                let depth = [0.3, 0.7, 2.0, 8.0, 100.0, 1e4, f64::INFINITY][row % 7];
                let offset = [0.0, -700.0, 3e4][row / 7];
                let cuts = [4, 32, 33, 1024, 2100];
                let cut = cuts[rng.usize(..cuts.len())].min(classes - 1);
                let steps = if row % 2 == 0 { 1.0 } else { 2.0 };
                for (j, x) in x.iter_mut().enumerate() {
                    let part = if j < cut {
                        steps
                    } else if j < 2 * cut {
                        steps - 1.0
                    } else {
                        0.0
                    };
                    // No part of an infinite depth is 0.
                    let low = if part == 0.0 { 0.0 } else { part * depth };
                    *x = T::from_f64(x.to_f64() + offset - low);
                }
                let highest = |a: &usize, b: &usize| x[*a].to_f64().total_cmp(&x[*b].to_f64());
                if row % 3 == 0 {
                    *y = (0..classes).max_by(highest).expect("a class") as i64;
                }
            }
            assert_matches_reference(&loss, &x, &y);
            assert_in_place_is_the_same(&loss, x, &y);
        }
    }
}

/// Slopes and offsets must not be lost to rounding where logits are large: only their differences
/// count.
fn large_logits<T: CpuElement>() {
    let mut rng = fastrand::Rng::with_seed(53);
    // 16-bit logits as large as that have no differences to speak of, but must give what the
    // reference gives for them.
    for classes in [37, 9000] {
        let counts = counts(&mut rng, classes);
        for objective in objectives() {
            for (scale, offset) in [(1.0, 1e4), (1.0 / 0.07, 1e4), (1.0, -1e6), (30.0, 4e6)] {
                if T::from_f64(offset).to_f64().is_infinite() {
                    continue;
                }
                let loss = Loss::builder(objective, &counts)
                    .scale(scale)
                    .build()
                    .expect("valid");
                let x: Vec<T> = logits::<f64>(&mut rng, classes, 5.0)
                    .iter()
                    .map(|x| T::from_f64(x + offset))
                    .collect();
                assert_matches_reference(&loss, &x, &[7]);
            }
        }
    }
}

/// A NaN, infinities and a mask at each place of a row that has a head, a body and a tail.
fn edges_at_every_place<T: CpuElement>() {
    let mut rng = fastrand::Rng::with_seed(54);
    for (classes, step) in [(35, 1), (8200, 997)] {
        let counts = counts(&mut rng, classes);
        for objective in [
            Objective::ala(),
            Objective::VectorScaling {
                gamma: 0.2,
                tau: 1.0,
            },
        ] {
            let loss = build(objective, &counts);
            for place in (0..classes).step_by(step) {
                let target = (place + 5) % classes;
                let mut x = logits::<T>(&mut rng, classes, 1.0);
                for bad in [f64::NAN, -f64::NAN, f64::INFINITY] {
                    x[place] = T::from_f64(bad);
                    for y in [place, target] {
                        let row = loss.evaluate(&x, &[y]).expect("valid");
                        assert!(row.loss.is_nan(), "{objective:?} {bad} at {place}");
                        assert!(row.gradient.iter().all(|g| g.to_f64().is_nan()));
                    }
                }
                x[place] = T::from_f64(f64::NEG_INFINITY);
                assert_matches_reference(&loss, &x, &[target as i64]);
                let row = loss.evaluate(&x, &[target]).expect("valid");
                assert_eq!(row.gradient[place].to_f64(), 0.0);
                // Only the target is above -infinity, and only the target is not.
                let mut masked = vec![T::from_f64(f64::NEG_INFINITY); classes];
                masked[target] = T::from_f64(0.5);
                let row = loss.evaluate(&masked, &[target]).expect("valid");
                assert_eq!(row.loss, 0.0);
                assert!(row.gradient.iter().all(|g| g.to_f64() == 0.0));
                let row = loss.evaluate(&masked, &[place]).expect("valid");
                assert_eq!(row.loss, f64::INFINITY);
                assert!(row.gradient.iter().all(|g| g.to_f64().is_finite()));
            }
        }
    }
}

/// Hits and predictions with the highest logit in each part of a row, ties and NaN, between rows
/// that are ignored: rows shorter than a vector, of one block, of several, and so long or few that
/// their columns are shared out.
fn hits_and_ignored_rows<T: CpuElement>() {
    let mut rng = fastrand::Rng::with_seed(60);
    let ignored = 2;
    for (classes, most_rows) in [
        (5, 60),
        (365, 60),
        (1279, 60),
        (1281, 60),
        (3001, 60),
        (9001, 15),
        (9001, 60),
        (20_003, 15),
        (140_000, 20),
    ] {
        let last = classes - 1;
        // One column in each block, and around the ends of vectors, blocks and parts that threads
        // take.
        let columns: Vec<usize> = [
            0, 1, 3, 4, 31, 364, 1023, 1024, 1025, 2500, 8191, 8192, 9000, 20_002, last,
        ]
        .into_iter()
        .filter(|&column| column < classes && column != ignored)
        .collect();
        // Label, what stands out in the row, whether it is a hit; for an ignored row the label
        // alone.
        let mut cases = Vec::new();
        for &column in &columns {
            let other = (column + classes / 2 + 1) % classes;
            cases.push((column, vec![(column, 2.0)], true));
            cases.push((
                ignored,
                vec![(column, f64::NAN), (other, f64::INFINITY)],
                false,
            ));
            cases.push((column, vec![(column, 2.0), (other, 3.0)], false));
            if column > 0 {
                // Among equals the lowest class is the row's.
                cases.push((column, vec![(column, 2.0), (0, 2.0)], false));
                cases.push((0, vec![(column, 2.0), (0, 2.0)], true));
            }
            cases.push((column, vec![(column, 2.0), (other, f64::NAN)], false));
        }
        rng.shuffle(&mut cases);
        cases.truncate(most_rows);
        let rows = cases.len();
        let mut x = logits::<T>(&mut rng, rows * classes, 1.0);
        for (x, (_, peaks, _)) in x.chunks_mut(classes).zip(&cases) {
            for &(column, peak) in peaks {
                x[column] = T::from_f64(peak);
            }
        }
        let y: Vec<i64> = cases.iter().map(|(label, ..)| *label as i64).collect();
        let expected: Vec<bool> = cases.iter().map(|(.., hit)| *hit).collect();
        for objective in one_slope_and_one_for_each_class() {
            let loss = Loss::builder(objective, &counts(&mut rng, classes))
                .scale(1.0)
                .ignore_label(ignored as i64)
                .build()
                .expect("valid");
            let what = format!("{objective:?} {rows} x {classes}");
            let poison = T::from_f64(77.0);
            let mut gradient = vec![poison; rows * classes];
            let mut losses = vec![T::Real::from_f64(77.0); rows];
            let mut hits: Vec<bool> = expected.iter().map(|hit| !hit).collect();
            let outputs = Outputs::new()
                .gradient(&mut gradient)
                .row_losses(&mut losses)
                .hits(&mut hits);
            let summary = loss
                .evaluate_into(&x, &y, &Options::new(), outputs)
                .expect("valid");
            assert_eq!(hits, expected, "{what}");
            let counted = y.iter().filter(|&&y| y != ignored as i64).count();
            assert_eq!(summary.counted_rows, counted, "{what}");
            let mut over = x.clone();
            let mut hits: Vec<bool> = expected.iter().map(|hit| !hit).collect();
            let mut predictions = vec![classes as u32; rows];
            let outputs = Outputs::new().hits(&mut hits).predictions(&mut predictions);
            loss.evaluate_in_place(&mut over, &y, &Options::new(), outputs)
                .expect("valid");
            assert_eq!(hits, expected, "in place, {what}");
            let class = |row: usize| {
                let x = problem::widen(&x[row * classes..][..classes]);
                let class = reference::prediction(&x).filter(|_| y[row] != ignored as i64);
                class.map_or(NO_CLASS, |class| class as u32)
            };
            let classes_of_rows: Vec<u32> = (0..rows).map(class).collect();
            assert_eq!(predictions, classes_of_rows, "in place, {what}");
            assert!(bits(&over) == bits(&gradient), "in place, {what}");

            let wide = problem::widen(&x);
            let exact = reference::batch(&loss, &wide, &y, &vec![1.0; rows]);
            let slope = problem::slope(loss.table());
            for row in 0..rows {
                let columns = row * classes..(row + 1) * classes;
                let loss = losses[row].to_f64();
                if y[row] == ignored as i64 {
                    assert_eq!(loss, 0.0, "{what}, row {row}");
                    let zero = bits(&gradient[columns]).iter().all(|&bits| bits == 0);
                    assert!(zero, "{what}, row {row}");
                    continue;
                }
                let exact_loss = exact.row_losses[row];
                let bound = problem::loss_bound(exact_loss);
                problem::assert_within(loss, exact_loss, bound, &|| format!("{what}, row {row}"));
                for (got, &exact) in gradient[columns.clone()]
                    .iter()
                    .zip(&exact.gradient[columns])
                {
                    let bound = problem::gradient_bound::<T>(exact, slope);
                    let what = || format!("{what}, row {row}");
                    problem::assert_within(got.to_f64(), exact, bound, &what);
                }
            }
        }
    }
}

fn bits<T: CpuElement>(values: &[T]) -> Vec<u64> {
    values.iter().map(|v| v.to_f64().to_bits()).collect()
}

/// A gradient too large for the cache is stored past it, whatever the alignment of its rows.
fn streamed_and_cached_rows_have_the_same_bits<T: CpuElement>() {
    let mut rng = fastrand::Rng::with_seed(55);
    let many = |classes: usize| (8 << 20) / size_of::<T>() / classes + 1000;
    // Rows of part of a line first: several share one, and some lie in two.
    for (classes, rows) in [1, 3, 7, 15, 31, 33]
        .map(|classes| (classes, many(classes)))
        .into_iter()
        .chain([(1003, 8800), (8201, 1060)])
    {
        let loss = Loss::builder(Objective::ala(), &counts(&mut rng, classes))
            .reduction(Reduction::Sum)
            .build()
            .expect("valid");
        let few: Vec<T> = logits(&mut rng, 40 * classes, 1.0);
        let few_labels = labels(&mut rng, 40, classes);
        let x: Vec<T> = few.iter().copied().cycle().take(rows * classes).collect();
        let y: Vec<i64> = few_labels.iter().copied().cycle().take(rows).collect();
        assert_matches_reference(&loss, &few, &few_labels);
        let small = loss.evaluate(&few, &few_labels).expect("valid").gradient;
        for offset in [0, 1, 7] {
            let mut gradient = vec![T::ZERO; offset + rows * classes + 1];
            let end = gradient[offset + rows * classes];
            let outputs = Outputs::new().gradient(&mut gradient[offset..][..rows * classes]);
            loss.evaluate_into(&x, &y, &Options::new(), outputs)
                .expect("valid");
            let gradient = &gradient[offset..];
            assert_eq!(gradient[rows * classes], end);
            for large in gradient[..rows / 40 * 40 * classes].chunks(40 * classes) {
                assert!(large == small, "{rows} x {classes} from {offset}");
            }
        }
        if classes > 100 {
            continue;
        }
        // What lies between the rows shares their lines and is not theirs.
        for gap in [1, 5] {
            let stride = classes + gap;
            let poison = T::from_f64(77.0);
            let mut gradient = vec![poison; rows * stride];
            let outputs = Outputs::new().gradient_strided(&mut gradient, stride);
            loss.evaluate_into(&x, &y, &Options::new(), outputs)
                .expect("valid");
            for (row, padded) in gradient.chunks(stride).enumerate() {
                let (own, between) = padded.split_at(classes);
                let expected = &small[row % 40 * classes..][..classes];
                assert!(
                    own == expected,
                    "row {row} of {rows} x {classes}, {gap} apart"
                );
                assert!(between.iter().all(|&x| x == poison), "behind row {row}");
            }
        }
    }
}

fn threads_do_not_change_bits<T: CpuElement>() {
    let mut rng = fastrand::Rng::with_seed(56);
    // By rows, by columns of long rows, by both.
    for (rows, classes) in [
        (900, 100),
        (90, 1001),
        (1, 100_003),
        (9, 20_000),
        (40, 20_000),
    ] {
        let loss = build(Objective::ala(), &counts(&mut rng, classes));
        let x = logits::<T>(&mut rng, rows * classes, 1.0);
        let y = labels(&mut rng, rows, classes);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().expect("a thread pool");
            pool.install(|| loss.evaluate(&x, &y).expect("valid"))
        };
        let one = run(1);
        for threads in [2, 3, 8] {
            let many = run(threads);
            let what = format!("{rows} x {classes}, {threads} threads");
            assert_eq!(many.loss.to_bits(), one.loss.to_bits(), "{what}");
            assert!(bits(&many.gradient) == bits(&one.gradient), "{what}");
            assert_eq!(many.row_losses, one.row_losses, "{what}");
        }
    }
}

/// Whatever its bits, and with a map for each class as with one slope.
fn a_nan_upstream_makes_a_nan<T: CpuElement>() {
    let mut rng = fastrand::Rng::with_seed(58);
    for classes in [37, 9000] {
        let counts = counts(&mut rng, classes);
        for objective in [Objective::ala(), Objective::BalancedSoftmax] {
            let loss = Loss::builder(objective, &counts)
                .reduction(Reduction::None)
                .build()
                .expect("valid");
            let x = logits::<T>(&mut rng, classes, 1.0);
            for bits in [0x7FC0_0000u32, 0x7FFF_FFFF, 0xFFFF_FFFF, 0x7F80_0001] {
                let upstream = [T::Real::from_f64(f32::from_bits(bits).into())];
                let options = Options::new().upstream(Upstream::PerRow(&upstream));
                let outcome = loss.evaluate_with(&x, &[3], &options).expect("valid");
                assert!(outcome.gradient.iter().all(|g| g.to_f64().is_nan()));
            }
        }
    }
}
