"""How long a fresh process takes: `import npresnet`, and the first logits of a ResNet-34.

"warm": compiled code is on disk from an earlier process. "empty": NUMBA_CACHE_DIR and
XDG_CACHE_HOME (and inductor's cache) point to a new folder, as on a machine that never ran it.
Python's own bytecode is on disk either way, as pip leaves it there.
Stages: the interpreter's start, the import, making the network (random values, weights from a
file, compiling), the first logits. Files of Python packages are in the page cache either way.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import harness
import report
import session
from session import Session

STAGES = ("interpreter", "import", "network", "first logits")
STARTERS = {
    "npresnet plan": ("npresnet", "npresnet_plan"),
    "npresnet eager": ("npresnet", "npresnet_eager"),
    "torch eager": ("torch", "torch_eager"),
    "torch.compile": ("torch", "torch_compile"),
    "ONNX Runtime": ("onnxruntime", "onnxruntime"),
    "OpenVINO f32": ("openvino", "openvino"),
}
CACHED = ("npresnet plan", "npresnet eager", "torch.compile")
"""Those who keep compiled code on disk."""
BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}
"""Lets Python keep bytecode, whatever it was told."""


def import_times(module: str, times: int) -> tuple[float, list[float]]:
    """Return the median seconds of an import in fresh interpreters, and every value.

    One more interpreter goes ahead, for the file system's cache. No values if it can't be imported.
    """
    code = (
        "import time; begin = time.perf_counter()\n"
        f"import {module}\n"
        "print(time.perf_counter() - begin)"
    )
    values = []
    for _ in range(times + 1):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={**os.environ, **BYTECODE},
        )
        if done.returncode:
            return float("nan"), []
        values.append(float(done.stdout.split()[-1]))
    return statistics.median(values[1:]), values[1:]


@contextmanager
def caches(folder: Path | None = None) -> Iterator[dict[str, str]]:
    """Yield the variables that send every compile cache to a folder, or to a new one."""
    with tempfile.TemporaryDirectory(prefix="npresnet-cache-") as new:
        base = folder or Path(new)
        yield {
            **BYTECODE,
            "NUMBA_CACHE_DIR": str(base / "numba"),
            "XDG_CACHE_HOME": str(base / "cache"),
            "TORCHINDUCTOR_CACHE_DIR": str(base / "inductor"),
        }


def start(starter: str, case: dict[str, Any], threads: int, env: dict[str, str]) -> dict[str, Any]:
    """Start a process and return the seconds of its stages, or why there are none."""
    command = [sys.executable, str(harness.HERE / "first_logits.py"), *STARTERS[starter]]
    begin = time.time()
    done = subprocess.run(
        [*command, json.dumps(case)],
        capture_output=True,
        text=True,
        env={**os.environ, **harness.thread_variables(threads), **env},
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {"skipped": reason.removeprefix("skipped: ")}
    marks = json.loads(done.stdout.splitlines()[-1])
    stages, before = {}, begin
    for name in STAGES:
        stages[name] = marks[name] - before
        before = marks[name]
    return {
        "stages": stages,
        "total": marks["first logits"] - begin,
        "again": marks["third"] - marks["second"],
    }


def main() -> None:
    parser = session.parser(__doc__)
    parser.add_argument("--model", default="resnet34", help="default: resnet34")
    parser.add_argument("--size", type=int, default=224, help="of the square images (default: 224)")
    session.peer_option(parser, STARTERS)
    arguments = parser.parse_args()
    if arguments.quick and arguments.peers == list(STARTERS):
        arguments.peers.remove("torch.compile")  # minutes, with an empty cache
    rounds = arguments.rounds or (2 if arguments.quick else 7)
    with Session("startup", arguments) as run:
        imports = show_imports(3 if arguments.quick else 9)
        median = statistics.median(imports["npresnet"])
        run.find(report.target("import npresnet, seconds", median, 0.25, 0.1, smaller=True))
        case = {
            "model": arguments.model,
            "size": arguments.size,
            "batch": 1,
            "small_input": False,
            "classes": 1000,
        }
        case = run.prepare(case, onnx={})
        results = first_logits(run, case, rounds)
        for mode, least, aim in (("warm", 1.5, 0.8), ("empty", 20, 8)):
            found = results.get(f"npresnet plan, {mode} cache")
            if found:
                what = f"process start to first logits of the plan, {mode} cache, seconds"
                value = statistics.median(entry["total"] for entry in found)
                run.find(report.target(what, value, least, aim, smaller=True))
        run.save(
            lambda figure: draw(figure, results),
            size=(10, 0.6 + 0.4 * max(3, len(results))),
            import_seconds=imports,
            first_logits=results,
        )


def show_imports(times: int) -> dict[str, list[float]]:
    """Measure and print how long imports take."""
    imports = {
        module: import_times(module, times)[1]
        for module in ("npresnet", "numpy", "torch", "onnxruntime", "openvino")
    }
    lines = [
        [
            f"import {module}",
            report.number(statistics.median(values)),
            report.number(min(values)),
            report.number(max(values)),
        ]
        if values
        else [f"import {module}", "can't be imported", "", ""]
        for module, values in imports.items()
    ]
    print(
        report.table(
            "imports in fresh interpreters, seconds", ["", "median", "least", "most"], lines
        ),
        flush=True,
    )
    return imports


def first_logits(run: Session, case: dict[str, Any], rounds: int) -> dict[str, list[Any]]:
    """Start every peer in turn, `rounds` times with a warm cache and fewer with an empty one."""
    progress = harness.Progress("startup")
    results: dict[str, list[Any]] = {}
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="npresnet-warm-") as warm:
        plans = [(name, "warm", Path(warm)) for name in run.arguments.peers]
        plans += [(name, "empty", None) for name in run.arguments.peers if name in CACHED]
        for turn in range(rounds + 1):  # the first fills the warm caches
            for name, mode, folder in plans:
                if name in skipped or (mode == "empty" and not 1 <= turn <= (rounds + 1) // 2):
                    continue
                label = f"{name}, {mode} cache" if name in CACHED else name
                progress(f"{turn}/{rounds}, {label}")
                with caches(folder) as env:
                    entry = start(name, case, run.settings.threads, env)
                if "skipped" in entry:
                    skipped[name] = entry["skipped"]
                elif turn:
                    results.setdefault(label, []).append(entry)
    progress.done()
    lines = []
    for label, entries in results.items():
        stages = [statistics.median(entry["stages"][name] for entry in entries) for name in STAGES]
        totals = [entry["total"] for entry in entries]
        again = statistics.median(entry["again"] for entry in entries)
        lines.append(
            [
                label,
                *(report.number(value) for value in stages),
                report.number(statistics.median(totals)),
                f"{min(totals):.2f}-{max(totals):.2f}",
                report.number(again),
            ]
        )
    sides = f"{case['size']}x{case['size']}"
    title = f"{case['model']}, batch 1, {sides}: process start to first logits, seconds"
    print(report.table(title, ["", *STAGES, "total", "range", "a run later"], lines))
    for name, reason in skipped.items():
        print(f"{name}: skipped: {reason}")
    return results


def draw(figure: Any, results: dict[str, list[Any]]) -> None:
    """Draw a bar of stages for each way to start."""
    axis = figure.subplots()
    left = [0.0] * len(results)
    for stage in STAGES:
        widths = [
            statistics.median(entry["stages"][stage] for entry in entries)
            for entries in results.values()
        ]
        axis.barh(range(len(results)), widths, left=left, label=stage)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axis.set_yticks(range(len(results)), list(results))
    axis.invert_yaxis()
    axis.set_xlabel("seconds from process start")
    figure.legend(loc="outside upper right", ncols=len(STAGES), fontsize=8)


if __name__ == "__main__":
    main()
