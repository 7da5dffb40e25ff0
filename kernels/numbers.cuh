// Numbers: integers of fixed width, what no literal says, and 16-bit floats as they are in memory.
// Of the kernels' own, by instruction: a compiler needs no header but theirs.
#pragma once
#include "fixed_width.h"

namespace ala {

__device__ __forceinline__ float infinity() {
    return __uint_as_float(0x7f800000u);
}
__device__ __forceinline__ float not_a_number() {
    return __uint_as_float(0x7fffffffu);
}
constexpr float LARGEST = 3.402823466e+38f;

// Sign, 5 bits of exponent, 10 of fraction.
struct f16 {
    uint16_t bits;
};
// The upper half of an f32.
struct bf16 {
    uint16_t bits;
};

__device__ __forceinline__ float widen(float x) {
    return x;
}
__device__ __forceinline__ float widen(f16 x) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
    return wide;
}
__device__ __forceinline__ float widen(bf16 x) {
    float wide;
    asm("mov.b32 %0, {0, %1};" : "=f"(wide) : "h"(x.bits));
    return wide;
}

// To nearest, ties to even.
template <typename T>
__device__ __forceinline__ T round_to(float x);
template <>
__device__ __forceinline__ float round_to<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ f16 round_to<f16>(float x) {
    f16 rounded;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(x));
    return rounded;
}
template <>
__device__ __forceinline__ bf16 round_to<bf16>(float x) {
    bf16 rounded;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(x));
#else
    // Half a unit more, less one where that would round a tie to odd; a carry is right in the
    // exponent too.
    const uint32_t bits = __float_as_uint(x);
    const uint32_t sum = bits + 0x7fffu + (bits >> 16 & 1u);
    rounded.bits = static_cast<uint16_t>(x == x ? sum >> 16 : 0x7fffu);
#endif
    return rounded;
}

// Two at a time, the first in the lower half of a word.
__device__ __forceinline__ void unpack(uint32_t word, float (&x)[2], f16) {
    asm("{\n\t.reg .b16 low, high;\n\tmov.b32 {low, high}, %2;\n\tcvt.f32.f16 %0, "
        "low;\n\tcvt.f32.f16 %1, high;\n\t}"
        : "=f"(x[0]), "=f"(x[1])
        : "r"(word));
}
__device__ __forceinline__ void unpack(uint32_t word, float (&x)[2], bf16) {
    // As integers they would be moved once more.
    asm("shl.b32 %0, %1, 16;" : "=f"(x[0]) : "r"(word));
    asm("and.b32 %0, %1, 0xffff0000;" : "=f"(x[1]) : "r"(word));
}
template <typename T>
__device__ __forceinline__ uint32_t pack_one_by_one(const float (&x)[2]) {
    const uint32_t high = round_to<T>(x[1]).bits;
    return round_to<T>(x[0]).bits | high << 16;
}
// The larger of each pair of halves; of a NaN and a number the number.
template <typename T>
__device__ __forceinline__ uint32_t max_one_by_one(uint32_t a, uint32_t b) {
    float x[2], y[2];
    unpack(a, x, T());
    unpack(b, y, T());
    const float both[2] = {fmaxf(x[0], y[0]), fmaxf(x[1], y[1])};
    return pack_one_by_one<T>(both);
}

// Whether there are instructions for two at a time.
#if __CUDA_ARCH__ >= 800
constexpr bool IN_PAIRS = true;
#else
constexpr bool IN_PAIRS = false;
#endif

// The types have the names that instructions have for them.
#define ALA_PAIRS_OF(type)                                                                 \
    __device__ __forceinline__ uint32_t pack(const float (&x)[2], type) {                  \
        if constexpr (IN_PAIRS) {                                                          \
            uint32_t word;                                                                 \
            asm("cvt.rn." #type "x2.f32 %0, %1, %2;" : "=r"(word) : "f"(x[1]), "f"(x[0])); \
            return word;                                                                   \
        } else {                                                                           \
            return pack_one_by_one<type>(x);                                               \
        }                                                                                  \
    }                                                                                      \
    __device__ __forceinline__ uint32_t max_of_words(uint32_t a, uint32_t b, type) {       \
        if constexpr (IN_PAIRS) {                                                          \
            uint32_t max;                                                                  \
            asm("max." #type "x2 %0, %1, %2;" : "=r"(max) : "r"(a), "r"(b));               \
            return max;                                                                    \
        } else {                                                                           \
            return max_one_by_one<type>(a, b);                                             \
        }                                                                                  \
    }
ALA_PAIRS_OF(f16)
ALA_PAIRS_OF(bf16)
#undef ALA_PAIRS_OF

}  // namespace ala
