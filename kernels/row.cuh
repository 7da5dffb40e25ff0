// The row problem's formulas: the affine maps of its logits, the target's own exponent, and from
// the exponentials' sum to loss and gradient. No memory but the map of a class.
//
// Exponents u are in units of log2. Exponentials are exp2(u - pivot): the pivot is the largest
// exponent, or one near it, so that none of them overflows and not all of them vanish.
#pragma once
#include "abi.h"
#include "arithmetic.cuh"
#include "reduce.cuh"

namespace ala {

// The parameters of a step, alone or within a recipe's.
__device__ __forceinline__ const AlaParams& params_of(const AlaParams& p) {
    return p;
}
__device__ __forceinline__ const AlaParams& params_of(const AlaRecipe& r) {
    return r.step;
}
__device__ __forceinline__ const AlaParams& params_of(const AlaShard& s) {
    return s.recipe.step;
}
// Whether a step is a recipe's: its rows have terms, a label is smoothed, classes are predicted.
template <typename Step>
constexpr bool IS_RECIPE = false;
template <>
constexpr bool IS_RECIPE<AlaRecipe> = true;

__device__ __forceinline__ const AlaClasses& classes_of(const AlaRecipe& r) {
    return *reinterpret_cast<const AlaClasses*>(r.all_classes);
}

// The affine maps off the target, u_j = a_j x_j + b_j. `order(x, j)` is what the maximum is taken
// of, and `from_order` makes the exponent of it. `exponent` is u_j - pivot with one rounding for
// the product: added to a bias first, a large pivot would swallow the logit's digits.
//
// Maxima are rounded up, so that no exponent less one is far above 0 however large they are: a lane
// that holds masks alone has a finite sum, which the row's own maximum then makes 0.
//
// Lanes beyond a row's end go along with a logit of -inf and class 0.

// One slope for all classes, no bias.
struct Uniform {
    // Whether the order of logits is that of their exponents: the slope is positive.
    static constexpr bool ORDERED = true;
    float slope;
    __device__ explicit Uniform(const AlaParams& p) : slope(p.slope) {}
    __device__ AlaAffine map(uint32_t) const { return {slope, 0.0f}; }
    __device__ float at(float x, uint32_t) const { return slope * x; }
    // The logit itself: one product a row, not one an element.
    __device__ float order(float x, uint32_t) const { return x; }
    __device__ float from_order(float max) const { return product_up(slope, max); }
    __device__ float exponent(float x, uint32_t, float pivot) const {
        return fmaf(slope, x, -pivot);
    }
    // A gradient's slope is in two factors. The one that all classes have is in the row's scale: no
    // element pays for it.
    __device__ float common_slope() const { return slope * LN_2; }
    __device__ float times_class_slope(float scale, uint32_t) const { return scale; }
};

// A class's map where each has one. Volatile, or the compiler keeps the maps of every element over
// the row instead of reading them again from L1, and spills.
__device__ __forceinline__ AlaAffine read_map(const AlaAffine* from) {
    AlaAffine a;
    asm volatile("ld.global.nc.v2.f32 {%0, %1}, [%2];" : "=f"(a.slope), "=f"(a.bias) : "l"(from));
    return a;
}
__device__ __forceinline__ AlaWeighed read_map(const AlaWeighed* from) {
    AlaWeighed a;
    asm volatile("ld.global.nc.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(a.slope), "=f"(a.bias), "=f"(a.weight), "=f"(a.slope_weight)
                 : "l"(from));
    return a;
}

// A slope and a bias for each class.
template <typename Entry>
struct PerClassMap {
    static constexpr bool ORDERED = false;
    const Entry* maps;
    __device__ Entry map(uint32_t j) const { return read_map(maps + j); }
    __device__ float at(float x, uint32_t j) const {
        const Entry a = map(j);
        return fmaf(a.slope, x, a.bias);
    }
    __device__ float order(float x, uint32_t j) const {
        const Entry a = map(j);
        return __fmaf_ru(a.slope, x, a.bias);
    }
    __device__ float from_order(float max) const { return max; }
    __device__ float exponent(float x, uint32_t j, float pivot) const {
        const Entry a = map(j);
        return fmaf(a.slope, x, -pivot) + a.bias;
    }
    __device__ float common_slope() const { return LN_2; }
    __device__ float times_class_slope(float scale, uint32_t j) const {
        return scale * map(j).slope;
    }
};
struct PerClass : PerClassMap<AlaAffine> {
    __device__ explicit PerClass(const AlaParams& p)
        : PerClassMap{reinterpret_cast<const AlaAffine*>(p.others)} {}
};

// The same maps as recipes have them, with the classes' weights for smoothed labels. Weights are in
// units: where the slope is uniform the classes' common one.
struct UniformWeighed : Uniform {
    __device__ explicit UniformWeighed(const AlaRecipe& r) : Uniform(r.step) {}
    __device__ float unit(const AlaRecipe& r) const { return classes_of(r).common_weight; }
    __device__ float weight(const AlaRecipe& r, uint32_t) const { return unit(r); }
    // u_j - pivot, and the class's weight.
    __device__ float weighed(float x, uint32_t j, float pivot, float& weight) const {
        weight = 1.0f;
        return exponent(x, j, pivot);
    }
    // dL/dx_j from its exponential: less is what smoothing takes off, for a unit of weight.
    __device__ float gradient(float e, float scale, float less, uint32_t) const {
        return fmaf(e, scale, -less);
    }
};
struct PerClassWeighed : PerClassMap<AlaWeighed> {
    __device__ explicit PerClassWeighed(const AlaRecipe& r)
        : PerClassMap{reinterpret_cast<const AlaWeighed*>(r.weighed)} {}
    __device__ float unit(const AlaRecipe&) const { return 1.0f; }
    __device__ float weight(const AlaRecipe&, uint32_t j) const { return map(j).weight; }
    __device__ float weighed(float x, uint32_t j, float pivot, float& weight) const {
        const AlaWeighed a = map(j);
        weight = a.weight;
        return fmaf(a.slope, x, -pivot) + a.bias;
    }
    __device__ float gradient(float e, float scale, float less, uint32_t j) const {
        const AlaWeighed a = map(j);
        return fmaf(e, scale * a.slope, -(less * a.slope_weight));
    }
};

// What makes a gradient of an exponential: a scale, and in recipes what smoothing takes off.
struct Scale {
    float scale;
    template <typename Map>
    __device__ __forceinline__ float of(const Map& map, float e, uint32_t j) const {
        return e * map.times_class_slope(scale, j);
    }
    __device__ __forceinline__ Scale times(float factor) const { return {scale * factor}; }
};
struct ScaleLess {
    float scale;
    float less;
    template <typename Map>
    __device__ __forceinline__ float of(const Map& map, float e, uint32_t j) const {
        return map.gradient(e, scale, less, j);
    }
    __device__ __forceinline__ ScaleLess times(float factor) const {
        return {scale * factor, less};
    }
};

// The pivot for exponentials of which `max` is the largest exponent: the same but where there is
// none, since -inf less -inf is no number.
__device__ __forceinline__ float pivot_of(float max) {
    float pivot;
    // -LARGEST, by instruction for the same reason as `product_up`.
    asm("max.f32 %0, %1, 0fFF7FFFFF;" : "=f"(pivot) : "f"(max));
    return pivot;
}

// Up to here exponents are half apart at most.
constexpr float FAR_OUT = 4194304.0f;

// Whether f32 cannot tell the exponents of a row with this pivot apart: careful.cuh solves it then.
// A row with nothing above -inf is one too. Every thread that knows the pivot decides alike.
__device__ __forceinline__ bool is_far_out(float pivot) {
    return !(fabsf(pivot) <= FAR_OUT);
}

// u_y for the target as a sum and what it was rounded by. Its terms are tens of times larger than
// their sum may be, and the loss is that sum less the pivot.
struct TargetExponent {
    float sum;
    float error;
    __device__ float minus(float pivot) const { return (sum - pivot) + error; }
};

template <typename Map>
__device__ __forceinline__ TargetExponent
target_exponent(float x, const Map& maps, uint32_t y, const AlaTarget& target) {
    const auto map = maps.map(y);
    const float p = map.slope * x;
    const float q = target.extra_slope * x;
    float error = fmaf(map.slope, x, -p) + fmaf(target.extra_slope, x, -q);
    float sum = two_sum(p, q, error);
    if constexpr (!Map::ORDERED) {
        sum = two_sum(sum, map.bias, error);
    }
    sum = two_sum(sum, target.bias, error);
    // Of an infinite logit, -inf a valid one, extra_slope 0 would make a NaN, and so do the errors
    // of infinite sums.
    return isfinite(error) ? TargetExponent{sum, error}
                           : TargetExponent{fmaf(map.slope, x, map.bias), 0.0f};
}

// What a row comes to.
struct RowSums {
    float non_target;     // S: the sum of exp2(u_j - pivot) off the target
    float target_offset;  // u_y - pivot
    float pivot;
    __device__ float target() const { return exp2_fast(target_offset); }
    __device__ float all() const { return non_target + target(); }
    // 1 - p = S/d, never formed as 1 - p.
    __device__ float miss() const { return quotient(non_target, all()); }
    // -ln p; log1p where the target leads, so that a confident row's loss keeps its digits.
    __device__ float cross_entropy() const {
        return target_offset > -1.0f ? log1p_fast(quotient(non_target, target()))
                                     : LN_2 * (log2_fast(all()) - target_offset);
    }
};

// Step 2, the target's exponent with its margin, and with it what the others come to.
template <typename Map>
__device__ __forceinline__ RowSums
row_sums(const Map& map, uint32_t y, const AlaTarget& target, float x_target, MaxSum non_target) {
    const TargetExponent exponent = target_exponent(x_target, map, y, target);
    const float pivot = Max::of(non_target.max, exponent.sum);
    return {non_target.against(pivot), exponent.minus(pivot), pivot};
}

// (1-p)^gamma for gamma > 0.
__device__ __forceinline__ float focal_modulation(const AlaParams& p, float miss) {
    return exp2_fast(p.focal_gamma * log2_fast(miss));
}

// w_y L. A row of weight 0 counts for nothing, also where its loss is infinite; a NaN shows, as it
// is in 1 - p.
__device__ __forceinline__ float row_loss(
    const AlaParams& p, const AlaTarget& target, RowSums row) {
    const float focal = (p.flags & ALA_FOCAL) ? focal_modulation(p, row.miss()) : 1.0f;
    return target.weight * (target.weight == 0.0f ? row.miss() : focal * row.cross_entropy());
}

// dL/dx_j = times_class_slope(scale, j) * exp2(u_j - pivot) off the target, and dL/dx_y.
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
        const float entropy =
            cross_entropy == infinity() ? 0.0f : quotient(row.target(), row.all()) * ratio;
        weight *= focal_modulation(p, miss) * fmaf(p.focal_gamma, entropy, 1.0f);
    }
    return {quotient(weight * common_slope, row.all()), -weight * target.gradient_slope * miss};
}

}  // namespace ala
