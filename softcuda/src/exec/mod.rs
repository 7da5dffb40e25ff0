//! Runs kernels: blocks in an order of choice, warps between barriers, everything checked and counted.
use std::collections::HashMap;
use std::ops::Range;
use std::sync::OnceLock;

mod access;
pub(crate) mod arith;
mod block;
mod clock;
pub(crate) mod code;
pub(crate) mod float;
mod global;
mod order;
mod races;
mod shared;
mod warp;

use crate::counters::Counters;
use crate::device::{THREADS_PER_BLOCK, current_sm};
use crate::fault::{Fault, Site};
use crate::memory::Memory;
use crate::ptx::{Module, decode};
use block::Slot;
use code::{Code, Op};
use global::Global;
use races::Scene;
use warp::Context;

/// The order in which blocks and warps run. A kernel's results must not depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Block by block and warp by warp, each as far as it can go.
    #[default]
    Forward,
    /// The same from the last to the first.
    Reverse,
    /// Several blocks at a time; every few instructions a fixed pseudo-random sequence picks another warp.
    Interleaved,
}

/// A module whose variables have their addresses.
#[derive(Debug)]
pub struct LoadedModule {
    module: Module,
    globals: HashMap<String, (u64, u64)>,
    code: HashMap<String, OnceLock<Result<Code, Fault>>>,
}

impl LoadedModule {
    /// Allocates and initialises the module's variables.
    pub fn load(module: Module, memory: &mut Memory) -> Result<Self, Fault> {
        let mut globals = HashMap::new();
        for global in &module.globals {
            let address = memory.alloc(global.size.max(1) as u64)?;
            globals.insert(global.name.clone(), (address, global.size as u64));
        }
        for global in &module.globals {
            let mut content = global.init.clone();
            for (at, name, distance) in &global.addresses {
                let address =
                    globals.get(name).ok_or_else(|| Fault::BadModule { text: format!("no variable {name}") })?;
                content[*at..at + 8].copy_from_slice(&address.0.wrapping_add_signed(*distance).to_le_bytes());
            }
            memory.write(globals[&global.name].0, &content)?;
        }
        let code = module.kernels().iter().map(|kernel| (kernel.name.clone(), OnceLock::new())).collect();
        Ok(Self { module, globals, code })
    }

    /// The module.
    pub fn module(&self) -> &Module {
        &self.module
    }

    /// Address and size of a variable.
    pub fn global(&self, name: &str) -> Option<(u64, u64)> {
        self.globals.get(name).copied()
    }

    /// Frees the module's variables.
    pub fn unload(&self, memory: &mut Memory) -> Result<(), Fault> {
        self.globals.values().try_for_each(|&(address, _)| memory.free(address))
    }

    /// The instructions of a kernel that a launch would stop at, if it came to them.
    pub fn unsupported(&self, kernel: &str) -> Result<Vec<String>, Fault> {
        let unknown = self.code(kernel)?.instructions.iter().filter(|found| matches!(found.op, Op::Unsupported));
        Ok(unknown.map(|found| self.text(&found.text)).collect())
    }

    fn code(&self, kernel: &str) -> Result<&Code, Fault> {
        let missing = || Fault::BadLaunch { text: format!("no kernel {kernel}") };
        let decoded = self.code.get(kernel).ok_or_else(missing)?.get_or_init(|| {
            let addresses = self.globals.iter().map(|(name, place)| (name.clone(), place.0)).collect();
            let index = self.module.kernels().iter().position(|found| found.name == kernel).ok_or_else(missing)?;
            decode::decode(&self.module, index, &addresses)
        });
        decoded.as_ref().map_err(Clone::clone)
    }

    /// An instruction's text on one line.
    fn text(&self, span: &Range<usize>) -> String {
        self.module.text(span).split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// One launch of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The module that holds the kernel.
    pub module: &'a LoadedModule,
    /// The kernel's name.
    pub kernel: &'a str,
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// The parameters, laid out as [`crate::ptx::Kernel::params`] says.
    pub params: &'a [u8],
    /// The order of execution.
    pub order: Order,
    /// Blocks that the device holds at a time.
    pub resident: usize,
    /// Whether races in global memory are faults.
    pub races: bool,
}

/// Blocks that the interleaved order keeps running at a time.
const INTERLEAVED: usize = 4;
/// Instructions a warp may run before another one gets its turn, so that a warp may spin on what another one writes.
const TURN: u32 = 1 << 20;

/// Runs a kernel to its end.
pub fn launch(memory: &mut Memory, launch: &Launch) -> Result<Counters, Fault> {
    let bad = |text: String| Err(Fault::BadLaunch { text: format!("{}: {text}", launch.kernel) });
    let code = launch.module.code(launch.kernel)?;
    let Some(kernel) = launch.module.module.kernel(launch.kernel) else { return bad("no such kernel".to_owned()) };
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
        hint: 0,
        progress: 0,
    };
    run(&mut cx, blocks, threads as usize)?;
    let [read, written, either] = cx.memory.take_sectors();
    cx.counters.distinct_sectors_read = read;
    cx.counters.distinct_sectors_written = written;
    cx.counters.distinct_sectors = either;
    Ok(cx.counters)
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

/// A number in a box of those sizes as CUDA counts: x first.
fn coordinates(sizes: [u32; 3], number: u64) -> [u32; 3] {
    let [x, y, _] = sizes.map(u64::from);
    [number % x, number / x % y, number / (x * y)].map(|index| index as u32)
}
