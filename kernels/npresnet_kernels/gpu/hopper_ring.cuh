// Stages of two operands, brought by one warp and multiplied by two groups of four. Included behind
// hopper.cuh, with TILE_M, TILE_N and STAGES.
//
// A stage is 64 numbers of k for TILE_M rows of sums, and behind them for TILE_N columns: squares of 64 x
// 64, rows of 128 bytes. full[s] is waited for before stage s is multiplied, empty[s] before it is filled
// again. Two blocks share a multiprocessor: one multiplies while the other one finishes.
#pragma once
#include "hopper.cuh"

enum {
    THREADS = 256,  // that multiply
    ROW = 128,      // bytes
    DEPTH = ROW / sizeof(scalar),
    SQUARE = DEPTH * ROW,
    STAGE = (TILE_M + TILE_N) * ROW,
    WARPS = THREADS / 32,
};

static_assert(TILE_M == 128, "two groups of warps multiply 64 rows each");

// A thread's sums, as finish.cuh wants them: all at once, in 128 rows.
struct Sums {
    enum { ROWS = 2, COLUMNS = TILE_N / 4, PARTS = 1 };
    float v[TILE_N / 2];

    static __device__ __forceinline__ int owner() { return threadIdx.x / 32 * 8 + threadIdx.x % 32 / 4; }
    static __device__ __forceinline__ int row(int i) {
        return threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + 8 * i;
    }
    static __device__ __forceinline__ int column(int j) {
        return j / 2 * 8 + threadIdx.x % 4 * 2 + j % 2;
    }
    static __device__ __forceinline__ int slot(int i) { return row(i); }
    static __device__ __forceinline__ int row_of(int, int slot) { return slot; }
    __device__ __forceinline__ float at(int i, int j) const { return v[j / 2 * 4 + 2 * i + j % 2]; }
};

// Calls copy(stage, its memory, its barrier) in one thread, which is to begin copies of STAGE bytes, and
// multiply(group, memory) in the 256 threads that multiply; `memory` has room for STAGES and their
// barriers, and is free when this returns.
template <class Copy, class Multiply>
__device__ __forceinline__ void through_stages(unsigned char* memory, int stages, Copy copy,
                                               Multiply multiply) {
    Barrier* full = reinterpret_cast<Barrier*>(memory + STAGES * STAGE);
    Barrier* empty = full + STAGES;
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; ++s) {
            barrier_init(full + s, 1);
            barrier_init(empty + s, WARPS);
        }
        barriers_ready();
    }
    __syncthreads();

    if (threadIdx.x >= THREADS) {
        if (threadIdx.x == THREADS)
            for (int stage = 0; stage < stages; ++stage) {
                const int s = stage % STAGES;
                if (stage >= STAGES) barrier_wait(empty + s, (stage / STAGES - 1) % 2);
                barrier_expect(full + s, STAGE);
                copy(stage, memory + s * STAGE, full + s);
            }
        __syncwarp();
    } else {
        for (int stage = 0; stage < stages; ++stage) {
            const int s = stage % STAGES;
            barrier_wait(full + s, stage / STAGES % 2);
            products_begin();
            multiply(threadIdx.x / 128, memory + s * STAGE);
            products_end_group();
            products_wait<1>();  // the stage before has been multiplied
            if (stage && threadIdx.x % 32 == 0) barrier_arrive(empty + (stage - 1) % STAGES);
        }
        products_wait<0>();
    }
    __syncthreads();
}
