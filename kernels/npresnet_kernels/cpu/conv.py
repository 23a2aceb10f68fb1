"""Convolution and its gradients, im2col and col2im."""

from __future__ import annotations

import numpy as np

from npresnet_kernels.contract import Array, Pair, Shape
from npresnet_kernels.cpu.correlate import (
    Axis,
    correlate,
    gather,
    grad_weights,
    input_axis,
    output_axis,
)
from npresnet_kernels.cpu.jit import jit
from npresnet_kernels.cpu.layout import nchw, nhwc, rows_of, transpose_into
from npresnet_kernels.cpu.threads import run, spans
from npresnet_kernels.shapes import conv_output_size

__all__ = ["col2im", "conv2d", "conv2d_grad_input", "conv2d_grad_weight", "im2col"]


def _axes(
    size: Pair, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> tuple[Axis, Axis]:
    """What an output pixel sees, rows and columns."""
    counts = conv_output_size(size, kernel_size, stride, padding, dilation)
    rows, cols = (
        output_axis(*arguments)
        for arguments in zip(size, counts, kernel_size, stride, padding, dilation, strict=True)
    )
    return rows, cols


def _taps(weight: Array, rows: Axis, cols: Axis) -> Array:
    """(O, C / g, kH, kW) to contiguous (O, C / g, taps), of the taps that the axes name."""
    chosen = np.ascontiguousarray(weight[:, :, rows.kernel, cols.kernel])
    return chosen.reshape(*weight.shape[:2], rows.taps * cols.taps)


def im2col(
    x: Array,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    start: int = 0,
    stop: int | None = None,
) -> Array:
    """See the contract."""
    images, channels, height, width = x.shape
    p, q = conv_output_size((height, width), kernel_size, stride, padding, dilation)
    rows = Axis(height, p, stride[0], -padding[0], dilation[0], kernel_size[0], 0, 1)
    cols = Axis(width, q, stride[1], -padding[1], dilation[1], kernel_size[1], 0, 1)
    depth = kernel_size[0] * kernel_size[1] * channels
    count = (images * p * q if stop is None else stop) - start
    columns = np.empty((count, depth), x.dtype)
    pixels = nhwc(x)
    parts = spans(count, depth)

    def part(k: int) -> None:
        first, last = parts[k]
        gather(pixels, columns[None, first:last], rows, cols, start + first)

    run(part, len(parts))
    return columns


@jit
def _add_columns(
    columns: Array,
    x: Array,
    start: int,
    stop: int,
    out_height: int,
    out_width: int,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    padding_h: int,
    padding_w: int,
    dilation_h: int,
    dilation_w: int,
) -> None:
    """Gather, for rows start to stop of the input's N * H rows of pixels, what columns add."""
    _, height, width, channels = x.shape
    flat = x.reshape(-1)
    source = columns.reshape(-1)
    for line in range(start, stop):
        n = line // height
        h = line - n * height
        for k in range(np.uintp(line * width * channels), np.uintp((line + 1) * width * channels)):
            flat[k] = 0
        for i in range(kernel_h):
            p = (h + padding_h - i * dilation_h) // stride_h
            if p < 0 or p >= out_height or p * stride_h != h + padding_h - i * dilation_h:
                continue
            for j in range(kernel_w):
                for q in range(out_width):
                    w = q * stride_w - padding_w + j * dilation_w
                    if w < 0 or w >= width:
                        continue
                    here = np.uintp((line * width + w) * channels)
                    patch = (n * out_height + p) * out_width + q
                    there = np.uintp(((patch * kernel_h + i) * kernel_w + j) * channels)
                    for c in range(np.uintp(channels)):
                        flat[here + c] += source[there + c]


def col2im(
    columns: Array,
    input_shape: Shape,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Array:
    """See the contract."""
    images, channels, height, width = input_shape
    p, q = conv_output_size((height, width), kernel_size, stride, padding, dilation)
    x = np.empty((images, height, width, channels), columns.dtype)
    source = np.ascontiguousarray(columns)
    parts = spans(images * height, width * channels, 2**14)

    def part(k: int) -> None:
        _add_columns(source, x, *parts[k], p, q, *kernel_size, *stride, *padding, *dilation)

    run(part, len(parts))
    return nchw(x)


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Array:
    """See the contract: patches times weights, a slice of output pixels at a time."""
    out_channels, depth, kernel_h, kernel_w = weight.shape
    size = (x.shape[2], x.shape[3])
    rows, cols = _axes(size, (kernel_h, kernel_w), stride, padding, dilation)
    taps = _taps(weight, rows, cols)
    packed = np.empty((groups, out_channels // groups, taps.shape[2] * depth), x.dtype)
    transpose_into(taps, packed.reshape(-1), packed.shape[2], depth)  # (g, O / g, taps * C / g)
    y = np.empty((len(x), rows.positions, cols.positions, out_channels), x.dtype)
    correlate(nhwc(x), packed.transpose(0, 2, 1), rows, cols, bias, y.reshape(-1, out_channels))
    return nchw(y)


def conv2d_grad_input(
    grad_output: Array,
    weight: Array,
    input_shape: Shape,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Array:
    """See the contract: a correlation of grad_output for each residue modulo the stride."""
    images, channels, height, width = input_shape
    out_channels, depth, kernel_h, kernel_w = weight.shape
    dy = nhwc(grad_output)
    dx = np.zeros((images, height, width, channels), dy.dtype)
    across = out_channels // groups
    for a, b in np.ndindex(*stride):
        rows = input_axis(height, dy.shape[1], kernel_h, stride[0], padding[0], dilation[0], a)
        cols = input_axis(width, dy.shape[2], kernel_w, stride[1], padding[1], dilation[1], b)
        if rows is None or cols is None:
            continue
        taps = _taps(weight, rows, cols).reshape(groups, across, depth, -1)
        packed = np.empty((groups, taps.shape[3], across, depth), dy.dtype)
        for source, target in zip(taps, packed, strict=True):
            transpose_into(source, target.reshape(-1), depth, across * depth)
        whole = stride == (1, 1)
        shape = (images, rows.positions, cols.positions, channels)
        part = dx if whole else np.empty(shape, dy.dtype)
        correlate(
            dy, packed.reshape(groups, -1, depth), rows, cols, None, part.reshape(-1, channels)
        )
        if not whole:
            dx[:, a :: stride[0], b :: stride[1]] = part
    return nchw(dx)


def conv2d_grad_weight(
    grad_output: Array,
    x: Array,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Array:
    """See the contract: grad_output times patches, taps and slices shared out."""
    out_channels, depth = grad_output.shape[1], x.shape[1] // groups
    rows, cols = _axes((x.shape[2], x.shape[3]), kernel_size, stride, padding, dilation)
    sums = grad_weights(rows_of(grad_output), nhwc(x), rows, cols, groups)  # (O, taps, C / g)
    taps = sums.shape[1]
    dw = np.empty((out_channels, depth, rows.taps, cols.taps), x.dtype)
    transpose_into(sums, dw.reshape(-1), depth * taps, taps)
    if (rows.taps, cols.taps) == tuple(kernel_size):
        return dw
    whole = np.zeros((out_channels, depth, *kernel_size), x.dtype)
    whole[:, :, rows.kernel, cols.kernel] = dw
    return whole
