"""Preprocessing bit for bit: what torchvision and timm document, written here with Pillow alone."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from npresnet.data import read_image
from npresnet.errors import RangeError
from npresnet.weights.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MODES = ("RGB", "L", "P", "P+transparency", "RGBA", "LA", "1", "I;16", "CMYK")
SIDES = (1, 13, 47, 48, 65, 99, 150)  # around the sizes scaled to, 48, and cut out, 40


def encoded(mode, width, height, rng):
    """A file of noise over a gradient in some mode; TIFF where PNG has no such mode."""
    ramp = np.linspace(0, 200, width * height * 3).reshape(height, width, 3)
    picture = Image.fromarray((ramp + rng.integers(0, 56, ramp.shape)).astype(np.uint8))
    options = {}
    if mode == "I;16":
        picture = Image.fromarray(rng.integers(0, 700, (height, width)).astype(np.uint16))
    elif mode == "P+transparency":
        picture, options = picture.convert("P"), {"transparency": bytes(range(256))}
    elif mode == "RGBA":
        picture.putalpha(Image.fromarray(rng.integers(0, 256, (height, width)).astype(np.uint8)))
    elif mode != "RGB":
        picture = picture.convert(mode)
    file = io.BytesIO()
    picture.save(file, "TIFF" if mode == "CMYK" else "PNG", **options)
    return file.getvalue()


def shorter_side(image, side, method):
    """torchvision's Resize with one number: the longer side is cut to a whole number."""
    w, h = image.size
    size = (side, int(side * h / w)) if w <= h else (int(side * w / h), side)
    return image if image.size == size else image.resize(size, method)


def middle(image, high, wide, colour=(0, 0, 0)):
    """torchvision's CenterCrop: pad what is missing, the odd pixel after; halves to the even."""
    w, h = image.size
    canvas = Image.new("RGB", (max(w, wide), max(h, high)), colour)
    canvas.paste(image, (max(wide - w, 0) // 2, max(high - h, 0) // 2))
    left, top = round((canvas.width - wide) / 2), round((canvas.height - high) / 2)
    return canvas.crop((left, top, left + wide, top + high))


def normalised(image):
    """ToTensor and Normalize, computed by torch in float32."""
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).to(torch.float32) / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return ((pixels - mean) / std).numpy()


def seen(preprocessing, image):
    """The image after the steps on pixels, and after all of them."""
    steps = preprocessing.transform().transforms
    array = preprocessing.transform()(image)
    for step in steps[:-2]:
        image = step(image)
    return image, array


def assert_prepared(preprocessing, image, expected):
    pixels, array = seen(preprocessing, image)
    np.testing.assert_array_equal(np.asarray(pixels), np.asarray(expected))
    assert array.dtype == np.float32
    np.testing.assert_array_max_ulp(array, normalised(expected), maxulp=1)


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("interpolation", sorted(RESAMPLING))
@pytest.mark.parametrize("mode", MODES)
def test_torchvisions_preset(mode, interpolation):
    """49 sizes in each of nine modes: read, scale the shorter side, cut out, normalise."""
    rng = np.random.default_rng(len(mode))
    preprocessing = Preprocessing((40, 40), resize=48, interpolation=interpolation)
    for width in SIDES:
        for height in SIDES:
            data = encoded(mode, width, height, rng)
            opened = Image.open(io.BytesIO(data))
            expected = shorter_side(opened.convert("RGB"), 48, RESAMPLING[interpolation])
            image = read_image(io.BytesIO(data))
            assert_prepared(preprocessing, image, middle(expected, 40, 40))
            if width == height:  # an image that was opened elsewhere, in its own mode
                assert_prepared(preprocessing, opened, middle(expected, 40, 40))


@pytest.mark.parametrize("resize", [232, 235, 256])
def test_the_sizes_of_published_weights(resize):
    rng = np.random.default_rng(0)
    preprocessing = Preprocessing((224, 224), resize=resize, interpolation="bicubic")
    for width, height in ((500, 375), (375, 500), (640, 427), (200, 333), (256, 256), (233, 90)):
        image = Image.open(io.BytesIO(encoded("RGB", width, height, rng)))
        expected = middle(shorter_side(image, resize, RESAMPLING["bicubic"]), 224, 224)
        assert_prepared(preprocessing, image, expected)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_timms_crops_of_a_rectangle(mode):
    """timm's words: cover the rectangle, take its shape, or fit into it with a border."""
    rng = np.random.default_rng(1)
    method = RESAMPLING["bicubic"]
    preprocessing = Preprocessing(
        (40, 56), resize=(45, 63), interpolation="bicubic", crop_mode=mode
    )
    for width, height in ((64, 45), (45, 64), (200, 31), (31, 200), (63, 45), (130, 99), (7, 5)):
        image = Image.open(io.BytesIO(encoded("RGB", width, height, rng)))
        ratios = height / 45, width / 63
        ratio = {"center": min(ratios), "border": max(ratios)}.get(mode)
        size = (round(width / ratio), round(height / ratio)) if ratio else (63, 45)
        colour = tuple(round(255 * v) for v in IMAGENET_MEAN) if mode == "border" else (0, 0, 0)
        assert_prepared(preprocessing, image, middle(image.resize(size, method), 40, 56, colour))


def test_scaled_whatever_the_shape():
    image = Image.open(io.BytesIO(encoded("RGB", 50, 20, np.random.default_rng(2))))
    assert_prepared(Preprocessing((32, 48)), image, image.resize((48, 32), RESAMPLING["bilinear"]))


def test_grey():
    image = Image.open(io.BytesIO(encoded("RGB", 50, 60, np.random.default_rng(3))))
    preprocessing = Preprocessing((40, 40), 1, 48, mean=(0.25,), std=(0.5,))
    pixels, array = seen(preprocessing, image)
    expected = shorter_side(image.convert("L"), 48, RESAMPLING["bilinear"])
    top = round((expected.height - 40) / 2)
    expected = expected.crop((4, top, 44, top + 40))
    np.testing.assert_array_equal(np.asarray(pixels), np.asarray(expected))
    np.testing.assert_allclose(array[0], (np.asarray(expected) / 255 - 0.25) / 0.5, atol=1e-7)


@pytest.mark.parametrize(
    ("old", "side", "size", "resize"),
    [
        (Preprocessing((224, 224), resize=256), 112, (112, 112), 128),
        (Preprocessing((224, 224)), 96, (96, 96), None),
        (Preprocessing((40, 56), resize=(50, 70)), 80, (80, 80), (100, 100)),
    ],
)
def test_scaled_to_another_input(old, side, size, resize):
    new = old.scaled_to(side)
    assert (new.size, new.resize) == (size, resize)
    assert new.mean == old.mean


def test_round_trip():
    for preprocessing in (
        Preprocessing((8, 9), 1, None, "nearest", (0.1,), (0.2,)),
        Preprocessing((8, 9), resize=(10, 12), crop_mode="border"),
    ):
        assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": (0, 8)}, "1 to 4096 pixels"),
        ({"size": (8, 4097)}, "1 to 4096 pixels"),
        ({"size": (8, 8, 8)}, "1 to 4096 pixels"),
        ({"size": (8, True)}, "1 to 4096 pixels"),
        ({"resize": 0}, "1 to 4096 pixels"),
        ({"resize": (8,)}, "1 to 4096 pixels"),
        ({"resize": (8, 1e9)}, "1 to 4096 pixels"),
        ({"channels": 4}, "1 .grey. or 3"),
        ({"interpolation": "magic"}, "interpolation expected one of"),
        ({"crop_mode": "spiral"}, "crop_mode expected one of center, squash, border"),
        ({"mean": (0.5,)}, "mean expected 3 finite numbers"),
        ({"std": (1.0, math.inf, 1.0)}, "std expected 3 finite numbers"),
        ({"std": (1.0, 0.0, 1.0)}, "std expected numbers above 0"),
    ],
)
def test_what_makes_no_sense(fields, message):
    with pytest.raises(RangeError, match=message):
        Preprocessing(**{"size": (8, 8), **fields})
