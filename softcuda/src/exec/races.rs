//! Races: accesses of different threads to the same bytes, one of them a write, that nothing
//! orders.
//!
//! Each piece of memory keeps the last write, the last read, and what else a later access may race
//! with: not what is ordered before those two, for who races with it races with them. Epochs are a
//! warp's clock values, with the lanes.
//!
//! Strong accesses of the same bytes do not race with one another where each one's scope takes in
//! the other. A strong write that another thread's strong read has seen is ordered before what
//! follows the read (observation order), though nothing is that was done before the write. Volatile
//! accesses are strong, but not among the lanes of a warp: there they are code for lanes in
//! lockstep, which none run in any more. Lanes of one instruction may write the same value at once.
use super::order::Knowledge;
use super::scene::Scene;
use crate::code::operation::{Scope, Semantics};
use crate::fault::{Access, Site};

/// Who accesses, and how.
#[derive(Clone, Copy)]
pub(crate) struct Actor<'a> {
    pub(crate) scene: Scene<'a>,
    pub(crate) knowledge: &'a Knowledge,
    pub(crate) lane: usize,
    /// The instruction.
    pub(crate) at: u32,
    pub(crate) semantics: Semantics,
}

/// An access of some lanes of a warp.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    block: u32,
    /// 0 where there was none.
    clock: u32,
    lanes: u32,
    at: u32,
    warp: u8,
    flags: u16,
}

const STRONG: u16 = 1;
const VOLATILE: u16 = 2;
const DEVICE: u16 = 4;
const READ_ONLY: u16 = 8;
const WRITE: u16 = 16;
const ATOMIC: u16 = 32;
/// A strong read since which nothing was written.
const OBSERVER: u16 = 64;
/// The binary logarithm of an access's bytes begins here.
const SIZE: u32 = 8;

/// What a piece of memory has seen.
#[derive(Clone, Copy, Debug, Default)]
struct Record {
    write: Entry,
    read: Entry,
    /// Number of the list of other accesses that a later one may race with; 0 for none.
    others: u32,
}

/// An earlier access that nothing orders before the one under way.
pub(crate) struct Conflict {
    earlier: Entry,
    /// One of the two is a read for which nobody may write at all.
    pub(crate) read_only: bool,
}

/// Bytes whose pieces share a page of records.
const PAGE: usize = 128;
/// No access is recorded in larger pieces.
const LARGEST: usize = 16;
/// Other accesses kept of a piece; the oldest goes for a new one.
const MOST_OTHERS: usize = 32;

/// The records of a range of memory, made where it is touched.
#[derive(Debug, Default)]
pub(crate) struct Shadow {
    /// The page of each `PAGE` bytes, from 1.
    directory: Vec<u32>,
    /// First record, and the binary logarithm of its bytes.
    pages: Vec<(u32, u8)>,
    records: Vec<Record>,
    others: Vec<Vec<Entry>>,
}

impl Actor<'_> {
    fn entry(&self, bytes: usize, write: bool) -> Entry {
        let Semantics { strong, volatile, atomic, read_only, scope, .. } = self.semantics;
        let flag = |is: bool, flag: u16| if is { flag } else { 0 };
        Entry {
            block: self.knowledge.block,
            clock: self.knowledge.now,
            lanes: 1 << self.lane,
            at: self.at,
            warp: self.knowledge.warp as u8,
            flags: flag(strong, STRONG)
                | flag(volatile, VOLATILE)
                | flag(scope == Scope::Device, DEVICE)
                | flag(read_only, READ_ONLY)
                | flag(write, WRITE)
                | flag(atomic, ATOMIC)
                | flag(strong && !write, OBSERVER)
                | (bytes.trailing_zeros() << SIZE) as u16,
        }
    }

    /// Whether an access is ordered before this one.
    fn knows(&self, earlier: &Entry) -> bool {
        let Knowledge { block, warp, .. } = *self.knowledge;
        let own = if (earlier.block, usize::from(earlier.warp)) == (block, warp) { 1 << self.lane } else { 0 };
        let others = earlier.lanes & !own;
        others == 0 || self.knowledge.knows(self.lane, earlier.block, earlier.warp.into(), others, earlier.clock)
    }

    /// Whether this comes after an access of one lane at least, be it its own.
    fn follows(&self, earlier: &Entry) -> bool {
        let each = (0..32).map(|lane| Entry { lanes: earlier.lanes & 1 << lane, ..*earlier });
        each.filter(|entry| entry.lanes != 0).any(|entry| self.knows(&entry))
    }

    /// The conflict as a fault's message tells it: the kind of the earlier access and its place.
    pub(crate) fn earlier(&self, conflict: &Conflict) -> (Access, Site) {
        let Entry { block, lanes, at, warp, flags, .. } = conflict.earlier;
        let same_warp = (block, usize::from(warp)) == (self.knowledge.block, self.knowledge.warp);
        let others = if same_warp { lanes & !(1 << self.lane) } else { lanes };
        let thread = u32::from(warp) * 32 + others.trailing_zeros();
        let access = if flags & WRITE != 0 { Access::Write } else { Access::Read };
        (access, Site(Some(Box::new(self.scene.place(at as usize, block, thread)))))
    }
}

impl Entry {
    fn same_warp(&self, other: &Self) -> bool {
        (self.block, self.warp) == (other.block, other.warp)
    }

    /// Nothing, or by the thread of `new` alone.
    fn is_of(&self, new: &Self) -> bool {
        self.clock == 0 || self.same_warp(new) && self.lanes == new.lanes
    }

    /// Whether the other one goes on where this one was: the same lanes are waited for, but for the
    /// new one.
    fn goes_on(&self, new: &Self) -> bool {
        self.same_warp(new) && (self.clock, self.flags) == (new.clock, new.flags)
    }

    fn morally_strong(&self, new: &Self) -> bool {
        let both = self.flags & new.flags;
        let scoped = self.block == new.block || both & DEVICE != 0;
        let lockstep = self.same_warp(new) && (self.flags | new.flags) & VOLATILE != 0;
        both & STRONG != 0 && scoped && self.flags >> SIZE == new.flags >> SIZE && !lockstep
    }

    /// Whether who races with this access races with `new` as well, which comes later.
    fn covered_by(&self, new: &Self, actor: &Actor) -> bool {
        if self.flags & WRITE != 0 && new.flags & ATOMIC != 0 && self.morally_strong(new) {
            // An atomic has read what was written: who follows the one follows the other.
            return true;
        }
        let as_weak = self.flags & STRONG != 0 || new.flags & STRONG == 0;
        let as_writing = self.flags & WRITE == 0 || new.flags & WRITE != 0;
        let as_read_only = self.flags & READ_ONLY == 0 || new.flags & READ_ONLY != 0;
        self.clock == 0 || as_weak && as_writing && as_read_only && actor.knows(self)
    }

    fn conflict(&self, new: &Self, actor: &Actor) -> Result<(), Conflict> {
        if self.is_of(new) {
            return Ok(());
        }
        let read_only = (self.flags | new.flags) & READ_ONLY != 0;
        if !read_only && (actor.knows(self) || self.morally_strong(new)) {
            return Ok(());
        }
        Err(Conflict { earlier: *self, read_only })
    }
}

impl Record {
    fn listed<'a>(&self, others: &'a [Vec<Entry>]) -> impl Iterator<Item = &'a Entry> + use<'a> {
        others.get(self.others as usize).into_iter().flatten()
    }

    /// Whether an earlier access of a list or of this record lets a new one be.
    fn admit(&self, others: &[Vec<Entry>], earlier: &Entry, new: &Entry, actor: &Actor) -> Result<(), Conflict> {
        let outcome = earlier.conflict(new, actor);
        if outcome.is_ok() || earlier.flags & (STRONG | WRITE) != STRONG | WRITE {
            return outcome;
        }
        // Who follows a strong read of what was written follows that write, if not what its thread
        // did before.
        let mut observers = self.listed(others).chain([&self.read]).filter(|read| read.flags & OBSERVER != 0);
        let observed = observers.any(|read| read.clock > 0 && earlier.morally_strong(read) && actor.follows(read));
        if observed { Ok(()) } else { outcome }
    }

    #[inline]
    fn read(&mut self, others: &mut Vec<Vec<Entry>>, new: Entry, actor: &Actor) -> Result<(), Conflict> {
        if self.others == 0 && self.write.is_of(&new) {
            if self.read.clock == 0 || self.read.is_of(&new) && self.read.flags == new.flags {
                self.read = new;
                return Ok(());
            }
            if self.read.goes_on(&new) {
                self.read = Entry { lanes: self.read.lanes | new.lanes, ..new };
                return Ok(());
            }
        }
        self.read_after_others(others, new, actor)
    }

    #[inline(never)]
    fn read_after_others(&mut self, others: &mut Vec<Vec<Entry>>, new: Entry, actor: &Actor) -> Result<(), Conflict> {
        self.admit(others, &self.write, &new, actor)?;
        for write in self.listed(others).filter(|entry| entry.flags & WRITE != 0) {
            self.admit(others, write, &new, actor)?;
        }
        if self.read.goes_on(&new) {
            self.read = Entry { lanes: self.read.lanes | new.lanes, ..new };
            return Ok(());
        }
        // Whoever writes is another thread than one of any two.
        let enough = new.flags & self.read.flags & READ_ONLY != 0 && self.others != 0;
        if !enough {
            let old = std::mem::replace(&mut self.read, new);
            self.keep(others, [old], &new, actor);
        }
        Ok(())
    }

    /// `together`: the bytes were this value already, so that lanes of one instruction may write
    /// them at once.
    #[inline]
    fn write(
        &mut self,
        others: &mut Vec<Vec<Entry>>,
        new: Entry,
        actor: &Actor,
        together: bool,
    ) -> Result<(), Conflict> {
        if self.others == 0 && new.flags & STRONG == 0 && self.write.is_of(&new) && self.read.is_of(&new) {
            *self = Record { write: new, ..Record::default() };
            return Ok(());
        }
        self.write_after_others(others, new, actor, together)
    }

    #[inline(never)]
    fn write_after_others(
        &mut self,
        others: &mut Vec<Vec<Entry>>,
        new: Entry,
        actor: &Actor,
        together: bool,
    ) -> Result<(), Conflict> {
        let weak = new.flags & STRONG == 0;
        let with_others = together && self.write.goes_on(&new) && self.write.at == new.at;
        if !with_others {
            self.admit(others, &self.write, &new, actor)?;
        }
        self.admit(others, &self.read, &new, actor)?;
        self.listed(others).try_for_each(|earlier| self.admit(others, earlier, &new, actor))?;
        if self.write.goes_on(&new) && (with_others || !weak) {
            self.write = Entry { lanes: self.write.lanes | new.lanes, ..new };
            return Ok(());
        }
        let old = std::mem::replace(self, Record { write: new, read: Entry::default(), others: self.others });
        self.keep(others, [old.write, old.read], &new, actor);
        Ok(())
    }

    /// Keeps those entries of before that `new` does not cover.
    fn keep<const N: usize>(&mut self, others: &mut Vec<Vec<Entry>>, old: [Entry; N], new: &Entry, actor: &Actor) {
        let still = if new.flags & WRITE != 0 { !OBSERVER } else { !0 };
        if let Some(list) = others.get_mut(self.others as usize) {
            list.retain(|entry| !entry.covered_by(new, actor));
            list.iter_mut().for_each(|entry| entry.flags &= still);
        }
        for mut entry in old.into_iter().filter(|entry| !entry.covered_by(new, actor)) {
            entry.flags &= still;
            if self.others == 0 {
                // The first list is nobody's.
                others.resize_with(others.len().max(1) + 1, Vec::new);
                self.others = others.len() as u32 - 1;
            }
            let list = &mut others[self.others as usize];
            match list.iter_mut().find(|other| other.goes_on(&entry)) {
                Some(other) => other.lanes |= entry.lanes,
                None => {
                    if list.len() == MOST_OTHERS {
                        list.remove(0);
                    }
                    list.push(entry);
                }
            }
        }
    }
}

impl Shadow {
    /// Forgets all accesses.
    pub(crate) fn clear(&mut self) {
        self.directory.clear();
        self.pages.clear();
        self.records.clear();
        self.others.clear();
    }

    /// Number of the first record of an aligned access, and how many there are.
    #[inline]
    fn pieces(&mut self, offset: usize, bytes: usize) -> (usize, usize) {
        let index = offset / PAGE;
        let wanted = bytes.min(LARGEST).trailing_zeros() as u8;
        let number = self.directory.get(index).map_or(0, |&number| number as usize);
        let (first, shift) = match self.pages.get(number.wrapping_sub(1)) {
            Some(&page) if page.1 <= wanted => page,
            page => self.cut(index, page.copied(), wanted),
        };
        (first as usize + ((offset % PAGE) >> shift), (bytes >> shift).max(1))
    }

    /// Makes a page, or one of smaller pieces, which have all seen what the larger ones have.
    #[inline(never)]
    fn cut(&mut self, index: usize, old: Option<(u32, u8)>, wanted: u8) -> (u32, u8) {
        let page = (self.records.len() as u32, wanted);
        let Some((first, shift)) = old else {
            if index >= self.directory.len() {
                self.directory.resize((index + 1).next_power_of_two(), 0);
            }
            self.records.resize(self.records.len() + (PAGE >> wanted), Record::default());
            self.pages.push(page);
            self.directory[index] = self.pages.len() as u32;
            return page;
        };
        for at in 0..PAGE >> shift {
            let mut record = self.records[first as usize + at];
            for part in 0..1 << (shift - wanted) {
                if part > 0 && record.others != 0 {
                    self.others.push(self.others[record.others as usize].clone());
                    record.others = self.others.len() as u32 - 1;
                }
                self.records.push(record);
            }
        }
        self.pages[self.directory[index] as usize - 1] = page;
        page
    }

    /// A naturally aligned read. `used` has a bit for each byte that matters.
    pub(crate) fn read(&mut self, offset: usize, bytes: usize, used: u64, actor: &Actor) -> Result<(), Conflict> {
        if used != u64::MAX >> (64 - bytes) {
            // What is not used need not be ordered; compilers widen loads.
            let mut at = (0..bytes).filter(|at| used >> at & 1 != 0);
            return at.try_for_each(|at| self.read(offset + at, 1, 1, actor));
        }
        let new = actor.entry(bytes, false);
        let (first, count) = self.pieces(offset, bytes);
        let mut records = self.records[first..first + count].iter_mut();
        records.try_for_each(|record| record.read(&mut self.others, new, actor))
    }

    /// A naturally aligned write. `together`: the bytes were this value already.
    pub(crate) fn write(&mut self, offset: usize, bytes: usize, together: bool, actor: &Actor) -> Result<(), Conflict> {
        let new = actor.entry(bytes, true);
        let (first, count) = self.pieces(offset, bytes);
        let mut records = self.records[first..first + count].iter_mut();
        records.try_for_each(|record| record.write(&mut self.others, new, actor, together))
    }
}
