"""Lay out buffers in one arena: those that are never needed at once may share memory.

The largest buffers are placed first, each at the lowest place that is free for all of its life
(Pisarchyk and Lee 2020, https://arxiv.org/abs/2001.03288, "greedy by size").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["ALIGNMENT", "Buffer", "plan_memory"]

ALIGNMENT = 64
"""Bytes of a cache line: no two buffers share one."""


@dataclass(frozen=True)
class Buffer:
    """Memory that is needed from one step to another, both counted in.

    Attributes
    ----------
    size : int
        Bytes.
    first, last : int
        The steps.
    """

    size: int
    first: int
    last: int


def plan_memory(buffers: Sequence[Buffer]) -> tuple[list[int], int]:
    """Return the offset of each buffer in the arena, and the arena's size, in bytes."""
    offsets = [0] * len(buffers)
    placed: list[int] = []  # numbers of buffers, by offset
    total = 0
    for number in sorted(range(len(buffers)), key=lambda i: (-buffers[i].size, i)):
        buffer = buffers[number]
        size = -(-buffer.size // ALIGNMENT) * ALIGNMENT
        offset = 0
        for other in placed:
            neighbour = buffers[other]
            if neighbour.last < buffer.first or buffer.last < neighbour.first:
                continue
            if offset + size <= offsets[other]:
                break  # it fits before this one
            end = offsets[other] + neighbour.size
            offset = max(offset, -(-end // ALIGNMENT) * ALIGNMENT)
        offsets[number] = offset
        total = max(total, offset + size)
        placed.append(number)
        placed.sort(key=offsets.__getitem__)
    return offsets, total
