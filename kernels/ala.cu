// Every kernel, by name: ala_<tier>_<logits>_<map>. The list is the only place where types meet tiers;
// src/cuda/kernels.rs has the same tiers and builds the same names.
#include <stdint.h>

#include "count.cuh"
#include "packed_rows.cuh"
#include "register_row.cuh"
#include "streamed_row.cuh"
#include "unfused.cuh"

// 1,024 threads an SM: registers for half occupancy where an SM holds 2,048 threads, and without this bound ptxas aims
// for so few registers on some architectures that it spills.
#define KERNEL(name, threads, body)                                                                                 \
    extern "C" __global__ void __launch_bounds__(threads, 1024 / threads) name(const __grid_constant__ AlaParams p) { \
        body(p);                                                                                                    \
    }

// No comma may stand in a macro argument, so each body gets a short name first.
#define BODY(name, ...) \
    __device__ __forceinline__ void name(const AlaParams& p) { __VA_ARGS__(p); }
#define TIER(tier, type, map, threads) KERNEL(ala_##tier##_##type##_##map, threads, type##_##map::tier)

// A register tier's numbers: lanes a row, elements a lane, threads a block.
#define INSTANCES(type, T, map_name, Map)                                                      \
    namespace type##_##map_name {                                                              \
    BODY(packed, ala::packed_rows<T, Map, 48, 128>)                                            \
    BODY(octet8, ala::register_row<T, Map, 8, 8 / ala::WIDTH<T>, 128>)                         \
    BODY(half8, ala::register_row<T, Map, 16, 8 / ala::WIDTH<T>, 128>)                         \
    BODY(warp8, ala::register_row<T, Map, 32, 8 / ala::WIDTH<T>, 128>)                         \
    BODY(warp16, ala::register_row<T, Map, 32, Map::MOST_ELEMENTS / ala::WIDTH<T>, 128>)       \
    BODY(block64, ala::register_row<T, Map, 64, Map::MOST_ELEMENTS / ala::WIDTH<T>, 64>)       \
    BODY(block128, ala::register_row<T, Map, 128, Map::MOST_ELEMENTS / ala::WIDTH<T>, 128>)    \
    BODY(block256, ala::register_row<T, Map, 256, Map::MOST_ELEMENTS / ala::WIDTH<T>, 256>)    \
    BODY(block512, ala::register_row<T, Map, 512, Map::MOST_ELEMENTS / ala::WIDTH<T>, 512>)    \
    BODY(block1024, ala::register_row<T, Map, 1024, Map::MOST_ELEMENTS / ala::WIDTH<T>, 1024>) \
    BODY(streamed, ala::streamed_row<T, Map, 512>)                                             \
    BODY(scale, ala::unfused::scale<T, Map>)                                                   \
    BODY(margin, ala::unfused::margin<T, Map>)                                                 \
    BODY(exponentiate, ala::unfused::exponentiate<T, Map>)                                     \
    BODY(loss, ala::unfused::loss<T, Map>)                                                     \
    BODY(gradient, ala::unfused::gradient<T, Map>)                                             \
    }                                                                                          \
    TIER(packed, type, map_name, 128)                                                          \
    TIER(octet8, type, map_name, 128)                                                          \
    TIER(half8, type, map_name, 128)                                                           \
    TIER(warp8, type, map_name, 128)                                                           \
    TIER(warp16, type, map_name, 128)                                                          \
    TIER(block64, type, map_name, 64)                                                          \
    TIER(block128, type, map_name, 128)                                                        \
    TIER(block256, type, map_name, 256)                                                        \
    TIER(block512, type, map_name, 512)                                                        \
    TIER(block1024, type, map_name, 1024)                                                      \
    TIER(streamed, type, map_name, 512)                                                        \
    KERNEL(ala_unfused_scale_##type##_##map_name, 256, type##_##map_name::scale)               \
    KERNEL(ala_unfused_margin_##type##_##map_name, 256, type##_##map_name::margin)             \
    KERNEL(ala_unfused_exponentiate_##type##_##map_name, 256, type##_##map_name::exponentiate) \
    KERNEL(ala_unfused_loss_##type##_##map_name, 256, type##_##map_name::loss)                 \
    KERNEL(ala_unfused_gradient_##type##_##map_name, 256, type##_##map_name::gradient)

#define MAPS(type, T)                           \
    INSTANCES(type, T, uniform, ala::Uniform)   \
    INSTANCES(type, T, per_class, ala::PerClass)

MAPS(f32, float)
MAPS(f16, __half)
MAPS(bf16, __nv_bfloat16)

KERNEL(ala_count, 256, ala::count_rows<256>)
KERNEL(ala_unfused_max, 256, ala::unfused::max<256>)
KERNEL(ala_unfused_sum, 256, ala::unfused::sum<256>)
KERNEL(ala_unfused_reduce, 256, ala::unfused::reduce<256>)
