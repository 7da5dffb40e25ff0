//! How many blocks of a kernel an SM holds at once, by the rules of NVIDIA's `cuda_occupancy.h`.

use crate::device::{PARTS, REGISTER_UNIT, Sm, WARP};

/// What a block takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its threads.
    pub threads: u32,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of shared memory, static and dynamic.
    pub shared: u32,
}

impl Sm {
    /// The blocks that it holds at once; 0 for a block without threads or too large for it.
    pub fn resident_blocks(&self, block: Block) -> u32 {
        let warps = block.threads.div_ceil(WARP);
        let a_warp = block.registers.saturating_mul(WARP).max(1).checked_next_multiple_of(REGISTER_UNIT);
        let (Some(a_warp), 1..) = (a_warp, warps) else { return 0 };
        // A launch is checked as if every block used all parts alike.
        if u64::from(a_warp) * u64::from(warps.next_multiple_of(PARTS)) > u64::from(self.registers) {
            return 0;
        }
        let by_registers = self.registers / PARTS / a_warp * PARTS / warps;
        let shared = u64::from(self.reserved) + u64::from(block.shared);
        let by_shared = match shared.next_multiple_of(self.unit.into()) {
            0 => self.blocks,
            shared => (u64::from(self.shared) / shared) as u32,
        };
        self.blocks.min(self.warps / warps).min(by_registers).min(by_shared)
    }

    /// Resident warps as a part of the most that it holds, between 0 and 1.
    pub fn occupancy(&self, block: Block) -> f64 {
        f64::from(self.resident_blocks(block) * block.threads.div_ceil(WARP)) / f64::from(self.warps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occupancy(capability: u32, threads: u32, registers: u32, shared: u32) -> f64 {
        Sm::of(capability).expect("in the table").occupancy(Block { threads, registers, shared })
    }

    /// The CUDA C++ Best Practices Guide, "Calculating Occupancy": for 65,536 registers, 2,048
    /// threads and 32 blocks.
    #[test]
    fn the_best_practices_guides_examples() {
        for capability in [80, 90, 100] {
            assert_eq!(occupancy(capability, 128, 32, 0), 1.0);
            assert_eq!(occupancy(capability, 128, 37, 0), 0.75);
            assert_eq!(occupancy(capability, 320, 37, 0), 0.625);
        }
    }

    #[test]
    fn each_limit_binds() {
        // 32 blocks of one warp; 16 on the architectures with fewer.
        assert_eq!(occupancy(90, 32, 16, 0), 0.5);
        assert_eq!(occupancy(86, 32, 16, 0), 16.0 / 48.0);
        // Warps: a block of 1,024 threads leaves a third of 1,536 free.
        assert_eq!(occupancy(89, 1024, 32, 0), 32.0 / 48.0);
        // Registers: 255 round up to 256, so that two warps fit a part.
        assert_eq!(occupancy(90, 128, 255, 0), 8.0 / 64.0);
        // Shared memory: 113 KiB and the reserved one twice, and one byte more only once.
        assert_eq!(occupancy(90, 1024, 32, 113 << 10), 1.0);
        assert_eq!(occupancy(90, 1024, 32, (113 << 10) + 1), 0.5);
        // Nothing is reserved on Turing.
        assert_eq!(occupancy(75, 512, 32, 32 << 10), 1.0);
    }

    #[test]
    fn what_does_not_fit_has_no_blocks() {
        assert_eq!(occupancy(90, 1024, 72, 0), 0.0);
        assert_eq!(occupancy(90, 32, 16, 228 << 10), 0.0);
        assert_eq!(occupancy(90, 128, u32::MAX, 0), 0.0);
        assert_eq!(occupancy(90, 0, 16, 0), 0.0);
    }
}
