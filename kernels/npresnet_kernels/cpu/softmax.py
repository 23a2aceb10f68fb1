"""Softmax, log-softmax and their gradients: a row at a time, sums in float64."""

from __future__ import annotations

import numpy as np

from npresnet_kernels.contract import Array
from npresnet_kernels.cpu.jit import jit
from npresnet_kernels.cpu.threads import run, spans

__all__ = ["log_softmax", "log_softmax_grad", "softmax", "softmax_grad"]


@jit
def _forward(x: Array, y: Array, logarithm: bool, start: int, stop: int) -> None:
    """Rows start to stop."""
    classes = x.shape[1]
    for r in range(start, stop):
        top = -np.inf
        for c in range(classes):
            value = x[r, c]
            if value > top or value != value:
                top = value
        total = 0.0
        for c in range(classes):
            total += np.exp(x[r, c] - top)
        for c in range(classes):
            if logarithm:
                y[r, c] = x[r, c] - top - np.log(total)
            else:
                y[r, c] = np.exp(x[r, c] - top) / total


@jit
def _backward(grad: Array, y: Array, dx: Array, logarithm: bool, start: int, stop: int) -> None:
    """Rows start to stop."""
    classes = y.shape[1]
    for r in range(start, stop):
        total = 0.0
        for c in range(classes):
            total += grad[r, c] if logarithm else np.float64(grad[r, c]) * y[r, c]
        for c in range(classes):
            if logarithm:
                dx[r, c] = grad[r, c] - np.exp(y[r, c]) * total
            else:
                dx[r, c] = y[r, c] * (grad[r, c] - total)


def _rows(x: Array, axis: int) -> Array:
    """C-contiguous rows along an axis."""
    return np.ascontiguousarray(np.moveaxis(x, axis, -1)).reshape(-1, x.shape[axis])


def _unrows(rows: Array, x: Array, axis: int) -> Array:
    """Undo :func:`_rows`."""
    shape = np.moveaxis(x, axis, -1).shape
    return np.moveaxis(rows.reshape(shape), -1, axis)


def _apply(x: Array, axis: int, logarithm: bool) -> Array:
    rows = _rows(x, axis)
    y = np.empty_like(rows)
    parts = spans(len(rows), rows.shape[1], 2**14)
    run(lambda k: _forward(rows, y, logarithm, *parts[k]), len(parts))
    return _unrows(y, x, axis)


def _apply_grad(grad_output: Array, y: Array, axis: int, logarithm: bool) -> Array:
    grad, rows = _rows(grad_output, axis), _rows(y, axis)
    dx = np.empty_like(rows)
    parts = spans(len(rows), rows.shape[1], 2**14)
    run(lambda k: _backward(grad, rows, dx, logarithm, *parts[k]), len(parts))
    return _unrows(dx, y, axis)


def softmax(x: Array, axis: int) -> Array:
    """See the contract."""
    return _apply(x, axis, False)


def softmax_grad(grad_output: Array, y: Array, axis: int) -> Array:
    """See the contract."""
    return _apply_grad(grad_output, y, axis, False)


def log_softmax(x: Array, axis: int) -> Array:
    """See the contract."""
    return _apply(x, axis, True)


def log_softmax_grad(grad_output: Array, y: Array, axis: int) -> Array:
    """See the contract."""
    return _apply_grad(grad_output, y, axis, True)
