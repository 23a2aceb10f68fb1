// The products of gather_product.cu on Hopper: 16-bit numbers, channels a multiple of 64. RESULT is
// the type of y.
//
// TMA brings a column of TILE_M pixels, found by the map of the images (strides, padding and image
// borders are its affair), and TILE_N rows of weights.
#include "scalar.cuh"

#include "hopper_ring.cuh"

#include "finish.cuh"

// As gather_product. `images` are x as columns of pixels and `weights` (columns, k) as a matrix; (low_h,
// low_w) is the smallest of the `table`'s places, where the map's box begins. A slice's box may hold
// weights of the next one, for columns that aren't stored.
extern "C" __global__ void __launch_bounds__(THREADS + 32, 2)
    hopper_product(const __grid_constant__ TensorMap images, const __grid_constant__ TensorMap weights,
                   result* y, const int4* table, const float* scale, const float* bias,
                   const result* residual, float* parts, int relu, int rows, int columns, int stages,
                   int own, int low_h, int low_w, int p_size, int q_size, int step_h, int step_w,
                   int y_height, int y_width, int y_step_h, int y_step_w, int y_first_h,
                   int y_first_w) {
    SWIZZLED_SHARED(memory);
    const int row = blockIdx.x * TILE_M;
    const int w = row % q_size * step_w + low_w, h = row / q_size % p_size * step_h + low_h;
    const int n = row / q_size / p_size;
    const int channel = blockIdx.z * own, column = blockIdx.z * columns + blockIdx.y * TILE_N;

    Sums sums = {};
    through_stages(
        memory, stages,
        [&](int stage, unsigned char* to, Barrier* barrier) {
            const int4 place = table[stage * (ROW / 16)];
            copy_pixels(to, &images, barrier, channel + stage * DEPTH % own, w, h, n, place.y - low_w,
                        place.x - low_h);
            copy_box(to + TILE_M * ROW, &weights, barrier, stage * DEPTH, column);
        },
        [&](int group, const unsigned char* from) {
            const unsigned long long a = matrix_at(from + group * 64 * ROW);
            const unsigned long long b = matrix_at(from + TILE_M * ROW);
#pragma unroll
            for (int k = 0; k < ROW; k += 32) multiply(sums.v, moved(a, k), moved(b, k), scalar());
        });
    const Place place = {rows,    columns,  p_size,   q_size,    y_height,
                         y_width, y_step_h, y_step_w, y_first_h, y_first_w};
    finish_tile(sums, reinterpret_cast<float*>(memory), place, y, scale, bias, residual, relu, parts);
}
