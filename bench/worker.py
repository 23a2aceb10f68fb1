"""A peer's own process: builds one piece of work at a time, times rounds of it when told to.

`harness.Worker` starts it and talks to it in lines of JSON, one request a line, one reply each:

    {"do": "build", "build": "module:function", "options": {...}}   make ready, run it twice
    {"do": "round", "warmup": 1, "seconds": 1.0}                    time it
    {"do": "check"}                                                 its numerical errors

Between requests the process waits in a read: whatever it burns meanwhile is some pool's idle
threads spinning, and is reported as `idle_cpu`.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class Skip(Exception):
    """This peer can't do this work here; the message says why."""


@dataclass
class Work:
    """One piece of work, ready to be timed.

    Attributes
    ----------
    run : callable
        What is timed. Called again and again.
    check : callable, optional
        Returns figures that aren't times (numerical errors), by name.
    amounts : dict
        What one run does, by unit: ``{"images": 8, "flop": 5.9e10}``.
    note : str
        A remark for the table.
    """

    run: Callable[[], object]
    check: Callable[[], dict[str, float]] | None = None
    amounts: dict[str, float] = field(default_factory=dict)
    note: str = ""


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith("VmHWM"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    # of this process or of the one that started it; Linux keeps it over exec, hence /proc above
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class _Server:
    """Answers requests, with one piece of work in hand."""

    def __init__(self) -> None:
        self.work: Work | None = None

    def build(self, build: str, options: dict[str, Any]) -> dict[str, Any]:
        """Make the work that `module:function` returns, and run it twice."""
        self.work = None
        module, _, name = build.partition(":")
        begin = time.perf_counter()
        self.work = getattr(importlib.import_module(module), name)(**options)
        made = time.perf_counter()
        self.work.run()
        first = time.perf_counter()
        self.work.run()
        return {
            "build_seconds": made - begin,
            "first_seconds": first - made,
            "amounts": self.work.amounts,
            "note": self.work.note,
        }

    def round(self, warmup: int, seconds: float, least: int = 3, most: int = 1000) -> Any:
        """Return the times of at least `least` runs that together fill `seconds`."""
        run = self.work.run
        for _ in range(warmup):
            run()
        times: list[float] = []
        spent = 0.0
        cpu = time.process_time()
        while len(times) < most and (spent < seconds or len(times) < least):
            begin = time.perf_counter()
            run()
            times.append(time.perf_counter() - begin)
            spent += times[-1]
        return {"times": times, "cpu_share": (time.process_time() - cpu) / spent}

    def check(self) -> dict[str, Any]:
        """Return the work's figures that aren't times."""
        return {"figures": self.work.check() if self.work.check else {}}


def main() -> None:
    # Libraries print what they like: the pipe is kept apart, and their output goes to stderr.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    server = _Server()
    rested = time.process_time()
    for line in sys.stdin:
        idle_cpu = time.process_time() - rested
        request = json.loads(line)
        try:
            reply = getattr(server, request.pop("do"))(**request)
        except (Skip, ImportError) as reason:
            reply = {"skipped": str(reason) or type(reason).__name__}
        except Exception as error:
            traceback.print_exc()
            words = " ".join(str(error).split())[:300]
            reply = {"skipped": f"{type(error).__name__}: {words}"}
        reply.update(peak_memory=peak_memory(), idle_cpu=idle_cpu)
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
        rested = time.process_time()


if __name__ == "__main__":
    # the builders import `Skip` and `Work` from the module `worker`: this one, not a second copy
    sys.modules["worker"] = sys.modules["__main__"]
    main()
