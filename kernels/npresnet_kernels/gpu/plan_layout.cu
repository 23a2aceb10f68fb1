// What a plan's input passes through: another memory order, another element type; and sums.
//
// OTHER is the type of what comes in.
#include "scalar.cuh"
#include "vector.cuh"

// (N, channels, pixels) to (N, pixels, vectors * VECTOR); zeros beyond the channels.
extern "C" __global__ void to_channels_last(const OTHER* x, scalar* y, int images, int channels,
                                            int pixels, int vectors) {
    for (long long n = blockIdx.y; n < images; n += gridDim.y)
        for (EACH(at, (long long)pixels * vectors)) {
            const long long pixel = at % pixels, vector = at / pixels;  // neighbours read neighbours
            Vector values;
#pragma unroll
            for (EACH_ELEMENT(k)) {
                const long long c = vector * VECTOR + k;
                values.v[k] =
                    c < channels ? (float)Scalar<OTHER>::load(x[(n * channels + c) * pixels + pixel])
                                 : 0.0f;
            }
            store_vector(y, (n * pixels + pixel) * vectors + vector, values);
        }
}

// (N, pixels, channels) to (N, channels, pixels): what a flattened map is.
extern "C" __global__ void to_channels_first(const OTHER* x, scalar* y, int images, int channels,
                                             int pixels) {
    for (long long n = blockIdx.y; n < images; n += gridDim.y)
        for (EACH(at, (long long)pixels * channels)) {
            const long long pixel = at % pixels, c = at / pixels;
            const float v = (float)Scalar<OTHER>::load(x[(n * pixels + pixel) * channels + c]);
            store(y, n * pixels * channels + at, v);
        }
}

extern "C" __global__ void cast(const OTHER* x, scalar* y, long long total) {
    for (EACH(i, total)) store_vector(y, i, load_vector(x, i));
}

extern "C" __global__ void add(const OTHER* x, const scalar* y, scalar* sum, long long total) {
    for (EACH(i, total)) {
        Vector a = load_vector(x, i);
        const Vector b = load_vector(y, i);
#pragma unroll
        for (EACH_ELEMENT(k)) a.v[k] += b.v[k];
        store_vector(sum, i, a);
    }
}
