"""Kernels behind C addresses, and the one parallel region that calls them.

A kernel here is a plain function of 64-bit integers with a C address, compiled when first asked
for, kept on disk and called through its address, so that all callers share one copy. `run` hands a
table of arguments to OpenMP's threads (or, where there is no OpenMP or a fork has left its threads
behind, to the pool of `threads`). Inside, threads draw item numbers from a shared counter until
none is left: which thread does an item never changes the item's arithmetic.
"""

import ctypes
import os
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import threads as pool
from ..cache import code_of
from ..machine_code import compiled, loaded
from ..translate import helper as helper
from .vector import fetch_add, indirect_call, load_int

Integers = npt.NDArray[np.int64]

(
    COUNTER,
    ITEMS,
    WORK,
    STARTED,
    THREADS,
    FIRST,
) = range(6)
"""Slots of a kernel's table: the shared counter, the number of items, the kernel's address, how
many threads have begun and how many are to; then the kernel's own."""

OPENMP = ("libgomp.so.1", "libomp.so.5", "libomp.dylib")
"""Libraries that offer GOMP_parallel, GCC's entry into a parallel region."""

_lock = threading.RLock()


class Kernel:
    """A function of 64-bit integers, compiled when its address is first asked for.

    Parameters
    ----------
    function : callable
        All arguments are int, nothing is returned; see `translate` for what it can use.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function
        self.__doc__ = function.__doc__
        self._address = 0

    @property
    def symbol(self) -> str:
        """The C function's name."""
        return f"{self.function.__module__.rpartition('.')[2]}_{self.function.__name__}"

    @property
    def address(self) -> int:
        """The C function's address."""
        if not self._address:
            with _lock:
                if not self._address:
                    code = code_of(self.symbol, lambda: compiled(self.function, self.symbol))
                    self._address = loaded(code, self.symbol)
        return self._address


def kernel(function: Callable[..., None]) -> Kernel:
    """Make a `Kernel` of a function; a decorator."""
    return Kernel(function)


call_kernel: Callable[..., Any] = indirect_call("call_kernel", 3)


@helper
def next_item(table: int) -> int:
    """Return the number of the next item that no thread has taken, or -1."""
    item = fetch_add(table + 8 * COUNTER, 1)
    return item if item < load_int(table, ITEMS) else -1


@kernel
def region(table: int) -> None:
    """Do what one thread has to: it takes the next number, and calls the kernel by it."""
    thread = fetch_add(table + 8 * STARTED, 1)
    call_kernel(load_int(table, WORK), table, thread, load_int(table, THREADS))


@cache
def _on_one() -> Callable[[int], None]:
    """Return what calls `region` on this thread; the GIL is released meanwhile."""
    return ctypes.CFUNCTYPE(None, ctypes.c_int64)(region.address)


@cache
def _on_all() -> Any:
    """Return OpenMP's call of a function (address, its argument, threads, flags), or None.

    Called directly: Numba's `prange` takes a second to compile, and Numba to run.
    """
    for name in OPENMP:
        try:
            call = ctypes.CDLL(name).GOMP_parallel
        except (OSError, AttributeError):
            continue
        call.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        call.restype = None
        return call
    return None


_forked = False


def _mark_fork() -> None:
    """Remember, in a forked child, that OpenMP's threads stayed behind."""
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_fork)


def thread_count() -> int:
    """Return how many threads `run` will use."""
    return pool.get_num_threads()


def run(work: Kernel, table: Integers, items: int, threads: int) -> None:
    """Do a kernel's items on some threads.

    Parameters
    ----------
    work : Kernel
        Takes (address of the table, number of this thread, number of threads).
    table : ndarray of int64
        Slots below `FIRST` are set here; not shared with another call in flight.
    items : int
        How many.
    threads : int
        At most `thread_count()`.
    """
    threads = min(threads, items)
    if items <= 0:
        return
    table[:FIRST] = 0, items, work.address, 0, threads
    address = table.ctypes.data
    if threads == 1:
        _on_one()(address)
        return
    together = None if _forked else _on_all()
    if together is not None:
        together(region.address, address, threads, 0)
    else:
        pool.run(lambda _: _on_one()(address), threads)
