// Reductions over a warp and a block in an order that the thread count alone fixes.
#pragma once

namespace ala {

constexpr unsigned FULL_WARP = 0xffffffffu;
constexpr int WARP = 32;

struct Max {
    // Drops a NaN; the sums that follow do not.
    __device__ static float of(float a, float b) { return fmaxf(a, b); }
    static constexpr float IDENTITY = -INFINITY;
};

struct Sum {
    template <typename V> __device__ static V of(V a, V b) { return a + b; }
    static constexpr float IDENTITY = 0.0f;
};

// Over each part of `PART` lanes; every lane gets its part's result: a butterfly adds the same pairs in every lane.
template <typename Op, int PART, typename V> __device__ __forceinline__ V part_reduce(V value) {
#pragma unroll
    for (int offset = PART / 2; offset > 0; offset /= 2) {
        value = Op::of(value, __shfl_xor_sync(FULL_WARP, value, offset));
    }
    return value;
}

template <typename Op, typename V> __device__ __forceinline__ V warp_reduce(V value) {
    return part_reduce<Op, WARP>(value);
}

// Every thread gets the result. `slots` is one value a warp; two reductions that follow each other need
// different slots, or the second would overwrite what slow warps still read of the first.
template <typename Op, int THREADS, typename V> __device__ __forceinline__ V block_reduce(V value, V* slots) {
    static_assert(THREADS % WARP == 0 && THREADS <= WARP * WARP, "whole warps, at most one slot a lane");
    const int lane = threadIdx.x % WARP;
    value = warp_reduce<Op>(value);
    if (lane == 0) {
        slots[threadIdx.x / WARP] = value;
    }
    // All warps' values are in their slots before any warp reads them.
    __syncthreads();
    return warp_reduce<Op>(lane < THREADS / WARP ? slots[lane] : static_cast<V>(Op::IDENTITY));
}

}  // namespace ala
