"""The shim's copies, barriers and products of Hopper: what a device does, and what it forbids."""

from __future__ import annotations

import numpy as np
import pytest

from npresnet_kernels.gpu.errors import DeviceError
from npresnet_kernels.gpu.tensor_map import box_map, pixel_map
from tests.shim import build, fake_cupy
from tests.shim.build import ShimError

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="needs g++")

KERNELS = """// begin device.cuh
// end device.cuh
// begin hopper.cuh
// end hopper.cuh
extern "C" __global__ void pixels(const __grid_constant__ TensorMap map, uint4* out, int rows,
                                  int c, int w, int h, int n, int dw, int dh, int expected,
                                  int shift) {
    SWIZZLED_SHARED(memory);
    Barrier* barrier = reinterpret_cast<Barrier*>(memory + 4096);
    if (threadIdx.x == 32) {
        barrier_init(barrier, 1);
        barriers_ready();
        barrier_expect(barrier, expected);
        copy_pixels(memory + shift, &map, barrier, c, w, h, n, dw, dh);
    }
    __syncthreads();
    barrier_wait(barrier, 0);
    for (int i = threadIdx.x; i < rows * 8; i += 64) out[i] = reinterpret_cast<uint4*>(memory)[i];
}
extern "C" __global__ void box(const __grid_constant__ TensorMap map, uint4* out, int rows,
                               int column, int row) {
    SWIZZLED_SHARED(memory);
    Barrier* barrier = reinterpret_cast<Barrier*>(memory + 4096);
    if (threadIdx.x == 0) {
        barrier_init(barrier, 1);
        barriers_ready();
        barrier_expect(barrier, rows * 128);
        copy_box(memory, &map, barrier, column, row);
    }
    __syncthreads();
    barrier_wait(barrier, 0);
    for (int i = threadIdx.x; i < rows * 8; i += 64) out[i] = reinterpret_cast<uint4*>(memory)[i];
}
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
// out (64, 128) = a^T b over 64 of k: a (64, 64) and b (2, 64, 64) lie with each k in a row.
extern "C" __global__ void turned(const half16* a, const half16* b, float* out, int next,
                                  int shift) {
    SWIZZLED_SHARED(memory);
    for (int i = threadIdx.x; i < 3 * 64 * 64; i += 128) {
        const int k = i / 64 % 64, at = i / 64 * 128 + (i % 64 / 8 ^ k % 8) * 16 + i % 8 * 2;
        *reinterpret_cast<half16*>(memory + at) = i < 64 * 64 ? a[i] : b[i - 64 * 64];
    }
    __syncthreads();
    const unsigned long long left = turned_at(memory + shift, 0);
    const unsigned long long right = turned_at(memory + 8192, next);
    float sums[64] = {};
    products_begin();
    for (int k = 0; k < 64 * 128; k += 16 * 128)
        multiply_turned(sums, moved(left, k), moved(right, k), half16());
    products_end_group();
    products_wait<0>();
    for (int s = 0; s < 64; ++s) {
        const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + s / 2 % 2 * 8;
        out[row * 128 + s / 4 * 8 + threadIdx.x % 4 * 2 + s % 2] = sums[s];
    }
}
"""
EXAMPLE = [7, 0, 9, 10, 11, 0, 0, 0, 0, 0, 17, 18, 19, 0, 21, 22]


@pytest.fixture(scope="module")
def module():
    return fake_cupy.RawModule(code=KERNELS)


@pytest.fixture(autouse=True)
def device():
    with fake_cupy.installed(), fake_cupy.Device(0):
        yield


def run(module, name, block, *arguments, shared=16384):
    values = [np.int32(a) if isinstance(a, int) else a for a in arguments]
    module.get_function(name)((1,), (block,), values, shared_mem=shared)


def unswizzled(rows):
    """Rows of 64 numbers as a swizzled copy left them, in order."""
    places = np.arange(8) ^ np.arange(len(rows))[:, None] % 8
    pieces = rows.reshape(len(rows), 8, 8)
    return np.take_along_axis(pieces, places[:, :, None], 1).reshape(rows.shape)


def copied(module, x, box, start, offsets, pixels=16, shift=0, expected=None):
    images = fake_cupy.asarray(x)  # a map doesn't keep it alive
    made = pixel_map(images, *box, pixels)
    out = fake_cupy.zeros((pixels, 64), np.float16)
    bytes_ = pixels * 128 if expected is None else expected
    run(module, "pixels", 64, made, out, pixels, *start, *offsets, bytes_, shift)
    return unswizzled(out.get())


def numbered(shape):
    return np.broadcast_to(np.arange(1, 1 + np.prod(shape)).reshape(*shape, 1), (*shape, 64))


def test_a_column_of_pixels_runs_on_from_image_to_image(module):
    """The example, with its results on a device, of Triton's tutorial on TMA's im2col mode."""
    x = numbered((2, 4, 4)).astype(np.float16)
    rows = copied(module, x, ((-1, -1), (4, 4), (1, 1)), (0, 2, 1, 0), (0, 0))
    np.testing.assert_array_equal(rows, np.repeat(np.array(EXAMPLE)[:, None], 64, 1))


@pytest.mark.parametrize("step", [(1, 1), (2, 2), (2, 1)])
def test_offsets_and_strides(module, step, rng):
    x = rng.integers(1, 99, (3, 7, 6, 128)).astype(np.float16)
    size = tuple((n + 1) // s for n, s in zip((7, 6), step, strict=True))
    padded = np.pad(x, ((0, 1), (1, 9), (1, 9), (0, 0)))  # behind the last image are zeros
    first = 2 * size[0] * size[1] + size[1] + 1  # of the last image, its second row
    start = (64, step[1] - 1, step[0] - 1, 2)
    for dh, dw in ((0, 0), (2, 1)):
        moved = padded[:, dh:, dw:, 64:]
        ends = (size[0] * step[0], size[1] * step[1])
        truth = moved[:, : ends[0] : step[0], : ends[1] : step[1]].reshape(-1, 64)
        made = copied(module, x, ((-1, -1), size, step), start, (dw, dh))
        np.testing.assert_array_equal(made, truth[first : first + 16])


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
def test_copies_that_a_device_forbids(module, start, offsets, more, message):
    x = numbered((1, 4, 4)).astype(np.float16)
    with pytest.raises(ShimError, match=message):
        copied(module, x, ((-1, -1), (4, 4), (1, 1)), start, offsets, **more)


def test_a_box_of_a_matrix_has_zeros_outside(module, rng):
    x = rng.integers(1, 99, (20, 96)).astype(np.float16)
    out = fake_cupy.zeros((16, 64), np.float16)
    matrix = fake_cupy.asarray(x)
    made = box_map(matrix, x.shape, 16)
    run(module, "box", 64, made, out, 16, 64, 8)
    truth = np.pad(x, ((0, 4), (0, 32)))[8:24, 64:128]
    np.testing.assert_array_equal(unswizzled(out.get()), truth)
    with pytest.raises(ShimError, match="a map of another kind"):
        run(module, "pixels", 64, made, out, 16, 0, 0, 0, 0, 0, 0, 2048, 0)


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


def test_a_product_of_turned_matrices(module, rng):
    a, b = rng.standard_normal((64, 64)), rng.standard_normal((2, 64, 64))
    a, b = a.astype(np.float16), b.astype(np.float16)
    truth = a.T.astype(np.float64) @ np.concatenate(b, 1).astype(np.float64)

    def made(following, shift):
        out = fake_cupy.zeros((64, 128), np.float32)
        arrays = fake_cupy.asarray(a), fake_cupy.asarray(b), out
        run(module, "turned", 128, *arrays, following, shift, shared=24576)
        return out.get()

    np.testing.assert_allclose(made(8192, 0), truth, atol=1e-4)
    wrong = made(1024, 0)  # the second half of the columns begins elsewhere
    np.testing.assert_allclose(wrong[:, :64], truth[:, :64], atol=1e-4)
    assert np.abs(wrong[:, 64:] - truth[:, 64:]).max() > 1
    with pytest.raises(ShimError, match="doesn't begin on a multiple of 1024"):
        made(8192, 32)


def test_a_wrong_descriptor_multiplies_other_rows(module, rng):
    result, truth = multiplied(module, rng, 5)
    assert np.abs(result - truth).max() > 1
