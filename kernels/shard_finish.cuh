// The second half of a step over some of the classes: from the shards' records a row's loss, and
// from its logits, which are read once more, the gradient of the shard's own classes. One block a
// row.
#pragma once
#include "shard.cuh"
#include "streamed_row.cuh"

namespace ala {

// A target, from all shards' pivot on.
struct ToldTarget {
    uint32_t shards;  // that have it
    float weight;     // of its class
    double offset;
    double as_other;  // its exponent as that of a class like any other
};

// What the shards told of a row.
struct Told {
    float pivot;      // the highest; NaN where one is
    float sum;        // off the targets, from where ...
    double sum_from;  // ... from that on
    ToldTarget first;
    ToldTarget second;
    uint32_t predicted;  // NO_CLASS where a logit is no number
    __device__ __forceinline__ ToldTarget target(uint32_t i) const {
        return i == 0 ? first : second;
    }
};

// The larger; of a NaN and a number the number.
__device__ __forceinline__ double larger(double a, double b) {
    return a > b || b != b ? a : b;
}
__device__ __forceinline__ double max_of_warp(double value) {
#pragma unroll 1
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        value = larger(value, __shfl_xor_sync(FULL_WARP, value, offset));
    }
    return value;
}
__device__ __forceinline__ uint32_t sum_of_warp(uint32_t value) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        value += __shfl_xor_sync(FULL_WARP, value, offset);
    }
    return value;
}

// How far a shard's pivot is below the highest, as an exponent.
__device__ __forceinline__ double below_pivot(const AlaShard& s, float own, float pivot) {
    // Also where both are -inf.
    return own == pivot ? 0.0 : s.slope * (static_cast<double>(own) - static_cast<double>(pivot));
}

// The target's record, found by the lane that has it.
__device__ __forceinline__ ToldTarget
told_target(const AlaShard& s, uint64_t row, uint32_t term, float pivot) {
    const RecordLayout layout(s);
    ToldTarget own = {0, s.common_weight, 0.0, 0.0};
#pragma unroll 1
    for (uint32_t shard = threadIdx.x % WARP; shard < s.shards; shard += WARP) {
        const float* record = told_record(s, shard, row);
        const float offset = record[layout.offset(term)];
        if (offset == not_here()) {
            continue;
        }
        const double below = below_pivot(s, record[RecordLayout::PIVOT], pivot);
        own.shards += 1;
        own.offset = fma(static_cast<double>(offset), OFFSET_UNIT, below);
        if (layout.weights) {
            own.weight = record[layout.weight(term)];
        }
        if (layout.mixed) {
            const double as_other = record[layout.as_other(term)];
            own.as_other = fma(as_other, OFFSET_UNIT, below);
        }
    }
    // One shard has it, or the row is told to be a bad one.
    const uint32_t lane = sum_of_warp(own.shards == 1 ? threadIdx.x : 0) % WARP;
    own.weight = __shfl_sync(FULL_WARP, own.weight, lane);
    own.offset = __shfl_sync(FULL_WARP, own.offset, lane);
    own.as_other = __shfl_sync(FULL_WARP, own.as_other, lane);
    own.shards = sum_of_warp(own.shards);
    return own;
}

// Combines a row's records, by the first warp: a lane those of every 32nd shard, then all lanes.
// The order is the shards' number's alone.
__device__ __forceinline__ Told combine(const AlaShard& s, uint64_t row, uint32_t count) {
    const RecordLayout layout(s);
    const uint32_t lane = threadIdx.x % WARP;
    Told told;
    float pivot = -infinity();
    bool invalid = false;
    for (uint32_t shard = lane; shard < s.shards; shard += WARP) {
        const float own = told_record(s, shard, row)[RecordLayout::PIVOT];
        pivot = Max::of(pivot, own);
        invalid |= own != own;
    }
    pivot = reduce_team<Max, WARP>(pivot);
    // A row of -inf alone makes no softmax either.
    const bool none = __any_sync(FULL_WARP, invalid) || pivot == -infinity();
    // Where a shard's sum counts from.
    const auto from_pivot = [&](const float* record) {
        const double below = below_pivot(s, record[RecordLayout::PIVOT], pivot);
        const float told = record[RecordLayout::SUM];
        return told < 0.0f ? below + static_cast<double>(told) : below;
    };
    double from = -static_cast<double>(infinity());
    for (uint32_t shard = lane; shard < s.shards; shard += WARP) {
        const float* record = told_record(s, shard, row);
        // Nothing counts from anywhere.
        if (record[RecordLayout::SUM] != 0.0f) {
            from = larger(from, from_pivot(record));
        }
    }
    from = max_of_warp(from);
    from = from > -static_cast<double>(infinity()) ? from : 0.0;
    float sum = none ? not_a_number() : 0.0f;
    Best best = Best::none();
    bool no_number = false;
    for (uint32_t shard = lane; shard < s.shards; shard += WARP) {
        const float* record = told_record(s, shard, row);
        const float own = record[RecordLayout::SUM];
        // A target's pivot without a sum may be far above.
        if (own != 0.0f) {
            sum = fmaf(own < 0.0f ? 1.0f : own, exp2_of(from_pivot(record) - from), sum);
        }
        if (layout.top1) {
            const float largest = record[layout.largest()];
            no_number |= largest != largest;
            best.take(largest, __float_as_uint(record[layout.largest_class()]));
        }
    }
    told.pivot = none ? not_a_number() : pivot;
    told.sum = reduce_team<Sum, WARP>(sum);
    told.sum_from = from;
    told.predicted = NO_CLASS;
    if (layout.top1) {
        best = best_of_team<WARP>(best);
        told.predicted = __any_sync(FULL_WARP, no_number) ? NO_CLASS : best.y;
    }
    told.first = told_target(s, row, 0, pivot);
    told.second = count == 2 ? told_target(s, row, 1, pivot) : told.first;
    return told;
}

// What thread 0 tells the others of a row.
struct ShardSolution {
    float loss;
    float scale;   // of exponentials against the pivot
    float at[2];   // the gradient at both targets, where they are the shard's own
    float pivot;   // that its exponentials are from, as the class table has exponents
    float logit;   // the shards' pivot
    double lower;  // what the former is above that, as an exponent
    bool orphan;   // a label is not one shard's
};

// A term's loss that f32 cannot hold on the way, or not at all. No focal factor but 1 leaves such a
// loss.
__device__ __forceinline__ float shard_loss_beyond_f32(float weight, float share, double offset) {
    const double w = static_cast<double>(weight) * static_cast<double>(share);
    return w == 0.0 ? 0.0f : static_cast<float>(-offset * static_cast<double>(LN_2) * w);
}

// Step 6 and 7 of a row, by one thread, one term after the other.
template <typename Map>
__device__ __forceinline__ ShardSolution solve_told(
    const AlaShard& s, const Map& map, const RowTerms& terms, const Places& y, const Told& told,
    float factor) {
    const AlaParams& p = s.recipe.step;
    ShardSolution row = {0.0f, 0.0f, {0.0f, 0.0f}, 0.0f, told.pivot, 0.0, false};
    const bool two = terms.count == 2;
#pragma unroll 1
    for (uint32_t i = 0; i < terms.count; i++) {
        const ToldTarget own = told.target(i);
        const ToldTarget other = told.target(1 - i);
        row.orphan |= own.shards != 1;
        // The largest exponent of the term: that of the other target may be among the shards'
        // pivots and far above it. What is no number shows in the sums.
        const bool is_alone = told.sum == 0.0f;
        double top = is_alone ? own.offset : larger(told.sum_from, own.offset);
        top = two ? larger(top, other.as_other) : top;
        const float other_exponential = two ? exp2_of(other.as_other - top) : 0.0f;
        const RowSums sums = {
            is_alone ? other_exponential
                     : fmaf(told.sum, exp2_of(told.sum_from - top), other_exponential),
            static_cast<float>(own.offset - top), 0.0f};
        const uint32_t place = y.of(i);
        const float share = i == 0 ? terms.share[0] : terms.share[1];
        AlaTarget target = {0.0f, 0.0f, 1.0f, own.weight * share};
        if (place != NO_CLASS) {
            target.gradient_slope = read_target(p, place).gradient_slope;
        }
        float loss = row_loss(p, target, sums);
        if (loss == infinity() && own.offset > -static_cast<double>(infinity())) {
            loss = shard_loss_beyond_f32(own.weight, share, own.offset);
        }
        const RowGradient gradient = row_gradient(p, target, map.common_slope(), sums, factor);
        row.loss += loss;
        // None off the targets is above the lower of the terms' largest.
        const double lower = i == 0 || top < row.lower ? top : row.lower;
        const float before = i == 0 ? 0.0f : row.scale * exp2_of(lower - row.lower);
        row.scale = fmaf(gradient.scale, exp2_of(lower - top), before);
        row.lower = lower;
        float at_other = 0.0f;
        // Where the other target is the shard's own, what this term makes of it.
        if (two && y.of(1 - i) != NO_CLASS) {
            at_other = other_exponential * map.times_class_slope(gradient.scale, y.of(1 - i));
        }
        row.at[0] += i == 0 ? gradient.at_target : at_other;
        row.at[1] += i == 0 ? at_other : gradient.at_target;
    }
    const double from = fma(s.slope, static_cast<double>(told.pivot), row.lower - s.bias);
    row.pivot = static_cast<float>(from);
    if (!is_far_out(row.pivot)) {
        // What its rounding takes from all exponentials.
        row.scale *= exp2_of(static_cast<double>(row.pivot) - from);
    }
    return row;
}

// The zero gradient of an ignored or bad row.
template <typename T, int THREADS>
__device__ __forceinline__ void zero_shard_gradient(const AlaShard& s, uint64_t row) {
    const AlaParams& p = s.recipe.step;
    if (p.gradient != 0) {
        T* gradient = gradient_row<T>(p, row);
        for (uint32_t j = threadIdx.x; j < s.classes; j += THREADS) {
            gradient[j] = round_to<T>(0.0f);
        }
    }
}

// 7: a gradient whose exponents f32 cannot tell apart, each class from its own logit.
template <typename T, typename Map, int THREADS>
__device__ __forceinline__ void write_with_care(
    const AlaShard& s, const Map& map, const T* logits, const Places& y,
    const ShardSolution& solution, const CarefulShard& careful, T* gradient) {
    const double below = below_pivot(s, careful.pivot, solution.logit) - solution.lower;
#pragma unroll 1
    for (uint32_t j = threadIdx.x; j < s.classes; j += THREADS) {
        const Affine64 own = exact_map(s.recipe.step, j, NO_CLASS);
        const double exponent = careful.offset(own, widen(logits[j])) + below;
        const float e = exp2_of(exponent);
        gradient[j] = round_to<T>(
            j == y.first    ? solution.at[0]
            : j == y.second ? solution.at[1]
                            : e * map.times_class_slope(solution.scale, j));
    }
}

template <typename T, typename Map, int THREADS>
__device__ void shard_finish(const AlaShard& s) {
    static_assert(2 * (WIDTH<T> - 1) <= THREADS, "head and tail are one access each");
    __shared__ ShardSolution solution;
    __shared__ CarefulShard careful;
    // Thread 0's.
    __shared__ AlaTotals totals;
    const AlaRecipe& r = s.recipe;
    const AlaParams& p = r.step;
    if (is_skipped(p)) {
        return;
    }
    const Map map(p);
    if (threadIdx.x == 0) {
        totals = no_rows();
    }
    for (uint64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        const RowTerms terms = read_terms(r, row);
        if (terms.count == 0) {
            zero_shard_gradient<T, THREADS>(s, row);
            if (threadIdx.x == 0) {
                report_row_without_target(r, row, terms.is_bad());
            }
            continue;
        }
        const Places y = places_of(s, terms);

        // 2 to 5 are in the records. 6: the row's loss and prediction; 7: what scales its gradient.
        if (threadIdx.x < WARP) {
            const Told told = combine(s, row, terms.count);
            if (threadIdx.x == 0) {
                const ShardSolution solved = solve_told(s, map, terms, y, told, row_factor(p, row));
                solution = solved;
                if (solved.orphan) {
                    report_row_without_target(r, row, true);
                } else {
                    write_loss(p, row, solved.loss);
                    totals.loss += static_cast<double>(solved.loss);
                    const auto weight = [&](const ToldTarget& target, float share) {
                        return static_cast<double>(target.weight) * static_cast<double>(share);
                    };
                    totals.weight +=
                        weight(told.first, terms.share[0]) + weight(told.second, terms.share[1]);
                    totals.counted += 1;
                    if (predicts(r)) {
                        write_prediction(r, row, told.predicted, terms.label);
                    }
                }
            }
        }
        // The row is solved before any thread writes its gradient.
        __syncthreads();
        if (solution.orphan) {
            zero_shard_gradient<T, THREADS>(s, row);
        } else if (p.gradient != 0) {
            const T* logits = logits_row<T>(p, row);
            T* to = gradient_row<T>(p, row);
            if (is_far_out(solution.pivot) && isfinite(solution.logit)) {
                sum_with_care(s, logits, y, careful);
                write_with_care<T, Map, THREADS>(s, map, logits, y, solution, careful, to);
            } else {
                const GradientOfTerms<T> gradient = {
                    to,
                    in_phase<T>(to, logits),
                    {y.first, y.second},
                    {solution.at[0], solution.at[1]}};
                write_gradient<T, THREADS>(
                    map, logits, split(logits, s.classes), gradient, Scale{solution.scale},
                    solution.pivot);
            }
        }
        // The solution is read before the next row's is written.
        __syncthreads();
    }
    // 8: the rows' losses become one number. A loss that is no number is the row's own.
    finish<false>(s, &totals, 1, blockIdx.x, [&] { return totals.loss; });
}

}  // namespace ala
