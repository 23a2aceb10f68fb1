"""The entries of a zip archive as ranges of a mapped file, for torch's files and NumPy's.

Python's zipfile copies what it reads, lets entries overlap and a directory be of any size. Here
entries that were stored as they are stay in place, and everything is checked before it is used.
Format: PKWARE's APPNOTE.TXT, 4.3; zip64 records included.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise

from npresnet.errors import WeightsError
from npresnet.weights.mapped import Extent, MappedFile, release

__all__ = ["Archive", "Entry"]

_LOCAL = struct.Struct("<4s5H3L2H")  # 4.3.7
_CENTRAL = struct.Struct("<4s6H3L5H2L")  # 4.3.12
_END = struct.Struct("<4s4H2LH")  # 4.3.16
_END64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_LOCATOR = struct.Struct("<4sLQL")  # 4.3.15

_MOST_ENTRIES = 1 << 16
_LARGEST_DIRECTORY = 1 << 24  # bytes
_SPARE = 1 << 26  # bytes that compressed entries may come to, beyond the size of the file
_CHUNK = 1 << 22

_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _UTF8 = 0x1, 0x800
_ZIP64 = 1  # id of an extra field


@dataclass(frozen=True, slots=True)
class Entry:
    """What the directory says of an entry, and where its bytes lie."""

    name: str
    method: int
    checksum: int
    size: int
    extent: Extent


class Archive:
    """A zip archive; nothing is unpacked before it is asked for.

    Parameters
    ----------
    file : MappedFile
        The archive.

    Attributes
    ----------
    entries : dict of str to Entry
        By name, in the directory's order; folders are left out.

    Raises
    ------
    WeightsError
        The archive is truncated, encrypted or in parts, its directory doesn't fit its entries, a
        name comes twice, or entries overlap. The message begins with a verb.
    """

    def __init__(self, file: MappedFile) -> None:
        self._file = file
        self._unpacked: dict[str, Extent] = {}
        self._left = file.size + _SPARE
        self.entries: dict[str, Entry] = {}
        try:
            start, size, count = self._find_directory()
            self._read_directory(start, size, count)
        except (struct.error, UnicodeDecodeError) as error:
            raise WeightsError(f"isn't a whole zip archive ({error}): {_CURE}") from None

    def extent(self, name: str) -> Extent:
        """Return where an entry's bytes are: in the file, or unpacked in memory, once.

        Raises
        ------
        WeightsError
            There is no such entry, it isn't what the directory says, or what is unpacked comes to
            more than the file's size and 64 MiB.
        """
        entry = self.entries.get(name)
        if entry is None:
            raise WeightsError(f"is a zip archive without the entry {name!r:.200}: {_CURE}")
        if entry.method == _STORED:
            return entry.extent
        if name not in self._unpacked:
            self._unpacked[name] = self._unpack(entry)
        return self._unpacked[name]

    def check(self, name: str) -> None:
        """Compare an entry with its checksum.

        Not for torch's files: torch neither checks theirs, nor writes right ones when told not to
        (``torch.serialization.set_crc32_options``).

        Raises
        ------
        WeightsError
            They differ; else as `extent`.
        """
        extent = self.extent(name)
        if extent.buffer is not self._file.buffer:  # compared when it was unpacked
            return
        checksum = 0
        for start in range(0, extent.size, _CHUNK):
            part = extent.part(start, min(start + _CHUNK, extent.size))
            checksum = zlib.crc32(part.bytes(), checksum)
            release(part)
        if checksum != self.entries[name].checksum:
            raise WeightsError(f"is damaged: the entry {name!r:.200} hasn't its checksum; {_CURE}")

    def _find_directory(self) -> tuple[int, int, int]:
        """Return start and size of the directory, and its number of entries."""
        buffer, size = self._file.buffer, self._file.size
        # the record that ends an archive has a comment of up to 65,535 bytes
        end = buffer.rfind(b"PK\5\6", max(0, size - _END.size - 0xFFFF))
        if end < 0:
            raise WeightsError(f"is a zip archive without its end: it is truncated; {_CURE}")
        _, disk, first, here, count, length, start, comment = _END.unpack_from(buffer, end)
        if end + _END.size + comment != size:
            raise WeightsError(f"is a zip archive with bytes after its end: {_CURE}")
        limit = end
        if 0xFFFF in (disk, first, here, count) or 0xFFFFFFFF in (length, start):
            locator = end - _LOCATOR.size
            sign, _, limit, _ = _LOCATOR.unpack_from(buffer, max(locator, 0))
            if sign != b"PK\6\7" or limit > locator - _END64.size:
                raise WeightsError(f"is a zip archive with a damaged end: {_CURE}")
            sign, _, _, _, disk, first, here, count, length, start = _END64.unpack_from(
                buffer, limit
            )
            if sign != b"PK\6\6":
                raise WeightsError(f"is a zip archive with a damaged end: {_CURE}")
        if disk or first or here != count:
            raise WeightsError("is a part of a zip archive: give the whole archive")
        if start + length > limit or count * _CENTRAL.size > length:
            raise WeightsError(f"is a zip archive with a directory that isn't in it: {_CURE}")
        if count > _MOST_ENTRIES or length > _LARGEST_DIRECTORY:
            raise WeightsError(
                f"is a zip archive of {count:,} entries, expected at most {_MOST_ENTRIES:,}: save "
                "fewer arrays in a file"
            )
        return start, length, count

    def _read_directory(self, start: int, length: int, count: int) -> None:
        buffer = self._file.buffer
        position, stop = start, start + length
        taken: list[tuple[int, int, str]] = []
        for _ in range(count):
            fields = _CENTRAL.unpack_from(buffer, position)
            sign, _, _, flags, method, _, _, checksum, packed, size = fields[:10]
            name_length, extra_length, comment_length, _, _, _, offset = fields[10:]
            extra_start = position + _CENTRAL.size + name_length
            name_bytes = buffer[position + _CENTRAL.size : extra_start]
            position = extra_start + extra_length + comment_length
            if sign != b"PK\1\2" or position > stop:
                raise WeightsError(f"is a zip archive with a damaged directory: {_CURE}")
            size, packed, offset = _widen(
                buffer[extra_start : extra_start + extra_length], size, packed, offset
            )
            name = name_bytes.decode("utf-8" if flags & _UTF8 else "cp437")
            if flags & _ENCRYPTED:
                raise WeightsError("is an encrypted zip archive: decrypt it first")
            extent = self._locate(name, name_bytes, offset, packed, start)
            taken.append((offset, extent.stop, name))
            if name.endswith("/"):
                continue
            if name in self.entries:
                raise WeightsError(f"is a zip archive with two entries {name!r:.200}: {_CURE}")
            if method not in (_STORED, _DEFLATED) or (method == _STORED and packed != size):
                raise WeightsError(
                    f"is a zip archive with {name!r:.200} packed by method {method}, expected "
                    "stored or deflated: pack it again"
                )
            self.entries[name] = Entry(name, method, checksum, size, extent)
        taken.sort()
        for (_, before, first), (after, _, second) in pairwise(taken):
            if after < before:
                raise WeightsError(
                    f"is a zip archive whose entries {first!r:.200} and {second!r:.200} overlap: "
                    f"{_CURE}"
                )

    def _locate(self, name: str, name_bytes: bytes, offset: int, packed: int, stop: int) -> Extent:
        """Return where an entry's bytes are, after its own header, which has the name again."""
        buffer = self._file.buffer
        sign, *_, name_length, extra_length = (
            _LOCAL.unpack_from(buffer, offset) if offset + _LOCAL.size <= stop else (b"", 0, 0)
        )
        begin = offset + _LOCAL.size + name_length + extra_length
        if sign != b"PK\3\4" or begin + packed > stop:
            raise WeightsError(
                f"is a zip archive whose directory says that {name!r:.200} lies where it doesn't: "
                f"{_CURE}"
            )
        again = buffer[offset + _LOCAL.size : offset + _LOCAL.size + name_length]
        if again != name_bytes:
            raise WeightsError(
                f"is a zip archive whose directory has {name!r:.200} where {again[:100]!r} lies: "
                f"{_CURE}"
            )
        return Extent(buffer, begin, begin + packed)

    def _unpack(self, entry: Entry) -> Extent:
        if entry.size > self._left:
            raise WeightsError(
                f"unpacks to more than its size and {_SPARE >> 20} MiB: save it uncompressed"
            )
        self._left -= entry.size
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            with memoryview(entry.extent.buffer) as view:
                packed = view[entry.extent.start : entry.extent.stop]
                # one byte more than there should be shows that there is more
                data = unpacker.decompress(packed, entry.size + 1)
                packed.release()
            release(entry.extent)
        except zlib.error as error:
            raise WeightsError(f"is damaged: {entry.name!r:.200}: {error}; {_CURE}") from None
        if len(data) != entry.size or zlib.crc32(data) != entry.checksum:
            raise WeightsError(
                f"is damaged: {entry.name!r:.200} unpacks to something else than the directory "
                f"says; {_CURE}"
            )
        return Extent(data, 0, len(data))


_CURE = "fetch or save it again"


def _widen(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Return sizes and offset from the zip64 field where the directory has no room for them."""
    values = [size, packed, offset]
    wide = [i for i, value in enumerate(values) if value == 0xFFFFFFFF]
    position = 0
    while wide and position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        position += 4
        if kind == _ZIP64:
            numbers = struct.unpack_from(f"<{len(wide)}Q", extra[: position + length], position)
            for i, number in zip(wide, numbers, strict=True):
                values[i] = number
            break
        position += length
    return values[0], values[1], values[2]
