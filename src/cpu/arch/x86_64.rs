//! AVX2 and AVX-512, from intrinsics: compilers differ too much in what they make of loops over lanes.

use std::arch::x86_64::*;
use std::ops::Range;

use half::{bf16, f16};

use super::isa::{Isa, Kernel};
use super::vector::{Vector, whole, whole_mut};

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
        #[inline(never)]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn instance<K: Kernel>(isa: Avx2, kernel: K) -> K::Output {
            kernel.run(isa)
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
        #[inline(never)]
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
        fn instance<K: Kernel>(isa: Avx512, kernel: K) -> K::Output {
            kernel.run(isa)
        }
        // SAFETY: `self` exists, so `detect` found these features.
        unsafe { instance(self, kernel) }
    }
}

/// A vector of `$n` registers, from intrinsics that differ in name only.
macro_rules! vector {
    (
        $name:ident, $isa:ident, $float:ident, $register:ident x $n:literal,
        $set1:ident, $loadu:ident, $storeu:ident, $add:ident, $sub:ident, $mul:ident, $fmadd:ident, $max:ident, $min:ident,
        shift: |$x:ident| $shift:expr,
        select: |$from:ident, $to:ident, $a:ident, $b:ident| $select:expr $(,)?
    ) => {
        /// Made with the instruction set's token only, so whoever holds one may use it.
        #[derive(Clone, Copy)]
        pub(super) struct $name([$register; $n]);

        impl $name {
            const PER_REGISTER: usize = size_of::<$register>() / size_of::<$float>();
            const LANES: usize = $n * Self::PER_REGISTER;

            #[inline(always)]
            fn map(self, each: impl Fn(usize, $register) -> $register) -> Self {
                let mut all = self.0;
                let mut i = 0;
                while i < $n {
                    all[i] = each(i, all[i]);
                    i += 1;
                }
                Self(all)
            }
        }

        // SAFETY (every block): the instruction set's token exists, as the vectors do, so its instructions may be used.
        // Loads and stores are of arrays of as many lanes as the registers have.
        impl Vector<$isa, $float> for $name {
            #[inline(always)]
            fn splat(_: $isa, x: $float) -> Self {
                // SAFETY: above.
                Self([unsafe { $set1(x) }; $n])
            }

            #[inline(always)]
            fn load(isa: $isa, from: &[$float]) -> Self {
                let from: &[$float; Self::LANES] = whole(from);
                Self::splat(isa, 0.0).map(|i, _| {
                    // SAFETY: above.
                    unsafe { $loadu(from.as_ptr().add(i * Self::PER_REGISTER)) }
                })
            }

            #[inline(always)]
            fn store(self, to: &mut [$float]) {
                let to: &mut [$float; Self::LANES] = whole_mut(to);
                for (i, register) in self.0.into_iter().enumerate() {
                    // SAFETY: above.
                    unsafe { $storeu(to.as_mut_ptr().add(i * Self::PER_REGISTER), register) }
                }
            }

            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                // SAFETY: above.
                self.map(|i, x| unsafe { $add(x, other.0[i]) })
            }

            #[inline(always)]
            fn minus(self, other: Self) -> Self {
                // SAFETY: above.
                self.map(|i, x| unsafe { $sub(x, other.0[i]) })
            }

            #[inline(always)]
            fn times(self, other: Self) -> Self {
                // SAFETY: above.
                self.map(|i, x| unsafe { $mul(x, other.0[i]) })
            }

            #[inline(always)]
            fn times_plus(self, a: Self, b: Self) -> Self {
                // SAFETY: above.
                self.map(|i, x| unsafe { $fmadd(x, a.0[i], b.0[i]) })
            }

            #[inline(always)]
            fn or_higher(self, other: Self) -> Self {
                // The instruction gives its second operand where either is a NaN.
                // SAFETY: above.
                self.map(|i, x| unsafe { $max(x, other.0[i]) })
            }

            #[inline(always)]
            fn or_lower(self, other: Self) -> Self {
                // As above.
                // SAFETY: above.
                self.map(|i, x| unsafe { $min(x, other.0[i]) })
            }

            #[inline(always)]
            fn low_bits_to_exponent(self) -> Self {
                // SAFETY: above.
                self.map(|_, $x| unsafe { $shift })
            }

            #[inline(always)]
            fn within(self, lanes: Range<usize>, other: Self) -> Self {
                self.map(|i, $a| {
                    let $b = other.0[i];
                    // The register's own part of the lanes; neither end exceeds a vector's lanes.
                    let $from = lanes.start as i32 - (i * Self::PER_REGISTER) as i32;
                    let $to = lanes.end as i32 - (i * Self::PER_REGISTER) as i32;
                    // SAFETY: above.
                    unsafe { $select }
                })
            }
        }
    };
}

vector!(
    Avx2Single, Avx2, f32, __m256 x 1,
    _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_add_ps, _mm256_sub_ps, _mm256_mul_ps, _mm256_fmadd_ps, _mm256_max_ps, _mm256_min_ps,
    shift: |x| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(x))),
    select: |from, to, a, b| {
        let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let from = _mm256_cmpgt_epi32(_mm256_set1_epi32(from), lane);
        let to = _mm256_cmpgt_epi32(_mm256_set1_epi32(to), lane);
        _mm256_blendv_ps(b, a, _mm256_castsi256_ps(_mm256_andnot_si256(from, to)))
    },
);
vector!(
    Avx2Double, Avx2, f64, __m256d x 2,
    _mm256_set1_pd, _mm256_loadu_pd, _mm256_storeu_pd, _mm256_add_pd, _mm256_sub_pd, _mm256_mul_pd, _mm256_fmadd_pd, _mm256_max_pd, _mm256_min_pd,
    shift: |x| _mm256_castsi256_pd(_mm256_slli_epi64::<52>(_mm256_castpd_si256(x))),
    select: |from, to, a, b| {
        let lane = _mm256_setr_epi64x(0, 1, 2, 3);
        let from = _mm256_cmpgt_epi64(_mm256_set1_epi64x(from.into()), lane);
        let to = _mm256_cmpgt_epi64(_mm256_set1_epi64x(to.into()), lane);
        _mm256_blendv_pd(b, a, _mm256_castsi256_pd(_mm256_andnot_si256(from, to)))
    },
);
vector!(
    Avx512Single, Avx512, f32, __m512 x 1,
    _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_add_ps, _mm512_sub_ps, _mm512_mul_ps, _mm512_fmadd_ps, _mm512_max_ps, _mm512_min_ps,
    shift: |x| _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(x))),
    select: |from, to, a, b| {
        let lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let from = _mm512_cmpge_epi32_mask(lane, _mm512_set1_epi32(from));
        let to = _mm512_cmplt_epi32_mask(lane, _mm512_set1_epi32(to));
        _mm512_mask_blend_ps(from & to, b, a)
    },
);
vector!(
    Avx512Double, Avx512, f64, __m512d x 2,
    _mm512_set1_pd, _mm512_loadu_pd, _mm512_storeu_pd, _mm512_add_pd, _mm512_sub_pd, _mm512_mul_pd, _mm512_fmadd_pd, _mm512_max_pd, _mm512_min_pd,
    shift: |x| _mm512_castsi512_pd(_mm512_slli_epi64::<52>(_mm512_castpd_si512(x))),
    select: |from, to, a, b| {
        let lane = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
        let from = _mm512_cmpge_epi64_mask(lane, _mm512_set1_epi64(from.into()));
        let to = _mm512_cmplt_epi64_mask(lane, _mm512_set1_epi64(to.into()));
        _mm512_mask_blend_pd(from & to, b, a)
    },
);

/// Stores `from` past the cache, 16 bytes at once, or 32 where its size allows.
///
/// # Safety
///
/// The machine must have AVX. `to` must be aligned to its step, which must divide its size.
#[inline(always)]
unsafe fn stream<T: Copy>(from: &[T], to: &mut [T], step: usize) {
    let from = from.as_ptr().cast::<u8>();
    for at in (0..size_of_val(to)).step_by(step) {
        // SAFETY: the caller's word; the `step` bytes from `at` lie within both slices, which are of one length.
        unsafe {
            let to = to.as_mut_ptr().cast::<u8>().add(at);
            if step == 32 {
                _mm256_stream_si256(to.cast(), _mm256_loadu_si256(from.add(at).cast()));
            } else {
                _mm_stream_si128(to.cast(), _mm_loadu_si128(from.add(at).cast()));
            }
        }
    }
}

/// 16-bit conversions of one register, and what both instances share.
macro_rules! isa {
    (
        $isa:ident, $single:ident, $double:ident, $lanes:literal, $half:ident, $load:ident, $store:ident,
        widen_f16: |$wf:ident| $widen_f16:expr,
        narrow_f16: |$nf:ident| $narrow_f16:expr,
        widen_bf16: |$wb:ident| $widen_bf16:expr,
        narrow_bf16: |$nb:ident| $narrow_bf16:expr $(,)?
    ) => {
        impl Isa for $isa {
            const LANES: usize = $lanes;
            const FUSED: bool = true;
            type Single = $single;
            type Double = $double;

            #[inline(always)]
            fn widen_f16(self, from: &[f16]) -> $single {
                let from: &[f16; $lanes] = whole(from);
                // SAFETY: `self` means these instructions, and the lanes fill the register.
                unsafe {
                    let $wf = $load(from.as_ptr().cast::<$half>());
                    $single([$widen_f16])
                }
            }

            #[inline(always)]
            fn narrow_f16(self, x: $single, to: &mut [f16]) {
                let to: &mut [f16; $lanes] = whole_mut(to);
                let $nf = x.0[0];
                // SAFETY: `self` means these instructions, and the register fills the lanes.
                unsafe { $store(to.as_mut_ptr().cast::<$half>(), $narrow_f16) };
            }

            #[inline(always)]
            fn widen_bf16(self, from: &[bf16]) -> $single {
                let from: &[bf16; $lanes] = whole(from);
                // SAFETY: `self` means these instructions, and the lanes fill the register.
                unsafe {
                    let $wb = $load(from.as_ptr().cast::<$half>());
                    $single([$widen_bf16])
                }
            }

            /// As [`half_bits::narrow_bf16`](crate::cpu::half_bits::narrow_bf16). A NaN's low half must be clear: a carry
            /// out of it would turn the NaN over.
            #[inline(always)]
            fn narrow_bf16(self, x: $single, to: &mut [bf16]) {
                let to: &mut [bf16; $lanes] = whole_mut(to);
                let $nb = x.0[0];
                // SAFETY: `self` means these instructions, and the register fills the lanes.
                unsafe { $store(to.as_mut_ptr().cast::<$half>(), $narrow_bf16) };
            }

            #[inline(always)]
            fn stream<T: Copy>(self, from: &[T], to: &mut [T]) {
                // 32 bytes at once where a vector of elements has as many.
                let step = if size_of::<T>() * $lanes % 32 == 0 {
                    32
                } else {
                    16
                };
                let whole_steps = to.as_ptr().addr() % step == 0 && size_of_val(to) % step == 0;
                if whole_steps && from.len() == to.len() {
                    // SAFETY: `self` means AVX; the alignment and the size were asked for.
                    unsafe { stream(from, to, step) };
                } else {
                    to.copy_from_slice(from);
                }
            }

            #[inline(always)]
            fn apart<K: Kernel>(self, kernel: K) -> K::Output {
                self.run(kernel)
            }

            #[inline(always)]
            fn fence_streamed_stores(self) {
                // SAFETY: SSE is part of x86-64.
                unsafe { _mm_sfence() }
            }

            #[inline(always)]
            fn prefetch<T>(self, at: *const T) {
                // SAFETY: a prefetch faults at no address.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast::<i8>()) }
            }
        }
    };
}

isa!(
    Avx2, Avx2Single, Avx2Double, 8, __m128i, _mm_loadu_si128, _mm_storeu_si128,
    widen_f16: |x| _mm256_cvtph_ps(x),
    narrow_f16: |x| _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x),
    widen_bf16: |x| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(x))),
    narrow_bf16: |x| {
        let bits = _mm256_castps_si256(x);
        let high = _mm256_srli_epi32::<16>(bits);
        let odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
        let up = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF));
        let all = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, up));
        // Packing works within halves of the register.
        _mm_packus_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256::<1>(all))
    },
);
isa!(
    Avx512, Avx512Single, Avx512Double, 16, __m256i, _mm256_loadu_si256, _mm256_storeu_si256,
    widen_f16: |x| _mm512_cvtph_ps(x),
    narrow_f16: |x| _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x),
    widen_bf16: |x| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x))),
    narrow_bf16: |x| {
        let bits = _mm512_castps_si512(x);
        let high = _mm512_srli_epi32::<16>(bits);
        let odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
        let up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF));
        _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_add_epi32(bits, up)))
    },
);
