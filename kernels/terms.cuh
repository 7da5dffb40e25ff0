// What a recipe's row is held against: one label or two, each with its share, smoothed or not.
//
//     L = share_a L(a) + share_b L(b)      shares lambda and 1 - lambda, times the row's weight
//
// Two rows that differ at their targets alone. With U the sum of exp2(u_j - pivot) off both
// targets, S_a = U + exp2(u_b - pivot) and S_b = U + exp2(u_a - pivot): neither is a difference, so
// nothing cancels. The gradient is one exponential an element, patched at a and b.
//
// Smoothed by epsilon, with weights w and W their sum,
//
//     L(y)    = (1 - eps) w_y (lse(z) - z_y) + (eps / C) sum_j w_j (lse(z) - z_j)
//     dL/dz_j = K p_j - (eps / C) w_j                K = (1 - eps) w_y + (eps / C) W
//     dL/dz_y = -(1 - eps) w_y (1 - p_y) + (eps / C) ((W - w_y) p_y - w_y (1 - p_y))
//
// which takes the sum of w_j (u_j - pivot) off the targets beside the sum of exponentials.
#pragma once
#include "finish.cuh"

namespace ala {

constexpr uint32_t NO_CLASS = 0xffffffffu;
constexpr uint32_t NOTHING_BAD = 0xffffffffu;

// A row's labels and their shares. Both are the same where there is one term.
struct RowTerms {
    uint32_t count;  // 0 where nothing of the row counts
    uint32_t y[2];
    float share[2];
    uint32_t label;  // the first label as a class, NO_CLASS where it is to be ignored
    uint32_t bad;    // ALA_BAD_*, or NOTHING_BAD
    __device__ __forceinline__ bool is_bad() const { return bad != NOTHING_BAD; }
};

// A weight of a row, as one of a class.
__device__ __forceinline__ bool is_weight(float weight) {
    return weight == 0.0f || (weight >= 1e-20f && weight <= 1e20f);
}

__device__ __forceinline__ RowTerms read_terms(const AlaRecipe& r, uint64_t row) {
    const AlaParams& p = r.step;
    const int64_t first = read_label(p, row);
    int64_t second = first;
    float lambda = 1.0f;
    float weight = 1.0f;
    if (r.second_labels != 0) {
        second = read_label(Labels{r.second_labels, r.second_label_type}, row);
        lambda = r.lambda != 0 ? reinterpret_cast<const float*>(r.lambda)[row] : r.lambda_of_all;
    }
    if (r.row_weights != 0) {
        weight = reinterpret_cast<const float*>(r.row_weights)[row];
    }
    const bool first_counts = has_target(p, first);
    const bool second_counts = has_target(p, second);
    const bool ignores = (p.flags & ALA_HAS_IGNORE) != 0;
    RowTerms terms;
    terms.label = first_counts ? static_cast<uint32_t>(first) : NO_CLASS;
    terms.bad = NOTHING_BAD;
    if (!is_weight(weight)) {
        terms.bad = ALA_BAD_WEIGHT;
    }
    if (!(lambda >= 0.0f && lambda <= 1.0f)) {
        terms.bad = ALA_BAD_LAMBDA;
    }
    if (!second_counts && !(ignores && second == p.ignore_label)) {
        terms.bad = ALA_BAD_SECOND_LABEL;
    }
    if (!first_counts && !(ignores && first == p.ignore_label)) {
        terms.bad = ALA_BAD_LABEL;
    }
    const bool has_first = first_counts && lambda != 0.0f;
    const bool has_second = second_counts && lambda != 1.0f;
    const uint32_t a = static_cast<uint32_t>(first);
    const uint32_t b = static_cast<uint32_t>(second);
    const float rest = 1.0f - lambda;
    // One label, or the same twice, has all of the row that counts for it.
    const bool same = has_first && has_second && a == b;
    const bool two = has_first && has_second && a != b;
    terms.count = terms.is_bad() ? 0 : two ? 2 : has_first || has_second;
    terms.y[0] = has_first ? a : b;
    terms.y[1] = two ? b : terms.y[0];
    terms.share[0] = same ? weight : weight * (has_first ? lambda : rest);
    terms.share[1] = two ? weight * rest : 0.0f;
    return terms;
}

// What a row counts in a mean by weights.
__device__ __forceinline__ double weight_of(
    const AlaTarget& first, float first_share, const AlaTarget& second, float second_share) {
    return static_cast<double>(first.weight) * static_cast<double>(first_share) +
           static_cast<double>(second.weight) * static_cast<double>(second_share);
}

__device__ __forceinline__ BadRow bad_row_of(const AlaRecipe& r, uint64_t row) {
    const uint32_t what = read_terms(r, row).bad;
    const auto number = [&](uint64_t from, float of_all) {
        const float value = from != 0 ? reinterpret_cast<const float*>(from)[row] : of_all;
        return BadRow{static_cast<int64_t>(__float_as_uint(value)), what};
    };
    switch (what) {
        case ALA_BAD_LAMBDA: return number(r.lambda, r.lambda_of_all);
        case ALA_BAD_WEIGHT: return number(r.row_weights, 1.0f);
        case ALA_BAD_SECOND_LABEL:
            return {read_label(Labels{r.second_labels, r.second_label_type}, row), what};
        default: return {read_label(r.step, row), what};
    }
}

// The largest logit and the lowest class that has it. A NaN is in neither.
struct Best {
    float x;
    uint32_t y;

    // Of no classes.
    __device__ static Best none() { return {-infinity(), NO_CLASS}; }
    __device__ __forceinline__ void take(float x_new, uint32_t y_new) {
        if (x_new > x || (x_new == x && y_new < y)) {
            x = x_new;
            y = y_new;
        }
    }
    __device__ __forceinline__ void take(Best other) { take(other.x, other.y); }
};
template <int TEAM>
__device__ __forceinline__ Best best_of_team(Best mine) {
#pragma unroll
    for (int offset = TEAM / 2; offset > 0; offset /= 2) {
        const float x = __shfl_xor_sync(FULL_WARP, mine.x, offset);
        mine.take(x, __shfl_xor_sync(FULL_WARP, mine.y, offset));
    }
    return mine;
}

// Whether a step wants to know where each row's largest logit is.
__device__ __forceinline__ bool predicts(const AlaRecipe& r) {
    return r.predictions != 0 || r.class_rows != 0 || r.step.hits != 0;
}

// Step 6: a row's predicted class, NO_CLASS where a logit is no number or the row does not count;
// its hit; and the running counts of its label.
__device__ __forceinline__ void write_prediction(
    const AlaRecipe& r, uint64_t row, uint32_t predicted, uint32_t label) {
    const bool hit = predicted == label && label != NO_CLASS;
    if (r.predictions != 0) {
        reinterpret_cast<uint32_t*>(r.predictions)[row] = predicted;
    }
    if (r.step.hits != 0) {
        write_hit(r.step, row, hit);
    }
    if (r.class_rows != 0 && label != NO_CLASS) {
        // Whole numbers: the order of additions does not matter.
        atomicAdd(reinterpret_cast<unsigned long long*>(r.class_rows) + label, 1ull);
        if (hit) {
            atomicAdd(reinterpret_cast<unsigned long long*>(r.class_hits) + label, 1ull);
        }
    }
}

// A row of which nothing counts: loss 0, or NaN where it is bad. Called by one thread.
__device__ __forceinline__ void report_row_without_target(
    const AlaRecipe& r, uint64_t row, bool bad) {
    if (bad) {
        report_bad_row(r.step, row);
    }
    write_loss(r.step, row, bad ? not_a_number() : 0.0f);
    write_prediction(r, row, NO_CLASS, NO_CLASS);
}

// What is known of a target as it is held against the others.
struct TermTarget {
    AlaTarget target;  // of its class, without a share
    uint32_t y;
    float x;
};

// The sum of w_j (u_j - pivot) off the targets in units of weight, and that of w_j.
struct Exponents {
    float sum;
    float weight;

    __device__ static Exponents none() { return {0.0f, 0.0f}; }
    // A class of weight 0 adds nothing, also where it is masked.
    __device__ __forceinline__ void add(float exponent, float w) {
        sum = w == 0.0f ? sum : fmaf(w, exponent, sum);
        weight += w;
    }
    // The same against another pivot.
    __device__ __forceinline__ float against(float pivot, float other) const {
        return weight == 0.0f ? sum : fmaf(weight, pivot - other, sum);
    }
};

// A row as it is held against one of its targets: its loss, and what its gradient is made of.
struct TermSolution {
    float loss;
    float scale;  // of exponentials against the sums' pivot
    float less;   // what smoothing takes off, for a unit of weight
    float at_target;
};

// Step 6 and 7 of one term. `spread` is the sum of w_j (lse - u_j) off its target, in units of
// log2, where labels are smoothed; `factor` is row_factor.
template <typename Map>
__device__ __forceinline__ TermSolution solution_of(
    const AlaRecipe& r, const Map& map, AlaTarget target, float share, RowSums sums, float spread,
    float factor) {
    const float slope = map.common_slope();
    if (r.each == 0.0f) {
        target.weight *= share;
        const RowGradient gradient = row_gradient(r.step, target, slope, sums, factor);
        return {row_loss(r.step, target, sums), gradient.scale, 0.0f, gradient.at_target};
    }
    // Nor does an infinite upstream gradient make a NaN of weight 0.
    const float outer = share == 0.0f ? 0.0f : share * factor;
    const float w = target.weight;
    const float own = r.own * w;
    const float miss = sums.miss();
    const float cross_entropy = sums.cross_entropy();
    // Nothing times an infinite loss is nothing.
    const float at_own = w == 0.0f ? 0.0f : w * cross_entropy;
    const float all = fmaf(LN_2, spread, at_own);
    // By rounding it may be less than it can be. A NaN stays.
    const float loss =
        fmaf(r.each, all < 0.0f ? 0.0f : all, own == 0.0f ? 0.0f : own * cross_entropy);
    const float others = static_cast<float>(classes_of(r).total_weight - static_cast<double>(w));
    const float kept = fmaf(r.each, static_cast<float>(classes_of(r).total_weight), own);
    const float p_target = quotient(sums.target(), sums.all());
    const float smooth = fmaf(others, p_target, -(w * miss));
    return {
        share * (share == 0.0f ? miss : loss), quotient(outer * kept * slope, sums.all()),
        outer * r.each * slope * map.unit(r),
        outer * target.gradient_slope * fmaf(r.each, smooth, -(own * miss))};
}

// A row's terms together.
struct TermsSolution {
    float loss;
    float pivot;  // the lower of the terms' own: none off the targets is above it
    float scale;  // of exponentials against it
    float less;
    float at[2];  // the gradient at both targets
    bool left;    // careful.cuh is to solve it
};

// Steps 2, 6 and 7. `target(i)` gives the i-th TermTarget, `share(i)` its share; `exponents` is the
// sum of Exponents against non_target.max. One after the other: the registers are the row's.
template <typename Map, typename Target, typename Share>
__device__ __forceinline__ TermsSolution solve_terms(
    const AlaRecipe& r, const Map& map, uint32_t count, Target target, Share share,
    MaxSum non_target, float exponents, float factor) {
    TermsSolution row = {0.0f, 0.0f, 0.0f, 0.0f, {0.0f, 0.0f}, false};
    const bool two = count == 2;
#pragma unroll 1
    for (uint32_t i = 0; i < count; i++) {
        const TermTarget own = target(i);
        const TermTarget other = target(1 - i);
        const TargetExponent exponent = target_exponent(own.x, map, own.y, own.target);
        const float other_at = two ? map.at(other.x, other.y) : -infinity();
        const float pivot = Max::of(Max::of(non_target.max, exponent.sum), other_at);
        const float other_below = two ? map.exponent(other.x, other.y, pivot) : -infinity();
        const float other_exponential = exp2_fast(other_below);
        const RowSums sums = {
            non_target.against(pivot) + other_exponential, exponent.minus(pivot), pivot};
        float spread = 0.0f;
        if (r.each != 0.0f) {
            const float w_other = two ? other.target.weight : 0.0f;
            const float log_sum = log2_fast(sums.all());
            // Of the classes off the targets: a difference of f32 would lose the digits of a few.
            const double rest = classes_of(r).total_weight -
                                static_cast<double>(own.target.weight) -
                                static_cast<double>(w_other);
            spread = -exponents;
            if (non_target.max > -LARGEST) {
                spread = fmaf(static_cast<float>(rest), (pivot - non_target.max) + log_sum, spread);
            }
            spread += w_other == 0.0f ? 0.0f : w_other * (log_sum - other_below);
        }
        const TermSolution term = solution_of(r, map, own.target, share(i), sums, spread, factor);
        const float at_other =
            two ? map.gradient(other_exponential, term.scale, term.less, other.y) : term.at_target;
        row.left |= is_far_out(pivot);
        if (i == 0) {
            row.loss = term.loss;
            row.pivot = pivot;
            row.scale = term.scale;
            row.less = term.less;
            row.at[0] = term.at_target;
            row.at[1] = at_other;
        } else {
            const float lower = fminf(row.pivot, pivot);
            row.loss += term.loss;
            row.scale = fmaf(
                row.scale, exp2_fast(lower - row.pivot), term.scale * exp2_fast(lower - pivot));
            row.pivot = lower;
            row.less += term.less;
            row.at[0] += at_other;
            row.at[1] += term.at_target;
        }
    }
    // A share of what leaves f32 need not do so: careful.cuh decides.
    row.left |= (two || r.each != 0.0f) && row.loss == infinity();
    return row;
}

// Step 6 of a recipe's row, as write_row.
template <typename Row>
__device__ __forceinline__ void write_terms(
    const AlaRecipe& r, Row row, double weight, const TermsSolution& solved, AlaTotals& totals) {
    const float loss = solved.left ? left_row() : solved.loss;
    write_loss(r.step, row, loss);
    totals.loss += static_cast<double>(loss);
    totals.weight += weight;
    totals.counted += 1;
}

// As GradientRow, with both targets' gradients in their places.
template <typename T>
struct GradientOfTerms {
    T* gradient;
    bool in_phase;
    uint32_t y[2];
    float at[2];

    __device__ __forceinline__ void store(uint32_t j, float g) const {
        gradient[j] = round_to<T>(j == y[0] ? at[0] : j == y[1] ? at[1] : g);
    }
    __device__ __forceinline__ void store(uint32_t first, float (&g)[WIDTH<T>]) const {
        replace(g, y[1] - first, at[1]);
        GradientRow<T>{gradient, in_phase, y[0], at[0]}.store(first, g);
    }
};

// What a recipe's row has besides maximum and sum: exponents off the targets against that maximum,
// and where its largest logit is.
struct RecipeSums {
    Exponents exponents;
    Best best;
};

// Over each team, whose lanes' maxima were `mine_max` and are `max` together.
template <int TEAM>
__device__ __forceinline__ RecipeSums
merge_team(const AlaRecipe& r, RecipeSums mine, float mine_max, float max) {
    if (r.each != 0.0f) {
        mine.exponents.sum = reduce_team<Sum, TEAM>(mine.exponents.against(mine_max, max));
        mine.exponents.weight = reduce_team<Sum, TEAM>(mine.exponents.weight);
    }
    if (predicts(r)) {
        mine.best = best_of_team<TEAM>(mine.best);
    }
    return mine;
}

// What the warps of a block tell one another of it, beside WarpSlots.
template <int WARPS>
struct alignas(16) RecipeSlots {
    RecipeSums of[WARPS];

    __device__ __forceinline__ void put(uint32_t warp, const RecipeSums& of_warp) {
        of[warp] = of_warp;
    }
    // The block's, by the lanes of a warp together.
    __device__ __forceinline__ RecipeSums
    merged_by_warp(const AlaRecipe& r, const WarpSlots<WARPS>& slots, float max) const {
        const uint32_t lane = threadIdx.x % WARP;
        RecipeSums mine = {Exponents::none(), Best::none()};
        float mine_max = max;
        if (lane < WARPS) {
            mine = of[lane];
            mine_max = slots.max[lane];
        }
        return merge_team<WARP>(r, mine, mine_max, max);
    }
    // The same by one thread by itself.
    __device__ __forceinline__ float exponents_against(
        const WarpSlots<WARPS>& slots, float max) const {
        float sum = 0.0f;
#pragma unroll 1
        for (int i = 0; i < WARPS; i++) {
            sum += of[i].exponents.against(slots.max[i], max);
        }
        return sum;
    }
    __device__ __forceinline__ Best best() const {
        Best best = Best::none();
#pragma unroll 1
        for (int i = 0; i < WARPS; i++) {
            best.take(of[i].best);
        }
        return best;
    }
};

// A target for solve_terms, read from memory.
template <typename T>
__device__ __forceinline__ TermTarget
read_term_target(const AlaParams& p, const T* logits, uint32_t y) {
    return {read_target(p, y), y, widen(logits[y])};
}

}  // namespace ala
