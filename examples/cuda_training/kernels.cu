// What a linear cosine classifier needs beside the loss, as plainly as it can be said: a trainer has
// cuBLAS for the products. Features are [N, D], class weights [C, D], cosines [N, C], all row by row.
//
// kernels.ptx is made of it by nvcc 13.0.88; a test holds it to that, and ALA_BLESS=1 writes it anew:
//
//     nvcc -arch=compute_75 -ptx -O3 -std=c++17 kernels.cu
//
// The PTX version in it is lowered, so that older drivers take it: nothing in it is new.

constexpr unsigned WARP = 32;

__device__ float warp_sum(float value) {
    for (unsigned offset = WARP / 2; offset > 0; offset /= 2) {
        value += __shfl_xor_sync(0xffffffff, value, offset);
    }
    return value;
}

// The rows of step `*step`, one after the other round and round; a block a row.
extern "C" __global__ void take_batch(
    const float* all_features, const unsigned* all_labels, const unsigned* step, unsigned all_rows,
    unsigned width, float* features, unsigned* labels) {
    const unsigned from = (*step * gridDim.x + blockIdx.x) % all_rows;
    for (unsigned j = threadIdx.x; j < width; j += blockDim.x) {
        features[blockIdx.x * width + j] = all_features[from * width + j];
    }
    if (threadIdx.x == 0) {
        labels[blockIdx.x] = all_labels[from];
    }
}

// Rows of length 1, and what each was divided by; a warp a row.
extern "C" __global__ void unit_rows(
    const float* rows, unsigned width, float* unit, float* lengths) {
    const float* row = rows + blockIdx.x * width;
    float squares = 0.0f;
    for (unsigned j = threadIdx.x; j < width; j += WARP) {
        squares += row[j] * row[j];
    }
    const float length = sqrtf(warp_sum(squares) + 1e-12f);
    for (unsigned j = threadIdx.x; j < width; j += WARP) {
        unit[blockIdx.x * width + j] = row[j] / length;
    }
    if (threadIdx.x == 0) {
        lengths[blockIdx.x] = length;
    }
}

// Cosines of a block's row of features with every class.
extern "C" __global__ void cosines(
    const float* features, const float* weight, unsigned classes, unsigned width, float* to) {
    const float* row = features + blockIdx.x * width;
    for (unsigned c = threadIdx.x; c < classes; c += blockDim.x) {
        float sum = 0.0f;
        for (unsigned j = 0; j < width; j++) {
            sum += row[j] * weight[c * width + j];
        }
        to[blockIdx.x * classes + c] = sum;
    }
}

// Stochastic gradient descent of one class's weight, a warp a class: `gradient` [N, C] is the loss's
// with respect to the cosines, and what points along a weight changes no cosine. `scratch` is [C, D].
extern "C" __global__ void descend(
    const float* gradient, const float* features, const float* unit, const float* lengths,
    unsigned rows, unsigned width, float rate, float* scratch, float* weight, unsigned* step) {
    const unsigned c = blockIdx.x;
    const unsigned classes = gridDim.x;
    float along = 0.0f;
    for (unsigned j = threadIdx.x; j < width; j += WARP) {
        float sum = 0.0f;
        for (unsigned row = 0; row < rows; row++) {
            sum += gradient[row * classes + c] * features[row * width + j];
        }
        scratch[c * width + j] = sum;
        along += sum * unit[c * width + j];
    }
    along = warp_sum(along);
    for (unsigned j = threadIdx.x; j < width; j += WARP) {
        const float across = scratch[c * width + j] - along * unit[c * width + j];
        weight[c * width + j] -= rate * across / lengths[c];
    }
    // The step is over: whoever reads its number is a kernel behind this one.
    if (c == 0 && threadIdx.x == 0) {
        *step += 1;
    }
}
