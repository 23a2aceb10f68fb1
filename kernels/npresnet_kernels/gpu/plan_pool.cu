// Pools of a plan over (N, H, W, vectors * VECTOR) images. A row of the grid shares out an image. The
// winner of a max pool's window is a byte, its tap's number row * kernel_w + column.
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
                                          int p_size, int q_size, int kernel_h, int kernel_w,
                                          int stride_h, int stride_w, int pad_h, int pad_w,
                                          int dilation_h, int dilation_w) {
    for (long long n = blockIdx.y; n < images; n += gridDim.y)
        for (EACH_PLACE(at, p_size * q_size * vectors)) {
            PLACE(at, q_size);
            Vector most = load_vector((const scalar*)nullptr, 0, -infinity());
            Bytes winner;
#pragma unroll
            for (EACH_ELEMENT(k)) winner.v[k] = NONE;
            for (int i = 0; i < kernel_h; ++i) {
                const int h = row * stride_h - pad_h + i * dilation_h;
                if (h < 0 || h >= height) continue;
                for (int j = 0; j < kernel_w; ++j) {
                    const int w = column * stride_w - pad_w + j * dilation_w;
                    if (w < 0 || w >= width) continue;
                    const Vector seen = load_vector(x, ((n * height + h) * width + w) * vectors + vector);
#pragma unroll
                    for (EACH_ELEMENT(k))
                        if (seen.v[k] > most.v[k] || seen.v[k] != seen.v[k] || winner.v[k] == NONE) {
                            most.v[k] = seen.v[k];
                            winner.v[k] = (unsigned char)(i * kernel_w + j);
                        }
                }
            }
            const long long to = n * p_size * q_size * vectors + at;
            store_vector(y, to, most);
            if (winners) store_bytes(winners, to, winner);
        }
}

// The tap so far from a window's first pixel; -1 between two taps. Windows without dilation, nearly
// all that there are, do without the divisions.
__device__ __forceinline__ int tap_of(int apart, int dilation) {
    if (dilation == 1) return apart;
    return apart % dilation ? -1 : apart / dilation;
}

// Each pixel gathers from the windows that it won.
extern "C" __global__ void max_pool_bytes_grad(const scalar* grad_y, const unsigned char* winners,
                                               scalar* grad_x, int images, int vectors, int height,
                                               int width, int p_size, int q_size, int kernel_h,
                                               int kernel_w, int stride_h, int stride_w, int pad_h,
                                               int pad_w, int dilation_h, int dilation_w) {
    const int span_h = (kernel_h - 1) * dilation_h + 1, span_w = (kernel_w - 1) * dilation_w + 1;
    for (long long n = blockIdx.y; n < images; n += gridDim.y)
        for (EACH_PLACE(at, height * width * vectors)) {
            PLACE(at, width);
            const int h = row + pad_h, w = column + pad_w;
            const int top = h < span_h ? 0 : (h - span_h) / stride_h + 1;
            const int left = w < span_w ? 0 : (w - span_w) / stride_w + 1;
            Vector sum = load_vector((const scalar*)nullptr, 0, 0.0f);
            for (int p = top; p < p_size && p * stride_h <= h; ++p) {
                const int i = tap_of(h - p * stride_h, dilation_h);
                if (i < 0) continue;
                for (int q = left; q < q_size && q * stride_w <= w; ++q) {
                    const int j = tap_of(w - q * stride_w, dilation_w);
                    if (j < 0) continue;
                    const int own = i * kernel_w + j;
                    const long long from = ((n * p_size + p) * q_size + q) * vectors + vector;
                    const Vector grad = load_vector(grad_y, from);
                    const Bytes winner = load_bytes(winners, from);
#pragma unroll
                    for (EACH_ELEMENT(k))
                        if (winner.v[k] == own) sum.v[k] += grad.v[k];
                }
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
