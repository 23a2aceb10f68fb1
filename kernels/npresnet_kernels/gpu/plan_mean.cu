// The mean of each map of (N, pixels, vectors * VECTOR) images, and its gradient. OTHER is the type of
// the means. A row of the grid works on an image.
#include "scalar.cuh"
#include "vector.cuh"

extern "C" __global__ void mean_of_maps(const scalar* x, OTHER* y, int images, int pixels,
                                        int vectors) {
    __shared__ float space[256 * VECTOR];
    const int first = blockIdx.x * blockDim.x, vector = first + threadIdx.x;
    for (long long n = blockIdx.y; n < images; n += gridDim.y) {
        Vector sum = load_vector((const scalar*)nullptr, 0, 0.0f);
        if (vector < vectors)
            for (int pixel = threadIdx.y; pixel < pixels; pixel += blockDim.y) {
                const Vector seen = load_vector(x, (n * pixels + pixel) * vectors + vector);
#pragma unroll
                for (EACH_ELEMENT(k)) sum.v[k] += seen.v[k];
            }
        fold_rows(sum.v, space, [&](int lane, int k, float total) {
            if (first + lane < vectors)
                y[(n * vectors + first + lane) * VECTOR + k] = Scalar<OTHER>::store(total / pixels);
        });
    }
}

extern "C" __global__ void mean_of_maps_grad(const OTHER* grad_y, scalar* grad_x, int images,
                                             int pixels, int vectors) {
    for (long long n = blockIdx.y; n < images; n += gridDim.y)
        for (EACH(at, (long long)pixels * vectors)) {
            Vector grad = load_vector(grad_y, n * vectors + at % vectors);
#pragma unroll
            for (EACH_ELEMENT(k)) grad.v[k] /= pixels;
            store_vector(grad_x, n * pixels * vectors + at, grad);
        }
}
