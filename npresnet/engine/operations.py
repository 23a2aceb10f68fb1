"""Operations that only plans have: several of eager's in one.

Each is an :class:`~npresnet.tape.Operation` like any other, written with the contract's kernels;
where a backend has a kernel that does all of it in one pass, the plan calls that instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npresnet.engine.graph import Node
from npresnet.functional.conv import Conv2d
from npresnet.functional.norm import BatchNorm
from npresnet.functional.pool import AdaptiveAvgPool2d, MaxPool2d
from npresnet.tape import Context, Operation
from npresnet_kernels.contract import Array
from npresnet_kernels.shapes import ConvShape, PoolWindow

__all__ = [
    "ConvEpilogue",
    "Detach",
    "FoldedBias",
    "FoldedWeight",
    "NormActivation",
    "PooledConv",
    "conv_shape",
    "is_pointwise",
    "is_whole_mean",
    "max_window",
]


class Detach(Operation):
    """The same values; no gradient passes."""

    name = "detach"

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        """Hand x through."""
        return x

    @staticmethod
    def backward(ctx: Context, grad_output: Array) -> tuple[None]:
        """Stop the gradient."""
        return (None,)


def _scale(weight: Array | None, variance: Array, eps: float) -> Array:
    """Return weight / sqrt(variance + eps) in float64."""
    scale = 1 / np.sqrt(variance.astype(np.float64) + eps)
    return scale if weight is None else scale * weight.astype(np.float64)


class FoldedWeight(Operation):
    """A convolution's weight (O, I, kH, kW) times the scale of the batch norm behind it."""

    name = "folded_weight"

    @staticmethod
    def forward(
        ctx: Context, weight: Array, gamma: Array | None, variance: Array, *, eps: float
    ) -> Array:
        """Multiply in float64 and round once."""
        scale = _scale(gamma, variance, eps)[:, None, None, None]
        folded: Array = ctx.xp.empty_like(weight)
        # in one pass over memory, which is most of the time that compiling takes
        ctx.xp.multiply(weight, scale, out=folded, dtype=np.float64, casting="same_kind")
        return folded


class FoldedBias(Operation):
    """The bias (O,) that a convolution and the batch norm behind it add together."""

    name = "folded_bias"

    @staticmethod
    def forward(
        ctx: Context,
        bias: Array | None,
        gamma: Array | None,
        beta: Array | None,
        mean: Array,
        variance: Array,
        *,
        eps: float,
    ) -> Array:
        """(bias - mean) * scale + beta, in float64 and rounded once."""
        centre = -mean.astype(np.float64)
        if bias is not None:
            centre = centre + bias.astype(np.float64)
        total = centre * _scale(gamma, variance, eps)
        if beta is not None:
            total = total + beta.astype(np.float64)
        folded: Array = total.astype(mean.dtype)
        return folded


class ConvEpilogue(Operation):
    """relu(conv(x) + bias + residual); the residual and the ReLU may be missing.

    Training has neither, but may ask for ``statistics``: moments for the batch norm behind it,
    where a kernel gathers them on its way.
    """

    name = "conv2d_epilogue"

    @staticmethod
    def forward(
        ctx: Context,
        x: Array,
        weight: Array,
        bias: Array | None,
        residual: Array | None,
        *,
        relu: bool,
        statistics: bool = False,
        algorithm: str = "im2col",
        **window: Any,
    ) -> Array:
        """Run the operations that it stands for, one after the other."""
        y: Array = Conv2d.forward(ctx, x, weight, bias, **window)
        if residual is not None:
            y = ctx.add(y, residual)
        return ctx.kernels.relu(y) if relu else y

    @staticmethod
    def backward(ctx: Context, grad_output: Array) -> tuple[Array | None, ...]:
        """Gradients of x, weight and bias; training leaves residual and ReLU to batch norm."""
        inner = Context(ctx.backend, ctx.needs_grad[:3])
        inner.save(*ctx.saved)
        return (*Conv2d.backward(inner, grad_output), None)


class PooledConv(Operation):
    """max_pool(relu(conv(x) + bias)); the ReLU may be missing. ``pool`` is size, stride, padding.

    Only inference has it.
    """

    name = "conv2d_pool"

    @staticmethod
    def forward(
        ctx: Context,
        x: Array,
        weight: Array,
        bias: Array | None,
        *,
        pool: tuple[int, int, int],
        **rule: Any,
    ) -> Array:
        """Run the operations that it stands for, one after the other."""
        between = ConvEpilogue.forward(ctx, x, weight, bias, None, **rule)
        size, stride, padding, one = ((n, n) for n in (*pool, 1))
        y: Array = ctx.kernels.max_pool2d(between, size, stride, padding, one, False)[0]
        return y


class NormActivation(Operation):
    """relu(batch_norm(x) + residual); the residual and the ReLU may be missing."""

    name = "batch_norm_activation"

    @staticmethod
    def forward(
        ctx: Context,
        x: Array,
        weight: Array | None,
        bias: Array | None,
        running_mean: Array | None,
        running_var: Array | None,
        residual: Array | None,
        *,
        relu: bool,
        **rule: Any,
    ) -> Array:
        """Run the operations that it stands for, one after the other."""
        y: Array = BatchNorm.forward(ctx, x, weight, bias, running_mean, running_var, **rule)
        if residual is not None:
            y = ctx.add(y, residual)
        if relu:
            y = ctx.kernels.relu(y)
        ctx.save(ctx.saved, y if relu else None, residual is not None)
        return y

    @staticmethod
    def backward(ctx: Context, grad_output: Array) -> tuple[Array | None, ...]:
        """Gradients of x, weight, bias, none for the running statistics, and of the residual."""
        saved, y, has_residual = ctx.saved
        if y is not None:
            grad_output = ctx.kernels.relu_grad(grad_output, y)
        inner = Context(ctx.backend, ctx.needs_grad[:5])
        inner.save(*saved)
        return (*BatchNorm.backward(inner, grad_output), grad_output if has_residual else None)


def is_whole_mean(node: Node) -> bool:
    """Return whether a node takes the mean over each whole map."""
    return node.operation is AdaptiveAvgPool2d and node.attributes["output_size"] == (1, 1)


def conv_shape(node: Node) -> ConvShape:
    """Return the shape of a convolution's layer, whatever it takes in."""
    x, weight = node.inputs[:2]
    assert x is not None
    assert weight is not None
    rule = node.attributes
    windows = rule["stride"], rule["padding"], rule["dilation"]
    return ConvShape(x.shape[1:], weight.shape, *windows, rule["groups"])


def max_window(node: Node) -> PoolWindow | None:
    """Return the windows of a max pool; None of any other node."""
    if node.operation is not MaxPool2d:
        return None
    return PoolWindow(*(node.attributes[name] for name in PoolWindow._fields))


def is_pointwise(node: Node) -> bool:
    """Return whether a node multiplies each pixel by a matrix of parameters, and adds a bias."""
    if node.operation is not ConvEpilogue:
        return False
    _, weight, _, residual = node.inputs
    rule = node.attributes
    plain = rule["padding"] == (0, 0) and rule["groups"] == 1 and not rule.get("statistics")
    return plain and residual is None and weight is not None and weight.shape[2:] == (1, 1)
