"""Convolution by im2col: each output pixel's patch becomes a row, a matrix product does the rest.

With the patches of x as rows of a matrix X and the filters as rows of a matrix W,

    y = X W^T,    grad_X = grad_y W,    grad_W = grad_y^T X,

and x's own gradient adds up grad_X's patches where they overlap (col2im, the adjoint of im2col).
See Chellapilla, Puri and Simard, *High Performance Convolutional Neural Networks for Document
Processing* (2006). X is made and used a slice of rows at a time, to keep to the column budget.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from npresnet_kernels.budget import row_slices
from npresnet_kernels.contract import Array, Pair, Shape
from npresnet_kernels.shapes import conv_output_size


class _Patches:
    """Which pixels of a padded NHWC image each output pixel sees through each tap."""

    def __init__(
        self, shape: Shape, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair
    ) -> None:
        self.images, _, *size = shape
        self.kernel_size, self.stride, self.dilation = kernel_size, stride, dilation
        self.padding = ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0))
        self.height, self.width = (n + 2 * p for n, p in zip(size, padding, strict=True))
        self.output = conv_output_size((size[0], size[1]), kernel_size, stride, padding, dilation)
        self.rows = self.images * self.output[0] * self.output[1]

    def zeros(self, channels: int, dtype: npt.DTypeLike) -> Array:
        """(N, H + 2 pH, W + 2 pW, C), to add patches into."""
        return np.zeros((self.images, self.height, self.width, channels), dtype)

    def pad(self, x: Array) -> Array:
        """(N, C, H, W) to (N, H + 2 pH, W + 2 pW, C), with zeros around."""
        return np.pad(x.transpose(0, 2, 3, 1), self.padding)

    def unpad(self, padded: Array) -> Array:
        """(N, H + 2 pH, W + 2 pW, C) to (N, C, H, W)."""
        (top, _), (left, _) = self.padding[1:3]
        inner = padded[:, top : self.height - top, left : self.width - left]
        return np.ascontiguousarray(inner).transpose(0, 3, 1, 2)

    def pixels(self, start: int, stop: int) -> Iterator[tuple[Array, Array, Array]]:
        """For each tap, the image, row and column that output pixels start to stop see there."""
        n, place = np.divmod(np.arange(start, stop), self.output[0] * self.output[1])
        p, q = np.divmod(place, self.output[1])
        for i, j in np.ndindex(*self.kernel_size):
            yield (
                n,
                p * self.stride[0] + i * self.dilation[0],
                q * self.stride[1] + j * self.dilation[1],
            )

    def gather(self, padded: Array, start: int, stop: int) -> Array:
        """Copy patches out of an image: rows start to stop of the columns, (rows, kH * kW * C)."""
        taps = self.kernel_size[0] * self.kernel_size[1]
        columns = np.empty((stop - start, taps, padded.shape[3]), padded.dtype)
        for tap, pixels in enumerate(self.pixels(start, stop)):
            columns[:, tap] = padded[pixels]
        return columns.reshape(stop - start, taps * padded.shape[3])

    def add(self, columns: Array, padded: Array, start: int, stop: int) -> None:
        """Add patches into an image; one tap's pixels all differ, so none is lost."""
        taps = self.kernel_size[0] * self.kernel_size[1]
        columns = columns.reshape(stop - start, taps, padded.shape[3])
        for tap, pixels in enumerate(self.pixels(start, stop)):
            padded[pixels] += columns[:, tap]


def _groups(groups: int, in_channels: int, out_channels: int) -> Iterator[tuple[slice, slice]]:
    """Input and output channels of each group."""
    i, o = in_channels // groups, out_channels // groups
    for g in range(groups):
        yield slice(g * i, (g + 1) * i), slice(g * o, (g + 1) * o)


def _rows(x: Array) -> Array:
    """(N, C, H, W) to (N * H * W, C)."""
    return x.transpose(0, 2, 3, 1).reshape(-1, x.shape[1])


def im2col(
    x: Array,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    start: int = 0,
    stop: int | None = None,
) -> Array:
    """Row (n, p, q), column (i, j, c): x[n, c, p * sH - pH + i * dH, q * sW - pW + j * dW]."""
    patches = _Patches(x.shape, kernel_size, stride, padding, dilation)
    return patches.gather(patches.pad(x), start, patches.rows if stop is None else stop)


def col2im(
    columns: Array,
    input_shape: Shape,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Array:
    """Adjoint of im2col: <im2col(x), columns> = <x, col2im(columns)> for all x and columns."""
    patches = _Patches(input_shape, kernel_size, stride, padding, dilation)
    padded = patches.zeros(input_shape[1], columns.dtype)
    patches.add(columns, padded, 0, patches.rows)
    return patches.unpad(padded)


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
    patches = _Patches(x.shape, (kernel[0], kernel[1]), stride, padding, dilation)
    padded = patches.pad(x)
    w = weight.transpose(0, 2, 3, 1).reshape(out_channels, -1)  # (O, kH * kW * C / groups)
    y = np.empty((patches.rows, out_channels), x.dtype)
    for start, stop in row_slices(patches.rows, w[0].nbytes):
        for ins, outs in _groups(groups, depth * groups, out_channels):
            columns = patches.gather(padded[..., ins], start, stop)
            y[start:stop, outs] = columns @ w[outs].T  # (rows, O / groups)
    if bias is not None:
        y += bias
    return y.reshape(len(x), *patches.output, out_channels).transpose(0, 3, 1, 2)  # (N, O, P, Q)


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
    patches = _Patches(input_shape, (kernel[0], kernel[1]), stride, padding, dilation)
    padded = patches.zeros(input_shape[1], grad_output.dtype)
    w = weight.transpose(0, 2, 3, 1).reshape(out_channels, -1)  # (O, kH * kW * C / groups)
    dy = _rows(grad_output)  # (N * P * Q, O)
    for start, stop in row_slices(patches.rows, w[0].nbytes):
        for ins, outs in _groups(groups, depth * groups, out_channels):
            columns = dy[start:stop, outs] @ w[outs]  # (rows, kH * kW * C / groups)
            patches.add(columns, padded[..., ins], start, stop)
    return patches.unpad(padded)


def conv2d_grad_weight(
    grad_output: Array,
    x: Array,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Array:
    """grad_W = grad_y^T X, the slices' shares added up in float64."""
    patches = _Patches(x.shape, kernel_size, stride, padding, dilation)
    padded = patches.pad(x)
    out_channels, depth = grad_output.shape[1], x.shape[1] // groups
    dy = _rows(grad_output)  # (N * P * Q, O)
    dw = np.zeros((out_channels, kernel_size[0] * kernel_size[1] * depth))
    for start, stop in row_slices(patches.rows, dw.shape[1] * x.itemsize):
        for ins, outs in _groups(groups, x.shape[1], out_channels):
            dw[outs] += dy[start:stop, outs].T @ patches.gather(padded[..., ins], start, stop)
    dw = dw.reshape(out_channels, *kernel_size, depth).transpose(0, 3, 1, 2)  # (O, C/g, kH, kW)
    return np.ascontiguousarray(dw, x.dtype)


def channel_sum(x: Array) -> Array:
    """Sum over all axes but the channels', in float64."""
    axes = (0, *range(2, x.ndim))
    return np.asarray(x.sum(axes, dtype=np.float64), x.dtype)
