"""Losses as layers."""

from __future__ import annotations

from npresnet import functional as F
from npresnet.nn.module import Module
from npresnet.tensor import ArrayLike, Tensor

__all__ = ["CrossEntropyLoss", "NLLLoss"]


class _ClassLoss(Module):
    """What losses against classes share: class weights, ignored targets, a reduction."""

    def __init__(
        self,
        weight: ArrayLike = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.size_average = size_average
        self.ignore_index = ignore_index
        self.reduce = reduce
        self.reduction = reduction


class CrossEntropyLoss(_ClassLoss):
    """Cross-entropy; see :func:`npresnet.functional.cross_entropy` for the arguments."""

    def __init__(
        self,
        weight: ArrayLike = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction)
        self.label_smoothing = label_smoothing

    def forward(self, input: Tensor, target: ArrayLike) -> Tensor:
        """Return the loss of logits against classes or probabilities."""
        return F.cross_entropy(
            input,
            target,
            self.weight,
            self.size_average,
            self.ignore_index,
            self.reduce,
            self.reduction,
            self.label_smoothing,
        )


class NLLLoss(_ClassLoss):
    """Negative log-likelihood; see :func:`npresnet.functional.nll_loss` for the arguments."""

    def forward(self, input: Tensor, target: ArrayLike) -> Tensor:
        """Return the loss of log-probabilities against classes."""
        return F.nll_loss(
            input,
            target,
            self.weight,
            self.size_average,
            self.ignore_index,
            self.reduce,
            self.reduction,
        )
