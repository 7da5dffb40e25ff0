// A sound block sum and what is easily got wrong in such kernels, one fault a kernel.
// Text for the tests: nvcc -std=c++17 -O3 -arch=compute_90 -ptx mutants.cu
constexpr unsigned FULL = 0xffffffffu;

__device__ __forceinline__ float warp_sum(float value, int first_offset) {
    for (int offset = first_offset; offset > 0; offset /= 2) {
        value += __shfl_xor_sync(FULL, value, offset);
    }
    return value;
}

// out[r] = sum of row r; the block walks the rows.
template <bool FIRST_BARRIER, bool LAST_BARRIER, int OFFSET, int SLOTS_READ, bool ONE_TOO_MANY>
__device__ void sum_rows(const float* x, float* out, int rows, int columns) {
    __shared__ float slots[32];
    const int lane = threadIdx.x % 32;
    for (int r = 0; r < rows; r++) {
        float sum = 0.0f;
        for (int j = threadIdx.x; j < columns + ONE_TOO_MANY; j += blockDim.x) {
            sum += x[r * columns + j];
        }
        sum = warp_sum(sum, OFFSET);
        if (lane == 0) {
            slots[threadIdx.x / 32] = sum;
        }
        if (FIRST_BARRIER) {
            __syncthreads();
        }
        sum = warp_sum(lane < SLOTS_READ ? slots[lane] : 0.0f, 16);
        if (threadIdx.x == 0) {
            out[r] = sum;
        }
        if (LAST_BARRIER) {
            __syncthreads();
        }
    }
}

#define SUM(name, ...) \
    extern "C" __global__ void name(const float* x, float* out, int rows, int columns) { \
        sum_rows<__VA_ARGS__>(x, out, rows, columns); \
    }
SUM(sound, true, true, 16, 8, false)
SUM(missing_barrier, false, true, 16, 8, false)
SUM(missing_barrier_between_rows, true, false, 16, 8, false)
SUM(narrow_shuffle, true, true, 8, 8, false)
SUM(uninitialised_slots, true, true, 16, 9, false)
SUM(one_column_too_many, true, true, 16, 8, true)

extern "C" __global__ void misaligned_vector(const float* x, float* out) {
    const float4 four = *reinterpret_cast<const float4*>(x + 1 + 4 * threadIdx.x);
    out[threadIdx.x] = four.x + four.y + four.z + four.w;
}

extern "C" __global__ void divergent_shuffle(const float* x, float* out) {
    float value = x[threadIdx.x];
    if (threadIdx.x < 16) {
        value += __shfl_xor_sync(FULL, value, 1);
    }
    out[threadIdx.x] = value;
}

extern "C" __global__ void shuffle_after_exit(const float* x, float* out, int n) {
    if (threadIdx.x >= n) {
        return;
    }
    out[threadIdx.x] = __shfl_xor_sync(FULL, x[threadIdx.x], 1);
}

extern "C" __global__ void shuffle_from_outside(const float* x, float* out) {
    if (threadIdx.x < 16) {
        out[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, x[threadIdx.x], 16);
    }
}

extern "C" __global__ void divergent_barrier(const float* x, float* out) {
    __shared__ float all[64];
    if (threadIdx.x % 2 == 0) {
        all[threadIdx.x] = x[threadIdx.x];
        __syncthreads();
        out[threadIdx.x] = all[threadIdx.x ^ 2];
    } else {
        all[threadIdx.x] = -x[threadIdx.x];
        __syncthreads();
        out[threadIdx.x] = all[threadIdx.x ^ 4];
    }
}

extern "C" __global__ void barrier_of_too_many(float* out) {
    asm volatile("bar.sync 1, 128;");
    out[threadIdx.x] = 1.0f;
}

extern "C" __global__ void unwritten_tail(const float* x, float* out, int n) {
    const int j = threadIdx.x * 4;
    if (j + 4 <= n) {
        *reinterpret_cast<float4*>(out + j) = *reinterpret_cast<const float4*>(x + j);
    }
}

extern "C" __global__ void shared_off_the_end(const float* x, float* out) {
    __shared__ float first[64];
    __shared__ float second[64];
    first[threadIdx.x] = x[threadIdx.x];
    second[threadIdx.x] = -x[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = first[threadIdx.x + 1] + second[63 - threadIdx.x];
}

extern "C" __global__ void missing_warp_sync(const float* x, float* out) {
    __shared__ volatile float all[64];
    all[threadIdx.x] = x[threadIdx.x];
    all[threadIdx.x] = all[threadIdx.x ^ 1] + 1.0f;
    out[threadIdx.x] = all[threadIdx.x];
}

extern "C" __global__ void shared_values_collide(const float* x, float* out) {
    __shared__ float one;
    one = x[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = one;
}

extern "C" __global__ void float_atomics(const float* x, float* out) { atomicAdd(out, x[blockIdx.x * blockDim.x + threadIdx.x]); }

extern "C" __global__ void trap_on_odd(const float* x, float* out) {
    if (threadIdx.x == 33) {
        __trap();
    }
    out[threadIdx.x] = x[threadIdx.x];
}
