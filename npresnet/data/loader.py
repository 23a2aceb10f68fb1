"""Batches from a data set, the same for a seed and an epoch whatever number of threads loads them.

Threads suffice: Pillow decodes and scales without holding Python's lock.
"""

from __future__ import annotations

import operator
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from npresnet.data.dataset import Dataset
from npresnet.data.transforms import ToArray
from npresnet.errors import DataError, DtypeError, RangeError

__all__ = ["DataLoader"]

Batch: TypeAlias = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]

_AHEAD = 2  # batches kept loading or ready for each worker


@runtime_checkable
class Indexed(Protocol):
    """Anything with a length whose items are ``(image, label)``."""

    def __len__(self) -> int:
        """Return the number of items."""

    def __getitem__(self, index: int, /) -> Any:
        """Return item `index`."""


class DataLoader:
    """Go through a data set in batches.

    An epoch is a pass over the data, numbered from 0: each ``for`` loop over the loader is the next
    one. `seed` and the epoch's number fix the order, and with the item's index also what the random
    transforms of that item draw; neither batch size nor workers change it.

    Parameters
    ----------
    dataset : Dataset, or anything with ``len(d)`` and ``d[i] -> (image, label)``
        Images are float arrays (C, H, W), all of one shape; images of Pillow's and uint8 arrays
        (H, W, C) are turned into such, from 0 to 1, as by `ToArray`.
    batch_size : int
        Images in a batch; the last may have fewer.
    shuffle : bool
        Whether each epoch has an order of its own.
    drop_last : bool
        Whether to leave out a last batch that isn't full.
    seed : int
        Start of all randomness, at least 0.
    workers : int
        Threads that load ahead, two batches each; 0 loads each batch when it is asked for.

    Attributes
    ----------
    epoch : int
        Number of the next epoch; set it to go on where an earlier run stopped.

    Raises
    ------
    RangeError
        `batch_size` is below 1, or `seed` or `workers` below 0.
    DtypeError
        `dataset` has no length or items.

    Notes
    -----
    An error while an item loads comes out of the loop that asked for its batch. Leaving a loop
    early stops the threads after the items that they are at.
    """

    def __init__(
        self,
        dataset: Dataset | Indexed,
        batch_size: int = 1,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        if not isinstance(dataset, Indexed):
            raise DtypeError(
                f"dataset expected len() and indexing, got {type(dataset).__name__}: "
                "see npresnet.data.Dataset"
            )
        self.dataset = dataset
        self.batch_size = _at_least("batch_size", batch_size, 1)
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = _at_least("seed", seed, 0)
        self.workers = _at_least("workers", workers, 0)
        self.epoch = 0

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        """Begin the next epoch."""
        epoch = self.epoch
        self.epoch += 1
        return self.batches(epoch)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Go through the batches of one epoch.

        Parameters
        ----------
        epoch : int
            Which one, at least 0.

        Yields
        ------
        images : float32 array (N, C, H, W)
            C-contiguous.
        labels : int64 array (N,)
            Their classes.

        Raises
        ------
        DataError
            Images of a batch differ in shape, an item isn't ``(image, label)``, or a label isn't an
            integer; and whatever the data set raises.
        """
        epoch = _at_least("epoch", epoch, 0)
        order = np.arange(len(self.dataset))
        if self.shuffle:
            order = _generator(self.seed, epoch).permutation(len(order))
        size = self.batch_size
        parts = [order[i * size : (i + 1) * size].tolist() for i in range(len(self))]
        return self._ahead(parts, epoch) if self.workers else self._in_turn(parts, epoch)

    def _in_turn(self, parts: list[list[int]], epoch: int) -> Iterator[Batch]:
        never = threading.Event()
        for part in parts:
            yield self._load(part, epoch, never)

    def _ahead(self, parts: list[list[int]], epoch: int) -> Iterator[Batch]:
        """Load in threads, a bounded number of batches ahead, and hand over in order."""
        stopped = threading.Event()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="npresnet-loader")
        try:
            waiting: deque[Future[Batch]] = deque()
            for part in parts:
                waiting.append(pool.submit(self._load, part, epoch, stopped))
                if len(waiting) > _AHEAD * self.workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # also when the caller leaves its loop: the generator is closed then
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _load(self, indices: list[int], epoch: int, stopped: threading.Event) -> Batch:
        images: list[npt.NDArray[Any]] = []
        labels: list[int] = []
        for index in indices:
            if stopped.is_set():
                break
            if isinstance(self.dataset, Dataset):
                item = self.dataset.get(index, _generator(self.seed, epoch, index))
            else:
                item = self.dataset[index]
            image, label = _checked(item, index)
            if images and image.shape != images[0].shape:
                raise DataError(
                    f"image {index} has shape {image.shape}, expected {images[0].shape} as the "
                    "first of its batch: end the transform with Resize((H, W)) or CenterCrop"
                )
            images.append(image)
            labels.append(label)
        return np.array(images, dtype=np.float32), np.array(labels, dtype=np.int64)


_to_array = ToArray()


def _checked(item: Any, index: int) -> tuple[npt.NDArray[Any], int]:
    """Image array (C, H, W) and label of an item."""
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise DataError(f"item {index} expected (image, label), got {type(item).__name__}")
    image, label = item
    if not isinstance(image, np.ndarray) or image.dtype.kind != "f":
        image = _to_array(image)
    if image.ndim != 3:
        raise DataError(f"image {index} expected shape (C, H, W), got {image.shape}")
    try:
        return image, operator.index(label)
    except TypeError:
        raise DataError(
            f"label {index} expected an integer, got {label!r}: number the classes"
        ) from None


def _generator(seed: int, *position: int) -> np.random.Generator:
    """Independent generator for a seed and an epoch, or a seed, an epoch and an item."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=position))


def _at_least(name: str, value: int, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise DtypeError(f"{name} expected an int, got {value!r}") from None
    if number < least:
        raise RangeError(f"{name} expected at least {least}, got {number}")
    return number
