"""A weight file's bytes, read in place: mapped into memory, never copied as a whole."""

from __future__ import annotations

import mmap
import os
import stat
from typing import NamedTuple, TypeAlias

from npresnet.errors import WeightsError

__all__ = ["Buffer", "Extent", "MappedFile", "release"]

Buffer: TypeAlias = mmap.mmap | bytes

_WORTH_RELEASING = 1 << 16  # bytes; below that the call costs more than the pages


class Extent(NamedTuple):
    """Some bytes in a row: `buffer` from `start` to `stop`."""

    buffer: Buffer
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.stop - self.start

    def part(self, start: int, stop: int) -> Extent:
        """Return the bytes from `start` to `stop` of this extent; both lie inside it."""
        return Extent(self.buffer, self.start + start, self.start + stop)

    def bytes(self) -> bytes:
        """Copy the bytes."""
        return self.buffer[self.start : self.stop]


class MappedFile:
    """A regular file, open for reading; the mapping ends with its last user.

    Parameters
    ----------
    path : str or path-like
        The file.

    Attributes
    ----------
    name : str
        The path as it was given, for messages.
    size : int
        Bytes.
    buffer : mmap or bytes
        The contents.

    Raises
    ------
    WeightsError
        The path is missing, a folder, a pipe or a device, or can't be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        try:
            mode = os.stat(path).st_mode
            if stat.S_ISDIR(mode):
                raise WeightsError(f"{self.name!r} is a folder: name the weight file inside it")
            if not stat.S_ISREG(mode):  # a pipe would block for ever
                raise WeightsError(f"{self.name!r} isn't a regular file: copy the weights into one")
            with open(path, "rb") as file:
                self.size = os.fstat(file.fileno()).st_size
                # an empty file can't be mapped
                self.buffer: Buffer = (
                    mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_READ)
                    if self.size
                    else b""
                )
        except FileNotFoundError as error:
            raise WeightsError(f"there is no weight file {self.name!r}: check the path") from error
        except OSError as error:
            reason = error.strerror or error
            raise WeightsError(f"can't read {self.name!r}: {reason}") from error

    @property
    def whole(self) -> Extent:
        """All of the file."""
        return Extent(self.buffer, 0, self.size)

    def error(self, reason: object) -> WeightsError:
        """Name the file before a reason that begins with a verb."""
        return WeightsError(f"{self.name!r} ({self.size:,} bytes) {reason}")


def release(extent: Extent) -> None:
    """Give back the memory of pages that were read; they can still be read again.

    So that an array and the pages that it was copied from aren't both held for every array of a
    file.
    """
    if isinstance(extent.buffer, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        start = extent.start - extent.start % mmap.PAGESIZE
        if extent.stop - start >= _WORTH_RELEASING:
            extent.buffer.madvise(mmap.MADV_DONTNEED, start, extent.stop - start)
