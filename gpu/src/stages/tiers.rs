//! Every kernel that can take a batch, in every launch shape: the best, and what the crate's own
//! choice loses against it.

use ala_loss::cuda::instruments::LaunchShape;
use cudarc::driver::CudaGraph;

use super::Bench;
use crate::Failure;
use crate::batch::{Arena, Batch, Logit};
use crate::clock::{Clock, Spread};
use crate::each_type;
use crate::record::{Kind, Op, Record, Tier};

/// Tiers so many times slower than the best are not timed in all their shapes.
const FAR_BEHIND: f64 = 1.5;

/// Every shape and type.
///
/// # Errors
/// Those of the crate and of the driver.
pub fn tiers(bench: &mut Bench) -> Result<(), Failure> {
    let clock = bench.clock()?;
    each_type!(of_type(bench, &clock));
    Ok(())
}

fn of_type<T: Logit>(bench: &mut Bench, clock: &Clock) -> Result<(), Failure> {
    let sizes = bench.sizes;
    let mut arena = Arena::<T>::new(&clock.stream, sizes.elements, 0)?;
    let small = sizes
        .small
        .iter()
        .map(|&(rows, classes)| (Kind::Small, rows, classes));
    let large = sizes
        .classes
        .iter()
        .map(|&classes| (Kind::Large, (sizes.elements / classes).max(1), classes));
    for (kind, rows, classes) in small.chain(large) {
        if bench.has_time_for(|| format!("{} {rows} x {classes}", T::NAME))? {
            of_batch(bench, clock, &mut arena, kind, [rows, classes])?;
        }
    }
    Ok(())
}

fn of_batch<T: Logit>(
    bench: &mut Bench,
    clock: &Clock,
    arena: &mut Arena<T>,
    kind: Kind,
    [rows, classes]: [usize; 2],
) -> Result<(), Failure> {
    let sets = match kind {
        Kind::Large => 1,
        Kind::Small => bench.sizes.steps,
    };
    let shape = [rows, classes];
    let mut batch = Batch::new(&clock.stream, false, shape, sets, arena.elements())?;
    let own = batch.loss().launch_shape::<T>(rows)?;
    let all = batch.loss().launch_shapes::<T>(rows)?;

    // One shape a tier first: most tiers are far behind in any shape.
    let mut names: Vec<&str> = all.iter().map(|shape| shape.tier).collect();
    names.dedup();
    let mut first = Vec::new();
    for name in names {
        first.extend(batch.shape_of_tier::<T>(name)?);
    }
    let screened = in_turns(bench, clock, arena, &mut batch, kind, &first, 1)?;
    let best = screened
        .iter()
        .map(|spread| spread.median)
        .fold(f64::INFINITY, f64::min);
    let first_us = |tier: &str| {
        let at = first.iter().position(|shape| shape.tier == tier);
        at.map_or(f64::NAN, |at| screened[at].median)
    };
    let mut near: Vec<LaunchShape> = all
        .into_iter()
        .filter(|shape| first_us(shape.tier) <= FAR_BEHIND * best)
        .collect();
    if !near.contains(&own) {
        near.push(own);
    }
    let rounds = (bench.sizes.rounds / 3).max(1);
    let spreads = in_turns(bench, clock, arena, &mut batch, kind, &near, rounds)?;
    batch.finish(&clock.stream)?;

    let record = |shape: &LaunchShape, device_us| Tier {
        batch: kind,
        dtype: T::NAME.into(),
        n: rows,
        c: classes,
        tier: shape.tier.into(),
        threads: shape.threads,
        blocks_per_multiprocessor: shape.blocks_per_multiprocessor,
        parts: shape.parts,
        own: *shape == own,
        first_us: first_us(shape.tier),
        device_us,
    };
    let mut tiers: Vec<Tier> = near
        .iter()
        .zip(&spreads)
        .map(|(shape, &spread)| record(shape, Some(spread)))
        .collect();
    print_best(&tiers);
    let far = first
        .iter()
        .filter(|shape| near.iter().all(|near| near.tier != shape.tier));
    tiers.extend(far.map(|shape| record(shape, None)));
    tiers
        .into_iter()
        .try_for_each(|tier| bench.sink.write(Record::Tier(tier)))
}

/// Microseconds a step of each shape; of a small batch in a graph.
fn in_turns<T: Logit>(
    bench: &Bench,
    clock: &Clock,
    arena: &mut Arena<T>,
    batch: &mut Batch,
    kind: Kind,
    shapes: &[LaunchShape],
    rounds: usize,
) -> Result<Vec<Spread>, Failure> {
    let steps = bench.sizes.steps;
    let instruments = &clock.instruments;
    match kind {
        Kind::Large => clock.in_turns(shapes.len(), rounds, bench.deadline, |what, stream| {
            batch.loss().set_launch_shape(Some(shapes[what]));
            batch.enqueue(Op::Fused, arena, instruments, stream)
        }),
        Kind::Small => {
            let graphs: Vec<CudaGraph> = shapes
                .iter()
                .map(|&shape| {
                    batch.loss().set_launch_shape(Some(shape));
                    batch.graph(Op::Fused, steps, arena, instruments, &clock.stream)
                })
                .collect::<Result<_, _>>()?;
            let spreads = clock.in_turns(shapes.len(), rounds, bench.deadline, |what, _| {
                Ok(graphs[what].launch()?)
            })?;
            let a_step = |spread: Spread| spread.scaled(1.0 / steps as f64);
            Ok(spreads.into_iter().map(a_step).collect())
        }
    }
}

fn print_best(tiers: &[Tier]) {
    let median = |tier: &Tier| tier.device_us.map_or(f64::INFINITY, |us| us.median);
    let own = tiers.iter().find(|tier| tier.own);
    let best = tiers.iter().min_by(|a, b| median(a).total_cmp(&median(b)));
    if let (Some(own), Some(best)) = (own, best) {
        println!(
            "{} {} x {}: {} {:.2} us; best {} with {} threads, {} blocks an SM, {} parts: {:.2} us, {:.1} % less",
            own.dtype,
            own.n,
            own.c,
            own.tier,
            median(own),
            best.tier,
            best.threads,
            best.blocks_per_multiprocessor,
            best.parts,
            median(best),
            100.0 * (1.0 - median(best) / median(own)),
        );
    }
}
