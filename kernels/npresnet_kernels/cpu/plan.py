"""What plans use of the fast kernels: float32, (N, H, W, C), into memory that the caller gives."""

from __future__ import annotations

from npresnet_kernels.contract import Pair, Shape
from npresnet_kernels.cpu.cache import announce
from npresnet_kernels.cpu.fast.convolution import Convolution
from npresnet_kernels.cpu.fast.layout import to_channels_last
from npresnet_kernels.cpu.fast.norm import (
    batch_norm_backward,
    batch_norm_forward,
    moments,
)
from npresnet_kernels.cpu.fast.parallel import thread_count
from npresnet_kernels.cpu.fast.pool import (
    average_pool_backward,
    average_pool_forward,
    max_pool_backward,
    max_pool_forward,
)
from npresnet_kernels.cpu.fast.update import adamw_update_, sgd_update_, takes_update

__all__ = [
    "adamw_update_",
    "announce",
    "average_pool_backward",
    "average_pool_forward",
    "batch_norm_backward",
    "batch_norm_forward",
    "choose_algorithm",
    "convolution",
    "max_pool_backward",
    "max_pool_forward",
    "moments",
    "sgd_update_",
    "takes_max_pool",
    "takes_update",
    "thread_count",
    "to_channels_last",
]

WIDEST_POOL = 15
"""A winner's number in its window must fit a byte."""


def choose_algorithm(
    maps: Shape,
    weight: Shape,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    asked: str,
) -> str:
    """Return how to convolve maps (C, H, W) with weights (O, I, kH, kW), by the shape alone.

    ``asked`` is "auto", or "direct" or "winograd", used where it can be. "im2col" stands for the
    contract's convolution: what the kernels here don't do.
    """
    kernel = weight[2:]
    plain = dilation == (1, 1) and groups == 1
    if not plain or kernel[0] != kernel[1] or stride[0] != stride[1] or padding[0] != padding[1]:
        return "im2col"
    if kernel[0] != 3 or stride[0] != 1 or padding[0] > 2 or asked == "direct":
        return "direct"
    algorithm = convolution(maps, weight, stride, padding, "auto").algorithm
    if asked == "winograd" and not algorithm.startswith("winograd"):
        return "winograd4"
    return algorithm


def convolution(
    maps: Shape, weight: Shape, stride: Pair, padding: Pair, algorithm: str
) -> Convolution:
    """Return the convolution of a layer's shape."""
    return Convolution(
        maps[0], weight[0], weight[2], stride[0], padding[0], maps[1], maps[2], algorithm
    )


def takes_max_pool(kernel_size: Pair, stride: Pair, padding: Pair) -> bool:
    """Return whether a max pool's window is square and small."""
    square = all(pair[0] == pair[1] for pair in (kernel_size, stride, padding))
    return square and kernel_size[0] <= WIDEST_POOL
