// How a tile of sums leaves a block: moments of each column, then y = relu(sum * scale + bias +
// residual) through shared memory, so that stores are 16 bytes wide. RESULT is the type of y.
//
// Sums, defined before this header, are what a thread holds: ROWS x COLUMNS of them, sum (i, j) in row
// row(i) and column column(j) of the tile. The tile leaves in PARTS; the rows i of one are neighbours,
// row(i) is slot(i) of it, and slot s of part q is row row_of(q, s). Threads behind the first THREADS
// hold no sums, but come along to the barriers.
#pragma once
#include "scalar.cuh"

typedef RESULT result;

enum {
    PITCH = TILE_N + 8,          // of a row of sums in shared memory
    OWNERS = TILE_M / Sums::ROWS,  // threads that share a column
    WIDE = 16 / sizeof(result),  // elements of y that a thread stores at once
};

template <int N>
struct __align__(N * sizeof(result)) Results {
    result v[N];
};

// y = relu(sum * scale + bias + residual) for N neighbouring columns; what isn't there is null.
template <int N>
__device__ __forceinline__ void finish(const float* sum, const float* scale, const float* bias,
                                       const result* residual, bool relu, result* y, int column,
                                       long long place) {
    float v[N];
#pragma unroll
    for (int e = 0; e < N; ++e) v[e] = sum[e];
    if (scale)
#pragma unroll
        for (int e = 0; e < N; ++e) v[e] *= scale[column + e];
    if (bias)
#pragma unroll
        for (int e = 0; e < N; ++e) v[e] += bias[column + e];
    if (residual) {
        const Results<N> more = *reinterpret_cast<const Results<N>*>(residual + place);
#pragma unroll
        for (int e = 0; e < N; ++e) v[e] += (float)Scalar<result>::load(more.v[e]);
    }
    Results<N> made;
#pragma unroll
    for (int e = 0; e < N; ++e)
        made.v[e] = Scalar<result>::store(relu && v[e] < 0 ? 0 : v[e]);  // NaN stays
    *reinterpret_cast<Results<N>*>(y + place) = made;
}

// Of each of the tile's columns the sum of its rows, and the sum of squares about their mean (Chan,
// Golub and LeVeque 1983 tell how such pairs are joined), in float: part is (2, between).
__device__ __forceinline__ void tile_moments(const Sums& sums, float* space, float* part, int rows,
                                             int first_column, int columns, int between) {
    const bool mine = threadIdx.x < THREADS;
    float* means = space + OWNERS * PITCH;
#pragma unroll
    for (int pass = 0; pass < 2; ++pass) {
#pragma unroll
        for (int j = 0; j < Sums::COLUMNS; ++j) {
            const int column = Sums::column(j);
            const float mean = pass ? means[column] : 0;
            float total = 0;
#pragma unroll
            for (int i = 0; i < Sums::ROWS; ++i) {
                const float v = sums.at(i, j) - mean;
                if (Sums::row(i) < rows) total += pass ? v * v : v;
            }
            if (mine) space[Sums::owner() * PITCH + column] = total;
        }
        __syncthreads();
        for (int c = threadIdx.x; mine && c < TILE_N; c += THREADS) {
            float total = 0;
            for (int owner = 0; owner < OWNERS; ++owner) total += space[owner * PITCH + c];
            if (first_column + c < columns) part[pass * between + first_column + c] = total;
            if (!pass) means[c] = total / rows;
        }
        __syncthreads();
    }
}

// Row (n, p, q) of the product is pixel (p * y_step_h + y_first_h, ...) of image n of y, which has
// `columns` for each blockIdx.z.
struct Place {
    int rows, columns, p_size, q_size, y_height, y_width, y_step_h, y_step_w, y_first_h, y_first_w;
};

// The tile of blockIdx is finished, in `space` that no thread uses any more; all threads come.
__device__ __forceinline__ void finish_tile(const Sums& sums, float* space, const Place& to, result* y,
                                            const float* scale, const float* bias,
                                            const result* residual, bool relu, float* parts) {
    const int first_row = blockIdx.x * TILE_M, first_column = blockIdx.y * TILE_N;
    const int between = to.columns * gridDim.z, slice_column = to.columns * blockIdx.z;
    const bool mine = threadIdx.x < THREADS;
    y += slice_column;
    if (scale) scale += slice_column;
    if (bias) bias += slice_column;
    if (residual) residual += slice_column;
    if (parts)
        tile_moments(sums, space, parts + 2LL * blockIdx.x * between + slice_column,
                     to.rows - first_row < TILE_M ? to.rows - first_row : TILE_M, first_column,
                     to.columns, between);
    // a row for each pixel, in order
    const bool dense = to.p_size == to.y_height && to.q_size == to.y_width;
#pragma unroll
    for (int part = 0; part < Sums::PARTS; ++part) {
        const int own = Sums::ROWS / Sums::PARTS;
        if (mine)
#pragma unroll
            for (int i = 0; i < own; ++i)
#pragma unroll
                for (int j = 0; j < Sums::COLUMNS; ++j)
                    space[Sums::slot(i) * PITCH + Sums::column(j)] = sums.at(own * part + i, j);
        __syncthreads();
        for (int at = threadIdx.x; mine && at < TILE_M / Sums::PARTS * (TILE_N / WIDE); at += THREADS) {
            const int slot = at / (TILE_N / WIDE), c = at % (TILE_N / WIDE) * WIDE;
            const int row = first_row + Sums::row_of(part, slot), column = first_column + c;
            if (row >= to.rows || column >= to.columns) continue;
            long long pixel = row;
            if (!dense) {
                const int h = row / to.q_size % to.p_size * to.y_step_h + to.y_first_h;
                const int w = row % to.q_size * to.y_step_w + to.y_first_w;
                pixel = ((long long)(row / to.q_size / to.p_size) * to.y_height + h) * to.y_width + w;
            }
            const long long place = pixel * between + column;
            const float* sum = space + slot * PITCH + c;
            if (to.columns % WIDE == 0)
                finish<WIDE>(sum, scale, bias, residual, relu, y, column, place);
            else
#pragma unroll 1
                for (int e = 0; e < WIDE && column + e < to.columns; ++e)
                    finish<1>(sum + e, scale, bias, residual, relu, y, column + e, place + e);
        }
        __syncthreads();
    }
}
