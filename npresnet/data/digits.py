"""The UCI handwritten digits: 1,797 images of 8x8 pixels that come with the package.

E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits. UCI Machine Learning Repository,
1998. https://doi.org/10.24432/C50P49. Licence: CC BY 4.0.

How ``files/digits.npz`` came about: its rows are those of ``digits.csv.gz`` in scikit-learn, a copy
of the test set at UCI (13 writers, 1,797 images), in the same order. ``images`` are the 64 values
of a row as uint8 (8, 8), each the number of inked pixels (0 to 16) in a 4x4 block of a 32x32
bitmap; ``labels`` are the digits; ``test`` marks the 360 images of the test split. The split is
part of the file: the rows stable-sorted by digit, then every fifth one from the first on, so that
each digit gives a fifth of its images (35 to 37).
"""

from __future__ import annotations

from importlib import resources
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from npresnet.data.dataset import AnyTransform, ArrayDataset
from npresnet.data.images import to_image
from npresnet.errors import RangeError

__all__ = ["Digits", "load_digits"]

Split = Literal["train", "test"]


def load_digits(
    split: Split = "train",
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Read one part of the digits.

    Parameters
    ----------
    split : {"train", "test"}
        1,437 or 360 images, the same on every machine.

    Returns
    -------
    images : uint8 array (N, 8, 8)
        White ink on black, 0 to 255: the stored 0 to 16 times 255/16, rounded to the nearest.
        ``np.rint(images / 255 * 16)`` gives the stored values back.
    labels : int64 array (N,)
        The digit on each image, 0 to 9.

    Raises
    ------
    RangeError
        `split` is neither.
    """
    if split not in ("train", "test"):
        raise RangeError(f'split expected "train" or "test", got {split!r}')
    source = resources.files(__package__).joinpath("files", "digits.npz")
    with source.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        chosen = stored["test"] == (split == "test")
        ink = stored["images"][chosen].astype(np.uint16)
        labels = stored["labels"][chosen].astype(np.int64)
    return ((ink * 255 + 8) // 16).astype(np.uint8), labels


class Digits(ArrayDataset):
    """The digits as a data set of images.

    Items are ``(image, label)``: a PIL image of mode L, 8x8, and an int from 0 to 9.

    Parameters
    ----------
    split : {"train", "test"}
        Which part.
    transform : Transform or callable, optional
        Applied to every image.

    Raises
    ------
    RangeError
        `split` is neither.
    """

    def __init__(self, split: Split = "train", transform: AnyTransform | None = None) -> None:
        super().__init__(*load_digits(split), transform=transform)
        self.split = split
        self.classes = [str(digit) for digit in range(10)]

    def load(self, index: int) -> tuple[Any, int]:
        """Return image `index` as a PIL image, and its digit."""
        image, label = super().load(index)
        return to_image(image), label
