// What a measurement of the loss stands beside: the unfused baseline, and kernels that do nothing,
// only copy or only read. Compiled with the feature `instruments` alone; src/cuda/instruments.rs
// launches them.
#include "fixed_width.h"

#include "kernel.h"
#include "unfused.cuh"

namespace {

// A block copies EACH x blockDim.x vectors that follow one another, a thread EACH of them; all its
// loads are issued before its first store. Streaming hints, as the loss has them: nothing is used
// again.
template <int EACH>
__device__ __forceinline__ void copy(const uint4* from, uint4* to, uint64_t vectors) {
    const uint64_t first = static_cast<uint64_t>(blockIdx.x) * blockDim.x * EACH + threadIdx.x;
    uint4 held[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const uint64_t at = first + static_cast<uint64_t>(i) * blockDim.x;
        held[i] = at < vectors ? __ldcs(from + at) : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const uint64_t at = first + static_cast<uint64_t>(i) * blockDim.x;
        if (at < vectors) {
            __stcs(to + at, held[i]);
        }
    }
}

}  // namespace

extern "C" __global__ void ala_empty() {}

// For copies that do not fill the device: as many threads as vectors.
extern "C" __global__ void __launch_bounds__(256)
    ala_copy1(const uint4* from, uint4* to, uint64_t vectors) {
    copy<1>(from, to, vectors);
}

extern "C" __global__ void __launch_bounds__(256)
    ala_copy4(const uint4* from, uint4* to, uint64_t vectors) {
    copy<4>(from, to, vectors);
}

// Fills L2 with lines that need not be written back. `to` is written only where the vectors add up
// to a number that they never do; the compiler does not know that, so it keeps the loads.
extern "C" __global__ void __launch_bounds__(256)
    ala_read(const uint4* from, uint32_t* to, uint64_t vectors) {
    uint32_t all = 0;
    const uint64_t stride = static_cast<uint64_t>(gridDim.x) * blockDim.x;
    for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < vectors;
         i += stride) {
        const uint4 vector = from[i];
        all |= vector.x | vector.y | vector.z | vector.w;
    }
    if (all == 0xffffffffu) {
        *to = all;
    }
}

// The baseline's steps also take where they leave their intermediate values.
#define STEP(name, threads, ...)                                                                \
    extern "C" __global__ void __launch_bounds__(threads, (HALF_AN_SM + threads - 1) / threads) \
        name(const __grid_constant__ AlaParams p, const __grid_constant__ AlaScratch s) {       \
        __VA_ARGS__(p, s);                                                                      \
    }

#define UNFUSED(type, step, map) \
    STEP(ala_unfused_##step##_##type##_##map, 256, ala::unfused::step<TYPE_##type, MAP_##map>)
#define UNFUSED_STEP(step)             \
    EVERY_TYPE(UNFUSED, step, uniform) \
    EVERY_TYPE(UNFUSED, step, per_class)
UNFUSED_STEP(scale)
UNFUSED_STEP(margin)
STEP(ala_unfused_max, 256, ala::unfused::max<256>)
UNFUSED_STEP(exponentiate)
STEP(ala_unfused_sum, 256, ala::unfused::sum<256>)
UNFUSED_STEP(loss)
UNFUSED_STEP(gradient)
STEP(ala_unfused_reduce, 256, ala::unfused::reduce<256>)
