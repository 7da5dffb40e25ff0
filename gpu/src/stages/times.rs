//! The step's time, beside a copy of the same bytes, an empty kernel and the unfused baseline.

use cudarc::driver::CudaGraph;

use super::Bench;
use crate::Failure;
use crate::batch::{Arena, Batch, Logit};
use crate::clock::{Clock, Spread};
use crate::each_type;
use crate::record::{Kind, Op, Record, Time};

/// The last is what the others are held against.
const LARGE: [Op; 7] = [
    Op::Fused,
    Op::Mixed,
    Op::Smoothed,
    Op::Unfused,
    Op::DriverCopy,
    Op::Empty,
    Op::Copy,
];
const SMALL: [Op; 5] = [Op::Fused, Op::Overlapped, Op::Unfused, Op::Empty, Op::Copy];

/// Every shape and type.
///
/// # Errors
/// Those of the crate and of the driver.
pub fn times(bench: &mut Bench) -> Result<(), Failure> {
    let clock = bench.clock()?;
    each_type!(of_type(bench, &clock));
    Ok(())
}

fn of_type<T: Logit>(bench: &mut Bench, clock: &Clock) -> Result<(), Failure> {
    let sizes = bench.sizes;
    let fewest = sizes.classes.iter().copied().min().unwrap_or(1);
    let mut arena = Arena::<T>::new(&clock.stream, sizes.elements, sizes.elements / fewest)?;
    for &(rows, classes) in sizes.small {
        if bench.has_time_for(|| format!("{} {rows} x {classes}", T::NAME))? {
            small(bench, clock, &mut arena, [rows, classes])?;
        }
    }
    for &classes in sizes.classes {
        if bench.has_time_for(|| format!("{} C = {classes}", T::NAME))? {
            large(bench, clock, &mut arena, classes)?;
        }
    }
    Ok(())
}

fn large<T: Logit>(
    bench: &mut Bench,
    clock: &Clock,
    arena: &mut Arena<T>,
    classes: usize,
) -> Result<(), Failure> {
    let elements = bench.sizes.elements;
    let shape = [(elements / classes).max(1), classes];
    let mut batch = Batch::new(&clock.stream, false, shape, 1, elements)?;
    let spreads = clock.in_turns(
        LARGE.len(),
        bench.sizes.rounds,
        bench.deadline,
        |what, stream| batch.enqueue(LARGE[what], arena, &clock.instruments, stream),
    )?;
    batch.finish(&clock.stream)?;
    let times = LARGE
        .into_iter()
        .zip(spreads)
        .map(|(op, spread)| time::<T>(&batch, op, Kind::Large, spread));
    report(bench, times.collect())
}

fn small<T: Logit>(
    bench: &mut Bench,
    clock: &Clock,
    arena: &mut Arena<T>,
    shape: [usize; 2],
) -> Result<(), Failure> {
    let (steps, rounds) = (bench.sizes.steps, bench.sizes.small_rounds);
    let mut batch = Batch::new(&clock.stream, false, shape, steps, arena.elements())?;
    let graphs: Vec<CudaGraph> = SMALL
        .into_iter()
        .map(|op| batch.graph(op, steps, arena, &clock.instruments, &clock.stream))
        .collect::<Result<_, _>>()?;
    let in_graphs = clock.in_turns(SMALL.len(), rounds, bench.deadline, |what, _| {
        Ok(graphs[what].launch()?)
    })?;
    let plain = clock.launches_in_turns(SMALL.len(), steps, rounds, |what, stream| {
        batch.enqueue(SMALL[what], arena, &clock.instruments, stream)
    })?;
    batch.finish(&clock.stream)?;
    let times = SMALL.into_iter().zip(in_graphs).zip(plain);
    let times = times.map(|((op, graph), [device, host])| Time {
        graph_us: Some(graph.scaled(1.0 / steps as f64)),
        host_us: Some(host),
        ..time::<T>(&batch, op, Kind::Small, device)
    });
    report(bench, times.collect())
}

fn time<T: Logit>(batch: &Batch, op: Op, kind: Kind, device_us: Spread) -> Time {
    Time {
        op,
        batch: kind,
        dtype: T::NAME.into(),
        n: batch.rows(),
        c: batch.classes(),
        bytes: batch.bytes::<T>(op),
        device_us,
        graph_us: None,
        host_us: None,
    }
}

fn report(bench: &mut Bench, times: Vec<Time>) -> Result<(), Failure> {
    if let Some(first) = times.first() {
        print!("{} {} x {}:", first.dtype, first.n, first.c);
    }
    for time in &times {
        let us = time.graph_us.unwrap_or(time.device_us).median;
        print!(" {:?} {us:.2} us", time.op);
        if let Some(host) = time.host_us {
            print!(" (host {:.2})", host.median);
        }
        print!(";");
    }
    println!();
    times
        .into_iter()
        .try_for_each(|time| bench.sink.write(Record::Time(time)))
}
