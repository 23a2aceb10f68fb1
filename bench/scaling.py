"""How inference scales: with threads, with the batch, with the size of the image.

The thread counts of one sweep run in the same interleaved rounds. Efficiency is the speed-up over
one thread, divided by the threads.
"""

from __future__ import annotations

from typing import Any

import networks
import report
import session
from harness import Peer, Row, available_threads, ratio, thread_variables
from peers import INFERENCE
from session import Session

DEFAULT_PEERS = (
    "npresnet plan",
    "npresnet eager",
    "torch eager channels_last",
    "ONNX Runtime",
    "OpenVINO f32",
)
SWEEPS = ("threads", "batch", "size")


def main() -> None:
    parser = session.parser(__doc__)
    parser.add_argument("--model", default="resnet34", choices=list(networks.BLOCKS))
    parser.add_argument("--sweep", nargs="+", choices=SWEEPS, default=list(SWEEPS))
    parser.add_argument("--batches", nargs="+", type=int, help="default: 1 2 4 8 16 32")
    parser.add_argument("--sizes", nargs="+", type=int, help="default: 32 64 128 224 384")
    session.peer_option(parser, INFERENCE)
    parser.set_defaults(peers=list(DEFAULT_PEERS))
    arguments = parser.parse_args()
    quick = arguments.quick
    batches = arguments.batches or ([1, 4] if quick else [1, 2, 4, 8, 16, 32])
    sizes = arguments.sizes or ([64, 128] if quick else [32, 64, 128, 224, 384])
    base = {
        "model": arguments.model,
        "size": 224,
        "batch": 2 if quick else 8,
        "small_input": False,
        "classes": 1000,
    }
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    with Session("scaling", arguments) as run:
        if "threads" in arguments.sweep:
            curves["threads"] = by_threads(run, run.prepare(base, onnx={}, truth={}))
        for what, values in (("batch", batches), ("size", sizes)):
            if what not in arguments.sweep:
                continue
            curve: dict[str, list[tuple[int, float]]] = {}
            for value in values:
                case = run.prepare({**base, what: value}, onnx={}, truth={})
                title = f"{arguments.model}, {what} {value}"
                peers = run.peers(INFERENCE) + run.probes(["FMA peak"])
                rows = run.compare(title, peers, case, "npresnet plan")
                for row in report.split(rows)[0]:
                    if not row.skipped:
                        # pixels, so that sizes compare: as many 224x224 images
                        share = (case["size"] / 224) ** 2 if what == "size" else 1.0
                        curve.setdefault(row.label, []).append((value, row.rate("images") * share))
            curves[what] = curve
        run.save(lambda figure: draw(figure, curves), size=(5 * len(curves), 4), curves=curves)


def by_threads(run: Session, case: dict[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """Time every peer with 1 thread, 2, 4, ... and all of them; return images a second."""
    most = max(run.settings.threads, 1)
    counts = sorted({1, most} | {2**i for i in range(1, 10) if 2**i < most})
    if most > available_threads():
        print(f"{most} threads are more than the {available_threads()} CPUs of this process")
    chosen = [*run.peers(INFERENCE), *run.probes(["FMA peak"])]
    peers = [
        Peer(f"{peer.label}, {count}", peer.build, peer.options, thread_variables(count))
        for peer in chosen
        for count in counts
    ]
    rows = run.compare(
        f"{case['model']}, batch {case['batch']}, by threads", peers, case, f"npresnet plan, {most}"
    )
    by_label = {row.label: row for row in rows if not row.skipped}
    curve: dict[str, list[tuple[int, float]]] = {}
    for peer in chosen:
        found: list[tuple[int, Row]] = [
            (count, by_label[f"{peer.label}, {count}"])
            for count in counts
            if f"{peer.label}, {count}" in by_label
        ]
        if not found or found[0][0] != 1:
            continue
        unit = "images" if "images" in found[0][1].amounts else None
        if unit:
            curve[peer.label] = [(count, row.rate(unit)) for count, row in found]
        for count, row in found[1:]:
            one = found[0][1]
            # a probe does `threads` times the work; a network the same
            value = ratio(one, row)[0] if unit else row.rate("flop") / one.rate("flop")
            what = f"{peer.label}: speed of {count} threads over one"
            if peer.label == "npresnet plan" and count == 2:
                run.find(report.target(what, value, 1.8, 1.95))
            else:
                run.find(f"{what}: {value:.2f}, efficiency {value / count:.0%}")
    return curve


def draw(figure: Any, curves: dict[str, dict[str, list[tuple[int, float]]]]) -> None:
    """Draw a panel a sweep, a line a peer."""
    axes = figure.subplots(1, len(curves), squeeze=False)[0]
    for axis, (what, lines) in zip(axes, curves.items(), strict=True):
        styles: dict[str, int] = {}
        for label, points in lines.items():
            colour = report.colour(label)
            number = styles[colour] = styles.get(colour, -1) + 1
            axis.plot(
                *zip(*points, strict=True),
                marker="o",
                color=colour,
                label=label,
                linestyle=("-", "--", ":", "-.")[number % 4],
            )
        axis.set_xscale("log", base=2)
        ticks = sorted({x for points in lines.values() for x, _ in points})
        axis.set_xticks(ticks, [str(x) for x in ticks])
        axis.set_ylim(bottom=0)
        axis.set_xlabel(what)
        axis.set_ylabel("img/s" + (" x (size / 224)^2" if what == "size" else ""))
        axis.legend(fontsize=7)


if __name__ == "__main__":
    main()
