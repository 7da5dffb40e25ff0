//! AVX-512 (F, BW, DQ, VL) with what AVX2 has.

use std::arch::x86_64::*;
use std::ops::Range;

use half::{bf16, f16};

use super::avx2::Avx2;
use super::intrinsics::{isa, stream, units, vector};
use crate::cpu::arch::isa::{Isa, Kernel};
use crate::cpu::arch::vector::{Vector, whole, whole_mut};

/// Made by [`detect`](Self::detect) alone.
#[derive(Clone, Copy)]
pub(in crate::cpu::arch) struct Avx512(());

impl Avx512 {
    #[inline]
    pub(in crate::cpu::arch) fn detect() -> Option<Self> {
        Avx2::detect()?;
        let here = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        here.then_some(Self(()))
    }

    #[inline]
    pub(in crate::cpu::arch) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: `self` exists, so `detect` found these features.
        unsafe { entry::run(self, kernel) }
    }
}

units!("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl");

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
