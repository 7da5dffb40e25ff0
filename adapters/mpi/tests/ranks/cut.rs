//! Losses that are cut over ranks, and their results beside those of the whole.

use std::ops::Range;

use ala_loss::{CpuElement, Loss, Options, Outcome};
use ala_loss_mpi::MpiLoss;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};

pub fn rank(of: &SimpleCommunicator) -> usize {
    of.rank() as usize
}

pub fn ranks(of: &SimpleCommunicator) -> usize {
    of.size() as usize
}

/// Ways to cut classes into `ranks` ranges: evenly, anywhere, one class each but for the last, one
/// each but for the first.
pub fn cuts(seed: u64, ranks: usize, classes: usize) -> Vec<Vec<Range<usize>>> {
    let ranges = |mut ends: Vec<usize>| -> Vec<Range<usize>> {
        ends.sort_unstable();
        let starts = std::iter::once(0).chain(ends.clone());
        starts.zip(ends.clone()).map(|(a, b)| a..b).collect()
    };
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut anywhere = rng.choose_multiple(1..classes, ranks - 1);
    anywhere.push(classes);
    let mut first: Vec<usize> = (1..ranks).collect();
    first.push(classes);
    let last = (0..ranks).map(|rank| classes - rank).collect();
    let even = (1..=ranks).map(|rank| rank * classes / ranks).collect();
    [even, anywhere, first, last].map(ranges).to_vec()
}

/// Of `[N, C]` the columns of a range.
pub fn columns<T: Copy>(all: &[T], classes: usize, range: &Range<usize>) -> Vec<T> {
    all.chunks(classes)
        .flat_map(|row| row[range.clone()].iter().copied())
        .collect()
}

/// Holds all of an outcome but the gradient against the whole's, and the gradient against the
/// whole's columns.
pub fn assert_close<T: CpuElement>(
    got: &Outcome<T>,
    whole: &Outcome<T>,
    range: &Range<usize>,
    (tolerance, what): (f64, &str),
) {
    use ala_loss::Real;
    let classes = whole.gradient.len() / whole.row_losses.len().max(1);
    let close = |got: f64, exact: f64, scale: f64, what: &dyn Fn() -> String| {
        let same = got == exact || (got.is_nan() && exact.is_nan());
        let off = (got - exact).abs();
        assert!(
            same || off <= tolerance * scale.max(exact.abs()) + f64::MIN_POSITIVE,
            "{}: {got:e} {exact:e}",
            what()
        );
    };
    close(got.loss, whole.loss, 1.0, &|| format!("{what}: loss"));
    assert_eq!(got.row_losses.len(), whole.row_losses.len(), "{what}");
    for (row, (got, exact)) in got.row_losses.iter().zip(&whole.row_losses).enumerate() {
        close(got.to_f64(), exact.to_f64(), 1.0, &|| {
            format!("{what}: row loss {row}")
        });
    }
    // Relative to the row's largest: a target's gradient is what the others' come to.
    let width = range.len();
    assert_eq!(got.gradient.len(), width * whole.row_losses.len(), "{what}");
    for (row, whole) in whole.gradient.chunks(classes).enumerate() {
        let largest = whole.iter().map(|g| g.to_f64().abs()).fold(0.0, f64::max);
        for (i, exact) in whole[range.clone()].iter().enumerate() {
            let got = got.gradient[row * width + i].to_f64();
            close(got, exact.to_f64(), largest, &|| {
                format!("{what}: gradient of row {row}, class {}", range.start + i)
            });
        }
    }
    assert_eq!(got.counted_rows, whole.counted_rows, "{what}");
    assert_eq!(got.hits, whole.hits, "{what}: hits");
    assert_eq!(got.predictions, whole.predictions, "{what}: predictions");
}

/// Holds a step of every cut against the whole.
pub fn check<T: CpuElement>(
    world: &SimpleCommunicator,
    loss: &Loss,
    x: &[T],
    labels: &[i64],
    options: &Options<'_, T::Real>,
    what: &str,
) {
    check_within(world, loss, x, labels, options, (TOLERANCE, what));
}

/// Of `f64` logits whose exponents are below 10,000.
pub const TOLERANCE: f64 = 1e-11;

/// The same of rows of which the largest exponents leave less than that.
pub fn check_within<T: CpuElement>(
    world: &SimpleCommunicator,
    loss: &Loss,
    x: &[T],
    labels: &[i64],
    options: &Options<'_, T::Real>,
    (tolerance, what): (f64, &str),
) {
    let classes = loss.classes();
    let whole = loss
        .evaluate_with(x, labels, options)
        .expect("a valid batch");
    for (i, cut) in cuts(7, ranks(world), classes).into_iter().enumerate() {
        let range = cut[rank(world)].clone();
        let mut mine = MpiLoss::new(loss, range.clone(), world).expect("the ranks agree");
        let own = columns(x, classes, &range);
        let got = mine
            .evaluate_with(&own, labels, options)
            .expect("a valid batch");
        let what = format!(
            "{what}, cut {i}, {:?}, {:?}",
            loss.objective(),
            loss.reduction()
        );
        assert_close(&got, &whole, &range, (tolerance, &what));
    }
}

/// Fails unless all ranks have the same words.
pub fn assert_same_on_all(world: &SimpleCommunicator, words: &[u64], what: &str) {
    let mut all = vec![0; ranks(world) * words.len()];
    world.all_gather_into(words, &mut all[..]);
    for (rank, other) in all.chunks(words.len().max(1)).enumerate() {
        assert_eq!(other, words, "{what}: rank {rank}");
    }
}
