// Counts the rows and their weights before the row kernel, where a mean needs the divisor for its
// gradients.
#pragma once
#include "finish.cuh"

namespace ala {

// The blocks' totals are added up in their order by the last one, as the losses are.
template <int THREADS>
__device__ void count_rows(const AlaParams& p) {
    __shared__ bool last;
    if (is_skipped(p)) {
        return;
    }
    AlaTotals mine = no_rows();
    const uint64_t step = static_cast<uint64_t>(gridDim.x) * THREADS;
#pragma unroll 4
    for (uint64_t row = static_cast<uint64_t>(blockIdx.x) * THREADS + threadIdx.x; row < p.rows;
         row += step) {
        const int64_t label = read_label(p, row);
        if (has_target(p, label)) {
            mine.weight += static_cast<double>(read_target(p, static_cast<uint32_t>(label)).weight);
            mine.counted += 1;
        }
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
        state.total_weight = all.weight;
        state.counted_rows = all.counted;
        state.blocks_done = 0;
        if (p.divisor != 0) {
            const double weight = all.weight > 0.0 ? all.weight : 1.0;
            *reinterpret_cast<float*>(p.divisor) = static_cast<float>(weight);
        }
    }
}

}  // namespace ala
