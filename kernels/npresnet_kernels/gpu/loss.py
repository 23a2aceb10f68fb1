"""Cross-entropy of logits and class numbers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from npresnet_kernels.contract import Array
from npresnet_kernels.gpu.device import empty, launch, scalar_type
from npresnet_kernels.gpu.memory import contiguous, empty_like
from npresnet_kernels.gpu.softmax import log_softmax, row_grid

__all__ = ["cross_entropy", "cross_entropy_grad"]


def cross_entropy(
    x: Array,
    target: npt.NDArray[np.int64],
    weight: Array | None,
    ignore_index: int,
    label_smoothing: float,
) -> tuple[Array, Array]:
    """Losses (M,) and log-probabilities (M, C)."""
    p = log_softmax(x, 1)
    rows, classes = p.shape
    losses = empty((rows,), p.dtype)
    if p.size:
        grid, block = row_grid(rows, classes)
        w = weight if weight is None else contiguous(weight)
        arguments = (p, contiguous(target), w, losses, rows, np.int32(classes))
        launch(
            "loss.cu",
            "cross_entropy",
            grid,
            (*arguments, int(ignore_index), float(label_smoothing)),
            block=block,
            defines={"SCALAR": scalar_type(p)},
        )
    return losses, p


def cross_entropy_grad(
    grad_output: Array,
    log_probabilities: Array,
    target: npt.NDArray[np.int64],
    weight: Array | None,
    ignore_index: int,
    label_smoothing: float,
) -> Array:
    """grad_x = grad_loss * (k - exp(p) * sum k), rows of ignored targets 0."""
    p = contiguous(log_probabilities)
    rows, classes = p.shape
    grad_input = empty_like(p)
    if p.size:
        grid, block = row_grid(rows, classes)
        w = weight if weight is None else contiguous(weight)
        arguments = (contiguous(grad_output), p, contiguous(target), w, grad_input, rows)
        launch(
            "loss.cu",
            "cross_entropy_grad",
            grid,
            (*arguments, np.int32(classes), int(ignore_index), float(label_smoothing)),
            block=block,
            defines={"SCALAR": scalar_type(p)},
        )
    return grad_input
