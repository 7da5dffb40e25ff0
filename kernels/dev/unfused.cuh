// The loss in eight steps, one operation a kernel, every intermediate matrix in memory. It is the
// legend of the fused tiers, which mark their steps with the same numbers, and the baseline that
// they are measured against, held to the same tests.
//
//     1  scale         u = a x + b
//     2  margin        the target's logit gets its margin
//     3  max           the row's maximum
//     4  exponentiate  e = exp2(u - max) off the target
//     5  sum           of e
//     6  loss          of the row, and its hit
//     7  gradient
//     8  reduce        the rows' losses become one number
#pragma once
#include "finish.cuh"
#include "row_io.cuh"

namespace ala {
namespace unfused {

// Runs over the elements of [rows, classes] in a grid-stride loop.
template <typename Body>
__device__ void each_element(const AlaParams& p, Body body) {
    const uint64_t count = p.rows * p.classes;
    const uint64_t step = static_cast<uint64_t>(gridDim.x) * blockDim.x;
    for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
         i += step) {
        body(i, i / p.classes, static_cast<uint32_t>(i % p.classes));
    }
}

template <typename Body>
__device__ void each_row(const AlaParams& p, Body body) {
    const uint64_t step = static_cast<uint64_t>(gridDim.x) * blockDim.x;
    for (uint64_t r = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; r < p.rows;
         r += step) {
        body(r);
    }
}

__device__ __forceinline__ float* values(const AlaScratch& s) {
    return reinterpret_cast<float*>(s.values);
}
__device__ __forceinline__ float* row_max(const AlaScratch& s) {
    return reinterpret_cast<float*>(s.row_values);
}
__device__ __forceinline__ float* row_sum(const AlaParams& p, const AlaScratch& s) {
    return row_max(s) + p.rows;
}

template <typename T, typename Map>
__device__ __forceinline__ TargetExponent
target_of(const AlaParams& p, const Map& map, uint64_t row, uint32_t y) {
    return target_exponent(widen(logits_row<T>(p, row)[y]), map, y, read_target(p, y));
}

// Every thread of a whole block gets the result. `slots` is one value a warp; two reductions that
// follow each other need different ones, or a barrier between them.
template <typename Op, int THREADS>
__device__ __forceinline__ float reduce_block(float value, float identity, float* slots) {
    const int lane = threadIdx.x % WARP;
    value = reduce_team<Op, WARP>(value);
    if (lane == 0) {
        slots[threadIdx.x / WARP] = value;
    }
    // All warps' values are in their slots before any warp reads them.
    __syncthreads();
    return reduce_team<Op, WARP>(lane < THREADS / WARP ? slots[lane] : identity);
}

// 1: u = a x + b.
template <typename T, typename Map>
__device__ void scale(const AlaParams& p, const AlaScratch& s) {
    const Map map(p);
    each_element(p, [&](uint64_t i, uint64_t row, uint32_t j) {
        values(s)[i] = map.at(widen(logits_row<T>(p, row)[j]), j);
    });
}

// 2: the target's logit gets its margin.
template <typename T, typename Map>
__device__ void margin(const AlaParams& p, const AlaScratch& s) {
    const Map map(p);
    each_row(p, [&](uint64_t row) {
        const int64_t label = read_label(p, row);
        if (has_target(p, label)) {
            values(s)[row * p.classes + label] =
                target_of<T>(p, map, row, static_cast<uint32_t>(label)).sum;
        }
    });
}

// 3: the row's maximum.
template <int THREADS>
__device__ void max(const AlaParams& p, const AlaScratch& s) {
    __shared__ float slots[THREADS / WARP];
    for (uint64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        float mine = -infinity();
        for (uint32_t j = threadIdx.x; j < p.classes; j += THREADS) {
            mine = fmaxf(mine, values(s)[row * p.classes + j]);
        }
        const float all = reduce_block<Max, THREADS>(mine, -infinity(), slots);
        if (threadIdx.x == 0) {
            row_max(s)[row] = pivot_of(all);
        }
        // Slow warps have read their slots before the next row's are written.
        __syncthreads();
    }
}

// 4: e = exp2(u - max) off the target, from the logits again so that the product is rounded once.
template <typename T, typename Map>
__device__ void exponentiate(const AlaParams& p, const AlaScratch& s) {
    const Map map(p);
    each_element(p, [&](uint64_t i, uint64_t row, uint32_t j) {
        const int64_t label = read_label(p, row);
        values(s)[i] =
            label == j
                ? 0.0f
                : exp2_fast(map.exponent(widen(logits_row<T>(p, row)[j]), j, row_max(s)[row]));
    });
}

// 5: the others' sum.
template <int THREADS>
__device__ void sum(const AlaParams& p, const AlaScratch& s) {
    __shared__ float slots[THREADS / WARP];
    for (uint64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        float mine = 0.0f;
        for (uint32_t j = threadIdx.x; j < p.classes; j += THREADS) {
            mine += values(s)[row * p.classes + j];
        }
        const float all = reduce_block<Sum, THREADS>(mine, 0.0f, slots);
        if (threadIdx.x == 0) {
            row_sum(p, s)[row] = all;
        }
        // Slow warps have read their slots before the next row's are written.
        __syncthreads();
    }
}

template <typename T, typename Map>
__device__ __forceinline__ RowSums
sums(const AlaParams& p, const AlaScratch& s, const Map& map, uint64_t row, uint32_t y) {
    const float pivot = row_max(s)[row];
    return {row_sum(p, s)[row], target_of<T>(p, map, row, y).minus(pivot), pivot};
}

// 6: the row's loss, and its hit.
template <typename T, typename Map>
__device__ void loss(const AlaParams& p, const AlaScratch& s) {
    const Map map(p);
    each_row(p, [&](uint64_t row) {
        const int64_t label = read_label(p, row);
        if (!has_target(p, label)) {
            report_row_without_target(p, row);
            return;
        }
        const uint32_t y = static_cast<uint32_t>(label);
        write_loss(p, row, row_loss(p, read_target(p, y), sums<T>(p, s, map, row, y)));
        if (p.hits != 0) {
            const T* logits = logits_row<T>(p, row);
            const float x_target = widen(logits[y]);
            bool hit = x_target == x_target;
            for (uint32_t j = 0; j < p.classes; j++) {
                hit = hit && (j == y || !outdoes(widen(logits[j]), j, x_target, y));
            }
            write_hit(p, row, hit);
        }
    });
}

// 7: the gradient.
template <typename T, typename Map>
__device__ void gradient(const AlaParams& p, const AlaScratch& s) {
    const Map map(p);
    each_element(p, [&](uint64_t i, uint64_t row, uint32_t j) {
        const int64_t label = read_label(p, row);
        float g = 0.0f;
        if (has_target(p, label)) {
            const uint32_t y = static_cast<uint32_t>(label);
            const RowGradient scales = row_gradient(
                p, read_target(p, y), map.common_slope(), sums<T>(p, s, map, row, y),
                row_factor(p, row));
            g = label == j ? scales.at_target
                           : map.times_class_slope(scales.scale, j) * values(s)[i];
        }
        gradient_row<T>(p, row)[j] = round_to<T>(g);
    });
}

// 8: the rows' losses become one number.
template <int THREADS>
__device__ void reduce(const AlaParams& p, const AlaScratch&) {
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
