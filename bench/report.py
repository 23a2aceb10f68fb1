"""Tables on the terminal, JSON and PNG in the results folder."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from harness import Row, best, ratio

COLOURS = {
    "npresnet": "#c0392b",
    "torch": "#e67e22",
    "ONNX Runtime": "#2980b9",
    "OpenVINO": "#16a085",
}


def table(title: str, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an aligned table; the first column to the left, the others to the right."""
    lines = [list(headers), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]

    def text(line: Sequence[str]) -> str:
        first = line[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        return "  ".join([first, *rest]).rstrip()

    rule = "-" * len(text(["-" * width for width in widths]))
    return "\n".join(["", title, text(lines[0]), rule, *map(text, lines[1:])])


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with so many significant digits and no exponent, or a dash."""
    if value is None:
        return "-"
    whole = len(str(int(abs(value))))
    return f"{value:.{max(0, digits - whole)}f}"


def error(value: float | None) -> str:
    """Return a relative error."""
    return "-" if value is None else f"{value:.1e}"


def megabytes(value: float | None) -> str:
    """Return bytes as MB."""
    return "-" if not value else f"{value / 1e6:.0f}"


def peak_of(rows: Iterable[Row]) -> float | None:
    """Return the machine's FMA peak in flop a second, if it was measured beside the rows."""
    for row in rows:
        if row.label == "FMA peak" and not row.skipped:
            return row.rate("flop")
    return None


def comparison(title: str, rows: Sequence[Row], subject: str) -> str:
    """Return the table of one case: times, ratios, memory, errors; then the machine's rates.

    `subject` is the label that ratios are relative to.
    """
    rows, probes = split(rows)
    by_label = {row.label: row for row in rows}
    base = by_label.get(subject)
    peak = peak_of(probes)
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    headers = [
        "",
        "ms",
        "spread",
        "img/s",
        "GFLOP/s",
        "of peak",
        "x time",
        "rounds",
        "CPUs",
        "MB",
        *names,
    ]
    lines = []
    for row in rows:
        if row.skipped:
            continue
        flops = row.rate("flop")
        times = "", ""
        if base and not base.skipped:
            middle, low, high = ratio(row, base)
            times = f"{middle:.2f}", f"{low:.2f}-{high:.2f}"
        lines.append(
            [
                row.label + (f" ({row.note})" if row.note else ""),
                number(row.median * 1e3),
                f"{row.spread:.1%}",
                number(row.rate("images")),
                number(flops and flops / 1e9),
                f"{flops / peak:.0%}" if flops and peak else "-",
                *times,
                f"{row.cpu_share:.2f}",
                megabytes(row.peak_memory),
                *(error(row.figures.get(name)) for name in names),
            ]
        )
    text = table(title, headers, lines)
    for row in rows:
        if row.skipped:
            text += f"\n{row.label}: skipped: {row.skipped}"
        elif row.idle_share > 0.05:
            text += f"\n{row.label}: burned {row.idle_share:.0%} of a CPU while it waited"
    return text + "\n" + machine_rates(probes)


def machine_rates(probes: Iterable[Row]) -> str:
    """Return the machine's measured rates in a line."""
    words = []
    for row in probes:
        if not row.skipped:
            unit = "flop" if "flop" in row.amounts else "bytes"
            name = "GFLOP/s" if unit == "flop" else "GB/s"
            words.append(f"{row.label} {row.rate(unit) / 1e9:.0f} {name}")
    return "machine, same rounds: " + ", ".join(words) if words else ""


def split(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """Return the peers' rows and the machine's."""
    rows = list(rows)
    return (
        [row for row in rows if not _is_probe(row)],
        [row for row in rows if _is_probe(row)],
    )


PROBE_LABELS = ("FMA peak", "sgemm", "copy")


def _is_probe(row: Row) -> bool:
    """Tell the machine's rows, whose labels may end in a number of threads: "FMA peak, 2"."""
    return row.label.partition(",")[0] in PROBE_LABELS


def target(
    what: str, value: float, least: float, aim: float | None = None, smaller: bool = False
) -> str:
    """Return a sentence that holds a number against what was promised and aimed for."""

    def reached(limit: float) -> str:
        return "yes" if (value <= limit if smaller else value >= limit) else "NO"

    word = "at most" if smaller else "at least"
    text = f"{what}: {value:.2f} ({word} {least:g}: {reached(least)}"
    return text + (f"; aim {aim:g}: {reached(aim)})" if aim is not None else ")")


def against_best(rows: Sequence[Row], subject: str) -> tuple[float, str] | None:
    """Return the speed-up of `subject` over the best peer that isn't npresnet, and its name."""
    rows, _ = split(rows)
    ours = next((row for row in rows if row.label == subject and not row.skipped), None)
    peer = best(row for row in rows if not row.label.startswith("npresnet"))
    if ours is None or peer is None:
        return None
    return ratio(peer, ours)[0], peer.label


def colour(label: str) -> str:
    """Return a peer's colour in plots."""
    return next((value for key, value in COLOURS.items() if label.startswith(key)), "#7f8c8d")


def bars(
    figure: Any,
    cases: Sequence[tuple[str, Sequence[Row]]],
    value: Callable[[Row], float | None],
    unit: str,
) -> None:
    """Draw a panel of horizontal bars for each case."""
    axes = figure.subplots(1, len(cases), squeeze=False)[0]
    for axis, (title, rows) in zip(axes, cases, strict=True):
        shown = [row for row in split(rows)[0] if not row.skipped and value(row) is not None]
        places = range(len(shown))
        values = [value(row) for row in shown]
        half = [v * row.spread / 2 for v, row in zip(values, shown, strict=True)]
        axis.barh(places, values, xerr=half, color=[colour(row.label) for row in shown])
        axis.set_yticks(places, [row.label for row in shown])
        for place, v in zip(places, values, strict=True):
            axis.text(0, place, f" {number(v)}", va="center", fontsize=8, color="white")
        axis.invert_yaxis()
        axis.set_title(textwrap.fill(title, 32), fontsize=10)
        axis.set_xlabel(unit)


def save(
    folder: Path,
    name: str,
    content: dict[str, Any],
    draw: Callable[[Any], None] | None = None,
    size: tuple[float, float] = (12, 4),
    footer: str = "",
) -> list[Path]:
    """Write `name.json`, and `name.png` if Matplotlib is there; return what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.json"]
    paths[0].write_text(json.dumps(content, indent=1) + "\n")
    if draw is None:
        return paths
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        print("no picture: Matplotlib is not installed", file=sys.stderr)
        return paths
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure)
    if footer:
        lines = textwrap.wrap(footer, int(size[0] * 22))
        figure.supxlabel("\n".join(lines), fontsize=6)
    paths.append(folder / f"{name}.png")
    figure.savefig(paths[-1], dpi=120)
    return paths
