"""Batch norm of plans, fused with the residual sum and ReLU, (N, H, W, C), into given memory.

Activations and their gradients are of the plan's element type, everything else float32. How a sum
over rows is shared depends on sizes alone, so its bits are the same every time and everywhere.
"""

from __future__ import annotations

import numpy as np

from npresnet_kernels.contract import Array
from npresnet_kernels.gpu.device import THREADS, blocks, launch
from npresnet_kernels.gpu.vectors import (
    RESIDENT,
    channel_blocks,
    defines_of,
    fixed_channels,
    int32,
    vector_of,
)

__all__ = [
    "batch_norm_backward",
    "batch_norm_forward",
    "channel_sum",
    "moments",
    "norm_scratch_bytes",
    "update_running_",
]

SOURCE = "plan_norm.cu"
MOST_CHUNKS = RESIDENT // 2
"""Blocks that sum: the others' places are for what a thread keeps."""
FINISH = (8, 128)
"""Channels and chunks of a block that adds chunks up."""


def _chunks(rows: int, depth: int, across: int) -> tuple[int, int]:
    """Rows of a chunk whose block walks ``depth`` of them at a time, and chunks."""
    size = max(4 * depth, -(-rows * across // MOST_CHUNKS))
    return size, -(-rows // size)


def norm_scratch_bytes(rows: int, channels: int) -> int:
    """Return the scratch memory that the sums below need over (rows, channels)."""
    # a chunk has four rows at the least, whatever the vectors
    return 2 * 4 * channels * min(MOST_CHUNKS, -(-rows // 4))


def _partial_sums(
    kernel: str, x: Array, arguments: tuple[object, ...], rest: tuple[object, ...], scratch: Array
) -> int:
    """Leave a kernel's sums in ``scratch``; return in how many chunks."""
    channels = x.shape[-1]
    rows = x.size // channels
    arrays = [a for a in arguments if getattr(a, "ndim", 0)]
    vector = vector_of(channels, x, *arrays)  # type: ignore[arg-type]
    block, across = channel_blocks(channels // vector)
    size, chunks = _chunks(rows, block[1], across)
    launch(
        SOURCE,
        kernel,
        (chunks, across),
        (*arguments, scratch, rows, np.int32(channels // vector), size, *rest),
        block=block,
        defines=defines_of(x, vector),
    )
    return chunks


def _finish(kernel: str, like: Array, channels: int, arguments: tuple[object, ...]) -> None:
    grid = (-(-channels // FINISH[0]),)
    launch(SOURCE, kernel, grid, arguments, block=FINISH, defines=defines_of(like, 1))


def channel_sum(x: Array, out: Array, scratch: Array) -> None:
    """Sum over all axes but the last into ``out``, (C,) float32."""
    if not x.size:
        out.fill(0)
        return
    chunks = _partial_sums("chunk_sums", x, (x,), (), scratch)
    arguments = (scratch, out, None, *int32(chunks, x.shape[-1]))
    _finish("add_chunks", x, x.shape[-1], arguments)


def moments(x: Array, out: Array, scratch: Array) -> None:
    """Mean and biased variance of each channel into ``out``, (2, C) float32."""
    channels = x.shape[-1]
    chunks = _partial_sums("chunk_moments", x, (x,), (), scratch)
    arguments = (scratch, x, out, *int32(chunks, channels), float(x.size // channels))
    _finish("add_moments", x, channels, arguments)


def update_running_(
    moments: Array, running_mean: Array, running_var: Array, momentum: float, count: int
) -> None:
    """Move the running statistics towards ``moments``, (2, C), of ``count`` values a channel."""
    channels = running_mean.size
    numbers = (np.int32(channels), float(momentum), count / max(1, count - 1))
    arguments = (moments, running_mean, running_var, *numbers)
    launch(SOURCE, "move_running", blocks(channels), arguments, defines=defines_of(moments, 1))


def batch_norm_forward(
    x: Array,
    mean: Array,
    variance: Array,
    gamma: Array | None,
    beta: Array | None,
    y: Array,
    residual: Array | None = None,
    relu: bool = False,
    eps: float = 1e-5,
) -> None:
    """Y = relu((x - mean) / sqrt(variance + eps) * gamma + beta + residual)."""
    if not x.size:
        return
    arrays = (x, mean, variance, gamma, beta, residual, y)
    vector = vector_of(x.shape[-1], *arrays)
    total, vectors = x.size // vector, x.shape[-1] // vector
    launch(
        SOURCE,
        "normalise",
        fixed_channels(total, vectors),
        (*arrays, total, np.int32(vectors), float(eps), np.int32(relu)),
        block=(THREADS,),
        defines=defines_of(x, vector),
    )


def batch_norm_backward(
    grad_y: Array,
    x: Array,
    mean: Array,
    variance: Array,
    gamma: Array | None,
    beta: Array | None,
    grad_x: Array,
    relu: bool,
    y: Array | None,
    grad_residual: Array | None,
    eps: float,
    grad_gamma: Array,
    grad_beta: Array,
    scratch: Array,
    frozen: bool = False,
) -> None:
    """Write the gradients of x, the residual, gamma and beta.

    ``y`` is asked for if a residual was added before a ReLU. The gradient of the residual, or else
    that of x, may take the place of ``grad_y``. ``scratch`` has :func:`norm_scratch_bytes`. With
    ``frozen`` the statistics are constants, as running ones are, rather than those of x.
    """
    if not x.size:
        grad_gamma.fill(0)
        grad_beta.fill(0)
        return
    statistics = (mean, variance, gamma, beta)
    rule = (float(eps), np.int32(relu))
    channels = x.shape[-1]
    rows = x.size // channels
    chunks = _partial_sums("chunk_grads", x, (grad_y, x, y, *statistics), rule, scratch)
    sums = (scratch, grad_beta, grad_gamma, *int32(chunks, channels))
    _finish("add_chunks", x, channels, sums)
    through = (None, None) if frozen else (grad_gamma, grad_beta)
    arrays = (grad_y, x, y, *statistics, *through, grad_x, grad_residual)
    vector = vector_of(channels, x, *arrays)
    total, vectors = x.size // vector, channels // vector
    launch(
        SOURCE,
        "normalise_grad",
        fixed_channels(total, vectors),
        (*arrays, total, np.int32(vectors), float(rows), *rule),
        block=(THREADS,),
        defines=defines_of(x, vector),
    )
