"""Inference of ResNets beside torch, torch.compile, ONNX Runtime and OpenVINO, all in float32.

Every peer has a process of its own, the same weights, images and number of threads. "x time" is
the time against npresnet's plan: above 1 the peer is slower. Errors are relative to the truth in
float64, root of mean square and largest. GFLOP/s count the direct convolution's arithmetic, so a
Winograd form can exceed the machine's FMA peak.
"""

from __future__ import annotations

import networks
import report
import session
from peers import INFERENCE
from session import Session

# (model, least, aim) at batch 8 and 32 against the best peer; batch 1 of ResNet-34 has its own
SPEEDUPS = {
    "resnet18": (1.3, 2.0),
    "resnet34": (1.7, 2.2),
    "resnet50": (1.1, 1.3),
}
SINGLE_SPEEDUP = (1.35, 1.8)


def main() -> None:
    parser = session.parser(__doc__)
    parser.add_argument("--model", nargs="+", default=["resnet34"], choices=list(networks.BLOCKS))
    parser.add_argument("--batch", nargs="+", type=int, help="default: 1 8 32 (quick: 1 8)")
    parser.add_argument("--size", type=int, default=224, help="of the square images (default: 224)")
    session.peer_option(parser, INFERENCE)
    arguments = parser.parse_args()
    batches = arguments.batch or ([1, 8] if arguments.quick else [1, 8, 32])
    subject = next(iter(INFERENCE))
    with Session("inference", arguments) as run:
        peers = run.peers(INFERENCE) + run.probes()
        for model in arguments.model:
            for batch in batches:
                case = {
                    "model": model,
                    "size": arguments.size,
                    "batch": batch,
                    "small_input": False,
                    "classes": 1000,
                }
                case = run.prepare(case, onnx={}, truth={})
                title = f"{model}, {arguments.size}x{arguments.size}, batch {batch}"
                rows = run.compare(title, peers, case, subject)
                judge(run, rows, model, batch)
        run.save(
            lambda figure: report.bars(figure, run.shown, lambda row: row.rate("images"), "img/s"),
            size=(5 * len(run.shown), 3.6),
        )


def judge(run: Session, rows: list, model: str, batch: int) -> None:
    """Hold a case against the promised numbers."""
    by_label = {row.label: row for row in rows if not row.skipped}
    for subject in ("npresnet plan", "npresnet eager"):
        found = report.against_best(rows, subject)
        if not found:
            continue
        value, peer = found
        what = f"{model} batch {batch}: speed of {subject} over {peer}, the best peer"
        if subject == "npresnet eager" or model not in SPEEDUPS:
            run.find(f"{what}: {value:.2f}")
            continue
        single = model == "resnet34" and batch == 1
        run.find(report.target(what, value, *(SINGLE_SPEEDUP if single else SPEEDUPS[model])))
        torch = by_label.get("torch eager NCHW")
        if torch is None:
            continue
        plan = by_label[subject]
        if batch == 1:
            share = plan.peak_memory / torch.peak_memory
            what = f"{model} batch 1: peak memory over torch eager's"
            run.find(report.target(what, share, 1.3, smaller=True))
        if "rms_error" in torch.figures and "rms_error" in plan.figures:
            share = plan.figures["rms_error"] / torch.figures["rms_error"]
            what = f"{model} batch {batch}: rms error of logits over torch eager's"
            run.find(report.target(what, share, 4, 2, smaller=True))


if __name__ == "__main__":
    main()
