"""Batch norm: few passes over memory, sums in float64.

Rows are summed in parts of a fixed size, a part while it is in the cache; the parts' sums are then
added in order. So results depend neither on the number of threads nor on their luck.
"""

from __future__ import annotations

import numpy as np

from npresnet_kernels.contract import Array
from npresnet_kernels.cpu.jit import jit
from npresnet_kernels.cpu.layout import from_rows, rows_of
from npresnet_kernels.cpu.threads import run, spans

__all__ = ["batch_norm", "batch_norm_grad", "batch_norm_statistics", "channel_sum"]


@jit
def _moments(x: Array, start: int, stop: int, mean: Array, squares: Array) -> None:
    """Mean of rows start to stop of (R, C), and the sum of squared differences from it."""
    channels = x.shape[1]
    for c in range(channels):
        mean[c] = 0
        squares[c] = 0
    for r in range(start, stop):
        for c in range(channels):
            mean[c] += x[r, c]
    for c in range(channels):
        mean[c] /= stop - start
    for r in range(start, stop):
        for c in range(channels):
            difference = x[r, c] - mean[c]
            squares[c] += difference * difference


def batch_norm_statistics(x: Array) -> tuple[Array, Array]:
    """See the contract; an empty batch has mean 0 and variance 0.

    Parts are joined as Chan, Golub and LeVeque (1979) do: with n_k rows, means m_k and sums of
    squares s_k, the whole has m = sum n_k m_k / n and s = sum s_k + sum n_k (m_k - m)^2.
    """
    rows = rows_of(x)
    count, channels = rows.shape
    parts = spans(count, channels)
    means = np.empty((len(parts), channels))
    squares = np.empty((len(parts), channels))

    def part(k: int) -> None:
        _moments(rows, *parts[k], means[k], squares[k])

    run(part, len(parts))
    sizes = np.array([stop - start for start, stop in parts], np.float64).reshape(-1, 1)
    mean = (sizes * means).sum(0) / max(1, count)
    total = squares.sum(0) + (sizes * np.square(means - mean)).sum(0)
    return mean.astype(x.dtype), (total / max(1, count)).astype(x.dtype)


@jit
def _normalise(
    x: Array, mean: Array, scale: Array, bias: Array, y: Array, start: int, stop: int
) -> None:
    """Rows start to stop: y = (x - mean) * scale + bias."""
    for r in range(start, stop):
        for c in range(x.shape[1]):
            y[r, c] = (x[r, c] - mean[c]) * scale[c] + bias[c]


def _normalised(x: Array, mean: Array, scale: Array, bias: Array) -> Array:
    """(R, C) rows on all threads."""
    y = np.empty_like(x)
    parts = spans(*x.shape)
    center, slope, shift = (np.ascontiguousarray(v, x.dtype) for v in (mean, scale, bias))

    def part(k: int) -> None:
        _normalise(x, center, slope, shift, y, *parts[k])

    run(part, len(parts))
    return y


def batch_norm(
    x: Array, mean: Array, invstd: Array, weight: Array | None, bias: Array | None
) -> Array:
    """See the contract."""
    scale = invstd if weight is None else invstd * weight
    shift = np.zeros_like(mean) if bias is None else bias
    return from_rows(_normalised(rows_of(x), mean, scale, shift), x.shape)


@jit
def _grad_sums(
    grad: Array, x: Array, mean: Array, start: int, stop: int, total: Array, inner: Array
) -> None:
    """Sums of grad and of grad * (x - mean) over rows start to stop."""
    channels = x.shape[1]
    for c in range(channels):
        total[c] = 0
        inner[c] = 0
    for r in range(start, stop):
        for c in range(channels):
            total[c] += grad[r, c]
            inner[c] += np.float64(grad[r, c]) * (np.float64(x[r, c]) - mean[c])


@jit
def _grad_input(
    grad: Array,
    x: Array,
    mean: Array,
    offset: Array,
    slope: Array,
    scale: Array,
    dx: Array,
    start: int,
    stop: int,
) -> None:
    """Rows start to stop: dx = (grad - offset - (x - mean) * slope) * scale."""
    for r in range(start, stop):
        for c in range(x.shape[1]):
            dx[r, c] = (grad[r, c] - offset[c] - (x[r, c] - mean[c]) * slope[c]) * scale[c]


def batch_norm_grad(
    grad_output: Array,
    x: Array,
    mean: Array,
    invstd: Array,
    weight: Array | None,
    training: bool,
) -> tuple[Array, Array, Array]:
    """See the contract: the sums in one pass, grad_x in another."""
    grad, rows = rows_of(grad_output), rows_of(x)
    count, channels = rows.shape
    parts = spans(count, channels)
    totals = np.empty((len(parts), channels))
    inners = np.empty((len(parts), channels))
    center = mean.astype(np.float64)

    def sums(k: int) -> None:
        _grad_sums(grad, rows, center, *parts[k], totals[k], inners[k])

    run(sums, len(parts))
    grad_bias = totals.sum(0)
    inner = inners.sum(0)
    inverse = invstd.astype(np.float64)
    scale = invstd if weight is None else invstd * weight
    if training:
        dx = np.empty_like(rows)
        offset = grad_bias / max(1, count)
        slope = inner * np.square(inverse) / max(1, count)
        a, b, c, d = (np.ascontiguousarray(v, x.dtype) for v in (mean, offset, slope, scale))

        def inputs(k: int) -> None:
            _grad_input(grad, rows, a, b, c, d, dx, *parts[k])

        run(inputs, len(parts))
    else:
        nothing = np.zeros_like(mean)
        dx = _normalised(grad, nothing, scale, nothing)
    grad_weight = (inner * inverse).astype(x.dtype)
    return from_rows(dx, x.shape), grad_weight, grad_bias.astype(x.dtype)


def channel_sum(x: Array) -> Array:
    """See the contract."""
    rows = rows_of(x)
    parts = spans(*rows.shape)
    totals = np.empty((len(parts), rows.shape[1]))

    def part(k: int) -> None:
        start, stop = parts[k]
        np.sum(rows[start:stop], axis=0, dtype=np.float64, out=totals[k])

    run(part, len(parts))
    return np.asarray(totals.sum(0), x.dtype)
