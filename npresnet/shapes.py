"""Shapes: what torch's dimensions and sizes mean for a shape, on plain tuples of ints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from npresnet.errors import RangeError, ShapeError
from npresnet_kernels.contract import Shape

__all__ = ["axes_of", "axis_of", "expanded", "flattened", "order_of", "reshaped", "sizes_of"]


def sizes_of(arguments: tuple[Any, ...]) -> Shape:
    """Accept sizes one by one or as one sequence."""
    if len(arguments) == 1 and isinstance(arguments[0], Sequence):
        arguments = tuple(arguments[0])
    return tuple(int(n) for n in arguments)


def axis_of(dim: int, shape: Shape) -> int:
    """Return ``dim`` counted from the front.

    Raises
    ------
    RangeError
        If there is no such dimension.
    """
    if not -len(shape) <= dim < len(shape):
        raise RangeError(
            f"dimension {dim} is out of range for shape {shape}: "
            f"expected {-len(shape)} to {len(shape) - 1}"
        )
    return dim % len(shape)


def axes_of(dim: int | Sequence[int] | None, shape: Shape) -> tuple[int, ...]:
    """Return one or several dimensions counted from the front; all of them for None."""
    if dim is None:
        return tuple(range(len(shape)))
    if isinstance(dim, Sequence):
        return tuple(axis_of(i, shape) for i in dim)
    return (axis_of(dim, shape),)


def order_of(dims: Sequence[int], shape: Shape) -> tuple[int, ...]:
    """Return an order of all dimensions, counted from the front.

    Raises
    ------
    RangeError
        If one is missing or comes twice.
    """
    order = tuple(axis_of(i, shape) for i in dims)
    if sorted(order) != list(range(len(shape))):
        raise RangeError(f"permute needs each of {len(shape)} dimensions once, got {tuple(dims)}")
    return order


def reshaped(shape: Shape, wanted: Shape) -> Shape:
    """Return ``wanted`` with its -1, if it has one, worked out from the number of elements.

    Raises
    ------
    ShapeError
        If the number of elements doesn't fit.
    """
    try:
        return np.broadcast_to(np.zeros((), np.int8), shape).reshape(wanted).shape
    except ValueError:
        raise ShapeError(
            f"can't reshape {shape} ({math.prod(shape)} elements) to {wanted}"
        ) from None


def flattened(shape: Shape, start_dim: int, end_dim: int) -> Shape:
    """Return the shape with dimensions ``start_dim`` to ``end_dim`` made one.

    Raises
    ------
    RangeError
        If the first lies behind the last.
    """
    if not shape:
        return (1,)
    first, last = axis_of(start_dim, shape), axis_of(end_dim, shape)
    if first > last:
        raise RangeError(f"flatten: start_dim {start_dim} lies behind end_dim {end_dim}")
    return (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])


def expanded(shape: Shape, wanted: Shape) -> Shape:
    """Return ``wanted`` with each -1 replaced by the dimension that it keeps.

    Raises
    ------
    ShapeError
        If the shape can't be broadcast to it.
    """
    ahead = len(wanted) - len(shape)
    full = tuple(shape[i - ahead] if n == -1 and i >= ahead else n for i, n in enumerate(wanted))
    try:
        fits = np.broadcast_shapes(shape, full) == full
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(f"can't expand {shape} to {wanted}")
    return full
