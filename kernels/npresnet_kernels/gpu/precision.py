"""How float32 products are taken: exactly, or in TF32 (10 bits of mantissa, several times faster).

NVIDIA's *A100 Tensor Core GPU Architecture* (2020) describes TF32. It is never used unasked.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

__all__ = ["PRECISIONS", "get_precision", "products_in", "set_precision", "use_precision"]

PRECISIONS = ("fp32", "tf32")

_default = "fp32"
_scoped: contextvars.ContextVar[str | None] = contextvars.ContextVar("precision", default=None)


def get_precision() -> str:
    """Return how float32 products are taken here: ``"fp32"`` or ``"tf32"``."""
    return _scoped.get() or _default


def set_precision(precision: str) -> None:
    """Choose how float32 products are taken, for the whole process.

    Raises
    ------
    ValueError
        If ``precision`` is neither ``"fp32"`` nor ``"tf32"``.
    """
    global _default
    _default = _checked(precision)


@contextlib.contextmanager
def use_precision(precision: str) -> Iterator[None]:
    """Choose it for a ``with`` block, in this thread only; errors as :func:`set_precision`."""
    token = _scoped.set(_checked(precision))
    try:
        yield
    finally:
        _scoped.reset(token)


def _checked(precision: str) -> str:
    if precision not in PRECISIONS:
        raise ValueError(f"precision expected 'fp32' or 'tf32', got {precision!r}")
    return precision


@contextlib.contextmanager
def products_in(xp: Any, dtype: Any) -> Iterator[None]:
    """Let CuPy's products of ``dtype`` keep to the precision chosen here, not to CUPY_TF32."""
    if dtype != "float32":
        yield
        return
    routines = xp._core._routines_linalg
    before = routines.get_compute_type(dtype)
    wanted = "COMPUTE_TYPE_TF32" if get_precision() == "tf32" else "COMPUTE_TYPE_FP32"
    routines.set_compute_type(dtype, getattr(routines, wanted))
    try:
        yield
    finally:
        routines.set_compute_type(dtype, before)
