"""What a model gets right: loss, accuracy, predictions and the confusion between classes."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from npresnet import functional as F
from npresnet.backend import Backend, use_backend
from npresnet.engine import compile
from npresnet.engine.request import home
from npresnet.errors import DataError
from npresnet.nn import Module
from npresnet.tensor import Tensor

__all__ = ["Batches", "Evaluation", "Predictor", "evaluate", "probabilities"]

Batches: TypeAlias = Iterable[tuple[npt.NDArray[Any], npt.NDArray[Any]]]


@dataclass(frozen=True)
class Evaluation:
    """How a model did on some labelled images, in the order in which they came.

    Attributes
    ----------
    loss : float
        Mean cross-entropy.
    labels : int64 array (N,)
        The true classes.
    probabilities : float32 array (N, classes)
        What the model says.
    """

    loss: float
    labels: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """The likeliest class of each image, (N,)."""
        likeliest: npt.NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return likeliest

    @property
    def correct(self) -> int:
        """Number of images whose likeliest class is the true one."""
        return int((self.predicted == self.labels).sum())

    @property
    def accuracy(self) -> float:
        """Share of images whose likeliest class is the true one."""
        return self.correct / len(self.labels)

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """How many images of class i were taken for class j: (classes, classes)."""
        classes = self.probabilities.shape[1]
        counts = np.bincount(self.labels * classes + self.predicted, minlength=classes**2)
        return counts.reshape(classes, classes)


class Predictor:
    """The logits of batches, by compiled plans; eagerly where the model can't be traced.

    Plans follow the model's weights. Several threads may call one predictor.

    Parameters
    ----------
    model : Module
        Maps images (N, C, H, W) to logits (N, classes); evaluated as in evaluation mode, its own
        mode stays.
    precision : {None, "fp32", "tf32", "fp16", "bf16"}
        What plans compute in, see `npresnet.compile`; another one may be set later.
    """

    def __init__(self, model: Module, precision: str | None = None) -> None:
        self.precision = precision
        self._model = model
        self._plans: dict[tuple[int, ...], Any] = {}  # by the shape of an image
        self._lock = threading.Lock()

    def __call__(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return the logits (N, classes) of images (N, C, H, W)."""
        backend, dtype = home(self._model)
        plan = self._plan(images.shape, backend)
        logits = plan(backend.asarray(images, dtype=dtype))
        return np.asarray(backend.to_numpy(logits), dtype=np.float64)

    def _plan(self, shape: tuple[int, ...], backend: Backend) -> Any:
        """Return a plan for at least so many images; it grows with the largest batch."""
        precision = backend.plan_precision(self.precision)
        with self._lock:
            plan = self._plans.get(shape[1:])
            if (
                plan is None
                or plan.shape[0] < shape[0]
                or (plan.backend, plan.precision) != (backend, precision)
            ):
                largest = (max(shape[0], 1), *shape[1:])
                plan = compile(self._model, largest, fallback="eager", precision=precision)
                self._plans[shape[1:]] = plan
            return plan


def evaluate(model: Module | Predictor, loader: Batches) -> Evaluation:
    """Classify every image of a loader.

    Parameters
    ----------
    model : Module or Predictor
        Maps images to logits; its mode and weights stay as they are. A predictor keeps its plans
        for the next time.
    loader : DataLoader, or any iterable of (images, labels)
        Images (N, C, H, W), labels (N,) from 0.

    Raises
    ------
    DataError
        The loader is empty, or a label has no output.
    """
    predict = model if isinstance(model, Predictor) else Predictor(model)
    labels: list[npt.NDArray[Any]] = []
    parts: list[npt.NDArray[np.float64]] = []
    for images, targets in loader:
        parts.append(predict(images))
        labels.append(np.asarray(targets, dtype=np.int64))
    if not parts or not sum(map(len, parts)):
        raise DataError("there is nothing to evaluate: the loader gave no image")
    logits, truth = np.concatenate(parts), np.concatenate(labels)
    if truth.min() < 0 or truth.max() >= logits.shape[1]:
        raise DataError(
            f"labels run from {truth.min()} to {truth.max()}, but the model has "
            f"{logits.shape[1]} classes: check the data, or train the model for it"
        )
    with use_backend("reference"):  # a few numbers, once: Numba would be loaded for them alone
        loss = float(F.cross_entropy(Tensor(logits), Tensor(truth)).item())
    return Evaluation(loss, truth, probabilities(logits))


def probabilities(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Softmax of each row, computed in float64."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: npt.NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return shares.astype(np.float32)
