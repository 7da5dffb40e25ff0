// Counts the rows and their weights before the row kernel, where a mean needs the divisor for its gradients.
#pragma once
#include "finish.cuh"
#include "walk.cuh"

namespace ala {

// One block: the rows' labels are few bytes beside their logits.
template <int THREADS> __device__ void count_rows(const AlaParams& p) {
    AlaTotals mine = no_rows();
#pragma unroll 4
    for (uint64_t row = threadIdx.x; row < p.rows; row += THREADS) {
        const int64_t label = read_label(p, row);
        if (has_target(p, label)) {
            mine.weight += static_cast<double>(read_target(p, static_cast<uint32_t>(label)).weight);
            mine.counted += 1;
        }
    }
    const AlaTotals totals = block_totals(mine);
    if (threadIdx.x == 0) {
        AlaState* state = reinterpret_cast<AlaState*>(p.state);
        state->total_weight = totals.weight;
        state->counted_rows = totals.counted;
    }
}

}  // namespace ala
