"""Losses: cross-entropy of logits, negative log-likelihood of log-probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np

from npresnet.backend import Backend, for_arrays
from npresnet.errors import DtypeError, RangeError, ShapeError
from npresnet.functional._checks import float_dtype, same_dtype
from npresnet.functional.activation import log_softmax
from npresnet.tape import Context, Operation
from npresnet.tensor import ArrayLike, Tensor, apply, as_tensor
from npresnet_kernels.contract import Array

__all__ = ["CrossEntropy", "check_classes", "cross_entropy", "nll_loss"]


class CrossEntropy(Operation):
    """Loss of each row of logits against its class; the kernel contract has the formula."""

    name = "cross_entropy"

    @staticmethod
    def forward(
        ctx: Context,
        x: Array,
        target: Array,
        weight: Array | None,
        *,
        ignore_index: int,
        label_smoothing: float,
    ) -> Array:
        rule = (weight, ignore_index, label_smoothing)
        losses, log_probabilities = ctx.kernels.cross_entropy(x, target, *rule)
        ctx.save(log_probabilities, target, rule)
        return losses

    @staticmethod
    def backward(ctx: Context, grad_output: Array) -> tuple[Array, None, None]:
        log_probabilities, target, rule = ctx.saved
        return (
            ctx.kernels.cross_entropy_grad(grad_output, log_probabilities, target, *rule),
            None,
            None,
        )


def cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy between logits and classes.

    Parameters
    ----------
    input : Tensor
        Logits: (C,), (N, C) or (N, C, d1, ...).
    target : Tensor or array
        Classes 0 to C - 1, integers of the input's shape without C; or probabilities of the
        input's shape and dtype.
    weight : Tensor, optional
        (C,): what each class counts for.
    size_average, reduce : bool, optional
        Old spellings of ``reduction``.
    ignore_index : int
        Targets with this value count for nothing.
    reduction : str
        ``"mean"`` (weighted over targets), ``"sum"`` or ``"none"``.
    label_smoothing : float
        Share of the target that is spread evenly over all classes, 0 to 1 (Szegedy et al. 2016).

    Returns
    -------
    Tensor
        One number, or with ``"none"`` the target's shape.

    Raises
    ------
    ShapeError, DtypeError, RangeError
        If shapes, dtypes or classes don't fit.
    """
    reduction = _reduction(size_average, reduce, reduction)
    x = as_tensor(input)
    float_dtype(x, "cross_entropy")
    if not 0 <= label_smoothing <= 1:
        raise RangeError(f"label_smoothing must be 0 to 1, got {label_smoothing}")
    labels = as_tensor(target)
    if labels.dtype.kind == "f":
        if labels.shape == x.shape and x.ndim > 0:
            w = _class_weight(x, weight)
            return _against_probabilities(x, labels, w, reduction, label_smoothing)
        raise DtypeError(
            f"cross_entropy expected integer classes, got {labels.dtype} of shape {labels.shape} "
            f"for input shape {x.shape}: convert with target.astype('int64')"
        )
    rows, labels, shape = _rows(x, labels, ignore_index, "cross_entropy")
    w = _class_weight(x, weight)
    losses = apply(
        CrossEntropy, rows, labels, w, ignore_index=ignore_index, label_smoothing=label_smoothing
    )
    return _reduce(losses, labels, w, ignore_index, reduction, shape)


def nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Negative log-likelihood of classes, from log-probabilities.

    The arguments, results and errors of :func:`cross_entropy`, but that ``input`` comes from
    :func:`~npresnet.functional.log_softmax` and targets are always classes.
    """
    reduction = _reduction(size_average, reduce, reduction)
    x = as_tensor(input)
    float_dtype(x, "nll_loss")
    rows, labels, shape = _rows(x, as_tensor(target), ignore_index, "nll_loss")
    w = _class_weight(x, weight)
    backend = for_arrays([labels.data])
    with backend.scope():
        counted = labels.data != ignore_index
        safe = backend.xp.where(counted, labels.data, 0)
        places = backend.xp.arange(len(safe))
        scale = _target_weights(backend, labels, w, ignore_index, x.dtype)
    losses = -(rows[places, safe] * Tensor(scale))
    return _reduce(losses, labels, w, ignore_index, reduction, shape)


def _reduction(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """Return the reduction, from its old spellings if they are used."""
    if size_average is not None or reduce is not None:
        if reduce is False:
            return "none"
        return "sum" if size_average is False else "mean"
    if reduction not in ("mean", "sum", "none"):
        raise RangeError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    return reduction


def _class_weight(x: Tensor, weight: ArrayLike) -> Tensor | None:
    """Return the class weights, checked."""
    if weight is None:
        return None
    w = as_tensor(weight)
    classes = x.shape[1 if x.ndim > 1 else 0]
    same_dtype("cross_entropy", x, weight=w)
    if w.shape != (classes,):
        raise ShapeError(f"expected class weights of shape ({classes},), got {w.shape}")
    return w


def _rows(
    x: Tensor, labels: Tensor, ignore_index: int, name: str
) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Return logits as (M, C), classes as (M,) int64, and the shape that the losses have."""
    if labels.dtype.kind not in "iu":
        raise DtypeError(
            f"{name} expected integer classes, got {labels.dtype}: convert with "
            "target.astype('int64')"
        )
    if x.ndim == 0:
        raise ShapeError(f"{name} expected logits (N, C), got one number")
    expected = x.shape[:1] + x.shape[2:] if x.ndim > 1 else ()
    if labels.shape != expected:
        raise ShapeError(
            f"{name} expected targets of shape {expected} for input shape {x.shape}, "
            f"got {labels.shape}"
        )
    classes = x.shape[1] if x.ndim > 1 else x.shape[0]
    with for_arrays([labels.data]).scope():
        values = labels.data.reshape(-1).astype(np.int64, copy=False)
        check_classes(values, classes, ignore_index, name)
    if x.ndim == 1:
        rows = x.unsqueeze(0)
    elif x.ndim == 2:
        rows = x
    else:  # (N, C, d1, ...) to (N, d1, ..., C) to (M, C)
        rows = x.permute(0, *range(2, x.ndim), 1).reshape((values.size, classes))
    return rows, Tensor(values), expected


def check_classes(values: Array, classes: int, ignore_index: int, name: str) -> None:
    """Raise a RangeError if a target is neither 0 to ``classes`` - 1 nor ignored."""
    wrong = (values != ignore_index) & ((values < 0) | (values >= classes))
    if bool(wrong.any()):
        raise RangeError(
            f"{name}: target {int(values[wrong][0])} is out of range, expected 0 to {classes - 1}"
        )


def _target_weights(
    backend: Backend, labels: Tensor, weight: Tensor | None, ignore_index: int, dtype: Any
) -> Array:
    """Return what each row counts for: its class's weight, 0 where ignored."""
    counted = labels.data != ignore_index
    if weight is None:
        ones: Array = counted.astype(dtype)
        return ones
    picked: Array = weight.data[backend.xp.where(counted, labels.data, 0)] * counted
    return picked


def _reduce(
    losses: Tensor,
    labels: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    shape: tuple[int, ...],
) -> Tensor:
    if reduction == "none":
        return losses.reshape(shape)
    total = losses.sum()
    if reduction == "sum":
        return total
    backend = for_arrays([labels.data])
    with backend.scope():
        weights = _target_weights(backend, labels, weight, ignore_index, losses.dtype)
        scale = Tensor(backend.xp.asarray(weights.sum()))
    if float(scale) == 0:
        return total * float("nan")  # the mean of nothing, as torch
    return total / scale


def _against_probabilities(
    x: Tensor, target: Tensor, weight: Tensor | None, reduction: str, label_smoothing: float
) -> Tensor:
    """Cross-entropy against a distribution: -sum over classes of w * t * log-softmax(x)."""
    axis = 1 if x.ndim > 1 else 0
    classes = x.shape[axis]
    target = target.to(x.dtype)
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / classes
    terms = log_softmax(x, axis) * target
    if weight is not None:
        terms = terms * weight.reshape((classes,) + (1,) * (x.ndim - axis - 1))
    losses = -terms.sum(axis)
    if reduction == "none":
        return losses
    total = losses.sum()
    return total if reduction == "sum" else total / max(losses.numel(), 1)
