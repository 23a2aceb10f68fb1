"""torch's files since 1.6: a zip archive with a pickle and an entry for each storage.

In one folder, whose name is free: ``data.pkl``, ``data/0``, ``data/1`` and so on, and ``byteorder``
where it was written by torch 2.1 or later.
"""

from __future__ import annotations

from typing import Any

from npresnet.errors import WeightsError
from npresnet.weights.torch_file.pickle_subset import PickleReader
from npresnet.weights.torch_file.values import (
    Storage,
    StorageType,
    damaged,
)
from npresnet.weights.zip_entries import Archive

__all__ = ["PICKLE", "read_zip"]

PICKLE = "data.pkl"


def read_zip(archive: Archive) -> Any:
    """Return what ``torch.save`` was given, with descriptions in place of tensors.

    Raises
    ------
    WeightsError
        The file is damaged or holds more than weights; the message begins with a verb.
    """
    pickles = [n for n in archive.entries if n == PICKLE or n.endswith(f"/{PICKLE}")]
    if len(pickles) != 1:
        raise WeightsError(
            f"is a zip archive with {len(pickles)} entries {PICKLE!r}, expected one: save it again"
        )
    folder = pickles[0].removesuffix(PICKLE)
    if f"{folder}constants.pkl" in archive.entries:
        raise WeightsError(
            "is a TorchScript archive, which holds a program: in torch, save "
            "torch.jit.load(NAME).state_dict() by torch.save"
        )
    big_endian = _is_big_endian(archive, f"{folder}byteorder")

    def persistent_load(given: Any) -> Storage:
        kind, key, numel = check_id(given, 5)
        storage = Storage(kind, numel, big_endian=big_endian)
        storage.place(archive.extent(f"{folder}data/{key}"))
        return storage

    extent = archive.extent(pickles[0])
    reader = PickleReader(extent.buffer, extent.start, extent.stop, persistent_load)
    value = reader.load()
    if reader.position != extent.stop:
        raise damaged(f"{PICKLE} goes on after its end")
    return value


def check_id(given: Any, length: int) -> tuple[StorageType, str, int]:
    """Return type, key and number of elements of the storage that a persistent id names."""
    if isinstance(given, tuple) and given[:1] == ("module",):
        raise WeightsError(
            "holds a whole model, which only its own program can load: with torch, save its state "
            "dict alone: torch.save(model.state_dict(), NAME)"
        )
    if not isinstance(given, tuple) or len(given) != length or given[0] != "storage":
        raise damaged("a persistent id isn't a storage's")
    kind, key, _, numel = given[1:5]
    if (
        not isinstance(kind, StorageType)
        or not isinstance(key, str)
        or type(numel) is not int
        or not 0 <= numel < 2**60
    ):
        raise damaged("a storage has no sound type, key or size")
    return kind, key, numel


def _is_big_endian(archive: Archive, name: str) -> bool:
    if name not in archive.entries:
        return False
    order = archive.extent(name)
    text = order.part(0, min(order.size, 10)).bytes()
    if text not in (b"little", b"big"):
        raise damaged(f"its byte order is {text!r}, expected little or big")
    return text == b"big"
