"""Activations, and Dropout."""

from __future__ import annotations

import math
from typing import Any

from npresnet import functional as F
from npresnet.export.operators.registry import Call, Value, operator
from npresnet.tensor import Tensor

__all__ = [
    "clip",
    "dropout",
    "hard_sigmoid",
    "hard_swish",
    "log_softmax",
    "relu",
    "sigmoid",
    "softmax",
]


@operator("Relu")
def relu(call: Call, x: Value) -> Tensor:
    """max(x, 0)."""
    x = call.tensor(x)
    return F.relu(x) if x.is_floating_point() else x.clamp(min=0)


@operator("Clip")
def clip(
    call: Call,
    x: Value,
    low: Value | None = None,
    high: Value | None = None,
    *,
    min: float | None = None,
    max: float | None = None,
) -> Tensor:
    """Keep between two bounds: attributes before version 11, inputs since."""
    lower = min if low is None else call.number(low, "bounds")
    upper = max if high is None else call.number(high, "bounds")
    x = call.tensor(x)
    if lower is None and upper is None:
        return x
    if lower == 0 and (upper is None or upper == math.inf) and x.is_floating_point():
        return F.relu(x)
    return x.clamp(lower, upper)


def _along(call: Call, function: Any, x: Tensor, axis: int | None) -> Tensor:
    """Apply along an axis; before version 13 to all axes from it on, 1 if none is named."""
    if call.opset >= 13:
        y: Tensor = function(x, call.axis(-1 if axis is None else axis, x.ndim))
        return y
    first = call.axis(1 if axis is None else axis, x.ndim)
    if first == x.ndim - 1:
        y = function(x, first)
        return y
    y = function(x.reshape(math.prod(x.shape[:first]), -1), 1).reshape(x.shape)
    return y


@operator("Softmax")
def softmax(call: Call, x: Value, *, axis: int | None = None) -> Tensor:
    """exp(x) / sum(exp(x)) along an axis."""
    return _along(call, F.softmax, call.tensor(x), axis)


@operator("LogSoftmax")
def log_softmax(call: Call, x: Value, *, axis: int | None = None) -> Tensor:
    """log(softmax(x)) along an axis."""
    return _along(call, F.log_softmax, call.tensor(x), axis)


@operator("Sigmoid")
def sigmoid(call: Call, x: Value) -> Tensor:
    """1 / (1 + exp(-x))."""
    return F.sigmoid(call.tensor(x))


@operator("HardSigmoid")
def hard_sigmoid(call: Call, x: Value, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """Alpha * x + beta, kept between 0 and 1."""
    return (call.tensor(x) * alpha + beta).clamp(0.0, 1.0)


@operator("HardSwish")
def hard_swish(call: Call, x: Value) -> Tensor:
    """X times HardSigmoid of slope 1/6."""
    x = call.tensor(x)
    return x * (x * (1 / 6) + 0.5).clamp(0.0, 1.0)


@operator("Dropout", outputs=2)
def dropout(
    call: Call,
    x: Value,
    share: Value | None = None,
    training_mode: Value | None = None,
    *,
    ratio: float = 0.5,
    seed: int = 0,
) -> Any:
    """Hand x through; in the network's training mode drop some of it.

    The ratio is an attribute before version 12, an input since.
    """
    x = call.tensor(x)
    p = ratio if share is None else call.number(share, "ratio")
    asked = training_mode is not None and bool(call.number(training_mode, "training_mode"))
    y = F.dropout(x, p, training=call.training or asked)
    if call.outputs == 1:
        return y
    return y, Tensor(y.data == y.data if y is x else y.data != 0)
