//! AVX2 and AVX-512. The two differ in lanes and in what the compiler may use; 8 `f16` are converted at a time by both.

use std::arch::x86_64::{
    __m128i, __m256, __m256i, _MM_FROUND_TO_NEAREST_INT, _MM_HINT_T1,
    _mm_loadu_si128, _mm_prefetch, _mm_sfence, _mm_storeu_si128, _mm_stream_si128,
    _mm256_cvtph_ps, _mm256_cvtps_ph, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_storeu_ps,
    _mm256_stream_si256,
};
use std::mem::size_of;

use half::f16;

use super::{Isa, Kernel};

/// Made by [`detect`](Self::detect) alone.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Made by [`detect`](Self::detect) alone.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

impl Avx2 {
    #[inline]
    pub(super) fn detect() -> Option<Self> {
        let here = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        here.then_some(Self(()))
    }

    #[inline]
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn instance<K: Kernel>(isa: Avx2, kernel: K) -> K::Output {
            kernel.run::<_, 8>(isa)
        }
        // SAFETY: `self` exists, so `detect` found these features.
        unsafe { instance(self, kernel) }
    }
}

impl Avx512 {
    #[inline]
    pub(super) fn detect() -> Option<Self> {
        Avx2::detect()?;
        let here = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        here.then_some(Self(()))
    }

    #[inline]
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
        fn instance<K: Kernel>(isa: Avx512, kernel: K) -> K::Output {
            kernel.run::<_, 16>(isa)
        }
        // SAFETY: `self` exists, so `detect` found these features.
        unsafe { instance(self, kernel) }
    }
}

/// What both instances bring, both having AVX2 and F16C.
macro_rules! isa {
    ($($isa:ty),*) => {$(
        impl Isa for $isa {
            const FUSED: bool = true;

            #[inline(always)]
            fn widen_f16<const L: usize>(self, x: [f16; L]) -> [f32; L] {
                const { assert!(L % 8 == 0) };
                let mut wide = [0.0; L];
                for (wide, x) in wide.chunks_exact_mut(8).zip(x.chunks_exact(8)) {
                    // SAFETY: `self` means F16C, and both chunks have 8 elements.
                    unsafe {
                        let x = _mm_loadu_si128(x.as_ptr().cast::<__m128i>());
                        _mm256_storeu_ps(wide.as_mut_ptr(), _mm256_cvtph_ps(x));
                    }
                }
                wide
            }

            #[inline(always)]
            fn narrow_f16<const L: usize>(self, x: [f32; L]) -> [f16; L] {
                const { assert!(L % 8 == 0) };
                const ROUNDING: i32 = _MM_FROUND_TO_NEAREST_INT;
                let mut narrow = [f16::ZERO; L];
                for (narrow, x) in narrow.chunks_exact_mut(8).zip(x.chunks_exact(8)) {
                    // SAFETY: `self` means F16C, and both chunks have 8 elements.
                    unsafe {
                        let x: __m256 = _mm256_loadu_ps(x.as_ptr());
                        let x = _mm256_cvtps_ph::<ROUNDING>(x);
                        _mm_storeu_si128(narrow.as_mut_ptr().cast::<__m128i>(), x);
                    }
                }
                narrow
            }

            #[inline(always)]
            fn stream<T: Copy, const L: usize>(self, to: &mut [T; L], value: [T; L]) {
                // Whole vectors only; 32 bytes where there are as many.
                let step = if size_of::<[T; L]>() % 32 == 0 { 32 } else { 16 };
                const { assert!(size_of::<[T; L]>() % 16 == 0) };
                if to.as_ptr().addr() % step != 0 {
                    *to = value;
                    return;
                }
                let to = to.as_mut_ptr().cast::<u8>();
                let from = value.as_ptr().cast::<u8>();
                for at in (0..size_of::<[T; L]>()).step_by(step) {
                    // SAFETY: `self` means AVX. The `step` bytes from `at` lie within both arrays, and `to` is aligned to
                    // `step`.
                    unsafe {
                        if step == 32 {
                            let value = _mm256_loadu_si256(from.add(at).cast::<__m256i>());
                            _mm256_stream_si256(to.add(at).cast::<__m256i>(), value);
                        } else {
                            let value = _mm_loadu_si128(from.add(at).cast::<__m128i>());
                            _mm_stream_si128(to.add(at).cast::<__m128i>(), value);
                        }
                    }
                }
            }

            #[inline(always)]
            fn finish_streams(self) {
                // SAFETY: SSE is part of x86-64.
                unsafe { _mm_sfence() }
            }

            #[inline(always)]
            fn prefetch<T>(self, at: *const T) {
                // SAFETY: a prefetch faults at no address.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast::<i8>()) }
            }
        }
    )*};
}
isa!(Avx2, Avx512);
