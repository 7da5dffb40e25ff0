//! Whether the same step gives the same bits again and again, in every tier.

use ala_loss::Element;

use super::Bench;
use crate::Failure;
use crate::batch::{Arena, Batch, Logit, TierCase};
use crate::clock::Clock;
use crate::each_type;
use crate::record::{Op, Record, Repeat};

/// Logits of a step, about; enough for many blocks, which take their turns as they like.
const ELEMENTS: usize = 1 << 20;

/// Runs every kernel over and over.
///
/// # Errors
/// Those of the crate and of the driver, and where a step's bits were not the same.
pub fn repeats(bench: &mut Bench) -> Result<(), Failure> {
    let clock = Clock::new(&bench.context)?;
    let mut failed = 0;
    each_type!(of_type(bench, &clock, &mut failed));
    match failed {
        0 => Ok(()),
        _ => Err(format!("{failed} kernels give other bits from run to run").into()),
    }
}

fn of_type<T: Logit>(bench: &mut Bench, clock: &Clock, failed: &mut usize) -> Result<(), Failure> {
    let elements = ELEMENTS.min(bench.sizes.watched);
    let most = TierCase::all(elements).map(|case| case.elements()).max();
    let mut arena = Arena::<T>::new(&clock.stream, most.unwrap_or(1), 0)?;
    for case in TierCase::all(elements) {
        let name = case.tier.name;
        if !bench.has_time_for(|| format!("{name} {}", T::NAME))? {
            continue;
        }
        let mut batch = case.batch::<T>(&clock.stream)?;
        for op in [Op::Fused, Op::Mixed] {
            let differed = differences(bench, clock, op, &mut arena, &mut batch)?;
            if !differed.is_empty() {
                *failed += 1;
                println!(
                    "{name} {} {op:?}: other {} in another run",
                    T::NAME,
                    differed.join(", ")
                );
            }
            bench.sink.write(Record::Repeat(Repeat {
                tier: name.into(),
                dtype: T::NAME.into(),
                per_class: case.per_class,
                recipe: op == Op::Mixed,
                n: case.rows,
                c: case.classes,
                repeats: bench.sizes.repeats,
                differed,
            }))?;
        }
    }
    println!(
        "{}: every tier, {} times each",
        T::NAME,
        bench.sizes.repeats
    );
    Ok(())
}

/// What is not the same in each run as in the first.
fn differences<T: Logit>(
    bench: &Bench,
    clock: &Clock,
    op: Op,
    arena: &mut Arena<T>,
    batch: &mut Batch,
) -> Result<Vec<String>, Failure> {
    let stream = &clock.stream;
    let mut first = None;
    let mut differed = [("loss", false), ("row losses", false), ("gradient", false)];
    for _ in 0..bench.sizes.repeats {
        batch.enqueue(op, arena, &clock.instruments, stream)?;
        let loss = batch.finish(stream)?.to_bits();
        let rows: Vec<u32> = batch
            .row_losses(stream)?
            .into_iter()
            .map(f32::to_bits)
            .collect();
        let gradient = arena.gradient(stream, batch.elements())?;
        // Every value of these types is an f64 of its own.
        let gradient: Vec<u64> = gradient
            .into_iter()
            .map(|g| Element::to_f64(g).to_bits())
            .collect();
        let this = (loss, rows, gradient);
        let Some(first) = &first else {
            first = Some(this);
            continue;
        };
        differed[0].1 |= first.0 != this.0;
        differed[1].1 |= first.1 != this.1;
        differed[2].1 |= first.2 != this.2;
    }
    let names = differed.into_iter().filter(|&(_, differs)| differs);
    Ok(names.map(|(name, _)| name.to_owned()).collect())
}
