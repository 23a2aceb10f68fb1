// Convolution and the gradient of its input as a product of matrices that are gathered, never stored.
// RESULT is the type of y: that of x, or float.
#include "gather.cuh"

#include "finish.cuh"

// Row (n, p, q) of y: sum over k of x, gathered about pixel (p * step_h, q * step_w), times `weight`,
// (columns, k). It goes to pixel (p * y_step_h + y_first_h, ...) of an image of y_height x y_width, as
//     relu(sum * scale + bias + residual),
// scale and bias a number a column, residual an image like y (y itself: what is there is added to);
// each may be null. Moments of the sums alone go to parts, (blocks, 2, columns), if that isn't null.
//
// Channels in slices that don't meet (groups): blockIdx.z is the slice, `columns` and `vectors` are a
// slice's, and of each pixel it has x_own channels of x from x_own * blockIdx.z on.
extern "C" __global__ void __launch_bounds__(TILE_M * TILE_N / 64)
    gather_product(const scalar* x, const scalar* weight, result* y, const int4* table,
                   const float* scale, const float* bias, const result* residual, float* parts,
                   int relu, int rows, int columns, int vectors, int height, int width, int channels,
                   int x_own, int p_size, int q_size, int step_h, int step_w, int y_height, int y_width,
                   int y_step_h, int y_step_w, int y_first_h, int y_first_w) {
    DYNAMIC_SHARED(unsigned char, memory);
    x += x_own * blockIdx.z;
    weight += (long long)columns * blockIdx.z * vectors * VECTOR;
    const int first_row = blockIdx.x * TILE_M, first_column = blockIdx.y * TILE_N;

    Pixels pixels;
#pragma unroll
    for (int i = 0; i < A_LOADS; ++i) {
        const int row = first_row + threadIdx.x / 4 + i * (THREADS / 4);
        pixels.set(i, row < rows, row / q_size / p_size, height, width, row / q_size % p_size * step_h,
                   row % q_size * step_w);
    }
    Sums sums = {};
    gather_sums(sums, memory, x, weight, table, pixels, first_column, columns, vectors, height, width,
                channels);
    const Place place = {rows,    columns,  p_size,   q_size,    y_height,
                         y_width, y_step_h, y_step_w, y_first_h, y_first_w};
    finish_tile(sums, reinterpret_cast<float*>(memory), place, y, scale, bias, residual, relu, parts);
}
