// Reductions over the lanes of a warp and the warps of a block, in an order that the thread count
// alone fixes.
#pragma once
#include "fixed_width.h"

#include "arithmetic.cuh"

namespace ala {

constexpr unsigned FULL_WARP = 0xffffffffu;
constexpr int WARP = 32;

struct Max {
    // Drops a NaN; the sums that follow do not.
    __device__ static float of(float a, float b) { return fmaxf(a, b); }
};

struct Sum {
    __device__ static float of(float a, float b) { return a + b; }
};

// What the lane `lane ^ OFFSET` holds. By its instruction, since the intrinsic moves floats to
// integers and back.
template <int OFFSET>
__device__ __forceinline__ float from_partner(float value) {
    float other;
    asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 31, 0xffffffff;"
                 : "=f"(other)
                 : "f"(value), "n"(OFFSET));
    return other;
}

// A team is a warp, or 2 to 16 lanes that follow one another in one. What its first lane, the
// leader, holds.
template <int TEAM>
__device__ __forceinline__ float from_leader(float value) {
    float first;
    asm volatile("shfl.sync.idx.b32 %0, %1, 0, %2, 0xffffffff;"
                 : "=f"(first)
                 : "f"(value), "n"((WARP - TEAM) << 8 | 31));
    return first;
}
template <int TEAM>
__device__ __forceinline__ uint32_t from_leader(uint32_t value) {
    return __shfl_sync(FULL_WARP, value, 0, TEAM);
}

// Over each team; every lane gets its team's result: a butterfly adds the same pairs in every lane.
template <typename Op, int TEAM>
__device__ __forceinline__ float reduce_team(float value) {
    if constexpr (TEAM >= 32) value = Op::of(value, from_partner<16>(value));
    if constexpr (TEAM >= 16) value = Op::of(value, from_partner<8>(value));
    if constexpr (TEAM >= 8) value = Op::of(value, from_partner<4>(value));
    if constexpr (TEAM >= 4) value = Op::of(value, from_partner<2>(value));
    if constexpr (TEAM >= 2) value = Op::of(value, from_partner<1>(value));
    return value;
}

// The largest of some exponents u, and the sum of their exp2(u - max): steps 3 and 5 of some of a
// row's elements. `max` is a pivot, so never -inf, and no difference of two is a NaN.
struct MaxSum {
    float max;
    float sum;

    // Of no elements.
    __device__ static MaxSum none() { return {-LARGEST, 0.0f}; }
    // The sum of exp2(u - pivot), for a pivot that is not smaller.
    __device__ __forceinline__ float against(float pivot) const {
        return sum * exp2_fast(max - pivot);
    }
};

__device__ __forceinline__ MaxSum merge(MaxSum a, MaxSum b) {
    const float max = Max::of(a.max, b.max);
    return {max, fmaf(a.sum, exp2_fast(a.max - max), b.against(max))};
}

// The same over each team. The maximum comes first, so that a lane takes one exponential, not one a
// merge.
template <int TEAM>
__device__ __forceinline__ MaxSum merge_team(MaxSum mine) {
    const float max = reduce_team<Max, TEAM>(mine.max);
    return {max, reduce_team<Sum, TEAM>(mine.against(max))};
}

// What the `WARPS` warps of a block tell one another, through shared memory. A barrier comes
// between the warps' `put` and what reads them, and one before the next `put` to the same slots.
template <int WARPS>
struct alignas(16) WarpSlots {
    float max[WARPS];
    float sum[WARPS];

    // Called by one lane of each warp.
    __device__ __forceinline__ void put(uint32_t warp, MaxSum of_warp) {
        max[warp] = of_warp.max;
        sum[warp] = of_warp.sum;
    }
    // The block's, by the lanes of a warp together.
    __device__ __forceinline__ MaxSum merged_by_warp() const {
        const uint32_t lane = threadIdx.x % WARP;
        return merge_team<WARP>(lane < WARPS ? MaxSum{max[lane], sum[lane]} : MaxSum::none());
    }
    // The same by one thread by itself: the maximum alone, which takes fewer steps in a row than
    // shuffles, and the sum.
    __device__ __forceinline__ float greatest() const {
        float greatest = max[0];
#pragma unroll 4
        for (int i = 1; i < WARPS; i++) {
            greatest = Max::of(greatest, max[i]);
        }
        return greatest;
    }
    __device__ __forceinline__ float sum_against(float pivot) const {
        float all = 0.0f;
#pragma unroll 1
        for (int i = 0; i < WARPS; i++) {
            all = fmaf(sum[i], exp2_fast(max[i] - pivot), all);
        }
        return all;
    }
};

}  // namespace ala
