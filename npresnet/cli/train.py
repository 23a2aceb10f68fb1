"""``npresnet train``: from images to a run folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from npresnet.cli._numbers import positive_float, positive_int, whole
from npresnet.cli._precision import add_precision
from npresnet.cli._weights import FORMS_OF_WEIGHTS, add_weights
from npresnet.data import Dataset
from npresnet.inspect.plots import can_plot, prediction_sheet, training_curve
from npresnet.training import RECIPES, Run, load_splits, train_run

__all__ = ["DESCRIPTION", "EPILOG", "HELP", "add_arguments", "run"]

HELP = "train a network on images"
DESCRIPTION = "Train a ResNet and leave a folder with its weights, settings, metrics and pictures."
EPILOG = f"""\
data:
  digits   the UCI handwritten digits, shipped with npresnet (1,437 to train, 360 to test)
  FOLDER   with train/ and val/ (or test/), each with a folder of images a class; or the class
           folders alone, of which a fifth of the images is held out for the test

{FORMS_OF_WEIGHTS}
examples:
  npresnet train digits --out runs/digits
  npresnet train flowers --model resnet18 --epochs 20 --out runs/flowers
  npresnet train flowers --weights runs/flowers/best.safetensors --lr 0.002 --out runs/tuned
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("data", metavar="DATA", help="'digits' or a folder, see below")
    parser.add_argument(
        "--out",
        required=True,
        metavar="FOLDER",
        help="the run folder; files of an earlier run are replaced",
    )
    parser.add_argument(
        "--model", metavar="NAME", help="resnet18, resnet50d, ... (default resnet34)"
    )
    add_weights(parser, "begin with these weights (fine-tuning), see below", required=False)
    digits, folder = RECIPES["digits"], RECIPES["images"]
    parser.add_argument(
        "--epochs",
        type=positive_int,
        metavar="N",
        help=f"passes over the images (default {digits.epochs} for the digits, {folder.epochs} for "
        "a folder)",
    )
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        metavar="N",
        help=f"images a step (default {digits.batch_size} for the digits, {folder.batch_size} for "
        "a folder)",
    )
    parser.add_argument(
        "--lr",
        type=positive_float,
        metavar="X",
        help=f"highest learning rate (default {folder.lr})",
    )
    parser.add_argument(
        "--image-size",
        type=positive_int,
        metavar="N",
        help=f"side of the network's input (default {digits.preprocessing.size[0]} for the digits, "
        f"{folder.preprocessing.size[0]} for a folder, or as the weights say)",
    )
    add_precision(parser)
    parser.add_argument("--seed", type=whole, default=0, metavar="N", help="default 0")
    parser.add_argument(
        "--workers", type=whole, default=0, metavar="N", help="threads that load images ahead"
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")


def run(arguments: argparse.Namespace) -> int:
    """Train, draw, and say what to do next."""

    def say(line: str) -> None:
        if not arguments.quiet:
            print(line, flush=True)

    done = train_run(
        arguments.data,
        arguments.out,
        weights=arguments.weights,
        seed=arguments.seed,
        precision=arguments.precision,
        workers=arguments.workers,
        progress=False if arguments.quiet else None,
        log=say,
        image_size=arguments.image_size,
        model=arguments.model,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        lr=arguments.lr,
    )
    tested = done.evaluation
    say(
        f"best: {tested.correct} of {len(tested.labels)} test images right "
        f"({tested.accuracy:.2%}), epoch {done.best.epoch}, {done.seconds:.0f} s"
    )
    written = [str(done.folder / name) for name in ("best.safetensors", "metrics.jsonl")]
    if can_plot():
        written += [str(path) for path in _draw(done, arguments.data, arguments.seed)]
    else:
        say("no pictures: they need matplotlib (pip install 'npresnet[plot]')")
    say(f"written: {', '.join(written)}")
    say(f"next: npresnet predict --weights {done.folder / 'best.safetensors'} IMAGE")
    return 0


def _draw(done: Run, data: str, seed: int) -> list[Path]:
    """Draw the curve of the run and a sheet of its test images; return the files."""
    curve, sheet = done.folder / "curve.png", done.folder / "predictions.png"
    rows = done.history
    training_curve(
        curve,
        {"train": [r.train_loss for r in rows], "test": _tested([r.test_loss for r in rows])},
        {
            "train": [r.train_accuracy for r in rows],
            "test": _tested([r.test_accuracy for r in rows]),
        },
        title=f"{done.settings.architecture} on {Path(data).name}",
    )
    test = load_splits(data, seed=seed).test
    prediction_sheet(
        sheet,
        _Images(test),
        done.evaluation.labels,
        done.evaluation.probabilities,
        [str(name) for name in done.settings.classes],
        title=f"{Path(data).name}, test images",
    )
    return [curve, sheet]


def _tested(values: list[float | None]) -> list[float]:
    return [np.nan if value is None else value for value in values]


class _Images(Sequence[Any]):
    """The pictures of a data set, loaded when they are asked for."""

    def __init__(self, data: Dataset) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: Any) -> Any:
        return self._data[index][0]
