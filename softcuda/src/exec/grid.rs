//! A launch: its blocks run until all have ended, more of them at a time where they wait for one
//! another.
use super::block::Slot;
use super::chain::{Chain, Chains};
use super::context::Context;
use super::global::Global;
use super::scene::{Launch, Order, Scene};
use crate::counters::Counters;
use crate::device::{THREADS_PER_BLOCK, current_sm};
use crate::fault::{Fault, Site};
use crate::memory::Memory;

/// Blocks that the interleaved order keeps running at a time.
const INTERLEAVED: usize = 4;

/// Runs a kernel to its end.
pub fn launch(memory: &mut Memory, launch: &Launch) -> Result<Counters, Fault> {
    run_launch(memory, launch, None).map(|(counters, _)| counters)
}

/// The same, and tells what its longest chains of dependent operations are.
pub fn launch_with_chain(memory: &mut Memory, launch: &Launch) -> Result<(Counters, Chain), Fault> {
    let (counters, chains) = run_launch(memory, launch, Some(Chains::default()))?;
    Ok((counters, chains.unwrap_or_default().of_launch))
}

fn run_launch(
    memory: &mut Memory,
    launch: &Launch,
    chains: Option<Chains>,
) -> Result<(Counters, Option<Chains>), Fault> {
    let bad = |text: String| Err(Fault::BadLaunch { text: format!("{}: {text}", launch.kernel) });
    let code = launch.module.code(launch.kernel)?;
    let Some(kernel) = launch.module.module().kernel(launch.kernel) else { return bad("no such kernel".to_owned()) };
    let volume = |sizes: [u32; 3]| sizes.iter().map(|&size| u64::from(size)).product::<u64>();
    let (blocks, threads) = (volume(launch.grid), volume(launch.block));
    let shared = kernel.static_shared_bytes as u64 + u64::from(launch.dynamic_shared);
    let most_threads = u64::from(kernel.max_threads.unwrap_or(u32::MAX).min(THREADS_PER_BLOCK));
    let most_shared = u64::from(current_sm().shared_opt_in());
    if blocks == 0 || threads == 0 || threads > most_threads {
        return bad(format!("{blocks} blocks of {threads} threads; a block has 1 to {most_threads}"));
    } else if shared > most_shared {
        return bad(format!("{shared} bytes of shared memory; a block has at most {most_shared}"));
    } else if launch.params.len() != kernel.param_bytes {
        return bad(format!("{} bytes of parameters for {}", launch.params.len(), kernel.param_bytes));
    }
    memory.take_sectors();
    let mut cx = Context {
        module: launch.module,
        code,
        scene: Scene { launch, code },
        memory,
        global: Global::default(),
        params: launch.params,
        counters: Counters { launches: 1, ..Counters::default() },
        order: launch.order,
        chains,
        hint: 0,
        progress: 0,
    };
    run(&mut cx, blocks, threads as usize)?;
    let [read, written, either] = cx.memory.take_sectors();
    cx.counters.distinct_sectors_read = read;
    cx.counters.distinct_sectors_written = written;
    cx.counters.distinct_sectors = either;
    Ok((cx.counters, cx.chains))
}

/// Runs all blocks. More of them become resident when one waits, up to what the device holds.
fn run(cx: &mut Context, blocks: u64, threads: usize) -> Result<(), Fault> {
    let Scene { launch, code } = cx.scene;
    let most = launch.resident.max(1);
    let at_first = if launch.order == Order::Interleaved { INTERLEAVED.min(blocks as usize).min(most) } else { 1 };
    let mut slots: Vec<Slot> = (0..at_first).map(|_| Slot::new(code, threads)).collect();
    let mut to_come = 0..blocks;
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    loop {
        for slot in slots.iter_mut().filter(|slot| slot.running == 0) {
            let Some(block) = to_come.next() else { break };
            slot.start(cx, if launch.order == Order::Reverse { blocks - 1 - block } else { block });
        }
        if slots.iter().all(|slot| slot.running == 0) {
            return Ok(());
        }
        // xorshift64
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let first = (random >> 32) as usize % slots.len();
        let chosen = (0..slots.len()).map(|at| (first + at) % slots.len()).find(|&at| slots[at].running > 0);
        let Some(chosen) = chosen else { continue };
        if !slots[chosen].turn(cx, random)? {
            continue;
        }
        // It may wait for a block that has not begun.
        if to_come.start < to_come.end && slots.len() < most {
            slots.push(Slot::new(code, threads));
        } else if slots[chosen].waits(cx.progress) && slots.iter().all(|slot| slot.waits(cx.progress)) {
            let resident = slots.iter().filter(|slot| slot.running > 0).count();
            let to_come = to_come.end - to_come.start;
            let fault = Fault::BlockDeadlock { resident, to_come, site: Site::default() };
            return Err(fault.at(slots[chosen].place(cx.scene)));
        }
    }
}
