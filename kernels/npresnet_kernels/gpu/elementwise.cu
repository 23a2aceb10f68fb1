// ReLU, its gradient and the residual sum, an element a thread.
#include "scalar.cuh"

extern "C" __global__ void relu(const scalar* x, scalar* y, long long total) {
    for (EACH(i, total)) {
        const real v = load(x, i);
        store(y, i, v < 0 ? (real)0 : v);  // a NaN is not below 0
    }
}

extern "C" __global__ void relu_grad(const scalar* grad_output, const scalar* y, scalar* grad_input,
                                     long long total) {
    for (EACH(i, total))
        store(grad_input, i, load(y, i) <= 0 ? (real)0 : load(grad_output, i));
}

extern "C" __global__ void add(const scalar* x, const scalar* y, scalar* sum, long long total) {
    for (EACH(i, total)) store(sum, i, load(x, i) + load(y, i));
}
