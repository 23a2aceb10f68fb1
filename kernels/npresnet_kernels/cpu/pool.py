"""Max, average and adaptive average pooling: loops over windows, vectorised over channels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from npresnet_kernels.contract import Array, Pair, Shape
from npresnet_kernels.cpu.jit import jit
from npresnet_kernels.cpu.layout import nchw, nhwc
from npresnet_kernels.cpu.threads import run, spans
from npresnet_kernels.shapes import pool_output_size
from npresnet_kernels.windows import Bounds, adaptive_windows, average_windows

__all__ = [
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_grad",
    "avg_pool2d",
    "avg_pool2d_grad",
    "max_pool2d",
    "max_pool2d_grad",
]

GRAIN = 2**15
"""Elements of output in a part of the work."""


@jit
def _max_pool(
    x: Array,
    y: Array,
    indices: Array,
    start: int,
    stop: int,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    padding_h: int,
    padding_w: int,
    dilation_h: int,
    dilation_w: int,
) -> None:
    """Rows start to stop of the N * P rows of output pixels."""
    _, height, width, channels = x.shape
    _, out_height, out_width, _ = y.shape
    depth = np.uintp(channels)
    source = x.reshape(-1)
    best = y.reshape(-1)
    place = indices.reshape(-1)
    for line in range(start, stop):
        n = line // out_height
        top = (line - n * out_height) * stride_h - padding_h
        for q in range(out_width):
            here = np.uintp((line * out_width + q) * channels)
            for c in range(depth):
                best[here + c] = -np.inf
                place[here + c] = -1
            fresh = True
            for i in range(kernel_h):
                h = top + i * dilation_h
                if h < 0 or h >= height:
                    continue
                for j in range(kernel_w):
                    w = q * stride_w - padding_w + j * dilation_w
                    if w < 0 or w >= width:
                        continue
                    there = np.uintp(((n * height + h) * width + w) * channels)
                    at = h * width + w
                    for c in range(depth):
                        value = source[there + c]
                        known = best[here + c]
                        better = fresh or value > known or value != value
                        best[here + c] = value if better else known
                        place[here + c] = at if better else place[here + c]
                    fresh = False


def max_pool2d(
    x: Array,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil_mode: bool,
) -> tuple[Array, npt.NDArray[np.int64]]:
    """See the contract."""
    images, channels, height, width = x.shape
    out = pool_output_size((height, width), kernel_size, stride, padding, dilation, ceil_mode)
    y = np.empty((images, *out, channels), x.dtype)
    indices = np.empty(y.shape, np.int64)
    pixels = nhwc(x)
    parts = spans(images * out[0], out[1] * channels, GRAIN)

    def part(k: int) -> None:
        _max_pool(pixels, y, indices, *parts[k], *kernel_size, *stride, *padding, *dilation)

    run(part, len(parts))
    return nchw(y), nchw(indices)


@jit
def _max_pool_grad(
    grad: Array, indices: Array, dx: Array, first: int, last: int, c0: int, c1: int
) -> None:
    """Channels c0 to c1 of images first to last: one worker adds up all windows of a pixel."""
    _, out_height, out_width, channels = grad.shape
    plane = dx.shape[1] * dx.shape[2]
    source = grad.reshape(-1)
    place = indices.reshape(-1)
    target = dx.reshape(-1)
    for n in range(first, last):
        for pixel in range(n * plane, (n + 1) * plane):
            for k in range(np.uintp(pixel * channels + c0), np.uintp(pixel * channels + c1)):
                target[k] = 0
        for pixel in range(n * out_height * out_width, (n + 1) * out_height * out_width):
            here = np.uintp(pixel * channels)
            for c in range(np.uintp(c0), np.uintp(c1)):
                at = place[here + c]
                if at >= 0:
                    target[np.uintp((n * plane + at) * channels) + c] += source[here + c]


def max_pool2d_grad(
    grad_output: Array,
    indices: npt.NDArray[np.int64],
    input_shape: Shape,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Array:
    """See the contract; the windows of a pixel are added in their order, by one worker."""
    images, channels, height, width = input_shape
    dx = np.empty((images, height, width, channels), grad_output.dtype)
    grad, place = nhwc(grad_output), nhwc(indices)
    blocks = spans(channels, height * width)
    batches = spans(images, height * width * channels)

    def part(k: int) -> None:
        _max_pool_grad(grad, place, dx, *batches[k // len(blocks)], *blocks[k % len(blocks)])

    run(part, len(batches) * len(blocks))
    return nchw(dx)


@jit
def _window_mean(
    x: Array,
    y: Array,
    top: Array,
    bottom: Array,
    left: Array,
    right: Array,
    divisor: Array,
    start: int,
    stop: int,
) -> None:
    """Rows start to stop of the N * P rows of output pixels, summed in float64."""
    _, height, width, channels = x.shape
    _, out_height, out_width, _ = y.shape
    depth = np.uintp(channels)
    source = x.reshape(-1)
    target = y.reshape(-1)
    total = np.empty(channels, np.float64)
    for line in range(start, stop):
        n = line // out_height
        p = line - n * out_height
        for q in range(out_width):
            for c in range(depth):
                total[c] = 0
            for h in range(top[p], bottom[p]):
                for w in range(left[q], right[q]):
                    there = np.uintp(((n * height + h) * width + w) * channels)
                    for c in range(depth):
                        total[c] += source[there + c]
            here = np.uintp((line * out_width + q) * channels)
            for c in range(depth):
                target[here + c] = total[c] / divisor[p, q]


@jit
def _window_mean_grad(
    grad: Array,
    dx: Array,
    top: Array,
    bottom: Array,
    left: Array,
    right: Array,
    divisor: Array,
    start: int,
    stop: int,
) -> None:
    """Rows start to stop of the N * H rows of input pixels, gathered from their windows."""
    _, height, width, channels = dx.shape
    _, out_height, out_width, _ = grad.shape
    depth = np.uintp(channels)
    source = grad.reshape(-1)
    target = dx.reshape(-1)
    for line in range(start, stop):
        n = line // height
        h = line - n * height
        for k in range(np.uintp(line * width * channels), np.uintp((line + 1) * width * channels)):
            target[k] = 0
        for p in range(out_height):
            if h < top[p] or h >= bottom[p]:
                continue
            for q in range(out_width):
                there = np.uintp(((n * out_height + p) * out_width + q) * channels)
                for w in range(left[q], right[q]):
                    here = np.uintp((line * width + w) * channels)
                    for c in range(depth):
                        target[here + c] += source[there + c] / divisor[p, q]


def _mean(x: Array, rows: Bounds, cols: Bounds, divisor: Array) -> Array:
    """Sum of each window over its divisor."""
    images, channels, height, width = x.shape
    y = np.empty((images, *divisor.shape, channels), x.dtype)
    pixels = nhwc(x)
    cost = max(height * width // divisor.shape[0], divisor.shape[1]) * channels
    parts = spans(images * divisor.shape[0], cost, GRAIN)

    def part(k: int) -> None:
        _window_mean(pixels, y, *rows, *cols, divisor, *parts[k])

    run(part, len(parts))
    return nchw(y)


def _mean_grad(
    grad_output: Array, input_shape: Shape, rows: Bounds, cols: Bounds, divisor: Array
) -> Array:
    """Adjoint of :func:`_mean`."""
    images, channels, height, width = input_shape
    dx = np.empty((images, height, width, channels), grad_output.dtype)
    grad = nhwc(grad_output)
    shares = divisor.astype(grad.dtype)
    parts = spans(images * height, width * channels, GRAIN)

    def part(k: int) -> None:
        _window_mean_grad(grad, dx, *rows, *cols, shares, *parts[k])

    run(part, len(parts))
    return nchw(dx)


def avg_pool2d(
    x: Array,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Array:
    """See the contract."""
    size = (x.shape[2], x.shape[3])
    windows = average_windows(
        size, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )
    return _mean(x, *windows)


def avg_pool2d_grad(
    grad_output: Array,
    input_shape: Shape,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Array:
    """See the contract."""
    size = (input_shape[2], input_shape[3])
    windows = average_windows(
        size, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )
    return _mean_grad(grad_output, input_shape, *windows)


def adaptive_avg_pool2d(x: Array, output_size: Pair) -> Array:
    """See the contract."""
    return _mean(x, *adaptive_windows((x.shape[2], x.shape[3]), output_size))


def adaptive_avg_pool2d_grad(grad_output: Array, input_shape: Shape) -> Array:
    """See the contract."""
    output_size = (grad_output.shape[2], grad_output.shape[3])
    windows = adaptive_windows((input_shape[2], input_shape[3]), output_size)
    return _mean_grad(grad_output, input_shape, *windows)
