// Batch normalisation of (M, C) rows, M = N * H * W, and sums over rows.
//
// A sum is taken in two steps, both in double and in one fixed order: a block of 32 channels by 8
// rows walks `chunk` rows and leaves a partial sum a channel; finish_sums adds the chunks up. The
// blocks of a row of the grid take chunks, those of a column tiles of 32 channels.
#include "reduce.cuh"
#include "scalar.cuh"

#define TILE 32
#define DEPTH 8

// the channel of this thread, and the rows it walks
#define CHANNEL const long long c = (long long)blockIdx.y * TILE + threadIdx.x
#define EACH_ROW(m)                                                                        \
    long long m = blockIdx.x * chunk + threadIdx.y, m##_end = blockIdx.x * chunk + chunk;  \
    m < m##_end && m < rows && c < channels;                                               \
    m += DEPTH

__device__ __forceinline__ void leave(double v, double* partial, long long c, long long channels,
                                      double* space) {
    const double total = column_sum(v, space);
    if (threadIdx.y == 0 && c < channels) partial[blockIdx.x * channels + c] = total;
}

extern "C" __global__ void partial_sums(const scalar* x, double* partial, long long rows,
                                        long long channels, long long chunk) {
    __shared__ double space[TILE * DEPTH];
    CHANNEL;
    double sum = 0;
    for (EACH_ROW(m)) sum += load(x, m * channels + c);
    leave(sum, partial, c, channels, space);
}

// sums of (x - mean)^2
extern "C" __global__ void partial_squares(const scalar* x, const double* mean, double* partial,
                                           long long rows, long long channels, long long chunk) {
    __shared__ double space[TILE * DEPTH];
    CHANNEL;
    double sum = 0;
    for (EACH_ROW(m)) {
        const double d = load(x, m * channels + c) - mean[c];
        sum += d * d;
    }
    leave(sum, partial, c, channels, space);
}

// sums of grad_output * normalised, and of grad_output
extern "C" __global__ void partial_grads(const scalar* grad_output, const scalar* x,
                                         const scalar* mean, const scalar* invstd,
                                         double* partial_weight, double* partial_bias,
                                         long long rows, long long channels, long long chunk) {
    __shared__ double space[TILE * DEPTH];
    CHANNEL;
    double weight = 0, bias = 0;
    for (EACH_ROW(m)) {
        const real g = load(grad_output, m * channels + c);
        const real normalised = (load(x, m * channels + c) - load(mean, c)) * load(invstd, c);
        weight += (double)g * normalised;
        bias += g;
    }
    leave(weight, partial_weight, c, channels, space);
    leave(bias, partial_bias, c, channels, space);
}

// totals = sum over chunks / divisor, in double and rounded
extern "C" __global__ void finish_sums(const double* partial, double* totals, scalar* rounded,
                                       long long chunks, long long channels, double divisor) {
    for (EACH(c, channels)) {
        double sum = 0;
        for (long long k = 0; k < chunks; ++k) sum += partial[k * channels + c];
        totals[c] = sum / divisor;
        store(rounded, c, (real)(sum / divisor));
    }
}

// weight and bias may be null
extern "C" __global__ void batch_norm(const scalar* x, const scalar* mean, const scalar* invstd,
                                      const scalar* weight, const scalar* bias, scalar* y,
                                      long long total, long long channels) {
    for (EACH(i, total)) {
        const long long c = i % channels;
        real scale = load(invstd, c);
        if (weight) scale *= load(weight, c);
        real v = (load(x, i) - load(mean, c)) * scale;
        if (bias) v += load(bias, c);
        store(y, i, v);
    }
}

// sum_weight and sum_bias are null outside training: then mean and invstd are constants
extern "C" __global__ void batch_norm_grad(const scalar* grad_output, const scalar* x,
                                           const scalar* mean, const scalar* invstd,
                                           const scalar* weight, const double* sum_weight,
                                           const double* sum_bias, scalar* grad_input,
                                           long long total, long long channels, double rows) {
    for (EACH(i, total)) {
        const long long c = i % channels;
        real scale = load(invstd, c);
        real v = load(grad_output, i);
        if (sum_weight) {
            const real normalised = (load(x, i) - load(mean, c)) * scale;
            v = v - (real)(sum_bias[c] / rows) - normalised * (real)(sum_weight[c] / rows);
        }
        if (weight) scale *= load(weight, c);
        store(grad_input, i, v * scale);
    }
}
