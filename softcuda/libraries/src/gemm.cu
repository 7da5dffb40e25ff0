// Matrix products as cuBLAS defines them, an element of C a thread: column-major, transposes,
// leading dimensions, and a distance from one matrix of a batch to the next.
//
// gemm.ptx is made of this file: nvcc -arch=compute_75 -ptx -O3 -std=c++17 gemm.cu -o gemm.ptx

#include <cuda_bf16.h>
#include <cuda_fp16.h>

__device__ float wide(float x) {
    return x;
}
__device__ double wide(double x) {
    return x;
}
__device__ float wide(__half x) {
    return __half2float(x);
}
__device__ float wide(__nv_bfloat16 x) {
    return __bfloat162float(x);
}

__device__ void narrow(float x, float* to) {
    *to = x;
}
__device__ void narrow(double x, double* to) {
    *to = x;
}
__device__ void narrow(float x, __half* to) {
    *to = __float2half_rn(x);
}
// In integers: below sm_80 there is no instruction for it.
__device__ void narrow(float x, __nv_bfloat16* to) {
    *to = __float2bfloat16_rn(x);
}

// Distances between elements: to the next row and the next column of op(A), op(B), to the next
// matrix.
struct Steps {
    long long row, column, matrix;
};

template <typename T, typename Sum>
__device__ void gemm(
    long long m, long long n, long long k, long long batch, Sum alpha, const T* a, Steps as,
    const T* b, Steps bs, Sum beta, T* c, Steps cs) {
    unsigned long long stride = (unsigned long long)gridDim.x * blockDim.x;
    unsigned long long elements = (unsigned long long)m * n * batch;
    for (unsigned long long at = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
         at < elements; at += stride) {
        unsigned long long column = at / m;
        long long i = at % m, j = column % n, matrix = column / n;
        Sum sum = 0;
        // Where alpha is 0 neither factor is read, and where beta is C is not: they may hold
        // anything.
        if (alpha != Sum(0)) {
            const T* x = a + matrix * as.matrix + i * as.row;
            const T* y = b + matrix * bs.matrix + j * bs.column;
            for (long long p = 0; p < k; p++, x += as.column, y += bs.row)
                sum += wide(*x) * wide(*y);
        }
        T* to = c + matrix * cs.matrix + i * cs.row + j * cs.column;
        Sum result = alpha * sum;
        if (beta != Sum(0)) result += beta * wide(*to);
        narrow(result, to);
    }
}

#define GEMM(name, T, Sum)                                                                       \
    extern "C" __global__ void name(                                                             \
        long long m, long long n, long long k, long long batch, Sum alpha, const T* a, Steps as, \
        const T* b, Steps bs, Sum beta, T* c, Steps cs) {                                        \
        gemm<T, Sum>(m, n, k, batch, alpha, a, as, b, bs, beta, c, cs);                          \
    }

GEMM(gemm_f32, float, float)
GEMM(gemm_f64, double, double)
GEMM(gemm_f16, __half, float)
GEMM(gemm_bf16, __nv_bfloat16, float)
