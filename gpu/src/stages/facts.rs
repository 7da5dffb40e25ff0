//! The device, its bandwidth by copies, and how long a process waits for its first step.

use std::sync::Arc;
use std::time::Instant;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut};

use super::Bench;
use crate::batch::{Arena, Batch};
use crate::clock::{Clock, Spread};
use crate::record::{Bandwidth, Op, Record};
use crate::{Failure, device};

/// `begun` is when the process began to open the device.
///
/// # Errors
/// Those of the driver.
pub fn facts(bench: &mut Bench, begun: Instant) -> Result<(), Failure> {
    let facts = device::describe(&bench.context)?;
    println!(
        "{}, capability {}, {} SMs at up to {:.0} MHz, L2 {:.0} MiB, {:.1} GiB, driver for CUDA {}",
        facts.name,
        facts.capability,
        facts.multiprocessors,
        facts.clock_mhz,
        facts.l2_bytes as f64 / f64::from(1 << 20),
        facts.memory_bytes as f64 / f64::from(1 << 30),
        facts.driver,
    );
    bench.sink.write(Record::Device(facts))?;
    first_step(bench, begun)?;
    let clock = bench.clock()?;
    for &bytes in bench.sizes.copies {
        copies(bench, &clock, bytes)?;
    }
    Ok(())
}

fn first_step(bench: &mut Bench, begun: Instant) -> Result<(), Failure> {
    let milliseconds = |since: Instant| 1e3 * since.elapsed().as_secs_f64();
    let context_ms = milliseconds(begun);
    let stream = bench.context.new_stream()?;
    let mut arena = Arena::<f32>::new(&stream, 1000, 1)?;
    let clock = Clock::new(&bench.context)?;
    let binding = Instant::now();
    let mut batch = Batch::new(&stream, false, [1, 1000], 1, 1000)?;
    batch.loss().load::<f32>()?;
    let bind_ms = milliseconds(binding);
    let stepping = Instant::now();
    batch.enqueue(Op::Fused, &mut arena, &clock.instruments, &stream)?;
    batch.finish(&stream)?;
    let step_ms = milliseconds(stepping);
    println!(
        "first step: context {context_ms:.0} ms, kernels and table {bind_ms:.0} ms, step {step_ms:.1} ms"
    );
    bench.sink.write(Record::FirstStep {
        context_ms,
        bind_ms,
        step_ms,
    })
}

fn copies(bench: &mut Bench, clock: &Clock, bytes: u64) -> Result<(), Failure> {
    const OPS: [Op; 2] = [Op::Copy, Op::DriverCopy];
    let from: CudaSlice<u8> = clock.stream.alloc_zeros(bytes.try_into()?)?;
    let mut to: CudaSlice<u8> = clock.stream.alloc_zeros(bytes.try_into()?)?;
    let enqueue = |what: usize, stream: &Arc<CudaStream>| match OPS[what] {
        Op::DriverCopy => Ok(stream.memcpy_dtod(&from, &mut to)?),
        _ => {
            let (source, _reads) = from.device_ptr(stream);
            let (destination, _writes) = to.device_ptr_mut(stream);
            // SAFETY: two allocations of so many bytes, kept by their guards.
            unsafe {
                clock
                    .instruments
                    .copy(stream.cu_stream(), source, destination, bytes)?;
            }
            Ok(())
        }
    };
    let spreads: Vec<Spread> =
        clock.in_turns(OPS.len(), bench.sizes.rounds, bench.deadline, enqueue)?;
    for (op, device_us) in OPS.into_iter().zip(spreads) {
        let gb_s = 2.0 * bytes as f64 / device_us.median / 1e3;
        println!(
            "{op:?} of {bytes} bytes: {:.1} us, {gb_s:.0} GB/s",
            device_us.median
        );
        bench.sink.write(Record::Bandwidth(Bandwidth {
            op,
            bytes,
            device_us,
            gb_s,
        }))?;
    }
    Ok(())
}
