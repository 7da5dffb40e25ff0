//! The longest chain of dependent operations of a launch, in cycles by the latencies of
//! [`device`](crate::device), and the round trips to global memory on it.
//!
//! What a launch of few rows waits for. It says nothing of throughput: every operation has a unit
//! of its own, and all blocks of a device begin at once.
//!
//! ```text
//! an operation begins when
//!     its operands are there: registers, and for a load what its thread stored before
//!     its basic block has begun
//!     for a release: its block's stores, as far as barriers tell of them, have arrived
//! an atomic is done half-way, behind the one before it at its place, in any block
//! a basic block begins when all operations of the one before have begun
//!     within it a compiler orders them as it likes, over its borders it does not
//!     a barrier's when all warps' have; behind an acquire when it has ended
//! ```
//!
//! Registers are looked at a warp at a time: parts of a warp that have diverged wait for each
//! other. A sector that the launch has not touched comes from DRAM, any other from L2.

use std::collections::{BTreeMap, HashMap};

use crate::code::operands::Registers;
use crate::code::operation::{Code, Instruction, Op, Scope, Semantics, Space};
use crate::device::latency;

/// How far something is from the launch's start, along the longest chain of what it depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reach {
    /// Latencies along it.
    pub cycles: u64,
    /// Those of them that are global memory's.
    pub global: u64,
    /// Global loads and atomics along it, and stores that are waited for.
    pub trips: u64,
}

impl Reach {
    fn after(self, cycles: u64) -> Self {
        Self { cycles: self.cycles + cycles, ..self }
    }

    fn round_trip(self, cycles: u64) -> Self {
        Self { trips: self.trips + 1, ..self.on_the_way(cycles) }
    }

    /// A part of a round trip.
    fn on_the_way(self, cycles: u64) -> Self {
        Self { cycles: self.cycles + cycles, global: self.global + cycles, ..self }
    }
}

/// The chains of one launch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// To its end.
    pub end: Reach,
    /// To where the last store of each allocation begins, by the allocation's address.
    pub stores: BTreeMap<u64, Reach>,
    /// Whether a warp asks again and again for what others write: how often depends on the order of
    /// execution, and so do the chains.
    pub spins: bool,
}

/// What the warps of a launch share.
#[derive(Debug, Default)]
pub(crate) struct Chains {
    pub(crate) of_launch: Chain,
    /// When the last atomic or strong store at a place was done there.
    arrived: HashMap<u64, Reach>,
}

/// What a memory instruction of a warp came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moved {
    /// The launch had not touched one of its sectors.
    pub(super) fresh: bool,
    /// The last lane's address, and that of its allocation.
    pub(super) address: u64,
    pub(super) allocation: u64,
}

/// What one warp's operations depend on.
#[derive(Debug)]
pub(super) struct WarpChain {
    rows: Vec<Reach>,
    preds: Vec<Reach>,
    /// Of the basic block that runs.
    begin: Reach,
    /// The last beginning of an operation of it.
    begun: Reach,
    /// The last beginning of a store, to global and to shared memory.
    stored: [Reach; 2],
    /// When all copies to shared memory have arrived.
    copied: Reach,
    /// When all global stores have arrived, those of warps met at barriers too.
    arrived: Reach,
}

/// What comes to a barrier.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Met {
    begun: Reach,
    arrived: Reach,
}

/// The latest of some registers.
struct Latest<'a> {
    chain: &'a WarpChain,
    reach: Reach,
}

impl Registers for Latest<'_> {
    fn row(&mut self, row: u32) {
        self.reach = self.reach.max(self.chain.rows[row as usize]);
    }

    fn pred(&mut self, pred: u32) {
        self.reach = self.reach.max(self.chain.preds[pred as usize]);
    }
}

/// Gives registers a reach; the later of both where `partly` written.
struct Reached<'a> {
    chain: &'a mut WarpChain,
    reach: Reach,
    partly: bool,
}

impl Reached<'_> {
    fn over(&self, old: Reach) -> Reach {
        if self.partly { old.max(self.reach) } else { self.reach }
    }
}

impl Registers for Reached<'_> {
    fn row(&mut self, row: u32) {
        self.chain.rows[row as usize] = self.over(self.chain.rows[row as usize]);
    }

    fn pred(&mut self, pred: u32) {
        self.chain.preds[pred as usize] = self.over(self.chain.preds[pred as usize]);
    }
}

impl WarpChain {
    /// Of a block that begins then.
    pub(super) fn new(code: &Code, begin: Reach) -> Self {
        Self {
            rows: vec![begin; code.rows],
            preds: vec![begin; code.preds],
            begin,
            begun: begin,
            stored: [begin; 2],
            copied: begin,
            arrived: begin,
        }
    }

    /// When an instruction's operands and its basic block are there.
    fn ready(&self, instruction: &Instruction) -> Reach {
        let mut latest = Latest { chain: self, reach: self.begin };
        instruction.sources(&mut latest);
        latest.reach
    }

    /// An instruction that `ran` in some lanes, and in some live ones not where `partly`; behind it
    /// a basic block may end.
    pub(super) fn step(
        &mut self,
        chains: &mut Chains,
        instruction: &Instruction,
        moved: Moved,
        (ran, partly): (bool, bool),
        ends: bool,
    ) {
        let mut ready = self.ready(instruction);
        if ran {
            let reach = match &instruction.op {
                Op::Load(_) | Op::Store(_) | Op::Atomic(_) | Op::Copy(_) => {
                    self.access(chains, instruction, moved, &mut ready)
                }
                Op::Fence { scope: Scope::Device, .. } => {
                    ready = ready.max(self.begun).max(self.arrived);
                    self.begin = ready;
                    ready
                }
                Op::WaitForCopies => {
                    ready = ready.max(self.copied);
                    self.begin = ready;
                    ready
                }
                Op::Shuffle(_) | Op::Vote { .. } => ready.after(latency::SHUFFLE),
                _ => ready.after(instruction.cycles),
            };
            instruction.destinations(&mut Reached { chain: self, reach, partly });
        }
        self.begun = self.begun.max(ready);
        if ends {
            self.begin = self.begin.max(self.begun);
        }
        if matches!(instruction.op, Op::Exit) {
            let end = self.begin.max(self.begun).max(self.arrived);
            chains.of_launch.end = chains.of_launch.end.max(end);
        }
    }

    /// What a memory instruction gives, and when; `ready` becomes when it begins.
    fn access(&mut self, chains: &mut Chains, instruction: &Instruction, moved: Moved, ready: &mut Reach) -> Reach {
        let (space, semantics) = match &instruction.op {
            Op::Load(access) | Op::Store(access) => (access.at.space, access.semantics),
            Op::Atomic(atomic) => (atomic.at.space, atomic.semantics),
            Op::Copy(copy) => (copy.from.space, Semantics::default()),
            _ => return *ready,
        };
        let (loads, stores) =
            (!matches!(instruction.op, Op::Store(_)), !matches!(instruction.op, Op::Load(_) | Op::Copy(_)));
        let stored = match space {
            Space::Param => return ready.after(latency::ARITHMETIC),
            Space::Global => 0,
            Space::Shared => 1,
        };
        if !semantics.read_only {
            *ready = (*ready).max(self.stored[stored]);
        }
        if space == Space::Shared {
            if stores {
                self.stored[stored] = *ready;
            }
            return ready.after(latency::SHARED);
        }
        if semantics.release {
            *ready = (*ready).max(self.begun).max(self.arrived);
        }
        let cycles = if loads && moved.fresh { latency::DRAM } else { latency::L2 };
        let mut reach = ready.round_trip(cycles);
        if semantics.strong {
            // It is done half-way, behind what was done there before.
            let there = ready.on_the_way(cycles - latency::BACK);
            let earlier = chains.arrived.get(&moved.address).copied().unwrap_or_default();
            let done = there.max(earlier);
            reach = done.round_trip(latency::BACK);
            if stores {
                chains.arrived.insert(moved.address, done);
            } else {
                // Only who waits for another asks so.
                chains.of_launch.spins = true;
            }
        }
        if stores {
            self.stored[stored] = *ready;
            self.arrived = self.arrived.max(reach);
            let last = chains.of_launch.stores.entry(moved.allocation).or_default();
            *last = (*last).max(*ready);
        }
        if matches!(instruction.op, Op::Copy(_)) {
            self.copied = self.copied.max(reach.after(latency::SHARED));
        }
        if loads && semantics.acquire {
            self.begin = self.begin.max(reach);
        }
        reach
    }

    /// Comes to a barrier.
    pub(super) fn arrive(&self, instruction: &Instruction, met: &mut Met) {
        met.begun = met.begun.max(self.begun).max(self.ready(instruction));
        met.arrived = met.arrived.max(self.arrived);
    }

    /// Goes on behind a barrier.
    pub(super) fn leave(&mut self, instruction: &Instruction, met: &Met) {
        self.begin = met.begun.after(latency::BARRIER);
        self.begun = self.begin;
        self.arrived = met.arrived;
        let reach = self.begin;
        instruction.destinations(&mut Reached { chain: self, reach, partly: false });
    }
}
