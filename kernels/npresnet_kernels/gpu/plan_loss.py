"""Mean cross-entropy of plans, with its gradient in the same pass, into given memory."""

from __future__ import annotations

import numpy as np

from npresnet_kernels.contract import Array
from npresnet_kernels.gpu.device import THREADS, launch
from npresnet_kernels.gpu.softmax import row_grid

__all__ = ["cross_entropy"]

SOURCE = "plan_loss.cu"


def cross_entropy(
    logits: Array,
    target: Array,
    loss: Array,
    grad_logits: Array,
    scale: Array | None,
    ignore_index: int,
    label_smoothing: float,
    scratch: Array,
) -> None:
    """Mean loss over the rows whose class isn't ``ignore_index``, and its gradient.

    Parameters
    ----------
    logits : array (N, C) of float32
    target : array (N,) of int64 or int32
        Classes; one out of range makes loss and gradient NaN.
    loss : array (1,) of float32
        Gets the mean; NaN if no row counts.
    grad_logits : array (N, C) of float32
        Gets the gradient of ``scale[0] * loss``.
    scale : array (1,) of float32, or None
        Loss scale, read on the device; 1 if there is none.
    ignore_index : int
        A class that counts for nothing.
    label_smoothing : float
        Share of the target that is spread over all classes.
    scratch : array
        4 bytes a row.
    """
    rows, classes = logits.shape
    defines = {"TARGET": target.dtype.name}
    sizes = (np.int32(rows), np.int32(classes), int(ignore_index), float(label_smoothing))
    grid, block = row_grid(rows, max(1, classes))
    arguments = (logits, target, scratch, grad_logits, scale, *sizes)
    launch(SOURCE, "mean_cross_entropy", grid, arguments, block=block, defines=defines)
    total = (scratch, target, loss, np.int32(rows), int(ignore_index))
    launch(SOURCE, "mean_of_losses", (1,), total, block=(THREADS,), defines=defines)
