//! Shared memory of a block: checked bytes, races, and bank conflicts.
use super::order::Locations;
use super::races::{Actor, Conflict, Shadow};
use crate::code::operation::DYNAMIC_SHARED;
use crate::device::{BANKS, WARP};
use crate::fault::{Access, Fault, Site};

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Outside,
    Fresh,
    Written,
}

/// Bytes that know whether they belong to a variable and whether they were written.
#[derive(Default)]
struct Region {
    bytes: Vec<u8>,
    state: Vec<State>,
}

impl Region {
    /// Fresh bytes at the given places (start and size).
    fn reset(&mut self, places: impl Iterator<Item = (u32, u32)>, size: usize) {
        self.bytes.resize(size, 0);
        self.state.clear();
        self.state.resize(size, State::Outside);
        for (start, bytes) in places {
            self.state[start as usize..(start + bytes) as usize].fill(State::Fresh);
        }
    }

    fn check(&self, at: u64, bytes: u64, access: Access) -> Result<usize, Fault> {
        let range = at as usize..at.saturating_add(bytes) as usize;
        let near = || "in shared memory".to_owned();
        let states = self.state.get(range).unwrap_or(&[State::Outside]);
        if states.contains(&State::Outside) {
            return Err(Fault::out_of_bounds(at, bytes, access, near()));
        }
        if access == Access::Read && states.contains(&State::Fresh) {
            return Err(Fault::UninitialisedRead { address: at, bytes, near: near(), site: Site::default() });
        }
        Ok(at as usize)
    }

    fn load(&self, at: u64, bytes: u64) -> Result<&[u8], Fault> {
        let at = self.check(at, bytes, Access::Read)?;
        Ok(&self.bytes[at..at + bytes as usize])
    }

    fn forget(&mut self, at: u64, bytes: u64) -> Result<(), Fault> {
        let at = self.check(at, bytes, Access::Write)?;
        self.state[at..at + bytes as usize].fill(State::Fresh);
        Ok(())
    }

    /// Tells whether it changed anything.
    fn store(&mut self, at: u64, bytes: &[u8]) -> Result<bool, Fault> {
        let at = self.check(at, bytes.len() as u64, Access::Write)?;
        let range = at..at + bytes.len();
        let changed = self.bytes[range.clone()] != *bytes || self.state[range.clone()].contains(&State::Fresh);
        self.bytes[range.clone()].copy_from_slice(bytes);
        self.state[range].fill(State::Written);
        Ok(changed)
    }
}

/// The shared memory of one resident block.
#[derive(Default)]
pub(crate) struct Shared {
    region: Region,
    shadow: Shadow,
    pub(crate) locations: Locations,
    dynamic: u64,
}

impl Shared {
    /// Fresh memory for the next block: `variables` are the static ones, `dynamic` the bytes asked
    /// for at launch.
    pub(crate) fn reset(&mut self, variables: &[(u32, u32)], dynamic: u32) {
        let end = variables.iter().map(|(start, size)| start + size).max().unwrap_or(0);
        let start = end.next_multiple_of(128) + 128;
        self.dynamic = start.into();
        let size = (start + dynamic) as usize;
        self.region.reset(variables.iter().copied().chain([(start, dynamic)]), size);
        self.shadow.clear();
        self.locations.clear();
    }

    fn place(&self, address: u64) -> u64 {
        if address >= DYNAMIC_SHARED { address - DYNAMIC_SHARED + self.dynamic } else { address }
    }

    pub(crate) fn load(&mut self, address: u64, bytes: u64, used: u64, actor: &Actor) -> Result<&[u8], Fault> {
        let at = self.place(address);
        let content = self.region.load(at, bytes)?;
        let outcome = self.shadow.read(at as usize, bytes as usize, used, actor);
        outcome.map_err(|conflict| race(address, Access::Read, &conflict, actor))?;
        Ok(content)
    }

    /// What will be written: it has no value until then.
    pub(crate) fn expect(&mut self, address: u64, bytes: u64, actor: &Actor) -> Result<(), Fault> {
        let at = self.place(address);
        self.region.forget(at, bytes)?;
        let outcome = self.shadow.write(at as usize, bytes as usize, false, actor);
        outcome.map_err(|conflict| race(address, Access::Write, &conflict, actor))
    }

    /// Tells whether it changed anything.
    pub(crate) fn store(&mut self, address: u64, bytes: &[u8], actor: &Actor) -> Result<bool, Fault> {
        let at = self.place(address);
        let changed = self.region.store(at, bytes)?;
        let outcome = self.shadow.write(at as usize, bytes.len(), !changed, actor);
        outcome.map_err(|conflict| race(address, Access::Write, &conflict, actor))?;
        Ok(changed)
    }
}

fn race(address: u64, access: Access, conflict: &Conflict, actor: &Actor) -> Fault {
    let (other, earlier) = actor.earlier(conflict);
    Fault::SharedRace { address, access, other, earlier, site: Site::default() }
}

/// Passes that a warp's access takes: the most distinct words in a bank. Accesses of 8 and 16 bytes
/// go by half and quarter warps.
pub(crate) fn wavefronts(addresses: &[(usize, u64)], bytes: u64) -> u64 {
    let words = bytes.div_ceil(4);
    let lanes_together = WARP as usize / words.clamp(1, 4) as usize;
    let mut total = 0;
    let mut at = 0;
    while at < addresses.len() {
        let pass = addresses[at].0 / lanes_together;
        let mut held = [u64::MAX; BANKS];
        let mut conflicts: Vec<u64> = Vec::new();
        while at < addresses.len() && addresses[at].0 / lanes_together == pass {
            for word in (0..words).map(|word| addresses[at].1 / 4 + word) {
                let bank = &mut held[(word % BANKS as u64) as usize];
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
        let mut in_bank = [1; BANKS];
        conflicts.iter().for_each(|word| in_bank[(word % BANKS as u64) as usize] += 1);
        total += in_bank.into_iter().max().unwrap_or(1);
    }
    total
}
