"""The shim's copies, barriers and products of Hopper: what a device does, and what it forbids."""

from __future__ import annotations

import numpy as np
import pytest

from npresnet_kernels.gpu.errors import DeviceError
from npresnet_kernels.gpu.tensor_map import box_map, pixel_map
from tests.kernels.gpu import hopper_parts as parts
from tests.shim import build, fake_cupy
from tests.shim.build import ShimError

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="needs g++")

KERNELS = """// begin device.cuh
// end device.cuh
// begin hopper.cuh
// end hopper.cuh
// A ring of two places: thread 0 fills each with the numbers from 1, the others add them up.
extern "C" __global__ void ring(int* out, int count, int arrivals) {
    SWIZZLED_SHARED(memory);
    int* places = reinterpret_cast<int*>(memory);
    Barrier* full = reinterpret_cast<Barrier*>(memory + 64);
    Barrier* empty = full + 2;
    if (threadIdx.x == 0)
        for (int s = 0; s < 2; ++s) {
            barrier_init(full + s, 1);
            barrier_init(empty + s, arrivals);
        }
    __syncthreads();
    if (threadIdx.x == 0)
        for (int i = 0; i < count; ++i) {
            if (i > 1) barrier_wait(empty + i % 2, (i / 2 - 1) % 2);
            places[i % 2] = i + 1;
            barrier_arrive(full + i % 2);
        }
    else {
        int sum = 0;
        for (int i = 0; i < count; ++i) {
            barrier_wait(full + i % 2, i / 2 % 2);
            sum += places[i % 2];
            barrier_arrive(empty + i % 2);
        }
        out[threadIdx.x - 1] = sum;
    }
}
extern "C" __global__ void arrive(int initialised) {
    SWIZZLED_SHARED(memory);
    Barrier* barrier = reinterpret_cast<Barrier*>(memory);
    if (initialised && threadIdx.x == 0) {
        barrier_init(barrier, 1);
        barrier_expect(barrier, 16);
    }
    barrier_arrive(barrier);
}
// out (64, 64) = a b' twice over, all (64, 64), swizzled here; `fault` is what is done wrong.
extern "C" __global__ void product(const half16* a, const half16* b, float* out, int fault) {
    SWIZZLED_SHARED(memory);
    for (int i = threadIdx.x; i < 64 * 64; i += 128) {
        const int at = i / 64 * 128 + (i % 64 / 8 ^ i / 64 % 8) * 16 + i % 8 * 2;
        *reinterpret_cast<half16*>(memory + at) = a[i];
        *reinterpret_cast<half16*>(memory + 8192 + at) = b[i];
    }
    __syncthreads();
    unsigned long long left = matrix_at(memory), right = matrix_at(memory + 8192);
    if (fault == 2 && threadIdx.x == 5) left = moved(left, 32);
    if (fault == 3) left = matrix_at(memory + 128);
    if (fault == 4) left &= ~(3ULL << 62);
    if (fault == 5) right ^= 96ULL << 32;  // groups of rows 512 bytes apart
    if (fault == 6) left |= 1ULL << 49;
    if (fault == 7) left |= 1ULL << 52;
    float sums[32] = {};
    const bool three = fault == 8 && threadIdx.x >= 96;
    if (!three) {
        if (fault != 1) products_begin();
        for (int k = 0; k < 128; k += 32) multiply(sums, moved(left, k), moved(right, k), half16());
        products_end_group();
        for (int k = 0; k < 128; k += 32) multiply(sums, moved(left, k), moved(right, k), half16());
        if (fault != 9) products_end_group();
        if (fault == 10) sums[3] = 0;
        if (fault == 11) products_wait<1>();
        else products_wait<0>();
    }
    for (int s = 0; s < 32; ++s) {
        const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + s / 2 % 2 * 8;
        out[row * 64 + s / 4 * 8 + threadIdx.x % 4 * 2 + s % 2] = sums[s];
    }
}
"""


@pytest.fixture(scope="module")
def module():
    return fake_cupy.RawModule(code=KERNELS)


@pytest.fixture(autouse=True)
def device():
    with fake_cupy.installed(), fake_cupy.Device(0):
        yield


def run(module, name, block, *arguments):
    values = [np.int32(a) if isinstance(a, int) else a for a in arguments]
    module.get_function(name)((1,), (block,), values, shared_mem=16384)


def test_a_column_of_pixels_runs_on_from_image_to_image():
    parts.check_a_column()


@pytest.mark.parametrize("step", [(1, 1), (2, 2), (2, 1)])
def test_offsets_and_strides(step, rng):
    parts.check_offsets(step, rng)


@pytest.mark.parametrize(
    ("start", "offsets", "more", "message"),
    [
        ((0, 3, 0, 0), (0, 0), {}, "a first pixel outside the map's box"),
        ((0, 0, 0, 0), (0, 256), {}, "an offset that isn't from 0 to 255"),
        ((0, 0, 0, 0), (0, 0), {"shift": 128}, "isn't a multiple of 1024"),
        ((0, 0, 0, 0), (0, 0), {"expected": 1024}, "more bytes than its barrier expects"),
        ((0, 0, 0, 0), (0, 0), {"expected": 4096}, "deadlock"),
        ((0, 0, 0, 0), (0, 0), {"pixels": 256}, "leaves dynamic shared memory"),
    ],
)
def test_copies_that_a_device_forbids(start, offsets, more, message):
    x = parts.numbered((1, 4, 4))
    with pytest.raises(ShimError, match=message):
        parts.copied(x, ((-1, -1), (4, 4), (1, 1)), start, offsets, **more)


def test_a_box_of_a_matrix_has_zeros_outside(rng):
    parts.check_a_box(rng)


def test_a_map_of_another_kind():
    matrix = fake_cupy.zeros((20, 96), np.float16)
    made, out = box_map(matrix, matrix.shape, 16), fake_cupy.zeros((16, 64), np.float16)
    with pytest.raises(ShimError, match="a map of another kind"):
        parts.run("pixels", 64, made, out, 16, 0, 0, 0, 0, 0, 0, 2048, 0)


def test_maps_that_the_driver_refuses():
    x = fake_cupy.zeros((1, 4, 4, 64), np.float16)
    for low, step in (((-129, 0), (1, 1)), ((0, 0), (1, 9))):
        with pytest.raises(DeviceError, match="cuTensorMapEncodeIm2col refuses an array"):
            pixel_map(x, low, (4, 4), step, 16)
    with pytest.raises(DeviceError, match="cuTensorMapEncodeTiled refuses an array"):
        box_map(x, (16, 60), 16)  # 120 bytes a row


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_ring_of_barriers(module, count):
    out = fake_cupy.zeros((63,), np.int32)
    run(module, "ring", 64, out, count, 63)
    assert (out.get() == count * (count + 1) // 2).all()


@pytest.mark.parametrize(("arrivals", "message"), [(64, "deadlock"), (1025, "a barrier for no")])
def test_barriers_that_nobody_passes(module, arrivals, message):
    with pytest.raises(ShimError, match=message):
        run(module, "ring", 64, fake_cupy.zeros((63,), np.int32), 3, arrivals)


def test_barriers_misused(module):
    with pytest.raises(ShimError, match="a barrier that isn't initialised: thread 0"):
        run(module, "arrive", 32, 0)
    with pytest.raises(ShimError, match="more arrivals than a barrier counts: thread 0"):
        run(module, "arrive", 32, 1)


def multiplied(module, rng, fault):
    a, b = rng.standard_normal((2, 64, 64)).astype(np.float16)
    out = fake_cupy.zeros((64, 64), np.float32)
    run(module, "product", 128, fake_cupy.asarray(a), fake_cupy.asarray(b), out, fault)
    return out.get(), 2 * a.astype(np.float64) @ b.T.astype(np.float64)


def test_a_product(module, rng):
    result, truth = multiplied(module, rng, 0)
    np.testing.assert_allclose(result, truth, atol=1e-4)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (1, "doesn't follow products_begin"),
        (2, "whose lanes have other matrices"),
        (3, "doesn't begin on a multiple of 1024"),
        (4, "isn't swizzled by 128 bytes"),
        (6, "a base offset"),
        (7, "bits where its descriptor has none"),
        (8, "not all four warps"),
        (9, "never waited for"),
        (10, "written while a product held them"),
        (11, "never waited for"),
    ],
)
def test_products_that_a_device_forbids(module, rng, fault, message):
    with pytest.raises(ShimError, match=message):
        multiplied(module, rng, fault)


@pytest.mark.parametrize("turned", [False, True])
def test_a_product_of_copies(turned, rng):
    parts.check_a_product(turned, rng)


def test_turned_matrices_misdescribed(rng):
    result, truth = parts.multiplied(True, rng, following=1024)  # the second half of the columns
    np.testing.assert_allclose(result[:, :64], truth[:, :64], atol=1e-4)
    assert np.abs(result[:, 64:] - truth[:, 64:]).max() > 1
    with pytest.raises(ShimError, match="doesn't begin on a multiple of 1024"):
        parts.multiplied(True, rng, shift=32)


def test_a_wrong_descriptor_multiplies_other_rows(module, rng):
    result, truth = multiplied(module, rng, 5)
    assert np.abs(result - truth).max() > 1
