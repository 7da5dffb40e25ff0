// One block a row of any length: maximum and sum in one pass with rescaling, the gradient in a second.
#pragma once
#include "block_row.cuh"

namespace ala {

// A maximum and the sum of exp2(u - max) over what was seen so far.
struct Online {
    float max;
    float sum;
};

struct Merge {
    __device__ static Online of(Online a, Online b) {
        const float max = fmaxf(a.max, b.max);
        // Where nothing above -inf was seen both maxima are -inf, and their difference would be NaN.
        const float shift = max == -INFINITY ? 0.0f : max;
        return {max, a.sum * exp2_fast(a.max - shift) + b.sum * exp2_fast(b.max - shift)};
    }
};

template <int THREADS> __device__ Online merge_block(Online mine, float* max_slots, float* sum_slots) {
    const int lane = threadIdx.x % WARP;
    auto merge_warp = [](Online value) {
#pragma unroll
        for (int offset = WARP / 2; offset > 0; offset /= 2) {
            const Online other = {
                __shfl_xor_sync(FULL_WARP, value.max, offset), __shfl_xor_sync(FULL_WARP, value.sum, offset)};
            // The lower lane's part first in both lanes, so that they round alike.
            value = (threadIdx.x & offset) ? Merge::of(other, value) : Merge::of(value, other);
        }
        return value;
    };
    mine = merge_warp(mine);
    if (lane == 0) {
        max_slots[threadIdx.x / WARP] = mine.max;
        sum_slots[threadIdx.x / WARP] = mine.sum;
    }
    // All warps' values are in their slots before any warp reads them.
    __syncthreads();
    const bool has = lane < THREADS / WARP;
    return merge_warp({has ? max_slots[lane] : -INFINITY, has ? sum_slots[lane] : 0.0f});
}

template <typename T, typename Map, int THREADS> __device__ void streamed_row(const AlaParams& p) {
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

        Online mine = {-INFINITY, 0.0f};
        bool outdone = false;
        bool invalid = false;
        for (uint32_t j = threadIdx.x; j < p.classes; j += THREADS) {
            if (j == y) {
                continue;
            }
            const float x = widen(logits[j]);
            outdone |= p.hits != 0 && outdoes(x, j, x_target, y);
            const float u = map.at(x, j);
            // The running maximum drops a NaN, and inf - inf below would come late: the row is told here.
            invalid |= u != u || u == INFINITY;
            if (u > mine.max) {
                // -inf - u is -inf: the empty sum stays 0.
                mine.sum *= exp2_fast(mine.max - u);
                mine.max = u;
            }
            if (u > -INFINITY) {
                mine.sum += exp2_fast(map.exponent(x, j, mine.max));
            }
        }
        if (invalid) {
            mine.sum = NAN;
        }
        Online all = merge_block<THREADS>(mine, max_slots, sum_slots);
        const float shift = fmaxf(all.max, target_exponent(x_target, map.map(y), target, 0.0f));
        // The target may lead by so much that the others' maximum is no shift for it.
        const float rescale = all.max == -INFINITY ? (all.sum == 0.0f ? 0.0f : NAN) : exp2_fast(all.max - shift);
        const float others = shift == -INFINITY ? NAN : all.sum * rescale;
        const RowResult result = solve_row(
            p, target, map.common_slope(), others, target_exponent(x_target, map.map(y), target, shift),
            row_factor(p, row));
        if (p.gradient != 0) {
            T* gradient = gradient_row<T>(p, row);
            for (uint32_t j = threadIdx.x; j < p.classes; j += THREADS) {
                const float e = exp2_fast(map.exponent(widen(logits[j]), j, shift));
                gradient[j] = round_to<T>(
                    j == y ? result.target_gradient : result.scale * map.gradient_slope(j) * e);
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
        // Slow warps have read their slots before the next row's are written.
        __syncthreads();
    });
}

}  // namespace ala
