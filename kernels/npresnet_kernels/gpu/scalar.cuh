// The element type of a compilation, and the types that it is computed in.
//
// SCALAR (float, double, half16 or bfloat16, by -DSCALAR=...) is what arrays hold; `real` is what
// one value is computed in (float for all but double); sums are taken in double.
#pragma once
#include "device.cuh"

template <class T>
struct Scalar {
    typedef T Real;
    static __device__ __forceinline__ Real load(T v) { return v; }
    static __device__ __forceinline__ T store(Real v) { return v; }
};

template <>
struct Scalar<half16> {
    typedef float Real;
    static __device__ __forceinline__ float load(half16 v) { return to_float(v); }
    static __device__ __forceinline__ half16 store(float v) { return to_half(v); }
};

template <>
struct Scalar<bfloat16> {
    typedef float Real;
    static __device__ __forceinline__ float load(bfloat16 v) { return to_float(v); }
    static __device__ __forceinline__ bfloat16 store(float v) { return to_bfloat(v); }
};

typedef SCALAR scalar;
typedef Scalar<scalar>::Real real;

__device__ __forceinline__ real load(const scalar* p, long long i) {
    return Scalar<scalar>::load(p[i]);
}

__device__ __forceinline__ void store(scalar* p, long long i, real v) {
    p[i] = Scalar<scalar>::store(v);
}

__device__ __forceinline__ real infinity() { return (real)__int_as_float(0x7f800000); }

// for each element of `total`, whatever the grid: `for (EACH(i, total))`
#define EACH(i, total)                                                     \
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;        \
    i < (total);                                                           \
    i += (long long)gridDim.x * blockDim.x
