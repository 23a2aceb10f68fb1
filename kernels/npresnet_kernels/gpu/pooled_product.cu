// A convolution and the max pool behind it; the map between them is never stored.
#include "gather.cuh"

#include "finish.cuh"

enum {
    PATCH = 16,           // a tile's rows are PATCH x PATCH pixels of the convolution
    ACROSS = TILE_N / WIDE,
};

// Pixel (a, b) of y, (images, pool_height, pool_width, columns), is the maximum over the pixels
// (a * stride - pad + i, b * stride - pad + j), i and j < window, of
//     relu(product + bias)
// that are inside of its p_size x q_size pixels; NaN if one of them is. See gather_product.cu for the
// product. A block makes side x side pixels of y: blockIdx.x counts such squares row by row, image by
// image. bias may be null; `columns` are a multiple of WIDE.
extern "C" __global__ void __launch_bounds__(TILE_M * TILE_N / 64)
    pooled_product(const scalar* x, const scalar* weight, result* y, const int4* table,
                   const float* bias, int relu, int columns, int vectors, int height, int width,
                   int channels, int p_size, int q_size, int step_h, int step_w, int pool_height,
                   int pool_width, int window, int stride, int pad, int side) {
    DYNAMIC_SHARED(unsigned char, memory);
    const int squares_across = (pool_width + side - 1) / side;
    const int squares_down = (pool_height + side - 1) / side;
    const int image = blockIdx.x / squares_across / squares_down;
    const int first_a = blockIdx.x / squares_across % squares_down * side;
    const int first_b = blockIdx.x % squares_across * side;
    const int first_p = first_a * stride - pad, first_q = first_b * stride - pad;
    const int first_column = blockIdx.y * TILE_N;

    Pixels pixels;
#pragma unroll
    for (int i = 0; i < A_LOADS; ++i) {
        const int row = threadIdx.x / 4 + i * (THREADS / 4);
        const int p = first_p + row / PATCH, q = first_q + row % PATCH;
        const bool there = (unsigned)p < (unsigned)p_size && (unsigned)q < (unsigned)q_size;
        pixels.set(i, there, image, height, width, p * step_h, q * step_w);
    }
    Sums sums = {};
    gather_sums(sums, memory, x, weight, table, pixels, first_column, columns, vectors, height, width,
                channels);

    // the patch as it would be stored, a row for each of its pixels
    result* patch = reinterpret_cast<result*>(memory);
#pragma unroll
    for (int j = 0; j < Sums::COLUMNS; ++j) {
        const int column = Sums::column(j);
        const float shift = bias && first_column + column < columns ? bias[first_column + column] : 0;
#pragma unroll
        for (int i = 0; i < Sums::ROWS; ++i) {
            const float v = sums.at(i, j) + shift;
            patch[Sums::row(i) * PITCH + column] =
                Scalar<result>::store(relu && v < 0 ? 0 : v);  // NaN stays
        }
    }
    __syncthreads();

    for (int at = threadIdx.x; at < side * side * ACROSS; at += THREADS) {
        const int column = at % ACROSS * WIDE, a = at / ACROSS / side, b = at / ACROSS % side;
        if (first_a + a >= pool_height || first_b + b >= pool_width || first_column + column >= columns)
            continue;
        float most[WIDE] = {};
        bool none = true;
        for (int i = 0; i < window; ++i)
            for (int j = 0; j < window; ++j) {
                const int p = a * stride + i, q = b * stride + j;
                if ((unsigned)(first_p + p) >= (unsigned)p_size ||
                    (unsigned)(first_q + q) >= (unsigned)q_size)
                    continue;
                const Results<WIDE> seen = *reinterpret_cast<const Results<WIDE>*>(
                    patch + (p * PATCH + q) * PITCH + column);
#pragma unroll
                for (int e = 0; e < WIDE; ++e) {
                    const float v = (float)Scalar<result>::load(seen.v[e]);
                    if (none || v > most[e] || v != v) most[e] = v;
                }
                none = false;
            }
        Results<WIDE> made;
#pragma unroll
        for (int e = 0; e < WIDE; ++e) made.v[e] = Scalar<result>::store(most[e]);
        const long long pixel =
            ((long long)image * pool_height + first_a + a) * pool_width + first_b + b;
        *reinterpret_cast<Results<WIDE>*>(y + pixel * columns + first_column + column) = made;
    }
}
