"""``npresnet predict``: name what is on images."""

from __future__ import annotations

import argparse
import functools
import glob
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from npresnet.classifier import Classifier
from npresnet.cli._numbers import positive_int
from npresnet.cli._precision import add_precision
from npresnet.cli._weights import FORMS_OF_WEIGHTS, add_weights
from npresnet.data import IMG_EXTENSIONS, MAX_PIXELS, read_image
from npresnet.errors import DataError

__all__ = ["DESCRIPTION", "EPILOG", "HELP", "add_arguments", "run"]

HELP = "name what is on images"
DESCRIPTION = "Classify images with trained weights; a line an image on standard output."
EPILOG = f"""\
Images are prepared as comes with the weights. The digits are white on black: invert a scan of black
ink first. An image that can't be read is reported on standard error, the others are still
classified, and the exit status is 2.

{FORMS_OF_WEIGHTS}
examples:
  npresnet predict --weights runs/digits/best.safetensors some.png
  npresnet predict --weights timm/resnet34.a1_in1k --top-k 3 photos/ 'more/*.jpg'
  find . -name '*.png' | npresnet predict --weights best.safetensors --json -
  curl -s https://example.org/cat.jpg | npresnet predict --weights best.safetensors -
"""

Complaint: TypeAlias = Callable[[DataError], None]

_BATCH = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_weights(parser)
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="images, folders (searched whole), glob patterns, or - for standard input: paths, "
        "one a line, or the bytes of one image",
    )
    parser.add_argument("--model", metavar="NAME", help="the network, if the file doesn't say")
    parser.add_argument(
        "--top-k", type=positive_int, default=1, metavar="K", help="likeliest classes (default 1)"
    )
    add_precision(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, an object a line")
    parser.add_argument(
        "--max-pixels",
        type=positive_int,
        default=MAX_PIXELS,
        metavar="N",
        help=f"largest image that is opened, width times height (default {MAX_PIXELS:,})",
    )
    parser.add_argument(
        "--apply-exif-orientation",
        action="store_true",
        help="turn images as the camera was held (networks are tested without)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Classify in batches; print as results come."""
    model = {} if arguments.model is None else {"model": arguments.model}
    classifier = Classifier.load(arguments.weights, precision=arguments.precision, **model)
    failures = 0

    def complain(error: DataError) -> None:
        nonlocal failures
        failures += 1
        print(f"npresnet: error: {error}", file=sys.stderr)

    waiting: list[tuple[str, Any]] = []
    read = functools.partial(
        read_image,
        max_pixels=arguments.max_pixels,
        apply_exif_orientation=arguments.apply_exif_orientation,
    )
    for item in _images(arguments.paths, read, complain):
        waiting.append(item)
        if len(waiting) == _BATCH:
            _print_batch(classifier, waiting, arguments, complain)
            waiting = []
    _print_batch(classifier, waiting, arguments, complain)
    return 2 if failures else 0


def _images(
    given: list[str], read: Callable[[Any], Any], complain: Complaint
) -> Iterator[tuple[str, Any]]:
    """Yield the name and pixels of each image that can be read."""
    for item in given:
        try:
            sources = _sources(item)
        except DataError as error:
            complain(error)
            continue
        for name, source in sources:
            try:
                image = read(source)
            except DataError as error:
                complain(error)
                continue
            yield name, image


def _sources(item: str) -> list[tuple[str, Any]]:
    """Return what an argument means, folders and patterns sorted: names, and what to open."""
    if item == "-":
        return _standard_input()
    found = [item]
    if os.path.isdir(item):
        found = sorted(
            str(p) for p in Path(item).rglob("*") if p.name.lower().endswith(IMG_EXTENSIONS)
        )
        if not found:
            raise DataError(f"folder {item!r} has no images ({', '.join(IMG_EXTENSIONS)})")
    elif not os.path.exists(item) and glob.has_magic(item):
        found = sorted(path for path in glob.glob(item, recursive=True) if os.path.isfile(path))
        if not found:
            raise DataError(f"no file matches the pattern {item!r}")
    return [(path, path) for path in found]


class _Piped(io.BytesIO):
    """An image from standard input, under the name that errors give it."""

    name = "standard input"


def _standard_input() -> list[tuple[str, Any]]:
    """Return the image, or the paths, one a line, that came through the pipe.

    Every binary image format has a NUL near its beginning, and no path can hold one.
    """
    data = b"" if sys.stdin is None else sys.stdin.buffer.read()
    if b"\0" in data[:64]:
        return [("-", _Piped(data))]
    paths = [os.fsdecode(line) for line in data.splitlines() if line.strip()]
    if not paths:
        raise DataError("standard input is empty: expected paths, one a line, or one image")
    return [(path, path) for path in paths]


def _print_batch(
    classifier: Classifier,
    batch: list[tuple[str, Any]],
    arguments: argparse.Namespace,
    complain: Complaint,
) -> None:
    if not batch:
        return
    table = classifier.predict_proba([image for _, image in batch])  # (images, classes)
    classes = classifier.classes_.tolist()
    for (path, _), row in zip(batch, table, strict=True):
        if not np.isfinite(row).all():
            complain(DataError(f"no finite answer for {path!r}: the weights may hold NaN"))
            continue
        order = np.argsort(-row, kind="stable")[: arguments.top_k]
        ranked = [(classes[i], float(row[i])) for i in order]
        if arguments.json:
            top = [{"label": label, "probability": round(p, 6)} for label, p in ranked]
            print(json.dumps({"path": path, "label": ranked[0][0], "top": top}))
        else:
            print(f"{path}: " + ", ".join(f"{label} ({p:.1%})" for label, p in ranked))
    sys.stdout.flush()
