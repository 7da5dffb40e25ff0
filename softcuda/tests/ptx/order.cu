// What threads tell one another through memory, in order, and the same with one thing missing.
// Text for the tests: nvcc -std=c++17 -O3 -arch=compute_90 -ptx order.cu
constexpr unsigned FULL = 0xffffffffu;

__device__ __forceinline__ unsigned load_acquire(const unsigned* from) {
    unsigned value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
    return value;
}
__device__ __forceinline__ unsigned load_acquire_block(const unsigned* from) {
    unsigned value;
    asm volatile("ld.acquire.cta.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
    return value;
}
__device__ __forceinline__ unsigned load_relaxed(const unsigned* from) {
    unsigned value;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
    return value;
}
__device__ __forceinline__ void store_release(unsigned* to, unsigned value) {
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}
__device__ __forceinline__ void store_relaxed(unsigned* to, unsigned value) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}
__device__ __forceinline__ void fence_acq_rel() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }
__device__ __forceinline__ void nothing() {}

#define KERNEL(name, ...) \
    extern "C" __global__ void name(unsigned* data, unsigned* flag, unsigned* out) { __VA_ARGS__; }

// Each block leaves a number; the last one to come adds them up.
template <typename Release, typename Acquire>
__device__ __forceinline__ void last_block(unsigned* data, unsigned* count, unsigned* out, Release release, Acquire acquire) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        data[blockIdx.x] = blockIdx.x + 1;
        release();
        last = atomicAdd(count, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (last) {
        acquire();
        unsigned sum = 0;
        for (unsigned block = threadIdx.x; block < gridDim.x; block += blockDim.x) {
            sum += __ldcg(data + block);
        }
        atomicAdd(out, sum);
    }
}
KERNEL(last_block, last_block(data, flag, out, __threadfence, __threadfence))
KERNEL(last_block_without_release, last_block(data, flag, out, nothing, __threadfence))
KERNEL(last_block_without_acquire, last_block(data, flag, out, __threadfence, nothing))
KERNEL(last_block_with_fence_of_block, last_block(data, flag, out, __threadfence_block, __threadfence))
// Only sequentially consistent fences are ordered among themselves: the one that acquires is another thread's than the
// atomic.
KERNEL(last_block_released_by_weaker_fence, last_block(data, flag, out, fence_acq_rel, __threadfence))
KERNEL(last_block_acquired_by_weaker_fence, last_block(data, flag, out, __threadfence, fence_acq_rel))

// Every thread writes, fences, and one of them counts for all.
template <bool FENCE>
__device__ __forceinline__ void counted_by_one(unsigned* data, unsigned* count, unsigned* out) {
    __shared__ bool last;
    data[blockIdx.x * blockDim.x + threadIdx.x] = threadIdx.x;
    if (FENCE) {
        __threadfence();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(count, 1u) == gridDim.x - 1;
        __threadfence();
    }
    __syncthreads();
    if (last) {
        atomicAdd(out, __ldcg(data + (gridDim.x - 1 - blockIdx.x) * blockDim.x + threadIdx.x));
    }
}
KERNEL(counted_by_one, counted_by_one<true>(data, flag, out))
KERNEL(counted_by_one_without_fence, counted_by_one<false>(data, flag, out))

// Block 0 hands a number to the others.
template <typename Send, typename Receive>
__device__ __forceinline__ void message(unsigned* data, unsigned* flag, unsigned* out, Send send, Receive receive) {
    if (threadIdx.x != 0) {
        return;
    }
    if (blockIdx.x == 0) {
        data[0] = 41;
        send(flag);
    } else {
        while (receive(flag) == 0) {
        }
        out[blockIdx.x] = __ldcg(data) + 1;
    }
}
#define MESSAGE(name, send, receive) \
    KERNEL(name, message(data, flag, out, [](unsigned* flag) { send; }, [](unsigned* flag) { return receive; }))
__device__ __forceinline__ unsigned then_fence(unsigned value) {
    fence_acq_rel();
    return value;
}
MESSAGE(message, store_release(flag, 1), load_acquire(flag))
MESSAGE(message_relaxed_store, store_relaxed(flag, 1), load_acquire(flag))
MESSAGE(message_relaxed_load, store_release(flag, 1), load_relaxed(flag))
MESSAGE(message_acquired_for_block, store_release(flag, 1), load_acquire_block(flag))
MESSAGE(message_fences, fence_acq_rel(); store_relaxed(flag, 1), then_fence(load_relaxed(flag)))
MESSAGE(message_volatile, __threadfence(); *(volatile unsigned*)flag = 1, then_fence(*(volatile unsigned*)flag))
MESSAGE(message_volatile_without_fence, *(volatile unsigned*)flag = 1, then_fence(*(volatile unsigned*)flag))
MESSAGE(message_by_atomics, __threadfence(); atomicExch(flag, 1), then_fence(atomicAdd(flag, 0)))
MESSAGE(message_plain_flag, __threadfence(); *flag = 1, then_fence(load_relaxed(flag)))

// One lane hears the message, and another reads it.
template <bool SYNC> __device__ __forceinline__ void heard_by_a_lane(unsigned* data, unsigned* flag, unsigned* out) {
    if (blockIdx.x == 0) {
        if (threadIdx.x == 0) {
            data[0] = 41;
            store_release(flag, 1);
        }
        return;
    }
    if (threadIdx.x == 0) {
        while (load_acquire(flag) == 0) {
        }
    }
    if (SYNC) {
        __syncwarp();
    }
    if (threadIdx.x == 1) {
        out[blockIdx.x] = __ldcg(data) + 1;
    }
}
KERNEL(heard_by_a_lane, heard_by_a_lane<true>(data, flag, out))
KERNEL(heard_by_a_lane_alone, heard_by_a_lane<false>(data, flag, out))

// What the message is read by must not be written in the same launch, ordered or not.
KERNEL(message_read_only, if (threadIdx.x == 0) {
    if (blockIdx.x == 0) {
        data[0] = 41;
        store_release(flag, 1);
    } else {
        while (load_acquire(flag) == 0) {
        }
        out[blockIdx.x] = __ldg(data) + 1;
    }
})

// A sum by atomics, read by who has waited until all have counted.
template <bool FENCES> __device__ __forceinline__ void atomic_sum(unsigned* data, unsigned* count, unsigned* out) {
    if (threadIdx.x != 0) {
        return;
    }
    if (blockIdx.x > 0) {
        atomicAdd(data, blockIdx.x);
        if (FENCES) {
            __threadfence();
        }
        atomicAdd(count, 1u);
    } else {
        while (load_relaxed(count) < gridDim.x - 1) {
        }
        if (FENCES) {
            __threadfence();
        }
        out[0] = __ldcg(data);
    }
}
KERNEL(atomic_sum, atomic_sum<true>(data, flag, out))
KERNEL(atomic_sum_read_plainly, atomic_sum<false>(data, flag, out))
KERNEL(atomic_sum_read_atomically, if (threadIdx.x == 0) {
    atomicAdd(data, blockIdx.x);
    if (atomicAdd(flag, 1u) == gridDim.x - 1) {
        out[0] = atomicAdd(data, 0u);
    }
})
// Who has seen what a strong write left may write there, though nothing else is ordered.
KERNEL(counter_is_reset_by_the_last, if (threadIdx.x == 0) {
    if (atomicAdd(flag, 1u) == gridDim.x - 1) {
        *flag = 0;
    }
})
KERNEL(flag_is_reset_by_its_reader, if (threadIdx.x == 0) {
    if (blockIdx.x == 0) {
        store_relaxed(flag, 1);
    } else {
        while (load_relaxed(flag) == 0) {
        }
        *flag = 0;
    }
})
KERNEL(counter_is_reset_by_another, if (threadIdx.x == 0) {
    if (blockIdx.x == gridDim.x / 2) {
        *flag = 0;
    } else {
        atomicAdd(flag, 1u);
    }
})

KERNEL(all_blocks_write_one, if (threadIdx.x == 0) { out[0] = 7; })
KERNEL(all_blocks_exchange_one, if (threadIdx.x == 0) { atomicExch(out, 7u); })

// Warps of a block hand numbers on through global memory.
template <bool BARRIER> __device__ __forceinline__ void warps(unsigned* data, unsigned* out) {
    data[threadIdx.x] = threadIdx.x;
    if (BARRIER) {
        __syncthreads();
    }
    out[threadIdx.x] = __ldcg(data + (threadIdx.x ^ 32));
}
KERNEL(warps, warps<true>(data, out))
KERNEL(warps_without_barrier, warps<false>(data, out))

// One warp waits for another one's flag in shared memory.
template <bool FENCE> __device__ __forceinline__ void flag_in_block(const unsigned* data, unsigned* out) {
    __shared__ volatile unsigned ready;
    __shared__ unsigned value;
    if (threadIdx.x == 0) {
        ready = 0;
    }
    __syncthreads();
    if (threadIdx.x == 32) {
        value = data[0];
        if (FENCE) {
            __threadfence_block();
        }
        ready = 1;
    } else if (threadIdx.x == 0) {
        while (ready == 0) {
        }
        __threadfence_block();
        out[0] = value;
    }
}
KERNEL(flag_in_block, flag_in_block<true>(data, out))
KERNEL(flag_in_block_without_fence, flag_in_block<false>(data, out))

// Lanes of a warp, through shared and through global memory.
template <typename Sync>
__device__ __forceinline__ void lanes(const unsigned* data, unsigned* out, unsigned distance, Sync sync) {
    __shared__ unsigned all[64];
    all[threadIdx.x] = data[threadIdx.x];
    out[64 + threadIdx.x] = data[threadIdx.x];
    const unsigned more = sync(threadIdx.x);
    out[threadIdx.x] = all[threadIdx.x ^ distance] + more;
}
#define LANES(name, distance, ...) KERNEL(name, lanes(data, out, distance, [](unsigned thread) { __VA_ARGS__; return 0u; }))
LANES(lanes, 1, __syncwarp())
LANES(lanes_in_lockstep, 1, asm volatile("" ::: "memory"))
LANES(lanes_of_half_warps, 8, __syncwarp(thread % 32 < 16 ? 0x0000ffffu : 0xffff0000u))
LANES(lanes_of_other_halves, 16, __syncwarp(thread % 32 < 16 ? 0x0000ffffu : 0xffff0000u))
LANES(lanes_after_shuffle, 1, return __shfl_xor_sync(FULL, thread, 1) - (thread ^ 1))
LANES(lanes_after_vote, 1, return __any_sync(FULL, thread > 1000) ? 1u : 0u)
LANES(lanes_after_fence, 1, __threadfence_block())
template <bool SYNC> __device__ __forceinline__ void lanes_through_global(unsigned* data, unsigned* out) {
    data[threadIdx.x] = threadIdx.x;
    if (SYNC) {
        __syncwarp();
    }
    out[threadIdx.x] = __ldcg(data + (threadIdx.x ^ 1));
}
KERNEL(lanes_through_global, lanes_through_global<true>(data, out))
KERNEL(lanes_through_global_in_lockstep, lanes_through_global<false>(data, out))
// Who reads before its neighbour writes.
template <bool SYNC> __device__ __forceinline__ void lanes_write_after_read(unsigned* data, unsigned* out) {
    const unsigned value = __ldcg(data + (threadIdx.x ^ 1));
    const unsigned sum = value + __shfl_xor_sync(FULL, value, 1);
    if (SYNC) {
        __syncwarp();
    }
    data[threadIdx.x] = sum;
}
KERNEL(lanes_write_after_read, lanes_write_after_read<true>(data, out))
KERNEL(lanes_write_after_read_in_lockstep, lanes_write_after_read<false>(data, out))

// One lane of a warp speaks for the others, and listens for them.
template <bool SYNC_BEFORE, bool SYNC_AFTER>
__device__ __forceinline__ void spokesman(unsigned* data, unsigned* count, unsigned* out) {
    data[blockIdx.x * 32 + threadIdx.x] = threadIdx.x;
    if (SYNC_BEFORE) {
        __syncwarp();
    }
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(count, 1u);
        while (load_acquire(count) < gridDim.x) {
            __nanosleep(40);
        }
    }
    if (SYNC_AFTER) {
        __syncwarp();
    }
    out[blockIdx.x * 32 + threadIdx.x] = __ldcg(data + (gridDim.x - 1 - blockIdx.x) * 32 + threadIdx.x);
}
KERNEL(spokesman, spokesman<true, true>(data, flag, out))
KERNEL(spokesman_for_nobody, spokesman<false, true>(data, flag, out))
KERNEL(spokesman_unheard, spokesman<true, false>(data, flag, out))

// All blocks wait for one another.
#define ALL_BLOCKS(name, ...)                    \
    KERNEL(name, if (threadIdx.x == 0) {         \
        atomicAdd(flag, 1u);                     \
        while (__VA_ARGS__) {                    \
        }                                        \
        out[blockIdx.x] = 1;                     \
    } __syncthreads())
ALL_BLOCKS(all_meet, load_relaxed(flag) < gridDim.x)
ALL_BLOCKS(all_meet_by_atomics, atomicAdd(flag, 0u) < gridDim.x)
ALL_BLOCKS(all_meet_asleep, load_relaxed(flag) < gridDim.x && (__nanosleep(20), true))
ALL_BLOCKS(one_too_many_is_met, load_relaxed(flag) < gridDim.x + 1)

// The last block once more, where the addition itself is ordered, and no fence.
#define COUNTED(name, semantics)                                                                              \
    extern "C" __global__ void name(unsigned* data, unsigned* count, unsigned* out) {                         \
        __shared__ bool last;                                                                                 \
        if (threadIdx.x == 0) {                                                                               \
            data[blockIdx.x] = blockIdx.x + 1;                                                                \
            unsigned before;                                                                                  \
            asm volatile("atom." semantics ".gpu.global.add.u32 %0, [%1], %2;"                                \
                         : "=r"(before)                                                                       \
                         : "l"(count), "r"(1u)                                                                \
                         : "memory");                                                                         \
            last = before == gridDim.x - 1;                                                                   \
        }                                                                                                     \
        __syncthreads();                                                                                      \
        if (last) {                                                                                           \
            unsigned sum = 0;                                                                                 \
            for (unsigned block = threadIdx.x; block < gridDim.x; block += blockDim.x) {                      \
                sum += __ldcg(data + block);                                                                  \
            }                                                                                                 \
            atomicAdd(out, sum);                                                                              \
        }                                                                                                     \
    }
COUNTED(counted_acq_rel, "acq_rel")
COUNTED(counted_release, "release")
COUNTED(counted_acquire, "acquire")
