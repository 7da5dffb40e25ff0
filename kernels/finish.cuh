// Step 8, the rows' losses become one number: each block leaves what its rows add up to, and the
// last one adds the blocks up in their order.
#pragma once
#include "opaque.cuh"
#include "reduce.cuh"
#include "row_io.cuh"

namespace ala {

__device__ __forceinline__ void add_totals(AlaTotals& sum, const AlaTotals& more) {
    sum.loss += more.loss;
    sum.weight += more.weight;
    sum.counted += more.counted;
}

__device__ __forceinline__ AlaTotals no_rows() {
    return {0.0, 0.0, 0};
}

// Adds one row.
__device__ __forceinline__ void add_row(AlaTotals& totals, float loss, float weight) {
    totals.loss += static_cast<double>(loss);
    totals.weight += static_cast<double>(weight);
    totals.counted += 1;
}

// Step 6: writes the loss of a row that has a target, or leaves the row for careful.cuh, and counts
// it. Called by one thread a row.
template <typename Row>
__device__ __forceinline__ void write_row(
    const AlaParams& p, Row row, const AlaTarget& target, RowSums sums, AlaTotals& totals) {
    const float loss = is_far_out(sums.pivot) ? left_row() : row_loss(p, target, sums);
    write_loss(p, row, loss);
    add_row(totals, loss, target.weight);
}

// The sum over a block's threads, in thread 0.
__device__ inline AlaTotals block_totals(AlaTotals mine) {
    __shared__ AlaTotals slots[1024 / WARP];
#pragma unroll 1
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        mine.loss += __shfl_down_sync(FULL_WARP, mine.loss, offset);
        mine.weight += __shfl_down_sync(FULL_WARP, mine.weight, offset);
        mine.counted +=
            __shfl_down_sync(FULL_WARP, static_cast<unsigned long long>(mine.counted), offset);
    }
    const uint32_t thread = thread_again();
    if (thread % WARP == 0) {
        slots[thread / WARP] = mine;
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

// Whether the counted rows and their weights are not just the rows.
__device__ __forceinline__ bool not_every_row_counts_one(const AlaParams& p) {
    return (p.flags & (ALA_HAS_IGNORE | ALA_WEIGHTED)) != 0;
}

// Adds to a number that other blocks add to. Whoever gets to know another's addition sees what that
// block wrote before it.
__device__ __forceinline__ uint32_t add_acquire_release(uint32_t* to, uint32_t more) {
    uint32_t before;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(to), "r"(more)
                 : "memory");
    return before;
}

// Leaves a block's totals for the launch's last block, and says whether it is the last itself.
// Called by one thread of every block. `place` is the block's among those that are added up: its
// rows follow from it, so that losses are added in the same order in every run.
__device__ inline bool leave_totals(const AlaParams& p, const AlaTotals& totals, uint32_t place) {
    // Two stores of 16 bytes.
    ulonglong2* to = reinterpret_cast<ulonglong2*>(&blocks_of(p).totals[place]);
    to[0] = make_ulonglong2(__double_as_longlong(totals.loss), p.launch);
    to[1] = make_ulonglong2(__double_as_longlong(totals.weight), totals.counted);
    // The block's totals are visible to the device before it counts itself done; the other blocks'
    // are read after their counts, by this thread and, behind the next barrier, by its block.
    return add_acquire_release(&state_of(p).blocks_done, 1) == gridDim.x - 1;
}

// Calls `body(half)` with one half of each block's totals, those of a thread in their order. They
// are asked for eight at a time: each takes a round trip to L2.
template <typename Body>
__device__ __forceinline__ void each_block(
    const AlaParams& p, int half, ulonglong2 none, Body body) {
    constexpr uint32_t AT_ONCE = 8;
    const ulonglong2* from = reinterpret_cast<const ulonglong2*>(blocks_of(p).totals) + half;
#pragma unroll 1
    for (uint32_t first = threadIdx.x; first < gridDim.x; first += AT_ONCE * blockDim.x) {
        ulonglong2 some[AT_ONCE];
#pragma unroll
        for (uint32_t i = 0; i < AT_ONCE; i++) {
            const uint32_t block = first + i * blockDim.x;
            // Written by other blocks of this launch: read past this SM's L1.
            some[i] = none;
            if (block < gridDim.x) {
                some[i] = __ldcg(from + 2 * block);
            }
        }
#pragma unroll
        for (uint32_t i = 0; i < AT_ONCE; i++) {
            body(some[i]);
        }
    }
}

// What all blocks left, added up, in thread 0. Called by every thread of the last block.
__device__ inline AlaTotals launch_totals(const AlaParams& p) {
    AlaTotals some = no_rows();
    bool others = false;
    each_block(p, 0, make_ulonglong2(0, p.launch), [&](ulonglong2 half) {
        some.loss += __longlong_as_double(half.x);
        others |= half.y != p.launch;
    });
    if (not_every_row_counts_one(p)) {
        each_block(p, 1, make_ulonglong2(0, 0), [&](ulonglong2 half) {
            some.weight += __longlong_as_double(half.x);
            some.counted += half.y;
        });
    }
    if (others) {
        report_disturbed(p);
    }
    return block_totals(some);
}

// What is wrong with a row's label, for the host.
struct BadRow {
    int64_t label;
    uint32_t what;
};
__device__ __forceinline__ BadRow bad_row_of(const AlaParams& p, uint64_t row) {
    return {read_label(p, row), ALA_BAD_LABEL};
}
// The same of a recipe's row, see terms.cuh, and of a shard's, see shard.cuh.
__device__ __forceinline__ BadRow bad_row_of(const AlaRecipe& r, uint64_t row);
__device__ __forceinline__ BadRow bad_row_of(const AlaShard& s, uint64_t row);

// What the last block leaves for the host and for the next launch. Called by its thread 0.
// `bad_row` is the launch's first.
template <typename Step>
__device__ inline void settle(const Step& step, const AlaTotals& totals, uint64_t bad_row) {
    const AlaParams& p = params_of(step);
    AlaState& state = state_of(p);
    double divisor;
    const bool given = (p.flags & ALA_GIVEN) != 0;
    if ((p.flags & ALA_COUNTED) == 0 || given) {
        const bool counts = not_every_row_counts_one(p);
        const double weight = counts ? totals.weight : static_cast<double>(p.rows);
        uint64_t rows = counts ? totals.counted : p.rows;
        state.total_weight = weight;
        state.counted_rows = rows;
        divisor = p.reduction == ALA_REDUCTION_MEAN && weight > 0.0 ? weight : 1.0;
        // This and what follows are of means alone.
        if ((p.flags & ALA_BY_ROWS) != 0) {
            // Not before it is known that it is wanted: other steps would wait for it.
            asm volatile("" : "+l"(rows));
            divisor = rows > 0 ? static_cast<double>(rows) : 1.0;
        }
        if (given) {
            divisor = static_cast<double>(*reinterpret_cast<const float*>(p.given));
            // No row counts, and 0 is given for them: no loss, not 0/0.
            divisor = totals.loss == 0.0 ? 1.0 : divisor;
        }
    } else {
        divisor = state.divisor;
    }
    const double loss = totals.loss / divisor;
    state.loss = loss;
    if (p.loss != 0) {
        // Who sees this number alone must not take it for that of a sound batch.
        const float told = static_cast<float>(loss);
        *reinterpret_cast<float*>(p.loss) = bad_row != ALA_NO_ROW ? not_a_number() : told;
    }
    if (bad_row != ALA_NO_ROW) {
        state.step_bad_row = ALA_NO_ROW;
        if (state.bad_row == ALA_NO_ROW) {
            const BadRow bad = bad_row_of(step, bad_row);
            state.bad_row = bad_row;
            state.bad_label = bad.label;
            state.bad_what = bad.what;
        }
    }
    state.blocks_done = 0;
    state.tickets = 0;
}

// Folds `count` totals of a block into the first warp's, by that warp: far fewer instructions than
// it takes all threads to shuffle.
__device__ __forceinline__ void fold_totals(AlaTotals* totals, uint32_t count) {
    // Every thread's totals are there before the first warp reads them.
    __syncthreads();
    if (threadIdx.x < WARP && count > WARP) {
        AlaTotals& own = totals[threadIdx.x];
        for (uint32_t i = threadIdx.x + WARP; i < count; i += WARP) {
            add_totals(own, totals[i]);
        }
        // Every lane's sum is there before lane 0 reads it.
        __syncwarp();
    }
}

// The sum of `count` totals, by one thread.
__device__ __forceinline__ AlaTotals
sum_of_totals(const AlaParams& p, const AlaTotals* totals, uint32_t count) {
    AlaTotals all = totals[0];
    // The rest is the rows' number where every one counts.
    const bool counts = not_every_row_counts_one(p);
#pragma unroll 4
    for (uint32_t i = 1; i < count; i++) {
        all.loss += totals[i].loss;
    }
    if (counts) {
#pragma unroll 1
        for (uint32_t i = 1; i < count; i++) {
            all.weight += totals[i].weight;
            all.counted += totals[i].counted;
        }
    }
    return all;
}

// What thread 0 tells its block about the end of the launch.
enum Ending : uint32_t {
    DONE,  // other blocks still run
    LAST,  // this block adds all of them up
    REST,  // rows of this block have to be solved first
};

// Called by every thread of every block when the block's rows are done. `totals` are in shared
// memory and have been written, each by one thread; one total only, by thread 0, where there are
// not `SEVERAL`.
//
// A loss that is no number may stand for rows that were left: then `solve_rest()` solves them, and
// gives the block's loss anew to thread 0.
template <bool SEVERAL = true, typename Step, typename Rest>
__device__ void finish(
    const Step& step, AlaTotals* totals, uint32_t count, uint32_t place, Rest solve_rest) {
    __shared__ Ending ending;
    const AlaParams& p = params_of(step);
    if constexpr (SEVERAL) {
        fold_totals(totals, count);
    }
    if (threadIdx.x == 0) {
        const uint32_t left = SEVERAL ? min(count, static_cast<uint32_t>(WARP)) : 1;
        const AlaTotals of_block = sum_of_totals(p, totals, left);
        if (of_block.loss != of_block.loss) {
            totals[0] = of_block;
            ending = REST;
        } else {
            ending = leave_totals(p, of_block, place) ? LAST : DONE;
        }
    }
    // Every thread sees the decision of thread 0, and what the block wrote of its rows.
    __syncthreads();
    if (ending == DONE) {
        return;
    }
    if (ending == REST) {
        const double loss = solve_rest();
        // All have read the decision.
        __syncthreads();
        if (threadIdx.x == 0) {
            totals[0].loss = loss;
            ending = leave_totals(p, totals[0], place) ? LAST : DONE;
        }
        // As above.
        __syncthreads();
        if (ending == DONE) {
            return;
        }
    }
    if (p.parts > 1) {
        // No block waits for another any more.
        for (uint32_t group = threadIdx.x; group < gridDim.x / p.parts; group += blockDim.x) {
            blocks_of(p).arrived[group] = 0;
        }
    }
    // Other blocks reached it by atomics: read past this SM's L1, at the same time as the totals.
    const uint64_t bad_row =
        __ldcg(reinterpret_cast<const unsigned long long*>(&state_of(p).step_bad_row));
    const AlaTotals all = launch_totals(p);
    if (threadIdx.x == 0) {
        settle(step, all, bad_row);
    }
}

}  // namespace ala
