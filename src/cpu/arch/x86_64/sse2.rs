//! What every x86-64 processor has.

use std::arch::x86_64::*;
use std::ops::Range;

use super::intrinsics::{units, vector};
use crate::cpu::arch::isa::{Isa, Kernel};
use crate::cpu::arch::vector::{Vector, whole, whole_mut};

#[derive(Clone, Copy)]
pub(in crate::cpu::arch) struct Sse2;

impl Sse2 {
    #[inline]
    pub(in crate::cpu::arch) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        entry::run(self, kernel)
    }
}

units!();

// SSE2 fuses nothing, and selects by masks.

/// # Safety
/// None is needed: SSE2 is part of x86-64. The macro calls all operations alike.
#[inline(always)]
unsafe fn times_plus_ps(x: __m128, a: __m128, b: __m128) -> __m128 {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_add_ps(_mm_mul_ps(x, a), b) }
}

/// # Safety
/// As above.
#[inline(always)]
unsafe fn times_plus_pd(x: __m128d, a: __m128d, b: __m128d) -> __m128d {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_add_pd(_mm_mul_pd(x, a), b) }
}

vector!(
    Sse2Single, Sse2, f32, __m128 x 2,
    _mm_set1_ps, _mm_loadu_ps, _mm_storeu_ps, _mm_add_ps, _mm_sub_ps, _mm_mul_ps, times_plus_ps, _mm_max_ps, _mm_min_ps,
    shift: |x| _mm_castsi128_ps(_mm_slli_epi32::<23>(_mm_castps_si128(x))),
    select: |from, to, a, b| {
        let lane = _mm_setr_epi32(0, 1, 2, 3);
        let from = _mm_cmpgt_epi32(_mm_set1_epi32(from), lane);
        let to = _mm_cmpgt_epi32(_mm_set1_epi32(to), lane);
        let within = _mm_castsi128_ps(_mm_andnot_si128(from, to));
        _mm_or_ps(_mm_and_ps(within, a), _mm_andnot_ps(within, b))
    },
);
vector!(
    Sse2Double, Sse2, f64, __m128d x 4,
    _mm_set1_pd, _mm_loadu_pd, _mm_storeu_pd, _mm_add_pd, _mm_sub_pd, _mm_mul_pd, times_plus_pd, _mm_max_pd, _mm_min_pd,
    shift: |x| _mm_castsi128_pd(_mm_slli_epi64::<52>(_mm_castpd_si128(x))),
    select: |from, to, a, b| {
        // Both halves of a lane alike: SSE2 compares 32 bits at most.
        let lane = _mm_setr_epi32(0, 0, 1, 1);
        let from = _mm_cmpgt_epi32(_mm_set1_epi32(from), lane);
        let to = _mm_cmpgt_epi32(_mm_set1_epi32(to), lane);
        let within = _mm_castsi128_pd(_mm_andnot_si128(from, to));
        _mm_or_pd(_mm_and_pd(within, a), _mm_andnot_pd(within, b))
    },
);

impl Isa for Sse2 {
    const LANES: usize = Sse2Single::LANES;
    const FUSED: bool = false;
    type Single = Sse2Single;
    type Double = Sse2Double;

    #[inline(always)]
    fn apart<K: Kernel>(self, kernel: K) -> K::Output {
        apart::run(self, kernel)
    }
}
