// The end of a launch: each block leaves what its rows add up to, and the last one adds the blocks up in their order.
#pragma once
#include "abi.h"
#include "reduce.cuh"
#include "row.cuh"

namespace ala {

__device__ __forceinline__ void add_totals(AlaTotals& sum, const AlaTotals& more) {
    sum.loss += more.loss;
    sum.weight += more.weight;
    sum.counted += more.counted;
}

__device__ __forceinline__ AlaTotals no_rows() { return {0.0, 0.0, 0}; }

// Adds one row.
__device__ __forceinline__ void add_row(AlaTotals& totals, float loss, float weight) {
    totals.loss += static_cast<double>(loss);
    totals.weight += static_cast<double>(weight);
    totals.counted += 1;
}

// The sum over a block's threads, in thread 0.
__device__ inline AlaTotals block_totals(AlaTotals mine) {
    __shared__ AlaTotals slots[1024 / WARP];
#pragma unroll 1
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        mine.loss += __shfl_down_sync(FULL_WARP, mine.loss, offset);
        mine.weight += __shfl_down_sync(FULL_WARP, mine.weight, offset);
        mine.counted += __shfl_down_sync(FULL_WARP, static_cast<unsigned long long>(mine.counted), offset);
    }
    if (threadIdx.x % WARP == 0) {
        slots[threadIdx.x / WARP] = mine;
    }
    // Every warp's sum is in its slot before thread 0 adds them.
    __syncthreads();
    if (threadIdx.x == 0) {
#pragma unroll 1
        for (uint32_t warp = 1; warp < blockDim.x / WARP; warp++) {
            add_totals(mine, slots[warp]);
        }
    }
    return mine;
}

// What the last block leaves for the host and for the next launch. Called by its thread 0.
__device__ inline void settle(const AlaParams& p, const AlaTotals& totals) {
    AlaState* state = reinterpret_cast<AlaState*>(p.state);
    if ((p.flags & ALA_COUNTED) == 0) {
        const bool counts = (p.flags & (ALA_HAS_IGNORE | ALA_WEIGHTED)) != 0;
        state->total_weight = counts ? totals.weight : static_cast<double>(p.rows);
        state->counted_rows = counts ? totals.counted : p.rows;
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
    state->blocks_done = 0;
    state->tickets = 0;
}

// Called by every thread of every block when the block's rows are done. `totals` are in shared memory and have been
// written, each by one thread (one total only, by thread 0, where there are not `SEVERAL`): few of them are added up by the
// first warp with far fewer instructions than it takes all threads to shuffle. `place` is the block's among those that are
// added up. The block's rows follow from it, so that losses are added in the same order in every run.
template <bool SEVERAL = true>
__device__ void finish(const AlaParams& p, AlaTotals* totals, uint32_t count, uint32_t place) {
    AlaState* state = reinterpret_cast<AlaState*>(p.state);
    AlaBlocks* blocks = reinterpret_cast<AlaBlocks*>(p.blocks);
    __shared__ bool last;
    if constexpr (SEVERAL) {
        // Every thread's totals are there before the first warp reads them.
        __syncthreads();
    }
    if (SEVERAL && threadIdx.x < WARP && count > WARP) {
        AlaTotals& own = totals[threadIdx.x];
        for (uint32_t i = threadIdx.x + WARP; i < count; i += WARP) {
            add_totals(own, totals[i]);
        }
        // Every lane's sum is there before lane 0 reads it.
        __syncwarp();
    }
    if (threadIdx.x == 0) {
        AlaTotals of_block = totals[0];
        const uint32_t left = SEVERAL ? min(count, static_cast<uint32_t>(WARP)) : 1;
        // The rest is the rows' number where every one counts.
        const bool counts = (p.flags & (ALA_HAS_IGNORE | ALA_WEIGHTED)) != 0;
#pragma unroll 4
        for (uint32_t i = 1; i < left; i++) {
            of_block.loss += totals[i].loss;
        }
        if (counts) {
#pragma unroll 1
            for (uint32_t i = 1; i < left; i++) {
                of_block.weight += totals[i].weight;
                of_block.counted += totals[i].counted;
            }
        }
        blocks->totals[place] = of_block;
        // The block's totals are visible to the device before it counts itself done.
        __threadfence();
        last = atomicAdd(&state->blocks_done, 1u) == gridDim.x - 1;
    }
    // Every thread sees the decision of thread 0.
    __syncthreads();
    if (!last) {
        return;
    }
    // The other blocks' totals are read after their counts.
    __threadfence();
    AlaTotals some = no_rows();
    for (uint32_t block = threadIdx.x; block < gridDim.x; block += blockDim.x) {
        // Written by other blocks of this launch: read past this SM's L1.
        const AlaTotals* from = &blocks->totals[block];
        const AlaTotals more = {
            __ldcg(&from->loss), __ldcg(&from->weight),
            __ldcg(reinterpret_cast<const unsigned long long*>(&from->counted))};
        add_totals(some, more);
    }
    if (p.parts > 1) {
        // No block waits for another any more.
        for (uint32_t group = threadIdx.x; group < gridDim.x / p.parts; group += blockDim.x) {
            blocks->arrived[group] = 0;
        }
    }
    const AlaTotals all = block_totals(some);
    if (threadIdx.x == 0) {
        settle(p, all);
    }
}

}  // namespace ala
