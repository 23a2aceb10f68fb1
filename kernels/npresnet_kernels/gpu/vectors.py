"""How plan kernels share out channels: 16 bytes a thread where they can be moved at once.

Rows are pixels, and hold their channels one behind the other.
"""

from __future__ import annotations

import math

import numpy as np

from npresnet_kernels.contract import Array
from npresnet_kernels.gpu.device import THREADS, scalar_type
from npresnet_kernels.gpu.memory import address

__all__ = ["RESIDENT", "channel_blocks", "defines_of", "fixed_channels", "int32", "vector_of"]

RESIDENT = 8 * 132
"""Blocks of 256 threads that an H100 holds at once; more would only wait."""


def vector_of(channels: int, *arrays: Array | None) -> int:
    """Return how many channels a thread takes: whole 16 bytes if all addresses allow it, or one.

    The first array tells the size of an element.
    """
    first = arrays[0]
    assert first is not None
    width = 16 // int(first.itemsize)
    aligned = all(a is None or address(a) % 16 == 0 for a in arrays)
    return width if aligned and channels % width == 0 else 1


def defines_of(array: Array, vector: int, other: Array | None = None) -> dict[str, str | int]:
    """Return the macros of a plan kernel; ``other`` is an array whose elements differ."""
    macros: dict[str, str | int] = {"SCALAR": scalar_type(array), "VECTOR": vector}
    if other is not None:
        macros["OTHER"] = scalar_type(other)
    return macros


def int32(*values: int) -> tuple[np.int32, ...]:
    """Return sizes as kernels take them."""
    return tuple(map(np.int32, values))


def fixed_channels(total: int, vectors: int) -> tuple[int]:
    """Return a grid that strides over ``total`` vectors, a thread seeing the same channels always.

    Its threads are a multiple of the ``vectors`` of a row.
    """
    unit = vectors // math.gcd(vectors, THREADS)
    wanted = min(-(-total // THREADS), RESIDENT)
    return (max(1, -(-wanted // unit)) * unit,)


def channel_blocks(vectors: int) -> tuple[tuple[int, int], int]:
    """Return the block that sums over rows, channels across, and how many stand side by side."""
    lanes = min(32, 1 << (vectors - 1).bit_length())
    return (lanes, THREADS // lanes), -(-vectors // lanes)
