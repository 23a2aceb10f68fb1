"""The images of a run: the digits, or a folder of class folders, in training and test images."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from npresnet.data import Dataset, Digits, ImageFolder, Subset
from npresnet.data.dataset import AnyTransform
from npresnet.errors import DataError

__all__ = ["DIGITS", "Splits", "hold_out", "load_splits"]

DIGITS = "digits"

_TEST_FOLDERS = ("test", "val", "valid", "validation")
_HELD_OUT = 0.2


@dataclass(frozen=True)
class Splits:
    """Training and test images of one data set.

    Attributes
    ----------
    train, test : Dataset
        Items are ``(image, label)``.
    classes : tuple of str
        Name of each label.
    """

    train: Dataset
    test: Dataset
    classes: tuple[str, ...]

    def seen_through(self, train_transform: AnyTransform, test_transform: AnyTransform) -> Splits:
        """Return the same images, transformed."""
        return replace(
            self,
            train=_transformed(self.train, train_transform),
            test=_transformed(self.test, test_transform),
        )


def load_splits(data: str | os.PathLike[str], *, seed: int = 0) -> Splits:
    """Open a data set; its images as they are.

    Parameters
    ----------
    data : str or path-like
        ``"digits"``, or a folder. The folder holds ``train`` and ``test`` (or ``val``), each with a
        folder for each class; or the class folders themselves, of which a fifth of the images is
        held out for the test.
    seed : int
        Which fifth.

    Raises
    ------
    DataError
        There is no such folder, it has no images, or the classes of its two parts differ.
    """
    if data == DIGITS:
        train, test = Digits("train"), Digits("test")
        return Splits(train, test, tuple(train.classes or ()))
    root = os.fspath(data)
    if not os.path.isdir(root):
        raise DataError(
            f"there is no folder {root!r}: give a folder of class folders, or {DIGITS!r}"
        )
    tests = [name for name in _TEST_FOLDERS if os.path.isdir(os.path.join(root, name))]
    if os.path.isdir(os.path.join(root, "train")) and tests:
        return _two_folders(root, tests[0])
    whole = ImageFolder(root)
    kept, held = hold_out(whole.targets, _HELD_OUT, seed)
    if not held:
        raise DataError(
            f"{root!r} has a single image in every class: give at least two, one to train with and "
            "one to test with"
        )
    return Splits(Subset(whole, kept), Subset(whole, held), tuple(whole.classes))


def _two_folders(root: str, test: str) -> Splits:
    first, second = (ImageFolder(os.path.join(root, name)) for name in ("train", test))
    if first.classes != second.classes:
        odd = set(first.classes) ^ set(second.classes)
        raise DataError(
            f"train and {test} of {root!r} must have the same class folders; only one has "
            f"{', '.join(sorted(odd)[:5])}"
        )
    return Splits(first, second, tuple(first.classes))


def _transformed(data: Dataset, transform: AnyTransform) -> Dataset:
    """A copy that shares the images."""
    if isinstance(data, Subset):
        return Subset(_transformed(data.dataset, transform), data.indices)
    other = copy.copy(data)
    other.transform = transform
    return other


def hold_out(labels: Sequence[int], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Choose a share of each class at random: indices that stay, and indices held out.

    A class of two or more images gives at least one and keeps at least one.
    """
    rng = np.random.default_rng(seed)
    targets = np.asarray(labels)
    held: list[int] = []
    for label in np.unique(targets):
        members = rng.permutation(np.flatnonzero(targets == label))
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        held += members[:count].tolist()
    held.sort()
    chosen = set(held)
    return [i for i in range(len(targets)) if i not in chosen], held
