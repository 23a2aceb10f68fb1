"""The rectangles that average pools take means of: arithmetic that the kernel sets share.

A window is rows [top, bottom) by columns [left, right), clipped to the image; what its sum is
divided by is the product of a height and a width, or a number that the user gave.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from npresnet_kernels.contract import Array, Pair
from npresnet_kernels.shapes import pool_output_size

__all__ = ["Bounds", "adaptive_windows", "average_windows"]

Bounds: TypeAlias = tuple[Array, Array]
"""First and past-the-last position of each window along an axis, int64."""


def average_windows(
    size: Pair,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> tuple[Bounds, Bounds, Array]:
    """Rows, columns and (P, Q) divisors of the windows of an average pool.

    The padding counts towards a divisor if ``count_include_pad``; what a last window of
    ``ceil_mode`` has beyond the padding never does.
    """
    counts = pool_output_size(size, kernel_size, stride, padding, (1, 1), ceil_mode)
    bounds: list[Bounds] = []
    extents: list[Array] = []
    for n, count, k, s, p in zip(size, counts, kernel_size, stride, padding, strict=True):
        start = np.arange(count) * s - p
        stop = np.minimum(start + k, n + p)
        inside = np.clip(start, 0, n), np.clip(stop, 0, n)
        bounds.append(inside)
        extents.append(stop - start if count_include_pad else inside[1] - inside[0])
    divisor = np.multiply.outer(extents[0], extents[1])  # (P, Q)
    if divisor_override is not None:
        divisor = np.full_like(divisor, divisor_override)
    return bounds[0], bounds[1], np.maximum(divisor, 1).astype(np.float64)


def adaptive_windows(size: Pair, output_size: Pair) -> tuple[Bounds, Bounds, Array]:
    """Rows, columns and (P, Q) divisors of an adaptive pool: [floor(pH/P), ceil((p+1)H/P))."""
    bounds: list[Bounds] = []
    for n, count in zip(size, output_size, strict=True):
        p = np.arange(count)
        bounds.append((p * n // count, -((p + 1) * n // -count)))
    (top, bottom), (left, right) = bounds
    divisor = np.multiply.outer(bottom - top, right - left)
    return bounds[0], bounds[1], np.maximum(divisor, 1).astype(np.float64)
