"""Cross-entropy of logits and classes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from npresnet_kernels.contract import Array
from npresnet_kernels.cpu.jit import jit
from npresnet_kernels.cpu.softmax import log_softmax
from npresnet_kernels.cpu.threads import run, spans

__all__ = ["cross_entropy", "cross_entropy_grad"]


@jit
def _losses(
    p: Array,
    target: Array,
    weight: Array,
    ignore: int,
    smooth: float,
    loss: Array,
    start: int,
    stop: int,
) -> None:
    """Rows start to stop."""
    classes = p.shape[1]
    for r in range(start, stop):
        t = target[r]
        total = 0.0
        if t != ignore:
            total -= (1 - smooth) * weight[t] * p[r, t]
            if smooth != 0:
                mean = 0.0
                for c in range(classes):
                    mean += weight[c] * p[r, c]
                total -= smooth / classes * mean
        loss[r] = total


@jit
def _logit_grads(
    grad: Array,
    p: Array,
    target: Array,
    weight: Array,
    ignore: int,
    smooth: float,
    dx: Array,
    start: int,
    stop: int,
) -> None:
    """Rows start to stop: grad * (k - exp(p) * sum k), k the loss's factors of p."""
    classes = p.shape[1]
    for r in range(start, stop):
        t = target[r]
        if t == ignore:
            for c in range(classes):
                dx[r, c] = 0
            continue
        chosen = (1 - smooth) * weight[t]
        total = chosen
        for c in range(classes):
            total += smooth / classes * weight[c]
        for c in range(classes):
            k = smooth / classes * weight[c] + (chosen if c == t else 0.0)
            dx[r, c] = grad[r] * (np.exp(p[r, c]) * total - k)


def _weights(weight: Array | None, classes: int) -> Array:
    """Class weights in float64, 1 where there are none."""
    if weight is None:
        return np.ones(classes)
    return np.ascontiguousarray(weight, np.float64)


def cross_entropy(
    x: Array,
    target: npt.NDArray[np.int64],
    weight: Array | None,
    ignore_index: int,
    label_smoothing: float,
) -> tuple[Array, Array]:
    """See the contract."""
    p = log_softmax(x, 1)
    loss = np.empty(len(x), x.dtype)
    classes = np.ascontiguousarray(target)
    w = _weights(weight, x.shape[1])
    parts = spans(len(x), x.shape[1])

    def part(k: int) -> None:
        _losses(p, classes, w, ignore_index, float(label_smoothing), loss, *parts[k])

    run(part, len(parts))
    return loss, p


def cross_entropy_grad(
    grad_output: Array,
    log_probabilities: Array,
    target: npt.NDArray[np.int64],
    weight: Array | None,
    ignore_index: int,
    label_smoothing: float,
) -> Array:
    """See the contract."""
    p = np.ascontiguousarray(log_probabilities)
    grad, classes = np.ascontiguousarray(grad_output), np.ascontiguousarray(target)
    w = _weights(weight, p.shape[1])
    dx = np.empty_like(p)
    parts = spans(len(p), p.shape[1], 2**14)

    def part(k: int) -> None:
        _logit_grads(grad, p, classes, w, ignore_index, float(label_smoothing), dx, *parts[k])

    run(part, len(parts))
    return dx
