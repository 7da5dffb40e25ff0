// What keeps the compiler from spending registers: values that it does not know to be the same.
#pragma once
#include "fixed_width.h"

namespace ala {

// The same number, but the compiler does not know it: what follows from it is computed again rather
// than kept in registers, and it is itself kept rather than computed again.
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

}  // namespace ala
