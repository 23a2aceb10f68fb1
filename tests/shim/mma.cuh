// The host's bodies of npresnet_kernels/gpu/mma.cuh: same names, same fragments.
#pragma once

inline void copy16(void* to, const void* from, bool inside) {
    if (((size_t)to | (size_t)from) % 16) abort();  // a device faults too
    if (inside)
        memcpy(to, from, 16);
    else
        memset(to, 0, 16);
}
inline void copies_end_group() {}
template <int PENDING>
inline void copies_wait() {}

inline void load_matrices(unsigned (&r)[4], const void* row) {
    if ((size_t)row % 16) abort();
    const auto rows = shim::all_lanes(0xffffffffu, __LINE__, (const char*)row);
    for (int m = 0; m < 4; ++m)
        memcpy(&r[m], rows.value[8 * m + shim::lane() / 4] + 4 * (shim::lane() % 4), 4);
}

struct Fragments {
    unsigned a[4], b[2];
};

inline float part(unsigned bits, int i, half16) { return to_float(half16{(unsigned short)(bits >> 16 * i)}); }
inline float part(unsigned bits, int i, bfloat16) { return to_float(bfloat16{(unsigned short)(bits >> 16 * i)}); }
// cvt.rna.tf32: to 10 bits of mantissa, ties away from zero
inline float part(unsigned bits, int, float) { return __uint_as_float((bits + 0x1000u) & 0xffffe000u); }

template <class T>
inline void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, T type) {
    const int packed = 4 / sizeof(T);  // numbers in a register
    const auto all = shim::all_lanes(0xffffffffu, __LINE__, Fragments{{a[0], a[1], a[2], a[3]}, {b0, b1}});
    const int g = shim::lane() / 4, t = shim::lane() % 4;
    for (int i = 0; i < 4; ++i) {
        const int below = i / 2, column = 2 * t + i % 2;
        for (int k = 0; k < 8 * packed; ++k) {
            const int half = k / (4 * packed), within = k % (4 * packed);
            const Fragments& left = all.value[4 * g + within / packed];
            const Fragments& right = all.value[4 * column + within / packed];
            c[i] += part(left.a[below + 2 * half], within % packed, type) *
                    part(right.b[half], within % packed, type);
        }
    }
}
