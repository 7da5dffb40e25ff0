//! The embedded modules, one for each element type and map: loaded once a context when they are
//! needed, their kernels found by tier.

use std::ffi::CString;
use std::sync::{Arc, Mutex};

use cudarc::driver::{CudaContext, result, sys};

use super::error::{CudaError, driver};
use super::tiers::{RowRequirement, TIERS, Tier};

/// Threads of the kernels that are no tier.
pub(super) const THREADS: u32 = 256;
/// What a block of the staged tier has of shared memory besides the stage, and what the driver
/// takes of it.
pub(super) const STAGE_MARGIN: u32 = 4 << 10;
/// As [`ElementType`].
pub(super) const ELEMENTS: [&str; 3] = ["f32", "f16", "bf16"];
pub(super) const MAPS: [&str; 2] = ["uniform", "per_class"];

/// What build.rs compiled, if it found nvcc: by [`ElementType`], then map.
#[cfg(ala_kernels)]
const FATBINS: [[Option<&[u8]>; MAPS.len()]; ELEMENTS.len()] = {
    macro_rules! fatbin {
        ($name:literal) => {
            Some(include_bytes!(concat!(env!("ALA_KERNELS"), "/", $name, ".fatbin")).as_slice())
        };
    }
    [
        [fatbin!("f32_uniform"), fatbin!("f32_per_class")],
        [fatbin!("f16_uniform"), fatbin!("f16_per_class")],
        [fatbin!("bf16_uniform"), fatbin!("bf16_per_class")],
    ]
};
#[cfg(not(ala_kernels))]
const FATBINS: [[Option<&[u8]>; MAPS.len()]; ELEMENTS.len()] = [[None; 2]; 3];

/// A kernel of the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kernel(pub(super) sys::CUfunction);

// SAFETY: a CUfunction is a handle that the driver lets any thread use while its module is loaded;
// `Kernels` never unloads it.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

/// The kernels for one element type and one map.
#[derive(Debug, Clone)]
pub(super) struct Kernels {
    /// As [`TIERS`]; none where the tier has no kernel for the map.
    pub(super) tiers: Vec<Option<Kernel>>,
    pub(super) count: Kernel,
    pub(super) device: DeviceLimits,
    /// Blocks of the staged tier that a multiprocessor holds, whatever their stages.
    pub(super) staged_blocks: u32,
    /// Whether they wait for the kernel before them, and may so begin while it ends.
    pub(super) overlap: bool,
}

/// What of the device decides the shape of a launch.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeviceLimits {
    pub(super) multiprocessors: u32,
    pub(super) threads: u32,
    /// Bytes of dynamic shared memory for a block of the staged tier, so that a multiprocessor
    /// holds two.
    pub(super) stage_bytes: u32,
    /// Bytes of shared memory of a multiprocessor.
    pub(super) shared: u32,
}

impl DeviceLimits {
    pub(super) fn of(context: &CudaContext) -> Result<Self, CudaError> {
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
            shared,
        })
    }
}

/// A module of one context.
#[derive(Debug)]
struct Loaded {
    context: Arc<CudaContext>,
    unit: (ElementType, bool),
    kernels: Arc<Kernels>,
}

/// The element type of a launch's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ElementType {
    F32 = 0,
    F16 = 1,
    Bf16 = 2,
}

/// The kernels of an element type and a map, loading their module at a context's first use.
pub(super) fn load(
    context: &Arc<CudaContext>,
    element: ElementType,
    per_class: bool,
) -> Result<Arc<Kernels>, CudaError> {
    static LOADED: Mutex<Vec<Loaded>> = Mutex::new(Vec::new());
    let mut loaded = LOADED
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let unit = (element, per_class);
    let known = loaded
        .iter()
        .find(|known| known.context == *context && known.unit == unit);
    if let Some(known) = known {
        return Ok(Arc::clone(&known.kernels));
    }
    let kernels = Arc::new(load_unit(context, unit)?);
    loaded.push(Loaded {
        context: Arc::clone(context),
        unit,
        kernels: Arc::clone(&kernels),
    });
    Ok(kernels)
}

/// Whether there are kernels to load.
pub(super) fn check_built() -> Result<(), CudaError> {
    FATBINS[0][0].ok_or(CudaError::NotBuilt).map(drop)
}

/// Loads a module that is never unloaded, and gives what finds its kernels by name.
pub(super) fn load_module(
    context: &Arc<CudaContext>,
    fatbin: Option<&[u8]>,
) -> Result<impl Fn(String) -> Result<Kernel, CudaError>, CudaError> {
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

fn load_unit(
    context: &Arc<CudaContext>,
    (element, per_class): (ElementType, bool),
) -> Result<Kernels, CudaError> {
    let (type_index, map_index) = (element as usize, usize::from(per_class));
    let find = load_module(context, FATBINS[type_index][map_index])?;
    let device = DeviceLimits::of(context)?;
    let count = find("ala_count".into())?;
    let mut staged_blocks = 0;
    let mut kernel_of = |tier: &Tier| {
        if tier.most_classes(per_class) == 0 {
            return Ok(None);
        }
        let (element, map) = (ELEMENTS[type_index], MAPS[map_index]);
        let kernel = find(format!("ala_{}_{element}_{map}", tier.name))?;
        if tier.rows == RowRequirement::Staged {
            opt_in_to_shared(kernel, device.stage_bytes)?;
            staged_blocks = resident(kernel, tier.threads, 0)?;
        }
        Ok(Some(kernel))
    };
    Ok(Kernels {
        tiers: TIERS
            .iter()
            .map(&mut kernel_of)
            .collect::<Result<_, CudaError>>()?,
        count,
        device,
        staged_blocks,
        overlap: waits_for_earlier(count)?,
    })
}

/// Blocks of a kernel that a multiprocessor holds at once.
fn resident(kernel: Kernel, threads: u32, shared: u32) -> Result<u32, CudaError> {
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

/// Whether a kernel was compiled with a wait for the one before it (`kernels/kernel.h`): PTX of an
/// older capability has none on a newer device either.
fn waits_for_earlier(kernel: Kernel) -> Result<bool, CudaError> {
    const FIRST: i32 = 90;
    // SAFETY: the kernel was found above, in a module that is never unloaded.
    unsafe {
        result::function::get_function_attribute(
            kernel.0,
            sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PTX_VERSION,
        )
    }
    .map(|version| version >= FIRST)
    .map_err(driver("cuFuncGetAttribute"))
}

/// Lets a kernel have more dynamic shared memory than every device grants unasked.
fn opt_in_to_shared(kernel: Kernel, bytes: u32) -> Result<(), CudaError> {
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
