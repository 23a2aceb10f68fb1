"""Memory order: everything inside the cpu set is channels-last and contiguous."""

from __future__ import annotations

import numpy as np

from npresnet_kernels.contract import Array
from npresnet_kernels.cpu.jit import jit
from npresnet_kernels.cpu.threads import run, spans

__all__ = ["from_rows", "nchw", "nhwc", "rows_of", "transpose_into"]


@jit
def _transpose(
    source: Array, target: Array, start: int, stop: int, matrix_step: int, row_step: int
) -> None:
    """Transpose matrices of (B, R, S) into flat memory: target[b * step + s * row_step + r]."""
    _, rows, columns = source.shape
    flat = source.reshape(-1)
    apart = np.uintp(columns)
    for b in range(start, stop):
        for r0 in range(0, rows, 16):
            r1 = min(r0 + 16, rows)
            here = np.uintp(b * rows * columns + r0 * columns)
            for s in range(columns):
                base = np.uintp(b * matrix_step + s * row_step + r0)
                for r in range(np.uintp(r1 - r0)):
                    target[base + r] = flat[here + r * apart + np.uintp(s)]


def transpose_into(source: Array, target: Array, matrix_step: int, row_step: int) -> None:
    """Write the transposes of a batch of matrices, on all threads.

    Parameters
    ----------
    source : ndarray
        (B, R, S), C-contiguous.
    target : ndarray
        One-dimensional; element (s, r) of matrix b goes to b * matrix_step + s * row_step + r.
    matrix_step, row_step : int
        Distances in elements.
    """
    matrices, rows, columns = source.shape
    parts = spans(matrices, rows * columns)

    def part(k: int) -> None:
        _transpose(source, target, *parts[k], matrix_step, row_step)

    run(part, len(parts))


def nhwc(x: Array) -> Array:
    """(N, C, H, W) in any memory order to a C-contiguous (N, H, W, C) array, a view if it can."""
    view = x.transpose(0, 2, 3, 1)
    if view.flags.c_contiguous:
        return view
    if not x.flags.c_contiguous or not x.size:
        return np.ascontiguousarray(view)
    images, channels, height, width = x.shape
    out = np.empty((images, height, width, channels), x.dtype)
    source = x.reshape(images, channels, height * width)
    transpose_into(source, out.reshape(-1), height * width * channels, channels)
    return out


def nchw(x: Array) -> Array:
    """(N, H, W, C) to an (N, C, H, W) view."""
    return x.transpose(0, 3, 1, 2)


def rows_of(x: Array) -> Array:
    """(N, C, H, W) or (N, C) to C-contiguous (N * H * W, C), a view if it can; others unrolled."""
    if x.ndim == 4:
        return nhwc(x).reshape(-1, x.shape[1])
    return np.ascontiguousarray(x).reshape(-1, x.shape[-1] if x.ndim else 1)


def from_rows(rows: Array, shape: tuple[int, ...]) -> Array:
    """Undo :func:`rows_of`."""
    if len(shape) == 4:
        images, channels, height, width = shape
        return nchw(rows.reshape(images, height, width, channels))
    return rows.reshape(shape)
