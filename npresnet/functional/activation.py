"""Activations: ReLU, sigmoid, softmax, log-softmax, and dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

from npresnet.errors import RangeError
from npresnet.functional._checks import float_dtype
from npresnet.random import generator
from npresnet.tape import Context, Operation
from npresnet.tensor import ArrayLike, Tensor, apply, as_tensor
from npresnet_kernels.contract import Array

__all__ = [
    "Dropout",
    "LogSoftmax",
    "ReLU",
    "Sigmoid",
    "Softmax",
    "dropout",
    "log_softmax",
    "relu",
    "sigmoid",
    "softmax",
]


class ReLU(Operation):
    """max(x, 0). The gradient passes where the output is positive; at 0 it is 0."""

    name = "relu"

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        y = ctx.kernels.relu(x)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Context, grad_output: Array) -> tuple[Array]:
        (y,) = ctx.saved
        return (ctx.kernels.relu_grad(grad_output, y),)


class Sigmoid(Operation):
    """y = 1 / (1 + exp(-x)); dx = g * y * (1 - y)."""

    name = "sigmoid"

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        with np.errstate(over="ignore"):  # far below 0, where 1 / inf is the right 0
            y: Array = 1 / (1 + ctx.xp.exp(-x))
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Context, grad_output: Array) -> tuple[Array]:
        (y,) = ctx.saved
        return (grad_output * y * (1 - y),)


class Softmax(Operation):
    """y = exp(x) / sum(exp(x)) along an axis; dx = y * (g - sum(g * y))."""

    name = "softmax"

    @staticmethod
    def forward(ctx: Context, x: Array, *, axis: int) -> Array:
        y = ctx.kernels.softmax(x, axis)
        ctx.save(y, axis)
        return y

    @staticmethod
    def backward(ctx: Context, grad_output: Array) -> tuple[Array]:
        y, axis = ctx.saved
        return (ctx.kernels.softmax_grad(grad_output, y, axis),)


class LogSoftmax(Operation):
    """y = x - log(sum(exp(x))) along an axis; dx = g - exp(y) * sum(g)."""

    name = "log_softmax"

    @staticmethod
    def forward(ctx: Context, x: Array, *, axis: int) -> Array:
        y = ctx.kernels.log_softmax(x, axis)
        ctx.save(y, axis)
        return y

    @staticmethod
    def backward(ctx: Context, grad_output: Array) -> tuple[Array]:
        y, axis = ctx.saved
        return (ctx.kernels.log_softmax_grad(grad_output, y, axis),)


class Dropout(Operation):
    """x times a mask of 0 and 1 / (1 - p) (Srivastava et al. 2014)."""

    name = "dropout"

    @staticmethod
    def forward(ctx: Context, x: Array, *, p: float) -> Array:
        keep = ctx.backend.asarray(generator().random(x.shape, dtype="float32") >= p)
        mask = keep.astype(x.dtype) * (0.0 if p == 1 else 1 / (1 - p))
        ctx.save(mask)
        return x * mask

    @staticmethod
    def backward(ctx: Context, grad_output: Array) -> tuple[Array]:
        (mask,) = ctx.saved
        return (grad_output * mask,)


def relu(input: ArrayLike, inplace: bool = False) -> Tensor:
    """Replace negative values by 0.

    Parameters
    ----------
    input : Tensor
        Any shape.
    inplace : bool
        Accepted for torch's sake: no operation here changes its input.

    Raises
    ------
    DtypeError
        If the input isn't floating-point.
    """
    x = as_tensor(input)
    float_dtype(x, "relu")
    return apply(ReLU, x)


def sigmoid(input: ArrayLike) -> Tensor:
    """Map each number to one between 0 and 1, 0 to 0.5.

    Parameters
    ----------
    input : Tensor
        Any shape.

    Raises
    ------
    DtypeError
        If the input isn't floating-point.
    """
    x = as_tensor(input)
    float_dtype(x, "sigmoid")
    return apply(Sigmoid, x)


def _along(name: str, operation: type[Operation], input: ArrayLike, dim: Any, dtype: Any) -> Tensor:
    x = as_tensor(input)
    if dtype is not None:
        x = x.to(dtype)
    float_dtype(x, name)
    if dim is None:  # torch's old rule
        dim = 0 if x.ndim in (0, 1, 3) else 1
    if not -max(x.ndim, 1) <= dim < max(x.ndim, 1):
        raise RangeError(f"{name}: dim {dim} is out of range for shape {x.shape}")
    if x.ndim == 0:
        return apply(operation, x.reshape(1), axis=0).reshape(())
    return apply(operation, x, axis=dim % x.ndim)


def softmax(
    input: ArrayLike, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
) -> Tensor:
    """Probabilities from logits, along ``dim``.

    Parameters
    ----------
    input : Tensor
        Any shape.
    dim : int, optional
        The dimension that sums to 1; if None, 0 for 0, 1 or 3 dimensions, else 1.
    dtype : dtype, optional
        Convert the input first.

    Raises
    ------
    RangeError, DtypeError
        If there is no such dimension, or the input isn't floating-point.
    """
    return _along("softmax", Softmax, input, dim, dtype)


def log_softmax(
    input: ArrayLike, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
) -> Tensor:
    """Logarithm of :func:`softmax`, without its loss of digits; same arguments and errors."""
    return _along("log_softmax", LogSoftmax, input, dim, dtype)


def dropout(
    input: ArrayLike, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Set elements to 0 with probability ``p`` and scale the others by 1 / (1 - p).

    Parameters
    ----------
    input : Tensor
        Any shape.
    p : float
        Probability, 0 to 1.
    training : bool
        If not, the input is handed through.
    inplace : bool
        Accepted for torch's sake: no operation here changes its input.

    Raises
    ------
    RangeError, DtypeError
        If ``p`` isn't a probability, or the input isn't floating-point.
    """
    x = as_tensor(input)
    if not 0 <= p <= 1:
        raise RangeError(f"dropout: p must be a probability from 0 to 1, got {p}")
    float_dtype(x, "dropout")
    return apply(Dropout, x, p=p) if training and p > 0 else x
