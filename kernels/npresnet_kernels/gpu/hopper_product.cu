// The products of gather_product.cu on Hopper: 16-bit numbers, channels a multiple of 64. RESULT is
// the type of y.
//
// One warp lets TMA bring stages of 128 bytes of k: a column of TILE_M pixels, found by the map of the
// images (strides, padding and image borders are its affair), and TILE_N rows of weights. Two groups of
// four warps multiply, 64 rows each. full[s] is waited for before stage s is multiplied, empty[s] before
// it is filled again. Two blocks share a multiprocessor: one multiplies while the other one finishes.
#include "scalar.cuh"

#include "hopper.cuh"

enum {
    THREADS = 256,  // that multiply
    ROW = 128,      // bytes of k in a stage
    DEPTH = ROW / sizeof(scalar),
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

    Sums sums = {};
    if (threadIdx.x >= THREADS) {
        if (threadIdx.x == THREADS) {
            const int row = blockIdx.x * TILE_M;
            const int w = row % q_size * step_w + low_w, h = row / q_size % p_size * step_h + low_h;
            const int n = row / q_size / p_size;
            const int channel = blockIdx.z * own, column = blockIdx.z * columns + blockIdx.y * TILE_N;
            for (int stage = 0; stage < stages; ++stage) {
                const int s = stage % STAGES;
                if (stage >= STAGES) barrier_wait(empty + s, (stage / STAGES - 1) % 2);
                const int4 place = table[stage * (ROW / 16)];
                unsigned char* a = memory + s * STAGE;
                barrier_expect(full + s, STAGE);
                copy_pixels(a, &images, full + s, channel + stage * DEPTH % own, w, h, n,
                            place.y - low_w, place.x - low_h);
                copy_box(a + TILE_M * ROW, &weights, full + s, stage * DEPTH, column);
            }
        }
        __syncwarp();
    } else {
        const int first = threadIdx.x / 128 * 64 * ROW;  // of this group's rows
        for (int stage = 0; stage < stages; ++stage) {
            const int s = stage % STAGES;
            barrier_wait(full + s, stage / STAGES % 2);
            const unsigned long long a = matrix_at(memory + s * STAGE + first);
            const unsigned long long b = matrix_at(memory + s * STAGE + TILE_M * ROW);
            products_begin();
#pragma unroll
            for (int k = 0; k < ROW; k += 32) multiply(sums.v, moved(a, k), moved(b, k), scalar());
            products_end_group();
            products_wait<1>();  // the stage before has been multiplied
            if (stage && threadIdx.x % 32 == 0) barrier_arrive(empty + (stage - 1) % STAGES);
        }
        products_wait<0>();
    }
    __syncthreads();  // the stages' memory is free
    const Place place = {rows,    columns,  p_size,   q_size,    y_height,
                         y_width, y_step_h, y_step_w, y_first_h, y_first_w};
    finish_tile(sums, reinterpret_cast<float*>(memory), place, y, scale, bias, residual, relu, parts);
}
