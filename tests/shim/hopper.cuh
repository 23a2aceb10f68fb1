// The host's bodies of npresnet_kernels/gpu/hopper.cuh: same names, same meaning, the device's rules.
//
// A product is done when it is waited for, the last moment that a device may choose; copies in every
// other block when they are asked for, else when all threads wait. So a stage that is filled too early
// or read too early shows. While a product holds sums they are NaN. Descriptors are read bit by bit as the PTX ISA writes them; maps are
// those of fake_driver.py.
#pragma once
#include <functional>
#include <vector>

#define SWIZZLED_SHARED(name) unsigned char* name = reinterpret_cast<unsigned char*>(shim::dynamic_shared)

struct TensorMap {
    unsigned char opaque[128];
};
template <>
struct shim::Code<TensorMap> {
    static const char value = 'm';
};

typedef unsigned long long Barrier;

namespace shim {

struct Map {  // fake_driver.py's
    unsigned magic, mode, element, rank;
    unsigned long long address;
    unsigned size[4];               // of each dimension, the innermost first
    unsigned long long stride[3];   // bytes between neighbours, from the second dimension on
    int lower[2], upper[2];         // corners (w, h) of the box of pixels
    unsigned step[4];
    unsigned box[2];                // elements of a row, and rows
    unsigned swizzle;
};
enum { MAGIC = 0x70616d74, PIXELS = 1, BOX = 2, SWIZZLE_128 = 3 };

// 16 bytes c of a row at c ^ row % 8, for rows of 128 bytes that begin on a multiple of 1024
inline size_t swizzled(size_t address) { return address ^ (address >> 7 & 7) << 4; }

struct Counter {  // in place of a Barrier
    unsigned short count, pending;
    unsigned bytes : 31, phase : 1;
};

inline Counter& counter(const Barrier* barrier) {
    Counter& c = *(Counter*)barrier;
    const char* at = (const char*)barrier;
    if ((size_t)at % 8 || at < dynamic_shared || at + 8 > dynamic_shared + dynamic_size)
        refuse("a barrier that isn't 8 aligned bytes of dynamic shared memory");
    if (c.count == 0xffff) refuse("a barrier that isn't initialised");
    return c;
}

inline void end_phase(Counter& c) {
    if (c.pending || c.bytes) return;
    c.phase ^= 1;
    c.pending = c.count;
}

inline bool phase_ended(const void* barrier, int parity) {
    return (int)((const Counter*)barrier)->phase != parity;
}

inline Map map_of(const TensorMap* map, unsigned mode, unsigned rank) {
    Map m;
    memcpy(&m, map, sizeof m);
    if (m.magic != MAGIC || m.mode != mode || m.rank != rank) refuse("a copy by a map of another kind");
    if (m.swizzle != SWIZZLE_128) refuse("a copy that isn't swizzled by 128 bytes");
    return m;
}

// Row `row` of a copy; zeros if there is nothing to read.
inline void put_row(const Map& m, char* to, unsigned row, const char* from, int first) {
    for (unsigned k = 0; k < m.box[0]; ++k) {
        const long long place = (long long)first + k;
        const bool inside = from && place >= 0 && place < m.size[0];
        char* at = (char*)swizzled((size_t)to + row * 128 + k * m.element);
        if (inside) memcpy(at, from + place * m.element, m.element);
        else memset(at, 0, m.element);
    }
}

inline void begin_copy(const Map& m, const char* to, Barrier* barrier) {
    if ((size_t)to % 1024) refuse("a swizzled copy to an address that isn't a multiple of 1024");
    if (to < dynamic_shared || to + m.box[1] * 128 > dynamic_shared + dynamic_size)
        refuse("a copy that leaves dynamic shared memory");
    if (m.box[0] * m.element != 128) refuse("a copy whose rows aren't 128 bytes");
    if (counter(barrier).bytes < m.box[1] * 128) refuse("a copy of more bytes than its barrier expects");
}

static std::vector<std::function<void()>> copies;  // under way

inline bool end_copies() {
    const bool any = !copies.empty();
    for (const auto& copy : copies) copy();
    copies.clear();
    return any;
}

template <class F>
inline void do_copy(const Map& m, Barrier* barrier, F fill) {
    copies.push_back([=] {
        fill();
        Counter& c = *(Counter*)barrier;
        c.bytes -= m.box[1] * 128;
        end_phase(c);
    });
    if ((blockIdx.x + blockIdx.y + blockIdx.z) % 2 == 0) end_copies();
}

typedef unsigned long long Matrix;

// Where number k of a row of a matrix is, by the fields of its descriptor. Turned ("MN-major"), 64 numbers
// of one k are a row in memory: the leading offset leads to the next 64, the stride to the next 8 of k.
template <bool TURNED>
inline const char* in_matrix(Matrix matrix, int row, int k) {
    const size_t start = (matrix & 0x3fff) << 4, leading = (matrix >> 16 & 0x3fff) << 4;
    const size_t stride = (matrix >> 32 & 0x3fff) << 4;
    const size_t place = TURNED ? row / 64 * leading + k / 8 * stride + k % 8 * 128 + row % 64 * 2
                                : row / 8 * stride + row % 8 * 128 + k * 2;
    const size_t at = swizzled(start + place);
    if (at + 2 > dynamic_size) refuse("a matrix that leaves dynamic shared memory");
    return dynamic_shared + at;
}

template <bool TURNED>
inline void check_matrix(Matrix matrix) {
    const size_t start = (matrix & 0x3fff) << 4;
    if (matrix >> 62 != 1) refuse("a matrix that isn't swizzled by 128 bytes");
    if (matrix >> 49 & 7) refuse("a matrix with a base offset, where its rows begin on a multiple of 1024");
    if (matrix & 0x3ff1c000c000c000) refuse("a matrix with bits where its descriptor has none");
    if (start % 1024 + (TURNED ? 128 : 32) > 128) refuse("a swizzled matrix that doesn't begin on a multiple of 1024");
}

template <int N, bool TURNED, class T>
void add_product(float* sums, Matrix a, Matrix b) {
    const int t = thread() % 128, g = t % 32 / 4;
    float left[2][16], right[16];
    T bits;
    for (int i = 0; i < 2; ++i)
        for (int k = 0; k < 16; ++k) {
            memcpy(&bits, in_matrix<TURNED>(a, t / 32 * 16 + g + 8 * i, k), 2);
            left[i][k] = to_float(bits);
        }
    for (int j = 0; j < N / 8; ++j)
        for (int e = 0; e < 2; ++e) {
            for (int k = 0; k < 16; ++k) {
                memcpy(&bits, in_matrix<TURNED>(b, 8 * j + t % 4 * 2 + e, k), 2);
                right[k] = to_float(bits);
            }
            for (int i = 0; i < 2; ++i)
                for (int k = 0; k < 16; ++k) sums[4 * j + 2 * i + e] += left[i][k] * right[k];
        }
}

struct Product {
    Matrix a, b;
    int group;
    void (*add)(float*, Matrix, Matrix);
};

struct Multiplier {  // a thread's products
    bool begun = false;
    int groups = 0;
    float* sums = nullptr;  // held by products,
    std::vector<float> values;  // and what they are
    std::vector<Product> products;
};

static Multiplier multipliers[MOST];
static Matrix taken[MOST / 32];  // of each warp, what it has multiplied
static const float HELD = NAN;

static const char* products_left() {
    const char* wrong = nullptr;
    const int count = blockDim.x * blockDim.y * blockDim.z;
    for (int t = 0; t < count; ++t) {
        if (multipliers[t].sums) wrong = "products that were never waited for";
        if (taken[t / 32] != taken[t / 128 * 4]) wrong = "a product that not all four warps take part in";
        multipliers[t] = Multiplier();
    }
    for (Matrix& t : taken) t = 0;
    if (!copies.empty()) wrong = "copies that were never waited for";
    copies.clear();
    return wrong;
}

}  // namespace shim

inline unsigned shared_address(const void* p) { return (unsigned)((const char*)p - shim::dynamic_shared); }

inline void barrier_init(Barrier* barrier, int count) {
    *barrier = 0;
    shim::Counter& c = shim::counter(barrier);
    if (count < 1 || count > 1024) shim::refuse("a barrier for no thread, or for more than a block has");
    c.count = c.pending = count;
}
inline void barriers_ready() {}
inline void barrier_arrive(Barrier* barrier) {
    shim::Counter& c = shim::counter(barrier);
    if (!c.pending) shim::refuse("more arrivals than a barrier counts");
    --c.pending;
    shim::end_phase(c);
}
inline void barrier_expect(Barrier* barrier, int bytes) {
    shim::Counter& c = shim::counter(barrier);
    if (bytes < 0 || c.bytes + bytes >= 1 << 20) shim::refuse("more bytes than a barrier counts");
    c.bytes += bytes;
    barrier_arrive(barrier);
}
inline void barrier_wait(Barrier* barrier, int parity) {
    shim::counter(barrier);
    if (parity != 0 && parity != 1) shim::refuse("a parity that is neither 0 nor 1");
    shim::wait_until(shim::phase_ended, barrier, parity);
}

inline void copy_pixels(void* to, const TensorMap* map, Barrier* barrier, int c, int w, int h, int n,
                        int dw, int dh) {
    const shim::Map m = shim::map_of(map, shim::PIXELS, 4);
    shim::begin_copy(m, (const char*)to, barrier);
    const int first[2] = {w, h}, offset[2] = {dw, dh};
    int low[2], high[2], at[2];
    for (int d = 0; d < 2; ++d) {
        if (offset[d] < 0 || offset[d] > 255) shim::refuse("an offset that isn't from 0 to 255");
        low[d] = m.lower[d] + offset[d];
        high[d] = (int)m.size[d + 1] - 1 + m.upper[d] + offset[d];
        at[d] = first[d] + offset[d];
        if (at[d] < low[d] || at[d] > high[d]) shim::refuse("a first pixel outside the map's box");
    }
    const auto fill = [=] {
        int x = at[0], y = at[1], image = n;
        for (unsigned row = 0; row < m.box[1]; ++row) {
            const bool inside = x >= 0 && x < (int)m.size[1] && y >= 0 && y < (int)m.size[2] &&
                                image >= 0 && image < (int)m.size[3];
            const long long place = x * (long long)m.stride[0] + y * (long long)m.stride[1] +
                                    image * (long long)m.stride[2];
            shim::put_row(m, (char*)to, row, inside ? (const char*)m.address + place : nullptr, c);
            if ((x += m.step[1]) <= high[0]) continue;
            x = low[0];
            if ((y += m.step[2]) <= high[1]) continue;
            y = low[1];
            ++image;
        }
    };
    shim::do_copy(m, barrier, fill);
}

inline void copy_box(void* to, const TensorMap* map, Barrier* barrier, int column, int row) {
    const shim::Map m = shim::map_of(map, shim::BOX, 2);
    shim::begin_copy(m, (const char*)to, barrier);
    shim::do_copy(m, barrier, [=] {
        for (unsigned r = 0; r < m.box[1]; ++r) {
            const long long at = (long long)row + r;
            const char* from = at >= 0 && at < m.size[1] ? (const char*)m.address + at * m.stride[0] : nullptr;
            shim::put_row(m, (char*)to, r, from, column);
        }
    });
}

inline unsigned long long matrix_at(const void* p) {
    return 1ULL << 62 | 1024ULL / 16 << 32 | 1ULL << 16 | (shared_address(p) & 0x3ffff) / 16;
}
inline unsigned long long turned_at(const void* p, int next) {
    return 1ULL << 62 | 1024ULL / 16 << 32 | (unsigned long long)next / 16 << 16 |
           (shared_address(p) & 0x3ffff) / 16;
}
inline unsigned long long moved(unsigned long long matrix, int bytes) { return matrix + bytes / 16; }

inline void products_begin() {
    shim::all_lanes(0xffffffffu, __LINE__, 0);
    shim::multipliers[shim::thread()].begun = true;
}

namespace shim {
template <bool TURNED, int HALF, class T>
inline void begin_product(float (&v)[HALF], Matrix a, Matrix b) {
    static_assert(sizeof(T) == 2 && (HALF == 32 || HALF == 64), "no such product in hopper.cuh");
    struct Pair {
        Matrix a, b;
    };
    const auto pairs = all_lanes(0xffffffffu, __LINE__, Pair{a, b});
    Multiplier& mine = multipliers[thread()];
    for (const Pair& pair : pairs.value)
        if (pair.a != a || pair.b != b) refuse("a product whose lanes have other matrices");
    check_matrix<TURNED>(a);
    check_matrix<TURNED>(b);
    if (!mine.begun) refuse("a product that doesn't follow products_begin");
    if (mine.sums && mine.sums != v) refuse("a product whose sums aren't those under way");
    if (!mine.sums) {
        mine.sums = v;
        mine.values.assign(v, v + HALF);
        for (float& held : v) held = HELD;
    }
    mine.products.push_back({a, b, mine.groups, add_product<2 * HALF, TURNED, T>});
    if (!lane()) taken[thread() / 32] = (taken[thread() / 32] + a) * 31 + b;
}
}  // namespace shim

template <int HALF, class T>
inline void multiply(float (&v)[HALF], unsigned long long a, unsigned long long b, T) {
    shim::begin_product<false, HALF, T>(v, a, b);
}
template <int HALF, class T>
inline void multiply_turned(float (&v)[HALF], unsigned long long a, unsigned long long b, T) {
    shim::begin_product<true, HALF, T>(v, a, b);
}

inline void products_end_group() {
    shim::all_lanes(0xffffffffu, __LINE__, 0);
    ++shim::multipliers[shim::thread()].groups;
}

template <int PENDING>
inline void products_wait() {
    shim::all_lanes(0xffffffffu, __LINE__, 0);
    shim::Multiplier& mine = shim::multipliers[shim::thread()];
    size_t done = 0;
    while (done < mine.products.size() && mine.products[done].group < mine.groups - PENDING) {
        const shim::Product& p = mine.products[done++];
        p.add(mine.values.data(), p.a, p.b);
    }
    mine.products.erase(mine.products.begin(), mine.products.begin() + done);
    if (!mine.sums || !mine.products.empty()) return;
    for (size_t i = 0; i < mine.values.size(); ++i) {
        if (memcmp(mine.sums + i, &shim::HELD, 4)) shim::refuse("sums that were written while a product held them");
        mine.sums[i] = mine.values[i];
    }
    mine.sums = nullptr;
    mine.begun = false;
}

static const bool shim_hooks =
    (shim::block_ended = shim::products_left, shim::idle = shim::end_copies, true);
