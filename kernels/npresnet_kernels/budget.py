"""How much memory the columns of a convolution may take, and how to keep to it."""

from __future__ import annotations

import os
from collections.abc import Iterator

__all__ = ["COLUMN_BUDGET", "column_budget", "row_slices", "set_column_budget"]

COLUMN_BUDGET = 64 * 2**20
"""Default budget in bytes; the environment variable NPRESNET_COLUMN_BUDGET overrides it."""


def _initial_budget() -> int:
    text = os.environ.get("NPRESNET_COLUMN_BUDGET")
    if text is None:
        return COLUMN_BUDGET
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"NPRESNET_COLUMN_BUDGET expected a number of bytes above 0, got {text!r}")
    return int(text)


_budget = _initial_budget()


def column_budget() -> int:
    """Return the bytes that the columns of one convolution call may take."""
    return _budget


def set_column_budget(size: int) -> None:
    """Set the bytes that the columns of one convolution call may take.

    Parameters
    ----------
    size : int
        Bytes, at least 1. One output pixel's patch is always allowed, however large.

    Raises
    ------
    ValueError
        If ``size`` is below 1.
    """
    global _budget
    if size < 1:
        raise ValueError(f"column budget expected a number of bytes above 0, got {size}")
    _budget = size


def row_slices(rows: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) over ``rows``, each slice within the budget or a single row."""
    step = max(1, column_budget() // row_bytes)
    for start in range(0, rows, step):
        yield start, min(start + step, rows)
