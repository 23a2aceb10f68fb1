"""The training loop: epochs of steps, each epoch followed by an evaluation."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeAlias

import numpy.typing as npt

from npresnet import functional as F
from npresnet.engine import compile_step
from npresnet.engine.request import home
from npresnet.errors import DataError, TrainingError
from npresnet.nn import Module
from npresnet.optim import (
    SGD,
    AdamW,
    CosineAnnealingLR,
    GradScaler,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    Optimizer,
    SequentialLR,
)
from npresnet.tensor import Tensor
from npresnet.training.evaluate import Batches, Evaluation, Predictor, evaluate
from npresnet.training.progress import Progress
from npresnet.training.recipes import Recipe

__all__ = ["EpochMetrics", "LossFunction", "TrainStep", "fit_epochs", "make_optimizer"]

LossFunction: TypeAlias = Callable[[Tensor, Any], Tensor]


@dataclass(frozen=True)
class EpochMetrics:
    """What is known after an epoch: a line of the metrics file.

    Attributes
    ----------
    epoch : int
        From 1.
    train_loss, train_accuracy : float
        Mean over the epoch's batches, as they were trained on: augmented, in training mode.
    test_loss, test_accuracy : float or None
        Of the test images after the epoch; None where there are none.
    lr : float
        Learning rate of the epoch's last step.
    seconds : float
        Since the beginning of the run.
    best : bool
        Whether no earlier epoch was better.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    test_loss: float | None
    test_accuracy: float | None
    lr: float
    seconds: float
    best: bool

    @property
    def merit(self) -> tuple[float, float]:
        """What the best epoch has most of: accuracy, of the test where there is one; low loss."""
        if self.test_accuracy is None or self.test_loss is None:
            return self.train_accuracy, -self.train_loss
        # NaN compares with nothing; an overflow in evaluation is as bad as can be
        return self.test_accuracy, -self.test_loss if math.isfinite(self.test_loss) else -math.inf

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)

    def line(self, epochs: int) -> str:
        """Return one line for people."""
        width = len(str(epochs))
        text = (
            f"epoch {self.epoch:{width}d}/{epochs}  "
            f"train loss {self.train_loss:.4f} accuracy {self.train_accuracy:7.2%}"
        )
        if self.test_accuracy is not None:
            text += f"  test loss {self.test_loss:.4f} accuracy {self.test_accuracy:7.2%}"
        return text + f"  {self.seconds:6.1f} s{'  best' if self.best else ''}"


class Loader(Protocol):
    """Batches that can be counted and gone through once an epoch: `DataLoader`, or a list."""

    def __len__(self) -> int:
        """Return the number of batches."""

    def __iter__(self) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        """Begin an epoch."""


class TrainStep:
    """One step of training, by a compiled plan; eagerly where the model can't be traced.

    Parameters
    ----------
    model : Module
        Maps images (N, C, H, W) to logits (N, classes).
    loss_function : callable
        ``loss_function(logits, labels)`` gives the mean loss of a batch.
    optimizer : Optimizer
        Changes the model's parameters.
    precision, scaler : optional
        As for `npresnet.compile_step`.

    Attributes
    ----------
    scaler : GradScaler or None
        What scales the loss; where none was given, None before the first step.
    """

    def __init__(
        self,
        model: Module,
        loss_function: LossFunction,
        optimizer: Optimizer,
        precision: str | None = None,
        scaler: GradScaler | None = None,
    ) -> None:
        self._model, self._loss_function, self._optimizer = model, loss_function, optimizer
        self._precision, self.scaler = precision, scaler
        self._plan: Any = None

    def __call__(
        self, images: npt.NDArray[Any], labels: npt.NDArray[Any]
    ) -> tuple[float, npt.NDArray[Any]]:
        """Take a step; return the loss and the logits that it was computed from.

        Raises
        ------
        TrainingError
            The loss isn't a finite number; then no parameter was changed.
        """
        backend, dtype = home(self._model)
        plan = self._plan
        if plan is None or plan.shape[0] < len(images) or plan.shape[1:] != images.shape[1:]:
            plan = self._plan = compile_step(
                self._model,
                self._loss_function,
                self._optimizer,
                images.shape,
                fallback="eager",
                precision=self._precision,
                scaler=self.scaler,
            )
            self.scaler = plan.scaler  # the next plan goes on with it
        loss: float = plan(backend.asarray(images, dtype=dtype), labels)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss}: lower the learning rate "
                f"(lr={_rate(self._optimizer):g} now), and check that the images hold finite "
                "numbers"
            )
        return loss, backend.to_numpy(plan.output)


def make_optimizer(
    model: Module, recipe: Recipe, steps_per_epoch: int
) -> tuple[Optimizer, LRScheduler | None, bool]:
    """Return the optimizer and schedule of a recipe.

    Returns
    -------
    optimizer : Optimizer
        Weight decay is for tensors of two or more dimensions: biases and batch norms are left
        alone.
    scheduler : LRScheduler or None
        None for a constant learning rate.
    each_batch : bool
        Whether the schedule is stepped after each batch rather than after each epoch.
    """
    learned = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": part, "weight_decay": decay}
        for part, decay in (
            ([p for p in learned if p.ndim > 1], recipe.weight_decay),
            ([p for p in learned if p.ndim <= 1], 0.0),
        )
        if part
    ]
    optimizer: Optimizer
    if recipe.optimizer == "sgd":
        optimizer = SGD(groups, recipe.lr, recipe.momentum, nesterov=recipe.momentum > 0)
    else:
        optimizer = AdamW(groups, recipe.lr)
    epochs = recipe.epochs
    if recipe.schedule == "one_cycle":
        steps = max(epochs * steps_per_epoch, 2)
        cycle = OneCycleLR(
            optimizer,
            recipe.lr,
            total_steps=steps,
            pct_start=recipe.warm_up,
            cycle_momentum=recipe.optimizer == "sgd" and recipe.momentum > 0,
            base_momentum=max(recipe.momentum - 0.05, 0.0),
            max_momentum=min(recipe.momentum + 0.05, 0.99),
        )
        return optimizer, cycle, True
    if recipe.schedule == "cosine":
        warm = round(recipe.warm_up * epochs)
        fall = CosineAnnealingLR(optimizer, max(epochs - warm, 1))
        if not warm:
            return optimizer, fall, False
        rise = LinearLR(optimizer, 1 / (warm + 1), total_iters=warm)
        return optimizer, SequentialLR(optimizer, [rise, fall], [warm]), False
    if recipe.schedule == "step":
        thirds = [math.ceil(epochs / 3), math.ceil(2 * epochs / 3)]
        return optimizer, MultiStepLR(optimizer, thirds), False
    return optimizer, None, False


def fit_epochs(
    model: Module,
    optimizer: Optimizer,
    train_loader: Loader,
    test_loader: Batches | None = None,
    epochs: int = 1,
    *,
    loss_function: LossFunction = F.cross_entropy,
    scheduler: LRScheduler | None = None,
    each_batch: bool = False,
    precision: str | None = None,
    scaler: GradScaler | None = None,
    on_epoch: Callable[[EpochMetrics, Evaluation | None], None] | None = None,
    progress: bool | None = False,
    log: Callable[[str], None] | None = None,
) -> list[EpochMetrics]:
    """Train a model.

    Parameters
    ----------
    model : Module
        Maps images (N, C, H, W) to logits (N, classes). It is left in evaluation mode.
    optimizer : Optimizer
        Changes the model's parameters.
    train_loader : DataLoader, or a list of (images, labels)
        Gone through once an epoch.
    test_loader : DataLoader, or a list of (images, labels), optional
        Evaluated after each epoch.
    epochs : int
        How many.
    loss_function : callable
        ``loss_function(logits, labels)`` gives the mean loss of a batch.
    scheduler : LRScheduler, optional
        Stepped after each epoch, or each batch with `each_batch`.
    precision : {None, "fp32", "tf32", "fp16", "bf16"}
        What to compute in, see `npresnet.compile_step`; evaluations too.
    scaler : GradScaler, optional
        Scales the loss; ``"fp16"`` has a new one if none is given.
    on_epoch : callable, optional
        Called after each epoch with its metrics and the evaluation of the test images.
    progress : bool or None
        Whether to draw a bar on standard error; None where that is a terminal.
    log : callable, optional
        Receives a line of text for each epoch.

    Returns
    -------
    list of EpochMetrics
        One for each epoch.

    Raises
    ------
    TrainingError
        The loss isn't a finite number, or gradients overflow however little it is scaled.
    DataError
        The loader is empty.
    BackendError, DtypeError, GraphError
        The model can't be computed in that precision.
    """
    if len(train_loader) == 0:
        raise DataError("there is nothing to train on: the loader gave no batch")
    history: list[EpochMetrics] = []
    step = TrainStep(model, loss_function, optimizer, precision, scaler)
    predict = Predictor(model, precision)
    began = time.perf_counter()
    with Progress(epochs * len(train_loader), progress, log) as bar:
        for epoch in range(1, epochs + 1):
            model.train()
            seen, correct, total = 0, 0, 0.0
            rate = _rate(optimizer)
            for images, labels in train_loader:
                rate = _rate(optimizer)
                loss, logits = step(images, labels)
                if scheduler is not None and each_batch:
                    scheduler.step()
                seen += len(labels)
                correct += int((logits.argmax(axis=1) == labels).sum())
                total += loss * len(labels)
                bar.advance(epoch, epochs, loss)
            if scheduler is not None and not each_batch:
                scheduler.step()
            model.eval()
            tested = None if test_loader is None else evaluate(predict, test_loader)
            metrics = EpochMetrics(
                epoch=epoch,
                train_loss=total / max(seen, 1),
                train_accuracy=correct / max(seen, 1),
                test_loss=None if tested is None else tested.loss,
                test_accuracy=None if tested is None else tested.accuracy,
                lr=rate,
                seconds=round(time.perf_counter() - began, 3),
                best=True,
            )
            if any(metrics.merit <= earlier.merit for earlier in history):
                metrics = EpochMetrics(**{**metrics.to_dict(), "best": False})
            history.append(metrics)
            bar.say(metrics.line(epochs))
            if on_epoch is not None:
                on_epoch(metrics, tested)
    return history


def _rate(optimizer: Optimizer) -> float:
    return float(optimizer.param_groups[0]["lr"])


def smoothed_cross_entropy(label_smoothing: float) -> LossFunction:
    """Return the cross-entropy with a share of each target spread over all classes."""
    return functools.partial(F.cross_entropy, label_smoothing=label_smoothing)
