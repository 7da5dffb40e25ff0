//! What can go wrong, said so that it can be found: kernel, PTX line, block, thread, address,
//! allocation.
use std::fmt;

/// Where a kernel went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The kernel's name.
    pub kernel: String,
    /// The line of the PTX text, from 1.
    pub line: u32,
    /// The instruction's text.
    pub text: String,
    /// `%ctaid`.
    pub block: [u32; 3],
    /// `%tid`.
    pub thread: [u32; 3],
}

/// A [`Place`], or nothing where the host made the access.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site(pub Option<Box<Place>>);

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(place) = &self.0 else { return Ok(()) };
        let Place { kernel, line, text, block, thread } = &**place;
        write!(f, "; kernel {kernel}, line {line} `{text}`, block {block:?}, thread {thread:?}")
    }
}

/// Whether bytes were read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A load, the read half of an atomic, or a copy to the host.
    Read,
    /// A store or a copy from the host.
    Write,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Access::Read { "read" } else { "write" })
    }
}

/// A fault of a kernel or of a caller. `near` says which allocation an address belongs to or just
/// misses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages below name every field
pub enum Fault {
    #[error("out of bounds: {access} of {bytes} bytes at {address:#x}, {near}{site}")]
    OutOfBounds { address: u64, bytes: u64, access: Access, near: String, site: Site },
    #[error("misaligned: address {address:#x} of an access of {bytes} bytes{site}")]
    Misaligned { address: u64, bytes: u64, site: Site },
    #[error("uninitialised read: {bytes} bytes at {address:#x}, {near}{site}")]
    UninitialisedRead { address: u64, bytes: u64, near: String, site: Site },
    #[error("uninitialised register: {register}{site}")]
    UninitialisedRegister { register: String, site: Site },
    #[error("use after free: {access} of {bytes} bytes at {address:#x}, {near}{site}")]
    UseAfterFree { address: u64, bytes: u64, access: Access, near: String, site: Site },
    #[error(
        "use before allocation: {access} of {bytes} bytes at {address:#x}, {near}{site}; no launch of its graph came so far"
    )]
    UseBeforeAllocation { address: u64, bytes: u64, access: Access, near: String, site: Site },
    #[error(
        "unordered use: {access} of {bytes} bytes at {address:#x}, {near}{site}; nothing orders it after the graph's allocation and before its free"
    )]
    UnorderedUse { address: u64, bytes: u64, access: Access, near: String, site: Site },
    #[error("shared-memory race: {access} at shared address {address:#x}{site}; not ordered after a {other}{earlier}")]
    SharedRace { address: u64, access: Access, other: Access, earlier: Site, site: Site },
    #[error("global-memory race: {access} at {address:#x}, {near}{site}; not ordered after a {other}{earlier}")]
    GlobalRace { address: u64, access: Access, other: Access, near: String, earlier: Site, site: Site },
    #[error(
        "not read-only: {access} at {address:#x}, {near}{site}; what ld.global.nc reads no other thread may write while the kernel runs, and there was a {other}{earlier}"
    )]
    NotReadOnly { address: u64, access: Access, other: Access, near: String, earlier: Site, site: Site },
    #[error("too early: the kernel before may still run, and was not waited for; access at {address:#x}{site}")]
    TooEarly { address: u64, site: Site },
    #[error("divergent sync: lanes {missing:#010x} do not take part{site}")]
    DivergentSync { missing: u32, site: Site },
    #[error("shuffle reads lane {lane}, which does not take part{site}")]
    ShuffleSource { lane: u32, site: Site },
    #[error("deadlock: {waiting} warps of block {block:?} wait at a barrier that the others never reach{site}")]
    Deadlock { waiting: usize, block: [u32; 3], site: Site },
    #[error(
        "deadlock between blocks: all {resident} resident blocks wait for memory that none of them writes, and {to_come} blocks have not begun{site}"
    )]
    BlockDeadlock { resident: usize, to_come: u64, site: Site },
    #[error("endless: a warp ran {instructions} instructions{site}")]
    Endless { instructions: u64, site: Site },
    #[error("trap{site}")]
    Trap { site: Site },
    #[error("unsupported instruction: {text}{site}")]
    Unsupported { text: String, site: Site },
    #[error("bad launch: {text}")]
    BadLaunch { text: String },
    #[error("bad module: {text}")]
    BadModule { text: String },
    #[error("out of memory: {wanted} bytes wanted, {free} free")]
    OutOfMemory { wanted: u64, free: u64 },
    #[error("free of {address:#x}, which is not the start of a live allocation")]
    InvalidFree { address: u64 },
    #[error("unordered free of {address:#x}: nothing orders it after the graph's allocation")]
    UnorderedFree { address: u64 },
    #[error("allocated twice: the {bytes} bytes at {address:#x}, which a graph allocates, are not free yet")]
    StillAllocated { address: u64, bytes: u64 },
}

impl Fault {
    pub(crate) fn bad_module(text: impl Into<String>) -> Self {
        Fault::BadModule { text: text.into() }
    }

    pub(crate) fn divergent(missing: u32) -> Self {
        Fault::DivergentSync { missing, site: Site::default() }
    }

    pub(crate) fn out_of_bounds(address: u64, bytes: u64, access: Access, near: impl Into<String>) -> Self {
        Fault::OutOfBounds { address, bytes, access, near: near.into(), site: Site::default() }
    }

    /// The same fault with its place filled in, unless it has one.
    pub(crate) fn at(mut self, place: Place) -> Self {
        use Fault::*;
        match &mut self {
            OutOfBounds { site, .. }
            | Misaligned { site, .. }
            | UninitialisedRead { site, .. }
            | UninitialisedRegister { site, .. }
            | UseAfterFree { site, .. }
            | UseBeforeAllocation { site, .. }
            | UnorderedUse { site, .. }
            | SharedRace { site, .. }
            | GlobalRace { site, .. }
            | NotReadOnly { site, .. }
            | TooEarly { site, .. }
            | DivergentSync { site, .. }
            | ShuffleSource { site, .. }
            | Deadlock { site, .. }
            | BlockDeadlock { site, .. }
            | Endless { site, .. }
            | Trap { site }
            | Unsupported { site, .. } => {
                site.0.get_or_insert_with(|| Box::new(place));
            }
            BadLaunch { .. }
            | BadModule { .. }
            | OutOfMemory { .. }
            | InvalidFree { .. }
            | UnorderedFree { .. }
            | StillAllocated { .. } => {}
        }
        self
    }
}
