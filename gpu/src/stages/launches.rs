//! One launch of every kernel, for tools that watch or count: compute-sanitizer, Nsight Compute,
//! softcuda.

use super::Bench;
use crate::Failure;
use crate::batch::{Arena, Batch, Logit, TierCase};
use crate::clock::Clock;
use crate::each_type;
use crate::record::{Counted, Op};

/// Launches every kernel once, with about `elements` logits, those with a map for each class and
/// those of recipes too where `all`. `ran` is told of each that is not of recipes after it has run.
///
/// # Errors
/// Those of the crate, of the driver and of `ran`.
pub fn launches(
    bench: &mut Bench,
    elements: usize,
    all: bool,
    mut ran: impl FnMut(&mut Bench, Counted) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let clock = Clock::new(&bench.context)?;
    each_type!(of_type(bench, &clock, elements, all, &mut ran));
    Ok(())
}

fn of_type<T: Logit>(
    bench: &mut Bench,
    clock: &Clock,
    elements: usize,
    all: bool,
    ran: &mut impl FnMut(&mut Bench, Counted) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let cases = || TierCase::all(elements).filter(|case| all || !case.per_class);
    let most = cases().map(|case| case.elements()).max();
    let mut arena = Arena::<T>::new(&clock.stream, most.unwrap_or(1), 0)?;
    for case in cases() {
        let name = case.tier.name;
        if !bench.has_time_for(|| format!("{name} {}", T::NAME))? {
            continue;
        }
        let mut batch: Batch = case.batch::<T>(&clock.stream)?;
        // What was prepared is not to be counted with the launch.
        clock.stream.synchronize()?;
        batch.enqueue(Op::Fused, &mut arena, &clock.instruments, &clock.stream)?;
        batch.finish(&clock.stream)?;
        ran(bench, case.kernel::<T>())?;
        if all {
            batch.enqueue(Op::Mixed, &mut arena, &clock.instruments, &clock.stream)?;
            batch.finish(&clock.stream)?;
        }
    }
    Ok(())
}
