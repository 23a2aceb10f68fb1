"""Arithmetic, element by element, and the dtypes of elements."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from npresnet.errors import OnnxError
from npresnet.export.arrays import dtype_of
from npresnet.export.operators.registry import Call, Value, operator
from npresnet.tensor import Tensor

__all__ = ["cast", "identity", "power"]


def _both(call: Call, a: Value, b: Value) -> tuple[Tensor, Tensor]:
    """Return two inputs as tensors that can be broadcast together."""
    x, y = call.tensor(a), call.tensor(b)
    call.broadcast(x.shape, y.shape)
    return x, y


# A constant factor or summand may be learned: the bias of a MatMul, the scale of a layer. What is
# subtracted or divided by is most often the mean and spread of the images.


@operator("Add", parameters={0: "bias", 1: "bias"}, single=False)
def _add(call: Call, a: Value, b: Value) -> Tensor:
    x, y = _both(call, a, b)
    return x + y


@operator("Sub")
def _sub(call: Call, a: Value, b: Value) -> Tensor:
    x, y = _both(call, a, b)
    return x - y


@operator("Mul", parameters={0: "weight", 1: "weight"}, single=False)
def _mul(call: Call, a: Value, b: Value) -> Tensor:
    x, y = _both(call, a, b)
    return x * y


@operator("Div")
def _div(call: Call, a: Value, b: Value) -> Tensor:
    x, y = _both(call, a, b)
    if x.dtype.kind in "iu" and y.dtype.kind in "iu":  # towards 0, as in C
        xp = call.backend.xp
        quotient = abs(x.data) // abs(y.data)
        return Tensor((quotient * xp.sign(x.data) * xp.sign(y.data)).astype(x.dtype))
    return x / y


@operator("Pow")
def power(call: Call, x: Value, exponent: Value) -> Tensor:
    """X to a constant power, in the dtype of x."""
    base = call.tensor(x)
    y: Tensor = base ** call.number(exponent, "exponent")
    return y.to(base.dtype)


@operator("Sum")
def _sum(call: Call, *inputs: Value) -> Tensor:
    total = call.tensor(inputs[0])
    for other in inputs[1:]:
        total = _add(call, total, other)
    return total


def _bounded(call: Call, inputs: tuple[Value, ...], side: str) -> Tensor:
    """Keep a tensor on one side of numbers."""
    first = next((v for v in inputs if math.prod(v.shape) != 1), inputs[0])
    x = call.tensor(first)
    for other in inputs:
        if other is not first:
            x = x.clamp(**{side: call.number(other, "bound")})
    return x


@operator("Max")
def _max(call: Call, *inputs: Value) -> Tensor:
    return _bounded(call, inputs, "min")


@operator("Min")
def _min(call: Call, *inputs: Value) -> Tensor:
    return _bounded(call, inputs, "max")


def _elementwise(name: str, function: Callable[[Tensor], Tensor]) -> None:
    operator(name)(lambda call, x: function(call.tensor(x)))


_elementwise("Abs", Tensor.abs)
_elementwise("Exp", Tensor.exp)
_elementwise("Log", Tensor.log)
_elementwise("Neg", Tensor.__neg__)
_elementwise("Reciprocal", lambda x: 1.0 / x)
_elementwise("Sqrt", Tensor.sqrt)


def _refuse_cast(attributes: dict[str, Any]) -> str | None:
    try:
        dtype_of(attributes.get("to", 0))
    except OnnxError as error:
        return str(error)
    return None


@operator("Cast", refuse=_refuse_cast)
def cast(call: Call, x: Value, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """The same values in another dtype; 16-bit floats stay float32."""
    return call.tensor(x).to(dtype_of(to))


@operator("CastLike")
def _cast_like(call: Call, x: Value, like: Value, *, saturate: int = 1) -> Tensor:
    return call.tensor(x).to(like.dtype)


@operator("Identity")
def identity(call: Call, x: Value) -> Value:
    """Return the same value."""
    return x


def _compare(name: str, compare: Callable[[Any, Any], Any]) -> None:
    """Enter a comparison, which is known for known numbers only."""

    def run(call: Call, a: Value, b: Value) -> Any:
        return np.asarray(compare(call.known(a), call.known(b)))

    operator(name)(run)


_compare("Equal", np.equal)
_compare("Greater", np.greater)
_compare("Less", np.less)
_compare("And", np.logical_and)
_compare("Or", np.logical_or)


@operator("Not")
def _not(call: Call, x: Value) -> Any:
    return np.logical_not(call.known(x))


@operator("Where")
def _where(call: Call, condition: Value, a: Value, b: Value) -> Any:
    parts = [call.known(v) for v in (condition, a, b)]
    call.broadcast(*(part.shape for part in parts))
    return np.where(*parts)
