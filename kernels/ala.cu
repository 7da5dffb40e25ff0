// Every kernel, by name: ala_<tier>_<logits>_<map>. The list is the only place where types meet tiers;
// src/cuda/kernels.rs has the same tiers and builds the same names.
#include <stdint.h>

#include "count.cuh"
#include "packed_rows.cuh"
#include "register_row.cuh"
#include "staged_row.cuh"
#include "streamed_row.cuh"
#include "unfused.cuh"

// Half the threads that an SM of the architecture holds: the occupancy that the registers must allow. Without a bound
// ptxas aims for so few registers on some architectures that it spills.
#if __CUDA_ARCH__ == 750
#define HALF_AN_SM 512
#elif __CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200
#define HALF_AN_SM 768
#else
#define HALF_AN_SM 1024
#endif

#define KERNEL(name, threads, ...)                                                                                     \
    extern "C" __global__ void __launch_bounds__(threads, (HALF_AN_SM + threads - 1) / threads) name(                  \
        const __grid_constant__ AlaParams p) {                                                                         \
        __VA_ARGS__(p);                                                                                                \
    }

// A row in the registers of `group` lanes, `elements` each.
#define ROW(group, elements, threads, type, T, map, Map) \
    KERNEL(ala_row##group##x##elements##_##type##_##map, threads, ala::register_row<T, Map, group, elements>)

// A tile of rows of up to `most` classes.
#define PACKED(most, type, T, map, Map) \
    KERNEL(ala_packed_##type##_##map, 128, ala::packed_rows<T, Map, most, 128>)

#define EVERY_MAP(type, T, map, Map)                                                     \
    KERNEL(ala_staged_##type##_##map, 512, ala::staged_row<T, Map, 512>)                 \
    KERNEL(ala_streamed_##type##_##map, 512, ala::streamed_row<T, Map, 512>)             \
    KERNEL(ala_unfused_scale_##type##_##map, 256, ala::unfused::scale<T, Map>)           \
    KERNEL(ala_unfused_margin_##type##_##map, 256, ala::unfused::margin<T, Map>)         \
    KERNEL(ala_unfused_exponentiate_##type##_##map, 256, ala::unfused::exponentiate<T, Map>) \
    KERNEL(ala_unfused_loss_##type##_##map, 256, ala::unfused::loss<T, Map>)             \
    KERNEL(ala_unfused_gradient_##type##_##map, 256, ala::unfused::gradient<T, Map>)

// Four lanes a row take as many elements as leave ptxas registers on every architecture.
#define UNIFORM(type, T, map, Map)      \
    EVERY_MAP(type, T, map, Map)        \
    PACKED(24, type, T, map, Map)       \
    ROW(4, 16, 128, type, T, map, Map)  \
    KERNEL(ala_row4_##type##_##map, 128, ala::register_row<T, Map, 4, sizeof(T) == sizeof(float) ? 28 : 32>) \
    ROW(8, 24, 128, type, T, map, Map)  \
    ROW(8, 32, 128, type, T, map, Map)  \
    ROW(16, 24, 128, type, T, map, Map) \
    ROW(16, 32, 128, type, T, map, Map) \
    ROW(32, 24, 128, type, T, map, Map) \
    ROW(32, 32, 128, type, T, map, Map) \
    ROW(64, 24, 64, type, T, map, Map)  \
    ROW(64, 32, 64, type, T, map, Map)  \
    ROW(128, 24, 128, type, T, map, Map) \
    ROW(128, 32, 128, type, T, map, Map) \
    ROW(256, 24, 256, type, T, map, Map) \
    ROW(256, 32, 256, type, T, map, Map) \
    ROW(512, 24, 512, type, T, map, Map) \
    ROW(512, 32, 512, type, T, map, Map)

// The maps of a lane's own elements take registers too.
#define PER_CLASS(type, T, map, Map)     \
    EVERY_MAP(type, T, map, Map)         \
    PACKED(16, type, T, map, Map)        \
    ROW(8, 8, 128, type, T, map, Map)    \
    ROW(16, 8, 128, type, T, map, Map)   \
    ROW(32, 8, 128, type, T, map, Map)   \
    ROW(32, 16, 128, type, T, map, Map)  \
    ROW(64, 16, 64, type, T, map, Map)   \
    ROW(128, 16, 128, type, T, map, Map) \
    ROW(256, 16, 256, type, T, map, Map) \
    ROW(512, 16, 512, type, T, map, Map)

#define MAPS(type, T)                       \
    UNIFORM(type, T, uniform, ala::Uniform) \
    PER_CLASS(type, T, per_class, ala::PerClass)

MAPS(f32, float)
MAPS(f16, __half)
MAPS(bf16, __nv_bfloat16)

KERNEL(ala_count, 256, ala::count_rows<256>)
KERNEL(ala_unfused_max, 256, ala::unfused::max<256>)
KERNEL(ala_unfused_sum, 256, ala::unfused::sum<256>)
KERNEL(ala_unfused_reduce, 256, ala::unfused::reduce<256>)
