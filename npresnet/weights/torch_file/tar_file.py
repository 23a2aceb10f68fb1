"""torch's files before 0.1.10, the first of the model zoo among them: a tar archive.

Three members: ``storages``, with a pickle that counts them and for each a pickle (key, place, type)
and its elements, then a pickle of views; ``tensors``, with the same of (key, storage, type) and
sizes, strides and offset; ``pickle``, what was saved, where persistent ids are keys of tensors and
storages. Python's tarfile isn't used: it follows links, and its extended headers can keep it busy.
Format of the archive: POSIX.1-1988 (ustar).
"""

from __future__ import annotations

from typing import Any

from npresnet.errors import WeightsError
from npresnet.weights.mapped import Extent, MappedFile
from npresnet.weights.torch_file.legacy_stream import place_view, read_integers, read_storage
from npresnet.weights.torch_file.pickle_subset import PickleReader
from npresnet.weights.torch_file.values import (
    Inert,
    Storage,
    StorageType,
    Tensor,
    damaged,
)

__all__ = ["is_tar", "read_tar"]

_BLOCK = 512
_RECORD = 20 * _BLOCK  # archives are filled up to whole records
_MOST_MEMBERS = 32
_MEMBERS = ("storages", "tensors", "pickle")
_FILE = b"0\0"
_EXTENDED = b"xg"  # headers that hold times more exactly, from Python 3; passed over
_MOST_DIMENSIONS = 32


def is_tar(file: MappedFile) -> bool:
    """Whether a file begins as a tar archive does."""
    return bytes(file.buffer[257:262]) == b"ustar"


def read_tar(file: MappedFile) -> Any:
    """Return what ``torch.save`` was given, with descriptions in place of tensors.

    Raises
    ------
    WeightsError
        The file is damaged or holds more than weights; the message begins with a verb.
    """
    members = _members(file)
    missing = [name for name in _MEMBERS if name not in members]
    if missing:
        raise WeightsError(
            f"is a tar archive without {', '.join(missing)}, so not one of torch's: unpack it and "
            "give the weight file inside"
        )
    found: dict[int, Storage | Tensor] = {}

    def persistent_load(given: Any) -> Storage | Tensor:
        key = _key(given)
        if key not in found:
            raise damaged(f"the pickle asks for {key}, which isn't there")
        return found[key]

    reader = PickleReader(b"", 0, 0, persistent_load)
    _read_storages(reader, members["storages"], found)
    _read_tensors(reader, members["tensors"], found)
    extent = members["pickle"]
    reader.continue_in(extent.buffer, extent.start, extent.stop)
    return reader.load()


def _members(file: MappedFile) -> dict[str, Extent]:
    """Return where the members lie that are regular files."""
    found: dict[str, Extent] = {}
    position = 0
    if file.size % _RECORD:
        raise WeightsError(
            f"is truncated: a tar archive's size is a multiple of {_RECORD:,}; fetch it again"
        )
    for _ in range(_MOST_MEMBERS):
        header = file.buffer[position : position + _BLOCK]
        if not header.strip(b"\0"):
            return found
        name = header[:100].rstrip(b"\0").decode("ascii", "replace")
        kind = header[156:157]
        start = position + _BLOCK
        stop = start + _check_header(header, name)
        if stop > file.size:
            raise WeightsError(
                f"is truncated: its member {name!r} reaches to byte {stop:,}; fetch it again"
            )
        if kind in _EXTENDED:
            text = file.buffer[start : min(stop, start + _BLOCK)]
            if stop - start > _BLOCK or any(word in text for word in (b" path=", b" size=")):
                raise damaged("its tar archive has odd headers")
        elif name in _MEMBERS:
            if kind not in _FILE:
                raise WeightsError(f"is a tar archive whose {name!r} is a link or device")
            if name in found:
                raise damaged(f"its tar archive has two members {name!r}")
            found[name] = Extent(file.buffer, start, stop)
        position = start + -(-(stop - start) // _BLOCK) * _BLOCK
    raise WeightsError(f"is a tar archive of over {_MOST_MEMBERS} members, so not one of torch's")


def _check_header(header: bytes, name: str) -> int:
    """Return a member's size, from a header that agrees with its checksum."""
    try:
        size = int(header[124:136].strip(b" \0") or b"0", 8)
        checksum = int(header[148:156].strip(b" \0"), 8)
    except ValueError:
        size = checksum = -1
    if size < 0 or sum(header) - sum(header[148:156]) + 8 * ord(" ") != checksum:
        raise damaged(f"the header of its member {name!r}")
    return size


def _read_storages(
    reader: PickleReader, extent: Extent, found: dict[int, Storage | Tensor]
) -> None:
    reader.continue_in(extent.buffer, extent.start, extent.stop)
    for _ in range(_count(reader.load())):
        key, _, kind = _triple(reader.load())
        if not isinstance(kind, StorageType):
            raise damaged("a storage has no sound type")
        position = reader.position - extent.start
        numel = read_integers(extent, position, 1)[0]
        storage = Storage(kind, _count(numel))
        reader.position = extent.start + read_storage(extent, position, storage)
        _add(found, key, storage)
    views = reader.load()
    if not isinstance(views, list):
        raise damaged("its list of views isn't one")
    for view in views:
        if not isinstance(view, tuple) or len(view) != 4:
            raise damaged("a view of a storage isn't one")
        root = found.get(_key(view[1]))
        if not isinstance(root, Storage):
            raise damaged("a view is of a storage that isn't there")
        part = Storage(root.type, _count(view[3]))
        place_view(part, root, _count(view[2]))
        _add(found, view[0], part)


def _read_tensors(reader: PickleReader, extent: Extent, found: dict[int, Storage | Tensor]) -> None:
    reader.continue_in(extent.buffer, extent.start, extent.stop)
    for _ in range(_count(reader.load())):
        key, storage_key, kind = _triple(reader.load())
        if not isinstance(kind, Inert):
            raise damaged("a tensor has no sound type")
        position = reader.position - extent.start
        # the number of axes has eight bytes, of which the later versions fill four
        ndim = read_integers(extent, position, 1)[0] & 0xFFFFFFFF
        if ndim > _MOST_DIMENSIONS:
            raise damaged(f"a tensor has {ndim:,} axes")
        numbers = read_integers(extent, position + 8, 2 * ndim + 1)
        reader.position += 8 * (2 * ndim + 2)
        storage = found.get(_key(storage_key))
        if not isinstance(storage, Storage):
            raise damaged("a tensor has a storage that isn't there")
        if storage.type.dtype is None:
            raise damaged("a tensor of untyped bytes doesn't say its dtype")
        tensor = Tensor(
            storage, storage.type.dtype, numbers[-1], numbers[:ndim], numbers[ndim : 2 * ndim]
        )
        _add(found, key, tensor)


def _add(found: dict[int, Storage | Tensor], key: Any, value: Storage | Tensor) -> None:
    if _key(key) in found:
        raise damaged(f"the key {_key(key)} comes twice")
    found[_key(key)] = value


def _triple(value: Any) -> tuple[Any, Any, Any]:
    if not isinstance(value, tuple) or len(value) != 3:
        raise damaged("expected a key, a place and a type")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**60:
        raise damaged("a number or size isn't sound")
    return value


def _key(value: Any) -> int:
    """Return a key; where it is a persistent id, it is text."""
    if isinstance(value, str) and value.isdecimal() and len(value) <= 20:
        value = int(value)
    return _count(value)
