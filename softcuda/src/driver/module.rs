//! Modules, kernels, their attributes and occupancy, and launches.

use super::code::Code;
use super::context::limit;
use super::pointer::{Host, Out};
use super::queue::{KernelLaunch, Work};
use super::state::{Handle, Need, State, call, calls};
use crate::exec::LoadedModule;
use crate::fatbin;
use crate::occupancy::Block;
use crate::ptx::{Kernel, Module};
use std::collections::BTreeMap;
use std::ffi::c_int;
use std::sync::Arc;

/// Registers a thread, where the image has no SASS to read the number from.
const UNKNOWN_REGISTERS: u32 = 32;
/// Of `__fatBinC_Wrapper_t`: magic, version, then the fat binary's address.
const WRAPPER_MAGIC: u32 = 0x4662_43b1;
/// Shared memory is given out in units of so many bytes.
const SHARED_UNIT: u32 = 128;
const ELF_MAGIC: u32 = u32::from_le_bytes(*b"\x7fELF");

/// A module loaded to the device.
pub struct LoadedImage {
    module: Arc<LoadedModule>,
    registers: BTreeMap<String, u32>,
}

/// A kernel handed out to the caller.
pub struct Function {
    image: Handle,
    name: String,
    max_dynamic_shared: u32,
    carveout: c_int,
}

/// What a block of a kernel takes of an SM.
struct Footprint {
    registers: u32,
    static_shared: u32,
    max_threads: u32,
}

impl Footprint {
    fn most_dynamic_shared(&self) -> u32 {
        limit::shared_opt_in().saturating_sub(self.static_shared)
    }

    /// How many blocks an SM holds at once.
    fn blocks_per_sm(&self, threads: u32, dynamic_shared: usize) -> u32 {
        let shared = u32::try_from(dynamic_shared).unwrap_or(u32::MAX).saturating_add(self.static_shared);
        let block = Block { threads, registers: self.registers, shared };
        if threads > self.max_threads { 0 } else { limit::sm().resident_blocks(block) }
    }
}

/// The shape of a launch.
#[derive(Clone, Copy)]
struct Shape {
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
}

fn positive(count: c_int) -> Result<u32, Code> {
    u32::try_from(count).ok().filter(|&count| count > 0).ok_or(Code::InvalidValue)
}

impl State {
    /// Enqueues a launch. `together`: the device must hold all blocks at once.
    fn launch(
        &mut self,
        function: Handle,
        shape: Shape,
        stream: Handle,
        params: Host,
        extra: Host,
        together: bool,
    ) -> Result<(), Code> {
        let Shape { grid, block, dynamic_shared } = shape;
        let stream = self.stream(stream)?;
        let footprint = self.footprint(function)?;
        let (found, image, kernel) = self.function(function)?;
        let name = found.name.clone();
        let product = |sizes: [u32; 3]| sizes.iter().map(|&size| u64::from(size)).product::<u64>();
        let threads = product(block);
        let outside =
            |sizes: [u32; 3], most: [u32; 3]| sizes.iter().zip(most).any(|(&size, most)| size == 0 || size > most);
        let shared = u64::from(footprint.static_shared) + u64::from(dynamic_shared);
        let refused = if outside(grid, limit::GRID) || outside(block, limit::BLOCK) {
            Some((Code::InvalidValue, format!("a size is 0 or beyond {:?} and {:?}", limit::GRID, limit::BLOCK)))
        } else if threads > u64::from(footprint.max_threads) {
            Some((Code::InvalidValue, format!("{threads} threads a block, at most {}", footprint.max_threads)))
        } else if dynamic_shared > found.max_dynamic_shared || shared > limit::shared_opt_in().into() {
            let most = found.max_dynamic_shared.min(footprint.most_dynamic_shared());
            Some((Code::InvalidValue, format!("{dynamic_shared} bytes of dynamic shared memory, at most {most}")))
        } else if footprint.registers * threads as u32 > limit::REGISTERS {
            Some((Code::LaunchOutOfResources, format!("{} registers a thread", footprint.registers)))
        } else {
            let an_sm = footprint.blocks_per_sm(threads as u32, dynamic_shared as usize);
            let held = u64::from(an_sm * limit::SMS).min(self.resident as u64);
            (together && product(grid) > held)
                .then(|| (Code::CooperativeLaunchTooLarge, format!("the device holds {held} blocks at once")))
        };
        if let Some((code, why)) = refused {
            return Err(self.refuse(code, format!("launch of {name}, grid {grid:?}, block {block:?}: {why}")));
        }
        let params = read_params(kernel, params, extra)?;
        let launch = KernelLaunch { module: image.module.clone(), kernel: name, grid, block, dynamic_shared, params };
        self.submit(stream, Work::Launch(Arc::new(launch)))
    }

    fn load(&mut self, out: Out<Handle>, image: Host) -> Result<(), Code> {
        self.refuse_unsafe("loading a module")?;
        out.set(0)?;
        let contents = read_image(image).map_err(|(code, why)| self.refuse(code, why))?;
        let module = match Module::parse(&contents.ptx) {
            Ok(module) => module,
            Err(fault) => return Err(self.refuse(Code::InvalidPtx, fault.to_string())),
        };
        let module = match LoadedModule::load(module, &mut self.memory) {
            Ok(module) => Arc::new(module),
            Err(fault) => return Err(self.refuse(Code::OutOfMemory, fault.to_string())),
        };
        let handle = self.new_handle();
        self.images.insert(handle, LoadedImage { module, registers: contents.registers });
        out.set(handle)
    }

    fn function(&self, handle: Handle) -> Result<(&Function, &LoadedImage, &Kernel), Code> {
        let function = self.functions.get(&handle).ok_or(Code::InvalidHandle)?;
        let image = self.images.get(&function.image).ok_or(Code::InvalidHandle)?;
        let kernel = image.module.module().kernel(&function.name).ok_or(Code::InvalidHandle)?;
        Ok((function, image, kernel))
    }

    fn footprint(&self, handle: Handle) -> Result<Footprint, Code> {
        let (function, image, kernel) = self.function(handle)?;
        Ok(Footprint {
            registers: image.registers.get(&function.name).copied().unwrap_or(UNKNOWN_REGISTERS),
            static_shared: kernel.static_shared_bytes as u32,
            max_threads: kernel.max_threads.unwrap_or(u32::MAX).min(limit::THREADS_PER_BLOCK),
        })
    }
}

/// The kernel's parameter block, from an array of pointers or from a packed buffer.
fn read_params(kernel: &Kernel, params: Host, extra: Host) -> Result<Vec<u8>, Code> {
    const BUFFER: usize = 1;
    const BUFFER_SIZE: usize = 2;
    let bytes = kernel.param_bytes;
    if extra.address() != 0 {
        let (mut buffer, mut size) = (None, 0);
        for index in (0..).step_by(2) {
            match extra.word(index)?.address() {
                0 => break,
                BUFFER => buffer = Some(extra.word(index + 1)?),
                BUFFER_SIZE => size = extra.word(index + 1)?.word(0)?.address(),
                _ => return Err(Code::InvalidValue),
            }
        }
        let packed = buffer.filter(|_| size == bytes && params.address() == 0);
        return packed.ok_or(Code::InvalidValue)?.read(bytes);
    }
    let mut block = vec![0; bytes];
    for (index, param) in kernel.params.iter().enumerate() {
        block[param.offset..][..param.size].copy_from_slice(&params.word(index)?.read(param.size)?);
    }
    Ok(block)
}

/// Takes an image as `cuModuleLoadData` does: PTX text, a fat binary, or a wrapper that points to one.
fn read_image(image: Host) -> Result<fatbin::Contents, (Code, String)> {
    let unread = |code| (code, "no module image".to_owned());
    // A text may be shorter than the magic word, so look at it byte by byte.
    let mut first = [0; 4];
    for (index, byte) in first.iter_mut().enumerate() {
        [*byte] = image.offset(index).array().map_err(unread)?;
        if *byte == 0 {
            break;
        }
    }
    match u32::from_le_bytes(first) {
        fatbin::MAGIC => {
            let invalid = |why| (Code::InvalidImage, why);
            let size = fatbin::total_size(&image.read(fatbin::HEADER).map_err(unread)?).map_err(invalid)?;
            let bytes = image.read(size).map_err(unread)?;
            fatbin::read(&bytes, limit::sm().capability).map_err(|why| (Code::NoBinaryForGpu, why))
        }
        WRAPPER_MAGIC => {
            let inner = image.word(1).map_err(unread)?;
            if u32::from_le_bytes(inner.array().map_err(unread)?) != fatbin::MAGIC {
                return Err((Code::InvalidImage, "a fat binary's wrapper points to something else".into()));
            }
            read_image(inner)
        }
        ELF_MAGIC => Err((Code::NoBinaryForGpu, "a cubin has no PTX: load PTX, or a fat binary with PTX in it".into())),
        0 => Err((Code::InvalidImage, "an empty module image".into())),
        _ => Ok(fatbin::Contents { ptx: image.text().map_err(unread)?, ..Default::default() }),
    }
}

calls! {
    Context: fn cuModuleLoadData(state, module: Out<Handle>, image: Host) {
        state.load(module, image)
    }

    /// The options steer a compiler that is not there.
    Context: fn cuModuleLoadDataEx(
        state, module: Out<Handle>, image: Host, _options: u32, _keys: Host, _values: Host,
    ) {
        state.load(module, image)
    }

    Context: fn cuModuleLoadFatBinary(state, module: Out<Handle>, image: Host) {
        state.load(module, image)
    }

    Context: fn cuModuleUnload(state, module: Handle) {
        state.refuse_unsafe("unloading a module")?;
        if !state.images.contains_key(&module) {
            return Err(Code::InvalidHandle);
        }
        state.run_all()?;
        state.functions.retain(|_, function| function.image != module);
        let image = state.images.remove(&module).expect("looked up above");
        image.module.unload(&mut state.memory).map_err(|fault| state.stop_for("unloading a module", &fault))
    }

    Context: fn cuModuleGetFunction(state, function: Out<Handle>, module: Handle, name: Host) {
        let (image, name) = (state.images.get(&module).ok_or(Code::InvalidHandle)?, name.text()?);
        if image.module.module().kernel(&name).is_none() {
            return Err(state.refuse(Code::NotFound, format!("no kernel {name} in the module")));
        }
        let same = |(_, function): &(&Handle, &Function)| function.image == module && function.name == name;
        if let Some((&known, _)) = state.functions.iter().find(same) {
            return function.set(known);
        }
        let handle = state.new_handle();
        let max_dynamic_shared = limit::SHARED_PER_BLOCK;
        state.functions.insert(handle, Function { image: module, name, max_dynamic_shared, carveout: -1 });
        function.set(handle)
    }

    Context: fn cuModuleGetGlobal_v2(state, address: Out<u64>, bytes: Out<usize>, module: Handle, name: Host) {
        let (image, name) = (state.images.get(&module).ok_or(Code::InvalidHandle)?, name.text()?);
        let Some((at, size)) = image.module.global(&name) else {
            return Err(state.refuse(Code::NotFound, format!("no global {name} in the module")));
        };
        // Either may be left out.
        let _ = address.set(at);
        let _ = bytes.set(size as usize);
        Ok(())
    }

    Context: fn cuFuncGetAttribute(state, value: Out<c_int>, attribute: u32, function: Handle) {
        let footprint = state.footprint(function)?;
        let (found, image, kernel) = state.function(function)?;
        let number = match attribute {
            0 => footprint.max_threads,
            1 => footprint.static_shared,
            2 => 0, // constant memory of the kernel's own
            3 => kernel.local_bytes as u32,
            4 => footprint.registers,
            5 => image.module.module().target,
            6 => limit::sm().capability,
            7 => 0, // cache mode
            8 => found.max_dynamic_shared,
            9 => return value.set(found.carveout),
            _ => return Err(Code::InvalidValue),
        };
        value.set(number as c_int)
    }

    Context: fn cuFuncSetAttribute(state, function: Handle, attribute: u32, value: c_int) {
        let most = state.footprint(function)?.most_dynamic_shared();
        let found = state.functions.get_mut(&function).ok_or(Code::InvalidHandle)?;
        match (attribute, u32::try_from(value)) {
            (8, Ok(bytes)) if bytes <= most => found.max_dynamic_shared = bytes,
            (9, _) if (-1..=100).contains(&value) => found.carveout = value,
            _ => return Err(state.refuse(Code::InvalidValue, format!("function attribute {attribute} set to {value}"))),
        }
        Ok(())
    }

    Context: fn cuLaunchKernel(
        state, function: Handle, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        dynamic_shared: u32, stream: Handle, params: Host, extra: Host,
    ) {
        let shape = Shape { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], dynamic_shared };
        state.launch(function, shape, stream, params, extra, false)
    }

    /// The same for blocks that wait for one another: refused where the device does not hold them all at once.
    Context: fn cuLaunchCooperativeKernel(
        state, function: Handle, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        dynamic_shared: u32, stream: Handle, params: Host,
    ) {
        let shape = Shape { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], dynamic_shared };
        state.launch(function, shape, stream, params, Host::NULL, true)
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
        let share = limit::sm().shared / positive(blocks)? / SHARED_UNIT * SHARED_UNIT;
        let left = share.saturating_sub(footprint.static_shared + limit::sm().reserved);
        bytes.set(left.min(footprint.most_dynamic_shared()) as usize)
    }

    /// The block size that keeps most threads on an SM, and the least grid that fills the device with it. The caller's
    /// function must not call the driver.
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
        let sizes = (1..=most.div_ceil(limit::WARP)).map(|warps| (warps * limit::WARP).min(most));
        let (_, threads, blocks) = sizes.map(resident).max().ok_or(Code::InvalidValue)?;
        block.set(threads as c_int)?;
        least_grid.set((blocks * limit::SMS) as c_int)
    }
}
