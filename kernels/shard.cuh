// A loss over some of its classes. Each shard tells the others a record of every row, numbers of
// 4 bytes; from the records of all, in their order, each comes to the same row loss.
//
//     pivot     p   a logit near the shard's largest; exponents count from slope * p
//     sum           of exp2(u_j - slope p) over its classes off the targets; its logarithm where
//                   that is far below 0
//     offset        u_y - slope p, where the target is among its classes, in units of OFFSET_UNIT
//     weight        of the target's class, where classes have different weights
//
// With second labels: offset and weight of the second target, and both offsets as those of classes
// like any other. For hits and predictions: the largest logit, and its class as an integer's bits.
// Here u_j has its bias whole: what the class table counts biases from is the shard's own.
//
// A pivot is NaN where the row has a NaN or +inf, -inf where it has nothing above that.
#pragma once
#include "careful.cuh"

namespace ala {

// What stands for the offset of a target that is not among a shard's classes.
__device__ __forceinline__ float not_here() {
    return infinity();
}
// Of an exact power of two: f32 then holds what logits and slopes at the end of f32 come to.
constexpr double OFFSET_UNIT = 18446744073709551616.0;

__device__ __forceinline__ float told_offset(double offset) {
    return static_cast<float>(offset / OFFSET_UNIT);
}

// Where a record has what. It is as long as src/shard.rs says; there a row with two labels has a
// pivot and a sum for each, here a sum keeps its digits however far below the pivot it is.
struct RecordLayout {
    bool weights;
    bool mixed;
    bool top1;
    static constexpr uint32_t PIVOT = 0;
    static constexpr uint32_t SUM = 1;

    __device__ explicit RecordLayout(const AlaShard& s)
        : weights((s.columns & ALA_SHARD_WEIGHTS) != 0),
          mixed((s.columns & ALA_SHARD_MIXED) != 0),
          top1((s.columns & ALA_SHARD_TOP1) != 0) {}
    __device__ uint32_t offset(uint32_t term) const { return 2 + term * (weights ? 2 : 1); }
    __device__ uint32_t weight(uint32_t term) const { return offset(term) + 1; }
    __device__ uint32_t as_other(uint32_t term) const { return offset(2) + term; }
    __device__ uint32_t largest() const { return mixed ? offset(2) + 2 : offset(1); }
    __device__ uint32_t largest_class() const { return largest() + 1; }
};

// The record that shard `shard` told of a row.
__device__ __forceinline__ const float* told_record(
    const AlaShard& s, uint32_t shard, uint64_t row) {
    // 64-bit: shards * rows * record_len may pass 2^32.
    const uint64_t place = (shard * s.recipe.step.rows + row) * s.record_len;
    return reinterpret_cast<const float*>(s.gathered) + place;
}

// 2^x. What rounding takes from a large f32 is not lost to it.
__device__ __forceinline__ float exp2_of(double x) {
    const float whole = rintf(static_cast<float>(x));
    const float rest = static_cast<float>(x - static_cast<double>(whole));
    return x < -1000.0 ? 0.0f : exp2_fast(rest) * exp2_fast(whole);
}

// A sum times 2^x, as a record has it: below 0 is a logarithm.
__device__ __forceinline__ float told_sum(float sum, double x) {
    constexpr double LEAST = -40.0;
    if (x < LEAST && sum > 0.0f) {
        return static_cast<float>(static_cast<double>(log2_fast(sum)) + x);
    }
    return sum * exp2_of(x);
}

// A row's targets among the shard's own classes, NO_CLASS where they are not.
struct Places {
    uint32_t first;
    uint32_t second;
    bool two;  // whether the row has two, here or not
    __device__ __forceinline__ uint32_t of(uint32_t term) const {
        return term == 0 ? first : second;
    }
};
__device__ __forceinline__ Places places_of(const AlaShard& s, const RowTerms& terms) {
    const auto place = [&](uint32_t y) {
        // A class before the shard's first is a huge one.
        const uint32_t at = y - s.first_class;
        return at < s.classes ? at : NO_CLASS;
    };
    const bool two = terms.count == 2;
    return {place(terms.y[0]), two ? place(terms.y[1]) : NO_CLASS, two};
}

// The shards that have a target among their classes, as they should one; the weight of its class.
struct Owners {
    uint32_t shards;
    float weight;
};
__device__ __forceinline__ Owners owners_of(const AlaShard& s, uint64_t row, uint32_t term) {
    const RecordLayout layout(s);
    Owners owners = {0, s.common_weight};
    for (uint32_t shard = 0; shard < s.shards; shard++) {
        const float* record = told_record(s, shard, row);
        if (record[layout.offset(term)] != not_here()) {
            owners.shards += 1;
            if (layout.weights) {
                owners.weight = record[layout.weight(term)];
            }
        }
    }
    return owners;
}

__device__ __forceinline__ void count_row(const AlaShard& s, uint64_t row, AlaTotals& totals) {
    const RowTerms terms = read_terms(s.recipe, row);
    if (terms.count == 0) {
        return;
    }
    const auto weight = [&](uint32_t term) {
        return static_cast<double>(owners_of(s, row, term).weight) *
               static_cast<double>(terms.share[term]);
    };
    totals.weight += terms.count == 2 ? weight(0) + weight(1) : weight(0);
    totals.counted += 1;
}

__device__ __forceinline__ BadRow bad_row_of(const AlaShard& s, uint64_t row) {
    const RowTerms terms = read_terms(s.recipe, row);
    if (terms.is_bad()) {
        return bad_row_of(s.recipe, row);
    }
    uint32_t shards = owners_of(s, row, 0).shards;
    const bool is_second = shards == 1 && terms.count == 2;
    if (is_second) {
        shards = owners_of(s, row, 1).shards;
    }
    return {
        static_cast<int64_t>(is_second ? terms.y[1] : terms.y[0]),
        ALA_BAD_SHARDS | shards << ALA_BAD_BITS};
}

// A target is the pivot where its exponent is more than this above it: else its offset would lack
// digits where another shard's pivot is as high. Of two targets it is their exponents as those of
// classes like any other, since each is one to the other.
constexpr double FAR_ABOVE = 8.0;

// A row that f32 cannot solve: what its exponents count from, by differences of logits as in
// careful.cuh. The exponent of a class from the pivot on is its difference from `top`, and `kept`.
struct CarefulShard {
    Affine64 top;
    double x_top;
    double sum;       // off the targets, from where ...
    double sum_from;  // ... from the top on
    float pivot;      // a logit with nearly the top's exponent; NaN or -inf where there is none
    double kept;      // what the pivot lacks

    __device__ double offset(const Affine64& map, double x) const {
        return difference(map, x, top, x_top) + kept;
    }
};

// The class of the larger exponent off the targets; NO_CLASS is none, and so is -inf.
template <typename T>
__device__ inline uint32_t higher_off_targets(
    const AlaParams& p, const T* logits, uint32_t i, uint32_t j) {
    if (i == NO_CLASS || j == NO_CLASS) {
        return i == NO_CLASS ? j : i;
    }
    return higher(p, logits, NO_CLASS, i, j);
}

// Takes for the top what is far above it. By thread 0.
template <typename T>
__device__ inline void raise_top(
    const AlaShard& s, const T* logits, const Places& y, bool& found, CarefulShard& row) {
    const AlaParams& p = s.recipe.step;
#pragma unroll 1
    for (uint32_t i = 0; i < 2; i++) {
        const uint32_t place = y.of(i);
        if (place == NO_CLASS || widen(logits[place]) == -infinity()) {
            continue;
        }
        const double x = widen(logits[place]);
        const Affine64 map = exact_map(p, place, y.two ? NO_CLASS : place);
        const double above = found ? difference(map, x, row.top, row.x_top) : 0.0;
        if (!found || above > FAR_ABOVE) {
            row.sum_from -= above;
            row.top = map;
            row.x_top = x;
            found = true;
        }
    }
}

// The logit that has the top's exponent under the common slope, and what it lacks. Beyond f32's
// digits other slopes leave more than is kept; then what is left out is left out of all numbers of
// the record alike.
__device__ inline void choose_pivot(const AlaShard& s, CarefulShard& row) {
    constexpr double MOST = 64.0;
    const double slope = s.exact_slope;
    const Affine64 map = {row.top.slope, row.top.bias + s.bias};
    double logit = row.x_top;
    if (map.slope != slope || fabs(map.bias) > MOST) {
        logit += (map.slope - slope) / slope * logit + map.bias / slope;
        logit = fmin(fmax(logit, -static_cast<double>(LARGEST)), static_cast<double>(LARGEST));
    }
    row.pivot = static_cast<float>(logit);
    const double rest = difference(map, row.x_top, {slope, 0.0}, row.pivot);
    row.kept = fmin(fmax(rest, -MOST), MOST);
}

// Steps 1 and 3 to 5 of such a row, by all threads of the block; `row` is in shared memory, and
// every thread sees it. A barrier lies between what was done with it before and this.
template <typename T>
__device__ void sum_with_care(
    const AlaShard& s, const T* logits, const Places& y, CarefulShard& row) {
    __shared__ uint32_t tops[1024 / WARP];
    const AlaParams& p = s.recipe.step;
    uint32_t top = NO_CLASS;
    bool invalid = false;
    for (uint32_t j = threadIdx.x; j < s.classes; j += blockDim.x) {
        const float x = widen(logits[j]);
        invalid |= !(x < infinity());
        if (j != y.first && j != y.second && x > -infinity()) {
            top = higher_off_targets(p, logits, top, j);
        }
    }
#pragma unroll 1
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        top = higher_off_targets(p, logits, top, __shfl_down_sync(FULL_WARP, top, offset));
    }
    if (threadIdx.x % WARP == 0) {
        tops[threadIdx.x / WARP] = top;
    }
    // Every warp's class is there before thread 0 compares them.
    invalid = __syncthreads_or(invalid);
    if (threadIdx.x == 0) {
#pragma unroll 1
        for (uint32_t warp = 1; warp < blockDim.x / WARP; warp++) {
            tops[0] = higher_off_targets(p, logits, tops[0], tops[warp]);
        }
        top = tops[0];
        row.x_top = top == NO_CLASS ? 0.0 : static_cast<double>(widen(logits[top]));
        row.top = top == NO_CLASS ? Affine64{0.0, 0.0} : exact_map(p, top, NO_CLASS);
    }
    // Every thread sees the top.
    __syncthreads();
    AlaTotals mine = no_rows();
    bool found = tops[0] != NO_CLASS;
    if (found) {
#pragma unroll 1
        for (uint32_t j = threadIdx.x; j < s.classes; j += blockDim.x) {
            if (j != y.first && j != y.second) {
                mine.loss += exponential(p, logits[j], j, NO_CLASS, row.top, row.x_top);
            }
        }
    }
    // Thread 0 writes the row behind a barrier in here.
    const double sum = block_totals(mine).loss;
    if (threadIdx.x == 0) {
        row.sum = sum;
        row.sum_from = 0.0;
        raise_top(s, logits, y, found, row);
        row.pivot = -infinity();
        row.kept = 0.0;
        if (invalid) {
            row.pivot = not_a_number();
            row.sum = not_a_number();
        } else if (found) {
            choose_pivot(s, row);
        }
    }
    // Every thread sees the row.
    __syncthreads();
}

}  // namespace ala
