//! Products and random numbers on the driver in software, through the C interface that candle
//! calls.
#![allow(clippy::unwrap_used)] // a test may panic

use cudarc::driver::sys::{self, CUresult, CUstream};
use softcuda::client::SoftCuda;
use softcuda_libraries::{blas, rand};
use std::ffi::{CString, c_void};
use std::process::Command;
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

fn ok(result: CUresult) {
    assert_eq!(result, CUresult::CUDA_SUCCESS);
}

/// A fresh driver with a current context and a stream, for one test at a time.
fn stream() -> (CUstream, SoftCuda, MutexGuard<'static, ()>) {
    static ONE: Mutex<()> = Mutex::new(());
    static LOADED: OnceLock<SoftCuda> = OnceLock::new();
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let soft = *LOADED.get_or_init(|| SoftCuda::load(&SoftCuda::locate().unwrap()).unwrap());
    soft.reset();
    let (mut context, mut stream) = (null_mut(), null_mut());
    // SAFETY: the places are this function's.
    unsafe {
        ok(sys::cuInit(0));
        ok(sys::cuDevicePrimaryCtxRetain(&mut context, 0));
        ok(sys::cuCtxSetCurrent(context));
        ok(sys::cuStreamCreate(&mut stream, 1));
    }
    (stream, soft, guard)
}

/// Device memory that holds these values.
fn upload<T: Copy>(values: &[T]) -> usize {
    let (mut at, bytes) = (0, size_of_val(values));
    // SAFETY: the allocation has that size.
    unsafe {
        ok(sys::cuMemAlloc_v2(&mut at, bytes));
        ok(sys::cuMemcpyHtoD_v2(at, values.as_ptr().cast(), bytes));
    }
    at as usize
}

fn download<T: Copy + Default>(stream: CUstream, at: usize, count: usize) -> Vec<T> {
    let mut values = vec![T::default(); count];
    // SAFETY: both hold so many values, and the stream is waited for.
    unsafe {
        ok(sys::cuMemcpyDtoHAsync_v2(values.as_mut_ptr().cast(), at as u64, size_of_val(&values[..]), stream));
        ok(sys::cuStreamSynchronize(stream));
    }
    values
}

fn handle(stream: CUstream) -> usize {
    let mut handle = 0;
    assert_eq!(blas::cublasCreate_v2(Some(&mut handle)), blas::Status::Success);
    assert_eq!(blas::cublasSetStream_v2(handle, stream as usize), blas::Status::Success);
    handle
}

const SIZES: [i32; 4] = [3, 4, 5, 2];
/// Longer than any column, as where the matrices are parts of larger ones.
const LEADING: i32 = 7;
/// From one matrix to the next.
const STRIDE: i64 = 40;
const LENGTH: usize = 80;

/// A product of small whole numbers, which all types hold exactly.
struct Product {
    transposed: [bool; 2],
    scalars: [f64; 2],
    a: Vec<f64>,
    b: Vec<f64>,
    c: Vec<f64>,
}

impl Product {
    fn new(transposed: [bool; 2], scalars: [f64; 2]) -> Self {
        let whole = |factor: usize| (0..LENGTH).map(|at| ((at * factor) % 7) as f64 - 3.0).collect();
        Self { transposed, scalars, a: whole(5), b: whole(11), c: whole(13) }
    }

    /// As cuBLAS defines it; what lies between the columns stays.
    fn reference(&self) -> Vec<f64> {
        let [m, n, k, batch] = SIZES.map(|size| size as usize);
        let (leading, mut result) = (LEADING as usize, self.c.clone());
        let [alpha, beta] = self.scalars;
        let at = |transposed, row, column| if transposed { column + row * leading } else { row + column * leading };
        for matrix in (0..batch).map(|matrix| matrix * STRIDE as usize) {
            for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                let terms = (0..k).map(|p| {
                    self.a[matrix + at(self.transposed[0], i, p)] * self.b[matrix + at(self.transposed[1], p, j)]
                });
                let sum: f64 = terms.sum();
                let place = &mut result[matrix + at(false, i, j)];
                *place = alpha * sum + if beta == 0.0 { 0.0 } else { beta * *place };
            }
        }
        result
    }

    /// Runs it in a type; `ty` and `compute` are cuBLAS' names of it, and of its sum's.
    fn run<T: Copy + Default, S: Copy>(
        &self,
        (stream, handle): (CUstream, usize),
        (ty, compute): (u32, u32),
        narrow: impl Fn(f64) -> T,
        scalar: impl Fn(f64) -> S,
    ) -> Result<Vec<T>, blas::Status> {
        let of = |values: &[f64]| upload(&values.iter().map(|&x| narrow(x)).collect::<Vec<_>>());
        let (a, b, c) = (of(&self.a), of(&self.b), of(&self.c));
        let ([m, n, k, batch], [alpha, beta]) = (SIZES, self.scalars.map(scalar));
        let [operation_a, operation_b] = self.transposed.map(u32::from);
        fn at<S>(scalar: &S) -> *const c_void {
            std::ptr::from_ref(scalar).cast()
        }
        // SAFETY: the scalars are of the sum's type, and the matrices lie within what was uploaded.
        let status = unsafe {
            blas::cublasGemmStridedBatchedEx(
                handle,
                operation_a,
                operation_b,
                m,
                n,
                k,
                at(&alpha),
                a,
                ty,
                LEADING,
                STRIDE,
                b,
                ty,
                LEADING,
                STRIDE,
                at(&beta),
                c,
                ty,
                LEADING,
                STRIDE,
                batch,
                compute,
                -1,
            )
        };
        match status {
            blas::Status::Success => Ok(download(stream, c, LENGTH)),
            status => Err(status),
        }
    }
}

/// A whole number as a half, by its digits: 1 is `one`, and `digits` are those of the fraction.
fn half(x: f64, digits: u32, one: u16) -> u16 {
    let bits = (x.abs() as f32).to_bits();
    let exponent = (bits >> 23) as i32 - 127;
    let fraction = bits >> (23 - digits) & ((1 << digits) - 1);
    let sign = u16::from(x < 0.0) << 15;
    let magnitude = i32::from(one) + (exponent << digits) + fraction as i32;
    if x == 0.0 { 0 } else { magnitude as u16 | sign }
}

#[test]
fn products_are_those_that_cublas_defines_in_every_type_and_transposition() {
    let (stream, _soft, _one) = stream();
    let on = (stream, handle(stream));
    for transposed in [[false, false], [true, false], [false, true], [true, true]] {
        for scalars in [[1.0, 0.0], [2.0, 0.0], [-1.0, 3.0], [0.0, 2.0], [0.0, 0.0]] {
            let product = Product::new(transposed, scalars);
            let want = product.reference();
            let what = format!("{transposed:?}, {scalars:?}");
            let single = product.run(on, (0, 68), |x| x as f32, |x| x as f32).unwrap();
            assert_eq!(single.into_iter().map(f64::from).collect::<Vec<_>>(), want, "f32, {what}");
            assert_eq!(product.run(on, (1, 70), |x| x, |x| x).unwrap(), want, "f64, {what}");
            for (ty, digits, one) in [(2, 10, 0x3c00), (14, 7, 0x3f80)] {
                let got = product.run(on, (ty, 68), |x| half(x, digits, one), |x| x as f32).unwrap();
                // Both zeros are as good.
                let got: Vec<u16> = got.into_iter().map(|bits| if bits == 0x8000 { 0 } else { bits }).collect();
                let want: Vec<u16> = want.iter().map(|&x| half(x, digits, one)).collect();
                assert_eq!(got, want, "type {ty}, {what}");
            }
        }
    }
    assert_eq!(blas::cublasDestroy_v2(on.1), blas::Status::Success);
}

#[test]
fn what_is_overwritten_is_not_read_and_factors_of_nothing_are_not_either() {
    let (stream, _soft, _one) = stream();
    let on = (stream, handle(stream));
    let mut product = Product::new([false, false], [1.0, 0.0]);
    product.c = vec![f64::NAN; LENGTH];
    let got = product.run(on, (1, 70), |x| x, |x| x).unwrap();
    assert_eq!(got.iter().filter(|x| x.is_finite()).count(), 3 * 4 * 2);
    let mut product = Product::new([false, false], [0.0, 1.0]);
    product.a = vec![f64::NAN; LENGTH];
    assert_eq!(product.run(on, (1, 70), |x| x, |x| x).unwrap(), product.c);
}

#[test]
fn what_cublas_refuses_and_what_is_not_here_is_refused() {
    let (stream, _soft, _one) = stream();
    let handle = handle(stream);
    let on = (stream, handle);
    let product = Product::new([false, false], [1.0, 0.0]);
    // Sums in f16, integers, f32 summed in f64.
    for types in [(2, 64), (3, 72), (0, 70), (1, 68)] {
        assert_eq!(product.run(on, types, |x| x, |x| x).unwrap_err(), blas::Status::NotSupported, "{types:?}");
    }
    let status = product.run((stream, handle + 1), (1, 70), |x| x, |x| x).unwrap_err();
    assert_eq!(status, blas::Status::NotInitialized);
    let call = |operation, sizes: [i32; 3], leading: [i32; 3]| {
        let (one, [m, n, k], [a, b, c]) = (1f32, sizes, leading);
        // SAFETY: all of these calls do nothing.
        unsafe {
            blas::cublasSgemmStridedBatched(handle, operation, 0, m, n, k, &one, 0, a, 0, 0, b, 0, &one, 0, c, 0, 1)
        }
    };
    assert_eq!(call(0, [0, 4, 5], [1, 5, 1]), blas::Status::Success, "nothing to do");
    for (operation, sizes, leading) in [
        (0, [-1, 4, 5], [7, 7, 7]),
        (3, [0, 4, 5], [7, 7, 7]),
        (0, [3, 4, 5], [2, 5, 3]),
        (1, [3, 4, 5], [4, 5, 3]),
        (0, [3, 4, 5], [3, 4, 3]),
        (0, [3, 4, 5], [3, 5, 2]),
    ] {
        let status = call(operation, sizes, leading);
        assert_eq!(status, blas::Status::InvalidValue, "{operation}, {sizes:?}, {leading:?}");
    }
}

#[test]
fn products_are_captured_and_keep_to_their_stream() {
    let (stream, soft, _one) = stream();
    let handle = handle(stream);
    let (a, b, c) = (upload(&[3f32]), upload(&[5f32]), upload(&[0f32]));
    let product = || {
        let (alpha, beta) = (1f32, 1f32);
        // SAFETY: each matrix is one number.
        let status = unsafe {
            blas::cublasSgemmStridedBatched(handle, 0, 0, 1, 1, 1, &alpha, a, 1, 0, b, 1, 0, &beta, c, 1, 0, 1)
        };
        assert_eq!(status, blas::Status::Success);
    };
    product();
    assert_eq!(soft.pending(), 1, "nothing has waited for it");
    assert_eq!(download::<f32>(stream, c, 1), [15.0]);
    let (mut graph, mut executable) = (null_mut(), null_mut());
    // SAFETY: the places are this test's, and what the graph works on is live.
    unsafe {
        ok(sys::cuStreamBeginCapture_v2(stream, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
        product();
        ok(sys::cuStreamEndCapture(stream, &mut graph));
        ok(sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0));
        for _ in 0..2 {
            ok(sys::cuGraphLaunch(executable, stream));
        }
    }
    assert_eq!(download::<f32>(stream, c, 1), [45.0]);
}

fn generator(stream: CUstream, seed: u64) -> usize {
    let mut generator = 0;
    assert_eq!(rand::curandCreateGenerator(Some(&mut generator), 100), rand::Status::Success);
    assert_eq!(rand::curandSetStream(generator, stream as usize), rand::Status::Success);
    assert_eq!(rand::curandSetPseudoRandomGeneratorSeed(generator, seed), rand::Status::Success);
    generator
}

fn moments(values: &[f64]) -> [f64; 3] {
    let mean = |power| values.iter().map(|x: &f64| x.powi(power)).sum::<f64>() / values.len() as f64;
    [mean(1), mean(2), mean(4)]
}

#[test]
fn random_numbers_have_their_moments_and_repeat_with_their_seed() {
    const COUNT: usize = 40_000;
    let (stream, _soft, _one) = stream();
    let (single, double) = (upload(&[0f32; COUNT]), upload(&[0f64; COUNT]));
    let draw = |seed| {
        let generator = generator(stream, seed);
        // SAFETY: the memory has room for the numbers.
        let drawn = unsafe {
            assert_eq!(rand::curandGenerateUniform(generator, single, COUNT), rand::Status::Success);
            assert_eq!(rand::curandGenerateUniformDouble(generator, double, COUNT), rand::Status::Success);
            let uniform = (download::<f32>(stream, single, COUNT), download::<f64>(stream, double, COUNT));
            assert_eq!(rand::curandGenerateNormal(generator, single, COUNT, 1.0, 2.0), rand::Status::Success);
            assert_eq!(rand::curandGenerateNormalDouble(generator, double, COUNT, 1.0, 2.0), rand::Status::Success);
            [uniform, (download::<f32>(stream, single, COUNT), download::<f64>(stream, double, COUNT))]
        };
        assert_eq!(rand::curandDestroyGenerator(generator), rand::Status::Success);
        drawn.map(|(single, double)| [single.into_iter().map(f64::from).collect(), double])
    };
    let [uniform, normal]: [[Vec<f64>; 2]; 2] = draw(7);
    // Five standard errors of each moment.
    for values in uniform {
        assert!(values.iter().all(|&x| x > 0.0 && x <= 1.0));
        for (got, want) in moments(&values).into_iter().zip([1.0 / 2.0, 1.0 / 3.0, 1.0 / 5.0]) {
            assert!((got - want).abs() < 0.008, "{got}, not {want}");
        }
    }
    for values in normal {
        let standard: Vec<f64> = values.iter().map(|x| (x - 1.0) / 2.0).collect();
        for ((got, want), off) in moments(&standard).into_iter().zip([0.0, 1.0, 3.0]).zip([0.025, 0.036, 0.25]) {
            assert!((got - want).abs() < off, "{got}, not {want}");
        }
    }
    assert!(draw(7) == draw(7) && draw(7) != draw(8));
}

#[test]
fn random_numbers_that_cannot_be_are_refused() {
    let (stream, _soft, _one) = stream();
    let (generator, room) = (generator(stream, 1), upload(&[0f32; 4]));
    assert_eq!(rand::curandCreateGenerator(Some(&mut 0), 201), rand::Status::TypeError, "a quasi-random one");
    // SAFETY: nothing is written but for the last call, which there is room for.
    unsafe {
        assert_eq!(rand::curandGenerateNormal(generator, room, 3, 0.0, 1.0), rand::Status::LengthNotMultiple);
        assert_eq!(rand::curandGenerateUniform(generator + 1, room, 4), rand::Status::NotInitialized);
        ok(sys::cuStreamBeginCapture_v2(stream, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
        assert_eq!(rand::curandGenerateUniform(generator, room, 4), rand::Status::LaunchFailure);
        ok(sys::cuStreamEndCapture(stream, &mut null_mut()));
        assert_eq!(rand::curandGenerateUniform(generator, room, 4), rand::Status::Success);
    }
    assert!(download::<f32>(stream, room, 4).iter().all(|&x| x > 0.0));
}

#[test]
fn the_kernels_are_what_nvcc_makes_of_their_source() {
    // Only where there is that nvcc; another one writes other PTX.
    let nvcc = |arguments: &[&str]| Command::new("nvcc").args(arguments).output();
    let version = nvcc(&["--version"]).map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    if !version.is_ok_and(|version| version.contains("V13.0.88")) {
        return;
    }
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/gemm.cu");
    let made = std::env::temp_dir().join(format!("gemm-{}.ptx", std::process::id()));
    let to = made.to_str().unwrap();
    let output = nvcc(&["-arch=compute_75", "-ptx", "-O3", "-std=c++17", source, "-o", to]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(&made).unwrap();
    std::fs::remove_file(&made).unwrap();
    assert!(text == include_str!("../src/gemm.ptx"), "gemm.ptx is not of gemm.cu");
    CString::new(text).unwrap();
}
