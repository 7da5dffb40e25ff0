// Rows of few classes: a block takes a tile of contiguous rows as one flat span, 16 bytes a lane, through shared memory,
// where each thread solves a row of its own without any reduction.
#pragma once
#include "walk.cuh"

namespace ala {

// Calls `single(place)` and `vector(place)` for the elements of a flat span, all threads of the block together.
template <typename T, int THREADS, typename Single, typename Vector>
__device__ __forceinline__ void each_of_span(const Span& span, Single single, Vector vector) {
    if (threadIdx.x < span.head + span.tail) {
        single(threadIdx.x < span.head ? threadIdx.x : threadIdx.x + span.vectors * WIDTH<T>);
    }
    for (uint32_t i = threadIdx.x; i < span.vectors; i += THREADS) {
        vector(span.head + i * WIDTH<T>);
    }
}

template <typename T, typename Map, int MOST_CLASSES, int THREADS> __device__ void packed_rows(const AlaParams& p) {
    constexpr int V = WIDTH<T>;
    static_assert(2 * (V - 1) <= THREADS, "head and tail are one access each");
    // A row a thread, in f32: logits, then exponentials, then gradients.
    __shared__ float tile[THREADS * MOST_CLASSES];
    const Map map(p);
    const uint32_t classes = p.classes;
    for (uint64_t first = static_cast<uint64_t>(blockIdx.x) * THREADS; first < p.rows;
         first += static_cast<uint64_t>(gridDim.x) * THREADS) {
        const uint64_t left = p.rows - first;
        const uint32_t rows = left < THREADS ? static_cast<uint32_t>(left) : THREADS;
        const T* logits = logits_row<T>(p, first);
        const Span span = split(logits, rows * classes);
        each_of_span<T, THREADS>(
            span, [&](uint32_t place) { tile[place] = widen(logits[place]); },
            [&](uint32_t place) {
                float x[V];
                load_vector(logits + place, x);
#pragma unroll
                for (int k = 0; k < V; k++) {
                    tile[place + k] = x[k];
                }
            });
        const bool live = threadIdx.x < rows;
        const uint64_t row = first + threadIdx.x;
        const int64_t label = live ? read_label(p, row) : 0;
        // The tile is whole before any thread reads its row, which others loaded.
        __syncthreads();
        float* x = tile + threadIdx.x * classes;
        if (live && !has_target(p, label)) {
            report_row_without_target(p, row, label);
            for (uint32_t j = 0; j < classes; j++) {
                x[j] = 0.0f;
            }
        } else if (live) {
            const uint32_t y = static_cast<uint32_t>(label);
            const AlaTarget target = read_target(p, y);
            const float x_target = x[y];
            if (p.hits != 0) {
                bool outdone = x_target != x_target;
                for (uint32_t j = 0; j < classes; j++) {
                    outdone |= outdoes(x[j], j, x_target, y);
                }
                reinterpret_cast<uint8_t*>(p.hits)[row] = !outdone;
            }
            x[y] = -INFINITY;
            float max = -INFINITY;
#pragma unroll 4
            for (uint32_t j = 0; j < classes; j++) {
                max = Max::of(max, map.order(x[j], j, classes));
            }
            const float shift =
                Max::of(map.from_order(max), target_exponent(x_target, map.map(y), target, 0.0f));
            float others = 0.0f;
#pragma unroll 4
            for (uint32_t j = 0; j < classes; j++) {
                const float e = exp2_fast(map.exponent(x[j], j, shift, classes));
                x[j] = e;
                others += e;
            }
            const RowSums sums = {others, target_exponent(x_target, map.map(y), target, shift)};
            reinterpret_cast<float*>(p.row_losses)[row] = row_loss(p, target, sums);
            if (p.gradient != 0) {
                const RowGradient result = row_gradient(p, target, map.common_slope(), sums, row_factor(p, row));
#pragma unroll 4
                for (uint32_t j = 0; j < classes; j++) {
                    x[j] *= result.scale * map.gradient_slope(j, classes);
                }
                x[y] = result.at_target;
            }
        }
        // The gradients are whole before any thread stores some of another's row.
        __syncthreads();
        if (p.gradient != 0) {
            T* gradient = gradient_row<T>(p, first);
            const Span out = split(gradient, rows * classes);
            each_of_span<T, THREADS>(
                out, [&](uint32_t place) { gradient[place] = round_to<T>(tile[place]); },
                [&](uint32_t place) {
                    float g[V];
#pragma unroll
                    for (int k = 0; k < V; k++) {
                        g[k] = tile[place + k];
                    }
                    store_vector(gradient + place, g);
                });
            // The tile is stored before the next one is loaded over it.
            __syncthreads();
        }
    }
    finish<THREADS>(p);
}

}  // namespace ala
