// Batch normalisation of a plan, fused with the residual sum and ReLU, over (rows, vectors * VECTOR)
// matrices; statistics and parameters are float. With d = x - mean and s = gamma / sqrt(variance + eps)
//     y = relu(d s + beta + residual),
// and with g the gradient of y where the ReLU passed and m rows
//     grad_beta = sum g,  grad_gamma = sum g d / sqrt(variance + eps),
//     grad_x = s (g - grad_beta / m - d grad_gamma / sqrt(variance + eps) / m),  grad_residual = g.
//
// Sums over rows: a block walks `chunk` rows and leaves its partial sums, (chunks, quantities,
// channels); a second kernel adds the chunks up in double. Both orders are fixed.
#include "reduce.cuh"
#include "scalar.cuh"
#include "vector.cuh"

// this thread's channels, and the rows of its block's chunk that it walks
#define CHANNELS                                      \
    const int first_vector = blockIdx.y * blockDim.x; \
    const int vector = first_vector + threadIdx.x
#define EACH_ROW(m)                                                                           \
    long long m = blockIdx.x * chunk + threadIdx.y, m##_end = blockIdx.x * chunk + chunk;     \
    m < m##_end && m < rows && vector < vectors;                                              \
    m += blockDim.y

__device__ __forceinline__ Vector zeros() { return load_vector((const float*)nullptr, 0, 0.0f); }

// Leaves COUNT / VECTOR quantities a channel, one behind the other in `sums`.
template <int COUNT>
__device__ __forceinline__ void leave(float (&sums)[COUNT], float* partial, int vectors) {
    __shared__ float space[256 * COUNT];
    const int first = blockIdx.y * blockDim.x, channels = vectors * VECTOR;
    fold_rows(sums, space, [&](int lane, int k, float total) {
        const long long chunk = (long long)blockIdx.x * (COUNT / VECTOR) + k / VECTOR;
        if (first + lane < vectors)
            partial[chunk * channels + (first + lane) * VECTOR + k % VECTOR] = total;
    });
}

extern "C" __global__ void chunk_sums(const scalar* x, float* partial, long long rows, int vectors,
                                      long long chunk) {
    CHANNELS;
    Vector sum = zeros();
    for (EACH_ROW(m)) {
        const Vector seen = load_vector(x, m * vectors + vector);
#pragma unroll
        for (EACH_ELEMENT(k)) sum.v[k] += seen.v[k];
    }
    leave(sum.v, partial, vectors);
}

// Sums of e = x - its first row, and of e^2: no digits are lost where the mean is far from 0.
extern "C" __global__ void chunk_moments(const scalar* x, float* partial, long long rows, int vectors,
                                         long long chunk) {
    CHANNELS;
    float sums[2 * VECTOR] = {};
    const Vector origin = vector < vectors ? load_vector(x, vector) : zeros();
    for (EACH_ROW(m)) {
        const Vector seen = load_vector(x, m * vectors + vector);
#pragma unroll
        for (EACH_ELEMENT(k)) {
            const float e = seen.v[k] - origin.v[k];
            sums[k] += e;
            sums[VECTOR + k] += e * e;
        }
    }
    leave(sums, partial, vectors);
}

// The gradient of y behind the ReLU: `y` tells where it passed, or d s + beta if there is no y.
struct Behind {
    Vector mean, scale, shift;

    __device__ __forceinline__ Vector gradient(const scalar* grad_y, const scalar* y, long long at,
                                               const Vector& d, int relu) const {
        Vector grad = load_vector(grad_y, at);
        if (!relu) return grad;
        Vector out = zeros();
        if (y) out = load_vector(y, at);
#pragma unroll
        for (EACH_ELEMENT(k)) {
            const float v = y ? out.v[k] : d.v[k] * scale.v[k] + shift.v[k];
            if (v <= 0) grad.v[k] = 0;  // a NaN isn't
        }
        return grad;
    }

    __device__ __forceinline__ Vector centred(const scalar* x, long long at) const {
        Vector d = load_vector(x, at);
#pragma unroll
        for (EACH_ELEMENT(k)) d.v[k] -= mean.v[k];
        return d;
    }
};

__device__ __forceinline__ Vector inverse_deviation(const float* variance, int vector, double eps) {
    Vector inverse = load_vector(variance, vector);
#pragma unroll
    for (EACH_ELEMENT(k)) inverse.v[k] = 1 / sqrtf(inverse.v[k] + (float)eps);
    return inverse;
}

__device__ __forceinline__ Vector product(Vector a, const Vector& b) {
#pragma unroll
    for (EACH_ELEMENT(k)) a.v[k] *= b.v[k];
    return a;
}

// Sums of g and of g (x - mean) / sqrt(variance + eps).
extern "C" __global__ void chunk_grads(const scalar* grad_y, const scalar* x, const scalar* y,
                                       const float* mean, const float* variance, const float* gamma,
                                       const float* beta, float* partial, long long rows,
                                       int vectors, long long chunk, double eps, int relu) {
    CHANNELS;
    float sums[2 * VECTOR] = {};
    if (vector < vectors) {
        const Vector inverse = inverse_deviation(variance, vector, eps);
        const Behind behind = {load_vector(mean, vector),
                               product(load_vector(gamma, vector, 1.0f), inverse),
                               load_vector(beta, vector, 0.0f)};
        for (EACH_ROW(m)) {
            const long long at = m * vectors + vector;
            const Vector d = behind.centred(x, at);
            const Vector grad = behind.gradient(grad_y, y, at, d, relu);
#pragma unroll
            for (EACH_ELEMENT(k)) {
                sums[k] += grad.v[k];
                sums[VECTOR + k] += grad.v[k] * d.v[k];
            }
        }
#pragma unroll
        for (EACH_ELEMENT(k)) sums[VECTOR + k] *= inverse.v[k];
    }
    leave(sums, partial, vectors);
}

// A channel's total of one quantity, for a block of 8 channels by 128 chunks at a time.
__device__ __forceinline__ double total_of(const float* partial, int chunks, int quantities,
                                           int quantity, int channels, double* space) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    double sum = 0;
    if (c < channels)
        for (long long chunk = threadIdx.y; chunk < chunks; chunk += blockDim.y)
            sum += partial[(chunk * quantities + quantity) * channels + c];
    return column_sum(sum, space);
}

// `second` is null where there is one quantity.
extern "C" __global__ void __launch_bounds__(1024)
    add_chunks(const float* partial, float* first, float* second, int chunks, int channels) {
    __shared__ double space[1024];
    const int c = blockIdx.x * blockDim.x + threadIdx.x, quantities = second ? 2 : 1;
    const bool writes = threadIdx.y == 0 && c < channels;
    const double one = total_of(partial, chunks, quantities, 0, channels, space);
    if (writes) first[c] = (float)one;
    if (!second) return;
    const double two = total_of(partial, chunks, quantities, 1, channels, space);
    if (writes) second[c] = (float)two;
}

// Means and biased variances, (2, channels), of sums about `origin`.
extern "C" __global__ void __launch_bounds__(1024)
    add_moments(const float* partial, const scalar* origin, float* moments, int chunks, int channels,
                double rows) {
    __shared__ double space[1024];
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    const double mean = total_of(partial, chunks, 2, 0, channels, space) / rows;
    const double square = total_of(partial, chunks, 2, 1, channels, space) / rows;
    if (threadIdx.y != 0 || c >= channels) return;
    const double variance = square - mean * mean;
    moments[c] = (float)(mean + load(origin, c));
    moments[channels + c] = variance < 0 ? 0.0f : (float)variance;  // a NaN stays
}

// running = (1 - momentum) running + momentum new, with the unbiased variance.
extern "C" __global__ void move_running(const float* moments, float* running_mean,
                                        float* running_variance, int channels, double momentum,
                                        double unbiased) {
    for (EACH(c, channels)) {
        running_mean[c] += (float)momentum * (moments[c] - running_mean[c]);
        const float variance = (float)(moments[channels + c] * unbiased);
        running_variance[c] += (float)momentum * (variance - running_variance[c]);
    }
}

// The threads of a grid are a multiple of `vectors`, so that each keeps its channels.
#define OWN_CHANNELS                                                                     \
    const long long first = (long long)blockIdx.x * blockDim.x + threadIdx.x;            \
    const long long step = (long long)gridDim.x * blockDim.x;                            \
    const int vector = (int)(first % vectors)

extern "C" __global__ void normalise(const scalar* x, const float* mean, const float* variance,
                                     const float* gamma, const float* beta, const scalar* residual,
                                     scalar* y, long long total, int vectors, double eps, int relu) {
    OWN_CHANNELS;
    const Vector centre = load_vector(mean, vector), shift = load_vector(beta, vector, 0.0f);
    const Vector scale =
        product(load_vector(gamma, vector, 1.0f), inverse_deviation(variance, vector, eps));
    for (long long at = first; at < total; at += step) {
        const Vector seen = load_vector(x, at);
        Vector out = zeros();
        if (residual) out = load_vector(residual, at);
#pragma unroll
        for (EACH_ELEMENT(k)) {
            out.v[k] += (seen.v[k] - centre.v[k]) * scale.v[k] + shift.v[k];
            if (relu && out.v[k] < 0) out.v[k] = 0;  // a NaN stays
        }
        store_vector(y, at, out);
    }
}

// grad_x or grad_residual may be grad_y itself; grad_residual may be null. So may grad_gamma and
// grad_beta: then the statistics don't depend on x.
extern "C" __global__ void normalise_grad(const scalar* grad_y, const scalar* x, const scalar* y,
                                          const float* mean, const float* variance,
                                          const float* gamma, const float* beta,
                                          const float* grad_gamma, const float* grad_beta,
                                          scalar* grad_x, scalar* grad_residual, long long total,
                                          int vectors, double rows, double eps, int relu) {
    OWN_CHANNELS;
    const Vector inverse = inverse_deviation(variance, vector, eps);
    const Behind behind = {load_vector(mean, vector),
                           product(load_vector(gamma, vector, 1.0f), inverse),
                           load_vector(beta, vector, 0.0f)};
    Vector constant = load_vector(grad_beta, vector, 0.0f);
    Vector slope = load_vector(grad_gamma, vector, 0.0f);
#pragma unroll
    for (EACH_ELEMENT(k)) {
        constant.v[k] = constant.v[k] / (float)rows;
        slope.v[k] = slope.v[k] / (float)rows * inverse.v[k];
    }
    for (long long at = first; at < total; at += step) {
        const Vector d = behind.centred(x, at);
        const Vector grad = behind.gradient(grad_y, y, at, d, relu);
        Vector down;
#pragma unroll
        for (EACH_ELEMENT(k))
            down.v[k] = behind.scale.v[k] * (grad.v[k] - constant.v[k] - d.v[k] * slope.v[k]);
        if (grad_residual) store_vector(grad_residual, at, grad);
        store_vector(grad_x, at, down);
    }
}
