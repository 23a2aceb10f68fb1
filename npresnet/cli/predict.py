"""``npresnet predict``: name what is on images."""

from __future__ import annotations

import argparse
import glob
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from npresnet.classifier import Classifier
from npresnet.cli._numbers import positive_int
from npresnet.data import IMG_EXTENSIONS, read_image
from npresnet.errors import DataError

__all__ = ["DESCRIPTION", "EPILOG", "HELP", "add_arguments", "run"]

HELP = "name what is on images"
DESCRIPTION = "Classify images with trained weights; a line an image on standard output."
EPILOG = """\
Images are prepared as the weight file says. The digits are white on black: invert a scan of black
ink first. An image that can't be read is reported on standard error, the others are still
classified, and the exit status is 2.

examples:
  npresnet predict --weights runs/digits/best.safetensors some.png
  npresnet predict --weights best.safetensors --top-k 3 photos/ 'more/*.jpg'
  find . -name '*.png' | npresnet predict --weights best.safetensors --json -
"""

_BATCH = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--weights", required=True, metavar="FILE", help="a .safetensors file")
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="images, folders (searched whole), glob patterns, or - for a list of paths on "
        "standard input, one a line",
    )
    parser.add_argument("--model", metavar="NAME", help="the network, if the file doesn't say")
    parser.add_argument(
        "--top-k", type=positive_int, default=1, metavar="K", help="likeliest classes (default 1)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, an object a line")


def run(arguments: argparse.Namespace) -> int:
    """Classify in batches; print as results come."""
    model = {} if arguments.model is None else {"model": arguments.model}
    classifier = Classifier.load(arguments.weights, **model)
    bad = 0
    waiting: list[tuple[str, Any]] = []
    for path in _paths(arguments.paths):
        try:
            waiting.append((path, read_image(path)))
        except DataError as error:
            bad += 1
            print(f"npresnet: error: {error}", file=sys.stderr)
        if len(waiting) == _BATCH:
            _print_batch(classifier, waiting, arguments)
            waiting = []
    _print_batch(classifier, waiting, arguments)
    return 2 if bad else 0


def _paths(given: list[str]) -> Iterator[str]:
    """Yield the images that the arguments mean, folders and patterns in sorted order."""
    for item in given:
        if item == "-":
            lines = [line.rstrip("\n") for line in sys.stdin]
            if not any(lines):
                raise DataError("expected paths on standard input, one a line, got none")
            yield from _paths([line for line in lines if line and line != "-"])
        elif os.path.isdir(item):
            found = sorted(
                str(p) for p in Path(item).rglob("*") if p.name.lower().endswith(IMG_EXTENSIONS)
            )
            if not found:
                raise DataError(f"folder {item!r} has no images ({', '.join(IMG_EXTENSIONS)})")
            yield from found
        elif not os.path.exists(item) and glob.has_magic(item):
            found = sorted(path for path in glob.glob(item, recursive=True) if os.path.isfile(path))
            if not found:
                raise DataError(f"no file matches the pattern {item!r}")
            yield from found
        else:
            yield item


def _print_batch(
    classifier: Classifier, batch: list[tuple[str, Any]], arguments: argparse.Namespace
) -> None:
    if not batch:
        return
    table = classifier.predict_proba([image for _, image in batch])  # (images, classes)
    classes = classifier.classes_.tolist()
    for (path, _), row in zip(batch, table, strict=True):
        order = np.argsort(-row, kind="stable")[: arguments.top_k]
        ranked = [(classes[i], float(row[i])) for i in order]
        if arguments.json:
            top = [{"label": label, "probability": round(p, 6)} for label, p in ranked]
            print(json.dumps({"path": path, "label": ranked[0][0], "top": top}))
        else:
            print(f"{path}: " + ", ".join(f"{label} ({p:.1%})" for label, p in ranked))
    sys.stdout.flush()
