//! Losses cut over shards, in one process: what an all-gather moves is copied.

use std::ops::Range;

use ala_loss::{
    ClassCounts, CpuElement, Element, Error, Loss, LossShard, Objective, Options, Outputs,
    Reduction,
};

use super::{assert_within, gradient_bound, loss_bound, slope, widen, widen_real};

/// Some ways of cutting so many classes: even, uneven, shards of one class.
pub fn cuts(classes: usize) -> Vec<Vec<Range<usize>>> {
    let parts = |ends: &[usize]| {
        let mut start = 0;
        let mut ranges = vec![];
        for &end in ends {
            if end > start && end <= classes {
                ranges.push(start..end);
                start = end;
            }
        }
        if start < classes {
            ranges.push(start..classes);
        }
        ranges
    };
    vec![
        parts(&[]),
        parts(&[classes / 3]),
        parts(&[1, classes / 2 + 1]),
        parts(&[classes / 4, classes / 2, classes / 2 + 1]),
        parts(&[1, 2, 3, classes / 2, classes - 2, classes - 1]),
    ]
}

/// A row of each kind that the README's table of edges has, of nine classes.
pub fn edge_rows<T: Element>() -> Vec<[f64; 9]> {
    const INF: f64 = f64::INFINITY;
    let lowest = match std::any::type_name::<T>() {
        "f64" => f64::MIN,
        "half::binary16::f16" => -65504.0,
        _ => -3.3e38,
    };
    let tame = [0.3, -0.2, 0.9, 0.1, 0.0, -0.7, 0.4, 0.25, 0.5];
    let with = |changes: &[(usize, f64)]| {
        let mut row = tame;
        for &(class, x) in changes {
            row[class] = x;
        }
        row
    };
    let but = |kept: &[usize], x: f64| {
        let mut row = [x; 9];
        for &class in kept {
            row[class] = tame[class];
        }
        row
    };
    let mut rows = vec![
        tame,
        with(&[(1, f64::NAN)]),
        with(&[(8, f64::NAN)]),
        with(&[(4, f64::NAN)]),
        with(&[(0, INF)]),
        with(&[(4, INF)]),
        with(&[(0, -INF), (1, -INF), (2, -INF)]),
        [-INF; 9],
        but(&[4], -INF),
        but(&[3], -INF),
        but(&[4, 7], -INF),
        with(&[(4, -INF)]),
        tame.map(|x| x + 1e4),
        tame.map(|x| 60.0 * x),
        with(&[(4, 21.0)]),
        with(&[(7, 21.0)]),
        with(&[(4, 1000.0)]),
        with(&[(7, 1000.0)]),
        with(&[(4, 1000.0), (7, 1000.0)]),
        with(&[(4, 6e4)]),
        with(&[(7, 6e4)]),
        with(&[(4, 6e4), (7, 6e4)]),
        // As high in another shard, and in the same.
        with(&[(4, 40.0), (0, 40.0)]),
        with(&[(4, 40.0), (5, 40.0), (8, 39.0)]),
    ];
    for mask in [-1e4, -1e9, -1e15, -3e17, lowest] {
        rows.extend([
            [mask; 9],
            // What is left is in the target's shard, in another's, in both.
            but(&[4], mask),
            but(&[7], mask),
            but(&[0, 4], mask),
            but(&[0, 8], mask),
            but(&[3, 5], mask),
            with(&[(4, mask)]),
            with(&[(0, mask), (1, mask), (2, mask), (3, mask)]),
            with(&[(4, -mask)]),
            with(&[(7, -mask)]),
            with(&[(3, -mask), (7, -mask)]),
        ]);
    }
    let held = |row: [f64; 9]| row.map(|x| T::from_f64(x).to_f64());
    rows.into_iter().map(held).collect()
}

/// Rows of nine classes under slopes so steep that a logit is coarser than the classes' offsets.
pub fn steep_rows(objectives: &[Objective]) -> Vec<(Loss, [f64; 9])> {
    let many = 1 << 34;
    let equal = [many; 9];
    let unequal = [many, 9, 1 << 20, many, 300, 40, 7, many, 1];
    let alone = [many, 1, 1, 1, 1, 1, 1, 1, 1];
    let mut rows = vec![];
    for counts in [equal, unequal, alone] {
        let counts = ClassCounts::new(counts).expect("valid");
        for &objective in objectives {
            // Under 1.7e28 an exponential of `alone` times the slope leaves f32 in units of log2
            // only.
            for scale in [1e16, 1e24, 1.7e28, 1e30] {
                let loss = Loss::builder(objective, &counts).scale(scale);
                let loss = loss.reduction(Reduction::Sum).build().expect("valid");
                rows.extend([0.0, 1.0, -2.0].map(|x| (loss.clone(), [x; 9])));
            }
        }
    }
    rows
}

/// What all shards come to, put together.
#[derive(Debug, Clone, PartialEq)]
pub struct Together<T: CpuElement> {
    pub loss: f64,
    pub counted_rows: usize,
    pub total_weight: f64,
    pub row_losses: Vec<T::Real>,
    pub gradient: Vec<T>,
    pub hits: Option<Vec<bool>>,
    pub predictions: Option<Vec<u32>>,
}

/// The columns of `[N, C]` logits.
pub fn columns<T: Copy>(x: &[T], all: usize, classes: Range<usize>) -> Vec<T> {
    x.chunks(all)
        .flat_map(|row| row[classes.clone()].iter().copied())
        .collect()
}

pub fn shards_of(loss: &Loss, cut: &[Range<usize>]) -> Vec<LossShard> {
    let shard = |classes: &Range<usize>| loss.shard(classes.clone()).expect("valid");
    cut.iter().map(shard).collect()
}

/// The records of all shards.
pub fn records<T: CpuElement>(
    shards: &[LossShard],
    x: &[T],
    labels: &[i64],
    options: &Options<'_, T::Real>,
) -> Result<Vec<f64>, Error> {
    let len = labels.len() * shards[0].record_len(options);
    let mut records = vec![f64::NAN; shards.len() * len];
    for (shard, records) in shards.iter().zip(records.chunks_mut(len)) {
        let own = columns(x, shard.all_classes(), shard.classes());
        shard.partial(&own, labels, options, records)?;
    }
    Ok(records)
}

/// A step of all shards, of which each says the same of the rows.
pub fn together<T: CpuElement>(
    loss: &Loss,
    cut: &[Range<usize>],
    x: &[T],
    labels: &[i64],
    options: &Options<'_, T::Real>,
    (hits, predictions): (bool, bool),
) -> Result<Together<T>, Error> {
    let (rows, classes) = (labels.len(), loss.classes());
    let shards = shards_of(loss, cut);
    let records = records(&shards, x, labels, options)?;
    let mut all: Option<Together<T>> = None;
    let mut gradient = vec![T::from_f64(77.0); rows * classes];
    for shard in &shards {
        let own = columns(x, classes, shard.classes());
        let mut part = vec![T::from_f64(77.0); own.len()];
        let mut row_losses = vec![<T::Real as ala_loss::Real>::from_f64(77.0); rows];
        let mut of_row = (vec![true; rows], vec![77; rows]);
        let mut outputs = Outputs::new()
            .gradient(&mut part)
            .row_losses(&mut row_losses);
        if hits {
            outputs = outputs.hits(&mut of_row.0);
        }
        if predictions {
            outputs = outputs.predictions(&mut of_row.1);
        }
        let summary = shard.finish(&own, labels, options, &records, outputs)?;

        let mut over = own;
        let outputs = Outputs::new();
        let in_place = shard.finish_in_place(&mut over, labels, options, &records, outputs)?;
        let bits = |x: &[T]| -> Vec<u64> { widen(x).into_iter().map(f64::to_bits).collect() };
        assert_eq!(bits(&over), bits(&part), "in place");
        assert_eq!(in_place.loss.to_bits(), summary.loss.to_bits());

        let here = Together::<T> {
            loss: summary.loss,
            counted_rows: summary.counted_rows,
            total_weight: summary.total_weight,
            row_losses,
            gradient: vec![],
            hits: hits.then_some(of_row.0),
            predictions: predictions.then_some(of_row.1),
        };
        if let Some(all) = &all {
            // A NaN is not itself.
            assert_eq!(format!("{all:?}"), format!("{here:?}"), "all say the same");
        }
        let width = shard.classes().len();
        for (row, part) in part.chunks(width).enumerate() {
            gradient[row * classes..][shard.classes()].copy_from_slice(part);
        }
        all = Some(here);
    }
    let all = all.expect("there is a shard");
    Ok(Together { gradient, ..all })
}

/// Holds what shards come to against exact row losses and gradient.
pub fn assert_is<T: CpuElement>(
    got: &Together<T>,
    loss: &Loss,
    (losses, gradient): (&[f64], &[f64]),
    what: &dyn Fn() -> String,
) {
    for (row, (got, &exact)) in widen_real::<T>(&got.row_losses)
        .iter()
        .zip(losses)
        .enumerate()
    {
        assert_within(*got, exact, loss_bound(exact), &|| {
            format!("{} row loss {row}", what())
        });
    }
    let slope = slope(loss.table());
    for (i, (got, &exact)) in widen(&got.gradient).iter().zip(gradient).enumerate() {
        assert_within(*got, exact, gradient_bound::<T>(exact, slope), &|| {
            format!("{} gradient {i}", what())
        });
    }
}
