// The row problem: labels, the target's own exponent, and from max and sum to loss and gradient scale.
#pragma once
#include "abi.h"

namespace ala {

constexpr float LN_2 = 0.693147180559945309f;

// 2^x by the hardware unit, called by name: -use_fast_math would change far more than this.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ int64_t read_label(const AlaParams& p, uint64_t row) {
    switch (p.label_type) {
        case ALA_LABEL_U8: return reinterpret_cast<const uint8_t*>(p.labels)[row];
        case ALA_LABEL_I32: return reinterpret_cast<const int32_t*>(p.labels)[row];
        case ALA_LABEL_U32: return reinterpret_cast<const uint32_t*>(p.labels)[row];
        default: return reinterpret_cast<const int64_t*>(p.labels)[row];
    }
}

__device__ __forceinline__ bool is_ignored(const AlaParams& p, int64_t label) {
    return (p.flags & ALA_HAS_IGNORE) != 0 && label == p.ignore_label;
}

__device__ __forceinline__ bool is_class(const AlaParams& p, int64_t label) {
    // A negative label is a huge one.
    return static_cast<uint64_t>(label) < p.classes;
}

// The affine maps off the target. `exponent` is u_j - shift with one rounding for the product: added to a bias first,
// a large shift would swallow the logit's digits.
struct Uniform {
    float slope;
    __device__ explicit Uniform(const AlaParams& p) : slope(p.slope) {}
    __device__ float at(float x, uint32_t) const { return slope * x; }
    __device__ float exponent(float x, uint32_t, float shift) const { return fmaf(slope, x, -shift); }
    __device__ AlaAffine map(uint32_t) const { return {slope, 0.0f}; }
    __device__ float gradient_slope(uint32_t) const { return 1.0f; }
    // What a row's scale holds, so that no element pays for it.
    __device__ float common_slope() const { return slope * LN_2; }
};

struct PerClass {
    const AlaAffine* maps;
    __device__ explicit PerClass(const AlaParams& p) : maps(reinterpret_cast<const AlaAffine*>(p.others)) {}
    __device__ float at(float x, uint32_t j) const { return fmaf(maps[j].slope, x, maps[j].bias); }
    __device__ float exponent(float x, uint32_t j, float shift) const {
        return fmaf(maps[j].slope, x, -shift) + maps[j].bias;
    }
    __device__ AlaAffine map(uint32_t j) const { return maps[j]; }
    __device__ float gradient_slope(uint32_t j) const { return maps[j].slope; }
    __device__ float common_slope() const { return LN_2; }
};

// a + b = sum + error exactly (Knuth).
__device__ __forceinline__ float two_sum(float a, float b, float& error) {
    const float sum = a + b;
    const float part = sum - a;
    error += (a - (sum - part)) + (b - part);
    return sum;
}

// u_y - shift for the target. Its terms are tens of times larger than their sum may be, and the loss is that sum, so
// they are added with their rounding errors kept.
__device__ __forceinline__ float target_exponent(float x, AlaAffine map, const AlaTarget& target, float shift) {
    if (!isfinite(x) || !isfinite(shift)) {
        // The errors of infinite sums are NaN; -inf is a valid logit.
        return fmaf(map.slope, x, -shift);
    }
    const float p = map.slope * x;
    const float q = target.extra_slope * x;
    float error = fmaf(map.slope, x, -p) + fmaf(target.extra_slope, x, -q);
    float sum = two_sum(p, q, error);
    sum = two_sum(sum, map.bias, error);
    sum = two_sum(sum, target.bias, error);
    sum = two_sum(sum, -shift, error);
    return sum + error;
}

// What one row comes to.
struct RowResult {
    float loss;            // w_y L
    float scale;           // dL/dx_j = scale * gradient_slope(j) * exp2(exponent_j)
    float target_gradient; // dL/dx_y
};

// `others` is S, without the target's term; `exponent` is the target's; `factor` is all that scales the gradient but w_y.
__device__ __forceinline__ RowResult solve_row(
    const AlaParams& p, const AlaTarget& target, float common_slope, float others, float exponent, float factor) {
    const float own = exp2_fast(exponent);
    const float sum = others + own;
    // 1 - p, never formed as 1 - p.
    const float miss = others / sum;
    // log1p where the target leads, so that a confident row's loss keeps its digits.
    const float cross_entropy =
        exponent > -1.0f ? log1pf(others / own) : fmaf(-exponent, LN_2, logf(sum));
    float loss = cross_entropy;
    float slope = 1.0f;
    if (p.flags & ALA_FOCAL) {
        const float modulation = powf(miss, p.focal_gamma);
        loss *= modulation;
        // (1-p)^(gamma-1) ln p as (1-p)^gamma (ln p)/(1-p), with its limits at p = 1 and p = 0.
        const float ratio = miss > 0.0f ? cross_entropy / miss : 1.0f;
        const float entropy = cross_entropy == INFINITY ? 0.0f : own / sum * ratio;
        slope = modulation * fmaf(p.focal_gamma, entropy, 1.0f);
    }
    const float weight = target.weight * factor * slope;
    return {
        target.weight * loss,
        weight * common_slope / sum,
        -weight * target.gradient_slope * miss,
    };
}

// Upstream gradient, gradient scale and reduction of one row.
__device__ __forceinline__ float row_factor(const AlaParams& p, uint64_t row) {
    float factor = p.gradient_scale;
    if (p.upstream != 0) {
        const float* upstream = reinterpret_cast<const float*>(p.upstream);
        factor *= upstream[(p.flags & ALA_UPSTREAM_PER_ROW) ? row : 0];
    }
    if (p.reduction == ALA_REDUCTION_MEAN) {
        const double counted = (p.flags & ALA_COUNTED)
            ? reinterpret_cast<const AlaState*>(p.state)->total_weight
            : static_cast<double>(p.rows);
        // Where every counted weight is 0 the loss is 0, not 0/0.
        factor /= counted > 0.0 ? static_cast<float>(counted) : 1.0f;
    }
    return factor;
}

// A row that has no target: ignored (loss 0) or bad (loss NaN, first one kept for the host). Called by one thread.
__device__ __forceinline__ void report_row_without_target(const AlaParams& p, uint64_t row, int64_t label) {
    const bool ignored = is_ignored(p, label);
    if (!ignored) {
        atomicMin(
            reinterpret_cast<unsigned long long*>(&reinterpret_cast<AlaState*>(p.state)->step_bad_row),
            static_cast<unsigned long long>(row));
    }
    reinterpret_cast<float*>(p.row_losses)[row] = ignored ? 0.0f : NAN;
    if (p.hits != 0) {
        reinterpret_cast<uint8_t*>(p.hits)[row] = 0;
    }
}

}  // namespace ala
