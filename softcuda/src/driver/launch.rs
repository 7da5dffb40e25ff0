//! Launches, and how many blocks of a kernel the device holds.

use super::border::{Need, call, calls};
use super::code::Code;
use super::handle::Handle;
use super::image::{Footprint, Function, read_params};
use super::pointer::{Host, Out};
use super::state::State;
use super::work::{KernelLaunch, Work};
use crate::device::{BLOCK, GRID, REGISTERS, SM_COUNT, WARP, current_sm};
use std::ffi::c_int;
use std::sync::Arc;

/// The shape of a launch.
#[derive(Clone, Copy)]
struct Shape {
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
    /// The device must hold all blocks at once.
    together: bool,
    /// It may begin while the kernel before it still runs.
    overlaps: bool,
}

impl Shape {
    /// The shape and the stream in a `CUlaunchConfig`.
    fn read(config: Host) -> Result<(Self, Handle), Code> {
        const STREAM: usize = 32;
        const ATTRIBUTES: usize = 40;
        const COUNT: usize = 48;
        const ATTRIBUTE_BYTES: usize = 72;
        const VALUE: usize = 8;
        const COOPERATIVE: u32 = 2;
        const PROGRAMMATIC_STREAM_SERIALIZATION: u32 = 6;
        let number = |at: usize| config.offset(at).array().map(u32::from_le_bytes);
        let mut shape = Self {
            grid: [number(0)?, number(4)?, number(8)?],
            block: [number(12)?, number(16)?, number(20)?],
            dynamic_shared: number(24)?,
            together: false,
            overlaps: false,
        };
        let attributes = config.word(ATTRIBUTES / size_of::<usize>());
        for index in 0..number(COUNT)? as usize {
            let attribute = attributes?.offset(index * ATTRIBUTE_BYTES);
            let on = attribute.offset(VALUE).array().map(u32::from_le_bytes)? != 0;
            match attribute.array().map(u32::from_le_bytes)? {
                COOPERATIVE => shape.together = on,
                PROGRAMMATIC_STREAM_SERIALIZATION => shape.overlaps = on,
                _ => return Err(Code::NotSupported),
            }
        }
        Ok((shape, config.word(STREAM / size_of::<usize>())?.address()))
    }

    /// Why a kernel cannot be launched so, if it cannot. `resident`: blocks that the device holds
    /// at a time at most.
    fn refusal(&self, function: &Function, footprint: &Footprint, resident: usize) -> Option<(Code, String)> {
        let &Shape { grid, block, dynamic_shared, together, .. } = self;
        let product = |sizes: [u32; 3]| sizes.iter().map(|&size| u64::from(size)).product::<u64>();
        let threads = product(block);
        let outside =
            |sizes: [u32; 3], most: [u32; 3]| sizes.iter().zip(most).any(|(&size, most)| size == 0 || size > most);
        let shared = u64::from(footprint.static_shared) + u64::from(dynamic_shared);
        if outside(grid, GRID) || outside(block, BLOCK) {
            Some((Code::InvalidValue, format!("a size is 0 or beyond {GRID:?} and {BLOCK:?}")))
        } else if threads > u64::from(footprint.max_threads) {
            Some((Code::InvalidValue, format!("{threads} threads a block, at most {}", footprint.max_threads)))
        } else if dynamic_shared > function.max_dynamic_shared || shared > current_sm().shared_opt_in().into() {
            let most = function.max_dynamic_shared.min(footprint.most_dynamic_shared());
            Some((Code::InvalidValue, format!("{dynamic_shared} bytes of dynamic shared memory, at most {most}")))
        } else if footprint.registers * threads as u32 > REGISTERS {
            Some((Code::LaunchOutOfResources, format!("{} registers a thread", footprint.registers)))
        } else {
            let an_sm = footprint.blocks_per_sm(threads as u32, dynamic_shared as usize);
            let held = u64::from(an_sm * SM_COUNT).min(resident as u64);
            (together && product(grid) > held)
                .then(|| (Code::CooperativeLaunchTooLarge, format!("the device holds {held} blocks at once")))
        }
    }
}

impl State {
    /// Enqueues a launch.
    fn launch(
        &mut self,
        function: Handle,
        shape: Shape,
        stream: Handle,
        params: Host,
        extra: Host,
    ) -> Result<(), Code> {
        let stream = self.stream(stream)?;
        let (found, image, kernel) = self.function(function)?;
        let (name, Shape { grid, block, dynamic_shared, overlaps, .. }) = (found.name.clone(), shape);
        if let Some((code, why)) = shape.refusal(found, &image.footprint(kernel), self.resident) {
            return Err(self.refuse(code, format!("launch of {name}, grid {grid:?}, block {block:?}: {why}")));
        }
        let params = read_params(kernel, params, extra)?;
        let module = image.module.clone();
        let launch = KernelLaunch { module, kernel: name, grid, block, dynamic_shared, overlaps, params };
        self.submit(stream, Work::Launch(Arc::new(launch)))
    }
}

fn positive(count: c_int) -> Result<u32, Code> {
    u32::try_from(count).ok().filter(|&count| count > 0).ok_or(Code::InvalidValue)
}

calls! {
    Context: fn cuLaunchKernel(
        state, function: Handle, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        dynamic_shared: u32, stream: Handle, params: Host, extra: Host,
    ) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        state.launch(function, Shape { grid, block, dynamic_shared, together: false, overlaps: false }, stream, params, extra)
    }

    /// The same for blocks that wait for one another: refused where the device does not hold them
    /// all at once.
    Context: fn cuLaunchCooperativeKernel(
        state, function: Handle, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        dynamic_shared: u32, stream: Handle, params: Host,
    ) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        state.launch(function, Shape { grid, block, dynamic_shared, together: true, overlaps: false }, stream, params, Host::NULL)
    }

    /// A launch with attributes: those of the two above, and that it may begin while the kernel
    /// before it still runs.
    Context: fn cuLaunchKernelEx(state, config: Host, function: Handle, params: Host, extra: Host) {
        let (shape, stream) = Shape::read(config)?;
        state.launch(function, shape, stream, params, extra)
    }

    Context: fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        state, blocks: Out<c_int>, function: Handle, threads: c_int, dynamic_shared: usize,
    ) {
        blocks.set(state.footprint(function)?.blocks_per_sm(positive(threads)?, dynamic_shared) as c_int)
    }

    Context: fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        state, blocks: Out<c_int>, function: Handle, threads: c_int, dynamic_shared: usize, _flags: u32,
    ) {
        blocks.set(state.footprint(function)?.blocks_per_sm(positive(threads)?, dynamic_shared) as c_int)
    }

    Context: fn cuOccupancyAvailableDynamicSMemPerBlock(
        state, bytes: Out<usize>, function: Handle, blocks: c_int, threads: c_int,
    ) {
        let (footprint, _) = (state.footprint(function)?, positive(threads)?);
        let sm = current_sm();
        let share = sm.shared / positive(blocks)? / sm.unit * sm.unit;
        let left = share.saturating_sub(footprint.static_shared + sm.reserved);
        bytes.set(left.min(footprint.most_dynamic_shared()) as usize)
    }

    /// The block size that keeps most threads on an SM, and the least grid that fills the device
    /// with it. The caller's function must not call the driver.
    Context: fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        state, least_grid: Out<c_int>, block: Out<c_int>, function: Handle,
        shared_of_block: Option<extern "C" fn(c_int) -> usize>, dynamic_shared: usize, most_threads: c_int, _flags: u32,
    ) {
        let footprint = state.footprint(function)?;
        let most = if most_threads == 0 { footprint.max_threads } else { positive(most_threads)?.min(footprint.max_threads) };
        let resident = |threads: u32| {
            let shared = shared_of_block.map_or(dynamic_shared, |shared| shared(threads as c_int));
            let blocks = footprint.blocks_per_sm(threads, shared);
            (blocks * threads, threads, blocks)
        };
        let sizes = (1..=most.div_ceil(WARP)).map(|warps| (warps * WARP).min(most));
        let (_, threads, blocks) = sizes.map(resident).max().ok_or(Code::InvalidValue)?;
        block.set(threads as c_int)?;
        least_grid.set((blocks * SM_COUNT) as c_int)
    }
}
