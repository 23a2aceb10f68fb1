"""Batch normalisation, its gradients, and sums over all but the channels."""

from __future__ import annotations

import numpy as np

from npresnet_kernels.contract import Array
from npresnet_kernels.gpu.device import array_module, blocks, empty, launch, scalar_type
from npresnet_kernels.gpu.memory import contiguous, empty_like, rows_of

__all__ = ["batch_norm", "batch_norm_grad", "batch_norm_statistics", "channel_sum"]

TILE, DEPTH = 32, 8  # channels and rows of a block, as in norm.cu
MOST_CHUNKS = 256


def _chunks(rows: int) -> tuple[int, int]:
    """Rows of a chunk, and chunks."""
    size = max(8 * DEPTH, -(-rows // MOST_CHUNKS))
    return size, -(-rows // size)


def _sums(kernel: str, x: Array, *others: Array, outputs: int, divisor: float) -> list[Array]:
    """Sums over the rows of the matrix ``x``: for each output its double and rounded totals."""
    xp = array_module()
    rows, channels = x.shape
    results = []
    if not x.size:
        for _ in range(outputs):
            results += [xp.zeros(channels, np.float64), xp.zeros(channels, x.dtype)]
        return results
    chunk, chunks = _chunks(rows)
    defines = {"SCALAR": scalar_type(x)}
    partials = [empty((chunks, channels), np.float64) for _ in range(outputs)]
    launch(
        "norm.cu",
        kernel,
        (chunks, -(-channels // TILE)),
        (x, *others, *partials, rows, channels, chunk),
        block=(TILE, DEPTH),
        defines=defines,
    )
    for partial in partials:
        totals, rounded = empty((channels,), np.float64), empty((channels,), x.dtype)
        arguments = (partial, totals, rounded, chunks, channels, float(divisor))
        launch("norm.cu", "finish_sums", blocks(channels), arguments, defines=defines)
        results += [totals, rounded]
    return results


def channel_sum(x: Array) -> Array:
    """Sum over all axes but the channels', in double."""
    return _sums("partial_sums", rows_of(x), outputs=1, divisor=1)[1]


def batch_norm_statistics(x: Array) -> tuple[Array, Array]:
    """First the mean, then the mean of (x - mean)^2, both in double."""
    rows = rows_of(x)
    m = max(1, len(rows))
    exact, mean = _sums("partial_sums", rows, outputs=1, divisor=m)
    return mean, _sums("partial_squares", rows, exact, outputs=1, divisor=m)[1]


def batch_norm(
    x: Array, mean: Array, invstd: Array, weight: Array | None, bias: Array | None
) -> Array:
    """The formula y = (x - mean) * invstd * weight + bias."""
    x = contiguous(x)
    y = empty_like(x)
    if y.size:
        vectors = [v if v is None else contiguous(v) for v in (mean, invstd, weight, bias)]
        arguments = (x, *vectors, y, y.size, y.shape[1])
        defines = {"SCALAR": scalar_type(y)}
        launch("norm.cu", "batch_norm", blocks(y.size), arguments, defines=defines)
    return y


def batch_norm_grad(
    grad_output: Array,
    x: Array,
    mean: Array,
    invstd: Array,
    weight: Array | None,
    training: bool,
) -> tuple[Array, Array, Array]:
    """Two sums a channel, then grad_x element by element."""
    grad_rows, x_rows = rows_of(grad_output), rows_of(x)
    mean, invstd = contiguous(mean), contiguous(invstd)
    weight_sum, grad_weight, bias_sum, grad_bias = _sums(
        "partial_grads", grad_rows, x_rows, mean, invstd, outputs=2, divisor=1
    )
    grad_x = empty_like(x)
    if grad_x.size:
        sums = (weight_sum, bias_sum) if training else (None, None)
        gamma = weight if weight is None else contiguous(weight)
        arguments = (grad_rows, x_rows, mean, invstd, gamma, *sums, grad_x, x.size, x.shape[1])
        launch(
            "norm.cu",
            "batch_norm_grad",
            blocks(x.size),
            (*arguments, float(len(x_rows))),
            defines={"SCALAR": scalar_type(x)},
        )
    return grad_x, grad_weight, grad_bias
