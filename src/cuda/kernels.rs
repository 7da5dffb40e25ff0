//! The embedded module: loaded once a device, its kernels found by tier, element type and map.

use std::ffi::CString;
use std::sync::{Arc, Mutex, OnceLock};

use cudarc::driver::{CudaContext, result, sys};

use super::error::{CudaError, driver};
use crate::Error;

/// One launch tier: which rows it takes and how. `kernels/ala.cu` lists the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tier {
    /// The part of the kernels' names.
    pub name: &'static str,
    /// The most classes that it takes where the slope is uniform; 0 where there is no such kernel.
    pub uniform: u32,
    /// The most classes that it takes where each class has a map of its own; 0 where there is no such kernel.
    pub per_class: u32,
    /// Threads of a block, at most. Fewer, whole warps, do where `lanes` is at most 32.
    pub threads: u32,
    /// Threads that work on one row.
    pub lanes: u32,
    /// Which rows it takes.
    pub rows: RowsTaken,
    /// Reductions over lanes, warps or blocks that follow one another between a row's loads and its stores.
    pub reductions: u32,
    /// Block barriers between a row's loads and its stores.
    pub barriers: u32,
}

/// What a [`Tier`] asks of its rows besides the number of classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowsTaken {
    /// Contiguous ones, of logits and gradient alike, of a batch of less than 2^31.
    Contiguous,
    /// Those of a batch of less than 2^31.
    Counted32,
    /// Those of which a part fits into a block's shared memory, where the device holds all parts of a row at once.
    Staged,
    /// All.
    Any,
}

pub(super) const WARP: u32 = 32;

const fn row(name: &'static str, most: [u32; 2], lanes: u32, threads: u32) -> Tier {
    Tier {
        name,
        uniform: most[0],
        per_class: most[1],
        threads,
        lanes,
        rows: RowsTaken::Counted32,
        // Maximum, then sum; the maximum is reduced while the exponentials are taken. A block's warps meet once more.
        reductions: if lanes > WARP { 3 } else { 2 },
        barriers: if lanes > WARP { 1 } else { 0 },
    }
}

/// The tiers in ascending order; a row goes to the first that takes it.
pub const TIERS: &[Tier] = &[
    Tier {
        rows: RowsTaken::Contiguous,
        // Every thread has a row of its own; the tile is whole before and after.
        reductions: 0,
        barriers: 2,
        ..row("packed", [24, 16], 1, 128)
    },
    row("row4x16", [64, 0], 4, 128),
    row("row8x8", [0, 64], 8, 128),
    row("row4", [112, 0], 4, 128),
    row("row16x8", [0, 128], 16, 128),
    row("row8x24", [192, 0], 8, 128),
    row("row32x8", [0, 256], 32, 128),
    row("row8x32", [256, 0], 8, 128),
    row("row16x24", [384, 0], 16, 128),
    row("row16x32", [512, 0], 16, 128),
    row("row32x16", [0, 512], 32, 128),
    row("row32x24", [768, 0], 32, 128),
    row("row32x32", [1024, 0], 32, 128),
    row("row64x16", [0, 1024], 64, 64),
    row("row64x24", [1536, 0], 64, 64),
    row("row64x32", [2048, 0], 64, 64),
    row("row128x16", [0, 2048], 128, 128),
    row("row128x24", [3072, 0], 128, 128),
    row("row128x32", [4096, 0], 128, 128),
    row("row256x16", [0, 4096], 256, 256),
    row("row256x24", [6144, 0], 256, 256),
    row("row256x32", [8192, 0], 256, 256),
    row("row512x16", [0, 8192], 512, 512),
    row("row512x24", [12288, 0], 512, 512),
    row("row512x32", [16384, 0], 512, 512),
    Tier {
        rows: RowsTaken::Staged,
        // In each warp, over the warps, and where blocks share the row over them.
        reductions: 6,
        barriers: 2,
        ..row("staged", [MOST_CLASSES, MOST_CLASSES], 512, 512)
    },
    Tier {
        rows: RowsTaken::Any,
        // Maximum and sum together, in each warp and over them.
        reductions: 2,
        ..row("streamed", [MOST_CLASSES, MOST_CLASSES], 512, 512)
    },
];

impl Tier {
    /// The most classes that it takes, for either kind of map.
    pub const fn most_classes(&self, per_class: bool) -> u32 {
        if per_class {
            self.per_class
        } else {
            self.uniform
        }
    }
}

/// Threads of the kernels that are no tier.
pub(super) const THREADS: u32 = 256;
/// What a block of the staged tier has of shared memory besides the stage, and what the driver takes of it.
const STAGE_MARGIN: u32 = 4 << 10;
/// Class indices are 32 bits in the kernels, and the last step of a stride over them must not wrap.
pub(super) const MOST_CLASSES: u32 = u32::MAX - (1 << 16);

/// The steps of the unfused baseline, one kernel each; those marked have no element type.
pub(super) const UNFUSED: [(&str, bool); 8] = [
    ("scale", true),
    ("margin", true),
    ("max", false),
    ("exponentiate", true),
    ("sum", false),
    ("loss", true),
    ("gradient", true),
    ("reduce", false),
];

const ELEMENTS: [&str; 3] = ["f32", "f16", "bf16"];
const MAPS: [&str; 2] = ["uniform", "per_class"];

/// What build.rs compiled, if it found nvcc.
#[cfg(ala_kernels)]
const FATBIN: Option<&[u8]> = Some(include_bytes!(env!("ALA_FATBIN")));
#[cfg(not(ala_kernels))]
const FATBIN: Option<&[u8]> = None;

/// A kernel of the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kernel(pub(super) sys::CUfunction);

// SAFETY: a CUfunction is a handle that the driver lets any thread use while its module is loaded; `Kernels` never unloads it.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

/// The kernels for one element type and one map.
#[derive(Debug, Clone)]
pub(super) struct Kernels {
    /// As [`TIERS`]; none where the tier has no kernel for the map.
    pub(super) tiers: Vec<Option<Kernel>>,
    pub(super) unfused: Vec<Kernel>,
    pub(super) count: Kernel,
    pub(super) device: DeviceShape,
    /// Blocks of the staged tier with a full stage that a multiprocessor holds.
    pub(super) staged_blocks: u32,
}

/// What of the device decides the shape of a launch.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeviceShape {
    pub(super) multiprocessors: u32,
    pub(super) threads: u32,
    /// Bytes of dynamic shared memory for a block of the staged tier, so that a multiprocessor holds two.
    pub(super) stage_bytes: u32,
}

impl DeviceShape {
    pub(super) fn of(context: &CudaContext) -> Result<Self, Error> {
        use sys::CUdevice_attribute as Attribute;
        let attribute = |attribute| {
            context
                .attribute(attribute)
                .map(|value| u32::try_from(value).unwrap_or(0))
                .map_err(driver("cuDeviceGetAttribute"))
        };
        let shared =
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?;
        let opt_in = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        Ok(Self {
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1),
            threads: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?
                .max(1),
            stage_bytes: (shared / 2).min(opt_in).saturating_sub(STAGE_MARGIN) / 16 * 16,
        })
    }
}

/// The module of one context, with every kernel.
#[derive(Debug)]
struct Loaded {
    context: Arc<CudaContext>,
    /// Indexed by element type, then map.
    kernels: Vec<Kernels>,
}

/// Which of the module's instances a launch needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ElementType {
    F32 = 0,
    F16 = 1,
    Bf16 = 2,
}

/// The kernels of every element type for one map, loading the module at a context's first use.
pub(super) fn load(context: &Arc<CudaContext>, per_class: bool) -> Result<[Kernels; 3], Error> {
    static LOADED: OnceLock<Mutex<Vec<Loaded>>> = OnceLock::new();
    let mut loaded = LOADED
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let index = match loaded.iter().position(|l| l.context == *context) {
        Some(index) => index,
        None => {
            loaded.push(Loaded {
                context: Arc::clone(context),
                kernels: load_all(context)?,
            });
            loaded.len() - 1
        }
    };
    let of = |element: ElementType| {
        loaded[index].kernels[element as usize * MAPS.len() + usize::from(per_class)].clone()
    };
    Ok([
        of(ElementType::F32),
        of(ElementType::F16),
        of(ElementType::Bf16),
    ])
}

/// Loads a module that is never unloaded, and gives what finds its kernels by name.
pub(super) fn load_module(
    context: &Arc<CudaContext>,
    fatbin: Option<&[u8]>,
) -> Result<impl Fn(String) -> Result<Kernel, Error>, Error> {
    let fatbin = fatbin.ok_or(CudaError::NotBuilt)?;
    context
        .bind_to_thread()
        .map_err(driver("cuCtxSetCurrent"))?;
    // SAFETY: the image is the fatbin that nvcc wrote; the driver reads it by its own header.
    let module = unsafe { result::module::load_data(fatbin.as_ptr().cast()) }
        .map_err(driver("cuModuleLoadData"))?;
    Ok(move |name: String| {
        let name = CString::new(name).expect("kernel names hold no NUL");
        // SAFETY: `module` was loaded above and is never unloaded.
        unsafe { result::module::get_function(module, name) }
            .map(Kernel)
            .map_err(driver("cuModuleGetFunction"))
    })
}

fn load_all(context: &Arc<CudaContext>) -> Result<Vec<Kernels>, Error> {
    let find = load_module(context, FATBIN)?;
    let device = DeviceShape::of(context)?;
    let count = find("ala_count".into())?;
    let mut all = Vec::new();
    for element in ELEMENTS {
        for map in MAPS {
            let mut staged_blocks = 0;
            all.push(Kernels {
                tiers: TIERS
                    .iter()
                    .map(|tier| {
                        if tier.most_classes(map == "per_class") == 0 {
                            return Ok(None);
                        }
                        let kernel = find(format!("ala_{}_{element}_{map}", tier.name))?;
                        if tier.rows == RowsTaken::Staged {
                            opt_in_to_shared(kernel, device.stage_bytes)?;
                            staged_blocks = resident(kernel, tier.threads, device.stage_bytes)?;
                        }
                        Ok(Some(kernel))
                    })
                    .collect::<Result<_, Error>>()?,
                unfused: UNFUSED
                    .iter()
                    .map(|(step, typed)| {
                        find(match typed {
                            true => format!("ala_unfused_{step}_{element}_{map}"),
                            false => format!("ala_unfused_{step}"),
                        })
                    })
                    .collect::<Result<_, _>>()?,
                count,
                device,
                staged_blocks,
            });
        }
    }
    Ok(all)
}

/// Blocks of a kernel that a multiprocessor holds at once.
fn resident(kernel: Kernel, threads: u32, shared: u32) -> Result<u32, Error> {
    // SAFETY: the kernel was found above, in a module that is never unloaded.
    unsafe {
        result::occupancy::max_active_block_per_multiprocessor(
            kernel.0,
            threads.cast_signed(),
            shared as usize,
        )
    }
    .map(|blocks| u32::try_from(blocks).unwrap_or(0))
    .map_err(driver("cuOccupancyMaxActiveBlocksPerMultiprocessor"))
}

/// Lets a kernel have more dynamic shared memory than every device grants unasked.
fn opt_in_to_shared(kernel: Kernel, bytes: u32) -> Result<(), Error> {
    // SAFETY: the kernel was found above, in a module that is never unloaded.
    unsafe {
        result::function::set_function_attribute(
            kernel.0,
            sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
            i32::try_from(bytes).unwrap_or(i32::MAX),
        )
    }
    .map_err(driver("cuFuncSetAttribute"))
}
