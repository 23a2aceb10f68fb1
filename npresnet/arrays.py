"""Arrays of what users pass: on which device numbers land, and of which dtype; torch's rules."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from npresnet.backend import adopt, for_arrays, for_data
from npresnet.errors import DtypeError
from npresnet_kernels.contract import Array

__all__ = ["array_beside", "as_array", "common_dtype"]


def as_array(data: Any, dtype: Any = None) -> Array:
    """Return numbers as an array, on the device they live on or else of the backend in force.

    Parameters
    ----------
    data : array_like
        A number, nested sequences, or an array of any library. Python floats become float32,
        Python integers int64; arrays keep their dtype.
    dtype : dtype, optional
        Another dtype for the values.

    Raises
    ------
    DtypeError
        If they aren't numbers.
    """
    data = adopt(data)
    backend = for_data(data)
    if backend.owns(data):
        array = cast(Array, data)
    else:
        try:
            array = backend.asarray(data)
        except (ValueError, TypeError) as error:
            raise DtypeError(f"can't make a tensor of {type(data).__name__}: {error}") from None
        if dtype is None and array.dtype == np.float64 and not hasattr(data, "dtype"):
            dtype = np.float32
    if array.dtype.kind not in "fiub":
        raise DtypeError(f"a tensor holds numbers, got {type(data).__name__} ({array.dtype})")
    with backend.scope():
        return array if dtype is None else array.astype(dtype, copy=False)


def array_beside(value: Any, array: Array) -> Array:
    """Return what stands beside an array in an expression as an array.

    A Python number goes to the array's device and takes its dtype, unless that would lose a
    fraction.
    """
    if not isinstance(value, bool | int | float):
        return as_array(value)
    kind = array.dtype if array.dtype.kind == "f" else None
    if kind is None and isinstance(value, float):
        kind = np.dtype(np.float32)
    if kind is None and array.dtype.kind in "iu" and not isinstance(value, bool):
        kind = array.dtype
    return for_arrays([array]).asarray(value, dtype=kind)


def common_dtype(one: np.dtype[Any], other: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of x op y: as NumPy, but an integer never widens a float (torch)."""
    floats = [dtype for dtype in (one, other) if dtype.kind == "f"]
    return floats[0] if len(floats) == 1 else np.promote_types(one, other)
