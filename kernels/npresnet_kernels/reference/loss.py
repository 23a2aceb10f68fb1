"""Cross-entropy of logits x and classes t, with class weights w and label smoothing s.

With p = log-softmax(x) and C classes, the loss of a row is

    loss = sum_c k_c p_c,    k_c = -(1 - s) w_t [c = t] - s / C w_c,

and since d p_c / d x_j = [c = j] - exp(p_j),

    d loss / d x_j = k_j - exp(p_j) sum_c k_c.

Label smoothing: Szegedy et al. 2015, arXiv:1512.00567, section 7.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from npresnet_kernels.contract import Array
from npresnet_kernels.reference.activation import log_softmax


def cross_entropy(
    x: Array,
    target: npt.NDArray[np.int64],
    weight: Array | None,
    ignore_index: int,
    label_smoothing: float,
) -> tuple[Array, Array]:
    """Losses (M,) and p (M, C)."""
    rows, classes = x.shape
    p = log_softmax(x, 1)
    w = np.ones(classes, x.dtype) if weight is None else weight
    kept = target != ignore_index
    t = np.where(kept, target, 0)
    loss = -(1 - label_smoothing) * w[t] * p[np.arange(rows), t]  # (M,)
    if label_smoothing:  # 0 * inf would be NaN
        loss = loss - label_smoothing / classes * np.multiply(p, w, dtype=np.float64).sum(1)
    return np.where(kept, loss, 0).astype(x.dtype), p


def cross_entropy_grad(
    grad_output: Array,
    log_probabilities: Array,
    target: npt.NDArray[np.int64],
    weight: Array | None,
    ignore_index: int,
    label_smoothing: float,
) -> Array:
    """grad_x = grad_loss * (k - exp(p) * sum k), rows of ignored targets 0."""
    rows, classes = log_probabilities.shape
    w = np.ones(classes) if weight is None else weight.astype(np.float64)
    kept = target != ignore_index
    t = np.where(kept, target, 0)
    k = np.tile(-label_smoothing / classes * w, (rows, 1))  # (M, C)
    k[np.arange(rows), t] -= (1 - label_smoothing) * w[t]
    grad = k - np.exp(log_probabilities) * k.sum(1, keepdims=True)  # (M, C)
    grad = np.where(kept[:, None], grad * grad_output[:, None], 0)
    return grad.astype(log_probabilities.dtype)
