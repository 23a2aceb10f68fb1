// What stands alone in a plan, element by element, computed in float; totals count vectors. A gate is a
// float for each image and channel: squeeze-and-excitation multiplies maps by it.
#include "scalar.cuh"
#include "vector.cuh"

extern "C" __global__ void relu(const scalar* x, scalar* y, long long total) {
    for (EACH(i, total)) {
        Vector v = load_vector(x, i);
#pragma unroll
        for (EACH_ELEMENT(k))
            if (v.v[k] < 0) v.v[k] = 0;  // a NaN stays
        store_vector(y, i, v);
    }
}

extern "C" __global__ void relu_grad(const scalar* grad_y, const scalar* y, scalar* grad_x,
                                     long long total) {
    for (EACH(i, total)) {
        Vector grad = load_vector(grad_y, i);
        const Vector out = load_vector(y, i);
#pragma unroll
        for (EACH_ELEMENT(k))
            if (out.v[k] <= 0) grad.v[k] = 0;  // a NaN isn't
        store_vector(grad_x, i, grad);
    }
}

extern "C" __global__ void sigmoid(const scalar* x, scalar* y, long long total) {
    for (EACH(i, total)) {
        Vector v = load_vector(x, i);
#pragma unroll
        for (EACH_ELEMENT(k)) v.v[k] = 1 / (1 + expf(-v.v[k]));
        store_vector(y, i, v);
    }
}

extern "C" __global__ void sigmoid_grad(const scalar* grad_y, const scalar* y, scalar* grad_x,
                                        long long total) {
    for (EACH(i, total)) {
        Vector grad = load_vector(grad_y, i);
        const Vector out = load_vector(y, i);
#pragma unroll
        for (EACH_ELEMENT(k)) grad.v[k] *= out.v[k] * (1 - out.v[k]);
        store_vector(grad_x, i, grad);
    }
}

// Times *number, or times a constant where that is null.
extern "C" __global__ void scale(const scalar* x, const float* number, float constant, scalar* y,
                                 long long total) {
    const float factor = number ? *number : constant;
    for (EACH(i, total)) {
        Vector v = load_vector(x, i);
#pragma unroll
        for (EACH_ELEMENT(k)) v.v[k] *= factor;
        store_vector(y, i, v);
    }
}

// Columns x_first, x_first + 1, ... of x (rows, x_pitch) to those from y_first on of y (rows, y_pitch);
// all of it counts vectors.
extern "C" __global__ void move_columns(const scalar* x, scalar* y, long long rows, int columns,
                                        int x_pitch, int x_first, int y_pitch, int y_first) {
    for (EACH(i, rows * columns)) {
        const long long row = i / columns, column = i % columns;
        store_vector(y, row * y_pitch + y_first + column,
                     load_vector(x, row * x_pitch + x_first + column));
    }
}

// (N, pixels, vectors * VECTOR) times (N, vectors * VECTOR); a row of the grid shares out an image.
extern "C" __global__ void gate(const scalar* x, const float* gates, scalar* y, int images,
                                int pixels, int vectors) {
    for (long long n = blockIdx.y; n < images; n += gridDim.y)
        for (EACH(at, (long long)pixels * vectors)) {
            Vector v = load_vector(x, n * pixels * vectors + at);
            const Vector g = load_vector(gates, n * vectors + at % vectors);
#pragma unroll
            for (EACH_ELEMENT(k)) v.v[k] *= g.v[k];
            store_vector(y, n * pixels * vectors + at, v);
        }
}

// grad_x = grad_y gate, and for each gate the sum of grad_y x over its pixels, in one order; grad_x
// may be grad_y itself.
extern "C" __global__ void gate_grad(const scalar* grad_y, const scalar* x, const float* gates,
                                     scalar* grad_x, float* grad_gates, int images, int pixels,
                                     int vectors) {
    __shared__ float space[256 * VECTOR];
    const int first = blockIdx.x * blockDim.x, vector = first + threadIdx.x;
    for (long long n = blockIdx.y; n < images; n += gridDim.y) {
        Vector sum = load_vector((const scalar*)nullptr, 0, 0.0f);
        if (vector < vectors) {
            const Vector g = load_vector(gates, n * vectors + vector);
            for (int pixel = threadIdx.y; pixel < pixels; pixel += blockDim.y) {
                const long long at = (n * pixels + pixel) * vectors + vector;
                Vector grad = load_vector(grad_y, at);
                const Vector seen = load_vector(x, at);
#pragma unroll
                for (EACH_ELEMENT(k)) {
                    sum.v[k] += grad.v[k] * seen.v[k];
                    grad.v[k] *= g.v[k];
                }
                store_vector(grad_x, at, grad);
            }
        }
        fold_rows(sum.v, space, [&](int lane, int k, float total) {
            if (first + lane < vectors)
                grad_gates[(n * vectors + first + lane) * VECTOR + k] = total;
        });
    }
}
