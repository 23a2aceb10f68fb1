"""The host shim itself: it runs kernels as a device would, and notices what a device would not."""

from __future__ import annotations

import numpy as np
import pytest

from tests.shim import build
from tests.shim.build import ShimError

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="needs g++")

KERNELS = """
extern "C" __global__ void reverse(const float* x, float* y, int n) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[blockIdx.x * n + threadIdx.x];
    __syncthreads();
    y[blockIdx.x * n + threadIdx.x] = tile[n - 1 - threadIdx.x];
}
extern "C" __global__ void no_barrier(const float* x, float* y, int n) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = tile[n - 1 - threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(64) warp_sum(const float* x, float* y) {
    float v = x[threadIdx.x];
    for (int lanes = 16; lanes > 0; lanes /= 2) v += __shfl_xor_sync(0xffffffffu, v, lanes);
    if (__ballot_sync(0xffffffffu, threadIdx.x % 2) != 0xaaaaaaaau) v = -1;
    __syncwarp();
    y[threadIdx.x] = v;
}
extern "C" __global__ void some_leave() {
    if (threadIdx.x == 3) return;
    __syncthreads();
}
extern "C" __global__ void two_barriers() {
    if (threadIdx.x < 5) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}
extern "C" __global__ void warp_against_block() {
    if (threadIdx.x < 5)
        __syncthreads();
    else
        __syncwarp();
}
extern "C" __global__ void half_a_warp() {
    if (threadIdx.x < 16) __syncwarp();
}
extern "C" __global__ void behind_the_end(int n) {
    float* tile = reinterpret_cast<float*>(shim::dynamic_shared);
    tile[threadIdx.x + n] = 1;
}
extern "C" __global__ void place(int* out) {
    const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    out[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}
extern "C" __global__ void scalars(double* out, int a, long long b, float c, double d) {
    out[0] = a;
    out[1] = b;
    out[2] = c;
    out[3] = d;
}
"""


@pytest.fixture(scope="module")
def run():
    library = build.compiled(KERNELS, ())

    def run(name, grid, block, *arguments, shared=0):
        values = []
        for a in arguments:
            if isinstance(a, np.ndarray):
                values.append(("p", np.uint64(a.ctypes.data).tobytes()))
            else:
                kind = {"int32": "i", "int64": "q", "float32": "f", "float64": "d"}[a.dtype.name]
                values.append((kind, a.tobytes()))
        build.launch(library, name, grid, block, values, shared)

    return run


def test_shared_memory_and_barriers(run, rng):
    x = rng.standard_normal((5, 64)).astype(np.float32)
    y = np.empty_like(x)
    run("reverse", (5,), (64,), x, y, np.int32(64))
    np.testing.assert_array_equal(y, x[:, ::-1])


def test_a_missing_barrier_shows(run, rng):
    x = rng.standard_normal(64).astype(np.float32)
    y = np.empty_like(x)
    run("no_barrier", (1,), (64,), x, y, np.int32(64))
    assert np.isnan(y).any()


def test_warps(run, rng):
    x = rng.integers(0, 9, 64).astype(np.float32)
    y = np.empty_like(x)
    run("warp_sum", (1,), (64,), x, y)
    np.testing.assert_array_equal(y, x.reshape(2, 32).sum(1).repeat(32))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("some_leave", "that an ended thread never reaches"),
        ("two_barriers", "reached at two places"),
        ("warp_against_block", "deadlock"),
        ("half_a_warp", "waits for a lane that is gone"),
    ],
)
def test_divergence_is_an_error(run, name, message):
    with pytest.raises(ShimError, match=rf"{name}: .*{message}.* of block \(0, 0, 0\)"):
        run(name, (2,), (32,))


def test_a_write_behind_dynamic_shared_memory_is_an_error(run):
    run("behind_the_end", (1,), (32,), np.int32(0), shared=128)
    with pytest.raises(ShimError, match="a write behind the 128 bytes"):
        run("behind_the_end", (1,), (32,), np.int32(1), shared=128)


def test_three_dimensions(run):
    out = np.zeros((24, 60), np.int32)
    run("place", (4, 3, 2), (5, 4, 3), out)
    np.testing.assert_array_equal(out, np.arange(24)[:, None] * 1000 + np.arange(60))


def test_arguments(run):
    out = np.empty(4)
    values = np.int32(-3), np.int64(1 << 40), np.float32(0.5), np.float64(1e-300)
    run("scalars", (1,), (1,), out, *values)
    np.testing.assert_array_equal(out, [-3, 2.0**40, 0.5, 1e-300])
    with pytest.raises(ShimError, match="takes arguments 'piqfd', got 'pqqfd'"):
        run("scalars", (1,), (1,), out, np.int64(-3), *values[1:])


@pytest.mark.parametrize(("grid", "block"), [((1, 70000), (32,)), ((1,), (1025,)), ((0,), (32,))])
def test_launch_limits(run, grid, block):
    with pytest.raises(ShimError, match="can't be launched"):
        run("some_leave", grid, block)


def test_an_error_of_the_compiler_is_shown():
    with pytest.raises(ShimError, match=r"error: .*nonsense"):
        build.compiled("nonsense", ())
