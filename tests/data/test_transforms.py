"""Expected values come from torchvision's documented rules, computed here with Pillow and NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from npresnet import data
from npresnet.data import transforms
from npresnet.errors import DataError, DtypeError, RangeError, ShapeError

RNG = np.random.default_rng(4)
MODES = {"L": (), "RGB": (3,), "RGBA": (4,)}
SIDES = st.integers(1, 60)
METHODS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
RESAMPLING = {name: Image.Resampling[name.upper()] for name in METHODS}


def picture(width, height, mode="RGB"):
    pixels = RNG.integers(0, 256, size=(height, width, *MODES[mode]), dtype=np.uint8)
    return Image.fromarray(pixels)


def assert_equal(image, expected):
    np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))


@given(SIDES, SIDES, SIDES, st.sampled_from(sorted(RESAMPLING)), st.sampled_from(sorted(MODES)))
@settings(max_examples=150, deadline=None)
def test_resize_to_the_shorter_side(width, height, size, interpolation, mode):
    image = picture(width, height, mode)
    if width <= height:
        expected = size, int(size * height / width)
    else:
        expected = int(size * width / height), size
    result = data.Resize(size, interpolation)(image)
    assert result.size == expected
    assert_equal(result, image.resize(expected, RESAMPLING[interpolation]))


@pytest.mark.parametrize(
    ("source", "size", "expected"),
    [
        ((500, 375), 256, (341, 256)),  # 341.33 is cut off
        ((375, 500), 256, (256, 341)),
        ((500, 333), 256, (384, 256)),  # 384.38
        ((640, 427), 232, (347, 232)),  # 347.7 isn't rounded up
        ((256, 300), 256, (256, 300)),
        ((7, 7), 9, (9, 9)),
        ((500, 375), (100, 200), (200, 100)),
        ((500, 375), [256], (341, 256)),
        ((500, 375), np.int64(256), (341, 256)),
    ],
)
def test_resize_sizes(source, size, expected):
    assert data.Resize(size)(picture(*source, "L")).size == expected


def test_resize_with_a_limit():
    assert data.Resize(256, max_size=300)(picture(500, 250, "L")).size == (300, 150)
    assert data.Resize(100, max_size=300)(picture(500, 250, "L")).size == (200, 100)
    with pytest.raises(RangeError, match="max_size must be larger than size 256"):
        data.Resize(256, max_size=256)
    with pytest.raises(RangeError, match="max_size goes with an int size"):
        data.Resize((3, 4), max_size=5)


def test_resize_refuses_to_exhaust_memory():
    with pytest.raises(DataError, match="would make an image of 1 x 2000 pixels 256 x 512000"):
        data.Resize(256)(picture(1, 2000, "L"))
    assert transforms.MAX_PIXELS < 256 * 512_000


@given(SIDES, SIDES, SIDES, SIDES)
@settings(max_examples=150, deadline=None)
def test_center_crop(width, height, wide, high):
    image = picture(width, height)
    pixels = np.asarray(image)
    # the rule: pad what is missing, the odd pixel after; then the corner, halves to even
    dx, dy = max(wide - width, 0), max(high - height, 0)
    pixels = np.pad(pixels, ((dy // 2, dy - dy // 2), (dx // 2, dx - dx // 2), (0, 0)))
    top = round((pixels.shape[0] - high) / 2)
    left = round((pixels.shape[1] - wide) / 2)
    result = data.CenterCrop((high, wide))(image)
    assert result.size == (wide, high)
    assert_equal(result, pixels[top : top + high, left : left + wide])


def test_center_crop_rounds_halves_to_even():
    pixels = np.arange(7 * 5, dtype=np.uint8).reshape(7, 5)
    assert_equal(data.CenterCrop((4, 4))(pixels), pixels[2:6, 0:4])  # 1.5 -> 2, 0.5 -> 0
    assert_equal(data.CenterCrop(5)(pixels), pixels[1:6])


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric"])
@pytest.mark.parametrize(
    ("padding", "borders"),
    [(2, (2, 2, 2, 2)), ([1, 3], (1, 3, 1, 3)), ((0, 1, 2, 3), (0, 1, 2, 3)), (0, (0, 0, 0, 0))],
)
def test_pad(mode, padding, borders):
    left, top, right, bottom = borders
    for kind in MODES:
        image = picture(9, 8, kind)
        pixels = np.asarray(image)
        widths = ((top, bottom), (left, right), (0, 0))[: pixels.ndim]
        options = {"constant_values": 7} if mode == "constant" else {}
        expected = np.pad(pixels, widths, mode=mode, **options)
        result = data.Pad(padding, fill=7, padding_mode=mode)(image)
        assert result.mode == kind
        assert_equal(result, expected)


def test_pad_with_a_colour():
    result = data.Pad(1, fill=(1, 2, 3))(picture(3, 3))
    assert result.getpixel((0, 4)) == (1, 2, 3)
    with pytest.raises(ShapeError, match=r"fill expected one value or 1 \(mode L\), got 3"):
        data.Pad(1, fill=(1, 2, 3))(picture(3, 3, "L"))


def test_random_crop_takes_every_place_alike():
    pixels = np.arange(6 * 5, dtype=np.uint8).reshape(6, 5)
    crop = data.RandomCrop((4, 3))
    rng = np.random.default_rng(0)
    corners = np.zeros((3, 3), dtype=int)
    for _ in range(900):
        part = np.asarray(crop(pixels, rng))
        top, left = divmod(int(part[0, 0]), 5)
        assert_equal(part, pixels[top : top + 4, left : left + 3])
        corners[top, left] += 1
    assert corners.min() > 60
    assert corners.sum() == 900


def test_random_crop_with_padding():
    pixels = np.full((4, 4), 9, dtype=np.uint8)
    padded = np.pad(pixels, 1)
    rng = np.random.default_rng(1)
    parts = {np.asarray(data.RandomCrop(4, padding=1)(pixels, rng)).tobytes() for _ in range(200)}
    windows = np.lib.stride_tricks.sliding_window_view(padded, (4, 4)).reshape(-1, 16)
    assert parts == {np.ascontiguousarray(w).tobytes() for w in windows}
    grown = data.RandomCrop((6, 7), pad_if_needed=True, fill=1)(pixels, rng)
    assert grown.size == (7, 6)
    assert (np.asarray(grown) == 9).sum() > 0
    with pytest.raises(DataError, match="RandomCrop expected an image of at least 5 x 5 pixels"):
        data.RandomCrop(5)(pixels, rng)


@given(SIDES, SIDES, st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_random_resized_crop_keeps_its_limits(width, height, seed):
    crop = data.RandomResizedCrop((5, 6), scale=(0.2, 0.9), ratio=(0.5, 2.0))
    left, top, w, h = crop._part(width, height, np.random.default_rng(seed))
    assert 0 <= left <= width - w
    assert 0 <= top <= height - h
    assert min(w, h) >= 1
    image = picture(width, height)
    expected = image.crop((left, top, left + w, top + h)).resize((6, 5), Image.Resampling.BILINEAR)
    assert_equal(crop(image, np.random.default_rng(seed)), expected)


def test_random_resized_crop_area_and_ratio():
    crop = data.RandomResizedCrop(8)
    rng = np.random.default_rng(0)
    parts = np.array([crop._part(1000, 1000, rng) for _ in range(2000)], dtype=float)
    area, ratio = parts[:, 2] * parts[:, 3] / 1e6, parts[:, 2] / parts[:, 3]
    assert area.min() > 0.079
    assert 0.9 < area.max() <= 1  # near 1 only square parts fit
    assert ratio.min() > 0.745
    assert ratio.max() < 1.342
    assert abs(np.log(ratio).mean()) < 0.02


@pytest.mark.parametrize(
    ("size", "part"),
    [((100, 10), (43, 0, 13, 10)), ((10, 100), (0, 43, 10, 13)), ((10, 10), (0, 0, 10, 10))],
)
def test_random_resized_crop_falls_back_to_the_middle(size, part):
    class Large(np.random.Generator):
        def uniform(self, low=0.0, high=1.0, size=None):
            return high * 9 if low > 0 else 0.0  # nine times the area: never fits

    rng = Large(np.random.PCG64(0))
    assert data.RandomResizedCrop(8, scale=(0.9, 1.0))._part(*size, rng) == part


def test_flip():
    image = picture(5, 4)
    assert_equal(data.RandomHorizontalFlip(1.0)(image), np.asarray(image)[:, ::-1])
    assert_equal(data.RandomHorizontalFlip(0.0)(image), image)
    rng = np.random.default_rng(0)
    flip = data.RandomHorizontalFlip()
    flipped = sum(not np.array_equal(flip(image, rng), image) for _ in range(400))
    assert 160 < flipped < 240


def test_rotation():
    image = picture(6, 6)
    assert_equal(data.RandomRotation((90, 90))(image), np.rot90(np.asarray(image)))
    assert_equal(
        data.RandomRotation((30, 30), "bilinear")(image), image.rotate(30, RESAMPLING["bilinear"])
    )
    assert data.RandomRotation((90, 90), expand=True)(picture(6, 4)).size == (4, 6)
    turned = data.RandomRotation((45, 45), fill=(1, 2, 3))(image)
    assert turned.getpixel((0, 0)) == (1, 2, 3)


def test_affine_matches_its_formula():
    """Matrix of torchvision's documentation, RSS = rotation * shear * scale about the centre."""
    image = picture(11, 8)
    angle, shear, scale = 20.0, 10.0, 1.3
    a, s = np.radians(angle), np.radians(shear)
    rss = scale * np.array([
        [np.cos(a), -np.cos(a) * np.tan(s) - np.sin(a)],
        [np.sin(a), -np.sin(a) * np.tan(s) + np.cos(a)],
    ])  # fmt: skip
    centre = np.array([5.5, 4.0])
    forward = np.eye(3)
    forward[:2, :2] = rss
    forward[:2, 2] = centre - rss @ centre
    inverse = np.linalg.inv(forward)[:2].ravel().tolist()
    expected = image.transform(
        image.size, Image.Transform.AFFINE, inverse, RESAMPLING["bilinear"], fillcolor=(5, 5, 5)
    )
    step = data.RandomAffine(
        (angle, angle), None, (scale, scale), (shear, shear), "bilinear", fill=5
    )
    assert_equal(step(image), expected)


def test_affine_quarter_turn_and_shift():
    image = picture(6, 6)
    assert_equal(data.RandomAffine((90, 90))(image), np.rot90(np.asarray(image), -1))
    assert_equal(data.RandomAffine(0)(image), image)
    pixels = np.arange(1, 101, dtype=np.uint8).reshape(10, 10)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        moved = np.asarray(data.RandomAffine(0, translate=(0.2, 0.1))(pixels, rng))
        y, x = np.argwhere(moved == 56)[0] - np.argwhere(pixels == 56)[0]
        padded = np.pad(pixels, 2)
        assert_equal(moved, padded[2 - y : 12 - y, 2 - x : 12 - x])
        seen.add((int(x), int(y)))
    assert seen == {(x, y) for x in range(-2, 3) for y in range(-1, 2)}


def test_grey_and_colour():
    image = picture(4, 4)
    assert_equal(data.Grayscale()(image), image.convert("L"))
    three = np.asarray(data.Grayscale(3)(image))
    assert_equal(three, np.repeat(np.asarray(image.convert("L"))[..., None], 3, axis=2))
    grey = picture(4, 4, "L")
    assert_equal(data.ToRGB()(grey), np.repeat(np.asarray(grey)[..., None], 3, axis=2))
    assert_equal(data.ToRGB()(image), image)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_to_array_is_torchs_division(mode):
    image = picture(7, 5, mode)
    pixels = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)
    expected = torch.from_numpy(pixels.copy()).to(torch.float32).div(255).numpy()
    result = data.ToArray()(image)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(data.ToArray()(np.asarray(image)), expected)


def test_to_array_of_other_modes():
    bits = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1")
    assert data.ToArray()(bits).tolist() == [[[0.0, 1.0]]]
    for mode in ("P", "F", "I"):
        with pytest.raises(DataError, match=rf"got {mode}: put ToRGB\(\) or Grayscale\(\) before"):
            data.ToArray()(picture(3, 3, "L").convert(mode))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normalize_is_torchs(dtype):
    x = RNG.random((3, 5, 4)).astype(dtype)
    kept = x.copy()
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    as_torch = [torch.tensor(v, dtype=getattr(torch, dtype))[:, None, None] for v in (mean, std)]
    expected = ((torch.from_numpy(x) - as_torch[0]) / as_torch[1]).numpy()
    result = data.Normalize(mean, std)(x)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(x, kept)


def test_normalize_with_one_value():
    x = RNG.random((2, 3, 4)).astype(np.float32)
    np.testing.assert_array_equal(data.Normalize(0.5, 0.25)(x), (x - np.float32(0.5)) * 4)


def test_a_whole_chain_on_arrays_and_images():
    steps = [
        data.Resize(12),
        data.CenterCrop(8),
        data.RandomHorizontalFlip(),
        data.ToArray(),
        data.Normalize([0.5] * 3, [0.5] * 3),
        lambda x: x * 2,
    ]
    chain = data.Compose(steps)
    image = picture(20, 15)
    kept = np.asarray(image).copy()
    result = chain(image, np.random.default_rng(0))
    assert result.shape == (3, 8, 8)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, chain(np.asarray(image), np.random.default_rng(0)))
    assert_equal(image, kept)
    assert "RandomHorizontalFlip(p=0.5)" in repr(chain)


RANDOM = [
    data.RandomCrop(6),
    data.RandomResizedCrop(6),
    data.RandomHorizontalFlip(),
    data.RandomRotation(40),
    data.RandomAffine(40, (0.2, 0.2), (0.5, 1.5), 20, "bilinear"),
]


@pytest.mark.parametrize("step", RANDOM, ids=lambda step: type(step).__name__)
def test_randomness_is_the_generators(step):
    image = picture(16, 12)
    first = [np.asarray(step(image, np.random.default_rng(seed))) for seed in range(12)]
    again = [np.asarray(step(image, np.random.default_rng(seed))) for seed in range(12)]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len({a.tobytes() for a in first}) > 1
    assert step(image).size == (first[0].shape[1], first[0].shape[0])  # without a generator


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: data.Resize(0), RangeError, "size expected a positive int or .* got 0"),
        (lambda: data.Resize((1, 2, 3)), RangeError, r"size expected .* got \(1, 2, 3\)"),
        (lambda: data.Resize(2.5), DtypeError, "size expected an int or a few, got 2.5"),
        (lambda: data.Resize("big"), DtypeError, "size expected an int or a few, got 'big'"),
        (lambda: data.Resize(8, "cubic"), RangeError, "interpolation expected one of nearest"),
        (lambda: data.ResizeKeepRatio(8, longest=2), RangeError, "longest expected 0 .cover. or 1"),
        (lambda: data.CenterCrop(-1), RangeError, "size expected a positive int"),
        (lambda: data.Pad(-1), RangeError, "padding expected 1, 2 or 4 ints of at least 0"),
        (lambda: data.Pad((1, 2, 3)), RangeError, "padding expected 1, 2 or 4 ints"),
        (lambda: data.Pad(1, padding_mode="wrap"), RangeError, "padding_mode expected one of"),
        (lambda: data.RandomResizedCrop(8, scale=(0, 1)), RangeError, "scale expected"),
        (lambda: data.RandomResizedCrop(8, ratio=(2, 1)), RangeError, "ratio expected"),
        (lambda: data.RandomHorizontalFlip(1.5), RangeError, "p expected a probability"),
        (lambda: data.RandomRotation(-10), RangeError, "degrees expected a number of at least 0"),
        (lambda: data.RandomRotation(10, "box"), RangeError, "one of nearest, bilinear, bicubic,"),
        (lambda: data.RandomAffine(0, translate=(2, 0)), RangeError, "translate expected two"),
        (lambda: data.RandomAffine(0, scale=(-1, 1)), RangeError, "scale expected"),
        (lambda: data.RandomAffine(0, shear=90), RangeError, "shear expected angles between"),
        (lambda: data.Grayscale(2), RangeError, "num_output_channels expected 1 or 3, got 2"),
        (lambda: data.Normalize(0.5, 0.0), RangeError, "non-zero std"),
        (lambda: data.Normalize([float("nan")], 1), RangeError, "finite means"),
        (lambda: data.Normalize([0, 0], [1, 1, 1]), ShapeError, "as many means as std"),
        (lambda: data.Compose([3]), DtypeError, "Compose expected callables, got int"),
        (lambda: data.Normalize(0, 1)(np.zeros((1, 2, 2), np.uint8)), DtypeError, "uint8 array"),
        (lambda: data.Normalize(0, 1)(picture(2, 2)), DtypeError, "got Image: put ToArray"),
        (lambda: data.Normalize([0] * 3, 1)(np.zeros((1, 2, 2))), ShapeError, r"\(3, H, W\)"),
        (lambda: data.Normalize(0, 1)(np.zeros((2, 2))), ShapeError, r"got \(2, 2\)"),
        (lambda: data.Resize(8)("photo.png"), DtypeError, "expected a PIL image"),
    ],
)
def test_wrong_input(make, error, message):
    with pytest.raises(error, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
