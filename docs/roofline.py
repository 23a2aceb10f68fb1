"""Draws where a network's time goes, against what the machine allows, from `bench/layers.py`.

    python bench/layers.py --peers auto
    python docs/roofline.py bench/results/layers-2026-11-23T0200.json

Left, the roofline (Williams, Waterman and Patterson 2009): each distinct convolution at its
arithmetic intensity, the operations of direct convolution over the bytes of input, weights and
output, each moved once; the roof is the machine's FMA peak or its memory's rate, both measured in
the same run. Winograd's F(4x4, 3x3) needs a quarter of the multiplications: its roof is four times
as high. Right, milliseconds a pass of the whole network, and what of them the FMA peak explains.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PICTURE = Path(__file__).with_name("roofline.png")
PASSES = {"forward": "forward", "grad_input": "data gradient", "grad_weight": "weight gradient"}
WINOGRAD = {"winograd4": 4.0, "winograd2": 2.25}
"""By what each form divides the multiplications of a 3x3 convolution (Lavin and Gray 2015)."""
GROUPS = {"conv1": "stem", "layer1": "layer1", "layer2": "layer2", "layer3": "layer3"}


def read(path: Path) -> list[dict[str, Any]]:
    """Return a point for each layer and pass of a file that `bench/layers.py` wrote."""
    points = []
    for entry in json.loads(path.read_text())["cases"]:
        if (entry["case"]["conv"]["name"], entry["case"]["direction"]) == ("conv1", "grad_input"):
            continue  # nobody needs the images' gradient
        conv, batch = entry["case"]["conv"], entry["case"]["batch"]
        rows = {row["label"]: row for row in entry["rows"] if "skipped" not in row}
        out = (conv["size"] + 2 * conv["padding"] - conv["kernel"]) // conv["stride"] + 1
        floats = (
            batch * conv["size"] ** 2 * conv["channels_in"]
            + batch * out**2 * conv["channels_out"]
            + conv["kernel"] ** 2 * conv["channels_in"] * conv["channels_out"]
        )
        auto, peak = rows["auto"], rows["FMA peak"]["flop_per_second"]
        flop = auto["flop_per_second"] * auto["median_seconds"]
        points.append(
            {
                "direction": entry["case"]["direction"],
                "name": conv["name"],
                "group": GROUPS.get(conv["name"].split(".")[0], "layer4"),
                "count": entry["case"]["count"],
                "intensity": flop / (4 * floats),
                "rate": auto["flop_per_second"],
                "seconds": auto["median_seconds"],
                # the multiplications that its algorithm can't do without, at the peak
                "floor": flop / WINOGRAD.get(auto["note"], 1.0) / peak,
                "winograd": auto["note"] in WINOGRAD,
                "peak": peak,
                "memory": rows["copy"]["bytes_per_second"],
            }
        )
    return points


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """Draw the roofline and the time beside each other."""
    from matplotlib.figure import Figure

    ink, grey, light = "#222222", "#777777", "#e4e4e4"
    colours = {"forward": "#1f6fb4", "grad_input": "#c4661f", "grad_weight": "#4c8c4a"}
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    roof, bars = figure.subplots(1, 2)

    peak = float(np.median([point["peak"] for point in points])) / 1e9
    memory = float(np.median([point["memory"] for point in points])) / 1e9
    reach = np.geomspace(2, 400, 200)
    for factor, style, label in (
        (1.0, "-", f"FMA peak {peak:.0f} GFLOP/s, memory {memory:.0f} GB/s"),
        (4.0, "--", "the same for F(4x4, 3x3): a quarter of the multiplications"),
    ):
        heights = np.minimum(peak * factor, memory * reach)
        roof.plot(reach, heights, style, color=ink, linewidth=1.2, label=label)
    for direction, words in PASSES.items():
        for winograd, marker in ((False, "s"), (True, "o")):
            chosen = [
                point
                for point in points
                if point["direction"] == direction and point["winograd"] == winograd
            ]
            roof.plot(
                [point["intensity"] for point in chosen],
                [point["rate"] / 1e9 for point in chosen],
                marker,
                color=colours[direction],
                markersize=6,
                alpha=0.85,
                label=f"{words}, {'Winograd' if winograd else 'direct'}" if chosen else None,
            )
    roof.set_xscale("log")
    roof.set_yscale("log")
    roof.set_ylim(bottom=30)
    roof.set_yticks([50, 100, 200, 400, 800, 1600])
    roof.set_xlabel("FLOP (of direct convolution) per byte moved once", color=ink)
    roof.set_ylabel("GFLOP/s (counted as direct convolution)", color=ink)
    roof.xaxis.set_major_formatter("{x:g}")
    roof.yaxis.set_major_formatter("{x:g}")
    roof.yaxis.set_minor_formatter("")
    roof.set_ylim(top=peak * 6)
    below = {"loc": "upper left", "bbox_to_anchor": (0, -0.13), "ncols": 2}
    roof.legend(frameon=False, labelcolor=ink, fontsize=7.5, **below)

    groups = list(dict.fromkeys(point["group"] for point in points))
    directions = [d for d in PASSES if any(point["direction"] == d for point in points)]
    width = 0.8 / len(directions)
    for i, direction in enumerate(directions):
        chosen = [point for point in points if point["direction"] == direction]
        times, floors = (
            [sum(p[key] * p["count"] * 1e3 for p in chosen if p["group"] == g) for g in groups]
            for key in ("seconds", "floor")
        )
        places = np.arange(len(groups)) + (i - (len(directions) - 1) / 2) * width
        label = f"{PASSES[direction]}: {sum(times):.0f} ms, floor {sum(floors):.0f}"
        colour = colours[direction]
        bars.bar(places, times, width * 0.92, color=colour, alpha=0.35, label=label)
        bars.bar(places, floors, width * 0.92, color=colour)
    bars.set_xticks(range(len(groups)), groups)
    bars.set_ylabel("ms a pass of the whole network", color=ink)
    bars.legend(frameon=False, labelcolor=ink, fontsize=8, title="light: measured, dark: FMA floor")
    for axes, title in ((roof, "Each convolution under its roof"), (bars, "Where the time goes")):
        axes.set_title(title, color=ink, loc="left", fontsize=11)
        axes.grid(color=light, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=grey, length=0, which="both")
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(grey)
    with io.BytesIO() as drawn:
        figure.savefig(drawn, format="png", dpi=110)
        image = Image.open(drawn).convert("RGB").quantize(96, dither=Image.Dither.NONE)
    image.save(path, format="PNG", optimize=True)


def main() -> None:
    """Read and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="a JSON file that bench/layers.py wrote")
    parser.add_argument("--out", type=Path, default=PICTURE, help="default: %(default)s")
    arguments = parser.parse_args()
    draw(read(arguments.results), arguments.out)
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
