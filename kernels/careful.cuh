// Rows whose exponents f32 cannot tell apart: their logits are so large that the spacing of
// floating-point numbers there is no longer small against 1. They are found by the row's largest
// exponent, left out, and solved here one by one when the block has nothing else to do, in f64 and
// by differences of logits:
//
//     u_j - u_m = a_j (x_j - x_m) + ((a_j - a_m) x_m + (b_j - b_m))
//
// which is exact to rounding where the slopes are equal. Slow, and rare: a row of nothing but
// masks, for one.
#pragma once
#include "terms.cuh"

namespace ala {

struct Affine64 {
    double slope;
    double bias;
};

__device__ inline Affine64 exact_map(const AlaParams& p, uint32_t j, uint32_t y) {
    const AlaExact* exact = reinterpret_cast<const AlaExact*>(p.exact) + j;
    return j == y ? Affine64{exact->target_slope, exact->target_bias}
                  : Affine64{exact->slope, exact->bias};
}

// u_j - u_m.
__device__ inline double difference(Affine64 map, double x, Affine64 top, double x_top) {
    return map.slope * (x - x_top) + ((map.slope - top.slope) * x_top + (map.bias - top.bias));
}

// The class of the larger exponent; the first where they are alike, or where neither is a number.
template <typename T>
__device__ inline uint32_t higher(
    const AlaParams& p, const T* logits, uint32_t y, uint32_t i, uint32_t j) {
    const double x_i = widen(logits[i]), x_j = widen(logits[j]);
    const double above = difference(exact_map(p, j, y), x_j, exact_map(p, i, y), x_i);
    return x_i == -infinity() || above > 0.0 ? j : i;
}

// 2^(u_j - u_m).
template <typename T>
__device__ inline float exponential(
    const AlaParams& p, T x, uint32_t j, uint32_t y, Affine64 top, double x_top) {
    const double below = difference(exact_map(p, j, y), widen(x), top, x_top);
    return exp2_fast(static_cast<float>(below > 0.0 ? 0.0 : below));
}

// 3: the class of the row's largest exponent, the target's among them, and its logit. Through
// shared memory, as every thread's own load would take registers, of the tiers' rows too.
template <typename T>
__device__ __forceinline__ uint32_t
top_class(const AlaParams& p, const T* logits, uint32_t y, double& x_top) {
    __shared__ uint32_t tops[1024 / WARP];
    __shared__ double x_of_top;
    uint32_t top = threadIdx.x < p.classes ? threadIdx.x : 0;
    for (uint32_t j = threadIdx.x; j < p.classes; j += blockDim.x) {
        top = higher(p, logits, y, top, j);
    }
#pragma unroll 1
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        top = higher(p, logits, y, top, __shfl_down_sync(FULL_WARP, top, offset));
    }
    if (threadIdx.x % WARP == 0) {
        tops[threadIdx.x / WARP] = top;
    }
    // Every warp's class is there before thread 0 compares them.
    __syncthreads();
    if (threadIdx.x == 0) {
#pragma unroll 1
        for (uint32_t warp = 1; warp < blockDim.x / WARP; warp++) {
            tops[0] = higher(p, logits, y, tops[0], tops[warp]);
        }
        x_of_top = widen(logits[tops[0]]);
    }
    // Every thread sees the row's.
    __syncthreads();
    x_top = x_of_top;
    return tops[0];
}

// 4 and 5: the exponentials' sum off the target, in thread 0. On the way for 6: `outdone` is
// whether one of this thread's logits beats the target's.
template <typename T>
__device__ __forceinline__ double sum_off_target(
    const AlaParams& p, const T* logits, uint32_t y, Affine64 map_top, double x_top, float x_target,
    bool& outdone) {
    outdone = x_target != x_target;
    // A +inf, a NaN, and a row of -inf alone make no softmax.
    AlaTotals mine = {isfinite(x_top) ? 0.0 : not_a_number(), 0.0, 0};
#pragma unroll 1
    for (uint32_t j = threadIdx.x; j < p.classes; j += blockDim.x) {
        const float x = widen(logits[j]);
        outdone |= outdoes(x, j, x_target, y);
        if (!(x < infinity())) {
            mine.loss = not_a_number();
        } else if (j != y) {
            mine.loss += exponential(p, x, j, y, map_top, x_top);
        }
    }
    return block_totals(mine).loss;
}

// Solves one row by all threads of the block. Steps 1 and 2, the maps, are in every exponent.
template <typename T, typename Map>
__device__ void solve_with_care(const AlaParams& p, uint64_t row) {
    __shared__ RowGradient scales;
    const uint32_t y = static_cast<uint32_t>(read_label(p, row));
    const T* logits = logits_row<T>(p, row);
    double x_top;
    const uint32_t top = top_class(p, logits, y, x_top);
    const Affine64 map_top = exact_map(p, top, y);
    const float x_target = widen(logits[y]);
    bool outdone;
    const double sum = sum_off_target(p, logits, y, map_top, x_top, x_target, outdone);
    // Also keeps the gradient, which may go over the logits, behind these reads.
    const bool hit = !__syncthreads_or(outdone);
    if (threadIdx.x == 0) {
        const AlaTarget target = read_target(p, y);
        const double offset = difference(exact_map(p, y, y), x_target, map_top, x_top);
        const RowSums sums = {
            static_cast<float>(sum), static_cast<float>(offset > 0.0 ? 0.0 : offset), 0.0f};
        write_loss(p, row, row_loss(p, target, sums));
        if (p.hits != 0) {
            write_hit(p, row, hit);
        }
        scales = row_gradient(p, target, Map(p).common_slope(), sums, row_factor(p, row));
    }
    // Every thread sees the scales, and none reads another's logits any more.
    __syncthreads();
    if (p.gradient != 0) {
        const Map map(p);
        T* gradient = gradient_row<T>(p, row);
        // 7: the gradient, each class from its own logit.
#pragma unroll 1
        for (uint32_t j = threadIdx.x; j < p.classes; j += blockDim.x) {
            const float e = exponential(p, logits[j], j, y, map_top, x_top);
            gradient[j] =
                round_to<T>(j == y ? scales.at_target : map.times_class_slope(scales.scale, j) * e);
        }
    }
    // The shared values are read before the next row's are written.
    __syncthreads();
}

// The sum of w_j (u_m - u_j) off the target, in thread 0.
template <typename T, typename Map>
__device__ __forceinline__ double exponents_off_target(
    const AlaRecipe& r, const Map& map, const T* logits, uint32_t y, Affine64 map_top,
    double x_top) {
    AlaTotals mine = no_rows();
#pragma unroll 1
    for (uint32_t j = threadIdx.x; j < r.step.classes; j += blockDim.x) {
        const double w = map.weight(r, j);
        if (j != y && w != 0.0) {
            mine.loss -= w * difference(exact_map(r.step, j, y), widen(logits[j]), map_top, x_top);
        }
    }
    return block_totals(mine).loss;
}

// A term's loss that is infinite in f32, from its target's offset and what solution_of calls its
// spread: it may be beyond f32 on the way alone. No focal factor but 1 leaves such a loss.
__device__ inline float loss_beyond_f32(
    const AlaRecipe& r, const AlaTarget& target, float share, double offset, double spread) {
    const double w = target.weight;
    const double at_target = w == 0.0 ? 0.0 : -offset * w * static_cast<double>(LN_2);
    const double own = r.own == 0.0f ? 0.0 : static_cast<double>(r.own) * at_target;
    const double all = fma(static_cast<double>(LN_2), spread, at_target);
    const double smooth = r.each == 0.0f ? 0.0 : static_cast<double>(r.each) * all;
    return static_cast<float>(static_cast<double>(share) * (own + smooth));
}

// A term of a row as its gradient needs it.
struct CarefulTerm {
    Affine64 top;
    double x_top;
    TermSolution solution;
};

// The same of a recipe's row, one term after the other.
template <typename T, typename Map>
__device__ void solve_with_care(const AlaRecipe& r, uint64_t row) {
    __shared__ CarefulTerm solved[2];
    const AlaParams& p = r.step;
    const Map map(r);
    const T* logits = logits_row<T>(p, row);
    const RowTerms terms = read_terms(r, row);
#pragma unroll 1
    for (uint32_t i = 0; i < terms.count; i++) {
        const uint32_t y = i == 0 ? terms.y[0] : terms.y[1];
        double x_top;
        const uint32_t top = top_class(p, logits, y, x_top);
        const Affine64 map_top = exact_map(p, top, y);
        const float x_target = widen(logits[y]);
        bool outdone;
        const double sum = sum_off_target(p, logits, y, map_top, x_top, x_target, outdone);
        // Thread 0 has read the warps' sums before the next are written.
        __syncthreads();
        const double below =
            r.each == 0.0f ? 0.0 : exponents_off_target(r, map, logits, y, map_top, x_top);
        if (threadIdx.x == 0) {
            const AlaTarget target = read_target(p, y);
            const double offset = difference(exact_map(p, y, y), x_target, map_top, x_top);
            const RowSums sums = {
                static_cast<float>(sum), static_cast<float>(offset > 0.0 ? 0.0 : offset), 0.0f};
            const double others = classes_of(r).total_weight - static_cast<double>(target.weight);
            const double spread = below + others * static_cast<double>(log2_fast(sums.all()));
            const float share = i == 0 ? terms.share[0] : terms.share[1];
            TermSolution solution = solution_of(
                r, map, target, share, sums, static_cast<float>(spread), row_factor(p, row));
            if (solution.loss == infinity()) {
                solution.loss = loss_beyond_f32(r, target, share, offset, spread);
            }
            solved[i] = {map_top, x_top, solution};
        }
        // Every thread sees the term, and thread 0 has read the warps' sums.
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        const float second = terms.count == 2 ? solved[1].solution.loss : 0.0f;
        write_loss(p, row, solved[0].solution.loss + second);
    }
    if (p.gradient != 0) {
        T* gradient = gradient_row<T>(p, row);
#pragma unroll 1
        for (uint32_t j = threadIdx.x; j < p.classes; j += blockDim.x) {
            const T x = logits[j];
            float g = 0.0f;
#pragma unroll 1
            for (uint32_t i = 0; i < terms.count; i++) {
                const CarefulTerm& term = solved[i];
                const uint32_t y = i == 0 ? terms.y[0] : terms.y[1];
                const float e = exponential(p, x, j, y, term.top, term.x_top);
                g += j == y ? term.solution.at_target
                            : map.gradient(e, term.solution.scale, term.solution.less, j);
            }
            gradient[j] = round_to<T>(g);
        }
    }
    // The shared values are read before the next row's are written.
    __syncthreads();
}

__device__ __forceinline__ bool counts(const AlaParams& p, uint64_t row) {
    return has_target(p, read_label(p, row));
}
__device__ __forceinline__ bool counts(const AlaRecipe& r, uint64_t row) {
    return read_terms(r, row).count != 0;
}

// Solves the rows that a block left, and gives the block's loss anew to thread 0. Its rows are
// `count` from `first` on, and again every `stride`. Called by every thread of the block when all
// that the block wrote is visible to it.
template <typename T, typename Map, typename Step>
__device__ double solve_left(const Step& step, uint64_t first, uint32_t count, uint64_t stride) {
    const AlaParams& p = params_of(step);
    const float* losses = reinterpret_cast<const float*>(p.row_losses);
    AlaTotals mine = no_rows();
#pragma unroll 1
    for (; first < p.rows; first += stride) {
        const uint64_t end = p.rows - first < count ? p.rows : first + count;
#pragma unroll 1
        for (uint64_t row = first; row < end; row++) {
            if (is_left(losses[row])) {
                solve_with_care<T, Map>(step, row);
            }
        }
#pragma unroll 1
        for (uint64_t row = first + threadIdx.x; row < end; row += blockDim.x) {
            // A bad label's row has a loss, NaN, that does not count.
            if (counts(step, row)) {
                mine.loss += static_cast<double>(losses[row]);
            }
        }
    }
    return block_totals(mine).loss;
}

}  // namespace ala
