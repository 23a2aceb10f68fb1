"""Losses that plan kernels have: recognised in what a user hands to `npresnet.compile_step`."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from npresnet.backend import adopt
from npresnet.errors import DtypeError
from npresnet.functional.loss import check_classes, cross_entropy
from npresnet.nn import CrossEntropyLoss
from npresnet.tensor import Tensor
from npresnet_kernels.contract import Array

__all__ = ["MeanCrossEntropy", "recognised"]


class MeanCrossEntropy(NamedTuple):
    """The mean of `npresnet.functional.cross_entropy` over classes without weights."""

    ignore_index: int = -100
    label_smoothing: float = 0.0

    def classes(self, target: Any, images: int, classes: int) -> Array | None:
        """Return targets as (N,) int64, checked; None if they aren't a class for each image.

        Raises
        ------
        RangeError
            If a class is out of range.
        """
        try:
            labels = target.data if isinstance(target, Tensor) else adopt(target)
            labels = labels if hasattr(labels, "dtype") else np.asarray(labels)
        except (DtypeError, ValueError):
            return None  # the loss itself says what is wrong
        if labels.dtype.kind not in "iu" or labels.shape != (images,):
            return None
        found: Array = labels.astype(np.int64, copy=False)
        check_classes(found, classes, self.ignore_index, "cross_entropy")
        return found


def recognised(loss: Any) -> MeanCrossEntropy | None:
    """Return the rule of a loss that plan kernels have; None for any other."""
    if loss is cross_entropy:
        return MeanCrossEntropy()
    names = set(MeanCrossEntropy._fields)
    if isinstance(loss, functools.partial) and loss.func is cross_entropy:
        return _rule(loss.keywords) if not loss.args and names >= set(loss.keywords) else None
    if type(loss) is CrossEntropyLoss and loss.weight is None and loss.reduction == "mean":
        hooks = loss.__dict__["_forward_hooks"] or loss.__dict__["_forward_pre_hooks"]
        if loss.reduce is loss.size_average is None and not hooks:
            return _rule({name: getattr(loss, name) for name in names})
    return None


def _rule(settings: dict[str, Any]) -> MeanCrossEntropy | None:
    """Return the rule with these settings, if they are such as the loss takes."""
    rule = MeanCrossEntropy(**settings)
    return rule if 0 <= rule.label_smoothing <= 1 else None
