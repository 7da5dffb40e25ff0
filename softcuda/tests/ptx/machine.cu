// What nvcc makes of calls, tables of branches, arrays in local memory, constants and module variables.
// Text for the tests: nvcc -std=c++17 -O3 -arch=compute_90 -ptx machine.cu
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline.h>

__constant__ float weights[4] = {1.0f, 2.0f, 4.0f, 8.0f};
__device__ int counter = 7;
__device__ double pair[2] = {1.5, 2.5};
__device__ double* second = &pair[1];

struct Block {
    float* out;
    const float* x;
    unsigned char small;
    short medium;
    int n;
    double factor;
};

__device__ __noinline__ float2 both(float x, const Block& block) { return make_float2(x * block.medium, x + block.small); }
__device__ __noinline__ float power(float x, float y) { return powf(x, y); }

extern "C" __global__ void calls(const __grid_constant__ Block p) {
    const float x = p.x[threadIdx.x];
    const float2 two = both(x, p);
    p.out[threadIdx.x] = two.x + two.y + power(fabsf(x), 1.5f) * static_cast<float>(p.factor);
}

extern "C" __global__ void variables(double* out) {
    const int before = atomicAdd(&counter, 1);
    out[threadIdx.x] = weights[threadIdx.x & 3] + pair[threadIdx.x & 1] + *second;
    if (threadIdx.x == 0) {
        out[32] = before;
    }
}

extern "C" __global__ void table(int* out, const int* which) {
    const int x = which[threadIdx.x];
    int y = 0;
    switch (x) {
        case 0: y = __popc(threadIdx.x); break;
        case 1: y = threadIdx.x * threadIdx.x; break;
        case 2: y = out[threadIdx.x] + 1; break;
        case 3: y = __clz(threadIdx.x); break;
        case 4: y = -1; break;
        case 5: y = threadIdx.x / 3; break;
        case 6: y = threadIdx.x % 5; break;
        default: y = 1000;
    }
    // Who took which way meets again here.
    out[threadIdx.x] = y + __popc(__ballot_sync(0xffffffffu, x == 3));
}

extern "C" __global__ void local_array(float* out, const float* x, int n) {
    float kept[16];
    for (int i = 0; i < 16; i++) {
        kept[i] = x[threadIdx.x + i];
    }
    float sum = 0.0f;
    for (int i = 0; i < n; i++) {
        sum += kept[(i * 7 + threadIdx.x) & 15];
    }
    out[threadIdx.x] = sum;
}

extern "C" __global__ void groups(float* out, const float* x) {
    namespace cg = cooperative_groups;
    const auto block = cg::this_thread_block();
    const auto tile = cg::tiled_partition<8>(block);
    float sum = x[threadIdx.x];
    for (int offset = 4; offset > 0; offset /= 2) {
        sum += tile.shfl_xor(sum, offset);
    }
    block.sync();
    out[threadIdx.x] = sum + __syncthreads_count(x[threadIdx.x] > 10.0f) + (tile.any(x[threadIdx.x] == 3.0f) ? 0.5f : 0.0f);
}

extern "C" __global__ void staged(float* out, const float4* x) {
    extern __shared__ float4 stage[];
    __pipeline_memcpy_async(&stage[threadIdx.x], &x[threadIdx.x], 16);
    __pipeline_commit();
    __pipeline_wait_prior(0);
    __syncthreads();
    const float4 four = stage[blockDim.x - 1 - threadIdx.x];
    out[threadIdx.x] = four.x + four.y + four.z + four.w;
}

// Loops of different lengths, a break, and a store all lanes reach together.
extern "C" __global__ void ragged(int* out, const int* lengths) {
    int steps = 0;
    for (int i = 0; i < lengths[threadIdx.x]; i++) {
        if ((i ^ threadIdx.x) == 21) {
            steps += 100;
            break;
        } else if (i % 3 == 0) {
            steps += __brev(i) & 1;
        }
        steps++;
    }
    out[threadIdx.x] = steps;
}

extern "C" __global__ void accuracy(float* out, const float* x, __half* h, __nv_bfloat16* b) {
    const float v = x[threadIdx.x];
    float* mine = out + 8 * threadIdx.x;
    mine[0] = expf(v);
    mine[1] = logf(fabsf(v));
    mine[2] = sinf(v);
    mine[3] = tanhf(v);
    mine[4] = log1pf(fabsf(v));
    mine[5] = v / 3.0f;
    mine[6] = fmodf(v, 0.7f);
    mine[7] = static_cast<float>(exp(static_cast<double>(v)));
    h[threadIdx.x] = hexp2(__float2half_rn(v));
    b[threadIdx.x] = __hfma(__float2bfloat16_rn(v), __float2bfloat16_rn(2.0f), __float2bfloat16_rn(0.1f));
}
