"""Memory that plans run in: one arena for all activations, taken from a small pool for each call.

Two threads that call a plan at once get an arena each, so that neither sees the other's numbers.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator

import numpy as np

from npresnet.engine.passes.plan_memory import ALIGNMENT
from npresnet_kernels.contract import Array

__all__ = ["Arena", "ArenaPool", "aligned"]

KEPT = 4
"""Arenas that a pool keeps for later calls; threads beyond that free theirs."""


def aligned(size: int) -> Array:
    """Return so many bytes of memory that begin at a cache line."""
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]


class Arena:
    """One block of memory.

    Parameters
    ----------
    size : int
        Bytes.
    """

    def __init__(self, size: int) -> None:
        self._memory = aligned(size)
        self._scratch = aligned(0).view(np.float32)
        self.views: dict[int, list[Array]] = {}
        """By batch, what a plan sees in the arena: made once, used by every later call."""

    def view(self, offset: int, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
        """Return a C-contiguous array at an offset."""
        size = math.prod(shape) * dtype.itemsize
        return self._memory[offset : offset + size].view(dtype).reshape(shape)

    def place(self, offset: int, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
        """Return an array at an offset; maps (N, C, H, W) lie in memory as (N, H, W, C)."""
        if len(shape) != 4:
            return self.view(offset, shape, dtype)
        images, channels, height, width = shape
        return self.view(offset, (images, height, width, channels), dtype).transpose(0, 3, 1, 2)

    def scratch(self, floats: int) -> Array:
        """Return working memory of at least so many float32."""
        if self._scratch.size < floats:
            self._scratch = aligned(4 * floats).view(np.float32)
        return self._scratch


class ArenaPool:
    """Arenas that no call is using.

    Parameters
    ----------
    make : callable
        Makes another arena.
    """

    def __init__(self, make: Callable[[], Arena]) -> None:
        self._make = make
        self._free: list[Arena] = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def lend(self) -> Iterator[Arena]:
        """Give an arena to a ``with`` block."""
        with self._lock:
            arena = self._free.pop() if self._free else None
        if arena is None:
            arena = self._make()
        try:
            yield arena
        finally:
            with self._lock:
                if len(self._free) < KEPT:
                    self._free.append(arena)
