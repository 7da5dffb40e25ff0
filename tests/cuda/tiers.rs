//! The same in every tier, each forced on a batch small enough for software: blocks that take row
//! after row, hits, weights, focal rows, factors that are no numbers, stages that are full, rows
//! that are far apart.

use ala_loss::cuda::instruments::{LaunchShape, RowRequirement, TIERS, Tier};
use ala_loss::cuda::{CudaElement, CudaLoss, Options, Outputs, RawStep, Upstream};
use ala_loss::{Element, Error, Loss, Objective, Reduction, reference};
use cudarc::driver::{DevicePtr, DeviceRepr, sys};
use half::{bf16, f16};
use softcuda::exec::Order;

use crate::device::{Device, Got, Mode, Step, device};
use crate::problem::{self, assert_within, gradient_bound, loss_bound, slope, widen};

const IGNORE: i64 = -100;

/// A tier and a batch for it.
#[derive(Debug, Clone, Copy)]
pub struct Forced {
    pub shape: LaunchShape,
    pub rows: usize,
    pub classes: usize,
}

/// Elements of a 16-byte vector.
const fn width<T>() -> usize {
    16 / size_of::<T>()
}

/// Classes that give each lane of a small group, and three warps of a large one, a vector or two;
/// no multiple of anything.
fn classes_for<T>(tier: &Tier, per_class: bool) -> usize {
    let classes = match (tier.rows, tier.lanes) {
        (RowRequirement::Contiguous, _) => 13,
        (_, lanes @ ..=32) => lanes as usize * width::<T>() + 3,
        _ => 70 * width::<T>() + 7,
    };
    classes.min(tier.most_classes(per_class) as usize - 1)
}

fn multiprocessors(device: &Device) -> usize {
    let count = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    device.context.attribute(count).expect("a count") as usize
}

/// Every tier with one block for each multiprocessor; the staged one with a block a row and with as
/// many as may share it. `threads` of a block at least, where a row has fewer lanes; `turns` of all
/// blocks over the rows.
pub fn every_tier<T>(device: &Device, per_class: bool, threads: u32, turns: Turns) -> Vec<Forced> {
    let multiprocessors = multiprocessors(device);
    let most_parts = (multiprocessors / 8).clamp(1, 16) as u32;
    let mut all = Vec::new();
    for tier in TIERS {
        if tier.most_classes(per_class) == 0 {
            continue;
        }
        let parts: &[u32] = match tier.rows {
            RowRequirement::Staged => &[1, most_parts],
            _ => &[1],
        };
        for &parts in parts {
            let threads = match tier.rows {
                RowRequirement::Staged | RowRequirement::Any => tier.threads,
                _ => threads.clamp(tier.lanes.max(32), tier.threads),
            };
            let at_once = multiprocessors / parts as usize;
            let rows_a_block = (threads / tier.lanes) as usize;
            all.push(Forced {
                shape: LaunchShape {
                    tier: tier.name,
                    threads,
                    blocks_per_multiprocessor: 1,
                    parts,
                },
                rows: match turns {
                    Turns::Several => 2 * at_once * rows_a_block + rows_a_block / 2 + 3,
                    Turns::Blocks => 2 * rows_a_block + rows_a_block / 2 + 3,
                    Turns::Rows(rows) => rows,
                },
                classes: classes_for::<T>(tier, per_class),
            });
        }
    }
    all
}

/// How many rows a batch has.
#[derive(Debug, Clone, Copy)]
pub enum Turns {
    /// Blocks take three tiles, or three rows, the last ones ragged.
    Several,
    /// Three blocks or more with one tile each.
    Blocks,
    Rows(usize),
}

/// The definition: no logit is larger, no equal one has a lower class, none is NaN.
fn is_hit(logits: &[f64], label: usize) -> bool {
    let own = logits[label];
    let beaten = |(j, &x): (usize, &f64)| x < own || (x == own && j >= label);
    logits.iter().enumerate().all(beaten)
}

/// Holds a step against the reference row by row, rows without a target among them, and its sums.
fn assert_rows<T>(device: &Device, bound: &CudaLoss, step: &Step<T, i64>, what: &str) -> Got<T>
where
    T: CudaElement + DeviceRepr + Default,
{
    let loss = bound.loss();
    let classes = loss.classes();
    let got = device.run(bound, step);
    let class_of = |label: i64| usize::try_from(label).ok().filter(|&y| y < classes);
    let targets = loss.table().targets();
    let counted = step.labels.iter().filter_map(|&label| class_of(label));
    let total_weight: f64 = counted.clone().map(|y| targets[y].weight).sum();
    let divisor = match loss.reduction() {
        Reduction::Mean if total_weight > 0.0 => total_weight,
        _ => 1.0,
    };
    let bound_slope = slope(loss.table()) / divisor;
    let mut sum = 0.0;
    let mut first_bad = None;
    for (row, &label) in step.labels.iter().enumerate() {
        let logits = widen(&step.logits[row * step.stride..][..classes]);
        let gradient = widen(&got.gradient[row * classes..][..classes]);
        let place = || format!("{what}, row {row}, label {label}");
        let Some(y) = class_of(label) else {
            let ignored = Some(label) == loss.ignore_label();
            if !ignored && first_bad.is_none() {
                first_bad = Some((row, label));
            }
            let right = if ignored { 0.0 } else { f64::NAN };
            assert_within(got.row_losses[row].into(), right, 0.0, &place);
            assert!(gradient.iter().all(|&g| g == 0.0), "{}", place());
            assert!(!step.hits || !got.hits[row], "{}", place());
            continue;
        };
        let exact = reference::row(loss.table(), &logits, y);
        sum += exact.loss;
        let of_row = f64::from(got.row_losses[row]);
        assert_within(of_row, exact.loss, loss_bound(exact.loss), &place);
        if step.hits {
            assert_eq!(got.hits[row], is_hit(&logits, y), "{}", place());
        }
        for (j, (got, exact)) in gradient.iter().zip(&exact.gradient).enumerate() {
            let exact = exact / divisor;
            let bound = gradient_bound::<T>(exact, bound_slope);
            assert_within(*got, exact, bound, &|| format!("{} class {j}", place()));
        }
    }
    match (&got.summary, first_bad) {
        (Ok(summary), None) => {
            let right = sum / divisor;
            assert_within(summary.loss, right, loss_bound(right), &|| what.into());
            assert_eq!(summary.counted_rows, counted.count(), "{what}");
            let off = |total: f64| (total - total_weight).abs() <= 1e-6 * total_weight;
            assert!(off(summary.total_weight), "{what}: {summary:?}");
        }
        (Err(error), Some((row, label))) => {
            let label = label.into();
            let right = Error::Label {
                row,
                label,
                classes,
            };
            assert_eq!(*error, right, "{what}");
        }
        (summary, bad) => panic!("{what}: {summary:?} where the first bad row is {bad:?}"),
    }
    got
}

/// What a block keeps for one row or tile must not meet the next one's, whatever rows lie between.
#[test]
fn blocks_of_every_tier_take_row_after_row() {
    fn check<T: CudaElement + DeviceRepr + Default>(
        device: &Device,
        objective: Objective,
        odd: bool,
    ) {
        let per_class = objective == Objective::BalancedSoftmax;
        let mut rng = fastrand::Rng::with_seed(100);
        for (i, forced) in every_tier::<T>(device, per_class, 64, Turns::Several)
            .into_iter()
            .enumerate()
        {
            let Forced {
                shape,
                rows,
                classes,
            } = forced;
            let counts = problem::counts(&mut rng, classes);
            let mut logits: Vec<T> = problem::logits(&mut rng, rows * classes, 1.0);
            let mut labels = problem::labels(&mut rng, rows, classes);
            // Rows that a block leaves for its end, in each of its turns; with offsets the classes
            // that lead differ by those.
            let far = T::from_f64(1e9);
            for row in (4..rows).step_by(29).filter(|_| far.to_f64().is_finite()) {
                let y = labels[row] as usize;
                logits[row * classes + y] = far;
                if per_class {
                    logits[row * classes + (y + 3) % classes] = far;
                }
            }
            for label in labels.iter_mut().skip(1).step_by(5) {
                *label = IGNORE;
            }
            // Either with ignored rows alone, or with bad ones too and the gradient over the
            // logits.
            let bad = (i % 2 == 0) == odd;
            let (reduction, mode) = match bad {
                false => (Reduction::Mean, Mode::Fused),
                true => (Reduction::Sum, Mode::InPlace),
            };
            let loss = Loss::builder(objective, &counts)
                .reduction(reduction)
                .ignore_label(IGNORE)
                .build()
                .expect("valid");
            let mut bound = device.bind(&loss);
            bound.set_launch_shape(Some(shape));
            if bad {
                // The first bad row is not the one that is met first: late blocks have it.
                for (k, row) in (rows / 3..rows).step_by(7).enumerate() {
                    labels[row] = [classes as i64, -1, i64::MIN, i64::MAX][k % 4];
                }
            }
            if let Some(soft) = device.soft {
                soft.set_order(match i % 4 {
                    0 | 1 => Order::Interleaved,
                    2 => Order::Forward,
                    _ => Order::Reverse,
                });
            }
            let step = Step {
                mode,
                // Without hits there are fewer barriers.
                hits: bad,
                ..Step::contiguous(logits, labels, classes)
            };
            let what = format!(
                "{objective:?} {} {mode:?} {forced:?}",
                std::any::type_name::<T>()
            );
            assert_rows(device, &bound, &step, &what);
            if let Some(soft) = device.soft {
                soft.set_order(Order::Forward);
                let grid = soft.last_launch().expect("a launch").grid[0];
                assert!(grid as usize <= multiprocessors(device), "{what}: {grid}");
            }
        }
    }
    let device = device();
    check::<f32>(&device, Objective::ala(), false);
    check::<bf16>(&device, Objective::ala(), true);
    check::<f32>(&device, Objective::BalancedSoftmax, true);
    check::<f16>(&device, Objective::BalancedSoftmax, false);
}

/// Rows for hits, with their labels: winners and targets in every kind of place, alone, tied,
/// beside NaN and masks.
fn rows_for_hits<T: Element>(rng: &mut fastrand::Rng, classes: usize) -> (Vec<T>, Vec<i64>) {
    let usual: Vec<T> = problem::logits(rng, classes, 1.0);
    let [high, nan, least, most] =
        [1.5, f64::NAN, f64::NEG_INFINITY, f64::INFINITY].map(T::from_f64);
    let masked = vec![least; classes];
    let places = [0, classes / 3, 2 * classes / 3, classes - 1];
    let mut rows = Vec::new();
    let mut labels = Vec::new();
    let mut add = |row: &[T], set: &[(usize, T)], label: usize| {
        rows.extend_from_slice(row);
        let row = rows.len() - classes;
        for &(place, value) in set {
            rows[row + place] = value;
        }
        labels.push(label as i64);
    };
    for label in [0, classes / 3, classes - 1] {
        for place in places {
            // Alone, tied with the target, NaN beside a target that leads, infinite, alone above
            // -inf.
            add(&usual, &[(place, high)], label);
            add(&usual, &[(label, high), (place, high)], label);
            add(&usual, &[(label, high), (place, nan)], label);
            add(&usual, &[(place, most)], label);
            add(&masked, &[(place, T::from_f64(-3.0))], label);
        }
        add(&masked, &[], label);
        add(&masked, &[(label, nan)], label);
        add(&vec![high; classes], &[], label);
        add(&vec![nan; classes], &[], label);
    }
    (rows, labels)
}

/// A hit is about the raw logits: no margin, prior or slope of a class is in it.
#[test]
fn hits_in_every_tier() {
    fn check<T: CudaElement + DeviceRepr + Default>(device: &Device, objectives: &[Objective]) {
        let per_class = !matches!(objectives[0], Objective::Ala(_));
        let mut rng = fastrand::Rng::with_seed(101);
        let tiers = every_tier::<T>(device, per_class, 128, Turns::Rows(0));
        for (i, Forced { shape, classes, .. }) in tiers.into_iter().enumerate() {
            let loss = Loss::builder(
                objectives[i % objectives.len()],
                &problem::counts(&mut rng, classes),
            )
            .reduction(Reduction::None)
            .build()
            .expect("valid");
            let mut bound = device.bind(&loss);
            let (logits, labels) = rows_for_hits::<T>(&mut rng, classes);
            let right: Vec<bool> = widen(&logits)
                .chunks(classes)
                .zip(&labels)
                .map(|(row, &label)| is_hit(row, label as usize))
                .collect();
            for mode in [Mode::InPlace, Mode::Unfused] {
                if mode == Mode::Unfused && i > 0 {
                    continue;
                }
                bound.set_launch_shape(Some(shape));
                let step = Step {
                    mode,
                    ..Step::contiguous(logits.clone(), labels.clone(), classes)
                };
                let got = device.run(&bound, &step);
                for (row, (got, right)) in got.hits.iter().zip(&right).enumerate() {
                    let logits = &step.logits[row * classes..][..classes];
                    assert_eq!(
                        got,
                        right,
                        "{:?} {mode:?} {shape:?}, row {row}, label {}: {logits:?}",
                        loss.objective(),
                        labels[row],
                    );
                }
            }
        }
    }
    let device = device();
    let per_class = [
        Objective::BalancedSoftmax,
        Objective::LogitAdjustment { tau: 2.0 },
        Objective::VectorScaling {
            gamma: 0.4,
            tau: 1.0,
        },
    ];
    check::<f32>(&device, &[Objective::ala()]);
    check::<f16>(&device, &[Objective::ala()]);
    check::<f32>(&device, &per_class);
    check::<bf16>(&device, &per_class);
}

/// Weights alone, without an ignore label: what they are summed up to, and what of the step they
/// scale.
#[test]
fn class_weights_without_an_ignore_label() {
    fn check<T: CudaElement + DeviceRepr + Default>(device: &Device, objective: Objective) {
        let per_class = objective == Objective::BalancedSoftmax;
        let mut rng = fastrand::Rng::with_seed(102);
        for forced in every_tier::<T>(device, per_class, 128, Turns::Blocks) {
            let Forced {
                shape,
                rows,
                classes,
            } = forced;
            // Sums of quarters are exact.
            let weights: Vec<f64> = (0..classes).map(|j| 0.25 + (j % 5) as f64).collect();
            let counts = problem::counts(&mut rng, classes);
            let logits: Vec<T> = problem::logits(&mut rng, rows * classes, 1.0);
            let labels = problem::labels(&mut rng, rows, classes);
            let total: f64 = labels.iter().map(|&y| weights[y as usize]).sum();
            for reduction in [Reduction::Sum, Reduction::None, Reduction::Mean] {
                let loss = Loss::builder(objective, &counts)
                    .class_weights(&weights[..])
                    .reduction(reduction)
                    .build()
                    .expect("valid");
                let mut bound = device.bind(&loss);
                bound.set_launch_shape(Some(shape));
                let step = Step::contiguous(logits.clone(), labels.clone(), classes);
                let what = format!("{reduction:?} {forced:?}");
                let got = assert_rows(device, &bound, &step, &what);
                let summary = got.summary.expect("no bad label");
                assert_eq!(
                    (summary.total_weight, summary.counted_rows),
                    (total, rows),
                    "{what}"
                );
            }
        }
    }
    let device = device();
    check::<f32>(&device, Objective::ala());
    check::<bf16>(&device, Objective::BalancedSoftmax);
}

/// The sums are f64 from the first row on: of many rows they are those of the rows' losses to
/// nearly all digits.
#[test]
fn totals_of_very_many_rows() {
    let device = device();
    let mut rng = fastrand::Rng::with_seed(103);
    for (tier, rows, classes) in [("packed", 300_000, 3), ("row4x16", 100_000, 5)] {
        let counts = problem::counts(&mut rng, classes);
        let logits: Vec<f32> = problem::logits(&mut rng, rows * classes, 1.0);
        let mut labels = problem::labels(&mut rng, rows, classes);
        labels[7] = IGNORE;
        for (reduction, ignore) in [(Reduction::Sum, true), (Reduction::Mean, false)] {
            let builder = Loss::builder(Objective::ala(), &counts).reduction(reduction);
            let builder = match ignore {
                true => builder.ignore_label(IGNORE),
                false => builder,
            };
            let loss = builder.build().expect("valid");
            let mut bound = device.bind(&loss);
            if tier != "packed" {
                let shapes = bound.launch_shapes::<f32>(rows).expect("kernels load");
                let shape = shapes.into_iter().find(|shape| shape.tier == tier);
                bound.set_launch_shape(Some(shape.expect("it takes them")));
            }
            if !ignore {
                labels[7] = 0;
            }
            let step = Step {
                mode: Mode::InPlace,
                ..Step::contiguous(logits.clone(), labels.clone(), classes)
            };
            let what = format!("{tier} {reduction:?}");
            let got = assert_rows(&device, &bound, &step, &what);
            let summary = got.summary.expect("no bad label");
            let counted = rows - usize::from(ignore);
            assert_eq!(summary.counted_rows, counted, "{what}");
            assert_eq!(summary.total_weight, counted as f64, "{what}");
            let divisor = if reduction == Reduction::Mean {
                counted as f64
            } else {
                1.0
            };
            let sum = got.row_losses.iter().copied().map(f64::from).sum::<f64>() / divisor;
            assert_within(summary.loss, sum, 1e-11 * sum, &|| what.clone());
        }
    }
}

/// Where p rounds to 1 its complement is 0, or far below what f32 holds beside 1; `0^0` and
/// `0^(gamma - 1)` must not show.
#[test]
fn focal_rows_of_any_confidence_in_every_tier() {
    const AHEAD: [f64; 14] = [
        f64::NEG_INFINITY,
        -200.0,
        -20.0,
        -1.0,
        0.0,
        2.0,
        9.0,
        16.0,
        30.0,
        60.0,
        90.0,
        150.0,
        3000.0,
        1e9,
    ];
    fn check<T: CudaElement + DeviceRepr + Default>(device: &Device) {
        for (i, Forced { shape, classes, .. }) in every_tier::<T>(device, false, 32, Turns::Rows(0))
            .into_iter()
            .enumerate()
        {
            for gamma in [0.0, [0.01, 0.25, 0.5, 0.96][i % 4], 1.0] {
                let counts = ala_loss::ClassCounts::new(vec![1; classes]).expect("valid");
                let loss = Loss::builder(Objective::Focal { gamma }, &counts)
                    .scale(1.0)
                    .reduction(Reduction::None)
                    .build()
                    .expect("valid");
                let mut bound = device.bind(&loss);
                bound.set_launch_shape(Some(shape));
                let label = classes / 2;
                let mut logits = vec![T::from_f64(0.0); AHEAD.len() * classes];
                for (row, &ahead) in logits.chunks_mut(classes).zip(&AHEAD) {
                    row[label] = T::from_f64(ahead);
                    row[0] = T::from_f64(-0.5);
                }
                let labels = vec![label as i64; AHEAD.len()];
                let got = device.run(&bound, &Step::contiguous(logits.clone(), labels, classes));
                for (row, &ahead) in AHEAD.iter().enumerate() {
                    let span = row * classes..(row + 1) * classes;
                    let exact = reference::row(loss.table(), &widen(&logits[span.clone()]), label);
                    let what = || format!("gamma {gamma}, ahead by {ahead}, {shape:?}");
                    let of_row = f64::from(got.row_losses[row]);
                    assert_within(of_row, exact.loss, loss_bound(exact.loss), &what);
                    for (got, exact) in widen(&got.gradient[span]).iter().zip(&exact.gradient) {
                        // Relative: confident rows keep their digits as far as f32 reaches.
                        let bound = gradient_bound::<T>(*exact, 0.0) + 1e-36;
                        assert_within(*got, *exact, bound, &what);
                    }
                }
            }
        }
    }
    let device = device();
    check::<f32>(&device);
    check::<bf16>(&device);
}

/// What an upstream gradient or the gradient's scale that is no number makes of its rows, and of no
/// others.
#[test]
fn factors_that_are_no_numbers_stay_in_their_rows() {
    // A NaN of all ones among them: nothing may take it for a mark of its own.
    const FACTORS: [f32; 9] = [
        1.5,
        f32::from_bits(u32::MAX),
        -2.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::INFINITY,
        f32::NAN,
        0.25,
    ];
    const IGNORED: [usize; 2] = [5, 6];
    /// Its class is of weight 0.
    const WEIGHTLESS: usize = 4;
    const ROWS: usize = FACTORS.len();

    fn check<T: CudaElement + DeviceRepr + Default>(device: &Device, objective: Objective) {
        let per_class = objective == Objective::BalancedSoftmax;
        let mut rng = fastrand::Rng::with_seed(104);
        for (i, Forced { shape, classes, .. }) in
            every_tier::<T>(device, per_class, 32, Turns::Rows(ROWS))
                .into_iter()
                .enumerate()
        {
            let mut weights = vec![1.0; classes];
            weights[0] = 0.0;
            let loss = Loss::builder(objective, &problem::counts(&mut rng, classes))
                .scale(4.0)
                .class_weights(&weights[..])
                .ignore_label(IGNORE)
                .reduction(Reduction::None)
                .build()
                .expect("valid");
            let mut bound = device.bind(&loss);
            bound.set_launch_shape(Some(shape));
            let mut logits: Vec<T> = problem::logits(&mut rng, ROWS * classes, 1.0);
            let mut labels: Vec<i64> = (0..ROWS).map(|_| rng.i64(1..classes as i64)).collect();
            // Nothing times infinity: a masked class of row 3.
            labels[3] = 1;
            logits[3 * classes] = T::from_f64(f64::NEG_INFINITY);
            labels[WEIGHTLESS] = 0;
            IGNORED.into_iter().for_each(|row| labels[row] = IGNORE);
            let mode = [Mode::Fused, Mode::InPlace][i % 2];
            let step = Step {
                mode,
                upstream: Some(FACTORS.to_vec()),
                per_row: true,
                ..Step::contiguous(logits, labels, classes)
            };
            let got = device.run(&bound, &step);
            let plain = device.run(
                &bound,
                &Step {
                    upstream: Some(
                        FACTORS
                            .map(|f| if f.is_finite() { f } else { 1.0 })
                            .to_vec(),
                    ),
                    ..step.clone()
                },
            );
            assert_eq!(got.row_losses, plain.row_losses, "{shape:?}");
            assert_eq!(got.summary, plain.summary, "{shape:?}");
            let slope = slope(loss.table());
            for (row, factor) in FACTORS.into_iter().enumerate() {
                let span = row * classes..(row + 1) * classes;
                let gradient = widen(&got.gradient[span.clone()]);
                let what = || format!("{factor} in row {row}, {mode:?} {shape:?}");
                if row == WEIGHTLESS || IGNORED.contains(&row) {
                    assert!(gradient.iter().all(|&g| g == 0.0), "{}", what());
                    continue;
                }
                if factor.is_finite() {
                    let plain = widen(&plain.gradient[span.clone()]);
                    assert_eq!(gradient, plain, "{}", what());
                }
                let y = step.labels[row] as usize;
                let exact = reference::row(loss.table(), &widen(&step.logits[span]), y);
                for (got, exact) in gradient.iter().zip(&exact.gradient) {
                    let exact = exact * f64::from(factor);
                    let bound = gradient_bound::<T>(exact, slope * 2.0);
                    match exact.is_finite() {
                        true => assert_within(*got, exact, bound, &what),
                        false => assert_within(*got, exact, 0.0, &what),
                    }
                }
            }
            for scale in [f32::NAN, f32::NEG_INFINITY] {
                let step = Step {
                    upstream: None,
                    per_row: false,
                    gradient_scale: scale,
                    ..step.clone()
                };
                let got = device.run(&bound, &step);
                assert_eq!(got.row_losses, plain.row_losses, "{shape:?}");
                for row in 0..ROWS {
                    let span = row * classes..(row + 1) * classes;
                    let what = || format!("scale {scale}, row {row}, {mode:?} {shape:?}");
                    let none = row == WEIGHTLESS || IGNORED.contains(&row);
                    let y = usize::try_from(step.labels[row]).unwrap_or(0);
                    let exact = reference::row(loss.table(), &widen(&step.logits[span.clone()]), y);
                    for (got, exact) in widen(&got.gradient[span]).iter().zip(&exact.gradient) {
                        let exact = if none { 0.0 } else { exact * f64::from(scale) };
                        assert_within(*got, exact, 0.0, &what);
                    }
                }
            }
        }
    }
    let device = device();
    check::<f32>(&device, Objective::ala());
    check::<f16>(&device, Objective::BalancedSoftmax);
    check::<bf16>(&device, Objective::ala());
}

/// As many classes as a block's stage holds, or two blocks' stages, and a little more or less.
#[test]
fn a_stage_that_is_full() {
    fn check<T: CudaElement + DeviceRepr + Default>(device: &Device) {
        use sys::CUdevice_attribute as Attribute;
        let attribute = |attribute| device.context.attribute(attribute).expect("a number") as usize;
        let shared = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR);
        let opt_in = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
        // Two blocks a multiprocessor, of which each needs 4 KiB besides.
        let stage = ((shared / 2).min(opt_in) - 4096) / 16 * 16;
        let full = stage / size_of::<T>();
        let vector = width::<T>();
        let mut rng = fastrand::Rng::with_seed(105);
        // With the parts that they need at least, and elements before the first row. A row's last
        // classes, fewer than a vector, are not staged.
        for (classes, parts, offset) in [
            (full - 1, 1, 1),
            (full, 1, 0),
            (full + 1, 1, vector - 1),
            (full + vector - 1, 1, 1),
            (full + vector, 2, 0),
            (2 * full, 2, 0),
        ] {
            let loss = Loss::builder(Objective::ala(), &problem::counts(&mut rng, classes))
                .build()
                .expect("valid");
            let mut bound = device.bind(&loss);
            let shapes = bound.launch_shapes::<T>(1000).expect("kernels load");
            let staged = shapes.into_iter().find(|shape| shape.tier == "staged");
            let own = staged.expect("a stage takes it");
            // Those of the fewest parts come first.
            assert_eq!(own.parts, parts, "C = {classes}");
            bound.set_launch_shape(Some(own));
            let mut labels = problem::labels(&mut rng, 1, classes);
            labels[0] = labels[0].max(classes as i64 - 4);
            let step = Step {
                offset,
                gradient_offset: offset,
                ..Step::contiguous(
                    problem::logits::<T>(&mut rng, classes, 1.0),
                    labels,
                    classes,
                )
            };
            assert_rows(device, &bound, &step, &format!("C = {classes} {own:?}"));
            if let Some(soft) = device.soft {
                let launch = soft.last_launch().expect("a launch");
                let whole = classes / vector * 16;
                let right = whole.div_ceil(parts as usize).next_multiple_of(16);
                assert_eq!(launch.dynamic_shared as usize, right, "C = {classes}");
            }
        }
    }
    let device = device();
    check::<f32>(&device);
    check::<f16>(&device);
    check::<bf16>(&device);
}

/// Rows that are streamed whatever is in them: whole vectors and warps of masks in front, at the
/// end and around the target, rows without a target between, a gradient that begins elsewhere
/// within 16 bytes.
#[test]
fn streamed_rows_with_masks_out_of_phase() {
    const MASKED: [(usize, usize); 8] = [
        (0, 0),
        // The first vectors, a whole warp's, all of every thread's first; the last ones; all but a
        // few.
        (0, 1),
        (0, 6),
        (0, 96),
        (6, 7),
        (50, 100),
        (1, 99),
        (93, 100),
    ];
    fn check<T: CudaElement + DeviceRepr + Default>(
        device: &Device,
        objective: Objective,
        mode: Mode,
    ) {
        let mut rng = fastrand::Rng::with_seed(106);
        // More than one vector for some threads, not for others.
        let classes = 700 * width::<T>() + 5;
        let counts = problem::counts(&mut rng, classes);
        let rows = 2 * MASKED.len();
        for (pads, offsets) in [([3, 0], [1, 2]), ([2, 5], [0, 3])] {
            let loss = Loss::builder(objective, &counts)
                .reduction(Reduction::Sum)
                .ignore_label(IGNORE)
                .build()
                .expect("valid");
            let mut bound = device.bind(&loss);
            bound.set_launch_shape(Some(LaunchShape {
                tier: "streamed",
                threads: 512,
                blocks_per_multiprocessor: 1,
                parts: 1,
            }));
            let stride = classes + pads[0];
            let mut logits: Vec<T> = problem::logits(&mut rng, rows * stride, 1.0);
            let mut labels = Vec::new();
            for (row, logits) in logits.chunks_mut(stride).enumerate() {
                let (from, to) = MASKED[row / 2];
                let (from, to) = (from * classes / 100, to * classes / 100);
                logits[from..to].fill(T::from_f64(f64::NEG_INFINITY));
                // A target among the masks would have an infinite loss.
                let label = if to == classes {
                    from / 2
                } else {
                    to + (classes - to) / 2
                };
                labels.push(label as i64);
            }
            labels[3] = IGNORE;
            let step = Step {
                stride,
                offset: offsets[0],
                gradient_stride: if mode == Mode::InPlace {
                    stride
                } else {
                    classes + pads[1]
                },
                gradient_offset: offsets[1],
                mode,
                ..Step::contiguous(logits, labels, classes)
            };
            let what = format!("{objective:?} {} {mode:?}", std::any::type_name::<T>());
            assert_rows(device, &bound, &step, &what);
            let mut step = step;
            step.labels[8] = classes as i64;
            step.labels[11] = -7;
            assert_rows(device, &bound, &step, &what);
        }
    }
    let device = device();
    check::<f32>(&device, Objective::ala(), Mode::Fused);
    check::<f32>(&device, Objective::BalancedSoftmax, Mode::InPlace);
    check::<f16>(&device, Objective::BalancedSoftmax, Mode::Fused);
    check::<bf16>(&device, Objective::ala(), Mode::Fused);
}

/// The second row begins beyond 2^32 elements: a product of 32 bits would find it among the first
/// ones.
#[test]
fn offsets_beyond_2_32_elements() {
    let device = device();
    let stride = (1usize << 32) + 5;
    let most = 16_411;
    // SAFETY: only the two rows written below are read.
    let mut x = unsafe { device.stream.alloc::<f16>(stride + most) }.expect("8.6 GB of memory");
    let mut rng = fastrand::Rng::with_seed(107);
    // Parts of a warp, a warp, blocks, staged, and streamed.
    for (classes, objective, streamed) in [
        (3, Objective::ala(), false),
        (30, Objective::BalancedSoftmax, false),
        (900, Objective::ala(), false),
        (2500, Objective::BalancedSoftmax, false),
        (most, Objective::ala(), false),
        (most, Objective::ala(), true),
    ] {
        let loss = Loss::builder(objective, &problem::counts(&mut rng, classes))
            .reduction(Reduction::None)
            .build()
            .expect("valid");
        let mut bound = device.bind(&loss);
        if streamed {
            bound.set_launch_shape(Some(LaunchShape {
                tier: "streamed",
                threads: 512,
                blocks_per_multiprocessor: 1,
                parts: 1,
            }));
        }
        let rows: [Vec<f16>; 2] = [(); 2].map(|()| problem::logits(&mut rng, classes, 1.0));
        for (row, start) in rows.iter().zip([0, stride]) {
            let mut to = x.slice_mut(start..start + classes);
            device.stream.memcpy_htod(row, &mut to).expect("a copy");
        }
        let y = [classes - 1, classes / 2];
        let labels = device.upload(&y.map(|y| y as i64));
        let mut losses = device.upload(&[0.0f32; 2]);
        let mut workspace = bound.workspace(&device.stream, 2).expect("a workspace");
        let outputs = Outputs::new().row_losses(&mut losses);
        let mut extent = x.slice_mut(..stride + classes);
        bound
            .launch_in_place(
                &device.stream,
                &mut extent,
                &labels,
                &Options::new().stride(stride),
                outputs,
                &mut workspace,
            )
            .expect("launches");
        workspace.read(&device.stream).expect("no bad label");
        let losses = device.download(&losses);
        let slope = slope(loss.table());
        for (row, start) in [0, stride].into_iter().enumerate() {
            let what = || format!("C = {classes}, row {row}, streamed {streamed}");
            let exact = reference::row(loss.table(), &widen(&rows[row]), y[row]);
            let of_row = f64::from(losses[row]);
            assert_within(of_row, exact.loss, loss_bound(exact.loss), &what);
            let mut gradient = vec![f16::ZERO; classes];
            let from = x.slice(start..start + classes);
            device
                .stream
                .memcpy_dtoh(&from, &mut gradient)
                .expect("a copy");
            device.stream.synchronize().expect("the stream ends");
            for (got, exact) in widen(&gradient).iter().zip(&exact.gradient) {
                assert_within(*got, *exact, gradient_bound::<f16>(*exact, slope), &what);
            }
        }
    }
}

/// By address, in every tier: several blocks, rows far out among them, and a stream that is not the
/// workspace's.
#[test]
fn raw_launches_of_several_blocks() {
    fn check<T: CudaElement + DeviceRepr + Default>(device: &Device, objective: Objective) {
        let per_class = objective == Objective::BalancedSoftmax;
        let stream = device.context.new_stream().expect("a stream");
        let mut rng = fastrand::Rng::with_seed(108);
        for (i, forced) in every_tier::<T>(device, per_class, 32, Turns::Blocks)
            .into_iter()
            .enumerate()
        {
            let Forced {
                shape,
                rows,
                classes,
            } = forced;
            let loss = Loss::builder(objective, &problem::counts(&mut rng, classes))
                .ignore_label(IGNORE)
                .reduction([Reduction::Mean, Reduction::Sum][i % 2])
                .build()
                .expect("valid");
            let mut bound = device.bind(&loss);
            bound.set_launch_shape(Some(shape));
            let mut logits: Vec<T> = problem::logits(&mut rng, rows * classes, 1.0);
            let mut y = problem::labels(&mut rng, rows, classes);
            y[1] = IGNORE;
            // Exponents that f32 cannot tell apart: f64 solves the row, from the table of its own.
            let far = rows - 1;
            logits[far * classes..][..classes].fill(T::from_f64(-1e9));
            logits[far * classes + 2] = T::from_f64(-1e9 / 2.0);
            y[far] = 2;
            let (x, labels) = (device.upload(&logits), device.upload(&y));
            let upstream = device.upload(&[-2.0f32]);
            let gradient = device.upload(&vec![T::from_f64(77.0); rows * classes]);
            let losses = device.upload(&vec![77.0f32; rows]);
            let hits = device.upload(&vec![77u8; rows]);
            let mut workspace = bound.workspace(&device.stream, rows).expect("a workspace");
            device.stream.synchronize().expect("the buffers are there");
            // No events order the raw calls: the guards are let go at once.
            let address = |(address, _)| address;
            let step = RawStep {
                rows,
                logits: address(x.device_ptr(&stream)),
                logits_stride: classes,
                labels: address(labels.device_ptr(&stream)),
                gradient: Some(address(gradient.device_ptr(&stream))),
                gradient_stride: classes,
                row_losses: (i % 4 < 2).then_some(address(losses.device_ptr(&stream))),
                hits: Some(address(hits.device_ptr(&stream))),
                upstream: Upstream::Scalar(address(upstream.device_ptr(&stream))),
                gradient_scale: 0.5,
                ..RawStep::new(rows, classes, 0, 0)
            };
            // SAFETY: every buffer outlives the wait below.
            unsafe { bound.launch_raw::<T, i64>(stream.cu_stream(), &step, &mut workspace) }
                .expect("launches");
            stream.synchronize().expect("the stream ends");
            let what = || format!("{objective:?} {forced:?}");
            if let Some(soft) = device.soft {
                let grid = soft.last_launch().expect("a launch").grid[0];
                assert!(grid > 1, "{}", what());
            }
            let exact = reference::batch(&loss, &widen(&logits), &y, &vec![-1.0; rows]);
            let summary = workspace.read(&stream).expect("no bad label");
            assert_within(summary.loss, exact.loss, loss_bound(exact.loss), &what);
            assert_eq!(summary.counted_rows, rows - 1, "{}", what());
            if step.row_losses.is_some() {
                for (got, exact) in device.download(&losses).iter().zip(&exact.row_losses) {
                    assert_within((*got).into(), *exact, loss_bound(*exact), &what);
                }
            }
            let slope = slope(loss.table());
            for (got, exact) in widen(&device.download(&gradient))
                .iter()
                .zip(&exact.gradient)
            {
                assert_within(*got, *exact, gradient_bound::<T>(*exact, slope), &what);
            }
            let right: Vec<u8> = widen(&logits)
                .chunks(classes)
                .zip(&y)
                .map(|(row, &y)| u8::from(y != IGNORE && is_hit(row, y as usize)))
                .collect();
            assert_eq!(device.download(&hits), right, "{}", what());
        }
    }
    let device = device();
    check::<f32>(&device, Objective::ala());
    check::<bf16>(&device, Objective::BalancedSoftmax);
}

/// Launches on two streams share a workspace, and a buffer that one writes and the other reads; a
/// third stream reads the result.
#[test]
fn two_streams_take_turns_in_one_workspace() {
    let device = device();
    let streams = [(); 2].map(|()| device.context.new_stream().expect("a stream"));
    let reader = device.context.new_stream().expect("a stream");
    let mut rng = fastrand::Rng::with_seed(109);
    // Packed, a row a block, blocks that share a row.
    for (classes, rows) in [(9, 300), (2100, 7), (60_000, 3)] {
        let counts = problem::counts(&mut rng, classes);
        let losses = [Objective::ala(), Objective::BalancedSoftmax].map(|objective| {
            Loss::builder(objective, &counts)
                .ignore_label(IGNORE)
                .build()
                .expect("valid")
        });
        let bound = losses.each_ref().map(|loss| device.bind(loss));
        let mut workspace = bound[0].workspace(&streams[0], rows).expect("a workspace");
        for order in [Order::Forward, Order::Reverse, Order::Interleaved] {
            if let Some(soft) = device.soft {
                soft.set_order(order);
            }
            let x: Vec<f32> = problem::logits(&mut rng, rows * classes, 1.0);
            let mut y = problem::labels(&mut rng, rows, classes);
            y[rows - 1] = IGNORE;
            let (logits, labels) = (device.upload(&x), device.upload(&y));
            let mut between = device.upload(&vec![77.0f32; x.len()]);
            let mut last = device.upload(&vec![77.0f32; x.len()]);
            // The second step's logits are the first one's gradient.
            let outputs = Outputs::new().gradient(&mut between);
            bound[0]
                .launch(
                    &streams[0],
                    &logits,
                    &labels,
                    &Options::new(),
                    outputs,
                    &mut workspace,
                )
                .expect("launches");
            let outputs = Outputs::new().gradient(&mut last);
            bound[1]
                .launch(
                    &streams[1],
                    &between,
                    &labels,
                    &Options::new(),
                    outputs,
                    &mut workspace,
                )
                .expect("launches");
            let summary = workspace.read(&reader).expect("no bad label");
            let what = || format!("{order:?} C = {classes}");
            let ones = vec![1.0; rows];
            let first = reference::batch(&losses[0], &widen(&x), &y, &ones);
            let between = device.download(&between);
            let slopes = losses.each_ref().map(|loss| slope(loss.table()));
            for (got, exact) in widen(&between).iter().zip(&first.gradient) {
                assert_within(
                    *got,
                    *exact,
                    gradient_bound::<f32>(*exact, slopes[0]),
                    &what,
                );
            }
            let second = reference::batch(&losses[1], &widen(&between), &y, &ones);
            assert_within(summary.loss, second.loss, loss_bound(second.loss), &what);
            assert_eq!(summary.counted_rows, rows - 1, "{}", what());
            for (got, exact) in widen(&device.download(&last)).iter().zip(&second.gradient) {
                assert_within(
                    *got,
                    *exact,
                    gradient_bound::<f32>(*exact, slopes[1]),
                    &what,
                );
            }

            // The same in two workspaces: what orders the steps is the buffer between them.
            let mut between = device.upload(&vec![77.0f32; x.len()]);
            let mut last = device.upload(&vec![77.0f32; x.len()]);
            let mut own = bound[1].workspace(&streams[1], rows).expect("a workspace");
            let outputs = Outputs::new().gradient(&mut between);
            bound[0]
                .launch(
                    &streams[0],
                    &logits,
                    &labels,
                    &Options::new(),
                    outputs,
                    &mut workspace,
                )
                .expect("launches");
            let outputs = Outputs::new().gradient(&mut last);
            bound[1]
                .launch(
                    &streams[1],
                    &between,
                    &labels,
                    &Options::new(),
                    outputs,
                    &mut own,
                )
                .expect("launches");
            let summary = own.read(&reader).expect("no bad label");
            assert_within(summary.loss, second.loss, loss_bound(second.loss), &what);

            // On the first stream again, right behind a read on the third: nothing of the other
            // launch is left.
            let outputs = Outputs::<f32>::new();
            bound[0]
                .launch(
                    &streams[0],
                    &logits,
                    &labels,
                    &Options::new(),
                    outputs,
                    &mut workspace,
                )
                .expect("launches");
            let summary = workspace.read(&reader).expect("no bad label");
            assert_within(summary.loss, first.loss, loss_bound(first.loss), &what);
        }
    }
    if let Some(soft) = device.soft {
        soft.set_order(Order::Forward);
    }
}

/// A buffer of a launch that another stream touches as soon as the launch is enqueued.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Touched {
    Logits,
    Labels,
    Upstream,
    Gradient,
    RowLosses,
    Hits,
    InPlace,
}

/// What a launch reads may be written over on another stream at once, and what it writes read
/// there.
#[test]
fn buffers_of_a_launch_are_ordered_on_every_stream() {
    use Touched::{Gradient, Hits, InPlace, Labels, Logits, RowLosses};
    let device = device();
    let stream = &device.stream;
    let other = device.context.new_stream().expect("a stream");
    let mut rng = fastrand::Rng::with_seed(110);
    let (classes, rows) = (40, 60);
    let loss = Loss::builder(Objective::ala(), &problem::counts(&mut rng, classes))
        .reduction(Reduction::None)
        .build()
        .expect("valid");
    let bound = device.bind(&loss);
    let slope = slope(loss.table());
    let x: Vec<f32> = problem::logits(&mut rng, rows * classes, 1.0);
    let y = problem::labels(&mut rng, rows, classes);
    let exact = reference::batch(&loss, &widen(&x), &y, &vec![2.0; rows]);
    for touched in [
        Logits,
        Labels,
        Touched::Upstream,
        Gradient,
        RowLosses,
        Hits,
        InPlace,
    ] {
        let (mut logits, mut labels) = (device.upload(&x), device.upload(&y));
        let mut upstream = device.upload(&vec![2.0f32; rows]);
        let mut gradient = device.upload(&vec![77.0f32; x.len()]);
        let mut losses = device.upload(&vec![77.0f32; rows]);
        let mut hits = device.upload(&vec![77u8; rows]);
        let mut workspace = bound.workspace(stream, rows).expect("a workspace");
        let outputs = Outputs::new().row_losses(&mut losses).hits(&mut hits);
        if touched == InPlace {
            bound.launch_in_place(
                stream,
                &mut logits,
                &labels,
                &Options::new().upstream(Upstream::PerRow(&upstream)),
                outputs,
                &mut workspace,
            )
        } else {
            let outputs = outputs.gradient(&mut gradient);
            bound.launch(
                stream,
                &logits,
                &labels,
                &Options::new().upstream(Upstream::PerRow(&upstream)),
                outputs,
                &mut workspace,
            )
        }
        .expect("launches");

        let mut written = vec![0.0f32; x.len()];
        let mut row_losses = vec![0.0f32; rows];
        let mut found = vec![0u8; rows];
        let of_gradient = if touched == InPlace {
            &logits
        } else {
            &gradient
        };
        match touched {
            Logits => other.memcpy_htod(&vec![9.0f32; x.len()], &mut logits),
            Labels => other.memcpy_htod(&vec![-5i64; rows], &mut labels),
            Touched::Upstream => other.memcpy_htod(&vec![9.0f32; rows], &mut upstream),
            Gradient | InPlace => other.memcpy_dtoh(of_gradient, &mut written),
            RowLosses => other.memcpy_dtoh(&losses, &mut row_losses),
            Hits => other.memcpy_dtoh(&hits, &mut found),
        }
        .expect("a copy");
        other.synchronize().expect("the other stream ends");
        if !matches!(touched, Gradient | InPlace) {
            written = device.download(&gradient);
        }
        if touched != RowLosses {
            row_losses = device.download(&losses);
        }
        if touched != Hits {
            found = device.download(&hits);
        }
        let what = || format!("{touched:?}");
        for (row, (got, exact)) in row_losses.iter().zip(&exact.row_losses).enumerate() {
            assert_within((*got).into(), *exact, loss_bound(*exact), &what);
            let hit = is_hit(&widen(&x[row * classes..][..classes]), y[row] as usize);
            assert_eq!(found[row], u8::from(hit), "{}", what());
        }
        for (got, exact) in widen(&written).iter().zip(&exact.gradient) {
            let bound = gradient_bound::<f32>(*exact, 2.0 * slope);
            assert_within(*got, *exact, bound, &what);
        }
    }
}

/// Calls `body` with a bound loss and a step of `rows` for every tier, in `f32` and with both maps.
fn steps_of_every_tier(
    device: &Device,
    rows: usize,
    mut body: impl FnMut(LaunchShape, &CudaLoss, Step<f32, i64>),
) {
    for (per_class, objective) in [
        (false, Objective::ala()),
        (true, Objective::LogitAdjustment { tau: 1.0 }),
    ] {
        for Forced {
            shape,
            rows,
            classes,
        } in every_tier::<f32>(device, per_class, 32, Turns::Rows(rows))
        {
            let mut rng = fastrand::Rng::with_seed(140);
            let counts = problem::counts(&mut rng, classes);
            let loss = Loss::builder(objective, &counts).ignore_label(IGNORE);
            let mut bound = device.bind(&loss.build().expect("valid"));
            bound.set_launch_shape(Some(shape));
            let labels = problem::labels(&mut rng, rows, classes);
            let logits = problem::logits::<f32>(&mut rng, rows * classes, 1.0);
            body(shape, &bound, Step::contiguous(logits, labels, classes));
        }
    }
}

fn assert_same_bits(got: &Got<f32>, right: &Got<f32>, shape: LaunchShape) {
    assert_eq!(got.summary, right.summary, "{shape:?}");
    assert_eq!(got.row_losses, right.row_losses, "{shape:?}");
    assert_eq!(got.gradient, right.gradient, "{shape:?}");
    assert_eq!(got.hits, right.hits, "{shape:?}");
}

/// Kernels that may begin while the one before them ends, and wait for it: softcuda takes it for a
/// fault where one of them does not. Two launches where the mean is counted.
#[test]
fn steps_may_overlap_the_kernel_before_them() {
    let device = device();
    let major = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR;
    // By the device, and by the newest PTX that was built.
    let built = option_env!("ALA_CUDA_ARCHS").unwrap_or("90");
    let waits = device.context.attribute(major).expect("a number") >= 9
        && (built.contains("90+PTX") || built.ends_with("90"));
    steps_of_every_tier(&device, 9, |shape, bound, mut step| {
        step.labels[3] = IGNORE;
        let alone = device.run(bound, &step);
        step.overlap = true;
        let beside = device.run(bound, &step);
        if let Some(launch) = device.soft.and_then(|soft| soft.last_launch()) {
            assert_eq!(launch.overlaps, waits && shape.parts == 1, "{launch:?}");
        }
        assert_same_bits(&beside, &alone, shape);
    });
}

/// Without hits there are fewer barriers between a row's reads and the stores over it.
#[test]
fn every_tier_writes_over_its_logits_without_hits() {
    let device = device();
    steps_of_every_tier(&device, 5, |shape, bound, mut step| {
        step.hits = false;
        let apart = device.run(bound, &step);
        step.mode = Mode::InPlace;
        assert_same_bits(&device.run(bound, &step), &apart, shape);
    });
}
