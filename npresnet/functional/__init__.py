"""Operations on tensors, with the names, argument order and defaults of torch.nn.functional.

One file a family; in each, the formula's forward stands beside its backward.
"""

from npresnet.functional.activation import dropout, log_softmax, relu, sigmoid, softmax
from npresnet.functional.conv import conv2d, pad
from npresnet.functional.linear import linear
from npresnet.functional.loss import cross_entropy, nll_loss
from npresnet.functional.norm import batch_norm
from npresnet.functional.pool import adaptive_avg_pool2d, avg_pool2d, max_pool2d

__all__ = [
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "batch_norm",
    "conv2d",
    "cross_entropy",
    "dropout",
    "linear",
    "log_softmax",
    "max_pool2d",
    "nll_loss",
    "pad",
    "relu",
    "sigmoid",
    "softmax",
]
