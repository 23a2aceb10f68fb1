"""What plans use of the gpu kernels: (N, H, W, C), into memory that the caller gives.

Activations are float32, float16 or bfloat16 (kept as uint16), parameters and statistics float32.
Nothing here allocates or waits for the device, so a plan's kernels can be recorded as a graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npresnet_kernels.contract import Array
from npresnet_kernels.gpu import hopper
from npresnet_kernels.gpu.convolution import Convolution, applies
from npresnet_kernels.gpu.dense import Dense
from npresnet_kernels.gpu.device import empty
from npresnet_kernels.gpu.graph import recorder
from npresnet_kernels.gpu.optim import adamw_update_, sgd_update_
from npresnet_kernels.gpu.plan_elementwise import (
    gate,
    gate_grad,
    move_channels,
    relu,
    relu_grad,
    scale,
    sigmoid,
    sigmoid_grad,
)
from npresnet_kernels.gpu.plan_layout import (
    add,
    cast,
    pad_channels,
    to_channels_first,
    to_channels_last,
)
from npresnet_kernels.gpu.plan_loss import cross_entropy
from npresnet_kernels.gpu.plan_norm import (
    batch_norm_backward,
    batch_norm_forward,
    channel_sum,
    moments,
    norm_scratch_bytes,
    update_running_,
)
from npresnet_kernels.gpu.plan_optim import (
    adamw_step_,
    all_finite,
    count_step_,
    sgd_step_,
    update_table,
)
from npresnet_kernels.gpu.plan_pool import (
    average_pool_backward,
    average_pool_forward,
    max_pool_backward,
    max_pool_forward,
    takes_max_pool,
)
from npresnet_kernels.gpu.pool import adaptive_average_pool, average_pool
from npresnet_kernels.gpu.softmax import softmax_backward, softmax_forward
from npresnet_kernels.shapes import ConvShape

__all__ = [
    "OWN_ALGORITHMS",
    "RECORDS_STEPS",
    "STATISTICS",
    "adamw_step_",
    "adamw_update_",
    "adaptive_average_pool",
    "add",
    "all_finite",
    "announce",
    "average_pool",
    "average_pool_backward",
    "average_pool_forward",
    "batch_norm_backward",
    "batch_norm_forward",
    "cast",
    "channel_sum",
    "choose_algorithm",
    "convolution",
    "count_step_",
    "cross_entropy",
    "dense",
    "fuses_pool",
    "gate",
    "gate_grad",
    "max_pool_backward",
    "max_pool_forward",
    "memory",
    "moments",
    "move_channels",
    "norm_scratch_bytes",
    "pad_channels",
    "recorder",
    "relu",
    "relu_grad",
    "scale",
    "sgd_step_",
    "sgd_update_",
    "sigmoid",
    "sigmoid_grad",
    "softmax_backward",
    "softmax_forward",
    "takes_max_pool",
    "takes_update",
    "thread_count",
    "to_channels_first",
    "to_channels_last",
    "update_running_",
    "update_table",
]

STATISTICS = np.dtype(np.float32)
"""Of means and variances."""

OWN_ALGORITHMS: tuple[str, ...] = ("wgmma",)
"""Of convolutions, those that other kernels don't have."""

RECORDS_STEPS = True
"""Whole training steps are kernels."""


def choose_algorithm(layer: ConvShape, asked: str, dtype: np.dtype[Any], training: bool) -> str:
    """Return "implicit", or "im2col" (the contract's convolution) for sizes beyond its counting.

    "wgmma" is chosen where it is asked for and computes the layer. Else there is one fast
    algorithm, so neither ``asked`` ("auto", "direct" or "winograd") nor ``training`` matters.

    Raises
    ------
    DeviceError
        If "wgmma" is asked for and the device, or the dtype, can't.
    """
    if not applies(dtype, (layer.maps, (layer.weight[0], *layer.output))):
        return "im2col"
    if asked == "wgmma":
        hopper.require_device(dtype)
        if Convolution(layer, dtype).why_not_wgmma() is None:
            return asked
    return "implicit"


def convolution(
    layer: ConvShape, algorithm: str, dtype: np.dtype[Any], images: int = 0
) -> Convolution:
    """Return the convolution of a layer's shape, for maps in a storage type."""
    return Convolution(layer, dtype, "wgmma" if algorithm == "wgmma" else "auto")


def fuses_pool(
    layer: ConvShape, algorithm: str, dtype: np.dtype[Any], window: tuple[int, int, int]
) -> bool:
    """Return whether a convolution is to compute the max pool behind it too.

    ``window`` is the pool's size, stride and padding.
    """
    return algorithm == "implicit" and Convolution(layer, dtype).pays_pooled(*window)


def dense(in_features: int, out_features: int, dtype: np.dtype[Any]) -> Dense:
    """Return the linear layer of a shape; its operands are multiplied in ``dtype``."""
    return Dense(in_features, out_features, dtype)


def memory(size: int) -> Array:
    """Return so many bytes on the current device; CuPy aligns them to 512."""
    return empty((size,), np.uint8)


def thread_count() -> int:
    """Return 1: what scratch memory a kernel needs doesn't depend on threads here."""
    return 1


def takes_update(*arrays: Array | None) -> bool:
    """Return False: plans update many tensors at once here, see ``update_table``."""
    return False


def announce() -> None:
    """Nothing to say: CuPy compiles in a second or two, and keeps what it made on disk."""
