// How a kernel is declared: its name, its threads, how it begins and what they do. The maps and the
// types by the names that kernels carry.
#pragma once
#include "abi.h"

// Half the threads that an SM of the architecture holds: the occupancy that the registers must
// allow. Without a bound ptxas aims for so few registers on some architectures that it spills.
#if __CUDA_ARCH__ == 750
#define HALF_AN_SM 512
#elif __CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200
#define HALF_AN_SM 768
#else
#define HALF_AN_SM 1024
#endif

// The same of recipes, whose rows have more to keep.
#define RECIPES_OF_AN_SM (HALF_AN_SM < 640 ? HALF_AN_SM : 640)

// Where the launch allows it a kernel begins while the one before it in its stream ends. It lets
// the next one do the same, and touches no memory before the one before has ended and all that it
// wrote is there.
__device__ __forceinline__ void overlap_with_neighbours() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

#define KERNEL_OF(name, parameters, threads, threads_of_an_sm, ...) \
    extern "C" __global__ void __launch_bounds__(                   \
        threads, (threads_of_an_sm + threads - 1) / threads)        \
        name(const __grid_constant__ parameters p) {                \
        overlap_with_neighbours();                                  \
        __VA_ARGS__(p);                                             \
    }
#define KERNEL(name, threads, ...) KERNEL_OF(name, AlaParams, threads, HALF_AN_SM, __VA_ARGS__)
#define RECIPE_KERNEL(name, threads, ...) \
    KERNEL_OF(name, AlaRecipe, threads, RECIPES_OF_AN_SM, __VA_ARGS__)
#define SHARD_KERNEL(name, threads, ...) \
    KERNEL_OF(name, AlaShard, threads, RECIPES_OF_AN_SM, __VA_ARGS__)

// The maps and the types by the names that kernels carry.
#define MAP_uniform ala::Uniform
#define MAP_per_class ala::PerClass
#define RECIPE_MAP_uniform ala::UniformWeighed
#define RECIPE_MAP_per_class ala::PerClassWeighed
#define TYPE_f32 float
#define TYPE_f16 ala::f16
#define TYPE_bf16 ala::bf16

#define EVERY_TYPE(X, ...) \
    X(f32, __VA_ARGS__)    \
    X(f16, __VA_ARGS__)    \
    X(bf16, __VA_ARGS__)
