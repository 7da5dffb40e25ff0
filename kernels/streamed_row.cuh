// One block a row of any length, where shared memory cannot hold it: maximum and sum in one pass
// with rescaling, the gradient in a second, which reads the logits again. Read it first among the
// fused tiers: it has every step, and no trick but the running maximum.
#pragma once
#include "careful.cuh"
#include "finish.cuh"
#include "span.cuh"

namespace ala {

// The pivot is the largest exponent so far: where a larger one comes, what has been added up is
// scaled down to it.
struct RunningMaxSum : MaxSum {
    // The running maximum drops a NaN, and inf - inf would come late.
    bool invalid;

    __device__ __forceinline__ void raise_pivot(float u) {
        invalid |= u == infinity();
        if (u > max) {
            sum = against(u);
            max = u;
        }
    }
    __device__ __forceinline__ MaxSum done() const { return {max, invalid ? not_a_number() : sum}; }
};

// Calls `single(class, logit)` for this thread's element of the row's head and tail, and
// `vector(first class, logits)` for its whole vectors. `AGAIN`: the vectors will be read once more.
template <typename T, int THREADS, bool AGAIN, typename Single, typename Vector>
__device__ __forceinline__ void each_logit(
    const T* logits, const Span& span, Single single, Vector vector) {
    if (threadIdx.x < span.edges()) {
        const uint32_t j = span.edge<WIDTH<T>>(threadIdx.x);
        single(j, widen(logits[j]));
    }
    for (uint32_t i = threadIdx.x; i < span.vectors; i += THREADS) {
        float x[WIDTH<T>];
        load_vector<AGAIN>(logits + span.head + i * WIDTH<T>, x);
        vector(span.head + i * WIDTH<T>, x);
    }
}

// Steps 1 and 3 to 5 of this thread's elements off the target, and whether one of them, or a target
// that is no number, makes the row no hit.
template <typename T, int THREADS, typename Map>
__device__ __forceinline__ MaxSum pass_over_logits(
    const AlaParams& p, const Map& map, const T* logits, const Span& span, uint32_t y,
    float x_target, bool& outdone) {
    constexpr int V = WIDTH<T>;
    RunningMaxSum mine = {MaxSum::none(), false};
    outdone = x_target != x_target;
    each_logit<T, THREADS, true>(
        logits, span,
        [&](uint32_t j, float x) {
            outdone |= p.hits != 0 && outdoes(x, j, x_target, y);
            if (j != y) {
                mine.invalid |= x != x;
                mine.raise_pivot(map.from_order(map.order(x, j)));
                mine.sum += exp2_fast(map.exponent(x, j, mine.max));
            }
        },
        [&](uint32_t first, float (&x)[V]) {
            if (p.hits != 0) {
#pragma unroll
                for (int k = 0; k < V; k++) {
                    outdone |= outdoes(x[k], first + k, x_target, y);
                }
            }
            // The target's own term is kept apart.
            replace(x, y - first, -infinity());
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

// The same of a recipe's row, off both targets; `no_number` is whether one of them is none.
template <typename T, int THREADS, typename Map>
__device__ __forceinline__ MaxSum pass_over_terms(
    const AlaRecipe& r, const Map& map, const T* logits, const Span& span, uint32_t a, uint32_t b,
    RecipeSums& sums, bool& no_number) {
    constexpr int V = WIDTH<T>;
    const bool smooths = r.each != 0.0f;
    const bool predicting = predicts(r);
    RunningMaxSum mine = {MaxSum::none(), false};
    sums = {Exponents::none(), Best::none()};
    no_number = false;
    const auto raise_pivot = [&](float u) {
        const float before = mine.max;
        mine.raise_pivot(u);
        sums.exponents.sum = sums.exponents.against(before, mine.max);
    };
    const auto add = [&](float x, uint32_t j, bool is_target) {
        float weight;
        const float u = map.weighed(x, j, mine.max, weight);
        mine.sum += exp2_fast(u);
        if (smooths && !is_target) {
            sums.exponents.add(u, weight);
        }
    };
    each_logit<T, THREADS, true>(
        logits, span,
        [&](uint32_t j, float x) {
            no_number |= x != x;
            sums.best.take(x, j);
            if (j != a && j != b) {
                mine.invalid |= x != x;
                raise_pivot(map.from_order(map.order(x, j)));
                add(x, j, false);
            }
        },
        [&](uint32_t first, float (&x)[V]) {
            if (predicting) {
#pragma unroll
                for (int k = 0; k < V; k++) {
                    no_number |= x[k] != x[k];
                    sums.best.take(x[k], first + k);
                }
            }
            // The targets' own terms are kept apart.
            replace(x, a - first, -infinity());
            replace(x, b - first, -infinity());
            float most = -infinity();
#pragma unroll
            for (int k = 0; k < V; k++) {
                most = Max::of(most, map.order(x[k], first + k));
                mine.invalid |= x[k] != x[k];
            }
            raise_pivot(map.from_order(most));
#pragma unroll
            for (int k = 0; k < V; k++) {
                add(x[k], first + k, a - first == k || b - first == k);
            }
        });
    return mine.done();
}

// Step 7 of this thread's elements: their exponentials once more, against the row's pivot.
template <typename T, int THREADS, typename Map, typename Gradient, typename Scaled>
__device__ __forceinline__ void write_gradient(
    const Map& map, const T* logits, const Span& span, const Gradient& gradient, Scaled scale,
    float pivot) {
    const auto gradient_of = [&](float x, uint32_t j) {
        return scale.of(map, exp2_fast(map.exponent(x, j, pivot)), j);
    };
    each_logit<T, THREADS, false>(
        logits, span, [&](uint32_t j, float x) { gradient.store(j, gradient_of(x, j)); },
        [&](uint32_t first, float (&x)[WIDTH<T>]) {
#pragma unroll
            for (int k = 0; k < WIDTH<T>; k++) {
                x[k] = gradient_of(x[k], first + k);
            }
            gradient.store(first, x);
        });
}

template <typename T, typename Map, int LANES, int, int THREADS>
__device__ void streamed_row(const AlaParams& p) {
    static_assert(LANES == THREADS, "a block a row");
    static_assert(2 * (WIDTH<T> - 1) <= THREADS, "head and tail are one access each");
    __shared__ WarpSlots<THREADS / WARP> slots;
    // Thread 0's.
    __shared__ AlaTotals totals;
    if (is_skipped(p)) {
        return;
    }
    const Map map(p);
    if (threadIdx.x == 0) {
        totals = no_rows();
    }
    for (uint64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        const int64_t label = read_label(p, row);
        if (!has_target(p, label)) {
            skip_row<T>(p, row, threadIdx.x, THREADS);
            continue;
        }
        const T* logits = logits_row<T>(p, row);
        const Span span = split(logits, p.classes);
        const uint32_t y = static_cast<uint32_t>(label);
        const float x_target = widen(logits[y]);
        const AlaTarget target = read_target(p, y);

        // 1, 3, 4 and 5: exponents off the target, their maximum, exponentials and sum; by thread,
        // then by warp.
        bool outdone;
        const MaxSum mine =
            pass_over_logits<T, THREADS>(p, map, logits, span, y, x_target, outdone);
        const MaxSum of_warp = merge_team<WARP>(mine);
        if (threadIdx.x % WARP == 0) {
            slots.put(threadIdx.x / WARP, of_warp);
        }
        // All warps' values are in their slots before any warp reads them.
        __syncthreads();
        const MaxSum non_target = slots.merged_by_warp();

        // 2: the target's exponent, with its margin.
        const RowSums sums = row_sums(map, y, target, x_target, non_target);

        // 6: the row's loss.
        if (threadIdx.x == 0) {
            write_row(p, row, target, sums, totals);
        }

        // 7: its gradient.
        if (p.gradient != 0 && !is_far_out(sums.pivot)) {
            const RowGradient scales =
                row_gradient(p, target, map.common_slope(), sums, row_factor(p, row));
            T* to = gradient_row<T>(p, row);
            const GradientRow<T> gradient = {to, in_phase<T>(to, logits), y, scales.at_target};
            write_gradient<T, THREADS>(
                map, logits, span, gradient, Scale{scales.scale}, sums.pivot);
        }

        // 6: its hit.
        if (p.hits != 0) {
            const bool any = __syncthreads_or(outdone);
            if (threadIdx.x == 0) {
                write_hit(p, row, !any);
            }
        }
        // Slow warps have read their slots before the next row's are written.
        __syncthreads();
    }
    // 8: the rows' losses become one number.
    finish<false>(
        p, &totals, 1, blockIdx.x, [&] { return solve_left<T, Map>(p, blockIdx.x, 1, gridDim.x); });
}

// The same of a recipe.
template <typename T, typename Map, int LANES, int, int THREADS>
__device__ void streamed_row(const AlaRecipe& r) {
    constexpr int WARPS = THREADS / WARP;
    __shared__ WarpSlots<WARPS> slots;
    __shared__ RecipeSlots<WARPS> recipe_slots;
    // What thread 0 tells the others of the row.
    __shared__ TermsSolution solution;
    // Thread 0's.
    __shared__ AlaTotals totals;
    const AlaParams& p = r.step;
    if (is_skipped(p)) {
        return;
    }
    const Map map(r);
    if (threadIdx.x == 0) {
        totals = no_rows();
    }
    for (uint64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        const RowTerms terms = read_terms(r, row);
        if (terms.count == 0) {
            skip_row<T>(r, row, threadIdx.x, THREADS, terms.is_bad());
            continue;
        }
        const T* logits = logits_row<T>(p, row);
        const Span span = split(logits, p.classes);

        // 1, 3, 4 and 5: exponents off the targets, their maximum, exponentials and sums; by
        // thread, then by warp.
        RecipeSums more;
        bool no_number;
        const MaxSum mine = pass_over_terms<T, THREADS>(
            r, map, logits, span, terms.y[0], terms.y[1], more, no_number);
        const MaxSum of_warp = merge_team<WARP>(mine);
        const RecipeSums more_of_warp = merge_team<WARP>(r, more, mine.max, of_warp.max);
        if (threadIdx.x % WARP == 0) {
            slots.put(threadIdx.x / WARP, of_warp);
            recipe_slots.put(threadIdx.x / WARP, more_of_warp);
        }
        // All warps' values are in their slots before any warp reads them.
        const bool any = __syncthreads_or(no_number);
        const MaxSum off_targets = slots.merged_by_warp();

        // 2, 6 and 7: the targets' exponents, loss, prediction, and what scales the gradient.
        if (threadIdx.x < WARP) {
            const RecipeSums row_sums = recipe_slots.merged_by_warp(r, slots, off_targets.max);
            if (threadIdx.x == 0) {
                const TermTarget first = read_term_target(p, logits, terms.y[0]);
                const TermTarget second = read_term_target(p, logits, terms.y[1]);
                solution = solve_terms(
                    r, map, terms.count, [&](uint32_t i) { return i == 0 ? first : second; },
                    [&](uint32_t i) { return i == 0 ? terms.share[0] : terms.share[1]; },
                    off_targets, map.unit(r) * row_sums.exponents.sum, row_factor(p, row));
                const double weight =
                    weight_of(first.target, terms.share[0], second.target, terms.share[1]);
                write_terms(r, row, weight, solution, totals);
                if (predicts(r)) {
                    write_prediction(r, row, any ? NO_CLASS : row_sums.best.y, terms.label);
                }
            }
        }
        // The row is solved before any thread writes its gradient; slow warps have read their
        // slots before the next row's are written.
        __syncthreads();
        if (p.gradient != 0 && !solution.left) {
            T* to = gradient_row<T>(p, row);
            const GradientOfTerms<T> gradient = {
                to,
                in_phase<T>(to, logits),
                {terms.y[0], terms.y[1]},
                {solution.at[0], solution.at[1]}};
            write_gradient<T, THREADS>(
                map, logits, span, gradient, ScaleLess{solution.scale, solution.less},
                solution.pivot);
        }
        // The solution is read before the next row's is written.
        __syncthreads();
    }
    // 8: the rows' losses become one number.
    finish<false>(
        r, &totals, 1, blockIdx.x, [&] { return solve_left<T, Map>(r, blockIdx.x, 1, gridDim.x); });
}

}  // namespace ala
