"""A run of many kernels, noted once and repeated as a single call.

Setting up a kernel's table and waking the threads takes some 20 microseconds each time. Where a run
does the same again on the same memory, its tables stay as they are, and the threads go through all
of them in one parallel region, with a barrier behind each.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from .parallel import (
    COUNTER,
    FIRST,
    STARTED,
    THREADS,
    WORK,
    Notes,
    call_kernel,
    kernel,
    noted,
    openmp,
    run,
    start,
)
from .vector import indirect_call, load_int, store_int

CALLS, COUNT, BARRIER, SLOTS = range(FIRST, FIRST + 4)

call_barrier: Callable[[int], None] = indirect_call("call_barrier", 0)


@kernel
def repeat(table: int, thread: int, threads: int) -> None:
    """Do all calls, one after the other; their counters are 0 again afterwards."""
    barrier = load_int(table, BARRIER)
    for number in range(load_int(table, COUNT)):
        call = load_int(load_int(table, CALLS), number)
        if thread < load_int(call, THREADS):
            call_kernel(load_int(call, WORK), call, thread, load_int(call, THREADS))
        if barrier:
            call_barrier(barrier)
        if thread == 0:
            store_int(call, COUNTER, 0)


class Replay:
    """Repeats what was noted; a call does all of it, on the threads that it was noted with.

    Parameters
    ----------
    notes : Notes
    run : callable
        What was noted: it holds what the kernels work on, beside the arrays in the notes.
    """

    def __init__(self, notes: Notes, run: Callable[[], object]) -> None:
        self._tables = notes.tables
        self._held = notes.arrays, run
        for table in self._tables:
            table[COUNTER] = table[STARTED] = 0
        self._calls = np.array([table.ctypes.data for table in self._tables], dtype=np.int64)
        self._threads = max((int(table[THREADS]) for table in self._tables), default=0)

    def __call__(self) -> None:
        """Do it all again."""
        together = openmp()
        if self._threads > 1 and together is None:
            # nothing but OpenMP promises that all threads run at once
            for noted_table in self._tables:
                start(noted_table.copy())
            return
        table = np.zeros(SLOTS, dtype=np.int64)
        table[CALLS], table[COUNT] = self._calls.ctypes.data, len(self._calls)
        if self._threads > 1 and together is not None:
            table[BARRIER] = together.barrier
        run(repeat, table, self._threads, self._threads)


class Recorder:
    """Notes runs down."""

    def record(self, run: Callable[[], object]) -> Replay:
        """Do a run, and return what repeats it.

        Parameters
        ----------
        run : callable
            Calls kernels on memory that lives as long as it does, the same ones every time, and
            computes nothing by other means.

        Returns
        -------
        Replay
            Called without arguments.
        """
        with noted() as notes:
            run()
        return Replay(notes, run)

    def turn(self) -> AbstractContextManager[None]:
        """Return nothing to wait for: work is done when a call returns."""
        return nullcontext()
