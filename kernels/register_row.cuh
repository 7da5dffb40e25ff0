// A row in the registers of a group of lanes, from 4 lanes of a warp to a whole block: every logit is read once and
// every gradient written once, 16 bytes a lane. Head and tail of a row that starts off a 16-byte boundary are taken by
// one access of several lanes each.
//
// Each lane takes its exponentials against its own maximum, so that no lane waits for another before it: the row's
// maximum is found meanwhile, and one factor a lane makes up for the difference. A row of a block costs one barrier.
#pragma once
#include "careful.cuh"
#include "finish.cuh"
#include "walk.cuh"

namespace ala {

// What a leader keeps of its row's target while the registers are the row's.
struct Held {
    AlaTarget target;
    float x;
};

template <int I> struct Item {
    __device__ constexpr operator int() const { return I; }
};

// Calls `body` with each of 0..ITEMS as a constant.
template <int ITEMS, int I = 0, typename Body> __device__ __forceinline__ void each_item(Body body) {
    if constexpr (I < ITEMS) {
        body(Item<I>());
        each_item<ITEMS, I + 1>(body);
    }
}

// The same as long as `is` says so: what it denies is the last that it is asked.
template <int ITEMS, int I = 0, typename Is, typename Body>
__device__ __forceinline__ void while_item(Is is, Body body) {
    if constexpr (I < ITEMS) {
        if (is(I)) {
            body(Item<I>());
            while_item<ITEMS, I + 1>(is, body);
        }
    }
}

// `GROUP` lanes a row, `ELEMENTS` a lane. A group of more than a warp is the block; of smaller ones a block has as many
// as it has threads for.
template <typename T, typename Map, int GROUP, int ELEMENTS> __device__ void register_row(const AlaParams& p) {
    constexpr bool BLOCK = GROUP > WARP;
    static_assert(BLOCK ? GROUP % WARP == 0 : WARP % GROUP == 0, "a part of a warp, or whole warps");
    constexpr int V = WIDTH<T>;
    constexpr int ITEMS = ELEMENTS / V;
    static_assert(ITEMS * V == ELEMENTS && ITEMS > 0, "whole vectors");
    // Head and tail together have up to 2 (V - 1) elements.
    constexpr int EDGES = (2 * (V - 1) + GROUP - 1) / GROUP;
    // Lanes that shuffles reach.
    constexpr int PART = BLOCK ? WARP : GROUP;
    constexpr int PARTS = GROUP / PART;
    // By turns: a warp that is a row ahead must not write over what a slow one still reads.
    __shared__ __align__(16) float max_slots[2][PARTS];
    __shared__ __align__(16) float sum_slots[2][PARTS];
    // Each thread's own: the registers are the row's.
    __shared__ float edge_slots[EDGES][BLOCK ? GROUP : 4 * WARP];
    __shared__ Held held_of[BLOCK ? PARTS : WARP / GROUP * 4];
    __shared__ AlaTotals totals[BLOCK ? 1 : WARP / GROUP * 4];

    const Map map(p);
    const uint32_t lane = BLOCK ? threadIdx.x : threadIdx.x % GROUP;
    const uint32_t group = BLOCK ? 0 : threadIdx.x / GROUP;
    const uint32_t groups = BLOCK ? 1 : blockDim.x / GROUP;
    // One lane of each part does what is done once a row, and tells the others.
    const bool leader = threadIdx.x % PART == 0;
    const auto held = [&]() -> Held& { return held_of[thread_again() / PART]; };
    if (lane == 0) {
        totals[group] = no_rows();
    }

    // 32 bits hold every row (the host sees to it), and leave registers to the logits; offsets are 64 bits.
    const uint32_t rows = static_cast<uint32_t>(p.rows);
    uint32_t turn = 0;
    for (uint32_t first = blockIdx.x * groups; first < rows; first += gridDim.x * groups) {
        // Groups without a row go along for the shuffles of the warp's other groups, as with a row of no classes.
        const uint32_t row = first + group;
        const bool live = BLOCK || row < rows;
        int64_t label = 0;
        if (leader && live) {
            label = read_label(p, row);
        }

        // The row's loads do not wait for its label.
        const T* logits = logits_row<T>(p, row);
        const Span span = split<Map::ORDERED>(logits, live ? p.classes : 0);
        // Small groups begin at a sector; where all places are taken the row's own phase has to do.
        const uint32_t phase = GROUP < WARP && span.vectors < GROUP * ITEMS ? sector_phase(logits) : 0;
        const uint32_t end = span.vectors + phase;
        const Share share = {phase, lane, static_cast<int>(end - lane)};
        // Of this lane's first vector.
        const uint32_t first_class = span.head + (lane - phase) * V;
        const auto class_of = [&](int i, int k) { return first_class + i * GROUP * V + k; };
        const T* body = logits + static_cast<int>(first_class);
        Words raw[ITEMS];
        if (GROUP < WARP ? end >= (ITEMS - 2) * GROUP : end >= (ITEMS - 1) * GROUP) {
            // Most often all lanes have all but the last, and where the groups are small all but the first and last two.
            constexpr int FIRST = GROUP < WARP ? 1 : 0;
            each_item<ITEMS>([&](auto i) {
                constexpr bool WHOLE = i >= FIRST && i < ITEMS - 1 - FIRST;
                raw[i] = WHOLE ? load_whole<i, GROUP>(body) : load_if<i, GROUP>(share, body);
            });
        } else {
            each_item<ITEMS>([&](auto i) { raw[i] = load_if<i, GROUP>(share, body); });
        }
        float edge[EDGES];
        const uint32_t edges = span.head + span.tail;
        // A block's are its first warp's, and the others do not look for them.
        const bool may_have_edge = !BLOCK || threadIdx.x < WARP;
        const auto has_edge = [&](int i) { return lane + i * GROUP < edges; };
        // Calls `body` with each edge element of this lane.
        const auto each_edge = [&](auto body) {
            if (may_have_edge) {
                while_item<EDGES>(has_edge, body);
            }
        };
        const auto edge_class = [&](int i) {
            const uint32_t place = lane + i * GROUP;
            return place < span.head ? place : place + span.vectors * V;
        };
        // Also where there is none: what is only sometimes defined takes its register through the whole loop.
        each_item<EDGES>([&](auto i) { edge[i] = -INFINITY; });
        each_edge([&](auto i) { edge[i] = widen(body[static_cast<int>(edge_class(i) - first_class)]); });

        // No classes.
        constexpr uint32_t NO_TARGET = UINT32_MAX;
        constexpr uint32_t NO_ROW = NO_TARGET - 1;
        const uint32_t target_class = has_target(p, label) ? static_cast<uint32_t>(label) : NO_TARGET;
        const uint32_t y = from_first<PART>(live ? target_class : NO_ROW);
        if (y == NO_TARGET) {
            if constexpr (BLOCK) {
                // Every thread's loads are done before another writes over them, where the gradient is in place.
                __syncthreads();
                skip_row<T>(p, row, lane, GROUP);
                // The whole block: no one waits at the barrier below.
                continue;
            } else if (lane == 0) {
                // The gradient follows below, with those of the warp's other rows.
                report_row_without_target(p, row);
            }
        }
        const bool valid = BLOCK || y < NO_ROW;
        Held arriving = {};
        if (leader && valid) {
            arriving = {read_target(p, y), widen(logits[y])};
        }

        // The target's own term is kept apart: whoever holds its logit takes it out of the others. Of every class one lane
        // is the owner, be it in a vector, in the head or in the tail.
        const uint32_t y_place = Map::ORDERED ? opaque(y - first_class) : y - first_class;
        const bool owner = y_place % (GROUP * V) < V;
        if (owner) {
            each_item<ITEMS>([&](auto i) {
                if (y_place / (GROUP * V) == i) {
                    raw[i] = erase<T>(raw[i], y_place % V);
                }
            });
        }

        // Several maxima and sums at a time: a chain of one would wait for itself.
        float max = -INFINITY;
        if constexpr (Map::ORDERED) {
            Words most = raw[0];
            each_item<ITEMS>([&](auto i) {
#pragma unroll
                for (int w = 0; w < 4; w++) {
                    most.word[w] = i == 0 ? raw[0].word[w] : max_of_words(most.word[w], raw[i].word[w], T());
                }
            });
            const uint32_t word = max_of_words(
                max_of_words(most.word[0], most.word[1], T()), max_of_words(most.word[2], most.word[3], T()), T());
            float last[V / 4];
            unpack(word, last, T());
            max = Max::of(last[0], last[V / 4 - 1]);
        } else {
            each_item<ITEMS>([&](auto i) {
                // Vectors that are not there are left out: a map is two loads.
                if (share.template has<i, GROUP>()) {
                    float x[V];
                    unpack<T>(raw[i], x);
#pragma unroll
                    for (int k = 0; k < V; k++) {
                        max = Max::of(max, map.order(x[k], class_of(i, k)));
                    }
                }
            });
        }
        each_edge([&](auto i) {
            const uint32_t j = edge_class(i);
            edge[i] = j == y ? -INFINITY : edge[i];
            max = Max::of(max, map.order(edge[i], j));
        });
        const float mine = shift_of(map.from_order(max));
        if (leader) {
            // By now it is there, like the row.
            held() = arriving;
        }

        float x[ITEMS][V];
        float sums_of[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        each_item<ITEMS>([&](auto i) {
            unpack<T>(raw[i], x[i]);
#pragma unroll
            for (int k = 0; k < V; k++) {
                if (Map::ORDERED || share.template has<i, GROUP>()) {
                    x[i][k] = exp2_fast(map.exponent(x[i][k], class_of(i, k), mine));
                    sums_of[k % 4] = i == 0 && k < 4 ? x[i][k] : sums_of[k % 4] + x[i][k];
                }
            }
        });
        float sum = (sums_of[0] + sums_of[1]) + (sums_of[2] + sums_of[3]);
        each_edge([&](auto i) {
            const float e = exp2_fast(map.exponent(edge[i], edge_class(i), mine));
            sum += e;
            edge_slots[i][threadIdx.x] = e;
        });

        float all = part_reduce<Max, PART>(mine);
        sum = part_reduce<Sum, PART>(sum * exp2_fast(mine - all));
        if constexpr (BLOCK) {
            if (leader) {
                max_slots[turn][threadIdx.x / WARP] = all;
                sum_slots[turn][threadIdx.x / WARP] = sum;
            }
            // All warps' values are in their slots before any warp reads them.
            __syncthreads();
            all = max_of_slots<PARTS>(max_slots[turn]);
        }
        if (p.hits != 0) {
            const float own = from_first<PART>(leader ? held().x : 0.0f);
            // With one slope for all the row's maximum settles it; a NaN is not in the maximum, but in the sum.
            const float own_order = map.from_order(own);
            bool outdone = Map::ORDERED && (!(all <= own_order) || sum != sum);
            if (!Map::ORDERED || all == own_order) {
                // A tie goes to the lowest class: the row is looked at again, one logit at a time for the registers' sake.
                outdone |= own != own;
                const T* again = logits_row<T>(p, opaque(row));
#pragma unroll 1
                for (uint32_t j = valid ? lane : p.classes; j < p.classes; j += GROUP) {
                    outdone |= outdoes(widen(again[j]), j, own, y);
                }
            }
            // Also keeps the gradient, which may go over the logits, behind these reads.
            bool any;
            if constexpr (BLOCK) {
                any = __syncthreads_or(outdone);
            } else {
                const unsigned part = (PART == WARP ? FULL_WARP : (1u << PART % WARP) - 1)
                    << (threadIdx.x % WARP / PART * PART);
                any = (__ballot_sync(FULL_WARP, outdone) & part) != 0;
            }
            if (lane == 0 && valid) {
                reinterpret_cast<uint8_t*>(p.hits)[row] = !any;
            }
        }

        RowGradient result = {left_row(), 0.0f};
        if (leader) {
            if constexpr (BLOCK) {
                sum = 0.0f;
#pragma unroll 1
                for (int i = 0; i < PARTS; i++) {
                    sum = fmaf(sum_slots[turn][i], exp2_fast(max_slots[turn][i] - all), sum);
                }
            }
            const AlaTarget target = held().target;
            const TargetExponent exponent = target_exponent(held().x, map, valid ? y : 0, target);
            const float shift = Max::of(all, exponent.sum);
            const RowSums sums = RowSums::of(all, sum, exponent, shift);
            const bool left = is_far_out(shift);
            if (lane == 0 && valid) {
                const float loss = left ? left_row() : row_loss(p, target, sums);
                reinterpret_cast<float*>(p.row_losses)[row] = loss;
                add_row(totals[BLOCK ? 0 : thread_again() / GROUP], loss, target.weight);
            }
            if (p.gradient != 0 && valid && !left) {
                result = row_gradient(p, target, map.common_slope(), sums, row_factor(p, row));
                result.scale *= exp2_fast(all - shift);
            }
        }
        turn ^= 1;
        const float common = from_first<PART>(result.scale);
        const float at_target = from_first<PART>(result.at_target);
        if constexpr (!BLOCK) {
            // Every lane's loads are done before another writes over them, where the gradient is in place.
            __syncwarp();
        }
        T* to = gradient_row<T>(p, opaque(row)) + static_cast<int>(first_class);
        // All but few rows need not look at the bits.
        if (common != common) {
            if (is_left(common)) {
                // Solved later, without a target, or without a gradient.
                if (!BLOCK && y == NO_TARGET && p.gradient != 0) {
                    zero_gradient<T>(p, opaque(row), lane, GROUP);
                }
                continue;
            }
        }
        const float scale = common * exp2_fast(mine - all);
        const auto gradients = [&](auto i) -> float(&)[V] {
#pragma unroll
            for (int k = 0; k < V; k++) {
                x[i][k] *= scale * map.gradient_slope(class_of(i, k));
            }
            return x[i];
        };
        if ((p.flags & ALA_OUT_OF_PHASE) == 0) {
            each_item<ITEMS>([&](auto i) {
                if (share.template has<i, GROUP>()) {
                    store_whole<i, GROUP>(to, pack<T>(gradients(i)));
                }
            });
        } else {
            each_item<ITEMS>([&](auto i) {
                if (share.template has<i, GROUP>()) {
                    const float(&g)[V] = gradients(i);
#pragma unroll
                    for (int k = 0; k < V; k++) {
                        to[i * GROUP * V + k] = round_to<T>(g[k]);
                    }
                }
            });
        }
        each_edge([&](auto i) {
            // As above, from what is still there.
            const uint32_t place = opaque(lane) + i * GROUP;
            const uint32_t head = first_class + (phase - lane) * V;
            const uint32_t j = place < head ? place : place + (share.left + lane - phase) * V;
            if (j != y) {
                const float g = scale * map.gradient_slope(j) * edge_slots[i][thread_again()];
                to[static_cast<int>(j - first_class)] = round_to<T>(g);
            }
        });
        if (owner) {
            // After this thread's own store of the vector around it.
            to[static_cast<int>(y - first_class)] = round_to<T>(at_target);
        }
    }
    finish<!BLOCK>(p, totals, groups, blockIdx.x, [&] {
        const uint32_t count = opaque(groups);
        const uint64_t step = static_cast<uint64_t>(gridDim.x) * count;
        return solve_left<T, Map>(p, static_cast<uint64_t>(blockIdx.x) * count, count, step);
    });
}

}  // namespace ala
