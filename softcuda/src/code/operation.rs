//! A kernel as the interpreter runs it: operands are rows of a register file, labels are
//! instruction numbers.
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::row::{AtomicFn, CompareFn, WarpFn};
use super::special::Special;
use crate::ptx::Ty;

/// Where dynamic shared memory begins among shared addresses, beyond all static variables.
pub(crate) const DYNAMIC_SHARED: u64 = 1 << 24;
/// The predicate that always holds.
pub(crate) const TRUE: u32 = 0;

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
    Global,
    Shared,
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
#[derive(Debug)]
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

#[derive(Debug)]
pub(crate) struct Atomic {
    pub(crate) at: Address,
    pub(crate) update: AtomicFn,
    pub(crate) ty: Ty,
    /// Where the old value goes; `red` has no such row.
    pub(crate) old: Option<u32>,
    pub(crate) operand: u32,
    pub(crate) semantics: Semantics,
}

/// `cp.async`: bytes on their way from global to shared memory.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) from: Address,
    pub(crate) to: Address,
    pub(crate) bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShuffleMode {
    Down,
    Butterfly,
    Index,
}

#[derive(Debug)]
pub(crate) struct Shuffle {
    pub(crate) mode: ShuffleMode,
    pub(crate) dst: u32,
    pub(crate) in_range: Option<u32>,
    pub(crate) value: u32,
    pub(crate) lane: u32,
    pub(crate) clamp: u32,
    pub(crate) members: u32,
}

/// What a vote of a warp asks, and where the answer goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Vote {
    /// The lanes in which the predicate holds, to a row.
    Ballot(u32),
    /// Whether there is one, to a predicate.
    Any(u32),
}

#[derive(Debug)]
pub(crate) struct Barrier {
    pub(crate) id: u32,
    /// Threads that take part; all of the block where it is left out.
    pub(crate) threads: Option<u32>,
    /// `bar.red.or`: a predicate, and the one that is set where it holds in a thread of the block.
    pub(crate) any: Option<(Pred, u32)>,
}

#[derive(Debug)]
pub(crate) struct Compare {
    pub(crate) run: CompareFn,
    pub(crate) a: u32,
    pub(crate) b: u32,
    /// Which of less, equal, greater and unordered hold, a bit each.
    pub(crate) accept: u8,
    /// Another predicate that must hold as well.
    pub(crate) and: Option<Pred>,
    pub(crate) dst: u32,
}

#[derive(Debug)]
#[rustfmt::skip] // one line a variant
pub(crate) enum Op {
    Lanes { run: WarpFn, dst: u32, src: [u32; 4], arity: u8 },
    /// Moves and selections pass undefined registers on; all else stops at them.
    Move { dst: u32, src: u32, mask: u64 },
    Select { dst: u32, a: u32, b: u32, pred: Pred },
    Pack { dst: u32, parts: Box<[u32]>, bits: u32 },
    Unpack { parts: Box<[Option<u32>]>, src: u32, bits: u32 },
    Compare(Box<Compare>),
    Combine { logic: Logic, dst: u32, a: Pred, b: Pred },
    Branch { target: u32 },
    Exit,
    Trap,
    Load(Box<Transfer>),
    Store(Box<Transfer>),
    Atomic(Box<Atomic>),
    /// Brings a line of memory nearer: what it holds is not looked at.
    Prefetch { at: Address },
    Copy(Box<Copy>),
    /// The thread's copies have arrived.
    WaitForCopies,
    Shuffle(Box<Shuffle>),
    Vote { vote: Vote, pred: Pred, members: u32 },
    WarpBarrier { members: u32 },
    Barrier(Box<Barrier>),
    Fence { scope: Scope, sc: bool },
    /// The kernel before this one has ended, where both may run at the same time.
    WaitForEarlier,
    /// The kernel behind this one may begin.
    LetLaterBegin,
    /// Lets other warps and blocks go on: its warp waits for something in memory.
    Yield,
    Unsupported,
}

#[derive(Debug)]
pub(crate) struct Instruction {
    pub(crate) guard: Option<Pred>,
    pub(crate) op: Op,
    /// Until its result can be used, where it stays within its lane.
    pub(crate) cycles: u64,
    /// Position of the text in the module.
    pub(crate) text: Range<usize>,
    executed: AtomicU64,
}

impl Instruction {
    pub(crate) fn new(guard: Option<Pred>, op: Op, cycles: u64, text: Range<usize>) -> Self {
        Self { guard, op, cycles, text, executed: AtomicU64::new(0) }
    }

    /// Counts an execution by a warp. Kernels run one after another, so nothing is lost between the
    /// two.
    pub(crate) fn count(&self) {
        self.executed.store(self.executed() + 1, Ordering::Relaxed);
    }

    /// How often warps executed it with a lane whose guard predicate held.
    pub(crate) fn executed(&self) -> u64 {
        self.executed.load(Ordering::Relaxed)
    }
}

/// A decoded kernel.
#[derive(Debug, Default)]
pub(crate) struct Code {
    pub(crate) instructions: Vec<Instruction>,
    /// Lanes behind in this order run first; see `rank.rs`.
    pub(crate) rank: Vec<u32>,
    /// Whether a basic block begins with an instruction.
    pub(crate) leads: Vec<bool>,
    pub(crate) rows: usize,
    pub(crate) preds: usize,
    pub(crate) constants: Vec<(u32, u64)>,
    pub(crate) specials: Vec<(u32, Special)>,
    /// Prefix, first row and count of each declared register family.
    pub(crate) names: Vec<(String, u32, u32)>,
    /// Address and size of each shared variable. Between them lie gaps, so that running off one is
    /// seen.
    pub(crate) shared: Vec<(u32, u32)>,
}
