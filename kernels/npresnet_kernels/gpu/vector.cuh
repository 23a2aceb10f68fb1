// VECTOR neighbouring elements of an array (by -DVECTOR=...), computed with in float; where they fill
// 16 bytes they are moved in one access, and stored so where they fill 8 (images of 4 channels).
#pragma once

struct Vector {
    float v[VECTOR];
};

template <class T>
__device__ __forceinline__ Vector load_vector(const T* p, long long at) {
    Vector values;
    if (VECTOR * sizeof(T) == 16) {
        const uint4 raw = *reinterpret_cast<const uint4*>(p + at * VECTOR);
        const T* elements = reinterpret_cast<const T*>(&raw);
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) values.v[k] = (float)Scalar<T>::load(elements[k]);
    } else {
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) values.v[k] = (float)Scalar<T>::load(p[at * VECTOR + k]);
    }
    return values;
}

// A constant where there is no array.
template <class T>
__device__ __forceinline__ Vector load_vector(const T* p, long long at, float constant) {
    if (p) return load_vector(p, at);
    Vector values;
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) values.v[k] = constant;
    return values;
}

template <class T>
__device__ __forceinline__ void store_vector(T* p, long long at, const Vector& values) {
    if (VECTOR * sizeof(T) == 16) {
        uint4 raw;
        T* elements = reinterpret_cast<T*>(&raw);
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) elements[k] = Scalar<T>::store(values.v[k]);
        *reinterpret_cast<uint4*>(p + at * VECTOR) = raw;
    } else if (VECTOR * sizeof(T) == 8) {
        uint2 raw;
        T* elements = reinterpret_cast<T*>(&raw);
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) elements[k] = Scalar<T>::store(values.v[k]);
        *reinterpret_cast<uint2*>(p + at * VECTOR) = raw;
    } else {
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) p[at * VECTOR + k] = Scalar<T>::store(values.v[k]);
    }
}

// A byte for each element, in one access too.
struct Bytes {
    unsigned char v[VECTOR];
};

__device__ __forceinline__ Bytes load_bytes(const unsigned char* p, long long at) {
    Bytes bytes;
    unsigned words[2] = {0, 0};
    if (VECTOR == 8) {
        const uint2 both = reinterpret_cast<const uint2*>(p)[at];
        words[0] = both.x;
        words[1] = both.y;
    } else if (VECTOR == 4) {
        words[0] = reinterpret_cast<const unsigned*>(p)[at];
    } else {
        words[0] = p[at];
    }
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) bytes.v[k] = (unsigned char)(words[k / 4] >> k % 4 * 8);
    return bytes;
}

__device__ __forceinline__ void store_bytes(unsigned char* p, long long at, const Bytes& bytes) {
    unsigned words[2] = {0, 0};
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) words[k / 4] |= (unsigned)bytes.v[k] << k % 4 * 8;
    if (VECTOR == 8)
        reinterpret_cast<uint2*>(p)[at] = make_uint2(words[0], words[1]);
    else if (VECTOR == 4)
        reinterpret_cast<unsigned*>(p)[at] = words[0];
    else
        p[at] = (unsigned char)words[0];
}

#define EACH_ELEMENT(k) int k = 0; k < VECTOR; ++k

// Sums over threadIdx.y of a block of 256 threads, blockDim.x a power of two to 32, in one fixed
// order. `space` holds 256 * COUNT floats; write(x, k, total) is called once for each threadIdx.x and
// each of a thread's COUNT sums.
template <int COUNT, class F>
__device__ __forceinline__ void fold_rows(float (&sums)[COUNT], float* space, F write) {
    const int lanes = blockDim.x, t = threadIdx.y * blockDim.x + threadIdx.x;
    for (int apart = 16; apart >= lanes; apart /= 2)
#pragma unroll
        for (int k = 0; k < COUNT; ++k) sums[k] += __shfl_xor_sync(0xffffffffu, sums[k], apart);
    if (t % 32 < lanes)
#pragma unroll
        for (int k = 0; k < COUNT; ++k) space[(t / 32 * lanes + t % 32) * COUNT + k] = sums[k];
    __syncthreads();
    for (int i = t; i < lanes * COUNT; i += 256) {
        float total = 0;
        for (int warp = 0; warp < 8; ++warp) total += space[warp * lanes * COUNT + i];
        write(i / COUNT, i % COUNT, total);
    }
    __syncthreads();
}
