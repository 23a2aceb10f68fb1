"""Convolution: by implicit products where they apply, else by im2col and cuBLAS.

im2col takes any shape, stride, dilation, groups and dtype. The formulas are those of
``reference/conv.py``. Columns are made and used a slice of rows at a time, to keep to the column
budget.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from npresnet_kernels.budget import row_slices
from npresnet_kernels.contract import Array, Pair, Shape
from npresnet_kernels.gpu.convolution import Convolution, applies
from npresnet_kernels.gpu.device import array_module, blocks, empty, launch, scalar_type
from npresnet_kernels.gpu.linear import matmul
from npresnet_kernels.gpu.memory import contiguous, from_rows, new_image, rows_of
from npresnet_kernels.gpu.precision import get_precision
from npresnet_kernels.shapes import ConvShape, conv_output_size

__all__ = ["col2im", "conv2d", "conv2d_grad_input", "conv2d_grad_weight", "im2col"]


class _Patches:
    """The windows of a convolution over images of one shape."""

    def __init__(
        self, shape: Shape, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair
    ) -> None:
        self.images, self.channels, *size = shape
        self.output = conv_output_size((size[0], size[1]), kernel_size, stride, padding, dilation)
        self.taps = kernel_size[0] * kernel_size[1]
        self.pixels = self.output[0] * self.output[1]
        self.rows = self.images * self.pixels
        # a 1x1 window at every pixel: the columns are the image itself
        self.trivial = (*kernel_size, *stride, *padding) == (1, 1, 1, 1, 0, 0)
        pairs = (tuple(size), self.output, kernel_size, stride, padding, dilation)
        self.sizes = tuple(np.int32(n) for pair in pairs for n in pair)

    def gather(self, x: Array, ins: slice, start: int, stop: int) -> Array:
        """Rows ``start`` to ``stop`` of the columns of some channels of a channels-last image."""
        depth = ins.stop - ins.start
        if self.trivial and depth == self.channels:
            return rows_of(x)[start:stop]
        columns = empty((stop - start, self.taps * depth), x.dtype)
        if columns.size:
            arguments = (x, columns, start, stop, self.channels, ins.start, depth, *self.sizes)
            defines = {"SCALAR": scalar_type(x)}
            launch("conv.cu", "im2col", blocks(columns.size), arguments, defines=defines)
        return columns

    def add(self, columns: Array, x: Array, ins: slice, start: int, stop: int) -> None:
        """Add rows of columns into the images they come from, whose first rows begin them."""
        depth = ins.stop - ins.start
        image, image_stop = start // self.pixels, -(-stop // self.pixels)
        total = (image_stop - image) * x.shape[2] * x.shape[3] * depth
        if total:
            arguments = (columns, x, start, stop, self.channels, ins.start, depth, *self.sizes)
            more = np.int32(start % self.pixels != 0)
            defines = {"SCALAR": scalar_type(x)}
            extra = (image, image_stop, more)
            launch("conv.cu", "col2im", blocks(total), (*arguments, *extra), defines=defines)

    def slices(self, row_bytes: int) -> Iterator[tuple[int, int]]:
        """Rows within the budget: whole images where one fits, else parts of one image."""
        images = list(row_slices(self.images, max(1, row_bytes * self.pixels)))
        for first, last in images:
            if last - first > 1:
                yield first * self.pixels, last * self.pixels
                continue
            for start, stop in row_slices(self.pixels, row_bytes):
                yield first * self.pixels + start, first * self.pixels + stop


def _groups(groups: int, in_channels: int, out_channels: int) -> Iterator[tuple[slice, slice]]:
    """Input and output channels of each group."""
    i, o = in_channels // groups, out_channels // groups
    for g in range(groups):
        yield slice(g * i, (g + 1) * i), slice(g * o, (g + 1) * o)


@functools.lru_cache(maxsize=256)
def _made(device: int, precision: str, dtype: str, layer: ConvShape) -> Convolution:
    """The convolution of a layer on the current ``device`` in the ``precision`` of now."""
    return Convolution(layer, dtype)


def _implicit(
    dtype: Any,
    shape: Shape,
    weight: Shape,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Convolution | None:
    """The implicit products of a layer, for images of a shape, if no columns are needed.

    Where columns are the image itself, cuBLAS is at no loss. 16-bit integers are no numbers here.
    """
    layer = ConvShape(shape[1:], weight, stride, padding, dilation, groups)
    output = (shape[0], weight[0], *layer.output)
    patches = _Patches(shape, layer.kernel, stride, padding, dilation)
    image_is_columns = patches.trivial and groups == 1
    if image_is_columns or dtype == np.uint16 or not applies(dtype, (shape, output)):
        return None
    device = array_module().cuda.runtime.getDevice()
    return _made(device, get_precision(), dtype.name, layer)


def _nhwc(x: Array) -> Array:
    """(N, C, H, W) as dense (N, H, W, C) at an address of whole vectors."""
    dense: Any = contiguous(x).transpose(0, 2, 3, 1)
    aligned: Array = dense if dense.data.ptr % 16 == 0 else dense.copy()
    return aligned


def _scratch(made: Convolution, batch: int, training: bool) -> Array:
    """Working memory for one call."""
    return empty((made.scratch_floats(1, training, batch),), np.float32)


def _matrix(weight: Array) -> Array:
    """(O, C / groups, kH, kW) to (O, kH * kW * C / groups)."""
    xp = array_module()
    packed: Array = xp.ascontiguousarray(weight.transpose(0, 2, 3, 1)).reshape(len(weight), -1)
    return packed


def im2col(
    x: Array,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    start: int = 0,
    stop: int | None = None,
) -> Array:
    """Rows of patches."""
    patches = _Patches(x.shape, kernel_size, stride, padding, dilation)
    last = patches.rows if stop is None else stop
    return patches.gather(contiguous(x), slice(0, x.shape[1]), start, last)


def col2im(
    columns: Array,
    input_shape: Shape,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Array:
    """Adjoint of im2col, each pixel gathering."""
    patches = _Patches(input_shape, kernel_size, stride, padding, dilation)
    x = new_image(input_shape, columns.dtype)
    patches.add(contiguous(columns), x, slice(0, input_shape[1]), 0, patches.rows)
    return x


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Array:
    """The product y = X W^T + bias, a group of channels at a time."""
    out_channels, depth, *kernel = weight.shape
    made = _implicit(x.dtype, x.shape, weight.shape, stride, padding, dilation, groups)
    if made is not None:
        image = new_image((len(x), out_channels, *made.output), x.dtype)
        packed = made.pack(array_module().ascontiguousarray(weight))
        wide = None if bias is None else bias.astype(np.float32)
        made.forward(_nhwc(x), packed, _nhwc(image), _scratch(made, len(x), False), wide)
        return image
    patches = _Patches(x.shape, (kernel[0], kernel[1]), stride, padding, dilation)
    x, w = contiguous(x), _matrix(weight)
    y = empty((patches.rows, out_channels), x.dtype)
    for start, stop in patches.slices(w.shape[1] * x.itemsize):
        for ins, outs in _groups(groups, depth * groups, out_channels):
            columns = patches.gather(x, ins, start, stop)
            if groups == 1:
                matmul(columns, w.T, out=y[start:stop])
            else:
                y[start:stop, outs] = matmul(columns, w[outs].T)
    if bias is not None:
        y += bias
    return from_rows(y.reshape(len(x), *patches.output, out_channels))  # (N, O, P, Q)


def conv2d_grad_input(
    grad_output: Array,
    weight: Array,
    input_shape: Shape,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Array:
    """grad_x = col2im(grad_y W)."""
    out_channels, depth, *kernel = weight.shape
    dtype = grad_output.dtype
    made = _implicit(dtype, input_shape, weight.shape, stride, padding, dilation, groups)
    if made is not None:
        image = new_image(input_shape, dtype)
        packed = made.pack_grad_input(array_module().ascontiguousarray(weight))
        scratch = _scratch(made, len(image), True)
        made.grad_input(_nhwc(grad_output), packed, _nhwc(image), scratch)
        return image
    patches = _Patches(input_shape, (kernel[0], kernel[1]), stride, padding, dilation)
    dy, w = rows_of(grad_output), _matrix(weight)
    dx = new_image(input_shape, dy.dtype)
    for start, stop in patches.slices(w.shape[1] * dy.itemsize):
        for ins, outs in _groups(groups, depth * groups, out_channels):
            columns = matmul(dy[start:stop, outs], w[outs])  # (rows, kH * kW * C / groups)
            patches.add(columns, dx, ins, start, stop)
    return dx


def conv2d_grad_weight(
    grad_output: Array,
    x: Array,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Array:
    """grad_W = grad_y^T X, the slices' shares added up in double."""
    filters = (grad_output.shape[1], x.shape[1] // groups, *kernel_size)
    made = _implicit(x.dtype, x.shape, filters, stride, padding, dilation, groups)
    if made is not None:
        sums = empty(filters, x.dtype)
        made.grad_weight(_nhwc(x), _nhwc(grad_output), sums, _scratch(made, len(x), True))
        return sums
    xp = array_module()
    patches = _Patches(x.shape, kernel_size, stride, padding, dilation)
    out_channels, depth = grad_output.shape[1], x.shape[1] // groups
    dy, x = rows_of(grad_output), contiguous(x)
    dw = xp.zeros((out_channels, patches.taps * depth), np.float64)
    for start, stop in patches.slices(dw.shape[1] * x.itemsize):
        for ins, outs in _groups(groups, x.shape[1], out_channels):
            columns = patches.gather(x, ins, start, stop)
            dw[outs] += matmul(dy[start:stop, outs].T, columns)
    shaped: Any = dw.reshape(out_channels, *kernel_size, depth).transpose(0, 3, 1, 2)
    grad: Array = xp.ascontiguousarray(shaped).astype(x.dtype)
    return grad
