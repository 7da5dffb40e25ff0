//! Mixed rows, and what their labels' own rows make of them.

use ala_loss::{
    ClassCounts, CpuElement, Lambda, Loss, Objective, Options, Outputs, Reduction, reference,
};

use super::{
    assert_within, counts, gradient_bound, labels, logits, loss_bound, objectives, slope, widen,
    widen_real,
};

pub const IGNORED: i64 = -100;

/// A batch of mixed rows.
#[derive(Clone)]
pub struct Mixed<T> {
    pub x: Vec<T>,
    pub a: Vec<i64>,
    pub b: Vec<i64>,
    pub lambda: Vec<f64>,
    pub weights: Vec<f64>,
}

/// Row losses and gradient by the definition: each label's own row, times its part.
pub fn exact<T: CpuElement>(loss: &Loss, batch: &Mixed<T>) -> (Vec<f64>, Vec<f64>) {
    let classes = loss.classes();
    let (mut losses, mut gradient) = (vec![], vec![]);
    for (row, x) in widen(&batch.x).chunks(classes).enumerate() {
        let lambda = batch.lambda[row];
        let parts = [(batch.a[row], lambda), (batch.b[row], 1.0 - lambda)];
        let targets: Vec<(usize, f64)> = parts
            .into_iter()
            .filter(|&(label, part)| part != 0.0 && loss.ignore_label() != Some(label))
            .map(|(label, part)| (label as usize, part * batch.weights[row]))
            .collect();
        assert!(!targets.is_empty(), "the row counts");
        let solved = reference::mixed_row(loss.table(), x, &targets, loss.label_smoothing());
        losses.push(solved.loss);
        gradient.extend(solved.gradient);
    }
    (losses, gradient)
}

pub fn real<T: CpuElement>(values: &[f64]) -> Vec<T::Real> {
    values
        .iter()
        .map(|&value| ala_loss::Real::from_f64(value))
        .collect()
}

/// Holds a batch under `Reduction::Sum` against the definition, in place and not.
pub fn check<T: CpuElement>(loss: &Loss, batch: &Mixed<T>, what: &str) {
    let (lambda, weights) = (real::<T>(&batch.lambda), real::<T>(&batch.weights));
    let options = Options::new()
        .mixed_with(&batch.b, Lambda::PerRow(&lambda))
        .row_weights(&weights);
    let (losses, gradient) = exact(loss, batch);
    let slope = slope(loss.table()) * batch.weights.iter().fold(1.0, |a: f64, &b| a.max(b));
    let rows = batch.a.len();
    let hold = |got_losses: &[T::Real], got: &[T]| {
        let name = || format!("{what} {:?} C={}", loss.objective(), loss.classes());
        // Infinite where it leaves the type.
        let losses = widen_real::<T>(&real::<T>(&losses));
        for (row, (got, &exact)) in widen_real::<T>(got_losses).iter().zip(&losses).enumerate() {
            assert_within(*got, exact, loss_bound(exact), &|| {
                format!("{} row loss {row}", name())
            });
        }
        for (i, (got, &exact)) in widen(got).into_iter().zip(&gradient).enumerate() {
            assert_within(got, exact, gradient_bound::<T>(exact, slope), &|| {
                format!("{} gradient {i}", name())
            });
        }
    };
    let outcome = loss.evaluate_with(&batch.x, &batch.a, &options);
    let outcome = outcome.expect("a valid batch");
    hold(&outcome.row_losses, &outcome.gradient);

    let mut over = batch.x.clone();
    let mut row_losses = real::<T>(&vec![7.0; rows]);
    let outputs = Outputs::new().row_losses(&mut row_losses);
    let summary = loss.evaluate_in_place(&mut over, &batch.a, &options, outputs);
    hold(&row_losses, &over);
    let total = summary.expect("a valid batch").loss;
    assert!(total == outcome.loss || (total.is_nan() && outcome.loss.is_nan()));
}

/// All rows' losses added up.
pub fn sum_of(objective: Objective, counts: &ClassCounts, scale: f64, smoothing: f64) -> Loss {
    let builder = Loss::builder(objective, counts).scale(scale);
    let builder = builder.reduction(Reduction::Sum).ignore_label(IGNORED);
    builder.label_smoothing(smoothing).build().expect("valid")
}

/// Lambdas and weights that every type holds exactly.
pub fn random<T: CpuElement>(rng: &mut fastrand::Rng, rows: usize, classes: usize) -> Mixed<T> {
    let pick = |rng: &mut fastrand::Rng, from: &[f64]| from[rng.usize(..from.len())];
    Mixed {
        x: logits(rng, rows * classes, 1.0),
        a: labels(rng, rows, classes),
        b: labels(rng, rows, classes),
        lambda: (0..rows)
            .map(|_| pick(rng, &[0.0, 0.125, 0.5, 0.75, 1.0]))
            .collect(),
        weights: (0..rows)
            .map(|_| pick(rng, &[0.0, 0.5, 1.0, 3.0]))
            .collect(),
    }
}

/// Focal loss has no smoothed form.
fn objectives_of(smoothing: f64) -> Vec<Objective> {
    let mut all = objectives();
    all.retain(|objective| smoothing == 0.0 || !matches!(objective, Objective::Focal { .. }));
    all
}

pub fn assert_random_rows<T: CpuElement>(seed: u64, smoothing: f64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    for classes in [1, 2, 3, 8, 31, 33, 365, 1000, 1281, 3000] {
        let counts = counts(&mut rng, classes);
        for objective in objectives_of(smoothing) {
            for scale in [1.0, 30.0, 64.0] {
                let loss = sum_of(objective, &counts, scale, smoothing);
                let batch = random::<T>(&mut rng, 4, classes);
                check(&loss, &batch, "random");
            }
        }
    }
}

/// Rows that are kept in many blocks, rows whose columns are split, gradients that are streamed.
pub fn assert_long_rows<T: CpuElement>(seed: u64, smoothing: f64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    for (rows, classes) in [(3, 20_001), (16, 9_001), (17, 140_003), (300, 8_191)] {
        let counts = counts(&mut rng, classes);
        let weighted = Objective::ClassBalanced { beta: 0.99 };
        for objective in [
            Objective::ala(),
            Objective::LogitAdjustment { tau: 0.5 },
            weighted,
        ] {
            let loss = sum_of(objective, &counts, 30.0, smoothing);
            let mut batch = random::<T>(&mut rng, rows, classes);
            // Neighbours, and in one vector.
            batch.b[1] = (batch.a[1] + 1) % classes as i64;
            // Either label may have more than all others together.
            for row in 0..rows {
                for (label, above) in [(batch.a[row], row % 2), (batch.b[row], row % 3)] {
                    let place = row * classes + label as usize;
                    batch.x[place] = T::from_f64(0.75 + above as f64);
                }
            }
            check(&loss, &batch, "long");
        }
    }
}

/// Logits whose largest is the first label's, the second's, both or neither, far and near; and the
/// edges, at either label.
pub fn edges<T: CpuElement>(classes: usize) -> Vec<(Mixed<T>, String)> {
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    let lowest = if size_of::<T>() == 2 { -6e4 } else { -3e38 };
    let pairs = [
        [0.9, 0.1],
        [30.0, 0.0],
        [0.0, 30.0],
        [200.0, -5.0],
        [-5.0, 200.0],
        [150.0, 150.0],
        [-300.0, -200.0],
        [5e4, 0.0],
        [0.0, 5e4],
        [-5e4, -5e4],
        [nan, 0.0],
        [0.0, nan],
        [inf, 0.0],
        [0.0, inf],
        [-inf, 0.0],
        [0.0, -inf],
        [-inf, -inf],
        [lowest, 1.0],
        [1.0, lowest],
    ];
    let fills = [0.25, -40.0, 4e4, -inf, lowest];
    let mut batches = vec![];
    for fill in fills {
        let rows = pairs.len();
        let (first, second) = (classes - 1, classes / 2 - 1);
        let mut x = vec![T::from_f64(fill); rows * classes];
        for (row, [at_first, at_second]) in pairs.into_iter().enumerate() {
            x[row * classes + first] = T::from_f64(at_first);
            x[row * classes + second] = T::from_f64(at_second);
        }
        for weight in [1.0, 0.0] {
            let batch = Mixed {
                x: x.clone(),
                a: vec![first as i64; rows],
                b: vec![second as i64; rows],
                lambda: vec![0.75; rows],
                weights: vec![weight; rows],
            };
            batches.push((batch, format!("fill {fill}")));
        }
    }
    batches
}

/// [`edges`] of short rows and long ones, for every objective.
pub fn assert_edges<T: CpuElement>(smoothing: f64) {
    for classes in [2, 3, 40, 1300] {
        for objective in objectives_of(smoothing) {
            let counts = counts(&mut fastrand::Rng::with_seed(3), classes);
            let loss = sum_of(objective, &counts, 2.0, smoothing);
            for (batch, what) in edges::<T>(classes) {
                check(&loss, &batch, &what);
            }
        }
    }
}
