"""Shapes of windows: the arithmetic that layers, checks and kernels share."""

from __future__ import annotations

from typing import NamedTuple

from npresnet_kernels.contract import Pair, Shape

__all__ = ["ConvShape", "PoolWindow", "conv_output_size", "pool_output_size"]


class ConvShape(NamedTuple):
    """What a convolution's kernels are chosen and laid out by: all but batch and numbers.

    Attributes
    ----------
    maps : tuple of int
        (C, H, W) of the input.
    weight : tuple of int
        (O, C / groups, kH, kW).
    stride, padding, dilation : (int, int)
        Of the window.
    groups : int
        Of channels that are convolved apart.
    """

    maps: Shape
    weight: Shape
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def kernel(self) -> Pair:
        """Height and width of the window."""
        return self.weight[2], self.weight[3]

    @property
    def output(self) -> Pair:
        """(P, Q) of the output."""
        size = self.maps[1], self.maps[2]
        return conv_output_size(size, self.kernel, self.stride, self.padding, self.dilation)


class PoolWindow(NamedTuple):
    """The windows that a max pool looks through; how many there are is the output's to say.

    Attributes
    ----------
    kernel_size, stride, padding, dilation : (int, int)
        Down and across.
    """

    kernel_size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair = (1, 1)

    @property
    def square(self) -> tuple[int, int, int] | None:
        """Size, stride and padding of windows alike down and across, and not dilated."""
        pairs = self.kernel_size, self.stride, self.padding
        if self.dilation != (1, 1) or any(down != across for down, across in pairs):
            return None
        return self.kernel_size[0], self.stride[0], self.padding[0]


def conv_output_size(
    size: Pair, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Pair:
    """Output (P, Q) of a convolution over (H, W); a value below 1 means that nothing fits."""
    height, width = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel_size, stride, padding, dilation, strict=True)
    )
    return height, width


def pool_output_size(
    size: Pair, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil_mode: bool
) -> Pair:
    """Output (P, Q) of a pool; with ``ceil_mode`` a last, partial window counts.

    A partial window that would start in the right-hand padding is dropped, as torch does.
    """
    if not ceil_mode:
        return conv_output_size(size, kernel_size, stride, padding, dilation)

    def one(n: int, k: int, s: int, p: int, d: int) -> int:
        out = -((n + 2 * p - d * (k - 1) - 1) // -s) + 1
        return out - 1 if (out - 1) * s >= n + p else out

    height, width = (
        one(n, k, s, p, d)
        for n, k, s, p, d in zip(size, kernel_size, stride, padding, dilation, strict=True)
    )
    return height, width
