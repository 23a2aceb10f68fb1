"""Images and labels of every form that a classifier takes."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from npresnet.backend import adopt, in_main_memory
from npresnet.data import Dataset, read_image, to_image
from npresnet.errors import DataError, DtypeError, RangeError, ShapeError
from npresnet.weights.preprocessing import MAX_SIDE, Preprocessing

__all__ = [
    "Images",
    "Items",
    "Table",
    "class_array",
    "items_of",
    "label_list",
    "of_sklearn",
    "plain",
    "sorted_classes",
]

Images: TypeAlias = Any  # paths, PIL images or uint8 arrays in a sequence, or one array of them


class Items(Dataset):
    """Images of any form, one by one.

    Parameters
    ----------
    images : sequence
        As `items_of` has looked at it.
    """

    def __init__(self, images: Sequence[Any] | npt.NDArray[Any]) -> None:
        super().__init__()
        self.images = images
        self.labels: list[int] = [0] * len(images)

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int) -> tuple[Any, int]:
        """Return an image as Pillow's, and its label."""
        image = self.images[index]
        if isinstance(image, str | os.PathLike):
            return read_image(image), self.labels[index]
        try:
            return to_image(in_main_memory(adopt(image))), self.labels[index]
        except (DtypeError, ShapeError) as error:
            raise type(error)(f"image {index}: {error}") from None

    def seen_by(self, preprocessing: Preprocessing, augment: str = "none") -> Items:
        """Return the same images as a network of this preprocessing takes them."""
        other = type(self)(self.images)
        other.labels = self.labels
        other.transform = preprocessing.transform(augment)
        return other

    def sizes(self, most: int) -> list[tuple[int, int]]:
        """Return (height, width) of some images, spread evenly."""
        chosen = np.unique(np.linspace(0, len(self) - 1, min(len(self), most)).astype(int))
        images = (self.load(int(index))[0] for index in chosen)
        return [(image.height, image.width) for image in images]

    @property
    def are_grey(self) -> bool:
        """Whether all are arrays of one channel, or images of a grey mode."""
        return all(
            (len(image.shape) == 2 or image.shape[-1] == 1)
            if hasattr(image, "shape")
            else getattr(image, "mode", None) in ("1", "L")
            for image in self.images
        )


class Table(Items):
    """Rows of numbers (N, F), each the pixels of an image in one line.

    They are normalised by the mean and the deviation of all pixels, and neither scaled nor
    augmented.
    """

    def load(self, index: int) -> tuple[Any, int]:
        """Return a row and its label."""
        return self.images[index], self.labels[index]

    @property
    def features(self) -> int:
        """Numbers in a row, F."""
        columns: int = np.shape(self.images)[1]
        return columns

    @property
    def preprocessing(self) -> Preprocessing:
        """What a new network makes of such rows: squares if F is a square number, else lines.

        Raises
        ------
        RangeError
            If a row is longer than the largest image.
        """
        if self.features > MAX_SIDE**2:
            raise RangeError(f"a row holds an image of up to {MAX_SIDE**2} pixels")
        side = math.isqrt(self.features)
        size = (side, side) if side**2 == self.features else (1, self.features)
        return Preprocessing(
            size=size,
            channels=1,
            mean=(float(np.mean(self.images)),),
            std=(float(np.std(self.images)) or 1.0,),
            table=True,
        )

    def seen_by(self, preprocessing: Preprocessing, augment: str = "none") -> Items:
        """Return the same rows as a network of this preprocessing takes them.

        Raises
        ------
        ShapeError
            It takes images, or rows of another length.
        """
        if not preprocessing.table:
            raise ShapeError(
                f"this network takes images, got a table (N, {self.features}): pass uint8 arrays "
                "(N, H, W). Reshape your data"
            )
        if preprocessing.features != self.features:  # in scikit-learn's words
            raise ShapeError(
                f"X has {self.features} features, but Classifier is expecting "
                f"{preprocessing.features} features as input"
            )
        shape = (preprocessing.channels, *preprocessing.size)
        mean = np.reshape(preprocessing.mean, (-1, 1, 1))
        std = np.reshape(preprocessing.std, (-1, 1, 1))
        other = Table(self.images)
        other.labels = self.labels
        other.transform = lambda row: ((row.reshape(shape) - mean) / std).astype(np.float32)
        return other


def items_of(images: Images) -> Items:
    """Return images of any form as a data set.

    Parameters
    ----------
    images : array, DataFrame or sequence
        A list of paths, of Pillow's images or of uint8 arrays; one uint8 array (N, H, W) or
        (N, H, W, C); or a table of other numbers (N, F), an array or a DataFrame.

    Raises
    ------
    DtypeError, ShapeError, DataError
        It is something else.
    """
    if isinstance(images, str | bytes | os.PathLike) or hasattr(images, "convert"):
        raise DtypeError(
            f"expected a list of images, got one {type(images).__name__}: pass [image]"
        )
    if hasattr(images, "toarray"):
        raise DtypeError(
            f"sparse data isn't supported, got {type(images).__name__}: pass images.toarray()"
        )
    images = in_main_memory(adopt(images))
    if hasattr(images, "columns"):  # a DataFrame
        images = images.to_numpy()
    elif _has_only_an_array(images) or (
        isinstance(images, list | tuple) and images and _is_row(images[0])
    ):
        images = np.asarray(images)
    if isinstance(images, np.ndarray):
        if images.ndim == 2 and images.dtype != np.uint8:
            return Table(_numbers(images))
        if images.dtype != object:
            _check_images(images)
            return Items(images)
    if isinstance(images, Mapping) or not isinstance(images, Iterable):
        raise DtypeError(f"expected a list of images, got {type(images).__name__}")
    return Items(list(images))


def _has_only_an_array(value: Any) -> bool:
    """Whether a value can't be gone through, but gives an array."""
    return hasattr(value, "__array__") and not isinstance(value, np.ndarray | Iterable)


def _is_row(value: Any) -> bool:
    """Whether a value is a list of numbers, or a line of them in an array of any but uint8."""
    if isinstance(value, list | tuple):
        return all(isinstance(number, int | float | np.number) for number in value)
    return isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "fiu"


def _check_images(images: npt.NDArray[Any]) -> None:
    if images.ndim not in (3, 4) or (images.ndim == 3 and images.shape[-1] in (3, 4)):
        raise ShapeError(
            f"expected images of shape (N, H, W) or (N, H, W, C), or a table of floats (N, F), got "
            f"{images.shape}. Reshape your data: pass a single image as image[None]"
        )
    if images.dtype != np.uint8:
        raise DtypeError(
            f"expected images of dtype uint8, from 0 to 255, got {images.dtype}: scale and convert "
            "them"
        )


def _numbers(table: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return a table in float64, refused in scikit-learn's words."""
    if np.iscomplexobj(table):
        raise DataError("Complex data not supported: pass real numbers")
    try:
        numbers = table.astype(np.float64)
    except TypeError as error:
        raise DtypeError(f"a table holds numbers: {error}") from None
    except ValueError as error:
        raise DataError(f"a table holds numbers: {error}") from None
    if not numbers.shape[1]:
        raise ShapeError(
            f"Found array with 0 feature(s) (shape={numbers.shape}) while a minimum of 1 is "
            "required."
        )
    if not np.isfinite(numbers).all():
        raise DataError("the table contains NaN or infinity: fill or leave out such rows")
    return numbers


def label_list(labels: Any, count: int) -> list[Any]:
    """Return the labels as Python's own values, one for each image.

    Parameters
    ----------
    labels : iterable
        A list, a NumPy array, a pandas Series, an array of another library; (N,) or (N, 1).
    count : int
        Number of images.

    Raises
    ------
    DtypeError, DataError
        They are no labels, one is missing, or there are more or fewer than images.
    """
    if labels is None:
        raise DataError(
            "fit requires y to be passed, but the target y is None: a label for each image"
        )
    labels = in_main_memory(adopt(labels))
    if hasattr(labels, "columns"):  # a DataFrame
        labels = labels.to_numpy()
    elif _has_only_an_array(labels):
        labels = np.asarray(labels)
    if isinstance(labels, str | bytes) or not isinstance(labels, Iterable):
        raise DtypeError(f"expected a label for each image, got {type(labels).__name__}")
    if isinstance(labels, np.ndarray) and labels.ndim == 2 and labels.shape[1] == 1:
        warnings.warn(
            "A column-vector y was passed when a 1d array was expected: pass y.ravel()",
            of_sklearn("DataConversionWarning", UserWarning),
            stacklevel=3,
        )
        labels = labels.ravel()
    names = [plain(name) for name in labels]
    if len(names) != count:
        raise DataError(f"expected a label for each of {count} images, got {len(names)} labels")
    for i, name in enumerate(names):
        try:
            hash(name)
        except TypeError:
            raise DtypeError(
                f"label {i} is a {type(name).__name__}, expected a name or a number: pass one "
                "label an image"
            ) from None
        if _is_missing(name):
            raise DataError(
                f"label {i} is {name!r}: Input y contains NaN, infinity or nothing; leave out "
                "images without a label"
            )
    return names


def _is_missing(name: Any) -> bool:
    """Whether a label is None, no finite number, or what pandas puts in their place."""
    if isinstance(name, float):
        return not math.isfinite(name)
    return name is None or type(name).__name__ in ("NAType", "NaTType")


def plain(value: Any) -> Any:
    """Return a number of NumPy's, or an array without dimensions, as Python's own."""
    return value.item() if hasattr(value, "item") and not getattr(value, "shape", ()) else value


def sorted_classes(names: list[Any]) -> tuple[Any, ...]:
    """Return the distinct labels in order.

    Raises
    ------
    DataError
        There are fewer than two.
    DtypeError
        They are of kinds that can't be sorted together.
    """
    distinct = set(names)
    if len(distinct) < 2:
        kinds = "1 class" if distinct else "0 classes"
        raise DataError(f"fit needs images of at least two classes, got {kinds}")
    try:
        return tuple(sorted(distinct))
    except TypeError:
        kinds = ", ".join(sorted({type(name).__name__ for name in distinct}))
        raise DtypeError(f"labels of kinds {kinds} can't be sorted: pass all of one kind") from None


def class_array(classes: Sequence[Any]) -> npt.NDArray[Any]:
    """Return an array that gives each class back as it was: tuples stay tuples."""
    kinds = {type(name) for name in classes}
    if len(kinds) == 1 and kinds <= {str, int, float, bool}:
        return np.array(classes)
    array = np.empty(len(classes), dtype=object)
    array[:] = classes
    return array


def of_sklearn(name: str, otherwise: type[Any]) -> type[Any]:
    """Return an exception of scikit-learn's, where that is in use; it is never imported here."""
    found: type[Any] = getattr(sys.modules.get("sklearn.exceptions"), name, otherwise)
    return found
