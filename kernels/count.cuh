// Counts the rows and their weights before the row kernel, where a mean needs the divisor for its
// gradients.
#pragma once
#include "terms.cuh"

namespace ala {

__device__ __forceinline__ void count_row(const AlaParams& p, uint64_t row, AlaTotals& totals) {
    const int64_t label = read_label(p, row);
    if (has_target(p, label)) {
        totals.weight += static_cast<double>(read_target(p, static_cast<uint32_t>(label)).weight);
        totals.counted += 1;
    }
}
__device__ __forceinline__ void count_row(const AlaRecipe& r, uint64_t row, AlaTotals& totals) {
    const RowTerms terms = read_terms(r, row);
    if (terms.count != 0) {
        const AlaTarget first = read_target(r.step, terms.y[0]);
        const AlaTarget second = read_target(r.step, terms.y[1]);
        totals.weight += weight_of(first, terms.share[0], second, terms.share[1]);
        totals.counted += 1;
    }
}

// The same of a shard's row: see shard.cuh.
__device__ __forceinline__ void count_row(const AlaShard& s, uint64_t row, AlaTotals& totals);

// The blocks' totals are added up in their order by the last one, as the losses are.
template <int THREADS, typename Step>
__device__ void count_rows(const Step& step) {
    __shared__ bool last;
    const AlaParams& p = params_of(step);
    if (is_skipped(p)) {
        return;
    }
    AlaTotals mine = no_rows();
    const uint64_t stride = static_cast<uint64_t>(gridDim.x) * THREADS;
#pragma unroll 4
    for (uint64_t row = static_cast<uint64_t>(blockIdx.x) * THREADS + threadIdx.x; row < p.rows;
         row += stride) {
        count_row(step, row, mine);
    }
    const AlaTotals of_block = block_totals(mine);
    if (threadIdx.x == 0) {
        last = leave_totals(p, of_block, blockIdx.x);
    }
    // Every thread sees the decision of thread 0.
    __syncthreads();
    if (!last) {
        return;
    }
    const AlaTotals all = launch_totals(p);
    if (threadIdx.x == 0) {
        AlaState& state = state_of(p);
        const double divisor = (p.flags & ALA_BY_ROWS) != 0 ? all.counted : all.weight;
        state.total_weight = all.weight;
        state.counted_rows = all.counted;
        // Where every counted weight is 0 the loss is 0, not 0/0.
        state.divisor = divisor > 0.0 ? divisor : 1.0;
        state.rounded_divisor = static_cast<float>(state.divisor);
        state.blocks_done = 0;
        if (p.divisor != 0) {
            *reinterpret_cast<float*>(p.divisor) = static_cast<float>(divisor);
        }
    }
}

}  // namespace ala
