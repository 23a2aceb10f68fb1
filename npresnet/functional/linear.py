"""The linear layer."""

from __future__ import annotations

import math

from npresnet.errors import ShapeError
from npresnet.functional._checks import per_channel, same_dtype
from npresnet.tape import Context, Operation
from npresnet.tensor import ArrayLike, Tensor, apply, as_tensor
from npresnet_kernels.contract import Array

__all__ = ["Linear", "linear"]


class Linear(Operation):
    """y = x W^T + b; dx = g W, dW = g^T x, db = sum of g over the rows."""

    name = "linear"

    @staticmethod
    def forward(ctx: Context, x: Array, weight: Array, bias: Array | None) -> Array:
        ctx.save(x if ctx.needs_grad[1] else None, weight if ctx.needs_grad[0] else None)
        return ctx.kernels.linear(x, weight, bias)

    @staticmethod
    def backward(
        ctx: Context, grad_output: Array
    ) -> tuple[Array | None, Array | None, Array | None]:
        x, weight = ctx.saved
        wants_x, wants_weight, wants_bias = ctx.needs_grad
        return (
            ctx.kernels.linear_grad_input(grad_output, weight) if wants_x else None,
            ctx.kernels.linear_grad_weight(grad_output, x) if wants_weight else None,
            ctx.kernels.channel_sum(grad_output) if wants_bias else None,
        )


def linear(input: ArrayLike, weight: ArrayLike, bias: ArrayLike = None) -> Tensor:
    """Multiply by a matrix and add a vector: y = x W^T + b.

    Parameters
    ----------
    input : Tensor
        (..., I).
    weight : Tensor
        (O, I).
    bias : Tensor, optional
        (O,).

    Returns
    -------
    Tensor
        (..., O).

    Raises
    ------
    ShapeError, DtypeError
        If shapes or dtypes don't fit.
    """
    x, w = as_tensor(input), as_tensor(weight)
    b = None if bias is None else as_tensor(bias)
    same_dtype("Linear", x, weight=w, bias=b)
    if w.ndim != 2:
        raise ShapeError(f"Linear expected a weight (O, I), got shape {w.shape}")
    if x.ndim < 1 or x.shape[-1] != w.shape[1]:
        raise ShapeError(
            f"Linear expected {w.shape[1]} input features, got "
            f"{x.shape[-1] if x.ndim else 'a number'} (input shape {x.shape})"
        )
    per_channel("Linear", w.shape[0], bias=b)
    if x.ndim == 2:
        return apply(Linear, x, w, b)
    rows = x.reshape((math.prod(x.shape[:-1]), x.shape[-1]))
    return apply(Linear, rows, w, b).reshape((*x.shape[:-1], w.shape[0]))
