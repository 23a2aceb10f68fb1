"""The textbook kernel set: plain NumPy, any float dtype, made to be read.

Every function is specified in :class:`npresnet_kernels.contract.KernelSet`; the files here add the
formulas. Inside, 4-D arrays are NHWC, so that a pixel's channels lie side by side.
"""

from npresnet_kernels.reference.activation import (
    add,
    log_softmax,
    log_softmax_grad,
    relu,
    relu_grad,
    softmax,
    softmax_grad,
)
from npresnet_kernels.reference.conv import (
    channel_sum,
    col2im,
    conv2d,
    conv2d_grad_input,
    conv2d_grad_weight,
    im2col,
)
from npresnet_kernels.reference.linear import linear, linear_grad_input, linear_grad_weight
from npresnet_kernels.reference.loss import cross_entropy, cross_entropy_grad
from npresnet_kernels.reference.norm import batch_norm, batch_norm_grad, batch_norm_statistics
from npresnet_kernels.reference.optim import adamw_update_, sgd_update_
from npresnet_kernels.reference.pool import (
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_grad,
    avg_pool2d,
    avg_pool2d_grad,
    max_pool2d,
    max_pool2d_grad,
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
