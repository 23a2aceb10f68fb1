// CUDA's language on the host: runs a kernel's text, compiled by g++, one block after another.
//
// A block's threads are fibers on stacks of their own. A thread runs until it ends or waits, for
// its block (__syncthreads) or its warp (shuffles, votes, __syncwarp); who is waited for runs
// next, forwards and backwards through the block in turn, so that a missing barrier shows. Errors:
// a barrier that not all threads reach, or not at the same line; a warp operation whose lanes
// disagree; a wait that nothing can end; a write behind the dynamic shared memory; what a header's
// body refuses. Shared memory is filled with NaN before each block.
//
// What C++ can't say (PTX) a kernel reaches through headers of its own, *.cuh; where this folder has
// a namesake of such a header, its bodies are compiled in its place. Bodies of warp-wide
// instructions use shim::all_lanes, which shows each lane the values of all; shim::lane() and
// shim::thread() tell who asks. shim::wait_until waits for what other threads do.


#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <ucontext.h>
#include <utility>

using std::isinf;
using std::isnan;

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
// One section holds all static shared memory of a file, so that it can be filled before a block.
#define __shared__ static __attribute__((section("shim_shared")))

struct uint3 { unsigned x, y, z; };
using dim3 = uint3;
static uint3 threadIdx, blockIdx, blockDim, gridDim;
static const int warpSize = 32;

#define SHIM_VECTORS(name, type, bytes)                                                          \
    struct alignas(2 * bytes) name##2 { type x, y; };                                            \
    struct alignas(4 * bytes > 16 ? 16 : 4 * bytes) name##4 { type x, y, z, w; };                \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }                             \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
SHIM_VECTORS(float, float, 4)
SHIM_VECTORS(int, int, 4)
SHIM_VECTORS(uint, unsigned, 4)
SHIM_VECTORS(double, double, 8)
#undef SHIM_VECTORS

namespace shim {

enum State { READY, AT_BLOCK, AT_WARP, WAITING, DONE };

struct Fiber {
    jmp_buf here;
    ucontext_t start;
    char* stack = nullptr;
    bool begun = false;
    State state;
    uint3 index;
    int line;
    unsigned mask;     // a warp operation's lanes
    const void* mine;  // what this lane shows the others,
    void* all;         // where it wants to see all 32 of them,
    size_t size;       // and the bytes of one
    bool (*ended)(const void*, int);  // a wait is over when it is true of these two
    const void* object;
    int argument;
};

const size_t STACK = 256 * 1024;
const size_t SHARED_GUARD = 64;
const int MOST = 1024;

static Fiber fibers[MOST];
static int current;
static jmp_buf scheduler;
static ucontext_t scheduler_start;
static void (*invoke)(void**);
static void** arguments;
static char* dynamic_shared;
static size_t dynamic_size;
static char message[512];
static bool refused;
static const char* (*block_ended)();  // a header's look at what a block leaves: null, or an error
static bool (*idle)();                // a header's work while all threads wait: whether there was any

inline int lane() { return current % 32; }
inline int thread() { return current; }

inline void give_way() {
    if (!_setjmp(fibers[current].here)) _longjmp(scheduler, 1);
}

static void body() {
    for (;;) {  // once a block
        invoke(arguments);
        fibers[current].state = DONE;
        give_way();
    }
}

inline void resume(int t) {
    Fiber& f = fibers[t];
    current = t;
    threadIdx = f.index;
    if (_setjmp(scheduler)) return;
    if (f.begun) _longjmp(f.here, 1);
    f.begun = true;
    if (!f.stack)
        f.stack = (char*)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    getcontext(&f.start);
    f.start.uc_stack.ss_sp = f.stack;
    f.start.uc_stack.ss_size = STACK;
    f.start.uc_link = nullptr;
    makecontext(&f.start, body, 0);
    setcontext(&f.start);
}

inline void barrier(int line) {
    fibers[current].state = AT_BLOCK;
    fibers[current].line = line;
    give_way();
}

// Shows `mine` to all lanes of `mask` and fills all[l] with what lane l showed.
inline void collect(unsigned mask, int line, const void* mine, void* all, size_t size) {
    Fiber& f = fibers[current];
    f.state = AT_WARP;
    f.line = line;
    f.mask = mask;
    f.mine = mine;
    f.all = all;
    f.size = size;
    give_way();
}

inline void wait_until(bool (*ended)(const void*, int), const void* object, int argument) {
    Fiber& f = fibers[current];
    while (!ended(object, argument)) {
        f.state = WAITING;
        f.line = 0;
        f.ended = ended;
        f.object = object;
        f.argument = argument;
        give_way();
    }
}

// Ends the launch: a device would fault, hang or compute something else.
[[noreturn]] inline void refuse(const char* what) {
    snprintf(message, sizeof message, "%s: thread %d of block (%u, %u, %u)", what, current, blockIdx.x,
             blockIdx.y, blockIdx.z);
    refused = true;
    for (;;) give_way();
}

template <class V>
struct Lanes {
    V value[32];
};

template <class V>
inline Lanes<V> all_lanes(unsigned mask, int line, V mine) {
    Lanes<V> all;
    collect(mask, line, &mine, &all, sizeof(V));
    return all;
}

inline bool fail(const char* what, int t, int u) {
    snprintf(message, sizeof message,
             "%s: thread %d (line %d) and thread %d (line %d) of block (%u, %u, %u)", what, t,
             fibers[t].line, u, fibers[u].line, blockIdx.x, blockIdx.y, blockIdx.z);
    return false;
}

// Lets a warp's waiting lanes go on if all lanes that they wait for have come; false on an error.
inline bool release_warp(int first, int count, bool& released) {
    for (int t = first; t < count && t < first + 32; ++t) {
        Fiber& f = fibers[t];
        if (f.state != AT_WARP) continue;
        if (!(f.mask >> (t - first) & 1)) return fail("a lane outside its own mask", t, t);
        bool complete = true;
        for (int u = first; u < first + 32; ++u) {
            if (!(f.mask >> (u - first) & 1)) continue;
            if (u >= count || fibers[u].state == DONE)
                return fail("a warp operation waits for a lane that is gone", t, u < count ? u : t);
            if (fibers[u].state != AT_WARP) complete = false;
            else if (fibers[u].mask != f.mask || fibers[u].size != f.size || fibers[u].line != f.line)
                return fail("lanes of a warp operation disagree", t, u);
        }
        if (!complete) continue;
        const unsigned mask = f.mask;
        for (int u = first; u < first + 32; ++u)
            for (int v = first; mask >> (u - first) & 1 && v < first + 32; ++v)
                if (mask >> (v - first) & 1)
                    memcpy((char*)fibers[u].all + (v - first) * f.size, fibers[v].mine, f.size);
        for (int u = first; u < first + 32; ++u)
            if (mask >> (u - first) & 1) fibers[u].state = READY;
        released = true;
    }
    return true;
}

inline void release_waiting(int count, bool& released) {
    for (int t = 0; t < count; ++t) {
        Fiber& f = fibers[t];
        if (f.state != WAITING || !f.ended(f.object, f.argument)) continue;
        f.state = READY;
        released = true;
    }
}

inline bool release_block(int count, bool& released) {
    int at = 0, done = 0, waiting = -1, other = -1;
    for (int t = 0; t < count; ++t) {
        if (fibers[t].state == DONE) ++done, other = t;
        if (fibers[t].state == AT_BLOCK) {
            if (waiting >= 0 && fibers[t].line != fibers[waiting].line)
                return fail("__syncthreads reached at two places", waiting, t);
            waiting = t;
            ++at;
        }
    }
    if (at && done) return fail("__syncthreads that an ended thread never reaches", waiting, other);
    if (at != count) return true;
    for (int t = 0; t < count; ++t) fibers[t].state = READY;
    released = true;
    return true;
}

inline bool run_block(int count, unsigned turn) {
    for (int t = 0; t < count; ++t) {
        fibers[t].state = READY;
        fibers[t].line = 0;
        fibers[t].index = {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
    }
    for (;; ++turn) {
        for (int i = 0; i < count; ++i) {
            const int t = turn % 2 ? count - 1 - i : i;
            if (fibers[t].state == READY) resume(t);
            if (refused) return false;
        }
        int done = 0;
        for (int t = 0; t < count; ++t) done += fibers[t].state == DONE;
        if (done == count) return true;
        bool released = false;
        for (int first = 0; first < count; first += 32)
            if (!release_warp(first, count, released)) return false;
        if (!release_block(count, released)) return false;
        release_waiting(count, released);
        if (!released && idle && idle()) released = true;
        if (!released) {
            int a = 0, b = 0;
            for (int t = 0; t < count; ++t) {
                if (fibers[t].state == AT_BLOCK) a = t;
                if (fibers[t].state == AT_WARP || fibers[t].state == WAITING) b = t;
            }
            return fail("deadlock", a, b);
        }
    }
}

template <class T>
struct Code {
    static const char value = sizeof(T) == 4 ? 'i' : sizeof(T) == 8 ? 'q' : '?';
};
template <class T>
struct Code<T*> {
    static const char value = 'p';
};
template <>
struct Code<float> {
    static const char value = 'f';
};
template <>
struct Code<double> {
    static const char value = 'd';
};

template <class... A>
const char* signature(void (*)(A...)) {
    static const char codes[] = {Code<A>::value..., 0};
    return codes;
}

template <class... A, size_t... I>
void apply(void (*kernel)(A...), void** values, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<A>*>(values[I])...);
}

template <class... A>
void apply(void (*kernel)(A...), void** values) {
    apply(kernel, values, std::index_sequence_for<A...>{});
}

}  // namespace shim

extern "C" char __start_shim_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_shim_shared[] __attribute__((weak, visibility("hidden")));

namespace shim {

inline size_t static_shared() { return __stop_shim_shared - __start_shim_shared; }

// Runs a whole grid; returns null, or what went wrong.
inline const char* launch(void (*kernel)(void**), const unsigned* shape, void** values) {
    gridDim = {shape[0], shape[1], shape[2]};
    blockDim = {shape[3], shape[4], shape[5]};
    dynamic_size = shape[6];
    const int count = blockDim.x * blockDim.y * blockDim.z;
    invoke = kernel;
    arguments = values;
    char* memory = (char*)aligned_alloc(1024, (dynamic_size + 2 * SHARED_GUARD + 1023) / 1024 * 1024);
    dynamic_shared = memory;
    message[0] = 0;
    refused = false;
    bool fine = true;
    for (unsigned z = 0; fine && z < gridDim.z; ++z)
        for (unsigned y = 0; fine && y < gridDim.y; ++y)
            for (unsigned x = 0; fine && x < gridDim.x; ++x) {
                blockIdx = {x, y, z};
                if (static_shared()) memset(__start_shim_shared, 0xff, static_shared());
                memset(memory, 0xff, dynamic_size + SHARED_GUARD);
                fine = run_block(count, x + y + z);
                const char* left = block_ended ? block_ended() : nullptr;
                if (fine && left) {
                    snprintf(message, sizeof message, "%s: block (%u, %u, %u)", left, x, y, z);
                    fine = false;
                }
                for (size_t i = 0; fine && i < SHARED_GUARD; ++i)
                    if (memory[dynamic_size + i] != (char)0xff) {
                        snprintf(message, sizeof message,
                                 "a write behind the %zu bytes of dynamic shared memory by block "
                                 "(%u, %u, %u)", dynamic_size, x, y, z);
                        fine = false;
                    }
            }
    free(memory);
    for (Fiber& f : fibers) f.begun = f.begun && fine;  // after an error, begin anew
    return fine ? nullptr : message;
}

}  // namespace shim

#define SHIM_EXPORT(name)                                                                        \
    static void name##__invoke(void** values) { shim::apply(name, values); }                     \
    extern "C" const char* name##__signature() { return shim::signature(name); }                 \
    extern "C" const char* name##__launch(const unsigned* shape, void** values) {                \
        return shim::launch(name##__invoke, shape, values);                                      \
    }

#define __syncthreads() shim::barrier(__LINE__)
#define __syncwarp(...) shim::all_lanes<char>(shim::one_mask(__VA_ARGS__), __LINE__, 0)
#define __shfl_sync(mask, value, ...) shim::shuffle(mask, __LINE__, value, __VA_ARGS__)
#define __shfl_xor_sync(mask, value, lanes) \
    shim::shuffle(mask, __LINE__, value, shim::lane() ^ (lanes))
#define __shfl_down_sync(mask, value, lanes) \
    shim::shuffle(mask, __LINE__, value, shim::lane() + (lanes) > 31 ? shim::lane() : shim::lane() + (lanes))
#define __shfl_up_sync(mask, value, lanes) \
    shim::shuffle(mask, __LINE__, value, shim::lane() < (lanes) ? shim::lane() : shim::lane() - (lanes))
#define __ballot_sync(mask, truth) shim::ballot(mask, __LINE__, truth)
#define __any_sync(mask, truth) (shim::ballot(mask, __LINE__, truth) != 0)
#define __all_sync(mask, truth) (shim::ballot(mask, __LINE__, truth) == (mask))

namespace shim {
inline unsigned one_mask(unsigned mask = 0xffffffffu) { return mask; }

template <class V>
inline V shuffle(unsigned mask, int line, V value, int from) {
    return all_lanes(mask, line, value).value[from & 31];
}

inline unsigned ballot(unsigned mask, int line, bool truth) {
    Lanes<bool> all = all_lanes(mask, line, truth);
    unsigned votes = 0;
    for (int i = 0; i < 32; ++i)
        if (mask >> i & 1 && all.value[i]) votes |= 1u << i;
    return votes;
}
}  // namespace shim

template <class T>
inline T __ldg(const T* p) {
    return *p;
}
template <class T>
inline T atomicAdd(T* p, T v) {
    T old = *p;
    *p = old + v;
    return old;
}
template <class T>
inline T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
inline T max(T a, T b) {
    return a < b ? b : a;
}
template <class To, class From>
inline To shim_bits(From v) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    memcpy(&to, &v, sizeof to);
    return to;
}
inline float __int_as_float(int v) { return shim_bits<float>(v); }
inline float __uint_as_float(unsigned v) { return shim_bits<float>(v); }
inline int __float_as_int(float v) { return shim_bits<int>(v); }
inline unsigned __float_as_uint(float v) { return shim_bits<unsigned>(v); }
inline double __longlong_as_double(long long v) { return shim_bits<double>(v); }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline float rsqrtf(float v) { return 1.0f / std::sqrt(v); }
inline double rsqrt(double v) { return 1.0 / std::sqrt(v); }
