//! A memory and a module, for tests that run kernels without the driver.
#![allow(dead_code)] // each test file uses a part

use softcuda::counters::Counters;
use softcuda::device::RESIDENT_BLOCKS;
use softcuda::exec::{Chain, Launch, LoadedModule, Order, launch_with_chain};
use softcuda::fault::Fault;
use softcuda::memory::Memory;
use softcuda::ptx::Module;

pub const ORDERS: [Order; 3] = [Order::Forward, Order::Reverse, Order::Interleaved];

pub struct Device {
    pub memory: Memory,
    pub module: LoadedModule,
    pub order: Order,
    pub dynamic_shared: u32,
    pub resident: usize,
    pub overlaps: bool,
}

impl Device {
    pub fn new(ptx: &str) -> Self {
        let mut memory = Memory::new(1 << 34);
        let module = Module::parse(ptx).unwrap_or_else(|fault| panic!("{fault}"));
        let module = LoadedModule::load(module, &mut memory).unwrap_or_else(|fault| panic!("{fault}"));
        Self { memory, module, order: Order::Forward, dynamic_shared: 0, resident: RESIDENT_BLOCKS, overlaps: false }
    }

    /// A device with one kernel `k`, made of a parameter list and a body.
    pub fn kernel(params: &str, body: &str) -> Self {
        Self::new(&ptx(params, body))
    }

    pub fn upload(&mut self, bytes: &[u8]) -> u64 {
        let address = self.memory.alloc(bytes.len() as u64).unwrap();
        self.memory.write(address, bytes).unwrap();
        address
    }

    pub fn upload_u32(&mut self, values: &[u32]) -> u64 {
        self.upload(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn upload_f32(&mut self, values: &[f32]) -> u64 {
        self.upload(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn upload_u64(&mut self, values: &[u64]) -> u64 {
        self.upload(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn space(&mut self, bytes: u64) -> u64 {
        self.memory.alloc(bytes).unwrap()
    }

    pub fn bytes(&self, address: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.memory.read(address, &mut bytes).unwrap_or_else(|fault| panic!("{fault}"));
        bytes
    }

    pub fn u32s(&self, address: u64, count: usize) -> Vec<u32> {
        self.bytes(address, 4 * count).chunks(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    pub fn f32s(&self, address: u64, count: usize) -> Vec<f32> {
        self.u32s(address, count).into_iter().map(f32::from_bits).collect()
    }

    pub fn u64s(&self, address: u64, count: usize) -> Vec<u64> {
        self.bytes(address, 8 * count).chunks(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    /// Launches a kernel whose parameters are all 8 bytes.
    pub fn run(&mut self, kernel: &str, grid: u32, block: u32, params: &[u64]) -> Result<Counters, Fault> {
        self.run_bytes(kernel, grid, block, &params.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn run_bytes(&mut self, kernel: &str, grid: u32, block: u32, params: &[u8]) -> Result<Counters, Fault> {
        self.run_with_chain(kernel, grid, block, params).map(|(counters, _)| counters)
    }

    /// Every launch here is asked for its chains: that changes no result.
    pub fn run_with_chain(
        &mut self,
        kernel: &str,
        grid: u32,
        block: u32,
        params: &[u8],
    ) -> Result<(Counters, Chain), Fault> {
        let launched = Launch {
            module: &self.module,
            kernel,
            grid: [grid, 1, 1],
            block: [block, 1, 1],
            dynamic_shared: self.dynamic_shared,
            params,
            order: self.order,
            resident: self.resident,
            races: true,
            overlaps: self.overlaps,
        };
        launch_with_chain(&mut self.memory, &launched)
    }
}

/// A module with one kernel `k`. Its body finds thread, address and value registers declared.
pub fn ptx(params: &str, body: &str) -> String {
    format!(
        ".version 9.0\n.target sm_90\n.address_size 64\n.visible .entry k({params})\n{{\n\
         .reg .pred %p<16>;\n.reg .b16 %h<32>;\n.reg .b32 %r<64>;\n.reg .f32 %f<32>;\n.reg .b64 %d<32>;\n\
         mov.u32 %r0, %tid.x;\n{body}\nret;\n}}\n"
    )
}

/// Numbers that repeat from run to run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
