"""Peers in processes of their own, timed in turn: the core of every script here.

    peers = [Peer("npresnet plan", "peers:npresnet_plan"), Peer("torch eager", "peers:torch_eager")]
    rows = compare(peers, {"model": "resnet34", "size": 224, "batch": 8}, settings)

Each peer is a process (`worker.py`) with the same number of threads. A round runs every peer once,
one at a time, and each round begins with the next peer in the list: drifts of the machine's clock
and of its neighbours' load meet all peers alike. A peer that waits is blocked in a read.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SETTLE_SECONDS = 0.1
"""Pause before a peer's turn: thread pools of the one before spin for some milliseconds more."""


@dataclass(frozen=True)
class Peer:
    """Something to be timed.

    Attributes
    ----------
    label : str
        Its name in tables.
    build : str
        ``module:function``; the function returns a `worker.Work`.
    options : dict
        Arguments of the function beside those of the case.
    env : dict
        Environment variables of its process.
    """

    label: str
    build: str
    options: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """How long to measure, and on how many threads."""

    threads: int = 1
    rounds: int = 7
    seconds: float = 1.5
    warmup: int = 1
    timeout: float = 900.0


@dataclass
class Row:
    """What was measured of one peer in one case.

    `skipped` holds the reason where nothing was. `rounds` holds the times of each round in
    seconds; `figures` what `Work.check` said; `cpu_shares` the CPU time used per second of each
    round (less than the number of threads: work that isn't parallel, or a machine that is busy
    with others); `idle_share` the CPU time burned per second of waiting for the next round.
    """

    label: str
    skipped: str = ""
    rounds: list[list[float]] = field(default_factory=list)
    cpu_shares: list[float] = field(default_factory=list)
    amounts: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    note: str = ""
    build_seconds: float = 0.0
    first_seconds: float = 0.0
    peak_memory: int = 0
    idle_share: float = 0.0

    @property
    def median(self) -> float:
        """Median over the rounds of each round's median time, in seconds.

        Rounds weigh alike, though one that was disturbed has fewer runs.
        """
        return statistics.median(statistics.median(times) for times in self.rounds)

    @property
    def spread(self) -> float:
        """Distance of the quartiles, as a share of the median."""
        times = sorted(time for times in self.rounds for time in times)
        if len(times) < 2:
            return 0.0
        low, _, high = statistics.quantiles(times, n=4, method="inclusive")
        return (high - low) / self.median

    @property
    def cpu_share(self) -> float:
        """Median number of CPUs that were at work."""
        return statistics.median(self.cpu_shares) if self.cpu_shares else 0.0

    def rate(self, unit: str) -> float | None:
        """Return how many of a unit are done in a second."""
        return self.amounts[unit] / self.median if unit in self.amounts else None

    def as_dict(self) -> dict[str, Any]:
        """Return the row for a JSON file."""
        if self.skipped:
            return {"label": self.label, "skipped": self.skipped}
        return {
            "label": self.label,
            "median_seconds": self.median,
            "spread": self.spread,
            **{f"{unit}_per_second": self.rate(unit) for unit in self.amounts},
            "peak_memory": self.peak_memory,
            "figures": self.figures,
            "note": self.note,
            "build_seconds": self.build_seconds,
            "first_seconds": self.first_seconds,
            "cpu_share": self.cpu_share,
            "idle_share": self.idle_share,
            "rounds": self.rounds,
        }


def ratio(slower: Row, faster: Row) -> tuple[float, float, float]:
    """Return by how much one row's median exceeds the other's, and the extremes over rounds."""
    by_round = [
        statistics.median(a) / statistics.median(b)
        for a, b in zip(slower.rounds, faster.rounds, strict=True)
    ]
    return slower.median / faster.median, min(by_round), max(by_round)


def best(rows: Iterable[Row]) -> Row | None:
    """Return the fastest of the rows that were measured."""
    return min((row for row in rows if not row.skipped), key=lambda row: row.median, default=None)


class WorkerError(Exception):
    """A worker's process died or gave no answer."""


class Worker:
    """The process of one peer."""

    def __init__(self, peer: Peer, settings: Settings) -> None:
        self.peer = peer
        self.timeout = settings.timeout
        self.idle_cpu = 0.0
        self.waited = 0.0
        self._rested = time.monotonic()
        # read back if the process dies
        self._log = tempfile.TemporaryFile(mode="w+b")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **thread_variables(settings.threads), **peer.env},
        )
        self._buffer = b""

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for the reply.

        Raises
        ------
        WorkerError
            The process died or gave no answer in time; it is gone then.
        """
        waited = time.monotonic() - self._rested
        request = json.dumps({"do": do, **arguments}) + "\n"
        try:
            self.process.stdin.write(request.encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(self._last_words()) from None
        reply: dict[str, Any] = json.loads(self._read_line())
        self._rested = time.monotonic()
        if do == "round":
            self.waited += waited
            self.idle_cpu += reply["idle_cpu"]
        return reply

    def _read_line(self) -> bytes:
        pipe = self.process.stdout
        deadline = time.monotonic() + self.timeout
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.process.kill()
                self.close()
                raise WorkerError(f"no answer within {self.timeout:.0f} s")
            data = os.read(pipe.fileno(), 65536)
            if not data:
                raise WorkerError(self._last_words())
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _last_words(self) -> str:
        code = self.process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines() or [""]
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return f"its process ended ({how}) {lines[-1][:200]}".strip()

    def close(self) -> None:
        """End the process."""
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        try:
            self.process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()


def thread_variables(threads: int) -> dict[str, str]:
    """Return the environment that gives every library the same number of threads.

    OpenMP keeps its default way of waiting: its threads spin for some milliseconds after a
    parallel region, which serves the peer inside its own round, and sleep long before the next
    peer's turn. `Row.idle_share` shows whether they did.
    """
    names = ("OMP", "NUMBA", "OPENBLAS", "MKL")
    return {
        **{f"{name}_NUM_THREADS": str(threads) for name in names},
        "NPRESNET_BENCH_THREADS": str(threads),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }


def available_threads() -> int:
    """Return the number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Progress:
    """One line on stderr that says what is being done; on a terminal it is rewritten in place."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.tty = sys.stderr.isatty()
        self.begin = time.monotonic()

    def __call__(self, text: str, passing: bool = False) -> None:
        """Show `text`; a passing one only where it can be rewritten."""
        if passing and not self.tty:
            return
        line = f"[{time.monotonic() - self.begin:5.0f} s] {self.title}: {text}"
        print(
            f"\r\033[K{line[:110]}" if self.tty else line,
            end="" if self.tty else "\n",
            file=sys.stderr,
            flush=True,
        )

    def done(self) -> None:
        """Clear the line."""
        if self.tty:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


class Team:
    """The workers of some peers; they live as long as the `with` block.

    Cases that are timed in one block share processes, so `Row.peak_memory` is then the largest
    over the cases so far.
    """

    def __init__(self, peers: Sequence[Peer], settings: Settings, title: str) -> None:
        self.peers = peers
        self.settings = settings
        self.progress = Progress(title)
        self._workers: dict[str, Worker] = {}

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.close()
        self.progress.done()

    def _ask(self, row: Row, peer: Peer, do: str, **arguments: Any) -> dict[str, Any]:
        """Ask a peer's worker; on failure note the reason in its row and return nothing."""
        if peer.label not in self._workers:
            self._workers[peer.label] = Worker(peer, self.settings)
        worker = self._workers[peer.label]
        reply: dict[str, Any]
        try:
            reply = worker.ask(do, **arguments)
        except WorkerError as error:
            self._workers.pop(peer.label).close()
            reply = {"skipped": str(error)}
        if "skipped" in reply:
            row.skipped = reply["skipped"]
            return {}
        row.peak_memory = reply["peak_memory"]
        return reply

    def measure(self, case: dict[str, Any]) -> list[Row]:
        """Build the case in every peer, check it, time it in rounds; a row a peer."""
        rows = {peer.label: Row(peer.label) for peer in self.peers}
        for peer in self.peers:
            row = rows[peer.label]
            self.progress(f"{peer.label}: making ready")
            options = {**peer.options, **case}
            reply = self._ask(row, peer, "build", build=peer.build, options=options)
            for name in ("amounts", "note", "build_seconds", "first_seconds"):
                setattr(row, name, reply.get(name, getattr(row, name)))
            if not row.skipped:
                row.figures = self._ask(row, peer, "check").get("figures", {})
            if row.skipped:
                self.progress(f"{peer.label}: skipped: {row.skipped}")
        for worker in self._workers.values():
            worker.idle_cpu = worker.waited = 0.0
        for turn in range(self.settings.rounds):
            ready = [peer for peer in self.peers if not rows[peer.label].skipped]
            shift = turn % max(len(ready), 1)
            for peer in ready[shift:] + ready[:shift]:
                row = rows[peer.label]
                self.progress(f"round {turn + 1}/{self.settings.rounds}, {peer.label}", True)
                time.sleep(SETTLE_SECONDS)
                reply = self._ask(
                    row, peer, "round", warmup=self.settings.warmup, seconds=self.settings.seconds
                )
                if reply:
                    row.rounds.append(reply["times"])
                    row.cpu_shares.append(reply["cpu_share"])
        for label, worker in self._workers.items():
            rows[label].idle_share = worker.idle_cpu / worker.waited if worker.waited else 0.0
        self.progress(
            ", ".join(
                f"{row.label} {row.median * 1e3:.4g} ms" for row in rows.values() if not row.skipped
            )
        )
        return list(rows.values())


def compare(
    peers: Sequence[Peer], case: dict[str, Any], settings: Settings, title: str
) -> list[Row]:
    """Time one case in fresh processes, so that peak memory is the case's own."""
    with Team(peers, settings, title) as team:
        return team.measure(case)


def call(build: str, options: dict[str, Any], settings: Settings, label: str) -> str:
    """Run a builder once in a process of its own; return why it failed, or an empty string."""
    worker = Worker(Peer(label, build), settings)
    try:
        return str(worker.ask("build", build=build, options=options).get("skipped", ""))
    except WorkerError as error:
        return str(error)
    finally:
        worker.close()
