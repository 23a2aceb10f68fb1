// The sums of a block: rows gathered from images times rows of weights, through STAGES of shared
// memory that cp.async fills ahead.
#pragma once
#include "tile.cuh"

// The first pixels of the rows that a thread copies: line, line + THREADS / 4, ... of the tile.
struct Pixels {
    int at[A_LOADS], top[A_LOADS], left[A_LOADS];

    // Row i begins at pixel (top, left) of image n of height x width; where it isn't there, nowhere.
    __device__ __forceinline__ void set(int i, bool there, int n, int height, int width, int first,
                                        int column) {
        at[i] = there ? (n * height + first) * width + column : 0;
        top[i] = there ? first : -(1 << 30);  // outside, whatever dh
        left[i] = column;
    }
};

// Adds up k of `vectors` for the tile whose rows are `pixels` and whose columns are those of `weight`,
// (columns, k), from first_column on. `memory` is free when it returns.
__device__ __forceinline__ void gather_sums(Sums& sums, unsigned char* memory, const scalar* x,
                                            const scalar* weight, const int4* table,
                                            const Pixels& pixels, int first_column, int columns,
                                            int vectors, int height, int width, int channels) {
    const int vector = threadIdx.x % 4, line = threadIdx.x / 4;
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
            const bool inside = there && (unsigned)(pixels.top[i] + place.x) < (unsigned)height &&
                                (unsigned)(pixels.left[i] + place.y) < (unsigned)width;
            copy16(a + i * (THREADS / 4) * 64,
                   inside ? from + (long long)pixels.at[i] * channels : x, inside);
        }
#pragma unroll
        for (int i = 0; i < B_LOADS; ++i) {
            const bool inside = there && first_column + line + i * (THREADS / 4) < columns;
            const int piece = weights + i * (THREADS / 4) * vectors + at;
            copy16(b + i * (THREADS / 4) * 64, inside ? weight + (long long)piece * VECTOR : weight,
                   inside);
        }
    };

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
    __syncthreads();
}
