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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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
"""Libraries that offer GCC's entry into a parallel region, and its barrier there."""

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


@dataclass(frozen=True)
class _OpenMP:
    """What is used of OpenMP.

    Called directly: Numba's `prange` takes a second to compile, and Numba to run.

    Attributes
    ----------
    parallel : callable
        Calls a function (its address, its argument, threads, flags) on all threads.
    barrier : int
        The address of what makes threads in there wait for each other.
    """

    parallel: Any
    barrier: int


@cache
def _loaded_openmp() -> _OpenMP | None:
    """Return the first of the libraries that is there."""
    for name in OPENMP:
        try:
            library = ctypes.CDLL(name)
            call, barrier = library.GOMP_parallel, library.GOMP_barrier
        except (OSError, AttributeError):
            continue
        call.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        call.restype = None
        return _OpenMP(call, ctypes.cast(barrier, ctypes.c_void_p).value or 0)
    return None


_forked = False


def _mark_fork() -> None:
    """Remember, in a forked child, that OpenMP's threads stayed behind."""
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_fork)


def openmp() -> _OpenMP | None:
    """Return OpenMP, if it is there and no fork has left its threads behind."""
    return None if _forked else _loaded_openmp()


def thread_count() -> int:
    """Return how many threads `run` will use."""
    return pool.get_num_threads()


@dataclass
class Notes:
    """What calls of `run` were given.

    Attributes
    ----------
    tables : list of ndarray
        One for each call, with everything set.
    arrays : list
        What lies behind the addresses in them.
    """

    tables: list[Integers] = field(default_factory=list)
    arrays: list[object] = field(default_factory=list)


class _Noting(threading.local):
    """Where this thread's calls are noted."""

    notes: Notes | None = None


_noting = _Noting()


@contextmanager
def noted() -> Iterator[Notes]:
    """Note this thread's calls of `run` in a ``with`` block; they are done as ever."""
    notes = _noting.notes = Notes()
    try:
        yield notes
    finally:
        _noting.notes = None


def hold(array: object) -> None:
    """Note an array whose address goes into a table."""
    if _noting.notes is not None:
        _noting.notes.arrays.append(array)


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
    if _noting.notes is not None:
        _noting.notes.tables.append(table.copy())
    start(table)


def start(table: Integers) -> None:
    """Do what a table says whose slots are all set."""
    address, threads = table.ctypes.data, int(table[THREADS])
    if threads == 1:
        _on_one()(address)
        return
    together = openmp()
    if together is not None:
        together.parallel(region.address, address, threads, 0)
    else:
        pool.run(lambda _: _on_one()(address), threads)
