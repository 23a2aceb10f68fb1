"""The GPU kernel set: CUDA C sources, and beside each the launcher that CuPy runs it with.

Arrays are CuPy's, in float32, float64 or float16. Every function is specified in
:class:`npresnet_kernels.contract.KernelSet`; ``docs/gpu.md`` says how the set is built and checked.
"""

from npresnet_kernels.gpu.activation import add, relu, relu_grad
from npresnet_kernels.gpu.conv import (
    col2im,
    conv2d,
    conv2d_grad_input,
    conv2d_grad_weight,
    im2col,
)
from npresnet_kernels.gpu.linear import linear, linear_grad_input, linear_grad_weight
from npresnet_kernels.gpu.loss import cross_entropy, cross_entropy_grad
from npresnet_kernels.gpu.norm import (
    batch_norm,
    batch_norm_grad,
    batch_norm_statistics,
    channel_sum,
)
from npresnet_kernels.gpu.optim import adamw_update_, sgd_update_
from npresnet_kernels.gpu.pool import (
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_grad,
    avg_pool2d,
    avg_pool2d_grad,
    max_pool2d,
    max_pool2d_grad,
)
from npresnet_kernels.gpu.softmax import log_softmax, log_softmax_grad, softmax, softmax_grad

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
