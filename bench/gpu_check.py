"""Check and time npresnet on a CUDA device, beside PyTorch; at most nine minutes.

    PYTHONPATH=.:kernels python bench/gpu_check.py --out DIR

Each section is a process of its own with a share of the time, so one that fails, hangs or
crashes loses no other's results; what a section found before it was stopped is kept. Time that a
section leaves over goes to those after it. A table on the terminal, ``gpu_check.txt``,
``gpu_check.json`` and, with Matplotlib, ``gpu_check.png`` go to DIR, and every section's output
to a file beside them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gpu_report
import machine
import report

HERE = Path(__file__).parent
ROOT = HERE.parent
GRACE = 5.0
"""Seconds that a section gets to stop by itself before it is killed."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Section:
    """A process with its share of the time.

    Attributes
    ----------
    name : str
        What tables call it.
    command : tuple of str
        Arguments for Python; ``{results}``, ``{seconds}`` and ``{out}`` are filled in.
    seconds : float
        Its share.
    """

    name: str
    command: tuple[str, ...]
    seconds: float


def work(name: str, seconds: float, *options: str) -> Section:
    """Return a section that `gpu_work.py` does."""
    fixed = ("--results", "{results}", "--seconds", "{seconds}", "--out", "{out}")
    return Section(name, (str(HERE / "gpu_work.py"), name, *fixed, *options), seconds)


FIRST = ("test_device", "test_plans", "test_hopper")
"""Tests of what no other tests stand for, should the section's time be too short for all."""

TESTS = sorted(
    (ROOT / "tests" / "gpu").glob("test_*.py"), key=lambda path: (path.stem not in FIRST, path.name)
)

SECTIONS = (
    work("device", 10),
    work("compile", 40),
    work("contact", 15),
    Section(
        "tests",
        (
            *("-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider", "--tb=short"),
            *("-p", "gpu_pytest", "--results={results}", *map(str, TESTS)),
        ),
        95,
    ),
    work("peaks", 15),
    work("prepare", 15),
    work("npresnet inference", 50),
    work("torch inference", 40),
    work("npresnet training", 45),
    work("torch training", 35),
    work("layers", 25),
    work("torch.compile inference", 60),
    work("torch.compile training", 50),
    Section(
        "cpu scaling",
        (
            *(str(HERE / "scaling.py"), "--quick", "--sweep", "threads", "--out", "{out}"),
            *("--peers", "npresnet plan", "torch eager channels_last"),
        ),
        30,
    ),
)
"""In order of what would be missed most; their shares come to the limit."""

LIMIT = 525.0
"""Seconds in all; the report that follows takes a few more."""


@dataclass
class Outcome:
    """What a section came to.

    Attributes
    ----------
    status : str
        "done", "failed (...)", "stopped after ... s" or "not run: ...".
    seconds : float
        How long it took.
    records : list of dict
        What it found, in order.
    """

    name: str
    status: str
    seconds: float = 0.0
    records: list[Record] = field(default_factory=list)


def run_section(section: Section, out: Path, seconds: float) -> Outcome:
    """Run a section for at most ``seconds``; whatever happens, return what it found."""
    stem = section.name.replace(" ", "-")
    results, log = out / f"{stem}.results", out / f"{stem}.log"
    results.unlink(missing_ok=True)
    places = {"results": results, "seconds": f"{max(1.0, seconds - GRACE):.0f}", "out": out}
    command = [sys.executable, *(part.format(**places) for part in section.command)]
    folders = [ROOT, ROOT / "kernels", HERE, os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(map(str, folders))
    began = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that its children end with it
        )
        try:
            code = process.wait(seconds)
            status = "done" if code == 0 else f"failed ({_exit(code)}, see {log.name})"
        except subprocess.TimeoutExpired:
            status = f"stopped after {seconds:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return Outcome(section.name, status, time.monotonic() - began, read_records(results))


def _exit(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def read_records(path: Path) -> list[Record]:
    """Return what a section wrote: JSON lines, of which the last may be torn."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def run_all(
    sections: Sequence[Section],
    out: Path,
    limit: float,
    say: Any = print,
    keep: Callable[[list[Outcome]], object] = len,
) -> list[Outcome]:
    """Run sections in turn within ``limit`` seconds in all.

    A section may take its share and what those before it left over. Behind each, ``keep`` gets all
    that there are.
    """
    began, spent_share = time.monotonic(), 0.0
    outcomes = []
    for section in sections:
        left = limit - (time.monotonic() - began)
        saved = spent_share - (time.monotonic() - began)
        spent_share += section.seconds
        allowance = min(left, section.seconds + max(0.0, saved))
        if allowance < GRACE + 1:
            outcome = Outcome(section.name, "not run: the time is up")
        else:
            outcome = run_section(section, out, allowance)
        say(f"{section.name}: {outcome.status}, {outcome.seconds:.0f} s", flush=True)
        outcomes.append(outcome)
        keep(outcomes)
    return outcomes


def main(argv: Sequence[str] | None = None, sections: Sequence[Section] = SECTIONS) -> int:
    """Run the check; the status is 0 if every section was done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the results")
    parser.add_argument(
        "--limit",
        type=float,
        default=LIMIT,
        metavar="S",
        help=f"seconds in all (default {LIMIT:g})",
    )
    names = [section.name for section in sections]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    arguments = parser.parse_args(argv)
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    chosen = [s for s in sections if not arguments.only or s.name in arguments.only]
    here = machine.describe()

    def keep(outcomes: list[Outcome], draw: Any = None) -> str:
        """Write what is known: a check that is killed loses nothing."""
        text = gpu_report.text(outcomes)
        (out / "gpu_check.txt").write_text(text + "\n")
        content = {"machine": here, "sections": [vars(outcome) for outcome in outcomes]}
        report.save(out, "gpu_check", content, draw)
        return text

    outcomes = run_all(chosen, out, arguments.limit, keep=keep)
    print(keep(outcomes, lambda figure: gpu_report.draw(figure, outcomes)))
    return 0 if all(outcome.status == "done" for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
