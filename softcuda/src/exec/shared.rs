//! Shared memory of a block: checked bytes, bank conflicts, and races found with vector clocks over the warps.
use crate::exec::code::DYNAMIC_SHARED;
use crate::fault::{Access, Fault, Site};

/// The clocks of all warps as far as one of them knows. Its own grows at every sync.
pub(crate) type Clocks = [u32; 32];

/// Who accesses, and what is ordered before it.
#[derive(Clone, Copy)]
pub(crate) struct Actor<'a> {
    pub(crate) warp: usize,
    pub(crate) lane: usize,
    pub(crate) clocks: &'a Clocks,
    /// Changes from instruction to instruction.
    pub(crate) step: u16,
    pub(crate) atomic: bool,
}

/// An earlier access to a byte.
#[derive(Clone, Copy, Default)]
struct Entry {
    clock: u32,
    step: u16,
    warp: u8,
    /// `ATOMIC` or `SEVERAL` may be added.
    lane: u8,
}

const ATOMIC: u8 = 0x80;
/// More than one lane of the warp; the one named is the last.
const SEVERAL: u8 = 0x40;
const LANE: u8 = 0x1f;

/// The last write of a byte, and the last reads by two different warps.
#[derive(Clone, Copy, Default)]
struct Record {
    write: Entry,
    reads: [Entry; 2],
}

impl Entry {
    fn of(actor: &Actor) -> Self {
        Self {
            clock: actor.clocks[actor.warp],
            step: actor.step,
            warp: actor.warp as u8,
            lane: actor.lane as u8 | if actor.atomic { ATOMIC } else { 0 },
        }
    }

    fn thread(self) -> u32 {
        u32::from(self.warp) * 32 + u32::from(self.lane & LANE)
    }

    /// Whether nothing orders this access before the actor's.
    fn races_with(self, actor: &Actor) -> bool {
        let known = actor.clocks[self.warp as usize];
        let ordered = if usize::from(self.warp) == actor.warp {
            self.clock < known || self.lane & SEVERAL == 0 && usize::from(self.lane & LANE) == actor.lane
        } else {
            self.clock <= known
        };
        !(ordered || actor.atomic && self.lane & ATOMIC != 0)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Outside,
    Fresh,
    Written,
}

/// Bytes that know whether they belong to a variable and whether they were written.
pub(crate) struct Region {
    bytes: Vec<u8>,
    state: Vec<State>,
    what: &'static str,
}

impl Region {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { bytes: Vec::new(), state: Vec::new(), what }
    }

    /// Fresh bytes at the given places (start and size).
    pub(crate) fn reset(&mut self, places: impl Iterator<Item = (u32, u32)>, size: usize) {
        self.bytes.resize(size, 0);
        self.state.clear();
        self.state.resize(size, State::Outside);
        for (start, bytes) in places {
            self.state[start as usize..(start + bytes) as usize].fill(State::Fresh);
        }
    }

    fn check(&self, at: u64, bytes: u64, access: Access) -> Result<usize, Fault> {
        let range = at as usize..at.saturating_add(bytes) as usize;
        let near = || format!("in {} memory", self.what);
        let states = self.state.get(range).unwrap_or(&[State::Outside]);
        if states.contains(&State::Outside) {
            return Err(Fault::out_of_bounds(at, bytes, access, near()));
        }
        if access == Access::Read && states.contains(&State::Fresh) {
            return Err(Fault::UninitialisedRead { address: at, bytes, near: near(), site: Site::default() });
        }
        Ok(at as usize)
    }

    pub(crate) fn load(&self, at: u64, bytes: u64) -> Result<&[u8], Fault> {
        let at = self.check(at, bytes, Access::Read)?;
        Ok(&self.bytes[at..at + bytes as usize])
    }

    pub(crate) fn store(&mut self, at: u64, bytes: &[u8]) -> Result<(), Fault> {
        let at = self.check(at, bytes.len() as u64, Access::Write)?;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.state[at..at + bytes.len()].fill(State::Written);
        Ok(())
    }
}

/// The shared memory of one resident block.
pub(crate) struct Shared {
    region: Region,
    records: Vec<Record>,
    dynamic: u64,
}

impl Shared {
    /// `variables` are the static ones, `dynamic` the bytes asked for at launch.
    pub(crate) fn new() -> Self {
        Self { region: Region::new("shared"), records: Vec::new(), dynamic: 0 }
    }

    /// Fresh memory for the next block. Old records stay: the clocks of a slot go on, so all is ordered.
    pub(crate) fn reset(&mut self, variables: &[(u32, u32)], dynamic: u32) {
        let end = variables.iter().map(|(start, size)| start + size).max().unwrap_or(0);
        let start = end.next_multiple_of(128) + 128;
        self.dynamic = start.into();
        let size = (start + dynamic) as usize;
        self.region.reset(variables.iter().copied().chain([(start, dynamic)]), size);
        self.records.resize(size, Record::default());
    }

    fn place(&self, address: u64) -> u64 {
        if address >= DYNAMIC_SHARED { address - DYNAMIC_SHARED + self.dynamic } else { address }
    }

    pub(crate) fn load(&mut self, address: u64, bytes: u64, actor: &Actor) -> Result<&[u8], Fault> {
        let at = self.place(address);
        self.region.check(at, bytes, Access::Read)?;
        for record in &mut self.records[at as usize..(at + bytes) as usize] {
            if record.write.races_with(actor) {
                return Err(race(address, Access::Read, Access::Write, record.write));
            }
            let [last, other] = &mut record.reads;
            if usize::from(last.warp) != actor.warp {
                *other = *last;
            }
            let mut entry = Entry::of(actor);
            if last.warp == entry.warp && last.clock == entry.clock && last.lane & LANE != entry.lane & LANE {
                entry.lane |= SEVERAL;
            }
            *last = entry;
        }
        self.region.load(at, bytes)
    }

    pub(crate) fn store(&mut self, address: u64, bytes: &[u8], actor: &Actor) -> Result<(), Fault> {
        let at = self.place(address);
        let start = self.region.check(at, bytes.len() as u64, Access::Write)?;
        let range = start..start + bytes.len();
        for ((record, old), new) in self.records[range.clone()].iter_mut().zip(&self.region.bytes[range]).zip(bytes) {
            // Lanes of one instruction may write the same value.
            let together =
                usize::from(record.write.warp) == actor.warp && record.write.step == actor.step && old == new;
            if !together && record.write.races_with(actor) {
                return Err(race(address, Access::Write, Access::Write, record.write));
            }
            if let Some(read) = record.reads.into_iter().find(|read| read.races_with(actor)) {
                return Err(race(address, Access::Write, Access::Read, read));
            }
            record.write = Entry::of(actor);
        }
        self.region.store(at, bytes)
    }

    /// Whether `bytes` at `address` lie in a variable.
    pub(crate) fn check(&self, address: u64, bytes: u64) -> Result<(), Fault> {
        self.region.check(self.place(address), bytes, Access::Write).map(drop)
    }
}

fn race(address: u64, access: Access, other: Access, entry: Entry) -> Fault {
    Fault::SharedRace { address, access, other, thread: entry.thread(), site: Site::default() }
}

/// Passes that a warp's access takes: the most distinct words in a bank. Accesses of 8 and 16 bytes go by half and
/// quarter warps.
pub(crate) fn wavefronts(addresses: &[(usize, u64)], bytes: u64) -> u64 {
    let words = bytes.div_ceil(4);
    let lanes_together = 32 / words.clamp(1, 4) as usize;
    let mut total = 0;
    let mut at = 0;
    while at < addresses.len() {
        let pass = addresses[at].0 / lanes_together;
        let mut held = [u64::MAX; 32];
        let mut conflicts: Vec<u64> = Vec::new();
        while at < addresses.len() && addresses[at].0 / lanes_together == pass {
            for word in (0..words).map(|word| addresses[at].1 / 4 + word) {
                let bank = &mut held[(word % 32) as usize];
                if *bank == u64::MAX {
                    *bank = word;
                } else if *bank != word {
                    conflicts.push(word);
                }
            }
            at += 1;
        }
        conflicts.sort_unstable();
        conflicts.dedup();
        let mut in_bank = [1; 32];
        conflicts.iter().for_each(|word| in_bank[(word % 32) as usize] += 1);
        total += in_bank.into_iter().max().unwrap_or(1);
    }
    total
}
