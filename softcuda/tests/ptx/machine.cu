// What nvcc makes of module variables, of tiles and votes, and of loops of different lengths.
// Text for the tests: nvcc -std=c++17 -O3 -arch=compute_90 -ptx machine.cu
__device__ unsigned counter = 7;
__device__ double pair[2] = {1.5, 2.5};

extern "C" __global__ void variables(double* out, unsigned* before) {
    before[threadIdx.x] = atomicAdd(&counter, 1u);
    out[threadIdx.x] = pair[threadIdx.x & 1];
}

// The sum of eight lanes; 100 where a thread of the block has a value of 10 or more, and a half where three lanes of the
// warp have 0.
extern "C" __global__ void groups(float* out, const float* x) {
    const float own = x[threadIdx.x];
    float sum = own;
    for (int offset = 4; offset > 0; offset /= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, offset, 8);
    }
    if (__syncthreads_or(own >= 10.0f)) {
        sum += 100.0f;
    }
    const unsigned zeros = __ballot_sync(0xffffffffu, own == 0.0f);
    const unsigned but_two = (zeros & (zeros - 1)) & ((zeros & (zeros - 1)) - 1);
    out[threadIdx.x] = sum + (but_two != 0 ? 0.5f : 0.0f);
}

// Loops of different lengths, a break, and a store all lanes reach together.
extern "C" __global__ void ragged(int* out, const int* lengths) {
    int steps = 0;
    for (int i = 0; i < lengths[threadIdx.x]; i++) {
        if ((i ^ threadIdx.x) == 21) {
            steps += 100;
            break;
        } else if ((i & 2) == 0) {
            steps += i >> 4 & 1;
        }
        steps++;
    }
    out[threadIdx.x] = steps;
}
