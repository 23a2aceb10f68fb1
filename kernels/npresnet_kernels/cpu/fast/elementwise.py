"""Copies and sums of whole arrays, by kernels, so that a recorded run has them too."""

import numpy as np
from llvmlite import ir

from .parallel import FIRST, kernel, next_item, run, thread_count
from .problem import Floats, address, ceil_div
from .rows import Lane, row_kernel
from .vector import load_int

X, OTHER, OUT, COUNT = range(FIRST, FIRST + 4)

CHUNK = 32 * 1024
"""Floats in an item."""


def _copy(lane: Lane, pointers: list[ir.Value]) -> None:
    lane.store(lane.load(pointers[0]), pointers[1])


def _add(lane: Lane, pointers: list[ir.Value]) -> None:
    lane.store(lane.e.add(lane.load(pointers[0]), lane.load(pointers[1])), pointers[2])


_copied = row_kernel("copied", 2, 0, _copy)
_added = row_kernel("added", 3, 0, _add)


@kernel
def chunks(table: int, thread: int, threads: int) -> None:
    """Write x, or x + other: an item is a chunk."""
    item = next_item(table)
    while item >= 0:
        count = min(CHUNK, load_int(table, COUNT) - item * CHUNK)
        shift = item * CHUNK * 4
        x, out = load_int(table, X) + shift, load_int(table, OUT) + shift
        if load_int(table, OTHER):
            _added(1, count, x, load_int(table, OTHER) + shift, out)
        else:
            _copied(1, count, x, out)
        item = next_item(table)


def write(x: Floats, out: Floats, other: Floats | None = None) -> None:
    """Write x, or x + other, all C-contiguous and of one shape; out may be one of them."""
    table = np.zeros(COUNT + 1, dtype=np.int64)
    table[X], table[OUT], table[COUNT] = address(x), address(out), x.size
    table[OTHER] = 0 if other is None else address(other)
    run(chunks, table, ceil_div(x.size, CHUNK), thread_count())
