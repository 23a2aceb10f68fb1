"""ReLU and the residual sum, shared out among threads."""

from __future__ import annotations

import numpy as np

from npresnet_kernels.contract import Array
from npresnet_kernels.cpu.jit import jit
from npresnet_kernels.cpu.layout import from_rows, rows_of
from npresnet_kernels.cpu.threads import run, spans

__all__ = ["add", "relu", "relu_grad"]


def relu(x: Array) -> Array:
    """See the contract."""
    rows = rows_of(x)
    y = np.empty_like(rows)
    parts = spans(*rows.shape)

    def part(k: int) -> None:
        start, stop = parts[k]
        np.maximum(rows[start:stop], 0, out=y[start:stop])

    run(part, len(parts))
    return from_rows(y, x.shape)


@jit
def _relu_grad(grad: Array, y: Array, dx: Array, start: int, stop: int) -> None:
    """Rows start to stop."""
    zero = y.dtype.type(0)
    for r in range(start, stop):
        for c in range(y.shape[1]):
            dx[r, c] = zero if y[r, c] <= 0 else grad[r, c]


def relu_grad(grad_output: Array, y: Array) -> Array:
    """See the contract."""
    grad, out = rows_of(grad_output), rows_of(y)
    dx = np.empty_like(grad)
    parts = spans(*grad.shape)

    def part(k: int) -> None:
        _relu_grad(grad, out, dx, *parts[k])

    run(part, len(parts))
    return from_rows(dx, y.shape)


def add(x: Array, y: Array) -> Array:
    """See the contract."""
    left, right = rows_of(x), rows_of(y)
    total = np.empty_like(left)
    parts = spans(*left.shape)

    def part(k: int) -> None:
        start, stop = parts[k]
        np.add(left[start:stop], right[start:stop], out=total[start:stop])

    run(part, len(parts))
    return from_rows(total, x.shape)
