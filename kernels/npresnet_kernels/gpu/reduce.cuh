// Sums and maxima over the threads of a block, in one fixed order. The number of threads is a power
// of two; all of them call, and all get the result. `space` holds an element a thread.
#pragma once

__device__ __forceinline__ int own_thread() { return threadIdx.y * blockDim.x + threadIdx.x; }

// Over the whole block.
__device__ __forceinline__ double block_sum(double v, double* space) {
    const int t = own_thread();
    space[t] = v;
    __syncthreads();
    for (int half = blockDim.x * blockDim.y / 2; half > 0; half /= 2) {
        if (t < half) space[t] += space[t + half];
        __syncthreads();
    }
    const double total = space[0];
    __syncthreads();
    return total;
}

__device__ __forceinline__ double block_max(double v, double* space) {
    const int t = own_thread();
    space[t] = v;
    __syncthreads();
    for (int half = blockDim.x * blockDim.y / 2; half > 0; half /= 2) {
        if (t < half && space[t + half] > space[t]) space[t] = space[t + half];
        __syncthreads();
    }
    const double most = space[0];
    __syncthreads();
    return most;
}

// Over threadIdx.y alone: a total for each threadIdx.x.
__device__ __forceinline__ double column_sum(double v, double* space) {
    const int t = own_thread();
    space[t] = v;
    __syncthreads();
    for (int half = blockDim.y / 2; half > 0; half /= 2) {
        if (threadIdx.y < half) space[t] += space[t + half * blockDim.x];
        __syncthreads();
    }
    const double total = space[threadIdx.x];
    __syncthreads();
    return total;
}
