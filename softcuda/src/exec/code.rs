//! A kernel as the interpreter runs it: operands are rows of a register file, labels are instruction numbers.
use std::ops::Range;

use crate::exec::arith::{AtomicFn, CompareFn, WarpFn};
use crate::exec::float::Conversion;
use crate::ptx::opcode::Ty;

/// Addresses in a generic pointer: windows of 4 GiB for what is not in global memory.
pub(crate) const SHARED_WINDOW: u64 = 1 << 40;
pub(crate) const LOCAL_WINDOW: u64 = 2 << 40;
pub(crate) const PARAM_WINDOW: u64 = 3 << 40;
pub(crate) const WINDOW: u64 = 1 << 32;
/// Where dynamic shared memory begins among shared addresses, beyond all static variables.
pub(crate) const DYNAMIC_SHARED: u64 = 1 << 24;

/// A predicate register, negated or not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pred {
    pub(crate) index: u32,
    pub(crate) negate: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Param,
}

/// Whose accesses an access or a fence is ordered against: its block's, or all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Scope {
    #[default]
    Block,
    Device,
}

/// How an access takes part in the memory order. By default it is weak.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Semantics {
    /// Relaxed or more: it does not race with its like, as far as its scope goes.
    pub(crate) strong: bool,
    pub(crate) volatile: bool,
    pub(crate) acquire: bool,
    pub(crate) release: bool,
    pub(crate) atomic: bool,
    /// What it reads must not be written while the kernel runs.
    pub(crate) read_only: bool,
    pub(crate) scope: Scope,
}

/// An address operand: a row plus a distance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub(crate) space: Space,
    pub(crate) base: u32,
    pub(crate) offset: i64,
}

/// A load or store of one or several elements.
#[derive(Clone, Debug)]
pub(crate) struct Transfer {
    pub(crate) at: Address,
    pub(crate) ty: Ty,
    /// One row an element.
    pub(crate) rows: Vec<u32>,
    /// The bits of a destination register, which narrower elements are extended to.
    pub(crate) mask: u64,
    /// A bit for each byte that the program goes on to use (`.pragma "used_bytes_mask"`).
    pub(crate) used: u64,
    pub(crate) semantics: Semantics,
}

#[derive(Clone, Debug)]
pub(crate) struct Atomic {
    pub(crate) at: Address,
    pub(crate) update: AtomicFn,
    pub(crate) ty: Ty,
    /// Where the old value goes; `red` has no such row.
    pub(crate) old: Option<u32>,
    pub(crate) operands: [u32; 2],
    pub(crate) semantics: Semantics,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShuffleMode {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Debug)]
pub(crate) struct Shuffle {
    pub(crate) mode: ShuffleMode,
    pub(crate) dst: u32,
    pub(crate) in_range: Option<u32>,
    pub(crate) value: u32,
    pub(crate) lane: u32,
    pub(crate) clamp: u32,
    pub(crate) members: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduction {
    All,
    Any,
    Uniform,
    Count,
}

/// Where the outcome of a vote goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    Row(u32),
    Pred(u32),
}

#[derive(Clone, Debug)]
pub(crate) struct Barrier {
    pub(crate) id: u32,
    /// Threads that take part; all of the block where it is left out.
    pub(crate) threads: Option<u32>,
    /// `bar.arrive` does not wait.
    pub(crate) waits: bool,
    pub(crate) vote: Option<(Reduction, Pred, Outcome)>,
}

#[derive(Clone, Debug)]
#[rustfmt::skip] // one line a variant
pub(crate) enum Op {
    Lanes { run: WarpFn, dst: u32, src: [u32; 4], arity: u8 },
    Convert { conversion: Box<Conversion>, dst: u32, src: u32 },
    /// Moves and selections pass undefined registers on; all else stops at them.
    Move { dst: u32, src: u32, mask: u64 },
    Select { dst: u32, a: u32, b: u32, pred: Pred },
    Pack { dst: u32, parts: Box<[u32]>, bits: u32 },
    Unpack { parts: Box<[Option<u32>]>, src: u32, bits: u32 },
    Compare(Box<Compare>),
    Test { test: fn(u64) -> bool, dst: u32, src: u32 },
    Combine { logic: Logic, dst: u32, a: Pred, b: Pred },
    Branch { target: u32 },
    Table { targets: Box<[u32]>, index: u32 },
    Exit,
    Trap,
    Load(Box<Transfer>),
    Store(Box<Transfer>),
    Atomic(Box<Atomic>),
    Prefetch(Address),
    CopyAsync { to: Address, from: Address, bytes: u32, taken: Option<u32> },
    CommitCopies,
    /// Waits until at most so many of the newest groups are under way, or for every copy.
    WaitCopies(Option<u32>),
    Shuffle(Box<Shuffle>),
    Vote { reduction: Option<Reduction>, pred: Pred, outcome: Outcome, members: u32 },
    Reduce { update: AtomicFn, dst: u32, src: u32, members: u32 },
    ActiveMask { dst: u32 },
    WarpBarrier { members: u32 },
    Barrier(Box<Barrier>),
    Fence { scope: Scope, sc: bool },
    Nothing,
    /// Lets other warps and blocks go on: its warp waits for something in memory.
    Yield,
    Unsupported,
}

#[derive(Clone, Debug)]
pub(crate) struct Compare {
    pub(crate) run: CompareFn,
    pub(crate) a: u32,
    pub(crate) b: u32,
    /// Which of less, equal, greater and unordered hold, a bit each.
    pub(crate) accept: u8,
    pub(crate) combine: Option<(Logic, Pred)>,
    pub(crate) dst: Option<u32>,
    pub(crate) complement: Option<u32>,
    /// `set` writes a row: these bits where the comparison holds, else 0.
    pub(crate) set: Option<(u32, u64)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    pub(crate) guard: Option<Pred>,
    pub(crate) op: Op,
    /// Position of the text in the module.
    pub(crate) text: Range<usize>,
}

/// What special registers tell.
pub(crate) struct Surroundings {
    pub(crate) block: [u32; 3],
    pub(crate) grid: [u32; 3],
    pub(crate) ctaid: [u32; 3],
    pub(crate) warp: u32,
    pub(crate) static_shared: u32,
    pub(crate) dynamic_shared: u32,
}

impl Surroundings {
    /// `%tid` of a lane.
    pub(crate) fn tid(&self, lane: u32) -> [u32; 3] {
        let ([x, y, _], thread) = (self.block, self.warp * 32 + lane);
        [thread % x, thread / x % y, thread / (x * y)]
    }
}

/// The value of a special register in a lane, known before the kernel runs.
pub(crate) type Special = fn(&Surroundings, u32) -> u32;

/// A decoded kernel.
#[derive(Debug, Default)]
pub(crate) struct Code {
    pub(crate) instructions: Vec<Instruction>,
    /// Lanes behind in this order run first; see `ptx/order.rs`.
    pub(crate) rank: Vec<u32>,
    pub(crate) rows: usize,
    pub(crate) preds: usize,
    pub(crate) constants: Vec<(u32, u64)>,
    pub(crate) specials: Vec<(u32, Special)>,
    /// Prefix, first row and count of each declared register family.
    pub(crate) names: Vec<(String, u32, u32)>,
    /// Address and size of each shared variable. Between them lie gaps, so that running off one is seen.
    pub(crate) shared: Vec<(u32, u32)>,
    /// Bytes of local memory a thread, parameters of calls included.
    pub(crate) local: u32,
}

/// The predicate that always holds.
pub(crate) const TRUE: u32 = 0;
