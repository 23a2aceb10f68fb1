"""Convolution and padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from npresnet.errors import DtypeError, RangeError, ShapeError
from npresnet.functional._checks import IntPair, as_maps, pair, per_channel, same_dtype
from npresnet.tape import Context, Operation
from npresnet.tensor import ArrayLike, Tensor, apply, as_tensor
from npresnet_kernels.contract import Array, Pair, Shape
from npresnet_kernels.shapes import conv_output_size

__all__ = ["Conv2d", "Pad", "conv2d", "pad"]


class Conv2d(Operation):
    """y[n, o, p, q] = b[o] + sum over c, i, j of w[o, c, i, j] * x[n, c, p s + i d, q s + j d].

    x is the padded input, s the stride, d the dilation. Both gradients are convolutions too
    (Goodfellow, Bengio and Courville, *Deep Learning*, 2016, section 9.5). Only x is kept for
    backward, never its columns: those are kH * kW times as large.
    """

    name = "conv2d"

    @staticmethod
    def forward(
        ctx: Context,
        x: Array,
        weight: Array,
        bias: Array | None,
        *,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        groups: int,
    ) -> Array:
        # x is needed for the weight's gradient only, and the weight for x's
        ctx.save(
            x if ctx.needs_grad[1] else None,
            weight if ctx.needs_grad[0] else None,
            x.shape,
            weight.shape,
            (stride, padding, dilation, groups),
        )
        return ctx.kernels.conv2d(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def backward(
        ctx: Context, grad_output: Array
    ) -> tuple[Array | None, Array | None, Array | None]:
        x, weight, x_shape, weight_shape, window = ctx.saved
        wants_x, wants_weight, wants_bias = ctx.needs_grad
        return (
            ctx.kernels.conv2d_grad_input(grad_output, weight, x_shape, *window)
            if wants_x
            else None,
            ctx.kernels.conv2d_grad_weight(grad_output, x, weight_shape[2:], *window)
            if wants_weight
            else None,
            ctx.kernels.channel_sum(grad_output) if wants_bias else None,
        )


def conv2d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike = None,
    stride: IntPair = 1,
    padding: IntPair | str = 0,
    dilation: IntPair = 1,
    groups: int = 1,
) -> Tensor:
    """Two-dimensional convolution (cross-correlation, as in every deep-learning library).

    Parameters
    ----------
    input : Tensor
        (N, C, H, W), or (C, H, W) without a batch.
    weight : Tensor
        (O, C / groups, kH, kW).
    bias : Tensor, optional
        (O,).
    stride, dilation : int or pair of int
        Steps between windows and between the taps of one, at least 1.
    padding : int, pair of int, ``"valid"`` or ``"same"``
        Zeros added on each side; ``"same"`` keeps the size (stride 1 only).
    groups : int
        Number of blocks that channels are divided into.

    Returns
    -------
    Tensor
        (N, O, P, Q) with P = floor((H + 2 padding - dilation (kH - 1) - 1) / stride) + 1.

    Raises
    ------
    ShapeError, DtypeError, RangeError
        If shapes, dtypes or the window don't fit.
    """
    x, w = as_tensor(input), as_tensor(weight)
    b = None if bias is None else as_tensor(bias)
    steps, dilations = pair(stride, "stride", 1), pair(dilation, "dilation", 1)
    same_dtype("Conv2d", x, weight=w, bias=b)
    if w.ndim != 4 or 0 in w.shape:
        raise ShapeError(f"Conv2d expected a weight (O, C, kH, kW), got shape {w.shape}")
    out_channels, group_channels = w.shape[:2]
    kernel_size = (w.shape[2], w.shape[3])
    if not isinstance(groups, int) or groups < 1 or out_channels % groups:
        raise RangeError(
            f"groups must be at least 1 and divide the {out_channels} output channels, "
            f"got {groups!r}"
        )
    if b is not None:
        per_channel("Conv2d", out_channels, bias=b)
    around = (0, 0)
    uneven: tuple[int, int, int, int] | None = None
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise RangeError(f"padding must be numbers, 'same' or 'valid', got {padding!r}")
        if padding == "same":
            if steps != (1, 1):
                raise RangeError(f"padding='same' needs stride 1, got stride {stride!r}")
            rows, columns = (
                d * (k - 1) for d, k in zip(dilations, kernel_size, strict=True)
            )  # zeros in all; an odd one goes to the far side
            around = (rows // 2, columns // 2)
            if rows % 2 or columns % 2:
                uneven = (0, columns % 2, 0, rows % 2)
    else:
        around = pair(padding, "padding", 0)

    def compute(maps: Tensor) -> Tensor:
        channels = group_channels * groups
        if maps.shape[1] != channels:
            last = maps.shape[3] == channels
            raise ShapeError(
                f"Conv2d expected {channels} input channels, got {maps.shape[1]} (input shape "
                f"{x.shape}){': channels come first, as in x.permute(0, 3, 1, 2)' if last else ''}"
            )
        if uneven:
            maps = pad(maps, uneven)
        size = conv_output_size(
            (maps.shape[2], maps.shape[3]), kernel_size, steps, around, dilations
        )
        if min(size) < 1:
            raise ShapeError(
                f"Conv2d's kernel {kernel_size} (dilation {dilations}) is larger than the padded "
                f"input (input shape {x.shape}, padding {around})"
            )
        return apply(
            Conv2d, maps, w, b, stride=steps, padding=around, dilation=dilations, groups=groups
        )

    return cast(Tensor, as_maps("Conv2d", x, compute))


class Pad(Operation):
    """A border of one value around the last dimensions."""

    name = "pad"

    @staticmethod
    def forward(
        ctx: Context, x: Array, *, widths: tuple[tuple[int, int], ...], value: float
    ) -> Array:
        inside = tuple(
            slice(max(a, 0), max(a, 0) + n + min(a, 0) + min(b, 0))
            for (a, b), n in zip(widths, x.shape, strict=True)
        )
        kept = tuple(
            slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(widths, x.shape, strict=True)
        )
        ctx.save(x.shape, x.dtype, inside, kept)
        shape: Shape = tuple(n + a + b for (a, b), n in zip(widths, x.shape, strict=True))
        y: Array = ctx.xp.full(shape, value, dtype=x.dtype)
        y[inside] = x[kept]
        return y

    @staticmethod
    def backward(ctx: Context, grad_output: Array) -> tuple[Array]:
        shape, dtype, inside, kept = ctx.saved
        grad: Array = ctx.xp.zeros(shape, dtype=dtype)
        grad[kept] = grad_output[inside]
        return (grad,)


def pad(
    input: ArrayLike, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Tensor:
    """Put a border around the last dimensions.

    Parameters
    ----------
    input : Tensor
        Any shape.
    pad : sequence of int
        (left, right) of the last dimension, then (top, bottom) of the one before, and so on;
        negative widths cut.
    mode : str
        ``"constant"``; no other is built.
    value : float, optional
        What the border is filled with; 0 if None.

    Raises
    ------
    RangeError, ShapeError
        If the widths don't pair up or cut more than there is.
    """
    x = as_tensor(input)
    if mode != "constant":
        raise RangeError(f"pad knows mode 'constant', got {mode!r}")
    if len(pad) % 2 or len(pad) > 2 * x.ndim:
        raise ShapeError(f"pad needs pairs for at most {x.ndim} dimensions, got {tuple(pad)}")
    if not all(isinstance(p, int) for p in pad):
        raise DtypeError(f"pad needs integers, got {tuple(pad)}")
    pairs: list[Any] = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    widths = tuple([(0, 0)] * (x.ndim - len(pairs)) + pairs[::-1])
    if any(n + a + b < 0 for (a, b), n in zip(widths, x.shape, strict=True)):
        raise ShapeError(f"pad {tuple(pad)} cuts more than the shape {x.shape} has")
    return apply(Pad, x, widths=widths, value=0.0 if value is None else value)
