"""What image steps share: the forms their arguments come in, and borders."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar, get_args

import numpy as np

from npresnet.errors import DtypeError, RangeError, ShapeError

if TYPE_CHECKING:
    from PIL.Image import Image, Resampling

Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
PaddingMode = Literal["constant", "edge", "reflect", "symmetric"]
Size: TypeAlias = int | Sequence[int]
Fill: TypeAlias = int | tuple[int, ...]
Name = TypeVar("Name", bound=str)


def pad(
    image: Image, border: tuple[int, int, int, int], fill: Fill, padding_mode: PaddingMode
) -> Image:
    """Add (left, top, right, bottom) pixels."""
    from PIL import Image as pil
    from PIL import ImageOps

    if not any(border):
        return image
    if padding_mode == "constant":
        return ImageOps.expand(image, border=border, fill=fill_value(image, fill))
    left, top, right, bottom = border
    pixels = np.asarray(image)
    widths = [(top, bottom), (left, right), (0, 0)][: pixels.ndim]
    padded = pil.fromarray(np.pad(pixels, widths, mode=padding_mode))
    if image.mode == "P":
        padded.putpalette(image.getpalette() or [])
    return padded


def fill_value(image: Image, fill: Fill) -> int | tuple[int, ...]:
    """One value a channel, or one value for an image of one channel."""
    channels = len(image.getbands())
    values = (fill,) * channels if isinstance(fill, int) else tuple(fill)
    if len(values) != channels:
        raise ShapeError(
            f"fill expected one value or {channels} (mode {image.mode}), got {len(values)}"
        )
    return values[0] if channels == 1 else values


def resampling(name: Interpolation) -> Resampling:
    """Pillow's constant for a way of scaling."""
    from PIL.Image import Resampling

    return Resampling[name.upper()]


def check_interpolation(name: Interpolation) -> Interpolation:
    """Pass a way of scaling through, or say which there are."""
    return _one_of("interpolation", name, get_args(Interpolation))


def check_pointwise(name: Interpolation) -> Interpolation:
    """Pass a way of reading between pixels through, or say which there are."""
    return _one_of("interpolation", name, ("nearest", "bilinear", "bicubic"))


def check_padding_mode(name: PaddingMode) -> PaddingMode:
    """Pass a kind of border through, or say which there are."""
    return _one_of("padding_mode", name, get_args(PaddingMode))


def _one_of(argument: str, name: Name, known: Sequence[str]) -> Name:
    if name not in known:
        raise RangeError(f"{argument} expected one of {', '.join(known)}, got {name!r}")
    return name


def shorter_or_pair(name: str, size: Size) -> int | tuple[int, int]:
    """Keep an int (or a sequence of one) as an int; check a pair."""
    sides = pair(name, size)
    return sides[0] if np.size(size) == 1 else sides


def pair(name: str, size: Size) -> tuple[int, int]:
    """(height, width) from an int, a sequence of one or a pair, each at least 1."""
    values = _ints(name, size)
    if len(values) not in (1, 2) or min(values) < 1:
        raise RangeError(f"{name} expected a positive int or (height, width), got {size!r}")
    return values[0], values[-1]


def borders(padding: Size) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) from an int, (left and right, top and bottom) or all four."""
    values = _ints("padding", padding)
    if len(values) not in (1, 2, 4) or min(values) < 0:
        raise RangeError(f"padding expected 1, 2 or 4 ints of at least 0, got {padding!r}")
    left, top, right, bottom = values * (4 // len(values))
    return left, top, right, bottom


def _ints(name: str, value: Size) -> tuple[int, ...]:
    try:
        return tuple(operator.index(v) for v in np.atleast_1d(np.asarray(value)))
    except TypeError:
        raise DtypeError(f"{name} expected an int or a few, got {value!r}") from None


def span(name: str, value: Sequence[float]) -> tuple[float, float]:
    """Smallest and largest of a positive quantity."""
    if len(value) != 2 or not 0 < value[0] <= value[1] < math.inf:
        raise RangeError(f"{name} expected (smallest, largest), both positive, got {value!r}")
    return float(value[0]), float(value[1])


def symmetric(name: str, value: float | Sequence[float]) -> tuple[float, float]:
    """(low, high) from those two, or from a number d that stands for (-d, d)."""
    low, high = (-value, value) if isinstance(value, int | float) else value
    if not -math.inf < low <= high < math.inf:
        raise RangeError(f"{name} expected a number of at least 0 or (low, high), got {value!r}")
    return float(low), float(high)
