"""Arrays for tests of plan kernels, in each element type, between NumPy and the stand-in's."""

from __future__ import annotations

from typing import Any

import numpy as np

ELEMENTS = ("float32", "float16", "bfloat16")
ROUNDING = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Distance between neighbouring numbers, relative."""


def storage(element: str) -> np.dtype[Any]:
    """What NumPy calls the memory of an element type."""
    return np.dtype("uint16" if element == "bfloat16" else element)


def encoded(values: Any, element: str) -> np.ndarray:
    """Round to an element type, as it is stored."""
    if element != "bfloat16":
        return np.asarray(values).astype(element)
    bits = np.asarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(bits.view(np.float32)), 0x7FC0, rounded).astype(np.uint16)


def decoded(stored: np.ndarray) -> np.ndarray:
    """The numbers that are stored, in float64."""
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return stored.astype(np.float64)


def rounded(values: Any, element: str) -> np.ndarray:
    """The numbers of an element type next to some, in float64."""
    return decoded(encoded(values, element))
