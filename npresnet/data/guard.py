"""What keeps an image file from holding up its reader: Pillow limits memory, but not the work.

Two things take minutes of a small file. Formats are taken apart piece by piece in Python, and a
piece may be a byte: so reads are counted. And a progressive JPEG is gone through once a scan,
however little the scan holds: so scans are counted.
"""

from __future__ import annotations

import re
from typing import IO, Any

from npresnet.errors import DataError

__all__ = ["CountedFile", "check_scans"]

MAX_READS = 100_000
"""Reads that a file may need. A photograph needs tens; PNG and GIF one to three for each piece."""

MAX_SCANS = 100
"""Scans that a JPEG file may have."""

_BLOCK = 2**16
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # neither data nor restart marks nor filling


class CountedFile:
    """A binary file that refuses to be read in too many pieces.

    Parameters
    ----------
    file : binary file
        Open for reading.
    name : str
        What errors call it.

    Raises
    ------
    DataError
        When read for the 100,001st time.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._name = name
        self._left = MAX_READS

    def read(self, size: int = -1) -> bytes:
        """Read so many bytes, or all."""
        self._left -= 1
        if self._left < 0:
            raise DataError(
                f"{self._name} falls into more than {MAX_READS:,} pieces: open it elsewhere and "
                "save it anew"
            )
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def check_scans(file: Any, name: str) -> None:
    """Refuse a JPEG file of more than a hundred scans; programs write about ten.

    Libtiff draws the same line. What isn't laid out as a JPEG is left to its reader to refuse.
    Layout: ITU-T T.81, annex B: markers of two bytes, most with a length and so many bytes; after a
    scan's header its data, in which 0xFF is followed by 0 or a restart mark.
    """
    file.seek(2)
    scans = 0
    while True:
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] == 0xD9:
            break
        if head[1] == 0xFF:  # filling before a marker
            file.seek(-3, 1)
            continue
        file.seek(int.from_bytes(head[2:]) - 2, 1)
        if head[1] != 0xDA:
            continue
        scans += 1
        if scans > MAX_SCANS:
            raise DataError(f"{name} has more than {MAX_SCANS} scans: save it anew")
        while block := file.read(_BLOCK):
            found = _MARKER.search(block)
            if found is not None:
                file.seek(found.start() - len(block), 1)
                break
            if len(block) == _BLOCK:
                file.seek(-1, 1)  # the first half of a marker may be the last byte
    file.seek(0)
