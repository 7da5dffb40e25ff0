// A row in shared memory, in its own type: by one block, or by several that each hold a part of it.
// Every logit is read from memory once. Each thread stages what it alone reads again, so that the
// staging needs no barrier.
//
// The blocks of a row tell one another their part's maximum and sum through memory and wait. They
// take their places by ticket, so that it does not matter in which order the device begins them;
// the launch is cooperative, so that all of them run.
#pragma once
#include "careful.cuh"
#include "finish.cuh"
#include "span.cuh"

namespace ala {

__device__ __forceinline__ uint32_t read_acquire(const uint32_t* from) {
    uint32_t value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
    return value;
}

// A block gives up after so many looks, a quarter of a minute at least: the others are not of its
// launch, or never run.
constexpr uint32_t MOST_LOOKS = 1u << 24;

// What a block tells the others of its row, of its part or of all: the softmax off the target, and
// whether a logit beats the target's.
struct PartSums {
    MaxSum sums;
    bool outdone;
};

// Leaves this block's part for the others of its row, by `put`, and waits until all have left
// theirs. Called by one thread. `arrivals` are those of the row's blocks when all of them have
// come.
template <typename Put>
__device__ __forceinline__ void leave_part(
    const AlaParams& p, uint32_t ticket, uint32_t arrivals, Put put) {
    put();
    // The part is visible to the device before the block counts itself.
    __threadfence();
    uint32_t* arrived = &blocks_of(p).arrived[ticket / p.parts];
    atomicAdd(arrived, 1u);
    uint32_t looks = 0;
    while (read_acquire(arrived) < arrivals) {
        if (++looks == MOST_LOOKS) {
            report_disturbed(p);
            break;
        }
        __nanosleep(40);
    }
}

// Steps 3 and 5 over the blocks of a row. Called by the first warp, whose first lane has the
// block's part; every lane gets the row's. `turn` changes from row to row.
__device__ __forceinline__ PartSums merge_parts(
    const AlaParams& p, const PartSums& mine, uint32_t ticket, uint32_t arrivals, uint32_t turn) {
    AlaPart* parts = blocks_of(p).parts[turn];
    if (threadIdx.x == 0) {
        leave_part(p, ticket, arrivals, [&] {
            parts[ticket] = {mine.sums.max, mine.sums.sum, mine.outdone, 0};
        });
    }
    // No lane reads the parts before lane 0 has seen them all arrive.
    __syncwarp();
    MaxSum sums = MaxSum::none();
    uint32_t outdone = 0;
    const float4* from = reinterpret_cast<const float4*>(parts + ticket / p.parts * p.parts);
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < p.parts; i += WARP) {
        // Written by other blocks of this launch: read past this SM's L1.
        const float4 part = __ldcg(from + i);
        sums = merge(sums, {part.x, part.y});
        outdone |= __float_as_uint(part.z);
    }
    return {merge_team<WARP>(sums), __any_sync(FULL_WARP, outdone != 0) != 0};
}

// The same of a recipe's row. A part is outdone where a logit in it is no number.
struct PartTerms {
    PartSums part;
    RecipeSums more;
};
__device__ __forceinline__ PartTerms merge_parts(
    const AlaRecipe& r, const PartTerms& mine, uint32_t ticket, uint32_t arrivals, uint32_t turn) {
    const AlaParams& p = r.step;
    AlaRecipePart* parts = blocks_of(p).recipe_parts[turn];
    const Exponents& exponents = mine.more.exponents;
    if (threadIdx.x == 0) {
        // With the part that merge_parts of the sums leaves: what is here before is there with it.
        parts[ticket] = {exponents.sum, exponents.weight, mine.more.best.x, mine.more.best.y};
    }
    const PartSums part = merge_parts(p, mine.part, ticket, arrivals, turn);
    RecipeSums more = {Exponents::none(), Best::none()};
    const uint32_t first = ticket / p.parts * p.parts;
    const float4* from = reinterpret_cast<const float4*>(parts + first);
    const float* maxima = &blocks_of(p).parts[turn][first].max;
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < p.parts; i += WARP) {
        // Written by other blocks of this launch: read past this SM's L1.
        const float4 other = __ldcg(from + i);
        const float max = __ldcg(maxima + i * (sizeof(AlaPart) / sizeof(float)));
        const Exponents theirs = {other.x, other.y};
        more.exponents.sum += theirs.against(max, part.sums.max);
        more.exponents.weight += theirs.weight;
        more.best.take(other.z, __float_as_uint(other.w));
    }
    return {part, merge_team<WARP>(r, more, part.sums.max, part.sums.max)};
}

// The ticket of a block, for all its threads. Blocks that share a row take them in the order in
// which they begin.
__device__ __forceinline__ uint32_t take_ticket(const AlaParams& p) {
    __shared__ uint32_t of_block;
    if (threadIdx.x == 0) {
        of_block = blockIdx.x;
        if (p.parts > 1) {
            const uint32_t taken = atomicAdd(&state_of(p).tickets, 1u);
            of_block = taken % gridDim.x;
            if (taken != of_block) {
                // Another launch took some.
                report_disturbed(p);
            }
        }
    }
    // Every thread sees the ticket.
    __syncthreads();
    return of_block;
}

// One thread's elements of its block's part of a row: vectors, and one of head and tail at most.
template <typename T, int THREADS>
struct StagedPart {
    static constexpr int V = WIDTH<T>;
    // 16 bits would round exponentials: there the stage keeps the logits.
    static constexpr bool KEEPS_EXPONENTIALS = sizeof(T) == sizeof(float);
    uint4* stage;
    Span span;
    // The part's vectors.
    uint32_t begin;
    uint32_t end;
    bool has_edge;
    uint32_t edge_class;

    __device__ __forceinline__
    StagedPart(const AlaParams& p, uint4* stage, const T* logits, uint32_t part)
        : stage(stage), span(split(logits, p.classes)) {
        begin = part * p.part_vectors < span.vectors ? part * p.part_vectors : span.vectors;
        end = span.vectors - begin < p.part_vectors ? span.vectors : begin + p.part_vectors;
        // The first block has head and tail.
        has_edge = part == 0 && threadIdx.x < span.edges();
        edge_class = has_edge ? span.edge<V>(threadIdx.x) : 0;
    }
    // Calls `body(its place in the stage, first class)` for this thread's vectors.
    template <typename Body>
    __device__ __forceinline__ void each_vector(Body body) const {
#pragma unroll 1
        for (uint32_t i = begin + threadIdx.x; i < end; i += THREADS) {
            body(i - begin, span.head + i * V);
        }
    }
    __device__ __forceinline__ void read_stage(uint32_t place, float (&x)[V]) const {
        const uint4 raw = stage[place];
        unpack<T>(Words{{raw.x, raw.y, raw.z, raw.w}}, x);
    }
};

// Steps 1 and 3 of this thread's elements off the target: stages them, and gives their maximum as a
// pivot. `edge` is the one of head and tail, -inf where there is none; `outdone` whether one of
// them, or a target that is no number, makes the row no hit.
template <typename T, int THREADS, typename Map>
__device__ __forceinline__ float stage_logits(
    const AlaParams& p, const Map& map, const StagedPart<T, THREADS>& part, const T* logits,
    uint32_t y, float x_target, float& edge, bool& outdone) {
    constexpr int V = WIDTH<T>;
    const uint32_t edge_class = part.edge_class;
    edge = part.has_edge && edge_class != y ? widen(logits[edge_class]) : -infinity();
    outdone = p.hits != 0 &&
              (x_target != x_target || (part.has_edge && outdoes(edge, edge_class, x_target, y)));
    float max = map.order(edge, edge_class);
    // Several vectors are asked for at a time: each takes a round trip to memory.
    constexpr uint32_t AT_ONCE = Map::ORDERED ? 4 : 2;
#pragma unroll 1
    for (uint32_t next = part.begin + threadIdx.x; next < part.end; next += AT_ONCE * THREADS) {
        Words some[AT_ONCE];
#pragma unroll
        for (uint32_t n = 0; n < AT_ONCE; n++) {
            if (next + n * THREADS < part.end) {
                some[n] = load_words(logits + part.span.head + (next + n * THREADS) * V);
            }
        }
#pragma unroll
        for (uint32_t n = 0; n < AT_ONCE; n++) {
            const uint32_t i = next + n * THREADS;
            if (i >= part.end) {
                break;
            }
            const Words& words = some[n];
            const uint32_t first = part.span.head + i * V;
            part.stage[i - part.begin] =
                make_uint4(words.word[0], words.word[1], words.word[2], words.word[3]);
            float x[V];
            unpack<T>(words, x);
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
    }
    return pivot_of(map.from_order(max));
}

// Steps 4 and 5: this thread's exponentials against its own pivot, and their sum.
template <typename T, int THREADS, typename Map>
__device__ __forceinline__ MaxSum sum_exponentials(
    const Map& map, const StagedPart<T, THREADS>& part, uint32_t y, float pivot, float& edge) {
    constexpr int V = WIDTH<T>;
    edge = exp2_fast(map.exponent(edge, part.edge_class, pivot));
    float sum = edge;
    part.each_vector([&](uint32_t place, uint32_t first) {
        float x[V];
        part.read_stage(place, x);
        // The target's own term is kept apart.
        replace(x, y - first, -infinity());
#pragma unroll
        for (int k = 0; k < V; k++) {
            x[k] = exp2_fast(map.exponent(x[k], first + k, pivot));
            sum += x[k];
        }
        if constexpr (StagedPart<T, THREADS>::KEEPS_EXPONENTIALS) {
            part.stage[place] = make_uint4(
                __float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]),
                __float_as_uint(x[3]));
        }
    });
    return {pivot, sum};
}

// Step 7 of this thread's elements, from their exponentials.
template <typename T, int THREADS, typename Map, typename Gradient, typename Scaled>
__device__ __forceinline__ void write_gradient(
    const Map& map, const StagedPart<T, THREADS>& part, const Gradient& gradient, Scaled scale,
    float pivot, float edge) {
    constexpr int V = WIDTH<T>;
    part.each_vector([&](uint32_t place, uint32_t first) {
        float x[V];
        part.read_stage(place, x);
#pragma unroll
        for (int k = 0; k < V; k++) {
            const float e = StagedPart<T, THREADS>::KEEPS_EXPONENTIALS
                                ? x[k]
                                : exp2_fast(map.exponent(x[k], first + k, pivot));
            x[k] = scale.of(map, e, first + k);
        }
        gradient.store(first, x);
    });
    if (part.has_edge) {
        gradient.store(part.edge_class, scale.of(map, edge, part.edge_class));
    }
}

// Brings a block's part of a row to L2.
template <int THREADS, typename T>
__device__ __forceinline__ void prefetch_part(
    const AlaParams& p, const T* from, uint32_t part_of_row) {
    constexpr uint32_t LINE = LINE_BYTES / sizeof(T);
    const uint32_t begin = part_of_row * p.part_vectors * WIDTH<T>;
    const uint32_t end = min(p.classes, begin + p.part_vectors * WIDTH<T>);
    for (uint32_t j = begin + threadIdx.x * LINE; j < end; j += THREADS * LINE) {
        prefetch(from + j);
    }
}

// What every thread of a block needs of its row's solution.
struct Solution {
    float pivot;
    float scale;
    float at_target;
};

template <typename T, typename Map, int LANES, int, int THREADS>
__device__ void staged_row(const AlaParams& p) {
    static_assert(LANES == THREADS, "a block a row, or a part of one");
    static_assert(2 * (WIDTH<T> - 1) <= WARP, "head and tail are one access each");
    extern __shared__ __align__(16) uint4 staged[];
    // By turns: a warp that is a row ahead must not write over what a slow one still reads.
    __shared__ WarpSlots<THREADS / WARP> slots[2];
    __shared__ Solution solutions[2];
    // Thread 0's.
    __shared__ AlaTotals totals;
    if (is_skipped(p)) {
        return;
    }
    const Map map(p);
    const uint32_t ticket = take_ticket(p);
    const uint32_t part_of_row = ticket % p.parts;
    uint32_t arrivals = 0;
    uint32_t turn = 0;
    if (threadIdx.x == 0) {
        totals = no_rows();
    }
    for (uint64_t row = ticket / p.parts; row < p.rows; row += gridDim.x / p.parts) {
        const int64_t label = read_label(p, row);
        const T* logits = logits_row<T>(p, row);
        const StagedPart<T, THREADS> part(p, staged, logits, part_of_row);
        if (!has_target(p, label)) {
            if (part_of_row == 0) {
                skip_row<T>(p, row, threadIdx.x, THREADS);
            }
            // All the row's blocks: no one waits for this row.
            continue;
        }
        const uint32_t y = static_cast<uint32_t>(label);
        const float x_target = widen(logits[y]);

        // 1 and 3: this thread's exponents off the target, and their maximum.
        float edge;
        bool outdone;
        const float pivot = stage_logits(p, map, part, logits, y, x_target, edge, outdone);

        // The next row's lines of this part come to L2 meanwhile.
        const uint64_t next = row + gridDim.x / p.parts;
        if (next < p.rows) {
            prefetch_part<THREADS>(p, logits_row<T>(p, next), part_of_row);
        }

        // 4 and 5: its exponentials and their sum, then the warp's.
        const MaxSum of_warp = merge_team<WARP>(sum_exponentials(map, part, y, pivot, edge));
        if (threadIdx.x % WARP == 0) {
            slots[turn].put(threadIdx.x / WARP, of_warp);
        }
        // All warps' values are in their slots before the first warp reads them.
        const bool any = __syncthreads_or(outdone);
        if (threadIdx.x < WARP) {
            // 3 and 5: the block's, then the row's.
            PartSums whole = {slots[turn].merged_by_warp(), any};
            if (p.parts > 1) {
                arrivals += p.parts;
                whole = merge_parts(p, whole, ticket, arrivals, turn);
            }
            if (threadIdx.x == 0) {
                // 2: the target's exponent, with its margin.
                const AlaTarget target = read_target(p, y);
                const RowSums sums = row_sums(map, y, target, x_target, whole.sums);
                // 6: the row's loss and hit, by the first of its blocks.
                if (part_of_row == 0) {
                    write_row(p, row, target, sums, totals);
                    if (p.hits != 0) {
                        write_hit(p, row, !whole.outdone);
                    }
                }
                // 7: what scales its gradient.
                const RowGradient scales =
                    row_gradient(p, target, map.common_slope(), sums, row_factor(p, row));
                const float scale = scales.scale * exp2_fast(whole.sums.max - sums.pivot);
                solutions[turn] = {
                    whole.sums.max, is_far_out(sums.pivot) ? left_row() : scale, scales.at_target};
            }
        }
        // The row is solved before any thread writes its gradient.
        __syncthreads();
        const Solution solution = solutions[turn];
        turn ^= 1;

        // 7: its gradient. What a block leaves, all the row's blocks leave; the first of them
        // solves it.
        if (p.gradient != 0 && !is_left(solution.scale)) {
            const Scale scale = {solution.scale * exp2_fast(pivot - solution.pivot)};
            T* to = gradient_row<T>(p, row);
            const GradientRow<T> gradient = {to, in_phase(to, logits), y, solution.at_target};
            write_gradient(map, part, gradient, scale, pivot, edge);
        }
    }
    // 8: the rows' losses become one number.
    finish<false>(p, &totals, 1, ticket, [&] {
        // Losses are the first block's.
        return part_of_row == 0 ? solve_left<T, Map>(p, ticket / p.parts, 1, gridDim.x / p.parts)
                                : totals.loss;
    });
}

// Steps 1 and 3 of a recipe's row: as stage_logits, off both targets, and where the largest logit
// is.
template <typename T, int THREADS, typename Map>
__device__ __forceinline__ float stage_terms(
    const AlaRecipe& r, const Map& map, const StagedPart<T, THREADS>& part, const T* logits,
    uint32_t a, uint32_t b, float& edge, Best& best, bool& no_number) {
    constexpr int V = WIDTH<T>;
    const uint32_t edge_class = part.edge_class;
    const bool predicting = predicts(r);
    best = Best::none();
    no_number = false;
    edge = part.has_edge ? widen(logits[edge_class]) : -infinity();
    if (part.has_edge) {
        no_number = edge != edge;
        best.take(edge, edge_class);
    }
    edge = edge_class == a || edge_class == b ? -infinity() : edge;
    float max = map.order(edge, edge_class);
    constexpr uint32_t AT_ONCE = Map::ORDERED ? 4 : 2;
#pragma unroll 1
    for (uint32_t next = part.begin + threadIdx.x; next < part.end; next += AT_ONCE * THREADS) {
        Words some[AT_ONCE];
#pragma unroll
        for (uint32_t n = 0; n < AT_ONCE; n++) {
            if (next + n * THREADS < part.end) {
                some[n] = load_words(logits + part.span.head + (next + n * THREADS) * V);
            }
        }
#pragma unroll
        for (uint32_t n = 0; n < AT_ONCE; n++) {
            const uint32_t i = next + n * THREADS;
            if (i >= part.end) {
                break;
            }
            const Words& words = some[n];
            const uint32_t first = part.span.head + i * V;
            part.stage[i - part.begin] =
                make_uint4(words.word[0], words.word[1], words.word[2], words.word[3]);
            float x[V];
            unpack<T>(words, x);
            if (predicting) {
#pragma unroll
                for (int k = 0; k < V; k++) {
                    no_number |= x[k] != x[k];
                    best.take(x[k], first + k);
                }
            }
            replace(x, a - first, -infinity());
            replace(x, b - first, -infinity());
#pragma unroll
            for (int k = 0; k < V; k++) {
                max = Max::of(max, map.order(x[k], first + k));
            }
        }
    }
    return pivot_of(map.from_order(max));
}

// Steps 4 and 5: as sum_exponentials, and the exponents.
template <typename T, int THREADS, typename Map>
__device__ __forceinline__ MaxSum sum_terms(
    const AlaRecipe& r, const Map& map, const StagedPart<T, THREADS>& part, uint32_t a, uint32_t b,
    float pivot, float& edge, Exponents& exponents) {
    constexpr int V = WIDTH<T>;
    const bool smooths = r.each != 0.0f;
    const uint32_t edge_class = part.edge_class;
    exponents = Exponents::none();
    float edge_weight;
    const float edge_exponent = map.weighed(edge, edge_class, pivot, edge_weight);
    if (smooths && part.has_edge && edge_class != a && edge_class != b) {
        exponents.add(edge_exponent, edge_weight);
    }
    edge = exp2_fast(edge_exponent);
    float sum = edge;
    part.each_vector([&](uint32_t place, uint32_t first) {
        float x[V];
        part.read_stage(place, x);
        // The targets' own terms are kept apart.
        const bool has_target = a - first < V || b - first < V;
        replace(x, a - first, -infinity());
        replace(x, b - first, -infinity());
#pragma unroll
        for (int k = 0; k < V; k++) {
            float weight;
            const float u = map.weighed(x[k], first + k, pivot, weight);
            if (smooths && !(has_target && (a - first == k || b - first == k))) {
                exponents.add(u, weight);
            }
            x[k] = exp2_fast(u);
            sum += x[k];
        }
        if constexpr (StagedPart<T, THREADS>::KEEPS_EXPONENTIALS) {
            part.stage[place] = make_uint4(
                __float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]),
                __float_as_uint(x[3]));
        }
    });
    return {pivot, sum};
}

// The same of a recipe.
template <typename T, typename Map, int LANES, int, int THREADS>
__device__ void staged_row(const AlaRecipe& r) {
    constexpr int WARPS = THREADS / WARP;
    extern __shared__ __align__(16) uint4 staged[];
    // By turns: a warp that is a row ahead must not write over what a slow one still reads.
    __shared__ WarpSlots<WARPS> slots[2];
    __shared__ RecipeSlots<WARPS> recipe_slots[2];
    __shared__ TermsSolution solutions[2];
    // What its scale is against.
    __shared__ float off_targets[2];
    // Thread 0's.
    __shared__ AlaTotals totals;
    const AlaParams& p = r.step;
    if (is_skipped(p)) {
        return;
    }
    const Map map(r);
    const uint32_t ticket = take_ticket(p);
    const uint32_t part_of_row = ticket % p.parts;
    uint32_t arrivals = 0;
    uint32_t turn = 0;
    if (threadIdx.x == 0) {
        totals = no_rows();
    }
    for (uint64_t row = ticket / p.parts; row < p.rows; row += gridDim.x / p.parts) {
        const RowTerms terms = read_terms(r, row);
        const T* logits = logits_row<T>(p, row);
        const StagedPart<T, THREADS> part(p, staged, logits, part_of_row);
        if (terms.count == 0) {
            if (part_of_row == 0) {
                skip_row<T>(r, row, threadIdx.x, THREADS, terms.is_bad());
            }
            // All the row's blocks: no one waits for this row.
            continue;
        }
        const uint32_t a = terms.y[0], b = terms.y[1];
        // Read before another block of the row stores its gradient over them.
        const float x_first = widen(logits[a]);
        const float x_second = widen(logits[b]);

        // 1 and 3: this thread's exponents off the targets, and their maximum.
        float edge;
        bool no_number;
        RecipeSums more;
        const float pivot = stage_terms(r, map, part, logits, a, b, edge, more.best, no_number);

        // The next row's lines of this part come to L2 meanwhile.
        const uint64_t next = row + gridDim.x / p.parts;
        if (next < p.rows) {
            prefetch_part<THREADS>(p, logits_row<T>(p, next), part_of_row);
        }

        // 4 and 5: its exponentials and their sums, then the warp's.
        const MaxSum mine = sum_terms(r, map, part, a, b, pivot, edge, more.exponents);
        const MaxSum of_warp = merge_team<WARP>(mine);
        const RecipeSums more_of_warp = merge_team<WARP>(r, more, pivot, of_warp.max);
        if (threadIdx.x % WARP == 0) {
            slots[turn].put(threadIdx.x / WARP, of_warp);
            recipe_slots[turn].put(threadIdx.x / WARP, more_of_warp);
        }
        // All warps' values are in their slots before the first warp reads them.
        const bool any = __syncthreads_or(no_number);
        if (threadIdx.x < WARP) {
            // 3 and 5: the block's, then the row's.
            const MaxSum of_block = slots[turn].merged_by_warp();
            PartTerms whole = {
                {of_block, any}, recipe_slots[turn].merged_by_warp(r, slots[turn], of_block.max)};
            if (p.parts > 1) {
                arrivals += p.parts;
                whole = merge_parts(r, whole, ticket, arrivals, turn);
            }
            if (threadIdx.x == 0) {
                // 2, 6 and 7: the targets' exponents, loss, prediction, what scales the gradient.
                const TermTarget first = {read_target(p, a), a, x_first};
                const TermTarget second = {read_target(p, b), b, x_second};
                TermsSolution solved = solve_terms(
                    r, map, terms.count, [&](uint32_t i) { return i == 0 ? first : second; },
                    [&](uint32_t i) { return i == 0 ? terms.share[0] : terms.share[1]; },
                    whole.part.sums, map.unit(r) * whole.more.exponents.sum, row_factor(p, row));
                // By the first of the row's blocks.
                if (part_of_row == 0) {
                    const double weight =
                        weight_of(first.target, terms.share[0], second.target, terms.share[1]);
                    write_terms(r, row, weight, solved, totals);
                    if (predicts(r)) {
                        write_prediction(
                            r, row, whole.part.outdone ? NO_CLASS : whole.more.best.y, terms.label);
                    }
                }
                solved.scale *= exp2_fast(whole.part.sums.max - solved.pivot);
                solutions[turn] = solved;
                off_targets[turn] = whole.part.sums.max;
            }
        }
        // The row is solved before any thread writes its gradient.
        __syncthreads();
        const TermsSolution solution = solutions[turn];
        const float against = off_targets[turn];
        turn ^= 1;

        // 7: its gradient. What a block leaves, all the row's blocks leave; the first of them
        // solves it.
        if (p.gradient != 0 && !solution.left) {
            const ScaleLess scale = {solution.scale * exp2_fast(pivot - against), solution.less};
            T* to = gradient_row<T>(p, row);
            const GradientOfTerms<T> gradient = {
                to, in_phase(to, logits), {a, b}, {solution.at[0], solution.at[1]}};
            write_gradient(map, part, gradient, scale, pivot, edge);
        }
    }
    // 8: the rows' losses become one number.
    finish<false>(r, &totals, 1, ticket, [&] {
        // Losses are the first block's.
        return part_of_row == 0 ? solve_left<T, Map>(r, ticket / p.parts, 1, gridDim.x / p.parts)
                                : totals.loss;
    });
}

}  // namespace ala
