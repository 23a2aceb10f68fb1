"""Data sets: a length, and for each index an image with its label."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from npresnet.data.transforms import Transform
from npresnet.errors import DataError, DtypeError, RangeError

__all__ = ["ArrayDataset", "Dataset", "Subset"]

AnyTransform: TypeAlias = Transform | Callable[[Any], Any]


class Dataset:
    """Base of the data sets here: subclass it and write `__len__` and `load`.

    `DataLoader` also takes any other object with ``len(d)`` and ``d[i] -> (image, label)``; what
    this class adds is that each item's random transforms can be given their own generator, so that
    a run can be repeated.

    Parameters
    ----------
    transform : Transform or callable, optional
        Applied to every image. A `Transform` of this package also receives the generator; any other
        callable gets the image alone.

    Attributes
    ----------
    classes : list of str or None
        Name of each label, where the data set knows them.
    """

    classes: list[str] | None = None

    def __init__(self, transform: AnyTransform | None = None) -> None:
        if transform is not None and not callable(transform):
            raise DtypeError(
                f"transform expected a callable or None, got {type(transform).__name__}"
            )
        self.transform = transform

    def __len__(self) -> int:
        """Return the number of items."""
        raise NotImplementedError(f"{type(self).__name__} must define __len__")

    def load(self, index: int) -> tuple[Any, int]:
        """Return item `index` (from 0 to len - 1) before any transform: an image, and its label."""
        raise NotImplementedError(f"{type(self).__name__} must define load(index)")

    def get(self, index: int, rng: np.random.Generator | None = None) -> tuple[Any, int]:
        """Return item `index`, its image transformed with randomness from `rng`.

        Parameters
        ----------
        index : int
            From ``-len(self)`` to ``len(self) - 1``.
        rng : numpy.random.Generator, optional
            Source of the random transforms' choices; None draws them anew each time.

        Raises
        ------
        IndexError
            The index is out of range.
        """
        image, label = self.load(self._from_start(index))
        if isinstance(self.transform, Transform):
            image = self.transform(image, rng)
        elif self.transform is not None:
            image = self.transform(image)
        return image, label

    def _from_start(self, index: int) -> int:
        """Turn an index that may count from the end into one from 0."""
        number = operator.index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"index {number} is out of range for {len(self)} items")
        return number % len(self)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Return ``(image, label)``; random transforms draw anew each time."""
        return self.get(index)

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        """Go through the items in order."""
        return (self[i] for i in range(len(self)))


class ArrayDataset(Dataset):
    """Images and labels that are already in memory.

    Parameters
    ----------
    images : array or sequence, length N
        For instance uint8 (N, H, W) or (N, H, W, C), float32 (N, C, H, W), or PIL images.
    labels : sequence of int, length N
        Class of each image.
    transform : Transform or callable, optional
        Applied to every image.

    Raises
    ------
    DataError
        The lengths differ.
    DtypeError
        The labels aren't integers.
    """

    def __init__(
        self,
        images: npt.NDArray[Any] | Sequence[Any],
        labels: npt.ArrayLike,
        transform: AnyTransform | None = None,
    ) -> None:
        super().__init__(transform)
        targets = np.asarray(labels)
        if targets.ndim != 1 or len(targets) != len(images):
            raise DataError(
                f"expected a label for each of {len(images)} images, got labels of shape "
                f"{targets.shape}"
            )
        if targets.dtype.kind not in "iu" and targets.size:
            raise DtypeError(f"labels must be integers, got {targets.dtype}: number the classes")
        self.images = images
        self.labels = targets.astype(np.int64)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def load(self, index: int) -> tuple[Any, int]:
        """Return image and label `index` as they were given."""
        return self.images[index], int(self.labels[index])


class Subset(Dataset):
    """Some items of another data set, in a given order; its transforms apply.

    Parameters
    ----------
    dataset : Dataset
        The whole.
    indices : sequence of int
        Which items, from ``-len(dataset)`` to ``len(dataset) - 1``.

    Raises
    ------
    RangeError
        An index is out of range.
    """

    def __init__(self, dataset: Dataset, indices: Sequence[int]) -> None:
        super().__init__()
        self.dataset = dataset
        self.indices = [operator.index(i) for i in indices]
        self.classes = dataset.classes
        for i in self.indices:
            if not -len(dataset) <= i < len(dataset):
                raise RangeError(f"index {i} is out of range for {len(dataset)} items")

    def __len__(self) -> int:
        """Return the number of chosen items."""
        return len(self.indices)

    def load(self, index: int) -> tuple[Any, int]:
        """Return the chosen item before any transform."""
        return self.dataset.load(self.indices[index] % len(self.dataset))

    def get(self, index: int, rng: np.random.Generator | None = None) -> tuple[Any, int]:
        """Return the chosen item as the whole data set gives it."""
        return self.dataset.get(self.indices[self._from_start(index)], rng)
