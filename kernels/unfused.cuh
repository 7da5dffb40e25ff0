// The baseline that the fused kernels are measured against: the same loss, one operation a kernel, every intermediate
// matrix in memory. Held to the same parity tests.
#pragma once
#include "finish.cuh"
#include "walk.cuh"

namespace ala {
namespace unfused {

// Runs over the elements of [rows, classes] in a grid-stride loop.
template <typename Body> __device__ void each_element(const AlaParams& p, Body body) {
    const uint64_t count = p.rows * p.classes;
    const uint64_t step = static_cast<uint64_t>(gridDim.x) * blockDim.x;
    for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
        body(i, i / p.classes, static_cast<uint32_t>(i % p.classes));
    }
}

template <typename Body> __device__ void each_row(const AlaParams& p, Body body) {
    const uint64_t step = static_cast<uint64_t>(gridDim.x) * blockDim.x;
    for (uint64_t r = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; r < p.rows; r += step) {
        body(r);
    }
}

__device__ __forceinline__ float* values(const AlaParams& p) { return reinterpret_cast<float*>(p.scratch); }
__device__ __forceinline__ float* row_max(const AlaParams& p) { return reinterpret_cast<float*>(p.row_scratch); }
__device__ __forceinline__ float* row_sum(const AlaParams& p) { return row_max(p) + p.rows; }

template <typename T, typename Map>
__device__ __forceinline__ TargetExponent own_exponent(const AlaParams& p, const Map& map, uint64_t row, uint32_t y) {
    return target_exponent(widen(logits_row<T>(p, row)[y]), map, y, read_target(p, y));
}

// 1: z = a x + b.
template <typename T, typename Map> __device__ void scale(const AlaParams& p) {
    const Map map(p);
    each_element(p, [&](uint64_t i, uint64_t row, uint32_t j) {
        values(p)[i] = map.at(widen(logits_row<T>(p, row)[j]), j);
    });
}

// 2: the target's logit gets its margin.
template <typename T, typename Map> __device__ void margin(const AlaParams& p) {
    const Map map(p);
    each_row(p, [&](uint64_t row) {
        const int64_t label = read_label(p, row);
        if (has_target(p, label)) {
            values(p)[row * p.classes + label] = own_exponent<T>(p, map, row, static_cast<uint32_t>(label)).sum;
        }
    });
}

// 3: the row's maximum.
template <int THREADS> __device__ void max(const AlaParams& p) {
    __shared__ float slots[THREADS / WARP];
    for (uint64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        float mine = -INFINITY;
        for (uint32_t j = threadIdx.x; j < p.classes; j += THREADS) {
            mine = fmaxf(mine, values(p)[row * p.classes + j]);
        }
        const float all = block_reduce<Max, THREADS>(mine, slots);
        if (threadIdx.x == 0) {
            row_max(p)[row] = shift_of(all);
        }
        // Slow warps have read their slots before the next row's are written.
        __syncthreads();
    }
}

// 4: e = exp2(z - max) off the target, from the logits again so that the product is rounded once.
template <typename T, typename Map> __device__ void exponentiate(const AlaParams& p) {
    const Map map(p);
    each_element(p, [&](uint64_t i, uint64_t row, uint32_t j) {
        const int64_t label = read_label(p, row);
        values(p)[i] = label == j
            ? 0.0f
            : exp2_fast(map.exponent(widen(logits_row<T>(p, row)[j]), j, row_max(p)[row]));
    });
}

// 5: the others' sum.
template <int THREADS> __device__ void sum(const AlaParams& p) {
    __shared__ float slots[THREADS / WARP];
    for (uint64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        float mine = 0.0f;
        for (uint32_t j = threadIdx.x; j < p.classes; j += THREADS) {
            mine += values(p)[row * p.classes + j];
        }
        const float all = block_reduce<Sum, THREADS>(mine, slots);
        if (threadIdx.x == 0) {
            row_sum(p)[row] = all;
        }
        // Slow warps have read their slots before the next row's are written.
        __syncthreads();
    }
}

template <typename T, typename Map>
__device__ __forceinline__ RowSums sums(const AlaParams& p, const Map& map, uint64_t row, uint32_t y) {
    return {row_sum(p)[row], own_exponent<T>(p, map, row, y).minus(row_max(p)[row])};
}

// 6: the row's loss, and its hit.
template <typename T, typename Map> __device__ void loss(const AlaParams& p) {
    const Map map(p);
    each_row(p, [&](uint64_t row) {
        const int64_t label = read_label(p, row);
        if (!has_target(p, label)) {
            report_row_without_target(p, row);
            return;
        }
        const uint32_t y = static_cast<uint32_t>(label);
        reinterpret_cast<float*>(p.row_losses)[row] = row_loss(p, read_target(p, y), sums<T>(p, map, row, y));
        if (p.hits != 0) {
            const T* logits = logits_row<T>(p, row);
            const float own = widen(logits[y]);
            bool hit = own == own;
            for (uint32_t j = 0; j < p.classes; j++) {
                hit = hit && (j == y || !outdoes(widen(logits[j]), j, own, y));
            }
            reinterpret_cast<uint8_t*>(p.hits)[row] = hit;
        }
    });
}

// 7: the gradient.
template <typename T, typename Map> __device__ void gradient(const AlaParams& p) {
    const Map map(p);
    each_element(p, [&](uint64_t i, uint64_t row, uint32_t j) {
        const int64_t label = read_label(p, row);
        float g = 0.0f;
        if (has_target(p, label)) {
            const uint32_t y = static_cast<uint32_t>(label);
            const RowGradient result = row_gradient(
                p, read_target(p, y), map.common_slope(), sums<T>(p, map, row, y), row_factor(p, row));
            g = label == j ? result.at_target : result.scale * map.gradient_slope(j) * values(p)[i];
        }
        gradient_row<T>(p, row)[j] = round_to<T>(g);
    });
}

// 8: the rows' losses become one number.
template <int THREADS> __device__ void reduce(const AlaParams& p) {
    __shared__ AlaTotals totals[THREADS];
    totals[threadIdx.x] = no_rows();
    for (uint64_t row = threadIdx.x; row < p.rows; row += THREADS) {
        const int64_t label = read_label(p, row);
        if (has_target(p, label)) {
            const float loss = reinterpret_cast<const float*>(p.row_losses)[row];
            add_row(totals[threadIdx.x], loss, read_target(p, static_cast<uint32_t>(label)).weight);
        }
    }
    // The baseline leaves no row for later.
    finish(p, totals, THREADS, blockIdx.x, [&] { return totals[0].loss; });
}

}  // namespace unfused
}  // namespace ala
