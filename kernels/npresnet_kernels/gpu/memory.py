"""Arrays in the order that kernels want: channels last, dense."""

from __future__ import annotations

from typing import Any

from npresnet_kernels.contract import Array, Shape
from npresnet_kernels.gpu.device import array_module, empty

__all__ = ["address", "contiguous", "empty_like", "from_rows", "new_image", "rows_of"]


def address(array: Any) -> int:
    """Return where an array begins."""
    return int(array.data.ptr)


def contiguous(x: Array) -> Array:
    """Return ``x`` dense in memory, itself where it is: channels last if it has four axes."""
    xp = array_module()
    if x.ndim != 4:
        dense: Array = xp.ascontiguousarray(x)
        return dense
    return from_rows(xp.ascontiguousarray(x.transpose(0, 2, 3, 1)))


def rows_of(x: Array) -> Array:
    """Return (N, C, H, W) as its dense (N * H * W, C) matrix; a matrix as it is, dense."""
    if x.ndim != 4:
        return contiguous(x)
    return contiguous(x).transpose(0, 2, 3, 1).reshape(-1, x.shape[1])


def from_rows(nhwc: Array) -> Array:
    """Return dense (N, H, W, C) as (N, C, H, W)."""
    return nhwc.transpose(0, 3, 1, 2)


def new_image(shape: Shape, dtype: object) -> Array:
    """Return an uninitialised (N, C, H, W) array, channels last in memory."""
    n, c, h, w = shape
    return from_rows(empty((n, h, w, c), dtype))


def empty_like(x: Array) -> Array:
    """Return an uninitialised array of the shape and dtype of ``x``, dense, channels last."""
    return new_image(x.shape, x.dtype) if x.ndim == 4 else empty(x.shape, x.dtype)
