// Reductions over a warp and a block in an order that the thread count alone fixes.
#pragma once
#include <stdint.h>

namespace ala {

constexpr unsigned FULL_WARP = 0xffffffffu;
constexpr int WARP = 32;

// The same number, but the compiler does not know it: what follows from it is computed again rather than kept in registers,
// and it is itself kept rather than computed again.
__device__ __forceinline__ uint32_t opaque(uint32_t x) {
    asm volatile("" : "+r"(x));
    return x;
}

// threadIdx.x, read again for the same reason.
__device__ __forceinline__ uint32_t thread_again() {
    uint32_t x;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
    return x;
}

struct Max {
    // Drops a NaN; the sums that follow do not.
    __device__ static float of(float a, float b) { return fmaxf(a, b); }
    static constexpr float IDENTITY = -INFINITY;
};

struct Sum {
    __device__ static float of(float a, float b) { return a + b; }
    static constexpr float IDENTITY = 0.0f;
};

// What the lane `lane ^ OFFSET` holds. By its instruction, since the intrinsic moves floats to integers and back.
template <int OFFSET> __device__ __forceinline__ float from_partner(float value) {
    float other;
    asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 31, 0xffffffff;" : "=f"(other) : "f"(value), "n"(OFFSET));
    return other;
}

// What the first lane of each part of `PART` lanes holds.
template <int PART> __device__ __forceinline__ float from_first(float value) {
    float first;
    asm volatile("shfl.sync.idx.b32 %0, %1, 0, %2, 0xffffffff;" : "=f"(first) : "f"(value), "n"((WARP - PART) << 8 | 31));
    return first;
}
template <int PART> __device__ __forceinline__ uint32_t from_first(uint32_t value) {
    return __shfl_sync(FULL_WARP, value, 0, PART);
}

// Over each part of `PART` lanes; every lane gets its part's result: a butterfly adds the same pairs in every lane.
template <typename Op, int PART> __device__ __forceinline__ float part_reduce(float value) {
    if constexpr (PART >= 32) value = Op::of(value, from_partner<16>(value));
    if constexpr (PART >= 16) value = Op::of(value, from_partner<8>(value));
    if constexpr (PART >= 8) value = Op::of(value, from_partner<4>(value));
    if constexpr (PART >= 4) value = Op::of(value, from_partner<2>(value));
    if constexpr (PART >= 2) value = Op::of(value, from_partner<1>(value));
    return value;
}

// Every thread of a whole block gets the result. `slots` is one value a warp; two reductions that follow each other need
// different ones, or a barrier between them.
template <typename Op, int THREADS> __device__ __forceinline__ float block_reduce(float value, float* slots) {
    const int lane = threadIdx.x % WARP;
    value = part_reduce<Op, WARP>(value);
    if (lane == 0) {
        slots[threadIdx.x / WARP] = value;
    }
    // All warps' values are in their slots before any warp reads them.
    __syncthreads();
    return part_reduce<Op, WARP>(lane < THREADS / WARP ? slots[lane] : Op::IDENTITY);
}

// Over the `COUNT` slots of a block's warps, by every thread by itself: fewer steps in a row than shuffles.
template <int COUNT> __device__ __forceinline__ float max_of_slots(const float* slots) {
    float max = slots[0];
#pragma unroll 4
    for (int i = 1; i < COUNT; i++) {
        max = Max::of(max, slots[i]);
    }
    return max;
}

}  // namespace ala
