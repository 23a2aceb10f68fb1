"""Fits the cost model of convolution algorithms to times that `layers.py` measured.

    python bench/layers.py --peers winograd4 winograd2 direct --passes forward
    python bench/calibrate.py bench/results/layers-2026-11-23T035225.json ... --out times.json

Takes the 3x3 convolutions of stride 1, where there is a choice, and the least of several times.
Costs come out in cycles of all cores at the FMA peak that the same run measured, by least squares
of the relative error; copy them to `COSTS` of `npresnet_kernels.cpu.fast.algorithm`. What none of
the layers does keeps its cost. The table shows each shape's choice, and by how much it is slower
than the best. `--out` writes the times alone, which a test holds the choice against.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import numpy as np
import report

from npresnet_kernels.cpu.fast.algorithm import (
    COSTS,
    FMAS_PER_CYCLE,
    Work,
    choose_algorithm,
    work_of,
)
from npresnet_kernels.cpu.fast.vector import LANES

ALGORITHMS = ("winograd4", "winograd2", "direct")
Time = dict[str, Any]
"""`shape` (as `choose_algorithm` takes it), `images`, and of each algorithm the `cycles`."""


def read(path: Path) -> list[Time]:
    """Return the times of a file that `layers.py` wrote."""
    times = []
    for entry in json.loads(path.read_text())["cases"]:
        conv = entry["case"]["conv"]
        if entry["case"]["direction"] != "forward" or (conv["kernel"], conv["stride"]) != (3, 1):
            continue
        rows = {row["label"]: row for row in entry["rows"] if "skipped" not in row}
        rate = rows["FMA peak"]["flop_per_second"] / (2 * LANES * FMAS_PER_CYCLE)
        names = ("channels_in", "channels_out", "kernel", "stride", "padding", "size", "size")
        cycles = {name: round(rows[name]["median_seconds"] * rate) for name in ALGORITHMS}
        shape = [conv[name] for name in names]
        if choose_algorithm(*shape) not in ALGORITHMS:
            continue  # a map so small that there is no choice
        times.append({"shape": shape, "images": entry["case"]["batch"], "cycles": cycles})
    return times


def merged(times: list[Time]) -> list[Time]:
    """Return each shape and number of images once, with the least times."""
    found: dict[str, Time] = {}
    for time in times:
        before = found.setdefault(json.dumps((time["shape"], time["images"])), time)["cycles"]
        before.update({name: min(before[name], n) for name, n in time["cycles"].items()})
    return list(found.values())


def fit(times: list[Time]) -> Work:
    """Return what each kind of work costs."""
    amounts, measured = [], []
    for time in times:
        for name, cycles in time["cycles"].items():
            amounts.append(astuple(work_of(name, *time["shape"], time["images"])))
            measured.append(cycles)
    relative = np.array(amounts) / np.array(measured)[:, None]
    done = relative.any(axis=0)
    costs = np.array(astuple(COSTS))
    costs[done], *_ = np.linalg.lstsq(relative[:, done], np.ones(len(measured)), rcond=None)
    return Work(*(float(cost) for cost in costs))


def loss(time: Time) -> float:
    """Return how many times as long as the best the chosen algorithm takes."""
    cycles: dict[str, int] = time["cycles"]
    return cycles[choose_algorithm(*time["shape"])] / min(cycles.values())


def main() -> None:
    """Read, fit, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+", help="JSON files that layers.py wrote")
    parser.add_argument("--out", type=Path, help="where to write the times alone")
    arguments = parser.parse_args()
    times = merged([time for path in arguments.results for time in read(path)])
    costs = fit(times)
    for field, cost in zip(fields(Work), astuple(costs), strict=True):
        print(f"{field.name:10s} {cost:.4g}")
    lines, errors = [], []
    for time in sorted(times, key=lambda time: (time["shape"], time["images"])):
        line = [f"{time['shape']}, {time['images']} images", choose_algorithm(*time["shape"])]
        for name in ALGORITHMS:
            cycles = time["cycles"][name]
            model = work_of(name, *time["shape"], time["images"]).cycles(costs)
            errors.append(math.log(model / cycles))
            line.append(f"{cycles / 1e3:.0f} ({model / cycles:.2f})")
        lines.append([*line, f"{loss(time):.2f}"])
    headers = ["", "chosen", *ALGORITHMS, "over the best"]
    print(report.table("thousand cycles, and the model's share of them", headers, lines))
    print(f"rms of the model's logarithmic error: {np.sqrt(np.mean(np.square(errors))):.2f}")
    if arguments.out:
        rows = ",\n".join(json.dumps(time) for time in times)
        arguments.out.write_text(f"[\n{rows}\n]\n")


if __name__ == "__main__":
    main()
