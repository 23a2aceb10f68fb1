// The gradient of a convolution's weights: a sum over pixels, shared among blocks.
#include "tile.cuh"

// Blocks on a multiprocessor that the compiler keeps registers for; left alone it spills on sm_75.
#if EXACT || defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
enum { RESIDENT = 256 / THREADS };
#else
enum { RESIDENT = (THREADS == 64 ? 384 : 512) / THREADS };
#endif

// Shares of the weight's gradient: parts[z] = dy^T x over `share` stages of pixels, (dy's channels,
// k). Channels may be in slices that don't meet (groups): blockIdx.z counts a slice's `shares` first,
// then slices, and of each pixel a slice has `outs` channels of dy and x_own of x. Both operands lie with their rows along k here, and are turned round on their way to shared
// memory: neighbouring lanes hold neighbouring pixels.
extern "C" __global__ void __launch_bounds__(TILE_M * TILE_N / 64, RESIDENT)
    weight_product(const scalar* x, const scalar* dy, float* parts, const int4* table, int pixels,
                   int outs, int all_outs, int vectors, int height, int width, int channels,
                   int x_own, int p_size, int q_size, int step_h, int step_w, int share,
                   int shares) {
    DYNAMIC_SHARED(unsigned char, memory);
    const int first_row = blockIdx.y * TILE_M, first_vector = blockIdx.x * (TILE_N / VECTOR);
    x += x_own * (blockIdx.z / shares);
    dy += outs * (blockIdx.z / shares);
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
        const scalar* grad = dy + (long long)pixel * all_outs;
        const scalar* from =
            x + (((long long)(pixel / q_size / p_size) * height + top) * width + left) * channels;
#pragma unroll
        for (int i = 0; i < A_LOADS; ++i) {
            const int row = first_row + (line + i * (THREADS / DEPTH)) * VECTOR;
            a[i] = make_uint4(0, 0, 0, 0);
            if (there && row < outs)
                a[i] = *reinterpret_cast<const uint4*>(grad + row);
        }
#pragma unroll
        for (int i = 0; i < B_LOADS; ++i) {
            b[i] = make_uint4(0, 0, 0, 0);
            if (there && (unsigned)(top + place[i].x) < (unsigned)height &&
                (unsigned)(left + place[i].y) < (unsigned)width)
                b[i] = *reinterpret_cast<const uint4*>(from + place[i].z);
        }
    };
    // rows that are a multiple of 8 apart are swizzled alike
    const auto turn = [&](const uint4& v, unsigned char* to) {
        const unsigned words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int e = 0; e < VECTOR; ++e) {
            const int at = swizzled(line * VECTOR + e, k / VECTOR) + k % VECTOR * (int)sizeof(scalar);
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
        for (int i = 0; i < A_LOADS; ++i) turn(a[i], to + i * (THREADS / DEPTH) * VECTOR * 64);
#pragma unroll
        for (int i = 0; i < B_LOADS; ++i)
            turn(b[i], to + (TILE_M + i * (THREADS / DEPTH) * VECTOR) * 64);
    };

    Sums sums = {};
    const int start = blockIdx.z % shares * share, most = (pixels + DEPTH - 1) / DEPTH;
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
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const int row = first_row + Sums::row(i);
            const long long column = (long long)first_vector * VECTOR + Sums::column(j);
            if (row < outs && column < width_of) part[row * width_of + column] = sums.at(i, j);
        }
}
