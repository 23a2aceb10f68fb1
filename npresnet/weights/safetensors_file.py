"""State dicts in safetensors files, the format that timm, torchvision and transformers share.

The safetensors library reads and checks the header; a file from a stranger can't run code, and
can't claim more bytes than it has. Format: https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from npresnet.errors import WeightsError, WriteError
from npresnet.weights.atomic import write_aside

if TYPE_CHECKING:
    from safetensors import safe_open

__all__ = ["load_file", "load_metadata", "save_file"]

State = dict[str, npt.NDArray[Any]]

# What a header calls the dtypes that have a place in a model; BF16 is widened by hand, because
# NumPy has no such dtype.
_READABLE = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8"}
_READABLE.add("BOOL")
_WRITABLE = {np.dtype(c) for c in "dfeqihbQIHB?"}


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
    name = os.fspath(path)
    with _open(path) as file:
        keys = sorted(file.keys())
        dtypes = {key: str(file.get_slice(key).get_dtype()) for key in keys}
        for key, dtype in dtypes.items():
            if dtype not in _READABLE:
                raise WeightsError(
                    f"{name!r} holds {key!r} as {dtype}, expected one of "
                    f"{', '.join(sorted(_READABLE))}: convert it to F32 where it was made"
                )
        wide = _read_bfloat16(name, [k for k in keys if dtypes[k] == "BF16"])
        state: State = {}
        for key in keys:
            array = wide[key] if key in wide else file.get_tensor(key)
            state[key] = array.astype(np.float32) if dtypes[key] == "F16" else array
    return state


def load_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The text that a safetensors file carries beside its arrays; empty where it has none.

    Raises
    ------
    WeightsError
        As `load_file`.
    """
    with _open(path) as file:
        return dict(file.metadata() or {})


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


def _open(path: str | os.PathLike[str]) -> safe_open:
    """The library's handle on a file, its header already checked; its errors in our words."""
    from safetensors import SafetensorError, safe_open

    name = os.fspath(path)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise WeightsError(f"{name!r} is a folder: name the weight file inside it")
        if not stat.S_ISREG(mode):  # a pipe would block for ever
            raise WeightsError(f"{name!r} isn't a regular file: copy the weights into one")
        return safe_open(path, framework="numpy")
    except SafetensorError as error:
        size = os.path.getsize(path)
        raise WeightsError(
            f"{name!r} ({size:,} bytes) isn't a whole safetensors file ({_one_line(error)}): "
            "it may be truncated or of another format; fetch or save it again"
        ) from error
    except FileNotFoundError as error:
        raise WeightsError(f"there is no weight file {name!r}: check the path") from error
    except OSError as error:
        raise WeightsError(f"can't read {name!r}: {error.strerror or error}") from error


def _read_bfloat16(path: str, keys: list[str]) -> State:
    """Arrays stored as bfloat16, widened to float32 without rounding.

    The library hands bfloat16 to NumPy only where some other package has registered that dtype, so
    the bytes are read here, at the offsets of a header that the library has just checked: eight
    bytes of length, that much JSON, then the arrays.
    """
    if not keys:
        return {}
    state: State = {}
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for key in keys:
            start, stop = header[key]["data_offsets"]
            file.seek(8 + length + start)
            raw = np.frombuffer(file.read(stop - start), dtype="<u2")
            # a bfloat16 is the upper half of a float32
            wide = raw.astype(np.uint32)
            wide <<= 16
            state[key] = wide.view(np.float32).reshape(header[key]["shape"])
    return state


def _writable(key: object, value: npt.ArrayLike) -> npt.NDArray[Any]:
    if not isinstance(key, str):
        raise WeightsError(f"state dict keys are text, got {key!r} ({type(key).__name__})")
    array = np.asarray(value, order="C")  # not ascontiguousarray: that makes 0-d arrays 1-d
    native = array.dtype.newbyteorder("=")
    if native not in _WRITABLE:
        raise WeightsError(
            f"can't save {key!r}: expected an array of real numbers or booleans, got dtype "
            f"{array.dtype}"
        )
    return array.astype(native, copy=False)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).removeprefix("Error while deserializing header: ")
