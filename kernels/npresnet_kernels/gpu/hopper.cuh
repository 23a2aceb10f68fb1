// What a product on Hopper asks of the device: barriers in shared memory that count bytes, copies of
// boxes by the tensor memory accelerator (TMA), and products of matrices in shared memory by a group
// of four warps (wgmma). Included behind device.cuh; for sm_90a alone.
//
// The words and layouts are those of NVIDIA's *PTX ISA*: "mbarrier", "cp.async.bulk.tensor", "Tensors",
// "Asynchronous Warpgroup Level Matrix Instructions". Matrices lie as rows of 128 bytes of k, or turned:
// each row 64 numbers of one k. Rows are swizzled, 16 bytes c of row r at c ^ r % 8, which both TMA and
// wgmma do by the address, so a matrix begins on a multiple of 1024.
//
// Sums of wgmma m64nNk16, thread t of 128 with g = t % 32 / 4: sum 4 j + 2 i + e stands in row
// 16 (t / 32) + g + 8 i and column 8 j + 2 (t % 4) + e.
#pragma once

#define SWIZZLED_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

// A CUtensorMap of the driver's.
struct __align__(64) TensorMap {
    unsigned char opaque[128];
};

typedef unsigned long long Barrier;

__device__ __forceinline__ unsigned shared_address(const void* p) {
    return (unsigned)__cvta_generic_to_shared(p);
}

// A barrier whose phase ends when `count` threads have arrived and all bytes that they announced.
__device__ __forceinline__ void barrier_init(Barrier* barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count)
                 : "memory");
}

// Barriers initialised by this thread may be used by copies, and by others behind a __syncthreads.
__device__ __forceinline__ void barriers_ready() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(Barrier* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Arrives, and lets the phase wait for so many bytes of copies.
__device__ __forceinline__ void barrier_expect(Barrier* barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                     shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
}

// Waits for the end of the phase of a parity: the first phase has 0, the next 1, and so on in turn.
__device__ __forceinline__ void barrier_wait(Barrier* barrier, int parity) {
    unsigned ended;
    do {
        asm volatile(
            "{\n"
            ".reg .pred p;\n"
            "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
            "selp.u32 %0, 1, 0, p;\n"
            "}"
            : "=r"(ended)
            : "r"(shared_address(barrier)), "r"(parity)
            : "memory");
    } while (!ended);
}

// Copies channels c... of a column of pixels, the first one (w, h) of image n moved by (dw, dh); what
// lies outside an image is zero. Its bytes are counted by the barrier.
__device__ __forceinline__ void copy_pixels(void* to, const TensorMap* map, Barrier* barrier, int c,
                                            int w, int h, int n, int dw, int dh) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes"
        " [%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8};" ::"r"(shared_address(to)),
        "l"(map), "r"(shared_address(barrier)), "r"(c), "r"(w), "r"(h), "r"(n), "h"((short)dw),
        "h"((short)dh)
        : "memory");
}

// Copies a box of a matrix, its first element in column `column` of row `row`.
__device__ __forceinline__ void copy_box(void* to, const TensorMap* map, Barrier* barrier, int column,
                                         int row) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        " [%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(to)),
        "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row)
        : "memory");
}

// The descriptor of a matrix of swizzled rows: groups of 8 rows are 1024 bytes apart.
__device__ __forceinline__ unsigned long long matrix_at(const void* p) {
    return 1ULL << 62 | 1024ULL / 16 << 32 | 1ULL << 16 | (shared_address(p) & 0x3ffff) / 16;
}

// The descriptor of a turned matrix: 8 of k are 1024 bytes apart, the next 64 rows or columns of the
// product `next` bytes ("MN-major": there the stride is along k, and the leading offset across).
__device__ __forceinline__ unsigned long long turned_at(const void* p, int next) {
    return 1ULL << 62 | 1024ULL / 16 << 32 | (unsigned long long)next / 16 << 16 |
           (shared_address(p) & 0x3ffff) / 16;
}

// The same matrix, `bytes` further along k.
__device__ __forceinline__ unsigned long long moved(unsigned long long matrix, int bytes) {
    return matrix + bytes / 16;
}

// Before the first product, and after sums were touched.
__device__ __forceinline__ void products_begin() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void products_end_group() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until at most PENDING groups are under way.
template <int PENDING>
__device__ __forceinline__ void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

#define NAMES_64                                                                  \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES_128                                                                  \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

#define FOUR(v, i) "+f"(v[i]), "+f"(v[i + 1]), "+f"(v[i + 2]), "+f"(v[i + 3])
#define SIXTEEN(v, i) FOUR(v, i), FOUR(v, i + 4), FOUR(v, i + 8), FOUR(v, i + 12)
#define SUMS_64(v) SIXTEEN(v, 0), SIXTEEN(v, 16)
#define SUMS_128(v) SUMS_64(v), SIXTEEN(v, 32), SIXTEEN(v, 48)

// v += the product of 64 rows of a and N rows of b, over 16 numbers of k; the group of warps begins it
// together. Until the wait for it `v` and both matrices are the product's. TURNED: whether both are.
#define PRODUCT(NAME, TURNED, N, TYPE, PTX, A, B)                                                   \
    __device__ __forceinline__ void NAME(float (&v)[N / 2], unsigned long long a,                   \
                                         unsigned long long b, TYPE) {                              \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." PTX "." PTX                  \
                     " {" NAMES_##N "}, %" A ", %" B ", 1, 1, 1, " TURNED ", " TURNED ";"           \
                     : SUMS_##N(v)                                                                  \
                     : "l"(a), "l"(b));                                                             \
    }
#define PRODUCTS(NAME, TURNED)                               \
    PRODUCT(NAME, TURNED, 64, half16, "f16", "32", "33")     \
    PRODUCT(NAME, TURNED, 64, bfloat16, "bf16", "32", "33")  \
    PRODUCT(NAME, TURNED, 128, half16, "f16", "64", "65")    \
    PRODUCT(NAME, TURNED, 128, bfloat16, "bf16", "64", "65")
PRODUCTS(multiply, "0")
PRODUCTS(multiply_turned, "1")
