"""What a model gets right: loss, accuracy, predictions and the confusion between classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from npresnet import functional as F
from npresnet.backend import current_backend, for_arrays
from npresnet.errors import DataError
from npresnet.nn import Module
from npresnet.tape import no_grad
from npresnet.tensor import Tensor

__all__ = ["Batches", "Evaluation", "evaluate", "predict_batches", "to_device"]

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


def to_device(model: Module, images: npt.NDArray[Any]) -> Tensor:
    """Return images as a tensor where the model's parameters live, in their dtype."""
    parameter = next(model.parameters(), None)
    if parameter is None:
        return Tensor(current_backend().asarray(images))
    return Tensor(for_arrays([parameter.data]).asarray(images, dtype=parameter.dtype))


def predict_batches(
    model: Module, batches: Iterable[npt.NDArray[Any]]
) -> Iterator[npt.NDArray[np.float64]]:
    """Yield the logits of each batch, (N, classes), in evaluation mode and without a tape.

    The model's mode is as it was between two batches.

    Parameters
    ----------
    model : Module
        Maps images (N, C, H, W) to logits.
    batches : iterable of float arrays (N, C, H, W)
        As its preprocessing makes them.
    """
    for images in batches:
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with no_grad():
                logits = model(to_device(model, images)).numpy()
        finally:
            for module, mode in modes:
                module.training = mode
        yield np.asarray(logits, dtype=np.float64)


def evaluate(model: Module, loader: Batches) -> Evaluation:
    """Classify every image of a loader.

    Parameters
    ----------
    model : Module
        Maps images to logits; its mode and weights stay as they are.
    loader : DataLoader, or any iterable of (images, labels)
        Images (N, C, H, W), labels (N,) from 0.

    Raises
    ------
    DataError
        The loader is empty, or a label has no output.
    """
    labels: list[npt.NDArray[Any]] = []

    def images() -> Iterator[npt.NDArray[Any]]:
        for x, y in loader:
            labels.append(np.asarray(y, dtype=np.int64))
            yield x

    parts = list(predict_batches(model, images()))
    if not parts or not sum(map(len, parts)):
        raise DataError("there is nothing to evaluate: the loader gave no image")
    logits, targets = np.concatenate(parts), np.concatenate(labels)
    if targets.min() < 0 or targets.max() >= logits.shape[1]:
        raise DataError(
            f"labels run from {targets.min()} to {targets.max()}, but the model has "
            f"{logits.shape[1]} classes: check the data, or train the model for it"
        )
    loss = float(F.cross_entropy(Tensor(logits), targets).item())
    return Evaluation(loss, targets, probabilities(logits))


def probabilities(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Softmax of each row, computed in float64."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: npt.NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return shares.astype(np.float32)
