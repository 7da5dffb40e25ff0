// Rows of few classes, a thread a row: a block takes a tile of contiguous rows as one flat span, 16
// bytes a lane, through shared memory, so that no thread waits for another within a row.
#pragma once
#include "careful.cuh"
#include "finish.cuh"
#include "span.cuh"

namespace ala {

// Where the elements of a flat span of rows are in the tile. Rows of a multiple of 4 classes are a
// word apart, or many threads would meet in one bank.
struct Tile {
    // Of the span's first element. Where rows are not apart, whole vectors are at multiples of 16
    // bytes in the tile too.
    float* from;
    uint32_t classes;
    bool apart;

    __device__ Tile(float* tile, uint32_t classes, uint32_t head)
        : from(tile + (0u - head) % 8), classes(classes), apart(classes % 4 == 0) {}
    __device__ float* row(uint32_t row) const {
        return from + row * (apart ? classes + 1 : classes);
    }
    __device__ float& at(uint32_t place) const {
        // place / classes, exact below 2^12 for at most 32 classes.
        const uint32_t reciprocal = ((1u << 20) - 1) / classes + 1;
        return from[apart ? place + (place * reciprocal >> 20) : place];
    }
};

// Calls `body(place)` for the elements of a span that are in no whole vector.
template <typename T, typename Body>
__device__ __forceinline__ void each_edge(const Span& span, Body body) {
    if (threadIdx.x < span.edges()) {
        body(span.edge<WIDTH<T>>(threadIdx.x));
    }
}

// A vector of logits into the tile, where whole vectors are at multiples of 16 bytes.
template <typename T>
__device__ __forceinline__ void put_vector(float* to, const Words& words) {
    float x[WIDTH<T>];
    unpack<T>(words, x);
#pragma unroll
    for (int k = 0; k < WIDTH<T>; k += 4) {
        *reinterpret_cast<float4*>(to + k) = make_float4(x[k], x[k + 1], x[k + 2], x[k + 3]);
    }
}

// Copies the logits of a flat span of rows into the tile, all threads of the block together.
//
// Where rows are not apart few loads wait for one another: f32 goes without registers where the
// device can do that; else a thread's first vector is under way while it copies its others, of
// which it has one more for 16 classes of 16 bits.
template <typename T>
__device__ __forceinline__ void copy_in(const T* logits, const Span& span, const Tile& tile) {
    constexpr uint32_t V = WIDTH<T>;
    const uint32_t first = span.head + threadIdx.x * V;
    const uint32_t step = blockDim.x * V;
    const uint32_t end = span.head + span.vectors * V;
    if (tile.apart) {
        each_edge<T>(span, [&](uint32_t place) { tile.at(place) = widen(logits[place]); });
#pragma unroll 1
        for (uint32_t place = first; place < end; place += step) {
            float x[V];
            load_vector(logits + place, x);
#pragma unroll
            for (uint32_t k = 0; k < V; k++) {
                tile.at(place + k) = x[k];
            }
        }
        return;
    }
    const T* from = logits + first;
    const T* last = logits + end;
    float* to = tile.from + first;
    if constexpr (COPIES_WITHOUT_REGISTERS && sizeof(T) == sizeof(float)) {
        each_edge<T>(span, [&](uint32_t place) { start_copy<4>(&tile.at(place), logits + place); });
#pragma unroll 1
        for (; from < last; from += step, to += step) {
            start_copy<VECTOR_BYTES>(to, from);
        }
        wait_for_copies();
    } else {
        // Widened in the branch that loads it, it would be waited for there.
        T edge = least(T());
        each_edge<T>(span, [&](uint32_t place) { edge = logits[place]; });
        if (from < last) {
            const Words one = load_words(from);
#pragma unroll 1
            for (uint32_t more = step; from + more < last; more += step) {
                put_vector<T>(to + more, load_words(from + more));
            }
            put_vector<T>(to, one);
        }
        each_edge<T>(span, [&](uint32_t place) { tile.at(place) = widen(edge); });
    }
}

// Rounds the gradients in the tile to where they belong. `in_phase`: the span's vectors are the
// logits'.
template <typename T>
__device__ __forceinline__ void copy_out(
    T* gradient, const Span& span, const Tile& tile, bool in_phase) {
    constexpr uint32_t V = WIDTH<T>;
    each_edge<T>(span, [&](uint32_t place) { gradient[place] = round_to<T>(tile.at(place)); });
    const uint32_t first = span.head + threadIdx.x * V;
    const uint32_t step = blockDim.x * V;
    const uint32_t end = span.head + span.vectors * V;
    if (tile.apart || !in_phase) {
#pragma unroll 1
        for (uint32_t place = first; place < end; place += step) {
            float g[V];
#pragma unroll
            for (uint32_t k = 0; k < V; k++) {
                g[k] = tile.at(place + k);
            }
            store_vector(gradient + place, g);
        }
    } else {
        T* to = gradient + first;
        const float* from = tile.from + first;
#pragma unroll 2
        for (const T* last = gradient + end; to < last; from += step, to += step) {
            float g[V];
#pragma unroll
            for (uint32_t k = 0; k < V; k += 4) {
                const float4 four = *reinterpret_cast<const float4*>(from + k);
                g[k] = four.x, g[k + 1] = four.y, g[k + 2] = four.z, g[k + 3] = four.w;
            }
            store_vector(to, g);
        }
    }
}

// Calls `body(j, within)` for a row's classes and on to a multiple of four; `within` is a constant
// where all four are.
template <int MOST, int FIRST = 0, typename Body>
__device__ __forceinline__ void each_four(uint32_t classes, Body body) {
    if constexpr (FIRST < MOST) {
        if (FIRST + 4 <= classes) {
#pragma unroll
            for (int j = FIRST; j < FIRST + 4; j++) {
                body(j, true);
            }
            each_four<MOST, FIRST + 4>(classes, body);
        } else if (FIRST < classes) {
#pragma unroll
            for (int j = FIRST; j < FIRST + 4; j++) {
                body(j, j < classes);
            }
        }
    }
}

// Step 6, of a row in the tile: whether no logit beats the target's.
__device__ __forceinline__ bool is_hit(
    const float* logits, uint32_t classes, float x_target, uint32_t y) {
    bool outdone = x_target != x_target;
    for (uint32_t j = 0; j < classes; j++) {
        outdone |= outdoes(logits[j], j, x_target, y);
    }
    return !outdone;
}

// Steps 1 to 7 of one row, by one thread: its logits in the tile become its gradient. A row that
// careful.cuh is to solve keeps them: the gradient may go over the logits in memory. `x` is for the
// thread's elements; an array of this function's own makes the compiler count registers anew, and
// compute again what it had.
template <typename Map, int MOST_CLASSES>
__device__ __forceinline__ void solve_in_tile(
    const AlaParams& p, const Map& map, uint32_t row, uint32_t y, float* own,
    float (&x)[MOST_CLASSES], AlaTotals& totals) {
    const uint32_t classes = p.classes;
    const AlaTarget target = read_target(p, y);
    const float x_target = own[y];
    // 6, while the logits are there.
    if (p.hits != 0) {
        write_hit(p, row, is_hit(own, classes, x_target, y));
    }
    // 1 and 3: the maximum off the target, whose own term is kept apart.
    own[y] = -infinity();
    float max = -infinity();
    each_four<MOST_CLASSES>(classes, [&](int j, bool is) {
        x[j] = is ? own[j] : -infinity();
        max = Max::of(max, map.order(x[j], is ? j : 0));
    });
    // 2: the target's exponent, with its margin. The pivot is the whole row's: no one else waits
    // for it.
    const TargetExponent exponent = target_exponent(x_target, map, y, target);
    const float pivot = pivot_of(Max::of(map.from_order(max), exponent.sum));
    // 4 and 5: exponentials and their sum.
    float sum = 0.0f;
    each_four<MOST_CLASSES>(classes, [&](int j, bool is) {
        x[j] = exp2_fast(map.exponent(x[j], is ? j : 0, pivot));
        sum += x[j];
    });
    // 6: the loss.
    const RowSums sums = {sum, exponent.minus(pivot), pivot};
    write_row(p, row, target, sums, totals);
    // 7: the gradient.
    if (is_far_out(pivot)) {
        own[y] = x_target;
    } else if (p.gradient != 0) {
        const RowGradient scales =
            row_gradient(p, target, map.common_slope(), sums, row_factor(p, row));
        each_four<MOST_CLASSES>(classes, [&](int j, bool is) {
            if (is) {
                own[j] = x[j] * map.times_class_slope(scales.scale, j);
            }
        });
        own[y] = scales.at_target;
    }
}

// The lowest class of the largest logit of a row in the tile, NO_CLASS where one is no number.
__device__ __forceinline__ uint32_t predicted(const float* logits, uint32_t classes) {
    Best best = Best::none();
    bool no_number = false;
    for (uint32_t j = 0; j < classes; j++) {
        no_number |= logits[j] != logits[j];
        best.take(logits[j], j);
    }
    return no_number ? NO_CLASS : best.y;
}

// The same of a recipe's row.
template <typename Map, int MOST_CLASSES>
__device__ __forceinline__ void solve_terms_in_tile(
    const AlaRecipe& r, const Map& map, uint32_t row, const RowTerms& terms, float* own,
    float (&x)[MOST_CLASSES], AlaTotals& totals) {
    const AlaParams& p = r.step;
    const uint32_t classes = p.classes;
    const uint32_t a = terms.y[0], b = terms.y[1];
    const TermTarget first = {read_target(p, a), a, own[a]};
    const TermTarget second = {read_target(p, b), b, own[b]};
    // 6, while the logits are there.
    if (predicts(r)) {
        write_prediction(r, row, predicted(own, classes), terms.label);
    }
    // 1 and 3: the maximum off the targets, whose own terms are kept apart.
    own[a] = -infinity();
    own[b] = -infinity();
    float max = -infinity();
    each_four<MOST_CLASSES>(classes, [&](int j, bool is) {
        x[j] = is ? own[j] : -infinity();
        max = Max::of(max, map.order(x[j], is ? j : 0));
    });
    // 2: the targets' exponents, with their margins, and as classes like any other. The pivot is
    // the lower of the terms' own, which none off the targets is above.
    const float off_targets = map.from_order(max);
    float pivot = Max::of(off_targets, target_exponent(first.x, map, a, first.target).sum);
    if (terms.count == 2) {
        const float at_second = target_exponent(second.x, map, b, second.target).sum;
        const float other = Max::of(Max::of(off_targets, at_second), map.at(first.x, a));
        pivot = fminf(Max::of(pivot, map.at(second.x, b)), other);
    }
    pivot = pivot_of(pivot);
    // 4 and 5: exponentials and their sum.
    float sum = 0.0f;
    Exponents exponents = Exponents::none();
    const bool smooths = r.each != 0.0f;
    const uint32_t targets = 1u << a | 1u << b;
    each_four<MOST_CLASSES>(classes, [&](int j, bool is) {
        float weight;
        const float u = map.weighed(x[j], is ? j : 0, pivot, weight);
        x[j] = exp2_fast(u);
        sum += x[j];
        if (smooths && is && (targets >> j & 1) == 0) {
            exponents.add(u, weight);
        }
    });
    // 6 and 7.
    const TermsSolution solved = solve_terms(
        r, map, terms.count, [&](uint32_t i) { return i == 0 ? first : second; },
        [&](uint32_t i) { return i == 0 ? terms.share[0] : terms.share[1]; }, {pivot, sum},
        map.unit(r) * exponents.sum, row_factor(p, row));
    const double weight = weight_of(first.target, terms.share[0], second.target, terms.share[1]);
    write_terms(r, row, weight, solved, totals);
    if (solved.left) {
        own[a] = first.x;
        own[b] = second.x;
    } else if (p.gradient != 0) {
        const ScaleLess scale = {solved.scale, solved.less};
        each_four<MOST_CLASSES>(classes, [&](int j, bool is) {
            if (is) {
                own[j] = scale.of(map, x[j], j);
            }
        });
        own[b] = solved.at[1];
        own[a] = solved.at[0];
    }
}

template <typename T, typename Map, int LANES, int ELEMENTS, int THREADS>
__device__ void packed_rows(const AlaParams& p) {
    static_assert(LANES == 1, "a thread a row");
    static_assert(2 * (WIDTH<T> - 1) <= WARP, "head and tail are one access each");
    static_assert(ELEMENTS % 4 == 0 && THREADS * ELEMENTS <= 1 << 12, "Tile's reciprocal is exact");
    // Logits, then gradients, in f32; in the end each thread's totals. The host knows how large.
    extern __shared__ __align__(16) float tile[];
    const Map map(p);
    const uint32_t classes = p.classes;
    AlaTotals mine = no_rows();
    // 32 bits hold every row (the host sees to it).
    const uint32_t all_rows = p.rows_32;
    const uint32_t step = gridDim.x * blockDim.x;
    constexpr uint32_t LINE = LINE_BYTES / sizeof(T);
    uint32_t first = blockIdx.x * blockDim.x;
    bool some = first < p.sure_rows;
    if (!some) {
        if (is_skipped(p)) {
            return;
        }
        some = first < all_rows;
    }
    if (some) {
        do {
            const uint32_t rows = min(all_rows - first, blockDim.x);
            const bool live = threadIdx.x < rows;
            const uint32_t row = first + threadIdx.x;
            const int64_t label = live ? read_label(p, row) : 0;

            const T* logits = logits_row<T>(p, first);
            const Span span = split(logits, rows * classes);
            const Tile places(tile, classes, span.head);
            // The next whole tile's lines come to L2 while this one is solved, one a thread. Asked
            // for behind this one's loads ptxas spills for sm_100.
            if (first + step + blockDim.x <= all_rows) {
                const uint32_t place = thread_again() * LINE;
                if (place < blockDim.x * classes) {
                    prefetch(logits_row<T>(p, first + step) + place);
                }
            }
            copy_in(logits, span, places);
            // The tile is whole before any thread reads its row, which others loaded.
            __syncthreads();

            // 1 to 7, a row a thread.
            float* own = places.row(threadIdx.x);
            if (live && !has_target(p, label)) {
                report_row_without_target(p, row);
                for (uint32_t j = 0; j < classes; j++) {
                    own[j] = 0.0f;
                }
            } else if (live) {
                float x[ELEMENTS];
                solve_in_tile(p, map, row, static_cast<uint32_t>(label), own, x, mine);
            }
            // The gradients are whole before any thread stores some of another's row.
            __syncthreads();

            // 7: the gradients go to memory.
            if (p.gradient != 0) {
                T* gradient = gradient_row<T>(p, first);
                if ((p.flags & ALA_OUT_OF_PHASE) == 0) {
                    copy_out(gradient, span, places, true);
                } else {
                    copy_out(gradient, split(gradient, rows * classes), places, false);
                }
                // The tile is stored before the next one is loaded over it.
                __syncthreads();
            }
        } while ((first += step) < all_rows);
    }
    // 8: the rows' losses become one number. No thread reads the tile any more.
    __syncthreads();
    AlaTotals* totals = reinterpret_cast<AlaTotals*>(tile);
    totals[threadIdx.x] = mine;
    finish(p, totals, blockDim.x, blockIdx.x, [&] {
        const uint64_t step = static_cast<uint64_t>(gridDim.x) * blockDim.x;
        return solve_left<T, Map>(
            p, static_cast<uint64_t>(blockIdx.x) * blockDim.x, blockDim.x, step);
    });
}

// The same of a recipe.
template <typename T, typename Map, int LANES, int ELEMENTS, int THREADS>
__device__ void packed_rows(const AlaRecipe& r) {
    static_assert(LANES == 1, "a thread a row");
    static_assert(2 * (WIDTH<T> - 1) <= WARP, "head and tail are one access each");
    static_assert(ELEMENTS % 4 == 0 && THREADS * ELEMENTS <= 1 << 12, "Tile's reciprocal is exact");
    // Logits, then gradients, in f32; in the end each thread's totals. The host knows how large.
    extern __shared__ __align__(16) float tile[];
    const AlaParams& p = r.step;
    const Map map(r);
    const uint32_t classes = p.classes;
    AlaTotals mine = no_rows();
    // 32 bits hold every row (the host sees to it).
    const uint32_t all_rows = p.rows_32;
    const uint32_t step = gridDim.x * blockDim.x;
    constexpr uint32_t LINE = LINE_BYTES / sizeof(T);
    uint32_t first = blockIdx.x * blockDim.x;
    bool some = first < p.sure_rows;
    if (!some) {
        if (is_skipped(p)) {
            return;
        }
        some = first < all_rows;
    }
    if (some) {
        do {
            const uint32_t rows = min(all_rows - first, blockDim.x);
            const bool live = threadIdx.x < rows;
            const uint32_t row = first + threadIdx.x;
            RowTerms terms = {};
            if (live) {
                terms = read_terms(r, row);
            }

            const T* logits = logits_row<T>(p, first);
            const Span span = split(logits, rows * classes);
            const Tile places(tile, classes, span.head);
            // The next whole tile's lines come to L2 while this one is solved, one a thread. Asked
            // for behind this one's loads ptxas spills for sm_100.
            if (first + step + blockDim.x <= all_rows) {
                const uint32_t place = thread_again() * LINE;
                if (place < blockDim.x * classes) {
                    prefetch(logits_row<T>(p, first + step) + place);
                }
            }
            copy_in(logits, span, places);
            // The tile is whole before any thread reads its row, which others loaded.
            __syncthreads();

            // 1 to 7, a row a thread.
            float* own = places.row(threadIdx.x);
            if (live && terms.count == 0) {
                report_row_without_target(r, row, terms.is_bad());
                for (uint32_t j = 0; j < classes; j++) {
                    own[j] = 0.0f;
                }
            } else if (live) {
                float x[ELEMENTS];
                solve_terms_in_tile(r, map, row, terms, own, x, mine);
            }
            // The gradients are whole before any thread stores some of another's row.
            __syncthreads();

            // 7: the gradients go to memory.
            if (p.gradient != 0) {
                T* gradient = gradient_row<T>(p, first);
                if ((p.flags & ALA_OUT_OF_PHASE) == 0) {
                    copy_out(gradient, span, places, true);
                } else {
                    copy_out(gradient, split(gradient, rows * classes), places, false);
                }
                // The tile is stored before the next one is loaded over it.
                __syncthreads();
            }
        } while ((first += step) < all_rows);
    }
    // 8: the rows' losses become one number. No thread reads the tile any more.
    __syncthreads();
    AlaTotals* totals = reinterpret_cast<AlaTotals*>(tile);
    totals[threadIdx.x] = mine;
    finish(r, totals, blockDim.x, blockIdx.x, [&] {
        const uint64_t step = static_cast<uint64_t>(gridDim.x) * blockDim.x;
        return solve_left<T, Map>(
            r, static_cast<uint64_t>(blockIdx.x) * blockDim.x, blockDim.x, step);
    });
}

}  // namespace ala
