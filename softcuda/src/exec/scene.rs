//! What is launched, and where in it a thread is.
use super::module::LoadedModule;
use crate::code::operation::Code;
use crate::fault::Place;

/// The order in which blocks and warps run. A kernel's results must not depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Block by block and warp by warp, each as far as it can go.
    #[default]
    Forward,
    /// The same from the last to the first.
    Reverse,
    /// Several blocks at a time; every few instructions a fixed pseudo-random sequence picks
    /// another warp.
    Interleaved,
}

/// One launch of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The module that holds the kernel.
    pub module: &'a LoadedModule,
    /// The kernel's name.
    pub kernel: &'a str,
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// The parameters, laid out as [`crate::ptx::Kernel::params`] says.
    pub params: &'a [u8],
    /// The order of execution.
    pub order: Order,
    /// Blocks that the device holds at a time.
    pub resident: usize,
    /// Whether races in global memory are faults.
    pub races: bool,
    /// Whether it may begin while the kernel before it still runs: then a thread that comes to
    /// global memory before it has waited for that kernel is a fault.
    pub overlaps: bool,
}

/// What the faults of a launch are told in.
#[derive(Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub(crate) launch: &'a Launch<'a>,
    pub(crate) code: &'a Code,
}

impl Scene<'_> {
    /// A thread's place at an instruction.
    pub(crate) fn place(&self, at: usize, block: u32, thread: u32) -> Place {
        let module = self.launch.module;
        let span = self.code.instructions.get(at).map_or(0..0, |instruction| instruction.text.clone());
        Place {
            kernel: self.launch.kernel.to_owned(),
            line: module.module().line(span.start),
            text: module.module().text(&span).to_owned(),
            block: coordinates(self.launch.grid, block.into()),
            thread: coordinates(self.launch.block, thread.into()),
        }
    }
}

/// A number in a box of those sizes as CUDA counts: x first.
pub(super) fn coordinates(sizes: [u32; 3], number: u64) -> [u32; 3] {
    let [x, y, _] = sizes.map(u64::from);
    [number % x, number / x % y, number / (x * y)].map(|index| index as u32)
}
