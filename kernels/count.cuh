// Counts the rows and their weights before the row kernel, where a mean needs the divisor for its gradients.
#pragma once
#include "finish.cuh"

namespace ala {

// One block: the rows' labels are few bytes beside their logits.
template <int THREADS> __device__ void count_rows(const AlaParams& p) {
    const Totals totals = add_rows<THREADS>(p, false, true);
    if (threadIdx.x == 0) {
        AlaState* state = reinterpret_cast<AlaState*>(p.state);
        state->total_weight = totals.weight;
        state->counted_rows = totals.counted;
    }
}

}  // namespace ala
