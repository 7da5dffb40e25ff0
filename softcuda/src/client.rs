//! Loads the software driver into a test program and asks it what happened.
//!
//! The library is loaded by its path. It is named `libcuda.so.1` inside, so cudarc's own search for
//! the driver then finds the one already loaded, and no environment variable is needed. A program
//! that links this crate as a library for this module shares no state with it: all state is the
//! loaded library's.

use crate::counters::Counters;
use crate::exec::{Chain, Order, Reach};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::collections::BTreeMap;
use std::ffi::{CString, c_char};
use std::path::{Path, PathBuf};

/// A kernel launch as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The kernel's name.
    pub kernel: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory of a block.
    pub dynamic_shared: u32,
    /// Whether it might begin while the kernel before it still ran.
    pub overlaps: bool,
}

/// The loaded driver.
#[derive(Clone, Copy, Debug)]
pub struct SoftCuda {
    library: &'static Library,
}

impl SoftCuda {
    /// Loads the library at `path`. It stays loaded for as long as the program runs.
    pub fn load(path: &Path) -> Result<Self, libloading::Error> {
        // SAFETY: softcuda runs nothing when it is loaded.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }?;
        Ok(Self { library: Box::leak(Box::new(library)) })
    }

    /// The driver that the program is linked with or was started with, if that is this one.
    pub fn linked() -> Option<Self> {
        let program = Library::this();
        // SAFETY: the symbol is only looked for.
        unsafe { program.get::<extern "C" fn()>(b"softcuda_reset") }.ok()?;
        Some(Self { library: Box::leak(Box::new(program)) })
    }

    /// Finds the library where Cargo puts it: beside the running test program, or in `deps` next to
    /// an example.
    pub fn locate() -> Option<PathBuf> {
        let program = std::env::current_exe().ok()?;
        let folders = program.ancestors().skip(1).take(2).flat_map(|folder| [folder.to_owned(), folder.join("deps")]);
        folders.map(|folder| folder.join("libsoftcuda.so")).find(|path| path.is_file())
    }

    fn symbol<F: Copy>(self, name: &str) -> F {
        // SAFETY: the callers below give each symbol the type that `driver::control` gives it.
        let symbol = unsafe { self.library.get::<F>(name.as_bytes()) };
        *symbol.unwrap_or_else(|error| panic!("{name} is not in this softcuda: {error}"))
    }

    /// Sets the order in which blocks and warps run from now on.
    pub fn set_order(self, order: Order) {
        let set: extern "C" fn(u32) -> u32 = self.symbol("softcuda_set_order");
        set(match order {
            Order::Forward => 0,
            Order::Reverse => 1,
            Order::Interleaved => 2,
        });
    }

    /// Sets how many blocks the device holds at a time from now on, at least one. After a reset it
    /// is [`RESIDENT_BLOCKS`](crate::device::RESIDENT_BLOCKS) again.
    pub fn set_resident_blocks(self, count: u32) {
        let set: extern "C" fn(u32) -> u32 = self.symbol("softcuda_set_resident_blocks");
        assert_eq!(set(count), 0, "a device holds at least one block, not {count}");
    }

    /// Whether races in global memory are faults, as they are by default and after a reset. Not so
    /// for a test of what is left where launches disturb one another.
    pub fn set_races(self, faults: bool) {
        self.symbol::<extern "C" fn(bool)>("softcuda_set_races")(faults);
    }

    /// Lets asynchronous copies to pageable host memory be done when their call returns, as
    /// NVIDIA's driver does it, for programs that rely on that. Off by default and after a reset.
    pub fn set_prompt_downloads(self, prompt: bool) {
        self.symbol::<extern "C" fn(bool)>("softcuda_set_prompt_downloads")(prompt);
    }

    fn read_counters(self, reset: bool) -> Counters {
        let read: extern "C" fn(&mut Counters, bool) -> u32 = self.symbol("softcuda_counters");
        let mut counters = Counters::default();
        read(&mut counters, reset);
        counters
    }

    /// What all launches that ran since the last reset counted.
    pub fn counters(self) -> Counters {
        self.read_counters(false)
    }

    /// The same, and counts from 0 again.
    pub fn take_counters(self) -> Counters {
        self.read_counters(true)
    }

    /// The launch that ran last since the last reset.
    pub fn last_launch(self) -> Option<Launch> {
        let read: extern "C" fn(*mut u8, usize, &mut [u32; 8]) -> usize = self.symbol("softcuda_last_launch");
        let mut shape = [0; 8];
        let mut kernel = vec![0; read(std::ptr::null_mut(), 0, &mut shape)];
        let length = read(kernel.as_mut_ptr(), kernel.len(), &mut shape);
        kernel.truncate(length);
        if kernel.is_empty() {
            return None;
        }
        let [gx, gy, gz, bx, by, bz, dynamic_shared, overlaps] = shape;
        let kernel = String::from_utf8_lossy(&kernel).into_owned();
        Some(Launch { kernel, grid: [gx, gy, gz], block: [bx, by, bz], dynamic_shared, overlaps: overlaps != 0 })
    }

    fn read_text(self, name: &str) -> String {
        let read: extern "C" fn(*mut u8, usize) -> usize = self.symbol(name);
        let mut text = vec![0; read(std::ptr::null_mut(), 0)];
        let length = read(text.as_mut_ptr(), text.len());
        text.truncate(length);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The text of the last fault or refused call.
    pub fn last_fault(self) -> Option<String> {
        Some(self.read_text("softcuda_last_fault")).filter(|text| !text.is_empty())
    }

    /// How often warps executed each PTX operation since the last reset, by its name with all
    /// modifiers (`ld.global.nc.v2.f32`).
    pub fn operations(self) -> BTreeMap<String, u64> {
        let text = self.read_text("softcuda_operations");
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        pairs.filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?))).collect()
    }

    /// Whether launches are asked for their chains from now on, which takes longer.
    /// Off by default and after a reset.
    pub fn set_chains(self, asked: bool) {
        self.symbol::<extern "C" fn(bool)>("softcuda_set_chains")(asked);
    }

    /// The longest chains of dependent operations of the launch that ran last, if it was asked for
    /// them.
    pub fn last_chain(self) -> Option<Chain> {
        let text = self.read_text("softcuda_chain");
        let mut lines = text.lines().map(|line| {
            let mut numbers = line.split(' ').filter_map(|number| number.parse::<u64>().ok());
            [0; 4].map(|_: u64| numbers.next().unwrap_or_default())
        });
        let ([cycles, global, trips, _], [spins, ..]) = (lines.next()?, lines.next()?);
        let stores = lines.map(|[address, cycles, global, trips]| (address, Reach { cycles, global, trips }));
        Some(Chain { end: Reach { cycles, global, trips }, spins: spins != 0, stores: stores.collect() })
    }

    /// Forgets everything, a sticky fault too. Contexts, streams, memory and modules of before are
    /// gone.
    pub fn reset(self) {
        self.symbol::<extern "C" fn()>("softcuda_reset")();
    }

    fn count(self, name: &str) -> u64 {
        self.symbol::<extern "C" fn() -> u64>(name)()
    }

    /// Device allocations that nobody freed, those that a destroyed context took with it included.
    pub fn live_allocations(self) -> u64 {
        self.count("softcuda_live_allocations")
    }

    /// Work that was submitted and has not run.
    pub fn pending(self) -> u64 {
        self.count("softcuda_pending")
    }

    /// Copies to pageable host memory that were given up, for their stream was destroyed before
    /// anything waited.
    pub fn lost_copies(self) -> u64 {
        self.count("softcuda_lost_copies")
    }

    /// How often the driver call `name` was made since the last reset, `cuLaunchKernel` for one.
    pub fn driver_calls(self, name: &str) -> u64 {
        let count: extern "C" fn(*const c_char) -> u64 = self.symbol("softcuda_driver_calls");
        CString::new(name).map_or(0, |name| count(name.as_ptr()))
    }
}
