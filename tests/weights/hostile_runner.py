"""Reads the weight files of a folder under limits, and prints what became of each.

    python -m tests.weights.hostile_runner FOLDER GOOD...

Each is converted, as ``npresnet convert`` does. A process of its own, because the limits can't be
had in pytest's: 200 MB of address space beyond what the process and the file take, and two seconds
of processor time. An audit hook notes whatever would run or write. The good files are converted
first, so that what the library imports on first use isn't noted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
from pathlib import Path

from npresnet.cli import convert

SPARE = 200_000_000  # bytes
SECONDS = 2.0

# prefixes of audit events that only code run from a file, or a write, would raise
_FORBIDDEN = (
    "exec", "import", "os.", "subprocess.", "pickle.", "marshal.", "socket.", "ctypes.", "shutil.",
    "code.", "sys._", "urllib.", "tempfile.",
)  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

noted: list[str] = []
noting = False


def note(event, arguments):
    if not noting:
        return
    wrote = event == "open" and arguments[2] & _WRITES
    if wrote or event.startswith(_FORBIDDEN):
        noted.append(f"{event} {arguments}"[:200])


def too_slow(*_):
    raise TimeoutError(f"over {SECONDS} s of processor time")


def memory():
    """Bytes of address space of this process."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def outcome(path, target):
    """Convert a file; return the kind of error and its message, and what was noted."""
    global noting
    noted.clear()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (memory() + path.stat().st_size + SPARE, limits[1]))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    noting = True
    try:
        convert.run(argparse.Namespace(source=str(path), target=str(target)))
        result = ("none", "")
    except BaseException as error:  # whatever it is, the test is to see it
        result = (type(error).__name__, str(error))
    finally:
        noting = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
    return {"name": path.name, "error": result[0], "message": result[1], "noted": list(noted)}


def main():
    folder, *good = map(Path, sys.argv[1:])
    signal.signal(signal.SIGPROF, too_slow)
    target = Path("converted.safetensors")  # in the working directory, which the test looks at
    for path in good:
        convert.run(argparse.Namespace(source=str(path), target=str(target)))
        target.unlink()
    sys.addaudithook(note)
    for path in sorted(folder.iterdir()):
        print(json.dumps(outcome(path, target)))


if __name__ == "__main__":
    main()
