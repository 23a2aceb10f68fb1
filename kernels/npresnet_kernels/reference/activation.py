"""ReLU, softmax, log-softmax and the residual sum."""

from __future__ import annotations

import numpy as np

from npresnet_kernels.contract import Array


def _same_memory(x: Array) -> Array:
    """The array itself, or its channels-last copy if it has four axes."""
    if x.ndim != 4:
        return x
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def relu(x: Array) -> Array:
    """The formula y = max(x, 0); np.maximum keeps NaN."""
    return np.asarray(np.maximum(_same_memory(x), 0))


def relu_grad(grad_output: Array, y: Array) -> Array:
    """grad_x = grad_y where y > 0, else 0; a NaN in y is not <= 0 either."""
    return _same_memory(np.where(y <= 0, grad_output.dtype.type(0), grad_output))


def add(x: Array, y: Array) -> Array:
    """The sum x + y."""
    return np.asarray(_same_memory(x) + y)


def _shifted(x: Array, axis: int) -> Array:
    """Each x less its maximum along an axis, so that no exponential overflows."""
    with np.errstate(invalid="ignore"):  # inf - inf is the NaN that it should be
        return np.asarray(x - x.max(axis, keepdims=True, initial=-np.inf))


def softmax(x: Array, axis: int) -> Array:
    """The formula y = exp(x - max) / sum exp(x - max)."""
    e = np.exp(_shifted(x, axis))
    return np.asarray(e / e.sum(axis, keepdims=True, dtype=np.float64), x.dtype)


def softmax_grad(grad_output: Array, y: Array, axis: int) -> Array:
    """grad_x = y * (grad_y - sum grad_y * y)."""
    inner = np.multiply(grad_output, y, dtype=np.float64).sum(axis, keepdims=True)
    return np.asarray(y * (grad_output - inner), y.dtype)


def log_softmax(x: Array, axis: int) -> Array:
    """The formula y = x - max - log sum exp(x - max)."""
    shifted = _shifted(x, axis)
    total = np.exp(shifted).sum(axis, keepdims=True, dtype=np.float64)
    with np.errstate(divide="ignore"):  # an empty axis sums to 0
        return np.asarray(shifted - np.log(total), x.dtype)


def log_softmax_grad(grad_output: Array, y: Array, axis: int) -> Array:
    """grad_x = grad_y - softmax * sum grad_y, where softmax = exp(y)."""
    total = grad_output.sum(axis, keepdims=True, dtype=np.float64)
    return np.asarray(grad_output - np.exp(y) * total, y.dtype)
