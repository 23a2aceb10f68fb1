"""The one engine under the three convolutions: patches gathered a slice at a time, then GEMM.

An :class:`Axis` says which input positions an output position sees. Forward, these are
p * stride - padding + i * dilation. For the gradient with respect to the input the roles change:
the pixels h of one residue modulo the stride see p = (h + padding - i * dilation) / stride for
those taps i for which that is whole, again an arithmetic progression; so that gradient is `stride`
squared small correlations without a zero multiplied and without overlapping patches to add up.
"""

from __future__ import annotations

from math import gcd
from typing import NamedTuple

import numpy as np

from npresnet_kernels.budget import column_budget
from npresnet_kernels.contract import Array
from npresnet_kernels.cpu.jit import jit
from npresnet_kernels.cpu.threads import run_gemm

__all__ = ["Axis", "correlate", "gather", "grad_weights", "input_axis", "output_axis"]

SLICE_BYTES = 2 * 2**20
"""Columns that a thread makes at a time: they stay in its cache until they are multiplied."""


class Axis(NamedTuple):
    """Output position u sees input positions u * stride + offset + m * dilation, m < taps.

    Tap m is the kernel's tap first + m * step. Taps that only see padding are left out.
    """

    size: int
    positions: int
    stride: int
    offset: int
    dilation: int
    taps: int
    first: int
    step: int

    @property
    def kernel(self) -> slice:
        """The taps, as an index into the kernel's axis."""
        stop = self.first + self.taps * self.step
        return slice(self.first, None if stop < 0 else stop, self.step)


def _trimmed(axis: Axis) -> Axis:
    """Leave out leading and trailing taps that only see padding; one is kept if all do."""
    seen = np.arange(axis.positions)[:, None] * axis.stride + axis.offset
    seen = seen + np.arange(axis.taps) * axis.dilation  # (positions, taps)
    live = np.flatnonzero(((seen >= 0) & (seen < axis.size)).any(axis=0))
    low, high = (int(live[0]), int(live[-1])) if live.size else (0, 0)
    return axis._replace(
        offset=axis.offset + low * axis.dilation,
        taps=high - low + 1,
        first=axis.first + low * axis.step,
    )


def output_axis(size: int, count: int, taps: int, stride: int, padding: int, dilation: int) -> Axis:
    """Forward: what output positions see of the input."""
    return _trimmed(Axis(size, count, stride, -padding, dilation, taps, 0, 1))


def input_axis(
    size: int, count: int, taps: int, stride: int, padding: int, dilation: int, residue: int
) -> Axis | None:
    """Backward: what input positions residue, residue + stride, ... see of the output.

    ``size`` is the input's, ``count`` the output's; None if no tap reaches these positions.
    """
    step = stride // gcd(stride, dilation)
    first = next(
        (i for i in range(min(step, taps)) if (residue + padding - i * dilation) % stride == 0),
        None,
    )
    positions = len(range(residue, size, stride))
    if first is None or not positions:
        return None
    chosen = range(first, taps, step)[::-1]  # last tap first: it sees the leftmost position
    offset = (residue + padding - chosen[0] * dilation) // stride
    apart = dilation * step // stride
    return _trimmed(Axis(count, positions, 1, offset, apart, len(chosen), chosen[0], -step))


@jit
def _gather(
    x: Array,
    columns: Array,
    start: int,
    tap: int,
    taps: int,
    height: int,
    width: int,
    kernel_width: int,
    stride_h: int,
    stride_w: int,
    offset_h: int,
    offset_w: int,
    dilation_h: int,
    dilation_w: int,
) -> None:
    """Rows from `start` on and taps from `tap` on of the columns of NHWC x, (groups, rows, K)."""
    _, in_height, in_width, channels = x.shape
    groups, rows, depth = columns.shape
    depth //= taps
    flat = x.reshape(-1)
    out = columns.reshape(-1)
    joined = groups == 1 and dilation_w == 1  # neighbouring taps are neighbours in memory
    plane = height * width
    for row in range(rows):
        pixel = start + row
        n = pixel // plane
        p = (pixel - n * plane) // width
        q = pixel - n * plane - p * width
        t = 0
        while t < taps:
            i = (tap + t) // kernel_width
            j = tap + t - i * kernel_width
            run = min(kernel_width - j, taps - t) if joined else 1
            h = p * stride_h + offset_h + i * dilation_h
            w = q * stride_w + offset_w + j * dilation_w
            low = min(max(0, -w), run)  # taps before the image
            high = max(low, min(run, in_width - w))  # taps before its end
            if h < 0 or h >= in_height:
                low = high = run
            source = ((n * in_height + h) * in_width + w) * channels
            for g in range(groups):
                target = ((g * rows + row) * taps + t) * depth
                for k in range(np.uintp(target), np.uintp(target + low * depth)):
                    out[k] = 0
                here = np.uintp(target + low * depth)
                there = np.uintp(source + g * depth + low * depth)
                for k in range(np.uintp((high - low) * depth)):
                    out[here + k] = flat[there + k]
                for k in range(np.uintp(target + high * depth), np.uintp(target + run * depth)):
                    out[k] = 0
            t += run


def gather(x: Array, columns: Array, rows: Axis, cols: Axis, start: int, tap: int = 0) -> None:
    """Fill columns (groups, rows, taps * C / groups) with patches of x.

    Parameters
    ----------
    x : ndarray
        (N, H, W, C), C-contiguous.
    columns : ndarray
        C-contiguous; how many rows and taps it holds says how many are gathered.
    rows, cols : Axis
        What an output pixel sees.
    start : int
        First output pixel, counted over all images.
    tap : int
        First tap, counted over the rows of the kernel.
    """
    depth = x.shape[3] // columns.shape[0]
    _gather(
        x,
        columns,
        start,
        tap,
        columns.shape[2] // depth,
        rows.positions,
        cols.positions,
        cols.taps,
        rows.stride,
        cols.stride,
        rows.offset,
        cols.offset,
        rows.dilation,
        cols.dilation,
    )


class _Patches:
    """The columns of a correlation: gathered, or x itself where a patch is a pixel."""

    def __init__(self, x: Array, rows: Axis, cols: Axis, groups: int) -> None:
        self.x, self.rows, self.cols, self.groups = x, rows, cols, groups
        self.depth = x.shape[3] // groups
        self.taps = rows.taps * cols.taps
        self.pixels = rows.positions * cols.positions
        self.total = len(x) * self.pixels
        self.direct = x.shape[1:3] == (rows.positions, cols.positions) and all(
            (axis.taps, axis.stride, axis.offset) == (1, 1, 0) for axis in (rows, cols)
        )

    def slices(self, taps: int) -> tuple[list[tuple[int, int]], int]:
        """Rows to take at a time for so many taps, and how many threads the budget allows.

        A slice is a number of whole images, or a part of one.
        """
        if not self.total:
            return [], 1
        row_bytes = taps * self.x.shape[3] * self.x.itemsize
        budget = column_budget()
        most = max(1, min(SLICE_BYTES, budget) // row_bytes)
        most = max(min(most, 32), min(most, -(-self.total // 4)))  # work for several threads
        threads = max(1, budget // (most * row_bytes))
        if most >= self.pixels:
            most -= most % self.pixels
            cuts = list(range(0, self.total, most))
        else:
            each = -(-self.pixels // -(-self.pixels // most))
            cuts = [
                image + pixel
                for image in range(0, self.total, self.pixels)
                for pixel in range(0, self.pixels, each)
            ]
        return list(zip(cuts, [*cuts[1:], self.total], strict=True)), threads

    def get(self, start: int, stop: int, tap: int, taps: int) -> Array:
        """(groups, rows, taps * depth)."""
        if self.direct:
            view = self.x.reshape(self.total, self.groups, self.depth)
            return view[start:stop].transpose(1, 0, 2)
        columns = np.empty((self.groups, stop - start, taps * self.depth), self.x.dtype)
        gather(self.x, columns, self.rows, self.cols, start, tap)
        return columns


def correlate(
    x: Array, weight: Array, rows: Axis, cols: Axis, bias: Array | None, out: Array
) -> None:
    """Multiply every patch of x by the weights.

    Parameters
    ----------
    x : ndarray
        (N, H, W, C), C-contiguous.
    weight : ndarray
        (groups, taps * C / groups, O / groups), in memory order or transposed.
    rows, cols : Axis
        What an output pixel sees.
    bias : ndarray or None
        (O,).
    out : ndarray
        (N * rows.positions * cols.positions, O), C-contiguous; overwritten.
    """
    groups, _, width = weight.shape
    patches = _Patches(x, rows, cols, groups)
    slices, threads = patches.slices(patches.taps)

    def part(k: int) -> None:
        start, stop = slices[k]
        columns = patches.get(start, stop, 0, patches.taps)
        target = out[start:stop]
        if groups == 1:
            np.matmul(columns[0], weight[0], out=target)
        else:
            product = np.matmul(columns, weight)  # (groups, rows, O / groups)
            target.reshape(stop - start, groups, width)[...] = product.transpose(1, 0, 2)
        if bias is not None:
            np.add(target, bias, out=target)

    run_gemm(part, len(slices), threads)


def grad_weights(grad_output: Array, x: Array, rows: Axis, cols: Axis, groups: int) -> Array:
    """Sum over output pixels of grad_output times patch.

    Taps are dealt to tasks, and the rows too where taps are few (in `lanes` of slices whose sums
    are added up at the end); how many of each depends on the shapes alone.

    Parameters
    ----------
    grad_output : ndarray
        (N * rows.positions * cols.positions, O), C-contiguous.
    x : ndarray
        (N, H, W, C), C-contiguous.
    rows, cols : Axis
        What an output pixel sees.
    groups : int
        Number of groups.

    Returns
    -------
    ndarray
        (O, taps, C / groups), C-contiguous.
    """
    patches = _Patches(x, rows, cols, groups)
    depth, taps = patches.depth, patches.taps
    chunks = min(taps, -(-taps * x.shape[3] // 512))
    each = -(-taps // chunks)
    starts = range(0, taps, each)
    slices, threads = patches.slices(each)
    lanes = max(1, min(len(slices), 8 // len(starts)))
    width = grad_output.shape[1] // groups
    sums = np.zeros((lanes, groups, width, taps * depth), x.dtype)
    dy = grad_output.reshape(-1, groups, width).transpose(1, 2, 0)  # (groups, O / groups, rows)

    def part(k: int) -> None:
        lane, tap = k % lanes, starts[k // lanes]
        count = min(each, taps - tap)
        total = sums[lane, :, :, tap * depth : (tap + count) * depth]
        for start, stop in slices[lane::lanes]:
            total += np.matmul(dy[:, :, start:stop], patches.get(start, stop, tap, count))

    run_gemm(part, lanes * len(starts), threads)
    total: Array = sums[0]
    for other in sums[1:]:
        total += other
    return total.reshape(groups * width, taps, depth)
