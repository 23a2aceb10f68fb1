// A block's share of an implicit product: TILE_M x TILE_N sums with TILE_M * TILE_N / 64 threads.
//
// Images are (N, H, W, channels) in memory, channels a multiple of VECTOR. Of each operand a stage in
// shared memory holds 64 bytes of k for every row of the tile; a row's four vectors of 16 bytes are
// permuted by the row ("swizzled") so that eight consecutive rows lie in different banks. EXACT: float
// products; else tensor cores, 64 x 32 sums a warp (a float is rounded to TF32). Either way a thread
// holds 8 x 8 sums.
//
// A product's `table` has an entry for each vector of k, (dh, dw, offset, 0): where it lies relative
// to a row's first pixel, in pixels and, with its channel, in elements.
#pragma once
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

// Where a vector of a row is, in bytes; rows that are a multiple of 8 apart are permuted alike.
__device__ __forceinline__ int swizzled(int row, int vector) {
    return row * 64 + (vector ^ (row >> 1 & 3)) * 16;
}

// A thread's sums, as finish.cuh wants them: the rows i = 2q and 2q + 1 of all threads are quarter q.
#if EXACT
struct Sums {
    enum { ROWS = 8, COLUMNS = 8, PARTS = 4 };
    float v[8][8];

    static __device__ __forceinline__ int owner() { return threadIdx.x / SIDE_N; }
    static __device__ __forceinline__ int row(int i) { return owner() + SIDE_M * i; }
    static __device__ __forceinline__ int column(int j) { return threadIdx.x % SIDE_N + SIDE_N * j; }
    static __device__ __forceinline__ int slot(int i) { return owner() + SIDE_M * (i % 2); }
    static __device__ __forceinline__ int row_of(int quarter, int slot) {
        return 2 * SIDE_M * quarter + slot;
    }
    __device__ __forceinline__ float at(int i, int j) const { return v[i][j]; }

    __device__ __forceinline__ void add(const unsigned char* a, const unsigned char* b) {
        const int down = threadIdx.x / SIDE_N, across = threadIdx.x % SIDE_N;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            float4 right[8];
#pragma unroll
            for (int j = 0; j < 8; ++j)
                right[j] = *reinterpret_cast<const float4*>(b + swizzled(across, k) + SIDE_N * j * 64);
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const float4 left = *reinterpret_cast<const float4*>(a + swizzled(down, k) + SIDE_M * i * 64);
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
};
#else
struct Sums {
    enum { ROWS = 8, COLUMNS = 8, PARTS = 4 };
    float v[4][4][4];  // 16 rows, 8 columns, the four of a fragment

    static __device__ __forceinline__ int owner() {
        return threadIdx.x / 32 / WARPS_N * 8 + threadIdx.x % 32 / 4;
    }
    static __device__ __forceinline__ int row(int i) { return row_of(i / 2, slot(i)); }
    static __device__ __forceinline__ int column(int j) {
        return threadIdx.x / 32 % WARPS_N * 32 + threadIdx.x % 4 * 2 + j / 2 * 8 + j % 2;
    }
    static __device__ __forceinline__ int slot(int i) {
        return threadIdx.x / 32 / WARPS_N * 16 + i % 2 * 8 + threadIdx.x % 32 / 4;
    }
    static __device__ __forceinline__ int row_of(int quarter, int slot) {
        return slot / 16 * 64 + quarter * 16 + slot % 16;
    }
    __device__ __forceinline__ float at(int i, int j) const {
        return v[i / 2][j / 2][i % 2 * 2 + j % 2];
    }

    __device__ __forceinline__ void add(const unsigned char* a, const unsigned char* b) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const int down = warp / WARPS_N * 64, across = warp % WARPS_N * 32;
#pragma unroll
        for (int k = 0; k < 4; k += 2) {
            unsigned left[4], right[2][4];  // right: b0, b1 of 8 columns, then of the next 8
#pragma unroll
            for (int j = 0; j < 2; ++j)
                load_matrices(right[j], b + j * 16 * 64 +
                                            swizzled(across + lane / 16 * 8 + lane % 8, k + lane / 8 % 2));
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                load_matrices(left, a + i * 16 * 64 + swizzled(down + lane % 16, k + lane / 16));
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    multiply(v[i][j], left, right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1],
                             scalar());
            }
        }
    }
};
#endif
