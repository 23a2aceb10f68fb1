"""Cases of a target, each a number: the same number makes the same file."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import warnings
from pathlib import Path
from random import Random

from tests.fuzz.targets import TARGETS, Target

SPARE = 200_000_000  # bytes of address space that a reader may take beyond the file's size
SECONDS = 2.0  # of processor time


class Broken(Exception):
    """A case that a reader doesn't answer as it should."""


def make(name: str, target: Target, seeds: list[bytes], case: int) -> bytes:
    """Return the file of a case."""
    rng = Random(f"{name} {case}")
    return target.mutate(rng.choice(seeds), rng)


def read(target: Target, data: bytes, folder: Path) -> None:
    """Write a file and read it; raise Broken if anything but a documented error comes out."""
    path = folder / f"case{target.suffix}"
    path.write_bytes(data)
    try:
        with _limits(len(data)), warnings.catch_warnings():
            warnings.simplefilter("error")
            target.read(path)
    except target.errors as error:
        text = str(error)
        if str(path) not in text or "\n" in text or len(text) > 2000:
            raise Broken(f"an unclear message: {text!r:.500}") from error
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise Broken(f"{type(error).__name__}: {error!s:.500}") from error


def warm_up(target: Target, seeds: list[bytes], folder: Path) -> None:
    """Read the valid files: what a reader imports on first use takes memory too."""
    for data in seeds:
        path = folder / f"seed{target.suffix}"
        path.write_bytes(data)
        target.read(path)


def cases(name: str, first: int, seconds: float, folder: Path, mark: Path | None = None) -> int:
    """Read cases until the time is over; return their number.

    `mark` always holds the number of the case that is being read, for the case that the process
    doesn't survive it.
    """
    target = TARGETS[name]
    seeds = target.seeds()
    warm_up(target, seeds, folder)
    until = time.monotonic() + seconds
    handle = None if mark is None else os.open(mark, os.O_CREAT | os.O_WRONLY)
    case = first
    while time.monotonic() < until:
        if handle is not None:
            os.pwrite(handle, b"%20d" % case, 0)
        try:
            read(target, make(name, target, seeds, case), folder)
        except Broken as broken:
            raise Broken(f"case {case}: {broken}") from broken
        case += 1
    return case - first


@contextlib.contextmanager
def _limits(size: int):
    """Hold a reader to the memory and time that a hostile file may cost."""
    import resource

    def too_slow(*_):
        raise TimeoutError(f"over {SECONDS} s of processor time")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + size + SPARE
    handler = signal.signal(signal.SIGPROF, too_slow)
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGPROF, handler)
