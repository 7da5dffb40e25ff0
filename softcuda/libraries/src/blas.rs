//! cuBLAS: matrix products. Scalars lie in host memory, which is how a handle begins and all that
//! it can be here.
//!
//! Products of `f32`, `f16` and `bf16` are summed up in `f32`, those of `f64` in `f64`: a call that
//! allows less gets more. Sums in `f16` and complex numbers are refused.
use crate::driver::{Context, Kernel, Module, Refused, Stream};
use crate::table::Table;
use std::ffi::{CStr, c_int, c_longlong, c_void};

/// A `cublasStatus_t`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The work is in the stream.
    Success = 0,
    /// No such handle, or no driver or context to make one.
    NotInitialized = 1,
    /// A size or a leading dimension that cannot be.
    InvalidValue = 7,
    /// The driver refused the work.
    ExecutionFailed = 13,
    /// This library does not have it.
    NotSupported = 15,
}

impl From<Refused> for Status {
    fn from(_: Refused) -> Self {
        Self::ExecutionFailed
    }
}

fn status(result: Result<(), Status>) -> Status {
    result.err().unwrap_or(Status::Success)
}

/// A `cublasHandle_t`.
struct Blas {
    context: Context,
    module: Module,
    stream: Stream,
}

static HANDLES: Table<Blas> = Table::new();

const PTX: &CStr = match CStr::from_bytes_with_nul(concat!(include_str!("gemm.ptx"), "\0").as_bytes()) {
    Ok(text) => text,
    Err(_) => panic!("the kernels hold a NUL"),
};

/// As many threads as keep a warp's loads of a column together; any count would do.
const THREADS: u32 = 128;

/// Makes a handle for the thread's context. Kernels are loaded here, since a stream that captures
/// could not wait for that.
#[unsafe(no_mangle)]
pub extern "C" fn cublasCreate_v2(handle: Option<&mut usize>) -> Status {
    let Some(place) = handle else { return Status::InvalidValue };
    let made = || -> Result<Blas, Refused> {
        Ok(Blas { context: Context::current()?, module: Module::load(PTX)?, stream: Stream::DEFAULT })
    };
    let Ok(blas) = made() else { return Status::NotInitialized };
    *place = HANDLES.insert(blas);
    Status::Success
}

/// Ends a handle, when all its work is done.
#[unsafe(no_mangle)]
pub extern "C" fn cublasDestroy_v2(handle: usize) -> Status {
    let Some(blas) = HANDLES.remove(handle) else { return Status::NotInitialized };
    status(blas.context.enter().and_then(|()| blas.module.unload()).map_err(Status::from))
}

/// The stream of all later calls.
#[unsafe(no_mangle)]
pub extern "C" fn cublasSetStream_v2(handle: usize, stream: usize) -> Status {
    let set = HANDLES.with(handle, |blas| blas.stream = Stream::new(stream));
    set.map_or(Status::NotInitialized, |()| Status::Success)
}

/// How products are taken: every mode allows the most exact way, which is the only one here.
#[unsafe(no_mangle)]
pub extern "C" fn cublasSetMathMode(handle: usize, _mode: u32) -> Status {
    HANDLES.with(handle, |_| ()).map_or(Status::NotInitialized, |()| Status::Success)
}

/// A factor as the caller gives it: its address, leading dimension and distance to the next.
#[derive(Clone, Copy)]
struct Matrix {
    at: u64,
    leading: i64,
    stride: i64,
}

/// Distances between elements, as the kernel has them.
#[repr(C)]
#[derive(Clone, Copy)]
struct Steps {
    row: i64,
    column: i64,
    matrix: i64,
}

impl Matrix {
    fn new(at: usize, leading: c_int, stride: c_longlong) -> Self {
        Self { at: at as u64, leading: leading.into(), stride }
    }

    /// The steps of one whose stored form has so many rows. `transposed` as `cublasOperation_t`
    /// has it; of real numbers the conjugate transpose is the transpose.
    fn steps(self, transposed: u32, rows: i64, columns: i64) -> Result<Steps, Status> {
        let (stored, row, column) = match transposed {
            0 => (rows, 1, self.leading),
            1 | 2 => (columns, self.leading, 1),
            _ => return Err(Status::InvalidValue),
        };
        if self.leading < stored.max(1) {
            return Err(Status::InvalidValue);
        }
        Ok(Steps { row, column, matrix: self.stride })
    }
}

/// `C = alpha op(A) op(B) + beta C`, with `op(A)` of m rows and k columns, `op(B)` of k and n, for
/// each matrix of a batch.
struct Product {
    operations: [u32; 2],
    /// m, n, k and the batch.
    sizes: [c_int; 4],
    a: Matrix,
    b: Matrix,
    c: Matrix,
}

impl Product {
    /// # Safety
    ///
    /// The kernel is of the matrices' type and takes scalars of type `S`; the matrices are on the
    /// device.
    unsafe fn launch<S>(&self, handle: usize, name: &CStr, (mut alpha, mut beta): (S, S)) -> Result<(), Status> {
        if self.sizes.iter().any(|&size| size < 0) {
            return Err(Status::InvalidValue);
        }
        let [mut m, mut n, mut k, mut batch] = self.sizes.map(i64::from);
        let mut a = self.a.steps(self.operations[0], m, k)?;
        let mut b = self.b.steps(self.operations[1], k, n)?;
        let mut c = self.c.steps(0, m, n)?;
        let found = HANDLES.with(handle, |blas| (blas.context, blas.stream, blas.module.kernel(name)));
        let (context, stream, kernel) = found.ok_or(Status::NotInitialized)?;
        let elements = (m * n).checked_mul(batch).ok_or(Status::NotSupported)?;
        if elements == 0 {
            return Ok(());
        }
        context.enter()?;
        let kernel: Kernel = kernel?;
        let [mut a_at, mut b_at, mut c_at] = [self.a, self.b, self.c].map(|matrix| matrix.at);
        // A thread takes further elements where there are more than a grid can have threads.
        let blocks = elements.unsigned_abs().div_ceil(THREADS.into()).min(1 << 30) as u32;
        fn place<T>(argument: &mut T) -> *mut c_void {
            std::ptr::from_mut(argument).cast()
        }
        let mut arguments = [
            place(&mut m),
            place(&mut n),
            place(&mut k),
            place(&mut batch),
            place(&mut alpha),
            place(&mut a_at),
            place(&mut a),
            place(&mut b_at),
            place(&mut b),
            place(&mut beta),
            place(&mut c_at),
            place(&mut c),
        ];
        // SAFETY: the arguments are those of `gemm.cu`, their types by this function's contract.
        unsafe { kernel.launch(blocks, THREADS, stream, &mut arguments) }?;
        Ok(())
    }
}

/// The scalars of a call.
///
/// # Safety
///
/// Where they are not null, they point to an `S` each.
unsafe fn scalars<S>(alpha: *const c_void, beta: *const c_void) -> Result<(S, S), Status> {
    if alpha.is_null() || beta.is_null() {
        return Err(Status::InvalidValue);
    }
    // SAFETY: not null, and of that type by this function's contract.
    Ok(unsafe { (alpha.cast::<S>().read_unaligned(), beta.cast::<S>().read_unaligned()) })
}

/// The type of a matrix' elements, as `cudaDataType_t` has it.
const F32: u32 = 0;
const F64: u32 = 1;
const F16: u32 = 2;
const BF16: u32 = 14;

/// Products of matrices of one type each.
///
/// # Safety
///
/// As cuBLAS says: scalars of the type of the sum in host memory, matrices in the device's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasGemmStridedBatchedEx(
    handle: usize,
    operation_a: u32,
    operation_b: u32,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const c_void,
    a: usize,
    type_a: u32,
    leading_a: c_int,
    stride_a: c_longlong,
    b: usize,
    type_b: u32,
    leading_b: c_int,
    stride_b: c_longlong,
    beta: *const c_void,
    c: usize,
    type_c: u32,
    leading_c: c_int,
    stride_c: c_longlong,
    batch: c_int,
    compute: u32,
    _algorithm: c_int,
) -> Status {
    let product = Product {
        operations: [operation_a, operation_b],
        sizes: [m, n, k, batch],
        a: Matrix::new(a, leading_a, stride_a),
        b: Matrix::new(b, leading_b, stride_b),
        c: Matrix::new(c, leading_c, stride_c),
    };
    if type_a != type_b || type_a != type_c {
        return Status::NotSupported;
    }
    // `cublasComputeType_t`: f32, pedantic, and those that allow to round the factors; f64.
    let single = matches!(compute, 68 | 69 | 74 | 75 | 77);
    let double = matches!(compute, 70 | 71);
    let name = match type_a {
        F32 if single => c"gemm_f32",
        F16 if single => c"gemm_f16",
        BF16 if single => c"gemm_bf16",
        F64 if double => c"gemm_f64",
        _ => return Status::NotSupported,
    };
    // SAFETY: the kernel is that of the types, and the scalars are of the sum's.
    let result = unsafe {
        if double {
            scalars::<f64>(alpha, beta).and_then(|scalars| product.launch(handle, name, scalars))
        } else {
            scalars::<f32>(alpha, beta).and_then(|scalars| product.launch(handle, name, scalars))
        }
    };
    status(result)
}

macro_rules! strided_batched {
    ($($name:ident of $ty:ty, $code:ident, $compute:literal;)*) => {$(
        /// Products of matrices and sums of one type.
        ///
        /// # Safety
        ///
        /// As cuBLAS says: scalars in host memory, matrices in the device's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            handle: usize,
            operation_a: u32,
            operation_b: u32,
            m: c_int,
            n: c_int,
            k: c_int,
            alpha: *const $ty,
            a: usize,
            leading_a: c_int,
            stride_a: c_longlong,
            b: usize,
            leading_b: c_int,
            stride_b: c_longlong,
            beta: *const $ty,
            c: usize,
            leading_c: c_int,
            stride_c: c_longlong,
            batch: c_int,
        ) -> Status {
            // SAFETY: the types are those that the call's name says.
            unsafe {
                cublasGemmStridedBatchedEx(
                    handle, operation_a, operation_b, m, n, k,
                    alpha.cast(), a, $code, leading_a, stride_a, b, $code, leading_b, stride_b,
                    beta.cast(), c, $code, leading_c, stride_c, batch, $compute, -1,
                )
            }
        }
    )*};
}
strided_batched! {
    cublasSgemmStridedBatched of f32, F32, 68;
    cublasDgemmStridedBatched of f64, F64, 70;
}
