"""The fully connected layer: OpenBLAS does all of it, on its own threads."""

from __future__ import annotations

import numpy as np

from npresnet_kernels.contract import Array

__all__ = ["linear", "linear_grad_input", "linear_grad_weight"]


def linear(x: Array, weight: Array, bias: Array | None) -> Array:
    """See the contract."""
    y = np.empty((len(x), len(weight)), x.dtype)
    np.matmul(x, weight.T, out=y)
    if bias is not None:
        np.add(y, bias, out=y)
    return y


def linear_grad_input(grad_output: Array, weight: Array) -> Array:
    """See the contract."""
    dx: Array = np.matmul(grad_output, weight)
    return dx


def linear_grad_weight(grad_output: Array, x: Array) -> Array:
    """See the contract."""
    dw: Array = np.matmul(grad_output.T, x)
    return dw
