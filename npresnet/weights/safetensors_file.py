"""State dicts in safetensors files, the format that timm, torchvision and transformers share.

The safetensors library checks the header: every array lies inside the file, none overlaps another.
What it lets through (a name twice, sizes that no memory holds) is found here. The arrays are then
read in place, where the library would hold each of them twice.
Format: https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from npresnet.backend import in_main_memory
from npresnet.errors import WeightsError, WriteError
from npresnet.weights.atomic import write_aside
from npresnet.weights.mapped import MappedFile
from npresnet.weights.stored import StoredArray, check_count

__all__ = ["load_file", "load_metadata", "read_safetensors", "save_file"]

State = dict[str, npt.NDArray[Any]]

# What a header calls the dtypes that have a place in a model.
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
_WRITABLE = {np.dtype(c) for c in "dfeqihbQIHB?"}

_LARGEST_HEADER = (
    1 << 23
)  # bytes; that of a ResNet-152 has 85,000, and parsed it takes ten times as much


def load_file(path: str | os.PathLike[str]) -> State:
    """Read every array of a safetensors file.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    dict of str to numpy.ndarray
        By sorted names. The arrays are the caller's own: C-contiguous, writable, independent of
        the file. float16 and bfloat16 come widened to float32, every other dtype as it is.

    Raises
    ------
    WeightsError
        The file is missing, a folder, unreadable, truncated, not safetensors, or holds a dtype
        that has no NumPy counterpart here (8-bit floats, complex).
    """
    arrays, _ = _open(path)
    return {key: array.read() for key, array in arrays.items()}


def load_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The text that a safetensors file carries beside its arrays; empty where it has none.

    Raises
    ------
    WeightsError
        As `load_file`.
    """
    return _open(path)[1]


def save_file(
    state: Mapping[str, npt.ArrayLike],
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a state dict, whole or not at all: aside first, then renamed over `path`.

    Parameters
    ----------
    state : mapping of str to array
        Of any memory order; written C-contiguous and little-endian, 0-d arrays as 0-d.
    path : str or path-like
        The file to replace or create, in an existing folder.
    metadata : mapping of str to str, optional
        Text to keep in the header. ``{"format": "pt"}`` is always added, since readers of the
        torch world look for it.

    Raises
    ------
    WeightsError
        A key isn't text, a value isn't an array of real numbers or booleans, or the metadata isn't
        text.
    WriteError
        The file can't be written; what it held before is whole.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file as write

    arrays = {key: _writable(key, value) for key, value in state.items()}
    notes = {"format": "pt", **(metadata or {})}
    if not all(isinstance(text, str) for item in notes.items() for text in item):
        raise WeightsError("metadata expected text to text, got something else: pass str(value)")
    with write_aside(path) as aside:
        try:
            write(arrays, aside, metadata=notes)
        except SafetensorError as error:  # the library reports a full disk this way
            raise WriteError(f"can't write {os.fspath(path)!r}: {_one_line(error)}") from error


def read_safetensors(file: MappedFile) -> tuple[dict[str, StoredArray], dict[str, str]]:
    """Find the arrays of a file, by sorted names, and the text beside them.

    Raises
    ------
    WeightsError
        As `load_file`; the message begins with a verb, for `MappedFile.error`.
    """
    header, begin = _header(file)
    metadata = header.pop("__metadata__", None) or {}
    check_count(len(header))
    arrays = {}
    for key in sorted(header):
        entry = header[key]
        start, stop = entry["data_offsets"]
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            raise WeightsError(
                f"holds {key!r:.200} as {entry['dtype']}, expected one of "
                f"{', '.join(sorted(_DTYPES))}: convert it to F32 where it was made"
            )
        try:
            extent = file.whole.part(begin + start, begin + stop)
            arrays[key] = StoredArray(extent, dtype, entry["shape"])
        except WeightsError as error:
            raise WeightsError(f"can't be read: {key!r:.200} {error}") from None
    return arrays, metadata


def _open(path: str | os.PathLike[str]) -> tuple[dict[str, StoredArray], dict[str, str]]:
    file = MappedFile(path)
    try:
        return read_safetensors(file)
    except WeightsError as error:
        raise file.error(error) from None


def _header(file: MappedFile) -> tuple[dict[str, Any], int]:
    """Return a header that the library has checked, and where the arrays begin.

    Eight bytes of length, that much JSON, then the arrays.
    """
    from safetensors import SafetensorError, safe_open

    length = int.from_bytes(file.buffer[:8], "little")
    try:
        if _LARGEST_HEADER < length <= file.size:
            raise ValueError(f"its header of {length:,} bytes is over {_LARGEST_HEADER:,}")
        with safe_open(file.name, framework="numpy"):  # reads the header only
            pass
        text = file.buffer[8 : 8 + length]
        header = json.loads(text, object_pairs_hook=_without_repeats)
        for entry in header.values():
            if not isinstance(entry, dict):  # the library takes a list of the three as well
                raise ValueError("an entry isn't a JSON object")
    except OSError as error:
        raise WeightsError(f"can't be read: {error.strerror or error}") from error
    except (SafetensorError, ValueError) as error:
        raise WeightsError(
            f"isn't a whole safetensors file ({_one_line(error)}): it may be truncated or of "
            "another format; fetch or save it again"
        ) from error
    return header, 8 + length


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a table of JSON's pairs, each name once."""
    table: dict[str, Any] = {}
    for name, value in pairs:
        if name in table:
            raise ValueError(f"the name {name!r:.200} comes twice")
        table[name] = value
    return table


def _writable(key: object, value: npt.ArrayLike) -> npt.NDArray[Any]:
    if not isinstance(key, str):
        raise WeightsError(f"state dict keys are text, got {key!r} ({type(key).__name__})")
    array = np.asarray(
        in_main_memory(value), order="C"
    )  # not ascontiguousarray: that makes 0-d arrays 1-d
    native = array.dtype.newbyteorder("=")
    if native not in _WRITABLE:
        raise WeightsError(
            f"can't save {key!r}: expected an array of real numbers or booleans, got dtype "
            f"{array.dtype}"
        )
    return array.astype(native, copy=False)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()).removeprefix("Error while deserializing header: ")
    return text[:300]  # it may quote the file
