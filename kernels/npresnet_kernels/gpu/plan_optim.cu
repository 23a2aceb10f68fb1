// Optimizer steps over many float tensors a launch, all numbers of a step read from device memory.
//
// table: for each tensor `roles` addresses (parameter, gradient, moments) and its size; chunks: for
// each block its tensor and the number of its chunk of CHUNK elements there. clock: learning rate and
// steps done. scaling: loss scale, its inverse, and 1 if all gradients are finite, 0 if not; null
// stands for 1, 1, 1. A step that isn't finite changes nothing.
#include "device.cuh"

#define CHUNK 8192
#define EACH_CHUNK_ELEMENT(i)                                                   \
    long long i = start + threadIdx.x;                                          \
    i < stop;                                                                   \
    i += blockDim.x
#define OWN_CHUNK(roles)                                                        \
    const long long* entry = table + chunks[2 * blockIdx.x] * (roles + 1LL);    \
    const long long start = chunks[2 * blockIdx.x + 1] * (long long)CHUNK;      \
    const long long stop = start + CHUNK < entry[roles] ? start + CHUNK : entry[roles]

__device__ __forceinline__ float* tensor(const long long* entry, int role) {
    return reinterpret_cast<float*>(entry[role]);
}

__device__ __forceinline__ bool skipped(const float* scaling) { return scaling && scaling[2] == 0; }

__device__ __forceinline__ float unscale(const float* scaling) { return scaling ? scaling[1] : 1.0f; }

// A loss, where there is one, counts as the gradients do.
extern "C" __global__ void begin_finite(float* scaling, const float* loss) {
    scaling[2] = !loss || *loss - *loss == 0;
}

// scaling[2] becomes 0 if a gradient has an infinity or a NaN; who finds one writes the same.
extern "C" __global__ void find_infinite(const long long* table, const int* chunks, int roles,
                                         float* scaling) {
    OWN_CHUNK(roles);
    const float* grad = tensor(entry, 1);
    bool finite = true;
    for (EACH_CHUNK_ELEMENT(i)) finite &= grad[i] - grad[i] == 0;
    if (!finite) scaling[2] = 0;
}

extern "C" __global__ void count_step(double* clock, const float* scaling) {
    if (!skipped(scaling)) clock[1] += 1;
}

// Without momentum there are no buffers: `roles` is 2. On the first step a buffer becomes d.
extern "C" __global__ void sgd_step(const long long* table, const int* chunks, int roles,
                                    const double* clock, const float* scaling, double momentum,
                                    double dampening, double weight_decay, int nesterov) {
    if (skipped(scaling)) return;
    OWN_CHUNK(roles);
    float* parameter = tensor(entry, 0);
    const float* grad = tensor(entry, 1);
    float* buffer = roles > 2 ? tensor(entry, 2) : nullptr;
    const float rate = (float)clock[0], inverse = unscale(scaling);
    const bool first = clock[1] == 0;
    for (EACH_CHUNK_ELEMENT(i)) {
        const float p = parameter[i];
        float d = grad[i] * inverse;
        if (weight_decay != 0) d += (float)weight_decay * p;
        if (buffer) {
            float b = d;
            if (!first) b = (float)momentum * buffer[i] + (float)(1 - dampening) * d;
            buffer[i] = b;
            d = nesterov ? d + (float)momentum * b : b;
        }
        parameter[i] = p - rate * d;
    }
}

extern "C" __global__ void adamw_step(const long long* table, const int* chunks, int roles,
                                      const double* clock, const float* scaling, double beta1,
                                      double beta2, double eps, double weight_decay) {
    if (skipped(scaling)) return;
    __shared__ float numbers[3];  // what the step's number makes of the rate and the moments
    if (threadIdx.x == 0) {
        const double step = clock[1] + 1;
        numbers[0] = (float)(1 - clock[0] * weight_decay);
        numbers[1] = (float)(clock[0] / (1 - pow(beta1, step)));
        numbers[2] = (float)sqrt(1 - pow(beta2, step));
    }
    __syncthreads();
    OWN_CHUNK(roles);
    float *parameter = tensor(entry, 0), *mean = tensor(entry, 2), *square = tensor(entry, 3);
    const float* grad = tensor(entry, 1);
    const float inverse = unscale(scaling), keep = numbers[0], rate = numbers[1], root = numbers[2];
    for (EACH_CHUNK_ELEMENT(i)) {
        const float g = grad[i] * inverse;
        const float m = mean[i] + (float)(1 - beta1) * (g - mean[i]);
        const float v = (float)beta2 * square[i] + (float)(1 - beta2) * g * g;
        mean[i] = m;
        square[i] = v;
        parameter[i] = parameter[i] * keep - rate * m / (sqrtf(v) / root + (float)eps);
    }
}
