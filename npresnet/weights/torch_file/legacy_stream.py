"""torch's files from 0.1.10 to 1.5, and later with ``_use_new_zipfile_serialization=False``.

Five pickles: a magic number, the version 1001, a description of the machine, what was saved, and
the keys of the storages. Then for each key eight bytes with the number of elements, and the
elements. They are little-endian whatever the description says: machines of the other kind swap
them as they write.
"""

from __future__ import annotations

import struct
from typing import Any

from npresnet.errors import WeightsError
from npresnet.weights.mapped import Extent, MappedFile
from npresnet.weights.torch_file.pickle_subset import PickleReader
from npresnet.weights.torch_file.values import (
    Storage,
    damaged,
)
from npresnet.weights.torch_file.zip_file import check_id

__all__ = ["MAGIC", "read_legacy_stream", "read_storage"]

MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # 0x1950a86a20f9469cfc6c, pickled
_VERSION = 1001


def read_legacy_stream(file: MappedFile) -> Any:
    """Return what ``torch.save`` was given, with descriptions in place of tensors.

    Raises
    ------
    WeightsError
        The file is damaged or holds more than weights; the message begins with a verb.
    """
    roots: dict[str, Storage] = {}
    views: list[tuple[Storage, Storage, int]] = []

    def persistent_load(given: Any) -> Storage:
        kind, key, numel = check_id(given, 6)
        root = roots.setdefault(key, Storage(kind, numel))
        if (root.type, root.numel) != (kind, numel):
            raise damaged(f"the storage {key!r:.50} has two types or sizes")
        if given[5] is None:
            return root
        offset, length = _check_view(given[5])
        view = Storage(kind, length)
        views.append((view, root, offset))
        return view

    reader = PickleReader(file.buffer, len(MAGIC), file.size, persistent_load)
    version = reader.load()
    if version != _VERSION or type(version) is not int:
        raise WeightsError(f"is of version {version!r:.30} of torch's format, expected {_VERSION}")
    reader.load()
    value = reader.load()
    keys = reader.load()
    if (
        not isinstance(keys, list)
        or not all(isinstance(key, str) for key in keys)
        or len(set(keys)) < len(keys)
        or set(keys) != set(roots)
    ):
        raise damaged("its list of storages doesn't fit its tensors")
    position = reader.position
    for key in keys:
        position = read_storage(file.whole, position, roots[key])
    if position != file.size:
        raise damaged(f"{file.size - position:,} bytes follow its last storage")
    for view, root, offset in views:
        place_view(view, root, offset)
    return value


def read_storage(extent: Extent, position: int, storage: Storage) -> int:
    """Place a storage whose length and elements lie at a position; return the position after."""
    begin = position + 8
    stop = begin + storage.nbytes
    if stop > extent.size:
        raise WeightsError(
            f"is truncated: a storage reaches to byte {stop:,} of {extent.size:,}; fetch or save "
            "it again"
        )
    numel = read_integers(extent, position, 1)[0]
    if numel != storage.numel:
        raise damaged(f"a storage of {storage.numel:,} elements says that it has {numel:,}")
    storage.place(extent.part(begin, stop))
    return stop


def read_integers(extent: Extent, position: int, count: int) -> tuple[int, ...]:
    """Return 64-bit integers that lie at a position."""
    if position + 8 * count > extent.size:
        raise WeightsError("is truncated: fetch or save it again")
    return struct.unpack_from(f"<{count}q", extent.buffer, extent.start + position)


def place_view(view: Storage, root: Storage, offset: int) -> None:
    """Place a storage that is a part of another, `offset` elements after its beginning."""
    if root.extent is None or offset < 0 or offset + view.numel > root.numel:
        raise damaged("a storage reaches beyond the one that it is a part of")
    start = offset * root.type.size
    view.place(root.extent.part(start, start + view.nbytes))


def _check_view(given: Any) -> tuple[int, int]:
    """Return offset and length of a view, from its (key, offset, length)."""
    if (
        not isinstance(given, tuple)
        or len(given) != 3
        or any(type(n) is not int or not 0 <= n < 2**60 for n in given[1:])
    ):
        raise damaged("a view of a storage has no sound offset or size")
    return given[1], given[2]
