// What every tier shares: where a row is, its target's constants, rows without a target, hits.
#pragma once
#include "element.cuh"
#include "row.cuh"

namespace ala {

template <typename T> __device__ __forceinline__ const T* logits_row(const AlaParams& p, uint64_t row) {
    // 64-bit: rows * stride passes 2^31 elements.
    return reinterpret_cast<const T*>(p.logits) + row * p.logits_stride;
}

template <typename T> __device__ __forceinline__ T* gradient_row(const AlaParams& p, uint64_t row) {
    return reinterpret_cast<T*>(p.gradient) + row * p.gradient_stride;
}

// The zero gradient of an ignored or bad row, by the `threads` that share it.
template <typename T>
__device__ __forceinline__ void zero_gradient(const AlaParams& p, uint64_t row, uint32_t thread, uint32_t threads) {
    T* gradient = gradient_row<T>(p, row);
    for (uint32_t j = thread; j < p.classes; j += threads) {
        gradient[j] = round_to<T>(0.0f);
    }
}

// An ignored or bad row: zero gradient, and one of the threads reports.
template <typename T>
__device__ __forceinline__ void skip_row(
    const AlaParams& p, uint64_t row, uint32_t thread, uint32_t threads) {
    if (p.gradient != 0) {
        zero_gradient<T>(p, row, thread, threads);
    }
    if (thread == 0) {
        report_row_without_target(p, row);
    }
}

// Whether a logit beats the target's: it is larger, or equal at a lower class. A NaN beats everything.
__device__ __forceinline__ bool outdoes(float x, uint32_t j, float own, uint32_t y) {
    return !(x < own || (x == own && j >= y));
}

__device__ __forceinline__ AlaTarget read_target(const AlaParams& p, uint32_t y) {
    // One 16-byte load: the table is an allocation of its own, its entries 16 bytes.
    const float4 raw = __ldg(reinterpret_cast<const float4*>(p.targets) + y);
    return {raw.x, raw.y, raw.z, raw.w};
}

}  // namespace ala
