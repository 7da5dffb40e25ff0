// The row problem: labels, the target's own exponent, and from max and sum to loss and gradient scale.
#pragma once
#include <float.h>

#include "abi.h"

namespace ala {

constexpr float LN_2 = 0.693147180559945309f;

// 2^x by the hardware unit, called by name: -use_fast_math would change far more than this.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float log2_fast(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// a b rounded up. By its instruction: the compiler computes the intrinsic twice rather than keep its result.
__device__ __forceinline__ float product_up(float a, float b) {
    float y;
    asm("mul.rp.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}

// a / b within 2 units in the last place: the exact one takes registers that the row needs.
__device__ __forceinline__ float quotient(float a, float b) {
    float q;
    asm("div.full.f32 %0, %1, %2;" : "=f"(q) : "f"(a), "f"(b));
    return q;
}

// ln(1 + q) for q >= 0, within 3e-7 absolute and, below 0.01, relative: the library's takes registers that the row needs.
__device__ __forceinline__ float log1p_fast(float q) {
    const float small = q * fmaf(q, fmaf(q, 1.0f / 3.0f, -0.5f), 1.0f);
    return q < 0.01f ? small : LN_2 * log2_fast(1.0f + q);
}

__device__ __forceinline__ int64_t read_label(const AlaParams& p, uint64_t row) {
    // The most frequent type first.
    if (p.label_type == ALA_LABEL_I64) {
        return reinterpret_cast<const int64_t*>(p.labels)[row];
    }
    switch (p.label_type) {
        case ALA_LABEL_U8: return reinterpret_cast<const uint8_t*>(p.labels)[row];
        case ALA_LABEL_I32: return reinterpret_cast<const int32_t*>(p.labels)[row];
        default: return reinterpret_cast<const uint32_t*>(p.labels)[row];
    }
}

__device__ __forceinline__ bool is_ignored(const AlaParams& p, int64_t label) {
    return (p.flags & ALA_HAS_IGNORE) != 0 && label == p.ignore_label;
}

// A row that counts. Without an ignore label p.ignore_label is no class.
__device__ __forceinline__ bool has_target(const AlaParams& p, int64_t label) {
    // A negative label is a huge one.
    return label != p.ignore_label && static_cast<uint64_t>(label) < p.classes;
}

// The affine maps off the target. `exponent` is u_j - shift with one rounding for the product: added to a bias first,
// a large shift would swallow the logit's digits.
//
// Maxima are rounded up, so that no exponent less one is far above 0 however large they are: a lane that holds masks alone
// has a finite sum, which the row's own maximum then makes 0.
//
// Lanes beyond a row's end go along with a logit of -inf and class 0.
struct Uniform {
    // Whether the order of logits is that of their exponents.
    static constexpr bool ORDERED = true;
    float slope;
    __device__ explicit Uniform(const AlaParams& p) : slope(p.slope) {}
    __device__ float at(float x, uint32_t) const { return slope * x; }
    // The maximum of logits is that of their exponents, as the slope is positive: one product a row.
    __device__ float order(float x, uint32_t) const { return x; }
    __device__ float from_order(float max) const { return product_up(slope, max); }
    __device__ float exponent(float x, uint32_t, float shift) const { return fmaf(slope, x, -shift); }
    __device__ AlaAffine map(uint32_t) const { return {slope, 0.0f}; }
    __device__ float gradient_slope(uint32_t) const { return 1.0f; }
    // What a row's scale holds, so that no element pays for it.
    __device__ float common_slope() const { return slope * LN_2; }
};

struct PerClass {
    static constexpr bool ORDERED = false;
    const AlaAffine* maps;
    __device__ explicit PerClass(const AlaParams& p) : maps(reinterpret_cast<const AlaAffine*>(p.others)) {}
    __device__ AlaAffine map(uint32_t j) const {
        // Volatile, or the compiler keeps the maps of every element over the row instead of reading them again from L1,
        // and spills.
        AlaAffine a;
        asm volatile("ld.global.nc.v2.f32 {%0, %1}, [%2];" : "=f"(a.slope), "=f"(a.bias) : "l"(maps + j));
        return a;
    }
    __device__ float at(float x, uint32_t j) const {
        const AlaAffine a = map(j);
        return fmaf(a.slope, x, a.bias);
    }
    __device__ float order(float x, uint32_t j) const {
        const AlaAffine a = map(j);
        return __fmaf_ru(a.slope, x, a.bias);
    }
    __device__ float from_order(float max) const { return max; }
    __device__ float exponent(float x, uint32_t j, float shift) const {
        const AlaAffine a = map(j);
        return fmaf(a.slope, x, -shift) + a.bias;
    }
    __device__ float gradient_slope(uint32_t j) const { return map(j).slope; }
    __device__ float common_slope() const { return LN_2; }
};

// A shift for exponentials of which `max` is the largest exponent: the same but where there is none, since -inf less -inf
// is no number.
__device__ __forceinline__ float shift_of(float max) {
    float shift;
    // -FLT_MAX, by instruction for the same reason as `product_up`.
    asm("max.f32 %0, %1, 0fFF7FFFFF;" : "=f"(shift) : "f"(max));
    return shift;
}

// a + b = sum + error exactly (Knuth).
__device__ __forceinline__ float two_sum(float a, float b, float& error) {
    const float sum = a + b;
    const float part = sum - a;
    error += (a - (sum - part)) + (b - part);
    return sum;
}

// u_y for the target as a sum and what it was rounded by. Its terms are tens of times larger than their sum may be, and
// the loss is that sum less the shift.
struct TargetExponent {
    float sum;
    float error;
    __device__ float minus(float shift) const { return (sum - shift) + error; }
};

template <typename Map>
__device__ __forceinline__ TargetExponent target_exponent(float x, const Map& maps, uint32_t y, const AlaTarget& target) {
    const AlaAffine map = maps.map(y);
    const float p = map.slope * x;
    const float q = target.extra_slope * x;
    float error = fmaf(map.slope, x, -p) + fmaf(target.extra_slope, x, -q);
    float sum = two_sum(p, q, error);
    if constexpr (!Map::ORDERED) {
        sum = two_sum(sum, map.bias, error);
    }
    sum = two_sum(sum, target.bias, error);
    // Of an infinite logit, -inf a valid one, extra_slope 0 would make a NaN, and so do the errors of infinite sums.
    return isfinite(error) ? TargetExponent{sum, error} : TargetExponent{fmaf(map.slope, x, map.bias), 0.0f};
}

// A row's sums: `others` is S, without the target's term; `place` is u_y - shift.
struct RowSums {
    // `max` of the others and the sum of their exp2(u_j - max); `shift` is the larger of `max` and u_y.
    __device__ static RowSums of(float max, float sum, const TargetExponent& target, float shift) {
        return {sum * exp2_fast(max - shift), target.minus(shift)};
    }
    float others;
    float place;
    __device__ float own() const { return exp2_fast(place); }
    __device__ float sum() const { return others + own(); }
    // 1 - p = S/d, never formed as 1 - p.
    __device__ float miss() const { return quotient(others, sum()); }
    // -ln p; log1p where the target leads, so that a confident row's loss keeps its digits.
    __device__ float cross_entropy() const {
        return place > -1.0f ? log1p_fast(quotient(others, own())) : LN_2 * (log2_fast(sum()) - place);
    }
};

// (1-p)^gamma for gamma > 0.
__device__ __forceinline__ float focal_modulation(const AlaParams& p, float miss) {
    return exp2_fast(p.focal_gamma * log2_fast(miss));
}

// w_y L. A row of weight 0 counts for nothing, also where its loss is infinite; a NaN shows, as it is in 1 - p.
__device__ __forceinline__ float row_loss(const AlaParams& p, const AlaTarget& target, RowSums row) {
    const float focal = (p.flags & ALA_FOCAL) ? focal_modulation(p, row.miss()) : 1.0f;
    return target.weight * (target.weight == 0.0f ? row.miss() : focal * row.cross_entropy());
}

// dL/dx_j = scale * gradient_slope(j) * exp2(exponent_j) off the target, and dL/dx_y.
struct RowGradient {
    float scale;
    float at_target;
};

// `factor` is all that scales the gradient but w_y.
__device__ __forceinline__ RowGradient row_gradient(
    const AlaParams& p, const AlaTarget& target, float common_slope, RowSums row, float factor) {
    const float miss = row.miss();
    // Nor does an infinite upstream gradient make a NaN of weight 0.
    float weight = target.weight == 0.0f ? 0.0f : target.weight * factor;
    if (p.flags & ALA_FOCAL) {
        // (1-p)^(gamma-1) ln p as (1-p)^gamma (ln p)/(1-p), with its limits at p = 1 and p = 0.
        const float cross_entropy = row.cross_entropy();
        const float ratio = miss > 0.0f ? quotient(cross_entropy, miss) : 1.0f;
        const float entropy = cross_entropy == INFINITY ? 0.0f : quotient(row.own(), row.sum()) * ratio;
        weight *= focal_modulation(p, miss) * fmaf(p.focal_gamma, entropy, 1.0f);
    }
    return {quotient(weight * common_slope, row.sum()), -weight * target.gradient_slope * miss};
}

// Upstream gradient, gradient scale and reduction of one row.
__device__ __forceinline__ float row_factor(const AlaParams& p, uint64_t row) {
    float factor = p.gradient_factor;
    if (p.upstream != 0) {
        const float* upstream = reinterpret_cast<const float*>(p.upstream);
        factor *= upstream[(p.flags & ALA_UPSTREAM_PER_ROW) ? row : 0];
    }
    if (p.flags & ALA_COUNTED) {
        const double counted = reinterpret_cast<const AlaState*>(p.state)->total_weight;
        // Where every counted weight is 0 the loss is 0, not 0/0.
        factor = quotient(factor, counted > 0.0 ? static_cast<float>(counted) : 1.0f);
    }
    return factor;
}

// Blocks of two launches met in one workspace, or one waited in vain: what comes out is nobody's result.
__device__ inline void report_disturbed(const AlaParams& p) {
    atomicExch(reinterpret_cast<unsigned long long*>(&reinterpret_cast<AlaState*>(p.state)->disturbed), 1ull);
}

// A row that has no target: ignored (loss 0) or bad (loss NaN, first one kept for the host). Called by one thread.
__device__ __forceinline__ void report_row_without_target(const AlaParams& p, uint64_t row) {
    const bool ignored = is_ignored(p, read_label(p, row));
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
