"""Steps that change an image at random, for training; named and behaving as torchvision's.

Every choice is drawn from the generator that the step is called with; see `Transform`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from npresnet.data.geometry import (
    Fill,
    Interpolation,
    PaddingMode,
    Size,
    borders,
    check_interpolation,
    check_padding_mode,
    check_pointwise,
    fill_value,
    pad,
    pair,
    resampling,
    span,
    symmetric,
)
from npresnet.data.images import ImageLike, to_image
from npresnet.data.transforms import Transform
from npresnet.errors import DataError, RangeError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "RandomAffine",
    "RandomCrop",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "RandomRotation",
]


class RandomCrop(Transform):
    """Cut out a part at a random place.

    Parameters
    ----------
    size : int or (height, width)
        Of the result.
    padding : int, pair or 4 ints, optional
        Border to add first, as for `Pad`.
    pad_if_needed : bool
        Whether to add what is missing, on both sides, where the image is smaller than `size`.
    fill, padding_mode
        As for `Pad`.

    Raises
    ------
    DataError
        When called: the image is smaller than `size` and `pad_if_needed` is off.
    """

    def __init__(
        self,
        size: Size,
        padding: Size | None = None,
        pad_if_needed: bool = False,
        fill: Fill = 0,
        padding_mode: PaddingMode = "constant",
    ) -> None:
        self.size = pair("size", size)
        self.padding = None if padding is None else borders(padding)
        self.pad_if_needed = pad_if_needed
        self.fill = fill
        self.padding_mode = check_padding_mode(padding_mode)

    def __call__(self, image: ImageLike, rng: np.random.Generator | None = None) -> Image:
        """Return a part of the image, every place equally likely."""
        source = to_image(image)
        high, wide = self.size
        if self.padding is not None:
            source = pad(source, self.padding, self.fill, self.padding_mode)
        if self.pad_if_needed:
            dx, dy = max(wide - source.width, 0), max(high - source.height, 0)
            source = pad(source, (dx, dy, dx, dy), self.fill, self.padding_mode)
        if source.height < high or source.width < wide:
            raise DataError(
                f"RandomCrop expected an image of at least {wide} x {high} pixels, got "
                f"{source.width} x {source.height}: resize first or pass pad_if_needed=True"
            )
        rng = _generator(rng)
        top = int(rng.integers(source.height - high + 1))
        left = int(rng.integers(source.width - wide + 1))
        return source.crop((left, top, left + wide, top + high))


class RandomResizedCrop(Transform):
    """Cut out a part of random area and shape and scale it to one size, as GoogLeNet was trained.

    Parameters
    ----------
    size : int or (height, width)
        Of the result.
    scale : (float, float)
        Smallest and largest part of the area that is kept.
    ratio : (float, float)
        Smallest and largest width over height of the part; drawn evenly in its logarithm. After ten
        parts that don't fit in the image, the largest middle part within `ratio` is taken.
    interpolation : str
        As for `Resize`.
    """

    def __init__(
        self,
        size: Size,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3.0 / 4.0, 4.0 / 3.0),
        interpolation: Interpolation = "bilinear",
    ) -> None:
        self.size = pair("size", size)
        self.scale = span("scale", scale)
        self.ratio = span("ratio", ratio)
        self.interpolation = check_interpolation(interpolation)

    def _part(self, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Left, top, width and height of the part."""
        area = width * height
        log_ratio = (math.log(self.ratio[0]), math.log(self.ratio[1]))
        for _ in range(10):
            target = area * rng.uniform(*self.scale)
            aspect = math.exp(rng.uniform(*log_ratio))
            w = round(math.sqrt(target * aspect))
            h = round(math.sqrt(target / aspect))
            if 0 < w <= width and 0 < h <= height:
                top = int(rng.integers(height - h + 1))
                left = int(rng.integers(width - w + 1))
                return left, top, w, h
        w, h = width, height
        if width / height < self.ratio[0]:
            h = round(width / self.ratio[0])
        elif width / height > self.ratio[1]:
            w = round(height * self.ratio[1])
        return (width - w) // 2, (height - h) // 2, w, h

    def __call__(self, image: ImageLike, rng: np.random.Generator | None = None) -> Image:
        """Return a random part, scaled to the size."""
        source = to_image(image)
        left, top, w, h = self._part(source.width, source.height, _generator(rng))
        part = source.crop((left, top, left + w, top + h))
        return part.resize((self.size[1], self.size[0]), resampling(self.interpolation))


class RandomHorizontalFlip(Transform):
    """Swap left and right with probability `p`."""

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise RangeError(f"p expected a probability from 0 to 1, got {p}")
        self.p = p

    def __call__(self, image: ImageLike, rng: np.random.Generator | None = None) -> Image:
        """Return the image, or its mirror image."""
        from PIL.Image import Transpose

        source = to_image(image)
        if _generator(rng).random() < self.p:
            return source.transpose(Transpose.FLIP_LEFT_RIGHT)
        return source


class RandomRotation(Transform):
    """Turn counter-clockwise about the middle by a random angle.

    Parameters
    ----------
    degrees : float or (float, float)
        Range of the angle; a number ``d`` means from -d to d.
    interpolation : {"nearest", "bilinear", "bicubic"}
        How pixels between pixels are read.
    expand : bool
        Whether the result grows to hold the whole turned image.
    fill : int or tuple of int
        Value of the uncovered corners.
    """

    def __init__(
        self,
        degrees: float | Sequence[float],
        interpolation: Interpolation = "nearest",
        expand: bool = False,
        fill: Fill = 0,
    ) -> None:
        self.degrees = symmetric("degrees", degrees)
        self.interpolation = check_pointwise(interpolation)
        self.expand = expand
        self.fill = fill

    def __call__(self, image: ImageLike, rng: np.random.Generator | None = None) -> Image:
        """Return the turned image."""
        source = to_image(image)
        angle = float(_generator(rng).uniform(*self.degrees))
        method: Any = resampling(self.interpolation)
        fill = fill_value(source, self.fill)
        return source.rotate(angle, resample=method, expand=self.expand, fillcolor=fill)


class RandomAffine(Transform):
    """Turn, shift, scale and shear at random, keeping the middle in the middle.

    Parameters
    ----------
    degrees : float or (float, float)
        Range of the angle, clockwise; a number ``d`` means from -d to d.
    translate : (float, float), optional
        Largest shift across and down, as parts of width and height; rounded to whole pixels.
    scale : (float, float), optional
        Range of the factor.
    shear : float or (float, float), optional
        Range of the shear parallel to the x axis, in degrees; a number ``s`` means from -s to s.
    interpolation : {"nearest", "bilinear", "bicubic"}
        How pixels between pixels are read.
    fill : int or tuple of int
        Value of uncovered pixels.
    """

    def __init__(
        self,
        degrees: float | Sequence[float],
        translate: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
        shear: float | Sequence[float] | None = None,
        interpolation: Interpolation = "nearest",
        fill: Fill = 0,
    ) -> None:
        self.degrees = symmetric("degrees", degrees)
        if translate is not None and not (
            len(translate) == 2 and all(0 <= part <= 1 for part in translate)
        ):
            raise RangeError(f"translate expected two parts from 0 to 1, got {translate}")
        self.translate = None if translate is None else (float(translate[0]), float(translate[1]))
        self.scale = None if scale is None else span("scale", scale)
        self.shear = None if shear is None else symmetric("shear", shear)
        if self.shear is not None and max(map(abs, self.shear)) >= 90:
            raise RangeError(f"shear expected angles between -90 and 90, got {shear}")
        self.interpolation = check_pointwise(interpolation)
        self.fill = fill

    def __call__(self, image: ImageLike, rng: np.random.Generator | None = None) -> Image:
        """Return the moved image, of the same size."""
        from PIL.Image import Transform as Method

        source = to_image(image)
        rng = _generator(rng)
        angle = rng.uniform(*self.degrees)
        shift = (0, 0)
        if self.translate is not None:
            across, down = self.translate[0] * source.width, self.translate[1] * source.height
            shift = round(rng.uniform(-across, across)), round(rng.uniform(-down, down))
        factor = 1.0 if self.scale is None else rng.uniform(*self.scale)
        shear = 0.0 if self.shear is None else rng.uniform(*self.shear)
        matrix = _source_of_each_pixel(source.size, angle, shift, factor, shear)
        method: Any = resampling(self.interpolation)
        fill = fill_value(source, self.fill)
        return source.transform(source.size, Method.AFFINE, matrix, resample=method, fillcolor=fill)


def _source_of_each_pixel(
    size: tuple[int, int],
    degrees: float,
    shift: tuple[int, int],
    factor: float,
    shear: float,
) -> tuple[float, ...]:
    """Pillow's six numbers (a, b, c, d, e, f): output (x, y) shows (ax + by + c, dx + ey + f).

    The image is sheared, scaled and turned about its middle m, then shifted:
    ``out = A (in - m) + m + shift``, hence ``in = A^-1 (out - m - shift) + m``.
    """
    turn, lean = math.radians(degrees), math.radians(shear)
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    forward = factor * rotation @ np.array([[1.0, -math.tan(lean)], [0.0, 1.0]])
    inverse = np.linalg.inv(forward)
    middle = np.array(size) * 0.5
    offset = middle - inverse @ (middle + shift)
    return tuple(np.column_stack([inverse, offset]).ravel().tolist())


def _generator(rng: np.random.Generator | None) -> np.random.Generator:
    return np.random.default_rng() if rng is None else rng
