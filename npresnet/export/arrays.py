"""Arrays out of an ONNX file: from its bytes, its lists of numbers, or a file beside it."""

from __future__ import annotations

import math
import os
import stat
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from npresnet.errors import OnnxError
from npresnet.export.messages import TensorProto
from npresnet_kernels.contract import Array

__all__ = ["BFLOAT16", "DTYPES", "as_array", "dtype_of"]

BFLOAT16 = 16

# TensorProto.DataType; numbers as onnx.proto has them
DTYPES: dict[int, Any] = {
    1: np.dtype(np.float32),
    2: np.dtype(np.uint8),
    3: np.dtype(np.int8),
    4: np.dtype(np.uint16),
    5: np.dtype(np.int16),
    6: np.dtype(np.int32),
    7: np.dtype(np.int64),
    9: np.dtype(np.bool_),
    10: np.dtype(np.float16),
    11: np.dtype(np.float64),
    12: np.dtype(np.uint32),
    13: np.dtype(np.uint64),
    BFLOAT16: np.dtype(np.uint16),  # the upper half of a float32
}
_OTHERS = {
    8: "string", 14: "complex64", 15: "complex128", 17: "float8e4m3fn", 18: "float8e4m3fnuz",
    19: "float8e5m2", 20: "float8e5m2fnuz", 21: "uint4", 22: "int4", 23: "float4e2m1",
    24: "float8e8m0", 25: "uint2", 26: "int2",
}  # fmt: skip


def dtype_of(number: int) -> np.dtype[Any]:
    """Return the dtype that npresnet computes in for an ONNX data type: 16-bit floats in float32.

    Raises
    ------
    OnnxError
        If it has none.
    """
    if number not in DTYPES:
        name = _OTHERS.get(number, f"number {number}")
        raise OnnxError(f"data type {name}: npresnet knows floats, integers and bool")
    if number in (10, BFLOAT16):
        return np.dtype(np.float32)
    kind: np.dtype[Any] = DTYPES[number]
    return kind


def as_array(tensor: TensorProto, folder: str | None) -> Array:
    """Return a tensor of the file as an array of its own.

    Parameters
    ----------
    tensor : TensorProto
        float16 and bfloat16 are widened to float32.
    folder : str or None
        Where the file lies: external data may only be in files in or below it. None for a model
        that came as bytes.

    Raises
    ------
    OnnxError
        If the data don't fit the shape, the data type is unknown, or external data can't be read
        or lie elsewhere.
    """
    label = f"tensor {tensor.name!r}" if tensor.name else "a tensor"
    try:
        wide = dtype_of(tensor.data_type)
    except OnnxError as error:
        raise OnnxError(f"{label}: {error}") from None
    stored = DTYPES[tensor.data_type]
    if any(n < 0 for n in tensor.dims) or len(tensor.dims) > 32 or len(tensor.segment):
        raise OnnxError(f"{label} has no usable shape: {tuple(tensor.dims)[:40]}")
    count = math.prod(tensor.dims)
    try:
        flat = _numbers(tensor, stored, count, folder)
    except OnnxError as error:
        raise OnnxError(f"{label}: {error}") from None
    if flat.size != count:
        raise OnnxError(
            f"{label} of shape {tuple(tensor.dims)} needs {count:,} numbers, the file has "
            f"{flat.size:,}"
        )
    shaped = flat.reshape(tensor.dims)
    if tensor.data_type == BFLOAT16:
        return (shaped.astype(np.uint32) << 16).view(np.float32)
    return shaped.astype(wide)  # a copy, in the machine's byte order


def _numbers(tensor: TensorProto, stored: np.dtype[Any], count: int, folder: str | None) -> Array:
    """Return the numbers of a tensor in a row, from wherever they are."""
    places = {
        "raw_data": len(tensor.raw_data),
        "float_data": len(tensor.float_data),
        "int32_data": len(tensor.int32_data),
        "int64_data": len(tensor.int64_data),
        "double_data": len(tensor.double_data),
        "uint64_data": len(tensor.uint64_data),
        "string_data": len(tensor.string_data),
        "external_data": tensor.data_location,
    }
    used = [name for name, length in places.items() if length]
    if len(used) > 1:
        raise OnnxError(f"its numbers are given more than once: {', '.join(used)}")
    if not used:
        return np.empty(0, stored)
    (place,) = used
    little = stored.newbyteorder("<")
    if place == "external_data":
        return np.frombuffer(_external(tensor, count * stored.itemsize, folder), little)
    if place == "raw_data":
        if len(tensor.raw_data) != count * stored.itemsize:
            raise OnnxError(
                f"shape {tuple(tensor.dims)} of {stored} needs {count * stored.itemsize:,} bytes, "
                f"the file has {len(tensor.raw_data):,}"
            )
        return np.frombuffer(tensor.raw_data, little)
    if place != _list_for(tensor.data_type):
        raise OnnxError(f"numbers of {stored} don't belong in {place}")
    if place in ("float_data", "double_data"):
        data = b"".join(getattr(tensor, place))
        if len(data) % stored.itemsize:
            raise OnnxError(f"{place} ends within a number")
        return np.frombuffer(data, little)
    # 16-bit floats and small integers stand in int32_data: the low bits count
    wide = np.array(getattr(tensor, place), np.int64)
    if tensor.data_type in (10, BFLOAT16):
        return wide.astype(np.uint16).view(stored)
    return wide.astype(stored)


def _list_for(data_type: int) -> str:
    """Return the field that holds a data type's numbers one by one."""
    names = {1: "float_data", 7: "int64_data", 11: "double_data"}
    if data_type in (12, 13):
        return "uint64_data"
    return names.get(data_type, "int32_data")


def _external(tensor: TensorProto, size: int, folder: str | None) -> bytes:
    """Read a tensor's bytes from the file that it names, which must lie beside the model."""
    about = {entry.key: entry.value for entry in tensor.external_data}
    if folder is None:
        raise OnnxError("its data are in another file, but the model came as bytes: load the file")
    if tensor.data_location != 1:
        raise OnnxError(f"unknown data location {tensor.data_location}")
    location = about.get("location", "")
    parts = PurePosixPath(location).parts
    if (
        not parts
        or location.startswith(("/", "~"))
        or any(character in location for character in "\\:\0")
        or ".." in parts
    ):
        raise OnnxError(
            f"external data at {location!r}: only files in or below the model's folder are read"
        )
    numbers = {"offset": about.get("offset", "0"), "length": about.get("length", str(size))}
    for name, text in numbers.items():
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise OnnxError(f"external data with {name} {text[:40]!r}")
    if int(numbers["length"]) != size:
        raise OnnxError(f"needs {size:,} bytes of external data, not {numbers['length']}")
    path = folder
    try:
        for part in parts:
            path = os.path.join(path, part)
            if stat.S_ISLNK(os.lstat(path).st_mode):
                raise OnnxError(f"external data at {location!r} go through a link: copy the file")
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise OnnxError(f"external data at {location!r} are no regular file")
            if int(numbers["offset"]) + size > found.st_size:
                raise OnnxError(
                    f"external data at {location!r} end at byte {found.st_size:,}, wanted "
                    f"{size:,} bytes from byte {numbers['offset']}"
                )
            file.seek(int(numbers["offset"]))
            return file.read(size)
    except OSError as error:
        raise OnnxError(f"external data at {location!r}: {error.strerror}") from None
