// A row in shared memory, in its own type: by one block, or by several that each hold a part of it. Every logit is read
// from memory once. Each thread stages what it alone reads again, so that the staging needs no barrier.
//
// The blocks of a row tell one another their part's maximum and sum through memory and wait. They take their places by
// ticket, so that it does not matter in which order the device begins them; the launch is cooperative, so that all of them run.
#pragma once
#include "careful.cuh"
#include "finish.cuh"
#include "walk.cuh"

namespace ala {

__device__ __forceinline__ uint32_t read_acquire(const uint32_t* from) {
    uint32_t value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
    return value;
}

// A block gives up after so many looks, a quarter of a minute at least: the others are not of its launch, or never run.
constexpr uint32_t MOST_LOOKS = 1u << 24;

// Shares this block's part with the others of its row and gives the whole row's. Called by the first warp; its first
// lane has the part. `arrivals` are those of the group when all its blocks have come; `turn` changes from row to row.
__device__ __forceinline__ AlaPart combine_parts(
    const AlaParams& p, const AlaPart& mine, uint32_t ticket, uint32_t arrivals, uint32_t turn) {
    AlaBlocks* blocks = reinterpret_cast<AlaBlocks*>(p.blocks);
    const uint32_t group = ticket / p.parts;
    AlaPart* parts = blocks->parts[turn];
    if (threadIdx.x == 0) {
        parts[ticket] = mine;
        // The part is visible to the device before the block counts itself.
        __threadfence();
        atomicAdd(&blocks->arrived[group], 1u);
        uint32_t looks = 0;
        while (read_acquire(&blocks->arrived[group]) < arrivals) {
            if (++looks == MOST_LOOKS) {
                report_disturbed(p);
                break;
            }
            __nanosleep(40);
        }
    }
    // No lane reads the parts before lane 0 has seen them all arrive.
    __syncwarp();
    AlaPart all = {-FLT_MAX, 0.0f, 0, 0};
    const float4* from = reinterpret_cast<const float4*>(parts + group * p.parts);
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < p.parts; i += WARP) {
        // Written by other blocks of this launch: read past this SM's L1.
        const float4 part = __ldcg(from + i);
        const float max = Max::of(all.max, part.x);
        all.sum = fmaf(all.sum, exp2_fast(all.max - max), part.y * exp2_fast(part.x - max));
        all.max = max;
        all.outdone |= __float_as_uint(part.z);
    }
    const float max = part_reduce<Max, WARP>(all.max);
    all.sum = part_reduce<Sum, WARP>(all.sum * exp2_fast(all.max - max));
    all.max = max;
    all.outdone = __any_sync(FULL_WARP, all.outdone != 0);
    return all;
}

// What every thread of a block needs of its row's solution.
struct Solution {
    float max;
    float scale;
    float at_target;
};

template <typename T, typename Map, int THREADS> __device__ void staged_row(const AlaParams& p) {
    constexpr int V = WIDTH<T>;
    static_assert(2 * (V - 1) <= WARP, "head and tail are one access each");
    extern __shared__ __align__(16) uint4 staged[];
    // By turns: a warp that is a row ahead must not write over what a slow one still reads.
    __shared__ float max_slots[2][THREADS / WARP];
    __shared__ float sum_slots[2][THREADS / WARP];
    __shared__ Solution solutions[2];
    __shared__ uint32_t my_ticket;
    AlaState* state = reinterpret_cast<AlaState*>(p.state);
    const Map map(p);
    if (threadIdx.x == 0) {
        my_ticket = blockIdx.x;
        if (p.parts > 1) {
            const uint32_t taken = atomicAdd(&state->tickets, 1u);
            my_ticket = taken % gridDim.x;
            if (taken != my_ticket) {
                // Another launch took some.
                report_disturbed(p);
            }
        }
    }
    // Every thread sees the ticket.
    __syncthreads();
    const uint32_t ticket = my_ticket;
    const uint32_t part = ticket % p.parts;
    uint32_t arrivals = 0;
    uint32_t turn = 0;
    // Thread 0's.
    __shared__ AlaTotals totals;
    if (threadIdx.x == 0) {
        totals = no_rows();
    }
    for (uint64_t row = ticket / p.parts; row < p.rows; row += gridDim.x / p.parts) {
        const int64_t label = read_label(p, row);
        const T* logits = logits_row<T>(p, row);
        const Span span = split(logits, p.classes);
        const uint32_t begin = part * p.part_vectors < span.vectors ? part * p.part_vectors : span.vectors;
        const uint32_t end = span.vectors - begin < p.part_vectors ? span.vectors : begin + p.part_vectors;
        // The first block has head and tail.
        const bool has_edge = part == 0 && threadIdx.x < span.head + span.tail;
        const uint32_t edge_class =
            threadIdx.x < span.head ? threadIdx.x : has_edge ? threadIdx.x + span.vectors * V : 0;
        if (!has_target(p, label)) {
            if (part == 0) {
                skip_row<T>(p, row, threadIdx.x, THREADS);
            }
            // All the row's blocks: no one waits for this row.
            continue;
        }
        const uint32_t y = static_cast<uint32_t>(label);
        const float x_target = widen(logits[y]);
        // Calls `body(its place in the stage, first class)` for this thread's vectors.
        const auto each_vector = [&](auto body) {
#pragma unroll 1
            for (uint32_t i = begin + threadIdx.x; i < end; i += THREADS) {
                body(i - begin, span.head + i * V);
            }
        };
        // The staged logits, -inf in the target's place.
        const auto read_stage = [&](uint32_t place, uint32_t first, float (&x)[V]) {
            const uint4 raw = staged[place];
            unpack<T>(Words{{raw.x, raw.y, raw.z, raw.w}}, x);
            if (y - first < V) {
#pragma unroll
                for (int k = 0; k < V; k++) {
                    x[k] = y - first == k ? -INFINITY : x[k];
                }
            }
        };

        float edge = has_edge && edge_class != y ? widen(logits[edge_class]) : -INFINITY;
        bool outdone = p.hits != 0 && (x_target != x_target || (has_edge && outdoes(edge, edge_class, x_target, y)));
        float max = map.order(edge, edge_class);
#pragma unroll 2
        for (uint32_t i = begin + threadIdx.x; i < end; i += THREADS) {
            const Words words = load_words(logits + span.head + i * V);
            staged[i - begin] = make_uint4(words.word[0], words.word[1], words.word[2], words.word[3]);
            float x[V];
            unpack<T>(words, x);
            const uint32_t first = span.head + i * V;
            const bool has_target = y - first < V;
#pragma unroll
            for (int k = 0; k < V; k++) {
                const float order = map.order(x[k], first + k);
                max = has_target && y - first == k ? max : Max::of(max, order);
            }
            if (p.hits != 0) {
#pragma unroll
                for (int k = 0; k < V; k++) {
                    outdone |= outdoes(x[k], first + k, x_target, y);
                }
            }
        }
        const float mine = shift_of(map.from_order(max));
        edge = exp2_fast(map.exponent(edge, edge_class, mine));
        float sum = edge;
        each_vector([&](uint32_t place, uint32_t first) {
            float x[V];
            read_stage(place, first, x);
#pragma unroll
            for (int k = 0; k < V; k++) {
                x[k] = exp2_fast(map.exponent(x[k], first + k, mine));
                sum += x[k];
            }
            if constexpr (sizeof(T) == sizeof(float)) {
                // The stage holds exponentials from here on; 16 bits would round them.
                staged[place] = make_uint4(
                    __float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]), __float_as_uint(x[3]));
            }
        });

        // As in the row in registers: the warps' maxima and sums meet once.
        const float of_warp = part_reduce<Max, WARP>(mine);
        sum = part_reduce<Sum, WARP>(sum * exp2_fast(mine - of_warp));
        if (threadIdx.x % WARP == 0) {
            max_slots[turn][threadIdx.x / WARP] = of_warp;
            sum_slots[turn][threadIdx.x / WARP] = sum;
        }
        // All warps' values are in their slots before the first warp reads them.
        const bool any = __syncthreads_or(outdone);
        if (threadIdx.x < WARP) {
            const bool has = threadIdx.x < THREADS / WARP;
            const float max_of_warp = has ? max_slots[turn][threadIdx.x] : -FLT_MAX;
            AlaPart whole = {part_reduce<Max, WARP>(max_of_warp), has ? sum_slots[turn][threadIdx.x] : 0.0f, any, 0};
            whole.sum = part_reduce<Sum, WARP>(whole.sum * exp2_fast(max_of_warp - whole.max));
            if (p.parts > 1) {
                arrivals += p.parts;
                whole = combine_parts(p, whole, ticket, arrivals, turn);
            }
            if (threadIdx.x == 0) {
                const AlaTarget target = read_target(p, y);
                const TargetExponent exponent = target_exponent(x_target, map, y, target);
                const float shift = Max::of(whole.max, exponent.sum);
                const RowSums sums = RowSums::of(whole.max, whole.sum, exponent, shift);
                const bool left = is_far_out(shift);
                if (part == 0) {
                    const float loss = left ? left_row() : row_loss(p, target, sums);
                    reinterpret_cast<float*>(p.row_losses)[row] = loss;
                    add_row(totals, loss, target.weight);
                    if (p.hits != 0) {
                        reinterpret_cast<uint8_t*>(p.hits)[row] = whole.outdone == 0;
                    }
                }
                const RowGradient result = row_gradient(p, target, map.common_slope(), sums, row_factor(p, row));
                const float scale = result.scale * exp2_fast(whole.max - shift);
                solutions[turn] = {whole.max, left ? left_row() : scale, result.at_target};
            }
        }
        // The row is solved before any thread writes its gradient.
        __syncthreads();
        const Solution solution = solutions[turn];
        turn ^= 1;
        // What a block leaves, all the row's blocks leave; the first of them solves it.
        if (p.gradient != 0 && !is_left(solution.scale)) {
            // Exponentials are against this thread's own maximum.
            const float scale = solution.scale * exp2_fast(mine - solution.max);
            T* gradient = gradient_row<T>(p, row);
            const bool aligned = in_phase<T>(gradient, logits);
            each_vector([&](uint32_t place, uint32_t first) {
                float x[V];
                if constexpr (sizeof(T) == sizeof(float)) {
                    const uint4 raw = staged[place];
                    unpack<T>(Words{{raw.x, raw.y, raw.z, raw.w}}, x);
                } else {
                    read_stage(place, first, x);
                }
#pragma unroll
                for (int k = 0; k < V; k++) {
                    const float e =
                        sizeof(T) == sizeof(float) ? x[k] : exp2_fast(map.exponent(x[k], first + k, mine));
                    x[k] = scale * map.gradient_slope(first + k) * e;
                }
                if (aligned) {
                    store_vector(gradient + first, x);
                } else {
#pragma unroll
                    for (int k = 0; k < V; k++) {
                        gradient[first + k] = round_to<T>(x[k]);
                    }
                }
                if (y - first < V) {
                    // After this thread's own store of the vector around it.
                    gradient[y] = round_to<T>(solution.at_target);
                }
            });
            if (has_edge) {
                const float g = scale * map.gradient_slope(edge_class) * edge;
                gradient[edge_class] = round_to<T>(edge_class == y ? solution.at_target : g);
            }
        }
    }
    finish<false>(p, &totals, 1, ticket, [&] {
        // Losses are the first block's.
        return part == 0 ? solve_left<T, Map>(p, ticket / p.parts, 1, gridDim.x / p.parts) : totals.loss;
    });
}

}  // namespace ala
