//! Checked device memory: every byte belongs to a live allocation and is read only after it was
//! written.
use crate::device::SECTOR;
use crate::fault::{Access, Fault, Site};

/// Where device addresses begin.
const BASE: u64 = 0x7f00_0000_0000;
const GUARD: u64 = 64 * 1024;
const ALIGNMENT: u64 = 256;

/// One bit a byte or sector.
#[derive(Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(bits: u64) -> Self {
        // Zeroed pages are not touched before use, so that sparse use of huge allocations stays
        // cheap.
        Self(vec![0; bits.div_ceil(64) as usize])
    }

    fn set_range(&mut self, from: usize, count: usize) {
        self.for_range(from, count, |word, mask| *word |= mask);
    }

    fn clear_range(&mut self, from: usize, count: usize) {
        self.for_range(from, count, |word, mask| *word &= !mask);
    }

    fn for_range(&mut self, from: usize, count: usize, change: impl Fn(&mut u64, u64)) {
        let (mut at, end) = (from, from + count);
        while at < end {
            let bits = (64 - at % 64).min(end - at);
            change(&mut self.0[at / 64], (u64::MAX >> (64 - bits)) << (at % 64));
            at += bits;
        }
    }

    fn get(&self, at: usize) -> bool {
        self.0[at / 64] >> (at % 64) & 1 != 0
    }

    fn first_clear(&self, from: usize, count: usize) -> Option<usize> {
        let (mut at, end) = (from, from + count);
        while at < end {
            if at % 64 == 0 && end - at >= 64 && self.0[at / 64] == u64::MAX {
                at += 64;
            } else if self.get(at) {
                at += 1;
            } else {
                return Some(at);
            }
        }
        None
    }
}

/// Where an allocation stands in its life.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Life {
    /// Its address is known, its memory was not given out yet.
    Reserved,
    Live,
    /// Live, but not for the work that runs: nothing orders that work with the allocation or the
    /// free.
    Withheld,
    Freed,
}

#[derive(Debug)]
pub(crate) struct Allocation {
    base: u64,
    size: u64,
    life: Life,
    pub(crate) bytes: Vec<u8>,
    written: Bits,
    /// Sectors touched by the launch under way: read, written. Empty before the first touch.
    sectors: [Bits; 2],
}

impl Allocation {
    /// A naturally aligned access of at most 64 bytes lies in one word of the map.
    fn written_mask(&self, offset: usize) -> u64 {
        self.written.0[offset / 64] >> (offset % 64)
    }
}

/// The memory of a device. Fresh bytes are poisoned: whoever reads one before it was written gets a
/// fault.
#[derive(Debug)]
pub struct Memory {
    capacity: u64,
    used: u64,
    next: u64,
    /// Sorted by address, as no two get the same; freed ones stay, without their bytes, to be
    /// recognised.
    allocations: Vec<Allocation>,
    touched: Vec<usize>,
}

impl Memory {
    /// An empty memory of `capacity` bytes.
    pub fn new(capacity: u64) -> Self {
        Self { capacity, used: 0, next: BASE, allocations: Vec::new(), touched: Vec::new() }
    }

    /// A fresh allocation, 256-byte aligned and at least 64 KiB away from every other one, past or
    /// present.
    pub fn alloc(&mut self, bytes: u64) -> Result<u64, Fault> {
        let free = self.capacity - self.used;
        if bytes == 0 || bytes > free {
            return Err(Fault::OutOfMemory { wanted: bytes, free });
        }
        let base = self.reserve(bytes)?;
        self.give(base)?;
        Ok(base)
    }

    /// The address of an allocation that `give` makes later, once or again and again with a free
    /// between.
    pub(crate) fn reserve(&mut self, bytes: u64) -> Result<u64, Fault> {
        if bytes == 0 || bytes > self.capacity {
            return Err(Fault::OutOfMemory { wanted: bytes, free: self.capacity });
        }
        let base = self.next;
        self.next += bytes.next_multiple_of(ALIGNMENT) + GUARD;
        self.allocations.push(Allocation {
            base,
            size: bytes,
            life: Life::Reserved,
            bytes: Vec::new(),
            written: Bits::default(),
            sectors: Default::default(),
        });
        Ok(base)
    }

    /// Makes the allocation of a reserved address, with no byte written.
    pub(crate) fn give(&mut self, address: u64) -> Result<(), Fault> {
        let free = self.capacity - self.used;
        let allocation = self.starting_at(address).ok_or(Fault::InvalidFree { address })?;
        let size = allocation.size;
        if matches!(allocation.life, Life::Live | Life::Withheld) {
            return Err(Fault::StillAllocated { address, bytes: size });
        }
        if size > free {
            return Err(Fault::OutOfMemory { wanted: size, free });
        }
        allocation.life = Life::Live;
        allocation.bytes = vec![0; size as usize];
        allocation.written = Bits::new(size);
        self.used += size;
        Ok(())
    }

    /// Keeps an allocation, where it is live, from the work that runs next, or ends that.
    pub(crate) fn withhold(&mut self, address: u64, withheld: bool) {
        let (from, to) = if withheld { (Life::Live, Life::Withheld) } else { (Life::Withheld, Life::Live) };
        if let Some(allocation) = self.starting_at(address).filter(|a| a.life == from) {
            allocation.life = to;
        }
    }

    fn starting_at(&mut self, address: u64) -> Option<&mut Allocation> {
        let index = self.allocations.binary_search_by_key(&address, |a| a.base).ok()?;
        Some(&mut self.allocations[index])
    }

    /// Frees the allocation that starts at `address`.
    pub fn free(&mut self, address: u64) -> Result<(), Fault> {
        match self.starting_at(address) {
            Some(allocation) if allocation.life == Life::Live => {
                allocation.life = Life::Freed;
                allocation.bytes = Vec::new();
                allocation.written = Bits::default();
                let size = allocation.size;
                self.used -= size;
                Ok(())
            }
            Some(allocation) if allocation.life == Life::Withheld => Err(Fault::UnorderedFree { address }),
            _ => Err(Fault::InvalidFree { address }),
        }
    }

    /// Copies `bytes` to device address `address`.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        let (index, offset) = self.locate(address, bytes.len() as u64, Access::Write, &mut 0)?;
        let allocation = &mut self.allocations[index];
        allocation.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        allocation.written.set_range(offset, bytes.len());
        Ok(())
    }

    /// Copies from device address `address`; a byte nobody wrote is a fault.
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), Fault> {
        let (index, offset) = self.locate(address, out.len() as u64, Access::Read, &mut 0)?;
        let allocation = &self.allocations[index];
        if let Some(bad) = allocation.written.first_clear(offset, out.len()) {
            return Err(self.uninitialised(allocation.base + bad as u64, 1));
        }
        out.copy_from_slice(&allocation.bytes[offset..offset + out.len()]);
        Ok(())
    }

    /// Sets `bytes` bytes to `value`.
    pub fn set(&mut self, address: u64, value: u8, bytes: u64) -> Result<(), Fault> {
        let (index, offset) = self.locate(address, bytes, Access::Write, &mut 0)?;
        let allocation = &mut self.allocations[index];
        allocation.bytes[offset..offset + bytes as usize].fill(value);
        allocation.written.set_range(offset, bytes as usize);
        Ok(())
    }

    /// Copies within the device. What was uninitialised at the source is so at the destination.
    pub fn copy(&mut self, to: u64, from: u64, bytes: u64) -> Result<(), Fault> {
        let (source, start) = self.locate(from, bytes, Access::Read, &mut 0)?;
        let (target, offset) = self.locate(to, bytes, Access::Write, &mut 0)?;
        let count = bytes as usize;
        let content = self.allocations[source].bytes[start..start + count].to_vec();
        let written: Vec<bool> = (start..start + count).map(|at| self.allocations[source].written.get(at)).collect();
        let target = &mut self.allocations[target];
        target.bytes[offset..offset + count].copy_from_slice(&content);
        target.written.set_range(offset, count);
        for at in (0..count).filter(|&at| !written[at]) {
            target.written.clear_range(offset + at, 1);
        }
        Ok(())
    }

    /// Start and size of every live allocation.
    pub fn live(&self) -> Vec<(u64, u64)> {
        self.allocations.iter().filter(|a| a.life == Life::Live).map(|a| (a.base, a.size)).collect()
    }

    /// Bytes in live allocations.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// The bytes of a kernel's naturally aligned load. `used` has a bit for each byte that matters.
    pub(crate) fn load(&self, address: u64, bytes: u64, used: u64, hint: &mut usize) -> Result<&[u8], Fault> {
        let (index, offset) = self.locate(address, bytes, Access::Read, hint)?;
        let allocation = &self.allocations[index];
        if !allocation.written_mask(offset) & used != 0 {
            return Err(self.uninitialised(address, bytes));
        }
        Ok(&self.allocations[index].bytes[offset..offset + bytes as usize])
    }

    /// A kernel's naturally aligned store. Tells whether it changed anything.
    pub(crate) fn store(&mut self, address: u64, bytes: &[u8], hint: &mut usize) -> Result<bool, Fault> {
        let (index, offset) = self.locate(address, bytes.len() as u64, Access::Write, hint)?;
        let allocation = &mut self.allocations[index];
        let fresh = !allocation.written_mask(offset) & u64::MAX >> (64 - bytes.len()) != 0;
        let place = &mut allocation.bytes[offset..offset + bytes.len()];
        let changed = fresh || *place != *bytes;
        place.copy_from_slice(bytes);
        allocation.written.set_range(offset, bytes.len());
        Ok(changed)
    }

    /// Where an address lies in the allocation that a load or store of it has just found, by its
    /// number.
    pub(crate) fn offset(&self, address: u64, index: usize) -> usize {
        (address - self.allocations[index].base) as usize
    }

    /// Marks sectors, given as addresses over 32, as touched by the launch under way. Tells whether
    /// one of them had not been.
    pub(crate) fn touch(&mut self, sectors: &[u64], access: Access, hint: &mut usize) -> bool {
        let mut fresh = false;
        for &sector in sectors {
            // Base addresses are 256-byte aligned: a sector belongs to one allocation, which has
            // just been accessed.
            let Ok((index, offset)) = self.locate(sector * SECTOR, 0, access, hint) else { continue };
            let allocation = &mut self.allocations[index];
            if allocation.sectors[0].0.is_empty() {
                let sectors = allocation.size.div_ceil(SECTOR);
                allocation.sectors = [Bits::new(sectors), Bits::new(sectors)];
                self.touched.push(index);
            }
            let sector = offset / SECTOR as usize;
            let (word, bit) = (sector / 64, 1 << (sector % 64));
            fresh |= allocation.sectors.iter().all(|touched| touched.0[word] & bit == 0);
            allocation.sectors[access as usize].0[word] |= bit;
        }
        fresh
    }

    /// Where the allocation of an index begins.
    pub(crate) fn base(&self, index: usize) -> u64 {
        self.allocations.get(index).map_or(0, |allocation| allocation.base)
    }

    /// Distinct sectors read, written, and either, since the last call.
    pub(crate) fn take_sectors(&mut self) -> [u64; 3] {
        let mut counts = [0; 3];
        for index in self.touched.drain(..) {
            let [read, written] = std::mem::take(&mut self.allocations[index].sectors);
            for (read, written) in read.0.iter().zip(&written.0) {
                for (count, word) in counts.iter_mut().zip([*read, *written, read | written]) {
                    *count += u64::from(word.count_ones());
                }
            }
        }
        counts
    }

    /// Index and offset of a range that lies in one live allocation. `hint` is the last index
    /// found.
    fn locate(&self, address: u64, bytes: u64, access: Access, hint: &mut usize) -> Result<(usize, usize), Fault> {
        let holds = |a: &Allocation| {
            a.life == Life::Live && address >= a.base && bytes <= a.size && address - a.base <= a.size - bytes
        };
        if !self.allocations.get(*hint).is_some_and(holds) {
            *hint = self.allocations.partition_point(|a| a.base <= address).saturating_sub(1);
        }
        match self.allocations.get(*hint) {
            Some(a) if holds(a) => Ok((*hint, (address - a.base) as usize)),
            Some(a) if a.life != Life::Live && address >= a.base && address < a.base + a.size => {
                let (near, site) = (self.near(address), Site::default());
                Err(match a.life {
                    Life::Reserved => Fault::UseBeforeAllocation { address, bytes, access, near, site },
                    Life::Withheld => Fault::UnorderedUse { address, bytes, access, near, site },
                    _ => Fault::UseAfterFree { address, bytes, access, near, site },
                })
            }
            _ => Err(Fault::out_of_bounds(address, bytes, access, self.near(address))),
        }
    }

    fn uninitialised(&self, address: u64, bytes: u64) -> Fault {
        let near = self.near(address);
        Fault::UninitialisedRead { address, bytes, near, site: Site::default() }
    }

    /// In which allocation an address lies, for a fault's message.
    pub(crate) fn near(&self, address: u64) -> String {
        let after = self.allocations.partition_point(|a| a.base <= address);
        match after.checked_sub(1).map(|index| &self.allocations[index]) {
            None => "no allocation's address".to_owned(),
            Some(a) => {
                let state = match a.life {
                    Life::Live | Life::Withheld => "",
                    Life::Reserved => "reserved ",
                    Life::Freed => "freed ",
                };
                let offset = address - a.base;
                format!("byte {offset} of the {state}allocation of {} bytes at {:#x}", a.size, a.base)
            }
        }
    }
}
