// Kernels that tests/driver launches. The images beside this file are made from it, with nvcc 13.0, in this folder:
//   nvcc -std=c++17 -arch=compute_90 -ptx driver.cu -o driver.ptx
//   nvcc -std=c++17 -gencode arch=compute_90,code=sm_90 -gencode arch=compute_90,code=compute_90 -fatbin
//        --compress-mode=none driver.cu -o driver.fatbin
// and compressed.fatbin like the latter with --compress-mode=size.
#include <stdint.h>

__device__ float table[4] = {1, 2, 3, 4};

struct Mixed {
    uint8_t small;
    double large;
};

extern "C" __global__ void __launch_bounds__(256) axpy(float* y, const float* x, float a, uint32_t n) {
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += a * x[i];
}

extern "C" __global__ void add_table(float* y, uint32_t n) {
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += table[i % 4];
}

// One block; as many floats of dynamic shared memory as threads.
extern "C" __global__ void reverse(float* y, const float* x) {
    extern __shared__ float row[];
    __shared__ float scale[8];
    if (threadIdx.x < 8) scale[threadIdx.x] = 2;
    row[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = scale[threadIdx.x % 8] * row[blockDim.x - 1 - threadIdx.x];
}

extern "C" __global__ void mixed(double* y, Mixed mixed, uint8_t last) { *y = mixed.small + mixed.large + last; }

extern "C" __global__ void write_at(float* y, uint64_t index) { y[index] = 1; }

extern "C" __global__ void read_four(float4* y, const float* x) { *y = *reinterpret_cast<const float4*>(x); }
