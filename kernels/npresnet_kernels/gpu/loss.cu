// Cross-entropy from log-probabilities p (M, C), a block a row; sums in double.
//
// The loss of a row is sum_c k_c p_c with k_c = -(1 - s) w_t [c = t] - s / C w_c; see
// reference/loss.py. `weight` may be null: all ones.
#include "reduce.cuh"
#include "scalar.cuh"

#define MOST_THREADS 256
#define EACH_CLASS(c) int c = threadIdx.x; c < classes; c += blockDim.x

__device__ __forceinline__ double weight_of(const scalar* weight, long long c) {
    return weight ? (double)load(weight, c) : 1.0;
}

extern "C" __global__ void cross_entropy(const scalar* p, const long long* target,
                                         const scalar* weight, scalar* losses, long long rows,
                                         int classes, long long ignore_index, double smoothing) {
    __shared__ double space[MOST_THREADS];
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const long long t = target[row];
        double spread = 0;
        if (smoothing != 0) {  // else 0 * inf would be NaN
            for (EACH_CLASS(c)) spread += load(p, row * classes + c) * weight_of(weight, c);
            spread = block_sum(spread, space);
        }
        if (threadIdx.x != 0) continue;
        double loss = 0;
        if (t != ignore_index) {
            loss = -(1 - smoothing) * weight_of(weight, t) * load(p, row * classes + t);
            if (smoothing != 0) loss -= smoothing / classes * spread;
        }
        store(losses, row, (real)loss);
    }
}

extern "C" __global__ void cross_entropy_grad(const scalar* grad_output, const scalar* p,
                                              const long long* target, const scalar* weight,
                                              scalar* grad_input, long long rows, int classes,
                                              long long ignore_index, double smoothing) {
    __shared__ double space[MOST_THREADS];
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const long long t = target[row];
        double all = 0;
        for (EACH_CLASS(c)) all += weight_of(weight, c);
        all = block_sum(all, space);
        const bool kept = t != ignore_index;
        const double hot = kept ? -(1 - smoothing) * weight_of(weight, t) : 0;
        const double total = hot - smoothing / classes * all;
        const double g = load(grad_output, row);
        for (EACH_CLASS(c)) {
            const long long at = row * classes + c;
            double k = -smoothing / classes * weight_of(weight, c);
            if (c == t) k += hot;
            store(grad_input, at, kept ? (real)((k - exp(load(p, at)) * total) * g) : (real)0);
        }
    }
}
