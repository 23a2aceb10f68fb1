"""Losses against classes."""

from __future__ import annotations

from typing import Any

from npresnet import functional as F
from npresnet.export.operators.registry import Call, Value, operator
from npresnet.tensor import Tensor

__all__ = ["negative_log_likelihood_loss", "softmax_cross_entropy_loss"]

_NONE = -(2**40)  # an ignore_index that no label has


def _loss(
    call: Call,
    function: Any,
    x: Tensor,
    labels: Value,
    weights: Value | None,
    ignore_index: int | None,
    reduction: str,
) -> Tensor:
    y: Tensor = function(
        x,
        call.tensor(labels).long(),
        None if weights is None else call.tensor(weights),
        ignore_index=_NONE if ignore_index is None else ignore_index,
        reduction=reduction,
    )
    return y


@operator("SoftmaxCrossEntropyLoss", outputs=2)
def softmax_cross_entropy_loss(
    call: Call,
    scores: Value,
    labels: Value,
    weights: Value | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Any:
    """Cross-entropy of logits (N, C, D1, ...) against classes (N, D1, ...), and log-softmax."""
    x = call.tensor(scores)
    y = _loss(call, F.cross_entropy, x, labels, weights, ignore_index, reduction)
    return (y, F.log_softmax(x, 1)) if call.outputs == 2 else y


@operator("NegativeLogLikelihoodLoss")
def negative_log_likelihood_loss(
    call: Call,
    input: Value,
    target: Value,
    weight: Value | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Loss of log-probabilities (N, C, D1, ...) against classes (N, D1, ...)."""
    x = call.tensor(input)
    return _loss(call, F.nll_loss, x, target, weight, ignore_index, reduction)
