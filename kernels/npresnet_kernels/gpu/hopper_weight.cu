// The gradient of a convolution's weights on Hopper: 16-bit numbers, channels of x a multiple of 64.
//
// The sum runs over pixels, which lie one below the other in both operands as TMA brings them: 64 channels
// of 64 pixels are a square whose columns wgmma multiplies. Rows of sums are x's (tap, channel), columns
// dy's channels, so that layers of 64 channels fill a tile.
#include "scalar.cuh"

#include "hopper_ring.cuh"

// As weight_product: shares of the gradient, parts[z] = (dy's channels, k). `images` are x as columns of 64
// pixels, `grads` is dy (pixels, channels) as a matrix; (low_h, low_w) as in hopper_product. blockIdx.x
// counts rows of sums, blockIdx.y columns, blockIdx.z shares and then slices. What squares hold beyond k or
// beyond a slice's channels isn't stored.
extern "C" __global__ void __launch_bounds__(THREADS + 32, 2)
    hopper_weight(const __grid_constant__ TensorMap images, const __grid_constant__ TensorMap grads,
                  float* parts, const int4* table, int outs, int width, int own, int low_h, int low_w,
                  int p_size, int q_size, int step_h, int step_w, int stages, int share, int shares) {
    SWIZZLED_SHARED(memory);
    const int first_row = blockIdx.x * TILE_M, first_column = blockIdx.y * TILE_N;
    const int slice = blockIdx.z / shares, start = blockIdx.z % shares * share;
    const int count = start + share < stages ? share : stages - start;

    Sums sums = {};
    through_stages(
        memory, count,
        [&](int stage, unsigned char* to, Barrier* barrier) {
            const int pixel = (start + stage) * DEPTH;
            const int w = pixel % q_size * step_w + low_w, h = pixel / q_size % p_size * step_h + low_h;
            const int n = pixel / q_size / p_size;
            for (int i = 0; i < TILE_M / DEPTH; ++i) {
                const int k = first_row + i * DEPTH < width ? first_row + i * DEPTH : 0;
                const int4 place = table[k / 8];
                copy_pixels(to + i * SQUARE, &images, barrier, slice * own + k % own, w, h, n,
                            place.y - low_w, place.x - low_h);
            }
            for (int i = 0; i < TILE_N / DEPTH; ++i)
                copy_box(to + TILE_M * ROW + i * SQUARE, &grads, barrier,
                         slice * outs + first_column + i * DEPTH, pixel);
        },
        [&](int group, const unsigned char* from) {
            const unsigned long long a = turned_at(from + group * SQUARE, SQUARE);
            const unsigned long long b = turned_at(from + TILE_M * ROW, SQUARE);
#pragma unroll
            for (int k = 0; k < SQUARE; k += 16 * ROW)
                multiply_turned(sums.v, moved(a, k), moved(b, k), scalar());
        });

    float* part = parts + (long long)blockIdx.z * outs * width;
    if (threadIdx.x < THREADS)
#pragma unroll
        for (int j = 0; j < Sums::COLUMNS; ++j)
#pragma unroll
            for (int i = 0; i < Sums::ROWS; ++i) {
                const int row = first_row + Sums::row(i), column = first_column + Sums::column(j);
                if (row < width && column < outs) part[(long long)column * width + row] = sums.at(i, j);
            }
}
