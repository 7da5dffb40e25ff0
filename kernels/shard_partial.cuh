// The first half of a step over some of the classes: a row's record, from its logits. One block a
// row, as streamed_row.cuh.
#pragma once
#include "shard.cuh"
#include "streamed_row.cuh"

namespace ala {

// Steps 1 and 3 to 5 of this thread's elements off the targets; where it is asked for also the
// largest logit of all, and whether one is no number.
template <typename T, int THREADS, typename Map>
__device__ __forceinline__ MaxSum pass_over_shard(
    const Map& map, const T* logits, const Span& span, const Places& y, bool predicting, Best& best,
    bool& no_number) {
    constexpr int V = WIDTH<T>;
    RunningMaxSum mine = {MaxSum::none(), false};
    best = Best::none();
    no_number = false;
    each_logit<T, THREADS, true>(
        logits, span,
        [&](uint32_t j, float x) {
            no_number |= x != x;
            best.take(x, j);
            if (j != y.first && j != y.second) {
                mine.invalid |= x != x;
                mine.raise_pivot(map.from_order(map.order(x, j)));
                mine.sum += exp2_fast(map.exponent(x, j, mine.max));
            }
        },
        [&](uint32_t first, float (&x)[V]) {
            if (predicting) {
#pragma unroll
                for (int k = 0; k < V; k++) {
                    no_number |= x[k] != x[k];
                    best.take(x[k], first + k);
                }
            }
            // The targets' own terms are kept apart.
            replace(x, y.first - first, -infinity());
            replace(x, y.second - first, -infinity());
            float most = -infinity();
#pragma unroll
            for (int k = 0; k < V; k++) {
                most = Max::of(most, map.order(x[k], first + k));
                mine.invalid |= x[k] != x[k];
            }
            mine.raise_pivot(map.from_order(most));
#pragma unroll
            for (int k = 0; k < V; k++) {
                mine.sum += exp2_fast(map.exponent(x[k], first + k, mine.max));
            }
        });
    return mine.done();
}

// Writes what a record has of the targets; `offset(place, as_target)` is that of an own class.
template <typename Offset>
__device__ __forceinline__ void write_targets(
    const AlaShard& s, const Places& y, float* record, Offset offset) {
    const RecordLayout layout(s);
#pragma unroll 1
    for (uint32_t i = 0; i < (layout.mixed ? 2 : 1); i++) {
        const uint32_t place = y.of(i);
        const bool here = place != NO_CLASS;
        record[layout.offset(i)] = here ? told_offset(offset(place, true)) : not_here();
        if (layout.weights) {
            record[layout.weight(i)] = here ? read_target(s.recipe.step, place).weight : 0.0f;
        }
        if (layout.mixed) {
            record[layout.as_other(i)] = here ? told_offset(offset(place, false)) : not_here();
        }
    }
}

// The exponent of an own class, as target or as any other, without a rounding of its own.
template <typename T, typename Map>
__device__ __forceinline__ double exponent_of(
    const AlaShard& s, const Map& map, const T* logits, uint32_t place, bool as_target) {
    const float x = widen(logits[place]);
    const auto own = map.map(place);
    double slope = own.slope;
    double bias = static_cast<double>(own.bias) + s.bias;
    if (as_target) {
        const AlaTarget target = read_target(s.recipe.step, place);
        slope += static_cast<double>(target.extra_slope);
        bias += static_cast<double>(target.bias);
    }
    // No softmax has a +inf.
    return x < infinity() ? fma(slope, static_cast<double>(x), bias) : not_a_number();
}

// Step 2 and the record, by thread 0. False where f32 cannot solve the row: nothing is written.
template <typename T, typename Map>
__device__ __forceinline__ bool write_record(
    const AlaShard& s, const Map& map, const T* logits, const Places& y, MaxSum off_targets,
    float* record) {
    if (is_far_out(off_targets.max) || off_targets.sum != off_targets.sum) {
        return false;
    }
    const double max = static_cast<double>(off_targets.max) + s.bias;
    double top = max;
#pragma unroll 1
    for (uint32_t i = 0; i < 2; i++) {
        const uint32_t place = y.of(i);
        if (place != NO_CLASS) {
            const double exponent = exponent_of(s, map, logits, place, !y.two);
            top = exponent > top + FAR_ABOVE ? exponent : top;
        }
    }
    if (top > FAR_OUT) {
        return false;
    }
    const float pivot = static_cast<float>(top * s.inverse_slope);
    const double from = s.slope * static_cast<double>(pivot);
    record[RecordLayout::PIVOT] = pivot;
    record[RecordLayout::SUM] = told_sum(off_targets.sum, max - from);
    write_targets(s, y, record, [&](uint32_t place, bool as_target) {
        return exponent_of(s, map, logits, place, as_target) - from;
    });
    return true;
}

// The same of a row that was solved with care.
template <typename T>
__device__ __forceinline__ void write_careful_record(
    const AlaShard& s, const T* logits, const Places& y, const CarefulShard& row, float* record) {
    record[RecordLayout::PIVOT] = row.pivot;
    record[RecordLayout::SUM] = told_sum(static_cast<float>(row.sum), row.sum_from + row.kept);
    write_targets(s, y, record, [&](uint32_t place, bool as_target) {
        const float x = widen(logits[place]);
        if (!(fabsf(x) < infinity())) {
            return static_cast<double>(x == -infinity() ? x : not_a_number());
        }
        return row.offset(exact_map(s.recipe.step, place, as_target ? place : NO_CLASS), x);
    });
}

template <typename T, typename Map, int THREADS>
__device__ void shard_partial(const AlaShard& s) {
    static_assert(2 * (WIDTH<T> - 1) <= THREADS, "head and tail are one access each");
    constexpr int WARPS = THREADS / WARP;
    __shared__ WarpSlots<WARPS> slots;
    __shared__ Best best_of_warps[WARPS];
    __shared__ CarefulShard careful;
    // What thread 0 tells the others of the row.
    __shared__ bool needs_care;
    const AlaParams& p = s.recipe.step;
    const RecordLayout layout(s);
    const Map map(p);
    for (uint64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        float* record = reinterpret_cast<float*>(s.records) + row * s.record_len;
        const RowTerms terms = read_terms(s.recipe, row);
        if (terms.count == 0) {
            // Nobody reads it.
            if (threadIdx.x < s.record_len) {
                record[threadIdx.x] = 0.0f;
            }
            continue;
        }
        const Places y = places_of(s, terms);
        const T* logits = logits_row<T>(p, row);
        const Span span = split(logits, s.classes);

        // 1, 3, 4 and 5: exponents off the targets, their maximum, exponentials and sum; by thread,
        // then by warp.
        Best best;
        bool no_number;
        const MaxSum mine =
            pass_over_shard<T, THREADS>(map, logits, span, y, layout.top1, best, no_number);
        const MaxSum of_warp = merge_team<WARP>(mine);
        if (layout.top1) {
            best = best_of_team<WARP>(best);
        }
        if (threadIdx.x % WARP == 0) {
            slots.put(threadIdx.x / WARP, of_warp);
            best_of_warps[threadIdx.x / WARP] = best;
        }
        // All warps' values are in their slots before any warp reads them.
        const bool any = __syncthreads_or(no_number);
        if (threadIdx.x < WARP) {
            const MaxSum off_targets = slots.merged_by_warp();
            if (layout.top1) {
                const bool is_slot = threadIdx.x < WARPS;
                best = best_of_team<WARP>(is_slot ? best_of_warps[threadIdx.x] : Best::none());
            }
            // 2: the targets' exponents; the record.
            if (threadIdx.x == 0) {
                needs_care = !write_record(s, map, logits, y, off_targets, record);
                if (layout.top1) {
                    record[layout.largest()] = any ? not_a_number() : best.x;
                    record[layout.largest_class()] = __uint_as_float(s.first_class + best.y);
                }
            }
        }
        // Every thread sees the decision; slow warps have read their slots before the next row's
        // are written.
        __syncthreads();
        if (needs_care) {
            sum_with_care(s, logits, y, careful);
            if (threadIdx.x == 0) {
                write_careful_record(s, logits, y, careful, record);
            }
        }
        // All have read the decision before it is made for the next row.
        __syncthreads();
    }
}

}  // namespace ala
