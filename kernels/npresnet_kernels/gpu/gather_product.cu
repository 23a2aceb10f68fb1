// Convolution and the gradient of its input as a product of matrices that are gathered, never stored.
// RESULT is the type of y: that of x, or float.
#include "tile.cuh"

typedef RESULT result;

enum {
    PITCH = TILE_N + 8,          // of a row of sums in shared memory
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
    float* means = space + TILE_M / 8 * PITCH;
#pragma unroll
    for (int pass = 0; pass < 2; ++pass) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const int column = Sums::column(j);
            const float mean = pass ? means[column] : 0;
            float total = 0;
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const float v = sums.at(i, j) - mean;
                if (Sums::row(i) < rows) total += pass ? v * v : v;
            }
            space[Sums::owner() * PITCH + column] = total;
        }
        __syncthreads();
        for (int c = threadIdx.x; c < TILE_N; c += THREADS) {
            float total = 0;
            for (int owner = 0; owner < TILE_M / 8; ++owner) total += space[owner * PITCH + c];
            if (first_column + c < columns) part[pass * between + first_column + c] = total;
            if (!pass) means[c] = total / rows;
        }
        __syncthreads();
    }
}

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
    const int all_columns = columns * gridDim.z, slice_column = columns * blockIdx.z;
    x += x_own * blockIdx.z;
    weight += (long long)slice_column * vectors * VECTOR;
    y += slice_column;
    if (scale) scale += slice_column;
    if (bias) bias += slice_column;
    if (residual) residual += slice_column;
    if (parts) parts += slice_column;
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
    float* space = reinterpret_cast<float*>(memory);
    if (parts)
        tile_moments(sums, space, parts + 2LL * blockIdx.x * all_columns,
                     rows - first_row < TILE_M ? rows - first_row : TILE_M, first_column, columns,
                     all_columns);
    const bool dense = p_size == y_height && q_size == y_width;  // a row for each pixel, in order
#pragma unroll
    for (int quarter = 0; quarter < 4; ++quarter) {
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int j = 0; j < 8; ++j)
                space[Sums::slot(i) * PITCH + Sums::column(j)] = sums.at(2 * quarter + i, j);
        __syncthreads();
        for (int at = threadIdx.x; at < TILE_M / 4 * (TILE_N / WIDE); at += THREADS) {
            const int slot = at / (TILE_N / WIDE), c = at % (TILE_N / WIDE) * WIDE;
            const int row = first_row + Sums::row_of(quarter, slot), column = first_column + c;
            if (row >= rows || column >= columns) continue;
            long long pixel = row;
            if (!dense) {
                const int h = row / q_size % p_size * y_step_h + y_first_h;
                const int w = row % q_size * y_step_w + y_first_w;
                pixel = ((long long)(row / q_size / p_size) * y_height + h) * y_width + w;
            }
            const long long place = pixel * all_columns + column;
            const float* sum = space + slot * PITCH + c;
            if (columns % WIDE == 0)
                finish<WIDE>(sum, scale, bias, residual, relu, y, column, place);
            else
#pragma unroll 1
                for (int e = 0; e < WIDE && column + e < columns; ++e)
                    finish<1>(sum + e, scale, bias, residual, relu, y, column + e, place + e);
        }
        __syncthreads();
    }
}
