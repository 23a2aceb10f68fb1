// Convolution and its gradients as products of matrices that are gathered, never stored.
//
// Images are (N, H, W, channels) in memory, channels a multiple of VECTOR. A block makes TILE_M x
// TILE_N sums with TILE_M * TILE_N / 64 threads. Of each operand a stage in shared memory holds 64
// bytes of k for every row of the tile; a row's four vectors of 16 bytes are permuted by the row
// ("swizzled") so that eight consecutive rows lie in different banks. EXACT: float products, 8 x 8
// sums a thread; else tensor cores, 64 x 32 sums a warp (a float is rounded to TF32).
//
// `table` has an entry for each vector of k, (dh, dw, offset, 0): where it lies relative to a row's
// first pixel, in pixels and, with its channel, in elements.
#include "scalar.cuh"

#include "mma.cuh"

enum {
    THREADS = TILE_M * TILE_N / 64,
    VECTOR = 16 / sizeof(scalar),
    DEPTH = 64 / sizeof(scalar),  // of k, a stage
    STAGE = (TILE_M + TILE_N) * 64,
    STAGES = 3,
    A_LOADS = 256 / TILE_N,  // vectors of a stage that a thread moves
    B_LOADS = 256 / TILE_M,
    WARPS_N = TILE_N / 32,
    SIDE_M = TILE_M / 8,  // EXACT: threads down and across the tile
    SIDE_N = TILE_N / 8,
};

__device__ __forceinline__ int swizzled(int row, int vector) {
    return row * 64 + (vector ^ (row >> 1 & 3)) * 16;
}

#if EXACT
struct Sums {
    float v[8][8];  // (row, column) i, j is tile's (down + SIDE_M * i, across + SIDE_N * j)

    __device__ __forceinline__ void add(const unsigned char* a, const unsigned char* b) {
        const int down = threadIdx.x / SIDE_N, across = threadIdx.x % SIDE_N;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            float4 right[8];
#pragma unroll
            for (int j = 0; j < 8; ++j)
                right[j] = *reinterpret_cast<const float4*>(b + swizzled(across + SIDE_N * j, k));
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const float4 left = *reinterpret_cast<const float4*>(a + swizzled(down + SIDE_M * i, k));
#pragma unroll
                for (int j = 0; j < 8; ++j) {
                    v[i][j] = fmaf(left.x, right[j].x, v[i][j]);
                    v[i][j] = fmaf(left.y, right[j].y, v[i][j]);
                    v[i][j] = fmaf(left.z, right[j].z, v[i][j]);
                    v[i][j] = fmaf(left.w, right[j].w, v[i][j]);
                }
            }
        }
    }

    template <class F>
    __device__ __forceinline__ void each(F f) const {
        const int down = threadIdx.x / SIDE_N, across = threadIdx.x % SIDE_N;
#pragma unroll
        for (int i = 0; i < 8; ++i)
#pragma unroll
            for (int j = 0; j < 8; ++j) f(down + SIDE_M * i, across + SIDE_N * j, v[i][j]);
    }
};
#else
struct Sums {
    float v[4][4][4];  // 16 rows, 8 columns, the four of a fragment

    __device__ __forceinline__ void add(const unsigned char* a, const unsigned char* b) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const int down = warp / WARPS_N * 64, across = warp % WARPS_N * 32;
#pragma unroll
        for (int k = 0; k < 4; k += 2) {
            unsigned left[4], right[2][4];  // right: b0, b1 of 8 columns, then of the next 8
#pragma unroll
            for (int j = 0; j < 2; ++j)
                load_matrices(right[j],
                              b + swizzled(across + 16 * j + lane / 16 * 8 + lane % 8, k + lane / 8 % 2));
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                load_matrices(left, a + swizzled(down + 16 * i + lane % 16, k + lane / 16));
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    multiply(v[i][j], left, right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1],
                             scalar());
            }
        }
    }

    template <class F>
    __device__ __forceinline__ void each(F f) const {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const int down = warp / WARPS_N * 64 + lane / 4, across = warp % WARPS_N * 32 + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    f(down + 16 * i + e / 2 * 8, across + 8 * j + e % 2, v[i][j][e]);
    }
};
#endif

// Row (n, p, q) of y: sum over k of x, gathered about pixel (p * step_h, q * step_w), times `weight`,
// (columns, k). It goes to pixel (p * y_step_h + y_first_h, ...) of an image of y_height x y_width.
extern "C" __global__ void __launch_bounds__(TILE_M * TILE_N / 64)
    gather_product(const scalar* x, const scalar* weight, const scalar* bias, scalar* y,
                   const int4* table, int rows, int columns, int vectors, int height, int width,
                   int channels, int p_size, int q_size, int step_h, int step_w, int y_height,
                   int y_width, int y_step_h, int y_step_w, int y_first_h, int y_first_w) {
    DYNAMIC_SHARED(unsigned char, memory);
    const int first_row = blockIdx.x * TILE_M, first_column = blockIdx.y * TILE_N;
    const int vector = threadIdx.x % 4, line = threadIdx.x / 4;

    long long base[A_LOADS];
    int top[A_LOADS], left[A_LOADS];
#pragma unroll
    for (int i = 0; i < A_LOADS; ++i) {
        const int row = first_row + line + i * (THREADS / 4);
        top[i] = row < rows ? row / q_size % p_size * step_h : -(1 << 30);  // outside, whatever dh
        left[i] = row % q_size * step_w;
        base[i] = (((long long)(row / q_size / p_size) * height + top[i]) * width + left[i]) * channels;
    }

    const auto fill = [&](int stage) {
        unsigned char* a = memory + stage % STAGES * STAGE;
        unsigned char* b = a + TILE_M * 64;
        const int at = stage * 4 + vector;
        const bool there = at < vectors;
        const int4 place = there ? table[at] : make_int4(0, 0, 0, 0);
#pragma unroll
        for (int i = 0; i < A_LOADS; ++i) {
            const bool inside = there && (unsigned)(top[i] + place.x) < (unsigned)height &&
                                (unsigned)(left[i] + place.y) < (unsigned)width;
            copy16(a + swizzled(line + i * (THREADS / 4), vector),
                   inside ? x + base[i] + place.z : x, inside);
        }
#pragma unroll
        for (int i = 0; i < B_LOADS; ++i) {
            const int column = first_column + line + i * (THREADS / 4);
            const bool inside = there && column < columns;
            copy16(b + swizzled(line + i * (THREADS / 4), vector),
                   inside ? weight + ((long long)column * vectors + at) * VECTOR : weight, inside);
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

    __syncthreads();
    long long* places = reinterpret_cast<long long*>(memory);  // where each row of the tile goes
    for (int r = threadIdx.x; r < TILE_M; r += THREADS) {
        const int row = first_row + r;
        const long long h = row / q_size % p_size * y_step_h + y_first_h;
        const long long w = row % q_size * y_step_w + y_first_w;
        places[r] = (((long long)(row / q_size / p_size) * y_height + h) * y_width + w) * columns;
    }
    __syncthreads();
    sums.each([&](int r, int c, float v) {
        const int column = first_column + c;
        if (first_row + r >= rows || column >= columns) return;
        if (bias) v += (float)Scalar<scalar>::load(bias[column]);
        y[places[r] + column] = Scalar<scalar>::store(v);
    });
}

// Shares of the weight's gradient: parts[z] = dy^T x over `share` stages of pixels, (dy's channels,
// k). Both operands lie with their rows along k here, and are turned round on their way to shared
// memory: neighbouring lanes hold neighbouring pixels.
extern "C" __global__ void __launch_bounds__(TILE_M * TILE_N / 64)
    weight_product(const scalar* x, const scalar* dy, float* parts, const int4* table, int pixels,
                   int outs, int vectors, int height, int width, int channels, int p_size,
                   int q_size, int step_h, int step_w, int share) {
    DYNAMIC_SHARED(unsigned char, memory);
    const int first_row = blockIdx.y * TILE_M, first_vector = blockIdx.x * (TILE_N / VECTOR);
    const int k = threadIdx.x % DEPTH, line = threadIdx.x / DEPTH;

    int4 place[B_LOADS];
#pragma unroll
    for (int i = 0; i < B_LOADS; ++i) {
        const int at = first_vector + line + i * (THREADS / DEPTH);
        place[i] = at < vectors ? table[at] : make_int4(-(1 << 30), 0, 0, 0);
    }

    uint4 a[A_LOADS], b[B_LOADS];
    const auto fetch = [&](int stage) {
        const int pixel = stage * DEPTH + k;
        const bool there = pixel < pixels;
        const int top = pixel / q_size % p_size * step_h, left = pixel % q_size * step_w;
        const scalar* from =
            x + (((long long)(pixel / q_size / p_size) * height + top) * width + left) * channels;
#pragma unroll
        for (int i = 0; i < A_LOADS; ++i) {
            const int row = first_row + (line + i * (THREADS / DEPTH)) * VECTOR;
            a[i] = make_uint4(0, 0, 0, 0);
            if (there && row < outs)
                a[i] = *reinterpret_cast<const uint4*>(dy + (long long)pixel * outs + row);
        }
#pragma unroll
        for (int i = 0; i < B_LOADS; ++i) {
            b[i] = make_uint4(0, 0, 0, 0);
            if (there && (unsigned)(top + place[i].x) < (unsigned)height &&
                (unsigned)(left + place[i].y) < (unsigned)width)
                b[i] = *reinterpret_cast<const uint4*>(from + place[i].z);
        }
    };
    const auto turn = [&](const uint4& v, unsigned char* to, int vector) {
        const unsigned words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int e = 0; e < VECTOR; ++e) {
            const int at = swizzled(vector * VECTOR + e, k / VECTOR) + k % VECTOR * (int)sizeof(scalar);
            if (sizeof(scalar) == 4)
                *reinterpret_cast<unsigned*>(to + at) = words[e * sizeof(scalar) / 4];
            else
                *reinterpret_cast<unsigned short*>(to + at) =
                    (unsigned short)(words[e * sizeof(scalar) / 4] >> e % 2 * 16);
        }
    };
    const auto put = [&](int slot) {
        unsigned char* to = memory + slot * STAGE;
#pragma unroll
        for (int i = 0; i < A_LOADS; ++i) turn(a[i], to, line + i * (THREADS / DEPTH));
#pragma unroll
        for (int i = 0; i < B_LOADS; ++i)
            turn(b[i], to + TILE_M * 64, line + i * (THREADS / DEPTH));
    };

    Sums sums = {};
    const int start = blockIdx.z * share, most = (pixels + DEPTH - 1) / DEPTH;
    const int stop = start + share < most ? start + share : most;
    if (start < stop) {
        fetch(start);
        put(0);
    }
    __syncthreads();
    for (int stage = start; stage < stop; ++stage) {
        const int slot = (stage - start) % 2;
        if (stage + 1 < stop) fetch(stage + 1);
        sums.add(memory + slot * STAGE, memory + slot * STAGE + TILE_M * 64);
        if (stage + 1 < stop) put(1 - slot);
        __syncthreads();
    }
    const long long width_of = (long long)vectors * VECTOR;
    float* part = parts + blockIdx.z * outs * width_of;
    sums.each([&](int r, int c, float v) {
        const long long row = first_row + r, column = (long long)first_vector * VECTOR + c;
        if (row < outs && column < width_of) part[row * width_of + column] = v;
    });
}

// The shares of each element, added up in order.
extern "C" __global__ void add_parts(const float* parts, scalar* sum, int count, long long size) {
    for (EACH(i, size)) {
        double total = 0;
        for (int z = 0; z < count; ++z) total += parts[z * size + i];
        store(sum, i, (real)total);
    }
}
