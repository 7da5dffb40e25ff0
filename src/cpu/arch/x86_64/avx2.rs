//! AVX2 with FMA and F16C.

use std::arch::x86_64::*;
use std::ops::Range;

use half::{bf16, f16};

use super::intrinsics::{isa, stream, units, vector};
use crate::cpu::arch::isa::{Isa, Kernel};
use crate::cpu::arch::vector::{Vector, whole, whole_mut};

/// Made by [`detect`](Self::detect) alone.
#[derive(Clone, Copy)]
pub(in crate::cpu::arch) struct Avx2(());

impl Avx2 {
    #[inline]
    pub(in crate::cpu::arch) fn detect() -> Option<Self> {
        let here = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        here.then_some(Self(()))
    }

    #[inline]
    pub(in crate::cpu::arch) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: `self` exists, so `detect` found these features.
        unsafe { entry::run(self, kernel) }
    }
}

units!("avx2,fma,f16c");

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
