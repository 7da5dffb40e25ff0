//! Runs kernels: blocks in an order of choice, warps between barriers, everything checked and counted.
use std::collections::HashMap;
use std::ops::Range;
use std::sync::OnceLock;

mod access;
pub(crate) mod arith;
pub(crate) mod code;
pub(crate) mod float;
mod shared;
mod warp;

use crate::counters::Counters;
use crate::fault::{Fault, Place, Site};
use crate::memory::Memory;
use crate::ptx::{Module, decode};
use code::{Code, Op, Surroundings};
use shared::Shared;
use warp::{Context, Pause, Warp};

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
}

const MOST_THREADS: u64 = 1024;
/// Shared memory that a block may opt in to on sm_90.
const MOST_SHARED: u64 = 227 * 1024;
/// Blocks that the interleaved order keeps running at a time.
const RESIDENT: u64 = 4;
/// Blocks that run at a time at most, where they wait for one another: two for each multiprocessor of an H100, as many
/// as it holds of the largest.
const MOST_RESIDENT: usize = 264;
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
    let most_threads = kernel.max_threads.map_or(MOST_THREADS, u64::from).min(MOST_THREADS);
    if blocks == 0 || threads == 0 || threads > most_threads {
        return bad(format!("{blocks} blocks of {threads} threads; a block has 1 to {most_threads}"));
    } else if shared > MOST_SHARED {
        return bad(format!("{shared} bytes of shared memory; a block has at most {MOST_SHARED}"));
    } else if launch.params.len() != kernel.param_bytes {
        return bad(format!("{} bytes of parameters for {}", launch.params.len(), kernel.param_bytes));
    }
    memory.take_sectors();
    let mut cx = Context {
        module: launch.module,
        code,
        memory,
        params: launch.params,
        counters: Counters { launches: 1, ..Counters::default() },
        order: launch.order,
        hint: 0,
    };
    let resident = if launch.order == Order::Interleaved { RESIDENT.min(blocks) } else { 1 };
    let mut slots: Vec<Slot> = (0..resident).map(|_| Slot::new(code, threads as usize)).collect();
    let mut to_come = 0..blocks;
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    loop {
        for slot in slots.iter_mut().filter(|slot| slot.running == 0) {
            let Some(block) = to_come.next() else { break };
            slot.start(launch, code, if launch.order == Order::Reverse { blocks - 1 - block } else { block });
        }
        if slots.iter().all(|slot| slot.running == 0) {
            break;
        }
        // xorshift64
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let first = (random >> 32) as usize % slots.len();
        let chosen = (0..slots.len()).map(|at| (first + at) % slots.len()).find(|&at| slots[at].running > 0);
        if let Some(slot) = chosen
            && slots[slot].turn(&mut cx, launch, random)?
            && to_come.start < to_come.end
            && slots.len() < MOST_RESIDENT
        {
            // It may wait for a block that has not begun.
            slots.push(Slot::new(code, threads as usize));
        }
    }
    let [read, written, either] = cx.memory.take_sectors();
    cx.counters.distinct_sectors_read = read;
    cx.counters.distinct_sectors_written = written;
    cx.counters.distinct_sectors = either;
    Ok(cx.counters)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    AtBarrier(usize),
    Done,
}

/// A barrier that some warps have reached.
#[derive(Clone, Copy, Default)]
struct Arrivals {
    warps: u32,
    /// What the arrived warps know; who passes knows it too.
    clocks: shared::Clocks,
    members: u32,
    held: u32,
    all: bool,
    /// Warps to wait for, where the barrier says so.
    expected: Option<u32>,
}

/// A resident block.
struct Slot {
    block: [u32; 3],
    warps: Vec<Warp>,
    states: Vec<State>,
    running: usize,
    next: usize,
    barriers: [Arrivals; 16],
    shared: Shared,
    base_clock: u32,
}

impl Slot {
    fn new(code: &Code, threads: usize) -> Self {
        let warps: Vec<Warp> = (0..threads.div_ceil(32)).map(|index| Warp::new(code, index)).collect();
        Self {
            block: [0; 3],
            states: vec![State::Done; warps.len()],
            warps,
            running: 0,
            next: 0,
            barriers: [Arrivals::default(); 16],
            shared: Shared::new(),
            base_clock: 0,
        }
    }

    fn start(&mut self, launch: &Launch, code: &Code, block: u64) {
        let [x, y, _] = launch.grid.map(u64::from);
        self.block = [block % x, block / x % y, block / (x * y)].map(|index| index as u32);
        self.shared.reset(&code.shared, launch.dynamic_shared);
        self.states.fill(State::Ready);
        self.running = self.warps.len();
        self.next = 0;
        self.barriers = [Arrivals::default(); 16];
        let clocks = self.warps.iter().map(|warp| warp.clocks[warp.index]);
        self.base_clock = clocks.max().unwrap_or(0).max(self.base_clock);
        let threads = launch.block.iter().product::<u32>();
        for index in 0..self.warps.len() {
            let around = self.surroundings(launch, index);
            self.warps[index].start(code, (threads - index as u32 * 32).min(32), self.base_clock, &around);
        }
    }

    fn surroundings(&self, launch: &Launch, warp: usize) -> Surroundings {
        let static_shared = launch.module.module.kernel(launch.kernel).map_or(0, |kernel| kernel.static_shared_bytes);
        Surroundings {
            block: launch.block,
            grid: launch.grid,
            ctaid: self.block,
            warp: warp as u32,
            static_shared: static_shared as u32,
            dynamic_shared: launch.dynamic_shared,
        }
    }

    /// Lets one warp run. Tells whether it went to sleep.
    fn turn(&mut self, cx: &mut Context, launch: &Launch, random: u64) -> Result<bool, Fault> {
        let count = self.warps.len();
        let (first, budget) = match cx.order {
            Order::Interleaved => (random as u32 as usize % count, 1 + (random >> 60) as u32 / 2),
            _ => (self.next, TURN),
        };
        let visit = (0..count).map(|at| match cx.order {
            Order::Reverse => count - 1 - (first + at) % count,
            _ => (first + at) % count,
        });
        let Some(index) = visit.into_iter().find(|&warp| self.states[warp] == State::Ready) else {
            let waiting = self.states.iter().filter(|state| matches!(state, State::AtBarrier(_))).count();
            let at = self.states.iter().position(|state| matches!(state, State::AtBarrier(_))).unwrap_or(0);
            let fault = Fault::Deadlock { waiting, block: self.block, site: Site::default() };
            return Err(fault.at(self.locate(launch, at)));
        };
        let outcome = self.warps[index].run(cx, &mut self.shared, budget);
        let outcome = outcome.and_then(|pause| match pause {
            Pause::Budget => {
                self.next += 1;
                Ok(false)
            }
            Pause::Yield => {
                self.next += 1;
                Ok(true)
            }
            Pause::Barrier => self.arrive(cx.code, index).map(|()| false),
            Pause::Done => {
                self.states[index] = State::Done;
                self.running -= 1;
                // Who has ended is not waited for.
                (0..self.barriers.len()).try_for_each(|id| self.complete(cx.code, id)).map(|()| false)
            }
        });
        outcome.map_err(|fault| fault.at(self.locate(launch, index)))
    }

    /// A warp is at a barrier instruction.
    fn arrive(&mut self, code: &Code, index: usize) -> Result<(), Fault> {
        let warp = &mut self.warps[index];
        let Op::Barrier(barrier) = &code.instructions[warp.at()].op else { return Ok(()) };
        let id = warp.uniform(barrier.id, code)? as usize;
        let expected = match barrier.threads {
            Some(row) => Some(warp.uniform(row, code)?.div_ceil(32)),
            None => None,
        };
        let Some(arrivals) = self.barriers.get_mut(id) else {
            return Err(Fault::Unsupported { text: format!("barrier {id}"), site: Site::default() });
        };
        if arrivals.warps == 0 {
            *arrivals = Arrivals { all: true, expected, ..Arrivals::default() };
        } else if arrivals.expected != expected {
            return Err(Fault::divergent(0));
        }
        arrivals.warps += 1;
        for (known, of_warp) in arrivals.clocks.iter_mut().zip(&warp.clocks) {
            *known = (*known).max(*of_warp);
        }
        if let Some((_, pred, _)) = barrier.vote {
            let (members, held) = warp.votes(pred)?;
            arrivals.members += members.count_ones();
            arrivals.held += held.count_ones();
            arrivals.all &= members == held;
        }
        // What this warp does from here on is not known to those who pass.
        warp.clocks[index] += 1;
        if barrier.waits {
            self.states[index] = State::AtBarrier(id);
        } else {
            warp.leave_barrier(None);
        }
        self.complete(code, id)
    }

    /// Lets the warps at a barrier go on if all have come.
    fn complete(&mut self, code: &Code, id: usize) -> Result<(), Fault> {
        let arrivals = self.barriers[id];
        if arrivals.warps == 0 || arrivals.warps < arrivals.expected.unwrap_or(self.running as u32) {
            return Ok(());
        }
        self.barriers[id] = Arrivals::default();
        for (index, warp) in self.warps.iter_mut().enumerate() {
            if self.states[index] != State::AtBarrier(id) {
                continue;
            }
            self.states[index] = State::Ready;
            let own = warp.clocks[index];
            for (known, arrived) in warp.clocks.iter_mut().zip(&arrivals.clocks) {
                *known = (*known).max(*arrived);
            }
            warp.clocks[index] = own;
            let Op::Barrier(barrier) = &code.instructions[warp.at()].op else { continue };
            let outcome = barrier.vote.map(|(reduction, _, outcome)| (outcome, reduction));
            warp.leave_barrier(outcome.map(|(outcome, reduction)| (outcome, arrivals.outcome(reduction))));
        }
        Ok(())
    }

    /// Where a warp is, for a fault's message.
    fn locate(&self, launch: &Launch, index: usize) -> Place {
        let warp = &self.warps[index];
        let module = launch.module;
        let text = module.code(launch.kernel).ok().and_then(|code| code.instructions.get(warp.at()));
        let span = text.map_or(0..0, |instruction| instruction.text.clone());
        Place {
            kernel: launch.kernel.to_owned(),
            line: module.module.line(span.start),
            text: module.text(&span),
            block: self.block,
            thread: self.surroundings(launch, index).tid(warp.lane as u32),
        }
    }
}

impl Arrivals {
    fn outcome(&self, reduction: code::Reduction) -> u64 {
        match reduction {
            code::Reduction::All => u64::from(self.all),
            code::Reduction::Any => u64::from(self.held != 0),
            code::Reduction::Uniform => u64::from(self.held == 0 || self.all),
            code::Reduction::Count => self.held.into(),
        }
    }
}
