// A row in the registers of some lanes, from 4 of a warp to a whole block: every logit is read once
// and every gradient written once, 16 bytes a lane. Head and tail of a row that starts off a
// 16-byte boundary are taken by one access of several lanes each.
//
// Each lane takes its exponentials against its own maximum, so that no lane waits for another
// before it: the row's maximum is found meanwhile, and one factor a lane makes up for the
// difference. A row of a block costs one barrier.
//
// Which lane holds which element, for C = 365 in f32 by 16 lanes of 24 elements, 6 vectors of 4.
// Row 1 of contiguous rows begins at element 365, 3 elements before a 16-byte boundary: a head of
// 3, 90 vectors, a tail of 2.
//
//     lane            0          1      ...      4      ...      9         10      ...     15
//     vector 0      3..6       7..10          19..22          39..42     43..46          63..66
//     vector 1     67..70     71..74          83..86         103..106   107..110        127..130
//       ...
//     vector 4    259..262   263..266        275..278        295..298   299..302        319..322
//     vector 5    323..326   327..330        339..342        359..362      -                -
//     edge            0          1     2, 363, 364 to lanes 2, 3, 4         -                -
//
// Row 2 has a head of 2, and its first vector is the second half of a 32-byte sector. Each lane's
// vectors are one earlier then, and lane 0 has no vector 0: two lanes that share a sector ask for
// it at the same time.
#pragma once
#include "careful.cuh"
#include "finish.cuh"
#include "span.cuh"

namespace ala {

template <typename Element, int LANES_OF_ROW, int ELEMENTS, int MOST_THREADS>
struct RegisterShape {
    using T = Element;
    static constexpr int LANES = LANES_OF_ROW;
    static constexpr int THREADS = MOST_THREADS;
    // Lanes of more than a warp are the block; of fewer ones a block has as many rows as it has
    // threads for.
    static constexpr bool BLOCK = LANES > WARP;
    static_assert(
        BLOCK ? LANES % WARP == 0 && LANES == THREADS : WARP % LANES == 0,
        "a part of a warp, or whole warps");
    // Of a row's lanes, those that shuffles reach.
    static constexpr int TEAM = BLOCK ? WARP : LANES;
    static constexpr int TEAMS = LANES / TEAM;
    static constexpr int V = WIDTH<T>;
    static constexpr int VECTORS = ELEMENTS / V;
    static_assert(VECTORS * V == ELEMENTS && VECTORS > 0, "whole vectors");
    // Head and tail together have up to 2 (V - 1) elements.
    static constexpr int EDGES = (2 * (V - 1) + LANES - 1) / LANES;
    // From a lane's vector to its next, in elements.
    static constexpr int STEP = LANES * V;
    // A lane's logits as they are in memory, -inf where it has none.
    struct Logits {
        Words vectors[VECTORS];
        T edges[EDGES];
    };
    // Its exponentials. Those of its edges are in shared memory, where each thread has its own: the
    // registers are the row's.
    struct Exponentials {
        float vectors[VECTORS][V];
    };
    struct EdgesInShared {
        float of[EDGES][THREADS];
    };
};

// What a leader keeps of its row's target while the registers are the row's.
struct alignas(VECTOR_BYTES) TargetInShared {
    AlaTarget target;
    float x;
};

// The same on its way: `ask` for it, and `put` it there. It goes without registers where the device
// can do that; 16 bits cannot be copied alone. What the leader read of the row before it has used
// by then.
template <typename T, bool WITHOUT_REGISTERS = COPIES_WITHOUT_REGISTERS>
struct TargetArriving {
    AlaTarget target = {};
    float x = 0.0f;

    __device__ __forceinline__ void ask(
        const AlaParams& p, uint32_t y, const T* row, TargetInShared&) {
        target = read_target(p, y);
        x = widen(row[y]);
    }
    __device__ __forceinline__ void put(TargetInShared& kept) const { kept = {target, x}; }
};
template <typename T>
struct TargetArriving<T, true> {
    static constexpr bool WHOLE = sizeof(T) == sizeof(float);
    T x = least(T());

    __device__ __forceinline__ void ask(
        const AlaParams& p, uint32_t y, const T* row, TargetInShared& kept) {
        const AlaTarget* from = reinterpret_cast<const AlaTarget*>(p.targets) + y;
        // Other rows of the class ask for it too.
        start_copy<VECTOR_BYTES, true>(&kept.target.extra_slope, &from->extra_slope);
        if constexpr (WHOLE) {
            start_copy<4>(&kept.x, row + y);
        } else {
            x = row[y];
        }
    }
    __device__ __forceinline__ void put(TargetInShared& kept) const {
        wait_for_copies();
        if constexpr (!WHOLE) {
            kept.x = widen(x);
        }
    }
};

// Where a lane's elements are in its row.
template <typename Shape>
struct LanePlace {
    static constexpr int LANES = Shape::LANES;
    uint32_t lane;
    Span span;
    // 1 where the lanes begin in the middle of a sector.
    uint32_t phase;
    // Behind the last vector, counted from lane 0's first place.
    uint32_t end;
    Share share;
    // Of the lane's first vector.
    uint32_t first_class;

    __device__ __forceinline__ uint32_t class_of(int vector, int k) const {
        return first_class + vector * Shape::STEP + k;
    }
    __device__ __forceinline__ uint32_t edge_class(int i) const {
        return span.edge<Shape::V>(lane + i * LANES);
    }
    // The same from what is still there when the gradient is stored.
    __device__ __forceinline__ uint32_t edge_class_again(int i) const {
        const uint32_t place = opaque(lane) + i * LANES;
        const uint32_t head = first_class + (phase - lane) * Shape::V;
        return place < head ? place : place + (share.left + lane - phase) * Shape::V;
    }
    // Calls `body` with each edge element of this lane.
    template <typename Body>
    __device__ __forceinline__ void each_edge(Body body) const {
        // A block's are its first warp's, and the others do not look for them.
        if (!Shape::BLOCK || threadIdx.x < WARP) {
            unrolled_while<Shape::EDGES>(
                [&](int i) { return lane + i * LANES < span.edges(); }, body);
        }
    }
};

// `KEPT` as in `split`. A row of no classes gives no lane an element.
template <bool KEPT, typename Shape>
__device__ __forceinline__ LanePlace<Shape> lane_place(
    const typename Shape::T* logits, uint32_t classes, uint32_t lane) {
    constexpr int LANES = Shape::LANES;
    const Span span = split<KEPT>(logits, classes);
    // Few lanes begin at a sector; where all places are taken the row's own phase has to do.
    const uint32_t phase =
        LANES < WARP && span.vectors < LANES * Shape::VECTORS ? sector_phase(logits) : 0;
    const uint32_t end = span.vectors + phase;
    const Share share = {phase, lane, static_cast<int>(end - lane)};
    return {lane, span, phase, end, share, span.head + (lane - phase) * Shape::V};
}

// Loads a lane's elements, -inf where it has none.
template <typename Shape>
__device__ __forceinline__ void load_row(
    const LanePlace<Shape>& place, const typename Shape::T* row, typename Shape::Logits& logits) {
    constexpr int LANES = Shape::LANES;
    constexpr int VECTORS = Shape::VECTORS;
    const auto* body = row + static_cast<int>(place.first_class);
    // Most often all lanes have all but the last vector, and where they are few all but the first
    // and the last two.
    constexpr int FIRST = LANES < WARP ? 1 : 0;
    constexpr uint32_t MOST = VECTORS > 1 + FIRST ? (VECTORS - 1 - FIRST) * LANES : 0;
    if (MOST > 0 && place.end >= MOST) {
        unrolled<VECTORS>([&](auto i) {
            constexpr bool WHOLE = i >= FIRST && i < VECTORS - 1 - FIRST;
            logits.vectors[i] =
                WHOLE ? load_whole<i, LANES>(body) : load_if<i, LANES>(place.share, body);
        });
    } else {
        unrolled<VECTORS>(
            [&](auto i) { logits.vectors[i] = load_if<i, LANES>(place.share, body); });
    }
    // Also where there is none: what is only sometimes defined takes its register through the whole
    // loop.
    using T = typename Shape::T;
    unrolled<Shape::EDGES>([&](auto i) { logits.edges[i] = least(T()); });
    // Not widened yet: a warp would wait for it before it asks for the next.
    place.each_edge([&](auto i) {
        const T* edge = body + static_cast<int>(place.edge_class(i) - place.first_class);
        logits.edges[i] = *edge;
    });
}

// The target's own term is kept apart: whoever holds its logit takes it out. `target_place` is its
// place from the lane's first vector on. Of every class one lane is the owner, be it in a vector,
// in the head or in the tail.
template <typename Shape>
__device__ __forceinline__ bool owns(uint32_t target_place) {
    return target_place % Shape::STEP < Shape::V;
}
template <typename Shape>
__device__ __forceinline__ void take_target_out(
    uint32_t target_place, typename Shape::Logits& logits) {
    if (owns<Shape>(target_place)) {
        unrolled<Shape::VECTORS>([&](auto i) {
            if (target_place / Shape::STEP == i) {
                logits.vectors[i] =
                    without_element<typename Shape::T>(logits.vectors[i], target_place % Shape::V);
            }
        });
    }
}

// The same where the class is in head or tail.
template <typename Shape>
__device__ __forceinline__ void take_edge_out(
    const LanePlace<Shape>& place, uint32_t y, typename Shape::Logits& logits) {
    using T = typename Shape::T;
    place.each_edge(
        [&](auto i) { logits.edges[i] = place.edge_class(i) == y ? least(T()) : logits.edges[i]; });
}

// The largest of the vectors' logits, packed as they are.
template <typename T, int VECTORS>
__device__ __forceinline__ float max_of_vectors(const Words (&vectors)[VECTORS]) {
    // Several maxima at a time: a chain of one would wait for itself.
    Words most = vectors[0];
    unrolled<VECTORS>([&](auto i) {
#pragma unroll
        for (int w = 0; w < 4; w++) {
            most.word[w] =
                i == 0 ? vectors[0].word[w] : max_of_words(most.word[w], vectors[i].word[w], T());
        }
    });
    const uint32_t word = max_of_words(
        max_of_words(most.word[0], most.word[1], T()),
        max_of_words(most.word[2], most.word[3], T()), T());
    float last[WIDTH<T> / 4];
    unpack(word, last, T());
    return Max::of(last[0], last[WIDTH<T> / 4 - 1]);
}

// A lane's largest exponent, as a pivot. Takes a target in head or tail out.
template <typename Shape, typename Map>
__device__ __forceinline__ float lane_max(
    const Map& map, const LanePlace<Shape>& place, uint32_t y, typename Shape::Logits& logits) {
    using T = typename Shape::T;
    float max = -infinity();
    if constexpr (Map::ORDERED) {
        max = max_of_vectors<T>(logits.vectors);
    } else {
        unrolled<Shape::VECTORS>([&](auto i) {
            // Vectors that are not there are left out: a map is two loads.
            if (place.share.template has<i, Shape::LANES>()) {
                float x[Shape::V];
                unpack<T>(logits.vectors[i], x);
#pragma unroll
                for (int k = 0; k < Shape::V; k++) {
                    max = Max::of(max, map.order(x[k], place.class_of(i, k)));
                }
            }
        });
    }
    place.each_edge([&](auto i) {
        const uint32_t j = place.edge_class(i);
        logits.edges[i] = j == y ? least(T()) : logits.edges[i];
        max = Max::of(max, map.order(widen(logits.edges[i]), j));
    });
    return pivot_of(map.from_order(max));
}

// A lane's exponentials against its team's pivot, and their sum. Those of head and tail wait in
// shared memory.
template <typename Shape, typename Map>
__device__ __forceinline__ float lane_exponentials(
    const Map& map, const LanePlace<Shape>& place, float pivot,
    const typename Shape::Logits& logits, typename Shape::Exponentials& exponentials,
    typename Shape::EdgesInShared& edges) {
    using T = typename Shape::T;
    // As with the maxima.
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    unrolled<Shape::VECTORS>([&](auto i) {
        unpack<T>(logits.vectors[i], exponentials.vectors[i]);
#pragma unroll
        for (int k = 0; k < Shape::V; k++) {
            if (Map::ORDERED || place.share.template has<i, Shape::LANES>()) {
                float& e = exponentials.vectors[i][k];
                e = exp2_fast(map.exponent(e, place.class_of(i, k), pivot));
                sums[k % 4] = i == 0 && k < 4 ? e : sums[k % 4] + e;
            }
        }
    });
    float sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    place.each_edge([&](auto i) {
        const float x = widen(logits.edges[i]);
        const float e = exp2_fast(map.exponent(x, place.edge_class(i), pivot));
        sum += e;
        edges.of[i][threadIdx.x] = e;
    });
    return sum;
}

// Whether no logit beats the target's, for a team's lanes or a block's alike. `all` has the row's
// maximum, and a sum of the team's elements. A row that is not `valid` has no target.
template <typename Shape, typename Map>
__device__ __forceinline__ bool is_hit(
    const AlaParams& p, const Map& map, uint32_t row, uint32_t lane, bool valid, uint32_t y,
    float x_target, MaxSum all) {
    using T = typename Shape::T;
    // With one slope for all the row's maximum settles it; a NaN is not in the maximum, but in the
    // sum.
    const float target_order = map.from_order(x_target);
    bool outdone = Map::ORDERED && (!(all.max <= target_order) || all.sum != all.sum);
    if (!Map::ORDERED || all.max == target_order) {
        // A tie goes to the lowest class: the row is looked at again, one logit at a time for the
        // registers' sake.
        outdone |= x_target != x_target;
        const T* again = logits_row<T>(p, opaque(row));
#pragma unroll 1
        for (uint32_t j = valid ? lane : p.classes; j < p.classes; j += Shape::LANES) {
            outdone |= outdoes(widen(again[j]), j, x_target, y);
        }
    }
    // Also keeps the gradient, which may go over the logits, behind these reads.
    if constexpr (Shape::BLOCK) {
        return !__syncthreads_or(outdone);
    } else {
        constexpr int TEAM = Shape::TEAM;
        const unsigned team = (TEAM == WARP ? FULL_WARP : (1u << TEAM % WARP) - 1)
                              << (threadIdx.x % WARP / TEAM * TEAM);
        return (__ballot_sync(FULL_WARP, outdone) & team) == 0;
    }
}

// What a row has once, by one lane of each team: its loss, and what scales its gradient, left_row()
// where nothing is to be stored. A row's first lane writes the loss and counts the row in `totals`.
template <typename Map>
__device__ __forceinline__ RowGradient solve(
    const AlaParams& p, const Map& map, uint32_t row, bool first_lane, uint32_t y,
    const TargetInShared& kept, MaxSum non_target, AlaTotals& totals) {
    // 2: the target's exponent, with its margin.
    const AlaTarget target = kept.target;
    const RowSums sums = row_sums(map, y, target, kept.x, non_target);
    // 6: the row's loss.
    if (first_lane) {
        write_row(p, row, target, sums, totals);
    }
    // 7: what scales its gradient, against the maximum off the target.
    if (p.gradient == 0 || is_far_out(sums.pivot)) {
        return {left_row(), 0.0f};
    }
    RowGradient scales = row_gradient(p, target, map.common_slope(), sums, row_factor(p, row));
    scales.scale *= exp2_fast(non_target.max - sums.pivot);
    return scales;
}

// The same of a recipe's row, whose targets are `kept`; `less` is what smoothing takes off.
template <typename Map, typename Kept>
__device__ __forceinline__ RowGradient solve_kept_terms(
    const AlaRecipe& r, const Map& map, uint32_t row, bool first_lane, Kept& kept,
    MaxSum off_targets, float exponents, AlaTotals& totals, float& less) {
    const AlaParams& p = r.step;
    const TermsSolution solved = solve_terms(
        r, map, kept.count,
        [&](uint32_t i) {
            return TermTarget{kept.targets[i].target, kept.y[i], kept.targets[i].x};
        },
        [&](uint32_t i) { return kept.share[i]; }, off_targets, map.unit(r) * exponents,
        row_factor(p, row));
    if (first_lane) {
        const double weight =
            weight_of(kept.targets[0].target, kept.share[0], kept.targets[1].target, kept.share[1]);
        write_terms(r, row, weight, solved, totals);
    }
    if (p.gradient == 0 || solved.left) {
        return {left_row(), 0.0f};
    }
    less = solved.less;
    kept.at_second = solved.at[1];
    return {solved.scale * exp2_fast(off_targets.max - solved.pivot), solved.at[0]};
}

// Stores the gradients of a lane's vectors, one after the other: registers are free again after
// each. `IN_PHASE`: by 16 bytes, as the logits were loaded.
template <bool IN_PHASE, typename Shape, typename Map, typename Scaled>
__device__ __forceinline__ void store_vectors(
    const Map& map, const LanePlace<Shape>& place, Scaled scale,
    typename Shape::Exponentials& exponentials, typename Shape::T* to) {
    using T = typename Shape::T;
    unrolled<Shape::VECTORS>([&](auto i) {
        if (place.share.template has<i, Shape::LANES>()) {
            float (&g)[Shape::V] = exponentials.vectors[i];
#pragma unroll
            for (int k = 0; k < Shape::V; k++) {
                g[k] = scale.of(map, g[k], place.class_of(i, k));
            }
            if constexpr (IN_PHASE) {
                store_whole<i, Shape::LANES>(to, pack<T>(g));
            } else {
#pragma unroll
                for (int k = 0; k < Shape::V; k++) {
                    to[i * Shape::STEP + k] = round_to<T>(g[k]);
                }
            }
        }
    });
}

// Stores a lane's gradient but for the `second` target's. The owner's store of the target's comes
// last, alone: put into its vector it would cost every vector a comparison.
template <typename Shape, typename Map, typename Scaled>
__device__ __forceinline__ typename Shape::T* store_gradient(
    const AlaParams& p, const Map& map, const LanePlace<Shape>& place, uint32_t row, uint32_t y,
    uint32_t second, bool owner, Scaled scale, float at_target,
    typename Shape::Exponentials& exponentials, const typename Shape::EdgesInShared& edges) {
    using T = typename Shape::T;
    T* to = gradient_row<T>(p, opaque(row)) + static_cast<int>(place.first_class);
    if ((p.flags & ALA_OUT_OF_PHASE) == 0) {
        store_vectors<true>(map, place, scale, exponentials, to);
    } else {
        store_vectors<false>(map, place, scale, exponentials, to);
    }
    place.each_edge([&](auto i) {
        const uint32_t j = place.edge_class_again(i);
        if (j != y && j != second) {
            const float g = scale.of(map, edges.of[i][thread_again()], j);
            to[static_cast<int>(j - place.first_class)] = round_to<T>(g);
        }
    });
    if (owner) {
        // After this thread's own store of the vector around it.
        to[static_cast<int>(y - place.first_class)] = round_to<T>(at_target);
    }
    return to;
}

// What the lanes of a team share of a recipe's row while the registers are the row's.
struct TermsInShared {
    TargetInShared targets[2];
    uint32_t y[2];
    float share[2];
    float at_second;  // the gradient at the second target
    uint32_t count;
    uint32_t label;
    Best best;  // of the team
};

// Which of a lane's vectors have no target, a bit each: their exponents are added as they come.
template <typename Shape>
__device__ __forceinline__ uint32_t
vectors_without_target(const LanePlace<Shape>& place, uint32_t place_a, uint32_t place_b) {
    uint32_t vectors = 0;
    unrolled<Shape::VECTORS>([&](auto i) {
        const bool has_target = (owns<Shape>(place_a) && place_a / Shape::STEP == i) ||
                                (owns<Shape>(place_b) && place_b / Shape::STEP == i);
        if (place.share.template has<i, Shape::LANES>() && !has_target) {
            vectors |= 1u << i;
        }
    });
    return vectors;
}

// The exponents of the lane's vector that has the target, without both targets: from memory once
// more, since in registers the targets are taken out.
template <typename Shape, typename Map>
__device__ __forceinline__ void add_vector_of_target(
    const Map& map, const LanePlace<Shape>& place, const typename Shape::T* row,
    uint32_t target_place, uint32_t a, uint32_t b, float pivot, Exponents& exponents) {
    constexpr int V = Shape::V;
    const uint32_t i = target_place / Shape::STEP;
    const bool there = i < Shape::VECTORS &&
                       place.share.left > static_cast<int>(i * Shape::LANES) &&
                       (i > 0 || place.share.thread >= place.share.begin);
    if (owns<Shape>(target_place) && there) {
        const uint32_t first = place.first_class + i * Shape::STEP;
        float x[V];
        load_vector<true>(row + first, x);
#pragma unroll
        for (int k = 0; k < V; k++) {
            if (first + k != a && first + k != b) {
                float weight;
                const float u = map.weighed(x[k], first + k, pivot, weight);
                exponents.add(u, weight);
            }
        }
    }
}

// As lane_exponentials, and the exponents where labels are smoothed.
template <typename Shape, typename Map>
__device__ __forceinline__ float lane_terms(
    const AlaRecipe& r, const Map& map, const LanePlace<Shape>& place, float pivot,
    const typename Shape::T* row, uint32_t a, uint32_t b, const typename Shape::Logits& logits,
    typename Shape::Exponentials& exponentials, typename Shape::EdgesInShared& edges,
    Exponents& exponents) {
    using T = typename Shape::T;
    exponents = Exponents::none();
    const bool smooths = r.each != 0.0f;
    const uint32_t place_a = a - place.first_class, place_b = b - place.first_class;
    uint32_t added = 0;
    if (smooths) {
        added = vectors_without_target(place, place_a, place_b);
        add_vector_of_target(map, place, row, place_a, a, b, pivot, exponents);
        const bool together =
            owns<Shape>(place_a) && place_a / Shape::STEP == place_b / Shape::STEP;
        if (!together) {
            add_vector_of_target(map, place, row, place_b, a, b, pivot, exponents);
        }
    }
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    // Twice the code, so that steps that smooth nothing add nothing.
    const auto pass = [&](auto smooth) {
        constexpr bool SMOOTHS = decltype(smooth)() != 0;
        unrolled<Shape::VECTORS>([&](auto i) {
            unpack<T>(logits.vectors[i], exponentials.vectors[i]);
            Exponents of_vector = Exponents::none();
            if (Map::ORDERED || place.share.template has<i, Shape::LANES>()) {
#pragma unroll
                for (int k = 0; k < Shape::V; k++) {
                    float& e = exponentials.vectors[i][k];
                    float weight;
                    const float u = map.weighed(e, place.class_of(i, k), pivot, weight);
                    if constexpr (SMOOTHS && Map::ORDERED) {
                        of_vector.sum = k == 0 ? u : of_vector.sum + u;
                    } else if constexpr (SMOOTHS) {
                        of_vector.add(u, weight);
                    }
                    e = exp2_fast(u);
                    sums[k % 4] = i == 0 && k < 4 ? e : sums[k % 4] + e;
                }
            }
            if constexpr (SMOOTHS) {
                // By its sum, one choice a vector.
                const bool is_added = (added & 1u << i) != 0;
                exponents.sum = is_added ? exponents.sum + of_vector.sum : exponents.sum;
                exponents.weight =
                    is_added ? exponents.weight + (Map::ORDERED ? Shape::V : of_vector.weight)
                             : exponents.weight;
            }
        });
    };
    if (smooths) {
        pass(Constant<1>());
    } else {
        pass(Constant<0>());
    }
    float sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    place.each_edge([&](auto i) {
        const uint32_t j = place.edge_class(i);
        float weight;
        const float u = map.weighed(widen(logits.edges[i]), j, pivot, weight);
        if (smooths && j != a && j != b) {
            exponents.add(u, weight);
        }
        const float e = exp2_fast(u);
        sum += e;
        edges.of[i][threadIdx.x] = e;
    });
    return sum;
}

// The team's largest logit off the targets: whichever lane has it looks for its class.
template <typename Shape>
__device__ __forceinline__ Best team_best(
    const LanePlace<Shape>& place, uint32_t a, uint32_t b, const typename Shape::Logits& logits) {
    using T = typename Shape::T;
    float max = max_of_vectors<T>(logits.vectors);
    unrolled<Shape::EDGES>([&](auto i) { max = Max::of(max, widen(logits.edges[i])); });
    const float of_team = reduce_team<Max, Shape::TEAM>(max);
    Best best = Best::none();
    if (max == of_team) {
        const auto look = [&](float x, uint32_t j) {
            if (x == of_team && j != a && j != b) {
                best.take(x, j);
            }
        };
        unrolled<Shape::VECTORS>([&](auto i) {
            if (place.share.template has<i, Shape::LANES>()) {
                float x[Shape::V];
                unpack<T>(logits.vectors[i], x);
#pragma unroll
                for (int k = 0; k < Shape::V; k++) {
                    look(x[k], place.class_of(i, k));
                }
            }
        });
        place.each_edge([&](auto i) { look(widen(logits.edges[i]), place.edge_class(i)); });
    }
    return best_of_team<Shape::TEAM>(best);
}

// Step 6: the class of the row's largest logit. `off_targets` tells by its sum of a logit that is
// no number; where the maximum is infinite, that may have made it none.
template <typename T>
__device__ __forceinline__ uint32_t predicted_of_row(
    const AlaParams& p, uint64_t row, Best best, const TermsInShared& kept, MaxSum off_targets) {
    bool no_number = false;
#pragma unroll 1
    for (uint32_t i = 0; i < 2; i++) {
        no_number |= kept.targets[i].x != kept.targets[i].x;
        best.take(kept.targets[i].x, kept.y[i]);
    }
    if (off_targets.sum != off_targets.sum) {
        if (off_targets.max < infinity()) {
            no_number = true;
        } else {
            const T* logits = logits_row<T>(p, row);
#pragma unroll 1
            for (uint32_t j = 0; j < p.classes; j++) {
                const float x = widen(logits[j]);
                no_number |= x != x;
            }
        }
    }
    return no_number ? NO_CLASS : best.y;
}

template <typename T, typename Map, int LANES, int ELEMENTS, int THREADS, typename Step>
__device__ void register_row(const Step& step) {
    using Shape = RegisterShape<T, LANES, ELEMENTS, THREADS>;
    constexpr bool BLOCK = Shape::BLOCK;
    constexpr int TEAM = Shape::TEAM;
    // By turns: a warp that is a row ahead must not write over what a slow one still reads.
    __shared__ WarpSlots<Shape::TEAMS> slots[2];
    __shared__ typename Shape::EdgesInShared edges;
    // One a team.
    constexpr bool RECIPE = IS_RECIPE<Step>;
    using Kept = Select<RECIPE, TermsInShared, TargetInShared>;
    __shared__ Kept targets[THREADS / TEAM];
    __shared__ Select<RECIPE, RecipeSlots<Shape::TEAMS>, Nothing> recipe_slots[2];
    // One for each row that a block has at a time.
    __shared__ AlaTotals totals[THREADS / LANES];

    const AlaParams& p = params_of(step);
    const Map map(step);
    const uint32_t lane = BLOCK ? threadIdx.x : threadIdx.x % LANES;
    const uint32_t row_in_block = BLOCK ? 0 : threadIdx.x / LANES;
    const uint32_t rows_at_once = BLOCK ? 1 : blockDim.x / LANES;
    // One lane of each team does what is done once a row, and tells the others.
    const bool leader = threadIdx.x % TEAM == 0;
    const auto target_in_shared = [&]() -> Kept& { return targets[thread_again() / TEAM]; };
    if (lane == 0) {
        totals[row_in_block] = no_rows();
    }

    // 32 bits hold every row (the host sees to it), and leave registers to the logits; offsets are
    // 64 bits.
    const uint32_t rows = p.rows_32;
    uint32_t turn = 0;
    uint32_t first = blockIdx.x * rows_at_once;
    bool some = first < p.sure_rows;
    if (!some) {
        if (is_skipped(p)) {
            return;
        }
        some = first < rows;
    }
    if (some) {
        do {
            // Lanes without a row go along for the shuffles of the warp's other rows, as with a row
            // of no classes.
            const uint32_t row = first + row_in_block;
            const bool live = BLOCK || row < rows;
            int64_t label = 0;
            RowTerms terms = {};
            if (leader && live) {
                if constexpr (RECIPE) {
                    terms = read_terms(step, row);
                } else if constexpr (BLOCK) {
                    // By value: fewer instructions, for the sake of blocks' many lanes.
                    label = read_label(Labels{p.labels, p.label_type}, row);
                } else {
                    label = read_label(p, row);
                }
            }

            // The row's loads do not wait for its label.
            const T* row_logits = logits_row<T>(p, row);
            const LanePlace<Shape> place =
                lane_place<Map::ORDERED, Shape>(row_logits, live ? p.classes : 0, lane);
            typename Shape::Logits logits;
            load_row(place, row_logits, logits);

            // The next row's lines come to L2 meanwhile, one a lane. Rows of few lanes have few
            // elements to pay for it.
            if constexpr (LANES > 4) {
                constexpr uint32_t LINE = LINE_BYTES / sizeof(T);
                static_assert(LANES * LINE >= LANES * ELEMENTS, "a line a lane is the row");
                const uint32_t next = row + gridDim.x * rows_at_once;
                if (next < rows && lane * LINE < p.classes) {
                    prefetch(logits_row<T>(p, next) + lane * LINE);
                }
            }

            // No classes.
            constexpr uint32_t NO_TARGET = 0xffffffffu;
            constexpr uint32_t NO_ROW = NO_TARGET - 1;
            uint32_t target_class;
            if constexpr (RECIPE) {
                target_class = terms.count != 0 ? terms.y[0] : NO_TARGET;
            } else {
                target_class = has_target(p, label) ? static_cast<uint32_t>(label) : NO_TARGET;
            }
            const uint32_t y = from_leader<TEAM>(live ? target_class : NO_ROW);
            if (y == NO_TARGET) {
                if constexpr (BLOCK) {
                    // Every thread's loads are done before another writes over them, where the
                    // gradient is in place.
                    __syncthreads();
                    if constexpr (RECIPE) {
                        // Thread 0, which reports, is a leader.
                        skip_row<T>(step, row, lane, LANES, terms.is_bad());
                    } else {
                        skip_row<T>(step, row, lane, LANES);
                    }
                    // The whole block: no one waits at the barrier below.
                    continue;
                } else if (lane == 0) {
                    // The gradient follows below, with those of the warp's other rows.
                    if constexpr (RECIPE) {
                        report_row_without_target(step, row, terms.is_bad());
                    } else {
                        report_row_without_target(step, row);
                    }
                }
            }
            const bool valid = BLOCK || y < NO_ROW;
            uint32_t second = y;
            if constexpr (RECIPE) {
                second = from_leader<TEAM>(valid ? terms.y[1] : y);
            }
            // They come while the row is worked on.
            TargetArriving<T> arriving;
            TargetArriving<T> second_arriving;
            if (leader && valid) {
                if constexpr (RECIPE) {
                    Kept& kept = target_in_shared();
                    arriving.ask(p, y, row_logits, kept.targets[0]);
                    second_arriving.ask(p, second, row_logits, kept.targets[1]);
                    kept.y[0] = y;
                    kept.y[1] = second;
                    kept.share[0] = terms.share[0];
                    kept.share[1] = terms.share[1];
                    kept.count = terms.count;
                    kept.label = terms.label;
                    kept.best = Best::none();
                } else {
                    arriving.ask(p, y, row_logits, target_in_shared());
                }
            }
            const auto keep_targets = [&] {
                if (leader) {
                    if constexpr (RECIPE) {
                        arriving.put(target_in_shared().targets[0]);
                        second_arriving.put(target_in_shared().targets[1]);
                    } else {
                        arriving.put(target_in_shared());
                    }
                }
            };
            const uint32_t target_place =
                Map::ORDERED ? opaque(y - place.first_class) : y - place.first_class;
            const bool owner = owns<Shape>(target_place);
            take_target_out<Shape>(target_place, logits);
            if constexpr (RECIPE) {
                take_target_out<Shape>(second - place.first_class, logits);
                take_edge_out(place, second, logits);
            }

            // 1 and 3: the exponents off the target, and the team's maximum.
            const float pivot = reduce_team<Max, TEAM>(lane_max(map, place, y, logits));
            if constexpr (RECIPE) {
                if (predicts(step)) {
                    const Best best = team_best(place, y, second, logits);
                    if (leader) {
                        target_in_shared().best = best;
                    }
                }
            }
            if constexpr (!COPIES_WITHOUT_REGISTERS) {
                keep_targets();
            }

            // 4 and 5: the lane's exponentials and the team's sum, then the row's maximum.
            typename Shape::Exponentials exponentials;
            float sum;
            Exponents exponents = Exponents::none();
            if constexpr (RECIPE) {
                sum = lane_terms(
                    step, map, place, pivot, row_logits, y, second, logits, exponentials, edges,
                    exponents);
                if (step.each != 0.0f) {
                    exponents.sum = reduce_team<Sum, TEAM>(exponents.sum);
                    if constexpr (BLOCK) {
                        exponents.weight = reduce_team<Sum, TEAM>(exponents.weight);
                    }
                }
            } else {
                sum = lane_exponentials(map, place, pivot, logits, exponentials, edges);
            }
            MaxSum all = {pivot, reduce_team<Sum, TEAM>(sum)};
            if constexpr (COPIES_WITHOUT_REGISTERS) {
                // Before the barrier: behind it another warp may store its gradient over the logit.
                keep_targets();
            }
            if constexpr (BLOCK) {
                if (leader) {
                    slots[turn].put(threadIdx.x / WARP, all);
                    if constexpr (RECIPE) {
                        recipe_slots[turn].put(
                            threadIdx.x / WARP, {exponents, target_in_shared().best});
                    }
                }
                // All warps' values are in their slots before any warp reads them.
                __syncthreads();
                all.max = slots[turn].greatest();
            }

            // 6: the row's hit.
            if constexpr (!RECIPE) {
                if (p.hits != 0) {
                    const float x_target =
                        from_leader<TEAM>(leader && valid ? target_in_shared().x : 0.0f);
                    const bool hit = is_hit<Shape>(p, map, row, lane, valid, y, x_target, all);
                    if (lane == 0 && valid) {
                        write_hit(p, row, hit);
                    }
                }
            }

            // 5: the row's sum. 2, 6 and 7: the target's exponent, the loss, and what scales the
            // gradient.
            if constexpr (BLOCK) {
                if (leader) {
                    all.sum = slots[turn].sum_against(all.max);
                    if constexpr (RECIPE) {
                        exponents.sum = recipe_slots[turn].exponents_against(slots[turn], all.max);
                    }
                }
            }
            RowGradient scales = {left_row(), 0.0f};
            float less = 0.0f;
            if (leader && valid) {
                AlaTotals& of_row = totals[BLOCK ? 0 : thread_again() / LANES];
                if constexpr (RECIPE) {
                    Kept& kept = target_in_shared();
                    if (lane == 0 && predicts(step)) {
                        Best best = kept.best;
                        if constexpr (BLOCK) {
                            best = recipe_slots[turn].best();
                        }
                        write_prediction(
                            step, row, predicted_of_row<T>(p, row, best, kept, all), kept.label);
                    }
                    scales = solve_kept_terms(
                        step, map, row, lane == 0, kept, all, exponents.sum, of_row, less);
                } else {
                    scales = solve(p, map, row, lane == 0, y, target_in_shared(), all, of_row);
                }
            }
            turn ^= 1;
            const float row_scale = from_leader<TEAM>(scales.scale);
            const float at_target = from_leader<TEAM>(scales.at_target);
            if constexpr (RECIPE) {
                less = from_leader<TEAM>(less);
            }
            if constexpr (!BLOCK || RECIPE) {
                // Every lane's loads are done before another writes over them, where the gradient
                // is in place.
                __syncwarp();
            }

            // 7: its gradient. All but few rows need not look at the bits.
            if (row_scale != row_scale) {
                if (is_left(row_scale)) {
                    // Solved later, without a target, or without a gradient.
                    if (!BLOCK && y == NO_TARGET && p.gradient != 0) {
                        zero_gradient<T>(p, opaque(row), lane, LANES);
                    }
                    continue;
                }
            }
            const float scale = BLOCK ? row_scale * exp2_fast(pivot - all.max) : row_scale;
            if constexpr (RECIPE) {
                const Kept& kept = target_in_shared();
                T* to = store_gradient(
                    p, map, place, row, y, kept.y[1], owner, ScaleLess{scale, less}, at_target,
                    exponentials, edges);
                const uint32_t second_place = kept.y[1] - place.first_class;
                if (owns<Shape>(second_place)) {
                    to[static_cast<int>(second_place)] = round_to<T>(kept.at_second);
                }
            } else {
                store_gradient(
                    p, map, place, row, y, y, owner, Scale{scale}, at_target, exponentials, edges);
            }
        } while ((first += gridDim.x * rows_at_once) < rows);
    }
    // 8: the rows' losses become one number.
    finish<!BLOCK>(step, totals, rows_at_once, blockIdx.x, [&] {
        const uint32_t count = opaque(rows_at_once);
        const uint64_t stride = static_cast<uint64_t>(gridDim.x) * count;
        return solve_left<T, Map>(step, static_cast<uint64_t>(blockIdx.x) * count, count, stride);
    });
}

}  // namespace ala
