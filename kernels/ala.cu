// Every kernel, by name: ala_<tier>_<logits>_<map>. The list is the only place where types meet tiers;
// src/cuda/kernels.rs builds the same names.
#include <stdint.h>

#include "block_row.cuh"
#include "count.cuh"
#include "streamed_row.cuh"
#include "unfused.cuh"

#define ALA_THREADS 256
#define KERNEL(name, body) \
    extern "C" __global__ void __launch_bounds__(ALA_THREADS, 4) name(const __grid_constant__ AlaParams p) { body(p); }

// No comma may stand in a macro argument, so each body gets a short name first.
#define TIERS(type, T, map_name, Map)                                                                        \
    namespace type##_##map_name {                                                                            \
    __device__ void block4(const AlaParams& p) { ala::block_row<T, Map, ALA_THREADS, 4>(p); }                \
    __device__ void block16(const AlaParams& p) { ala::block_row<T, Map, ALA_THREADS, 16>(p); }              \
    __device__ void streamed(const AlaParams& p) { ala::streamed_row<T, Map, ALA_THREADS>(p); }              \
    __device__ void scale(const AlaParams& p) { ala::unfused::scale<T, Map>(p); }                            \
    __device__ void margin(const AlaParams& p) { ala::unfused::margin<T, Map>(p); }                          \
    __device__ void exponentiate(const AlaParams& p) { ala::unfused::exponentiate<T, Map>(p); }              \
    __device__ void loss(const AlaParams& p) { ala::unfused::loss<T, Map>(p); }                              \
    __device__ void gradient(const AlaParams& p) { ala::unfused::gradient<T, Map>(p); }                      \
    }                                                                                                        \
    KERNEL(ala_block4_##type##_##map_name, type##_##map_name::block4)                                        \
    KERNEL(ala_block16_##type##_##map_name, type##_##map_name::block16)                                      \
    KERNEL(ala_streamed_##type##_##map_name, type##_##map_name::streamed)                                    \
    KERNEL(ala_unfused_scale_##type##_##map_name, type##_##map_name::scale)                                  \
    KERNEL(ala_unfused_margin_##type##_##map_name, type##_##map_name::margin)                                \
    KERNEL(ala_unfused_exponentiate_##type##_##map_name, type##_##map_name::exponentiate)                    \
    KERNEL(ala_unfused_loss_##type##_##map_name, type##_##map_name::loss)                                    \
    KERNEL(ala_unfused_gradient_##type##_##map_name, type##_##map_name::gradient)

#define MAPS(type, T)                           \
    TIERS(type, T, uniform, ala::Uniform)       \
    TIERS(type, T, per_class, ala::PerClass)

MAPS(f32, float)
MAPS(f16, __half)
MAPS(bf16, __nv_bfloat16)

KERNEL(ala_count, ala::count_rows<ALA_THREADS>)
KERNEL(ala_unfused_max, ala::unfused::max<ALA_THREADS>)
KERNEL(ala_unfused_sum, ala::unfused::sum<ALA_THREADS>)
KERNEL(ala_unfused_reduce, ala::unfused::reduce<ALA_THREADS>)
