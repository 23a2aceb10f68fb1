"""Training steps (forward, backward, SGD with momentum) beside torch eager and torch.compile.

Every peer has a process of its own and starts from the same weights. "loss_error" is the largest
relative difference of the losses of the first steps from those in float64. A step is counted as
three forward passes of arithmetic.
"""

from __future__ import annotations

import networks
import report
import session
from harness import Row
from peers import TRAINING
from session import Session

CASES = {"224": (224, 8), "32": (32, 128)}
TARGETS = {"224": (1.5, 2.0), "32": (1.8, 3.0)}
"""At least, and the aim: speed over the best torch."""

LOSS_STEPS = 10


def main() -> None:
    parser = session.parser(__doc__)
    parser.add_argument("--model", default="resnet34", choices=list(networks.BLOCKS))
    parser.add_argument(
        "--case",
        nargs="+",
        choices=list(CASES),
        help="224: batch 8 at 224x224; 32: batch 128 at 32x32 (default: both, quick: 224)",
    )
    parser.add_argument("--size", type=int, help="another image size, with --batch")
    parser.add_argument("--batch", type=int, help="another batch, with --size")
    session.peer_option(parser, TRAINING)
    arguments = parser.parse_args()
    if (arguments.size is None) != (arguments.batch is None):
        parser.error("--size and --batch go together")
    chosen = arguments.case or (["224"] if arguments.quick else list(CASES))
    cases = {name: CASES[name] for name in chosen}
    if arguments.size:
        cases = {"given": (arguments.size, arguments.batch)}
    with Session("training", arguments) as run:
        peers = run.peers(TRAINING) + run.probes()
        for name, (size, batch) in cases.items():
            case = {
                "model": arguments.model,
                "size": size,
                "batch": batch,
                "small_input": False,
                "classes": 1000 if size > 64 else 10,
            }
            case = run.prepare(case, losses={"steps": 3 if arguments.quick else LOSS_STEPS})
            title = f"{arguments.model} training, {size}x{size}, batch {batch}"
            rows = run.compare(title, peers, case, "npresnet compile_step")
            judge(run, rows, f"{size}x{size}, batch {batch}", name)
        run.save(
            lambda figure: report.bars(figure, run.shown, lambda row: row.rate("images"), "img/s"),
            size=(5.5 * len(run.shown), 3.4),
        )


def judge(run: Session, rows: list[Row], words: str, name: str) -> None:
    """Hold a case against the promised numbers."""
    by_label = {row.label: row for row in rows if not row.skipped}
    for subject in ("npresnet compile_step", "npresnet eager"):
        found = report.against_best(rows, subject)
        if not found:
            continue
        value, peer = found
        what = f"{words}: speed of {subject} over {peer}, the best torch"
        if subject == "npresnet eager" or name not in TARGETS:
            run.find(f"{what}: {value:.2f}")
        else:
            run.find(report.target(what, value, *TARGETS[name]))
        ours, torch = by_label[subject], by_label.get("torch eager NCHW")
        if torch and subject != "npresnet eager":
            share = ours.peak_memory / torch.peak_memory
            what = f"{words}: peak memory over torch eager's"
            run.find(report.target(what, share, 0.8, 0.6, smaller=True))
        if "loss_error" in ours.figures:
            what = f"{words}: relative error of the first losses of {subject}, in 1e-4"
            run.find(report.target(what, ours.figures["loss_error"] * 1e4, 1, smaller=True))


if __name__ == "__main__":
    main()
