// A row in the registers of a group of lanes, from 8 lanes of a warp to a whole block: every logit is read once and
// every gradient written once, 16 bytes a lane. Head and tail of a row that starts off a 16-byte boundary are taken by
// one access of several lanes each.
#pragma once
#include "reduce.cuh"
#include "walk.cuh"

namespace ala {

template <typename T, typename Map, int GROUP, int ITEMS, int THREADS>
__device__ void register_row(const AlaParams& p) {
    static_assert(GROUP == THREADS || (GROUP <= WARP && WARP % GROUP == 0), "a part of a warp, or a block");
    constexpr bool BLOCK = GROUP > WARP;
    constexpr int V = WIDTH<T>;
    // Head and tail together have up to 2 (V - 1) elements.
    constexpr int EDGES = (2 * (V - 1) + GROUP - 1) / GROUP;
    constexpr int ROWS = THREADS / GROUP;
    // A row's two reductions alternate between them: each one's barrier also keeps the next row's writes to the other
    // behind the last reads, so that rows need no barrier between them.
    __shared__ float max_slots[BLOCK ? THREADS / WARP : 1];
    __shared__ float sum_slots[BLOCK ? THREADS / WARP : 1];
    __shared__ float rival_slots[BLOCK ? THREADS / WARP : 1];

    const Map map(p);
    const uint32_t lane = threadIdx.x % GROUP;
    // One lane of each warp or smaller group does what is done once a row, and tells the others by shuffle.
    constexpr int PART = BLOCK ? WARP : GROUP;
    const bool leader = threadIdx.x % PART == 0;

    for (uint64_t first = static_cast<uint64_t>(blockIdx.x) * ROWS; first < p.rows;
         first += static_cast<uint64_t>(gridDim.x) * ROWS) {
        const uint64_t row = first + threadIdx.x / GROUP;
        const bool live = row < p.rows;
        const int64_t label = live ? read_label(p, row) : 0;
        const bool valid = live && has_target(p, label);
        if (live && !valid) {
            skip_row<T>(p, row, label, lane, GROUP);
        }
        if (BLOCK && !valid) {
            // The whole block: no one waits at the barriers below.
            continue;
        }
        // Groups without a row go along, for the shuffles of the warp's other groups.
        const uint32_t y = static_cast<uint32_t>(label);
        const T* logits = logits_row<T>(p, valid ? row : 0);
        const Span span = split(logits, valid ? p.classes : 0);

        // Loads first, as many in flight as there are.
        float edge[EDGES];
        uint32_t edge_class[EDGES];
#pragma unroll
        for (int i = 0; i < EDGES; i++) {
            const uint32_t place = lane + i * GROUP;
            edge_class[i] = place < span.head ? place : place + span.vectors * V;
            const bool mine = place < span.head + span.tail;
            edge[i] = mine ? widen(logits[edge_class[i]]) : -INFINITY;
            if (!mine) {
                edge_class[i] = UINT32_MAX;
            }
        }
        float x[ITEMS][V];
#pragma unroll
        for (int i = 0; i < ITEMS; i++) {
            const uint32_t vector = lane + i * GROUP;
            if (vector < span.vectors) {
                load_vector(logits + span.head + vector * V, x[i]);
            } else {
#pragma unroll
                for (int k = 0; k < V; k++) {
                    x[i][k] = -INFINITY;
                }
            }
        }
        float x_target = 0.0f;
        AlaTarget target = {};
        if (leader && valid) {
            x_target = widen(logits[y]);
            target = read_target(p, y);
        }

        // The target's own term is kept apart: whoever holds its logit takes it out of the others.
        const uint32_t y_place = y - span.head;
        const uint32_t y_vector = y_place / V;
        const bool in_vector = y >= span.head && y_vector < span.vectors;
        const bool owner = valid && in_vector && y_vector % GROUP == lane;
        if (owner) {
#pragma unroll
            for (int i = 0; i < ITEMS; i++) {
#pragma unroll
                for (int k = 0; k < V; k++) {
                    if (i * V + k == static_cast<int>(y_vector / GROUP * V + y_place % V)) {
                        x[i][k] = -INFINITY;
                    }
                }
            }
        }
#pragma unroll
        for (int i = 0; i < EDGES; i++) {
            if (edge_class[i] == y) {
                edge[i] = -INFINITY;
            }
        }

        const auto class_of = [&](int i, int k) { return span.head + (lane + i * GROUP) * V + k; };
        float max = -INFINITY;
#pragma unroll
        for (int i = 0; i < EDGES; i++) {
            max = Max::of(max, map.order(edge[i], edge_class[i], p.classes));
        }
#pragma unroll
        for (int i = 0; i < ITEMS; i++) {
#pragma unroll
            for (int k = 0; k < V; k++) {
                max = Max::of(max, map.order(x[i][k], class_of(i, k), p.classes));
            }
        }
        // The largest logit of the others, for the hit: with one slope for all the row's own maximum.
        float rival = -INFINITY;
        if (!Map::ORDERED && p.hits != 0) {
#pragma unroll
            for (int i = 0; i < EDGES; i++) {
                rival = Max::of(rival, edge[i]);
            }
#pragma unroll
            for (int i = 0; i < ITEMS; i++) {
#pragma unroll
                for (int k = 0; k < V; k++) {
                    rival = Max::of(rival, x[i][k]);
                }
            }
            rival = BLOCK ? block_reduce<Max, THREADS>(rival, rival_slots) : part_reduce<Max, PART>(rival);
        }
        max = BLOCK ? block_reduce<Max, THREADS>(max, max_slots) : part_reduce<Max, PART>(max);
        if (Map::ORDERED) {
            rival = max;
        }
        // All that is kept of the target over the exponentials, which need the registers.
        float target_place = 0.0f;
        if (leader && valid) {
            target_place = target_exponent(x_target, map.map(y), target, 0.0f);
        }
        const float shift = Max::of(map.from_order(max), __shfl_sync(FULL_WARP, target_place, 0, PART));
        if (leader && valid) {
            target_place = target_exponent(x_target, map.map(y), target, shift);
        }

        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < EDGES; i++) {
            edge[i] = exp2_fast(map.exponent(edge[i], edge_class[i], shift, p.classes));
            sum += edge[i];
        }
#pragma unroll
        for (int i = 0; i < ITEMS; i++) {
#pragma unroll
            for (int k = 0; k < V; k++) {
                x[i][k] = exp2_fast(map.exponent(x[i][k], class_of(i, k), shift, p.classes));
                sum += x[i][k];
            }
        }
        const float others = BLOCK ? block_reduce<Sum, THREADS>(sum, sum_slots) : part_reduce<Sum, PART>(sum);

        const RowSums sums = {others, target_place};
        if (lane == 0 && valid) {
            reinterpret_cast<float*>(p.row_losses)[row] = row_loss(p, read_target(p, y), sums);
        }
        if (p.hits != 0) {
            const float own = __shfl_sync(FULL_WARP, x_target, 0, PART);
            bool outdone = !(rival < own);
            // A tie goes to the lowest class, and a NaN is not in the maximum: the row is looked at again.
            if (valid && (rival == own || others != others)) {
                outdone = own != own;
                for (uint32_t j = lane; j < p.classes; j += GROUP) {
                    outdone |= outdoes(widen(logits[j]), j, own, y);
                }
            }
            // Also keeps the gradient, which may go over the logits, behind these reads.
            bool any;
            if (BLOCK) {
                any = __syncthreads_or(outdone);
            } else {
                const unsigned mine = (PART == WARP ? FULL_WARP : (1u << PART % WARP) - 1)
                    << (threadIdx.x % WARP / PART * PART);
                any = (__ballot_sync(FULL_WARP, outdone) & mine) != 0;
            }
            if (lane == 0 && valid) {
                reinterpret_cast<uint8_t*>(p.hits)[row] = !any;
            }
        }
        if (p.gradient != 0) {
            RowGradient result = {};
            if (leader && valid) {
                result = row_gradient(p, read_target(p, y), map.common_slope(), sums, row_factor(p, row));
            }
            const float scale = __shfl_sync(FULL_WARP, result.scale, 0, PART);
            const float at_target = __shfl_sync(FULL_WARP, result.at_target, 0, PART);
            if (valid) {
                T* gradient = gradient_row<T>(p, row);
                const bool whole = in_phase<T>(gradient, logits);
#pragma unroll
                for (int i = 0; i < EDGES; i++) {
                    if (edge_class[i] != UINT32_MAX) {
                        const float g = scale * map.gradient_slope(edge_class[i], p.classes) * edge[i];
                        gradient[edge_class[i]] = round_to<T>(edge_class[i] == y ? at_target : g);
                    }
                }
#pragma unroll
                for (int i = 0; i < ITEMS; i++) {
                    if (lane + i * GROUP < span.vectors) {
#pragma unroll
                        for (int k = 0; k < V; k++) {
                            x[i][k] *= scale * map.gradient_slope(class_of(i, k), p.classes);
                        }
                        T* to = gradient + class_of(i, 0);
                        if (whole) {
                            store_vector(to, x[i]);
                        } else {
#pragma unroll
                            for (int k = 0; k < V; k++) {
                                to[k] = round_to<T>(x[i][k]);
                            }
                        }
                    }
                }
                if (owner) {
                    // After this thread's own store of the vector around it.
                    gradient[y] = round_to<T>(at_target);
                }
            }
        }
    }
    finish<THREADS>(p);
}

}  // namespace ala
