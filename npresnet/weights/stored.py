"""Arrays that are still in their file: shape and dtype at once, values when they are asked for."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from npresnet.errors import WeightsError
from npresnet.nn.state import LazyArray
from npresnet.weights.mapped import Extent, release

__all__ = ["STORED_DTYPES", "StoredArray", "check_count", "contiguous_strides"]

# What files call the dtypes that have a place in a model, and how NumPy reads their bytes.
# bfloat16 is the upper half of a float32; a byte of a bool may hold anything.
STORED_DTYPES = {
    "float64": "f8",
    "float32": "f4",
    "float16": "f2",
    "bfloat16": "u2",
    "int64": "i8",
    "int32": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint64": "u8",
    "uint32": "u4",
    "uint16": "u2",
    "uint8": "u1",
    "bool": "u1",
}

_MOST_ARRAYS = 1 << 16
_MOST_DIMENSIONS = 32
_LARGEST = 2**62  # bytes; NumPy counts them in 63 bits, with empty axes left out


class StoredArray(LazyArray):
    """An array in a file, checked to lie inside it.

    Parameters
    ----------
    extent : Extent
        Where the bytes are, or the storage that the array is a view of.
    stored : str
        Dtype in the file, a name of `STORED_DTYPES`.
    shape : sequence of int
        Length of each axis.
    strides : sequence of int, optional
        Elements from one index to the next, for each axis; by default those of C order.
    offset : int
        Elements before the first.
    big_endian : bool
        Whether the most significant byte comes first.

    Attributes
    ----------
    shape : tuple of int
        Length of each axis.
    stored : str
        Dtype in the file.
    dtype : numpy.dtype
        Dtype of what is read: float32 for 16-bit floats, else that of the file.

    Raises
    ------
    WeightsError
        The dtype isn't known, a size is negative or absurd, or the array reaches beyond its bytes.
        The message begins with a verb: the array's name belongs before it.
    """

    __slots__ = ("_bytes", "_extent", "_view", "dtype", "shape", "stored")

    def __init__(
        self,
        extent: Extent,
        stored: str,
        shape: Sequence[int],
        strides: Sequence[int] | None = None,
        offset: int = 0,
        big_endian: bool = False,
    ) -> None:
        if stored not in STORED_DTYPES:
            raise WeightsError(
                f"is {stored}, expected one of {', '.join(STORED_DTYPES)}: convert it where it "
                "was made"
            )
        raw = np.dtype((">" if big_endian else "<") + STORED_DTYPES[stored])
        shape = tuple(shape)
        strides = contiguous_strides(shape) if strides is None else tuple(strides)
        if len(shape) != len(strides) or len(shape) > _MOST_DIMENSIONS:
            raise WeightsError(
                f"has {len(shape)} sizes and {len(strides)} strides, expected as many and at most "
                f"{_MOST_DIMENSIONS}"
            )
        if any(n < 0 for n in (*shape, *strides, offset)):
            raise WeightsError("has a negative size, stride or offset")
        if math.prod(max(n, 1) for n in shape) * raw.itemsize > _LARGEST:
            raise WeightsError("has a shape that no memory holds")
        # the step along an axis of one has no meaning, and may be any number
        strides = tuple(step if n > 1 else 0 for n, step in zip(shape, strides, strict=True))
        reach = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) + 1
        if 0 in shape:
            offset = reach = 0
            strides = (0,) * len(shape)
        if reach * raw.itemsize > extent.size:
            raise WeightsError(
                f"reaches to byte {reach * raw.itemsize:,} of {extent.size:,}: the file is "
                "truncated or damaged"
            )
        self.shape = shape
        self.stored = stored
        self.dtype = np.dtype(np.float32 if stored in ("float16", "bfloat16") else stored)
        self._view = (raw, tuple(step * raw.itemsize for step in strides))
        self._extent = extent
        self._bytes = extent.part(offset * raw.itemsize, reach * raw.itemsize)

    @property
    def nbytes(self) -> int:
        """Bytes of what is read."""
        return math.prod(self.shape) * self.dtype.itemsize

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[npt.NDArray[Any]]:
        """Lend the values, in the machine's byte order: in place where the file has them so.

        What is lent can't be written to, and is to be copied within the ``with`` block.
        """
        raw, strides = self._view
        # NumPy checks the reach again
        inside: npt.NDArray[Any] = np.ndarray(
            self.shape, raw, self._extent.buffer, self._bytes.start, strides
        )
        if self.stored == "bfloat16":
            wide = inside.astype(np.uint32, order="C")
            wide <<= 16
            yield wide.view(np.float32)
        elif self.stored == "bool":
            yield np.not_equal(inside, 0, out=np.empty(self.shape, np.bool_))
        else:
            yield inside.astype(self.dtype, order="C", copy=False)
        del inside
        release(self._bytes)


def check_count(count: int) -> None:
    """Raise a WeightsError if a file has more arrays than any network needs."""
    if count > _MOST_ARRAYS:
        raise WeightsError(f"holds {count:,} arrays, expected at most {_MOST_ARRAYS:,}: split it")


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of C order, in elements."""
    strides: list[int] = []
    step = 1
    for length in reversed(shape):
        strides.append(step)
        step *= max(length, 1)
    return tuple(reversed(strides))
