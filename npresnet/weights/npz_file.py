"""State dicts in NumPy's .npz archives, saved by ``numpy.savez`` or ``savez_compressed``.

Arrays of Python objects are pickles, and are refused. Format: ``numpy.lib.format``.
"""

from __future__ import annotations

import io
import math
import tokenize
import warnings
from typing import Any

import numpy as np

from npresnet.errors import WeightsError
from npresnet.weights.mapped import Extent
from npresnet.weights.stored import STORED_DTYPES, StoredArray, contiguous_strides
from npresnet.weights.zip_entries import Archive

__all__ = ["SUFFIX", "read_npz"]

SUFFIX = ".npy"

# The header is a Python literal: what can be wrong with one shows in many ways.
_WRONG_HEADER = (
    ValueError,
    TypeError,
    KeyError,
    SyntaxError,
    tokenize.TokenError,
    RecursionError,
    MemoryError,
)

_LARGEST_HEADER = 10_000  # characters; NumPy's own default for files that aren't trusted


def read_npz(archive: Archive) -> dict[str, StoredArray]:
    """Find the arrays of an archive.

    Raises
    ------
    WeightsError
        An entry isn't an array of real numbers or booleans, is truncated or damaged. The message
        begins with a verb.
    """
    arrays = {}
    for name in archive.entries:
        if not name.endswith(SUFFIX):
            raise WeightsError(
                f"is a zip archive with {name!r:.200} among NumPy's arrays: save it again by "
                "numpy.savez"
            )
        archive.check(name)
        try:
            arrays[name.removesuffix(SUFFIX)] = _read_npy(archive.extent(name))
        except WeightsError as error:
            raise WeightsError(f"can't be read: {name!r:.200} {error}") from None
    return arrays


def _read_npy(extent: Extent) -> StoredArray:
    head = io.BytesIO(extent.part(0, min(extent.size, _LARGEST_HEADER + 12)).bytes())
    try:
        shape, fortran, dtype = _read_header(head)
        lengths = [int(n) for n in shape]
    except _WRONG_HEADER as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"has no sound header ({reason}): save it again") from None
    if dtype.hasobject:
        raise WeightsError(
            "holds Python objects, which would be unpickled: save it as an array of numbers"
        )
    if dtype.name not in STORED_DTYPES or dtype.kind not in "fiub":
        raise WeightsError(
            f"is {dtype.name:.100}, expected real numbers or booleans: save it as float32"
        )
    strides = contiguous_strides(lengths)
    if fortran:
        strides = contiguous_strides(lengths[::-1])[::-1]
    data = extent.part(head.tell(), extent.size)
    array = StoredArray(data, dtype.name, lengths, strides, big_endian=dtype.str.startswith(">"))
    if math.prod(lengths) * dtype.itemsize != data.size:
        raise WeightsError(
            f"has {data.size:,} bytes for an array of shape {array.shape}: save it again"
        )
    return array


def _read_header(head: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(head)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:  # later ones exist for names of fields only
        raise ValueError(f"version {version}, expected 1.0 or 2.0")
    with warnings.catch_warnings():
        # Python 2 wrote 3L for 3, strangers write names that NumPy or Python have deprecated: the
        # header is taken or refused, and no warning can be of use to who reads the file.
        warnings.simplefilter("ignore")
        return readers[version](head, max_header_size=_LARGEST_HEADER)
