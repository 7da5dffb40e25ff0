// f32 arithmetic by the instructions that the kernels mean.
#pragma once
#include "numbers.cuh"

namespace ala {

constexpr float LN_2 = 0.693147180559945309f;

// 2^x by the hardware unit, called by name: -use_fast_math would change far more than this.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float log2_fast(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// a b rounded up. By its instruction: the compiler computes the intrinsic twice rather than keep
// its result.
__device__ __forceinline__ float product_up(float a, float b) {
    float y;
    asm("mul.rp.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}

// a / b within 2 units in the last place: the exact one takes registers that the row needs.
__device__ __forceinline__ float quotient(float a, float b) {
    float q;
    asm("div.full.f32 %0, %1, %2;" : "=f"(q) : "f"(a), "f"(b));
    return q;
}

// ln(1 + q) for q >= 0, within 3e-7 absolute and, below 0.01, relative: the library's takes
// registers that the row needs.
__device__ __forceinline__ float log1p_fast(float q) {
    const float small = q * fmaf(q, fmaf(q, 1.0f / 3.0f, -0.5f), 1.0f);
    return q < 0.01f ? small : LN_2 * log2_fast(1.0f + q);
}

// a + b = sum + error exactly (Knuth).
__device__ __forceinline__ float two_sum(float a, float b, float& error) {
    const float sum = a + b;
    const float part = sum - a;
    error += (a - (sum - part)) + (b - part);
    return sum;
}

}  // namespace ala
