"""Each distinct convolution of a network: time, rate, share of the FMA peak, error, by algorithm.

GFLOP/s count the direct convolution's arithmetic whatever the algorithm does, so a Winograd form
can exceed the peak. Errors are relative to float64, for one image. "im2col" is the kernel that
eager calls; torch is its eager convolution in channels_last, which packs weights in every call.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import networks
import report
import session
from harness import Peer, Row, Team, best
from session import Session

ALGORITHMS = {
    "auto": ("convolutions:fast", {"algorithm": "auto"}),
    "winograd4": ("convolutions:fast", {"algorithm": "winograd4"}),
    "winograd2": ("convolutions:fast", {"algorithm": "winograd2"}),
    "direct": ("convolutions:fast", {"algorithm": "direct"}),
    "im2col": ("convolutions:eager", {}),
    "torch": ("convolutions:torch_conv", {}),
}
PASSES = ("forward", "grad_input", "grad_weight")


def main() -> None:
    parser = session.parser(__doc__)
    add = parser.add_argument
    add("--model", default="resnet34", choices=list(networks.BLOCKS))
    add("--size", type=int, default=224, help="of the network's images (default: 224)")
    add("--batch", type=int, default=8, help="default: 8")
    add("--small-input", action="store_true", help="the stem for small images")
    add(
        "--layer",
        nargs="+",
        metavar="NAME",
        help="only these, as in the state dict: conv1, layer1.0.conv1, layer2.0.downsample.0",
    )
    add("--passes", nargs="+", choices=PASSES, help="default: all (quick: forward)")
    session.peer_option(parser, ALGORITHMS)
    arguments = parser.parse_args()
    convs = networks.distinct(
        networks.convolutions(arguments.model, arguments.size, arguments.small_input)
    )
    if arguments.layer:
        names = [conv.name for conv, _ in convs]
        unknown = set(arguments.layer) - set(names)
        if unknown:
            parser.error(
                f"no such layer: {', '.join(sorted(unknown))}; distinct ones are "
                + ", ".join(names)
            )
        convs = [(conv, count) for conv, count in convs if conv.name in arguments.layer]
    elif arguments.quick:
        convs = convs[:4]
    directions = arguments.passes or (["forward"] if arguments.quick else list(PASSES))
    with Session("layers", arguments, seconds=(0.3, 0.05)) as run:
        peers = run.peers(ALGORITHMS) + run.probes(["FMA peak", "copy"])
        found: dict[str, list[tuple[networks.Conv, int, list[Row]]]] = {}
        for direction in directions:
            found[direction] = measure(run, peers, convs, direction)
            summary(run, found[direction], direction)
        run.save(lambda figure: draw(figure, found), size=(11, 3.5 * len(found)))


def measure(
    run: Session, peers: list[Peer], convs: list[tuple[networks.Conv, int]], direction: str
) -> list[tuple[networks.Conv, int, list[Row]]]:
    """Time one pass of every layer; print a table a layer."""
    found = []
    with Team(peers, run.settings, f"layers, {direction}") as team:
        for conv, count in convs:
            case = {"conv": asdict(conv), "batch": run.arguments.batch, "direction": direction}
            team.progress.title = f"layers, {direction}, {conv.shape}"
            rows = team.measure(case)
            found.append((conv, count, rows))
            title = f"{conv.name}, {direction}: {conv.shape}, batch {run.arguments.batch}"
            print(layer_table(f"{title}, {count} times in the network", rows), flush=True)
            run.keep(title, {**case, "count": count}, rows)
    return found


def layer_table(title: str, rows: list[Row]) -> str:
    """Return the table of one layer."""
    peak = report.peak_of(rows)
    shown, probes = report.split(rows)
    lines = []
    for row in shown:
        if row.skipped:
            continue
        rate = row.rate("flop")
        lines.append(
            [
                row.label + (f" = {row.note}" if row.note else ""),
                report.number(row.median * 1e3),
                f"{row.spread:.1%}",
                report.number(rate / 1e9),
                f"{rate / peak:.0%}" if peak else "-",
                report.error(row.figures.get("rms_error")),
                report.error(row.figures.get("max_error")),
            ]
        )
    headers = ["", "ms", "spread", "GFLOP/s", "of peak", "rms_error", "max_error"]
    text = report.table(title, headers, lines)
    for row in shown:
        if row.skipped and not row.label.startswith("winograd"):
            text += f"\n{row.label}: skipped: {row.skipped}"
    return text + "\n" + report.machine_rates(probes)


def summary(
    run: Session, layers: list[tuple[networks.Conv, int, list[Row]]], direction: str
) -> None:
    """Add the layers up as often as the network has them; name those where auto isn't best."""
    totals: dict[str, float | None] = {}
    flop = 0.0
    for conv, count, rows in layers:
        flop += count * conv.flop(run.arguments.batch)
        measured = {row.label: row for row in report.split(rows)[0] if not row.skipped}
        for label in ALGORITHMS:
            if label in measured and totals.get(label, 0.0) is not None:
                totals[label] = totals.get(label, 0.0) + count * measured[label].median
            else:
                totals[label] = None
        ours = {k: row for k, row in measured.items() if k not in ("auto", "im2col", "torch")}
        quickest = best(ours.values())
        auto = measured.get("auto")
        if (
            auto
            and quickest
            and auto.note != quickest.label
            and (auto.median > 1.05 * quickest.median)
        ):
            run.find(
                f"{direction}, {conv.name}: auto {auto.median * 1e3:.2f} ms, "
                f"{quickest.label} {quickest.median * 1e3:.2f} ms"
            )
    for label, total in totals.items():
        if total is not None:
            run.find(
                f"{direction}, all of them as often as they occur, {label}: "
                f"{total * 1e3:.1f} ms, {flop / total / 1e9:.0f} GFLOP/s"
            )


def draw(figure: Any, found: dict[str, list[tuple[networks.Conv, int, list[Row]]]]) -> None:
    """Draw the rate of every algorithm on every layer, and the peak."""
    axes = figure.subplots(len(found), 1, squeeze=False)[:, 0]
    for axis, (direction, layers) in zip(axes, found.items(), strict=True):
        timed = {row.label for _, _, rows in layers for row in rows if not row.skipped}
        labels = [label for label in ALGORITHMS if label in timed]
        width = 0.8 / max(1, len(labels))
        for i, label in enumerate(labels):
            points = [
                (place + i * width, row.rate("flop") / 1e9)
                for place, (_, _, rows) in enumerate(layers)
                for row in rows
                if row.label == label and not row.skipped
            ]
            colour = f"C{list(ALGORITHMS).index(label)}"
            axis.bar(*zip(*points, strict=True), width, label=label, color=colour)
        peaks = [report.peak_of(rows) for _, _, rows in layers]
        for place, peak in enumerate(peaks):
            if peak:
                axis.hlines(peak / 1e9, place - width / 2, place + 0.8 - width / 2, "black", "--")
        axis.set_xticks(
            [i + 0.4 - width / 2 for i in range(len(layers))],
            [conv.shape.replace(" ", "\n") for conv, _, _ in layers],
            fontsize=7,
        )
        axis.set_ylabel(f"{direction}, GFLOP/s")
        above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "frameon": False}
        axis.legend(fontsize=7, ncols=len(ALGORITHMS), **above)


if __name__ == "__main__":
    main()
