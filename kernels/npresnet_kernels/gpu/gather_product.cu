// Convolution and the gradient of its input as a product of matrices that are gathered, never stored.
// RESULT is the type of y: that of x, or float.
#include "tile.cuh"

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
    const int vector = threadIdx.x % 4, line = threadIdx.x / 4;

    int pixel[A_LOADS], top[A_LOADS], left[A_LOADS];
#pragma unroll
    for (int i = 0; i < A_LOADS; ++i) {
        const int row = first_row + line + i * (THREADS / 4);
        const bool there = row < rows;
        left[i] = row % q_size * step_w;
        const int first = row / q_size % p_size * step_h;
        pixel[i] = there ? (row / q_size / p_size * height + first) * width + left[i] : 0;
        top[i] = there ? first : -(1 << 30);  // outside, whatever dh
    }

    const int own = swizzled(line, vector);  // rows that are a multiple of 8 apart are swizzled alike
    const int weights = (first_column + line) * vectors;
    const auto fill = [&](int stage) {
        unsigned char* a = memory + stage % STAGES * STAGE + own;
        unsigned char* b = a + TILE_M * 64;
        const int at = stage * 4 + vector;
        const bool there = at < vectors;
        const int4 place = there ? table[at] : make_int4(0, 0, 0, 0);
        const scalar* from = x + place.z;
#pragma unroll
        for (int i = 0; i < A_LOADS; ++i) {
            const bool inside = there && (unsigned)(top[i] + place.x) < (unsigned)height &&
                                (unsigned)(left[i] + place.y) < (unsigned)width;
            copy16(a + i * (THREADS / 4) * 64, inside ? from + (long long)pixel[i] * channels : x,
                   inside);
        }
#pragma unroll
        for (int i = 0; i < B_LOADS; ++i) {
            const bool inside = there && first_column + line + i * (THREADS / 4) < columns;
            const int piece = weights + i * (THREADS / 4) * vectors + at;
            copy16(b + i * (THREADS / 4) * 64, inside ? weight + (long long)piece * VECTOR : weight,
                   inside);
        }
    };

    Sums sums = {};
    const int stages = (vectors + 3) / 4;
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; ++stage) {
        if (stage < stages) fill(stage);
        copies_end_group();
    }
    for (int stage = 0; stage < stages; ++stage) {
        copies_wait<STAGES - 2>();
        __syncthreads();  // all see this stage, and all have left the one that is filled next
        if (stage + STAGES - 1 < stages) fill(stage + STAGES - 1);
        copies_end_group();
        const unsigned char* a = memory + stage % STAGES * STAGE;
        sums.add(a, a + TILE_M * 64);
    }

    copies_wait<0>();
    __syncthreads();  // the stages' memory is free
    const Place place = {rows,    columns,  p_size,   q_size,    y_height,
                         y_width, y_step_h, y_step_w, y_first_h, y_first_w};
    finish_tile(sums, reinterpret_cast<float*>(memory), place, y, scale, bias, residual, relu, parts);
}
