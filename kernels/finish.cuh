// The end of a launch: its last block adds the rows up in a fixed order and writes the state.
#pragma once
#include "abi.h"
#include "reduce.cuh"
#include "row.cuh"

namespace ala {

struct Totals {
    double loss;
    double weight;
    uint64_t counted;
};

// Adds up the rows, thread t taking rows t, t + THREADS, ... in order; the block's tree follows.
template <int THREADS> __device__ Totals add_rows(const AlaParams& p, bool with_losses, bool with_labels) {
    __shared__ double loss_slots[THREADS / WARP];
    __shared__ double weight_slots[THREADS / WARP];
    __shared__ unsigned long long counted_slots[THREADS / WARP];
    const float* losses = reinterpret_cast<const float*>(p.row_losses);
    const AlaTarget* targets = reinterpret_cast<const AlaTarget*>(p.targets);
    double loss = 0.0;
    double weight = 0.0;
    unsigned long long counted = 0;
    for (uint64_t row = threadIdx.x; row < p.rows; row += THREADS) {
        if (with_losses) {
            // Written by other blocks of this launch: read past this SM's L1.
            loss += static_cast<double>(__ldcg(losses + row));
        }
        if (with_labels) {
            const int64_t label = read_label(p, row);
            if (!is_ignored(p, label) && is_class(p, label)) {
                weight += static_cast<double>(targets[label].weight);
                counted += 1;
            }
        }
    }
    Totals totals;
    totals.loss = with_losses ? block_reduce<Sum, THREADS>(loss, loss_slots) : 0.0;
    if (with_labels) {
        totals.weight = block_reduce<Sum, THREADS>(weight, weight_slots);
        totals.counted = block_reduce<Sum, THREADS>(counted, counted_slots);
    } else {
        totals.weight = static_cast<double>(p.rows);
        totals.counted = p.rows;
    }
    return totals;
}

// Called by every thread of every block when the block's rows are done.
template <int THREADS> __device__ void finish(const AlaParams& p) {
    AlaState* state = reinterpret_cast<AlaState*>(p.state);
    __shared__ bool last;
    // The block's row losses are visible to the device before the block counts itself done.
    __threadfence();
    // No thread of the block is still writing when thread 0 counts.
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(&state->blocks_done, 1u) == gridDim.x - 1;
    }
    // Every thread sees the decision of thread 0.
    __syncthreads();
    if (!last) {
        return;
    }
    // The other blocks' row losses are read after their counts.
    __threadfence();
    const bool counted_here = (p.flags & (ALA_HAS_IGNORE | ALA_WEIGHTED)) != 0 && (p.flags & ALA_COUNTED) == 0;
    const Totals totals = add_rows<THREADS>(p, true, counted_here);
    if (threadIdx.x != 0) {
        return;
    }
    if ((p.flags & ALA_COUNTED) == 0) {
        state->total_weight = totals.weight;
        state->counted_rows = totals.counted;
    }
    const double divisor =
        p.reduction == ALA_REDUCTION_MEAN && state->total_weight > 0.0 ? state->total_weight : 1.0;
    state->loss = totals.loss / divisor;
    // Other blocks reached it by atomics alone.
    const uint64_t bad_row = atomicExch(
        reinterpret_cast<unsigned long long*>(&state->step_bad_row),
        static_cast<unsigned long long>(ALA_NO_ROW));
    if (bad_row != ALA_NO_ROW && state->bad_row == ALA_NO_ROW) {
        state->bad_row = bad_row;
        state->bad_label = read_label(p, bad_row);
    }
    // Ready for the next launch on this workspace.
    state->blocks_done = 0;
}

}  // namespace ala
