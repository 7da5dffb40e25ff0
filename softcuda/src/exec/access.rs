//! Memory instructions: addresses to spaces, checks, and the counts that decide speed.
use super::chain::Moved;
use super::context::Context;
use super::races::Actor;
use super::scene::Scene;
use super::shared::{Shared, wavefronts};
use super::warp::{UnderWay, Warp, lanes};
use crate::code::operation::{Address, Atomic, Copy, Semantics, Space, Transfer};
use crate::device::SECTOR;
use crate::fault::{Access, Fault, Site};

/// What the lanes of one instruction touched.
#[derive(Default)]
struct Touched {
    /// The last one.
    address: u64,
    sectors: Vec<u64>,
    shared: Vec<(usize, u64)>,
}

/// An address within one space.
#[derive(Clone, Copy)]
enum Place {
    Global(u64),
    Shared(u64),
    Param(u64),
}

impl Touched {
    fn global(&mut self, address: u64) {
        // Aligned accesses of at most 32 bytes lie in one sector.
        self.address = address;
        let sector = address / SECTOR;
        if self.sectors.last() != Some(&sector) {
            self.sectors.push(sector);
        }
    }

    /// Adds up the requests; `also` is a second kind of access to the same sectors. Tells what they
    /// came to.
    fn count(mut self, cx: &mut Context, bytes: u64, access: Access, also: Option<Access>) -> Moved {
        let (mut fresh, address) = (false, self.address);
        if !self.sectors.is_empty() {
            self.sectors.sort_unstable();
            self.sectors.dedup();
            let requests = match access {
                Access::Read => &mut cx.counters.global_load_requests,
                Access::Write => &mut cx.counters.global_store_requests,
            };
            *requests += self.sectors.len() as u64;
            for access in also.into_iter().chain([access]) {
                fresh |= cx.memory.touch(&self.sectors, access, &mut cx.hint);
            }
        }
        if !self.shared.is_empty() {
            cx.counters.shared_wavefronts += wavefronts(&self.shared, bytes);
        }
        Moved { fresh, address, allocation: cx.memory.base(cx.hint) }
    }
}

/// The little-endian element `index` of `size` bytes.
#[inline]
fn element(bytes: &[u8], index: usize, size: usize) -> u64 {
    let bytes = &bytes[index * size..];
    match size {
        1 => bytes[0].into(),
        2 => u16::from_le_bytes([bytes[0], bytes[1]]).into(),
        4 => u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]).into(),
        _ => bytes.first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk)),
    }
}

impl Warp {
    fn place(&self, at: &Address, lane: usize, bytes: u64) -> Result<Place, Fault> {
        let mut address = self.rows[at.base as usize][lane].wrapping_add_signed(at.offset);
        if at.space == Space::Shared {
            address = u64::from(address as u32);
        }
        // A power of two.
        if address & (bytes - 1) != 0 {
            return Err(Fault::Misaligned { address, bytes, site: Site::default() });
        }
        Ok(match at.space {
            Space::Global if self.early & 1 << lane != 0 => {
                return Err(Fault::TooEarly { address, site: Site::default() });
            }
            Space::Global => Place::Global(address),
            Space::Shared => Place::Shared(address),
            Space::Param => Place::Param(address),
        })
    }

    fn actor<'a>(&'a self, scene: Scene<'a>, lane: usize, semantics: Semantics) -> Actor<'a> {
        Actor { scene, knowledge: &self.knowledge, lane, at: self.at() as u32, semantics }
    }

    /// What a lane's strong read of a place brings it.
    fn observe(&mut self, cx: &Context, shared: &Shared, place: Place, semantics: Semantics) {
        match place {
            Place::Global(address) => self.knowledge.read(&cx.global.locations, address, self.lane, semantics),
            Place::Shared(address) => self.knowledge.read(&shared.locations, address, self.lane, semantics),
            Place::Param(_) => {}
        }
    }

    /// What a lane's strong write to a place publishes there.
    fn publish(&mut self, cx: &mut Context, shared: &mut Shared, place: Place, semantics: Semantics) {
        match place {
            Place::Global(address) => self.knowledge.write(&mut cx.global.locations, address, self.lane, semantics),
            Place::Shared(address) => self.knowledge.write(&mut shared.locations, address, self.lane, semantics),
            Place::Param(_) => {}
        }
    }

    pub(super) fn load(
        &mut self,
        cx: &mut Context,
        shared: &mut Shared,
        load: &Transfer,
        active: u32,
    ) -> Result<(), Fault> {
        self.need(load.at.base, active, cx.code)?;
        let size = load.ty.bytes();
        let bytes = (size * load.rows.len()) as u64;
        let mut touched = Touched::default();
        let reverse = self.reverse(cx.order);
        for lane in lanes(active, reverse) {
            self.lane = lane;
            let place = self.place(&load.at, lane, bytes)?;
            if load.semantics.strong {
                self.observe(cx, shared, place, load.semantics);
            }
            let content = match place {
                Place::Global(address) => {
                    touched.global(address);
                    let content = cx.memory.load(address, bytes, load.used, &mut cx.hint)?;
                    let actor = self.actor(cx.scene, lane, load.semantics);
                    cx.global.read(cx.memory, cx.hint, address, (bytes, load.used), &actor)?;
                    content
                }
                Place::Shared(address) => {
                    touched.shared.push((lane, address));
                    shared.load(address, bytes, load.used, &self.actor(cx.scene, lane, load.semantics))?
                }
                Place::Param(at) => {
                    let range = at as usize..at.saturating_add(bytes) as usize;
                    let near = || format!("in {} bytes of parameters", cx.params.len());
                    let fault = || Fault::out_of_bounds(at, bytes, Access::Read, near());
                    cx.params.get(range).ok_or_else(fault)?
                }
            };
            for (index, &row) in load.rows.iter().enumerate() {
                let mut value = element(content, index, size);
                if load.ty.signed() {
                    let unused = 64 - 8 * size as u32;
                    value = ((value << unused) as i64 >> unused) as u64;
                }
                self.rows[row as usize][lane] = value & load.mask;
            }
        }
        for (index, &row) in load.rows.iter().enumerate() {
            // What the program does not go on to use may never have been written.
            if load.used >> (index * size) & 1 != 0 {
                self.defined[row as usize] |= active;
            } else {
                self.defined[row as usize] &= !active;
            }
        }
        self.moved = touched.count(cx, bytes, Access::Read, None);
        Ok(())
    }

    pub(super) fn store(
        &mut self,
        cx: &mut Context,
        shared: &mut Shared,
        store: &Transfer,
        active: u32,
    ) -> Result<(), Fault> {
        self.need(store.at.base, active, cx.code)?;
        for &row in &store.rows {
            self.need(row, active, cx.code)?;
        }
        let size = store.ty.bytes();
        let bytes = size * store.rows.len();
        let mut touched = Touched::default();
        let reverse = self.reverse(cx.order);
        let mut content = [0; 32];
        for lane in lanes(active, reverse) {
            self.lane = lane;
            for (index, &row) in store.rows.iter().enumerate() {
                let value = self.rows[row as usize][lane].to_le_bytes();
                content[index * size..(index + 1) * size].copy_from_slice(&value[..size]);
            }
            let place = self.place(&store.at, lane, bytes as u64)?;
            self.put(cx, shared, place, &content[..bytes], &mut touched, store.semantics)?;
        }
        self.moved = touched.count(cx, bytes as u64, Access::Write, None);
        Ok(())
    }

    /// Writes a lane's bytes.
    fn put(
        &mut self,
        cx: &mut Context,
        shared: &mut Shared,
        place: Place,
        content: &[u8],
        touched: &mut Touched,
        semantics: Semantics,
    ) -> Result<(), Fault> {
        let bytes = content.len() as u64;
        let changed = match place {
            Place::Global(address) => {
                touched.global(address);
                let changed = cx.memory.store(address, content, &mut cx.hint)?;
                let actor = self.actor(cx.scene, self.lane, semantics);
                cx.global.write(cx.memory, cx.hint, address, (content.len(), !changed), &actor)?;
                changed
            }
            Place::Shared(address) => {
                touched.shared.push((self.lane, address));
                shared.store(address, content, &self.actor(cx.scene, self.lane, semantics))?
            }
            Place::Param(address) => {
                let near = "in parameters, which are read-only";
                return Err(Fault::out_of_bounds(address, bytes, Access::Write, near));
            }
        };
        cx.progress += u64::from(changed);
        if semantics.strong {
            self.publish(cx, shared, place, semantics);
        }
        Ok(())
    }

    /// Memory that nobody gave out is as much a fault as with a load; a GPU would pass over it.
    /// DRAM moves what the address is in, and nothing comes to the multiprocessor: no request is
    /// counted.
    pub(super) fn prefetch(&mut self, cx: &mut Context, at: &Address, active: u32) -> Result<(), Fault> {
        self.need(at.base, active, cx.code)?;
        let mut sectors = Vec::new();
        for lane in lanes(active, false) {
            self.lane = lane;
            if let Place::Global(address) = self.place(at, lane, 1)? {
                cx.memory.load(address, 1, 0, &mut cx.hint)?;
                sectors.push(address / SECTOR);
            }
        }
        sectors.sort_unstable();
        sectors.dedup();
        cx.memory.touch(&sectors, Access::Read, &mut cx.hint);
        Ok(())
    }

    /// Shared memory is written when the thread waits; until then what was there has no value, and
    /// who writes to what is copied races with it.
    pub(super) fn start_copy(
        &mut self,
        cx: &mut Context,
        shared: &mut Shared,
        copy: &Copy,
        active: u32,
    ) -> Result<(), Fault> {
        self.need(copy.from.base, active, cx.code)?;
        self.need(copy.to.base, active, cx.code)?;
        let (bytes, used) = (copy.bytes, u64::MAX >> (64 - copy.bytes));
        let mut touched = Touched::default();
        let reverse = self.reverse(cx.order);
        for lane in lanes(active, reverse) {
            self.lane = lane;
            let places = (self.place(&copy.from, lane, bytes)?, self.place(&copy.to, lane, bytes)?);
            let (Place::Global(from), Place::Shared(to)) = places else { continue };
            touched.global(from);
            touched.shared.push((lane, to));
            let content = cx.memory.load(from, bytes, used, &mut cx.hint)?.to_vec();
            let actor = self.actor(cx.scene, lane, Semantics::default());
            cx.global.read(cx.memory, cx.hint, from, (bytes, used), &actor)?;
            shared.expect(to, bytes, &actor)?;
            self.copies.push(UnderWay { lane, from, to, content });
        }
        self.moved = touched.count(cx, bytes, Access::Read, None);
        Ok(())
    }

    /// The copies of some lanes arrive.
    pub(super) fn end_copies(&mut self, cx: &mut Context, shared: &mut Shared, active: u32) -> Result<(), Fault> {
        let (ending, going_on) =
            std::mem::take(&mut self.copies).into_iter().partition(|copy| active >> copy.lane & 1 != 0);
        self.copies = going_on;
        for UnderWay { lane, from, to, content } in ending {
            self.lane = lane;
            let (bytes, used) = (content.len() as u64, u64::MAX >> (64 - content.len()));
            // Finds the allocation.
            cx.memory.load(from, bytes, used, &mut cx.hint)?;
            let actor = self.actor(cx.scene, lane, Semantics::default());
            cx.global.read(cx.memory, cx.hint, from, (bytes, used), &actor)?;
            shared.store(to, &content, &actor)?;
            cx.progress += 1;
        }
        Ok(())
    }

    pub(super) fn atomic(
        &mut self,
        cx: &mut Context,
        shared: &mut Shared,
        atomic: &Atomic,
        active: u32,
    ) -> Result<(), Fault> {
        for row in [atomic.at.base, atomic.operand] {
            self.need(row, active, cx.code)?;
        }
        let size = atomic.ty.bytes();
        let mut touched = Touched::default();
        let reverse = self.reverse(cx.order);
        for lane in lanes(active, reverse) {
            self.lane = lane;
            let place = self.place(&atomic.at, lane, size as u64)?;
            let whole = (1 << size) - 1;
            self.observe(cx, shared, place, atomic.semantics);
            let old = match place {
                // Its write is all that is recorded of it.
                Place::Global(address) => cx.memory.load(address, size as u64, whole, &mut cx.hint)?,
                Place::Shared(address) => {
                    shared.load(address, size as u64, whole, &self.actor(cx.scene, lane, atomic.semantics))?
                }
                Place::Param(address) => {
                    let near = "atomics work on global and shared memory";
                    return Err(Fault::out_of_bounds(address, size as u64, Access::Write, near));
                }
            };
            let old = element(old, 0, size);
            let operand = self.rows[atomic.operand as usize][lane] & atomic.ty.mask();
            let new = (atomic.update)(old, operand).to_le_bytes();
            self.put(cx, shared, place, &new[..size], &mut touched, atomic.semantics)?;
            if let Some(row) = atomic.old {
                self.rows[row as usize][lane] = old;
            }
        }
        if let Some(row) = atomic.old {
            self.defined[row as usize] |= active;
        }
        cx.counters.atomics += u64::from(active.count_ones());
        self.moved = touched.count(cx, size as u64, Access::Write, Some(Access::Read));
        Ok(())
    }
}
