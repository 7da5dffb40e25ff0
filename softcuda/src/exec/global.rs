//! Global memory during one launch: who accessed what, and what strong writes published where.
use super::order::Locations;
use super::races::{Actor, Conflict, Shadow};
use crate::fault::{Access, Fault, Site};
use crate::memory::Memory;

/// The accesses of one launch. What ran before it is ordered before all of them.
#[derive(Debug, Default)]
pub(crate) struct Global {
    /// By the allocation's number. A launch touches few.
    shadows: Vec<(usize, Shadow)>,
    /// The one last used.
    last: usize,
    pub(crate) locations: Locations,
}

impl Global {
    fn shadow(&mut self, allocation: usize) -> &mut Shadow {
        if self.shadows.get(self.last).is_none_or(|found| found.0 != allocation) {
            self.last = self.shadows.iter().position(|found| found.0 == allocation).unwrap_or_else(|| {
                self.shadows.push((allocation, Shadow::default()));
                self.shadows.len() - 1
            });
        }
        &mut self.shadows[self.last].1
    }

    /// A load that was found right. `allocation` is where it was found, `used` has a bit for each
    /// byte that matters.
    pub(crate) fn read(
        &mut self,
        memory: &Memory,
        allocation: usize,
        address: u64,
        (bytes, used): (u64, u64),
        actor: &Actor,
    ) -> Result<(), Fault> {
        let offset = memory.offset(address, allocation);
        let outcome = self.shadow(allocation).read(offset, bytes as usize, used, actor);
        judge(outcome, memory, address, Access::Read, actor)
    }

    /// The same for a store. `together`: the bytes were this value already.
    pub(crate) fn write(
        &mut self,
        memory: &Memory,
        allocation: usize,
        address: u64,
        (bytes, together): (usize, bool),
        actor: &Actor,
    ) -> Result<(), Fault> {
        let offset = memory.offset(address, allocation);
        let outcome = self.shadow(allocation).write(offset, bytes, together, actor);
        judge(outcome, memory, address, Access::Write, actor)
    }
}

/// A conflict as a fault, if the launch is held to an order among its accessors.
fn judge(
    outcome: Result<(), Conflict>,
    memory: &Memory,
    address: u64,
    access: Access,
    actor: &Actor,
) -> Result<(), Fault> {
    let let_be = |conflict: &Conflict| !actor.scene.launch.races && !conflict.read_only;
    match outcome {
        Err(conflict) if let_be(&conflict) => Ok(()),
        outcome => outcome.map_err(|conflict| race(memory, address, access, &conflict, actor)),
    }
}

fn race(memory: &Memory, address: u64, access: Access, conflict: &Conflict, actor: &Actor) -> Fault {
    let (near, site) = (memory.near(address), Site::default());
    let (other, earlier) = actor.earlier(conflict);
    if conflict.read_only {
        Fault::NotReadOnly { address, access, other, near, earlier, site }
    } else {
        Fault::GlobalRace { address, access, other, near, earlier, site }
    }
}
