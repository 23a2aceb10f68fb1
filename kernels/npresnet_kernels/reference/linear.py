"""The fully connected layer: y = x W^T + bias."""

from __future__ import annotations

import numpy as np

from npresnet_kernels.contract import Array


def linear(x: Array, weight: Array, bias: Array | None) -> Array:
    """The product y = x W^T + bias."""
    y = np.matmul(x, weight.T)  # (M, I) (I, O): (M, O)
    if bias is not None:
        y += bias
    return np.asarray(y)


def linear_grad_input(grad_output: Array, weight: Array) -> Array:
    """grad_x = grad_y W."""
    return np.asarray(np.matmul(grad_output, weight))  # (M, O) (O, I): (M, I)


def linear_grad_weight(grad_output: Array, x: Array) -> Array:
    """grad_W = grad_y^T x."""
    return np.asarray(np.matmul(grad_output.T, x))  # (O, M) (M, I): (O, I)
