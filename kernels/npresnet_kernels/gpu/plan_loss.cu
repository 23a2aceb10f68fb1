// Mean cross-entropy of a plan and its gradient, a block a row of logits (rows, classes); see
// reference/loss.py for the formulas. TARGET (int32 or int64) is the type of a class number; sums in
// double.
#include "reduce.cuh"

typedef int int32;
typedef long long int64;

#define MOST_THREADS 256
#define EACH_CLASS(c) int c = threadIdx.x; c < classes; c += blockDim.x

// How many rows count.
__device__ __forceinline__ double rows_kept(const TARGET* target, int rows, long long ignore_index,
                                            double* space) {
    double kept = 0;
    for (int row = threadIdx.x; row < rows; row += blockDim.x) kept += target[row] != ignore_index;
    return block_sum(kept, space);
}

// Losses of the rows, and the gradient of their mean times scale[0] (1 if scale is null). A class out
// of range gives NaN.
extern "C" __global__ void mean_cross_entropy(const float* logits, const TARGET* target,
                                              float* losses, float* grad, const float* scale,
                                              int rows, int classes, long long ignore_index,
                                              double smoothing) {
    __shared__ double space[MOST_THREADS];
    const double kept = rows_kept(target, rows, ignore_index, space);
    const double share = (scale ? (double)scale[0] : 1.0) / kept;
    for (int row = blockIdx.x; row < rows; row += gridDim.x) {
        const float* x = logits + (long long)row * classes;
        const long long t = target[row];
        const bool counts = t != ignore_index, known = t >= 0 && t < classes;
        float most = -__int_as_float(0x7f800000);
        for (EACH_CLASS(c)) most = x[c] > most ? x[c] : most;
        most = (float)block_max(most, space);
        double sum = 0, spread = 0;
        for (EACH_CLASS(c)) {
            sum += exp(x[c] - most);
            spread += x[c];
        }
        sum = block_sum(sum, space);
        const double logarithm = log(sum);
        if (smoothing != 0) spread = block_sum(spread, space);
        if (threadIdx.x == 0) {
            double loss = 0;
            if (counts) {
                loss = known ? -(1 - smoothing) * ((double)(x[t] - most) - logarithm)
                             : (double)__int_as_float(0x7fc00000);
                if (smoothing != 0)  // else 0 * inf would be NaN
                    loss -= smoothing * (spread / classes - most - logarithm);
            }
            losses[row] = (float)loss;
        }
        for (EACH_CLASS(c)) {
            double g = exp(x[c] - most) / sum - smoothing / classes;
            if (c == t) g -= 1 - smoothing;
            if (!known) g = __int_as_float(0x7fc00000);
            grad[(long long)row * classes + c] = counts ? (float)(g * share) : 0.0f;
        }
    }
}

// One block.
extern "C" __global__ void mean_of_losses(const float* losses, const TARGET* target, float* loss,
                                          int rows, long long ignore_index) {
    __shared__ double space[MOST_THREADS];
    const double kept = rows_kept(target, rows, ignore_index, space);
    double sum = 0;
    for (int row = threadIdx.x; row < rows; row += blockDim.x) sum += losses[row];
    sum = block_sum(sum, space);
    if (threadIdx.x == 0) loss[0] = (float)(sum / kept);
}
