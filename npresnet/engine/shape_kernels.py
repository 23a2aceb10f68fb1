"""The kernel set of a trace: the contract's functions, giving shapes without numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from npresnet.engine.stand_in import stand_in
from npresnet_kernels.contract import Array, Pair, Shape
from npresnet_kernels.shapes import conv_output_size, pool_output_size

__all__ = ["ShapeKernels"]


def _maps(x: Array, size: Pair, channels: int | None = None) -> Array:
    """Return (N, C, P, Q) of the input's dtype."""
    return stand_in((len(x), x.shape[1] if channels is None else channels, *size), x.dtype)


def _like(x: Array, *_: Any) -> Array:
    return stand_in(x.shape, x.dtype)


def _size(x: Array) -> Pair:
    return x.shape[2], x.shape[3]


class ShapeKernels:
    """What a forward pass calls; a trace never runs a backward."""

    relu = staticmethod(_like)
    add = staticmethod(_like)
    softmax = staticmethod(_like)
    log_softmax = staticmethod(_like)
    batch_norm = staticmethod(_like)

    @staticmethod
    def conv2d(
        x: Array,
        weight: Array,
        bias: Array | None,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        groups: int,
    ) -> Array:
        """See the contract."""
        kernel = (weight.shape[2], weight.shape[3])
        return _maps(
            x, conv_output_size(_size(x), kernel, stride, padding, dilation), weight.shape[0]
        )

    @staticmethod
    def channel_sum(x: Array) -> Array:
        """See the contract."""
        return stand_in((x.shape[1],), x.dtype)

    @staticmethod
    def max_pool2d(x: Array, *window: Any) -> tuple[Array, Array]:
        """See the contract."""
        y = _maps(x, pool_output_size(_size(x), *window))
        return y, stand_in(y.shape, np.int64)

    @staticmethod
    def avg_pool2d(
        x: Array, kernel_size: Pair, stride: Pair, padding: Pair, ceil_mode: bool, *_: Any
    ) -> Array:
        """See the contract."""
        size = pool_output_size(_size(x), kernel_size, stride, padding, (1, 1), ceil_mode)
        return _maps(x, size)

    @staticmethod
    def adaptive_avg_pool2d(x: Array, output_size: Pair) -> Array:
        """See the contract."""
        return _maps(x, output_size)

    @staticmethod
    def batch_norm_statistics(x: Array) -> tuple[Array, Array]:
        """See the contract."""
        vector: Shape = (x.shape[1],)
        return stand_in(vector, x.dtype), stand_in(vector, x.dtype)

    @staticmethod
    def linear(x: Array, weight: Array, bias: Array | None) -> Array:
        """See the contract."""
        return stand_in((x.shape[0], weight.shape[0]), x.dtype)

    @staticmethod
    def cross_entropy(x: Array, *_: Any) -> tuple[Array, Array]:
        """See the contract."""
        return stand_in(x.shape[:1], x.dtype), _like(x)
