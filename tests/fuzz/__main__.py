"""The command: see the package."""

from __future__ import annotations

import argparse
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

import tests.fuzz
from tests.fuzz import run
from tests.fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=tests.fuzz.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", choices=TARGETS, help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=60, help="how long (default: 60)")
    parser.add_argument("--first", type=int, help="number of the first case (default: any)")
    parser.add_argument("--case", type=int, help="read this case only, and keep its file")
    parser.add_argument("--list", action="store_true", help="print the names")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.list:
        print("\n".join(TARGETS))
        return 0
    if given.name is None:
        parser.error("name a reader, or --list")
    if given.case is not None:
        return again(given.name, given.case)
    if given.worker is not None:
        return work(given.name, given.first, given.seconds, given.worker)
    first = secrets.randbits(40) if given.first is None else given.first
    return supervise(given.name, first, given.seconds)


def supervise(name: str, first: int, seconds: float) -> int:
    """Read in a process of its own, so that one that dies or hangs is reported too."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.fuzz", name, "--worker", folder]
        try:
            done = subprocess.run(
                [*command, "--first", str(first), "--seconds", str(seconds)],
                timeout=seconds + 120,
            )
            code = done.returncode
        except subprocess.TimeoutExpired:
            code = None
        if code in (0, 1):
            return code
        mark = Path(folder, "mark")
        case = int(mark.read_text()) if mark.exists() else first
        how = "hangs" if code is None else f"ends the process ({code})"
        return report(name, f"case {case}: {how}")


def work(name: str, first: int, seconds: float, folder: Path) -> int:
    try:
        count = run.cases(name, first, seconds, folder, folder / "mark")
    except run.Broken as broken:
        return report(name, str(broken))
    print(f"{name}: {count:,} cases from {first} on, nothing found", flush=True)
    return 0


def report(name: str, what: str) -> int:
    case = what.split()[1].rstrip(":")
    print(f"{name}: {what}\nagain: python -m tests.fuzz {name} --case {case}", flush=True)
    return 1


def again(name: str, case: int) -> int:
    """Read the file of one case, and leave it in the working directory."""
    target = TARGETS[name]
    data = run.make(name, target, target.seeds(), case)
    kept = Path(f"{name}-{case}{target.suffix}")
    kept.write_bytes(data)
    print(f"{kept}: {len(data):,} bytes", flush=True)
    target.read(kept)  # a traceback shows more than a report
    print("read without an error")
    return 0


if __name__ == "__main__":
    sys.exit(main())
