"""Kernels behind C addresses, and the one parallel loop that calls them.

Numba's `prange` costs seconds of compile time in every function that uses it, and a compiled
callee is compiled again into each caller. So a kernel here is a plain compiled function of 64-bit
integers with a C address, compiled when first asked for; `run` gives its address and a table of
arguments to the single parallel loop of the package. Inside, threads draw item numbers from a
shared counter until none is left: which thread does an item never changes the item's arithmetic.
"""

import os
import threading
from collections.abc import Callable
from functools import cache
from inspect import signature
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from numba import cfunc, njit, prange, types
from numba.extending import register_jitable

from ..cache import kept
from .vector import fetch_add, indirect_call, load_int

Function = TypeVar("Function", bound=Callable[..., Any])

Integers = npt.NDArray[np.int64]

COUNTER = 0
ITEMS = 1
FIRST = 2
"""Slots of a kernel's table: the shared counter, the number of items, the kernel's own."""

_lock = threading.RLock()


class Kernel:
    """A function of 64-bit integers, compiled when its address is first asked for.

    Parameters
    ----------
    function : callable
        Compilable by Numba; all arguments are int64, nothing is returned.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function
        self.__doc__ = function.__doc__
        self._compiled: Any = None
        self._address = 0

    @property
    def address(self) -> int:
        """The C function's address."""
        if not self._address:
            with _lock:
                if not self._address:
                    arguments = [types.int64] * len(signature(self.function).parameters)
                    with kept() as keep:
                        compiled = cfunc(types.void(*arguments), cache=keep)(self.function)
                    self._compiled = compiled
                    self._address = int(compiled.address or 0)
        return self._address


def kernel(function: Callable[..., None]) -> Kernel:
    """Make a `Kernel` of a function; a decorator."""
    return Kernel(function)


call_kernel = indirect_call("call_kernel", 3)


def helper(function: Function) -> Function:
    """Let kernels call a function; called from Python it stays what it is. A decorator."""
    return register_jitable(function)


@helper
def next_item(table: int) -> int:
    """Return the number of the next item that no thread has taken, or -1."""
    item = fetch_add(table + 8 * COUNTER, 1)
    return item if item < load_int(table, ITEMS) else -1


def _on_all(address: int, table: int, threads: int) -> None:
    """Call a kernel (table, thread, threads) on every thread."""
    for thread in prange(threads):
        call_kernel(address, table, thread, threads)


def _on_one(address: int, table: int, threads: int) -> None:
    """Call a kernel for one thread alone."""
    call_kernel(address, table, 0, 1)


@cache
def _loop(parallel: bool) -> Callable[[int, int, int], None]:
    """Return the compiled loop over threads; compiled here, not at import, which stays quick."""
    with _lock:
        function = _on_all if parallel else _on_one
        arguments = types.void(types.int64, types.int64, types.int64)
        with kept() as keep:
            compiled = njit(arguments, parallel=parallel, nogil=True, cache=keep)(function)
        return cast(Callable[[int, int, int], None], compiled)


_forked = False


def _mark_fork() -> None:
    """Remember, in a forked child, that OpenMP's threads stayed behind."""
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_mark_fork)


def thread_count() -> int:
    """Return how many threads `run` will use."""
    return 1 if _forked else int(numba.get_num_threads())


def run(work: Kernel, table: Integers, items: int, threads: int) -> None:
    """Do a kernel's items on some threads.

    Parameters
    ----------
    work : Kernel
        Takes (address of the table, number of this thread, number of threads).
    table : ndarray of int64
        Slots `COUNTER` and `ITEMS` are set here; not shared with another call in flight.
    items : int
        How many.
    threads : int
        At most `thread_count()`.
    """
    table[COUNTER] = 0
    table[ITEMS] = items
    threads = min(threads, items)
    if threads > 1:
        _loop(True)(work.address, table.ctypes.data, threads)
    elif items > 0:
        _loop(False)(work.address, table.ctypes.data, 1)
