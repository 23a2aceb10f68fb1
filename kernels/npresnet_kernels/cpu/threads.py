"""How the cpu set shares work among threads: the one place that knows.

:func:`run` calls a task for each of a number of parts, on a pool of Python threads; the tasks call
compiled kernels and NumPy routines that release the GIL. Which thread does a part never changes
what the part computes, so results don't depend on the number of threads. Any thread may call
:func:`run` at any time; a forked child starts a pool of its own.

:func:`run_gemm` is the same for tasks that multiply matrices: OpenBLAS's own threads are told to
stand by meanwhile, since two pools on the same cores slow each other down.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

__all__ = ["get_num_threads", "run", "run_gemm", "set_num_threads", "spans"]

Task = Callable[[int], object]


class _Job:
    """Parts of a task, drawn by whichever threads come by until none is left."""

    def __init__(self, task: Task, parts: int) -> None:
        self.task = task
        self.parts = iter(range(parts))
        self.lock = threading.Lock()
        self.helpers = 0
        self.idle = threading.Event()
        self.idle.set()
        self.error: BaseException | None = None

    def work(self) -> None:
        """Do parts until none is left or one fails."""
        try:
            while self.error is None:
                with self.lock:
                    part = next(self.parts, None)
                if part is None:
                    return
                self.task(part)
        except BaseException as error:
            self.error = error

    def help(self) -> None:
        """Work beside the caller, who waits for those who came in before the parts ran out."""
        with self.lock:
            self.helpers += 1
            self.idle.clear()
        self.work()
        with self.lock:
            self.helpers -= 1
            if not self.helpers:
                self.idle.set()

    def finish(self) -> None:
        """Work to the end, wait for the helpers, and raise what a part raised."""
        self.work()
        self.idle.wait()
        if self.error is not None:
            raise self.error


class _Pool:
    """Threads that help with jobs; they are started when first needed and die with the process."""

    def __init__(self) -> None:
        self.jobs: SimpleQueue[_Job] = SimpleQueue()
        self.lock = threading.Lock()
        self.size = 0

    def ask(self, job: _Job, helpers: int) -> None:
        """Call up helpers for a job."""
        if self.size < helpers:
            with self.lock:
                while self.size < helpers:
                    self.size += 1
                    threading.Thread(
                        target=self.serve, name=f"npresnet-{self.size}", daemon=True
                    ).start()
        for _ in range(helpers):
            self.jobs.put(job)

    def serve(self) -> None:
        """Help with one job after another."""
        while True:
            self.jobs.get().help()


class _Blas:
    """OpenBLAS's number of threads, held at 1 while anyone needs it so.

    Where NumPy comes with another library the number can't be held, and matrix products are left
    to that library's own threads.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.holders = 0
        self.threads = 0
        self.get = self.set = None
        try:
            module = importlib.import_module("numpy._core._multiarray_umath")
            library = ctypes.CDLL(module.__file__)  # its symbols include its libraries'
        except (ImportError, OSError):
            return
        for name in ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads"):
            if hasattr(library, name.format("set")):
                self.get = getattr(library, name.format("get"))
                self.set = getattr(library, name.format("set"))
                return

    @property
    def can_hold(self) -> bool:
        return self.set is not None

    def hold(self) -> None:
        """Hold the number at 1 until :meth:`release`."""
        with self.lock:
            if not self.holders and self.get is not None and self.set is not None:
                self.threads = self.get()
                self.set(1)
            self.holders += 1

    def release(self) -> None:
        """Give the number back when the last holder leaves."""
        with self.lock:
            self.holders -= 1
            if not self.holders and self.set is not None:
                self.set(self.threads)


_pool = _Pool()
_blas = _Blas()


def _cores() -> int:
    """Return how many cores the process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


_threads = max(1, int(os.environ.get("NUMBA_NUM_THREADS") or _cores()))


def _after_fork() -> None:
    """Replace, in a forked child, the pool whose threads stayed with the parent."""
    global _pool, _blas
    held, before = _blas.holders, _blas.threads
    _pool, _blas = _Pool(), _Blas()
    if held and _blas.set is not None:
        _blas.set(before)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def get_num_threads() -> int:
    """Return how many threads the cpu set's kernels use."""
    return _threads


def set_num_threads(threads: int) -> None:
    """Set how many threads the cpu set's kernels use; results don't depend on it.

    Parameters
    ----------
    threads : int
        At least 1. The default is NUMBA_NUM_THREADS, or else the cores that the process may use.

    Raises
    ------
    ValueError
        If ``threads`` is below 1.
    """
    global _threads
    if threads < 1:
        raise ValueError(f"number of threads expected to be at least 1, got {threads}")
    _threads = threads


def run(task: Task, parts: int, threads: int | None = None) -> None:
    """Call ``task(0)`` to ``task(parts - 1)``, in any order, on several threads.

    Parameters
    ----------
    task : callable
        Takes the number of a part. Parts must write to separate places.
    parts : int
        How many parts; with one, or on one thread, the caller does them in order by itself.
    threads : int, optional
        At most so many threads (the parts' scratch memory may be limited).
    """
    helpers = min(parts, _threads if threads is None else min(threads, _threads)) - 1
    if helpers < 1:
        for part in range(parts):
            task(part)
        return
    job = _Job(task, parts)
    _pool.ask(job, helpers)
    job.finish()


def run_gemm(task: Task, parts: int, threads: int | None = None) -> None:
    """:func:`run` for tasks that call NumPy's matrix product."""
    if not _blas.can_hold:
        threads = 1
    _blas.hold()
    try:
        run(task, parts, threads)
    finally:
        _blas.release()


def spans(count: int, cost: int = 1, grain: int = 2**17) -> list[tuple[int, int]]:
    """Cut ``range(count)`` into parts worth a thread's while, whatever the number of threads.

    Parameters
    ----------
    count : int
        Rows of work.
    cost : int
        Elements in a row.
    grain : int
        Elements in a part, about.
    """
    step = max(1, grain // max(1, cost))
    return [(start, min(start + step, count)) for start in range(0, count, step)]
