//! Loaded modules and the kernels handed out of them: what a block of one takes, and how its
//! parameters are laid out.

use super::code::Code;
use super::handle::Handle;
use super::pointer::Host;
use crate::device::{REGISTER_UNIT, REGISTERS, SHARED_PER_BLOCK, THREADS_PER_BLOCK, WARP, current_sm};
use crate::exec::LoadedModule;
use crate::fatbin;
use crate::occupancy::Block;
use crate::ptx::Kernel;
use std::collections::BTreeMap;
use std::ffi::c_int;
use std::sync::Arc;

/// Registers a thread, where the image has no SASS to read the number from and the kernel has no
/// launch bounds.
const UNKNOWN_REGISTERS: u32 = 32;
/// Of `__fatBinC_Wrapper_t`: magic, version, then the fat binary's address.
const WRAPPER_MAGIC: u32 = 0x4662_43b1;
const ELF_MAGIC: u32 = u32::from_le_bytes(*b"\x7fELF");

/// A module loaded to the device.
pub struct LoadedImage {
    pub module: Arc<LoadedModule>,
    /// Registers a thread, by kernel.
    pub registers: BTreeMap<String, u32>,
}

/// A kernel handed out to the caller.
pub struct Function {
    pub image: Handle,
    pub name: String,
    pub max_dynamic_shared: u32,
    pub carveout: c_int,
}

/// What a block of a kernel takes of an SM.
pub struct Footprint {
    pub registers: u32,
    pub static_shared: u32,
    pub max_threads: u32,
}

impl LoadedImage {
    /// A kernel's footprint.
    pub fn footprint(&self, kernel: &Kernel) -> Footprint {
        let registers = self.registers.get(&kernel.name).copied();
        Footprint {
            registers: registers.or_else(|| most_registers(kernel)).unwrap_or(UNKNOWN_REGISTERS),
            static_shared: kernel.static_shared_bytes as u32,
            max_threads: kernel.max_threads.unwrap_or(u32::MAX).min(THREADS_PER_BLOCK),
        }
    }
}

impl Function {
    /// A kernel as it is at first.
    pub fn new(image: Handle, name: String) -> Self {
        Self { image, name, max_dynamic_shared: SHARED_PER_BLOCK, carveout: -1 }
    }
}

impl Footprint {
    /// The most dynamic shared memory that a block can be given.
    pub fn most_dynamic_shared(&self) -> u32 {
        current_sm().shared_opt_in().saturating_sub(self.static_shared)
    }

    /// How many blocks an SM holds at once.
    pub fn blocks_per_sm(&self, threads: u32, dynamic_shared: usize) -> u32 {
        let shared = u32::try_from(dynamic_shared).unwrap_or(u32::MAX).saturating_add(self.static_shared);
        let block = Block { threads, registers: self.registers, shared };
        if threads > self.max_threads { 0 } else { current_sm().resident_blocks(block) }
    }
}

/// As many as the kernel's launch bounds leave a thread: a compiler takes most of them.
fn most_registers(kernel: &Kernel) -> Option<u32> {
    const OF_A_THREAD: u32 = 255;
    let warps = kernel.max_threads?.div_ceil(WARP).checked_mul(kernel.min_blocks?)?;
    let a_warp = REGISTERS.checked_div(warps)? / REGISTER_UNIT * REGISTER_UNIT;
    Some((a_warp / WARP).min(OF_A_THREAD))
}

/// The kernel's parameter block, from an array of pointers or from a packed buffer.
pub fn read_params(kernel: &Kernel, params: Host, extra: Host) -> Result<Vec<u8>, Code> {
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

/// Takes an image as `cuModuleLoadData` does: PTX text, a fat binary, or a wrapper that points to
/// one. What is wrong with it comes along; machine code is not faulty, only not for this device,
/// and who has PTX as well tries that next.
pub fn read_image(image: Host) -> Result<fatbin::Contents, (Code, Option<String>)> {
    let unread = |code| (code, Some("no module image".to_owned()));
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
            let invalid = |why| (Code::InvalidImage, Some(why));
            let size = fatbin::total_size(&image.read(fatbin::HEADER).map_err(unread)?).map_err(invalid)?;
            let bytes = image.read(size).map_err(unread)?;
            fatbin::read(&bytes, current_sm().capability).map_err(|why| (Code::NoBinaryForGpu, Some(why)))
        }
        WRAPPER_MAGIC => {
            let inner = image.word(1).map_err(unread)?;
            if u32::from_le_bytes(inner.array().map_err(unread)?) != fatbin::MAGIC {
                let why = "a fat binary's wrapper points to something else";
                return Err((Code::InvalidImage, Some(why.into())));
            }
            read_image(inner)
        }
        ELF_MAGIC => Err((Code::NoBinaryForGpu, None)),
        0 => Err((Code::InvalidImage, Some("an empty module image".into()))),
        _ => Ok(fatbin::Contents { ptx: image.text().map_err(unread)?, ..Default::default() }),
    }
}
