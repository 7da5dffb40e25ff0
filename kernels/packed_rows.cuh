// Rows of few classes, a thread a row: a block takes a tile of contiguous rows as one flat span, 16 bytes a lane, through
// shared memory, so that no thread waits for another within a row.
#pragma once
#include "careful.cuh"
#include "finish.cuh"
#include "walk.cuh"

namespace ala {

// Where the elements of a flat span of rows are in the tile. Rows of a multiple of 4 classes are a word apart, or many
// threads would meet in one bank.
struct Tile {
    // Of the span's first element. Where rows are not apart, whole vectors are at multiples of 16 bytes in the tile too.
    float* from;
    uint32_t classes;
    bool apart;

    __device__ Tile(float* tile, uint32_t classes, uint32_t head)
        : from(tile + (0u - head) % 8), classes(classes), apart(classes % 4 == 0) {}
    __device__ float* row(uint32_t row) const { return from + row * (apart ? classes + 1 : classes); }
    __device__ float& at(uint32_t place) const {
        // place / classes, exact below 2^12 for at most 32 classes.
        const uint32_t reciprocal = ((1u << 20) - 1) / classes + 1;
        return from[apart ? place + (place * reciprocal >> 20) : place];
    }
};

// Calls `body(place)` for the elements of a span that are in no whole vector.
template <typename T, typename Body> __device__ __forceinline__ void each_edge(const Span& span, Body body) {
    if (threadIdx.x < span.head + span.tail) {
        body(threadIdx.x < span.head ? threadIdx.x : threadIdx.x + span.vectors * WIDTH<T>);
    }
}

// Copies the logits of a flat span of rows into the tile, all threads of the block together.
template <typename T> __device__ __forceinline__ void copy_in(const T* logits, const Span& span, const Tile& tile) {
    constexpr uint32_t V = WIDTH<T>;
    each_edge<T>(span, [&](uint32_t place) { tile.at(place) = widen(logits[place]); });
    const uint32_t first = span.head + threadIdx.x * V;
    const uint32_t step = blockDim.x * V;
    const uint32_t end = span.head + span.vectors * V;
    if (tile.apart) {
#pragma unroll 1
        for (uint32_t place = first; place < end; place += step) {
            float x[V];
            load_vector(logits + place, x);
#pragma unroll
            for (uint32_t k = 0; k < V; k++) {
                tile.at(place + k) = x[k];
            }
        }
    } else {
        const T* from = logits + first;
        float* to = tile.from + first;
#pragma unroll 2
        for (const T* last = logits + end; from < last; from += step, to += step) {
            float x[V];
            load_vector(from, x);
#pragma unroll
            for (uint32_t k = 0; k < V; k += 4) {
                *reinterpret_cast<float4*>(to + k) = make_float4(x[k], x[k + 1], x[k + 2], x[k + 3]);
            }
        }
    }
}

// Rounds the gradients in the tile to where they belong. `in_phase`: the span's vectors are the logits'.
template <typename T>
__device__ __forceinline__ void copy_out(T* gradient, const Span& span, const Tile& tile, bool in_phase) {
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

// Calls `body(j, within)` for a row's classes and on to a multiple of four; `within` is a constant where all four are.
template <int MOST, int FIRST = 0, typename Body> __device__ __forceinline__ void each_four(uint32_t classes, Body body) {
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

template <typename T, typename Map, int MOST_CLASSES, int THREADS> __device__ void packed_rows(const AlaParams& p) {
    constexpr int V = WIDTH<T>;
    static_assert(2 * (V - 1) <= WARP, "head and tail are one access each");
    static_assert(MOST_CLASSES % 4 == 0 && THREADS * MOST_CLASSES <= 1 << 12, "Tile's reciprocal is exact");
    // Logits, then gradients, in f32; in the end each thread's totals. The host knows how large.
    extern __shared__ __align__(16) float tile[];
    const Map map(p);
    const uint32_t classes = p.classes;
    AlaTotals mine = no_rows();
    // 32 bits hold every row (the host sees to it).
    const uint32_t all_rows = static_cast<uint32_t>(p.rows);
    for (uint32_t first = blockIdx.x * blockDim.x; first < all_rows; first += gridDim.x * blockDim.x) {
        const uint32_t rows = min(all_rows - first, blockDim.x);
        const bool live = threadIdx.x < rows;
        const uint32_t row = first + threadIdx.x;
        const int64_t label = live ? read_label(p, row) : 0;
        const T* logits = logits_row<T>(p, first);
        const Span span = split(logits, rows * classes);
        const Tile places(tile, classes, span.head);
        copy_in(logits, span, places);
        // The tile is whole before any thread reads its row, which others loaded.
        __syncthreads();
        float* own = places.row(threadIdx.x);
        if (live && !has_target(p, label)) {
            report_row_without_target(p, row);
            for (uint32_t j = 0; j < classes; j++) {
                own[j] = 0.0f;
            }
        } else if (live) {
            const uint32_t y = static_cast<uint32_t>(label);
            const AlaTarget target = read_target(p, y);
            const float x_target = own[y];
            if (p.hits != 0) {
                bool outdone = x_target != x_target;
                for (uint32_t j = 0; j < classes; j++) {
                    outdone |= outdoes(own[j], j, x_target, y);
                }
                reinterpret_cast<uint8_t*>(p.hits)[row] = !outdone;
            }
            // The target's own term is kept apart.
            own[y] = -INFINITY;
            float x[MOST_CLASSES];
            float max = -INFINITY;
            each_four<MOST_CLASSES>(classes, [&](int j, bool is) {
                x[j] = is ? own[j] : -INFINITY;
                max = Max::of(max, map.order(x[j], is ? j : 0));
            });
            const TargetExponent exponent = target_exponent(x_target, map, y, target);
            const float shift = shift_of(Max::of(map.from_order(max), exponent.sum));
            float others = 0.0f;
            each_four<MOST_CLASSES>(classes, [&](int j, bool is) {
                x[j] = exp2_fast(map.exponent(x[j], is ? j : 0, shift));
                others += x[j];
            });
            const RowSums sums = {others, exponent.minus(shift)};
            const bool left = is_far_out(shift);
            const float loss = left ? left_row() : row_loss(p, target, sums);
            reinterpret_cast<float*>(p.row_losses)[row] = loss;
            add_row(mine, loss, target.weight);
            if (left) {
                // The tile keeps the row's logits: the gradient may go over them.
                own[y] = x_target;
            } else if (p.gradient != 0) {
                const RowGradient result = row_gradient(p, target, map.common_slope(), sums, row_factor(p, row));
                each_four<MOST_CLASSES>(classes, [&](int j, bool is) {
                    if (is) {
                        own[j] = x[j] * (result.scale * map.gradient_slope(j));
                    }
                });
                own[y] = result.at_target;
            }
        }
        // The gradients are whole before any thread stores some of another's row.
        __syncthreads();
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
    }
    // No thread reads the tile any more.
    __syncthreads();
    AlaTotals* totals = reinterpret_cast<AlaTotals*>(tile);
    totals[threadIdx.x] = mine;
    finish(p, totals, blockDim.x, blockIdx.x, [&] {
        const uint64_t step = static_cast<uint64_t>(gridDim.x) * blockDim.x;
        return solve_left<T, Map>(p, static_cast<uint64_t>(blockIdx.x) * blockDim.x, blockDim.x, step);
    });
}

}  // namespace ala
