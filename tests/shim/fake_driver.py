"""A stand-in for the driver's library: encodes tensor maps as the shim's hopper.cuh reads them.

It refuses what the *CUDA Driver API* ("Tensor Map Object Management") says the driver does.
"""

from __future__ import annotations

import ctypes
import struct
from typing import Any

INVALID_VALUE = 1
ELEMENTS = {6: 2, 9: 2}
"""Bytes of float16 and bfloat16."""
_MAGIC, _PIXELS, _BOX = 0x70616D74, 1, 2


def _encode(
    out: Any,
    mode: int,
    kind: int,
    rank: int,
    address: int,
    sizes: list[int],
    strides: list[int],
    corners: tuple[list[int], list[int]],
    box: tuple[int, int],
    steps: list[int],
    modes: tuple[int, int, int, int],
) -> int:
    interleave, swizzle, promotion, fill = modes
    element = ELEMENTS[kind]
    target = ctypes.addressof(out)
    right = (
        target % 64 == 0
        and address % 16 == 0
        and all(0 < size <= 1 << 32 for size in sizes)
        and all(stride % 16 == 0 and stride < 1 << 40 for stride in strides)
        and all(a >= b for a, b in zip(strides, [sizes[0] * element, *strides], strict=False))
        and all(0 < step <= 8 for step in steps)
        and box[0] * element % 16 == 0
        and (swizzle != 3 or box[0] * element <= 128)
        and interleave == fill == 0
        and swizzle in range(4)
        and promotion in range(4)
    )
    if not right:
        return INVALID_VALUE
    wide = [n + [1] * (4 - len(n)) for n in (sizes, steps)]
    far = strides + [0] * (3 - len(strides))
    encoded = struct.pack(
        "<4IQ4I3Q4i4I3I20x",
        *(_MAGIC, mode, element, rank, address, *wide[0], *far),
        *(*corners[0], *corners[1], *wide[1], *box, swizzle),
    )
    ctypes.memmove(target, encoded, 128)
    return 0


class FakeDriver:
    """The functions of libcuda that the backend calls itself."""

    @staticmethod
    def cuTensorMapEncodeIm2col(
        out, kind, rank, address, sizes, strides, lower, upper, channels, pixels, steps, *modes
    ) -> int:
        if rank != 4 or not (0 < channels <= 256 and 0 < pixels <= 1024):
            return INVALID_VALUE
        corners = list(lower), list(upper)
        if not all(-128 <= c <= 127 for corner in corners for c in corner):
            return INVALID_VALUE
        box = channels, pixels
        return _encode(
            *(out, _PIXELS, kind, rank, address.value, list(sizes), list(strides)),
            *(corners, box, list(steps), modes),
        )

    @staticmethod
    def cuTensorMapEncodeTiled(out, kind, rank, address, sizes, strides, box, steps, *modes) -> int:
        if rank != 2 or not all(0 < n <= 256 for n in box):
            return INVALID_VALUE
        return _encode(
            *(out, _BOX, kind, rank, address.value, list(sizes), list(strides)),
            *(([0, 0], [0, 0]), tuple(box), list(steps), modes),
        )
