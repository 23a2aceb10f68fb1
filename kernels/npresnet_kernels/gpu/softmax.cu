// Softmax and log-softmax along one axis, a block a row.
//
// Memory is (outer, n, inner); row r = (outer, inner) has its n values `inner` apart. Sums are taken
// in double.
#include "reduce.cuh"
#include "scalar.cuh"

#define MOST_THREADS 256
#define EACH_VALUE(i) int i = threadIdx.x; i < n; i += blockDim.x

__device__ __forceinline__ long long first_of(long long row, int n, long long inner) {
    return row / inner * n * inner + row % inner;
}

// The largest of a row; a NaN is seen by the sum.
__device__ __forceinline__ real largest(const scalar* x, long long first, int n, long long inner,
                                        double* space) {
    real most = -infinity();
    for (EACH_VALUE(i)) {
        const real v = load(x, first + i * inner);
        if (v > most) most = v;
    }
    return (real)block_max(most, space);
}

extern "C" __global__ void softmax(const scalar* x, scalar* y, long long rows, int n,
                                   long long inner) {
    __shared__ double space[MOST_THREADS];
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const long long first = first_of(row, n, inner);
        const real most = largest(x, first, n, inner, space);
        double sum = 0;
        for (EACH_VALUE(i)) sum += exp(load(x, first + i * inner) - most);
        sum = block_sum(sum, space);
        for (EACH_VALUE(i)) {
            const long long at = first + i * inner;
            store(y, at, (real)(exp(load(x, at) - most) / sum));
        }
    }
}

extern "C" __global__ void softmax_grad(const scalar* grad_output, const scalar* y,
                                        scalar* grad_input, long long rows, int n,
                                        long long inner) {
    __shared__ double space[MOST_THREADS];
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const long long first = first_of(row, n, inner);
        double sum = 0;
        for (EACH_VALUE(i)) {
            const long long at = first + i * inner;
            sum += (double)load(grad_output, at) * load(y, at);
        }
        sum = block_sum(sum, space);
        for (EACH_VALUE(i)) {
            const long long at = first + i * inner;
            store(grad_input, at, (real)(load(y, at) * (load(grad_output, at) - sum)));
        }
    }
}

extern "C" __global__ void log_softmax(const scalar* x, scalar* y, long long rows, int n,
                                       long long inner) {
    __shared__ double space[MOST_THREADS];
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const long long first = first_of(row, n, inner);
        const real most = largest(x, first, n, inner, space);
        double sum = 0;
        for (EACH_VALUE(i)) sum += exp(load(x, first + i * inner) - most);
        sum = log(block_sum(sum, space));
        for (EACH_VALUE(i)) {
            const long long at = first + i * inner;
            store(y, at, (real)((load(x, at) - most) - sum));
        }
    }
}

extern "C" __global__ void log_softmax_grad(const scalar* grad_output, const scalar* y,
                                            scalar* grad_input, long long rows, int n,
                                            long long inner) {
    __shared__ double space[MOST_THREADS];
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const long long first = first_of(row, n, inner);
        double sum = 0;
        for (EACH_VALUE(i)) sum += load(grad_output, first + i * inner);
        sum = block_sum(sum, space);
        for (EACH_VALUE(i)) {
            const long long at = first + i * inner;
            store(grad_input, at, (real)(load(grad_output, at) - exp(load(y, at)) * sum));
        }
    }
}
