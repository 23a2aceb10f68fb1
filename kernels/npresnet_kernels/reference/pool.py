"""Pooling: the maximum or the mean of each window.

Windows of a max pool are walked a tap at a time, all output pixels at once. Windows of the two
average pools are rectangles [top, bottom) x [left, right), walked an output pixel at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from npresnet_kernels.contract import Array, Pair, Shape
from npresnet_kernels.shapes import pool_output_size
from npresnet_kernels.windows import Bounds, adaptive_windows, average_windows


def max_pool2d(
    x: Array,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil_mode: bool,
) -> tuple[Array, npt.NDArray[np.int64]]:
    """y[p, q] = max over taps (i, j) of x[p * sH - pH + i * dH, q * sW - pW + j * dW]."""
    images, channels, height, width = x.shape
    out = pool_output_size((height, width), kernel_size, stride, padding, dilation, ceil_mode)
    y = np.full((images, *out, channels), -np.inf, x.dtype)
    indices = np.full((images, *out, channels), -1, np.int64)
    for i, j in np.ndindex(*kernel_size):
        rows = np.arange(out[0]) * stride[0] - padding[0] + i * dilation[0]  # (P,) rows seen
        cols = np.arange(out[1]) * stride[1] - padding[1] + j * dilation[1]  # (Q,) columns seen
        p = np.flatnonzero((rows >= 0) & (rows < height))
        q = np.flatnonzero((cols >= 0) & (cols < width))
        here = np.ix_(np.arange(images), p, q, np.arange(channels))
        seen = x.transpose(0, 2, 3, 1)[:, rows[p]][:, :, cols[q]]  # (N, P', Q', C)
        place = (rows[p][:, None] * width + cols[q])[:, :, None]  # (P', Q', 1)
        better = (seen > y[here]) | np.isnan(seen) | (indices[here] < 0)
        y[here] = np.where(better, seen, y[here])
        indices[here] = np.where(better, place, indices[here])
    return y.transpose(0, 3, 1, 2), indices.transpose(0, 3, 1, 2)


def max_pool2d_grad(
    grad_output: Array,
    indices: npt.NDArray[np.int64],
    input_shape: Shape,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Array:
    """grad_x[h, w] = sum of grad_y over the windows whose index is h * W + w."""
    images, channels, height, width = input_shape
    n, c, _, _ = np.nonzero(indices >= 0)  # a window wholly in the padding has no index
    dx = np.zeros((images, height * width, channels), grad_output.dtype)
    np.add.at(dx, (n, indices[indices >= 0], c), grad_output[indices >= 0])
    return dx.reshape(images, height, width, channels).transpose(0, 3, 1, 2)


def _rectangles(rows: Bounds, cols: Bounds) -> Iterator[tuple[int, int, slice, slice]]:
    """Output pixel (p, q) with the rows and columns of its window."""
    for p, (top, bottom) in enumerate(zip(*rows, strict=True)):
        for q, (left, right) in enumerate(zip(*cols, strict=True)):
            yield p, q, slice(top, bottom), slice(left, right)


def _window_mean(x: Array, rows: Bounds, cols: Bounds, divisor: Array) -> Array:
    """y[p, q] = sum of window (p, q) / divisor[p, q]."""
    y = np.zeros((len(x), *divisor.shape, x.shape[1]), x.dtype)
    for p, q, tall, wide in _rectangles(rows, cols):
        y[:, p, q] = x[:, :, tall, wide].sum((2, 3), dtype=np.float64) / divisor[p, q]  # (N, C)
    return y.transpose(0, 3, 1, 2)


def _window_mean_grad(
    grad_output: Array,
    input_shape: Shape,
    rows: Bounds,
    cols: Bounds,
    divisor: Array,
) -> Array:
    """Each pixel of window (p, q) gets grad_y[p, q] / divisor[p, q]."""
    images, channels, height, width = input_shape
    dx = np.zeros((images, height, width, channels), grad_output.dtype)
    for p, q, tall, wide in _rectangles(rows, cols):
        dx[:, tall, wide] += (grad_output[:, :, p, q] / divisor[p, q])[:, None, None]
    return dx.transpose(0, 3, 1, 2)


def avg_pool2d(
    x: Array,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Array:
    """y[p, q] = sum of a window / its area, with or without the padding's share of it."""
    size = (x.shape[2], x.shape[3])
    windows = average_windows(
        size, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )
    return _window_mean(x, *windows)


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
    """grad_x[h, w] = sum of grad_y / divisor over the windows that hold (h, w)."""
    size = (input_shape[2], input_shape[3])
    windows = average_windows(
        size, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )
    return _window_mean_grad(grad_output, input_shape, *windows)


def adaptive_avg_pool2d(x: Array, output_size: Pair) -> Array:
    """y[p, q] = mean of x[floor(p H / P) : ceil((p + 1) H / P), the same for q]."""
    return _window_mean(x, *adaptive_windows((x.shape[2], x.shape[3]), output_size))


def adaptive_avg_pool2d_grad(grad_output: Array, input_shape: Shape) -> Array:
    """grad_x[h, w] = sum of grad_y / area over the windows that hold (h, w)."""
    output_size = (grad_output.shape[2], grad_output.shape[3])
    windows = adaptive_windows((input_shape[2], input_shape[3]), output_size)
    return _window_mean_grad(grad_output, input_shape, *windows)
