// Every kernel, by name: ala_<tier>_<logits>_<map>. The list is the only place where types meet
// tiers.
//
// To read them: abi.h says what a kernel is given, row.cuh is the mathematics, dev/unfused.cuh
// takes its eight steps one by one, and gives them the numbers that every fused tier marks its own
// with. streamed_row.cuh is the plainest of those; then packed_rows.cuh, register_row.cuh with
// span.cuh and element.cuh below it, and staged_row.cuh. finish.cuh is step 8 of them all,
// careful.cuh solves the rows that they leave, count.cuh comes before a mean that needs a count.
#include <stdint.h>

#include "count.cuh"
#include "dev/unfused.cuh"
#include "packed_rows.cuh"
#include "register_row.cuh"
#include "staged_row.cuh"
#include "streamed_row.cuh"
#include "tiers.h"

// Half the threads that an SM of the architecture holds: the occupancy that the registers must
// allow. Without a bound ptxas aims for so few registers on some architectures that it spills.
#if __CUDA_ARCH__ == 750
#define HALF_AN_SM 512
#elif __CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200
#define HALF_AN_SM 768
#else
#define HALF_AN_SM 1024
#endif

#define KERNEL(name, threads, ...)                                                              \
    extern "C" __global__ void __launch_bounds__(threads, (HALF_AN_SM + threads - 1) / threads) \
        name(const __grid_constant__ AlaParams p) {                                             \
        __VA_ARGS__(p);                                                                         \
    }

// The maps and the types by the names that kernels carry.
#define MAP_uniform ala::Uniform
#define MAP_per_class ala::PerClass
#define TYPE_f32 float
#define TYPE_f16 __half
#define TYPE_bf16 __nv_bfloat16

#define EVERY_TYPE(X, ...) \
    X(f32, __VA_ARGS__)    \
    X(f16, __VA_ARGS__)    \
    X(bf16, __VA_ARGS__)

// The fused tiers.
constexpr int ANY = 0;

template <typename T, int ELEMENTS>
constexpr int WHOLE_VECTORS = (ELEMENTS + ala::WIDTH<T> - 1) / ala::WIDTH<T> * ala::WIDTH<T>;

#define FUSED(type, kernel, name, lanes, elements, threads, map) \
    KERNEL(                                                      \
        ala_##name##_##type##_##map, threads,                    \
        ala::kernel<TYPE_##type, MAP_##map, lanes, WHOLE_VECTORS<TYPE_##type, elements>, threads>)
#define FUSED_OF_EVERY_TYPE(...) EVERY_TYPE(FUSED, __VA_ARGS__)
ALA_TIERS(FUSED_OF_EVERY_TYPE)

// The unfused baseline.
#define UNFUSED(type, step, map) \
    KERNEL(ala_unfused_##step##_##type##_##map, 256, ala::unfused::step<TYPE_##type, MAP_##map>)
#define UNFUSED_STEP(step)             \
    EVERY_TYPE(UNFUSED, step, uniform) \
    EVERY_TYPE(UNFUSED, step, per_class)
UNFUSED_STEP(scale)
UNFUSED_STEP(margin)
KERNEL(ala_unfused_max, 256, ala::unfused::max<256>)
UNFUSED_STEP(exponentiate)
KERNEL(ala_unfused_sum, 256, ala::unfused::sum<256>)
UNFUSED_STEP(loss)
UNFUSED_STEP(gradient)
KERNEL(ala_unfused_reduce, 256, ala::unfused::reduce<256>)

KERNEL(ala_count, 256, ala::count_rows<256>)
