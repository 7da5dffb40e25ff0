//! What tests ask the instrument itself. `crate::client` wraps these calls.

use super::border::{Need, call, calls, with_state};
use super::code::Code;
use super::pointer::{Host, Out};
use super::work::KernelLaunch;
use crate::counters::Counters;
use crate::exec::{Chain, Order, Reach};

calls! {
    /// The order in which blocks and warps run from now on: 0 forward, 1 reverse, 2 interleaved.
    Nothing: fn softcuda_set_order(state, order: u32) {
        state.order = match order {
            0 => Order::Forward,
            1 => Order::Reverse,
            2 => Order::Interleaved,
            _ => return Err(Code::InvalidValue),
        };
        Ok(())
    }

    /// The blocks that the device holds at a time from now on.
    Nothing: fn softcuda_set_resident_blocks(state, count: u32) {
        if count == 0 {
            return Err(Code::InvalidValue);
        }
        state.resident = count as usize;
        Ok(())
    }

    /// What all launches since the last reset counted.
    Nothing: fn softcuda_counters(state, counters: Out<Counters>, reset: bool) {
        counters.set(state.counters)?;
        if reset {
            state.counters = Counters::default();
        }
        Ok(())
    }
}

/// Whether an asynchronous copy to pageable host memory is done when its call returns, as NVIDIA's
/// driver does it. Off by default, so that whoever relies on it is found out.
#[unsafe(no_mangle)]
extern "C" fn softcuda_set_prompt_downloads(prompt: bool) {
    with_state(|state| state.prompt_downloads = prompt);
}

/// Whether races in global memory are faults, as they are by default.
#[unsafe(no_mangle)]
extern "C" fn softcuda_set_races(faults: bool) {
    with_state(|state| state.races = faults);
}

/// Whether launches are asked for their chains from now on.
#[unsafe(no_mangle)]
extern "C" fn softcuda_set_chains(asked: bool) {
    with_state(|state| state.chains = asked);
}

/// Copies the chains of the launch that ran last, cut to `length` bytes; gives their whole length,
/// 0 where it was not asked for them. Its first line has the cycles to its end, those of global
/// memory and round trips, the second whether it spins; the others an allocation's address and the
/// same to its last store.
#[unsafe(no_mangle)]
extern "C" fn softcuda_chain(text: Host, length: usize) -> usize {
    with_state(|state| {
        let numbers = |reach: &Reach| format!("{} {} {}", reach.cycles, reach.global, reach.trips);
        let Some(Chain { end, stores, spins }) = &state.last_chain else { return 0 };
        let stores = stores.iter().map(|(address, reach)| format!("{address} {}\n", numbers(reach)));
        let lines = format!("{}\n{}\n{}", numbers(end), u8::from(*spins), stores.collect::<String>());
        let _ = text.write(&lines.as_bytes()[..length.min(lines.len())]);
        lines.len()
    })
    .unwrap_or(0)
}

/// Copies the text of the last fault or refusal, cut to `length` bytes; gives its whole length.
#[unsafe(no_mangle)]
extern "C" fn softcuda_last_fault(text: Host, length: usize) -> usize {
    with_state(|state| {
        let _ = text.write(&state.message.as_bytes()[..length.min(state.message.len())]);
        state.message.len()
    })
    .unwrap_or(0)
}

/// Copies a line for each operation that was executed since the last reset, `name count`, cut to
/// `length` bytes; gives the whole length.
#[unsafe(no_mangle)]
extern "C" fn softcuda_operations(text: Host, length: usize) -> usize {
    with_state(|state| {
        let lines: String = state.operations().iter().map(|(name, count)| format!("{name} {count}\n")).collect();
        let _ = text.write(&lines.as_bytes()[..length.min(lines.len())]);
        lines.len()
    })
    .unwrap_or(0)
}

/// Copies the name of the kernel that ran last, cut to `length` bytes; gives its whole length, 0
/// where none has run. `shape` gets its grid, its block, its bytes of dynamic shared memory, and
/// whether it might overlap the kernel before it.
#[unsafe(no_mangle)]
extern "C" fn softcuda_last_launch(name: Host, length: usize, shape: Out<[u32; 8]>) -> usize {
    with_state(|state| {
        let Some(KernelLaunch { kernel, grid, block, dynamic_shared, overlaps, .. }) = state.last_launch.as_deref()
        else {
            return 0;
        };
        let _ = name.write(&kernel.as_bytes()[..length.min(kernel.len())]);
        let ([gx, gy, gz], [bx, by, bz]) = (*grid, *block);
        let _ = shape.set([gx, gy, gz, bx, by, bz, *dynamic_shared, u32::from(*overlaps)]);
        kernel.len()
    })
    .unwrap_or(0)
}

/// Forgets everything, a sticky fault too. Contexts, streams, memory and modules of before are
/// gone.
#[unsafe(no_mangle)]
extern "C" fn softcuda_reset() {
    with_state(|state| state.reset());
}

/// Device allocations that nobody freed, those that a destroyed context took with it included.
#[unsafe(no_mangle)]
extern "C" fn softcuda_live_allocations() -> u64 {
    with_state(|state| state.leaked + state.unfreed()).unwrap_or(0)
}

/// How often a driver call was made since the last reset.
#[unsafe(no_mangle)]
extern "C" fn softcuda_driver_calls(name: Host) -> u64 {
    with_state(|state| name.text().ok().and_then(|name| state.calls.get(name.as_str()).copied())).flatten().unwrap_or(0)
}

/// Work that was submitted and has not run, in all streams.
#[unsafe(no_mangle)]
extern "C" fn softcuda_pending() -> u64 {
    with_state(|state| state.queues.values().map(|queue| queue.pending() as u64).sum()).unwrap_or(0)
}

/// Copies to pageable host memory that were given up, for their stream was destroyed before
/// anything waited for them.
#[unsafe(no_mangle)]
extern "C" fn softcuda_lost_copies() -> u64 {
    with_state(|state| state.lost_copies).unwrap_or(0)
}
