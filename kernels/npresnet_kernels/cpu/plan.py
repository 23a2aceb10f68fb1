"""What plans use of the fast kernels: float32, (N, H, W, C), into memory that the caller gives."""

from __future__ import annotations

from typing import Any

import numpy as np

from npresnet_kernels.contract import Array
from npresnet_kernels.cpu.cache import announce
from npresnet_kernels.cpu.fast import elementwise, norm, pool
from npresnet_kernels.cpu.fast.algorithm import choose_algorithm as algorithm_of
from npresnet_kernels.cpu.fast.convolution import Convolution
from npresnet_kernels.cpu.fast.dense import Dense
from npresnet_kernels.cpu.fast.layout import to_channels_last
from npresnet_kernels.cpu.fast.loss import cross_entropy
from npresnet_kernels.cpu.fast.memory import aligned_empty
from npresnet_kernels.cpu.fast.norm import batch_norm_forward
from npresnet_kernels.cpu.fast.parallel import thread_count
from npresnet_kernels.cpu.fast.pool import average_pool_backward, average_pool_forward
from npresnet_kernels.cpu.fast.replay import Recorder
from npresnet_kernels.cpu.fast.update import adamw_update_, sgd_update_, takes_update
from npresnet_kernels.shapes import ConvShape, PoolWindow

__all__ = [
    "OWN_ALGORITHMS",
    "RECORDS_STEPS",
    "STATISTICS",
    "adamw_update_",
    "add",
    "announce",
    "average_pool_backward",
    "average_pool_forward",
    "batch_norm_backward",
    "batch_norm_forward",
    "cast",
    "channel_sum",
    "choose_algorithm",
    "convolution",
    "cross_entropy",
    "dense",
    "max_pool_backward",
    "max_pool_forward",
    "memory",
    "moments",
    "norm_scratch_bytes",
    "recorder",
    "sgd_update_",
    "takes_max_pool",
    "takes_update",
    "thread_count",
    "to_channels_last",
    "update_running_",
]

STATISTICS = np.dtype(np.float64)
"""What means and variances of batches are kept in."""

OWN_ALGORITHMS: tuple[str, ...] = ()
"""Of convolutions, those that other kernels don't have."""

RECORDS_STEPS = False
"""Loss and update are NumPy's in part; forward and backward can be recorded."""

WIDEST_POOL = 15
"""A winner's number in its window must fit a byte."""


def choose_algorithm(layer: ConvShape, asked: str, dtype: np.dtype[Any], training: bool) -> str:
    """Return how to convolve, by the shape alone.

    ``asked`` is "auto", or "direct" or "winograd", used where it can be. "im2col" stands for the
    contract's convolution: what the kernels here don't do. In training every call lays out its
    weights anew.
    """
    windows = layer.kernel, layer.stride, layer.padding
    plain = layer.dilation == (1, 1) and layer.groups == 1
    if not plain or any(down != across for down, across in windows):
        return "im2col"
    kernel, stride, padding = (down for down, _ in windows)
    if kernel != 3 or stride != 1 or padding > 2 or asked == "direct":
        return "direct"
    channels, height, width = layer.maps
    shape = channels, layer.weight[0], kernel, stride, padding, height, width
    algorithm = algorithm_of(*shape, training)
    if asked == "winograd" and not algorithm.startswith("winograd"):
        return "winograd4"
    return algorithm


def convolution(
    layer: ConvShape, algorithm: str, dtype: np.dtype[Any], images: int = 0
) -> Convolution:
    """Return the convolution of a layer's shape; `choose_algorithm` let no other through."""
    channels, height, width = layer.maps
    window = layer.kernel[0], layer.stride[0], layer.padding[0]
    return Convolution(channels, layer.weight[0], *window, height, width, algorithm, images)


def dense(in_features: int, out_features: int, dtype: np.dtype[Any]) -> Dense:
    """Return the linear layer of a shape."""
    return Dense(in_features, out_features)


def memory(size: int) -> Array:
    """Return so many uninitialised bytes that begin at a cache line."""
    return aligned_empty(-(-size // 4)).view(np.uint8)[:size]


def recorder() -> Recorder:
    """Return what records runs that call nothing but kernels."""
    return Recorder()


def cast(x: Array, out: Array) -> None:
    """Write x in another element type, or in its own."""
    if takes_update(x, out):
        elementwise.write(x, out)
    else:
        out[...] = x


def add(x: Array, y: Array, out: Array) -> None:
    """Write x + y."""
    elementwise.write(x, out, y)


def channel_sum(x: Array, out: Array, scratch: Array) -> None:
    """Write the sum of each channel of (N, H, W, C) or (N, C)."""
    norm.channel_sum(x, out)


def norm_scratch_bytes(rows: int, channels: int) -> int:
    """Return 0: the kernels have their own, some kilobytes."""
    return 0


def moments(x: Array, out: Array, scratch: Array) -> None:
    """Write mean and biased variance of each channel, (2, C) float64."""
    norm.moments(x, out)


def update_running_(
    moments: Array, running_mean: Array, running_var: Array, momentum: float, count: int
) -> None:
    """Move running statistics towards a batch's; its variance unbiased."""
    writable = running_mean.flags.writeable and running_var.flags.writeable
    if writable and takes_update(running_mean, running_var):
        norm.update_running_(moments, running_mean, running_var, momentum, count)
        return
    mean, variance = moments
    running_mean += momentum * (mean - running_mean)
    running_var += momentum * (variance * (count / (count - 1)) - running_var)


def batch_norm_backward(
    grad_y: Array,
    x: Array,
    mean: Array,
    variance: Array,
    gamma: Array,
    beta: Array,
    grad_x: Array,
    relu: bool,
    y: Array | None,
    grad_residual: Array | None,
    eps: float,
    *,
    grad_gamma: Array,
    grad_beta: Array,
    scratch: Array,
) -> None:
    """Write the gradients of x, the residual, gamma and beta."""
    norm.batch_norm_backward(
        *(grad_y, x, mean, variance, gamma, beta, grad_x, relu, y, grad_residual, eps),
        grads=(grad_gamma, grad_beta),
    )


def takes_max_pool(window: PoolWindow) -> bool:
    """Return whether a max pool's window is square, undilated and small."""
    return window.square is not None and window.kernel_size[0] <= WIDEST_POOL


def max_pool_forward(x: Array, y: Array, winners: Array | None, window: PoolWindow) -> None:
    """Maximum over windows that :func:`takes_max_pool` allows."""
    assert window.square is not None
    pool.max_pool_forward(x, y, winners, *window.square)


def max_pool_backward(grad_y: Array, winners: Array, grad_x: Array, window: PoolWindow) -> None:
    """Gradient of :func:`max_pool_forward`."""
    assert window.square is not None
    pool.max_pool_backward(grad_y, winners, grad_x, *window.square)
