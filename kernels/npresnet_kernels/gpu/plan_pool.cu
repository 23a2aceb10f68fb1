// Pools of a plan over (N, H, W, vectors * VECTOR) images. A row of the grid shares out an image. Max
// pools have square windows; the winner of each is a byte, its tap's number row * window + column.
#include "scalar.cuh"
#include "vector.cuh"

#define NONE 255  // a window's winner while nothing of it was seen

// the place of an element in an image of `columns` columns
#define PLACE(at, columns)                            \
    const int vector = at % vectors;                  \
    const int column = at / vectors % columns;        \
    const int row = at / vectors / columns
#define EACH_PLACE(at, total)                         \
    int at = blockIdx.x * blockDim.x + threadIdx.x;   \
    at < (total);                                     \
    at += gridDim.x * blockDim.x

extern "C" __global__ void max_pool_bytes(const scalar* x, scalar* y, unsigned char* winners,
                                          int images, int vectors, int height, int width,
                                          int p_size, int q_size, int window, int stride, int pad) {
    for (long long n = blockIdx.y; n < images; n += gridDim.y)
        for (EACH_PLACE(at, p_size * q_size * vectors)) {
            PLACE(at, q_size);
            Vector most = load_vector((const scalar*)nullptr, 0, -infinity());
            Bytes winner;
#pragma unroll
            for (EACH_ELEMENT(k)) winner.v[k] = NONE;
            for (int i = 0; i < window; ++i) {
                const int h = row * stride - pad + i;
                if (h < 0 || h >= height) continue;
                for (int j = 0; j < window; ++j) {
                    const int w = column * stride - pad + j;
                    if (w < 0 || w >= width) continue;
                    const Vector seen = load_vector(x, ((n * height + h) * width + w) * vectors + vector);
#pragma unroll
                    for (EACH_ELEMENT(k))
                        if (seen.v[k] > most.v[k] || seen.v[k] != seen.v[k] || winner.v[k] == NONE) {
                            most.v[k] = seen.v[k];
                            winner.v[k] = (unsigned char)(i * window + j);
                        }
                }
            }
            const long long to = n * p_size * q_size * vectors + at;
            store_vector(y, to, most);
            if (winners) store_bytes(winners, to, winner);
        }
}

// Each pixel gathers from the windows that it won.
extern "C" __global__ void max_pool_bytes_grad(const scalar* grad_y, const unsigned char* winners,
                                               scalar* grad_x, int images, int vectors, int height,
                                               int width, int p_size, int q_size, int window,
                                               int stride, int pad) {
    for (long long n = blockIdx.y; n < images; n += gridDim.y)
        for (EACH_PLACE(at, height * width * vectors)) {
            PLACE(at, width);
            const int h = row + pad, w = column + pad;
            Vector sum = load_vector((const scalar*)nullptr, 0, 0.0f);
            for (int p = h < window ? 0 : (h - window) / stride + 1; p < p_size && p * stride <= h; ++p)
                for (int q = w < window ? 0 : (w - window) / stride + 1; q < q_size && q * stride <= w;
                     ++q) {
                    const int own = (h - p * stride) * window + w - q * stride;
                    const long long from = ((n * p_size + p) * q_size + q) * vectors + vector;
                    const Vector grad = load_vector(grad_y, from);
                    const Bytes winner = load_bytes(winners, from);
#pragma unroll
                    for (EACH_ELEMENT(k))
                        if (winner.v[k] == own) sum.v[k] += grad.v[k];
                }
            store_vector(grad_x, n * height * width * vectors + at, sum);
        }
}

// The mean of each map of (N, pixels, vectors * VECTOR), in float.
extern "C" __global__ void mean_of_maps(const scalar* x, float* y, int images, int pixels,
                                        int vectors) {
    __shared__ float space[256 * VECTOR];
    const int first = blockIdx.x * blockDim.x, vector = first + threadIdx.x;
    for (long long n = blockIdx.y; n < images; n += gridDim.y) {
        Vector sum = load_vector((const scalar*)nullptr, 0, 0.0f);
        if (vector < vectors)
            for (int pixel = threadIdx.y; pixel < pixels; pixel += blockDim.y) {
                const Vector seen = load_vector(x, (n * pixels + pixel) * vectors + vector);
#pragma unroll
                for (EACH_ELEMENT(k)) sum.v[k] += seen.v[k];
            }
        fold_rows(sum.v, space, [&](int lane, int k, float total) {
            if (first + lane < vectors)
                y[(n * vectors + first + lane) * VECTOR + k] = total / pixels;
        });
    }
}

extern "C" __global__ void mean_of_maps_grad(const float* grad_y, scalar* grad_x, int images,
                                             int pixels, int vectors) {
    for (long long n = blockIdx.y; n < images; n += gridDim.y)
        for (EACH(at, (long long)pixels * vectors)) {
            Vector grad = load_vector(grad_y, n * vectors + at % vectors);
#pragma unroll
            for (EACH_ELEMENT(k)) grad.v[k] /= pixels;
            store_vector(grad_x, n * pixels * vectors + at, grad);
        }
}
