"""npresnet's eager forward pass and training step beside torch's, in time and memory.

ResNet-34 on small images, with the usual stem and with `small_input=True`, each in a process of
its own; torch in both memory formats. Also how long `import npresnet` takes.
"""

from __future__ import annotations

import networks
import report
import session
from harness import Row, best, ratio
from peers import INFERENCE, TRAINING
from session import Session
from startup import import_times

LABELS = ("npresnet eager", "torch eager NCHW", "torch eager channels_last")
TIME_LIMIT, MEMORY_LIMIT, IMPORT_LIMIT = 3.0, 1.5, 0.25


def main() -> None:
    parser = session.parser(__doc__)
    parser.add_argument("--model", default="resnet34", choices=list(networks.BLOCKS))
    parser.add_argument("--size", type=int, default=32, help="of the square images (default: 32)")
    parser.add_argument("--batch", type=int, default=64, help="images a batch (default: 64)")
    parser.add_argument(
        "--stem",
        nargs="+",
        choices=("usual", "small"),
        default=None,
        help="default: both, above 64x64 the usual (quick: the usual)",
    )
    arguments = parser.parse_args()
    size, batch = arguments.size, arguments.batch
    both = size <= 64 and not arguments.quick
    stems = arguments.stem or (["usual", "small"] if both else ["usual"])
    with Session("eager", arguments) as run:
        for stem in stems:
            case = {
                "model": arguments.model,
                "size": size,
                "batch": batch,
                "small_input": stem == "small",
                "classes": 1000 if size > 64 else 10,
            }
            case = run.prepare(case, truth={}, losses={"steps": 3})
            for what, known in (("forward", INFERENCE), ("training step", TRAINING)):
                title = f"{arguments.model} {what}, {stem} stem, {size}x{size}, batch {batch}"
                peers = run.peers({label: known[label] for label in LABELS})
                rows = run.compare(title, peers + run.probes(["FMA peak"]), case, LABELS[0])
                judge(run, rows, f"{what}, {stem} stem")
        median, times = import_times("npresnet", 3 if arguments.quick else 9)
        run.find(report.target("import npresnet, seconds", median, IMPORT_LIMIT, smaller=True))
        run.save(
            lambda figure: report.bars(figure, run.shown, lambda row: row.median * 1e3, "ms"),
            size=(4.5 * len(run.shown), 2.6),
            import_seconds=times,
        )


def judge(run: Session, rows: list[Row], what: str) -> None:
    """Hold npresnet against the better torch, in time and in memory."""
    ours, *others = report.split(rows)[0]
    peer = best(others)
    if ours.skipped or peer is None:
        return
    value = ratio(ours, peer)[0]
    words = f"{what}: time over {peer.label}'s"
    run.find(report.target(words, value, TIME_LIMIT, smaller=True))
    least = min((row for row in others if not row.skipped), key=lambda row: row.peak_memory)
    share = ours.peak_memory / least.peak_memory
    words = f"{what}: peak memory over {least.label}'s"
    run.find(report.target(words, share, MEMORY_LIMIT, smaller=True))


if __name__ == "__main__":
    main()
