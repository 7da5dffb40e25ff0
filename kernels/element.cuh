// Logit types: 16 bytes of them at a time, and how a gradient is rounded, once, to nearest even.
#pragma once
#include "numbers.cuh"

namespace ala {

// What one lane moves at a time.
constexpr int VECTOR_BYTES = 16;
template <typename T>
constexpr int WIDTH = VECTOR_BYTES / static_cast<int>(sizeof(T));

// The elements of one 32-bit word; two of 16 bits are in numbers.cuh.
__device__ __forceinline__ void unpack(uint32_t word, float (&x)[1], float) {
    x[0] = __uint_as_float(word);
}
__device__ __forceinline__ uint32_t pack(const float (&x)[1], float) {
    return __float_as_uint(x[0]);
}
__device__ __forceinline__ uint32_t max_of_words(uint32_t a, uint32_t b, float) {
    return __float_as_uint(fmaxf(__uint_as_float(a), __uint_as_float(b)));
}

// -inf in every element of a word.
__device__ constexpr uint32_t minus_infinity(float) {
    return 0xff800000u;
}
__device__ constexpr uint32_t minus_infinity(f16) {
    return 0xfc00fc00u;
}
__device__ constexpr uint32_t minus_infinity(bf16) {
    return 0xff80ff80u;
}

// The same as one element.
__device__ __forceinline__ float least(float) {
    return -infinity();
}
template <typename T>
__device__ __forceinline__ T least(T) {
    return {static_cast<uint16_t>(minus_infinity(T()))};
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
