"""What the scripts have in common: options, shared assets, the order of a run, its results."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import harness
import machine
import report
from harness import Peer, Row, Settings

PROBES = {
    "FMA peak": "probe:fma_peak",
    "sgemm": "probe:sgemm",
    "copy": "probe:copy",
}


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of every script."""
    first = (description or "").strip()
    made = argparse.ArgumentParser(
        description=first, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--quick", action="store_true", help="a few short rounds: to see that it runs")
    add(
        "--out",
        type=Path,
        default=harness.HERE / "results",
        metavar="FOLDER",
        help="where JSON and PNG go (default: bench/results)",
    )
    add(
        "--threads",
        type=int,
        default=harness.available_threads(),
        help="threads of every peer (default: the CPUs this process may use, %(default)s)",
    )
    add("--rounds", type=int, help="rounds over all peers (default: 7, quick: 2)")
    add("--seconds", type=float, help="timed seconds a peer and round (default: each script's own)")
    return made


def peer_option(made: argparse.ArgumentParser, known: Mapping[str, Any]) -> None:
    """Add the option that chooses peers."""
    made.add_argument(
        "--peers",
        nargs="+",
        metavar="NAME",
        choices=list(known),
        default=list(known),
        help="which to time (default: all): " + ", ".join(repr(name) for name in known),
    )


class Session:
    """One run of a script, from its options to its files.

    Parameters
    ----------
    script : str
        Its name, which begins the names of its results.
    arguments : argparse.Namespace
        From `parser`.
    seconds : (float, float)
        A peer's timed seconds in a round: in full, and with ``--quick``.
    """

    def __init__(
        self, script: str, arguments: argparse.Namespace, seconds: tuple[float, float] = (1.5, 0.3)
    ) -> None:
        self.script = script
        self.arguments = arguments
        quick = arguments.quick
        self.settings = Settings(
            threads=arguments.threads,
            rounds=arguments.rounds or (2 if quick else 7),
            seconds=arguments.seconds or seconds[quick],
        )
        self.machine = machine.describe()
        self.where = machine.sentence(self.machine, arguments.threads)
        self.cases: list[dict[str, Any]] = []
        self.shown: list[tuple[str, list[Row]]] = []
        self.findings: list[str] = []
        self._stack = ExitStack()
        self._prepared: dict[str, str] = {}

    def __enter__(self) -> Session:
        print(self.where)
        if self.machine["load_before"] > 0.5:
            load = self.machine["load_before"]
            print(f"this machine is busy (load {load:.1f}): what follows only shows that it runs")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def peers(self, known: Mapping[str, tuple[str, dict[str, Any]]]) -> list[Peer]:
        """Return the chosen peers of a table like `peers.INFERENCE`."""
        chosen = getattr(self.arguments, "peers", list(known))
        return [Peer(name, *known[name]) for name in known if name in chosen]

    def probes(self, names: Sequence[str] = tuple(PROBES)) -> list[Peer]:
        """Return the probes of the machine, as peers."""
        return [Peer(name, PROBES[name]) for name in names]

    def prepare(self, case: Mapping[str, Any], **jobs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the case with the folder of what its peers share, filled as far as it isn't.

        Parameters
        ----------
        case : mapping
        **jobs
            Functions of the module `prepare`, with what they take beside the case. One that fails
            is reported; peers that need its file say so themselves.
        """
        folder = self._folder(case)
        full = {**case, "assets": folder}
        progress = harness.Progress(self.script)
        for job, options in {"weights": {}, **jobs}.items():
            # weights and the ONNX file don't depend on the batch and, once made, on the size
            parts = [case["model"], case["small_input"], case["classes"]]
            parts += [case["size"]] if job in ("truth", "losses") else []
            parts += [case["batch"]] if job == "losses" else []
            key = f"{job}-{parts}"
            if key in self._prepared:
                continue
            progress(f"preparing the {job}")
            reason = harness.call(f"prepare:{job}", {**full, **options}, self.settings, job)
            self._prepared[key] = reason
            if reason:
                print(f"the {job} could not be prepared: {reason}")
        progress.done()
        return full

    def _folder(self, case: Mapping[str, Any]) -> str:
        key = f"folder-{case['model']}-{case['small_input']}-{case['classes']}"
        if key not in self._prepared:
            folder = tempfile.mkdtemp(prefix="npresnet-bench-")
            self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
            self._prepared[key] = folder
        return self._prepared[key]

    def compare(
        self, title: str, peers: Sequence[Peer], case: dict[str, Any], subject: str
    ) -> list[Row]:
        """Time a case, print its table and keep it for the files."""
        rows = harness.compare(peers, case, self.settings, f"{self.script}, {title}")
        print(report.comparison(title, rows, subject), flush=True)
        self.keep(title, case, rows)
        return rows

    def keep(self, title: str, case: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Keep a case's rows for the files."""
        described = {key: value for key, value in case.items() if key != "assets"}
        self.cases.append(
            {"title": title, "case": described, "rows": [row.as_dict() for row in rows]}
        )
        self.shown.append((title, list(rows)))

    def find(self, sentence: str) -> None:
        """Keep a finding; all are printed at the end and go into the JSON file."""
        self.findings.append(sentence)

    def save(
        self,
        draw: Callable[[Any], None] | None = None,
        size: tuple[float, float] = (12, 4),
        **more: Any,
    ) -> None:
        """Print the findings and write the files."""
        if self.findings:
            print("\n" + "\n".join(self.findings))
        content = {
            "script": self.script,
            "quick": self.arguments.quick,
            "machine": self.machine,
            "settings": vars(self.settings),
            "findings": self.findings,
            "cases": self.cases,
            **more,
        }
        quick = "-quick" if self.arguments.quick else ""
        name = f"{self.script}{quick}-{self.machine['date'][:19].replace(':', '')}"
        for path in report.save(self.arguments.out, name, content, draw, size, self.where):
            print(f"written: {path}")
