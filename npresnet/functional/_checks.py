"""What the operations check of their arguments before a kernel sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from npresnet.errors import DtypeError, RangeError, ShapeError
from npresnet.tensor import Tensor
from npresnet_kernels.contract import Pair

__all__ = ["IntPair", "as_maps", "float_dtype", "pair", "per_channel", "same_dtype"]

IntPair: TypeAlias = int | Sequence[int]


def pair(value: IntPair, name: str, least: int) -> Pair:
    """Return an integer or a pair of them as a pair, each at least ``least``.

    Raises
    ------
    DtypeError
        If it is something else.
    RangeError
        If one is smaller.
    """
    values = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(values) == 1:
        values = values * 2
    if len(values) != 2 or not all(
        isinstance(v, int | np.integer) and not isinstance(v, bool) for v in values
    ):
        raise DtypeError(f"{name} must be an integer or a pair of integers, got {value!r}")
    if min(values) < least:
        raise RangeError(f"{name} must be at least {least}, got {value!r}")
    return int(values[0]), int(values[1])


def float_dtype(x: Tensor, operation: str) -> None:
    """Raise unless ``x`` holds float32 or float64 (float16 where a kernel set knows it)."""
    if x.dtype.kind != "f":
        raise DtypeError(
            f"{operation} expected floating-point input, got {x.dtype}: call .float() first"
        )


def same_dtype(operation: str, input: Tensor, **others: Tensor | None) -> None:
    """Raise unless all tensors have the input's floating-point dtype."""
    float_dtype(input, operation)
    for name, other in others.items():
        if other is not None and other.dtype != input.dtype:
            raise DtypeError(
                f"{operation} expected {name} of the input's dtype {input.dtype}, got "
                f"{other.dtype}: convert the input (.float(), .double()) or the model"
            )


def per_channel(operation: str, channels: int, **vectors: Tensor | None) -> None:
    """Raise unless each vector has one element a channel."""
    for name, vector in vectors.items():
        if vector is not None and vector.shape != (channels,):
            raise ShapeError(
                f"{operation} expected {name} of shape ({channels},), got {vector.shape}"
            )


def as_maps(operation: str, input: Tensor, compute: Callable[[Tensor], Any]) -> Any:
    """Run ``compute`` on (N, C, H, W); an unbatched (C, H, W) is given a batch of one.

    ``compute`` returns a tensor or a tuple of them; each loses the added dimension again.
    """
    if input.ndim == 4:
        return compute(input)
    if input.ndim != 3:
        raise ShapeError(f"{operation} expected (N, C, H, W) or (C, H, W), got shape {input.shape}")
    result = compute(input.unsqueeze(0))
    if isinstance(result, tuple):
        return tuple(part.squeeze(0) for part in result)
    return result.squeeze(0)
