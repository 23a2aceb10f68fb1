// What kernels ask of the device beyond the language: 16-bit numbers and dynamic shared memory.
//
// No CUDA header is needed, so NVRTC compiles the sources wherever the driver is; numbers of 16
// bits are stored, and computed with in float.
#pragma once

struct half16 {
    unsigned short bits;
};

struct bfloat16 {
    unsigned short bits;
};

__device__ __forceinline__ float to_float(half16 v) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.bits));
    return f;
}

__device__ __forceinline__ float to_float(bfloat16 v) {
    return __uint_as_float((unsigned)v.bits << 16);
}

__device__ __forceinline__ half16 to_half(float v) {
    half16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h.bits) : "f"(v));
    return h;
}

// Round to nearest, ties to even, by integers: the instruction for it begins with sm_80.
__device__ __forceinline__ bfloat16 to_bfloat(float v) {
    const unsigned bits = __float_as_uint(v);
    bfloat16 b;
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        b.bits = (unsigned short)(bits >> 16 | 0x40u);  // NaN stays NaN
    else
        b.bits = (unsigned short)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
    return b;
}

#define DYNAMIC_SHARED(type, name)                          \
    extern __shared__ __align__(128) unsigned char name##_memory[]; \
    type* name = reinterpret_cast<type*>(name##_memory)
