//! The modules, one for each element type and map: loaded once a context when they are
//! needed, their kernels found by tier.

use std::ffi::CString;
use std::sync::{Arc, Mutex};

use cudarc::driver::{CudaContext, result, sys};

use super::error::{CudaError, driver};
use super::image::{self, Candidate, ELEMENTS, MAPS, Steps};
use super::tiers::{RowRequirement, TIERS, Tier};

/// Threads of the kernels that are no tier.
pub(super) const THREADS: u32 = 256;
/// What a block of the staged tier has of shared memory besides the stage, and what the driver
/// takes of it.
pub(super) const STAGE_MARGIN: u32 = 4 << 10;
/// A kernel of the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kernel(pub(super) sys::CUfunction);

// SAFETY: a CUfunction is a handle that the driver lets any thread use while its module is loaded;
// `Kernels` never unloads it.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

/// What a module has the kernels for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) steps: Steps,
    pub(super) element: ElementType,
    pub(super) per_class: bool,
}

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

/// The two halves of a step over some of the classes, for one element type and one map.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShardKernels {
    pub(super) partial: Kernel,
    pub(super) finish: Kernel,
    pub(super) count: Kernel,
    pub(super) device: DeviceLimits,
    /// As [`Kernels::overlap`].
    pub(super) overlap: bool,
}

/// A module of one context.
#[derive(Debug)]
struct Loaded<K> {
    context: Arc<CudaContext>,
    unit: Unit,
    kernels: Arc<K>,
}

/// The element type of a launch's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ElementType {
    F32 = 0,
    F16 = 1,
    Bf16 = 2,
}

/// A unit's kernels, loading their module at a context's first use.
pub(super) fn load(context: &Arc<CudaContext>, unit: Unit) -> Result<Arc<Kernels>, CudaError> {
    static LOADED: Mutex<Vec<Loaded<Kernels>>> = Mutex::new(Vec::new());
    load_once(&LOADED, context, unit, load_unit)
}

/// The same of a unit of [`Steps::Shard`].
pub(super) fn load_shard(
    context: &Arc<CudaContext>,
    unit: Unit,
) -> Result<Arc<ShardKernels>, CudaError> {
    static LOADED: Mutex<Vec<Loaded<ShardKernels>>> = Mutex::new(Vec::new());
    load_once(&LOADED, context, unit, load_shard_unit)
}

fn load_once<K>(
    all: &Mutex<Vec<Loaded<K>>>,
    context: &Arc<CudaContext>,
    unit: Unit,
    load: impl FnOnce(&Arc<CudaContext>, Unit) -> Result<K, CudaError>,
) -> Result<Arc<K>, CudaError> {
    let mut loaded = all.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let known = loaded
        .iter()
        .find(|known| known.context == *context && known.unit == unit);
    if let Some(known) = known {
        return Ok(Arc::clone(&known.kernels));
    }
    let kernels = Arc::new(load(context, unit)?);
    loaded.push(Loaded {
        context: Arc::clone(context),
        unit,
        kernels: Arc::clone(&kernels),
    });
    Ok(kernels)
}

/// Whether there are kernels for a context's device.
pub(super) fn check_there(context: &CudaContext, steps: Steps) -> Result<(), CudaError> {
    image::candidates(steps, capability(context)?).map(drop)
}

/// A device's compute capability, times ten.
fn capability(context: &CudaContext) -> Result<u32, CudaError> {
    use sys::CUdevice_attribute as Attribute;
    let part = |attribute| {
        let number = context.attribute(attribute);
        let number = number.map_err(driver("cuDeviceGetAttribute"))?;
        Ok(u32::try_from(number).unwrap_or(0))
    };
    let major: u32 = part(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    Ok(10 * major + part(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?)
}

/// A module that is never unloaded.
#[derive(Clone, Copy)]
pub(super) struct Module(sys::CUmodule);

impl Module {
    /// `image`: a fatbin, machine code, or PTX that ends with a zero.
    pub(super) fn load(context: &Arc<CudaContext>, image: &[u8]) -> Result<Self, CudaError> {
        context
            .bind_to_thread()
            .map_err(driver("cuCtxSetCurrent"))?;
        // SAFETY: the image is what a compiler of NVIDIA's wrote; the driver reads a fatbin and
        // machine code by their own headers, and text to its zero.
        unsafe { result::module::load_data(image.as_ptr().cast()) }
            .map(Self)
            .map_err(driver("cuModuleLoadData"))
    }

    pub(super) fn find(self, name: &str) -> Result<Kernel, CudaError> {
        let name = CString::new(name).expect("kernel names hold no NUL");
        // SAFETY: the module was loaded above and is never unloaded.
        unsafe { result::module::get_function(self.0, name) }
            .map(Kernel)
            .map_err(driver("cuModuleGetFunction"))
    }
}

/// Loads a unit as the device takes it best.
fn load_best(context: &Arc<CudaContext>, unit: Unit) -> Result<Module, CudaError> {
    const NO_BINARY_FOR_GPU: u32 = sys::CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU as u32;
    let capability = capability(context)?;
    let place = image::unit(unit.element as usize, unit.per_class);
    let mut failure = image::none_for(unit.steps, capability);
    for candidate in image::candidates(unit.steps, capability)? {
        let error = match Module::load(context, &candidate.image(place)) {
            Ok(module) => return Ok(module),
            Err(error) => error,
        };
        if let Some(too_old) = too_old(&candidate) {
            return Err(too_old);
        }
        // Some devices take no machine code but their own.
        let no_binary = matches!(
            error,
            CudaError::Driver {
                code: NO_BINARY_FOR_GPU,
                ..
            }
        );
        if !no_binary {
            failure = error;
        }
    }
    Err(failure)
}

/// Why the driver did not take an image, if it is older than that.
fn too_old(candidate: &Candidate) -> Option<CudaError> {
    let mut number = 0;
    // SAFETY: it writes one number to where it is told.
    let asked = unsafe { sys::cuDriverGetVersion(&mut number) };
    // 12090 is 12.9.
    let number = u32::try_from(number).unwrap_or(0);
    let driver = (number / 1000, number % 1000 / 10);
    let is_older = asked == sys::CUresult::CUDA_SUCCESS && driver < candidate.driver;
    is_older.then_some(CudaError::DriverTooOld {
        driver,
        needed: candidate.driver,
    })
}

fn load_unit(context: &Arc<CudaContext>, unit: Unit) -> Result<Kernels, CudaError> {
    let (prefix, per_class) = (unit.steps.prefix(), unit.per_class);
    let module = load_best(context, unit)?;
    let device = DeviceLimits::of(context)?;
    let count = module.find(&format!("{prefix}count"))?;
    let mut staged_blocks = 0;
    let mut kernel_of = |tier: &Tier| {
        if tier.most_classes(per_class) == 0 {
            return Ok(None);
        }
        let (element, map) = (
            ELEMENTS[unit.element as usize],
            MAPS[usize::from(per_class)],
        );
        let kernel = module.find(&format!("{prefix}{}_{element}_{map}", tier.name))?;
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

fn load_shard_unit(context: &Arc<CudaContext>, unit: Unit) -> Result<ShardKernels, CudaError> {
    let module = load_best(context, unit)?;
    let (prefix, element) = (unit.steps.prefix(), ELEMENTS[unit.element as usize]);
    let map = MAPS[usize::from(unit.per_class)];
    let half = |half: &str| module.find(&format!("{prefix}{half}_{element}_{map}"));
    let count = module.find(&format!("{prefix}count"))?;
    Ok(ShardKernels {
        partial: half("partial")?,
        finish: half("finish")?,
        count,
        device: DeviceLimits::of(context)?,
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
