"""Output sizes of windows: the arithmetic that layers, checks and kernels share."""

from __future__ import annotations

from npresnet_kernels.contract import Pair

__all__ = ["conv_output_size", "pool_output_size"]


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
