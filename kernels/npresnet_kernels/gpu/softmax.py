"""Softmax and log-softmax along any axis, with their gradients."""

from __future__ import annotations

import math

import numpy as np

from npresnet_kernels.contract import Array
from npresnet_kernels.gpu.device import MOST_BLOCKS, THREADS, launch, scalar_type
from npresnet_kernels.gpu.memory import contiguous, empty_like

__all__ = [
    "log_softmax",
    "log_softmax_grad",
    "row_grid",
    "softmax",
    "softmax_backward",
    "softmax_forward",
    "softmax_grad",
]


def row_grid(rows: int, n: int) -> tuple[tuple[int], tuple[int]]:
    """Grid and block for a block a row of ``n`` values: a power of two threads, a warp at least."""
    threads = min(THREADS, max(32, 1 << (n - 1).bit_length()))
    return (max(1, min(rows, MOST_BLOCKS)),), (threads,)


def _along(kernel: str, axis: int, *inputs: Array) -> Array:
    """Run a kernel of softmax.cu along an axis of inputs of one shape."""
    inputs = tuple(contiguous(x) for x in inputs)
    y = empty_like(inputs[0])
    in_memory = y.shape if y.ndim != 4 else tuple(y.shape[i] for i in (0, 2, 3, 1))
    axis %= y.ndim
    if y.ndim == 4:
        axis = (0, 3, 1, 2)[axis]
    _write(kernel, in_memory[axis], math.prod(in_memory[axis + 1 :]), *inputs, y)
    return y


def _write(kernel: str, n: int, inner: int, *arrays: Array) -> None:
    """Run a kernel over rows of ``n`` values, ``inner`` apart; the last array is written."""
    y = arrays[-1]
    if not y.size:
        return
    rows = y.size // n
    grid, block = row_grid(rows, n)
    arguments = (*arrays, rows, np.int32(n), inner)
    launch("softmax.cu", kernel, grid, arguments, block=block, defines={"SCALAR": scalar_type(y)})


def softmax_forward(x: Array, y: Array, log: bool) -> None:
    """Write the softmax of each row of (N, C), or its logarithm, into given memory."""
    _write("log_softmax" if log else "softmax", x.shape[1], 1, x, y)


def softmax_backward(grad_y: Array, y: Array, grad_x: Array, log: bool) -> None:
    """Write the gradient of :func:`softmax_forward`; ``grad_x`` may be ``grad_y``."""
    _write("log_softmax_grad" if log else "softmax_grad", y.shape[1], 1, grad_y, y, grad_x)


def softmax(x: Array, axis: int) -> Array:
    """exp(x - max) over its sum."""
    return _along("softmax", axis, x)


def softmax_grad(grad_output: Array, y: Array, axis: int) -> Array:
    """grad_x = y * (grad_y - sum grad_y * y)."""
    return _along("softmax_grad", axis, grad_output, y)


def log_softmax(x: Array, axis: int) -> Array:
    """X - max - log(sum(exp(x - max)))."""
    return _along("log_softmax", axis, x)


def log_softmax_grad(grad_output: Array, y: Array, axis: int) -> Array:
    """grad_x = grad_y - exp(y) * sum grad_y."""
    return _along("log_softmax_grad", axis, grad_output, y)
