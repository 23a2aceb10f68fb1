"""Memory that plans run in: one arena for all activations, taken from a small pool for each call.

Two threads that call a plan at once get an arena each, so that neither sees the other's numbers.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from npresnet_kernels.contract import Array

__all__ = ["Arena", "ArenaPool", "laid"]

KEPT = 4
"""Arenas that a pool keeps for later calls; threads beyond that free theirs."""


class Arena:
    """One block of memory, and working memory beside it.

    Parameters
    ----------
    size : int
        Bytes.
    memory : callable
        Gives so many bytes as an aligned array of uint8.
    """

    def __init__(self, size: int, memory: Callable[[int], Array]) -> None:
        self._make = memory
        self._memory = memory(size)
        self._scratch = memory(0).view(np.float32)
        self._seats: dict[tuple[int, int], Any] = {}
        self._seated: object = None

    def seats(self, held: object = None) -> dict[tuple[int, int], Any]:
        """Return what a plan keeps for its runs in this arena, by batch and threads.

        With another ``held`` than before all of it is forgotten: recordings of runs hold the
        weights that they read, so each batch size would keep old ones alive.
        """
        if held is not None and held is not self._seated:
            self._seats.clear()
            self._seated = held
        return self._seats

    def view(self, offset: int, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
        """Return a C-contiguous array at an offset."""
        return _dense(self._memory[offset:], shape, dtype)

    def place(self, offset: int, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
        """Return an array at an offset, as :func:`laid`."""
        return laid(self._memory[offset:], shape, dtype)

    def scratch(self, floats: int) -> Array:
        """Return working memory of at least so many float32."""
        if self._scratch.size < floats:
            self._scratch = self._make(4 * floats).view(np.float32)
        return self._scratch


def _dense(memory: Array, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    """Return an array at the beginning of some bytes."""
    return memory[: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)


def laid(memory: Array, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    """Return the same, maps (N, C, H, W) lying in memory as (N, H, W, C)."""
    if len(shape) != 4:
        return _dense(memory, shape, dtype)
    images, channels, height, width = shape
    return _dense(memory, (images, height, width, channels), dtype).transpose(0, 3, 1, 2)


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
        """Give an arena to a ``with`` block; where memory runs out, all of them are let go."""
        with self._lock:
            arena = self._free.pop() if self._free else None
        try:
            if arena is None:
                arena = self._make()
            yield arena
        except MemoryError:
            with self._lock:
                self._free.clear()
            raise
        except BaseException:
            self._put(arena)
            raise
        self._put(arena)

    def idle(self) -> list[Arena]:
        """Return the arenas that no call is using."""
        with self._lock:
            return list(self._free)

    def _put(self, arena: Arena | None) -> None:
        with self._lock:
            if arena is not None and len(self._free) < KEPT:
                self._free.append(arena)
