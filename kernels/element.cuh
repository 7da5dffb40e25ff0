// Logit types: 16 bytes of them at a time, and how a gradient is rounded, once, to nearest even.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

namespace ala {

// What one lane moves at a time.
constexpr int VECTOR_BYTES = 16;
template <typename T> constexpr int WIDTH = VECTOR_BYTES / static_cast<int>(sizeof(T));

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T> __device__ __forceinline__ T round_to(float x);
template <> __device__ __forceinline__ float round_to<float>(float x) { return x; }
template <> __device__ __forceinline__ __half round_to<__half>(float x) { return __float2half_rn(x); }
template <> __device__ __forceinline__ __nv_bfloat16 round_to<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}

// The elements of one 32-bit word.
__device__ __forceinline__ void unpack(uint32_t word, float (&x)[1], float) { x[0] = __uint_as_float(word); }
__device__ __forceinline__ void unpack(uint32_t word, float (&x)[2], __half) {
    const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&word));
    x[0] = pair.x;
    x[1] = pair.y;
}
__device__ __forceinline__ void unpack(uint32_t word, float (&x)[2], __nv_bfloat16) {
    // A bf16 is the upper half of its f32.
    x[0] = __uint_as_float(word << 16);
    x[1] = __uint_as_float(word & 0xffff0000u);
}
__device__ __forceinline__ uint32_t pack(const float (&x)[1], float) { return __float_as_uint(x[0]); }
__device__ __forceinline__ uint32_t pack(const float (&x)[2], __half) {
    const __half2 pair = __floats2half2_rn(x[0], x[1]);
    return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ __forceinline__ uint32_t pack(const float (&x)[2], __nv_bfloat16) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(x[0], x[1]);
    return *reinterpret_cast<const uint32_t*>(&pair);
}

// Reads 16 aligned bytes that nobody reads again soon.
template <typename T> __device__ __forceinline__ void load_vector(const T* from, float (&x)[WIDTH<T>]) {
    constexpr int EACH = WIDTH<T> / 4;
    const uint4 raw = __ldcs(reinterpret_cast<const uint4*>(from));
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int w = 0; w < 4; w++) {
        float some[EACH];
        unpack(words[w], some, T());
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            x[w * EACH + i] = some[i];
        }
    }
}

template <typename T> __device__ __forceinline__ void store_vector(T* to, const float (&x)[WIDTH<T>]) {
    constexpr int EACH = WIDTH<T> / 4;
    uint32_t words[4];
#pragma unroll
    for (int w = 0; w < 4; w++) {
        float some[EACH];
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            some[i] = x[w * EACH + i];
        }
        words[w] = pack(some, T());
    }
    __stcs(reinterpret_cast<uint4*>(to), make_uint4(words[0], words[1], words[2], words[3]));
}

// How a span of elements falls on 16-byte boundaries: a head before the first, whole vectors, a tail.
struct Span {
    uint32_t head;
    uint32_t vectors;
    uint32_t tail;
};

template <typename T> __device__ __forceinline__ Span split(const T* from, uint32_t count) {
    const uint32_t misaligned = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(from)) % VECTOR_BYTES;
    uint32_t head = (VECTOR_BYTES - misaligned) % VECTOR_BYTES / static_cast<uint32_t>(sizeof(T));
    head = head < count ? head : count;
    const uint32_t rest = count - head;
    return {head, rest / WIDTH<T>, rest % WIDTH<T>};
}

// Whether two rows' vectors begin at the same elements.
template <typename T> __device__ __forceinline__ bool in_phase(const T* a, const T* b) {
    return (reinterpret_cast<uintptr_t>(a) - reinterpret_cast<uintptr_t>(b)) % VECTOR_BYTES == 0;
}

}  // namespace ala
