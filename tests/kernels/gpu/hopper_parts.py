"""Copies by TMA and products by wgmma, each by itself, on whatever ``array_module`` is.

On a device that is new to all this, what fails here says which of the layouts is other than the
documents were read.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from npresnet_kernels.gpu.device import array_module
from npresnet_kernels.gpu.source import with_headers
from npresnet_kernels.gpu.tensor_map import box_map, pixel_map

KERNELS = """#include "device.cuh"
#include "hopper.cuh"
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
// out (64, 128) of squares of 64 x 64: one of a's, two of b's. Plain: a b^T, k in columns. Turned:
// a^T b, k in rows, b's squares side by side, `next` bytes from one to the other.
extern "C" __global__ void product(const __grid_constant__ TensorMap a,
                                   const __grid_constant__ TensorMap b, float* out, int is_turned,
                                   int next, int shift) {
    SWIZZLED_SHARED(memory);
    Barrier* barrier = reinterpret_cast<Barrier*>(memory + 3 * 8192);
    if (threadIdx.x == 0) {
        barrier_init(barrier, 1);
        barriers_ready();
        barrier_expect(barrier, 3 * 8192);
        copy_box(memory, &a, barrier, 0, 0);
        copy_box(memory + 8192, &b, barrier, 0, 0);
        copy_box(memory + 2 * 8192, &b, barrier, is_turned ? 64 : 0, is_turned ? 0 : 64);
    }
    __syncthreads();
    barrier_wait(barrier, 0);
    float sums[64] = {};
    products_begin();
    if (is_turned)
        for (int k = 0; k < 64 * 128; k += 16 * 128)
            multiply_turned(sums, moved(turned_at(memory + shift, 0), k),
                            moved(turned_at(memory + 8192, next), k), half16());
    else
        for (int k = 0; k < 128; k += 32)
            multiply(sums, moved(matrix_at(memory + shift), k), moved(matrix_at(memory + 8192), k),
                     half16());
    products_end_group();
    products_wait<0>();
    for (int s = 0; s < 64; ++s) {
        const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + s / 2 % 2 * 8;
        out[row * 128 + s / 4 * 8 + threadIdx.x % 4 * 2 + s % 2] = sums[s];
    }
}
"""
EXAMPLE = [7, 0, 9, 10, 11, 0, 0, 0, 0, 0, 17, 18, 19, 0, 21, 22]


@functools.cache
def _module(xp: Any) -> Any:
    options = ("-arch=sm_90a", "-std=c++14")
    return xp.RawModule(code=with_headers(KERNELS), options=options)


def run(name: str, block: int, *arguments: Any) -> None:
    """Launch a kernel of this file in one block."""
    values = [np.int32(a) if isinstance(a, int) else a for a in arguments]
    _module(array_module()).get_function(name)((1,), (block,), tuple(values), shared_mem=25600)


def unswizzled(rows: np.ndarray) -> np.ndarray:
    """Rows of 64 numbers as a swizzled copy left them, in order."""
    places = np.arange(8) ^ np.arange(len(rows))[:, None] % 8
    pieces = rows.reshape(len(rows), 8, 8)
    return np.take_along_axis(pieces, places[:, :, None], 1).reshape(rows.shape)


def copied(
    x: np.ndarray,
    box: Any,
    start: tuple[int, int, int, int],
    offsets: tuple[int, int],
    pixels: int = 16,
    shift: int = 0,
    expected: int | None = None,
) -> np.ndarray:
    """Copy a column of pixels."""
    xp = array_module()
    images = xp.asarray(x)  # a map doesn't keep it alive
    made = pixel_map(images, *box, pixels)
    out = xp.zeros((pixels, 64), np.float16)
    size = pixels * 128 if expected is None else expected
    run("pixels", 64, made, out, pixels, *start, *offsets, size, shift)
    return unswizzled(xp.asnumpy(out))


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    """Images whose channels all are the pixel's number, from 1 on."""
    numbers = np.arange(1, 1 + np.prod(shape)).reshape(*shape, 1)
    return np.broadcast_to(numbers, (*shape, 64)).astype(np.float16)


def check_a_column() -> None:
    """It runs on from image to image: the example of Triton's tutorial on TMA's im2col mode."""
    rows = copied(numbered((2, 4, 4)), ((-1, -1), (4, 4), (1, 1)), (0, 2, 1, 0), (0, 0))
    np.testing.assert_array_equal(rows, np.repeat(np.array(EXAMPLE)[:, None], 64, 1))


def check_offsets(step: tuple[int, int], rng: np.random.Generator) -> None:
    """Columns of a strided window, at two of its taps, over the end of the last image."""
    x = rng.integers(1, 99, (3, 7, 6, 128)).astype(np.float16)
    size = tuple((n + 1) // s for n, s in zip((7, 6), step, strict=True))
    padded = np.pad(x, ((0, 1), (1, 9), (1, 9), (0, 0)))  # behind the last image are zeros
    first = 2 * size[0] * size[1] + size[1] + 1  # of the last image, its second row
    start = (64, step[1] - 1, step[0] - 1, 2)
    for dh, dw in ((0, 0), (2, 1)):
        moved = padded[:, dh:, dw:, 64:]
        ends = (size[0] * step[0], size[1] * step[1])
        truth = moved[:, : ends[0] : step[0], : ends[1] : step[1]].reshape(-1, 64)
        made = copied(x, ((-1, -1), size, step), start, (dw, dh))
        np.testing.assert_array_equal(made, truth[first : first + 16])


def check_a_box(rng: np.random.Generator) -> None:
    """Beyond a matrix there are zeros."""
    xp = array_module()
    x = rng.integers(1, 99, (20, 96)).astype(np.float16)
    out, matrix = xp.zeros((16, 64), np.float16), xp.asarray(x)
    run("box", 64, box_map(matrix, x.shape, 16), out, 16, 64, 8)
    truth = np.pad(x, ((0, 4), (0, 32)))[8:24, 64:128]
    np.testing.assert_array_equal(unswizzled(xp.asnumpy(out)), truth)


def multiplied(
    turned: bool, rng: np.random.Generator, following: int = 8192, shift: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return a product (64, 128), and what it should be."""
    xp = array_module()
    a = rng.standard_normal((64, 64)).astype(np.float16)
    b = rng.standard_normal((64, 128) if turned else (128, 64)).astype(np.float16)
    there = xp.asarray(a), xp.asarray(b)
    maps = (box_map(m, m.shape, 64) for m in there)
    out = xp.zeros((64, 128), np.float32)
    run("product", 128, *maps, out, int(turned), following, shift)
    left, right = a.astype(np.float64), b.astype(np.float64)
    return xp.asnumpy(out), left.T @ right if turned else left @ right.T


def check_a_product(turned: bool, rng: np.random.Generator) -> None:
    """By matrices that two copies brought."""
    result, truth = multiplied(turned, rng)
    np.testing.assert_allclose(result, truth, atol=1e-4)
