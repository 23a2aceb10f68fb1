"""``npresnet evaluate``: how good trained weights are."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from npresnet.cli._numbers import whole
from npresnet.cli._precision import add_precision
from npresnet.cli._weights import FORMS_OF_WEIGHTS, add_weights
from npresnet.training import Evaluation, evaluate_weights

__all__ = ["DESCRIPTION", "EPILOG", "HELP", "add_arguments", "run"]

HELP = "measure accuracy on labelled images"
DESCRIPTION = "Classify the test images of a data set and count what is right."
EPILOG = f"""\
{FORMS_OF_WEIGHTS}
examples:
  npresnet evaluate --weights runs/digits/best.safetensors digits
  npresnet evaluate --weights runs/flowers/best.safetensors flowers --json
  npresnet evaluate --weights IMAGENET1K_V2 --model resnet50 imagenet/
"""

_WIDEST_TABLE = 20  # classes; a wider confusion table can't be read in a terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_weights(parser)
    parser.add_argument("data", metavar="DATA", help="'digits' or a folder, as for train")
    parser.add_argument("--model", metavar="NAME", help="the network, if the file doesn't say")
    parser.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="that of the training run (default 0)"
    )
    add_precision(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print."""
    result, settings = evaluate_weights(
        arguments.weights,
        arguments.data,
        architecture=arguments.model,
        seed=arguments.seed,
        precision=arguments.precision,
    )
    classes = [str(name) for name in settings.classes]
    print(_json(result, classes) if arguments.json else _text(result, classes))
    return 0


def _json(result: Evaluation, classes: Sequence[str]) -> str:
    return json.dumps(
        {
            "images": len(result.labels),
            "correct": result.correct,
            "accuracy": result.accuracy,
            "loss": result.loss,
            "classes": list(classes),
            "class_accuracy": [
                float(row[i] / row.sum()) if row.sum() else None
                for i, row in enumerate(result.confusion)
            ],
            "confusion": result.confusion.tolist(),
        }
    )


def _text(result: Evaluation, classes: Sequence[str]) -> str:
    """Totals, a line a class, and the confusion table if it fits."""
    confusion = result.confusion  # (true, predicted)
    width = max(len("class"), *map(len, classes))
    lines = [
        f"{result.correct} of {len(result.labels)} images right ({result.accuracy:.2%}), "
        f"loss {result.loss:.4f}",
        "",
        f"{'class':{width}}  images   right",
    ]
    for i, name in enumerate(classes):
        count = int(confusion[i].sum())
        share = f"{confusion[i, i] / count:7.1%}" if count else "      -"
        lines.append(f"{name:{width}}  {count:6d} {share}")
    if len(classes) <= _WIDEST_TABLE:
        cell = max(4, len(str(confusion.max())) + 1, *(len(name) + 1 for name in classes))
        lines += ["", "rows: true class; columns: predicted class"]
        lines.append(" " * width + "".join(f"{name:>{cell}}" for name in classes))
        for name, row in zip(classes, confusion.tolist(), strict=True):
            lines.append(f"{name:{width}}" + "".join(f"{n or '.':>{cell}}" for n in row))
    return "\n".join(lines)
