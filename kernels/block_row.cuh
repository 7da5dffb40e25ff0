// One block a row, the row in registers: every logit is read once and every gradient written once.
#pragma once
#include "element.cuh"
#include "finish.cuh"
#include "reduce.cuh"
#include "row.cuh"

namespace ala {

// The rows of a block's grid-stride walk.
template <int THREADS, typename Row> __device__ __forceinline__ void walk_rows(const AlaParams& p, Row row) {
    for (uint64_t r = blockIdx.x; r < p.rows; r += gridDim.x) {
        row(r);
    }
    finish<THREADS>(p);
}

template <typename T> __device__ __forceinline__ const T* logits_row(const AlaParams& p, uint64_t row) {
    // 64-bit: rows * stride passes 2^31 elements.
    return reinterpret_cast<const T*>(p.logits) + row * p.logits_stride;
}

template <typename T> __device__ __forceinline__ T* gradient_row(const AlaParams& p, uint64_t row) {
    return reinterpret_cast<T*>(p.gradient) + row * p.gradient_stride;
}

// Ignored and bad rows: zero gradient, one thread reports. True where the row is done with.
template <typename T, int THREADS>
__device__ __forceinline__ bool skip_row(const AlaParams& p, uint64_t row, int64_t label) {
    if (!is_ignored(p, label) && is_class(p, label)) {
        return false;
    }
    if (p.gradient != 0) {
        T* gradient = gradient_row<T>(p, row);
        for (uint32_t j = threadIdx.x; j < p.classes; j += THREADS) {
            gradient[j] = round_to<T>(0.0f);
        }
    }
    if (threadIdx.x == 0) {
        report_row_without_target(p, row, label);
    }
    return true;
}

// Whether a logit beats the target's: it is larger, or equal at a lower class. A NaN beats everything.
__device__ __forceinline__ bool outdoes(float x, uint32_t j, float own, uint32_t y) {
    return !(x < own || (x == own && j >= y));
}

template <typename T, typename Map, int THREADS, int ITEMS> __device__ void block_row(const AlaParams& p) {
    // A row's two reductions alternate between them: each one's barrier also keeps the next row's writes to the other
    // behind the last reads, so that rows need no barrier between them.
    __shared__ float max_slots[THREADS / WARP];
    __shared__ float sum_slots[THREADS / WARP];
    const Map map(p);
    walk_rows<THREADS>(p, [&](uint64_t row) {
        const int64_t label = read_label(p, row);
        if (skip_row<T, THREADS>(p, row, label)) {
            return;
        }
        const T* logits = logits_row<T>(p, row);
        const uint32_t y = static_cast<uint32_t>(label);
        const float x_target = widen(logits[y]);
        const AlaTarget target = reinterpret_cast<const AlaTarget*>(p.targets)[y];

        float x[ITEMS];
        float max = -INFINITY;
#pragma unroll
        for (int i = 0; i < ITEMS; i++) {
            const uint32_t j = threadIdx.x + i * THREADS;
            // Beyond the row, and at the target, a probability of 0.
            x[i] = j < p.classes && j != y ? widen(logits[j]) : -INFINITY;
            if (j < p.classes) {
                max = Max::of(max, map.at(x[i], j));
            }
        }
        const float largest = block_reduce<Max, THREADS>(max, max_slots);
        const float shift = Max::of(largest, target_exponent(x_target, map.map(y), target, 0.0f));

        float sum = 0.0f;
        bool outdone = false;
#pragma unroll
        for (int i = 0; i < ITEMS; i++) {
            const uint32_t j = threadIdx.x + i * THREADS;
            if (j < p.classes) {
                outdone |= p.hits != 0 && j != y && outdoes(x[i], j, x_target, y);
                x[i] = j == y ? 0.0f : exp2_fast(map.exponent(x[i], j, shift));
                sum += x[i];
            }
        }
        const float others = block_reduce<Sum, THREADS>(sum, sum_slots);
        const RowResult result = solve_row(
            p, target, map.common_slope(), others, target_exponent(x_target, map.map(y), target, shift),
            row_factor(p, row));
        if (p.gradient != 0) {
            T* gradient = gradient_row<T>(p, row);
#pragma unroll
            for (int i = 0; i < ITEMS; i++) {
                const uint32_t j = threadIdx.x + i * THREADS;
                if (j < p.classes) {
                    gradient[j] = round_to<T>(
                        j == y ? result.target_gradient : result.scale * map.gradient_slope(j) * x[i]);
                }
            }
        }
        if (threadIdx.x == 0) {
            reinterpret_cast<float*>(p.row_losses)[row] = result.loss;
        }
        if (p.hits != 0) {
            const bool any = __syncthreads_or(outdone || x_target != x_target);
            if (threadIdx.x == 0) {
                reinterpret_cast<uint8_t*>(p.hits)[row] = !any;
            }
        }
    });
}

}  // namespace ala
