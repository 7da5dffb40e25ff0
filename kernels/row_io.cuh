// What a row reads and writes besides its own elements in bulk: its label, its target's constants,
// what scales its gradient, its loss, its hit.
#pragma once
#include "element.cuh"
#include "row.cuh"

namespace ala {

__device__ __forceinline__ AlaState& state_of(const AlaParams& p) {
    return *reinterpret_cast<AlaState*>(p.state);
}
__device__ __forceinline__ AlaBlocks& blocks_of(const AlaParams& p) {
    return *reinterpret_cast<AlaBlocks*>(p.blocks);
}

template <typename T>
__device__ __forceinline__ const T* logits_row(const AlaParams& p, uint64_t row) {
    // 64-bit: rows * stride passes 2^31 elements.
    return reinterpret_cast<const T*>(p.logits) + row * p.logits_stride;
}

struct Labels {
    uint64_t labels;
    uint32_t label_type;
};
// `From` is Labels, or AlaParams, which has the same: where the address is read in each branch.
template <typename From>
__device__ __forceinline__ int64_t read_label(const From& p, uint64_t row) {
    // The most frequent type first.
    if (p.label_type == ALA_LABEL_I64) {
        return reinterpret_cast<const int64_t*>(p.labels)[row];
    }
    switch (p.label_type) {
        case ALA_LABEL_U8: return reinterpret_cast<const uint8_t*>(p.labels)[row];
        case ALA_LABEL_I32: return reinterpret_cast<const int32_t*>(p.labels)[row];
        default: return reinterpret_cast<const uint32_t*>(p.labels)[row];
    }
}

// A row that counts. Without an ignore label p.ignore_label is no class.
__device__ __forceinline__ bool has_target(const AlaParams& p, int64_t label) {
    // A negative label is a huge one.
    return label != p.ignore_label && static_cast<uint64_t>(label) < p.classes;
}

__device__ __forceinline__ AlaTarget read_target(const AlaParams& p, uint32_t y) {
    // One 16-byte load: the table is an allocation of its own, its entries 16 bytes.
    const float4 raw = __ldg(reinterpret_cast<const float4*>(p.targets) + y);
    return {raw.x, raw.y, raw.z, raw.w};
}

// Upstream gradient, gradient scale and reduction of one row.
__device__ __forceinline__ float row_factor(const AlaParams& p, uint64_t row) {
    float factor = p.gradient_factor;
    if (p.upstream != 0) {
        const float* upstream = reinterpret_cast<const float*>(p.upstream);
        factor *= upstream[(p.flags & ALA_UPSTREAM_PER_ROW) ? row : 0];
    }
    if (p.flags & ALA_COUNTED) {
        factor = quotient(factor, *reinterpret_cast<const float*>(p.given));
    }
    return factor;
}

// Whether the caller has what the step would write, made for the upstream gradient that came. All
// blocks find the same, so that none waits for another. Asked where `sure_rows` says that a block
// has no row: other steps pay nothing for it.
__device__ __forceinline__ bool is_skipped(const AlaParams& p) {
    return p.sure_rows == 0 && p.upstream != 0 &&
           *reinterpret_cast<const float*>(p.upstream) == p.skipped_upstream;
}

// Whether a logit beats the target's: it is larger, or equal at a lower class. A NaN beats
// everything.
__device__ __forceinline__ bool outdoes(float x, uint32_t j, float x_target, uint32_t y) {
    return !(x < x_target || (x == x_target && j >= y));
}

// What stands for the loss of a row that careful.cuh is to solve, and for its gradient's scale: a
// NaN that no instruction gives. Its logits are where they were, or in the gradient that goes over
// them.
__device__ __forceinline__ float left_row() {
    return __uint_as_float(0xffffffffu);
}
__device__ __forceinline__ bool is_left(float x) {
    uint32_t bits;
    // Volatile, so that it stays behind what asks for a NaN first.
    asm volatile("mov.b32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits == 0xffffffffu;
}

// `Row` has 32 bits where the tier counts rows by them: widened for this it would take a register
// from the row.
template <typename Row>
__device__ __forceinline__ void write_loss(const AlaParams& p, Row row, float loss) {
    reinterpret_cast<float*>(p.row_losses)[row] = loss;
}

// Called where hits are asked for.
template <typename Row>
__device__ __forceinline__ void write_hit(const AlaParams& p, Row row, bool hit) {
    reinterpret_cast<uint8_t*>(p.hits)[row] = hit;
}

template <typename T>
__device__ __forceinline__ T* gradient_row(const AlaParams& p, uint64_t row) {
    return reinterpret_cast<T*>(p.gradient) + row * p.gradient_stride;
}

// Stores a row's gradient, with the target's in its place whoever holds it.
template <typename T>
struct GradientRow {
    T* gradient;
    // Whether the row's vectors are vectors here too.
    bool in_phase;
    uint32_t y;
    float at_target;

    __device__ __forceinline__ void store(uint32_t j, float g) const {
        gradient[j] = round_to<T>(j == y ? at_target : g);
    }
    // The vector that begins at class `first`.
    __device__ __forceinline__ void store(uint32_t first, float (&g)[WIDTH<T>]) const {
        replace(g, y - first, at_target);
        if (in_phase) {
            store_vector(gradient + first, g);
        } else {
#pragma unroll
            for (int k = 0; k < WIDTH<T>; k++) {
                gradient[first + k] = round_to<T>(g[k]);
            }
        }
    }
};

// The zero gradient of an ignored or bad row, by the `threads` that share it.
template <typename T>
__device__ __forceinline__ void zero_gradient(
    const AlaParams& p, uint64_t row, uint32_t thread, uint32_t threads) {
    T* gradient = gradient_row<T>(p, row);
    for (uint32_t j = thread; j < p.classes; j += threads) {
        gradient[j] = round_to<T>(0.0f);
    }
}

// The launch's first bad row is kept for the host.
__device__ __forceinline__ void report_bad_row(const AlaParams& p, uint64_t row) {
    atomicMin(
        reinterpret_cast<unsigned long long*>(&state_of(p).step_bad_row),
        static_cast<unsigned long long>(row));
}

// Ignored (loss 0) or bad (loss NaN). Called by one thread.
__device__ __forceinline__ void report_row_without_target(const AlaParams& p, uint64_t row) {
    const int64_t label = read_label(p, row);
    const bool ignored = (p.flags & ALA_HAS_IGNORE) != 0 && label == p.ignore_label;
    if (!ignored) {
        report_bad_row(p, row);
    }
    write_loss(p, row, ignored ? 0.0f : not_a_number());
    if (p.hits != 0) {
        write_hit(p, row, false);
    }
}

// The same of a recipe's row, of which it is known whether it is `bad`: see terms.cuh.
__device__ __forceinline__ void report_row_without_target(
    const AlaRecipe& r, uint64_t row, bool bad);

// An ignored or bad row: zero gradient, and one of the threads reports.
template <typename T, typename Step, typename... Known>
__device__ __forceinline__ void skip_row(
    const Step& step, uint64_t row, uint32_t thread, uint32_t threads, Known... known) {
    const AlaParams& p = params_of(step);
    if (p.gradient != 0) {
        zero_gradient<T>(p, row, thread, threads);
    }
    if (thread == 0) {
        report_row_without_target(step, row, known...);
    }
}

// Blocks of two launches met in one workspace, or one waited in vain: what comes out is nobody's
// result.
__device__ inline void report_disturbed(const AlaParams& p) {
    atomicExch(reinterpret_cast<unsigned long long*>(&state_of(p).disturbed), 1ull);
}

}  // namespace ala
