"""A whole training run: from a data set and a recipe to a folder with weights and metrics."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npresnet.backend import current_backend, get_backend, use_backend
from npresnet.data import DataLoader, Dataset, imagenet_classes, imagenet_wnids
from npresnet.errors import DataError, RangeError, TrainingError, WriteError
from npresnet.nn import Module
from npresnet.random import seeded
from npresnet.training.checkpoint import load_model, save_model
from npresnet.training.datasets import DIGITS, Splits, load_splits
from npresnet.training.evaluate import Evaluation, Predictor, evaluate
from npresnet.training.finetune import start_from
from npresnet.training.loop import (
    EpochMetrics,
    fit_epochs,
    make_optimizer,
    smoothed_cross_entropy,
)
from npresnet.training.metrics import write_metrics
from npresnet.training.recipes import Recipe, get_recipe
from npresnet.weights import write_text
from npresnet.weights.settings import ModelSettings

__all__ = ["RUN_FILES", "Run", "evaluate_weights", "train_run"]

RUN_FILES = {
    "best": "best.safetensors",
    "last": "last.safetensors",
    "metrics": "metrics.jsonl",
    "settings": "settings.json",
    "predictions": "predictions.json",
}
"""Names of the files of a run folder. Pictures are drawn from them, elsewhere."""


@dataclass(frozen=True)
class Run:
    """What a training run gave.

    Attributes
    ----------
    folder : Path
        Where its files are, named by `RUN_FILES`.
    model : Module
        With the weights of the last epoch, in evaluation mode.
    settings : ModelSettings
        What stands in the weight files.
    history : list of EpochMetrics
        One for each epoch.
    best : EpochMetrics
        The epoch whose weights are in ``best.safetensors``.
    evaluation : Evaluation
        Of the test images, by the best weights.
    seconds : float
        Training, testing and saving.
    """

    folder: Path
    model: Module
    settings: ModelSettings
    history: list[EpochMetrics]
    best: EpochMetrics
    evaluation: Evaluation
    seconds: float


def train_run(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    recipe: str | Recipe | None = None,
    weights: str | os.PathLike[str] | None = None,
    seed: int = 0,
    backend: str | None = None,
    precision: str | None = None,
    workers: int = 0,
    progress: bool | None = None,
    log: Callable[[str], None] | None = None,
    image_size: int | None = None,
    **changes: Any,
) -> Run:
    """Train a model and leave a folder with its weights, settings, metrics and predictions.

    Parameters
    ----------
    data : str or path-like
        ``"digits"``, or a folder of images; see `load_splits`.
    out : str or path-like
        The run folder; made if it isn't there. A file of an earlier run is replaced when this run
        has its successor, at the end of the first epoch.
    recipe : str or Recipe, optional
        ``"digits"``, ``"images"`` or one's own; by default that of the data.
    weights : path, optional
        A weight file to begin with; its head is replaced where the classes differ, and the
        preprocessing is that of the file unless `image_size` is given.
    seed : int
        Of initial weights, order and augmentation: the same seed gives the same weights.
    backend : str, optional
        Where to compute; by default the backend in force.
    precision : {None, "fp32", "tf32", "fp16", "bf16"}
        What to compute in, see `npresnet.compile_step`; the weights are float32 in any.
    workers : int
        Threads that load images ahead.
    progress : bool or None
        Whether to draw a bar; None where standard error is a terminal.
    log : callable, optional
        Receives lines of text, ``print`` for instance.
    image_size : int, optional
        Side of the network's input.
    **changes
        Settings of the recipe to change: ``model``, ``epochs``, ``batch_size``, ``lr`` and so on;
        those that are None stay as they are.

    Returns
    -------
    Run
        The model, its metrics and where the files are.

    Raises
    ------
    WriteError
        The folder can't be made or written; found out before training begins.
    DataError, WeightsError, RangeError, BackendError
        The data, the weights or a setting is wrong.
    TrainingError
        The loss isn't a finite number; the weights of the best epoch so far are saved.
    KeyboardInterrupt
        Handed on, with a line that says what is saved.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise RangeError(f"seed expected an int of at least 0, got {seed!r}")
    if recipe is None:
        recipe = "digits" if data == DIGITS else "images"
    plan = get_recipe(recipe).but(**changes)
    with contextlib.ExitStack() as scope:
        if backend is not None:
            scope.enter_context(use_backend(backend))
        precision = current_backend().plan_precision(precision)
        scope.enter_context(seeded(seed))
        splits = load_splits(data, seed=seed)
        model, settings, plan = start_from(
            weights, plan, splits.classes, image_size, seed, changes.get("model")
        )
        folder = _Folder(Path(out), settings, plan, os.fspath(data), seed, precision)
        return _train(folder, model, splits, plan, seed, precision, workers, progress, log)


def _train(
    folder: _Folder,
    model: Module,
    splits: Splits,
    recipe: Recipe,
    seed: int,
    precision: str,
    workers: int,
    progress: bool | None,
    log: Callable[[str], None] | None,
) -> Run:
    began = time.perf_counter()
    steps = folder.settings.preprocessing
    splits = splits.seen_through(steps.transform(recipe.augment), steps.transform())
    train_loader = DataLoader(
        splits.train, recipe.batch_size, shuffle=True, seed=seed, workers=workers
    )
    test_loader = DataLoader(splits.test, recipe.batch_size, workers=workers)
    if log is not None:
        log(
            f"training {recipe.model} on {len(splits.train)} images of {len(splits.classes)} "
            f"classes, testing on {len(splits.test)}, backend {get_backend()}"
            f"{'' if precision == 'fp32' else f', precision {precision}'}"
        )
    optimizer, scheduler, each_batch = make_optimizer(model, recipe, len(train_loader))
    try:
        fit_epochs(
            model,
            optimizer,
            train_loader,
            test_loader,
            recipe.epochs,
            loss_function=smoothed_cross_entropy(recipe.label_smoothing),
            scheduler=scheduler,
            each_batch=each_batch,
            precision=precision,
            on_epoch=lambda metrics, tested: folder.add(model, metrics, tested),
            progress=progress,
            log=log,
        )
    except TrainingError as error:
        raise TrainingError(f"{error}; {folder.what_is_saved()}") from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted: {folder.what_is_saved()}") from None
    assert folder.best is not None  # there is at least one epoch
    assert folder.evaluation is not None
    return Run(
        folder=folder.path,
        model=model,
        settings=folder.settings,
        history=folder.history,
        best=folder.best,
        evaluation=folder.evaluation,
        seconds=round(time.perf_counter() - began, 3),
    )


class _Folder:
    """The files of a run, written anew after each epoch; each is whole at any time."""

    def __init__(
        self,
        path: Path,
        settings: ModelSettings,
        recipe: Recipe,
        data: str,
        seed: int,
        precision: str,
    ) -> None:
        self.path = path
        self.settings = settings
        self.description = {
            "data": data,
            "seed": seed,
            "backend": get_backend(),
            "precision": precision,
            "recipe": recipe.to_dict(),
            "model": settings.to_dict(),
        }
        self.history: list[EpochMetrics] = []
        self.best: EpochMetrics | None = None
        self.evaluation: Evaluation | None = None
        _check_writable(path)

    def file(self, key: str) -> Path:
        return self.path / RUN_FILES[key]

    def add(self, model: Module, metrics: EpochMetrics, tested: Evaluation | None) -> None:
        """Save what an epoch gave."""
        self.history.append(metrics)
        if metrics.best:
            save_model(self.file("best"), model, self.settings)
            self.best, self.evaluation = metrics, tested
            if tested is not None:
                write_text(self.file("predictions"), self._predictions(tested))
        save_model(self.file("last"), model, self.settings)
        write_metrics(self.file("metrics"), [row.to_dict() for row in self.history])
        write_text(self.file("settings"), json.dumps(self.description, indent=2) + "\n")

    def _predictions(self, tested: Evaluation) -> str:
        """The test images in the order of the test set: true class, likeliest class, its share."""
        predicted = tested.predicted
        sure = tested.probabilities[np.arange(len(predicted)), predicted]
        content = {
            "classes": list(self.settings.classes),
            "labels": tested.labels.tolist(),
            "predicted": predicted.tolist(),
            "probability": [round(float(share), 6) for share in sure],
            "loss": tested.loss,
            "accuracy": tested.accuracy,
            "confusion": tested.confusion.tolist(),
        }
        return json.dumps(content) + "\n"

    def what_is_saved(self) -> str:
        """Half a sentence for a run that ended early."""
        if self.best is None:
            return f"nothing of this run is saved in {os.fspath(self.path)!r} yet"
        accuracy = self.best.merit[0]
        return (
            f"{os.fspath(self.file('best'))!r} holds the weights of epoch {self.best.epoch} "
            f"(accuracy {accuracy:.2%})"
        )


def _check_writable(folder: Path) -> None:
    """Make the folder and try to write in it, before hours of training are spent on it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError:
        raise WriteError(f"{os.fspath(folder)!r} is a file: name a folder for the run") from None
    except OSError as error:
        raise WriteError(
            f"can't write in the run folder {os.fspath(folder)!r}: {error.strerror}: get "
            "permission or choose another place"
        ) from None
    for name in RUN_FILES.values():
        if (folder / name).is_dir():
            raise WriteError(
                f"{os.fspath(folder / name)!r} is a folder, but the run writes a file of that "
                "name: choose another run folder"
            )


def evaluate_weights(
    weights: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    architecture: str | None = None,
    batch_size: int = 64,
    seed: int = 0,
    backend: str | None = None,
    precision: str | None = None,
    workers: int = 0,
) -> tuple[Evaluation, ModelSettings]:
    """Evaluate a weight file on the test images of a data set.

    Parameters
    ----------
    weights : str or path-like
        As for `load_model`.
    data : str or path-like
        As for `load_splits`; of a folder that has no split of its own, the fifth that `train_run`
        with this seed held out. ImageNet's folders may have its names or WordNet's ids.
    architecture : str, optional
        What a file that doesn't say so holds.
    batch_size, workers : int
        As for `DataLoader`.
    seed : int
        That of the training run.
    backend : str, optional
        Where to compute; by default the backend in force.
    precision : {None, "fp32", "tf32", "fp16", "bf16"}
        What to compute in, see `npresnet.compile`.

    Raises
    ------
    DataError
        The data has a class that the model doesn't know.
    WeightsError, BackendError
        As `load_model`.
    """
    with use_backend(backend) if backend is not None else contextlib.nullcontext():
        precision = current_backend().plan_precision(precision)
        model, settings = load_model(weights, architecture)
        seen = settings.preprocessing.transform()
        splits = load_splits(data, seed=seed).seen_through(seen, seen)
        test = _renumbered(splits.test, splits.classes, settings)
        loader = DataLoader(test, batch_size, workers=workers)
        return evaluate(Predictor(model, precision), loader), settings


class _Renumbered(Dataset):
    """A data set whose labels are numbered as the model's classes are."""

    def __init__(self, inner: Dataset, numbers: list[int]) -> None:
        super().__init__()
        self.inner = inner
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.inner)

    def load(self, index: int) -> tuple[Any, int]:
        image, label = self.inner[index]
        return image, self.numbers[label]


def _renumbered(data: Dataset, classes: tuple[str, ...], settings: ModelSettings) -> Dataset:
    known = {str(name): number for number, name in enumerate(settings.classes)}
    if settings.classes == imagenet_classes():  # whose folders have the names of WordNet's ids
        known.update({wnid: number for number, wnid in enumerate(imagenet_wnids())})
    unknown = [name for name in classes if name not in known]
    if unknown:
        raise DataError(
            f"the data has classes that the model doesn't know ({', '.join(unknown[:5])}); it "
            f"knows {', '.join(list(known)[:5])}{' ...' if len(known) > 5 else ''}: give the data "
            "that it was trained for"
        )
    return _Renumbered(data, [known[name] for name in classes])
