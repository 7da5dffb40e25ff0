// Logit types: 16 bytes of them at a time, and how a gradient is rounded, once, to nearest even.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include <type_traits>

namespace ala {

// What one lane moves at a time.
constexpr int VECTOR_BYTES = 16;
template <typename T>
constexpr int WIDTH = VECTOR_BYTES / static_cast<int>(sizeof(T));

__device__ __forceinline__ float widen(float x) {
    return x;
}
__device__ __forceinline__ float widen(__half x) {
    return __half2float(x);
}
__device__ __forceinline__ float widen(__nv_bfloat16 x) {
    return __bfloat162float(x);
}

template <typename T>
__device__ __forceinline__ T round_to(float x);
template <>
__device__ __forceinline__ float round_to<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ __half round_to<__half>(float x) {
    return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 round_to<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}

// The elements of one 32-bit word.
__device__ __forceinline__ void unpack(uint32_t word, float (&x)[1], float) {
    x[0] = __uint_as_float(word);
}
__device__ __forceinline__ void unpack(uint32_t word, float (&x)[2], __half) {
    asm("{\n\t.reg .b16 low, high;\n\tmov.b32 {low, high}, %2;\n\tcvt.f32.f16 %0, "
        "low;\n\tcvt.f32.f16 %1, high;\n\t}"
        : "=f"(x[0]), "=f"(x[1])
        : "r"(word));
}
__device__ __forceinline__ void unpack(uint32_t word, float (&x)[2], __nv_bfloat16) {
    // A bf16 is the upper half of its f32. By instruction: as integers they would be moved once
    // more.
    asm("shl.b32 %0, %1, 16;" : "=f"(x[0]) : "r"(word));
    asm("and.b32 %0, %1, 0xffff0000;" : "=f"(x[1]) : "r"(word));
}
__device__ __forceinline__ uint32_t pack(const float (&x)[1], float) {
    return __float_as_uint(x[0]);
}
__device__ __forceinline__ uint32_t pack(const float (&x)[2], __half) {
    const __half2 pair = __floats2half2_rn(x[0], x[1]);
    return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ __forceinline__ uint32_t pack(const float (&x)[2], __nv_bfloat16) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(x[0], x[1]);
    return *reinterpret_cast<const uint32_t*>(&pair);
}

// -inf in every element of a word.
__device__ constexpr uint32_t minus_infinity(float) {
    return 0xff800000u;
}
__device__ constexpr uint32_t minus_infinity(__half) {
    return 0xfc00fc00u;
}
__device__ constexpr uint32_t minus_infinity(__nv_bfloat16) {
    return 0xff80ff80u;
}

// One element as it is in memory.
template <typename T>
using Raw = std::conditional_t<sizeof(T) == 2, uint16_t, float>;
__device__ __forceinline__ float widen_raw(float x, float) {
    return x;
}
__device__ __forceinline__ float widen_raw(uint16_t x, __half) {
    return widen(__ushort_as_half(x));
}
__device__ __forceinline__ float widen_raw(uint16_t x, __nv_bfloat16) {
    return widen(__ushort_as_bfloat16(x));
}
template <typename T>
__device__ constexpr Raw<T> raw_minus_infinity() {
    if constexpr (sizeof(T) == 2) {
        return static_cast<uint16_t>(minus_infinity(T()));
    } else {
        return -INFINITY;
    }
}

// The larger of each pair of elements; of a NaN and a number the number.
__device__ __forceinline__ uint32_t max_of_words(uint32_t a, uint32_t b, float) {
    return __float_as_uint(fmaxf(__uint_as_float(a), __uint_as_float(b)));
}
template <typename T>
__device__ __forceinline__ uint32_t max_of_words(uint32_t a, uint32_t b, T) {
    static_assert(sizeof(T) == 2, "two elements a word");
#if __CUDA_ARCH__ >= 800
    uint32_t max;
    if constexpr (std::is_same_v<T, __half>) {
        asm("max.f16x2 %0, %1, %2;" : "=r"(max) : "r"(a), "r"(b));
    } else {
        asm("max.bf16x2 %0, %1, %2;" : "=r"(max) : "r"(a), "r"(b));
    }
    return max;
#else
    float x[2], y[2];
    unpack(a, x, T());
    unpack(b, y, T());
    const float both[2] = {fmaxf(x[0], y[0]), fmaxf(x[1], y[1])};
    return pack(both, T());
#endif
}

// 16 bytes of logits, as they are in memory.
struct Words {
    uint32_t word[4];
};

template <typename T>
__device__ __forceinline__ void unpack(const Words& words, float (&x)[WIDTH<T>]) {
    constexpr int EACH = WIDTH<T> / 4;
#pragma unroll
    for (int w = 0; w < 4; w++) {
        float some[EACH];
        unpack(words.word[w], some, T());
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            x[w * EACH + i] = some[i];
        }
    }
}

template <typename T>
__device__ __forceinline__ Words pack(const float (&x)[WIDTH<T>]) {
    constexpr int EACH = WIDTH<T> / 4;
    Words words;
#pragma unroll
    for (int w = 0; w < 4; w++) {
        float some[EACH];
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            some[i] = x[w * EACH + i];
        }
        words.word[w] = pack(some, T());
    }
    return words;
}

// The words with -inf in the place of an element.
template <typename T>
__device__ __forceinline__ Words without_element(const Words& words, uint32_t element) {
    constexpr uint32_t EACH = WIDTH<T> / 4;
    // The element's bits, where a word has two.
    const uint32_t bits = EACH == 1 ? 0xffffffffu : 0xffffu << element % EACH * 16;
    const uint32_t at = element / EACH;
    const auto one = [&](uint32_t w) {
        return at == w ? (words.word[w] & ~bits) | (minus_infinity(T()) & bits) : words.word[w];
    };
    return {{one(0), one(1), one(2), one(3)}};
}

// `value` in the place of an element, where the vector has that.
template <int V>
__device__ __forceinline__ void replace(float (&x)[V], uint32_t element, float value) {
    if (element < V) {
#pragma unroll
        for (int k = 0; k < V; k++) {
            x[k] = element == k ? value : x[k];
        }
    }
}

// 16 aligned bytes; evicted first unless they are read `AGAIN`.
template <bool AGAIN = false>
__device__ __forceinline__ Words load_words(const void* from) {
    const uint4* words = reinterpret_cast<const uint4*>(from);
    const uint4 raw = AGAIN ? *words : __ldcs(words);
    return {{raw.x, raw.y, raw.z, raw.w}};
}

template <bool AGAIN = false, typename T>
__device__ __forceinline__ void load_vector(const T* from, float (&x)[WIDTH<T>]) {
    unpack<T>(load_words<AGAIN>(from), x);
}

template <typename T>
__device__ __forceinline__ void store_vector(T* to, const float (&x)[WIDTH<T>]) {
    const Words w = pack<T>(x);
    __stcs(reinterpret_cast<uint4*>(to), make_uint4(w.word[0], w.word[1], w.word[2], w.word[3]));
}

}  // namespace ala
