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
    /// The most classes that it takes where the slope is uniform; a map for each class takes
    /// [`per_class`](Self::per_class).
    pub uniform: u32,
    /// The most classes that it takes where each class has a map of its own.
    pub per_class: u32,
    /// Rows that a block works on at a time.
    pub rows: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Whether rows must be contiguous, of logits and gradient alike.
    pub contiguous: bool,
}

const fn tier(name: &'static str, most: [u32; 2], rows: u32, threads: u32) -> Tier {
    Tier {
        name,
        uniform: most[0],
        per_class: most[1],
        rows,
        threads,
        contiguous: false,
    }
}

/// The tiers in ascending order; a row goes to the first that takes it.
pub const TIERS: &[Tier] = &[
    Tier {
        contiguous: true,
        ..tier("packed", [48, 48], 128, 128)
    },
    tier("octet8", [64, 64], 16, 128),
    tier("half8", [128, 128], 8, 128),
    tier("warp8", [256, 256], 4, 128),
    tier("warp16", [512, 256], 4, 128),
    tier("block64", [1024, 512], 1, 64),
    tier("block128", [2048, 1024], 1, 128),
    tier("block256", [4096, 2048], 1, 256),
    tier("block512", [8192, 4096], 1, 512),
    tier("block1024", [16384, 8192], 1, 1024),
    tier("streamed", [MOST_CLASSES, MOST_CLASSES], 1, 512),
];

impl Tier {
    /// The place in [`TIERS`] of the tier that takes rows of `classes` classes.
    pub fn of(classes: u32, per_class: bool, contiguous: bool) -> usize {
        TIERS
            .iter()
            .position(|tier| {
                let most = if per_class {
                    tier.per_class
                } else {
                    tier.uniform
                };
                classes <= most && (contiguous || !tier.contiguous)
            })
            .unwrap_or(TIERS.len() - 1)
    }
}

/// Threads of the kernels that are no tier.
pub(super) const THREADS: u32 = 256;
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
    pub(super) tiers: Vec<Kernel>,
    pub(super) unfused: Vec<Kernel>,
    pub(super) count: Kernel,
    pub(super) multiprocessors: u32,
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

fn load_all(context: &Arc<CudaContext>) -> Result<Vec<Kernels>, Error> {
    let fatbin = FATBIN.ok_or(CudaError::NotBuilt)?;
    context
        .bind_to_thread()
        .map_err(driver("cuCtxSetCurrent"))?;
    // SAFETY: the image is the fatbin that nvcc wrote; the driver reads it by its own header.
    let module = unsafe { result::module::load_data(fatbin.as_ptr().cast()) }
        .map_err(driver("cuModuleLoadData"))?;
    let find = |name: String| {
        let name = CString::new(name).expect("kernel names hold no NUL");
        // SAFETY: `module` was loaded above and is never unloaded.
        unsafe { result::module::get_function(module, name) }
            .map(Kernel)
            .map_err(driver("cuModuleGetFunction"))
    };
    let multiprocessors = context
        .attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
        .map_err(driver("cuDeviceGetAttribute"))?;
    let count = find("ala_count".into())?;
    let mut all = Vec::new();
    for element in ELEMENTS {
        for map in MAPS {
            all.push(Kernels {
                tiers: TIERS
                    .iter()
                    .map(|tier| find(format!("ala_{}_{element}_{map}", tier.name)))
                    .collect::<Result<_, _>>()?,
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
                multiprocessors: u32::try_from(multiprocessors).unwrap_or(1).max(1),
            });
        }
    }
    Ok(all)
}
