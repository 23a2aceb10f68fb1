"""Batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167), statistics in float64.

With x^ = (x - mean) * invstd, y = weight * x^ + bias and m = N * H * W values a channel,

    grad_bias = sum grad_y,    grad_weight = sum grad_y * x^,
    grad_x = weight * invstd * (grad_y - grad_bias / m - x^ * grad_weight / m)   in training,
    grad_x = weight * invstd * grad_y                                            in evaluation.
"""

from __future__ import annotations

import numpy as np

from npresnet_kernels.contract import Array

_AXES = (0, 2, 3)


def _channels(v: Array) -> Array:
    """(C,) to (1, C, 1, 1), which broadcasts against (N, C, H, W)."""
    return v.reshape(1, -1, 1, 1)


def _channels_last(x: Array) -> Array:
    """The same (N, C, H, W) array in channels-last memory."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def batch_norm_statistics(x: Array) -> tuple[Array, Array]:
    """First mean = sum x / m, then var = sum (x - mean)^2 / m; both 0 for an empty batch."""
    m = max(1, x.size // x.shape[1])
    mean = x.sum(_AXES, dtype=np.float64) / m  # (C,)
    var = np.square(x - _channels(mean)).sum(_AXES) / m  # (C,)
    return mean.astype(x.dtype), var.astype(x.dtype)


def batch_norm(
    x: Array, mean: Array, invstd: Array, weight: Array | None, bias: Array | None
) -> Array:
    """The formula y = (x - mean) * invstd * weight + bias."""
    scale = invstd if weight is None else invstd * weight
    y = (x - _channels(mean)) * _channels(scale)
    return _channels_last(y if bias is None else y + _channels(bias))


def batch_norm_grad(
    grad_output: Array,
    x: Array,
    mean: Array,
    invstd: Array,
    weight: Array | None,
    training: bool,
) -> tuple[Array, Array, Array]:
    """See the formulas at the top of this file."""
    m = max(1, x.size // x.shape[1])
    g = grad_output
    normalised = (x - _channels(mean)) * _channels(invstd)
    grad_bias = g.sum(_AXES, dtype=np.float64)  # (C,)
    grad_weight = np.multiply(g, normalised, dtype=np.float64).sum(_AXES)  # (C,)
    scale = invstd if weight is None else invstd * weight
    grad_x = g
    if training:
        grad_x = g - _channels(grad_bias / m) - normalised * _channels(grad_weight / m)
    grad_x = _channels_last(np.asarray(grad_x * _channels(scale), x.dtype))
    return grad_x, grad_weight.astype(x.dtype), grad_bias.astype(x.dtype)
