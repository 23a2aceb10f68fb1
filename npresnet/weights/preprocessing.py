"""What a model expects of its images, as data that is kept with its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from npresnet.data import (
    CenterCrop,
    Compose,
    Grayscale,
    Normalize,
    RandomAffine,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    ResizeKeepRatio,
    ToArray,
    ToRGB,
    Transform,
)
from npresnet.data.geometry import Interpolation
from npresnet.errors import RangeError, ShapeError

__all__ = ["AUGMENTATIONS", "IMAGENET_MEAN", "IMAGENET_STD", "MAX_SIDE", "Preprocessing"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

MAX_SIDE = 4096
"""Longest side of a network's input: a file from a stranger can't ask for more memory than that."""

AUGMENTATIONS = ("none", "shift", "photo")

CropMode = Literal["center", "squash", "border"]


@dataclass(frozen=True)
class Preprocessing:
    """The way from an image to a network's input.

    The image is turned to grey or RGB, scaled, cut out in the middle, and normalised.

    Attributes
    ----------
    size : (int, int)
        Height and width of the input.
    channels : int
        1 (grey) or 3 (RGB).
    resize : int, (int, int) or None
        What the image is scaled to, before `size` is cut out of the middle: an int is the length of
        the shorter side, of a pair `crop_mode` tells more. None scales height and width to `size`
        whatever the image's shape.
    crop_mode : {"center", "squash", "border"}
        What a pair for `resize` means, in timm's words: the image covers this height and width; it
        gets them whatever its shape; it fits into them, and a border of the colour `mean` is added.
    interpolation : str
        How `Resize` reads pixels between pixels.
    mean, std : tuple of float
        What is subtracted from each channel, 0 to 1, and what it is then divided by.
    table : bool
        Whether the network was fitted on rows of numbers instead of images: each row is reshaped to
        (channels, height, width), and `mean` and `std` are those of the numbers as they are.
    """

    size: tuple[int, int]
    channels: int = 3
    resize: int | tuple[int, int] | None = None
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop_mode: CropMode = "center"
    table: bool = False

    def __post_init__(self) -> None:
        scaled = self.size if self.resize is None else self.resize
        scaled = scaled if isinstance(scaled, tuple) else (scaled, scaled)
        if not len(self.size) == len(scaled) == 2 or not all(
            type(side) is int and 1 <= side <= MAX_SIDE for side in (*self.size, *scaled)
        ):
            raise RangeError(
                f"an input size is a pair of 1 to {MAX_SIDE} pixels, got size={self.size}, "
                f"resize={self.resize}"
            )
        if self.channels not in (1, 3):
            raise RangeError(f"channels expected 1 (grey) or 3 (RGB), got {self.channels!r}")
        if self.interpolation not in get_args(Interpolation):
            raise RangeError(
                f"interpolation expected one of {', '.join(get_args(Interpolation))}, "
                f"got {self.interpolation!r}"
            )
        if self.crop_mode not in get_args(CropMode):
            raise RangeError(
                f"crop_mode expected one of {', '.join(get_args(CropMode))}, got {self.crop_mode!r}"
            )
        if not isinstance(self.table, bool):
            raise RangeError(f"table expected true or false, got {self.table!r}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels or not all(math.isfinite(v) for v in values):
                raise RangeError(
                    f"{name} expected {self.channels} finite numbers, one a channel, got {values}"
                )
        if not all(value > 0 for value in self.std):
            raise RangeError(f"std expected numbers above 0, got {self.std}")

    @property
    def features(self) -> int:
        """Numbers of the network's input, channels x height x width: F of a table (N, F)."""
        return self.channels * math.prod(self.size)

    def transform(self, augment: str = "none") -> Compose:
        """Return the steps from an image to a float32 array (channels, height, width).

        Parameters
        ----------
        augment : {"none", "shift", "photo"}
            ``"none"`` gives the same array each time, as for evaluation. ``"shift"`` turns by up to
            8 degrees, shifts and scales by up to 6 %: for characters and drawings that fill their
            image. ``"photo"`` cuts out a random part and mirrors half of the images.

        Raises
        ------
        RangeError
            There is no such augmentation.
        ShapeError
            The network takes no images, but rows of a table.
        """
        if self.table:
            raise ShapeError(
                f"this network was fitted on a table of {self.features} columns, got images: pass "
                "such a table. Reshape your data"
            )
        steps: list[Transform] = [Grayscale() if self.channels == 1 else ToRGB()]
        if augment == "photo":
            steps += [
                RandomResizedCrop(self.size, (0.35, 1.0), interpolation=self.interpolation),
                RandomHorizontalFlip(),
            ]
        elif augment in ("none", "shift"):
            steps += self._resizing()
        else:
            raise RangeError(f"augment expected {', '.join(AUGMENTATIONS)}, got {augment!r}")
        if augment == "shift":
            moved = RandomAffine(8, (0.06, 0.06), scale=(0.94, 1.06), interpolation="bilinear")
            steps.append(moved)
        return Compose([*steps, ToArray(), Normalize(self.mean, self.std)])

    def _resizing(self) -> list[Transform]:
        if self.resize is None:
            return [Resize(self.size, self.interpolation)]
        if isinstance(self.resize, int) or self.crop_mode == "squash":
            return [Resize(self.resize, self.interpolation), CenterCrop(self.size)]
        border = self.crop_mode == "border"
        fill = tuple(round(255 * value) for value in self.mean) if border else 0
        return [
            ResizeKeepRatio(self.resize, int(border), self.interpolation),
            CenterCrop(self.size, fill),
        ]

    def scaled_to(self, side: int) -> Preprocessing:
        """Return the same steps for a square input of another size, in proportion."""
        high, wide = self.size
        resize = self.resize
        if isinstance(resize, tuple):
            resize = (round(resize[0] * side / high), round(resize[1] * side / wide))
        elif resize is not None:
            resize = round(resize * side / min(high, wide))
        return replace(self, size=(side, side), resize=resize)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Preprocessing:
        """Make it from :meth:`to_dict`; raises TypeError, ValueError or KeyError where it can't."""
        values: dict[str, Any] = dict(fields)
        unknown = set(values) - set(cls.__dataclass_fields__)
        if unknown:
            raise RangeError(f"unknown preprocessing {', '.join(sorted(map(repr, unknown))):.200}")
        for name, value in values.items():
            values[name] = tuple(value) if isinstance(value, list) else value
        return cls(**values)
