"""The fast kernel set: Numba loops and OpenBLAS products, shared out among threads.

Every function is specified in :class:`npresnet_kernels.contract.KernelSet`. Kernels compile at
their first call with a dtype and are kept on disk.
"""

from npresnet_kernels.cpu.cache import require_numba

require_numba()  # a broken one is told of here, where the backend can still fall back

# ruff: noqa: E402

from npresnet_kernels.cpu.activation import add, relu, relu_grad
from npresnet_kernels.cpu.conv import (
    col2im,
    conv2d,
    conv2d_grad_input,
    conv2d_grad_weight,
    im2col,
)
from npresnet_kernels.cpu.linear import linear, linear_grad_input, linear_grad_weight
from npresnet_kernels.cpu.loss import cross_entropy, cross_entropy_grad
from npresnet_kernels.cpu.norm import (
    batch_norm,
    batch_norm_grad,
    batch_norm_statistics,
    channel_sum,
)
from npresnet_kernels.cpu.optim import adamw_update_, sgd_update_
from npresnet_kernels.cpu.pool import (
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_grad,
    avg_pool2d,
    avg_pool2d_grad,
    max_pool2d,
    max_pool2d_grad,
)
from npresnet_kernels.cpu.softmax import (
    log_softmax,
    log_softmax_grad,
    softmax,
    softmax_grad,
)

__all__ = [
    "adamw_update_",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_grad",
    "add",
    "avg_pool2d",
    "avg_pool2d_grad",
    "batch_norm",
    "batch_norm_grad",
    "batch_norm_statistics",
    "channel_sum",
    "col2im",
    "conv2d",
    "conv2d_grad_input",
    "conv2d_grad_weight",
    "cross_entropy",
    "cross_entropy_grad",
    "im2col",
    "linear",
    "linear_grad_input",
    "linear_grad_weight",
    "log_softmax",
    "log_softmax_grad",
    "max_pool2d",
    "max_pool2d_grad",
    "relu",
    "relu_grad",
    "sgd_update_",
    "softmax",
    "softmax_grad",
]
