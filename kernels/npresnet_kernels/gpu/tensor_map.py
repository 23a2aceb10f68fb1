"""What copies of compute capability 9.0 (TMA) are told of an array: a map, encoded by the driver.

The *CUDA Driver API* ("Tensor Map Object Management") describes maps, the *PTX ISA* ("Tensors") how
copies go by them. A map holds the array's address. CuPy has no function for it, so the driver's
library, which CuPy has loaded, is called by ctypes.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from npresnet_kernels.contract import Array, Pair
from npresnet_kernels.gpu.errors import DeviceError
from npresnet_kernels.gpu.memory import address

__all__ = ["ROW_BYTES", "TensorMap", "box_map", "driver", "pixel_map"]

ROW_BYTES = 128
"""Bytes of a copied row, whose 16 pieces of 16 bytes are permuted ("swizzled") by its number."""

TensorMap = np.ndarray[Any, np.dtype[np.void]]
"""A map as a kernel's argument: 128 bytes, which CuPy passes by value."""

_FLOAT16, _BFLOAT16 = 6, 9
_MODES = (0, 3, 3, 0)
"""No interleaving, swizzled by 128 bytes, 256 bytes at a time into L2, zeros outside."""


@functools.cache
def driver() -> Any:
    """Return the driver's library.

    Raises
    ------
    DeviceError
        If it can't be loaded.
    """
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise DeviceError(f"can't load the driver's {name}: {error}: install the driver") from None


def pixel_map(x: Array, first: Pair, size: Pair, step: Pair, pixels: int) -> TensorMap:
    """Return the map of images whose copies are columns of pixels.

    A column runs along the rows of a box in each image, and from image to image.

    Parameters
    ----------
    x : array
        (N, H, W, C), 16 bits an element, dense.
    first, size, step : (int, int)
        Of an image's box (h, w): where it begins, its pixels, and how far they are apart.
    pixels : int
        Of a copy.

    Returns
    -------
    array of void
        128 bytes.

    Raises
    ------
    DeviceError
        If the driver has no maps, or not this one.
    """
    count, height, width, channels = x.shape
    last = [f + s * (n - 1) for f, n, s in zip(first, size, step, strict=True)]
    upper = last[1] - (width - 1), last[0] - (height - 1)
    pixel = channels * 2
    return _encoded(
        "cuTensorMapEncodeIm2col",
        x,
        (channels, width, height, count),
        (pixel, pixel * width, pixel * width * height),
        _array(ctypes.c_int, (first[1], first[0])),
        _array(ctypes.c_int, upper),
        ROW_BYTES // 2,
        pixels,
        _array(ctypes.c_uint32, (1, step[1], step[0], 1)),
    )


def box_map(matrix: Array, size: Pair, rows: int) -> TensorMap:
    """Return the map of a matrix whose copies are ``rows`` rows; errors as :func:`pixel_map`.

    ``matrix`` is dense, 16 bits an element, of ``size`` (rows, columns) whatever its shape.
    """
    return _encoded(
        "cuTensorMapEncodeTiled",
        matrix,
        (size[1], size[0]),
        (size[1] * 2,),
        _array(ctypes.c_uint32, (ROW_BYTES // 2, rows)),
        _array(ctypes.c_uint32, (1, 1)),
    )


def _array(kind: Any, values: Sequence[int]) -> Any:
    return (kind * len(values))(*values)


def _encoded(
    name: str, array: Array, sizes: Sequence[int], strides: Sequence[int], *more: Any
) -> TensorMap:
    encode = getattr(driver(), name, None)
    if encode is None:
        raise DeviceError(f"this driver has no {name}: update it to one for CUDA 12 or later")
    room = (ctypes.c_ubyte * 192)()
    out = (ctypes.c_ubyte * 128).from_buffer(room, -ctypes.addressof(room) % 64)
    status = encode(
        out,
        _FLOAT16 if array.dtype == np.float16 else _BFLOAT16,
        len(sizes),
        ctypes.c_void_p(address(array)),
        _array(ctypes.c_uint64, sizes),
        _array(ctypes.c_uint64, strides),
        *more,
        *_MODES,
    )
    if status:
        raise DeviceError(f"{name} refuses an array {array.shape} with CUDA error {status}")
    made: TensorMap = np.ndarray((), "V128", bytes(out))
    return made
