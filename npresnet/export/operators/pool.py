"""Pools: the maximum and the mean of windows and of whole maps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from npresnet import functional as F
from npresnet.errors import OnnxError
from npresnet.export.operators.registry import Call, Ints, Value, operator
from npresnet.export.operators.windows import (
    Axis,
    axes_of,
    bordered,
    by_planes,
    refuse_auto_pad,
)
from npresnet.tensor import Tensor
from npresnet_kernels.contract import Array

__all__ = ["average_pool", "global_average_pool", "global_max_pool", "max_pool"]


def _is_ours(axes: list[Axis]) -> bool:
    """Return whether a pool of torch's rules makes these windows."""
    return all(a.begin == a.end and 2 * a.begin <= a.kernel for a in axes)


def _pair(axes: list[Axis], name: str) -> tuple[int, int]:
    return getattr(axes[0], name), getattr(axes[1], name)


@operator("MaxPool", outputs=2, refuse=refuse_auto_pad)
def max_pool(
    call: Call,
    x: Value,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints = (),
    kernel_shape: Ints,
    pads: Ints = (),
    storage_order: int = 0,
    strides: Ints = (),
) -> Any:
    """Maximum over windows, and where in the flat input it stands; integers are compared too."""
    x = call.tensor(x)
    kind = x.dtype
    if kind.kind in "iu":
        x = x.float() if kind.itemsize < 4 else x.double()
    axes = axes_of(call, x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    if call.outputs == 2:
        y, places = _with_places(call, x, axes, ceil_mode, storage_order)
        return y.to(kind), places
    y = by_planes(x, axes, lambda maps, pair: _max_plane(maps, pair, ceil_mode))
    return y.to(kind)


def _max_plane(x: Tensor, axes: list[Axis], ceil_mode: int) -> Tensor:
    if _is_ours(axes):
        around = _pair(axes, "begin")
    else:
        around = (0, 0)
        x = bordered(x, [(a.begin, a.far) for a in axes], -math.inf)
        ceil_mode = 0
    window = (_pair(axes, "kernel"), _pair(axes, "stride"), around, _pair(axes, "dilation"))
    y: Tensor = F.max_pool2d(x, *window, bool(ceil_mode))
    return y


def _with_places(
    call: Call, x: Tensor, axes: list[Axis], ceil_mode: int, storage_order: int
) -> tuple[Tensor, Tensor]:
    """Pool one or two axes; a place counts through batch, channels and map."""
    if len(axes) > 2 or not _is_ours(axes):
        raise OnnxError("the output Indices is known for even borders over one or two axes")
    n, c = x.shape[:2]
    maps = x if len(axes) == 2 else x.unsqueeze(2)
    pair = axes if len(axes) == 2 else [Axis(1, 1, 1, 1, 0, 0, 1), axes[0]]
    y, indices = F.max_pool2d(
        maps,
        _pair(pair, "kernel"),
        _pair(pair, "stride"),
        _pair(pair, "begin"),
        _pair(pair, "dilation"),
        bool(ceil_mode),
        return_indices=True,
    )
    height, width = maps.shape[2:]
    places = indices.data
    if storage_order:  # columns first
        places = places % width * height + places // width
    xp = call.backend.xp
    places = places + (xp.arange(n * c) * height * width).reshape(n, c, 1, 1)
    counts = tuple(a.count for a in axes)
    return y.reshape(n, c, *counts), Tensor(places.reshape(n, c, *counts))


@operator("AveragePool", refuse=refuse_auto_pad)
def average_pool(
    call: Call,
    x: Value,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Ints = (),
    kernel_shape: Ints,
    pads: Ints = (),
    strides: Ints = (),
) -> Tensor:
    """Mean over windows, with or without the border's share."""
    x = call.tensor(x)
    axes = axes_of(call, x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    include = bool(count_include_pad)
    if len(axes) < 3 and _is_ours(axes) and all(a.dilation == 1 for a in axes):
        return by_planes(
            x,
            axes,
            lambda maps, pair: F.avg_pool2d(
                maps,
                _pair(pair, "kernel"),
                _pair(pair, "stride"),
                _pair(pair, "begin"),
                bool(ceil_mode),
                include,
            ),
        )
    total = by_planes(x, axes, _sum_plane)
    shares: Any = np.ones(())
    for axis in axes:
        shares = shares[..., None] * _taps_inside(axis, include)
    return total * Tensor(call.backend.asarray((1 / shares).astype(x.dtype)))


def _sum_plane(x: Tensor, axes: list[Axis]) -> Tensor:
    """Sum the windows over two axes, by a convolution with ones on each map alone."""
    x = bordered(x, [(a.begin, a.far) for a in axes], 0.0)
    n, c, height, width = x.shape
    kernel = _pair(axes, "kernel")
    ones = Tensor(np.ones((1, 1, *kernel), x.dtype)).to(x.device)
    maps = x.reshape(n * c, 1, height, width)
    y = F.conv2d(maps, ones, None, _pair(axes, "stride"), 0, _pair(axes, "dilation"))
    counts = _pair(axes, "count")
    return y[:, :, : counts[0], : counts[1]].reshape(n, c, *counts)


def _taps_inside(axis: Axis, include: bool) -> Array:
    """Return how many taps of each window along an axis count; at least 1."""
    starts = np.arange(axis.count) * axis.stride - axis.begin
    taps = starts[:, None] + np.arange(axis.kernel) * axis.dilation
    end = axis.size + (axis.end if include else 0)
    inside = (taps < end) & (taps >= (-axis.begin if include else 0))
    counts: Array = np.maximum(inside.sum(1), 1)
    return counts


def _whole(x: Tensor) -> Tensor:
    """Return (N, C, D1, ...) as maps (N, C, H, W)."""
    if x.ndim < 3:
        raise OnnxError(f"expected (N, C, D1, ...), got input shape {x.shape}")
    return x if x.ndim == 4 else x.reshape(*x.shape[:2], x.shape[2], -1)


@operator("GlobalAveragePool")
def global_average_pool(call: Call, x: Value) -> Tensor:
    """Mean over each whole map."""
    x = call.tensor(x)
    return F.adaptive_avg_pool2d(_whole(x), 1).reshape(*x.shape[:2], *(1,) * (x.ndim - 2))


@operator("GlobalMaxPool")
def global_max_pool(call: Call, x: Value) -> Tensor:
    """Maximum over each whole map."""
    x = call.tensor(x)
    maps = _whole(x)
    y: Tensor = F.max_pool2d(maps, maps.shape[2:])
    return y.reshape(*x.shape[:2], *(1,) * (x.ndim - 2))
