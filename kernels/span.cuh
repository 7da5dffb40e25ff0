// A row, or a few that follow one another, as a span of elements in memory: how it falls on 16-byte
// boundaries, and how threads share its vectors.
#pragma once
#include "element.cuh"
#include "opaque.cuh"

namespace ala {

// One type or the other.
template <bool FIRST, typename A, typename B>
struct Selected {
    using Type = A;
};
template <typename A, typename B>
struct Selected<false, A, B> {
    using Type = B;
};
template <bool FIRST, typename A, typename B>
using Select = typename Selected<FIRST, A, B>::Type;
struct Nothing {};

// How a span of elements falls on 16-byte boundaries: a head before the first, whole vectors, a
// tail.
struct Span {
    uint32_t head;
    uint32_t vectors;
    uint32_t tail;
    // Elements that are in no whole vector, and which of the span's the i-th of them is.
    __device__ __forceinline__ uint32_t edges() const { return head + tail; }
    template <int V>
    __device__ __forceinline__ uint32_t edge(uint32_t i) const {
        return i < head ? i : i + vectors * V;
    }
};

// `KEPT`: where a register is left for the head, or it is computed once more in every branch.
template <bool KEPT = false, typename T>
__device__ __forceinline__ Span split(const T* from, uint32_t count) {
    // Elements from `from` to the next boundary: what its address lacks, modulo a vector.
    const uint32_t place =
        static_cast<uint32_t>(reinterpret_cast<uintptr_t>(from)) / static_cast<uint32_t>(sizeof(T));
    const uint32_t lacks = (0u - place) % WIDTH<T>;
    const uint32_t least = lacks < count ? lacks : count;
    const uint32_t head = KEPT ? opaque(least) : least;
    const uint32_t rest = count - head;
    return {head, rest / WIDTH<T>, rest % WIDTH<T>};
}

// 1 where the first whole vector of a row is the second half of its 32-byte sector.
template <typename T>
__device__ __forceinline__ uint32_t sector_phase(const T* row) {
    return (static_cast<uint32_t>(reinterpret_cast<uintptr_t>(row)) + VECTOR_BYTES - 1) /
           VECTOR_BYTES % 2;
}

// Whether two rows' vectors begin at the same elements.
template <typename T>
__device__ __forceinline__ bool in_phase(const T* a, const T* b) {
    return (reinterpret_cast<uintptr_t>(a) - reinterpret_cast<uintptr_t>(b)) % VECTOR_BYTES == 0;
}

// Calls `body` with each of 0..COUNT as a constant, which arrays in registers and distances in
// instructions have to be.
template <int I>
struct Constant {
    __device__ constexpr operator int() const { return I; }
};
template <int COUNT, int I = 0, typename Body>
__device__ __forceinline__ void unrolled(Body body) {
    if constexpr (I < COUNT) {
        body(Constant<I>());
        unrolled<COUNT, I + 1>(body);
    }
}

// The same as long as `is` says so: what it denies is the last that it is asked.
template <int COUNT, int I = 0, typename Is, typename Body>
__device__ __forceinline__ void unrolled_while(Is is, Body body) {
    if constexpr (I < COUNT) {
        if (is(I)) {
            body(Constant<I>());
            unrolled_while<COUNT, I + 1>(is, body);
        }
    }
}

// The vectors of a row that `STEP` threads share: thread t takes t, t + STEP, ... of those from
// `begin` to `end`. `begin` is 0, or 1 where the row's vectors begin in the middle of a 32-byte
// sector and the threads are few, so that no two of its accesses touch the same sector.
struct Share {
    uint32_t begin;
    uint32_t thread;
    // Vectors from the thread's first place to the end.
    int left;

    template <int AT, int STEP>
    __device__ __forceinline__ bool has() const {
        return left > AT * STEP && (AT > 0 || thread >= begin);
    }
};

// Vector `AT` of a thread's share: 16 aligned bytes that nobody reads again soon. `from` is the
// thread's first; the distance is part of the instruction.
template <int AT, int STEP, typename T>
__device__ __forceinline__ Words load_whole(const T* from) {
    Words w;
    asm volatile("ld.global.cs.v4.b32 {%0, %1, %2, %3}, [%4+%5];"
                 : "=r"(w.word[0]), "=r"(w.word[1]), "=r"(w.word[2]), "=r"(w.word[3])
                 : "l"(from), "n"(AT * STEP * VECTOR_BYTES));
    return w;
}

// The same where the thread has one, else -inf. One predicated load, since a branch around it would
// keep the next from being issued.
template <int AT, int STEP, typename T>
__device__ __forceinline__ Words load_if(const Share& share, const T* from) {
    Words w;
    w.word[0] = w.word[1] = w.word[2] = w.word[3] = minus_infinity(T());
    if constexpr (AT == 0) {
        asm volatile(
            "{\n\t"
            ".reg .pred mine;\n\t"
            "setp.gt.s32 mine, %4, 0;\n\t"
            "setp.ge.and.u32 mine, %5, %6, mine;\n\t"
            "@mine ld.global.cs.v4.b32 {%0, %1, %2, %3}, [%7];\n\t"
            "}"
            : "+r"(w.word[0]), "+r"(w.word[1]), "+r"(w.word[2]), "+r"(w.word[3])
            : "r"(share.left), "r"(share.thread), "r"(share.begin), "l"(from));
    } else {
        asm volatile(
            "{\n\t"
            ".reg .pred mine;\n\t"
            "setp.gt.s32 mine, %4, %5;\n\t"
            "@mine ld.global.cs.v4.b32 {%0, %1, %2, %3}, [%6+%7];\n\t"
            "}"
            : "+r"(w.word[0]), "+r"(w.word[1]), "+r"(w.word[2]), "+r"(w.word[3])
            : "r"(share.left), "n"(AT * STEP), "l"(from), "n"(AT * STEP * VECTOR_BYTES));
    }
    return w;
}

// What an SM asks of L2 at a time.
constexpr uint32_t LINE_BYTES = 128;

// Brings a line of memory to L2.
template <typename T>
__device__ __forceinline__ void prefetch(const T* from) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
}

// Whether a thread can copy from global to shared memory without a register between.
#if __CUDA_ARCH__ >= 800
constexpr bool COPIES_WITHOUT_REGISTERS = true;
#else
constexpr bool COPIES_WITHOUT_REGISTERS = false;
#endif

// Starts to copy `BYTES`, 4 or 16 that are aligned, from global to shared memory; whole vectors
// past L1 unless they are read `AGAIN`.
template <int BYTES, bool AGAIN = false>
__device__ __forceinline__ void start_copy(float* to, const float* from) {
    const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    if constexpr (BYTES == VECTOR_BYTES && AGAIN) {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
    } else if constexpr (BYTES == VECTOR_BYTES) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
    } else {
        static_assert(BYTES == 4, "no other sizes");
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(at), "l"(from) : "memory");
    }
}

// This thread's copies are there; others see them behind a barrier.
__device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_all;" ::: "memory");
}

template <int AT, int STEP, typename T>
__device__ __forceinline__ void store_whole(T* to, const Words& w) {
    asm volatile("st.global.cs.v4.b32 [%0+%1], {%2, %3, %4, %5};"
                 :
                 : "l"(to), "n"(AT * STEP * VECTOR_BYTES), "r"(w.word[0]), "r"(w.word[1]),
                   "r"(w.word[2]), "r"(w.word[3])
                 : "memory");
}

}  // namespace ala
