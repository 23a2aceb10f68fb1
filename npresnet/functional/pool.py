"""Pooling: the maximum or the mean of windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from npresnet.errors import RangeError, ShapeError
from npresnet.functional._checks import IntPair, as_maps, float_dtype, pair
from npresnet.tape import Context, Operation
from npresnet.tensor import ArrayLike, Tensor, apply, as_tensor, record
from npresnet_kernels.contract import Array, Pair
from npresnet_kernels.shapes import pool_output_size

__all__ = [
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "MaxPool2d",
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "max_pool2d",
]


class MaxPool2d(Operation):
    """The largest value of each window; its gradient goes to where that value stood."""

    name = "max_pool2d"

    @staticmethod
    def forward(
        ctx: Context,
        x: Array,
        *,
        kernel_size: Pair,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        ceil_mode: bool,
    ) -> Array:
        y, indices = ctx.kernels.max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode)
        ctx.save(indices, x.shape, (kernel_size, stride, padding, dilation))
        return y

    @staticmethod
    def backward(ctx: Context, grad_output: Array) -> tuple[Array]:
        indices, x_shape, window = ctx.saved
        return (ctx.kernels.max_pool2d_grad(grad_output, indices, x_shape, *window),)


class AvgPool2d(Operation):
    """The mean of each window; its gradient is shared out evenly."""

    name = "avg_pool2d"

    @staticmethod
    def forward(
        ctx: Context,
        x: Array,
        *,
        kernel_size: Pair,
        stride: Pair,
        padding: Pair,
        ceil_mode: bool,
        count_include_pad: bool,
        divisor_override: int | None,
    ) -> Array:
        window = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
        ctx.save(x.shape, window)
        return ctx.kernels.avg_pool2d(x, *window)

    @staticmethod
    def backward(ctx: Context, grad_output: Array) -> tuple[Array]:
        x_shape, window = ctx.saved
        return (ctx.kernels.avg_pool2d_grad(grad_output, x_shape, *window),)


class AdaptiveAvgPool2d(Operation):
    """The mean of windows [floor(i H / P), ceil((i + 1) H / P)), for a wanted size (P, Q)."""

    name = "adaptive_avg_pool2d"

    @staticmethod
    def forward(ctx: Context, x: Array, *, output_size: Pair) -> Array:
        ctx.save(x.shape)
        return ctx.kernels.adaptive_avg_pool2d(x, output_size)

    @staticmethod
    def backward(ctx: Context, grad_output: Array) -> tuple[Array]:
        (x_shape,) = ctx.saved
        return (ctx.kernels.adaptive_avg_pool2d_grad(grad_output, x_shape),)


def _window(
    operation: str, kernel_size: IntPair, stride: IntPair | None, padding: IntPair
) -> tuple[Pair, Pair, Pair]:
    """Check what pools share: the stride defaults to the kernel, the padding to half of it."""
    kernel = pair(kernel_size, "kernel_size", 1)
    steps = kernel if stride is None or stride == () else pair(stride, "stride", 1)
    around = pair(padding, "padding", 0)
    if any(2 * p > k for p, k in zip(around, kernel, strict=True)):
        raise RangeError(
            f"{operation}: padding must be at most half of the kernel {kernel}, got {padding!r}"
        )
    return kernel, steps, around


def _pooled(
    name: str,
    input: ArrayLike,
    window: tuple[Pair, Pair, Pair],
    dilation: Pair,
    ceil_mode: bool,
    compute: Callable[[Tensor], Any],
) -> Any:
    """Check that a window fits into the input, then compute."""
    x = as_tensor(input)
    float_dtype(x, name)

    def checked(maps: Tensor) -> Any:
        size = (maps.shape[2], maps.shape[3])
        if min(pool_output_size(size, *window, dilation, ceil_mode)) < 1:
            raise ShapeError(
                f"{name}'s kernel {window[0]} is larger than the padded input "
                f"(input shape {x.shape}, padding {window[2]})"
            )
        return compute(maps)

    return as_maps(name, x, checked)


def max_pool2d(
    input: ArrayLike,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Maximum over windows; the padding counts as -inf.

    Parameters
    ----------
    input : Tensor
        (N, C, H, W) or (C, H, W).
    kernel_size, stride, padding, dilation : int or pair of int
        The window; ``stride`` is the kernel's size if None, ``padding`` at most half of it.
    ceil_mode : bool
        Whether a last, partial window counts.
    return_indices : bool
        Whether to return the places of the maxima too, each h * W + w.

    Returns
    -------
    Tensor or (Tensor, Tensor)
        (N, C, P, Q), and with ``return_indices`` the int64 indices of that shape.

    Raises
    ------
    ShapeError, DtypeError, RangeError
        If the window doesn't fit.
    """
    window = _window("MaxPool2d", kernel_size, stride, padding)
    spread = pair(dilation, "dilation", 1)

    def compute(maps: Tensor) -> Any:
        output, context = record(
            MaxPool2d,
            maps,
            kernel_size=window[0],
            stride=window[1],
            padding=window[2],
            dilation=spread,
            ceil_mode=ceil_mode,
        )
        return (output, Tensor(context.saved[0])) if return_indices else output

    return _pooled("MaxPool2d", input, window, spread, ceil_mode, compute)


def avg_pool2d(
    input: ArrayLike,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Mean over windows.

    Parameters
    ----------
    input : Tensor
        (N, C, H, W) or (C, H, W).
    kernel_size, stride, padding : int or pair of int
        The window; ``stride`` is the kernel's size if None, ``padding`` at most half of it.
    ceil_mode : bool
        Whether a last, partial window counts.
    count_include_pad : bool
        Whether padded zeros count in the divisor.
    divisor_override : int, optional
        Divide by this instead.

    Returns
    -------
    Tensor
        (N, C, P, Q).

    Raises
    ------
    ShapeError, DtypeError, RangeError
        If the window doesn't fit.
    """
    window = _window("AvgPool2d", kernel_size, stride, padding)
    if divisor_override is not None and divisor_override == 0:
        raise RangeError("AvgPool2d: divisor_override must not be 0")

    def compute(maps: Tensor) -> Tensor:
        return apply(
            AvgPool2d,
            maps,
            kernel_size=window[0],
            stride=window[1],
            padding=window[2],
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
            divisor_override=divisor_override,
        )

    return cast(Tensor, _pooled("AvgPool2d", input, window, (1, 1), ceil_mode, compute))


def adaptive_avg_pool2d(input: ArrayLike, output_size: Any) -> Tensor:
    """Mean over windows chosen so that the output has ``output_size``.

    Parameters
    ----------
    input : Tensor
        (N, C, H, W) or (C, H, W).
    output_size : int or pair of int or None
        (P, Q); None keeps the input's size in that dimension.

    Returns
    -------
    Tensor
        (N, C, P, Q).

    Raises
    ------
    ShapeError, DtypeError, RangeError
        If the input or the size doesn't fit.
    """
    x = as_tensor(input)
    float_dtype(x, "AdaptiveAvgPool2d")

    def compute(maps: Tensor) -> Tensor:
        wanted = output_size if isinstance(output_size, tuple | list) else (output_size,) * 2
        sizes = [n if w is None else w for w, n in zip(wanted, maps.shape[2:], strict=False)]
        if 0 in maps.shape[1:]:
            raise ShapeError(f"AdaptiveAvgPool2d got an input without pixels: {x.shape}")
        return apply(AdaptiveAvgPool2d, maps, output_size=pair(sizes, "output_size", 1))

    return cast(Tensor, as_maps("AdaptiveAvgPool2d", x, compute))
