// The host's bodies of npresnet_kernels/gpu/device.cuh: same names, same meaning.
#pragma once

struct half16 {
    unsigned short bits;
};

struct bfloat16 {
    unsigned short bits;
};

inline float to_float(half16 v) { return (float)shim_bits<_Float16>(v.bits); }
inline float to_float(bfloat16 v) { return __uint_as_float((unsigned)v.bits << 16); }
inline half16 to_half(float v) { return {shim_bits<unsigned short>((_Float16)v)}; }
inline bfloat16 to_bfloat(float v) {
    const unsigned bits = __float_as_uint(v);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {(unsigned short)(bits >> 16 | 0x40u)};
    return {(unsigned short)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}

#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(shim::dynamic_shared)
