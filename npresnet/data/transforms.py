"""Steps between an image and the array that a network takes, named and behaving as torchvision's.

The pixel work is Pillow's, the arithmetic of sizes and positions follows torchvision's documented
rules for PIL images (https://docs.pytorch.org/vision/stable/transforms.html), so that results agree
bit for bit. Two things differ on purpose: random steps take a `numpy.random.Generator`, and
`Resize` refuses to make an image of more than `MAX_PIXELS`.

Every step is called as ``step(image, rng=None)``. Steps on images take an image of Pillow's or a
uint8 array (H, W, C) and return an image of Pillow's; `ToArray` ends them with a float32 array
(C, H, W), and `Normalize` works on that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from npresnet.data.geometry import (
    Fill,
    Interpolation,
    PaddingMode,
    Size,
    borders,
    check_interpolation,
    check_padding_mode,
    pad,
    pair,
    resampling,
    shorter_or_pair,
)
from npresnet.data.images import MAX_PIXELS, ImageLike, to_image
from npresnet.errors import DataError, DtypeError, RangeError, ShapeError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "CenterCrop",
    "Compose",
    "Grayscale",
    "Normalize",
    "Pad",
    "Resize",
    "ResizeKeepRatio",
    "ToArray",
    "ToRGB",
    "Transform",
]


class Transform:
    """A step on an image: subclass it and write ``__call__(self, image, rng=None)``.

    A step that chooses at random draws from `rng` alone, so that who gives the generator decides
    whether a run can be repeated; `DataLoader` gives one that depends only on its seed, the epoch
    and the item. With None each call draws anew.
    """

    def __call__(self, image: Any, rng: np.random.Generator | None = None) -> Any:
        """Return the changed image; the argument is left as it was."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(image, rng=None)")

    def __repr__(self) -> str:
        """Name the step and its settings."""
        settings = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_"))
        return f"{type(self).__name__}({settings})"


class Compose(Transform):
    """Several steps, one after the other.

    Parameters
    ----------
    transforms : sequence of Transform or callable
        A callable that is no `Transform` gets the image alone.
    """

    def __init__(self, transforms: Sequence[Transform | Callable[[Any], Any]]) -> None:
        self.transforms = list(transforms)
        for step in self.transforms:
            if not callable(step):
                raise DtypeError(f"Compose expected callables, got {type(step).__name__}")

    def __call__(self, image: Any, rng: np.random.Generator | None = None) -> Any:
        """Apply every step in order, each drawing from the same `rng`."""
        for step in self.transforms:
            image = step(image, rng) if isinstance(step, Transform) else step(image)
        return image


class Resize(Transform):
    """Scale to a given size.

    Parameters
    ----------
    size : int or (height, width)
        An int is the length of the shorter side; the longer becomes ``int(size * long / short)``.
    interpolation : str
        "nearest", "box", "bilinear", "hamming", "bicubic" or "lanczos"; all but "nearest" average
        over the source pixels when shrinking (antialiasing).
    max_size : int, optional
        Upper limit of the longer side, when `size` is an int.

    Raises
    ------
    DataError
        When called: the result would have more than 50 million pixels, or a side of 0.
    """

    def __init__(
        self,
        size: Size,
        interpolation: Interpolation = "bilinear",
        max_size: int | None = None,
    ) -> None:
        self.size = shorter_or_pair("size", size)
        self.interpolation = check_interpolation(interpolation)
        self.max_size = max_size
        if max_size is not None:
            if not isinstance(self.size, int):
                raise RangeError("max_size goes with an int size, got a pair: drop one of the two")
            if max_size <= self.size:
                raise RangeError(
                    f"max_size must be larger than size {self.size} (the shorter side), "
                    f"got {max_size}"
                )

    def output_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of the result for an image of the given width and height."""
        if not isinstance(self.size, int):
            return self.size[1], self.size[0]
        short, long = sorted((width, height))
        new_short, new_long = self.size, int(self.size * long / short)
        if self.max_size is not None and new_long > self.max_size:
            new_short, new_long = int(self.max_size * new_short / new_long), self.max_size
        return (new_short, new_long) if width <= height else (new_long, new_short)

    def __call__(self, image: ImageLike, rng: np.random.Generator | None = None) -> Image:
        """Return the image, scaled."""
        source = to_image(image)
        width, height = self.output_size(*source.size)
        if not 0 < width * height <= MAX_PIXELS:
            raise DataError(
                f"{self!r} would make an image of {source.width} x {source.height} pixels "
                f"{width} x {height}, expected 1 to {MAX_PIXELS:,} pixels: crop it first"
            )
        if (width, height) == source.size:
            return source
        return source.resize((width, height), resampling(self.interpolation))


class ResizeKeepRatio(Resize):
    """Scale so that the image covers a rectangle, or fits into it; timm's step of that name.

    Parameters
    ----------
    size : (height, width)
        The rectangle.
    longest : {0, 1}
        0 covers it, 1 fits into it. Sides are rounded to the nearest, halves to the even.
    interpolation : str
        As for `Resize`.
    """

    def __init__(
        self, size: Size, longest: int = 0, interpolation: Interpolation = "bilinear"
    ) -> None:
        super().__init__(pair("size", size), interpolation)
        if longest not in (0, 1):
            raise RangeError(f"longest expected 0 (cover) or 1 (fit), got {longest!r}")
        self.longest = longest

    def output_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of the result for an image of the given width and height."""
        high, wide = pair("size", self.size)
        ratios = height / high, width / wide
        ratio = max(ratios) if self.longest else min(ratios)
        return round(width / ratio), round(height / ratio)


class CenterCrop(Transform):
    """Cut out the middle; where the image is smaller, pad it first.

    Parameters
    ----------
    size : int or (height, width)
        Of the result. The corner is at ``round((side - size) / 2)``, halves to the even.
    fill : int or tuple of int
        Value of the border, or one value a channel; black by default.
    """

    def __init__(self, size: Size, fill: Fill = 0) -> None:
        self.size = pair("size", size)
        self.fill = fill

    def __call__(self, image: ImageLike, rng: np.random.Generator | None = None) -> Image:
        """Return the middle of the image."""
        source = to_image(image)
        high, wide = self.size
        dx, dy = max(wide - source.width, 0), max(high - source.height, 0)
        source = pad(
            source, (dx // 2, dy // 2, (dx + 1) // 2, (dy + 1) // 2), self.fill, "constant"
        )
        top = round((source.height - high) / 2.0)
        left = round((source.width - wide) / 2.0)
        return source.crop((left, top, left + wide, top + high))


class Pad(Transform):
    """Add a border.

    Parameters
    ----------
    padding : int, (left and right, top and bottom) or (left, top, right, bottom)
        Pixels, none negative.
    fill : int or tuple of int
        Value of the border, or one value a channel, when `padding_mode` is "constant".
    padding_mode : {"constant", "edge", "reflect", "symmetric"}
        What the border shows; "reflect" leaves out the outermost pixel, "symmetric" repeats it.
    """

    def __init__(
        self, padding: Size, fill: Fill = 0, padding_mode: PaddingMode = "constant"
    ) -> None:
        self.padding = borders(padding)
        self.fill = fill
        self.padding_mode = check_padding_mode(padding_mode)

    def __call__(self, image: ImageLike, rng: np.random.Generator | None = None) -> Image:
        """Return the image with its border."""
        return pad(to_image(image), self.padding, self.fill, self.padding_mode)


class Grayscale(Transform):
    """Turn to grey: ``(299 R + 587 G + 114 B) / 1000`` (ITU-R 601-2).

    Parameters
    ----------
    num_output_channels : {1, 3}
        One channel (mode L) or the grey three times (mode RGB).
    """

    def __init__(self, num_output_channels: int = 1) -> None:
        if num_output_channels not in (1, 3):
            raise RangeError(f"num_output_channels expected 1 or 3, got {num_output_channels}")
        self.num_output_channels = num_output_channels

    def __call__(self, image: ImageLike, rng: np.random.Generator | None = None) -> Image:
        """Return the image in grey."""
        grey = to_image(image).convert("L")
        return grey if self.num_output_channels == 1 else grey.convert("RGB")


class ToRGB(Transform):
    """Turn to three channels; grey is repeated, transparency dropped."""

    def __call__(self, image: ImageLike, rng: np.random.Generator | None = None) -> Image:
        """Return the image in mode RGB."""
        return to_image(image).convert("RGB")


class ToArray(Transform):
    """Make the network's array of an image: float32 (C, H, W) from 0 to 1, as ToTensor does.

    Raises
    ------
    DataError
        When called: the image's mode isn't L, RGB, RGBA, CMYK or 1.
    """

    def __call__(
        self, image: ImageLike, rng: np.random.Generator | None = None
    ) -> npt.NDArray[np.float32]:
        """Return the pixels, C-contiguous, each divided by 255."""
        source = to_image(image)
        if source.mode == "1":
            source = source.convert("L")
        if source.mode not in ("L", "RGB", "RGBA", "CMYK"):
            raise DataError(
                f"ToArray expected an image of mode L, RGB, RGBA or CMYK, got {source.mode}: put "
                "ToRGB() or Grayscale() before it"
            )
        pixels = np.atleast_3d(np.asarray(source)).transpose(2, 0, 1)  # (H, W, C) -> (C, H, W)
        scaled: npt.NDArray[np.float32] = np.divide(
            pixels, np.float32(255), dtype=np.float32, order="C"
        )
        return scaled


class Normalize(Transform):
    """Subtract a mean and divide by a standard deviation, channel by channel, in float32.

    Parameters
    ----------
    mean, std : float or sequence of float
        One value, or one for each channel; no `std` is 0.

    Raises
    ------
    RangeError
        A value isn't finite, or a `std` is 0.
    ShapeError
        `mean` and `std` have different lengths; when called, the array isn't (C, H, W) with their
        C.
    DtypeError
        When called: the image isn't a floating-point array.
    """

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        self.mean = tuple(float(v) for v in np.atleast_1d(mean))
        self.std = tuple(float(v) for v in np.atleast_1d(std))
        if not all(map(math.isfinite, self.mean + self.std)) or 0 in self.std:
            raise RangeError(
                f"Normalize expected finite means and non-zero std, got {self.mean}, {self.std}"
            )
        if len(self.mean) != len(self.std) and 1 not in (len(self.mean), len(self.std)):
            raise ShapeError(
                f"Normalize expected as many means as std, got {len(self.mean)} and {len(self.std)}"
            )

    def __call__(
        self, image: npt.NDArray[Any], rng: np.random.Generator | None = None
    ) -> npt.NDArray[Any]:
        """Return a new array (C, H, W)."""
        if not isinstance(image, np.ndarray) or image.dtype.kind != "f":
            what = f"{image.dtype} array" if isinstance(image, np.ndarray) else type(image).__name__
            raise DtypeError(f"Normalize expected a float array, got {what}: put ToArray() first")
        channels = max(len(self.mean), len(self.std))
        if image.ndim != 3 or channels not in (1, image.shape[0]):
            raise ShapeError(
                f"Normalize with {channels} channels expected an array ({channels}, H, W), got "
                f"{image.shape}"
            )
        mean = np.array(self.mean, dtype=image.dtype)[:, None, None]
        std = np.array(self.std, dtype=image.dtype)[:, None, None]
        normal: npt.NDArray[Any] = image - mean
        normal /= std
        return normal
