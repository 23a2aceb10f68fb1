"""Convolution and its gradients without columns: products whose operands are gathered as they go.

With rows m = (n, p, q) and k = (i, j, c), y[m, o] = sum over k of x[n, p s + i d - pad, ..., c]
W[o, k] (Chetlur et al. 2014, *cuDNN: Efficient Primitives for Deep Learning*). The gradient of the
input is the same product over grad_y, once for each parity of the input's pixels: pixels
h = s h' + r meet the taps with s | r + pad - i d, and those meet row h' + (r + pad - i d) / s.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import numpy as np

from npresnet_kernels.contract import Array, Pair, Shape
from npresnet_kernels.gpu.device import array_module, blocks, empty, launch, scalar_type
from npresnet_kernels.gpu.memory import contiguous, from_rows, new_image
from npresnet_kernels.gpu.precision import get_precision
from npresnet_kernels.gpu.tiles import Tile, choose_tile, share_of, stage_depth
from npresnet_kernels.shapes import conv_output_size

__all__ = ["applies", "conv2d", "conv2d_grad_input", "conv2d_grad_weight"]

SOURCE = "implicit_gemm.cu"
MOST = 2**31 - 2**20
"""Pixels of a batch, and elements of one image, that the kernels' 32-bit integers count."""


class Tap(NamedTuple):
    """A place (i, j) of a window, and where it lies relative to a row's first pixel."""

    place: Pair
    delta: Pair


def applies(dtype: Any, shapes: tuple[Shape, Shape], groups: int) -> bool:
    """Whether these kernels compute a convolution between images of two shapes.

    float64 and groups are im2col's, and so are sizes that 32 bits don't count. TF32 needs sm_80.
    """
    if groups != 1 or dtype not in (np.float16, np.float32) or 0 in (*shapes[0], *shapes[1]):
        return False
    if any(n * h * w > MOST or (c + 8) * h * w > MOST for n, c, h, w in shapes):
        return False
    return _exact(dtype) or dtype == np.float16 or _capability() >= 80


def _capability() -> int:
    return int(array_module().cuda.Device().compute_capability)


def _exact(dtype: Any) -> bool:
    return bool(dtype == np.float32 and get_precision() == "fp32")


def _defines(x: Array, tile: Tile) -> dict[str, str | int]:
    exact = int(_exact(x.dtype))
    return {
        "SCALAR": scalar_type(x),
        "EXACT": exact,
        "TILE_M": tile.rows,
        "TILE_N": tile.columns,
    }


def _vector(dtype: Any) -> int:
    """Elements in the 16 bytes that a thread copies."""
    return 16 // int(np.dtype(dtype).itemsize)


def _padded(x: Array, axis: int) -> Array:
    """Dense, with zeros behind ``axis`` up to whole vectors, at an address of whole vectors."""
    xp = array_module()
    short = -x.shape[axis] % _vector(x.dtype)
    if not short:
        dense: Any = xp.ascontiguousarray(x)
        aligned: Array = dense if dense.data.ptr % 16 == 0 else dense.copy()
        return aligned
    shape = list(x.shape)
    shape[axis] += short
    wider: Array = xp.zeros(tuple(shape), x.dtype)
    wider[tuple(slice(n) for n in x.shape)] = x
    return wider


def _image(x: Array) -> Array:
    """(N, C, H, W) as (N, H, W, C), its channels padded."""
    return _padded(contiguous(x).transpose(0, 2, 3, 1), 3)


def delta_table(taps: tuple[Tap, ...], width: int, channels: int, vector: int) -> Array:
    """Return (taps * channels / vector, 4) int32: dh, dw, the offset in elements, 0."""
    table = np.zeros((len(taps), channels // vector, 4), np.int32)
    for row, ((_, _), (dh, dw)) in zip(table, taps, strict=True):
        row[:, 0], row[:, 1] = dh, dw
        row[:, 2] = (dh * width + dw) * channels + np.arange(0, channels, vector)
    return table.reshape(-1, 4)


@functools.lru_cache(maxsize=512)
def _table(device: int, taps: tuple[Tap, ...], width: int, channels: int, vector: int) -> Array:
    """The table on the current ``device``; at least one entry, so that it has an address."""
    made = delta_table(taps, width, channels, vector)
    on_device: Array = array_module().asarray(made if len(made) else np.zeros((1, 4), np.int32))
    return on_device


def _device_table(x: Array, taps: tuple[Tap, ...]) -> Array:
    """The table for an image (N, H, W, C)."""
    device = array_module().cuda.runtime.getDevice()
    return _table(device, taps, x.shape[2], x.shape[3], _vector(x.dtype))


def _window(kernel_size: Pair, padding: Pair, dilation: Pair) -> tuple[Tap, ...]:
    """The taps of a forward window, row by row."""
    return tuple(
        Tap((i, j), (i * dilation[0] - padding[0], j * dilation[1] - padding[1]))
        for i, j in itertools.product(*map(range, kernel_size))
    )


def parity_taps(
    parity: Pair, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> tuple[Tap, ...]:
    """Return the taps that input pixels of a parity meet, and the output pixels they lead to."""

    def along(axis: int) -> list[tuple[int, int]]:
        reach = [
            (i, parity[axis] + padding[axis] - i * dilation[axis]) for i in range(kernel_size[axis])
        ]
        return [(i, r // stride[axis]) for i, r in reach if r % stride[axis] == 0]

    return tuple(
        Tap((i, j), (dh, dw)) for (i, dh), (j, dw) in itertools.product(along(0), along(1))
    )


def _gather_product(
    x: Array,
    weight: Array,
    bias: Array | None,
    y: Array,
    taps: tuple[Tap, ...],
    size: Pair,
    step: Pair,
    y_step: Pair,
    y_first: Pair,
) -> None:
    """Write rows (n, p, q) < ``size`` of a product into the image ``y``, (N, H, W, O)."""
    rows, columns = len(x) * size[0] * size[1], y.shape[3]
    tile = choose_tile(rows, columns)
    vectors = len(taps) * x.shape[3] // _vector(x.dtype)
    sizes = (rows, columns, vectors, *x.shape[1:], *size, *step, *y.shape[1:3], *y_step, *y_first)
    launch(
        SOURCE,
        "gather_product",
        tile.grid(rows, columns),
        (x, weight, bias, y, _device_table(x, taps), *map(np.int32, sizes)),
        block=(tile.threads,),
        shared=tile.shared(3),
        defines=_defines(x, tile),
    )


def conv2d(
    x: Array, weight: Array, bias: Array | None, stride: Pair, padding: Pair, dilation: Pair
) -> Array:
    """One product."""
    outs, _, *kernel = weight.shape
    window = (kernel[0], kernel[1])
    size = conv_output_size((x.shape[2], x.shape[3]), window, stride, padding, dilation)
    y = new_image((len(x), outs, *size), x.dtype)
    packed = _padded(weight.transpose(0, 2, 3, 1), 3)  # (O, kH, kW, C)
    taps = _window(window, padding, dilation)
    image = y.transpose(0, 2, 3, 1)
    dense = None if bias is None else contiguous(bias)
    _gather_product(_image(x), packed, dense, image, taps, size, stride, (1, 1), (0, 0))
    return y


def conv2d_grad_input(
    grad_output: Array,
    weight: Array,
    input_shape: Shape,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Array:
    """A product for each parity of the input's pixels; zeros where no tap reaches."""
    kernel = (weight.shape[2], weight.shape[3])
    dx = new_image(input_shape, grad_output.dtype)
    dy, image = _image(grad_output), dx.transpose(0, 2, 3, 1)
    turned = _padded(weight.transpose(2, 3, 1, 0), 3)  # (kH, kW, C, O)
    xp = array_module()
    for parity in itertools.product(*map(range, stride)):
        first = (parity[0], parity[1])
        size = (
            -(-(input_shape[2] - first[0]) // stride[0]),
            -(-(input_shape[3] - first[1]) // stride[1]),
        )
        if min(size) < 1:
            continue
        taps = parity_taps(first, kernel, stride, padding, dilation)
        own = [turned[i, j] for (i, j), _ in taps]
        packed = xp.stack(own, axis=1) if own else turned  # (C, taps, O)
        _gather_product(dy, packed, None, image, taps, size, (1, 1), stride, first)
    return dx


def conv2d_grad_weight(
    grad_output: Array,
    x: Array,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Array:
    """Shares of the sum over pixels, then their sums in order."""
    dy, image = _image(grad_output), _image(x)
    taps = _window(kernel_size, padding, dilation)
    outs, channels = dy.shape[3], image.shape[3]
    pixels, width = dy.size // outs, len(taps) * channels
    stages = -(-pixels // stage_depth(x.itemsize))
    tile = choose_tile(outs, width, stages // 8)
    down, across = tile.grid(outs, width)
    share = share_of(down * across, stages)
    count = -(-stages // share)
    parts = empty((count, outs, width), np.float32)
    sizes = (pixels, outs, width // _vector(x.dtype), *image.shape[1:], *dy.shape[1:3], *stride)
    defines = _defines(x, tile)
    launch(
        SOURCE,
        "weight_product",
        (across, down, count),
        (image, dy, parts, _device_table(image, taps), *map(np.int32, (*sizes, share))),
        block=(tile.threads,),
        shared=tile.shared(2),
        defines=defines,
    )
    total = empty((outs, *kernel_size, channels), x.dtype)
    arguments = (parts, total, np.int32(count), total.size)
    launch(SOURCE, "add_parts", blocks(total.size), arguments, defines=defines)
    xp = array_module()
    own = total[: grad_output.shape[1], :, :, : x.shape[1]]
    grad: Array = xp.ascontiguousarray(from_rows(own))
    return grad
