// One block a row of any length, where shared memory cannot hold it: maximum and sum in one pass with rescaling, the
// gradient in a second, which reads the logits again.
#pragma once
#include "careful.cuh"
#include "finish.cuh"
#include "walk.cuh"

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

// Calls `vector(first class, logits)` for the row's whole vectors and `single(class, logit)` for head and tail. `AGAIN`: the
// vectors will be read once more.
template <typename T, int THREADS, bool AGAIN, typename Single, typename Vector>
__device__ __forceinline__ void each_vector(const T* logits, const Span& span, Single single, Vector vector) {
    if (threadIdx.x < span.head + span.tail) {
        const uint32_t j = threadIdx.x < span.head ? threadIdx.x : threadIdx.x + span.vectors * WIDTH<T>;
        single(j, widen(logits[j]));
    }
    for (uint32_t i = threadIdx.x; i < span.vectors; i += THREADS) {
        float x[WIDTH<T>];
        load_vector<AGAIN>(logits + span.head + i * WIDTH<T>, x);
        vector(span.head + i * WIDTH<T>, x);
    }
}

template <typename T, typename Map, int THREADS> __device__ void streamed_row(const AlaParams& p) {
    constexpr int V = WIDTH<T>;
    static_assert(2 * (V - 1) <= THREADS, "head and tail are one access each");
    __shared__ float max_slots[THREADS / WARP];
    __shared__ float sum_slots[THREADS / WARP];
    const Map map(p);
    // Thread 0's.
    __shared__ AlaTotals totals;
    if (threadIdx.x == 0) {
        totals = no_rows();
    }
    for (uint64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        const int64_t label = read_label(p, row);
        if (!has_target(p, label)) {
            skip_row<T>(p, row, threadIdx.x, THREADS);
            continue;
        }
        const T* logits = logits_row<T>(p, row);
        const Span span = split(logits, p.classes);
        const uint32_t y = static_cast<uint32_t>(label);
        const float x_target = widen(logits[y]);
        const AlaTarget target = read_target(p, y);

        Online mine = {-INFINITY, 0.0f};
        bool outdone = x_target != x_target;
        // The running maximum drops a NaN, and inf - inf would come late: the row is told here.
        bool invalid = false;
        const auto raise = [&](float u) {
            if (u > mine.max) {
                // An empty sum stays 0: exp2(-inf) is.
                mine.sum *= exp2_fast(mine.max - u);
                mine.max = u;
            }
        };
        const auto accumulate = [&](float x, uint32_t j) {
            if (mine.max > -INFINITY) {
                mine.sum += exp2_fast(map.exponent(x, j, mine.max));
            }
        };
        each_vector<T, THREADS, true>(
            logits, span,
            [&](uint32_t j, float x) {
                outdone |= p.hits != 0 && outdoes(x, j, x_target, y);
                if (j != y) {
                    const float u = map.from_order(map.order(x, j));
                    invalid |= !(u < INFINITY);
                    raise(u);
                    accumulate(x, j);
                }
            },
            [&](uint32_t first, float (&x)[V]) {
                if (p.hits != 0) {
#pragma unroll
                    for (int k = 0; k < V; k++) {
                        outdone |= outdoes(x[k], first + k, x_target, y);
                    }
                }
                if (y - first < V) {
#pragma unroll
                    for (int k = 0; k < V; k++) {
                        x[k] = y - first == k ? -INFINITY : x[k];
                    }
                }
                float most = -INFINITY;
#pragma unroll
                for (int k = 0; k < V; k++) {
                    most = Max::of(most, map.order(x[k], first + k));
                    invalid |= x[k] != x[k];
                }
                const float u = map.from_order(most);
                invalid |= u == INFINITY;
                raise(u);
#pragma unroll
                for (int k = 0; k < V; k++) {
                    accumulate(x[k], first + k);
                }
            });
        if (invalid) {
            mine.sum = NAN;
        }
        const Online all = merge_block<THREADS>(mine, max_slots, sum_slots);
        const TargetExponent exponent = target_exponent(x_target, map, y, target);
        const float others_max = shift_of(all.max);
        const float shift = Max::of(others_max, exponent.sum);
        const RowSums sums = RowSums::of(others_max, all.sum, exponent, shift);
        const RowGradient result = row_gradient(p, target, map.common_slope(), sums, row_factor(p, row));
        const bool left = is_far_out(shift);
        if (p.gradient != 0 && !left) {
            T* gradient = gradient_row<T>(p, row);
            const bool whole = in_phase<T>(gradient, logits);
            const auto at = [&](float x, uint32_t j) {
                return result.scale * map.gradient_slope(j) *
                    exp2_fast(map.exponent(x, j, shift));
            };
            each_vector<T, THREADS, false>(
                logits, span,
                [&](uint32_t j, float x) {
                    gradient[j] = round_to<T>(j == y ? result.at_target : at(x, j));
                },
                [&](uint32_t first, float (&x)[V]) {
#pragma unroll
                    for (int k = 0; k < V; k++) {
                        x[k] = at(x[k], first + k);
                    }
                    if (whole) {
                        store_vector(gradient + first, x);
                    } else {
#pragma unroll
                        for (int k = 0; k < V; k++) {
                            gradient[first + k] = round_to<T>(x[k]);
                        }
                    }
                    if (y - first < V) {
                        // After this thread's own store of the vector around it.
                        gradient[y] = round_to<T>(result.at_target);
                    }
                });
        }
        if (threadIdx.x == 0) {
            const float loss = left ? left_row() : row_loss(p, target, sums);
            reinterpret_cast<float*>(p.row_losses)[row] = loss;
            add_row(totals, loss, target.weight);
        }
        if (p.hits != 0) {
            const bool any = __syncthreads_or(outdone);
            if (threadIdx.x == 0) {
                reinterpret_cast<uint8_t*>(p.hits)[row] = !any;
            }
        }
        // Slow warps have read their slots before the next row's are written.
        __syncthreads();
    }
    finish<false>(p, &totals, 1, blockIdx.x, [&] { return solve_left<T, Map>(p, blockIdx.x, 1, gridDim.x); });
}

}  // namespace ala
