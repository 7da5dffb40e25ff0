//! The figures of the device that softcuda plays, all in one place: an H100, or as far as they
//! differ by compute capability, the one that `SOFTCUDA_CAPABILITY` names (75, 80, ...). The driver
//! is of CUDA 13.0, or of the version that `SOFTCUDA_DRIVER` names (12.4, ...).
use std::sync::OnceLock;

/// What an SM of one architecture holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sm {
    /// Compute capability times ten.
    pub capability: u32,
    /// Most resident warps.
    pub warps: u32,
    /// Most resident blocks.
    pub blocks: u32,
    /// 32-bit registers.
    pub registers: u32,
    /// Bytes of shared memory.
    pub shared: u32,
    /// Bytes of it that each block takes for the system.
    pub reserved: u32,
    /// It is given out in units of so many bytes.
    pub unit: u32,
}

const fn sm(capability: u32, warps: u32, blocks: u32, shared_kib: u32, reserved: u32, unit: u32) -> Sm {
    Sm { capability, warps, blocks, registers: REGISTERS, shared: shared_kib << 10, reserved, unit }
}

/// The architectures that the kernels are compiled for. Warps, blocks, registers and shared memory
/// are from the table "Technical Specifications per Compute Capability" of the CUDA C++ Programming
/// Guide; what is reserved and the units are from `cuda_occupancy.h` of CUDA 13.0.
pub const SMS: [Sm; 7] = [
    sm(75, 32, 16, 64, 0, 256),
    sm(80, 64, 32, 164, 1024, 128),
    sm(86, 48, 16, 100, 1024, 128),
    sm(89, 48, 24, 100, 1024, 128),
    sm(90, 64, 32, 228, 1024, 128),
    sm(100, 64, 32, 228, 1024, 128),
    sm(120, 48, 24, 100, 1024, 128),
];

impl Sm {
    /// The SM of an architecture, by its compute capability times ten.
    pub fn of(capability: u32) -> Option<&'static Self> {
        SMS.iter().find(|sm| sm.capability == capability)
    }

    /// Bytes of shared memory that a block may opt in to.
    pub fn shared_opt_in(&self) -> u32 {
        self.shared - self.reserved
    }
}

/// Lanes of a warp.
pub(crate) const WARP: u32 = 32;
/// Bytes of a sector, the unit in which memory traffic is counted.
pub const SECTOR: u64 = 32;
/// Banks of shared memory, of 4 bytes each.
pub(crate) const BANKS: usize = 32;
/// Registers go to a warp in units of so many.
pub(crate) const REGISTER_UNIT: u32 = 256;
/// An SM's parts, each with a quarter of its registers.
pub(crate) const PARTS: u32 = 4;
/// Registers of an SM, and the most of a block.
pub(crate) const REGISTERS: u32 = 65536;

/// The most threads of a block.
pub(crate) const THREADS_PER_BLOCK: u32 = 1024;
/// The largest block in x, y and z.
pub(crate) const BLOCK: [u32; 3] = [1024, 1024, 64];
/// The largest grid in x, y and z.
pub(crate) const GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];
/// Bytes of shared memory of a block without an opt-in.
pub(crate) const SHARED_PER_BLOCK: u32 = 48 << 10;
/// Multiprocessors.
pub(crate) const SM_COUNT: u32 = 132;
/// Blocks that the device holds at a time, where nothing else is said: two for each multiprocessor,
/// as many as it holds of the largest.
pub const RESIDENT_BLOCKS: usize = 4 * SM_COUNT as usize;

/// Device memory, in bytes; host memory is taken only for what is allocated.
pub(crate) const CAPACITY: u64 = 16 << 30;
/// Bytes of constant memory.
pub(crate) const CONSTANT: u32 = 64 << 10;
/// Bytes of L2.
pub(crate) const L2: u32 = 50 << 20;
/// In kHz.
pub(crate) const CLOCK: u32 = 1_980_000;
/// In kHz.
pub(crate) const MEMORY_CLOCK: u32 = 2_619_000;
/// In bits.
pub(crate) const MEMORY_BUS: u32 = 5120;

/// Cycles until a result can be used, of an H100. Where nothing else is said they are those of
/// Accel-Sim 2.0's model of it (`configs/tested-cfgs/SM90_H100/gpgpusim.config` of
/// accel-sim/gpgpu-sim_distribution, commit 01f6fc4): `ptx_opcode_latency_*`, `gpgpu_smem_latency`,
/// `gpgpu_l1_latency`, `gpgpu_l2_rop_latency`, `dram_latency`.
pub(crate) mod latency {
    use crate::ptx::{Opcode, Ty};

    /// Of 32 bits, integers and floats; moves and comparisons too.
    pub(crate) const ARITHMETIC: u64 = 4;
    const DOUBLE: u64 = 8;
    const DOUBLE_DIVISION: u64 = 330;
    /// `ex2`, `lg2`, `rcp`, `sqrt`.
    const SPECIAL: u64 = 23;
    const DIVISION: u64 = 39;
    pub(crate) const SHARED: u64 = 29;
    /// Assumed to be as shared memory, whose crossbar it takes.
    pub(crate) const SHUFFLE: u64 = 29;
    /// Assumed to be as shared memory.
    pub(crate) const BARRIER: u64 = 29;
    /// What L1 takes to miss, and L2 to answer.
    pub(crate) const L2: u64 = 41 + 237;
    /// The same where L2 misses.
    pub(crate) const DRAM: u64 = L2 + 194;
    /// The way back from L2.
    pub(crate) const BACK: u64 = L2 / 2;

    /// Of an instruction that stays within its lane.
    pub(crate) fn of(opcode: &Opcode) -> u64 {
        let double = opcode.types.contains(&Ty::F64);
        match opcode.base {
            "div" if double => DOUBLE_DIVISION,
            "div" => DIVISION,
            "ex2" | "lg2" | "rcp" | "rsqrt" | "sqrt" => SPECIAL,
            _ if double => DOUBLE,
            _ => ARITHMETIC,
        }
    }
}

/// The name that the driver gives, as C has it.
pub(crate) const NAME: &[u8] = b"softcuda\0";
/// The CUDA version that the driver is of, major and minor.
pub(crate) fn driver_version() -> (u32, u32) {
    static VERSION: OnceLock<(u32, u32)> = OnceLock::new();
    *VERSION.get_or_init(|| {
        let version = std::env::var("SOFTCUDA_DRIVER").unwrap_or_else(|_| "13.0".into());
        let parts = version.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        parts.unwrap_or_else(|| panic!("SOFTCUDA_DRIVER is {version}: it must be as in 12.4"))
    })
}

/// The newest PTX that a driver understands, from the release notes of the PTX ISA.
pub(crate) fn newest_ptx(driver: (u32, u32)) -> (u32, u32) {
    match driver {
        (..=11, minor) => (7, minor.min(8)),
        (12, minor @ ..=5) => (8, minor),
        (12, minor) => (8, minor - 1),
        (13, minor) => (9, minor),
        _ => (u32::MAX, 0),
    }
}

/// The device's SM; its compute capability is that of the PTX that runs and of the SASS whose
/// register counts are reported.
pub(crate) fn current_sm() -> &'static Sm {
    static SM: OnceLock<&'static Sm> = OnceLock::new();
    SM.get_or_init(|| {
        let capability = std::env::var("SOFTCUDA_CAPABILITY").unwrap_or_else(|_| "90".into());
        let known = capability.parse().ok().and_then(Sm::of);
        known.unwrap_or_else(|| {
            panic!("SOFTCUDA_CAPABILITY is {capability}: softcuda knows 75, 80, 86, 89, 90, 100 and 120")
        })
    })
}
