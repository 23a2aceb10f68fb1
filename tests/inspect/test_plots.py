"""The pictures are written whole, of a sensible size, and fail clearly."""

import sys

import numpy as np
import pytest
from PIL import Image

from npresnet.errors import NpresnetError, ShapeError
from npresnet.inspect.plots import _choose, can_plot, prediction_sheet, training_curve


def test_curve(tmp_path):
    path = tmp_path / "curve.png"
    training_curve(path, {"train": [2, 1], "test": [2, np.nan]}, {"test": [0.5, 0.9]}, title="a $b")
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] > 800
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50  # something is drawn


def test_sheet_marks_mistakes(tmp_path, rng):
    path = tmp_path / "sheet.png"
    images = [rng.integers(0, 256, (8, 8), dtype=np.uint8) for _ in range(5)]
    labels = [0, 1, 2, 0, 1]
    right = np.eye(3)[labels]
    colours = []
    for table in (right, np.roll(right, 1, axis=1)):
        prediction_sheet(path, images, labels, table, ["a", "b", "c"])
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        red = (pixels[..., 0] > 150) & (pixels[..., 1] < 80) & (pixels[..., 2] < 80)
        colours.append(int(red.sum()))
    assert colours[0] == 0
    assert colours[1] > 500


def test_errors(tmp_path, monkeypatch):
    with pytest.raises(ShapeError, match="N labels"):
        prediction_sheet(tmp_path / "x.png", [], [], np.zeros((0, 2)), ["a", "b"])
    assert can_plot()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not can_plot()
    with pytest.raises(NpresnetError, match=r"npresnet\[plot\]"):
        training_curve(tmp_path / "x.png", {}, {})
    assert not (tmp_path / "x.png").exists()


def test_mistakes_fill_half_a_sheet_at_most():
    truth = np.zeros(100, int)
    table = np.tile([0.9, 0.1], (100, 1))
    table[10:40] = [[p, 1 - p] for p in np.linspace(0.49, 0.01, 30)]
    shown = _choose(truth, table, 20)
    assert shown[:10] == list(range(39, 29, -1))  # the surest first
    assert len(set(shown)) == 20
    assert table[shown[10:]].argmax(axis=1).max() == 0
    assert _choose(truth[:3], table[:3], 20) == [0, 1, 2]
    assert len(_choose(truth[10:40], table[10:40], 20)) == 20  # nothing was right
